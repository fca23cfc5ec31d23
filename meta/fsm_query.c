#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "log.pb-c.h"
#include "meta/locks.h"
#include "meta/fsm_parts.h"
#include "meta/sessions.h"
#include "meta/stripes.h"

/* What the leader asks for its plans. Bodies are built field by field in the answer: repeated
 * messages as tag, length, message. */

enum { GARBAGE_RANGES_MAX = 4096 };

static void append_field(struct buf *out, unsigned field, const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    buf_varint(out, field << 3 | 2);
    buf_varint(out, len);
    protobuf_c_message_pack(m, buf_extend(out, len));
}

static void append(struct buf *out, const ProtobufCMessage *m)
{
    protobuf_c_message_pack(m, buf_extend(out, protobuf_c_message_get_packed_size(m)));
}

/* ---- tables --------------------------------------------------------------------------- */

static Cfs__ServerStored *server_unpack(struct bytes value)
{
    if (value.len < 1 || value.data[0] != VALUE_VERSION) {
        return NULL;
    }
    return cfs__server_stored__unpack(NULL, value.len - 1, value.data + 1);
}

static int add_server(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    Cfs__ServerStored *row = server_unpack(value);
    if (row == NULL) {
        return fsm_note(f, ERR_CORRUPT);
    }
    Cfs__ServerRow m = CFS__SERVER_ROW__INIT;
    m.id = get_be32(key.data + 2);
    m.address = row->address;
    m.state = 1;
    append_field(ctx, 2, &m.base);
    cfs__server_stored__free_unpacked(row, NULL);
    return 0;
}

static int add_registered(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    Cfs__ServerStored *row = server_unpack(value);
    if (row == NULL) {
        return fsm_note(f, ERR_CORRUPT);
    }
    Cfs__RegisteredList__Server m = CFS__REGISTERED_LIST__SERVER__INIT;
    m.id = get_be32(key.data + 2);
    m.server = row->server;
    m.address = row->address;
    m.domain = row->domain;
    append_field(ctx, 1, &m.base);
    cfs__server_stored__free_unpacked(row, NULL);
    return 0;
}

static int add_group(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct group g = {.id = get_be32(key.data + 2)};
    int rc = fsm_note(f, stripes_group_decode(value, &g));
    if (rc < 0) {
        return rc;
    }
    Cfs__PgRow m = CFS__PG_ROW__INIT;
    m.id = g.id;
    m.epoch = g.epoch;
    m.k = g.k;
    m.m = g.m;
    m.n_slot = g.k + g.m;
    m.slot = g.slot;
    m.n_old_slot = g.moving ? g.k + g.m : 0;
    m.old_slot = g.old_slot;
    append_field(ctx, 3, &m.base);
    return 0;
}

static int query_policy(struct fsm *f, Cfs__Policy *out)
{
    struct volume *v;
    int rc = rows_volume(f, 1, &v);
    cfs__policy__init(out);
    if (rc == 0) {
        out->k = v->k;
        out->m = v->m;
        out->inline_limit = v->inline_limit;
    }
    return rc;
}

int query_tables(struct fsm *f, struct buf *reply)
{
    buf_varint(reply, 1 << 3); /* field 1: version */
    buf_varint(reply, f->cluster.tables_version);
    struct key prefix;
    key_start(&prefix, SPACE_CLUSTER, 's');
    int rc = rows_each(f, &prefix, add_server, reply);
    if (rc == 0) {
        stripes_group_prefix(&prefix);
        rc = rows_each(f, &prefix, add_group, reply);
    }
    Cfs__Policy policy;
    if (rc == 0) {
        rc = query_policy(f, &policy);
    }
    if (rc == 0) {
        append_field(reply, 4, &policy.base);
    }
    return rc;
}

static int query_servers(struct fsm *f, struct buf *reply)
{
    struct key prefix;
    key_start(&prefix, SPACE_CLUSTER, 's');
    return rows_each(f, &prefix, add_registered, reply);
}

/* ---- sessions ---------------------------------------------------------------------------- */

static int count_row(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f, (void)key, (void)value;
    ++*(uint32_t *)ctx;
    return 0;
}

static int count_rows(struct fsm *f, uint8_t space, uint8_t table, uint64_t session, uint32_t *out)
{
    struct key prefix;
    key_start(&prefix, space, table);
    key_add_u64(&prefix, session);
    return rows_each(f, &prefix, count_row, out);
}

static int add_session(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    if (value.len < 1 || value.data[0] != VALUE_VERSION) {
        return fsm_note(f, ERR_CORRUPT);
    }
    Cfs__SessionStored *row = cfs__session_stored__unpack(NULL, value.len - 1, value.data + 1);
    if (row == NULL) {
        return fsm_note(f, ERR_CORRUPT);
    }
    Cfs__SessionList__Session m = CFS__SESSION_LIST__SESSION__INIT;
    struct session s;
    m.session = key_u64_at(key, 2);
    m.open = row->open;
    m.opened_ns = row->opened_ns;
    m.lease_ms = row->lease_ms;
    int rc = sessions_get(f, m.session, &s);
    if (rc == 0) {
        m.last_seq = s.last_seq;
        rc = count_rows(f, SPACE_LOCK, 's', m.session, &m.locks);
    }
    if (rc == 0) {
        rc = count_rows(f, SPACE_SESSION, 'o', m.session, &m.orphans);
    }
    if (rc == 0) {
        append_field(ctx, 1, &m.base);
    }
    cfs__session_stored__free_unpacked(row, NULL);
    return rc;
}

static int query_sessions(struct fsm *f, struct buf *reply)
{
    struct key prefix;
    key_start(&prefix, SPACE_SESSION, 's');
    return rows_each(f, &prefix, add_session, reply);
}

/* ---- garbage --------------------------------------------------------------------------------- */

/* The ranges of one group are gathered, then packed as one GarbageIds. */
struct garbage {
    struct key prefix; /* of the list; behind it group and last id */
    struct buf *reply;
    uint32_t pg;
    Cfs__Uint64Range *range;
    Cfs__Uint64Range **list;
    size_t n, total, max;
    bool more;
};

static void garbage_flush(struct garbage *g)
{
    if (g->n == 0) {
        return;
    }
    Cfs__GarbageIds m = CFS__GARBAGE_IDS__INIT;
    m.pg = g->pg;
    m.n_id = g->n;
    m.id = g->list;
    append_field(g->reply, 1, &m.base);
    g->n = 0;
}

static int add_garbage(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct garbage *g = ctx;
    if (value.len != 9) {
        return fsm_note(f, ERR_CORRUPT);
    }
    uint32_t pg = get_be32(key.data + g->prefix.len);
    if (pg != g->pg) {
        garbage_flush(g);
        if (g->total >= g->max) {
            g->more = true;
            return 1;
        }
    }
    g->pg = pg;
    if (g->total >= g->max) {
        g->more = true; /* of this group too: it comes first again when these are done */
        return 1;
    }
    Cfs__Uint64Range *r = &g->range[g->n];
    cfs__uint64_range__init(r);
    r->first = get_le64(value.data + 1);
    r->count = key_u64_at(key, key.len - 8) - r->first + 1;
    g->list[g->n++] = r;
    g->total++;
    return 0;
}

static int garbage_from(struct fsm *f, uint32_t first_pg, struct garbage *g)
{
    struct key from = g->prefix;
    key_add_u32(&from, first_pg);
    struct overlay_scan s;
    overlay_scan_init(&s, f->overlay, key_bytes(&g->prefix), key_bytes(&from));
    int rc = 0;
    for (; s.valid && rc == 0; overlay_scan_next(&s)) {
        rc = add_garbage(f, s.key, s.value, g);
        if (rc != 0) {
            break;
        }
    }
    if (rc == 0) {
        rc = s.error;
    }
    overlay_scan_release(&s);
    return rc < 0 ? rc : 0;
}

static int query_garbage(struct fsm *f, struct bytes request, struct buf *reply)
{
    Cfs__QueryRequest *m = cfs__query_request__unpack(NULL, request.len, request.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    struct garbage g = {.reply = reply};
    if (m->has_server) {
        stripes_owed_prefix(&g.prefix, m->server);
    } else {
        stripes_garbage_prefix(&g.prefix);
    }
    g.max = m->has_max && m->max > 0 && m->max < GARBAGE_RANGES_MAX ? m->max : GARBAGE_RANGES_MAX;
    g.range = xcalloc(g.max, sizeof *g.range);
    g.list = xcalloc(g.max, sizeof *g.list);
    int rc = 0;
    if (!m->has_after || m->after < UINT32_MAX) {
        rc = garbage_from(f, m->has_after ? (uint32_t)m->after + 1 : 0, &g);
    }
    garbage_flush(&g);
    buf_varint(reply, 2 << 3); /* field 2: end */
    buf_varint(reply, !g.more);
    free(g.range);
    free(g.list);
    cfs__query_request__free_unpacked(m, NULL);
    return rc;
}

/* ---- counters
 * ------------------------------------------------------------------------------------ */

static int add_owed(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    if (value.len != 9) {
        return fsm_note(f, ERR_CORRUPT);
    }
    Cfs__FsmCounters__Owed m = CFS__FSM_COUNTERS__OWED__INIT;
    m.server = get_be32(key.data + 2);
    m.ids = get_le64(value.data + 1);
    append_field(ctx, 15, &m.base);
    return 0;
}

static int query_counters(struct fsm *f, struct buf *reply)
{
    Cfs__FsmCounters m = CFS__FSM_COUNTERS__INIT;
    Cfs__Policy policy;
    int rc = query_policy(f, &policy);
    if (rc < 0 && f->cluster.known) {
        return rc;
    }
    const uint64_t *v = f->counters.v;
    m.policy = &policy;
    m.cluster = (ProtobufCBinaryData){.len = f->cluster.known ? 16 : 0, .data = f->cluster.id};
    m.reign = f->cluster.reign;
    m.feature_level = f->cluster.feature_level;
    m.tables_version = f->cluster.tables_version;
    m.inodes = f->cluster.known ? f->volume.inodes : 0;
    m.user_bytes = f->cluster.known ? f->volume.bytes : 0;
    m.stripes = v[COUNT_STRIPES];
    m.stored_bytes = v[COUNT_STORED_BYTES];
    m.garbage_ids = v[COUNT_GARBAGE_IDS];
    m.orphans = v[COUNT_ORPHANS];
    m.sessions = v[COUNT_SESSIONS];
    m.locks = v[COUNT_LOCKS];
    m.reaps = v[COUNT_REAPS];
    m.reserved_bytes = v[COUNT_RESERVED_BYTES];
    append(reply, &m.base);
    struct key prefix;
    stripes_owed_count_prefix(&prefix);
    return rows_each(f, &prefix, add_owed, reply);
}

static int query_tickets(struct fsm *f, struct bytes request, struct buf *reply)
{
    Cfs__QueryRequest *m = cfs__query_request__unpack(NULL, request.len, request.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    Cfs__TicketList list = CFS__TICKET_LIST__INIT;
    list.granted = xcalloc(m->n_ticket + 1, sizeof list.granted[0]);
    struct session s; /* of an ended one nothing waits, and nothing was granted */
    int rc = sessions_get(f, m->session, &s);
    for (size_t i = 0; i < m->n_ticket && rc >= 0; i++) {
        rc = locks_waits(f, m->session, m->ticket[i]);
        if (rc == 0) {
            list.granted[list.n_granted++] = m->ticket[i];
        }
    }
    if (rc >= 0) {
        append(reply, &list.base);
    }
    free(list.granted);
    cfs__query_request__free_unpacked(m, NULL);
    return rc < 0 ? rc : 0;
}

int fsm_query(struct fsm *f, unsigned what, struct bytes request, struct buf *reply)
{
    int failed = f->failed;
    size_t before = reply->len;
    int rc = ERR_UNKNOWN_CALL;
    switch (what) {
    case FSM_QUERY_SESSIONS:
        rc = query_sessions(f, reply);
        break;
    case FSM_QUERY_GARBAGE:
        rc = query_garbage(f, request, reply);
        break;
    case FSM_QUERY_COUNTERS:
        rc = query_counters(f, reply);
        break;
    case FSM_QUERY_SERVERS:
        rc = query_servers(f, reply);
        break;
    case FSM_QUERY_TABLES:
        rc = f->cluster.known ? query_tables(f, reply) : ERR_BUSY;
        break;
    case FSM_QUERY_TICKETS:
        rc = query_tickets(f, request, reply);
        break;
    default:
        break;
    }
    f->failed = failed;
    if (rc < 0) {
        reply->len = before;
    }
    return rc;
}
