#include "test/lib/disk_mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/prng.h"

enum { PAGE = 4096, SECTOR = 512, SECTORS = PAGE / SECTOR };

/* NULL images read as zeros. */
struct page {
    uint8_t *now, *stable;
    uint8_t dirty; /* a bit per sector: written since the last sync */
    bool allocated;
};

struct inode {
    unsigned refs; /* names (now and stable) and open files */
    struct page *page;
    size_t pages;
    uint64_t size, stable_size;
    struct mem_disk *disk;
};

struct name {
    struct list node;
    char *path;
    struct inode *now, *stable; /* NULL: no such name */
};

struct mem_disk {
    struct disk disk;
    struct list names;
    uint64_t total, used;
    struct disk_mem_fault fault;
    bool fired, keep;
    struct prng prng;
    struct disk_mem_counts counts;
};

struct mem_file {
    struct disk_file file;
    struct inode *inode;
};

static struct mem_disk *disk_of(const struct disk *d)
{
    return container_of((struct disk *)(uintptr_t)d, struct mem_disk, disk);
}

static struct inode *inode_of(struct disk_file *f)
{
    return container_of(f, struct mem_file, file)->inode;
}

/* 0, or the armed error when this change is the one to fail. */
static int change(struct mem_disk *m)
{
    m->counts.changes++;
    int rc = m->fault.rc != 0 ? m->fault.rc : -EIO;
    if (m->fired && m->fault.sticky) {
        return rc;
    }
    if (m->fault.at < 0) {
        return 0;
    }
    if (m->fault.at-- == 0) {
        m->fired = true;
        return rc;
    }
    return 0;
}

static void page_free(struct inode *i, struct page *p)
{
    free(p->now);
    free(p->stable);
    if (p->allocated) {
        i->disk->used -= PAGE;
    }
    memset(p, 0, sizeof *p);
}

static void inode_unref(struct inode *i)
{
    if (i == NULL || --i->refs > 0) {
        return;
    }
    for (size_t n = 0; n < i->pages; n++) {
        page_free(i, &i->page[n]);
    }
    free(i->page);
    free(i);
}

static struct inode *inode_ref(struct inode *i)
{
    if (i != NULL) {
        i->refs++;
    }
    return i;
}

static struct name *name_find(struct mem_disk *m, const char *path)
{
    list_for_each (node, &m->names) {
        struct name *n = list_entry(node, struct name, node);
        if (strcmp(n->path, path) == 0) {
            return n;
        }
    }
    return NULL;
}

static struct name *name_make(struct mem_disk *m, const char *path)
{
    struct name *n = name_find(m, path);
    if (n == NULL) {
        n = xcalloc(1, sizeof *n);
        n->path = xstrdup(path);
        list_add_tail(&m->names, &n->node);
    }
    return n;
}

static void name_set(struct inode **place, struct inode *to)
{
    (void)inode_ref(to);
    inode_unref(*place);
    *place = to;
}

static const struct disk_ops MEM_OPS;

static int mem_open(struct disk *d, const char *path, int flags, struct disk_file **out)
{
    struct mem_disk *m = disk_of(d);
    struct name *n = name_find(m, path);
    bool there = n != NULL && n->now != NULL;
    if (there && (flags & DISK_EXCLUSIVE) != 0) {
        return -EEXIST;
    }
    if (!there) {
        int rc = (flags & DISK_CREATE) == 0 ? -ENOENT : change(m);
        if (rc != 0) {
            return rc;
        }
        n = name_make(m, path);
        struct inode *fresh = xcalloc(1, sizeof *fresh);
        fresh->disk = m;
        name_set(&n->now, fresh);
    }
    struct mem_file *f = xcalloc(1, sizeof *f);
    f->file.ops = &MEM_OPS;
    f->inode = inode_ref(n->now);
    *out = &f->file;
    return 0;
}

static int mem_rename(struct disk *d, const char *from, const char *to)
{
    struct mem_disk *m = disk_of(d);
    struct name *n = name_find(m, from);
    if (n == NULL || n->now == NULL) {
        return -ENOENT;
    }
    int rc = change(m);
    if (rc == 0 && strcmp(from, to) != 0) {
        name_set(&name_make(m, to)->now, n->now);
        name_set(&n->now, NULL);
    }
    return rc;
}

static int mem_unlink(struct disk *d, const char *path)
{
    struct mem_disk *m = disk_of(d);
    struct name *n = name_find(m, path);
    if (n == NULL || n->now == NULL) {
        return -ENOENT;
    }
    int rc = change(m);
    if (rc == 0) {
        name_set(&n->now, NULL);
    }
    return rc;
}

static int mem_make_dir(struct disk *d, const char *path)
{
    (void)d;
    (void)path; /* directories are only prefixes of names */
    return 0;
}

/* The part of path behind "dir/" when it has no further slash, else NULL. */
static const char *name_in(const char *path, const char *dir)
{
    if (strcmp(dir, ".") == 0 || dir[0] == '\0') {
        return strchr(path, '/') == NULL ? path : NULL;
    }
    size_t len = strlen(dir);
    if (strncmp(path, dir, len) != 0 || path[len] != '/') {
        return NULL;
    }
    return strchr(path + len + 1, '/') == NULL ? path + len + 1 : NULL;
}

static int mem_sync_dir(struct disk *d, const char *path)
{
    struct mem_disk *m = disk_of(d);
    int rc = change(m);
    if (rc != 0) {
        return rc;
    }
    list_for_each (node, &m->names) {
        struct name *n = list_entry(node, struct name, node);
        if (name_in(n->path, path) != NULL) {
            name_set(&n->stable, n->now);
        }
    }
    return 0;
}

static int mem_list(struct disk *d, const char *path, void (*visit)(const char *name, void *ctx),
                    void *ctx)
{
    list_for_each_safe (node, follow, &disk_of(d)->names) {
        struct name *n = list_entry(node, struct name, node);
        const char *name = name_in(n->path, path);
        if (name != NULL && n->now != NULL) {
            visit(name, ctx);
        }
    }
    return 0;
}

static int mem_space(struct disk *d, struct disk_space *out)
{
    const struct mem_disk *m = disk_of(d);
    out->total_bytes = m->total;
    out->free_bytes = m->used < m->total ? m->total - m->used : 0;
    out->filesystem = 1;
    out->align_bytes = SECTOR;
    return 0;
}

static void mem_close(struct disk *d)
{
    struct mem_disk *m = disk_of(d);
    if (m->keep) {
        return;
    }
    list_for_each_safe (node, follow, &m->names) {
        struct name *n = list_entry(node, struct name, node);
        name_set(&n->now, NULL);
        name_set(&n->stable, NULL);
        free(n->path);
        free(n);
    }
    CHECK(m->used == 0); /* no file is open any more */
    free(m);
}

static struct page *page_at(struct inode *i, uint64_t at)
{
    size_t n = (size_t)(at / PAGE);
    if (n >= i->pages) {
        size_t pages = n + 1 > 2 * i->pages ? n + 1 : 2 * i->pages;
        i->page = xrealloc(i->page, pages * sizeof *i->page);
        memset(i->page + i->pages, 0, (pages - i->pages) * sizeof *i->page);
        i->pages = pages;
    }
    return &i->page[n];
}

static int page_allocate(struct inode *i, struct page *p)
{
    if (!p->allocated) {
        if (i->disk->used + PAGE > i->disk->total) {
            return -ENOSPC;
        }
        i->disk->used += PAGE;
        p->allocated = true;
    }
    return 0;
}

static int mem_read(struct disk_file *f, void *to, size_t len, uint64_t at)
{
    struct inode *i = inode_of(f);
    struct mem_disk *m = i->disk;
    m->counts.reads++;
    if (m->fired && m->fault.sticky && m->fault.reads) {
        return -EIO;
    }
    if (m->fault.bad_reads > 0) {
        m->fault.bad_reads--;
        return -EIO;
    }
    if (at + len > i->size) {
        return -ENODATA;
    }
    uint8_t *p = to;
    while (len > 0) {
        size_t in = (size_t)(at % PAGE);
        size_t n = PAGE - in < len ? PAGE - in : len;
        const struct page *page = at / PAGE < i->pages ? &i->page[at / PAGE] : NULL;
        if (page != NULL && page->now != NULL) {
            memcpy(p, page->now + in, n);
        } else {
            memset(p, 0, n);
        }
        p += n;
        at += n;
        len -= n;
    }
    return 0;
}

static int write_run(struct inode *i, const uint8_t *from, size_t len, uint64_t at)
{
    while (len > 0) {
        size_t in = (size_t)(at % PAGE);
        size_t n = PAGE - in < len ? PAGE - in : len;
        struct page *p = page_at(i, at);
        int rc = page_allocate(i, p);
        if (rc != 0) {
            return rc;
        }
        if (p->now == NULL) {
            p->now = xcalloc(1, PAGE);
        }
        memcpy(p->now + in, from, n);
        for (size_t s = in / SECTOR; s <= (in + n - 1) / SECTOR; s++) {
            p->dirty |= (uint8_t)(1u << s);
        }
        from += n;
        at += n;
        len -= n;
        i->size = at > i->size ? at : i->size;
    }
    return 0;
}

/* Some of the sectors of a write that is reported as failed. */
static void write_torn(struct inode *i, const struct iovec *iov, unsigned n, uint64_t at)
{
    for (unsigned v = 0; v < n; v++) {
        const uint8_t *from = iov[v].iov_base;
        for (size_t done = 0; done < iov[v].iov_len; done += SECTOR) {
            size_t len = iov[v].iov_len - done < SECTOR ? iov[v].iov_len - done : SECTOR;
            if (prng_below(&i->disk->prng, 2) == 0) {
                (void)write_run(i, from + done, len, at + done);
            }
        }
        at += iov[v].iov_len;
    }
}

static int mem_write(struct disk_file *f, const struct iovec *iov, unsigned n, uint64_t at)
{
    struct inode *i = inode_of(f);
    struct mem_disk *m = i->disk;
    m->counts.writes++;
    bool before = m->fired;
    int rc = change(m);
    if (rc != 0) {
        if (m->fault.torn && !before) {
            write_torn(i, iov, n, at);
        }
        return rc;
    }
    for (unsigned v = 0; v < n && rc == 0; v++) {
        rc = write_run(i, iov[v].iov_base, iov[v].iov_len, at);
        at += iov[v].iov_len;
        m->counts.bytes_written += iov[v].iov_len;
    }
    return rc;
}

static int mem_sync(struct disk_file *f)
{
    struct inode *i = inode_of(f);
    i->disk->counts.syncs++;
    int rc = change(i->disk);
    if (rc != 0) {
        return rc;
    }
    for (size_t n = 0; n < i->pages; n++) {
        struct page *p = &i->page[n];
        if (p->dirty != 0) {
            if (p->now == NULL) {
                free(p->stable);
                p->stable = NULL;
            } else {
                p->stable = p->stable != NULL ? p->stable : xmalloc(PAGE);
                memcpy(p->stable, p->now, PAGE);
            }
            p->dirty = 0;
        }
    }
    i->stable_size = i->size;
    return 0;
}

static int mem_allocate(struct disk_file *f, uint64_t at, uint64_t len)
{
    struct inode *i = inode_of(f);
    int rc = change(i->disk);
    for (uint64_t end = at + len; at < end && rc == 0; at += PAGE - at % PAGE) {
        rc = page_allocate(i, page_at(i, at));
        uint64_t upto = at - at % PAGE + PAGE < end ? at - at % PAGE + PAGE : end;
        if (rc == 0 && upto > i->size) {
            i->size = upto;
        }
    }
    return rc;
}

static int mem_punch(struct disk_file *f, uint64_t at, uint64_t len)
{
    struct inode *i = inode_of(f);
    int rc = change(i->disk);
    if (rc != 0) {
        return rc;
    }
    uint64_t end = at + len;
    for (at = (at + PAGE - 1) / PAGE * PAGE; at + PAGE <= end; at += PAGE) {
        struct page *p = at / PAGE < i->pages ? &i->page[at / PAGE] : NULL;
        if (p != NULL && p->allocated) {
            i->disk->used -= PAGE;
            p->allocated = false;
        }
        if (p != NULL && p->now != NULL) {
            free(p->now);
            p->now = NULL;
            p->dirty = 0xff;
        }
    }
    return 0;
}

static int mem_truncate(struct disk_file *f, uint64_t size)
{
    struct inode *i = inode_of(f);
    int rc = change(i->disk);
    if (rc != 0) {
        return rc;
    }
    for (size_t n = (size_t)((size + PAGE - 1) / PAGE); n < i->pages; n++) {
        page_free(i, &i->page[n]); /* durable at once: callers here do not depend on less */
    }
    struct page *last = size % PAGE != 0 && size / PAGE < i->pages ? &i->page[size / PAGE] : NULL;
    if (last != NULL && last->now != NULL) {
        memset(last->now + size % PAGE, 0, PAGE - size % PAGE);
        last->dirty = 0xff;
    }
    i->size = size;
    i->stable_size = i->stable_size < size ? i->stable_size : size;
    return 0;
}

static int mem_size(struct disk_file *f, uint64_t *size, uint64_t *allocated_bytes)
{
    const struct inode *i = inode_of(f);
    *size = i->size;
    *allocated_bytes = 0;
    for (size_t n = 0; n < i->pages; n++) {
        *allocated_bytes += i->page[n].allocated ? PAGE : 0;
    }
    return 0;
}

static void mem_file_close(struct disk_file *f)
{
    if (f != NULL) {
        inode_unref(inode_of(f));
        free(container_of(f, struct mem_file, file));
    }
}

static const struct disk_ops MEM_OPS = {
    .open = mem_open,
    .rename = mem_rename,
    .unlink = mem_unlink,
    .make_dir = mem_make_dir,
    .sync_dir = mem_sync_dir,
    .list = mem_list,
    .space = mem_space,
    .close = mem_close,
    .read = mem_read,
    .write = mem_write,
    .sync = mem_sync,
    .allocate = mem_allocate,
    .punch = mem_punch,
    .truncate = mem_truncate,
    .size = mem_size,
    .file_close = mem_file_close,
};

struct disk *disk_mem_new(uint64_t total_bytes)
{
    struct mem_disk *m = xcalloc(1, sizeof *m);
    m->disk.ops = &MEM_OPS;
    list_init(&m->names);
    m->total = total_bytes;
    m->fault.at = -1;
    prng_seed(&m->prng, 1);
    return &m->disk;
}

void disk_mem_keep(struct disk *d)
{
    disk_of(d)->keep = true;
}

void disk_mem_free(struct disk *d)
{
    disk_of(d)->keep = false;
    mem_close(d);
}

void disk_mem_fault(struct disk *d, struct disk_mem_fault fault)
{
    disk_of(d)->fault = fault;
    disk_of(d)->fired = false;
}

bool disk_mem_fired(const struct disk *d)
{
    return disk_of(d)->fired;
}

/* Sectors that did not make it go back to the stable image. */
static void page_crash(struct page *p, struct prng *prng, unsigned keep_percent)
{
    static const uint8_t ZERO[SECTOR];
    for (unsigned s = 0; s < SECTORS && p->dirty != 0; s++) {
        if ((p->dirty & (1u << s)) == 0 || prng_below(prng, 100) < keep_percent) {
            continue;
        }
        if (p->now == NULL && p->stable != NULL) {
            p->now = xcalloc(1, PAGE);
        }
        if (p->now != NULL) {
            memcpy(p->now + s * SECTOR, p->stable != NULL ? p->stable + s * SECTOR : ZERO, SECTOR);
        }
    }
    free(p->stable);
    p->stable = p->now != NULL ? xmemdup(p->now, PAGE) : NULL;
    p->dirty = 0;
}

static void inode_crash(struct inode *i, struct prng *prng, unsigned keep_percent)
{
    for (size_t n = 0; n < i->pages; n++) {
        struct page *p = &i->page[n];
        page_crash(p, prng, keep_percent);
        if (p->now != NULL && !p->allocated) { /* a punch that was undone */
            p->allocated = true;
            i->disk->used += PAGE;
        }
    }
    if (prng_below(prng, 100) >= keep_percent) {
        i->size = i->stable_size;
    }
    i->stable_size = i->size;
}

void disk_mem_crash(struct disk *d, uint64_t seed, unsigned keep_percent)
{
    struct mem_disk *m = disk_of(d);
    struct prng prng;
    prng_seed(&prng, seed);
    disk_mem_fault(d, (struct disk_mem_fault){.at = -1});
    list_for_each (node, &m->names) {
        struct name *n = list_entry(node, struct name, node);
        if (keep_percent >= 100) {
            name_set(&n->stable, n->now);
        } else {
            name_set(&n->now, n->stable);
        }
        if (n->now != NULL) {
            inode_crash(n->now, &prng, keep_percent);
        }
    }
}

int disk_mem_rot(struct disk *d, const char *path, uint64_t at, uint8_t mask)
{
    struct name *n = name_find(disk_of(d), path);
    if (n == NULL || n->now == NULL) {
        return -ENOENT;
    }
    struct page *p = at < n->now->size ? page_at(n->now, at) : NULL;
    if (p == NULL || p->now == NULL) {
        return -ENODATA;
    }
    p->now[at % PAGE] ^= mask;
    if (p->stable != NULL) {
        p->stable[at % PAGE] ^= mask;
    }
    return 0;
}

void disk_mem_set_total(struct disk *d, uint64_t total_bytes)
{
    disk_of(d)->total = total_bytes;
}

uint64_t disk_mem_used(const struct disk *d)
{
    return disk_of(d)->used;
}

struct disk_mem_counts disk_mem_counts(const struct disk *d)
{
    return disk_of(d)->counts;
}
