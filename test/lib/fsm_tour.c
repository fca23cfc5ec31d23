#include "test/lib/fsm_tour.h"

#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "meta/fsm_state.h"
#include "proto/methods.h"
#include "test/lib/kv_mem.h"

enum { PIECES = FSM_FREE_BUDGET + 2, PIECE = 4096 };

static ProtobufCBinaryData text(const char *s)
{
    return (ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)s};
}

/* Why the replica stopped, or 0. */
static int entry(struct fsm_world *w, uint8_t type, const ProtobufCMessage *body)
{
    int stopped = 0;
    (void)fsm_world_try(w, type, body, &stopped);
    return stopped;
}

/* ---- the world ---------------------------------------------------------------------- */

/* A file of more extents than one entry frees, all of one stripe, none beside its neighbour. */
static uint64_t in_pieces(struct fsm_world *w, const char *name)
{
    uint64_t ino = fsm_world_create(w, 1, name);
    CHECK(fsm_world_grant(w, 1) == 0);
    const Cfs__IdGrant *g = fsm_world_result(w)->grant[0];
    Cfs__Stripe s = CFS__STRIPE__INIT, *stripe = &s;
    s.pg = g->pg;
    s.id = g->first;
    s.kind = 1;
    s.k = 4;
    s.m = 2;
    s.slot_mask = 0x3f;
    s.length = PIECE;
    s.has_epoch = true;
    s.epoch = 1;
    static Cfs__Extent e[PIECES];
    static Cfs__Extent *extents[PIECES];
    for (unsigned i = 0; i < PIECES; i++) {
        cfs__extent__init(&e[i]);
        e[i].offset = (uint64_t)i * 2 * PIECE;
        e[i].length = PIECE;
        e[i].kind = 1;
        e[i].has_pg = e[i].has_stripe = e[i].has_stripe_offset = true;
        e[i].pg = s.pg;
        e[i].stripe = s.id;
        extents[i] = &e[i];
    }
    Cfs__WriteOp m = CFS__WRITE_OP__INIT;
    m.ino = ino;
    m.n_stripe = 1;
    m.stripe = &stripe;
    m.n_extent = PIECES;
    m.extent = extents;
    Cfs__Op op = CFS__OP__INIT;
    op.write = &m;
    CHECK(fsm_world_op(w, &op) == 0);
    return ino;
}

static void make_servers(struct fsm_world *w)
{
    char identity[] = "server-1-16bytes", address[] = "10.0.0.1:7001";
    for (char n = '1'; n <= '6'; n++) {
        identity[7] = address[7] = n;
        Cfs__LogRegister m = CFS__LOG_REGISTER__INIT;
        m.server = text(identity);
        m.address = address;
        m.domain = n == '1' ? (char *)(uintptr_t) "rack" : NULL;
        CHECK(fsm_world_entry(w, ENTRY_REGISTER, &m.base) == 0);
    }
    fsm_world_groups(w, 2);
}

static void move_group(struct fsm_world *w)
{
    uint32_t old[6] = {1, 2, 3, 4, 5, 6}, slot[6] = {1, 2, 3, 4, 5, 0};
    Cfs__PgRow row = CFS__PG_ROW__INIT, *rows = &row;
    row.id = 2;
    row.epoch = 2;
    row.k = 4;
    row.m = 2;
    row.n_slot = row.n_old_slot = 6;
    row.slot = slot;
    row.old_slot = old;
    Cfs__LogGroups m = CFS__LOG_GROUPS__INIT;
    m.n_pg = 1;
    m.pg = &rows;
    CHECK(fsm_world_entry(w, ENTRY_GROUPS, &m.base) == 0);
}

/* The first n servers say of all dead ids that they have deleted them. Why the replica stopped, or
 * 0. */
static int deleted(struct fsm_world *w, unsigned n)
{
    uint32_t server[6] = {1, 2, 3, 4, 5, 6};
    Cfs__Uint64Range range = CFS__UINT64_RANGE__INIT, *ranges = &range;
    range.count = 1000;
    Cfs__GarbageIds g[2], *done[2] = {&g[0], &g[1]};
    for (uint32_t i = 0; i < 2; i++) {
        cfs__garbage_ids__init(&g[i]);
        g[i].pg = i + 1;
        g[i].n_id = 1;
        g[i].id = &ranges;
        g[i].n_server = n;
        g[i].server = server;
    }
    Cfs__LogGarbageDone m = CFS__LOG_GARBAGE_DONE__INIT;
    m.n_done = 2;
    m.done = done;
    return entry(w, ENTRY_GARBAGE_DONE, &m.base);
}

static int lock(struct fsm_world *w, uint64_t ino, uint64_t owner, bool wait)
{
    Cfs__LockOp m = CFS__LOCK_OP__INIT;
    m.ino = ino;
    m.owner = m.handle = owner;
    m.kind = m.type = 1;
    m.end = 100;
    m.has_wait = m.wait = wait;
    m.has_pid = true;
    m.pid = 42;
    Cfs__Op op = CFS__OP__INIT;
    op.lock = &m;
    return fsm_world_op(w, &op);
}

static int set_xattr(struct fsm_world *w, uint64_t ino, const char *name, const char *value)
{
    Cfs__XattrOp m = CFS__XATTR_OP__INIT;
    m.ino = ino;
    m.name = text(name);
    m.has_value = true;
    m.value = text(value);
    Cfs__Op op = CFS__OP__INIT;
    op.xattr = &m;
    return fsm_world_op(w, &op);
}

static int reserve(struct fsm_world *w, uint64_t ino, uint64_t offset, uint64_t length)
{
    Cfs__FallocateOp m = CFS__FALLOCATE_OP__INIT;
    m.ino = ino;
    m.offset = offset;
    m.length = length;
    Cfs__Op op = CFS__OP__INIT;
    op.fallocate = &m;
    return fsm_world_op(w, &op);
}

/* No command takes one yet; the format is there. */
static void take_snapshot(struct fsm_world *w)
{
    struct volume *v;
    CHECK(rows_volume(w->fsm, 1, &v) == 0);
    v->snapshot++;
    w->fsm->volume_dirty = true;
}

void fsm_tour_init(struct fsm_tour *t)
{
    struct fsm_world *w = &t->w;
    fsm_world_init_on(w, kv_mem_new());
    fsm_world_bootstrap(w);
    make_servers(w);
    CHECK(fsm_world_open_session(w, "client-1-16bytes") == 0);
    const uint64_t ended = w->session;
    t->dir = fsm_world_mkdir(w, 1, "d");
    t->file = fsm_world_create(w, 1, "f");
    t->small = fsm_world_create(w, t->dir, "small");
    CHECK(fsm_world_inline(w, t->small, "content") == 0);
    CHECK(fsm_world_make(w, t->dir, "link", S_IFLNK | 0777) == 0);
    (void)fsm_world_create(w, t->dir, "held");
    CHECK(fsm_world_unlink(w, t->dir, "held", true) == 0);
    CHECK(fsm_world_end_session(w, ended) == 0); /* its orphan waits to be reaped */
    CHECK(fsm_world_open_session(w, "client-2-16bytes") == 0);
    (void)fsm_world_create(w, t->dir, "held");
    CHECK(fsm_world_unlink(w, t->dir, "held", true) == 0);
    CHECK(fsm_world_truncate(w, in_pieces(w, "cut"), 0) == 0);
    (void)in_pieces(w, "dead");
    CHECK(fsm_world_unlink(w, 1, "dead", false) == 0);
    for (unsigned i = 0; i < 4; i++) {
        CHECK(fsm_world_write(w, t->file, (uint64_t)i * 65536, 65536) == 0);
    }
    CHECK(fsm_world_write(w, t->small, 0, 65536) == 0); /* makes it a file of extents */
    CHECK(fsm_world_inline(w, t->small, "content") == 0);
    CHECK(deleted(w, 5) == 0); /* the sixth owes it */
    CHECK(fsm_world_truncate(w, t->file, 70000) == 0);
    CHECK(reserve(w, t->file, 131072, 65536) == 0);
    CHECK(set_xattr(w, t->file, "user.a", "value") == 0);
    take_snapshot(w);
    CHECK(fsm_world_truncate(w, t->file, 60000) == 0);
    CHECK(fsm_world_grant(w, 10) == 0);
    CHECK(lock(w, t->file, 7, false) == 0 && lock(w, t->file, 8, true) == ERR_QUEUED);
    move_group(w);
    t->last_ino = fsm_world_create(w, 1, "last");
}

void fsm_tour_copy(struct fsm_tour *t, const struct fsm_tour *from)
{
    struct kv *kv = kv_mem_new();
    struct kv_batch b;
    kv_batch_init(&b);
    struct kv_iter *it = from->w.kv->ops->iter(from->w.kv, NULL);
    for (it->ops->iter_seek(it, BYTES("", 0)); it->ops->iter_valid(it); it->ops->iter_next(it)) {
        kv_batch_put(&b, it->ops->iter_key(it), it->ops->iter_value(it));
    }
    it->ops->iter_free(it);
    CHECK(kv_write(kv, &b, true) == 0);
    kv_batch_release(&b);
    *t = *from;
    fsm_world_init_on(&t->w, kv);
    t->w.now_ns = from->w.now_ns;
    t->w.reign = from->w.reign;
    t->w.session = from->w.session;
    t->w.seq = from->w.seq;
    t->w.acked = from->w.acked;
}

void fsm_tour_release(struct fsm_tour *t)
{
    fsm_world_release(&t->w);
}

bool fsm_tour_row(const struct fsm_tour *t, size_t n, struct buf *key, struct buf *value)
{
    struct kv_iter *it = t->w.kv->ops->iter(t->w.kv, NULL);
    it->ops->iter_seek(it, BYTES("", 0));
    for (; n > 0 && it->ops->iter_valid(it); n--) {
        it->ops->iter_next(it);
    }
    const bool there = it->ops->iter_valid(it);
    if (there) {
        const struct bytes k = it->ops->iter_key(it), v = it->ops->iter_value(it);
        buf_add(key, k.data, k.len);
        buf_add(value, v.data, v.len);
    }
    it->ops->iter_free(it);
    return there;
}

int fsm_tour_damage(struct fsm_tour *t, struct bytes old, struct bytes key, struct bytes value)
{
    struct kv_batch b;
    kv_batch_init(&b);
    kv_batch_delete(&b, old);
    if (value.data != NULL) {
        kv_batch_put(&b, key, value);
    }
    CHECK(kv_write(t->w.kv, &b, true) == 0);
    kv_batch_release(&b);
    return fsm_world_reopen(&t->w);
}

/* ---- the tour ----------------------------------------------------------------------- */

static void read_all(struct fsm_tour *t)
{
    static const uint16_t METHODS[] = {METHOD_GETATTR,  METHOD_READDIR, METHOD_LISTXATTR,
                                       METHOD_EXTENTS,  METHOD_STATFS,  METHOD_TABLES,
                                       METHOD_GETXATTR, METHOD_GETLK,   METHOD_FILE_LAYOUT};
    struct buf out, request;
    buf_init(&out);
    buf_init(&request);
    for (uint64_t ino = 1; ino <= t->last_ino + 1; ino++) {
        for (size_t i = 0; i < array_count(METHODS); i++) {
            /* session, ino, offset or hash, length or bytes: field numbers of all these requests */
            buf_clear(&request);
            const uint64_t fields[] = {t->w.session, ino, 0, 1 << 20, 1};
            for (unsigned f = 0; f < array_count(fields); f++) {
                buf_varint(&request, (f + 1) << 3);
                buf_varint(&request, fields[f]);
            }
            (void)fsm_read(t->w.fsm, METHODS[i], buf_bytes(&request), &out);
            buf_clear(&out);
        }
    }
    Cfs__LookupRequest lookup = CFS__LOOKUP_REQUEST__INIT;
    lookup.session = t->w.session;
    lookup.parent = t->dir;
    lookup.name = text("small");
    (void)fsm_world_read(&t->w, METHOD_LOOKUP, &lookup.base, &out);
    for (unsigned what = FSM_QUERY_SESSIONS; what <= FSM_QUERY_TICKETS; what++) {
        (void)fsm_query(t->w.fsm, what, BYTES("", 0), &out);
    }
    Cfs__QueryRequest owed = CFS__QUERY_REQUEST__INIT;
    owed.has_server = true;
    owed.server = 6;
    uint8_t packed[32];
    const size_t len = cfs__query_request__pack(&owed, packed);
    (void)fsm_query(t->w.fsm, FSM_QUERY_GARBAGE, BYTES(packed, len), &out);
    buf_release(&out);
    buf_release(&request);
}

/* One operation, whatever comes of it. */
static int op(struct fsm_world *w, Cfs__Op *one)
{
    Cfs__Ops m = CFS__OPS__INIT;
    uint8_t packed[512];
    m.n_op = 1;
    m.op = &one;
    Cfs__CommandRequest c = CFS__COMMAND_REQUEST__INIT;
    c.session = w->session;
    c.seq = w->seq + 1;
    c.acked = w->seq;
    CHECK(cfs__ops__get_packed_size(&m) <= sizeof packed);
    c.ops = (ProtobufCBinaryData){cfs__ops__pack(&m, packed), packed};
    int stopped;
    w->seq += fsm_world_try(w, ENTRY_COMMAND, &c.base, &stopped) == 0 && stopped == 0;
    return stopped;
}

static int change_names(struct fsm_tour *t)
{
    Cfs__Op make_op = CFS__OP__INIT, rename_op = CFS__OP__INIT, unlink_op = CFS__OP__INIT;
    Cfs__Who who = CFS__WHO__INIT;
    Cfs__MakeOp make = CFS__MAKE_OP__INIT;
    make.who = &who;
    make.parent = t->dir;
    make.mode = S_IFREG | 0644;
    make.has_name = true;
    make.name = text("new");
    make_op.make = &make;
    Cfs__RenameOp rename = CFS__RENAME_OP__INIT;
    rename.parent = 1;
    rename.name = text("last");
    rename.new_parent = t->dir;
    rename.new_name = text("small");
    rename_op.rename = &rename;
    Cfs__UnlinkOp unlink = CFS__UNLINK_OP__INIT;
    unlink.parent = t->dir;
    unlink.name = text("link");
    unlink_op.unlink = &unlink;
    int rc = op(&t->w, &make_op);
    rc = rc == 0 ? op(&t->w, &rename_op) : rc;
    return rc == 0 ? op(&t->w, &unlink_op) : rc;
}

static int change_data(struct fsm_tour *t)
{
    Cfs__Op setattr_op = CFS__OP__INIT, copy_op = CFS__OP__INIT, punch_op = CFS__OP__INIT;
    Cfs__SetattrOp setattr = CFS__SETATTR_OP__INIT;
    setattr.ino = t->last_ino;
    setattr.has_size = setattr.has_mode = true;
    setattr.size = 3;
    setattr.mode = 0600;
    setattr_op.setattr = &setattr;
    Cfs__CopyOp copy = CFS__COPY_OP__INIT;
    copy.source = t->file;
    copy.ino = t->last_ino;
    copy.offset = 4096;
    copy.length = 100000;
    copy_op.copy = &copy;
    Cfs__FallocateOp punch = CFS__FALLOCATE_OP__INIT;
    punch.ino = t->file;
    punch.mode = 3;
    punch.offset = 1000;
    punch.length = 140000;
    punch_op.fallocate = &punch;
    int rc = op(&t->w, &setattr_op);
    rc = rc == 0 ? op(&t->w, &copy_op) : rc;
    return rc == 0 ? op(&t->w, &punch_op) : rc;
}

static int change_locks(struct fsm_tour *t)
{
    Cfs__Op lock_op = CFS__OP__INIT, grant_op = CFS__OP__INIT, retire_op = CFS__OP__INIT;
    Cfs__LockOp l = CFS__LOCK_OP__INIT;
    l.ino = t->file;
    l.owner = 9;
    l.kind = l.type = 1;
    l.start = 50;
    l.end = 200;
    l.has_wait = l.wait = true;
    lock_op.lock = &l;
    Cfs__GrantIdsOp grant = CFS__GRANT_IDS_OP__INIT;
    grant.count = 10;
    grant_op.grant_ids = &grant;
    Cfs__RetireIdsOp retire = CFS__RETIRE_IDS_OP__INIT;
    retire_op.retire_ids = &retire;
    int rc = op(&t->w, &lock_op);
    rc = rc == 0 ? op(&t->w, &grant_op) : rc;
    return rc == 0 ? op(&t->w, &retire_op) : rc;
}

int fsm_tour_open_another(struct fsm_tour *t)
{
    Cfs__SessionOpen open = CFS__SESSION_OPEN__INIT;
    open.client = text("client-3-16bytes");
    open.host = open.machine = (char *)(uintptr_t) "machine";
    open.boot = (char *)(uintptr_t) "another";
    open.version = (char *)(uintptr_t) "1";
    open.feature_level = 1;
    Cfs__LogSessionOpen m = CFS__LOG_SESSION_OPEN__INIT;
    m.open = &open;
    m.lease_ms = 10000;
    return entry(&t->w, ENTRY_SESSION_OPEN, &m.base);
}

int fsm_tour_use(struct fsm_tour *t)
{
    Cfs__LogReap reap = CFS__LOG_REAP__INIT;
    (void)fsm_audit(t->w.fsm, NULL, NULL);
    read_all(t);
    int rc = change_names(t);
    rc = rc == 0 ? change_data(t) : rc;
    rc = rc == 0 ? change_locks(t) : rc;
    rc = rc == 0 ? deleted(&t->w, 6) : rc;
    rc = rc == 0 ? fsm_tour_open_another(t) : rc;
    for (int i = 0; i < 4 && rc == 0; i++) {
        rc = entry(&t->w, ENTRY_REAP, &reap.base);
    }
    return rc;
}
