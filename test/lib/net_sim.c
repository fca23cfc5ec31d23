#include "test/lib/net_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/err.h"

/* A connection is two ends. What one end sends is copied into a packet in the other end's inbox,
 * with the time of its arrival, never before that of the packet ahead of it. The opening and the
 * close are packets too, so they keep their place in the order. */
enum { NODES_MAX = 64, CONNECT_MS = 3000, STARVED_MS = 1 };
enum packet_kind { PACKET_MESSAGE, PACKET_OPEN, PACKET_CLOSE };

struct listener {
    struct list node;
    char address[64];
    bool (*accept)(struct conn *c, void *ctx);
    void *ctx;
};

struct sim_node {
    struct transport base;
    struct net_sim *net;
    unsigned index;
    const char *name;
    unsigned next_port;
    struct list listeners, ends;
    bool shutting;
    void (*on_done)(void *ctx);
    void *on_done_ctx;
    struct timer done_timer;
};

struct net_sim {
    struct timers *timers;
    struct prng prng;
    uint64_t min_ms, max_ms;
    struct sim_node *node[NODES_MAX];
    unsigned n_nodes;
    bool cut[NODES_MAX][NODES_MAX];
};

struct packet {
    struct list node;
    enum packet_kind kind;
    uint64_t at_ms;
    int rc; /* of a close */
    struct frame frame;
    struct buf body, payload;
};

struct end {
    struct conn base;
    struct sim_node *owner;
    struct sim_node *far;
    struct end *other; /* NULL: gone, or never there */
    struct list node;
    struct list inbox;
    struct list sent; /* outgoings whose on_sent is due */
    struct timer arrive, sent_timer, close_timer;
    uint64_t last_at_ms;
    char peer[64];
    bool closing, paused;
    int rc;
};

static struct sim_node *node_of(struct transport *t)
{
    return container_of(t, struct sim_node, base);
}

static struct end *end_of(const struct conn *c)
{
    return container_of((struct conn *)(uintptr_t)c, struct end, base);
}

static uint64_t delay(struct net_sim *n)
{
    return n->min_ms + prng_below(&n->prng, n->max_ms - n->min_ms + 1);
}

static bool is_cut(const struct end *e)
{
    return e->owner->net->cut[e->owner->index][e->far->index];
}

static void packet_free(struct packet *p)
{
    list_remove(&p->node);
    buf_release(&p->body);
    buf_release(&p->payload);
    free(p);
}

/* The next arrival; while it may not happen (paused, cut) whoever lifts the hindrance arms again.
 */
static void arm_arrival(struct end *e)
{
    struct timers *ts = e->owner->net->timers;
    if (e->closing || e->paused || is_cut(e) || list_empty(&e->inbox)) {
        timers_stop(ts, &e->arrive);
        return;
    }
    uint64_t at = list_first(&e->inbox, struct packet, node)->at_ms;
    timers_arm(ts, &e->arrive, at > ts->now_ms ? at : ts->now_ms);
}

static struct packet *post(struct end *to, enum packet_kind kind)
{
    struct net_sim *n = to->owner->net;
    struct packet *p = calloc(1, sizeof *p);
    p->kind = kind;
    p->at_ms = n->timers->now_ms + delay(n);
    p->at_ms = p->at_ms > to->last_at_ms ? p->at_ms : to->last_at_ms;
    to->last_at_ms = p->at_ms;
    list_add_tail(&to->inbox, &p->node);
    return p;
}

/* ---- closing ---------------------------------------------------------------------------- */

static void finish_node(struct sim_node *s)
{
    if (s->shutting && list_empty(&s->ends)) {
        timers_arm(s->net->timers, &s->done_timer, s->net->timers->now_ms);
    }
}

static void run_sent(struct end *e, int rc)
{
    struct list due;
    list_take_all(&e->sent, &due);
    while (!list_empty(&due)) {
        struct outgoing *o = list_first(&due, struct outgoing, node);
        list_remove(&o->node);
        o->item = NULL;
        o->on_sent(o, rc);
    }
}

static void on_close_due(struct timer *t)
{
    struct end *e = container_of(t, struct end, close_timer);
    struct sim_node *owner = e->owner;
    timers_stop(owner->net->timers, &e->arrive);
    timers_stop(owner->net->timers, &e->sent_timer);
    run_sent(e, ERR_DISCONNECTED);
    while (!list_empty(&e->inbox)) {
        packet_free(list_first(&e->inbox, struct packet, node));
    }
    if (e->other != NULL) {
        e->other->other = NULL;
    }
    list_remove(&e->node);
    if (e->base.events != NULL) {
        e->base.events->on_closed(&e->base, e->rc, e->base.ctx);
    }
    free(e);
    finish_node(owner);
}

static void begin_close(struct end *e, int rc, int rc_other)
{
    if (e->closing) {
        return;
    }
    e->closing = true;
    e->rc = rc;
    timers_stop(e->owner->net->timers, &e->arrive);
    timers_arm(e->owner->net->timers, &e->close_timer, e->owner->net->timers->now_ms);
    if (e->other != NULL && !e->other->closing) {
        post(e->other, PACKET_CLOSE)->rc = rc_other;
        arm_arrival(e->other);
    }
}

/* ---- arriving --------------------------------------------------------------------------- */

/* False: no buffer for its payload now. */
static bool deliver(struct end *e, struct packet *p)
{
    struct message m = {.frame = p->frame, .body = buf_bytes(&p->body)};
    struct transport *t = &e->owner->base;
    if (p->payload.len != 0) {
        if (t->payloads == NULL || p->payload.len > databuf_pool_buffer_bytes(t->payloads)) {
            transport_fault(&e->base, FRAME_PAYLOAD_TOO_LONG);
            return true;
        }
        m.payload = databuf_get(t->payloads);
        if (m.payload == NULL) {
            return false;
        }
        memcpy(m.payload->data, p->payload.data, p->payload.len);
        m.payload->len = p->payload.len;
    }
    t->counts.frames_in++;
    e->base.events->on_message(&e->base, &m, e->base.ctx);
    databuf_unref(m.payload);
    return true;
}

static void on_arrival(struct timer *t)
{
    struct end *e = container_of(t, struct end, arrive);
    struct packet *p = list_first(&e->inbox, struct packet, node);
    CHECK(p != NULL);
    if (p->kind == PACKET_MESSAGE && !deliver(e, p)) {
        timers_arm(e->owner->net->timers, &e->arrive, e->owner->net->timers->now_ms + STARVED_MS);
        return;
    }
    if (p->kind == PACKET_OPEN && e->base.events->on_open != NULL) {
        e->base.events->on_open(&e->base, e->base.ctx);
    } else if (p->kind == PACKET_CLOSE) {
        begin_close(e, p->rc, 0);
    }
    packet_free(p);
    arm_arrival(e);
}

static void on_sent_due(struct timer *t)
{
    run_sent(container_of(t, struct end, sent_timer), 0);
}

/* ---- the seam --------------------------------------------------------------------------- */

static struct end *end_new(struct sim_node *owner, struct sim_node *far, const char *peer)
{
    struct end *e = calloc(1, sizeof *e);
    e->base.transport = &owner->base;
    e->owner = owner;
    e->far = far;
    e->arrive.on_due = on_arrival;
    e->sent_timer.on_due = on_sent_due;
    e->close_timer.on_due = on_close_due;
    list_init(&e->inbox);
    list_init(&e->sent);
    list_add_tail(&owner->ends, &e->node);
    snprintf(e->peer, sizeof e->peer, "%s", peer);
    return e;
}

static int sim_listen(struct transport *t, const char *address,
                      bool (*accept)(struct conn *c, void *ctx), void *ctx, char *bound)
{
    struct sim_node *s = node_of(t);
    struct listener *l = calloc(1, sizeof *l);
    const char *colon = strrchr(address, ':');
    unsigned port = colon != NULL ? (unsigned)atoi(colon + 1) : 0;
    snprintf(l->address, sizeof l->address, "%s:%u", s->name, port != 0 ? port : ++s->next_port);
    l->accept = accept;
    l->ctx = ctx;
    list_add_tail(&s->listeners, &l->node);
    if (bound != NULL) {
        snprintf(bound, 64, "%s", l->address);
    }
    return 0;
}

static struct listener *find_listener(struct net_sim *n, const char *address, struct sim_node **ret)
{
    *ret = NULL;
    for (unsigned i = 0; i < n->n_nodes; i++) {
        size_t len = strlen(n->node[i]->name);
        if (strncmp(address, n->node[i]->name, len) == 0 && address[len] == ':') {
            *ret = n->node[i];
        }
        list_for_each (node, &n->node[i]->listeners) {
            struct listener *l = list_entry(node, struct listener, node);
            if (strcmp(l->address, address) == 0) {
                return l;
            }
        }
    }
    return NULL;
}

static void refuse(struct end *e, int rc, uint64_t after_ms)
{
    e->closing = true;
    e->rc = rc;
    timers_arm(e->owner->net->timers, &e->close_timer, e->owner->net->timers->now_ms + after_ms);
}

static struct conn *sim_connect(struct transport *t, const char *address,
                                const struct conn_events *events, void *ctx)
{
    struct sim_node *s = node_of(t), *far = NULL;
    struct listener *l = find_listener(s->net, address, &far);
    struct end *e = end_new(s, far != NULL ? far : s, address);
    char name[64];
    e->base.events = events;
    e->base.ctx = ctx;
    if (far == NULL || s->shutting) {
        refuse(e, -EHOSTUNREACH, 0);
        return &e->base;
    }
    if (is_cut(e)) {
        refuse(e, -ETIMEDOUT, CONNECT_MS);
        return &e->base;
    }
    if (l == NULL) {
        refuse(e, -ECONNREFUSED, delay(s->net));
        return &e->base;
    }
    snprintf(name, sizeof name, "%s:%u", s->name, 40000 + ++s->next_port);
    struct end *o = end_new(far, s, name);
    if (!l->accept(&o->base, l->ctx)) {
        far->base.counts.refused++;
        o->base.events = NULL;
        refuse(o, 0, 0);
        refuse(e, -ECONNRESET, delay(s->net));
        return &e->base;
    }
    far->base.counts.accepted++;
    e->other = o;
    o->other = e;
    post(e, PACKET_OPEN);
    arm_arrival(e);
    return &e->base;
}

static size_t payload_length(const struct outgoing *o)
{
    size_t n = 0;
    for (unsigned i = 0; i < o->n_payload; i++) {
        n += o->payload[i].iov_len;
    }
    return n;
}

static void pack(struct packet *p, struct outgoing *o, size_t payload)
{
    o->frame.body_len = (uint32_t)o->body.len;
    o->frame.payload_len = (uint32_t)payload;
    o->frame.body_crc = crc32c(0, o->body.data, o->body.len);
    p->frame = o->frame;
    buf_add(&p->body, o->body.data, o->body.len);
    for (unsigned i = 0; i < o->n_payload; i++) {
        buf_add(&p->payload, o->payload[i].iov_base, o->payload[i].iov_len);
    }
}

static int sim_send(struct conn *c, struct outgoing *o)
{
    struct end *e = end_of(c);
    size_t payload = payload_length(o);
    if (e->closing) {
        return ERR_DISCONNECTED;
    }
    if (o->body.len > FRAME_BODY_MAX || payload > FRAME_PAYLOAD_MAX) {
        return ERR_TOO_BIG;
    }
    e->owner->base.counts.frames_out++;
    if (e->other != NULL && !e->other->closing) {
        pack(post(e->other, PACKET_MESSAGE), o, payload);
        arm_arrival(e->other);
    }
    if (o->on_sent != NULL) {
        list_add_tail(&e->sent, &o->node);
        timers_arm(e->owner->net->timers, &e->sent_timer, e->owner->net->timers->now_ms);
    }
    return 0;
}

/* All was copied when it was sent, so it has left. */
static bool sim_unsend(struct conn *c, struct outgoing *o)
{
    (void)c;
    list_remove(&o->node);
    return false;
}

static void sim_close(struct conn *c)
{
    begin_close(end_of(c), 0, 0);
}

static void sim_abort(struct conn *c, int rc)
{
    begin_close(end_of(c), rc, -ECONNRESET);
}

static size_t sim_unsent(const struct conn *c)
{
    (void)c;
    return 0;
}

static void sim_pause(struct conn *c, bool paused)
{
    end_of(c)->paused = paused;
    arm_arrival(end_of(c));
}

static const char *sim_peer_name(const struct conn *c)
{
    return end_of(c)->peer;
}

static void drop_listeners(struct sim_node *s)
{
    while (!list_empty(&s->listeners)) {
        struct listener *l = list_first(&s->listeners, struct listener, node);
        list_remove(&l->node);
        free(l);
    }
}

static void on_node_done(struct timer *t)
{
    struct sim_node *s = container_of(t, struct sim_node, done_timer);
    s->on_done(s->on_done_ctx);
}

static void sim_shutdown(struct transport *t, void (*on_done)(void *ctx), void *ctx)
{
    struct sim_node *s = node_of(t);
    s->shutting = true;
    s->on_done = on_done;
    s->on_done_ctx = ctx;
    drop_listeners(s);
    list_for_each (node, &s->ends) {
        begin_close(list_entry(node, struct end, node), ERR_CANCELLED, 0);
    }
    finish_node(s);
}

static const struct transport_ops SIM_OPS = {
    .listen = sim_listen,
    .connect = sim_connect,
    .send = sim_send,
    .unsend = sim_unsend,
    .close = sim_close,
    .abort = sim_abort,
    .unsent = sim_unsent,
    .pause = sim_pause,
    .peer_name = sim_peer_name,
    .shutdown = sim_shutdown,
};

/* ---- the network ------------------------------------------------------------------------ */

struct net_sim *net_sim_new(struct timers *timers, uint64_t seed)
{
    struct net_sim *n = calloc(1, sizeof *n);
    n->timers = timers;
    n->max_ms = 2;
    prng_seed(&n->prng, seed);
    return n;
}

void net_sim_free(struct net_sim *n)
{
    for (unsigned i = 0; i < n->n_nodes; i++) {
        CHECK(list_empty(&n->node[i]->ends));
        drop_listeners(n->node[i]);
        transport_release(&n->node[i]->base);
        free(n->node[i]);
    }
    free(n);
}

void net_sim_delay(struct net_sim *n, uint64_t min_ms, uint64_t max_ms)
{
    n->min_ms = min_ms;
    n->max_ms = max_ms;
}

struct transport *net_sim_node(struct net_sim *n, const char *name, struct databuf_pool *payloads)
{
    CHECK(n->n_nodes < NODES_MAX);
    struct sim_node *s = calloc(1, sizeof *s);
    transport_init(&s->base, &SIM_OPS, n->timers, payloads);
    s->net = n;
    s->name = name;
    s->index = n->n_nodes;
    s->done_timer.on_due = on_node_done;
    list_init(&s->listeners);
    list_init(&s->ends);
    n->node[n->n_nodes++] = s;
    return &s->base;
}

/* What is still under way to this end arrives only up to a random packet. */
static void lose_suffix(struct end *e)
{
    size_t n = 0, keep = 0;
    list_for_each (node, &e->inbox) {
        n++;
    }
    keep = (size_t)prng_below(&e->owner->net->prng, n + 1);
    n = 0;
    list_for_each_safe (node, follow, &e->inbox) {
        if (n++ >= keep) {
            packet_free(list_entry(node, struct packet, node));
        }
    }
    post(e, PACKET_CLOSE)->rc = -ECONNRESET;
    arm_arrival(e);
}

void net_sim_break(struct net_sim *n, struct transport *a, struct transport *b)
{
    (void)n;
    list_for_each (node, &node_of(a)->ends) {
        struct end *e = list_entry(node, struct end, node);
        struct end *o = e->other;
        if (o == NULL || e->closing || o->closing || (b != NULL && e->far != node_of(b))) {
            continue;
        }
        e->other = NULL;
        o->other = NULL;
        lose_suffix(e);
        lose_suffix(o);
    }
}

void net_sim_kill(struct net_sim *n, struct transport *a)
{
    net_sim_break(n, a, NULL);
    drop_listeners(node_of(a));
    list_for_each (node, &node_of(a)->ends) {
        begin_close(list_entry(node, struct end, node), -ECONNRESET, -ECONNRESET);
    }
}

void net_sim_partition(struct net_sim *n, struct transport *a, struct transport *b, bool cut)
{
    unsigned i = node_of(a)->index, j = node_of(b)->index;
    n->cut[i][j] = n->cut[j][i] = cut;
    for (unsigned k = 0; k < n->n_nodes; k++) {
        list_for_each (node, &n->node[k]->ends) {
            arm_arrival(list_entry(node, struct end, node));
        }
    }
}

void net_sim_run_until(struct net_sim *n, uint64_t at_ms)
{
    while (timers_next(n->timers) <= at_ms) {
        uint64_t next = timers_next(n->timers);
        timers_run(n->timers, next > n->timers->now_ms ? next : n->timers->now_ms);
    }
    timers_run(n->timers, at_ms);
}

bool net_sim_run_while(struct net_sim *n, bool (*going)(void *ctx), void *ctx, uint64_t bound_ms)
{
    uint64_t end = n->timers->now_ms + bound_ms;
    while (going(ctx)) {
        uint64_t next = timers_next(n->timers);
        if (next > end) {
            return false;
        }
        timers_run(n->timers, next > n->timers->now_ms ? next : n->timers->now_ms);
    }
    return true;
}
