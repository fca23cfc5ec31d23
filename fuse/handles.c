#include "fuse/handles.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"

enum { NONE = UINT32_MAX };

/* Handles of one inode, chained by index. */
struct handle_group {
    struct table_node node;
    uint64_t ino;
    uint32_t first;
    unsigned open;
};

struct handles {
    struct arena *arena;
    uint32_t n;
    uint32_t *next; /* of a used record: in its group; of a free one: in the free list */
    uint32_t free_first, free_last;
    unsigned used;
    struct table groups;
};

static struct handle_group *group_find(const struct handles *h, uint64_t ino)
{
    struct table_node *n = table_find(&h->groups, table_mix(ino));
    for (; n != NULL; n = table_next_same(n)) {
        struct handle_group *g = container_of(n, struct handle_group, node);
        if (g->ino == ino) {
            return g;
        }
    }
    return NULL;
}

static void group_add(struct handles *h, uint32_t index)
{
    struct arena_handle *record = &h->arena->handle[index];
    struct handle_group *g = group_find(h, record->ino);
    if (g == NULL) {
        g = xcalloc(1, sizeof *g);
        g->ino = record->ino;
        g->first = NONE;
        table_add(&h->groups, &g->node, table_mix(g->ino));
    }
    h->next[index] = g->first;
    g->first = index;
    g->open += (record->flags & ARENA_HANDLE_CLOSED) == 0;
    h->used++;
}

/* Freed ones go to the end, so that a generation is reused as late as possible. */
static void free_add(struct handles *h, uint32_t index)
{
    h->next[index] = NONE;
    if (h->free_last == NONE) {
        h->free_first = index;
    } else {
        h->next[h->free_last] = index;
    }
    h->free_last = index;
}

static void group_drop_if_empty(struct handles *h, struct handle_group *g)
{
    if (g->first == NONE) {
        table_remove(&h->groups, &g->node);
        free(g);
    }
}

static void unchain(struct handles *h, struct handle_group *g, uint32_t index)
{
    uint32_t *at = &g->first;
    while (*at != index) {
        CHECK(*at != NONE);
        at = &h->next[*at];
    }
    *at = h->next[index];
    h->used--;
    arena_publish32(&h->arena->handle[index].state, 0);
    free_add(h, index);
}

struct handles *handles_new(struct arena *a)
{
    struct handles *h = xcalloc(1, sizeof *h);
    h->arena = a;
    h->n = a->h->sizes.handles;
    h->next = xcalloc(h->n, sizeof *h->next);
    h->free_first = h->free_last = NONE;
    table_init(&h->groups);
    for (uint32_t i = 0; i < h->n; i++) {
        if (a->handle[i].state != 0) {
            group_add(h, i);
        } else {
            free_add(h, i);
        }
    }
    return h;
}

static void group_free(struct table_node *node, void *ctx)
{
    (void)ctx;
    free(container_of(node, struct handle_group, node));
}

void handles_free(struct handles *h)
{
    if (h == NULL) {
        return;
    }
    table_walk(&h->groups, group_free, NULL);
    table_release(&h->groups);
    free(h->next);
    free(h);
}

uint64_t handles_fh(const struct handles *h, const struct arena_handle *record)
{
    return (uint64_t)(record - h->arena->handle) | (uint64_t)record->generation << 32;
}

static struct arena_handle *find_unique(const struct handles *h, uint64_t unique)
{
    for (uint32_t i = 0; i < h->n; i++) {
        struct arena_handle *record = &h->arena->handle[i];
        if (record->state != 0 && record->unique == unique) {
            return record;
        }
    }
    return NULL;
}

static int take_free(struct handles *h, const struct handle_want *want, uint32_t *ret)
{
    uint32_t i = h->free_first;
    if (i == NONE) {
        return -ENFILE;
    }
    h->free_first = h->next[i];
    if (h->free_first == NONE) {
        h->free_last = NONE;
    }
    struct arena_handle *record = &h->arena->handle[i];
    record->generation++;
    if (record->generation == 0) {
        record->generation = 1;
    }
    record->ino = want->ino;
    record->unique = want->unique;
    record->open_flags = want->open_flags;
    record->flags = want->flags;
    record->reported_error = want->reported_error;
    arena_publish32(&record->state, 1);
    group_add(h, i);
    *ret = i;
    return 0;
}

int handles_open(struct handles *h, const struct handle_want *want, uint64_t *ret_fh)
{
    struct arena_handle *record = want->repeated ? find_unique(h, want->unique) : NULL;
    if (record == NULL) {
        uint32_t i;
        int rc = take_free(h, want, &i);
        if (rc < 0) {
            return rc;
        }
        record = &h->arena->handle[i];
    }
    *ret_fh = handles_fh(h, record);
    return 0;
}

struct arena_handle *handles_find(const struct handles *h, uint64_t fh)
{
    uint32_t i = (uint32_t)fh;
    if (i >= h->n) {
        return NULL;
    }
    struct arena_handle *record = &h->arena->handle[i];
    bool same = record->state != 0 && record->generation == (uint32_t)(fh >> 32) &&
                (record->flags & ARENA_HANDLE_CLOSED) == 0;
    return same ? record : NULL;
}

bool handles_close(struct handles *h, uint64_t fh, uint64_t *ret_ino)
{
    struct arena_handle *record = handles_find(h, fh);
    if (record == NULL) {
        return false;
    }
    struct handle_group *g = group_find(h, record->ino);
    CHECK(g != NULL && g->open > 0);
    *ret_ino = record->ino;
    g->open--;
    if (g->open == 0 && (record->flags & ARENA_HANDLE_ORPHAN) != 0) {
        arena_publish32(&record->flags, record->flags | ARENA_HANDLE_CLOSED);
        return true;
    }
    unchain(h, g, (uint32_t)fh);
    group_drop_if_empty(h, g);
    return false;
}

unsigned handles_count(const struct handles *h, uint64_t ino)
{
    const struct handle_group *g = group_find(h, ino);
    return g != NULL ? g->open : 0;
}

unsigned handles_total(const struct handles *h)
{
    return h->used;
}

bool handles_locked(const struct handles *h, uint64_t ino)
{
    const struct handle_group *g = group_find(h, ino);
    for (uint32_t i = g != NULL ? g->first : NONE; i != NONE; i = h->next[i]) {
        if ((h->arena->handle[i].flags & ARENA_HANDLE_LOCKED) != 0) {
            return true;
        }
    }
    return false;
}

void handles_set_locked(struct handles *h, struct arena_handle *record)
{
    (void)h;
    if ((record->flags & ARENA_HANDLE_LOCKED) == 0) {
        arena_publish32(&record->flags, record->flags | ARENA_HANDLE_LOCKED);
    }
}

unsigned handles_set_orphan(struct handles *h, uint64_t ino, bool on)
{
    struct handle_group *g = group_find(h, ino);
    if (g == NULL) {
        return 0;
    }
    for (uint32_t i = g->first; i != NONE; i = h->next[i]) {
        uint32_t flags = h->arena->handle[i].flags;
        uint32_t now = on ? flags | ARENA_HANDLE_ORPHAN : flags & ~(uint32_t)ARENA_HANDLE_ORPHAN;
        if (now != flags && (flags & ARENA_HANDLE_CLOSED) == 0) {
            arena_publish32(&h->arena->handle[i].flags, now);
        }
    }
    return g->open;
}

void handles_keep_orphan(struct handles *h, uint64_t ino)
{
    struct handle_want want = {.ino = ino, .flags = ARENA_HANDLE_ORPHAN | ARENA_HANDLE_CLOSED};
    uint32_t i;
    if (group_find(h, ino) == NULL) {
        /* Without a free record it is remembered by this worker only; the end of the session frees it. */
        (void)take_free(h, &want, &i);
    }
}

void handles_orphan_gone(struct handles *h, uint64_t ino)
{
    struct handle_group *g = group_find(h, ino);
    if (g == NULL) {
        return;
    }
    for (uint32_t i = g->first, following; i != NONE; i = following) {
        following = h->next[i];
        if ((h->arena->handle[i].flags & ARENA_HANDLE_CLOSED) != 0) {
            unchain(h, g, i);
        }
    }
    group_drop_if_empty(h, g);
}

void handles_walk(struct handles *h, void (*visit)(struct arena_handle *record, void *ctx), void *ctx)
{
    for (uint32_t i = 0; i < h->n; i++) {
        if (h->arena->handle[i].state != 0) {
            visit(&h->arena->handle[i], ctx);
        }
    }
}
