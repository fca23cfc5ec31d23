#include "rpc/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "rpc/address.h"
#include "rpc/intake.h"
#include "rpc/lender.h"
#include "rpc/limit.h"
#include "rpc/outbox.h"

/* The shell of intake.c and outbox.c: sockets, watched with uv_poll and read and written by our
 * own calls. uv_tcp was not taken for two reasons: it reads into one buffer at a time (we want the
 * rest of a payload in its place and the next frames in ours, in one call), and bytes given to
 * uv_write cannot be taken back, while a cancelled call must give its caller's payload back at
 * once.
 *
 * Nothing calls back inside the call that causes it. What a call leaves to do (flush small frames,
 * go on with bytes kept back, finish a close without a handle, on_sent) waits in `work` and `done`,
 * which are drained in the check phase, right after the events of this turn, and in the prepare
 * phase, for what the other phases left. */

enum {
    READ_BYTES = 64 << 10,
    READ_ROUNDS = 8, /* per event, so that one fast peer does not hold the others up */
    WRITE_ROUNDS = 16,
    IOV_MAX_RUNS = 1000,
    DRAIN_ROUNDS = 4,
    ACCEPT_ROUNDS = 16,
    BACKLOG = 512,
    SWEEP_MS = 5000,
    FRAME_MS = 30000,
    PAYLOAD_MS = 60000,
    STUCK_MS = 60000,
    HELLO_MS = 10000,
    HELD_MAX = 64 << 20, /* bytes of frames that have begun, of all connections */
    HELD_SOME = 64 << 10,
    UNSENT_STOP = 16 << 20,
    UNSENT_GO = 8 << 20
};

struct listener {
    struct list node;
    uv_poll_t poll;
    int fd;
    bool (*accept)(struct conn *c, void *ctx);
    void *ctx;
    struct tcp *tcp;
};

struct tcp {
    struct transport base;
    uv_loop_t *loop;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle; /* runs while a drain left something: then the loop must not sleep */
    struct list conns, listeners;
    struct list work; /* conns by work_node */
    struct list done; /* outgoings whose on_sent is due */
    struct timer sweep;
    unsigned n_conns, n_accepted, accepted_max, n_listeners, open_handles;
    size_t held;  /* of all connections */
    int spare_fd; /* given up for a moment to accept and refuse when descriptors run out */
    bool pool_freed, shutting;
    void (*on_done)(void *ctx);
    void *on_done_ctx;
    uint8_t read_buffer[READ_BYTES];
    struct iovec iov[IOV_MAX_RUNS];
};

enum state { RESOLVING, CONNECTING, OPEN, CLOSING };

struct tcp_conn {
    struct conn base;
    struct list node, work_node;
    enum state state;
    int fd;
    int rc; /* for on_closed */
    uv_poll_t poll;
    int interest; /* events that poll is started with */
    bool has_poll, accepted;
    bool spoke;     /* it has said a whole frame */
    bool paused;    /* by the owner */
    bool throttled; /* too much unsent */
    bool starved;   /* the pool of payloads is empty */
    bool blocked;   /* the socket took less than we had */
    struct intake intake;
    struct outbox outbox;
    struct lender lender;
    struct buf stash; /* received, kept back while not reading */
    size_t held;      /* bytes of a frame that has begun */
    uint64_t partial_since_ms, progress_ms, accepted_ms;
    struct timer timer; /* of connecting */
    uv_getaddrinfo_t *resolve;
    char host[256], port[8];
    char peer[64];
};

static void on_poll(uv_poll_t *h, int status, int events);

static struct tcp *tcp_of(const struct tcp_conn *c)
{
    return container_of(c->base.transport, struct tcp, base);
}

static struct tcp_conn *conn_of(const struct conn *c)
{
    return container_of((struct conn *)(uintptr_t)c, struct tcp_conn, base);
}

static uint64_t now_of(struct tcp_conn *c)
{
    return timers_now(tcp_of(c)->base.timers);
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* being active is its whole work: the loop does not sleep */
}

/* Whoever leaves work may be called from the last phase before the sleep. */
static void stay_awake(struct tcp *t)
{
    if (t->open_handles == 0) {
        uv_idle_start(&t->idle, on_idle);
    }
}

static void need_work(struct tcp_conn *c)
{
    stay_awake(tcp_of(c));
    if (list_empty(&c->work_node)) {
        list_add_tail(&tcp_of(c)->work, &c->work_node);
    }
}

static bool reading(const struct tcp_conn *c)
{
    return c->state == OPEN && !c->paused && !c->throttled && !c->starved && c->stash.len == 0;
}

static void update_interest(struct tcp_conn *c)
{
    int want = 0;
    if (c->state == CLOSING || !c->has_poll) {
        return;
    }
    if (reading(c)) {
        want |= UV_READABLE;
    } else if (c->accepted) {
        want |= UV_DISCONNECT; /* who asks and leaves must not stay here until we read again */
    }
    if (c->state == CONNECTING || c->blocked) {
        want |= UV_WRITABLE;
    }
    if (want == c->interest) {
        return;
    }
    c->interest = want;
    if (want == 0) {
        uv_poll_stop(&c->poll);
    } else {
        CHECK(uv_poll_start(&c->poll, want, on_poll) == 0);
    }
}

/* ---- closing ---------------------------------------------------------------------------- */

static void run_done(struct tcp *t)
{
    struct list due;
    list_take_all(&t->done, &due);
    while (!list_empty(&due)) {
        struct outgoing *o = list_first(&due, struct outgoing, node);
        list_remove(&o->node);
        o->on_sent(o, o->rc);
    }
}

static void on_base_closed(uv_handle_t *h)
{
    struct tcp *t = h->data;
    if (--t->open_handles == 0) {
        t->on_done(t->on_done_ctx);
    }
}

static void finish_shutdown(struct tcp *t)
{
    if (t->shutting && t->n_conns == 0 && t->n_listeners == 0 && t->open_handles == 0) {
        t->open_handles = 3;
        uv_close((uv_handle_t *)&t->prepare, on_base_closed);
        uv_close((uv_handle_t *)&t->check, on_base_closed);
        uv_close((uv_handle_t *)&t->idle, on_base_closed);
    }
}

static void finish_close(struct tcp_conn *c)
{
    struct tcp *t = tcp_of(c);
    outbox_fail(&c->outbox, ERR_DISCONNECTED);
    run_done(t);
    list_remove(&c->node);
    list_remove(&c->work_node);
    intake_release(&c->intake);
    buf_release(&c->stash);
    t->n_conns--;
    t->n_accepted -= c->accepted;
    t->held -= c->held;
    if (c->base.events != NULL) {
        c->base.events->on_closed(&c->base, c->rc, c->base.ctx);
    }
    free(c);
    finish_shutdown(t);
}

static void on_poll_closed(uv_handle_t *h)
{
    finish_close(h->data);
}

static void begin_close(struct tcp_conn *c, int rc)
{
    if (c->state == CLOSING) {
        return;
    }
    c->state = CLOSING;
    c->rc = rc;
    timers_stop(tcp_of(c)->base.timers, &c->timer);
    if (c->has_poll) {
        uv_close((uv_handle_t *)&c->poll, on_poll_closed);
    } else if (c->resolve != NULL) {
        (void)uv_cancel((uv_req_t *)c->resolve); /* if it cannot be, its callback comes anyway */
    } else {
        need_work(c);
    }
    lender_release(&c->lender);
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
}

/* ---- sending ---------------------------------------------------------------------------- */

static void throttle(struct tcp_conn *c)
{
    if (!c->accepted) {
        return; /* who asks must go on reading answers, or both sides could wait for each other */
    }
    if (!c->throttled && c->outbox.bytes > UNSENT_STOP) {
        c->throttled = true;
    } else if (c->throttled && c->outbox.bytes < UNSENT_GO) {
        c->throttled = false;
        need_work(c);
    }
}

static size_t runs_length(const struct iovec *iov, unsigned n)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < n; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

/* Bytes that the socket took, or a negative errno; *offered: how many it was given. */
static ssize_t send_copied(struct tcp_conn *c, size_t *offered)
{
    struct iovec *iov = tcp_of(c)->iov;
    const unsigned n = c->lender.off ? outbox_gather(&c->outbox, iov, IOV_MAX_RUNS)
                                     : outbox_gather_copied(&c->outbox, iov, IOV_MAX_RUNS);
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    *offered = runs_length(iov, n);
    const int more = *offered < c->outbox.bytes ? MSG_MORE : 0; /* follows in the same flush */
    const ssize_t sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT | more);
    return sent < 0 ? -errno : sent;
}

static ssize_t send_lent(struct tcp_conn *c, size_t *offered)
{
    *offered = c->lender.held;
    return lender_give(&c->lender, c->fd, c->outbox.bytes > c->lender.held);
}

/* Puts the next payload into the pipe, if it may be lent. */
static bool lend(struct tcp_conn *c)
{
    struct iovec *iov = tcp_of(c)->iov;
    if (c->lender.off || c->lender.held != 0) {
        return c->lender.held != 0;
    }
    const unsigned n = outbox_gather_lent(&c->outbox, iov, IOV_MAX_RUNS);
    return n != 0 && lender_take(&c->lender, iov, n) != 0;
}

/* One send. Returns true when there may be more to send. */
static bool flush_once(struct tcp_conn *c)
{
    struct tcp *t = tcp_of(c);
    size_t offered;
    const ssize_t n = lend(c) ? send_lent(c, &offered) : send_copied(c, &offered);
    if (n == -EINTR) {
        return true;
    }
    if (n < 0 && n != -EAGAIN && n != -EWOULDBLOCK) {
        begin_close(c, (int)n);
        return false;
    }
    if (n > 0) {
        outbox_advance(&c->outbox, (size_t)n);
        t->base.counts.bytes_out += (uint64_t)n;
        c->progress_ms = t->base.timers->now_ms;
    }
    c->blocked = n < 0 || (size_t)n < offered; /* a short count means that the socket is full */
    return !c->blocked && c->outbox.bytes != 0;
}

static void flush(struct tcp_conn *c)
{
    for (unsigned i = 0; i < WRITE_ROUNDS && c->outbox.bytes != 0; i++) {
        if (!flush_once(c)) {
            break;
        }
    }
    if (c->state == CLOSING) {
        return;
    }
    if (c->outbox.bytes != 0) {
        c->blocked = true;
    } else {
        c->blocked = false;
    }
    throttle(c);
    update_interest(c);
}

static int tcp_send(struct conn *conn, struct outgoing *o)
{
    struct tcp_conn *c = conn_of(conn);
    if (c->state == CLOSING) {
        return ERR_DISCONNECTED;
    }
    if (c->outbox.bytes == 0) {
        c->progress_ms = now_of(c);
    }
    int rc = outbox_add(&c->outbox, o);
    if (rc != 0) {
        return rc;
    }
    tcp_of(c)->base.counts.frames_out++;
    if (c->state != OPEN || c->blocked) {
        throttle(c);
        update_interest(c);
    } else if (o->n_payload != 0) {
        stay_awake(tcp_of(c)); /* for on_sent */
        flush(c);
    } else {
        need_work(c);
    }
    return 0;
}

static bool tcp_unsend(struct conn *conn, struct outgoing *o)
{
    struct tcp_conn *c = conn_of(conn);
    if (o->item != NULL) {
        return outbox_unsend(&c->outbox, o);
    }
    list_remove(&o->node); /* it was in `done` */
    return false;
}

/* ---- receiving -------------------------------------------------------------------------- */

static void note_partial(struct tcp_conn *c)
{
    if (!intake_partial(&c->intake)) {
        c->partial_since_ms = 0;
    } else if (c->partial_since_ms == 0) {
        c->partial_since_ms = tcp_of(c)->base.timers->now_ms;
    }
}

/* Who holds memory with a frame that does not end must not be able to take all of it. */
static void end_oldest_partial(struct tcp *t)
{
    struct tcp_conn *oldest = NULL;
    list_for_each (node, &t->conns) {
        struct tcp_conn *c = list_entry(node, struct tcp_conn, node);
        if (c->state == OPEN && c->accepted && c->held >= HELD_SOME &&
            (oldest == NULL || c->partial_since_ms < oldest->partial_since_ms)) {
            oldest = c;
        }
    }
    if (oldest != NULL) {
        t->held -= oldest->held;
        oldest->held = 0;
        transport_fault(&oldest->base, FRAME_TRUNCATED);
    }
}

static void note_held(struct tcp_conn *c)
{
    struct tcp *t = tcp_of(c);
    size_t held = (c->intake.in_body ? c->intake.body.len : 0) + c->stash.len;
    t->held += held - c->held;
    c->held = held;
    if (t->held > HELD_MAX) {
        end_oldest_partial(t);
    }
}

/* Hands out the frames in `data`; keeps back what may not be handed out now. */
static void feed(struct tcp_conn *c, struct bytes data)
{
    struct tcp *t = tcp_of(c);
    enum intake_result r = INTAKE_MESSAGE;
    while (r == INTAKE_MESSAGE && reading(c)) {
        struct message m;
        enum frame_fault fault = FRAME_OK;
        r = intake_step(&c->intake, &data, &m, &fault);
        if (r == INTAKE_MESSAGE) {
            c->partial_since_ms = 0;
            c->spoke = true;
            t->base.counts.frames_in++;
            c->base.events->on_message(&c->base, &m, c->base.ctx);
        } else if (r == INTAKE_FAULT) {
            transport_fault(&c->base, fault);
        } else if (r == INTAKE_STARVED) {
            c->starved = true;
        }
    }
    if (c->state == CLOSING) {
        return;
    }
    if (r != INTAKE_MORE) {
        intake_settle(&c->intake);
        buf_add(&c->stash, data.data, data.len);
        /* Nothing kept, yet a payload may be owed to a message that only lacks a buffer. */
    }
    note_partial(c);
    note_held(c);
}

/* Goes on after a pause. */
static void resume(struct tcp_conn *c)
{
    if (c->state != OPEN || c->paused || c->throttled || c->starved) {
        return;
    }
    struct buf kept = c->stash;
    buf_init(&c->stash);
    if (kept.len != 0 || c->intake.in_payload) {
        feed(c, buf_bytes(&kept));
    }
    buf_release(&kept);
    update_interest(c);
}

static void at_end(struct tcp_conn *c)
{
    if (intake_partial(&c->intake)) {
        transport_fault(&c->base, FRAME_TRUNCATED);
    } else {
        begin_close(c, 0);
    }
}

/* One recvmsg; true when the socket may hold more. */
static bool read_once(struct tcp_conn *c)
{
    struct tcp *t = tcp_of(c);
    struct iovec iov[2] = {intake_direct(&c->intake),
                           {.iov_base = t->read_buffer, .iov_len = sizeof t->read_buffer}};
    size_t direct = iov[0].iov_len;
    struct msghdr msg = {.msg_iov = direct != 0 ? iov : iov + 1, .msg_iovlen = direct != 0 ? 2 : 1};
    ssize_t n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
    if (n == 0) {
        at_end(c);
        return false;
    }
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            begin_close(c, -errno);
        }
        return false;
    }
    t->base.counts.bytes_in += (uint64_t)n;
    size_t in_place = (size_t)n < direct ? (size_t)n : direct;
    if (in_place != 0) {
        intake_direct_done(&c->intake, in_place);
    }
    feed(c, BYTES(t->read_buffer, (size_t)n - in_place));
    return (size_t)n == direct + sizeof t->read_buffer;
}

static void read_some(struct tcp_conn *c)
{
    for (unsigned i = 0; i < READ_ROUNDS && reading(c); i++) {
        if (!read_once(c)) {
            break;
        }
    }
    update_interest(c);
}

static void on_pool_free(void *ctx)
{
    struct tcp *t = ctx;
    t->pool_freed = true; /* the drain looks */
    stay_awake(t);
}

static void wake_starved(struct tcp *t)
{
    t->pool_freed = false;
    list_for_each (node, &t->conns) {
        struct tcp_conn *c = list_entry(node, struct tcp_conn, node);
        if (c->starved) {
            c->starved = false;
            need_work(c);
        }
    }
}

/* ---- the turn of the loop --------------------------------------------------------------- */

static void do_work(struct tcp_conn *c)
{
    if (c->state == CLOSING) {
        if (!c->has_poll && c->resolve == NULL) {
            finish_close(c);
        }
        return;
    }
    if (c->state == OPEN && c->outbox.bytes != 0 && !c->blocked) {
        flush(c);
    }
    resume(c);
}

static bool drain_once(struct tcp *t)
{
    if (t->pool_freed) {
        wake_starved(t);
    }
    struct list due;
    list_take_all(&t->work, &due);
    while (!list_empty(&due)) {
        struct tcp_conn *c = list_first(&due, struct tcp_conn, work_node);
        list_remove(&c->work_node);
        do_work(c);
    }
    run_done(t);
    return !list_empty(&t->work) || !list_empty(&t->done) || t->pool_freed;
}

static void drain(struct tcp *t)
{
    (void)timers_now(t->base.timers);
    bool more = true;
    for (unsigned i = 0; i < DRAIN_ROUNDS && more; i++) {
        more = drain_once(t);
    }
    if (t->open_handles != 0) {
        return; /* closing for good */
    }
    if (more) {
        stay_awake(t);
    } else {
        uv_idle_stop(&t->idle);
    }
}

static void on_prepare(uv_prepare_t *h)
{
    drain(h->data);
}

static void on_check(uv_check_t *h)
{
    drain(h->data);
}

static void on_sweep(struct timer *timer)
{
    struct tcp *t = container_of(timer, struct tcp, sweep);
    uint64_t now = timers_now(t->base.timers);
    list_for_each (node, &t->conns) {
        struct tcp_conn *c = list_entry(node, struct tcp_conn, node);
        uint64_t bound = c->intake.in_payload ? PAYLOAD_MS : FRAME_MS;
        if (c->state != OPEN) {
            continue;
        }
        if (!reading(c)) {
            c->partial_since_ms = c->partial_since_ms != 0 ? now : 0; /* our fault, not its */
        } else if (c->partial_since_ms != 0 && now - c->partial_since_ms > bound) {
            transport_fault(&c->base, FRAME_TRUNCATED);
            continue;
        }
        if (c->accepted && !c->spoke && c->partial_since_ms == 0 && reading(c) &&
            now - c->accepted_ms > HELLO_MS) {
            transport_fault(&c->base, FRAME_SILENT);
            continue;
        }
        if (c->outbox.bytes != 0 && now - c->progress_ms > STUCK_MS) {
            begin_close(c, -ETIMEDOUT);
        }
    }
    timers_arm(t->base.timers, &t->sweep, now + SWEEP_MS);
}

/* ---- connections ------------------------------------------------------------------------ */

static struct tcp_conn *conn_new(struct tcp *t)
{
    struct tcp_conn *c = xcalloc(1, sizeof *c);
    c->base.transport = &t->base;
    c->fd = -1;
    list_init(&c->work_node);
    list_add_tail(&t->conns, &c->node);
    intake_init(&c->intake, t->base.payloads);
    outbox_init(&c->outbox, &t->done);
    lender_init(&c->lender);
    t->n_conns++;
    return c;
}

static int watch(struct tcp_conn *c)
{
    int rc = uv_poll_init(tcp_of(c)->loop, &c->poll, c->fd);
    if (rc == 0) {
        c->has_poll = true;
        c->poll.data = c;
    }
    return rc;
}

static void connected(struct tcp_conn *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
        error = errno;
    }
    if (error != 0) {
        begin_close(c, -error);
        return;
    }
    timers_stop(tcp_of(c)->base.timers, &c->timer);
    c->state = OPEN;
    c->progress_ms = now_of(c);
    update_interest(c);
    if (c->base.events->on_open != NULL) {
        c->base.events->on_open(&c->base, c->base.ctx);
    }
    if (c->state == OPEN) {
        flush(c);
    }
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct tcp_conn *c = h->data;
    (void)now_of(c);
    if (c->state == CONNECTING) {
        connected(c);
        return;
    }
    if (status < 0) { /* libuv has stopped watching: an error is waiting in the socket */
        read_some(c); /* what came before it counts: a refusal, answers; ends with the error */
        begin_close(c, -ECONNRESET);
        return;
    }
    if ((events & UV_READABLE) != 0 && reading(c)) {
        read_some(c);
    } else if ((events & UV_DISCONNECT) != 0 && !reading(c)) {
        begin_close(c, 0);
    }
    if ((events & UV_WRITABLE) != 0 && c->state == OPEN) {
        flush(c);
    }
}

static void on_connect_late(struct timer *timer)
{
    begin_close(container_of(timer, struct tcp_conn, timer), -ETIMEDOUT);
}

static void connect_to(struct tcp_conn *c, const struct sockaddr *sa, socklen_t len)
{
    c->state = CONNECTING;
    address_name(sa, c->peer);
    c->fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        begin_close(c, -errno);
        return;
    }
    address_options(c->fd);
    if (connect(c->fd, sa, len) != 0 && errno != EINPROGRESS) {
        begin_close(c, -errno);
        return;
    }
    int rc = watch(c);
    if (rc != 0) {
        begin_close(c, rc);
        return;
    }
    update_interest(c);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct tcp_conn *c = req->data;
    const struct addrinfo *use = found;
    for (const struct addrinfo *a = found; a != NULL; a = a->ai_next) {
        if (a->ai_family == AF_INET) {
            use = a; /* what servers listen on unless told otherwise */
            break;
        }
    }
    free(req);
    c->resolve = NULL;
    if (c->state == CLOSING) {
        need_work(c);
    } else if (status != 0 || use == NULL) {
        begin_close(c, -EHOSTUNREACH);
    } else {
        connect_to(c, use->ai_addr, use->ai_addrlen);
    }
    uv_freeaddrinfo(found);
}

static void resolve(struct tcp_conn *c)
{
    static const struct addrinfo HINTS = {.ai_socktype = SOCK_STREAM};
    c->resolve = xcalloc(1, sizeof *c->resolve);
    c->resolve->data = c;
    int rc = uv_getaddrinfo(tcp_of(c)->loop, c->resolve, on_resolved, c->host, c->port, &HINTS);
    if (rc != 0) {
        free(c->resolve);
        c->resolve = NULL;
        begin_close(c, rc);
    }
}

static struct conn *tcp_connect(struct transport *base, const char *address,
                                const struct conn_events *events, void *ctx)
{
    struct tcp *t = container_of(base, struct tcp, base);
    struct tcp_conn *c = conn_new(t);
    struct sockaddr_storage sa;
    c->base.events = events;
    c->base.ctx = ctx;
    snprintf(c->peer, sizeof c->peer, "%s", address);
    timers_arm(base->timers, &c->timer, timers_now(base->timers) + TCP_CONNECT_MS);
    c->timer.on_due = on_connect_late;
    if (t->shutting || t->n_conns - t->n_accepted > TCP_CONNECTIONS_MAX) {
        base->counts.refused++;
        begin_close(c, -EMFILE);
    } else if (address_split(address, c->host, c->port) != 0) {
        begin_close(c, -EINVAL);
    } else {
        socklen_t len = address_numeric(c->host, c->port, &sa);
        if (len != 0) {
            connect_to(c, (struct sockaddr *)&sa, len);
        } else {
            resolve(c);
        }
    }
    return &c->base;
}

static void adopt(struct listener *l, int fd, const struct sockaddr *sa)
{
    struct tcp *t = l->tcp;
    struct tcp_conn *c = conn_new(t);
    c->fd = fd;
    c->accepted = true;
    c->accepted_ms = now_of(c);
    t->n_accepted++;
    c->state = OPEN;
    address_name(sa, c->peer);
    address_options(fd);
    if (watch(c) != 0 || !l->accept(&c->base, l->ctx)) {
        t->base.counts.refused++;
        c->base.events = NULL;
        begin_close(c, 0);
        return;
    }
    t->base.counts.accepted++;
    update_interest(c);
}

/* Out of descriptors: the connection must be taken off the queue all the same, or we would be woken
 * for it without end. */
static bool accept_and_refuse(struct listener *l)
{
    struct tcp *t = l->tcp;
    close(t->spare_fd);
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        t->base.counts.refused++;
    }
    t->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0;
}

static void on_listener(uv_poll_t *h, int status, int events)
{
    struct listener *l = h->data;
    struct tcp *t = l->tcp;
    (void)events;
    for (unsigned i = 0; status == 0 && i < ACCEPT_ROUNDS; i++) {
        struct sockaddr_storage sa;
        socklen_t len = sizeof sa;
        int fd = accept4(l->fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
            if (!accept_and_refuse(l)) {
                return;
            }
        } else if (fd < 0) {
            return; /* EAGAIN: none left; others concern one connection, which is gone */
        } else if (t->n_accepted >= t->accepted_max) {
            char peer[64];
            address_name((struct sockaddr *)&sa, peer);
            transport_refused(&t->base, peer);
            limit_refuse(fd, t->base.refusal);
        } else {
            adopt(l, fd, (struct sockaddr *)&sa);
        }
    }
}

static int tcp_listen(struct transport *base, const char *address,
                      bool (*accept)(struct conn *c, void *ctx), void *ctx, char *bound)
{
    struct tcp *t = container_of(base, struct tcp, base);
    struct sockaddr_storage sa;
    socklen_t len = 0;
    int fd = address_listen(address, BACKLOG, &sa, &len);
    if (fd < 0) {
        return fd;
    }
    struct listener *l = xcalloc(1, sizeof *l);
    *l = (struct listener){.fd = fd, .accept = accept, .ctx = ctx, .tcp = t};
    int rc = uv_poll_init(t->loop, &l->poll, fd);
    if (rc != 0) {
        close(fd);
        free(l);
        return rc;
    }
    l->poll.data = l;
    CHECK(uv_poll_start(&l->poll, UV_READABLE, on_listener) == 0);
    list_add_tail(&t->listeners, &l->node);
    t->n_listeners++;
    if (bound != NULL) {
        address_name((struct sockaddr *)&sa, bound);
    }
    return 0;
}

/* ---- the rest of the seam --------------------------------------------------------------- */

static void tcp_close(struct conn *conn)
{
    struct tcp_conn *c = conn_of(conn);
    if (c->state == OPEN && c->outbox.bytes != 0) {
        flush(c); /* what the socket takes at once still leaves */
    }
    begin_close(c, 0);
}

static void tcp_abort(struct conn *conn, int rc)
{
    begin_close(conn_of(conn), rc);
}

static size_t tcp_unsent(const struct conn *conn)
{
    return conn_of(conn)->outbox.bytes;
}

static void tcp_pause(struct conn *conn, bool paused)
{
    struct tcp_conn *c = conn_of(conn);
    c->paused = paused;
    if (!paused && c->state == OPEN) {
        need_work(c);
    }
    update_interest(c);
}

static const char *tcp_peer_name(const struct conn *conn)
{
    return conn_of(conn)->peer;
}

static void on_listener_closed(uv_handle_t *h)
{
    struct listener *l = h->data;
    struct tcp *t = l->tcp;
    free(l);
    t->n_listeners--;
    finish_shutdown(t);
}

static void tcp_shutdown(struct transport *base, void (*on_done)(void *ctx), void *ctx)
{
    struct tcp *t = container_of(base, struct tcp, base);
    CHECK(!t->shutting);
    t->shutting = true;
    t->on_done = on_done;
    t->on_done_ctx = ctx;
    timers_stop(base->timers, &t->sweep);
    list_for_each_safe (node, follow, &t->listeners) {
        struct listener *l = list_entry(node, struct listener, node);
        list_remove(node);
        uv_close((uv_handle_t *)&l->poll, on_listener_closed);
        close(l->fd);
    }
    list_for_each (node, &t->conns) {
        begin_close(list_entry(node, struct tcp_conn, node), ERR_CANCELLED);
    }
    finish_shutdown(t);
}

static const struct transport_ops TCP_OPS = {
    .listen = tcp_listen,
    .connect = tcp_connect,
    .send = tcp_send,
    .unsend = tcp_unsend,
    .close = tcp_close,
    .abort = tcp_abort,
    .unsent = tcp_unsent,
    .pause = tcp_pause,
    .peer_name = tcp_peer_name,
    .shutdown = tcp_shutdown,
};

struct transport *tcp_new(uv_loop_t *loop, struct timers *timers, struct databuf_pool *payloads)
{
    struct tcp *t = xcalloc(1, sizeof *t);
    transport_init(&t->base, &TCP_OPS, timers, payloads);
    t->loop = loop;
    t->accepted_max = limit_connections(TCP_CONNECTIONS_MAX);
    list_init(&t->conns);
    list_init(&t->listeners);
    list_init(&t->work);
    list_init(&t->done);
    uv_prepare_init(loop, &t->prepare); /* these inits cannot fail */
    uv_check_init(loop, &t->check);
    uv_idle_init(loop, &t->idle);
    t->prepare.data = t->check.data = t->idle.data = t;
    uv_prepare_start(&t->prepare, on_prepare);
    uv_check_start(&t->check, on_check);
    t->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    t->sweep.on_due = on_sweep;
    timers_arm(timers, &t->sweep, timers_now(timers) + SWEEP_MS);
    if (payloads != NULL) {
        databuf_pool_on_free(payloads, on_pool_free, t);
    }
    return &t->base;
}

void tcp_free(struct transport *base)
{
    if (base == NULL) {
        return;
    }
    struct tcp *t = container_of(base, struct tcp, base);
    CHECK(t->n_conns == 0 && t->n_listeners == 0);
    if (base->payloads != NULL) {
        databuf_pool_on_free(base->payloads, NULL, t);
    }
    if (t->spare_fd >= 0) {
        close(t->spare_fd);
    }
    transport_release(base);
    free(t);
}
