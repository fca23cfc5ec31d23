/* Locks: fcntl, OFD and flock, kept by the metadata server (docs/consistency.md, "Locks").
 *
 * A blocking request that is queued at the server parks: its record keeps the ticket, and no command number (a
 * waiter must not hold back the window of replies). It ends by one of
 *   granted      EVENT_LOCK_GRANTED, or a renewal of the session that lists the ticket: answered 0;
 *   interrupted  LockCancelOp; its number goes into the record, so that a worker that starts meanwhile
 *                repeats just this. Answer "cancelled": EINTR; "granted before": 0, the lock is held;
 *   session over EIO.
 * The grant may be heard of before the command's own answer has been seen: the last few grants are kept. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/file.h>

#include "base/err.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

enum { KIND_POSIX = 1, KIND_FLOCK = 2, TYPE_READ = 0, TYPE_WRITE = 1, TYPE_UNLOCK = 2 };

/* ---- parked requests ---- */

static struct task *ticket_find(struct ops *o, uint64_t ticket)
{
    struct table_node *n = table_find(&o->tickets, table_mix(ticket));
    for (; n != NULL; n = table_next_same(n)) {
        struct task *t = container_of(n, struct task, by_ticket);
        if (t->ticket == ticket) {
            return t;
        }
    }
    return NULL;
}

void ops_lock_granted(struct ops *o, uint64_t ticket)
{
    struct task *t = ticket_find(o, ticket);
    if (t == NULL || t->cmd_out) { /* the answer to a cancel says the same; one to a repeat does not */
        o->grants[o->grants_next++ % OPS_GRANTS_KEPT] = ticket;
    } else {
        task_error(t, 0);
    }
}

static bool granted_before(struct ops *o, uint64_t ticket)
{
    for (unsigned i = 0; i < OPS_GRANTS_KEPT; i++) {
        if (o->grants[i] == ticket) {
            o->grants[i] = 0;
            return true;
        }
    }
    return false;
}

/* ---- cancel ---- */

static void park(struct task *t, uint64_t ticket);

/* Waits by its ticket from here on: the number of the command that queued it is done with. */
static void unnumber(struct task *t)
{
    uint64_t seq = opreq_seq(t->r);
    opreq_set_seq(t->r, 0);
    session_release_seq(t->o->c->session, seq);
}

static void cancel_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    (void)reply;
    if (rc == ERR_QUEUED) { /* a worker died between ticket and number: the number was the lock's own */
        table_remove(&t->o->tickets, &t->by_ticket);
        unnumber(t);
        park(t, t->ticket);
        return;
    }
    bool granted = rc == -EALREADY;
    task_error(t, granted ? 0 : rc == 0 ? -EINTR : rc);
}

static void cancel(struct task *t)
{
    Cfs__LockCancelOp c = CFS__LOCK_CANCEL_OP__INIT;
    c.ticket = t->ticket;
    Cfs__Op op = CFS__OP__INIT;
    op.lock_cancel = &c;
    task_submit(t, &op, cancel_done);
}

/* Once: from here on its own answer ends it. */
static void on_interrupt(struct opreq *r)
{
    struct task *t = r->ctx;
    r->on_interrupt = NULL;
    cancel(t);
}

/* A signal that came before is found by fuseloop as soon as on_interrupt is there. */
static void park(struct task *t, uint64_t ticket)
{
    t->ticket = ticket;
    table_add(&t->o->tickets, &t->by_ticket, table_mix(ticket));
    if (granted_before(t->o, ticket)) {
        task_error(t, 0);
    } else if (t->r->fatal) { /* killed before it was queued: nobody will interrupt it any more */
        cancel(t);
    } else {
        t->r->on_interrupt = on_interrupt;
    }
}

struct tickets {
    uint64_t *out;
    unsigned n, max;
};

static void list_ticket(struct table_node *node, void *ctx)
{
    struct tickets *list = ctx;
    if (list->n < list->max) {
        list->out[list->n++] = container_of(node, struct task, by_ticket)->ticket;
    }
}

unsigned ops_waiting_tickets(struct ops *o, uint64_t *out, unsigned max)
{
    struct tickets list = {.out = out, .max = max};
    table_walk(&o->tickets, list_ticket, &list);
    return list.n;
}

static void find_any(struct table_node *node, void *ctx)
{
    struct task **any = ctx;
    *any = container_of(node, struct task, by_ticket);
}

void ops_locks_ended(struct ops *o)
{
    while (o->tickets.n > 0) {
        struct task *any = NULL;
        table_walk(&o->tickets, find_any, &any);
        task_error(any, -EIO);
    }
}

/* ---- asking ---- */

static void lock_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    bool waits = rc == ERR_QUEUED && reply != NULL && reply->has_ticket && reply->ticket != 0;
    if (!waits) {
        task_error(t, rc == ERR_QUEUED ? ERR_MALFORMED : rc);
        return;
    }
    opreq_set_ticket(t->r, reply->ticket);
    unnumber(t);
    park(t, reply->ticket);
}

static void lock_op(struct task *t, const struct flock *lock, Cfs__LockOp *l)
{
    l->ino = t->ino;
    l->owner = t->fi.lock_owner;
    l->handle = t->fi.fh;
    l->kind = KIND_POSIX;
    l->type = lock->l_type == F_RDLCK ? TYPE_READ : lock->l_type == F_WRLCK ? TYPE_WRITE : TYPE_UNLOCK;
    l->start = (uint64_t)lock->l_start;
    l->end = lock->l_len == 0 ? (uint64_t)INT64_MAX
                              : (uint64_t)lock->l_start + (uint64_t)lock->l_len - 1;
    l->has_pid = 1;
    l->pid = (uint32_t)lock->l_pid;
}

static void lock_submit(struct task *t, Cfs__LockOp *l)
{
    struct arena_handle *handle = task_handle(t);
    if (opreq_ticket(t->r) != 0) { /* parked already by an earlier worker */
        if (opreq_seq(t->r) != 0) {
            t->ticket = opreq_ticket(t->r);
            table_add(&t->o->tickets, &t->by_ticket, table_mix(t->ticket));
            cancel(t);
        } else {
            park(t, opreq_ticket(t->r));
        }
        return;
    }
    if (l->wait && !opreq_may_park(t->r)) { /* thousands wait already */
        task_error(t, -ENOLCK);
        return;
    }
    if (handle != NULL && l->type != TYPE_UNLOCK) {
        handles_set_locked(t->o->handles, handle);
    }
    Cfs__Op op = CFS__OP__INIT;
    op.lock = l;
    task_submit(t, &op, lock_done);
}

void ops_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
               int sleep)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    Cfs__LockOp l = CFS__LOCK_OP__INIT;
    lock_op(t, lock, &l);
    l.has_wait = 1;
    l.wait = sleep != 0 && l.type != TYPE_UNLOCK;
    lock_submit(t, &l);
}

void ops_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int how)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    Cfs__LockOp l = CFS__LOCK_OP__INIT;
    int kind = how & (LOCK_SH | LOCK_EX | LOCK_UN);
    l.ino = t->ino;
    l.owner = fi->lock_owner;
    l.handle = fi->fh;
    l.kind = KIND_FLOCK;
    l.type = kind == LOCK_SH ? TYPE_READ : kind == LOCK_EX ? TYPE_WRITE : TYPE_UNLOCK;
    l.end = (uint64_t)INT64_MAX;
    l.has_wait = 1;
    l.wait = (how & LOCK_NB) == 0 && kind != LOCK_UN;
    lock_submit(t, &l);
}

/* ---- who is in the way ---- */

static void getlk_done(struct task *t, int rc, struct bytes body)
{
    Cfs__LockInfo *info = rc == 0 ? cfs__lock_info__unpack(NULL, body.len, body.data) : NULL;
    if (info == NULL) {
        task_error(t, rc != 0 ? rc : ERR_MALFORMED);
        return;
    }
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    if (info->type != TYPE_UNLOCK) {
        lock.l_type = info->type == TYPE_READ ? F_RDLCK : F_WRLCK;
        lock.l_start = (off_t)info->start;
        lock.l_len = info->end >= INT64_MAX ? 0 : (off_t)(info->end - info->start + 1);
        lock.l_pid = (pid_t)info->pid;
    }
    cfs__lock_info__free_unpacked(info, NULL);
    fuse_reply_lock(t->req, &lock);
}

void ops_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    Cfs__LockOp l = CFS__LOCK_OP__INIT;
    lock_op(t, lock, &l);
    task_read(t, METHOD_GETLK, &l.base, getlk_done);
}
