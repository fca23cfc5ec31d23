/* Ranges of files: seek to data or hole, fallocate, copy_file_range. */
#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"

/* ---- lseek ---- */

static void on_seek(void *ctx, int rc, uint64_t at)
{
    struct seeking *s = ctx;
    struct task *t = s->t;
    if (t != NULL) {
        t->seeking = NULL;
        if (rc != 0) {
            task_error(t, rc);
        } else {
            fuse_reply_lseek(t->req, (off_t)at);
        }
    }
    free(s);
}

static void seek_start(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    struct seeking *s = xcalloc(1, sizeof *s);
    s->t = t;
    t->seeking = s;
    reader_seek(t->o->c->reader, t->in, t->offset, t->flags == SEEK_HOLE, on_seek, s);
}

void ops_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    if ((whence != SEEK_DATA && whence != SEEK_HOLE) || off < 0) {
        task_error(t, off < 0 ? -ENXIO : -EINVAL);
        return;
    }
    t->offset = (uint64_t)off;
    t->flags = (uint32_t)whence;
    (void)task_pin(t, t->ino);
    task_need_content(t, seek_start);
}

enum { FALLOCATE_RETRY_MS = 500, FALLOCATE_RETRIES = 10 };

/* ---- fallocate: everything dirty first, so that only the server's view is changed ---- */

static void range_changed(struct ops *o, struct inode *in, uint64_t offset, uint64_t length)
{
    writer_discard(o->c->writer, in, offset, length);
    reader_invalidate(o->c->reader, in->ino, offset, length);
    itable_drop_extents(in);
}

static void fallocate_local(struct task *t)
{
    if ((t->flags & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) {
        range_changed(t->o, t->in, t->offset, t->length);
    } else {
        itable_drop_extents(t->in);
    }
}

static bool reserves(const struct task *t)
{
    return (t->flags & FALLOC_FL_PUNCH_HOLE) == 0;
}

static void fallocate_send(struct task *t, void (*send)(struct task *t, Cfs__Op *op, task_done done));

static void fallocate_again(struct timer *timer)
{
    struct task *t = container_of(timer, struct task, pause);
    if (t->r->fatal) { /* its caller was killed: nothing is done for it any more */
        task_error(t, -EINTR);
    } else {
        fallocate_send(t, task_submit_more);
    }
}

/* A preallocation takes space: what of it is new is not there for other writes any more. ZERO_RANGE may have given
 * back as much as it took; it counts in full until the next renewal. */
static void fallocate_took(struct task *t, int rc)
{
    const uint64_t now = (uint64_t)t->in->st.st_blocks * 512;
    uint64_t got = now > t->mark ? now - t->mark : 0;
    got = (t->flags & FALLOC_FL_ZERO_RANGE) != 0 ? t->length : got;
    writer_reserved(t->o->c->writer, t->length, rc == 0 ? got : 0);
}

/* EAGAIN: it does not fit now, but something waits to be deleted. */
static void fallocate_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    (void)reply;
    if (reserves(t)) {
        fallocate_took(t, rc);
    }
    if (rc == -EAGAIN && t->retries++ < FALLOCATE_RETRIES) {
        t->pause.on_due = fallocate_again;
        timers_arm(t->o->c->timers, &t->pause, timers_now(t->o->c->timers) + FALLOCATE_RETRY_MS);
        return;
    }
    task_error(t, rc == -EAGAIN ? -ENOSPC : rc);
}

static void fallocate_send(struct task *t, void (*send)(struct task *t, Cfs__Op *op, task_done done))
{
    Cfs__FallocateOp f = CFS__FALLOCATE_OP__INIT;
    f.ino = t->ino;
    f.mode = t->flags;
    f.offset = t->offset;
    f.length = t->length;
    f.has_kill_priv = f.kill_priv = fuse_req_ctx(t->req)->uid != 0; /* the kernel leaves that to us */
    if (reserves(t)) {
        f.has_dirty = true;
        f.dirty = writer_promised(t->o->c->writer);
        t->mark = (uint64_t)t->in->st.st_blocks * 512;
        writer_reserve(t->o->c->writer, t->length);
    }
    Cfs__Op op = CFS__OP__INIT;
    op.fallocate = &f;
    t->local = fallocate_local;
    send(t, &op, fallocate_done);
}

static void fallocate_submit(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    fallocate_send(t, task_submit);
}

static void fallocate_outlined(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    task_quiesce(t, true, fallocate_submit);
}

/* Inline content and extents never stand together: a range needs extents. */
static void fallocate_known(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    task_outline(t, fallocate_outlined);
}

static bool mode_known(int mode)
{
    switch (mode) {
    case 0:
    case FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_ZERO_RANGE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
        return true;
    default:
        return false;
    }
}

void ops_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                   struct fuse_file_info *fi)
{
    struct task *t = task_begin_change(req, ino, fi);
    if (t == NULL) {
        return;
    }
    if (!mode_known(mode)) {
        task_error(t, -EOPNOTSUPP);
        return;
    }
    if (offset < 0 || length <= 0 || offset > INT64_MAX - length) {
        task_error(t, length <= 0 || offset < 0 ? -EINVAL : -EFBIG);
        return;
    }
    t->flags = (uint32_t)mode;
    t->offset = (uint64_t)offset;
    t->length = (uint64_t)length;
    (void)task_pin(t, t->ino);
    if (task_numbered(t)) {
        fallocate_outlined(t, 0);
    } else {
        task_need_content(t, fallocate_known);
    }
}

/* ---- copy_file_range: the destination gets references to the source's stripes ---- */

static void copy_local(struct task *t)
{
    range_changed(t->o, t->in, t->offset2, t->length);
}

static void copy_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    if (rc != 0) {
        task_error(t, rc);
    } else {
        fuse_reply_write(t->req, reply->has_copied ? reply->copied : t->length);
    }
}

static void copy_submit(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    Cfs__CopyOp c = CFS__COPY_OP__INIT;
    c.source = t->in2->ino;
    c.source_offset = t->offset;
    c.ino = t->ino;
    c.offset = t->offset2;
    c.length = t->length;
    Cfs__Op op = CFS__OP__INIT;
    op.copy = &c;
    t->local = copy_local;
    task_submit(t, &op, copy_done);
}

static bool is_inline(const struct inode *in)
{
    return in->attr_valid && (in->attr_flags & ATTR_INLINE) != 0 && in->st.st_size > 0;
}

/* Inline content is not shared: the kernel copies it through the page cache instead. */
static void copy_quiet(struct task *t, int rc)
{
    if (rc == 0 && !task_numbered(t) && (is_inline(t->in) || is_inline(t->in2))) {
        rc = -EOPNOTSUPP;
    }
    copy_submit(t, rc);
}

static void copy_flushed(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    task_quiesce(t, true, copy_quiet);
}

static void copy_known(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    uint64_t size = itable_size(t->in2);
    if (t->offset >= size) {
        fuse_reply_write(t->req, 0);
        return;
    }
    t->length = t->length < size - t->offset ? t->length : size - t->offset;
    task_flush(t, t->in2, copy_flushed);
}

static void copy_source(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
    } else if (t->in2->attr_valid) {
        copy_known(t, 0);
    } else {
        task_fetch(t, t->in2->ino, copy_known);
    }
}

void ops_copy(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
              fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t len,
              int flags)
{
    (void)fi_in;
    struct task *t = task_begin_change(req, ino_out, fi_out);
    if (t == NULL) {
        return;
    }
    if (flags != 0 || off_in < 0 || off_out < 0 || off_out > INT64_MAX - (off_t)len) {
        task_error(t, -EINVAL);
        return;
    }
    t->offset = (uint64_t)off_in;
    t->offset2 = (uint64_t)off_out;
    t->length = len;
    (void)task_pin(t, t->ino);
    (void)task_pin2(t, ops_ino(t->o, ino_in));
    if (task_numbered(t)) {
        copy_flushed(t, 0);
    } else {
        task_need_attr(t, copy_source);
    }
}
