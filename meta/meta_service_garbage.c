/* What chunk servers are to delete.
 *
 * The state machine keeps the dead ids of each group; the leader asks it for some and sends one
 * order per group to every server that holds a slot of it. When all have said that they did it, one
 * entry takes the ids off the list.
 *
 * A server that is down, or does not do an order in time, holds up nobody: the entry names those
 * who did it, and the state machine writes down the others as owing it, each in a list of its own.
 * When such a server is heard it is sent orders for what it owes, and each that it does is taken
 * off its list in the same way.
 *
 * A leader that dies loses its orders only: the next one asks again, and deleting twice is
 * harmless. */
#include <stdlib.h>

#include "base/err.h"
#include "base/log.h"
#include "log.pb-c.h"
#include "meta/meta_service_parts.h"

/* ---- orders --------------------------------------------------------------------------------- */

static struct registry_server *owes_order(const struct meta_service *s, const struct order *o)
{
    return o->owed_by != 0 ? registry_find(&s->registry, o->owed_by) : NULL;
}

static void order_free(struct meta_service *s, struct order *o)
{
    struct registry_server *r = owes_order(s, o);
    if (o->owed_by == 0) {
        s->n_orders--;
    } else if (r != NULL) {
        r->owed_orders--;
    }
    list_remove(&o->node);
    free(o->ranges);
    free(o);
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
        o->target[o->n_targets++].server = server;
    }
}

static bool listed(const struct list *orders, uint32_t pg, uint32_t owed_by)
{
    list_for_each(node, orders) {
        const struct order *o = list_entry(node, struct order, node);
        if (o->pg == pg && o->owed_by == owed_by) {
            return true;
        }
    }
    return false;
}

static struct order *order_new(const Cfs__GarbageIds *g)
{
    struct order *o = xcalloc(1, sizeof *o);
    list_init(&o->node);
    o->pg = g->pg;
    const size_t n = g->n_id < SERVICE_ORDER_RANGES ? g->n_id : SERVICE_ORDER_RANGES;
    o->ranges = xcalloc(n, sizeof o->ranges[0]);
    for (size_t i = 0; i < n && o->n_ids < SERVICE_ORDER_IDS; i++) {
        const uint64_t left = SERVICE_ORDER_IDS - o->n_ids;
        Cfs__Uint64Range *r = &o->ranges[o->n_ranges++];
        cfs__uint64_range__init(r);
        r->first = g->id[i]->first;
        r->count = g->id[i]->count < left ? g->id[i]->count : left;
        o->n_ids += r->count;
    }
    return o;
}

static void order_start(struct meta_service *s, struct order *o)
{
    o->number = ++s->next_order;
    list_add_tail(o->n_targets > 0 ? &s->orders : &s->garbage_done, &o->node);
}

static bool is_down(const struct meta_service *s, uint32_t server)
{
    const struct registry_server *r = registry_find(&s->registry, server);
    return r == NULL || r->state == SERVER_DOWN || r->state == SERVER_OUT;
}

/* Nobody waits for this one. */
static bool is_late(const struct meta_service *s, uint32_t server)
{
    return is_down(s, server) || registry_find(&s->registry, server)->late;
}

static bool all_late(const struct meta_service *s, const struct order *o)
{
    for (unsigned i = 0; i < o->n_targets; i++) {
        if (!is_late(s, o->target[i].server)) {
            return false;
        }
    }
    return o->n_targets > 0;
}

static void order_add(struct meta_service *s, const Cfs__GarbageIds *g)
{
    const Cfs__PgRow *pg = find_pg(s, g->pg);
    if (pg == NULL || g->n_id == 0 || listed(&s->orders, g->pg, 0) ||
        listed(&s->garbage_done, g->pg, 0)) {
        return;
    }
    struct order *o = order_new(g);
    s->n_orders++;
    for (size_t i = 0; i < pg->n_slot; i++) {
        order_target(o, pg->slot[i]);
    }
    for (size_t i = 0; i < pg->n_old_slot; i++) {
        order_target(o, pg->old_slot[i]);
    }
    if (all_late(s, o)) { /* there is nobody to begin with */
        order_free(s, o);
    } else {
        order_start(s, o);
    }
}

static void owed_add(struct meta_service *s, struct registry_server *r, const Cfs__GarbageIds *g)
{
    if (g->n_id == 0 || r->owed_orders >= SERVICE_OWED_MAX || listed(&s->orders, g->pg, r->id) ||
        listed(&s->garbage_done, g->pg, r->id)) {
        return;
    }
    struct order *o = order_new(g);
    o->owed_by = r->id;
    r->owed_orders++;
    order_target(o, r->id);
    order_start(s, o);
}

/* ---- what is finished ----------------------------------------------------------------------- */

/* Whether this one need not be waited for any more; one that was given time enough is late from now
 * on. */
static bool given_up(const struct meta_service *s, uint32_t server, uint64_t first_ms)
{
    if (is_late(s, server)) {
        return true;
    }
    if (first_ms == 0 || service_now(s) <= first_ms + SERVICE_ORDER_LATE_MS) {
        return false;
    }
    registry_find(&s->registry, server)->late = true;
    log_warn(
        "chunk server does not delete what it is told to: the others go on without it, server=%u",
        server);
    return true;
}

/* An order is finished when all targets but the late ones did it. If there are only late ones, it
 * is dropped: what it was about is remembered by the state machine. */
static void order_settle(struct meta_service *s, struct order *o)
{
    bool waits = false;
    for (unsigned i = 0; i < o->n_targets; i++) {
        waits = (!o->target[i].done && !given_up(s, o->target[i].server, o->target[i].first_ms)) ||
                waits;
    }
    if (waits) {
        return;
    }
    if (o->n_done > 0) {
        list_remove(&o->node);
        list_add_tail(&s->garbage_done, &o->node);
    } else if (o->owed_by == 0 || is_down(s, o->owed_by)) {
        order_free(s, o);
    }
}

static void order_done(struct meta_service *s, struct registry_server *server, uint64_t number)
{
    if (server->late) {
        server->late = false;
        s->garbage_pending = true; /* groups of which all were late */
    }
    list_for_each_safe(node, follow, &s->orders) {
        struct order *o = list_entry(node, struct order, node);
        if (o->number != number) {
            continue;
        }
        for (unsigned i = 0; i < o->n_targets; i++) {
            if (o->target[i].server == server->id && !o->target[i].done) {
                o->target[i].done = true;
                o->n_done++;
            }
        }
        order_settle(s, o);
        return;
    }
}

static void garbage_propose(struct meta_service *s);
static void owed_ask(struct meta_service *s, const struct registry_server *r);

static void garbage_done(struct proposal *p)
{
    struct meta_service *s = container_of(p, struct meta_service, garbage);
    s->garbage_proposed = false;
    for (unsigned i = 0; i < s->registry.n; i++) {
        if (s->registry.servers[i]->owed_noted) {
            s->registry.servers[i]->owed_noted = false;
            owed_ask(s, s->registry.servers[i]);
        }
    }
    if (p->rc != 0) {
        log_warn("finished deletions could not be noted, error=%s", err_name(p->rc));
    }
    if (s->leader) {
        garbage_propose(s);
    }
}

/* One entry's body while it is made. */
struct finished {
    Cfs__LogGarbageDone m;
    Cfs__GarbageIds **list;
    Cfs__Uint64Range **ranges;
    uint32_t *servers;
    size_t n_ranges, n_servers;
};

static void finished_add(struct finished *f, const struct order *o)
{
    Cfs__GarbageIds *g = f->list[f->m.n_done++];
    cfs__garbage_ids__init(g);
    g->pg = o->pg;
    g->id = f->ranges + f->n_ranges;
    g->n_id = o->n_ranges;
    for (unsigned i = 0; i < o->n_ranges; i++) {
        f->ranges[f->n_ranges++] = &o->ranges[i];
    }
    g->server = f->servers + f->n_servers;
    for (unsigned i = 0; i < o->n_targets; i++) {
        if (o->target[i].done) {
            f->servers[f->n_servers++] = o->target[i].server;
            g->n_server++;
        }
    }
}

/* Takes what is finished off the state machine's list, many orders in one entry. */
static void garbage_propose(struct meta_service *s)
{
    enum { ORDERS_PER_ENTRY = 64, TARGETS = array_count(((struct order *)0)->target) };
    if (s->garbage_proposed || list_empty(&s->garbage_done)) {
        return;
    }
    Cfs__GarbageIds ids[ORDERS_PER_ENTRY];
    Cfs__GarbageIds *list[ORDERS_PER_ENTRY];
    for (unsigned i = 0; i < ORDERS_PER_ENTRY; i++) {
        list[i] = &ids[i];
    }
    struct finished f = {
        .m = CFS__LOG_GARBAGE_DONE__INIT,
        .list = list,
        .ranges = xcalloc((size_t)ORDERS_PER_ENTRY * SERVICE_ORDER_RANGES, sizeof f.ranges[0]),
        .servers = xcalloc((size_t)ORDERS_PER_ENTRY * TARGETS, sizeof f.servers[0]),
    };
    f.m.done = list;
    list_for_each(node, &s->garbage_done) {
        if (f.m.n_done == ORDERS_PER_ENTRY) {
            break;
        }
        finished_add(&f, list_entry(node, struct order, node));
    }
    buf_clear(&s->garbage_body);
    SERVICE_PACK(cfs__log_garbage_done, &f.m, &s->garbage_body);
    free(f.ranges);
    free(f.servers);
    for (size_t i = 0; i < f.m.n_done; i++) {
        struct order *o = list_first(&s->garbage_done, struct order, node);
        struct registry_server *r = owes_order(s, o);
        if (r != NULL) {
            r->owed_noted = true;
        }
        order_free(s, o);
    }
    s->garbage = (struct proposal){
        .type = ENTRY_GARBAGE_DONE, .body = buf_bytes(&s->garbage_body), .on_done = garbage_done};
    s->garbage_proposed = true;
    machine_propose(s->machine, &s->garbage);
}

/* ---- asking for more ------------------------------------------------------------------------ */

/* What a query answered; NULL on an error, and when this server does not lead any more. */
static Cfs__GarbageList *take_list(const struct meta_service *s, struct machine_read *m)
{
    Cfs__GarbageList *list =
        m->rc == 0 ? cfs__garbage_list__unpack(NULL, m->reply.len, m->reply.data) : NULL;
    buf_clear(&m->reply);
    if (list != NULL && !s->leader) {
        cfs__garbage_list__free_unpacked(list, NULL);
        return NULL;
    }
    return list;
}

static void garbage_read(struct machine_read *m)
{
    struct meta_service *s = container_of(m, struct meta_service, garbage_query);
    s->garbage_reading = false;
    Cfs__GarbageList *list = take_list(s, m);
    if (list == NULL) {
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

/* More of it, while there is room for orders. A range of ids that is under way comes again;
 * order_add knows its group. */
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

static void owed_read(struct machine_read *m)
{
    struct meta_service *s = container_of(m, struct meta_service, owed_query);
    s->owed_reading = false;
    Cfs__GarbageList *list = take_list(s, m);
    struct registry_server *r = registry_find(&s->registry, s->owed_server);
    for (size_t i = 0; list != NULL && r != NULL && i < list->n_garbage; i++) {
        owed_add(s, r, list->garbage[i]);
    }
    if (list != NULL && list->n_garbage == 0 && r != NULL && s->owed_seen == s->owed_added) {
        r->owes = false;
    }
    cfs__garbage_list__free_unpacked(list, NULL);
}

/* What this server owes, when it has nothing of that to do. */
static void owed_ask(struct meta_service *s, const struct registry_server *r)
{
    if (!r->owes || r->owed_orders > 0 || r->owed_noted || s->owed_reading || !s->leader) {
        return;
    }
    Cfs__QueryRequest q = CFS__QUERY_REQUEST__INIT;
    q.has_server = q.has_max = true;
    q.server = r->id;
    q.max = SERVICE_BEAT_RANGES;
    buf_clear(&s->owed_request);
    SERVICE_PACK(cfs__query_request, &q, &s->owed_request);
    s->owed_query.request = buf_bytes(&s->owed_request);
    s->owed_reading = true;
    s->owed_server = r->id;
    s->owed_seen = s->owed_added;
    machine_read(s->machine, &s->owed_query);
}

/* ---- heartbeats ----------------------------------------------------------------------------- */

void service_garbage_beat(struct meta_service *s, struct registry_server *server,
                          const uint64_t *done, size_t n_done)
{
    for (size_t i = 0; i < n_done; i++) {
        order_done(s, server, done[i]);
    }
    garbage_propose(s);
    garbage_ask(s);
    owed_ask(s, server);
}

static void pick(struct service_orders *out, const struct order *o, uint64_t reign)
{
    Cfs__DeleteOrder *row = &out->row[out->n];
    cfs__delete_order__init(row);
    row->order = o->number;
    row->reign = reign;
    row->pg = o->pg;
    row->id = xcalloc(o->n_ranges, sizeof row->id[0]);
    row->n_id = o->n_ranges;
    for (unsigned k = 0; k < o->n_ranges; k++) {
        row->id[k] = &o->ranges[k];
    }
    out->list[out->n++] = row;
}

/* The oldest that it was not told of lately, and no more than it does in a short time. */
void service_garbage_pick(struct meta_service *s, uint32_t server, struct service_orders *out)
{
    const uint64_t now = service_now(s);
    uint64_t ranges = 0;
    uint64_t ids = 0;
    out->n = 0;
    list_for_each(node, &s->orders) {
        struct order *o = list_entry(node, struct order, node);
        for (unsigned i = 0; i < o->n_targets; i++) {
            if (o->target[i].server != server || o->target[i].done ||
                (o->target[i].sent_ms != 0 &&
                 now < o->target[i].sent_ms + SERVICE_ORDER_AGAIN_MS)) {
                continue;
            }
            ranges += o->n_ranges;
            ids += o->n_ids;
            if (out->n == SERVICE_ORDERS_PER_BEAT ||
                (out->n > 0 && (ranges > SERVICE_BEAT_RANGES || ids > SERVICE_BEAT_IDS))) {
                return;
            }
            o->target[i].sent_ms = now;
            o->target[i].first_ms = o->target[i].first_ms != 0 ? o->target[i].first_ms : now;
            pick(out, o, machine_state(s->machine).reign);
        }
    }
}

void service_garbage_picked(struct service_orders *o)
{
    for (unsigned i = 0; i < o->n; i++) {
        free(o->row[i].id);
    }
}

/* ---- events --------------------------------------------------------------------------------- */

void service_garbage_applied(struct meta_service *s, const struct fsm_effects *e)
{
    s->garbage_pending = s->garbage_pending || e->garbage_pending;
    if (!e->owed_added) {
        return;
    }
    s->owed_added++;
    for (unsigned i = 0; i < s->registry.n; i++) {
        s->registry.servers[i]->owes = true; /* a look tells which */
    }
}

void service_garbage_tick(struct meta_service *s)
{
    list_for_each_safe(node, follow, &s->orders) {
        order_settle(s, list_entry(node, struct order, node));
    }
    garbage_propose(s);
    garbage_ask(s);
}

void service_garbage_lead(struct meta_service *s)
{
    s->garbage_pending = true; /* the first look says whether */
    /* No number of an earlier reign is given again: a chunk server may still report that one as
     * done, and the ids of another order would be taken off the list without having been deleted.
     */
    s->next_order = machine_state(s->machine).reign << 24;
    s->garbage_after = 0;
    s->owed_added++; /* a question of an earlier reign does not count */
    for (unsigned i = 0; i < s->registry.n; i++) {
        s->registry.servers[i]->owes = true;
        s->registry.servers[i]->late = false;
    }
}

void service_garbage_unlead(struct meta_service *s)
{
    struct order *o;
    while ((o = list_first(&s->orders, struct order, node)) != NULL ||
           (o = list_first(&s->garbage_done, struct order, node)) != NULL) {
        order_free(s, o);
    }
}

void service_garbage_init(struct meta_service *s)
{
    list_init(&s->orders);
    list_init(&s->garbage_done);
    buf_init(&s->garbage_request);
    buf_init(&s->owed_request);
    buf_init(&s->garbage_body);
    s->garbage_query =
        (struct machine_read){.method = FSM_QUERY_GARBAGE, .query = true, .on_done = garbage_read};
    s->owed_query =
        (struct machine_read){.method = FSM_QUERY_GARBAGE, .query = true, .on_done = owed_read};
    buf_init(&s->garbage_query.reply);
    buf_init(&s->owed_query.reply);
}

void service_garbage_release(struct meta_service *s)
{
    buf_release(&s->garbage_query.reply);
    buf_release(&s->owed_query.reply);
    buf_release(&s->garbage_request);
    buf_release(&s->owed_request);
    buf_release(&s->garbage_body);
}
