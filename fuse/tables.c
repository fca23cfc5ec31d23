#include "fuse/tables.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/table.h"
#include "chunk.pb-c.h"
#include "ec/rs.h"
#include "meta.pb-c.h"
#include "proto/methods.h"

/* A server is usable when the table says so and this client did not find otherwise. What it found:
 * a broken or refused connection, or a call that ran out of time (a stopped process still accepts
 * connections, so a connection alone proves nothing). A server that was found down is asked by a
 * ping until it answers one. */
enum {
    SERVER_UP = 1,
    SERVER_FULL = 4,
    PROBE_MS = 200,
    PING_MS = 3000,
    FULL_MS = 5000,
    INLINE_MAX = 65536,
    SLOTS = array_count(((struct pg *)0)->slot)
};

struct server_entry {
    struct table_node node;
    struct tables *tables;
    uint32_t id, state;
    struct peer *peer;
    bool down, pinging;
    struct call ping;
    uint64_t full_until_ms;
    bool listed; /* in the table that is being taken */
};

struct pg_entry {
    struct table_node node;
    struct pg pg; /* overwritten in place: pointers stay good */
    bool listed;
};

struct fetch_waiter {
    struct list node;
    void (*on_done)(void *ctx, int rc);
    void *ctx;
};

struct tables {
    struct client *client;
    uint32_t version;
    struct table servers, pgs;
    struct session_read read;
    bool reading, again;
    struct buf request;
    struct list waiters; /* struct fetch_waiter: told by the fetch under way */
    struct list later;   /* asked during it: told by the next one */
    struct timer probe;
};

static struct server_entry *server_find(const struct tables *t, uint32_t id)
{
    struct table_node *node = table_find(&t->servers, table_mix(id));
    return node == NULL ? NULL : container_of(node, struct server_entry, node);
}

static struct pg_entry *pg_find(const struct tables *t, uint32_t id)
{
    struct table_node *node = table_find(&t->pgs, table_mix(id));
    return node == NULL ? NULL : container_of(node, struct pg_entry, node);
}

/* ---- what the client found ---- */

static void ping_done(struct call *call)
{
    struct server_entry *e = container_of(call, struct server_entry, ping);
    e->pinging = false;
    if (call->rc == 0) {
        e->down = false;
    } else if (call->rc == ERR_DEADLINE) {
        peer_reset(e->peer);
    }
}

static void ping(struct server_entry *e)
{
    if (e->pinging || e->peer == NULL) {
        return;
    }
    e->pinging = true;
    e->ping = (struct call){.method = METHOD_PING, .timeout_ms = PING_MS, .on_done = ping_done};
    call_start(e->peer, &e->ping);
}

static void probe_arm(struct tables *t)
{
    if (!timer_armed(&t->probe)) {
        timers_arm(t->client->timers, &t->probe, t->client->timers->now_ms + PROBE_MS);
    }
}

static void probe_visit(struct table_node *node, void *ctx)
{
    struct server_entry *e = container_of(node, struct server_entry, node);
    bool *any = ctx;
    if (e->down) {
        *any = true;
        ping(e);
    }
}

static void probe_due(struct timer *timer)
{
    struct tables *t = container_of(timer, struct tables, probe);
    bool any = false;
    table_walk(&t->servers, probe_visit, &any);
    if (any) {
        probe_arm(t);
    }
}

static void peer_up(struct peer *p, void *ctx)
{
    (void)p;
    struct server_entry *e = ctx;
    if (e->down) {
        ping(e);
    }
}

static void peer_down(struct peer *p, int rc, void *ctx)
{
    (void)p;
    (void)rc; /* whatever the reason, it does not answer now */
    struct server_entry *e = ctx;
    e->down = true;
    probe_arm(e->tables);
}

static const struct peer_events PEER_EVENTS = {.on_up = peer_up, .on_down = peer_down};

void tables_found_down(struct tables *t, uint32_t server)
{
    struct server_entry *e = server_find(t, server);
    if (e == NULL) {
        return;
    }
    if (!e->down && e->peer != NULL && peer_is_up(e->peer)) {
        peer_reset(e->peer); /* silent: whatever else waits for it learns it now */
    }
    e->down = true;
    probe_arm(t);
}

void tables_found_full(struct tables *t, uint32_t server)
{
    struct server_entry *e = server_find(t, server);
    if (e != NULL) {
        e->full_until_ms = t->client->timers->now_ms + FULL_MS;
    }
}

/* ---- taking a table ---- */

static void server_forget(struct tables *t, struct server_entry *e)
{
    if (e->pinging) {
        call_cancel(&e->ping);
    }
    if (e->peer != NULL) {
        peer_free(e->peer);
    }
    table_remove(&t->servers, &e->node);
    free(e);
}

static void take_server(struct tables *t, const Cfs__ServerRow *row)
{
    struct server_entry *e = server_find(t, row->id);
    if (e == NULL) {
        e = xcalloc(1, sizeof *e);
        e->id = row->id;
        e->tables = t;
        table_add(&t->servers, &e->node, table_mix(row->id));
    }
    e->listed = true;
    e->state = row->state;
    if (e->peer != NULL && strcmp(peer_address(e->peer), row->address) != 0) {
        if (e->pinging) {
            call_cancel(&e->ping);
            e->pinging = false;
        }
        peer_free(e->peer); /* it was started again on another port */
        e->peer = NULL;
        e->down = false;
    }
    if (e->peer == NULL) {
        e->peer = peer_new(t->client->transport, row->address, &PEER_EVENTS, e);
    }
}

/* Rows come from the network: one that cannot be right is left out, and its group is then unknown.
 */
static void take_pg(struct tables *t, const Cfs__PgRow *row)
{
    if (row->n_slot > SLOTS || row->n_old_slot > SLOTS || row->k > UINT8_MAX ||
        row->m > UINT8_MAX) {
        return;
    }
    struct pg_entry *e = pg_find(t, row->id);
    if (e == NULL) {
        e = xcalloc(1, sizeof *e);
        table_add(&t->pgs, &e->node, table_mix(row->id));
    }
    e->listed = true;
    e->pg = (struct pg){.id = row->id,
                        .epoch = row->epoch,
                        .k = (uint8_t)row->k,
                        .m = (uint8_t)row->m,
                        .width = (uint8_t)row->n_slot};
    for (size_t i = 0; i < row->n_slot; i++) {
        e->pg.slot[i] = row->slot[i];
    }
    for (size_t i = 0; i < row->n_old_slot; i++) {
        e->pg.old_slot[i] = row->old_slot[i];
    }
}

struct sweep {
    struct tables *t;
    bool all;
};

static void unlist_server(struct table_node *node, void *ctx)
{
    (void)ctx;
    container_of(node, struct server_entry, node)->listed = false;
}

static void unlist_pg(struct table_node *node, void *ctx)
{
    (void)ctx;
    container_of(node, struct pg_entry, node)->listed = false;
}

static void sweep_server(struct table_node *node, void *ctx)
{
    const struct sweep *sweep = ctx;
    struct server_entry *e = container_of(node, struct server_entry, node);
    if (sweep->all || !e->listed) {
        server_forget(sweep->t, e);
    }
}

static void sweep_pg(struct table_node *node, void *ctx)
{
    const struct sweep *sweep = ctx;
    struct pg_entry *e = container_of(node, struct pg_entry, node);
    if (sweep->all || !e->listed) {
        table_remove(&sweep->t->pgs, &e->node);
        free(e);
    }
}

bool tables_take_policy(struct client *c, const Cfs__Policy *p)
{
    if (p->k < 1 || p->k > RS_K_MAX || p->m > RS_M_MAX || p->inline_limit > INLINE_MAX) {
        return false;
    }
    c->policy = (struct client_policy){.k = p->k, .m = p->m, .inline_limit = p->inline_limit};
    return true;
}

static int take(struct tables *t, struct bytes packed)
{
    Cfs__TablesReply *reply = cfs__tables_reply__unpack(NULL, packed.len, packed.data);
    if (reply == NULL) {
        return ERR_MALFORMED;
    }
    table_walk(&t->servers, unlist_server, NULL);
    table_walk(&t->pgs, unlist_pg, NULL);
    for (size_t i = 0; i < reply->n_server; i++) {
        take_server(t, reply->server[i]);
    }
    for (size_t i = 0; i < reply->n_pg; i++) {
        take_pg(t, reply->pg[i]);
    }
    struct sweep sweep = {.t = t, .all = false};
    table_walk(&t->servers, sweep_server, &sweep);
    table_walk(&t->pgs, sweep_pg, &sweep);
    (void)tables_take_policy(t->client, reply->policy); /* the one before stays in force */
    t->version = reply->version;
    cfs__tables_reply__free_unpacked(reply, NULL);
    return 0;
}

/* ---- fetching ---- */

static void fetch_send(struct tables *t);

static void tell(struct list *waiters, int rc)
{
    struct list mine;
    list_take_all(waiters, &mine);
    while (!list_empty(&mine)) {
        struct fetch_waiter *w = list_first(&mine, struct fetch_waiter, node);
        list_remove(&w->node);
        w->on_done(w->ctx, rc);
        free(w);
    }
}

static void fetch_done(struct session_read *read)
{
    struct tables *t = container_of(read, struct tables, read);
    t->reading = false;
    const int rc = read->rc != 0 ? read->rc : take(t, read->reply);
    struct list now;
    list_take_all(&t->waiters, &now);
    if (t->again) {
        t->again = false;
        list_take_all(&t->later, &t->waiters);
        fetch_send(t);
    }
    tell(&now, rc);
}

static void fetch_send(struct tables *t)
{
    Cfs__TablesRequest message = CFS__TABLES_REQUEST__INIT;
    message.version = t->version;
    buf_clear(&t->request);
    cfs__tables_request__pack(
        &message, buf_extend(&t->request, cfs__tables_request__get_packed_size(&message)));
    t->read = (struct session_read){
        .method = METHOD_TABLES, .body = buf_bytes(&t->request), .on_done = fetch_done};
    t->reading = true;
    session_read_start(t->client->session, &t->read);
}

void tables_fetch(struct tables *t, void (*on_done)(void *ctx, int rc), void *ctx)
{
    if (on_done != NULL) {
        struct fetch_waiter *w = xcalloc(1, sizeof *w);
        w->on_done = on_done;
        w->ctx = ctx;
        list_add_tail(t->reading ? &t->later : &t->waiters, &w->node);
    }
    if (t->reading) {
        t->again = true; /* the answer under way may be from before what made the caller ask */
        return;
    }
    fetch_send(t);
}

struct tables *tables_new(struct client *c)
{
    struct tables *t = xcalloc(1, sizeof *t);
    t->client = c;
    table_init(&t->servers);
    table_init(&t->pgs);
    buf_init(&t->request);
    list_init(&t->waiters);
    list_init(&t->later);
    t->probe.on_due = probe_due;
    return t;
}

void tables_free(struct tables *t)
{
    if (t == NULL) {
        return;
    }
    if (t->reading) {
        session_read_cancel(&t->read);
    }
    timers_stop(t->client->timers, &t->probe);
    tell(&t->waiters, ERR_CANCELLED);
    tell(&t->later, ERR_CANCELLED);
    struct sweep sweep = {.t = t, .all = true};
    table_walk(&t->servers, sweep_server, &sweep);
    table_walk(&t->pgs, sweep_pg, &sweep);
    table_release(&t->servers);
    table_release(&t->pgs);
    buf_release(&t->request);
    free(t);
}

/* ---- looking ---- */

uint32_t tables_version(const struct tables *t)
{
    return t->version;
}

const struct pg *tables_pg(const struct tables *t, uint32_t pg)
{
    const struct pg_entry *e = pg_find(t, pg);
    return e == NULL ? NULL : &e->pg;
}

struct peer *tables_peer(struct tables *t, uint32_t server)
{
    const struct server_entry *e = server_find(t, server);
    return e == NULL ? NULL : e->peer;
}

static bool is_full(const struct tables *t, const struct server_entry *e)
{
    return e->state == SERVER_FULL || e->full_until_ms > t->client->timers->now_ms;
}

uint64_t tables_up(const struct tables *t, const struct pg *pg)
{
    uint64_t up = 0;
    for (unsigned i = 0; i < pg->width; i++) {
        const struct server_entry *e = server_find(t, pg->slot[i]);
        if (e != NULL && e->state == SERVER_UP && !e->down && !is_full(t, e)) {
            up |= 1ull << i;
        }
    }
    return up;
}

uint64_t tables_full(const struct tables *t, const struct pg *pg)
{
    uint64_t full = 0;
    for (unsigned i = 0; i < pg->width; i++) {
        const struct server_entry *e = server_find(t, pg->slot[i]);
        if (e != NULL && (e->state == SERVER_UP || e->state == SERVER_FULL) && !e->down &&
            is_full(t, e)) {
            full |= 1ull << i;
        }
    }
    return full;
}

bool tables_reachable(const struct tables *t, uint32_t server)
{
    const struct server_entry *e = server_find(t, server);
    return e != NULL && !e->down && (e->state == SERVER_UP || e->state == SERVER_FULL);
}
