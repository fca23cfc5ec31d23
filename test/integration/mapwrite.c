/* mapwrite DIR SECONDS: writes 1 MiB blocks, each from a mapping of its own that the kernel has to
 * fault in while it copies the request, then reads them back and compares. A server that is killed
 * in the middle of such a copy loses the request if its buffers are not there. Prints the number of
 * blocks; exit status 1 at the first failed call or wrong byte. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, BLOCKS = 32 };

static void fill(unsigned char *block, unsigned seed)
{
    for (unsigned i = 0; i < BLOCK; i += 8) {
        unsigned long long v = (i + 1) * 0x9e3779b97f4a7c15ull ^ (unsigned long long)seed << 32;
        memcpy(block + i, &v, sizeof v);
    }
}

static unsigned char *map_fresh(void)
{
    unsigned char *p =
        mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mapwrite: mmap");
        exit(1);
    }
    return p;
}

static int fail(const char *what, unsigned round)
{
    fprintf(stderr, "mapwrite: %s failed in round %u: %s\n", what, round, strerror(errno));
    return 1;
}

static int one_round(int fd, unsigned round)
{
    unsigned char *block = map_fresh(), *back = map_fresh();
    off_t at = (off_t)(round % BLOCKS) * BLOCK;
    fill(block, round);
    errno = 0;
    if (pwrite(fd, block, BLOCK, at) != BLOCK) {
        return fail("pwrite", round);
    }
    if (round % 3 == 0) { /* through the disk, or from what the client keeps */
        (void)posix_fadvise(fd, at, BLOCK, POSIX_FADV_DONTNEED);
    }
    if (pread(fd, back, BLOCK, at) != BLOCK) {
        return fail("pread", round);
    }
    if (memcmp(block, back, BLOCK) != 0) {
        return fail("comparing", round);
    }
    munmap(block, BLOCK);
    munmap(back, BLOCK);
    return 0;
}

int main(int argc, char **argv)
{
    char path[4096];
    if (argc != 3) {
        fprintf(stderr, "usage: mapwrite DIR SECONDS\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/mapwrite", argv[1]);
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0) {
        return fail("open", 0);
    }
    time_t end = time(NULL) + strtol(argv[2], NULL, 10);
    unsigned round = 0;
    while (time(NULL) < end) {
        if (one_round(fd, round++) != 0) {
            return 1;
        }
    }
    if (fsync(fd) != 0 || close(fd) != 0) {
        return fail("fsync and close", round);
    }
    printf("%u\n", round);
    return 0;
}
