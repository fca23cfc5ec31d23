#include "fuse/arena.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/prng.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* --- sizes ------------------------------------------------------------------------------------- */

enum { MIB = 1 << 20 };

static uint32_t clamp_count(uint64_t n, uint32_t least, uint32_t most)
{
    return n < least ? least : n > most ? most : (uint32_t)n;
}

/* A quarter is the worker's heap (inodes, payload buffers, code). Of the rest the request buffers come first,
 * since without them nothing moves; the remainder is shared by dirty pages and clean cache. */
int arena_plan(uint64_t limit_bytes, struct arena_sizes *out, uint64_t *heap_bytes)
{
    if (limit_bytes < 64u * MIB) {
        log_error("memory limit too small bytes=%llu least=%d", (unsigned long long)limit_bytes,
                  64 * MIB);
        return -EINVAL;
    }
    uint64_t units = limit_bytes / (64u * MIB);
    uint64_t heap = limit_bytes / 4;
    struct arena_sizes s = {
        .big = clamp_count(4 + units * 2, 6, 64),
        .small = clamp_count(units * 1024, 2048, 16384),
        .handles = clamp_count(units * 8192, 8192, 1 << 20),
        .inodes = clamp_count(units * 4096, 4096, 1 << 18),
        .commits = clamp_count(units * 32, 64, 512),
    };
    uint64_t fixed = s.big * sizeof(struct arena_big) + s.small * sizeof(struct arena_small) +
                     s.handles * sizeof(struct arena_handle) +
                     s.inodes * sizeof(struct arena_inode) +
                     s.commits * sizeof(struct arena_commit) + 16 * ARENA_PAGE_BYTES;
    uint64_t rest = limit_bytes - heap - fixed;
    uint64_t page_bytes = ARENA_PAGE_BYTES + sizeof(struct arena_page);
    s.pages = clamp_count(rest / 2 / page_bytes, 1024, 1u << 22);
    s.cache_bytes = (rest - s.pages * page_bytes) / MIB * MIB;
    *out = s;
    *heap_bytes = heap;
    return 0;
}

static uint64_t page_align(uint64_t n)
{
    return (n + ARENA_PAGE_BYTES - 1) & ~(uint64_t)(ARENA_PAGE_BYTES - 1);
}

/* The one place that knows where the tables lie: create fills the header with it, attach compares. */
static void lay_out(const struct arena_sizes *s, struct arena_header *h)
{
    h->magic = ARENA_MAGIC;
    h->version = ARENA_VERSION;
    h->sizes = *s;
    uint64_t at = page_align(sizeof *h);
    h->big_at = at;
    at = page_align(at + s->big * sizeof(struct arena_big));
    h->small_at = at;
    at = page_align(at + s->small * sizeof(struct arena_small));
    h->handles_at = at;
    at = page_align(at + s->handles * sizeof(struct arena_handle));
    h->inodes_at = at;
    at = page_align(at + s->inodes * sizeof(struct arena_inode));
    h->pages_at = at;
    at = page_align(at + s->pages * sizeof(struct arena_page));
    h->commits_at = at;
    at = page_align(at + s->commits * sizeof(struct arena_commit));
    h->data_at = at;
    at += (uint64_t)s->pages * ARENA_PAGE_BYTES;
    h->cache_at = at;
    h->total_bytes = page_align(at + s->cache_bytes);
}

static void set_pointers(struct arena *a, void *base, int fd)
{
    struct arena_header *h = base;
    uint8_t *b = base;
    a->h = h;
    a->big = (void *)(b + h->big_at);
    a->small = (void *)(b + h->small_at);
    a->handle = (void *)(b + h->handles_at);
    a->inode = (void *)(b + h->inodes_at);
    a->page = (void *)(b + h->pages_at);
    a->commit = (void *)(b + h->commits_at);
    a->data = b + h->data_at;
    a->cache = b + h->cache_at;
    a->fd = fd;
}

/* Page table entries too, and not only pages, must be there before /dev/fuse is read: see arena.h. */
static int map_file(int fd, uint64_t bytes, uint64_t populate_bytes, void **out)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return -errno;
    }
    if (madvise(base, populate_bytes, MADV_POPULATE_WRITE) < 0) {
        int rc = -errno;
        munmap(base, bytes);
        return rc;
    }
    *out = base;
    return 0;
}

static int lock_whole(void *base, uint64_t bytes)
{
    struct rlimit whole = {RLIM_INFINITY, RLIM_INFINITY};
    (void)setrlimit(RLIMIT_MEMLOCK, &whole); /* if it is refused, mlock says so */
    return mlock(base, bytes) < 0 ? -errno : 0;
}

int arena_create(const struct arena_sizes *sizes, struct arena *out)
{
    struct arena_header plan;
    memset(&plan, 0, sizeof plan);
    lay_out(sizes, &plan);
    int fd = memfd_create("cfs-arena", MFD_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    int rc = ftruncate(fd, (off_t)plan.total_bytes) < 0 ? -errno : 0;
    void *base = NULL;
    if (rc == 0) {
        rc = map_file(fd, plan.total_bytes, plan.total_bytes, &base);
    }
    if (rc == 0) {
        rc = lock_whole(base, plan.total_bytes);
    }
    if (rc < 0) {
        close(fd);
        return rc;
    }
    memcpy(base, &plan, sizeof plan);
    set_pointers(out, base, fd);
    return 0;
}

static bool sizes_sane(const struct arena_sizes *s)
{
    return s->big > 0 && s->big <= 4096 && s->small > 0 && s->small <= 1 << 20 && s->handles > 0 &&
           s->handles <= 1 << 24 && s->inodes > 0 && s->inodes <= 1 << 24 && s->pages > 0 &&
           s->pages <= 1 << 28 && s->commits > 0 && s->commits <= 1 << 16 &&
           s->cache_bytes < (uint64_t)1 << 44;
}

/* What another process (perhaps another version of us) wrote is input: validated here, once. */
static int header_check(const struct arena_header *h, uint64_t file_bytes)
{
    struct arena_header plan;
    if (h->magic != ARENA_MAGIC) {
        return -EINVAL;
    }
    if (h->version != ARENA_VERSION) {
        return -EPROTO;
    }
    if (!sizes_sane(&h->sizes)) {
        return -EINVAL;
    }
    memset(&plan, 0, sizeof plan);
    lay_out(&h->sizes, &plan);
    bool same = plan.big_at == h->big_at && plan.small_at == h->small_at &&
                plan.handles_at == h->handles_at && plan.inodes_at == h->inodes_at &&
                plan.pages_at == h->pages_at && plan.commits_at == h->commits_at &&
                plan.data_at == h->data_at && plan.cache_at == h->cache_at &&
                plan.total_bytes == h->total_bytes && h->total_bytes == file_bytes;
    return same && h->init_bytes <= ARENA_INIT_BYTES ? 0 : -EINVAL;
}

/* All pages are there: the holder's lock keeps them. Here only the entries of the request buffers are made, which
 * takes milliseconds; for the whole it would be a tenth of a second, in which every caller waits. The others come by
 * ordinary faults, and what is answered from them is touched before it is given to the kernel (fuseio.c). */
int arena_attach(int fd, struct arena *out)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    if ((uint64_t)st.st_size < sizeof(struct arena_header)) {
        return -EINVAL;
    }
    struct arena_header *h = mmap(NULL, sizeof *h, PROT_READ, MAP_SHARED, fd, 0);
    if (h == MAP_FAILED) {
        return -errno;
    }
    int rc = header_check(h, (uint64_t)st.st_size);
    uint64_t requests_end = h->handles_at;
    munmap(h, sizeof *h);
    void *base = NULL;
    if (rc == 0) {
        rc = map_file(fd, (uint64_t)st.st_size, requests_end, &base);
    }
    if (rc == 0) {
        set_pointers(out, base, fd);
    }
    return rc;
}

int arena_lock(struct arena *a)
{
    return lock_whole(a->h, a->h->total_bytes);
}

void arena_detach(struct arena *a)
{
    if (a->h) {
        munmap(a->h, a->h->total_bytes);
    }
    memset(a, 0, sizeof *a);
    a->fd = -1;
}

/* --- publishing -------------------------------------------------------------------------------- */

/* Whether, and when, this process kills itself: a property of the process, for tests only.
 * CFS_DIE_AT=n: the two sides of publish 1 are n = 1 (before the store) and n = 2 (after it), those of publish 2 are
 * 3 and 4 ... CFS_DIE_EVERY=n: at each side with probability 1/n. */
static struct {
    bool asked;
    uint64_t at, every, sides;
    struct prng dice;
} death;

static uint64_t number_from_environment(const char *name)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : 0;
}

static void maybe_die(void)
{
    if (!death.asked) {
        death.asked = true;
        death.at = number_from_environment("CFS_DIE_AT");
        death.every = number_from_environment("CFS_DIE_EVERY");
        prng_seed(&death.dice, prng_random_u64());
    }
    if (death.at == 0 && death.every == 0) {
        return;
    }
    death.sides++;
    if (death.sides == death.at || (death.every && prng_below(&death.dice, death.every) == 0)) {
        kill(getpid(), SIGKILL);
        for (;;) {
            pause();
        }
    }
}

void arena_publish32(uint32_t *word, uint32_t value)
{
    maybe_die();
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    maybe_die();
}

void arena_publish64(uint64_t *word, uint64_t value)
{
    maybe_die();
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    maybe_die();
}

/* --- options ----------------------------------------------------------------------------------- */

/* The line of `key`, or NULL; *bytes is its length without the newline. The text ends at its zero byte. */
static const char *option_line(const struct arena *a, const char *key, size_t *bytes)
{
    size_t key_len = strlen(key);
    const char *at = a->h->options;
    const char *end = at + strnlen(at, ARENA_OPTIONS_BYTES);
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline ? newline : end) - at);
        if (len > key_len && memcmp(at, key, key_len) == 0 && at[key_len] == '=') {
            *bytes = len;
            return at;
        }
        at += len + 1;
    }
    return NULL;
}

const char *arena_option(const struct arena *a, const char *key, char *out, size_t out_bytes)
{
    size_t len;
    const char *line = option_line(a, key, &len);
    if (!line) {
        return NULL;
    }
    size_t skip = strlen(key) + 1;
    if (len - skip >= out_bytes) {
        return NULL;
    }
    memcpy(out, line + skip, len - skip);
    out[len - skip] = 0;
    return out;
}

int arena_set_option(struct arena *a, const char *key, const char *value)
{
    if (strpbrk(key, "=\n") || strchr(value, '\n') || !key[0]) {
        return -EINVAL;
    }
    char *options = a->h->options;
    size_t used = strnlen(options, ARENA_OPTIONS_BYTES);
    size_t old = 0;
    char *line = (char *)option_line(a, key, &old);
    size_t need = strlen(key) + strlen(value) + 2;
    bool ended = used == 0 || options[used - 1] == '\n'; /* what another process wrote may not be */
    size_t gone = line ? old + (line + old < options + used) : 0;
    need += !ended;
    if (used - gone + need >= ARENA_OPTIONS_BYTES) {
        return -ENOSPC;
    }
    if (line) {
        memmove(line, line + gone, (size_t)(options + used - (line + gone)));
        used -= gone;
    }
    if (used > 0 && options[used - 1] != '\n') {
        options[used++] = '\n';
    }
    char *p = options + used;
    p = stpcpy(p, key);
    *p++ = '=';
    p = stpcpy(p, value);
    *p++ = '\n';
    *p = 0;
    return 0;
}
