#include "fuse/arena_sift.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "rpc/session.h"

enum { LINES_MAX = 16 };

/* Numbers that grow by one are far below; the next ones can be counted. */
static const uint64_t NUMBER_END = (uint64_t)1 << 62;

struct sifting {
    struct arena *a;
    int dropped;
};

static void dropped(struct sifting *s, const char *what, uint32_t index, uint64_t ino)
{
    if (s->dropped++ < LINES_MAX) {
        log_error("arena: a record that no worker wrote is dropped table=%s index=%u ino=%llu", what, index,
                  (unsigned long long)ino);
    }
}

bool arena_sift_seq(const struct arena *a, uint64_t seq)
{
    const uint64_t next = a->h->next_seq;
    return seq > 0 && seq <= next && next - seq < SESSION_RESUME_SPAN;
}

/* ---- handles ---- */

static bool handle_good(const struct arena_handle *r)
{
    const uint32_t flags = ARENA_HANDLE_DIR | ARENA_HANDLE_LOCKED | ARENA_HANDLE_ORPHAN | ARENA_HANDLE_CLOSED;
    return r->state == 1 && r->generation != 0 && r->ino != 0 && (r->flags & ~flags) == 0;
}

static void sift_handles(struct sifting *s)
{
    for (uint32_t i = 0; i < s->a->h->sizes.handles; i++) {
        struct arena_handle *r = &s->a->handle[i];
        if (r->state != 0 && !handle_good(r)) {
            dropped(s, "handles", i, r->ino);
            arena_publish32(&r->state, 0);
        }
    }
}

/* ---- inodes ---- */

static bool inode_good(const struct arena_inode *r)
{
    const uint32_t flags = ARENA_INODE_SIZE | ARENA_INODE_MTIME | ARENA_INODE_KILL_PRIV;
    const bool sized = (r->flags & ARENA_INODE_SIZE) != 0;
    return (r->flags & ~flags) == 0 && (!sized || r->size <= INT64_MAX) && r->error <= 0;
}

struct used {
    uint64_t ino;
    uint32_t index;
};

static int compare_used(const void *a, const void *b)
{
    const struct used *x = a, *y = b;
    if (x->ino != y->ino) {
        return x->ino < y->ino ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

/* One record per inode. */
static void sift_doubles(struct sifting *s, struct used *list, size_t n)
{
    qsort(list, n, sizeof list[0], compare_used);
    for (size_t i = 1; i < n; i++) {
        if (list[i].ino == list[i - 1].ino) {
            dropped(s, "inodes", list[i].index, list[i].ino);
            arena_publish64(&s->a->inode[list[i].index].ino, 0);
        }
    }
}

static void sift_inodes(struct sifting *s)
{
    const uint32_t count = s->a->h->sizes.inodes;
    struct used *list = xcalloc(count, sizeof *list);
    size_t n = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct arena_inode *r = &s->a->inode[i];
        if (r->ino != 0 && !inode_good(r)) {
            dropped(s, "inodes", i, r->ino);
            arena_publish64(&r->ino, 0);
        } else if (r->ino != 0) {
            list[n++] = (struct used){.ino = r->ino, .index = i};
        }
    }
    sift_doubles(s, list, n);
    free(list);
}

/* ---- pages ---- */

static bool page_good(const struct arena_page *r)
{
    const unsigned from = arena_page_from(r->word), to = arena_page_to(r->word);
    if (r->word >> 32 != ARENA_PAGE_DIRTY) {
        return r->word >> 32 == ARENA_PAGE_CLEAN;
    }
    return from < to && to <= ARENA_PAGE_BYTES && r->ino != 0 && r->stamp < NUMBER_END &&
           r->number <= INT64_MAX / ARENA_PAGE_BYTES;
}

static void sift_pages(struct sifting *s)
{
    for (uint32_t i = 0; i < s->a->h->sizes.pages; i++) {
        struct arena_page *r = &s->a->page[i];
        if (r->word != 0 && !page_good(r)) {
            dropped(s, "pages", i, r->ino);
            arena_publish64(&r->word, 0);
        }
    }
}

/* ---- commits ---- */

static bool commit_good(const struct arena *a, const struct arena_commit *r)
{
    const uint32_t flags =
        ARENA_INODE_SIZE | ARENA_INODE_MTIME | ARENA_INODE_KILL_PRIV | ARENA_COMMIT_INLINE;
    if (!arena_sift_seq(a, r->seq) || r->ino == 0 || (r->flags & ~flags) != 0 ||
        r->n_stripes > ARENA_COMMIT_STRIPES || r->n_extents > ARENA_COMMIT_EXTENTS) {
        return false;
    }
    for (uint32_t i = 0; i < r->n_extents; i++) {
        if (r->extent[i].stripe >= r->n_stripes) {
            return false;
        }
    }
    return true;
}

static void sift_commits(struct sifting *s)
{
    for (uint32_t i = 0; i < s->a->h->sizes.commits; i++) {
        struct arena_commit *r = &s->a->commit[i];
        if (r->seq != 0 && !commit_good(s->a, r)) {
            dropped(s, "commits", i, r->ino);
            arena_publish64(&r->seq, 0);
        }
    }
}

int arena_sift(struct arena *a)
{
    const struct arena_header *h = a->h;
    if (h->session != 0 && (h->next_seq == 0 || h->next_seq >= NUMBER_END)) {
        log_error("arena: session without a number session=%llu next=%llu", (unsigned long long)h->session,
                  (unsigned long long)h->next_seq);
        return -EINVAL;
    }
    struct sifting s = {.a = a};
    sift_handles(&s);
    sift_inodes(&s);
    sift_pages(&s);
    sift_commits(&s);
    if (s.dropped > 0) {
        log_error("arena: records dropped records=%d", s.dropped);
    }
    return s.dropped;
}
