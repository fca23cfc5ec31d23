#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "fuse/arena.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A worker is handed an arena with any header: it maps it or refuses it, and what it maps lies
 * inside. Half of the inputs begin from a good header, of which some bytes are changed: else
 * nothing would get past the magic number. */
static const struct arena_sizes TINY = {
    .big = 1, .small = 4, .handles = 4, .inodes = 4, .pages = 4, .commits = 2, .cache_bytes = 8192};

static void inside(const struct arena *a, const void *at, uint64_t bytes)
{
    uint64_t offset = (uint64_t)((const uint8_t *)at - (const uint8_t *)a->h);
    CHECK(offset <= a->h->total_bytes && bytes <= a->h->total_bytes - offset);
}

static void look(const struct arena *a)
{
    const struct arena_sizes *s = &a->h->sizes;
    char value[64];
    inside(a, a->big, s->big * sizeof *a->big);
    inside(a, a->small, s->small * sizeof *a->small);
    inside(a, a->handle, s->handles * sizeof *a->handle);
    inside(a, a->inode, s->inodes * sizeof *a->inode);
    inside(a, a->page, s->pages * sizeof *a->page);
    inside(a, a->commit, s->commits * sizeof *a->commit);
    inside(a, a->data, (uint64_t)s->pages * ARENA_PAGE_BYTES);
    inside(a, a->cache, s->cache_bytes);
    if (arena_option(a, "key", value, sizeof value) != NULL) {
        CHECK(memchr(value, 0, sizeof value) != NULL && strchr(value, '\n') == NULL);
    }
}

/* Pairs of (place, byte) over what is there. */
static void change(uint8_t *to, size_t bytes, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i + 3 <= len; i += 3) {
        to[(data[i] | (size_t)data[i + 1] << 8) % bytes] = data[i + 2];
    }
}

/* Made once: to lock its pages takes most of the time. */
static struct arena made;
static struct arena_header pristine;

static void prepare(void)
{
    if (made.h == NULL) {
        log_set_level(LOG_LEVEL_ERROR);
        CHECK(arena_create(&TINY, &made) == 0);
        CHECK(arena_set_option(&made, "key", "value") == 0);
        pristine = *made.h;
    }
    *made.h = pristine;
}

static void attach(const uint8_t *data, size_t len, bool good)
{
    struct arena again;
    prepare();
    if (good) {
        /* Half of the changes hit the fields, the others the options. */
        change((uint8_t *)made.h, offsetof(struct arena_header, init), data, len / 2);
        change((uint8_t *)made.h, sizeof *made.h, data + len / 2, len - len / 2);
    } else {
        memcpy(made.h, data, len < sizeof *made.h ? len : sizeof *made.h);
    }
    if (arena_attach(made.fd, &again) == 0) {
        look(&again);
        (void)arena_set_option(&again, "key", "another");
        (void)arena_set_option(&again, "new", "one");
        look(&again);
        arena_detach(&again);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len > 1) {
        attach(data + 1, len - 1, data[0] % 2 == 0);
    }
    return 0;
}
