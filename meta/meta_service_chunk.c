/* Chunk servers: registration, heartbeats, placement groups, policy, and the freeing of dead data.
 */
#include "meta/meta_service_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "admin.pb-c.h"
#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/prng.h"
#include "chunk.pb-c.h"
#include "log.pb-c.h"
#include "meta/placement.h"
#include "proto/methods.h"

/* ---- registration --------------------------------------------------------------------------- */

struct registering {
    struct proposal proposal;
    struct meta_service *service;
    struct request *request;
    struct buf body;
};

static void answer_register(struct meta_service *s, struct request *r, uint32_t id)
{
    Cfs__ChunkRegisterReply reply = CFS__CHUNK_REGISTER_REPLY__INIT;
    struct buf body;
    buf_init(&body);
    reply.id = id;
    reply.cluster = (ProtobufCBinaryData){.len = 16, .data = s->cluster};
    reply.reign = machine_state(s->machine).reign;
    SERVICE_PACK(cfs__chunk_register_reply, &reply, &body);
    request_reply(r, 0, buf_bytes(&body), NULL);
    buf_release(&body);
}

static void register_done(struct proposal *p)
{
    struct registering *g = container_of(p, struct registering, proposal);
    if (p->rc == 0) {
        log_info("chunk server registered");
    }
    g->service->settle_at_ms = service_now(g->service) + SERVICE_SETTLE_MS;
    service_answer_effects(g->request, p);
    buf_release(&g->body);
    free(g);
}

static void propose_register(struct meta_service *s, struct request *r, const Cfs__ChunkRegister *m)
{
    struct registering *g = xcalloc(1, sizeof *g);
    g->service = s;
    g->request = r;
    buf_init(&g->body);
    Cfs__LogRegister entry = CFS__LOG_REGISTER__INIT;
    entry.server = m->server;
    entry.address = m->address;
    entry.domain = m->domain;
    SERVICE_PACK(cfs__log_register, &entry, &g->body);
    g->proposal = (struct proposal){
        .type = ENTRY_REGISTER, .body = buf_bytes(&g->body), .on_done = register_done};
    machine_propose(s->machine, &g->proposal);
}

static bool same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void register_chunk(struct meta_service *s, struct request *r, const Cfs__ChunkRegister *m)
{
    if (m->server.len != 16 || (m->has_cluster && m->cluster.len != 16) ||
        strlen(m->address) > SERVICE_TEXT_MAX || strlen(m->version) > SERVICE_TEXT_MAX ||
        (m->domain != NULL && strlen(m->domain) > SERVICE_TEXT_MAX)) {
        request_fail(r, ERR_MALFORMED, "not the identity and address of a chunk server");
        return;
    }
    if (m->has_cluster && memcmp(m->cluster.data, s->cluster, 16) != 0) {
        request_fail(r, ERR_WRONG_CLUSTER, "this chunk server's disks belong to another cluster");
        return;
    }
    struct registry_server *known = registry_by_uuid(&s->registry, m->server.data);
    if (known != NULL && known->connection != NULL && known->connection != r->peer &&
        !same_text(known->address, m->address) &&
        service_now(s) < known->heard_ms + REGISTRY_SILENT_MS) {
        request_fail(r, ERR_ID_CONFLICT, "a chunk server with this identity is running at %s",
                     known->address);
        return;
    }
    if (known != NULL) {
        free(known->version);
        known->version = xstrdup(m->version);
    }
    if (known != NULL && same_text(known->address, m->address) &&
        same_text(known->domain, m->domain)) {
        answer_register(s, r, known->id);
    } else if (s->registry.n >= REGISTRY_SERVERS_MAX) {
        request_fail(r, ERR_TOO_BIG, "there are %u chunk servers already", s->registry.n);
    } else {
        propose_register(s, r, m);
    }
}

static void handle_register(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    Cfs__ChunkRegister *m = cfs__chunk_register__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
    } else if (!s->cluster_known || s->tables == NULL) {
        request_reply(r, ERR_BUSY, BYTES(NULL, 0), NULL);
    } else {
        register_chunk(s, r, m);
    }
    cfs__chunk_register__free_unpacked(m, NULL);
}

/* ---- heartbeats ----------------------------------------------------------------------------- */

static struct registry_disk *take_disks(const Cfs__ChunkHeartbeat *m, unsigned *n)
{
    *n = (unsigned)(m->n_disk < REGISTRY_DISKS_MAX ? m->n_disk : REGISTRY_DISKS_MAX);
    struct registry_disk *disks = xcalloc(*n + 1, sizeof disks[0]);
    for (unsigned i = 0; i < *n; i++) {
        const Cfs__DiskRow *row = m->disk[i];
        disks[i] = (struct registry_disk){
            .total = row->total,
            .free = row->free,
            .filesystem = row->filesystem,
            .filesystem_free = row->filesystem_free,
            .state = row->state,
            .path = row->path != NULL && strlen(row->path) <= SERVICE_PATH_MAX ? xstrdup(row->path)
                                                                               : NULL,
        };
        if (row->uuid.len == 16) {
            memcpy(disks[i].uuid, row->uuid.data, 16);
        }
    }
    return disks;
}

static void take_counters(struct registry_server *server, const Cfs__ChunkHeartbeat *m)
{
    enum { COUNTERS_MAX = 16 << 10 };
    server->fragments = m->fragments;
    server->corrupt = m->corrupt;
    if (m->counters != NULL && cfs__counters_reply__get_packed_size(m->counters) <= COUNTERS_MAX) {
        buf_clear(&server->counters);
        SERVICE_PACK(cfs__counters_reply, m->counters, &server->counters);
    }
}

static unsigned pick_epochs(const struct meta_service *s, uint32_t server, Cfs__PgEpoch *rows,
                            Cfs__PgEpoch **list)
{
    unsigned n = 0;
    for (size_t i = 0; i < s->tables->n_pg; i++) {
        const Cfs__PgRow *pg = s->tables->pg[i];
        for (size_t k = 0; k < pg->n_slot; k++) {
            if (pg->slot[k] == server) {
                cfs__pg_epoch__init(&rows[n]);
                rows[n].pg = pg->id;
                rows[n].epoch = pg->epoch;
                list[n] = &rows[n];
                n++;
                break;
            }
        }
    }
    return n;
}

static void answer_heartbeat(struct meta_service *s, struct request *r, const Cfs__ChunkHeartbeat *m)
{
    Cfs__ChunkHeartbeatReply reply = CFS__CHUNK_HEARTBEAT_REPLY__INIT;
    struct service_orders orders;
    service_garbage_pick(s, m->id, &orders);
    reply.reign = machine_state(s->machine).reign;
    reply.order = orders.list;
    reply.n_order = orders.n;
    reply.has_epochs_version = true;
    reply.epochs_version = s->epochs_version;
    Cfs__PgEpoch *epochs = NULL;
    Cfs__PgEpoch **epoch_list = NULL;
    if (s->tables != NULL && (!m->has_epochs_version || m->epochs_version != s->epochs_version)) {
        epochs = xcalloc(s->tables->n_pg + 1, sizeof epochs[0]);
        epoch_list = xcalloc(s->tables->n_pg + 1, sizeof epoch_list[0]);
        reply.epoch = epoch_list;
        reply.n_epoch = pick_epochs(s, m->id, epochs, epoch_list);
    }
    struct buf body;
    buf_init(&body);
    SERVICE_PACK(cfs__chunk_heartbeat_reply, &reply, &body);
    request_reply(r, 0, buf_bytes(&body), NULL);
    buf_release(&body);
    service_garbage_picked(&orders);
    free(epochs);
    free(epoch_list);
}

static void heartbeat(struct meta_service *s, struct request *r, const Cfs__ChunkHeartbeat *m)
{
    struct registry_server *server = registry_find(&s->registry, m->id);
    /* A server of another cluster that used to be served at this address: it must register, and is told then. Its
     * fragments have numbers that are dead here. */
    if (server != NULL && m->has_server &&
        (m->server.len != 16 || memcmp(m->server.data, server->uuid, 16) != 0)) {
        server = NULL;
    }
    if (server == NULL) {
        request_reply(r, s->tables == NULL ? ERR_BUSY : ERR_NOT_FOUND, BYTES(NULL, 0), NULL);
        return;
    }
    unsigned n = 0;
    struct registry_disk *disks = take_disks(m, &n);
    take_counters(server, m);
    if (registry_heard(server, disks, n, r->peer, service_now(s))) {
        log_info("chunk server is %s, server=%u", server->state == SERVER_FULL ? "full" : "up", m->id);
        service_tables_changed(s, false);
        s->garbage_pending = true; /* groups of which all were down */
    }
    service_garbage_beat(s, server, m->order_done, m->n_order_done);
    answer_heartbeat(s, r, m);
}

static void handle_heartbeat(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    Cfs__ChunkHeartbeat *m = cfs__chunk_heartbeat__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
        return;
    }
    heartbeat(s, r, m);
    cfs__chunk_heartbeat__free_unpacked(m, NULL);
}

/* ---- placement ------------------------------------------------------------------------------ */

static bool has_groups(const struct meta_service *s, uint32_t k, uint32_t m)
{
    for (size_t i = 0; i < s->tables->n_pg; i++) {
        if (s->tables->pg[i]->k == k && s->tables->pg[i]->m == m) {
            return true;
        }
    }
    return false;
}

/* Servers in the same labelled domain get one number; the others one each. */
static uint32_t domain_of(const struct registry *r, const struct registry_server *s)
{
    for (unsigned i = 0; s->domain != NULL && i < r->n; i++) {
        if (r->servers[i]->domain != NULL && strcmp(r->servers[i]->domain, s->domain) == 0) {
            return r->servers[i]->id;
        }
    }
    return s->id;
}

static unsigned usable_servers(const struct meta_service *s, struct placement_server *out)
{
    unsigned n = 0;
    for (unsigned i = 0; i < s->registry.n; i++) {
        const struct registry_server *r = s->registry.servers[i];
        if (r->state == SERVER_UP || r->state == SERVER_FULL) {
            out[n++] = (struct placement_server){.id = r->id, .domain = domain_of(&s->registry, r)};
        }
    }
    return n;
}

static void pack_groups(const struct placement_group *groups, unsigned n, const Cfs__Policy *policy,
                        uint32_t first_id, struct buf *out)
{
    Cfs__LogGroups m = CFS__LOG_GROUPS__INIT;
    Cfs__PgRow *rows = xcalloc(n, sizeof rows[0]);
    Cfs__PgRow **list = xcalloc(n, sizeof list[0]);
    for (unsigned i = 0; i < n; i++) {
        cfs__pg_row__init(&rows[i]);
        rows[i].id = first_id + i;
        rows[i].epoch = 1;
        rows[i].k = policy->k;
        rows[i].m = policy->m;
        rows[i].slot = (uint32_t *)(uintptr_t)groups[i].slot;
        rows[i].n_slot = policy->k + policy->m;
        list[i] = &rows[i];
    }
    m.pg = list;
    m.n_pg = n;
    buf_clear(out);
    SERVICE_PACK(cfs__log_groups, &m, out);
    free(rows);
    free(list);
}

/* -EINVAL: not enough servers (or failure domains). */
static int plan(struct meta_service *s, const Cfs__Policy *policy)
{
    struct placement_server *servers = xcalloc(s->registry.n + 1, sizeof servers[0]);
    const unsigned n_servers = usable_servers(s, servers);
    const unsigned width = policy->k + policy->m;
    const unsigned n = placement_count(n_servers, width);
    struct placement_group *groups = xcalloc(n + 1, sizeof groups[0]);
    uint32_t first_id = 1;
    for (size_t i = 0; i < s->tables->n_pg; i++) {
        first_id = s->tables->pg[i]->id >= first_id ? s->tables->pg[i]->id + 1 : first_id;
    }
    const uint64_t seed = table_mix2(s->options.random, machine_state(s->machine).applied);
    const int rc = placement_plan(servers, n_servers, width, seed, groups, n);
    if (rc == 0) {
        pack_groups(groups, n, policy, first_id, &s->groups_body);
        log_info("placement planned, policy=%u+%u groups=%u servers=%u", policy->k, policy->m, n,
                 n_servers);
    }
    free(groups);
    free(servers);
    return rc;
}

static void groups_done(struct proposal *p)
{
    struct meta_service *s = container_of(p, struct meta_service, groups);
    s->planning = false;
    if (p->rc != 0) {
        log_warn("placement groups were refused, error=%s", err_name(p->rc));
    }
}

static void plan_if_due(struct meta_service *s)
{
    if (s->planning || s->tables == NULL || s->tables_reading || service_now(s) < s->settle_at_ms) {
        return;
    }
    const Cfs__Policy *p = s->tables->policy;
    if (has_groups(s, p->k, p->m) || registry_count_up(&s->registry) < p->k + p->m ||
        plan(s, p) != 0) {
        return;
    }
    s->planning = true;
    s->groups = (struct proposal){
        .type = ENTRY_GROUPS, .body = buf_bytes(&s->groups_body), .on_done = groups_done};
    machine_propose(s->machine, &s->groups);
}

/* ---- policy --------------------------------------------------------------------------------- */

struct policy_change {
    struct proposal groups, policy;
    struct meta_service *service;
    struct request *request;
    struct buf groups_body, policy_body;
};

static void policy_done(struct proposal *p)
{
    struct policy_change *c = container_of(p, struct policy_change, policy);
    service_answer_effects(c->request, p);
    buf_release(&c->groups_body);
    buf_release(&c->policy_body);
    free(c);
}

static void policy_groups_done(struct proposal *p)
{
    struct policy_change *c = container_of(p, struct policy_change, groups);
    c->service->planning = false;
    if (p->rc != 0) {
        c->policy.rc = p->rc;
        c->policy.effects = p->effects;
        policy_done(&c->policy);
        return;
    }
    machine_propose(c->service->machine, &c->policy);
}

static void policy_change_start(struct meta_service *s, struct request *r, const Cfs__Policy *policy)
{
    struct policy_change *c = xcalloc(1, sizeof *c);
    c->service = s;
    c->request = r;
    buf_init(&c->groups_body);
    buf_init(&c->policy_body);
    Cfs__LogPolicy entry = CFS__LOG_POLICY__INIT;
    entry.policy = (Cfs__Policy *)(uintptr_t)policy;
    SERVICE_PACK(cfs__log_policy, &entry, &c->policy_body);
    c->policy = (struct proposal){
        .type = ENTRY_POLICY, .body = buf_bytes(&c->policy_body), .on_done = policy_done};
    if (has_groups(s, policy->k, policy->m)) {
        machine_propose(s->machine, &c->policy);
        return;
    }
    const int rc = plan(s, policy);
    if (rc != 0) {
        request_fail(r, rc, "policy %u+%u needs %u failure domains", policy->k, policy->m,
                     policy->k + policy->m);
        buf_release(&c->policy_body);
        free(c);
        return;
    }
    buf_add(&c->groups_body, s->groups_body.data, s->groups_body.len);
    s->planning = true;
    c->groups = (struct proposal){
        .type = ENTRY_GROUPS, .body = buf_bytes(&c->groups_body), .on_done = policy_groups_done};
    machine_propose(s->machine, &c->groups);
}

static void policy_set(struct meta_service *s, struct request *r, const Cfs__PolicyRequest *m)
{
    if (m->policy == NULL) {
        request_fail(r, -EINVAL, "no policy given");
        return;
    }
    Cfs__Policy p = *m->policy;
    if (p.k == 0) { /* only the rest changes */
        p.k = s->tables->policy->k;
        p.m = s->tables->policy->m;
    }
    const unsigned up = registry_count_up(&s->registry);
    if (p.k > 32 || p.m > 8) {
        request_fail(r, -EINVAL, "policy %u+%u is out of range: 1 to 32 data, 0 to 8 parity", p.k, p.m);
    } else if (p.k + p.m > up) {
        request_fail(r, -EINVAL, "policy %u+%u needs %u chunk servers, %u are up", p.k, p.m, p.k + p.m,
                     up);
    } else if (s->planning) {
        request_reply(r, ERR_BUSY, BYTES(NULL, 0), NULL);
    } else {
        policy_change_start(s, r, &p);
    }
}

void service_chunk_policy_set(struct meta_service *s, struct request *r)
{
    Cfs__PolicyRequest *m = cfs__policy_request__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
    } else if (s->tables == NULL) {
        request_reply(r, ERR_BUSY, BYTES(NULL, 0), NULL);
    } else {
        policy_set(s, r, m);
    }
    cfs__policy_request__free_unpacked(m, NULL);
}

/* ---- freeing -------------------------------------------------------------------------------- */

static void reap(struct meta_service *s);

static void reap_done(struct proposal *p)
{
    struct meta_service *s = container_of(p, struct meta_service, reap);
    s->reaping = false;
    s->reap_pending = p->effects != NULL && p->effects->reap_pending;
    if (p->rc != 0) {
        log_warn("a step of freeing was refused, error=%s", err_name(p->rc));
        return; /* the tick tries again */
    }
    reap(s);
}

static void reap(struct meta_service *s)
{
    if (!s->leader || !s->reap_pending || s->reaping) {
        return;
    }
    s->reaping = true;
    s->reap = (struct proposal){.type = ENTRY_REAP, .on_done = reap_done};
    machine_propose(s->machine, &s->reap);
}

/* ---- events --------------------------------------------------------------------------------- */

void service_chunk_applied(struct meta_service *s, const struct fsm_effects *e)
{
    service_garbage_applied(s, e);
    s->reap_pending = s->reap_pending || e->reap_pending;
    reap(s);
}

static void count_slots(struct meta_service *s)
{
    for (unsigned i = 0; i < s->registry.n; i++) {
        s->registry.servers[i]->slots = 0;
    }
    for (size_t i = 0; i < s->tables->n_pg; i++) {
        for (size_t k = 0; k < s->tables->pg[i]->n_slot; k++) {
            struct registry_server *r = registry_find(&s->registry, s->tables->pg[i]->slot[k]);
            if (r != NULL) {
                r->slots++;
            }
        }
    }
}

void service_chunk_tables(struct meta_service *s)
{
    s->epochs_version++;
    count_slots(s);
}

void service_chunk_tick(struct meta_service *s)
{
    if (registry_tick(&s->registry, service_now(s))) {
        log_warn("a chunk server is down, up=%u of=%u", registry_count_up(&s->registry),
                 s->registry.n);
        service_tables_changed(s, false);
    }
    plan_if_due(s);
    service_garbage_tick(s);
    reap(s);
}

void service_chunk_lead(struct meta_service *s)
{
    registry_forgive(&s->registry, service_now(s));
    service_garbage_lead(s);
    s->settle_at_ms = service_now(s) + SERVICE_SETTLE_MS;
}

void service_chunk_unlead(struct meta_service *s)
{
    service_garbage_unlead(s);
}

void service_chunk_init(struct meta_service *s)
{
    buf_init(&s->groups_body);
    s->epochs_version = (uint32_t)(s->options.random >> 32 | 1);
    service_garbage_init(s);
    server_handle(s->options.server, METHOD_CHUNK_REGISTER, handle_register, s);
    server_handle(s->options.server, METHOD_CHUNK_HEARTBEAT, handle_heartbeat, s);
}
