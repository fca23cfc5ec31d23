#include "fuse/names.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/table.h"

struct name_entry {
    struct table_node node;
    struct list lru;
    uint64_t dir, ino;
    uint8_t len;
    char name[];
};

struct name_dir {
    struct table_node node;
    struct list lru;
    uint64_t dir, parent;
    uint64_t mark;       /* of its last change */
    unsigned under_way;  /* changes submitted and not answered */
    bool complete;
};

enum { TOUCHED_MAX = 1024 };

struct names {
    struct table entries, dirs;
    struct table touched; /* struct name_entry, of the watched directory */
    uint64_t watched;     /* 0: none */
    bool watch_lossy;
    struct list entry_lru, dir_lru; /* oldest first */
    unsigned max;
    uint64_t last_mark;
};

static uint64_t hash_name(uint64_t dir, struct bytes name)
{
    uint64_t h = dir ^ 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < name.len; i++) {
        h = (h ^ name.data[i]) * 0x100000001b3u;
    }
    return table_mix(h);
}

struct names *names_new(unsigned entries_max)
{
    struct names *n = xcalloc(1, sizeof *n);
    table_init(&n->entries);
    table_init(&n->dirs);
    table_init(&n->touched);
    list_init(&n->entry_lru);
    list_init(&n->dir_lru);
    n->max = entries_max;
    return n;
}

static struct name_dir *dir_find(struct names *n, uint64_t dir)
{
    for (struct table_node *t = table_find(&n->dirs, table_mix(dir)); t; t = table_next_same(t)) {
        struct name_dir *d = container_of(t, struct name_dir, node);
        if (d->dir == dir) {
            return d;
        }
    }
    return NULL;
}

static void dir_free(struct names *n, struct name_dir *d)
{
    list_remove(&d->lru);
    table_remove(&n->dirs, &d->node);
    free(d);
}

static void dirs_trim(struct names *n)
{
    list_for_each_safe (at, following, &n->dir_lru) {
        struct name_dir *d = list_entry(at, struct name_dir, lru);
        if (n->dirs.n <= n->max) {
            return;
        }
        if (d->under_way == 0) {
            dir_free(n, d);
        }
    }
}

static struct name_dir *dir_get(struct names *n, uint64_t dir)
{
    struct name_dir *d = dir_find(n, dir);
    if (d == NULL) {
        dirs_trim(n);
        d = xcalloc(1, sizeof *d);
        d->dir = dir;
        d->mark = ++n->last_mark;
        list_init(&d->lru);
        table_add(&n->dirs, &d->node, table_mix(dir));
    }
    list_remove(&d->lru);
    list_add_tail(&n->dir_lru, &d->lru);
    return d;
}

static struct name_entry *find_in(const struct table *entries, uint64_t dir, struct bytes name)
{
    struct table_node *t = table_find(entries, hash_name(dir, name));
    for (; t != NULL; t = table_next_same(t)) {
        struct name_entry *e = container_of(t, struct name_entry, node);
        if (e->dir == dir && e->len == name.len && memcmp(e->name, name.data, name.len) == 0) {
            return e;
        }
    }
    return NULL;
}

static struct name_entry *entry_find(const struct names *n, uint64_t dir, struct bytes name)
{
    return find_in(&n->entries, dir, name);
}

static struct name_entry *entry_new(struct table *entries, uint64_t dir, struct bytes name)
{
    struct name_entry *e = xcalloc(1, sizeof *e + name.len);
    e->dir = dir;
    e->len = (uint8_t)name.len;
    memcpy(e->name, name.data, name.len);
    list_init(&e->lru);
    table_add(entries, &e->node, hash_name(dir, name));
    return e;
}

static void entry_free(struct names *n, struct name_entry *e)
{
    list_remove(&e->lru);
    table_remove(&n->entries, &e->node);
    free(e);
}

static void entries_trim(struct names *n)
{
    while (n->entries.n >= n->max) {
        struct name_entry *e = list_first(&n->entry_lru, struct name_entry, lru);
        struct name_dir *d = dir_find(n, e->dir);
        if (d != NULL) {
            d->complete = false;
        }
        n->watch_lossy = n->watch_lossy || e->dir == n->watched;
        entry_free(n, e);
    }
}

void names_free(struct names *n)
{
    if (n == NULL) {
        return;
    }
    while (!list_empty(&n->entry_lru)) {
        entry_free(n, list_first(&n->entry_lru, struct name_entry, lru));
    }
    while (!list_empty(&n->dir_lru)) {
        dir_free(n, list_first(&n->dir_lru, struct name_dir, lru));
    }
    names_watch(n, 0);
    table_release(&n->entries);
    table_release(&n->dirs);
    table_release(&n->touched);
    free(n);
}

uint64_t names_find(struct names *n, uint64_t dir, struct bytes name)
{
    struct name_entry *e = entry_find(n, dir, name);
    if (e == NULL) {
        return 0;
    }
    list_remove(&e->lru);
    list_add_tail(&n->entry_lru, &e->lru);
    return e->ino;
}

static void touch(struct names *n, uint64_t dir, struct bytes name)
{
    if (dir != n->watched || find_in(&n->touched, dir, name) != NULL) {
        return;
    }
    if (n->touched.n == TOUCHED_MAX) {
        n->watch_lossy = true;
        return;
    }
    (void)entry_new(&n->touched, dir, name);
}

static void put(struct names *n, uint64_t dir, struct bytes name, uint64_t ino)
{
    if (name.len == 0 || name.len > 255) {
        return;
    }
    struct name_entry *e = entry_find(n, dir, name);
    if (e == NULL) {
        entries_trim(n);
        e = entry_new(&n->entries, dir, name);
    }
    e->ino = ino;
    list_remove(&e->lru);
    list_add_tail(&n->entry_lru, &e->lru);
}

void names_put(struct names *n, uint64_t dir, struct bytes name, uint64_t ino)
{
    touch(n, dir, name);
    put(n, dir, name, ino);
}

void names_drop(struct names *n, uint64_t dir, struct bytes name)
{
    touch(n, dir, name);
    struct name_entry *e = entry_find(n, dir, name);
    if (e != NULL) {
        entry_free(n, e);
    }
}

void names_change_begin(struct names *n, uint64_t dir)
{
    struct name_dir *d = dir_get(n, dir);
    d->under_way++;
    d->mark = ++n->last_mark;
}

void names_change_end(struct names *n, uint64_t dir)
{
    struct name_dir *d = dir_find(n, dir);
    CHECK(d != NULL && d->under_way > 0);
    d->under_way--;
    d->mark = ++n->last_mark;
}

uint64_t names_mark(struct names *n, uint64_t dir)
{
    return dir_get(n, dir)->mark;
}

bool names_busy(struct names *n, uint64_t dir)
{
    const struct name_dir *d = dir_find(n, dir);
    return d != NULL && d->under_way > 0;
}

bool names_unchanged(struct names *n, uint64_t dir, uint64_t mark)
{
    const struct name_dir *d = dir_find(n, dir);
    return d != NULL && d->mark == mark && d->under_way == 0;
}

static void forget_touched(struct table_node *node, void *ctx)
{
    struct names *n = ctx;
    table_remove(&n->touched, node);
    free(container_of(node, struct name_entry, node));
}

void names_watch(struct names *n, uint64_t dir)
{
    table_walk(&n->touched, forget_touched, n);
    n->watched = dir;
    n->watch_lossy = false;
}

bool names_put_listed(struct names *n, uint64_t dir, struct bytes name, uint64_t ino)
{
    if (n->watched != dir || find_in(&n->touched, dir, name) != NULL) {
        return false;
    }
    put(n, dir, name, ino);
    return true;
}

bool names_watch_whole(const struct names *n, uint64_t dir)
{
    return n->watched == dir && !n->watch_lossy;
}

void names_set_complete(struct names *n, uint64_t dir, bool complete)
{
    struct name_dir *d = complete ? dir_get(n, dir) : dir_find(n, dir);
    if (d != NULL) {
        d->complete = complete;
    }
    n->watch_lossy = n->watch_lossy || (!complete && dir == n->watched);
}

bool names_complete(struct names *n, uint64_t dir)
{
    const struct name_dir *d = dir_find(n, dir);
    return d != NULL && d->complete && d->under_way == 0;
}

void names_set_parent(struct names *n, uint64_t dir, uint64_t parent)
{
    dir_get(n, dir)->parent = parent;
}

uint64_t names_parent(struct names *n, uint64_t dir)
{
    const struct name_dir *d = dir_find(n, dir);
    return d != NULL ? d->parent : 0;
}
