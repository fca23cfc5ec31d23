#include "rpc/call.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "common.pb-c.h"
#include "proto/methods.h"

/* A peer is in one of these states; `conn` is set in the middle two.
 *
 *   IDLE --connect--> CONNECTING --open--> UP
 *    ^                 |  closed            | closed
 *    |(free only)      v                    v
 *   gone <--free--- PAUSED <------------ CONNECTING (at once)
 *
 * A break of an open connection connects again at once, unless the server refused it, broke the
 * protocol, or said nothing in this one and the one before. Then, and when a connect failed, it
 * waits first, 20 ms and then twice as long each time, up to a second. A new connection that has
 * nothing to ask pings: servers close those that stay silent. */
enum peer_state { PEER_IDLE, PEER_CONNECTING, PEER_UP, PEER_PAUSED };
enum call_state { CALL_NONE, CALL_WAITING, CALL_SENT, CALL_ENDING };
enum { PAUSE_MIN_MS = 20, PAUSE_MAX_MS = 1000 };

struct peer {
    struct transport *transport;
    char *address;
    struct peer_events events;
    void *ctx;
    struct conn *conn;
    enum peer_state state;
    struct list waiting; /* calls to send when connected */
    struct list sent;    /* calls that were given to the connection */
    struct list ending;  /* calls whose on_done(ERR_DISCONNECTED) is due */
    struct table by_id;  /* of sent */
    uint64_t next_id;
    uint64_t pause_ms;
    unsigned unheard;   /* connections in a row in which the server said nothing sensible */
    char *refusal;      /* why it refused the last one, until it says something else */
    struct timer retry; /* the next connect */
    struct timer end;   /* runs `ending`, and the freeing of a peer without connection */
    unsigned busy;      /* inside callbacks: freeing waits */
    bool freed;
};

static void on_open(struct conn *conn, void *ctx);
static void take_refusal(struct peer *p, struct bytes body)
{
    Cfs__Refusal *m = cfs__refusal__unpack(NULL, body.len, body.data);
    free(p->refusal);
    p->refusal = m != NULL ? xstrdup(m->text) : NULL;
    if (m != NULL) {
        log_warn("connection refused peer=%s reason=%.200s", p->address, m->text);
        cfs__refusal__free_unpacked(m, NULL);
    }
}

static void on_message(struct conn *conn, struct message *m, void *ctx);
static void on_closed(struct conn *conn, int rc, void *ctx);
static const struct conn_events CONN_EVENTS = {on_open, on_message, on_closed};

static uint64_t now_of(struct peer *p)
{
    return timers_now(p->transport->timers);
}

static void connect_now(struct peer *p)
{
    timers_stop(p->transport->timers, &p->retry);
    p->state = PEER_CONNECTING;
    p->unheard++;
    p->conn = p->transport->ops->connect(p->transport, p->address, &CONN_EVENTS, p);
}

/* ---- ends of calls ---------------------------------------------------------------------- */

/* Takes the call out of everything; its memory is the caller's again. True if no byte of it left.
 */
static bool forget(struct call *c)
{
    struct peer *p = c->peer;
    bool unsent = c->state != CALL_SENT;
    timers_stop(p->transport->timers, &c->timer);
    list_remove(&c->node);
    if (c->state == CALL_SENT) {
        table_remove(&p->by_id, &c->by_id);
        if (c->outgoing.on_sent != NULL && p->conn != NULL) {
            unsent = p->transport->ops->unsend(p->conn, &c->outgoing);
        }
    }
    buf_release(&c->kept_body);
    c->state = CALL_NONE;
    return unsent;
}

static void finish(struct call *c, int rc)
{
    (void)forget(c); /* what left is not taken back by a call that ends by itself */
    c->rc = rc;
    c->on_done(c);
}

static void peer_gone(struct peer *p)
{
    timers_stop(p->transport->timers, &p->retry);
    timers_stop(p->transport->timers, &p->end);
    table_release(&p->by_id);
    free(p->address);
    free(p->refusal);
    free(p);
}

/* Callbacks may free the peer; it goes when the outermost of them is over and nothing is left. */
static void leave(struct peer *p)
{
    p->busy--;
    if (p->freed && p->busy == 0 && p->conn == NULL && list_empty(&p->waiting) &&
        list_empty(&p->sent) && list_empty(&p->ending)) {
        peer_gone(p);
    }
}

static void end_all(struct peer *p, struct list *calls, int rc)
{
    struct list due;
    list_take_all(calls, &due);
    while (!list_empty(&due)) {
        struct call *c = list_first(&due, struct call, node);
        c->reply = BYTES(NULL, 0);
        c->reply_payload = NULL;
        finish(c, p->freed ? ERR_CANCELLED : rc);
    }
}

static void on_end(struct timer *t)
{
    struct peer *p = container_of(t, struct peer, end);
    p->busy++;
    end_all(p, &p->ending, ERR_DISCONNECTED);
    if (p->freed) {
        end_all(p, &p->waiting, ERR_CANCELLED);
    }
    leave(p);
}

static void on_deadline(struct timer *t)
{
    struct call *c = container_of(t, struct call, timer);
    c->reply = BYTES(NULL, 0);
    c->reply_payload = NULL;
    finish(c, ERR_DEADLINE);
}

/* ---- the connection --------------------------------------------------------------------- */

static void send_now(struct peer *p, struct call *c, struct bytes body)
{
    uint64_t now = now_of(p);
    c->outgoing.frame = (struct frame){.kind = FRAME_REQUEST, .method = c->method, .id = c->id};
    c->outgoing.frame.deadline_ms = c->timer.at_ms > now ? (uint32_t)(c->timer.at_ms - now) : 1;
    c->outgoing.body = body;
    c->state = CALL_SENT;
    list_add_tail(&p->sent, &c->node);
    table_add(&p->by_id, &c->by_id, table_mix(c->id));
    if (p->transport->ops->send(p->conn, &c->outgoing) != 0) {
        /* Closing already, or longer than a frame: either way nothing left. */
        table_remove(&p->by_id, &c->by_id);
        list_remove(&c->node);
        c->state = CALL_ENDING;
        list_add_tail(&p->ending, &c->node);
        timers_arm(p->transport->timers, &p->end, now);
    }
}

static void on_payload_sent(struct outgoing *o, int rc)
{
    struct call *c = container_of(o, struct call, outgoing);
    (void)rc; /* if it never leaves, on_closed follows and ends the call */
    o->on_sent = NULL;
    c->payload = NULL;
}

/* Its answer finds no call, and is dropped. */
static void say_hello(struct peer *p)
{
    struct outgoing o = {
        .frame = {.kind = FRAME_REQUEST, .method = METHOD_PING, .id = p->next_id++}};
    (void)p->transport->ops->send(p->conn, &o); /* closing: then there is nobody to greet */
}

static void on_open(struct conn *conn, void *ctx)
{
    struct peer *p = ctx;
    (void)conn;
    p->state = PEER_UP;
    p->busy++;
    if (p->events.on_up != NULL && !p->freed) {
        p->events.on_up(p, p->ctx);
    }
    while (p->state == PEER_UP && !p->freed && !list_empty(&p->waiting)) {
        struct call *c = list_first(&p->waiting, struct call, node);
        struct buf body = c->kept_body;
        buf_init(&c->kept_body);
        list_remove(&c->node);
        send_now(p, c, buf_bytes(&body));
        buf_release(&body);
    }
    if (p->state == PEER_UP && !p->freed && list_empty(&p->sent)) {
        say_hello(p);
    }
    leave(p);
}

static void on_closed(struct conn *conn, int rc, void *ctx)
{
    struct peer *p = ctx;
    bool was_up = p->state == PEER_UP;
    struct list broken;
    (void)conn;
    p->conn = NULL;
    p->busy++;
    list_take_all(&p->sent, &broken);
    if (!was_up || p->freed) {
        /* A refused connect ends also those that waited for it. */
        while (!list_empty(&p->waiting)) {
            struct list *node = p->waiting.next;
            list_remove(node);
            list_add_tail(&broken, node);
        }
    }
    p->state = PEER_PAUSED;
    if (p->freed) {
        end_all(p, &p->ending, ERR_CANCELLED);
    } else if (was_up && p->refusal == NULL && rc != ERR_MALFORMED && p->unheard < 2) {
        connect_now(p);
    } else {
        p->pause_ms = p->pause_ms == 0 ? PAUSE_MIN_MS : p->pause_ms * 2;
        p->pause_ms = p->pause_ms > PAUSE_MAX_MS ? PAUSE_MAX_MS : p->pause_ms;
        timers_arm(p->transport->timers, &p->retry, now_of(p) + p->pause_ms);
    }
    if (p->events.on_down != NULL && !p->freed) {
        p->events.on_down(p, rc != 0 ? rc : ERR_DISCONNECTED, p->ctx);
    }
    end_all(p, &broken, ERR_DISCONNECTED);
    leave(p);
}

static void on_retry(struct timer *t)
{
    connect_now(container_of(t, struct peer, retry));
}

static void heard(struct peer *p)
{
    p->unheard = 0;
    p->pause_ms = 0;
    free(p->refusal);
    p->refusal = NULL;
}

/* Whether a call was given up, or lost with its connection, is for this side alone to say: who
 * waits for a new connection then would wait for ever. */
static int rc_of(int32_t status)
{
    const int rc = status_to_rc(status);
    return rc == ERR_DISCONNECTED || rc == ERR_CANCELLED || rc == ERR_DEADLINE ? ERR_BUSY : rc;
}

static void on_reply(struct peer *p, const struct message *m)
{
    struct table_node *node = table_find(&p->by_id, table_mix(m->frame.id));
    if (node == NULL) { /* given up meanwhile; but an id that was never used is a liar's */
        if (m->frame.id == 0 || m->frame.id >= p->next_id) {
            transport_fault(p->conn, FRAME_BAD_SEQUENCE);
        } else {
            heard(p);
        }
        return;
    }
    struct call *c = container_of(node, struct call, by_id);
    if (c->id != m->frame.id || c->method != m->frame.method) {
        transport_fault(p->conn, FRAME_BAD_SEQUENCE);
        return;
    }
    heard(p);
    c->reply = m->body;
    c->reply_payload = m->payload;
    finish(c, rc_of(m->frame.status));
}

static void on_message(struct conn *conn, struct message *m, void *ctx)
{
    struct peer *p = ctx;
    if (p->freed) {
        return;
    }
    p->busy++;
    if (m->frame.kind == FRAME_EVENT && m->frame.method == EVENT_REFUSED) {
        take_refusal(p, m->body);
        leave(p);
        return;
    }
    if (m->frame.kind == FRAME_REPLY) {
        on_reply(p, m);
    } else if (m->frame.kind != FRAME_EVENT) {
        transport_fault(conn, FRAME_BAD_SEQUENCE);
    } else {
        heard(p);
    }
    if (m->frame.kind == FRAME_EVENT && p->events.on_event != NULL) {
        p->events.on_event(p, m->frame.method, m->body, p->ctx);
    }
    leave(p);
}

/* ---- public ----------------------------------------------------------------------------- */

struct peer *peer_new(struct transport *t, const char *address, const struct peer_events *events,
                      void *ctx)
{
    struct peer *p = xcalloc(1, sizeof *p);
    p->transport = t;
    p->address = xstrdup(address);
    p->ctx = ctx;
    p->next_id = 1;
    if (events != NULL) {
        p->events = *events;
    }
    list_init(&p->waiting);
    list_init(&p->sent);
    list_init(&p->ending);
    table_init(&p->by_id);
    p->retry.on_due = on_retry;
    p->end.on_due = on_end;
    return p;
}

void peer_free(struct peer *p)
{
    if (p == NULL || p->freed) {
        return;
    }
    p->freed = true;
    timers_stop(p->transport->timers, &p->retry);
    if (p->conn != NULL) {
        p->transport->ops->close(p->conn);
    } else if (p->busy == 0 && list_empty(&p->waiting) && list_empty(&p->ending)) {
        peer_gone(p);
    } else {
        timers_arm(p->transport->timers, &p->end, now_of(p));
    }
}

void peer_connect(struct peer *p)
{
    if (p->state == PEER_IDLE) {
        connect_now(p);
    }
}

bool peer_is_up(const struct peer *p)
{
    return p->state == PEER_UP;
}

const char *peer_refusal(const struct peer *p)
{
    return p->refusal;
}

const char *peer_address(const struct peer *p)
{
    return p->address;
}

size_t peer_unsent(const struct peer *p)
{
    return p->conn != NULL ? p->transport->ops->unsent(p->conn) : 0;
}

void peer_reset(struct peer *p)
{
    if (p->conn != NULL) {
        p->transport->ops->abort(p->conn, ERR_DISCONNECTED);
    }
}

void call_start(struct peer *p, struct call *c)
{
    struct timers *timers = p->transport->timers;
    CHECK(c->timeout_ms > 0 && c->state == CALL_NONE && !p->freed);
    c->peer = p;
    c->id = p->next_id++;
    c->outgoing =
        (struct outgoing){.payload = c->payload, .n_payload = c->n_payload, .lend = c->lend};
    c->outgoing.on_sent = c->n_payload != 0 ? on_payload_sent : NULL;
    c->timer = (struct timer){.on_due = on_deadline};
    list_init(&c->node);
    buf_init(&c->kept_body);
    timers_arm(timers, &c->timer, now_of(p) + c->timeout_ms);
    peer_connect(p);
    if (p->state == PEER_UP) {
        send_now(p, c, c->body);
    } else if (p->state == PEER_CONNECTING) {
        c->state = CALL_WAITING;
        buf_add(&c->kept_body, c->body.data, c->body.len);
        list_add_tail(&p->waiting, &c->node);
    } else {
        c->state = CALL_ENDING;
        list_add_tail(&p->ending, &c->node);
        timers_arm(timers, &p->end, now_of(p));
    }
}

static void send_cancel(struct peer *p, const struct call *c)
{
    struct outgoing o = {.frame = {.kind = FRAME_CANCEL, .method = c->method, .id = c->id}};
    (void)p->transport->ops->send(p->conn, &o); /* closing: then there is nothing to cancel */
}

void call_cancel(struct call *c)
{
    if (c->state == CALL_NONE) {
        return;
    }
    struct peer *p = c->peer;
    bool was_sent = c->state == CALL_SENT;
    bool unsent = forget(c);
    if (was_sent && !unsent && p->conn != NULL) {
        send_cancel(p, c);
    }
}
