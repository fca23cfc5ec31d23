/* syncwrite DIR LOG: makes files, writes and fsyncs them, and tells LOG (outside of what is tested)
 * what has been synced, until it is killed. syncwrite --check DIR LOG: all that LOG tells of is
 * there, byte for byte; prints how much. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZE_MAX_BYTES = 3 << 20 };

static unsigned char bytes[SIZE_MAX_BYTES], back[SIZE_MAX_BYTES];

static size_t make(unsigned number)
{
    unsigned long long x = number * 0x9e3779b97f4a7c15ull + 1;
    size_t size = number % 5 == 0 ? 1 + x % SIZE_MAX_BYTES : 1 + x % 20000;
    for (size_t i = 0; i < size; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (unsigned char)(x >> 56);
    }
    return size;
}

static int fail(const char *what, unsigned number)
{
    fprintf(stderr, "syncwrite: %s of file %u: %s\n", what, number, strerror(errno));
    return 1;
}

static int write_one(const char *dir, unsigned number, int log)
{
    char path[4096], line[32];
    snprintf(path, sizeof path, "%s/s%u", dir, number);
    size_t size = make(number);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size || fsync(fd) != 0 || close(fd) != 0) {
        return fail("writing", number);
    }
    int n = snprintf(line, sizeof line, "%u\n", number);
    return write(log, line, (size_t)n) == n ? 0 : fail("logging", number);
}

static int check_one(const char *dir, unsigned number)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/s%u", dir, number);
    size_t size = make(number);
    int fd = open(path, O_RDONLY);
    errno = 0;
    ssize_t n = fd < 0 ? -1 : read(fd, back, SIZE_MAX_BYTES);
    if (n != (ssize_t)size || memcmp(bytes, back, size) != 0) {
        fprintf(stderr, "syncwrite: file %u of %zu bytes: %zd came back\n", number, size, n);
        return fail("checking", number);
    }
    close(fd);
    return 0;
}

static int check_all(const char *dir, const char *log)
{
    unsigned number, n = 0;
    FILE *f = fopen(log, "r");
    if (f == NULL) {
        return fail("opening the log", 0);
    }
    for (; fscanf(f, "%u", &number) == 1; n++) {
        if (check_one(dir, number) != 0) {
            return 1;
        }
    }
    fclose(f);
    printf("%u\n", n);
    return n == 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--check") == 0) {
        return check_all(argv[2], argv[3]);
    }
    if (argc != 3) {
        fprintf(stderr, "usage: syncwrite [--check] DIR LOG\n");
        return 2;
    }
    int log = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0644);
    for (unsigned number = 0; log >= 0; number++) {
        if (write_one(argv[1], number, log) != 0) {
            return 1;
        }
    }
    return fail("opening the log", 0);
}
