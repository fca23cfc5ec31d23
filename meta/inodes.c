#include "meta/inodes.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/err.h"
#include "meta/extents.h"
#include "meta/xattrs.h"

/* ---- inline content ---------------------------------------------------------------- */

static void inline_key(struct key *k, const struct inode *i)
{
    key_start_ns(k, i->volume, TABLE_INLINE);
    key_add_u64(k, i->ino);
}

int inodes_inline_drop(struct fsm *f, struct inode *i)
{
    if ((i->flags & INODE_INLINE) == 0) {
        return 0;
    }
    struct key k;
    inline_key(&k, i);
    i->flags &= ~(uint32_t)INODE_INLINE;
    int rc = rows_account(f, i, -(int64_t)i->inline_bytes);
    i->inline_bytes = 0;
    return rc == 0 ? rows_remove(f, i->volume, &k, NULL) : rc;
}

int inodes_inline_set(struct fsm *f, struct inode *i, struct bytes content)
{
    struct volume *v;
    int rc = rows_volume(f, i->volume, &v);
    if (rc < 0) {
        return rc;
    }
    if (content.len > v->inline_limit) {
        return -EINVAL;
    }
    if (content.len == 0) {
        return inodes_inline_drop(f, i);
    }
    rc = rows_account(f, i, (int64_t)content.len - (int64_t)i->inline_bytes);
    if (rc < 0) {
        return rc;
    }
    i->flags |= INODE_INLINE;
    i->inline_bytes = (uint32_t)content.len;
    struct key k;
    inline_key(&k, i);
    buf_clear(&f->scratch);
    buf_u8(&f->scratch, VALUE_VERSION);
    buf_le64(&f->scratch, v->snapshot);
    buf_add(&f->scratch, content.data, content.len);
    return rows_change(f, i->volume, &k, buf_bytes(&f->scratch), NULL);
}

int inodes_inline_get(struct fsm *f, const struct inode *i, struct buf *out)
{
    struct key k;
    inline_key(&k, i);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0 || f->value.len < VALUE_NS_HEADER || f->value.data[0] != VALUE_VERSION) {
        return fsm_note(f, rc < 0 && rc != ERR_NOT_FOUND ? rc : ERR_CORRUPT);
    }
    buf_add(out, f->value.data + VALUE_NS_HEADER, f->value.len - VALUE_NS_HEADER);
    return 0;
}

/* ---- size ------------------------------------------------------------------------------ */

static int inline_cut(struct fsm *f, struct inode *i, uint64_t size)
{
    struct buf content;
    buf_init(&content);
    int rc = inodes_inline_get(f, i, &content);
    if (rc == 0 && size < content.len) {
        rc = inodes_inline_set(f, i, BYTES(content.data, size));
    }
    buf_release(&content);
    return rc;
}

int inodes_resize(struct fsm *f, struct inode *i, uint64_t size)
{
    if (size > INT64_MAX) {
        return -EFBIG;
    }
    int rc = 0;
    if ((i->flags & INODE_INLINE) != 0) {
        rc = size < i->size ? inline_cut(f, i, size) : 0;
    } else if (size <= i->size) {
        /* Also what was reserved beyond the end: ftruncate to the same size gives it back, as ext4
         * does. */
        rc = extents_clear(f, i, size, INT64_MAX);
    }
    i->size = size;
    return rc;
}

void inodes_kill_priv(struct inode *i)
{
    if (S_ISDIR(i->mode)) {
        return; /* there the bits mean something else: chown keeps them, as on a local filesystem */
    }
    i->mode &= ~(uint32_t)S_ISUID;
    if ((i->mode & S_IXGRP) != 0) {
        i->mode &= ~(uint32_t)S_ISGID;
    }
}

/* ---- setattr ----------------------------------------------------------------------------- */

static int setattr_size(struct fsm *f, const Cfs__SetattrOp *op, struct inode *i)
{
    if (!S_ISREG(i->mode)) {
        return S_ISDIR(i->mode) ? -EISDIR : -EINVAL;
    }
    int rc = inodes_resize(f, i, op->size);
    if (rc == 0 && !op->has_mtime && !op->mtime_now) {
        i->mtime = f->now;
    }
    return rc;
}

static void setattr_times(const struct fsm *f, const Cfs__SetattrOp *op, struct inode *i)
{
    if (op->has_atime) {
        i->atime = op->atime;
    }
    if (op->has_mtime) {
        i->mtime = op->mtime;
    }
    if (op->atime_now) {
        i->atime = f->now;
    }
    if (op->mtime_now) {
        i->mtime = f->now;
    }
}

/* relatime alone changes neither ctime nor, for caches, the inode. */
static bool setattr_only_atime(const Cfs__SetattrOp *op)
{
    return op->has_atime_at_least && !op->has_mode && !op->has_uid && !op->has_gid &&
           !op->has_size && !op->has_atime && !op->has_mtime && !op->atime_now && !op->mtime_now &&
           !op->kill_priv;
}

int inodes_setattr(struct fsm *f, const Cfs__SetattrOp *op, struct op_result *r)
{
    struct inode i;
    int rc = rows_inode(f, op->ino, &i);
    if (rc < 0) {
        return rc;
    }
    if (op->has_atime_at_least && op->atime_at_least > i.atime) {
        i.atime = op->atime_at_least;
    }
    if (!setattr_only_atime(op)) {
        rc = op->has_size ? setattr_size(f, op, &i) : 0;
        if (op->kill_priv) {
            inodes_kill_priv(&i);
        }
        i.uid = op->has_uid ? op->uid : i.uid;
        i.gid = op->has_gid ? op->gid : i.gid;
        if (rc == 0 && op->has_mode) {
            i.mode = (i.mode & S_IFMT) | (op->mode & 07777);
            rc = xattrs_chmod(f, &i);
        }
        setattr_times(f, op, &i);
        rows_touch(f, &i);
    }
    op_result_attr(r, &i);
    return rc == 0 ? rows_inode_save(f, &i) : rc;
}

/* ---- write ----------------------------------------------------------------------------------- */

static int write_check(const Cfs__WriteOp *op)
{
    if (op->has_content && (op->n_extent > 0 || op->n_stripe > 0)) {
        return -EINVAL;
    }
    if (op->n_extent > INODES_WRITE_PARTS_MAX || op->n_stripe > INODES_WRITE_PARTS_MAX) {
        return ERR_TOO_BIG;
    }
    for (size_t j = 0; j < op->n_extent; j++) {
        const Cfs__Extent *e = op->extent[j];
        if (e->kind != EXTENT_STRIPE || e->length == 0 || e->offset > INT64_MAX ||
            e->length > INT64_MAX - e->offset) {
            return -EINVAL;
        }
    }
    return op->has_size && op->size > INT64_MAX ? -EFBIG : 0;
}

static int write_stripes(struct fsm *f, const Cfs__WriteOp *op, const struct volume *v)
{
    uint64_t family = v->family;
    for (size_t j = 0; j < op->n_stripe; j++) {
        const Cfs__Stripe *s = op->stripe[j];
        struct stripe_commit c = {.at = {.pg = s->pg, .id = s->id},
                                  .epoch = s->has_epoch ? s->epoch : 0,
                                  .row = {.family = family,
                                          .slot_mask = s->slot_mask,
                                          .length = s->length,
                                          .nonce = s->nonce}};
        if (s->kind > UINT8_MAX || s->k > UINT8_MAX || s->m > UINT8_MAX) {
            return -EINVAL;
        }
        c.row.kind = (uint8_t)s->kind;
        c.row.k = (uint8_t)s->k;
        c.row.m = (uint8_t)s->m;
        int rc = stripes_commit(f, &c);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Stripes and extents mostly come in one order: the search begins where the last one ended. */
static const Cfs__Stripe *write_find_stripe(const Cfs__WriteOp *op, const Cfs__Extent *e,
                                            size_t *at)
{
    for (size_t n = 0; n < op->n_stripe; n++, (*at)++) {
        *at = *at < op->n_stripe ? *at : 0;
        if (op->stripe[*at]->pg == e->pg && op->stripe[*at]->id == e->stripe) {
            return op->stripe[*at];
        }
    }
    return NULL;
}

/* Puts the extents; every one inside a stripe of this very operation, every stripe used. */
static int write_extents(struct fsm *f, const Cfs__WriteOp *op, struct inode *i, uint64_t *ret_end)
{
    int rc = inodes_inline_drop(f, i);
    size_t found = 0;
    for (size_t j = 0; rc == 0 && j < op->n_extent; j++) {
        const Cfs__Extent *m = op->extent[j];
        const Cfs__Stripe *s = write_find_stripe(op, m, &found);
        if (s == NULL || m->stripe_offset > s->length || m->length > s->length - m->stripe_offset) {
            return -EINVAL;
        }
        struct extent e = {.start = m->offset,
                           .end = m->offset + m->length,
                           .kind = EXTENT_STRIPE,
                           .pg = m->pg,
                           .stripe = m->stripe,
                           .stripe_offset = m->stripe_offset};
        rc = extents_set(f, i, &e);
        *ret_end = e.end > *ret_end ? e.end : *ret_end;
    }
    for (size_t j = 0; rc == 0 && j < op->n_stripe; j++) {
        struct stripe_row row;
        rc = stripes_get(f, (struct stripe_id){op->stripe[j]->pg, op->stripe[j]->id}, &row);
        if (rc == ERR_NOT_FOUND || (rc == 0 && row.refs == 0)) {
            rc = -EINVAL;
        }
    }
    return rc;
}

/* Extents that were cut may still be stored and counted: dead ones may stand beside inline content.
 */
static int write_content(struct fsm *f, const Cfs__WriteOp *op, struct inode *i)
{
    int rc = (i->flags & INODE_INLINE) != 0 ? 0 : extents_clear(f, i, 0, INT64_MAX);
    if (rc == 0) {
        rc = inodes_inline_set(f, i, op_bytes(op->content));
    }
    i->size = op->content.len;
    return rc;
}

static int write_data(struct fsm *f, const Cfs__WriteOp *op, struct inode *i)
{
    struct volume *v;
    int rc = rows_volume(f, i->volume, &v);
    if (rc < 0) {
        return rc;
    }
    uint64_t end = 0;
    if (op->has_content) {
        rc = write_content(f, op, i);
    } else if (op->n_extent > 0 || op->n_stripe > 0) {
        rc = write_stripes(f, op, v);
        rc = rc == 0 ? write_extents(f, op, i, &end) : rc;
    }
    if (rc < 0) {
        return rc;
    }
    i->size = end > i->size ? end : i->size;
    if (!op->has_size) {
        return 0;
    }
    if (op->size >= i->size) {
        i->size = op->size;
        return 0;
    }
    return inodes_resize(f, i, op->size);
}

int inodes_write(struct fsm *f, const Cfs__WriteOp *op, struct op_result *r)
{
    struct inode i;
    int rc = write_check(op);
    if (rc == 0) {
        rc = rows_inode(f, op->ino, &i);
    }
    if (rc == 0 && !S_ISREG(i.mode)) {
        rc = S_ISDIR(i.mode) ? -EISDIR : -EINVAL;
    }
    if (rc == 0) {
        rc = write_data(f, op, &i);
    }
    if (rc < 0) {
        return rc;
    }
    if (op->has_mtime) { /* without: an explicit time was set since those bytes were written */
        i.mtime = op->mtime;
    }
    if (op->kill_priv) {
        inodes_kill_priv(&i);
    }
    rows_touch(f, &i);
    op_result_attr(r, &i);
    return rows_inode_save(f, &i);
}
