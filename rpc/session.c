#include "rpc/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "rpc/seqs.h"

/* One connection to one metadata server at a time; several addresses are tried in turn until one is
 * the leader. What is to be said waits in lists that outlive connections:
 *
 *   unsent   commands in ascending order of their numbers: new ones at the end, those whose answer
 * was lost or was "busy" back in their place flying   commands given to the connection, in that
 * order reads    in any order
 *
 * pump() runs from the loop, never from submit, and sends from the front of `unsent` while the
 * window allows. When the connection breaks, its calls end with ERR_DISCONNECTED and everything
 * that flew is unsent again; the next connection begins with a renewal (the server learns who this
 * is), then the commands in ascending order. The server executes each number once and refuses a gap
 * as busy, so all this is safe to repeat.
 *
 * A command may lose its owner (abandoned, or its deadline passed) but never its number: it stays
 * until answered. One that the server refuses for good is answered to its owner, and an empty
 * command goes out under its number: if the refusal was not stored, the next number would wait for
 * it for ever. */

enum {
    ADDRESSES_MAX = 16,
    CALL_MS = 30000, /* a silent server is found by the renewal long before */
    READ_MS = 10000,
    RENEW_CALL_MS = 5000,
    OPEN_CALL_MS = 5000,
    BUSY_MIN_MS = 10,
    BUSY_MAX_MS = 500,
    SEND_AHEAD_MAX = 8 << 20 /* unsent bytes of the connection beyond which commands wait here */
};
enum session_state { SESSION_FRESH, SESSION_LIVE, SESSION_ENDED };
enum read_state { READ_NONE, READ_WAITING, READ_FLYING };

struct pending {
    struct list node; /* of unsent, flying or failed */
    struct session *session;
    struct command *owner; /* NULL: nobody waits */
    struct buf ops;        /* when there is no owner */
    uint64_t seq;
    struct call call;
    bool flying, empty;
    struct timer deadline;
};

struct session {
    struct transport *transport;
    struct session_events events;
    void *ctx;
    uint32_t deadline_ms;
    char *address[ADDRESSES_MAX];
    unsigned n_addresses, current;
    struct peer *peer;
    enum session_state state;
    uint64_t id, next_seq, lease_ms;
    uint64_t lowest_repeat; /* after resume */
    bool resuming;
    uint64_t renewed_ms; /* when the last granted renewal was sent; 0: never */
    bool was_suspended, was_connected;
    struct list unsent, flying, failed;
    struct list reads; /* waiting, flying */
    struct list ended_reads;
    unsigned n_commands, n_reads;
    struct seqs seqs;
    uint64_t busy_until_ms, busy_ms;
    struct timer pump, renew, lease, rotate;
    struct call renew_call;
    uint64_t renew_sent_ms;
    bool renewing;
    struct buf scratch;
    /* opening and closing are reads with a deadline of their own */
    struct session_read control;
    struct buf control_body;
    uint32_t control_ms;
    uint64_t control_sent_ms;
    void (*on_opened)(struct session *s, int rc, struct bytes reply, void *ctx);
    void (*on_closed)(struct session *s, int rc, void *ctx);
    void *control_ctx;
};

static void pump_soon(struct session *s);
static void rotate(struct session *s);
static void connect_current(struct session *s);
static void session_end(struct session *s);

static uint64_t now_of(const struct session *s)
{
    return timers_now(s->transport->timers);
}

static void arm(struct session *s, struct timer *t, uint64_t at_ms)
{
    timers_arm(s->transport->timers, t, at_ms);
}

static void stop(struct session *s, struct timer *t)
{
    timers_stop(s->transport->timers, t);
}

static void tell_state(struct session *s)
{
    bool connected = session_connected(s), suspended = session_suspended(s);
    if (connected == s->was_connected && suspended == s->was_suspended) {
        return;
    }
    s->was_connected = connected;
    s->was_suspended = suspended;
    if (s->events.on_state != NULL) {
        s->events.on_state(s, s->ctx);
    }
}

/* The server cannot take more now: nothing is sent for a while that doubles until something is
 * taken. */
static void be_busy(struct session *s)
{
    uint64_t now = now_of(s);
    if (now < s->busy_until_ms) {
        return;
    }
    s->busy_ms = s->busy_ms == 0 ? BUSY_MIN_MS : s->busy_ms * 2;
    s->busy_ms = s->busy_ms > BUSY_MAX_MS ? BUSY_MAX_MS : s->busy_ms;
    s->busy_until_ms = now + s->busy_ms;
    arm(s, &s->pump, s->busy_until_ms);
}

/* What an answer means for whoever asked. */
enum verdict { FINAL, AGAIN, OVER };

static enum verdict judge(struct session *s, int rc)
{
    switch (rc) {
    case ERR_DISCONNECTED:
    case ERR_CANCELLED: /* our own peer_free */
        return AGAIN;
    case ERR_DEADLINE: /* a silent server */
        peer_reset(s->peer);
        return AGAIN;
    case ERR_NOT_LEADER:
        rotate(s);
        return AGAIN;
    case ERR_BUSY:
        be_busy(s);
        return AGAIN;
    case ERR_SESSION_ENDED:
        return OVER;
    default:
        s->busy_ms = 0;
        return FINAL;
    }
}

/* ---- commands --------------------------------------------------------------------------- */

/* Back to its place in the ascending order; what was sent is older than what was not. */
static void put_back(struct session *s, struct pending *p)
{
    list_remove(&p->node);
    struct list *at = s->unsent.next;
    while (at != &s->unsent && list_entry(at, struct pending, node)->seq < p->seq) {
        at = at->next;
    }
    list_add_tail(at, &p->node);
    p->flying = false;
}

static void pending_free(struct pending *p)
{
    struct session *s = p->session;
    list_remove(&p->node);
    stop(s, &p->deadline);
    call_cancel(&p->call);
    buf_release(&p->ops);
    s->n_commands--;
    free(p);
}

static struct command *disown(struct pending *p, bool take_ops)
{
    struct command *cmd = p->owner;
    p->owner = NULL;
    stop(p->session, &p->deadline);
    if (take_ops) {
        p->ops = cmd->ops;
        buf_init(&cmd->ops);
    }
    cmd->pending = NULL;
    return cmd;
}

static void tell_owner(struct command *cmd, int rc, struct bytes reply)
{
    cmd->rc = rc;
    cmd->reply = reply;
    cmd->on_done(cmd);
}

static void use_up(struct session *s, struct pending *p)
{
    p->empty = true;
    buf_clear(&p->ops);
    put_back(s, p);
    pump_soon(s);
}

static void command_answered(struct pending *p)
{
    struct session *s = p->session;
    int rc = p->call.rc;
    const uint64_t seq = p->seq;
    struct bytes reply = p->call.reply;
    struct command *owner = p->owner != NULL ? disown(p, false) : NULL;
    if (rc != 0 && !p->empty) {
        seqs_mark(&s->seqs, p->seq, owner == NULL ? SEQ_RELEASED : 0);
        use_up(s, p);
    } else {
        seqs_mark(&s->seqs, p->seq, SEQ_ANSWERED | (owner == NULL ? SEQ_RELEASED : 0));
        pending_free(p);
        if (!list_empty(&s->unsent)) {
            pump_soon(s);
        }
    }
    if (owner != NULL) {
        tell_owner(owner, rc, reply);
    } else if (s->events.on_late != NULL) {
        s->events.on_late(s, seq, s->ctx);
    }
}

static void on_command(struct call *c)
{
    struct pending *p = container_of(c, struct pending, call);
    struct session *s = p->session;
    uint64_t pace_ms = s->busy_ms;
    put_back(s, p);
    switch (judge(s, c->rc)) {
    case FINAL:
        /* An empty command has nothing that could be refused: EINVAL says that its number was
         * acknowledged long ago; with anything else the number is still open. */
        if (p->empty && c->rc != 0 && c->rc != -EINVAL) {
            s->busy_ms = pace_ms;
            be_busy(s);
        } else {
            command_answered(p);
        }
        break;
    case AGAIN:
        break;
    case OVER:
        session_end(s);
        break;
    }
}

static void send_command(struct session *s, struct pending *p)
{
    Cfs__CommandRequest m = CFS__COMMAND_REQUEST__INIT;
    const struct buf *ops = p->owner != NULL ? &p->owner->ops : &p->ops;
    m.session = s->id;
    m.seq = p->seq;
    m.acked = s->seqs.acked;
    m.ops.data = p->empty ? NULL : ops->data;
    m.ops.len = p->empty ? 0 : ops->len;
    buf_clear(&s->scratch);
    cfs__command_request__pack(&m,
                               buf_extend(&s->scratch, cfs__command_request__get_packed_size(&m)));
    p->call.method = METHOD_COMMAND;
    p->call.body = buf_bytes(&s->scratch);
    p->call.timeout_ms = CALL_MS;
    p->call.on_done = on_command;
    p->flying = true;
    list_remove(&p->node);
    list_add_tail(&s->flying, &p->node);
    call_start(s->peer, &p->call);
}

/* The first number that may not be sent yet. While the repeats of a dead worker come in, what is
 * acknowledged is not known, but it is below the lowest repeat. */
static uint64_t window_end(const struct session *s)
{
    return (s->resuming ? s->lowest_repeat : s->seqs.acked + 1) + SESSION_WINDOW;
}

static void send_commands(struct session *s)
{
    while (!list_empty(&s->unsent)) {
        struct pending *p = list_first(&s->unsent, struct pending, node);
        if (p->seq >= window_end(s)) {
            return; /* goes on with the next answer or release */
        }
        if (peer_unsent(s->peer) > SEND_AHEAD_MAX) {
            arm(s, &s->pump, now_of(s) + BUSY_MIN_MS);
            return;
        }
        send_command(s, p);
    }
}

static void on_command_deadline(struct timer *t)
{
    struct pending *p = container_of(t, struct pending, deadline);
    seqs_mark(&p->session->seqs, p->seq, SEQ_RELEASED);
    tell_owner(disown(p, true), ERR_DEADLINE, BYTES(NULL, 0));
}

static struct pending *pending_new(struct session *s, uint64_t seq)
{
    struct pending *p = xcalloc(1, sizeof *p);
    p->session = s;
    p->seq = seq;
    p->deadline.on_due = on_command_deadline;
    list_init(&p->node);
    s->n_commands++;
    seqs_mark(&s->seqs, seq, SEQ_KNOWN);
    return p;
}

/* ---- reads ------------------------------------------------------------------------------ */

static void read_leave(struct session_read *r)
{
    struct session *s = r->session;
    stop(s, &r->timer);
    call_cancel(&r->call);
    list_remove(&r->node);
    r->state = READ_NONE;
    s->n_reads--;
}

static void read_finish(struct session_read *r, int rc, struct bytes reply)
{
    read_leave(r);
    r->rc = rc;
    r->reply = reply;
    r->on_done(r);
}

static void on_read(struct call *c)
{
    struct session_read *r = container_of(c, struct session_read, call);
    struct session *s = r->session;
    r->state = READ_WAITING;
    switch (judge(s, c->rc)) {
    case FINAL:
        read_finish(r, c->rc, c->reply);
        break;
    case AGAIN:
        break;
    case OVER:
        /* Closing, or opening in the place of an earlier one: there is no session to end. */
        if (r == &s->control) {
            read_finish(r, c->rc, c->reply);
        } else {
            session_end(s);
        }
        break;
    }
}

static void send_read(struct session *s, struct session_read *r)
{
    r->call.method = r->method;
    r->call.body = r->body;
    r->call.timeout_ms = r == &s->control ? OPEN_CALL_MS : READ_MS;
    r->call.on_done = on_read;
    r->state = READ_FLYING;
    if (r == &s->control) {
        s->control_sent_ms = now_of(s);
    }
    call_start(s->peer, &r->call);
}

static void send_reads(struct session *s)
{
    list_for_each (node, &s->reads) {
        struct session_read *r = list_entry(node, struct session_read, node);
        if (r->state == READ_WAITING) {
            send_read(s, r);
        }
    }
}

static void on_read_deadline(struct timer *t)
{
    read_finish(container_of(t, struct session_read, timer), ERR_DEADLINE, BYTES(NULL, 0));
}

static void read_begin(struct session *s, struct session_read *r, uint32_t deadline_ms)
{
    CHECK(r->state == READ_NONE);
    r->session = s;
    r->state = READ_WAITING;
    r->timer = (struct timer){.on_due = on_read_deadline};
    s->n_reads++;
    if (s->state == SESSION_ENDED && r != &s->control) {
        list_add_tail(&s->ended_reads, &r->node);
        pump_soon(s);
        return;
    }
    list_add_tail(&s->reads, &r->node);
    if (deadline_ms != 0) {
        arm(s, &r->timer, now_of(s) + deadline_ms);
    }
    connect_current(s);
    if (peer_is_up(s->peer) && now_of(s) >= s->busy_until_ms) {
        send_read(s, r);
    }
}

void session_read_start(struct session *s, struct session_read *r)
{
    read_begin(s, r, s->deadline_ms);
}

void session_read_cancel(struct session_read *r)
{
    if (r->state != READ_NONE) {
        read_leave(r);
    }
}

/* ---- the lease -------------------------------------------------------------------------- */

static void on_lease_over(struct timer *t)
{
    tell_state(container_of(t, struct session, lease));
}

static void lease_granted(struct session *s, uint64_t sent_ms)
{
    s->renewed_ms = sent_ms;
    arm(s, &s->lease, sent_ms + s->lease_ms + 1);
    tell_state(s);
}

static void on_renew(struct call *c)
{
    struct session *s = container_of(c, struct session, renew_call);
    s->renewing = false;
    switch (judge(s, c->rc)) {
    case FINAL:
        break;
    case AGAIN:
        return; /* the tick, or the next connection, tries again */
    case OVER:
        session_end(s);
        return;
    }
    if (c->rc != 0) {
        return;
    }
    Cfs__SessionRenewReply *m = cfs__session_renew_reply__unpack(NULL, c->reply.len, c->reply.data);
    if (m == NULL) {
        peer_reset(s->peer);
        return;
    }
    lease_granted(s, s->renew_sent_ms);
    if (s->events.on_renewed != NULL) {
        s->events.on_renewed(s, m, s->ctx);
    }
    cfs__session_renew_reply__free_unpacked(m, NULL);
}

static void renew_now(struct session *s)
{
    if (s->state != SESSION_LIVE || s->renewing || s->peer == NULL || !peer_is_up(s->peer)) {
        return;
    }
    Cfs__SessionRenew m = CFS__SESSION_RENEW__INIT;
    m.session = s->id;
    m.acked = s->seqs.acked;
    if (s->events.on_renew_fill != NULL) {
        s->events.on_renew_fill(s, &m, s->ctx);
    }
    buf_clear(&s->scratch);
    cfs__session_renew__pack(&m, buf_extend(&s->scratch, cfs__session_renew__get_packed_size(&m)));
    s->renew_call.method = METHOD_SESSION_RENEW;
    s->renew_call.body = buf_bytes(&s->scratch);
    s->renew_call.timeout_ms = RENEW_CALL_MS;
    s->renew_call.on_done = on_renew;
    s->renewing = true;
    s->renew_sent_ms = now_of(s);
    call_start(s->peer, &s->renew_call);
}

static void on_renew_tick(struct timer *t)
{
    struct session *s = container_of(t, struct session, renew);
    arm(s, t, now_of(s) + SESSION_RENEW_MS);
    renew_now(s);
}

void session_renew_soon(struct session *s)
{
    if (s->state == SESSION_LIVE) {
        arm(s, &s->renew, now_of(s));
    }
}

static void go_live(struct session *s, uint64_t id, uint64_t next_seq)
{
    s->state = SESSION_LIVE;
    s->id = id;
    s->next_seq = next_seq;
    arm(s, &s->renew, now_of(s) + SESSION_RENEW_MS);
}

/* ---- the connection --------------------------------------------------------------------- */

static void pump(struct session *s)
{
    while (!list_empty(&s->ended_reads)) {
        read_finish(list_first(&s->ended_reads, struct session_read, node), ERR_SESSION_ENDED,
                    BYTES(NULL, 0));
    }
    while (!list_empty(&s->failed)) {
        struct pending *p = list_first(&s->failed, struct pending, node);
        struct command *owner = p->owner != NULL ? disown(p, false) : NULL;
        pending_free(p);
        if (owner != NULL) {
            tell_owner(owner, ERR_SESSION_ENDED, BYTES(NULL, 0));
        }
    }
    if (s->peer == NULL || !peer_is_up(s->peer)) {
        return;
    }
    if (now_of(s) < s->busy_until_ms) {
        arm(s, &s->pump, s->busy_until_ms);
        return;
    }
    if (s->state == SESSION_LIVE) {
        send_commands(s);
    }
    send_reads(s);
}

static void on_pump(struct timer *t)
{
    pump(container_of(t, struct session, pump));
}

static void pump_soon(struct session *s)
{
    uint64_t now = now_of(s);
    if (!timer_armed(&s->pump) || s->pump.at_ms > now) {
        arm(s, &s->pump, now);
    }
}

static void on_up(struct peer *p, void *ctx)
{
    struct session *s = ctx;
    (void)p;
    s->busy_until_ms = 0;
    renew_now(s); /* goes out first, and says who this connection is */
    pump_soon(s);
    tell_state(s);
}

/* A server that is not there: the next one. One alone is tried again by the peer itself. */
static void on_down(struct peer *p, int rc, void *ctx)
{
    struct session *s = ctx;
    (void)p;
    (void)rc;
    if (s->n_addresses > 1) {
        rotate(s);
    }
    tell_state(s);
}

static void on_event(struct peer *p, uint16_t method, struct bytes body, void *ctx)
{
    struct session *s = ctx;
    (void)p;
    if (s->state != SESSION_LIVE) {
        return;
    }
    if (method == EVENT_SESSION_ENDED) {
        session_end(s);
    } else if (s->events.on_event != NULL) {
        s->events.on_event(s, method, body, s->ctx);
    }
}

static const struct peer_events PEER_EVENTS = {on_up, on_down, on_event};

static void connect_current(struct session *s)
{
    if (s->peer == NULL && !timer_armed(&s->rotate)) {
        s->peer = peer_new(s->transport, s->address[s->current], &PEER_EVENTS, s);
        peer_connect(s->peer);
    }
    CHECK(s->peer != NULL || timer_armed(&s->rotate));
}

/* Takes everything back from the connection. */
static void land_all(struct session *s)
{
    while (!list_empty(&s->flying)) {
        struct pending *p = list_first(&s->flying, struct pending, node);
        call_cancel(&p->call);
        put_back(s, p);
    }
    list_for_each (node, &s->reads) {
        struct session_read *r = list_entry(node, struct session_read, node);
        call_cancel(&r->call);
        r->state = READ_WAITING;
    }
    call_cancel(&s->renew_call);
    s->renewing = false;
}

static void on_rotate(struct timer *t)
{
    struct session *s = container_of(t, struct session, rotate);
    struct peer *old = s->peer;
    land_all(s);
    s->peer = NULL;
    peer_free(old);
    s->current = (s->current + 1) % s->n_addresses;
    connect_current(s);
}

/* To the next address, from the loop; after a full round of them with a pause. */
static void rotate(struct session *s)
{
    if (s->n_addresses == 1) {
        be_busy(s);
        return;
    }
    if (!timer_armed(&s->rotate)) {
        bool round = s->current + 1 == s->n_addresses;
        s->busy_until_ms = 0;
        if (round) {
            be_busy(s);
        }
        arm(s, &s->rotate, round ? s->busy_until_ms : now_of(s));
    }
}

/* ---- the end ---------------------------------------------------------------------------- */

/* Only the server's word leads here. Everything outstanding is answered, from the loop. */
static void session_end(struct session *s)
{
    if (s->state == SESSION_ENDED) {
        return;
    }
    s->state = SESSION_ENDED;
    land_all(s);
    list_for_each_safe (node, follow, &s->unsent) {
        list_remove(node);
        list_add_tail(&s->failed, node);
    }
    list_for_each_safe (node, follow, &s->reads) {
        if (list_entry(node, struct session_read, node) != &s->control) {
            list_remove(node);
            list_add_tail(&s->ended_reads, node);
        }
    }
    stop(s, &s->renew);
    stop(s, &s->lease);
    pump_soon(s);
    if (s->events.on_state != NULL) {
        s->events.on_state(s, s->ctx);
    }
}

/* ---- opening and closing ---------------------------------------------------------------- */

static void on_open_done(struct session_read *r)
{
    struct session *s = container_of(r, struct session, control);
    int rc = r->rc;
    if (rc == 0) {
        Cfs__SessionOpenReply *m =
            cfs__session_open_reply__unpack(NULL, r->reply.len, r->reply.data);
        if (m == NULL) {
            rc = ERR_MALFORMED;
        } else {
            s->lease_ms = m->lease_ms;
            go_live(s, m->session, 1);
            cfs__session_open_reply__free_unpacked(m, NULL);
            lease_granted(s, s->control_sent_ms);
        }
    }
    s->on_opened(s, rc, r->reply, s->control_ctx);
}

static void control_start(struct session *s, uint16_t method, uint32_t timeout_ms,
                          void (*on_done)(struct session_read *r))
{
    s->control.method = method;
    s->control.body = buf_bytes(&s->control_body);
    s->control.on_done = on_done;
    read_begin(s, &s->control, timeout_ms);
}

void session_open(struct session *s, struct bytes packed_open, uint32_t timeout_ms,
                  void (*on_done)(struct session *s, int rc, struct bytes reply, void *ctx),
                  void *ctx)
{
    CHECK(s->state == SESSION_FRESH);
    buf_clear(&s->control_body);
    buf_add(&s->control_body, packed_open.data, packed_open.len);
    s->on_opened = on_done;
    s->control_ctx = ctx;
    control_start(s, METHOD_SESSION_OPEN, timeout_ms, on_open_done);
}

static void on_close_done(struct session_read *r)
{
    struct session *s = container_of(r, struct session, control);
    /* Refused: there is no such session any more, which is what was wanted. */
    bool over = r->rc != ERR_DEADLINE;
    if (over) {
        s->state = SESSION_ENDED;
        stop(s, &s->renew);
        stop(s, &s->lease);
    }
    s->on_closed(s, over ? 0 : r->rc, s->control_ctx);
}

void session_close(struct session *s, uint32_t timeout_ms,
                   void (*on_done)(struct session *s, int rc, void *ctx), void *ctx)
{
    Cfs__SessionClose m = CFS__SESSION_CLOSE__INIT;
    m.session = s->id;
    buf_clear(&s->control_body);
    cfs__session_close__pack(&m,
                             buf_extend(&s->control_body, cfs__session_close__get_packed_size(&m)));
    s->on_closed = on_done;
    s->control_ctx = ctx;
    control_start(s, METHOD_SESSION_CLOSE, timeout_ms, on_close_done);
}

/* ---- numbers ---------------------------------------------------------------------------- */

void session_resume(struct session *s, uint64_t session_id, uint64_t next_seq)
{
    CHECK(s->state == SESSION_FRESH && next_seq > 0);
    go_live(s, session_id, next_seq);
    s->resuming = true;
    s->lowest_repeat = next_seq;
    s->was_suspended = true; /* until the first renewal nobody knows */
    seqs_init(&s->seqs, next_seq > SESSION_RESUME_SPAN ? next_seq - SESSION_RESUME_SPAN : 0);
    connect_current(s);
}

/* Below the first number that may still be missing everything counts as acknowledged. That number
 * is known only now; until here `acked` is so low that the server goes on keeping what it keeps. */
void session_resume_done(struct session *s)
{
    if (!s->resuming) {
        return;
    }
    s->resuming = false;
    uint64_t first = s->lowest_repeat > SESSION_WINDOW ? s->lowest_repeat - SESSION_WINDOW : 1;
    for (uint64_t seq = s->seqs.acked + 1; seq < first; seq++) {
        seqs_mark(&s->seqs, seq, SEQ_ANSWERED | SEQ_RELEASED);
    }
    for (uint64_t seq = first; seq < s->next_seq; seq++) {
        if ((seqs_flags(&s->seqs, seq) & SEQ_KNOWN) == 0) {
            struct pending *p = pending_new(s, seq);
            p->empty = true;
            seqs_mark(&s->seqs, seq, SEQ_RELEASED);
            put_back(s, p);
        }
    }
    pump_soon(s);
}

void session_submit(struct session *s, struct command *cmd)
{
    CHECK(cmd->pending == NULL && s->state != SESSION_FRESH);
    CHECK(cmd->ops.len <= SESSION_OPS_MAX);
    if (cmd->seq == 0) {
        session_resume_done(s);
        cmd->seq = s->next_seq++;
    } else if (s->resuming && cmd->seq < s->lowest_repeat) {
        s->lowest_repeat = cmd->seq;
    }
    if (cmd->seq >= s->next_seq) {
        s->next_seq = cmd->seq + 1;
    }
    struct pending *p = pending_new(s, cmd->seq);
    p->owner = cmd;
    cmd->pending = p;
    if (s->state == SESSION_ENDED) {
        list_add_tail(&s->failed, &p->node);
    } else if (list_empty(&s->unsent) ||
               list_entry(s->unsent.prev, struct pending, node)->seq < p->seq) {
        list_add_tail(&s->unsent, &p->node);
    } else {
        put_back(s, p);
    }
    if (s->deadline_ms != 0 && s->state == SESSION_LIVE) {
        arm(s, &p->deadline, now_of(s) + s->deadline_ms);
    }
    pump_soon(s);
}

void session_release_seq(struct session *s, uint64_t seq)
{
    uint64_t before = s->seqs.acked;
    seqs_mark(&s->seqs, seq, SEQ_RELEASED);
    if (s->seqs.acked != before && !list_empty(&s->unsent)) {
        pump_soon(s);
    }
}

void session_abandon(struct session *s, struct command *cmd)
{
    if (cmd->pending == NULL) {
        return;
    }
    seqs_mark(&s->seqs, cmd->seq, SEQ_RELEASED);
    (void)disown(cmd->pending, true);
}

/* ---- public ----------------------------------------------------------------------------- */

static void add_addresses(struct session *s, const char *list)
{
    while (*list != 0 && s->n_addresses < ADDRESSES_MAX) {
        size_t len = strcspn(list, ",");
        if (len != 0) {
            s->address[s->n_addresses++] = xasprintf("%.*s", (int)len, list);
        }
        list += len + (list[len] == ',');
    }
    if (s->n_addresses == 0) {
        s->address[s->n_addresses++] = xstrdup(""); /* every connect is refused as invalid */
    }
}

struct session *session_new(struct transport *t, const struct session_options *options)
{
    struct session *s = xcalloc(1, sizeof *s);
    s->transport = t;
    s->ctx = options->ctx;
    s->deadline_ms = options->deadline_ms;
    s->lease_ms = SESSION_LEASE_MS;
    if (options->events != NULL) {
        s->events = *options->events;
    }
    add_addresses(s, options->addresses);
    list_init(&s->unsent);
    list_init(&s->flying);
    list_init(&s->failed);
    list_init(&s->reads);
    list_init(&s->ended_reads);
    seqs_init(&s->seqs, 0);
    s->pump.on_due = on_pump;
    s->renew.on_due = on_renew_tick;
    s->lease.on_due = on_lease_over;
    s->rotate.on_due = on_rotate;
    return s;
}

static void drop_pendings(struct list *from)
{
    while (!list_empty(from)) {
        struct pending *p = list_first(from, struct pending, node);
        if (p->owner != NULL) {
            (void)disown(p, false);
        }
        pending_free(p);
    }
}

static void drop_reads(struct list *from)
{
    while (!list_empty(from)) {
        read_leave(list_first(from, struct session_read, node));
    }
}

void session_free(struct session *s)
{
    if (s == NULL) {
        return;
    }
    land_all(s);
    drop_pendings(&s->unsent);
    drop_pendings(&s->failed);
    drop_reads(&s->reads);
    drop_reads(&s->ended_reads);
    stop(s, &s->pump);
    stop(s, &s->renew);
    stop(s, &s->lease);
    stop(s, &s->rotate);
    peer_free(s->peer);
    seqs_release(&s->seqs);
    buf_release(&s->scratch);
    buf_release(&s->control_body);
    for (unsigned i = 0; i < s->n_addresses; i++) {
        free(s->address[i]);
    }
    free(s);
}

uint64_t session_id(const struct session *s)
{
    return s->id;
}

uint64_t session_next_seq(const struct session *s)
{
    return s->next_seq;
}

static bool lease_runs(const struct session *s)
{
    return s->renewed_ms != 0 && now_of(s) <= s->renewed_ms + s->lease_ms;
}

bool session_connected(const struct session *s)
{
    return s->state == SESSION_LIVE && s->peer != NULL && peer_is_up(s->peer) && lease_runs(s);
}

bool session_suspended(const struct session *s)
{
    return s->state == SESSION_LIVE && !lease_runs(s);
}

bool session_ended(const struct session *s)
{
    return s->state == SESSION_ENDED;
}

const char *session_address(const struct session *s)
{
    return s->address[s->current];
}

unsigned session_outstanding(const struct session *s)
{
    return s->n_commands + s->n_reads;
}
