/* posix_data DIR [CLAIM]: claims about bytes in files: sizes, holes, mappings, space, copies,
 * unlinked files. */
#define POSIX_MAIN
#include "posix.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

static char *pattern(size_t n, unsigned seed)
{
    static char bytes[8 << 20];
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = (char)(seed >> 24);
    }
    return bytes;
}

static int fresh(const char *path)
{
    return open(path, O_CREAT | O_RDWR | O_TRUNC, 0644);
}

static off_t size_of(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_size : -1;
}

static long long blocks_of(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? (long long)st.st_blocks : -1;
}

static bool all_zero(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

static const char *what_is_written_is_read(void)
{
    static char back[5 << 20];
    const size_t sizes[] = {
        0, 1, 4095, 4096, 4097, 65537, (1 << 20) - 1, 4 << 20, (4 << 20) + 4097};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *bytes = pattern(sizes[i], i + 1);
        int fd = fresh("f");
        NEED(fd >= 0 && write(fd, bytes, sizes[i]) == (ssize_t)sizes[i]);
        NEED(size_of(fd) == (off_t)sizes[i]);
        NEED(pread(fd, back, sizeof back, 0) == (ssize_t)sizes[i] &&
             memcmp(back, bytes, sizes[i]) == 0);
        NEED(fsync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
        NEED(pread(fd, back, sizeof back, 0) == (ssize_t)sizes[i] &&
             memcmp(back, bytes, sizes[i]) == 0);
        NEED(close(fd) == 0);
    }
    return NULL;
}

static const char *overwrites_at_any_offset(void)
{
    enum { SIZE = 300000, ROUNDS = 300 };
    static char model[SIZE], back[SIZE];
    unsigned seed = 7;
    int fd = fresh("f");
    memcpy(model, pattern(SIZE, 3), SIZE);
    NEED(fd >= 0 && write(fd, model, SIZE) == SIZE);
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 1664525 + 1013904223;
        size_t at = seed % (SIZE - 9000), len = 1 + (seed >> 9) % 9000;
        char *bytes = pattern(len, seed);
        memcpy(model + at, bytes, len);
        NEED(pwrite(fd, bytes, len, (off_t)at) == (ssize_t)len);
        if (i % 50 == 0) {
            NEED(fsync(fd) == 0);
        }
        if (i % 20 == 0) {
            (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            NEED(pread(fd, back, SIZE, 0) == SIZE && memcmp(back, model, SIZE) == 0);
        }
    }
    NEED(close(fd) == 0 && (fd = open("f", O_RDONLY)) >= 0);
    NEED(read(fd, back, SIZE) == SIZE && memcmp(back, model, SIZE) == 0);
    close(fd);
    return NULL;
}

static const char *appends_go_to_the_end(void)
{
    int a = open("f", O_CREAT | O_WRONLY | O_APPEND, 0644), b = open("f", O_WRONLY | O_APPEND);
    NEED(a >= 0 && b >= 0);
    for (int i = 0; i < 100; i++) {
        NEED(write(i % 2 ? a : b, i % 2 ? "aa" : "bbb", i % 2 ? 2 : 3) > 0);
    }
    NEED(size_of(a) == 250);
    NEED(lseek(a, 0, SEEK_SET) == 0 && write(a, "x", 1) == 1 && size_of(a) == 251);
    char back[251];
    int fd = open("f", O_RDONLY);
    NEED(read(fd, back, sizeof back) == 251 && memcmp(back, "bbbaabbbaa", 10) == 0 &&
         back[250] == 'x');
    close(a);
    close(b);
    close(fd);
    return NULL;
}

static const char *truncate_cuts_and_extends_with_zeroes(void)
{
    char back[10000];
    int fd = fresh("f");
    NEED(fd >= 0 && write(fd, pattern(9000, 1), 9000) == 9000 && ftruncate(fd, 5000) == 0 &&
         size_of(fd) == 5000);
    NEED(ftruncate(fd, 10000) == 0 && pread(fd, back, 10000, 0) == 10000);
    NEED(memcmp(back, pattern(9000, 1), 5000) == 0 && all_zero(back + 5000, 5000));
    NEED(pwrite(fd, "z", 1, 20000) == 1 && size_of(fd) == 20001);
    NEED(pread(fd, back, 10000, 10000) == 10000 && all_zero(back, 10000));
    NEED(truncate("f", 0) == 0 && size_of(fd) == 0 && blocks_of(fd) == 0);
    REFUSED(truncate("f", -1), EINVAL);
    NEED(ftruncate(fd, 1ll << 40) == 0 && size_of(fd) == 1ll << 40);
    NEED(pread(fd, back, 10, (1ll << 40) - 5) == 5);
    close(fd);
    REFUSED(open(".", O_RDWR), EISDIR);
    return NULL;
}

/* What was written is still on its way when the file grows past what is kept with its attributes. */
static const char *small_files_grow_at_once(void)
{
    char small[100], back[100];
    memset(small, 'a', sizeof small);
    for (int i = 0; i < 40; i++) {
        int fd = fresh("f"), other;
        NEED(fd >= 0 && write(fd, small, sizeof small) == sizeof small);
        NEED((other = dup(fd)) >= 0 && close(other) == 0); /* begins to send it */
        if (i % 2 == 0) {
            NEED(ftruncate(fd, 8 << 20) == 0);
        } else {
            NEED(posix_fallocate(fd, 0, 8 << 20) == 0 && blocks_of(fd) >= (8 << 20) / 512);
        }
        NEED(pwrite(fd, small, sizeof small, 1 << 20) == sizeof small && fsync(fd) == 0);
        NEED(pread(fd, back, sizeof back, 0) == sizeof back);
        NEED(memcmp(small, back, sizeof small) == 0 && size_of(fd) == 8 << 20);
        NEED(pread(fd, back, sizeof back, sizeof back) == sizeof back && all_zero(back, sizeof back));
        NEED(close(fd) == 0 && unlink("f") == 0);
    }
    return NULL;
}

static const char *truncate_at_open(void)
{
    int fd = fresh("f");
    NEED(fd >= 0 && write(fd, "hello", 5) == 5 && close(fd) == 0);
    NEED((fd = open("f", O_WRONLY | O_TRUNC)) >= 0 && size_of(fd) == 0 && close(fd) == 0);
    return NULL;
}

static const char *holes_are_found_and_cost_nothing(void)
{
    int fd = fresh("f");
    NEED(fd >= 0 && pwrite(fd, pattern(65536, 1), 65536, 10 << 20) == 65536 && fsync(fd) == 0);
    NEED(blocks_of(fd) * 512 >= 65536 && blocks_of(fd) * 512 <= 1 << 20);
    off_t data = lseek(fd, 0, SEEK_DATA);
    NEED(data > 0 && data <= 10 << 20);
    NEED(lseek(fd, 0, SEEK_HOLE) == 0);
    NEED(lseek(fd, 10 << 20, SEEK_HOLE) == (10 << 20) + 65536);
    REFUSED(lseek(fd, (10 << 20) + 65536, SEEK_DATA), ENXIO);
    NEED(ftruncate(fd, 20 << 20) == 0);
    REFUSED(lseek(fd, (10 << 20) + 65536, SEEK_DATA), ENXIO);
    NEED(lseek(fd, (10 << 20) + 65536, SEEK_HOLE) == (10 << 20) + 65536);
    close(fd);
    return NULL;
}

static const char *preallocation_reserves(void)
{
    char back[4096];
    int fd = fresh("f");
    NEED(fd >= 0 && fallocate(fd, 0, 0, 1 << 20) == 0);
    NEED(size_of(fd) == 1 << 20 && blocks_of(fd) * 512 >= 1 << 20);
    NEED(pread(fd, back, 4096, 500000) == 4096 && all_zero(back, 4096));
    NEED(fallocate(fd, FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20) == 0 && size_of(fd) == 1 << 20);
    NEED(blocks_of(fd) * 512 >= 2 << 20);
    NEED(pwrite(fd, "x", 1, 4096) == 1 && pread(fd, back, 2, 4096) == 2 && back[0] == 'x' &&
         back[1] == 0);
    REFUSED(fallocate(fd, 0, -1, 10), EINVAL);
    REFUSED(fallocate(fd, 0, 0, 0), EINVAL);
    close(fd);
    return NULL;
}

static const char *punching_makes_holes(void)
{
    static char back[1 << 20];
    int fd = fresh("f");
    NEED(fd >= 0 && write(fd, pattern(1 << 20, 5), 1 << 20) == 1 << 20 && fsync(fd) == 0);
    long long before = blocks_of(fd);
    NEED(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100000, 500000) == 0);
    NEED(size_of(fd) == 1 << 20 && blocks_of(fd) < before);
    NEED(pread(fd, back, 1 << 20, 0) == 1 << 20 && all_zero(back + 100000, 500000));
    char *bytes = pattern(1 << 20, 5);
    NEED(memcmp(back, bytes, 100000) == 0 &&
         memcmp(back + 600000, bytes + 600000, (1 << 20) - 600000) == 0);
    NEED(fallocate(fd, FALLOC_FL_ZERO_RANGE, 900000, 300000) == 0 && size_of(fd) == 1200000);
    NEED(pread(fd, back, 300000, 900000) == 300000 && all_zero(back, 300000));
    NEED(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 1200000, 5000) == 0 &&
         size_of(fd) == 1200000);
    close(fd);
    return NULL;
}

static const char *copy_file_range_copies(void)
{
    static char back[3 << 20];
    off_t from = 12345, to = 777;
    int a = fresh("a"), b = fresh("b");
    NEED(a >= 0 && b >= 0 && write(a, pattern(3 << 20, 9), 3 << 20) == 3 << 20);
    NEED(write(b, "head", 4) == 4);
    for (size_t left = 2 << 20; left > 0;) {
        ssize_t n = copy_file_range(a, &from, b, &to, left, 0);
        NEED(n > 0);
        left -= (size_t)n;
    }
    NEED(from == 12345 + (2 << 20) && size_of(b) == 777 + (2 << 20));
    NEED(pread(b, back, 2 << 20, 777) == 2 << 20 &&
         memcmp(back, pattern(3 << 20, 9) + 12345, 2 << 20) == 0);
    NEED(pread(b, back, 777, 0) == 777 && memcmp(back, "head", 4) == 0 && all_zero(back + 4, 773));
    NEED(pwrite(a, "changed", 7, 12345) == 7 && pread(b, back, 7, 777) == 7);
    NEED(memcmp(back, pattern(3 << 20, 9) + 12345, 7) == 0); /* the copy keeps the old bytes */
    from = size_of(a);
    NEED(copy_file_range(a, &from, b, NULL, 100, 0) == 0);
    close(a);
    close(b);
    return NULL;
}

static const char *sendfile_and_vectors(void)
{
    char x[3], y[5], back[8];
    int a = fresh("a"), b = fresh("b");
    struct iovec out[2] = {{"abc", 3}, {"defgh", 5}}, in[2] = {{x, 3}, {y, 5}};
    NEED(a >= 0 && b >= 0 && writev(a, out, 2) == 8 && preadv(a, in, 2, 0) == 8);
    NEED(memcmp(x, "abc", 3) == 0 && memcmp(y, "defgh", 5) == 0);
    off_t at = 0;
    NEED(sendfile(b, a, &at, 8) == 8 && pread(b, back, 8, 0) == 8 &&
         memcmp(back, "abcdefgh", 8) == 0);
    close(a);
    close(b);
    return NULL;
}

static const char *shared_mappings_are_the_file(void)
{
    enum { SIZE = 1 << 20 };
    char back[4096];
    int fd = fresh("f");
    NEED(fd >= 0 && write(fd, pattern(SIZE, 2), SIZE) == SIZE);
    char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    NEED(p != MAP_FAILED && memcmp(p, pattern(SIZE, 2), SIZE) == 0);
    memcpy(p + 10000, "mapped", 6);
    NEED(msync(p, SIZE, MS_SYNC) == 0);
    NEED(pread(fd, back, 6, 10000) == 6 && memcmp(back, "mapped", 6) == 0);
    NEED(pwrite(fd, "written", 7, 20000) == 7 && memcmp(p + 20000, "written", 7) == 0);
    close(fd); /* the mapping stays */
    memcpy(p + 30000, "later", 5);
    NEED(msync(p, SIZE, MS_SYNC) == 0 && munmap(p, SIZE) == 0);
    fd = open("f", O_RDONLY);
    NEED(fd >= 0 && pread(fd, back, 5, 30000) == 5 && memcmp(back, "later", 5) == 0);
    close(fd);
    return NULL;
}

static const char *private_mappings_are_not(void)
{
    char back[5];
    int fd = fresh("f");
    NEED(fd >= 0 && write(fd, "hello", 5) == 5);
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    NEED(p != MAP_FAILED);
    memcpy(p, "HELLO", 5);
    NEED(munmap(p, 4096) == 0 && pread(fd, back, 5, 0) == 5 && memcmp(back, "hello", 5) == 0);
    close(fd);
    return NULL;
}

static const char *unlinked_files_live_while_open(void)
{
    struct stat st;
    char back[5];
    int fd = fresh("f");
    NEED(fd >= 0 && write(fd, "hello", 5) == 5 && unlink("f") == 0);
    NEED(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 5);
    NEED(pread(fd, back, 5, 0) == 5 && memcmp(back, "hello", 5) == 0);
    NEED(write(fd, pattern(1 << 20, 1), 1 << 20) == 1 << 20 && fsync(fd) == 0 &&
         size_of(fd) == 5 + (1 << 20));
    NEED(ftruncate(fd, 3) == 0 && fchmod(fd, 0600) == 0 && fstat(fd, &st) == 0 &&
         (st.st_mode & 0777) == 0600);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY);
    NEED(again >= 0 && close(fd) == 0 && pread(again, back, 5, 0) == 3);
    close(again);
    return NULL;
}

static const char *files_renamed_over_live_while_open(void)
{
    char back[3];
    int old = fresh("a");
    NEED(old >= 0 && write(old, "old", 3) == 3);
    int new = fresh("b");
    NEED(new >= 0 && write(new, "new", 3) == 3 && rename("b", "a") == 0);
    NEED(pread(old, back, 3, 0) == 3 && memcmp(back, "old", 3) == 0);
    int fd = open("a", O_RDONLY);
    NEED(fd >= 0 && pread(fd, back, 3, 0) == 3 && memcmp(back, "new", 3) == 0);
    close(fd);
    close(old);
    close(new);
    return NULL;
}

static const char *direct_io(void)
{
    void *p;
    NEED(posix_memalign(&p, 4096, 65536) == 0);
    memcpy(p, pattern(65536, 4), 65536);
    int fd = open("f", O_CREAT | O_RDWR | O_DIRECT, 0644);
    NEED(fd >= 0 && pwrite(fd, p, 65536, 8192) == 65536);
    memset(p, 0, 65536);
    NEED(pread(fd, p, 65536, 8192) == 65536 && memcmp(p, pattern(65536, 4), 65536) == 0);
    close(fd);
    free(p);
    return NULL;
}

static const char *read_only_descriptors_refuse_writes(void)
{
    char byte;
    int fd = fresh("f");
    NEED(fd >= 0 && close(fd) == 0 && (fd = open("f", O_RDONLY)) >= 0);
    REFUSED(write(fd, "x", 1), EBADF);
    REFUSED(ftruncate(fd, 0), EINVAL);
    NEED(close(fd) == 0 && (fd = open("f", O_WRONLY)) >= 0);
    REFUSED(read(fd, &byte, 1), EBADF);
    close(fd);
    return NULL;
}

static const char *two_processes_see_one_file(void)
{
    char back[6] = "";
    int fd = fresh("f");
    NEED(fd >= 0 && ftruncate(fd, 100000) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int mine = open("f", O_WRONLY);
        _exit(mine < 0 || pwrite(mine, "child", 5, 70000) != 5);
    }
    int status = 1;
    NEED(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    NEED(pread(fd, back, 5, 70000) == 5 && strcmp(back, "child") == 0);
    close(fd);
    return NULL;
}

static const char *programs_run_from_it(void)
{
    NEED(system("cp /bin/true ./t && ./t") == 0);
    int fd = open("script", O_CREAT | O_WRONLY, 0755);
    NEED(fd >= 0 && write(fd, "#!/bin/sh\nexit 7\n", 17) == 17 && close(fd) == 0);
    NEED(WEXITSTATUS(system("./script")) == 7);
    return NULL;
}

static const char *blocks_are_honest(void)
{
    int fd = fresh("f");
    NEED(fd >= 0 && blocks_of(fd) == 0);
    NEED(write(fd, pattern(6 << 20, 1), 6 << 20) == 6 << 20 && fsync(fd) == 0);
    NEED(blocks_of(fd) * 512ll >= 6 << 20 && blocks_of(fd) * 512ll < 7 << 20);
    NEED(ftruncate(fd, 1 << 20) == 0 && fsync(fd) == 0 && blocks_of(fd) * 512ll < 2 << 20);
    close(fd);
    return NULL;
}

static const char *times_set_by_hand_outlast_what_was_written(void)
{
    static const size_t SIZES[] = {100, 30000, 3 << 20};
    const struct timespec set[2] = {{1000000000, 1}, {1000000000, 2}};
    struct stat st;
    for (unsigned i = 0; i < sizeof SIZES / sizeof SIZES[0]; i++) {
        int fd = fresh("f");
        NEED(fd >= 0 && write(fd, pattern(SIZES[i], 1), SIZES[i]) == (ssize_t)SIZES[i]);
        NEED(futimens(fd, set) == 0 && fstat(fd, &st) == 0 && st.st_mtim.tv_nsec == 2);
        NEED(close(fd) == 0 && (fd = open("f", O_RDONLY)) >= 0 && fsync(fd) == 0);
        NEED(fstat(fd, &st) == 0 && st.st_mtim.tv_sec == 1000000000 && st.st_mtim.tv_nsec == 2);
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static const struct claim CLAIMS[] = {
        {"what_is_written_is_read", what_is_written_is_read},
        {"overwrites_at_any_offset", overwrites_at_any_offset},
        {"appends_go_to_the_end", appends_go_to_the_end},
        {"truncate_cuts_and_extends_with_zeroes", truncate_cuts_and_extends_with_zeroes},
        {"small_files_grow_at_once", small_files_grow_at_once},
        {"truncate_at_open", truncate_at_open},
        {"holes_are_found_and_cost_nothing", holes_are_found_and_cost_nothing},
        {"preallocation_reserves", preallocation_reserves},
        {"punching_makes_holes", punching_makes_holes},
        {"copy_file_range_copies", copy_file_range_copies},
        {"sendfile_and_vectors", sendfile_and_vectors},
        {"shared_mappings_are_the_file", shared_mappings_are_the_file},
        {"private_mappings_are_not", private_mappings_are_not},
        {"unlinked_files_live_while_open", unlinked_files_live_while_open},
        {"files_renamed_over_live_while_open", files_renamed_over_live_while_open},
        {"direct_io", direct_io},
        {"read_only_descriptors_refuse_writes", read_only_descriptors_refuse_writes},
        {"two_processes_see_one_file", two_processes_see_one_file},
        {"programs_run_from_it", programs_run_from_it},
        {"blocks_are_honest", blocks_are_honest},
        {"times_set_by_hand_outlast_what_was_written", times_set_by_hand_outlast_what_was_written},
    };
    return posix_run(argc, argv, CLAIMS, sizeof CLAIMS / sizeof CLAIMS[0]);
}
