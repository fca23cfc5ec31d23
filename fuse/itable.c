#include "fuse/itable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "fuse/writer.h"
#include "meta.pb-c.h"

/* Memory is counted per inode: the struct, its extents, its content. The least recently used one
 * that nobody needs goes first; the newest few always stay, since a caller may hold two pointers at
 * once (rename). */
enum {
    KEEP_NEWEST = 64,
    EXTENTS_MAX = 16384, /* of one inode; beyond it only the newest answer is kept */
    EXTENTS_FEW = 16,
    ATTR_INLINE = 1
};

struct itable {
    struct client *client;
    size_t bytes, bytes_max;
    struct table inodes;
    struct list lru; /* coldest first */
};

static size_t memory_of(const struct inode *in)
{
    return sizeof *in + in->extents_cap * sizeof in->extent[0] + in->content.cap +
           2 * sizeof(void *);
}

struct itable *itable_new(struct client *c, size_t bytes_max)
{
    struct itable *t = xcalloc(1, sizeof *t);
    t->client = c;
    t->bytes_max = bytes_max;
    table_init(&t->inodes);
    list_init(&t->lru);
    return t;
}

static void inode_free(struct itable *t, struct inode *in)
{
    t->bytes -= memory_of(in);
    table_remove(&t->inodes, &in->node);
    list_remove(&in->lru);
    free(in->extent);
    buf_release(&in->content);
    free(in);
}

void itable_free(struct itable *t)
{
    if (t == NULL) {
        return;
    }
    while (!list_empty(&t->lru)) {
        inode_free(t, list_first(&t->lru, struct inode, lru));
    }
    table_release(&t->inodes);
    free(t);
}

static struct inode *find(const struct itable *t, uint64_t ino)
{
    struct table_node *node = table_find(&t->inodes, table_mix(ino));
    return node == NULL ? NULL : container_of(node, struct inode, node);
}

static bool evictable(struct itable *t, struct inode *in)
{
    if (in->opens > 0 || in->pins > 0 || in->orphan || in->dirty != NULL) {
        return false;
    }
    if (in->writer_state != NULL && !writer_dirty(in)) {
        writer_drop_clean(t->client->writer, in, 0, UINT64_MAX);
    }
    return in->writer_state == NULL;
}

/* What is known of the extents of an inode that stays can be asked for again. */
static void shrink_extents(struct inode *in)
{
    if (in->pins == 0 && in->extents_cap > EXTENTS_FEW) {
        itable_drop_extents(in);
    }
}

/* Looks at a bounded number of the coldest; those that are needed go to the warm end. */
static void shrink(struct itable *t)
{
    unsigned looks = 16;
    while (t->bytes > t->bytes_max && t->inodes.n > KEEP_NEWEST && looks-- > 0) {
        struct inode *in = list_first(&t->lru, struct inode, lru);
        if (evictable(t, in)) {
            inode_free(t, in);
        } else {
            shrink_extents(in);
            list_remove(&in->lru);
            list_add_tail(&t->lru, &in->lru);
        }
    }
}

struct inode *itable_find(struct itable *t, uint64_t ino)
{
    struct inode *in = find(t, ino);
    if (in != NULL) {
        list_remove(&in->lru);
        list_add_tail(&t->lru, &in->lru);
    }
    return in;
}

struct inode *itable_get(struct itable *t, uint64_t ino)
{
    struct inode *in = itable_find(t, ino);
    if (in != NULL) {
        return in;
    }
    shrink(t);
    in = xcalloc(1, sizeof *in);
    in->ino = ino;
    in->table = t;
    buf_init(&in->content);
    list_init(&in->lru);
    table_add(&t->inodes, &in->node, table_mix(ino));
    list_add_tail(&t->lru, &in->lru);
    t->bytes += memory_of(in);
    return in;
}

static void content_drop(struct inode *in)
{
    in->table->bytes -= in->content.cap;
    buf_release(&in->content);
    in->content_valid = false;
}

void itable_forget(struct itable *t, uint64_t ino)
{
    struct inode *in = find(t, ino);
    if (in == NULL) {
        return;
    }
    in->attr_valid = false;
    content_drop(in);
    itable_drop_extents(in);
    if (evictable(t, in)) {
        inode_free(t, in);
    }
}

/* ---- what the server said ---- */

static struct timespec time_of(int64_t ns)
{
    int64_t sec = ns / 1000000000, rest = ns % 1000000000;
    if (rest < 0) { /* before 1970 */
        sec--;
        rest += 1000000000;
    }
    return (struct timespec){.tv_sec = sec, .tv_nsec = rest};
}

static void fill_stat(struct stat *st, const Cfs__Attr *a)
{
    *st = (struct stat){.st_ino = a->ino,
                        .st_mode = a->mode,
                        .st_nlink = a->nlink,
                        .st_uid = a->uid,
                        .st_gid = a->gid,
                        .st_rdev = a->rdev,
                        .st_size = (off_t)a->size,
                        .st_blksize = 65536,
                        .st_blocks = (blkcnt_t)((a->allocated + 511) / 512),
                        .st_atim = time_of(a->atime),
                        .st_mtim = time_of(a->mtime),
                        .st_ctim = time_of(a->ctime)};
}

struct inode *itable_take_attr(struct itable *t, const Cfs__Attr *attr)
{
    struct inode *in = itable_get(t, attr->ino);
    if (in->attr_valid && attr->change < in->change) {
        return in;
    }
    /* Inline content may have changed with the attributes; who knows the new one hands it in
     * afterwards. A symlink's target never changes. */
    if (in->content_valid && S_ISREG(attr->mode) &&
        (!in->attr_valid || attr->change != in->change || !(attr->flags & ATTR_INLINE))) {
        content_drop(in);
    }
    fill_stat(&in->st, attr);
    in->change = attr->change;
    in->attr_flags = attr->flags;
    in->attr_valid = true;
    return in;
}

void itable_take_content(struct inode *in, struct bytes content)
{
    content_drop(in);
    buf_add(&in->content, content.data, content.len);
    in->table->bytes += in->content.cap;
    in->content_valid = true;
}

/* ---- extents ---- */

static void reserve(struct inode *in, unsigned n)
{
    if (n <= in->extents_cap) {
        return;
    }
    unsigned cap = in->extents_cap == 0 ? 4 : in->extents_cap;
    while (cap < n) {
        cap *= 2;
    }
    in->extent = xrealloc(in->extent, cap * sizeof in->extent[0]);
    in->table->bytes += (cap - in->extents_cap) * sizeof in->extent[0];
    in->extents_cap = cap;
}

void itable_drop_extents(struct inode *in)
{
    in->layout++;
    in->table->bytes -= in->extents_cap * sizeof in->extent[0];
    free(in->extent);
    in->extent = NULL;
    in->n_extents = in->extents_cap = 0;
    in->extents_from = in->extents_to = 0;
    in->read_ahead_to = 0;
}

unsigned itable_extent_at(const struct inode *in, uint64_t offset)
{
    unsigned low = 0, high = in->n_extents;
    while (low < high) {
        const unsigned mid = low + (high - low) / 2;
        if (in->extent[mid].offset + in->extent[mid].length <= offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* Takes [from, to) out of the array; an extent that covers both ends is split. Returns where that
 * range now is. */
static unsigned cut(struct inode *in, uint64_t from, uint64_t to)
{
    if (in->n_extents == 0) {
        return 0;
    }
    unsigned at = itable_extent_at(in, from);
    if (at < in->n_extents && in->extent[at].offset < from) {
        struct iextent *e = &in->extent[at];
        const uint64_t end = e->offset + e->length;
        if (end > to) {
            reserve(in, in->n_extents + 1);
            e = &in->extent[at];
            memmove(e + 1, e, (in->n_extents - at) * sizeof *e);
            in->n_extents++;
        }
        e->length = from - e->offset;
        at++;
    }
    unsigned last = at;
    while (last < in->n_extents && in->extent[last].offset + in->extent[last].length <= to) {
        last++;
    }
    memmove(in->extent + at, in->extent + last, (in->n_extents - last) * sizeof in->extent[0]);
    in->n_extents -= last - at;
    if (at < in->n_extents && in->extent[at].offset < to) {
        struct iextent *e = &in->extent[at];
        const uint64_t less = to - e->offset;
        e->offset += less;
        e->length -= less;
        e->stripe_offset += less;
    }
    return at;
}

void itable_put_extent(struct inode *in, const struct iextent *e)
{
    in->layout++;
    const uint64_t end = e->offset + e->length;
    if (in->extents_to == in->extents_from || e->offset > in->extents_to ||
        end < in->extents_from || in->n_extents + 2 > EXTENTS_MAX) {
        /* Nothing is known about what lies between. */
        if (end > in->extents_from && e->offset < in->extents_to) {
            itable_drop_extents(in);
        }
        return;
    }
    const unsigned at = cut(in, e->offset, end);
    reserve(in, in->n_extents + 1);
    memmove(in->extent + at + 1, in->extent + at, (in->n_extents - at) * sizeof *e);
    in->extent[at] = *e;
    in->n_extents++;
    in->extents_from = e->offset < in->extents_from ? e->offset : in->extents_from;
    in->extents_to = end > in->extents_to ? end : in->extents_to;
}

static const Cfs__Stripe *stripe_of(const Cfs__ExtentsReply *r, const Cfs__Extent *e)
{
    for (size_t i = 0; i < r->n_stripe; i++) {
        if (r->stripe[i]->pg == e->pg && r->stripe[i]->id == e->stripe) {
            return r->stripe[i];
        }
    }
    return NULL;
}

/* False: it names a stripe that the reply does not have, or makes no sense. */
static bool fill_extent(struct iextent *out, const Cfs__ExtentsReply *r, const Cfs__Extent *e)
{
    *out = (struct iextent){.offset = e->offset, .length = e->length, .kind = (uint8_t)e->kind};
    if (e->length == 0 || e->offset + e->length < e->offset) {
        return false;
    }
    if (e->kind != 1) {
        return e->kind == 2;
    }
    const Cfs__Stripe *s = stripe_of(r, e);
    if (s == NULL || s->k == 0 || s->k > 32 || s->m > 8 || s->kind > 2 || s->length == 0 ||
        s->length > (uint64_t)s->k << 20 || e->stripe_offset + e->length > s->length ||
        e->stripe_offset + e->length < e->length) {
        return false;
    }
    out->code_kind = (uint8_t)s->kind;
    out->k = (uint8_t)s->k;
    out->m = (uint8_t)s->m;
    out->pg = e->pg;
    out->stripe = e->stripe;
    out->stripe_offset = e->stripe_offset;
    out->slot_mask = s->slot_mask;
    out->stripe_length = s->length;
    out->nonce = s->nonce;
    return true;
}

/* The server may say more than was asked for (an extent that begins before `from`): it is clipped.
 */
static bool clip(struct iextent *e, uint64_t from, uint64_t to)
{
    if (e->offset < from) {
        const uint64_t less = from - e->offset;
        if (less >= e->length) {
            return false;
        }
        e->offset += less;
        e->length -= less;
        e->stripe_offset += less;
    }
    if (e->offset >= to) {
        return false;
    }
    if (e->length > to - e->offset) {
        e->length = to - e->offset;
    }
    return true;
}

void itable_take_extents(struct itable *t, struct inode *in, uint64_t from,
                         const Cfs__ExtentsReply *r)
{
    (void)t;
    if (r->covered_to <= from || r->n_extent > EXTENTS_MAX || r->n_stripe > EXTENTS_MAX) {
        return; /* the reader asks again, and gives up in the end */
    }
    const bool joins = in->extents_to > in->extents_from && from >= in->extents_from &&
                       from <= in->extents_to && in->n_extents + r->n_extent <= EXTENTS_MAX;
    if (joins) {
        cut(in, from, UINT64_MAX); /* what was known behind it is asked for again */
    } else {
        in->n_extents = 0;
        in->extents_from = from;
    }
    in->extents_to = r->covered_to;
    uint64_t last = from;
    for (size_t i = 0; i < r->n_extent; i++) {
        struct iextent e;
        if (!fill_extent(&e, r, r->extent[i])) {
            const uint64_t at = last > r->extent[i]->offset ? last : r->extent[i]->offset;
            in->extents_to = at < r->covered_to ? at : r->covered_to;
            return; /* known only up to the one that is wrong */
        }
        if (!clip(&e, last, r->covered_to)) {
            continue;
        }
        reserve(in, in->n_extents + 1);
        in->extent[in->n_extents++] = e;
        last = e.offset + e.length;
    }
}

/* ---- the truth ---- */

uint64_t itable_size(const struct inode *in)
{
    if (in->dirty != NULL && (in->dirty->flags & ARENA_INODE_SIZE)) {
        return in->dirty->size;
    }
    return (uint64_t)in->st.st_size;
}

static void add_dirty(struct stat *out, const struct arena_inode *dirty)
{
    if (dirty->flags & ARENA_INODE_SIZE) {
        out->st_size = (off_t)dirty->size;
    }
    if (dirty->flags & ARENA_INODE_MTIME) {
        out->st_mtim = time_of(dirty->mtime);
        const struct timespec *c = &out->st_ctim, *m = &out->st_mtim;
        if (c->tv_sec < m->tv_sec || (c->tv_sec == m->tv_sec && c->tv_nsec < m->tv_nsec)) {
            out->st_ctim = out->st_mtim;
        }
    }
    if (dirty->flags & ARENA_INODE_KILL_PRIV) {
        out->st_mode &= ~(mode_t)S_ISUID;
        if (out->st_mode & S_IXGRP) {
            out->st_mode &= ~(mode_t)S_ISGID;
        }
    }
}

bool itable_stat(struct itable *t, struct inode *in, struct stat *out)
{
    if (!in->attr_valid) {
        return false;
    }
    *out = in->st;
    if (in->dirty != NULL) {
        add_dirty(out, in->dirty);
    }
    if (in->writer_state != NULL) {
        out->st_blocks += (blkcnt_t)(writer_dirty_bytes(t->client->writer, in) / 512);
    }
    return true;
}

size_t itable_memory(const struct itable *t)
{
    return t->bytes + t->inodes.n * 2 * sizeof(void *);
}
