#include "rpc/server.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/err.h"
#include "common.pb-c.h"
#include "proto/methods.h"

struct server_peer {
    struct server *server;
    struct conn *conn;
    struct list node;
    struct list pending; /* requests not yet answered */
    unsigned n_pending;
    size_t pending_bytes; /* of their bodies */
    bool paused;
};

struct server {
    struct transport *transport;
    struct {
        server_handler run;
        void *ctx;
        uint64_t asked;
    } handler[SERVER_METHODS];
    void (*on_gone)(struct server_peer *p, void *ctx);
    void *on_gone_ctx;
    void (*on_cancel)(struct request *r, void *ctx);
    void *on_cancel_ctx;
    struct list peers;
    struct buf refusal; /* the frame for connections that are too many */
};

/* A reply whose payload is still the handler's. */
struct reply_send {
    struct outgoing outgoing;
    struct timer timer; /* for replies that were dropped: on_sent still comes from the loop */
    struct transport *transport;
    void (*on_sent)(void *ctx);
    void *ctx;
    struct iovec iov[];
};

/* ---- built-in methods ------------------------------------------------------------------- */

static uint64_t resident_bytes(void)
{
    unsigned long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f != NULL) {
        if (fscanf(f, "%lu %lu", &size, &resident) != 2) {
            resident = 0;
        }
        fclose(f);
    }
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

enum { COUNTERS = 7 + FRAME_FAULTS + 64 };

struct counter_list {
    Cfs__CountersReply__Counter counter[COUNTERS];
    Cfs__CountersReply__Counter *pointer[COUNTERS];
    char name[COUNTERS][40];
    unsigned n;
};

static void add_counter(struct counter_list *l, const char *group, const char *name, uint64_t value)
{
    CHECK(l->n < COUNTERS);
    snprintf(l->name[l->n], sizeof l->name[l->n], "%s.%s", group, name);
    cfs__counters_reply__counter__init(&l->counter[l->n]);
    l->counter[l->n].name = l->name[l->n];
    l->counter[l->n].value = value;
    l->pointer[l->n] = &l->counter[l->n];
    l->n++;
}

void server_counters(const struct server *s, struct buf *packed)
{
    const struct transport_counts *counts = &s->transport->counts;
    struct counter_list *l = xcalloc(1, sizeof *l);
    Cfs__CountersReply reply = CFS__COUNTERS_REPLY__INIT;
    add_counter(l, "frames", "in", counts->frames_in);
    add_counter(l, "frames", "out", counts->frames_out);
    add_counter(l, "bytes", "in", counts->bytes_in);
    add_counter(l, "bytes", "out", counts->bytes_out);
    add_counter(l, "connections", "accepted", counts->accepted);
    add_counter(l, "connections", "refused", counts->refused);
    add_counter(l, "memory", "rss", resident_bytes());
    for (unsigned i = FRAME_OK + 1; i < FRAME_FAULTS; i++) {
        add_counter(l, "fault", frame_fault_name(i), counts->faults[i]);
    }
    for (unsigned i = 0; i < SERVER_METHODS; i++) {
        const char *name = s->handler[i].asked != 0 ? method_name(i) : NULL;
        if (name != NULL) {
            add_counter(l, "asked", name, s->handler[i].asked);
        }
    }
    reply.n_counter = l->n;
    reply.counter = l->pointer;
    cfs__counters_reply__pack(&reply,
                              buf_extend(packed, cfs__counters_reply__get_packed_size(&reply)));
    free(l);
}

static void handle_counters(struct request *r, void *ctx)
{
    struct buf packed;
    buf_init(&packed);
    server_counters(ctx, &packed);
    request_reply(r, 0, buf_bytes(&packed), NULL);
    buf_release(&packed);
}

static void handle_ping(struct request *r, void *ctx)
{
    (void)ctx;
    request_reply(r, 0, BYTES(NULL, 0), NULL);
}

/* ---- connections ------------------------------------------------------------------------ */

static struct request *request_new(struct server_peer *p, const struct message *m)
{
    struct request *r = xmalloc(sizeof *r + m->body.len);
    *r = (struct request){
        .server = p->server, .peer = p, .method = m->frame.method, .id = m->frame.id};
    uint8_t *body = (uint8_t *)(r + 1);
    if (m->body.len != 0) {
        memcpy(body, m->body.data, m->body.len);
    }
    r->body = BYTES(body, m->body.len);
    if (m->payload != NULL) {
        r->payload = databuf_ref(m->payload);
    }
    if (m->frame.deadline_ms != 0) {
        r->deadline_at_ms = timers_now(p->server->transport->timers) + m->frame.deadline_ms;
    }
    list_add_tail(&p->pending, &r->node);
    p->n_pending++;
    p->pending_bytes += r->body.len;
    return r;
}

static void refuse_unknown(struct request *r)
{
    const char *name = method_name(r->method);
    if (name != NULL) {
        request_fail(r, ERR_UNKNOWN_CALL, "this server does not serve %s", name);
    } else {
        request_fail(r, ERR_UNKNOWN_CALL, "this server does not know method %u", r->method);
    }
}

static void on_request(struct server_peer *p, const struct message *m)
{
    struct server *s = p->server;
    struct request *r = request_new(p, m);
    bool many = p->n_pending >= SERVER_PENDING_MAX || p->pending_bytes >= SERVER_PENDING_BYTES;
    if (many && !p->paused) {
        p->paused = true;
        s->transport->ops->pause(p->conn, true);
    }
    if (r->method < SERVER_METHODS && s->handler[r->method].run != NULL) {
        s->handler[r->method].asked++;
        s->handler[r->method].run(r, s->handler[r->method].ctx);
    } else {
        refuse_unknown(r);
    }
}

/* For one that was answered meanwhile there is nothing to do. */
static void on_cancel(struct server_peer *p, uint64_t id)
{
    list_for_each (node, &p->pending) {
        struct request *r = list_entry(node, struct request, node);
        if (r->id == id && !r->cancelled) {
            r->cancelled = true;
            if (p->server->on_cancel != NULL) {
                p->server->on_cancel(r, p->server->on_cancel_ctx);
            }
            return;
        }
    }
}

static void on_message(struct conn *c, struct message *m, void *ctx)
{
    struct server_peer *p = ctx;
    if (m->frame.kind == FRAME_REQUEST) {
        on_request(p, m);
    } else if (m->frame.kind == FRAME_CANCEL) {
        on_cancel(p, m->frame.id);
    } else {
        transport_fault(c, FRAME_BAD_SEQUENCE);
    }
}

static void on_closed(struct conn *c, int rc, void *ctx)
{
    struct server_peer *p = ctx;
    (void)c;
    (void)rc;
    p->conn = NULL;
    while (!list_empty(&p->pending)) {
        struct request *r = list_first(&p->pending, struct request, node);
        list_remove(&r->node);
        r->peer = NULL;
    }
    list_remove(&p->node);
    if (p->server->on_gone != NULL) {
        p->server->on_gone(p, p->server->on_gone_ctx);
    }
    free(p);
}

static const struct conn_events CONN_EVENTS = {.on_message = on_message, .on_closed = on_closed};

static bool on_accept(struct conn *c, void *ctx)
{
    struct server *s = ctx;
    struct server_peer *p = xcalloc(1, sizeof *p);
    p->server = s;
    p->conn = c;
    list_init(&p->pending);
    list_add_tail(&s->peers, &p->node);
    c->events = &CONN_EVENTS;
    c->ctx = p;
    return true;
}

/* ---- answers ---------------------------------------------------------------------------- */

static void request_free(struct request *r)
{
    struct server_peer *p = r->peer;
    if (p != NULL) {
        list_remove(&r->node);
        p->n_pending--;
        p->pending_bytes -= r->body.len;
        if (p->paused && p->n_pending < SERVER_PENDING_MAX / 2 &&
            p->pending_bytes < SERVER_PENDING_BYTES / 2) {
            p->paused = false;
            p->server->transport->ops->pause(p->conn, false);
        }
    }
    databuf_unref(r->payload);
    free(r);
}

static void reply_sent(struct reply_send *s)
{
    void (*on_sent)(void *ctx) = s->on_sent;
    void *ctx = s->ctx;
    free(s);
    if (on_sent != NULL) {
        on_sent(ctx);
    }
}

static void on_outgoing_sent(struct outgoing *o, int rc)
{
    (void)rc; /* whoever asked is gone: nobody is left to be told */
    reply_sent(container_of(o, struct reply_send, outgoing));
}

static void on_dropped(struct timer *t)
{
    reply_sent(container_of(t, struct reply_send, timer));
}

/* Sends with payload; when it cannot be sent the payload is given back from the loop all the same.
 */
static void send_payload(struct request *r, const struct outgoing *o,
                         const struct reply_payload *payload)
{
    struct transport *t = r->server->transport;
    struct reply_send *s = xcalloc(1, sizeof *s + payload->n * sizeof s->iov[0]);
    s->outgoing = *o;
    s->transport = t;
    s->on_sent = payload->on_sent;
    s->ctx = payload->ctx;
    memcpy(s->iov, payload->iov, payload->n * sizeof s->iov[0]);
    s->outgoing.payload = s->iov;
    s->outgoing.n_payload = payload->n;
    s->outgoing.on_sent = on_outgoing_sent;
    if (r->peer == NULL || t->ops->send(r->peer->conn, &s->outgoing) != 0) {
        s->timer.on_due = on_dropped;
        timers_arm(t->timers, &s->timer, timers_now(t->timers));
    }
}

void request_reply(struct request *r, int rc, struct bytes body,
                   const struct reply_payload *payload)
{
    struct outgoing o = {
        .frame = {.kind = FRAME_REPLY,
                  .method = r->method,
                  .id = r->id,
                  .status = status_of_rc(rc)},
        .body = body,
    };
    if (body.len > FRAME_BODY_MAX) { /* whoever asks for so much is told, and ends nobody */
        CHECK(payload == NULL);
        o.frame.status = status_of_rc(ERR_TOO_BIG);
        o.body = BYTES(NULL, 0);
    }
    if (payload != NULL) {
        send_payload(r, &o, payload);
    } else if (r->peer != NULL) {
        (void)r->server->transport->ops->send(r->peer->conn, &o); /* gone: dropped */
    }
    request_free(r);
}

void request_fail(struct request *r, int rc, const char *format, ...)
{
    char text[512];
    uint8_t packed[600];
    va_list args;
    Cfs__Refusal refusal = CFS__REFUSAL__INIT;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    refusal.text = text;
    CHECK(rc != 0);
    size_t len = cfs__refusal__pack(&refusal, packed);
    request_reply(r, rc, BYTES(packed, len), NULL);
}

void request_malformed(struct request *r)
{
    if (r->peer != NULL) {
        transport_fault(r->peer->conn, FRAME_BAD_BODY);
    }
    request_free(r);
}

/* ---- public ----------------------------------------------------------------------------- */

static void make_refusal(struct server *s)
{
    Cfs__Refusal m = CFS__REFUSAL__INIT;
    uint8_t body[200];
    m.text = (char *)(uintptr_t) "the server has as many connections as it takes";
    struct frame f = {.kind = FRAME_EVENT, .method = EVENT_REFUSED};
    f.body_len = (uint32_t)cfs__refusal__pack(&m, body);
    f.body_crc = crc32c(0, body, f.body_len);
    buf_init(&s->refusal);
    frame_encode(buf_extend(&s->refusal, FRAME_HEADER_BYTES), &f);
    buf_add(&s->refusal, body, f.body_len);
    s->transport->refusal = buf_bytes(&s->refusal);
}

struct server *server_new(struct transport *t)
{
    struct server *s = xcalloc(1, sizeof *s);
    s->transport = t;
    make_refusal(s);
    list_init(&s->peers);
    server_handle(s, METHOD_PING, handle_ping, s);
    server_handle(s, METHOD_COUNTERS, handle_counters, s);
    return s;
}

void server_free(struct server *s)
{
    if (s != NULL) {
        CHECK(list_empty(&s->peers));
        buf_release(&s->refusal);
        free(s);
    }
}

int server_listen(struct server *s, const char *address, char *bound)
{
    return s->transport->ops->listen(s->transport, address, on_accept, s, bound);
}

void server_handle(struct server *s, uint16_t method, server_handler handler, void *ctx)
{
    CHECK(method < SERVER_METHODS);
    s->handler[method].run = handler;
    s->handler[method].ctx = ctx;
}

void server_on_gone(struct server *s, void (*on_gone)(struct server_peer *p, void *ctx), void *ctx)
{
    s->on_gone = on_gone;
    s->on_gone_ctx = ctx;
}

void server_on_cancel(struct server *s, void (*cancel)(struct request *r, void *ctx), void *ctx)
{
    s->on_cancel = cancel;
    s->on_cancel_ctx = ctx;
}

void server_event(struct server_peer *p, uint16_t method, struct bytes body)
{
    struct outgoing o = {.frame = {.kind = FRAME_EVENT, .method = method}, .body = body};
    (void)p->server->transport->ops->send(p->conn, &o); /* gone: dropped */
}

const char *server_peer_name(const struct server_peer *p)
{
    return p->conn != NULL ? p->server->transport->ops->peer_name(p->conn) : "gone";
}

void server_peer_close(struct server_peer *p)
{
    if (p->conn != NULL) {
        p->server->transport->ops->close(p->conn);
    }
}
