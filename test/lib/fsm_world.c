#include "test/lib/fsm_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "ec/stripe.h"
#include "proto/methods.h"
#include "test/lib/kv_mem.h"

void fsm_world_init_on(struct fsm_world *w, struct kv *kv)
{
    memset(w, 0, sizeof *w);
    w->kv = kv;
    w->term = 1;
    w->now_ns = 1700000000000000000u;
    fsm_effects_init(&w->fx);
    CHECK(fsm_open(kv, &w->fsm) == 0);
    w->index = fsm_applied(w->fsm);
}

void fsm_world_groups(struct fsm_world *w, unsigned n)
{
    Cfs__LogGroups groups = CFS__LOG_GROUPS__INIT;
    Cfs__PgRow *rows = xcalloc(n, sizeof *rows), **list = xcalloc(n, sizeof *list);
    uint32_t slots[6] = {1, 2, 3, 4, 5, 6};
    for (unsigned i = 0; i < n; i++) {
        cfs__pg_row__init(&rows[i]);
        rows[i].id = i + 1;
        rows[i].epoch = 1;
        rows[i].k = 4;
        rows[i].m = 2;
        rows[i].n_slot = 6;
        rows[i].slot = slots;
        list[i] = &rows[i];
    }
    groups.n_pg = n;
    groups.pg = list;
    CHECK(fsm_world_entry(w, ENTRY_GROUPS, &groups.base) == 0);
    free(rows);
    free(list);
}

void fsm_world_bootstrap(struct fsm_world *w)
{
    Cfs__LogLead lead = CFS__LOG_LEAD__INIT;
    lead.server = 1;
    CHECK(fsm_world_entry(w, ENTRY_LEAD, &lead.base) == 0);
    w->reign = w->index;
    Cfs__Policy policy = CFS__POLICY__INIT;
    policy.k = 4;
    policy.m = 2;
    policy.inline_limit = 4096;
    Cfs__LogBootstrap m = CFS__LOG_BOOTSTRAP__INIT;
    m.cluster = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t) "cluster-16-bytes"};
    m.hash_key = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t) "hash-key-16-byte"};
    m.policy = &policy;
    CHECK(fsm_world_entry(w, ENTRY_BOOTSTRAP, &m.base) == 0);
}

void fsm_world_init(struct fsm_world *w)
{
    fsm_world_init_on(w, kv_mem_new());
    fsm_world_bootstrap(w);
    fsm_world_groups(w, 2);
    CHECK(fsm_world_open_session(w, "client-1-16bytes") == 0);
}

void fsm_world_release(struct fsm_world *w)
{
    if (w->reply != NULL) {
        cfs__ops_reply__free_unpacked(w->reply, NULL);
    }
    fsm_free(w->fsm);
    fsm_effects_release(&w->fx);
    for (size_t i = 0; i < w->n_log; i++) {
        buf_release(&w->log[i]);
    }
    free(w->log);
    if (w->kv != NULL) {
        w->kv->ops->close(w->kv);
    }
    memset(w, 0, sizeof *w);
}

int fsm_world_reopen(struct fsm_world *w)
{
    fsm_free(w->fsm);
    w->fsm = NULL;
    int rc = fsm_open(w->kv, &w->fsm);
    if (rc == 0) {
        w->index = fsm_applied(w->fsm);
    }
    return rc;
}

int fsm_world_raw(struct fsm_world *w, struct bytes entry)
{
    int rc = fsm_apply(w->fsm, w->index + 1, w->term, entry, &w->fx);
    if (rc == 0) {
        w->index++;
    }
    return rc;
}

int fsm_world_try(struct fsm_world *w, uint8_t type, const ProtobufCMessage *body, int *stopped)
{
    struct buf packed, entry;
    buf_init(&packed);
    buf_init(&entry);
    if (body != NULL) {
        protobuf_c_message_pack(body,
                                buf_extend(&packed, protobuf_c_message_get_packed_size(body)));
    }
    w->now_ns += 1000000;
    struct fsm_entry_header h = {
        .type = type, .feature_level = 1, .time_ns = w->now_ns, .reign = w->reign};
    fsm_entry_encode(&entry, &h, buf_bytes(&packed));
    *stopped = fsm_world_raw(w, buf_bytes(&entry));
    if (w->keep && *stopped == 0) {
        w->log = xrealloc(w->log, (w->n_log + 1) * sizeof *w->log);
        w->log[w->n_log++] = entry;
    } else {
        buf_release(&entry);
    }
    buf_release(&packed);
    return w->fx.rc;
}

int fsm_world_entry(struct fsm_world *w, uint8_t type, const ProtobufCMessage *body)
{
    int stopped;
    int rc = fsm_world_try(w, type, body, &stopped);
    if (stopped != 0) {
        fprintf(stderr, "replica stopped: %s\n", err_name(stopped));
    }
    CHECK(stopped == 0);
    return rc;
}

int fsm_world_open_session(struct fsm_world *w, const char *client)
{
    Cfs__SessionOpen open = CFS__SESSION_OPEN__INIT;
    open.client = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)client};
    open.host = (char *)(uintptr_t) "host";
    open.machine = (char *)(uintptr_t) "machine";
    open.boot = (char *)(uintptr_t) "boot";
    open.version = (char *)(uintptr_t) "1";
    open.mount_point = (char *)(uintptr_t) "/mnt";
    open.feature_level = 1;
    Cfs__LogSessionOpen m = CFS__LOG_SESSION_OPEN__INIT;
    m.open = &open;
    m.lease_ms = 10000;
    int rc = fsm_world_entry(w, ENTRY_SESSION_OPEN, &m.base);
    if (rc == 0) {
        Cfs__SessionOpenReply *r =
            cfs__session_open_reply__unpack(NULL, w->fx.reply.len, w->fx.reply.data);
        CHECK(r != NULL);
        w->session = r->session;
        w->seq = w->acked = 0;
        cfs__session_open_reply__free_unpacked(r, NULL);
    }
    return rc;
}

int fsm_world_end_session(struct fsm_world *w, uint64_t session)
{
    Cfs__LogSessionEnd m = CFS__LOG_SESSION_END__INIT;
    m.session = session;
    return fsm_world_entry(w, ENTRY_SESSION_END, &m.base);
}

/* ---- commands ---------------------------------------------------------------------- */

int fsm_world_command(struct fsm_world *w, Cfs__Op **ops, size_t n)
{
    Cfs__Ops m = CFS__OPS__INIT;
    m.n_op = n;
    m.op = ops;
    struct buf packed;
    buf_init(&packed);
    cfs__ops__pack(&m, buf_extend(&packed, cfs__ops__get_packed_size(&m)));
    Cfs__CommandRequest c = CFS__COMMAND_REQUEST__INIT;
    c.session = w->session;
    c.seq = w->seq + 1;
    c.acked = w->acked;
    c.ops = (ProtobufCBinaryData){packed.len, packed.data};
    c.has_reserve_max = w->reserve_max != 0;
    c.reserve_max = w->reserve_max;
    c.has_reserve_hope = w->reserve_hope != 0;
    c.reserve_hope = w->reserve_hope;
    int stopped;
    int rc = fsm_world_try(w, ENTRY_COMMAND, &c.base, &stopped);
    buf_release(&packed);
    if (w->reply != NULL) {
        cfs__ops_reply__free_unpacked(w->reply, NULL);
        w->reply = NULL;
    }
    if (stopped != 0 || rc != 0) {
        return stopped != 0 ? stopped : rc;
    }
    w->seq++;
    w->acked = w->seq;
    w->reply = cfs__ops_reply__unpack(NULL, w->fx.reply.len, w->fx.reply.data);
    CHECK(w->reply != NULL && w->reply->n_result == n);
    return 0;
}

int fsm_world_op(struct fsm_world *w, Cfs__Op *op)
{
    int rc = fsm_world_command(w, &op, 1);
    return rc < 0 ? rc : status_to_rc(w->reply->result[0]->status);
}

const Cfs__OpReply *fsm_world_result(const struct fsm_world *w)
{
    return w->reply->result[0];
}

void fsm_world_reap(struct fsm_world *w)
{
    Cfs__LogReap m = CFS__LOG_REAP__INIT;
    bool pending = true;
    for (int i = 0; i < 100000 && pending; i++) {
        CHECK(fsm_world_entry(w, ENTRY_REAP, &m.base) == 0);
        pending = w->fx.reap_pending;
    }
    CHECK(!pending);
}

static ProtobufCBinaryData text(const char *s)
{
    return (ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)s};
}

int fsm_world_make(struct fsm_world *w, uint64_t parent, const char *name, uint32_t mode)
{
    Cfs__Who who = CFS__WHO__INIT;
    who.uid = 1000;
    who.gid = 1000;
    who.has_umask = true;
    who.umask = 022;
    Cfs__MakeOp make = CFS__MAKE_OP__INIT;
    make.who = &who;
    make.parent = parent;
    make.mode = mode;
    if (name != NULL) {
        make.has_name = true;
        make.name = text(name);
    }
    if (S_ISLNK(mode)) {
        make.has_target = true;
        make.target = text("target");
    }
    Cfs__Op op = CFS__OP__INIT;
    op.make = &make;
    return fsm_world_op(w, &op);
}

uint64_t fsm_world_mkdir(struct fsm_world *w, uint64_t parent, const char *name)
{
    CHECK(fsm_world_make(w, parent, name, S_IFDIR | 0777) == 0);
    return fsm_world_result(w)->attr->ino;
}

uint64_t fsm_world_create(struct fsm_world *w, uint64_t parent, const char *name)
{
    CHECK(fsm_world_make(w, parent, name, S_IFREG | 0666) == 0);
    return fsm_world_result(w)->attr->ino;
}

int fsm_world_unlink(struct fsm_world *w, uint64_t parent, const char *name, bool held)
{
    Cfs__UnlinkOp m = CFS__UNLINK_OP__INIT;
    m.parent = parent;
    m.name = text(name);
    m.has_held = m.held = held;
    Cfs__Op op = CFS__OP__INIT;
    op.unlink = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_rmdir(struct fsm_world *w, uint64_t parent, const char *name)
{
    Cfs__UnlinkOp m = CFS__UNLINK_OP__INIT;
    m.parent = parent;
    m.name = text(name);
    m.has_directory = m.directory = true;
    Cfs__Op op = CFS__OP__INIT;
    op.unlink = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_rename(struct fsm_world *w, uint64_t p1, const char *n1, uint64_t p2, const char *n2,
                     uint32_t flags)
{
    Cfs__RenameOp m = CFS__RENAME_OP__INIT;
    m.parent = p1;
    m.name = text(n1);
    m.new_parent = p2;
    m.new_name = text(n2);
    m.has_flags = true;
    m.flags = flags;
    Cfs__Op op = CFS__OP__INIT;
    op.rename = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_link(struct fsm_world *w, uint64_t ino, uint64_t parent, const char *name)
{
    Cfs__LinkOp m = CFS__LINK_OP__INIT;
    m.ino = ino;
    m.parent = parent;
    m.name = text(name);
    Cfs__Op op = CFS__OP__INIT;
    op.link = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_truncate(struct fsm_world *w, uint64_t ino, uint64_t size)
{
    Cfs__SetattrOp m = CFS__SETATTR_OP__INIT;
    m.ino = ino;
    m.has_size = true;
    m.size = size;
    Cfs__Op op = CFS__OP__INIT;
    op.setattr = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_inline(struct fsm_world *w, uint64_t ino, const char *content)
{
    Cfs__WriteOp m = CFS__WRITE_OP__INIT;
    m.ino = ino;
    m.has_content = true;
    m.content = text(content);
    Cfs__Op op = CFS__OP__INIT;
    op.write = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_grant(struct fsm_world *w, uint32_t count)
{
    Cfs__GrantIdsOp m = CFS__GRANT_IDS_OP__INIT;
    m.count = count;
    Cfs__Op op = CFS__OP__INIT;
    op.grant_ids = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_write_in(struct fsm_world *w, uint64_t ino, uint64_t offset, uint64_t length,
                       uint32_t pg, uint64_t id)
{
    Cfs__Stripe s = CFS__STRIPE__INIT;
    s.pg = pg;
    s.id = id;
    s.kind = STRIPE_RS;
    s.k = 4;
    s.m = 2;
    s.slot_mask = 0x3f;
    s.length = length;
    s.nonce = 7;
    s.has_epoch = true;
    s.epoch = 1;
    Cfs__Extent e = CFS__EXTENT__INIT;
    e.offset = offset;
    e.length = length;
    e.kind = 1;
    e.has_pg = e.has_stripe = e.has_stripe_offset = true;
    e.pg = pg;
    e.stripe = id;
    Cfs__Stripe *stripes[] = {&s};
    Cfs__Extent *extents[] = {&e};
    Cfs__WriteOp m = CFS__WRITE_OP__INIT;
    m.ino = ino;
    m.n_stripe = m.n_extent = 1;
    m.stripe = stripes;
    m.extent = extents;
    Cfs__Op op = CFS__OP__INIT;
    op.write = &m;
    return fsm_world_op(w, &op);
}

int fsm_world_write(struct fsm_world *w, uint64_t ino, uint64_t offset, uint64_t length)
{
    int rc = fsm_world_grant(w, 1);
    if (rc < 0) {
        return rc;
    }
    const Cfs__IdGrant *g = fsm_world_result(w)->grant[0];
    return fsm_world_write_in(w, ino, offset, length, g->pg, g->first);
}

int fsm_world_release_ino(struct fsm_world *w, uint64_t ino)
{
    Cfs__ReleaseOp m = CFS__RELEASE_OP__INIT;
    m.n_ino = 1;
    m.ino = &ino;
    Cfs__Op op = CFS__OP__INIT;
    op.release = &m;
    return fsm_world_op(w, &op);
}

/* ---- reads ------------------------------------------------------------------------------ */

int fsm_world_read(struct fsm_world *w, unsigned method, const ProtobufCMessage *m, struct buf *out)
{
    struct buf packed;
    buf_init(&packed);
    protobuf_c_message_pack(m, buf_extend(&packed, protobuf_c_message_get_packed_size(m)));
    int rc = fsm_read(w->fsm, method, buf_bytes(&packed), out);
    buf_release(&packed);
    return rc;
}

static void *read_as(struct fsm_world *w, unsigned method, const ProtobufCMessage *m,
                     const ProtobufCMessageDescriptor *d, int *rc)
{
    struct buf out;
    buf_init(&out);
    *rc = fsm_world_read(w, method, m, &out);
    void *reply = *rc == 0 ? protobuf_c_message_unpack(d, NULL, out.len, out.data) : NULL;
    CHECK(*rc != 0 || reply != NULL);
    buf_release(&out);
    return reply;
}

Cfs__LookupReply *fsm_world_lookup(struct fsm_world *w, uint64_t parent, const char *name, int *rc)
{
    Cfs__LookupRequest m = CFS__LOOKUP_REQUEST__INIT;
    m.session = w->session;
    m.parent = parent;
    m.name = text(name);
    return read_as(w, METHOD_LOOKUP, &m.base, &cfs__lookup_reply__descriptor, rc);
}

Cfs__LookupReply *fsm_world_getattr(struct fsm_world *w, uint64_t ino, int *rc)
{
    Cfs__GetattrRequest m = CFS__GETATTR_REQUEST__INIT;
    m.session = w->session;
    m.ino = ino;
    return read_as(w, METHOD_GETATTR, &m.base, &cfs__lookup_reply__descriptor, rc);
}

Cfs__ExtentsReply *fsm_world_extents(struct fsm_world *w, uint64_t ino, uint64_t offset,
                                     uint64_t length)
{
    Cfs__ExtentsRequest m = CFS__EXTENTS_REQUEST__INIT;
    m.session = w->session;
    m.ino = ino;
    m.offset = offset;
    m.length = length;
    int rc;
    return read_as(w, METHOD_EXTENTS, &m.base, &cfs__extents_reply__descriptor, &rc);
}

uint64_t fsm_world_ino(struct fsm_world *w, uint64_t parent, const char *name)
{
    int rc;
    Cfs__LookupReply *r = fsm_world_lookup(w, parent, name, &rc);
    uint64_t ino = r != NULL ? r->attr->ino : 0;
    if (r != NULL) {
        cfs__lookup_reply__free_unpacked(r, NULL);
    }
    return ino;
}

uint64_t fsm_world_hash(struct fsm_world *w)
{
    uint64_t h = 0;
    CHECK(fsm_hash(w->fsm, &h) == 0);
    return h;
}

Cfs__FsmCounters *fsm_world_counters(struct fsm_world *w)
{
    struct buf out;
    buf_init(&out);
    CHECK(fsm_query(w->fsm, FSM_QUERY_COUNTERS, BYTES("", 0), &out) == 0);
    Cfs__FsmCounters *m = cfs__fsm_counters__unpack(NULL, out.len, out.data);
    CHECK(m != NULL);
    buf_release(&out);
    return m;
}

static void print_problem(void *ctx, const char *problem)
{
    (void)ctx;
    fprintf(stderr, "audit: %s\n", problem);
}

int fsm_world_audit(struct fsm_world *w)
{
    return fsm_audit(w->fsm, print_problem, NULL);
}
