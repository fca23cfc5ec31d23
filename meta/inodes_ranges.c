#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "meta/extents.h"
#include "meta/inodes.h"

/* fallocate(2) and copy_file_range(2). Inline content has no ranges of its own: what happens to it
 * happens in memory, and it never gets reserved extents beside it. Within the inline limit it needs
 * none, for it takes no room of the pool; beyond, the client makes extents of it first. */

enum { COPY_EXTENTS_MAX = 4096 };

struct byte_range {
    uint64_t from, end;
};

static int check_range(uint64_t offset, uint64_t length, struct byte_range *out)
{
    if (offset > INT64_MAX || length > INT64_MAX - offset) {
        return -EFBIG;
    }
    *out = (struct byte_range){offset, offset + length};
    return 0;
}

static int load_file(struct fsm *f, ino_id ino, struct inode *out)
{
    int rc = rows_inode(f, ino, out);
    return rc < 0 ? rc : S_ISREG(out->mode) ? 0 : S_ISDIR(out->mode) ? -EISDIR : -ENODEV;
}

/* ---- fallocate ---------------------------------------------------------------------- */

static int inline_zero(struct fsm *f, struct inode *i, struct byte_range r)
{
    struct buf content;
    buf_init(&content);
    int rc = inodes_inline_get(f, i, &content);
    if (rc == 0 && r.from < content.len) {
        uint64_t end = r.end < content.len ? r.end : content.len;
        memset(content.data + r.from, 0, end - r.from);
        rc = inodes_inline_set(f, i, buf_bytes(&content));
    }
    buf_release(&content);
    return rc;
}

static int change_range(struct fsm *f, struct inode *i, uint32_t mode, struct byte_range r)
{
    bool zero = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
    bool reserve = (mode & FALLOC_FL_PUNCH_HOLE) == 0;
    if ((i->flags & INODE_INLINE) != 0) {
        struct volume *v;
        int bad = rows_volume(f, i->volume, &v);
        if (bad < 0 || (reserve && r.end > v->inline_limit)) {
            return bad < 0 ? bad : -EOPNOTSUPP;
        }
        return zero ? inline_zero(f, i, r) : 0;
    }
    int rc = zero ? extents_clear(f, i, r.from, r.end) : 0;
    return rc == 0 && reserve ? extents_reserve(f, i, r.from, r.end) : rc;
}

static int check_mode(uint32_t mode)
{
    switch (mode) {
    case 0:
    case FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_ZERO_RANGE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
        return 0;
    default:
        return -EOPNOTSUPP;
    }
}

/* What is promised has to fit, with what its session has promised already. The leader's number may
 * be of a moment at which dead stripes were not deleted yet, or heartbeats were behind: then the
 * client asks again. */
static int check_room(const struct fsm *f, uint64_t reserved_before, uint64_t dirty)
{
    const uint64_t *v = f->counters.v, reserved = v[COUNT_RESERVED_BYTES];
    const uint64_t needed = dirty < UINT64_MAX - reserved ? reserved + dirty : UINT64_MAX;
    if (reserved <= reserved_before || needed <= f->reserve_max) {
        return 0;
    }
    const bool comes_back = v[COUNT_GARBAGE_IDS] > 0 || v[COUNT_REAPS] > 0;
    return comes_back || needed <= f->reserve_hope ? -EAGAIN : -ENOSPC;
}

int inodes_fallocate(struct fsm *f, const Cfs__FallocateOp *op, struct op_result *r)
{
    const uint64_t reserved = f->counters.v[COUNT_RESERVED_BYTES];
    struct byte_range range;
    struct inode i;
    int rc = check_mode(op->mode);
    if (rc == 0) {
        rc = op->length == 0 ? -EINVAL : check_range(op->offset, op->length, &range);
    }
    if (rc == 0) {
        rc = load_file(f, op->ino, &i);
    }
    if (rc == 0) {
        rc = change_range(f, &i, op->mode, range);
    }
    if (rc == 0) {
        rc = check_room(f, reserved, op->has_dirty ? op->dirty : 0);
    }
    if (rc < 0) {
        return rc;
    }
    if ((op->mode & FALLOC_FL_KEEP_SIZE) == 0 && range.end > i.size) {
        i.size = range.end;
    }
    if (op->kill_priv) {
        inodes_kill_priv(&i);
    }
    i.mtime = f->now;
    rows_touch(f, &i);
    op_result_attr(r, &i);
    return rows_inode_save(f, &i);
}

/* ---- copy --------------------------------------------------------------------------------- */

struct copying {
    struct inode source, to; /* `source` is not used when both are one */
    bool same;
    struct byte_range from;
    uint64_t at; /* in the target */
};

/* Bytes of a small file go into a small file; anything else the client copies itself. */
static int copy_inline(struct fsm *f, struct copying *c)
{
    struct volume *v;
    int rc = rows_volume(f, c->to.volume, &v);
    if (rc < 0) {
        return rc;
    }
    uint64_t len = c->from.end - c->from.from, end = c->at + len;
    uint64_t size = end > c->to.size ? end : c->to.size;
    bool inline_or_empty = (c->to.flags & INODE_INLINE) != 0 || c->to.allocated == 0;
    if (!inline_or_empty || size > v->inline_limit) {
        return -EOPNOTSUPP;
    }
    struct buf source, content;
    buf_init(&source);
    buf_init(&content);
    rc = inodes_inline_get(f, c->same ? &c->to : &c->source, &source);
    if (rc == 0 && (c->to.flags & INODE_INLINE) != 0) {
        rc = inodes_inline_get(f, &c->to, &content);
    }
    if (rc == 0) {
        if (content.len < size) {
            size_t pad = size - content.len;
            memset(buf_extend(&content, pad), 0, pad);
        }
        memset(content.data + c->at, 0, len);
        if (c->from.from < source.len) {
            uint64_t there = source.len - c->from.from;
            memcpy(content.data + c->at, source.data + c->from.from, there < len ? there : len);
        }
        rc = inodes_inline_set(f, &c->to, buf_bytes(&content));
    }
    buf_release(&source);
    buf_release(&content);
    return rc;
}

/* The source's extents, cut to the range. With more than one command may add, the range gets
 * shorter. */
static int copy_gather(struct fsm *f, struct copying *c, struct extent *list, size_t *ret_n)
{
    struct extents_walk w;
    extents_walk_init(&w, f, c->same ? &c->to : &c->source, c->from.from);
    size_t n = 0, most = fsm_spend(f, COPY_EXTENTS_MAX);
    for (; w.valid && w.e.start < c->from.end; extents_walk_next(&w)) {
        if (n == most) {
            c->from.end = w.e.start;
            break;
        }
        struct extent e = w.e;
        if (e.start < c->from.from) {
            e.stripe_offset += c->from.from - e.start;
            e.start = c->from.from;
        }
        e.end = e.end < c->from.end ? e.end : c->from.end;
        if (e.kind == EXTENT_STRIPE) {
            list[n++] = e;
        }
    }
    int rc = w.error;
    extents_walk_release(&w);
    f->budget += (uint32_t)(most - n); /* what was not used */
    *ret_n = n;
    return rc;
}

static int copy_extents(struct fsm *f, struct copying *c)
{
    struct extent *list = xmalloc(COPY_EXTENTS_MAX * sizeof *list);
    size_t n;
    int rc = copy_gather(f, c, list, &n);
    uint64_t end = c->at + (c->from.end - c->from.from);
    if (rc == 0 && (c->to.flags & INODE_INLINE) != 0) {
        rc = c->at == 0 && end >= c->to.size ? inodes_inline_drop(f, &c->to) : -EOPNOTSUPP;
    }
    if (rc == 0) {
        rc = extents_clear(f, &c->to, c->at, end);
    }
    for (size_t j = 0; rc == 0 && j < n; j++) {
        struct extent e = list[j];
        e.start = e.start - c->from.from + c->at;
        e.end = e.end - c->from.from + c->at;
        rc = extents_set(f, &c->to, &e);
    }
    free(list);
    return rc;
}

static int copy_load(struct fsm *f, const Cfs__CopyOp *op, struct copying *c)
{
    int rc = load_file(f, op->ino, &c->to);
    c->same = op->source == op->ino;
    if (rc == 0) {
        rc = load_file(f, op->source, &c->source);
    }
    if (rc < 0) {
        return rc;
    }
    if (c->source.volume != c->to.volume) {
        return -EXDEV;
    }
    struct byte_range to;
    rc = check_range(op->source_offset, 0, &c->from);
    if (rc == 0) {
        uint64_t there = c->from.from < c->source.size ? c->source.size - c->from.from : 0;
        c->from.end = c->from.from + (op->length < there ? op->length : there);
        c->at = op->offset;
        rc = check_range(op->offset, c->from.end - c->from.from, &to);
    }
    bool overlap = rc == 0 && c->same && c->from.from < to.end && to.from < c->from.end;
    return overlap ? -EINVAL : rc;
}

int inodes_copy(struct fsm *f, const Cfs__CopyOp *op, struct op_result *r)
{
    struct copying c;
    int rc = copy_load(f, op, &c);
    if (rc == 0 && c.from.end > c.from.from) {
        rc = (c.source.flags & INODE_INLINE) != 0 ? copy_inline(f, &c) : copy_extents(f, &c);
    }
    if (rc < 0) {
        return rc;
    }
    r->has_copied = true;
    r->copied = c.from.end - c.from.from;
    if (r->copied > 0) {
        uint64_t end = c.at + r->copied;
        c.to.size = end > c.to.size ? end : c.to.size;
        c.to.mtime = f->now;
        inodes_kill_priv(&c.to);
        rows_touch(f, &c.to);
        rc = rows_inode_save(f, &c.to);
    }
    op_result_attr(r, &c.to);
    return rc;
}
