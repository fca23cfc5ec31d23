/* Attributes: getattr, setattr with truncation, readlink, statfs. */
#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

/* ---- getattr ---- */

static void getattr_ready(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    ops_reply_attr(t, t->in);
}

void ops_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    (void)task_pin(t, t->ino);
    task_need_attr(t, getattr_ready);
}

/* ---- setattr ---- */

struct change { /* what a SETATTR wants */
    Cfs__SetattrOp op;
    bool size;
};

/* Years from 1677 to 2262; what is beyond becomes the nearest. */
static int64_t time_ns(int64_t seconds, uint32_t nanoseconds)
{
    int64_t ns = 0;
    if (__builtin_mul_overflow(seconds, 1000000000, &ns) || __builtin_add_overflow(ns, nanoseconds, &ns)) {
        return seconds < 0 ? INT64_MIN : INT64_MAX;
    }
    return ns;
}

/* From the kernel's own bytes: libfuse 3.14 hides some bits. */
static void change_of(const struct fuse_setattr_in *in, struct change *c)
{
    Cfs__SetattrOp *op = &c->op;
    const uint32_t v = in->valid;
    c->size = (v & FATTR_SIZE) != 0;
    op->has_mode = (v & FATTR_MODE) != 0;
    op->mode = in->mode & 07777;
    op->has_uid = (v & FATTR_UID) != 0;
    op->uid = in->uid;
    op->has_gid = (v & FATTR_GID) != 0;
    op->gid = in->gid;
    op->has_size = c->size;
    op->size = in->size;
    op->has_atime_now = (v & FATTR_ATIME_NOW) != 0;
    op->atime_now = op->has_atime_now;
    op->has_atime = (v & FATTR_ATIME) != 0 && !op->has_atime_now;
    op->atime = time_ns((int64_t)in->atime, in->atimensec);
    op->has_mtime_now = (v & FATTR_MTIME_NOW) != 0 || (c->size && (v & FATTR_MTIME) == 0);
    op->mtime_now = op->has_mtime_now;
    op->has_mtime = (v & FATTR_MTIME) != 0 && !op->has_mtime_now;
    op->mtime = time_ns((int64_t)in->mtime, in->mtimensec);
    /* HANDLE_KILLPRIV_V2: the kernel says when a truncation clears suid; chown always does. */
    op->has_kill_priv = (v & (FATTR_KILL_SUIDGID | FATTR_UID | FATTR_GID)) != 0 && !op->has_mode;
    op->kill_priv = op->has_kill_priv;
}

/* What was written before an explicit time or mode must not undo it when it is committed later: commits that are
 * submitted from now on do not tell it, and those before have lower numbers. So nothing is waited for. */
static void clear_dirty(struct inode *in, uint32_t flags)
{
    if (in->dirty != NULL && (in->dirty->flags & flags) != 0) {
        arena_publish32(&in->dirty->flags, in->dirty->flags & ~flags);
    }
}

static void setattr_local(struct task *t)
{
    const struct change *c = t->private;
    if (c->size) {
        writer_truncate(t->o->c->writer, t->in, c->op.size);
        reader_invalidate(t->o->c->reader, t->in->ino, c->op.size, UINT64_MAX - c->op.size);
        itable_drop_extents(t->in);
        if (c->op.size == 0 && t->in->attr_valid && t->in->st.st_size == 0) {
            ops_take_empty(t->o, t->in);
        }
    }
}

static void setattr_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    (void)reply;
    if (t->after != NULL) {
        t->after(t, rc);
        return;
    }
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    task_need_attr(t, getattr_ready);
}

static void setattr_submit(struct task *t, int rc)
{
    struct change *c = t->private;
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    t->local = setattr_local;
    c->op.ino = t->ino;
    if (c->op.has_mtime || c->op.has_mtime_now) {
        clear_dirty(t->in, ARENA_INODE_MTIME);
    }
    if (c->op.has_mode) {
        clear_dirty(t->in, ARENA_INODE_KILL_PRIV);
    }
    Cfs__Op op = CFS__OP__INIT;
    op.setattr = &c->op;
    if (t->submitted) { /* behind a create: no number of its own */
        task_submit_more(t, &op, setattr_done);
    } else {
        task_submit(t, &op, setattr_done);
    }
}

static void setattr_quiesce(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    task_quiesce(t, false, setattr_submit);
}

/* Inline content that the new size outgrows becomes extents first. */
static void setattr_known(struct task *t, int rc)
{
    const struct change *c = t->private;
    bool outgrown = rc == 0 && c->size && c->op.size > t->o->c->policy.inline_limit &&
                    t->in->attr_valid && (t->in->attr_flags & ATTR_INLINE) != 0 &&
                    t->in->st.st_size > 0;
    if (outgrown && !task_numbered(t)) {
        task_outline(t, setattr_quiesce);
    } else {
        setattr_quiesce(t, rc);
    }
}

static void setattr_start(struct task *t)
{
    const struct change *c = t->private;
    if (!c->size) {
        setattr_submit(t, 0);
    } else if (c->size && !task_numbered(t)) {
        task_need_content(t, setattr_known);
    } else {
        setattr_known(t, 0);
    }
}

static struct change *change_new(struct task *t)
{
    struct change *c = xcalloc(1, sizeof *c);
    cfs__setattr_op__init(&c->op);
    free(t->private);
    t->private = c;
    return c;
}

void ops_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *want, int what,
                 struct fuse_file_info *fi)
{
    (void)want;
    (void)what;
    struct task *t = task_begin_change(req, ino, fi);
    if (t == NULL) {
        return;
    }
    const struct fuse_in_header *head = opreq_raw(t->r);
    const struct fuse_setattr_in *in = (const void *)(head + 1);
    struct change *c = change_new(t);
    change_of(in, c);
    if (c->size && in->size > INT64_MAX) {
        task_error(t, -EFBIG);
        return;
    }
    (void)task_pin(t, t->ino);
    if (t->in->attr_valid && S_ISDIR(t->in->st.st_mode)) {
        c->op.has_kill_priv = 0;
        c->op.kill_priv = 0;
    }
    setattr_start(t);
}

/* open with O_TRUNC, create of what was there: one command, then `then`. */
void ops_truncate_open(struct task *t, bool kill_priv, task_next then)
{
    struct change *c = change_new(t);
    c->size = true;
    c->op.has_size = 1;
    c->op.has_mtime_now = 1;
    c->op.mtime_now = 1;
    c->op.has_kill_priv = kill_priv;
    c->op.kill_priv = kill_priv;
    t->ino = t->in->ino;
    t->after = then;
    setattr_start(t);
}

/* ---- readlink ---- */

static void readlink_ready(struct task *t, int rc)
{
    if (rc == 0 && !t->in->content_valid) {
        rc = t->retried ? -EIO : -ENODATA;
    }
    if (rc == -ENODATA) {
        t->retried = true;
        task_fetch(t, t->in->ino, readlink_ready);
        return;
    }
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    struct bytes target = buf_bytes(&t->in->content);
    fuse_reply_buf(t->req, (const char *)target.data, target.len);
}

void ops_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct task *t = task_begin(req, ino, NULL);
    if (t == NULL) {
        return;
    }
    (void)task_pin(t, t->ino);
    readlink_ready(t, t->in->content_valid ? 0 : -ENODATA);
}

/* ---- statfs: one call however many ask; a dead cluster gives the last known values after a second ---- */

static void statfs_answer(struct ops *o, int rc)
{
    struct list waiters;
    list_take_all(&o->statfs_waiters, &waiters);
    while (!list_empty(&waiters)) {
        struct task *t = list_first(&waiters, struct task, node);
        list_remove(&t->node);
        if (rc != 0) {
            task_error(t, rc);
        } else {
            fuse_reply_statfs(t->req, &o->statfs_last);
        }
    }
}

static void statfs_take(struct ops *o, const Cfs__StatfsReply *r)
{
    struct statvfs *v = &o->statfs_last;
    memset(v, 0, sizeof *v);
    v->f_bsize = 1u << 20;
    v->f_frsize = 4096;
    v->f_blocks = r->total / v->f_frsize;
    v->f_bfree = r->free / v->f_frsize;
    v->f_bavail = v->f_bfree;
    v->f_files = r->inodes;
    v->f_ffree = r->inodes_free;
    v->f_favail = r->inodes_free;
    v->f_namemax = 255;
    o->statfs_known = true;
}

static void on_statfs(struct session_read *read)
{
    struct ops *o = container_of(read, struct ops, statfs_read);
    int rc = read->rc;
    o->statfs_out = false;
    timers_stop(o->c->timers, &o->statfs_timer);
    if (rc == 0) {
        Cfs__StatfsReply *reply =
            cfs__statfs_reply__unpack(NULL, read->reply.len, read->reply.data);
        if (reply != NULL) {
            statfs_take(o, reply);
            cfs__statfs_reply__free_unpacked(reply, NULL);
        } else {
            rc = ERR_MALFORMED;
        }
    }
    statfs_answer(o, rc);
}

static void on_statfs_late(struct timer *timer)
{
    struct ops *o = container_of(timer, struct ops, statfs_timer);
    uint64_t waited = timers_now(o->c->timers) - o->statfs_started_ms;
    if (o->statfs_known) {
        statfs_answer(o, 0);
    } else if (waited >= OPS_STATFS_FIRST_MS) {
        statfs_answer(o, -EIO);
    }
    if (!list_empty(&o->statfs_waiters)) {
        timers_arm(o->c->timers, timer, timers_now(o->c->timers) + OPS_STATFS_MS);
    }
}

static void statfs_ask(struct ops *o)
{
    Cfs__GetattrRequest request = CFS__GETATTR_REQUEST__INIT;
    request.session = session_id(o->c->session);
    request.ino = o->c->arena->h->root_ino;
    buf_clear(&o->statfs_body);
    size_t n = cfs__getattr_request__get_packed_size(&request);
    cfs__getattr_request__pack(&request, buf_extend(&o->statfs_body, n));
    memset(&o->statfs_read, 0, sizeof o->statfs_read);
    o->statfs_read.method = METHOD_STATFS;
    o->statfs_read.body = buf_bytes(&o->statfs_body);
    o->statfs_read.on_done = on_statfs;
    o->statfs_out = true;
    o->statfs_started_ms = timers_now(o->c->timers);
    session_read_start(o->c->session, &o->statfs_read);
}

void ops_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct task *t = task_begin(req, ino, NULL);
    if (t == NULL) {
        return;
    }
    struct ops *o = t->o;
    list_add_tail(&o->statfs_waiters, &t->node);
    o->statfs_timer.on_due = on_statfs_late;
    if (!timer_armed(&o->statfs_timer)) {
        timers_arm(o->c->timers, &o->statfs_timer, timers_now(o->c->timers) + OPS_STATFS_MS);
    }
    if (!o->statfs_out) {
        statfs_ask(o);
    }
}

void ops_statfs_release(struct ops *o)
{
    timers_stop(o->c->timers, &o->statfs_timer);
    if (o->statfs_out) {
        session_read_cancel(&o->statfs_read);
    }
    buf_release(&o->statfs_body);
}
