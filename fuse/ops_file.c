/* Open files: open, read, write, flush, release, fsync. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"

enum { WRITE_RETRIES = 8, WRITE_LOOKS = 50 /* a tick of the writer each */ };

/* Streams are written past the page cache (facts: 3 times as fast); everything else goes through it and stays in it:
 * pages are dropped by notification only. */
void ops_file_flags(struct fuse_file_info *fi)
{
    fi->direct_io = (fi->flags & O_ACCMODE) == O_WRONLY;
    fi->keep_cache = 1;
}

/* ---- open ---- */

static void open_reply(struct task *t, int rc)
{
    rc = rc == 0 ? ops_open_handle(t, t->in, 0) : rc;
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    ops_file_flags(&t->fi);
    fuse_reply_open(t->req, &t->fi);
}

static void open_known(struct task *t, int rc)
{
    const struct fuse_in_header *head = opreq_raw(t->r);
    const struct fuse_open_in *in = (const void *)(head + 1);
    if (rc != 0 || (t->fi.flags & O_TRUNC) == 0) {
        open_reply(t, rc);
    } else {
        ops_truncate_open(t, (in->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0, open_reply);
    }
}

static void open_start(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    list_for_each (at, &t->o->removals) {
        struct task *removal = list_entry(at, struct task, node);
        if (removal->victim == t->ino) { /* it said that the inode is not open: see how that ends */
            t->then = open_start;
            list_add_tail(&removal->waiters, &t->node);
            return;
        }
    }
    if (task_numbered(t)) {
        open_known(t, 0);
    } else {
        task_need_attr(t, open_known);
    }
}

void ops_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    bool writes = (fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC) != 0;
    struct task *t = writes ? task_begin_change(req, ino, fi) : task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    (void)task_pin(t, t->ino);
    open_start(t, 0);
}

/* ---- release ---- */

void ops_close_handle(struct task *t)
{
    struct ops *o = t->o;
    struct arena_handle *record = task_handle(t);
    uint64_t ino;
    if (record == NULL) {
        return; /* a repeated RELEASE */
    }
    struct inode *in = task_pin(t, record->ino);
    bool nameless = in->orphan || (in->attr_valid && in->st.st_nlink == 0);
    if (nameless) {
        (void)handles_set_orphan(o->handles, in->ino, true);
    }
    in->opens -= in->opens > 0;
    if (handles_close(o->handles, t->fi.fh, &ino)) {
        in->orphan = false;
        background_release(o->background, ino);
    }
}

static void release_unlocked(struct task *t, int rc, const Cfs__OpReply *reply)
{
    (void)reply;
    ops_close_handle(t);
    task_error(t, rc);
}

/* Locks that were taken through a handle end with it: the kernel unlocks OFD locks and flock by nothing else. */
static void release_unlock(struct task *t)
{
    Cfs__LockDropOp drop = CFS__LOCK_DROP_OP__INIT;
    drop.ino = t->ino;
    drop.has_handle = 1;
    drop.handle = t->fi.fh;
    Cfs__Op op = CFS__OP__INIT;
    op.lock_drop = &drop;
    task_submit(t, &op, release_unlocked);
}

void ops_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    const struct arena_handle *record = task_handle(t);
    bool locked = record != NULL && (record->flags & ARENA_HANDLE_LOCKED) != 0;
    if (locked || task_numbered(t)) {
        release_unlock(t);
    } else {
        release_unlocked(t, 0, NULL);
    }
}

/* ---- read ---- */

static void on_read_done(struct read_request *rr)
{
    struct task *t = container_of(rr, struct reading, rr)->t;
    struct arena_handle *handle = task_handle(t);
    if (rr->rc != 0) {
        task_error(t, rr->rc);
        return;
    }
    ops_access_time(t->o, t->in, handle != NULL ? handle->open_flags : 0);
    if (rr->n_iov == 0) {
        fuse_reply_buf(t->req, NULL, 0);
    } else {
        fuse_reply_iov(t->req, rr->iov, (int)rr->n_iov);
    }
}

static void read_start(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    t->reading = xmalloc(sizeof *t->reading);
    t->reading->t = t;
    t->reading->rr = (struct read_request){.inode = t->in,
                                           .offset = t->offset,
                                           .length = (uint32_t)t->length,
                                           .on_done = on_read_done};
    reader_start(t->o->c->reader, &t->reading->rr);
}

void ops_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    t->offset = (uint64_t)off;
    t->length = size;
    (void)task_pin(t, t->ino);
    task_need_content(t, read_start);
}

/* ---- write: copied into the arena, then answered ---- */

static void write_synced(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
    } else {
        fuse_reply_write(t->req, t->length);
    }
}

static void write_try(struct task *t, int rc)
{
    struct bytes data = BYTES(t->data, t->length);
    if (t->o->ended) {
        rc = -EIO;
    }
    if (rc == 0) {
        rc = writer_write(t->o->c->writer, t->in, t->offset, data, t->flags);
    } else if (rc == -EAGAIN || rc == -ENODATA) {
        rc = -EIO;
    }
    if (rc == -EAGAIN && writer_wants_layout(t->o->c->writer, t->in, t->offset, t->length)) {
        if (t->looks++ == WRITE_LOOKS) { /* what lies there cannot be learned */
            task_error(t, -ENOSPC);
            return;
        }
        reader_want_layout(t->o->c->reader, t->in, t->offset, t->length);
    }
    if (rc == -EAGAIN) {
        task_wait_room(t, write_try);
    } else if (rc == -ENODATA && t->retries++ < WRITE_RETRIES) {
        task_fetch(t, t->ino, write_try);
    } else if (rc != 0) {
        task_error(t, rc == -ENODATA ? -EIO : rc);
    } else if (t->sync) {
        task_flush(t, t->in, write_synced);
    } else {
        fuse_reply_write(t->req, t->length);
    }
}

void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
               struct fuse_file_info *fi)
{
    struct task *t = task_begin_change(req, ino, fi);
    if (t == NULL) {
        return;
    }
    const struct fuse_in_header *head = opreq_raw(t->r);
    const struct fuse_write_in *in = (const void *)(head + 1);
    t->flags = (in->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0 ? WRITER_KILL_PRIV : 0;
    t->sync = (in->flags & O_DSYNC) != 0; /* past the page cache nobody else syncs */
    t->offset = (uint64_t)off;
    t->length = size;
    t->data = buf;
    if (t->offset + size < t->offset || t->offset + size > INT64_MAX) {
        task_error(t, -EFBIG);
        return;
    }
    (void)task_pin(t, t->ino);
    write_try(t, 0);
}

/* ---- flush (each close), fsync ---- */

static void flush_reply(struct task *t, int rc, const Cfs__OpReply *reply)
{
    (void)reply;
    int error = ops_report_error(t->in, task_handle(t));
    task_error(t, rc != 0 ? rc : error);
}

/* The kernel unlocks a process's fcntl locks at its first close of the file by this call alone. */
static void flush_unlock(struct task *t)
{
    Cfs__LockDropOp drop = CFS__LOCK_DROP_OP__INIT;
    drop.ino = t->ino;
    drop.has_owner = 1;
    drop.owner = t->fi.lock_owner;
    Cfs__Op op = CFS__OP__INIT;
    op.lock_drop = &drop;
    task_submit(t, &op, flush_reply);
}

void ops_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    (void)task_pin(t, t->ino);
    if (writer_dirty(t->in)) {
        writer_start(t->o->c->writer, t->in);
    }
    if (task_numbered(t) || handles_locked(t->o->handles, t->ino)) {
        flush_unlock(t);
    } else {
        flush_reply(t, 0, NULL);
    }
}

static void fsync_done(struct task *t, int rc)
{
    int error = ops_report_error(t->in, task_handle(t));
    task_error(t, rc != 0 ? rc : error);
}

void ops_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync; /* sizes and times are committed with the data in one command */
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    task_flush(t, task_pin(t, t->ino), fsync_done);
}
