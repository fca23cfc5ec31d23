/* random_io FILE OPERATIONS SEED [BYTES]: random calls on one file, each compared with a copy in memory: writes and reads by
 * pwrite, O_WRONLY descriptors and mappings, truncate, fallocate in all its modes, copy_file_range, fsync, drop of cached pages,
 * SEEK_DATA / SEEK_HOLE. Ends at the first difference, with the last calls before it. 0: all was right. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY = 24, LINE = 96, IO_MAX = 256 << 10 };
static uint8_t *good, *buf;
static uint64_t size, bytes_max = 1 << 20;
static const char *path;
static int fd, stream = -1;
static uint64_t state;
static char history[HISTORY][LINE];
static unsigned long step;

static uint64_t dice(uint64_t bound)
{
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % bound;
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(history[step % HISTORY], LINE, format, args);
    va_end(args);
}

__attribute__((noreturn)) static void fail(const char *what, uint64_t at)
{
    fprintf(stderr, "FAILED at step %lu: %s at %llu, errno %d (%s), size %llu\n", step, what,
            (unsigned long long)at, errno, strerror(errno), (unsigned long long)size);
    for (unsigned long i = step >= HISTORY ? step - HISTORY + 1 : 0; i <= step; i++) {
        fprintf(stderr, "  %lu %s\n", i, history[i % HISTORY]);
    }
    exit(1);
}

static void compare(const uint8_t *got, uint64_t at, uint64_t len, const char *what)
{
    for (uint64_t i = 0; i < len; i++) {
        if (got[i] != good[at + i]) {
            fprintf(stderr, "is %02x, should be %02x; ", got[i], good[at + i]);
            fail(what, at + i);
        }
    }
}

static uint64_t some_length(void)
{
    uint64_t n = dice(4) == 0 ? dice(IO_MAX) : dice(9000);
    return n + 1;
}

static uint64_t some_place(uint64_t len)
{
    uint64_t at = dice(bytes_max - len);
    return dice(3) == 0 ? at & ~4095ull : at;
}

static void grown(uint64_t end)
{
    if (end > size) {
        size = end;
    }
}

static void fill(uint64_t len)
{
    uint64_t word = dice(UINT64_MAX) | 1;
    for (uint64_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)(word >> (i % 8 * 8)) ^ (uint8_t)(i >> 8);
    }
}

static void do_write(void)
{
    uint64_t len = some_length(), at = some_place(len);
    bool streaming = stream >= 0 && dice(2) == 0;
    note("write%s %llu+%llu", streaming ? " by O_WRONLY" : "", (unsigned long long)at,
         (unsigned long long)len);
    fill(len);
    if (pwrite(streaming ? stream : fd, buf, len, (off_t)at) != (ssize_t)len) {
        fail("write", at);
    }
    memcpy(good + at, buf, len);
    grown(at + len);
}

static void do_read(void)
{
    uint64_t len = some_length(), at = some_place(len);
    note("read %llu+%llu", (unsigned long long)at, (unsigned long long)len);
    ssize_t n = pread(fd, buf, len, (off_t)at);
    uint64_t expected = at >= size ? 0 : size - at < len ? size - at : len;
    if (n != (ssize_t)expected) {
        fprintf(stderr, "read %zd, should be %llu; ", n, (unsigned long long)expected);
        fail("short read", at);
    }
    compare(buf, at, expected, "read");
}

static void do_truncate(void)
{
    uint64_t to = dice(3) == 0 ? dice(6000) : dice(bytes_max);
    note("truncate %llu -> %llu", (unsigned long long)size, (unsigned long long)to);
    if (ftruncate(fd, (off_t)to) != 0) {
        fail("truncate", to);
    }
    if (to < size) {
        memset(good + to, 0, size - to);
    }
    size = to;
}

static void do_map(void)
{
    uint64_t len = some_length(), at = some_place(len);
    if (at >= size) {
        return;
    }
    len = size - at < len ? size - at : len;
    bool writes = dice(2) == 0;
    note("map %s %llu+%llu", writes ? "write" : "read", (unsigned long long)at,
         (unsigned long long)len);
    uint64_t begin = at & ~4095ull;
    uint8_t *m = mmap(NULL, at + len - begin, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)begin);
    if (m == MAP_FAILED) {
        fail("mmap", at);
    }
    if (writes) {
        fill(len);
        memcpy(m + (at - begin), buf, len);
        memcpy(good + at, buf, len);
    } else {
        compare(m + (at - begin), at, len, "mapping");
    }
    munmap(m, at + len - begin);
}

static void do_fallocate(void)
{
    static const int MODES[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    uint64_t len = some_length(), at = some_place(len);
    int mode = MODES[dice(5)];
    note("fallocate mode %d %llu+%llu", mode, (unsigned long long)at, (unsigned long long)len);
    if (fallocate(fd, mode, (off_t)at, (off_t)len) != 0) {
        fail("fallocate", at);
    }
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        memset(good + at, 0, len);
    }
    if (!(mode & FALLOC_FL_KEEP_SIZE)) {
        grown(at + len);
    }
}

static void do_copy(void)
{
    uint64_t len = some_length(), from = some_place(len), to = some_place(len);
    if (from >= size || (from < to + len && to < from + len)) {
        return;
    }
    len = size - from < len ? size - from : len;
    note("copy %llu+%llu to %llu", (unsigned long long)from, (unsigned long long)len,
         (unsigned long long)to);
    off_t in = (off_t)from, out = (off_t)to;
    for (uint64_t left = len; left > 0;) {
        ssize_t n = copy_file_range(fd, &in, fd, &out, left, 0);
        if (n <= 0) {
            fail("copy_file_range", from);
        }
        left -= (uint64_t)n;
    }
    memcpy(good + to, good + from, len);
    grown(to + len);
}

static void do_sync(void)
{
    note("fsync");
    if (fsync(fd) != 0) {
        fail("fsync", 0);
    }
    if (dice(2) == 0) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
}

static void do_reopen(void)
{
    note("reopen");
    if (close(fd) != 0 || (stream >= 0 && close(stream) != 0)) {
        fail("close", 0);
    }
    fd = open(path, O_RDWR);
    stream = dice(2) == 0 ? open(path, O_WRONLY) : -1;
    if (fd < 0) {
        fail("open", 0);
    }
}

static void do_stat(void)
{
    struct stat st;
    note("stat");
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != size) {
        fprintf(stderr, "size is %lld; ", (long long)st.st_size);
        fail("stat", 0);
    }
}

/* What is called a hole reads as zeroes. */
static void do_seek(void)
{
    if (size == 0) {
        return;
    }
    uint64_t at = dice(size);
    note("seek %llu", (unsigned long long)at);
    off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole = lseek(fd, (off_t)at, SEEK_HOLE);
    uint64_t until = data < 0 && errno == ENXIO ? size : (uint64_t)data;
    if (hole < 0 || (uint64_t)hole > size || until > size) {
        fail("seek", at);
    }
    for (uint64_t i = at; i < until; i++) {
        if (good[i] != 0) {
            fail("data where SEEK_DATA saw a hole", i);
        }
    }
}

int main(int argc, char **argv)
{
    static void (*const CALLS[])(void) = {do_write, do_write, do_write, do_read,      do_read,
                                          do_map,   do_map,   do_copy,  do_fallocate, do_truncate,
                                          do_sync,  do_stat,  do_seek,  do_reopen};
    if (argc < 4) {
        fprintf(stderr, "usage: random_io FILE OPERATIONS SEED [BYTES]\n");
        return 2;
    }
    path = argv[1];
    unsigned long steps = strtoul(argv[2], NULL, 0);
    state = strtoull(argv[3], NULL, 0);
    bytes_max = argc > 4 ? strtoull(argv[4], NULL, 0) : bytes_max;
    if (bytes_max <= IO_MAX + 1) {
        bytes_max = IO_MAX + 2;
    }
    good = calloc(1, bytes_max + IO_MAX);
    buf = malloc(IO_MAX + 1);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (!good || !buf || fd < 0) {
        fail("create", 0);
    }
    for (step = 0; step < steps; step++) {
        CALLS[dice(sizeof CALLS / sizeof CALLS[0])]();
    }
    note("last look");
    for (uint64_t at = 0; at < size; at += IO_MAX) {
        uint64_t len = size - at < IO_MAX ? size - at : IO_MAX;
        if (pread(fd, buf, len, (off_t)at) != (ssize_t)len) {
            fail("last read", at);
        }
        compare(buf, at, len, "last read");
    }
    printf("random_io: %lu calls, all right\n", steps);
    return 0;
}
