/* lockload DIR SECONDS: six processes add to a counter in a file, under flock, fcntl and OFD locks
 * by turns, waiting for each other. A seventh holds an flock from beginning to end, and others look
 * that it still does. Prints the sum; exit status 1 if a call failed, a count was lost, or two had
 * one lock. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHILDREN = 6 };

struct shared {
    unsigned inside[3]; /* processes that have the lock of this kind */
    unsigned long done;
};

static int take(int fd, int kind, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
    switch (kind) {
    case 0:
        return flock(fd, type == F_UNLCK ? LOCK_UN : LOCK_EX);
    case 1:
        return fcntl(fd, F_SETLKW, &l);
    default:
        return fcntl(fd, F_OFD_SETLKW, &l);
    }
}

static int fail(const char *what)
{
    fprintf(stderr, "lockload: %s: %s\n", what, strerror(errno));
    return 1;
}

static int add_one(int fd, int kind, struct shared *s)
{
    unsigned long n;
    if (take(fd, kind, F_WRLCK) != 0) {
        return fail("lock");
    }
    if (__atomic_add_fetch(&s->inside[kind], 1, __ATOMIC_SEQ_CST) != 1) {
        return fail("two had one lock");
    }
    off_t at = kind * (off_t)sizeof n;
    if (pread(fd, &n, sizeof n, at) != sizeof n) {
        return fail("pread");
    }
    n++;
    if (pwrite(fd, &n, sizeof n, at) != sizeof n) {
        return fail("pwrite");
    }
    __atomic_sub_fetch(&s->inside[kind], 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&s->done, 1, __ATOMIC_SEQ_CST);
    return take(fd, kind, F_UNLCK) == 0 ? 0 : fail("unlock");
}

static int child(const char *path, const char *held, int first, time_t end, struct shared *s)
{
    int fd = open(path, O_RDWR), other = open(held, O_RDWR);
    if (fd < 0 || other < 0) {
        return fail("open");
    }
    for (int kind = first % 3; time(NULL) < end; kind = (kind + 1) % 3) {
        if (add_one(fd, kind, s) != 0) {
            return 1;
        }
        if (flock(other, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) {
            return fail("the lock that is held throughout was given away");
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    char path[4096], held_path[4096];
    unsigned long sums[3] = {0, 0, 0};
    if (argc != 3) {
        fprintf(stderr, "usage: lockload DIR SECONDS\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/lockload", argv[1]);
    snprintf(held_path, sizeof held_path, "%s/lockload.held", argv[1]);
    struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644),
        held = open(held_path, O_RDWR | O_CREAT, 0644);
    if (s == MAP_FAILED || fd < 0 || held < 0 || write(fd, sums, sizeof sums) != sizeof sums ||
        flock(held, LOCK_EX) != 0) {
        return fail("setting up");
    }
    time_t end = time(NULL) + strtol(argv[2], NULL, 10);
    for (int i = 0; i < CHILDREN; i++) {
        if (fork() == 0) {
            _exit(child(path, held_path, i, end, s));
        }
    }
    int bad = 0;
    for (int i = 0; i < CHILDREN; i++) {
        int status = 1;
        bad |= wait(&status) <= 0 || status != 0;
    }
    if (pread(fd, sums, sizeof sums, 0) != sizeof sums) {
        return fail("pread of the sums");
    }
    unsigned long sum = sums[0] + sums[1] + sums[2];
    if (sum != s->done) {
        fprintf(stderr, "lockload: the file says %lu, %lu were added\n", sum, s->done);
        bad = 1;
    }
    printf("%lu\n", sum);
    return bad;
}
