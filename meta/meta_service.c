#include "meta/meta_service_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "log.pb-c.h"
#include "proto/methods.h"

/* ---- common --------------------------------------------------------------------------------- */

bool service_leads(struct meta_service *s, struct request *r)
{
    if (s->leader && !s->stopping) {
        return true;
    }
    request_reply(r, ERR_NOT_LEADER, BYTES(NULL, 0), NULL);
    return false;
}

void service_answer_effects(struct request *r, const struct proposal *p)
{
    if (p->effects != NULL) {
        request_reply(r, p->rc, buf_bytes(&p->effects->reply), NULL);
    } else if (p->rc == -ENOSPC) {
        request_fail(r, p->rc, "the metadata server's disk is full but for its reserve: only "
                               "deleting is possible");
    } else {
        request_reply(r, p->rc, BYTES(NULL, 0), NULL);
    }
}

/* Eighths of a raw byte that a byte of data may take: as a copy of one block on m+1 servers, each with a record's
 * header, an eighth of a block. */
static uint64_t worst_eighths(const struct meta_service *s)
{
    return 9 * (uint64_t)(s->tables->policy->m + 1);
}

/* What reserved extents keep from everybody else, up to UINT64_MAX. */
static uint64_t raw_reserved(const struct meta_service *s)
{
    if (s->reserved == 0) {
        return 0;
    }
    if (s->tables == NULL || s->reserved >= UINT64_MAX / 128) {
        return UINT64_MAX;
    }
    const uint64_t slack = registry_slack(&s->registry);
    const uint64_t raw = (s->reserved + 7) / 8 * worst_eighths(s);
    return raw < UINT64_MAX - slack ? raw + slack : UINT64_MAX;
}

uint64_t service_raw_free(const struct meta_service *s)
{
    uint64_t total = 0;
    uint64_t free_bytes = 0;
    registry_space(&s->registry, &total, &free_bytes);
    const uint64_t kept = raw_reserved(s);
    return free_bytes > kept ? free_bytes - kept : 0;
}

uint64_t service_reserve_max(const struct meta_service *s, uint64_t granted, uint64_t *hope)
{
    uint64_t total = 0;
    uint64_t free_bytes = 0;
    registry_space(&s->registry, &total, &free_bytes);
    const uint64_t slack = registry_slack(&s->registry);
    const uint64_t kept = granted < UINT64_MAX - slack ? granted + slack : UINT64_MAX;
    const uint64_t later = free_bytes + registry_untold(&s->registry);
    *hope = later > kept ? (later - kept) / worst_eighths(s) * 8 : 0;
    return free_bytes > kept ? (free_bytes - kept) / worst_eighths(s) * 8 : 0;
}

/* ---- reads ---------------------------------------------------------------------------------- */

struct read {
    struct machine_read read;
    struct request *request;
    struct meta_service *service;
};

/* The namespace knows how many inodes there are; the heartbeats know the space. */
static void statfs_fill(struct meta_service *s, struct buf *reply)
{
    Cfs__StatfsReply *m = cfs__statfs_reply__unpack(NULL, reply->len, reply->data);
    if (m == NULL || s->tables == NULL) {
        cfs__statfs_reply__free_unpacked(m, NULL);
        return;
    }
    const Cfs__Policy *p = s->tables->policy;
    uint64_t total = 0;
    uint64_t free_bytes = 0;
    registry_space(&s->registry, &total, &free_bytes);
    m->total = total / (p->k + p->m) * p->k;
    m->free = service_raw_free(s) / (p->k + p->m) * p->k;
    m->inodes_free = m->free / 4096; /* no quota yet: as many as there is room for */
    m->inodes += m->inodes_free;
    buf_clear(reply);
    SERVICE_PACK(cfs__statfs_reply, m, reply);
    cfs__statfs_reply__free_unpacked(m, NULL);
}

static void read_done(struct machine_read *m)
{
    struct read *r = container_of(m, struct read, read);
    if (m->rc == ERR_MALFORMED) {
        request_malformed(r->request);
    } else {
        if (m->rc == 0 && m->method == METHOD_STATFS) {
            statfs_fill(r->service, &m->reply);
        }
        request_reply(r->request, m->rc, buf_bytes(&m->reply), NULL);
    }
    buf_release(&m->reply);
    free(r);
}

static void handle_read(struct request *request, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, request)) {
        return;
    }
    struct read *r = xcalloc(1, sizeof *r);
    r->service = s;
    r->request = request;
    r->read.method = request->method;
    r->read.request = request->body;
    r->read.on_done = read_done;
    buf_init(&r->read.reply);
    machine_read(s->machine, &r->read);
}

/* ---- tables --------------------------------------------------------------------------------- */

static void tables_states(struct meta_service *s)
{
    for (size_t i = 0; i < s->tables->n_server; i++) {
        const struct registry_server *r = registry_find(&s->registry, s->tables->server[i]->id);
        s->tables->server[i]->state = r != NULL ? (uint32_t)r->state : SERVER_DOWN;
    }
    s->tables->version = s->tables_version;
}

static void handle_tables(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    if (s->tables == NULL) {
        request_reply(r, ERR_BUSY, BYTES(NULL, 0), NULL);
        return;
    }
    struct buf reply;
    buf_init(&reply);
    tables_states(s);
    SERVICE_PACK(cfs__tables_reply, s->tables, &reply);
    request_reply(r, 0, buf_bytes(&reply), NULL);
    buf_release(&reply);
}

static void tables_read(struct meta_service *s)
{
    if (s->tables_reading) {
        s->tables_again = true;
        return;
    }
    s->tables_reading = true;
    machine_read(s->machine, &s->servers_query);
}

static void servers_done(struct machine_read *m)
{
    struct meta_service *s = container_of(m, struct meta_service, servers_query);
    Cfs__RegisteredList *list =
        m->rc == 0 ? cfs__registered_list__unpack(NULL, m->reply.len, m->reply.data) : NULL;
    buf_clear(&m->reply);
    for (size_t i = 0; list != NULL && i < list->n_server; i++) {
        const Cfs__RegisteredList__Server *row = list->server[i];
        if (row->server.len == 16) {
            (void)registry_put(&s->registry, row->id, row->server.data, row->address, row->domain,
                               service_now(s));
        }
    }
    cfs__registered_list__free_unpacked(list, NULL);
    if (s->stopping) {
        return;
    }
    machine_read(s->machine, &s->tables_query);
}

static void tables_done(struct machine_read *m)
{
    struct meta_service *s = container_of(m, struct meta_service, tables_query);
    Cfs__TablesReply *t =
        m->rc == 0 ? cfs__tables_reply__unpack(NULL, m->reply.len, m->reply.data) : NULL;
    buf_clear(&m->reply);
    s->tables_reading = false;
    if (t != NULL) {
        cfs__tables_reply__free_unpacked(s->tables, NULL);
        s->tables = t;
        s->tables_version++;
        service_chunk_tables(s);
        service_session_tables(s);
    }
    if (s->tables_again && !s->stopping) {
        s->tables_again = false;
        tables_read(s);
    }
}

void service_tables_changed(struct meta_service *s, bool replicated)
{
    if (replicated) {
        tables_read(s);
    } else {
        s->tables_version++;
        service_session_tables(s);
    }
}

static void counters_done(struct machine_read *m)
{
    struct meta_service *s = container_of(m, struct meta_service, counters_query);
    s->counters_reading = false;
    Cfs__FsmCounters *c =
        m->rc == 0 ? cfs__fsm_counters__unpack(NULL, m->reply.len, m->reply.data) : NULL;
    buf_clear(&m->reply);
    if (c == NULL) {
        return;
    }
    s->reserved = c->reserved_bytes;
    s->garbage_pending = s->garbage_pending || c->garbage_ids > 0;
    s->reap_pending = s->reap_pending || c->reaps > 0;
    s->feature_level = c->feature_level;
    if (c->cluster.len == 16) {
        memcpy(s->cluster, c->cluster.data, 16);
        s->cluster_known = true;
    }
    cfs__fsm_counters__free_unpacked(c, NULL);
}

void service_counters(struct meta_service *s)
{
    if (!s->counters_reading) {
        s->counters_reading = true;
        machine_read(s->machine, &s->counters_query);
    }
}

/* ---- policy --------------------------------------------------------------------------------- */

static void handle_policy_set(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (service_leads(s, r)) {
        service_chunk_policy_set(s, r);
    }
}

/* ---- events --------------------------------------------------------------------------------- */

static void on_role(void *ctx, bool leader)
{
    struct meta_service *s = ctx;
    s->leader = leader;
    if (!leader) {
        service_session_unlead(s);
        service_chunk_unlead(s);
        return;
    }
    log_info("leading, reign=%llu", (unsigned long long)machine_state(s->machine).reign);
    service_counters(s);
    service_session_lead(s);
    service_chunk_lead(s);
    tables_read(s);
}

static void on_applied(void *ctx, const struct fsm_effects *e)
{
    struct meta_service *s = ctx;
    if (!s->leader) {
        return;
    }
    s->reserved = e->reserved;
    s->registry.stored += e->stored + e->stored / 8; /* with the records' headers */
    service_session_applied(s, e);
    service_chunk_applied(s, e);
    if (e->tables_changed) {
        service_tables_changed(s, true);
    }
}

static void on_fatal(void *ctx, const char *what, int rc)
{
    struct meta_service *s = ctx;
    s->leader = false;
    s->options.on_fatal(s->options.ctx, what, rc);
}

static uint64_t wall_ns(void *ctx)
{
    struct meta_service *s = ctx;
    return s->options.wall_ns(s->options.ctx);
}

const struct machine_events meta_service_events = {
    .on_role = on_role, .on_applied = on_applied, .on_fatal = on_fatal, .wall_ns = wall_ns};

static void on_gone(struct server_peer *p, void *ctx)
{
    struct meta_service *s = ctx;
    service_session_gone(s, p);
    registry_gone(&s->registry, p, service_now(s));
}

void service_watch_gap(struct meta_service *s)
{
    const uint64_t now = service_now(s);
    if (now > s->tick_ms + SERVICE_TICK_MS + SERVICE_GAP_MS) {
        service_session_forgive(s);
        registry_forgive(&s->registry, now);
    }
}

static void tick_due(struct timer *t)
{
    struct meta_service *s = container_of(t, struct meta_service, tick);
    const uint64_t now = service_now(s);
    service_watch_gap(s);
    s->tick_ms = now;
    if (s->leader) {
        service_chunk_tick(s);
    }
    timers_arm(s->options.timers, &s->tick, now + SERVICE_TICK_MS);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void query_init(struct machine_read *q, unsigned what, void (*on_done)(struct machine_read *r))
{
    *q = (struct machine_read){.method = what, .query = true, .on_done = on_done};
    buf_init(&q->reply);
}

struct meta_service *meta_service_new(const struct meta_service_options *options)
{
    static const uint16_t reads[] = {METHOD_LOOKUP,    METHOD_GETATTR, METHOD_READDIR,
                                     METHOD_GETXATTR,  METHOD_LISTXATTR, METHOD_EXTENTS,
                                     METHOD_STATFS,    METHOD_GETLK,   METHOD_FILE_LAYOUT,
                                     METHOD_POLICY_GET};
    struct meta_service *s = xcalloc(1, sizeof *s);
    s->options = *options;
    s->address = xstrdup(options->address != NULL ? options->address : "");
    s->tables_version = (uint32_t)(options->random | 1);
    s->tick.on_due = tick_due;
    table_init(&s->clients);
    registry_init(&s->registry);
    query_init(&s->servers_query, FSM_QUERY_SERVERS, servers_done);
    query_init(&s->tables_query, FSM_QUERY_TABLES, tables_done);
    query_init(&s->counters_query, FSM_QUERY_COUNTERS, counters_done);
    for (size_t i = 0; i < array_count(reads); i++) {
        server_handle(options->server, reads[i], handle_read, s);
    }
    server_handle(options->server, METHOD_TABLES, handle_tables, s);
    server_handle(options->server, METHOD_POLICY_SET, handle_policy_set, s);
    server_on_gone(options->server, on_gone, s);
    service_session_init(s);
    service_chunk_init(s);
    service_status_init(s);
    return s;
}

void meta_service_start(struct meta_service *s, struct machine *m)
{
    s->machine = m;
    s->tick_ms = service_now(s);
    timers_arm(s->options.timers, &s->tick, s->tick_ms + SERVICE_TICK_MS);
}

void meta_service_set_address(struct meta_service *s, const char *address)
{
    free(s->address);
    s->address = xstrdup(address);
}

void meta_service_stop(struct meta_service *s)
{
    s->stopping = true;
    s->leader = false;
    timers_stop(s->options.timers, &s->tick);
}

void meta_service_free(struct meta_service *s)
{
    if (s == NULL) {
        return;
    }
    service_session_unlead(s);
    service_chunk_unlead(s);
    registry_release(&s->registry);
    table_release(&s->clients);
    cfs__tables_reply__free_unpacked(s->tables, NULL);
    buf_release(&s->servers_query.reply);
    buf_release(&s->tables_query.reply);
    buf_release(&s->counters_query.reply);
    buf_release(&s->sessions_query.reply);
    service_garbage_release(s);
    buf_release(&s->groups_body);
    free(s->address);
    free(s);
}
