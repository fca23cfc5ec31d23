/* backwards FILE PID: writes a file from its end to its beginning while the metadata server PID stands still for a second, so
 * that several commits are under way, each ending lower in the file than the one before. backwards FILE: checks it. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 4 << 20, CHUNKS = 20 };
static char buf[CHUNK];

static int check(int fd)
{
    for (int i = 0; i < CHUNKS; i++) {
        if (pread(fd, buf, CHUNK, (off_t)i * CHUNK) != CHUNK) {
            return fprintf(stderr, "short at %d\n", i), 1;
        }
        for (int j = 0; j < CHUNK; j++) {
            if (buf[j] != i + 1) {
                return fprintf(stderr, "chunk %d has %d at %d\n", i, buf[j], j), 1;
            }
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_CREAT, 0644);
    if (argc == 2) {
        return check(fd);
    }
    pid_t meta = (pid_t)atoi(argv[2]);
    for (int i = CHUNKS - 1; i >= 0; i--) {
        memset(buf, i + 1, CHUNK);
        if (pwrite(fd, buf, CHUNK, (off_t)i * CHUNK) != CHUNK) {
            return perror("write"), 1;
        }
        if (i == CHUNKS - 1) {
            kill(meta, SIGSTOP);
        }
        usleep(i == 2 ? 500000 : 0);
    }
    usleep(500000);
    kill(meta, SIGCONT);
    return fsync(fd) != 0;
}
