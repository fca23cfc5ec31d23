#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "proto/methods.h"
#include "test/lib/sim_client.h"

/* ---- random operations ---------------------------------------------------------------------- */

static uint64_t below(struct sim_client *c, uint64_t n)
{
    return prng_below(c->prng, n);
}

static void random_name(struct sim_client *c, char name[8])
{
    snprintf(name, 8, "n%u", (unsigned)below(c, 9));
}

/* A node that the model knows; at times one that is gone. */
static uint64_t random_ino(struct sim_client *c, bool directory)
{
    for (unsigned i = 0; i < 40; i++) {
        const struct model_node *n = &c->model->node[below(c, MODEL_NODES)];
        if (n->ino != 0 && S_ISDIR(n->mode) == directory) {
            return n->ino;
        }
    }
    return directory ? MODEL_ROOT : 500000 + below(c, 300); /* no guess is ever right */
}

static unsigned nodes_used(const struct model *m)
{
    unsigned n = 0;
    for (unsigned i = 0; i < MODEL_NODES; i++) {
        n += m->node[i].ino != 0;
    }
    return n;
}

static void random_make(struct sim_client *c, struct sim_op *op)
{
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK};
    op->kind = SIM_MAKE;
    op->mode = types[below(c, array_count(types))] | 0644;
    op->parent = random_ino(c, true);
    random_name(c, op->name);
    if (S_ISREG(op->mode)) {
        op->size = below(c, 3) == 0 ? 1 + below(c, 300) : 0;
        op->tag = (uint8_t)(1 + below(c, 255));
        op->name[0] = below(c, 12) == 0 ? '\0' : op->name[0];
    }
    if (nodes_used(c->model) > MODEL_NODES - 60) {
        op->kind = SIM_UNLINK;
        op->name[0] = 'n';
        op->directory = below(c, 5) == 0;
    }
}

static struct sim_id random_id(struct sim_client *c, enum model_id_state state)
{
    const struct model *m = c->model;
    for (unsigned i = 0; m->n_ids > 0 && i < 30; i++) {
        const struct model_id *id = &m->id[below(c, m->n_ids)];
        if (id->state == state) {
            return id->at;
        }
    }
    return (struct sim_id){.pg = 1, .id = 4000};
}

static void random_write(struct sim_client *c, struct sim_op *op)
{
    op->kind = SIM_WRITE;
    op->ino = random_ino(c, false);
    op->cells = 1 + (unsigned)below(c, 6);
    op->cell = (unsigned)below(c, MODEL_CELLS - op->cells + 1);
    op->id = random_id(c, below(c, 12) == 0 ? MODEL_ID_DEAD : MODEL_ID_GRANTED);
    op->stale_epoch = below(c, 15) == 0;
    if (op->id.id == 4000) {
        op->kind = SIM_GRANT;
        op->count = 1 + (unsigned)below(c, 12);
    }
}

static void random_lock(struct sim_client *c, struct sim_op *op)
{
    op->domain = (unsigned)below(c, 2);
    op->owner = 1 + below(c, 4);
    op->wait = below(c, 2) == 0;
    switch (below(c, 5)) {
    case 0:
    case 1:
        op->kind = SIM_LOCK;
        break;
    case 2:
        op->kind = SIM_CANCEL;
        op->ticket = c->n_waiting > 0 ? c->waiting[below(c, c->n_waiting)] : 1000000 + below(c, 50);
        break;
    default:
        op->kind = SIM_UNLOCK;
        break;
    }
}

static void random_retire(struct sim_client *c, struct sim_op *op)
{
    op->kind = SIM_RETIRE;
    for (unsigned i = 0; i < c->model->n_ids && op->n_keep < array_count(op->keep); i++) {
        if (c->model->id[i].state == MODEL_ID_GRANTED && below(c, 3) != 0) {
            op->keep[op->n_keep++] = c->model->id[i].at;
        }
    }
}

static void random_attributes(struct sim_client *c, struct sim_op *op)
{
    op->kind = SIM_SETATTR;
    op->ino = random_ino(c, below(c, 5) == 0);
    op->has_size = below(c, 2) == 0;
    op->size = below(c, MODEL_CELLS + 1) * MODEL_CELL;
    op->mode = (uint32_t)below(c, 01000);
}

static void random_rename(struct sim_client *c, struct sim_op *op)
{
    op->kind = SIM_RENAME;
    op->parent = random_ino(c, true);
    op->parent2 = random_ino(c, true);
    random_name(c, op->name);
    random_name(c, op->name2);
    op->flags = below(c, 3) == 0 ? 1 + (uint32_t)below(c, 2) : 0;
    op->held = below(c, 2) == 0;
}

void sim_ops_random(struct sim_client *c, struct sim_op *op)
{
    *op = (struct sim_op){.kind = SIM_UNLINK};
    const uint64_t what = below(c, 100);
    if (what < 22) {
        random_make(c, op);
    } else if (what < 32) {
        op->parent = random_ino(c, true);
        random_name(c, op->name);
        op->held = below(c, 2) == 0;
        op->directory = below(c, 4) == 0;
    } else if (what < 44) {
        random_rename(c, op);
    } else if (what < 50) {
        op->kind = SIM_LINK;
        op->ino = random_ino(c, below(c, 20) == 0);
        op->parent = random_ino(c, true);
        random_name(c, op->name);
    } else if (what < 58) {
        random_attributes(c, op);
    } else if (what < 65) {
        op->kind = SIM_INLINE;
        op->ino = random_ino(c, false);
        op->size = below(c, 8) == 0 ? 0 : 1 + below(c, 300);
        op->tag = (uint8_t)(1 + below(c, 255));
    } else if (what < 80) {
        random_write(c, op);
    } else if (what < 85) {
        op->kind = SIM_XATTR;
        op->ino = random_ino(c, below(c, 5) == 0);
        op->xattr = (unsigned)below(c, MODEL_XATTRS);
        op->tag = below(c, 3) == 0 ? 0 : (uint8_t)(1 + below(c, 255));
    } else if (what < 93) {
        random_lock(c, op);
    } else if (what < 97) {
        op->kind = SIM_RELEASE;
        op->ino = random_ino(c, false);
    } else if (what < 99) {
        op->kind = SIM_GRANT;
        op->count = 1 + (unsigned)below(c, 12);
    } else {
        random_retire(c, op);
    }
}

/* ---- packing -------------------------------------------------------------------------------- */

struct packing { /* the messages of one operation */
    Cfs__Op op;
    Cfs__Who who;
    Cfs__MakeOp make;
    Cfs__UnlinkOp unlink;
    Cfs__RenameOp rename;
    Cfs__LinkOp link;
    Cfs__SetattrOp setattr;
    Cfs__WriteOp write;
    Cfs__XattrOp xattr;
    Cfs__LockOp lock;
    Cfs__LockCancelOp cancel;
    Cfs__LockDropOp drop;
    Cfs__ReleaseOp release;
    Cfs__GrantIdsOp grant;
    Cfs__RetireIdsOp retire;
    Cfs__Stripe stripe, *stripes[1], keep[24], *keeps[24];
    Cfs__Extent extent, *extents[1];
    uint8_t content[4096];
    uint64_t ino;
};

static ProtobufCBinaryData text(const char *s)
{
    return (ProtobufCBinaryData){.len = strlen(s), .data = (uint8_t *)(uintptr_t)s};
}

static ProtobufCBinaryData filled(struct packing *p, const struct sim_op *op)
{
    memset(p->content, op->tag, op->size);
    return (ProtobufCBinaryData){.len = op->size, .data = p->content};
}

static void pack_make(struct packing *p, const struct sim_op *op)
{
    cfs__who__init(&p->who);
    cfs__make_op__init(&p->make);
    p->make.who = &p->who;
    p->make.parent = op->parent;
    p->make.has_name = op->name[0] != '\0';
    p->make.name = text(op->name);
    p->make.mode = op->mode;
    if (S_ISLNK(op->mode)) {
        p->make.has_target = true;
        p->make.target = text("to!");
    } else if (S_ISREG(op->mode) && op->size > 0) {
        p->make.has_content = true;
        p->make.content = filled(p, op);
    }
    p->op.make = &p->make;
}

static void pack_unlink(struct packing *p, const struct sim_op *op)
{
    cfs__unlink_op__init(&p->unlink);
    p->unlink.parent = op->parent;
    p->unlink.name = text(op->name);
    p->unlink.has_directory = p->unlink.has_held = true;
    p->unlink.directory = op->directory;
    p->unlink.held = op->held;
    p->op.unlink = &p->unlink;
}

static void pack_rename(struct packing *p, const struct sim_op *op)
{
    cfs__rename_op__init(&p->rename);
    p->rename.parent = op->parent;
    p->rename.name = text(op->name);
    p->rename.new_parent = op->parent2;
    p->rename.new_name = text(op->name2);
    p->rename.has_flags = p->rename.has_held = true;
    p->rename.flags = op->flags;
    p->rename.held = op->held;
    p->op.rename = &p->rename;
}

static void pack_attributes(struct packing *p, const struct sim_op *op)
{
    cfs__setattr_op__init(&p->setattr);
    p->setattr.ino = op->ino;
    p->setattr.has_size = op->has_size;
    p->setattr.size = op->size;
    p->setattr.has_mode = !op->has_size;
    p->setattr.mode = op->mode;
    p->op.setattr = &p->setattr;
}

static void pack_write(struct packing *p, const struct sim_op *op)
{
    cfs__write_op__init(&p->write);
    p->write.ino = op->ino;
    p->op.write = &p->write;
    if (op->kind == SIM_INLINE) {
        p->write.has_content = true;
        p->write.content = filled(p, op);
        return;
    }
    cfs__stripe__init(&p->stripe);
    cfs__extent__init(&p->extent);
    p->stripe.pg = p->extent.pg = op->id.pg;
    p->stripe.id = p->extent.stripe = op->id.id;
    p->stripe.kind = 1;
    p->stripe.k = 4;
    p->stripe.m = 2;
    p->stripe.slot_mask = 0x3f;
    p->stripe.nonce = 7;
    p->stripe.has_epoch = true;
    p->stripe.epoch = op->stale_epoch ? 9 : 1;
    p->stripe.length = p->extent.length = (uint64_t)op->cells * MODEL_CELL;
    p->extent.offset = (uint64_t)op->cell * MODEL_CELL;
    p->extent.kind = 1;
    p->extent.has_pg = p->extent.has_stripe = p->extent.has_stripe_offset = true;
    p->stripes[0] = &p->stripe;
    p->extents[0] = &p->extent;
    p->write.stripe = p->stripes;
    p->write.extent = p->extents;
    p->write.n_stripe = p->write.n_extent = 1;
}

static void pack_lock(struct packing *p, const struct sim_op *op)
{
    if (op->kind == SIM_CANCEL) {
        cfs__lock_cancel_op__init(&p->cancel);
        p->cancel.ticket = op->ticket;
        p->op.lock_cancel = &p->cancel;
        return;
    }
    cfs__lock_op__init(&p->lock);
    p->lock.ino = MODEL_ROOT;
    p->lock.owner = p->lock.handle = op->owner;
    p->lock.kind = op->domain == 0 ? 2 : 3;
    p->lock.type = op->kind == SIM_LOCK ? F_WRLCK : F_UNLCK;
    p->lock.end = INT64_MAX;
    p->lock.has_wait = true;
    p->lock.wait = op->kind == SIM_LOCK && op->wait;
    p->op.lock = &p->lock;
}

static void pack_ids(struct packing *p, const struct sim_op *op)
{
    if (op->kind == SIM_GRANT) {
        cfs__grant_ids_op__init(&p->grant);
        p->grant.count = op->count;
        p->op.grant_ids = &p->grant;
        return;
    }
    cfs__retire_ids_op__init(&p->retire);
    for (unsigned i = 0; i < op->n_keep; i++) {
        cfs__stripe__init(&p->keep[i]);
        p->keep[i].pg = op->keep[i].pg;
        p->keep[i].id = op->keep[i].id;
        p->keeps[i] = &p->keep[i];
    }
    p->retire.keep = p->keeps;
    p->retire.n_keep = op->n_keep;
    p->op.retire_ids = &p->retire;
}

static void pack_other(struct packing *p, const struct sim_op *op)
{
    static const char *const names[MODEL_XATTRS] = {"user.a", "user.b"};
    if (op->kind == SIM_LINK) {
        cfs__link_op__init(&p->link);
        p->link.ino = op->ino;
        p->link.parent = op->parent;
        p->link.name = text(op->name);
        p->op.link = &p->link;
    } else if (op->kind == SIM_XATTR) {
        cfs__xattr_op__init(&p->xattr);
        p->xattr.ino = op->ino;
        p->xattr.name = text(names[op->xattr]);
        p->xattr.has_value = op->tag != 0;
        p->content[0] = op->tag;
        p->xattr.value = (ProtobufCBinaryData){.len = 1, .data = p->content};
        p->op.xattr = &p->xattr;
    } else {
        cfs__release_op__init(&p->release);
        p->ino = op->ino;
        p->release.ino = &p->ino;
        p->release.n_ino = 1;
        p->op.release = &p->release;
    }
}

static void pack_op(struct packing *p, const struct sim_op *op)
{
    static void (*const pack[SIM_KINDS])(struct packing * p, const struct sim_op *op) = {
        [SIM_MAKE] = pack_make,   [SIM_UNLINK] = pack_unlink,      [SIM_RENAME] = pack_rename,
        [SIM_LINK] = pack_other,  [SIM_SETATTR] = pack_attributes, [SIM_INLINE] = pack_write,
        [SIM_WRITE] = pack_write, [SIM_XATTR] = pack_other,        [SIM_LOCK] = pack_lock,
        [SIM_UNLOCK] = pack_lock, [SIM_CANCEL] = pack_lock,        [SIM_RELEASE] = pack_other,
        [SIM_GRANT] = pack_ids,   [SIM_RETIRE] = pack_ids};
    cfs__op__init(&p->op);
    p->op.has_needs_previous = p->op.needs_previous = op->needs_previous;
    pack[op->kind](p, op);
}

void sim_ops_pack(const struct sim_op *ops, unsigned n, struct buf *out)
{
    struct packing *p = xcalloc(n, sizeof *p);
    Cfs__Op *list[SIM_OPS];
    Cfs__Ops m = CFS__OPS__INIT;
    for (unsigned i = 0; i < n; i++) {
        pack_op(&p[i], &ops[i]);
        list[i] = &p[i].op;
    }
    m.op = list;
    m.n_op = n;
    cfs__ops__pack(&m, buf_extend(out, cfs__ops__get_packed_size(&m)));
    free(p);
}

/* ---- answers -------------------------------------------------------------------------------- */

static void take_result(struct sim_op *op, const Cfs__OpReply *r)
{
    op->rc = status_to_rc(r->status);
    op->made = r->attr != NULL ? r->attr->ino : 0;
    op->got_ticket = r->ticket;
    op->n_got = 0;
    for (size_t i = 0; i < r->n_grant; i++) {
        for (uint32_t k = 0; k < r->grant[i]->count && op->n_got < array_count(op->got); k++) {
            op->got[op->n_got++] =
                (struct sim_id){.pg = r->grant[i]->pg, .id = r->grant[i]->first + k};
        }
    }
}

bool sim_ops_unpack(struct sim_op *ops, unsigned n, struct bytes reply)
{
    Cfs__OpsReply *m = cfs__ops_reply__unpack(NULL, reply.len, reply.data);
    const bool good = m != NULL && m->n_result == n;
    for (unsigned i = 0; good && i < n; i++) {
        take_result(&ops[i], m->result[i]);
    }
    cfs__ops_reply__free_unpacked(m, NULL);
    return good;
}

const char *sim_ops_name(enum sim_kind kind)
{
    static const char *const names[SIM_KINDS] = {"make",   "unlink",  "rename", "link",  "setattr",
                                                 "inline", "write",   "xattr",  "lock",  "unlock",
                                                 "cancel", "release", "grant",  "retire"};
    return names[kind];
}

/* ---- planted faults ------------------------------------------------------------------------- */

static bool edit_op(enum sim_edit edit, Cfs__Op *op)
{
    if (edit == SIM_EDIT_EPOCH && op->write != NULL && op->write->n_stripe > 0 &&
        op->write->stripe[0]->epoch != 1) {
        op->write->stripe[0]->epoch = 1; /* as if a stale epoch were accepted */
        return true;
    }
    if (edit == SIM_EDIT_SHARED_LOCK && op->lock != NULL && op->lock->type == F_WRLCK) {
        op->lock->type = F_RDLCK; /* as if two owners could have it */
        return true;
    }
    if (edit == SIM_EDIT_NO_HOLD && op->unlink != NULL && op->unlink->held) {
        op->unlink->held = false; /* as if orphans were not kept */
        return true;
    }
    if (edit == SIM_EDIT_KEEP_ALL && op->retire_ids != NULL) {
        op->retire_ids = NULL; /* as if dead ids stayed granted; an empty release in its place */
        op->release = xcalloc(1, sizeof *op->release);
        cfs__release_op__init(op->release);
        return true;
    }
    return false;
}

bool sim_ops_edit(enum sim_edit edit, struct bytes command, struct prng *p, struct buf *out)
{
    (void)p;
    Cfs__CommandRequest *m = cfs__command_request__unpack(NULL, command.len, command.data);
    Cfs__Ops *ops = m != NULL ? cfs__ops__unpack(NULL, m->ops.len, m->ops.data) : NULL;
    bool changed = false;
    for (size_t i = 0; ops != NULL && i < ops->n_op; i++) {
        changed = edit_op(edit, ops->op[i]) || changed;
    }
    if (changed) {
        const size_t len = cfs__ops__get_packed_size(ops);
        free(m->ops.data);
        m->ops.data = xmalloc(len);
        m->ops.len = cfs__ops__pack(ops, m->ops.data);
        cfs__command_request__pack(m, buf_extend(out, cfs__command_request__get_packed_size(m)));
    }
    cfs__ops__free_unpacked(ops, NULL);
    cfs__command_request__free_unpacked(m, NULL);
    return changed;
}
