/* Chunk servers: registration, heartbeats, placement groups, policy, and what is to be deleted.
 *
 * Garbage. The state machine keeps the dead ids; the leader asks it for some, sends one order per group to every
 * server that holds a slot of it, and when all have said that they did it, one entry takes the ids
 * off the list. A server that is down holds up the groups that it is in, no others. A leader that
 * dies loses its orders only: the next one asks again, and deleting twice is harmless. */
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

/* ---- orders --------------------------------------------------------------------------------- */

static void order_free(struct order *o)
{
    list_remove(&o->node);
    free(o->ranges);
    free(o);
}

static void orders_clear(struct meta_service *s)
{
    struct order *o;
    while ((o = list_first(&s->orders, struct order, node)) != NULL ||
           (o = list_first(&s->garbage_done, struct order, node)) != NULL) {
        order_free(o);
    }
    s->n_orders = 0;
}

static const Cfs__PgRow *find_pg(const struct meta_service *s, uint32_t id)
{
    for (size_t i = 0; s->tables != NULL && i < s->tables->n_pg; i++) {
        if (s->tables->pg[i]->id == id) {
            return s->tables->pg[i];
        }
    }
    return NULL;
}

static void order_target(struct order *o, uint32_t server)
{
    for (unsigned i = 0; i < o->n_targets; i++) {
        if (o->target[i].server == server) {
            return;
        }
    }
    if (server != 0 && o->n_targets < array_count(o->target)) {
        o->target[o->n_targets].server = server;
        o->n_targets++;
        o->left++;
    }
}

static bool ordered(const struct meta_service *s, uint32_t pg)
{
    list_for_each(node, &s->orders) {
        if (list_entry(node, struct order, node)->pg == pg) {
            return true;
        }
    }
    list_for_each(node, &s->garbage_done) {
        if (list_entry(node, struct order, node)->pg == pg) {
            return true;
        }
    }
    return false;
}

static void order_add(struct meta_service *s, const Cfs__GarbageIds *g)
{
    const Cfs__PgRow *pg = find_pg(s, g->pg);
    if (pg == NULL || g->n_id == 0 || ordered(s, g->pg)) {
        return;
    }
    struct order *o = xcalloc(1, sizeof *o);
    o->number = ++s->next_order;
    o->pg = g->pg;
    o->n_ranges = (unsigned)(g->n_id < SERVICE_ORDER_RANGES ? g->n_id : SERVICE_ORDER_RANGES);
    o->ranges = xcalloc(o->n_ranges, sizeof o->ranges[0]);
    for (unsigned i = 0; i < o->n_ranges; i++) {
        cfs__uint64_range__init(&o->ranges[i]);
        o->ranges[i].first = g->id[i]->first;
        o->ranges[i].count = g->id[i]->count;
    }
    for (size_t i = 0; i < pg->n_slot; i++) {
        order_target(o, pg->slot[i]);
    }
    for (size_t i = 0; i < pg->n_old_slot; i++) {
        order_target(o, pg->old_slot[i]);
    }
    list_init(&o->node);
    list_add_tail(o->left > 0 ? &s->orders : &s->garbage_done, &o->node);
    s->n_orders++;
}

static void garbage_propose(struct meta_service *s);

static void order_done(struct meta_service *s, uint32_t server, uint64_t number)
{
    list_for_each_safe(node, follow, &s->orders) {
        struct order *o = list_entry(node, struct order, node);
        if (o->number != number) {
            continue;
        }
        for (unsigned i = 0; i < o->n_targets; i++) {
            if (o->target[i].server == server && !o->target[i].done) {
                o->target[i].done = true;
                o->left--;
            }
        }
        if (o->left == 0) {
            list_remove(&o->node);
            list_add_tail(&s->garbage_done, &o->node);
        }
        return;
    }
}

static void garbage_done(struct proposal *p)
{
    struct meta_service *s = container_of(p, struct meta_service, garbage);
    s->garbage_proposed = false;
    if (p->rc != 0) {
        log_warn("finished deletions could not be noted, error=%s", err_name(p->rc));
    }
    if (s->leader) {
        garbage_propose(s);
    }
}

/* Takes what is finished off the state machine's list, many orders in one entry. */
static void garbage_propose(struct meta_service *s)
{
    enum { ORDERS_PER_ENTRY = 64 };
    if (s->garbage_proposed || list_empty(&s->garbage_done)) {
        return;
    }
    Cfs__GarbageIds ids[ORDERS_PER_ENTRY];
    Cfs__GarbageIds *list[ORDERS_PER_ENTRY];
    Cfs__Uint64Range **ranges = xcalloc(ORDERS_PER_ENTRY * SERVICE_ORDER_RANGES, sizeof ranges[0]);
    Cfs__LogGarbageDone m = CFS__LOG_GARBAGE_DONE__INIT;
    size_t used = 0;
    list_for_each(node, &s->garbage_done) {
        const struct order *o = list_entry(node, struct order, node);
        if (m.n_done == ORDERS_PER_ENTRY) {
            break;
        }
        Cfs__GarbageIds *g = &ids[m.n_done];
        cfs__garbage_ids__init(g);
        g->pg = o->pg;
        g->id = ranges + used;
        g->n_id = o->n_ranges;
        for (unsigned i = 0; i < o->n_ranges; i++) {
            ranges[used++] = &o->ranges[i];
        }
        list[m.n_done++] = g;
    }
    m.done = list;
    buf_clear(&s->garbage_body);
    SERVICE_PACK(cfs__log_garbage_done, &m, &s->garbage_body);
    free(ranges);
    for (size_t i = 0; i < m.n_done; i++) {
        order_free(list_first(&s->garbage_done, struct order, node));
        s->n_orders--;
    }
    s->garbage = (struct proposal){
        .type = ENTRY_GARBAGE_DONE, .body = buf_bytes(&s->garbage_body), .on_done = garbage_done};
    s->garbage_proposed = true;
    machine_propose(s->machine, &s->garbage);
}

static void garbage_read(struct machine_read *m)
{
    struct meta_service *s = container_of(m, struct meta_service, garbage_query);
    s->garbage_reading = false;
    Cfs__GarbageList *list =
        m->rc == 0 ? cfs__garbage_list__unpack(NULL, m->reply.len, m->reply.data) : NULL;
    buf_clear(&m->reply);
    if (list == NULL || !s->leader) {
        cfs__garbage_list__free_unpacked(list, NULL);
        return;
    }
    for (size_t i = 0; i < list->n_garbage && s->n_orders < SERVICE_ORDERS_MAX; i++) {
        order_add(s, list->garbage[i]);
        s->garbage_after = list->garbage[i]->pg;
    }
    if (list->end || list->n_garbage == 0) {
        s->garbage_after = 0;
        s->garbage_pending = s->n_orders > 0; /* else the next applied entry says so */
    }
    cfs__garbage_list__free_unpacked(list, NULL);
    garbage_propose(s); /* groups without any server left */
}

/* More of it, while there is room for orders. A range of ids that is under way comes again; order_add
 * knows its group. */
static void garbage_ask(struct meta_service *s)
{
    if (!s->garbage_pending || s->garbage_reading || s->n_orders >= SERVICE_ORDERS_MAX / 2 ||
        service_now(s) < s->garbage_at_ms) {
        return;
    }
    Cfs__QueryRequest q = CFS__QUERY_REQUEST__INIT;
    q.has_after = s->garbage_after > 0;
    q.after = s->garbage_after;
    q.has_max = true;
    q.max = 16 * SERVICE_ORDER_RANGES;
    buf_clear(&s->garbage_request);
    SERVICE_PACK(cfs__query_request, &q, &s->garbage_request);
    s->garbage_query.request = buf_bytes(&s->garbage_request);
    s->garbage_reading = true;
    s->garbage_at_ms = service_now(s) + 20;
    machine_read(s->machine, &s->garbage_query);
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

/* What this server is to delete: the oldest that it was not told of lately. */
static unsigned pick_orders(struct meta_service *s, uint32_t server, Cfs__DeleteOrder *rows,
                            Cfs__DeleteOrder **list, Cfs__Uint64Range ***ranges)
{
    unsigned n = 0;
    const uint64_t now = service_now(s);
    list_for_each(node, &s->orders) {
        struct order *o = list_entry(node, struct order, node);
        for (unsigned i = 0; i < o->n_targets && n < SERVICE_ORDERS_PER_BEAT; i++) {
            if (o->target[i].server != server || o->target[i].done ||
                (o->target[i].sent_ms != 0 && now < o->target[i].sent_ms + SERVICE_ORDER_AGAIN_MS)) {
                continue;
            }
            o->target[i].sent_ms = now;
            Cfs__DeleteOrder *row = &rows[n];
            cfs__delete_order__init(row);
            row->order = o->number;
            row->reign = machine_state(s->machine).reign;
            row->pg = o->pg;
            ranges[n] = xcalloc(o->n_ranges, sizeof ranges[n][0]);
            for (unsigned k = 0; k < o->n_ranges; k++) {
                ranges[n][k] = &o->ranges[k];
            }
            row->id = ranges[n];
            row->n_id = o->n_ranges;
            list[n] = row;
            n++;
        }
    }
    return n;
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
    Cfs__DeleteOrder rows[SERVICE_ORDERS_PER_BEAT];
    Cfs__DeleteOrder *orders[SERVICE_ORDERS_PER_BEAT];
    Cfs__Uint64Range **ranges[SERVICE_ORDERS_PER_BEAT];
    reply.reign = machine_state(s->machine).reign;
    reply.order = orders;
    reply.n_order = pick_orders(s, m->id, rows, orders, ranges);
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
    for (size_t i = 0; i < reply.n_order; i++) {
        free(ranges[i]);
    }
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
    }
    for (size_t i = 0; i < m->n_order_done; i++) {
        order_done(s, m->id, m->order_done[i]);
    }
    garbage_propose(s);
    garbage_ask(s);
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
    s->garbage_pending = s->garbage_pending || e->garbage_pending;
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
    garbage_propose(s);
    garbage_ask(s);
    reap(s);
}

void service_chunk_lead(struct meta_service *s)
{
    registry_forgive(&s->registry, service_now(s));
    s->garbage_pending = true; /* the first look says whether */
    /* No number of an earlier reign is given again: a chunk server may still report that one as done, and
     * the ids of another order would be taken off the list without having been deleted. */
    s->next_order = machine_state(s->machine).reign << 20;
    s->garbage_after = 0;
    s->settle_at_ms = service_now(s) + SERVICE_SETTLE_MS;
}

void service_chunk_unlead(struct meta_service *s)
{
    orders_clear(s);
}

void service_chunk_init(struct meta_service *s)
{
    list_init(&s->orders);
    list_init(&s->garbage_done);
    buf_init(&s->garbage_request);
    buf_init(&s->garbage_body);
    buf_init(&s->groups_body);
    s->epochs_version = (uint32_t)(s->options.random >> 32 | 1);
    s->garbage_query = (struct machine_read){
        .method = FSM_QUERY_GARBAGE, .query = true, .on_done = garbage_read};
    buf_init(&s->garbage_query.reply);
    server_handle(s->options.server, METHOD_CHUNK_REGISTER, handle_register, s);
    server_handle(s->options.server, METHOD_CHUNK_HEARTBEAT, handle_heartbeat, s);
}
