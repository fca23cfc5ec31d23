#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "meta/inodes.h"
#include "meta/locks.h"
#include "meta/namespace.h"
#include "meta/ops.h"
#include "meta/sessions.h"
#include "meta/xattrs.h"
#include "proto/methods.h"

/* A client's command: exactly once and in sequence. The next number is executed and its reply
 * stored; a number within the window is answered from there; a gap or a full window is ERR_BUSY.
 * Operations run in order, each all or nothing. */

void ops_attr(const struct inode *i, Cfs__Attr *out)
{
    cfs__attr__init(out);
    out->ino = i->ino;
    out->mode = i->mode;
    out->nlink = i->nlink;
    out->uid = i->uid;
    out->gid = i->gid;
    out->has_rdev = i->rdev != 0;
    out->rdev = i->rdev;
    out->size = i->size;
    out->allocated = i->allocated;
    out->atime = i->atime;
    out->mtime = i->mtime;
    out->ctime = i->ctime;
    out->btime = i->btime;
    out->change = i->change;
    out->has_flags = i->flags != 0;
    out->flags = i->flags;
}

/* ---- operations -------------------------------------------------------------------------- */

static int op_release(struct fsm *f, const Cfs__ReleaseOp *op)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < op->n_ino; i++) {
        rc = sessions_release(f, f->session, op->ino[i]);
    }
    return rc;
}

static int op_grant_ids(struct fsm *f, const Cfs__GrantIdsOp *op, struct op_result *r)
{
    struct volume *v;
    int rc = rows_volume(f, 1, &v);
    if (rc < 0) {
        return rc;
    }
    struct stripe_wish wish = {
        .count = op->count, .k = op->has_k ? op->k : v->k, .m = op->has_m ? op->m : v->m};
    return stripes_grant(f, wish, r->grants, &r->n_grants);
}

static int op_retire_ids(struct fsm *f, const Cfs__RetireIdsOp *op)
{
    struct stripe_id *keep = xcalloc(op->n_keep + 1, sizeof *keep);
    for (size_t i = 0; i < op->n_keep; i++) {
        keep[i] = (struct stripe_id){.pg = op->keep[i]->pg, .id = op->keep[i]->id};
    }
    int rc = stripes_retire(f, f->session, keep, op->n_keep);
    free(keep);
    return rc;
}

static int op_change(struct fsm *f, const Cfs__Op *op, struct op_result *r)
{
    if (op->make != NULL) {
        return namespace_make(f, op->make, r);
    }
    if (op->unlink != NULL) {
        return namespace_unlink(f, op->unlink, r);
    }
    if (op->rename != NULL) {
        return namespace_rename(f, op->rename, r);
    }
    if (op->link != NULL) {
        return namespace_link(f, op->link, r);
    }
    if (op->setattr != NULL) {
        return inodes_setattr(f, op->setattr, r);
    }
    if (op->write != NULL) {
        return inodes_write(f, op->write, r);
    }
    if (op->fallocate != NULL) {
        return inodes_fallocate(f, op->fallocate, r);
    }
    if (op->copy != NULL) {
        return inodes_copy(f, op->copy, r);
    }
    if (op->xattr != NULL) {
        return xattrs_set(f, op->xattr, r);
    }
    if (op->grant_ids != NULL) {
        return op_grant_ids(f, op->grant_ids, r);
    }
    return ERR_UNKNOWN_CALL; /* an operation of a later version */
}

static int op_run(struct fsm *f, const Cfs__Op *op, bool read_only, struct op_result *r)
{
    if (op->lock != NULL) {
        return locks_lock(f, op->lock, r);
    }
    if (op->lock_cancel != NULL) {
        return locks_cancel(f, op->lock_cancel);
    }
    if (op->lock_drop != NULL) {
        return locks_drop(f, op->lock_drop);
    }
    if (op->release != NULL) {
        return op_release(f, op->release);
    }
    if (op->retire_ids != NULL) {
        return op_retire_ids(f, op->retire_ids);
    }
    return read_only ? -EROFS : op_change(f, op, r);
}

/* ---- replies --------------------------------------------------------------------------------- */

/* Messages of one OpReply: they point at each other, so they live together. */
struct packed {
    Cfs__OpReply m;
    Cfs__Attr attr, parent, parent2, victim;
    Cfs__IdGrant grants[STRIPES_GRANTS_MAX];
    Cfs__IdGrant *grant_list[STRIPES_GRANTS_MAX];
};

static void pack_grants(const struct op_result *r, struct packed *p)
{
    for (unsigned i = 0; i < r->n_grants; i++) {
        cfs__id_grant__init(&p->grants[i]);
        p->grants[i].pg = r->grants[i].pg;
        p->grants[i].first = r->grants[i].first;
        p->grants[i].count = r->grants[i].count;
        p->grant_list[i] = &p->grants[i];
    }
    p->m.n_grant = r->n_grants;
    p->m.grant = p->grant_list;
}

static Cfs__Attr *pack_attr(bool has, const struct inode *i, Cfs__Attr *to)
{
    if (!has) {
        return NULL;
    }
    ops_attr(i, to);
    return to;
}

/* Appends an OpReply as field 1 of OpsReply: tag, length, message. */
static void pack_result(struct buf *out, int rc, const struct op_result *r)
{
    struct packed p;
    cfs__op_reply__init(&p.m);
    p.m.status = status_of_rc(rc);
    bool ok = rc == 0;
    p.m.attr = pack_attr(ok && r->has_attr, &r->attr, &p.attr);
    p.m.parent = pack_attr(ok && r->has_parent, &r->parent, &p.parent);
    p.m.parent2 = pack_attr(ok && r->has_parent2, &r->parent2, &p.parent2);
    p.m.victim = pack_attr(ok && r->has_victim, &r->victim, &p.victim);
    p.m.has_orphaned = p.m.orphaned = ok && r->orphaned;
    p.m.has_ticket = rc == ERR_QUEUED;
    p.m.ticket = r->ticket;
    p.m.has_copied = ok && r->has_copied;
    p.m.copied = r->copied;
    if (ok) {
        pack_grants(r, &p);
    }
    size_t len = cfs__op_reply__get_packed_size(&p.m);
    buf_u8(out, 1 << 3 | 2);
    buf_varint(out, len);
    cfs__op_reply__pack(&p.m, buf_extend(out, len));
}

static void run_ops(struct fsm *f, const Cfs__Ops *ops, bool read_only, struct buf *out)
{
    int before = 0;
    for (size_t i = 0; i < ops->n_op && f->failed == 0; i++) {
        struct op_result r = {.ticket = 0};
        struct fsm_mark mark = fsm_mark(f);
        int rc = ops->op[i]->needs_previous && before != 0 && before != ERR_QUEUED
                     ? -ECANCELED
                     : op_run(f, ops->op[i], read_only, &r);
        if (rc < 0 && rc != ERR_QUEUED) {
            fsm_rollback(f, &mark);
        }
        pack_result(out, rc, &r);
        before = rc;
    }
}

/* ---- the command --------------------------------------------------------------------------------
 */

static int command_next(struct fsm *f, struct session *s, const Cfs__CommandRequest *m)
{
    if (s->last_seq - s->acked >= FSM_WINDOW) {
        return ERR_BUSY;
    }
    Cfs__Ops *ops = cfs__ops__unpack(NULL, m->ops.len, m->ops.data);
    if (ops == NULL || ops->n_op > FSM_OPS_MAX) {
        if (ops != NULL) {
            cfs__ops__free_unpacked(ops, NULL);
        }
        return ERR_MALFORMED;
    }
    f->session = s->id;
    f->reserve_max = m->has_reserve_max ? m->reserve_max : UINT64_MAX;
    f->reserve_hope = m->has_reserve_hope ? m->reserve_hope : 0;
    run_ops(f, ops, s->read_only, &f->effects->reply);
    cfs__ops__free_unpacked(ops, NULL);
    s->last_seq++;
    sessions_remember(f, s, 0, buf_bytes(&f->effects->reply));
    return 0;
}

static int command(struct fsm *f, const Cfs__CommandRequest *m)
{
    struct session s;
    int rc = sessions_get(f, m->session, &s);
    if (rc < 0) {
        return rc;
    }
    if (m->seq == 0 || m->seq > s.last_seq + 1) {
        return ERR_BUSY;
    }
    if (m->seq <= s.last_seq) {
        int stored = 0;
        rc = sessions_recall(f, &s, m->seq, &stored, &f->effects->reply);
        return rc == ERR_NOT_FOUND ? -EINVAL : rc < 0 ? rc : stored;
    }
    sessions_forget(f, &s, m->acked);
    rc = command_next(f, &s, m);
    if (rc == 0) {
        sessions_put(f, &s);
    }
    return rc;
}

int command_entry(struct fsm *f, struct bytes body)
{
    Cfs__CommandRequest *m = cfs__command_request__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = command(f, m);
    cfs__command_request__free_unpacked(m, NULL);
    return rc;
}

/* ---- before it is proposed
 * ------------------------------------------------------------------------ */

/* Counted before they are unpacked: an operation takes two bytes here and two hundred there. */
static bool too_many(ProtobufCBinaryData packed)
{
    struct cursor c = cursor_of(BYTES(packed.data, packed.len));
    size_t n = 0;
    while (cursor_left(&c) > 0 && !c.bad && n <= FSM_OPS_MAX) {
        uint64_t tag = cursor_varint(&c);
        if ((tag & 7) == 2) {
            (void)cursor_run(&c);
        } else {
            (void)cursor_varint(&c); /* no field of ours: how many there are is all that counts */
        }
        n++;
    }
    return n > FSM_OPS_MAX;
}

static int command_ops(struct bytes body, Cfs__Ops **out)
{
    Cfs__CommandRequest *m = cfs__command_request__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = too_many(m->ops) ? ERR_TOO_BIG : 0;
    *out = rc == 0 ? cfs__ops__unpack(NULL, m->ops.len, m->ops.data) : NULL;
    cfs__command_request__free_unpacked(m, NULL);
    return rc == 0 && *out == NULL ? ERR_MALFORMED : rc;
}

int command_validate(struct bytes body)
{
    Cfs__Ops *ops = NULL;
    int rc = command_ops(body, &ops);
    if (rc == 0) {
        rc = ops->n_op > FSM_OPS_MAX ? ERR_TOO_BIG : 0;
        cfs__ops__free_unpacked(ops, NULL);
    }
    return rc;
}

static bool op_frees(const Cfs__Op *op)
{
    const Cfs__SetattrOp *s = op->setattr;
    bool truncate = s != NULL && s->has_size && s->size == 0 && !s->has_mode;
    bool punch = op->fallocate != NULL && (op->fallocate->mode & 2) != 0; /* FALLOC_FL_PUNCH_HOLE */
    bool unlock = op->lock != NULL && op->lock->type == 2;                /* F_UNLCK */
    return op->unlink != NULL || op->release != NULL || op->retire_ids != NULL ||
           op->lock_cancel != NULL || op->lock_drop != NULL || truncate || punch || unlock;
}

bool command_frees(struct bytes body)
{
    Cfs__Ops *ops = NULL;
    (void)command_ops(body, &ops); /* one that is refused frees nothing */
    /* An empty one counts: by it a session uses up the number of a command that was refused below
     * the reserve; without it the commands that do free would wait behind the gap. */
    bool frees = ops != NULL;
    for (size_t i = 0; frees && i < ops->n_op; i++) {
        frees = op_frees(ops->op[i]);
    }
    if (ops != NULL) {
        cfs__ops__free_unpacked(ops, NULL);
    }
    return frees;
}
