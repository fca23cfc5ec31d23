/* fsx DIR OPERATIONS SEED [WORKERS]: what a single program may assume, whatever happens to the client below it. Each worker is
 * a process with a few small files of its own, which it writes, appends to, truncates, punches, copies, maps, renames
 * over each other, links and unlinks while open, each compared with a copy in memory; sizes are chosen around
 * the limit of inline files. Two more threads of each worker write their own slots of one shared file, so that pages change
 * while they are on their way to the servers. Ends at the first difference, with the last calls before it. 0: all was right. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILES = 4, FILE_MAX = 96 << 10, IO_MAX = 20000, HISTORY = 40, LINE = 96, SLOT = 1500, SLOTS = 64 };

struct file {
    uint8_t *good;
    uint64_t size;
    int fd, append; /* append: -1 or a descriptor with O_APPEND */
    uint64_t errors;
    char name[32];
    bool named;
};

static struct file files[FILES];
static uint8_t buf[FILE_MAX + IO_MAX];
static uint64_t state;
static char history[HISTORY][LINE];
static unsigned long step, steps, names;
static int dir;
static struct {
    struct file *file;
    uint8_t *at;
} volatile mapped;

static uint64_t dice_of(uint64_t *s, uint64_t bound)
{
    *s += 0x9e3779b97f4a7c15u;
    uint64_t z = (*s ^ (*s >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % bound;
}

static uint64_t dice(uint64_t bound)
{
    return dice_of(&state, bound);
}

__attribute__((format(printf, 2, 3))) static void note(const struct file *f, const char *format, ...)
{
    char *line = history[step % HISTORY];
    int n = snprintf(line, LINE, "[%ld] ", (long)(f - files));
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, LINE - (size_t)n, format, args);
    va_end(args);
}

__attribute__((noreturn)) static void fail(const struct file *f, const char *what, uint64_t at)
{
    char out[HISTORY * LINE + 512];
    int n = snprintf(out, sizeof out, "FAILED pid %d step %lu: %s of %s at %llu, errno %d (%s), size %llu\n",
                     getpid(), step, what, f->name, (unsigned long long)at, errno, strerror(errno),
                     (unsigned long long)f->size);
    for (unsigned long i = step >= HISTORY ? step - HISTORY + 1 : 0; i <= step; i++) {
        n += snprintf(out + n, sizeof out - (size_t)n, "  %lu %s\n", i, history[i % HISTORY]);
    }
    (void)!write(2, out, (size_t)n);
    _exit(1);
}

static void compare(const struct file *f, const uint8_t *got, uint64_t at, uint64_t len, const char *what)
{
    for (uint64_t i = 0; i < len; i++) {
        if (got[i] != f->good[at + i]) {
            fprintf(stderr, "is %02x, should be %02x; ", got[i], f->good[at + i]);
            fail(f, what, at + i);
        }
    }
}

static uint64_t some_size(void) /* often near the limit of inline files, or a page */
{
    switch (dice(4)) {
    case 0:
        return dice(4200);
    case 1:
        return 4096 - 20 + dice(40);
    case 2:
        return dice(16) * 4096;
    default:
        return dice(FILE_MAX);
    }
}

static uint64_t some_place(const struct file *f)
{
    return dice(3) == 0 && f->size < FILE_MAX - IO_MAX ? f->size : some_size() % (FILE_MAX - IO_MAX);
}

static uint64_t some_length(void)
{
    return 1 + (dice(3) == 0 ? dice(IO_MAX) : dice(3) == 0 ? 4095 : dice(1200));
}

static void fill(uint64_t len)
{
    uint64_t word = dice(UINT64_MAX) | 1;
    for (uint64_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)((uint8_t)(word >> (i % 8 * 8)) ^ (uint8_t)(i >> 8));
    }
}

static void written(struct file *f, uint64_t at, uint64_t len)
{
    memcpy(f->good + at, buf, len);
    f->size = at + len > f->size ? at + len : f->size;
}

static void do_write(struct file *f)
{
    uint64_t len = some_length(), at = some_place(f);
    bool streaming = dice(4) == 0 && f->named;
    note(f, "write%s %llu+%llu", streaming ? " by O_WRONLY" : "", (unsigned long long)at, (unsigned long long)len);
    fill(len);
    int fd = streaming ? openat(dir, f->name, O_WRONLY | (dice(4) == 0 ? O_DSYNC : 0)) : f->fd;
    if (fd < 0 || pwrite(fd, buf, len, (off_t)at) != (ssize_t)len) {
        fail(f, "write", at);
    }
    if (streaming && close(fd) != 0) {
        fail(f, "close", at);
    }
    written(f, at, len);
}

static void do_append(struct file *f)
{
    uint64_t len = some_length();
    if (f->size + len > FILE_MAX) {
        return;
    }
    if (f->append < 0) {
        if (!f->named) {
            return;
        }
        f->append = openat(dir, f->name, O_APPEND | (dice(2) == 0 ? O_WRONLY : O_RDWR));
    }
    note(f, "append %llu+%llu", (unsigned long long)f->size, (unsigned long long)len);
    fill(len);
    if (write(f->append, buf, len) != (ssize_t)len) {
        fail(f, "append", f->size);
    }
    written(f, f->size, len);
}

static void check_all(const struct file *f, const char *what)
{
    struct stat st;
    if (fstat(f->fd, &st) != 0 || (uint64_t)st.st_size != f->size) {
        fprintf(stderr, "size is %lld; ", (long long)st.st_size);
        fail(f, what, f->size);
    }
    ssize_t n = pread(f->fd, buf, sizeof buf, 0);
    if (n != (ssize_t)f->size) {
        fprintf(stderr, "read %zd; ", n);
        fail(f, what, f->size);
    }
    compare(f, buf, 0, f->size, what);
}

static void do_read(struct file *f)
{
    note(f, "read all");
    check_all(f, "read");
}

static void do_cold_read(struct file *f)
{
    note(f, "read all, cold");
    posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
    check_all(f, "cold read");
}

static void do_truncate(struct file *f)
{
    uint64_t to = dice(3) == 0 ? f->size - dice(f->size + 1) % 5000 % (f->size + 1) : some_size();
    note(f, "truncate %llu -> %llu", (unsigned long long)f->size, (unsigned long long)to);
    if (ftruncate(f->fd, (off_t)to) != 0) {
        fail(f, "truncate", to);
    }
    if (to < f->size) {
        memset(f->good + to, 0, f->size - to);
    }
    f->size = to;
}

static void do_open_trunc(struct file *f)
{
    if (!f->named) {
        return;
    }
    note(f, "open O_TRUNC");
    int fd = openat(dir, f->name, O_WRONLY | O_TRUNC | O_CREAT, 0644);
    if (fd < 0) {
        fail(f, "open", 0);
    }
    memset(f->good, 0, f->size);
    f->size = 0;
    uint64_t len = some_length();
    fill(len);
    if (write(fd, buf, len) != (ssize_t)len || close(fd) != 0) {
        fail(f, "write after O_TRUNC", 0);
    }
    written(f, 0, len);
}

static void do_fallocate(struct file *f)
{
    static const int MODES[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    uint64_t len = some_length(), at = some_place(f);
    int mode = MODES[dice(5)];
    note(f, "fallocate mode %d %llu+%llu", mode, (unsigned long long)at, (unsigned long long)len);
    if (fallocate(f->fd, mode, (off_t)at, (off_t)len) != 0) {
        fail(f, "fallocate", at);
    }
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        memset(f->good + at, 0, len);
    }
    if (!(mode & FALLOC_FL_KEEP_SIZE) && at + len > f->size) {
        f->size = at + len;
    }
}

static void do_copy(struct file *f)
{
    struct file *from = &files[dice(FILES)];
    uint64_t len = some_length(), at = dice(from->size + 1), to = some_place(f);
    len = from->size - at < len ? from->size - at : len;
    if (from == f || len == 0) {
        return;
    }
    note(f, "copy from [%ld] %llu+%llu to %llu", (long)(from - files), (unsigned long long)at, (unsigned long long)len,
         (unsigned long long)to);
    off_t in = (off_t)at, out = (off_t)to;
    for (uint64_t left = len; left > 0;) {
        ssize_t n = copy_file_range(from->fd, &in, f->fd, &out, left, 0);
        if (n <= 0) {
            fail(f, "copy_file_range", at);
        }
        left -= (uint64_t)n;
    }
    memcpy(f->good + to, from->good + at, len);
    f->size = to + len > f->size ? to + len : f->size;
}

static void do_map(struct file *f)
{
    if (f->size == 0) {
        return;
    }
    uint64_t at = dice(f->size), len = some_length();
    len = f->size - at < len ? f->size - at : len;
    note(f, "map write %llu+%llu", (unsigned long long)at, (unsigned long long)len);
    uint8_t *m = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (m == MAP_FAILED) {
        fail(f, "mmap", at);
    }
    mapped.file = f;
    mapped.at = m;
    compare(f, m, 0, f->size, "mapping");
    fill(len);
    memcpy(m + at, buf, len);
    memcpy(f->good + at, buf, len);
    mapped.file = NULL;
    if (munmap(m, f->size) != 0) {
        fail(f, "munmap", at);
    }
}

/* A fault in a mapping that the file's end or the server refused: told like any other difference, with the size of now. */
static void faulted(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    struct file *f = mapped.file;
    if (f == NULL) {
        signal(signal_number, SIG_DFL);
        return;
    }
    struct stat st = {.st_size = -1};
    int rc = fstat(f->fd, &st);
    fprintf(stderr, "SIGBUS code %d, fstat %d says %lld; ", info->si_code, rc, (long long)st.st_size);
    fail(f, "mapping", (uint64_t)((uint8_t *)info->si_addr - mapped.at));
}

static void do_sync(struct file *f)
{
    note(f, "fsync");
    if (fsync(f->fd) != 0) {
        fail(f, "fsync", 0);
    }
}

static void close_all(struct file *f)
{
    if (close(f->fd) != 0 || (f->append >= 0 && close(f->append) != 0)) {
        fail(f, "close", 0);
    }
    f->append = -1;
}

static void make(struct file *f)
{
    snprintf(f->name, sizeof f->name, "f%d.%lu", getpid(), names++);
    f->fd = openat(dir, f->name, O_RDWR | O_CREAT | O_EXCL, 0644);
    f->append = -1;
    f->named = true;
    f->size = 0;
    memset(f->good, 0, FILE_MAX + IO_MAX);
    if (f->fd < 0) {
        fail(f, "create", 0);
    }
}

static void do_reopen(struct file *f)
{
    note(f, "reopen");
    if (!f->named) {
        close_all(f);
        make(f);
        return;
    }
    close_all(f);
    f->fd = openat(dir, f->name, O_RDWR);
    if (f->fd < 0) {
        fail(f, "open", 0);
    }
}

static void do_unlink(struct file *f)
{
    if (!f->named || dice(3) != 0) {
        return;
    }
    note(f, "unlink");
    if (unlinkat(dir, f->name, 0) != 0) {
        fail(f, "unlink", 0);
    }
    f->named = false;
    check_all(f, "unlinked");
}

static void do_rename(struct file *f)
{
    struct file *over = &files[dice(FILES)];
    if (over == f || !f->named || !over->named) {
        return;
    }
    bool exchange = dice(2) == 0;
    note(f, "%s [%ld]", exchange ? "exchange with" : "rename over", (long)(over - files));
    if (renameat2(dir, f->name, dir, over->name, exchange ? RENAME_EXCHANGE : 0) != 0) {
        fail(f, "rename", 0);
    }
    char name[sizeof f->name];
    memcpy(name, f->name, sizeof name);
    memcpy(f->name, over->name, sizeof name);
    memcpy(over->name, name, sizeof name);
    over->named = exchange;
    check_all(over, "renamed over");
}

static void do_link(struct file *f)
{
    if (!f->named) {
        return;
    }
    note(f, "link, unlink the old name");
    char name[sizeof f->name];
    snprintf(name, sizeof name, "f%d.%lu", getpid(), names++);
    struct stat st;
    if (linkat(dir, f->name, dir, name, 0) != 0 || unlinkat(dir, f->name, 0) != 0 ||
        fstat(f->fd, &st) != 0 || st.st_nlink != 1) {
        fail(f, "link", 0);
    }
    memcpy(f->name, name, sizeof name);
}

/* What is called a hole reads as zeroes. */
static void do_seek(struct file *f)
{
    if (f->size == 0) {
        return;
    }
    uint64_t at = dice(f->size);
    note(f, "seek %llu", (unsigned long long)at);
    off_t data = lseek(f->fd, (off_t)at, SEEK_DATA);
    uint64_t until = data < 0 && errno == ENXIO ? f->size : (uint64_t)data;
    if (until > f->size) {
        fail(f, "seek", at);
    }
    for (uint64_t i = at; i < until; i++) {
        if (f->good[i] != 0) {
            fail(f, "data where SEEK_DATA saw a hole", i);
        }
    }
}

/* ---- one file, several writers ---- */

struct slots {
    pthread_t thread;
    int fd, part;
    uint64_t state;
    uint8_t stamp[SLOTS];
};
static volatile bool stop;

static void slot_fail(const struct slots *s, const char *what, int slot)
{
    fprintf(stderr, "FAILED pid %d slot %d of the shared file: %s, errno %d\n", getpid(), slot, what, errno);
    (void)s;
    _exit(1);
}

static void *slots_run(void *ctx)
{
    struct slots *s = ctx;
    uint8_t bytes[SLOT];
    while (!stop) {
        int slot = (int)dice_of(&s->state, SLOTS / 2) * 2 + s->part;
        off_t at = (off_t)slot * SLOT;
        if (s->stamp[slot] != 0) {
            if (pread(s->fd, bytes, SLOT, at) != SLOT) {
                slot_fail(s, "read", slot);
            }
            for (int i = 0; i < SLOT; i++) {
                if (bytes[i] != s->stamp[slot]) {
                    slot_fail(s, "content", slot);
                }
            }
        }
        s->stamp[slot] = (uint8_t)(1 + dice_of(&s->state, 255));
        memset(bytes, s->stamp[slot], SLOT);
        if (pwrite(s->fd, bytes, SLOT, at) != SLOT) {
            slot_fail(s, "write", slot);
        }
        uint64_t d = dice_of(&s->state, 40);
        if (d == 0 && fsync(s->fd) != 0) {
            slot_fail(s, "fsync", slot);
        } else if (d == 1) {
            posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
        } else if (d < 6) {
            usleep(2000);
        }
    }
    return NULL;
}

static void slots_start(struct slots *s, uint64_t seed)
{
    char name[32];
    snprintf(name, sizeof name, "shared%d", getpid());
    for (int i = 0; i < 2; i++) {
        s[i].part = i;
        s[i].state = seed * 77 + (uint64_t)i;
        s[i].fd = openat(dir, name, O_RDWR | O_CREAT, 0644);
        if (s[i].fd < 0 || pthread_create(&s[i].thread, NULL, slots_run, &s[i]) != 0) {
            slot_fail(s, "start", i);
        }
    }
}

static int worker(uint64_t seed)
{
    static void (*const CALLS[])(struct file *) = {
        do_write,     do_write,  do_write, do_append, do_append,    do_read,  do_read, do_cold_read, do_truncate,
        do_truncate,  do_map,    do_sync,  do_reopen, do_open_trunc, do_fallocate, do_copy, do_unlink,
        do_rename,    do_link,   do_seek};
    static struct slots slots[2];
    struct sigaction on_fault = {.sa_sigaction = faulted, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &on_fault, NULL);
    state = seed * 1000003;
    for (int i = 0; i < FILES; i++) {
        files[i].good = malloc(FILE_MAX + IO_MAX);
        make(&files[i]);
    }
    slots_start(slots, seed);
    for (step = 0; step < steps; step++) {
        errno = 0; /* what is told of a difference is of this call */
        CALLS[dice(sizeof CALLS / sizeof CALLS[0])](&files[dice(FILES)]);
    }
    for (int i = 0; i < FILES; i++) {
        step = steps;
        do_cold_read(&files[i]);
        close_all(&files[i]);
    }
    stop = true;
    for (int i = 0; i < 2; i++) {
        pthread_join(slots[i].thread, NULL);
        close(slots[i].fd);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: fsx DIR OPERATIONS SEED [WORKERS]\n");
        return 2;
    }
    dir = open(argv[1], O_RDONLY | O_DIRECTORY);
    steps = strtoul(argv[2], NULL, 0);
    uint64_t seed = strtoull(argv[3], NULL, 0);
    unsigned workers = argc > 4 ? (unsigned)strtoul(argv[4], NULL, 0) : 2;
    if (dir < 0) {
        perror(argv[1]);
        return 2;
    }
    for (unsigned i = 0; i < workers; i++) {
        if (fork() == 0) {
            _exit(worker(seed * 100 + i));
        }
    }
    int status, bad = 0;
    while (wait(&status) > 0) {
        if (WIFSIGNALED(status)) {
            fprintf(stderr, "FAILED: a worker was ended by signal %d\n", WTERMSIG(status));
        }
        bad |= status;
    }
    if (bad == 0) {
        printf("fsx: %u times %lu calls, all right\n", workers, steps);
    }
    return bad != 0;
}
