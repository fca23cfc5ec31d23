#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "rpc/server.h"
#include "rpc/session.h"
#include "test/lib/net_sim.h"

/* Metadata servers as far as a session sees them: numbers in order, each executed once, a gap is
 * busy, replies kept until acknowledged. All servers of a rig share one state, as a Raft group
 * would. */
enum { SERVERS = 3, LOG_MAX = 20000 };
struct state {
    uint64_t session, last_seq, acked;
    bool ended;
    char *executed[LOG_MAX]; /* ops by number */
    unsigned renewals, duplicates, opens;
    int refuse_ops_rc; /* commands whose ops begin with '!' get this, without using the number up */
    bool full;         /* refuses every new command, empty ones too */
    unsigned busy_first; /* so many commands are told to come again */
    bool mute;           /* answers nothing */
    int odd_rc;          /* what the next read is answered, once */
};
struct rig {
    struct timers timers;
    struct net_sim *net;
    struct transport *node[SERVERS], *client;
    struct server *server[SERVERS];
    struct server_peer *last_peer;
    unsigned leader;
    struct state state;
    struct session *session;
    unsigned done, failed, states, shut, events, renewed;
    int rc;
    char text[256];
    uint64_t last_done_seq, late_seq;
};

static bool not_leader(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    if (g->state.mute) {
        request_malformed(r); /* the simplest way not to answer: the connection goes */
        return true;
    }
    if (r->server != g->server[g->leader]) {
        request_reply(r, ERR_NOT_LEADER, BYTES(NULL, 0), NULL);
        return true;
    }
    g->last_peer = r->peer;
    if (g->state.ended && r->method != METHOD_SESSION_OPEN) {
        request_reply(r, ERR_SESSION_ENDED, BYTES(NULL, 0), NULL);
        return true;
    }
    return false;
}

static void serve_open(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    uint8_t packed[256];
    if (not_leader(r, ctx)) {
        return;
    }
    Cfs__SessionOpen *m = cfs__session_open__unpack(NULL, r->body.len, r->body.data);
    bool second = m != NULL && strcmp(m->host, "second") == 0;
    cfs__session_open__free_unpacked(m, NULL);
    if (second) {
        request_fail(r, ERR_SECOND_MOUNT, "host %s has it mounted", "first");
        return;
    }
    Cfs__SessionOpenReply o = CFS__SESSION_OPEN_REPLY__INIT;
    Cfs__Policy p = CFS__POLICY__INIT;
    g->state.opens++;
    o.session = g->state.session = 77;
    o.lease_ms = SESSION_LEASE_MS;
    o.policy = &p;
    request_reply(r, 0, BYTES(packed, cfs__session_open_reply__pack(&o, packed)), NULL);
}

static void serve_renew(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    uint8_t packed[64];
    if (not_leader(r, ctx)) {
        return;
    }
    g->state.renewals++;
    Cfs__SessionRenewReply o = CFS__SESSION_RENEW_REPLY__INIT;
    o.credit = 12345;
    request_reply(r, 0, BYTES(packed, cfs__session_renew_reply__pack(&o, packed)), NULL);
}

static void execute(struct rig *g, const Cfs__CommandRequest *m)
{
    ck_assert_uint_lt(m->seq, LOG_MAX);
    g->state.last_seq = m->seq;
    g->state.executed[m->seq] = xasprintf("%.*s", (int)m->ops.len, (const char *)m->ops.data);
}

static void serve_command(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    if (not_leader(r, ctx)) {
        return;
    }
    Cfs__CommandRequest *m = cfs__command_request__unpack(NULL, r->body.len, r->body.data);
    ck_assert_ptr_nonnull(m);
    ck_assert_uint_eq(m->session, 77);
    int rc = 0;
    char reply[64] = "";
    if (m->seq <= g->state.last_seq) {
        g->state.duplicates++;
    } else if (m->seq > g->state.last_seq + 1 || g->state.busy_first > 0) {
        g->state.busy_first -= g->state.busy_first > 0;
        rc = ERR_BUSY;
    } else if (g->state.full) {
        rc = -28;
    } else if (m->ops.len > 0 && m->ops.data[0] == '!' && g->state.refuse_ops_rc != 0) {
        rc = g->state.refuse_ops_rc;
    } else {
        execute(g, m);
    }
    if (rc == 0) {
        ck_assert_uint_ge(m->seq, m->acked);
        ck_assert_uint_le(m->seq - m->acked, SESSION_WINDOW);
        g->state.acked = m->acked > g->state.acked ? m->acked : g->state.acked;
        snprintf(reply, sizeof reply, "r%lu", (unsigned long)m->seq);
    }
    cfs__command_request__free_unpacked(m, NULL);
    request_reply(r, rc, BYTES(reply, strlen(reply)), NULL);
}

static void serve_getattr(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    if (!not_leader(r, ctx)) {
        const int rc = g->state.odd_rc;
        g->state.odd_rc = 0;
        request_reply(r, rc, BYTES("attr", 4), NULL);
    }
}

static void serve_lookup(struct request *r, void *ctx)
{
    if (!not_leader(r, ctx)) {
        request_fail(r, -2, "no such name");
    }
}

static void on_state(struct session *s, void *ctx)
{
    (void)s;
    ((struct rig *)ctx)->states++;
}
static void on_event(struct session *s, uint16_t method, struct bytes body, void *ctx)
{
    (void)s;
    (void)body;
    ck_assert_uint_eq(method, EVENT_TABLES);
    ((struct rig *)ctx)->events++;
}
static void on_fill(struct session *s, struct Cfs__SessionRenew *m, void *ctx)
{
    (void)s;
    (void)ctx;
    m->has_want_credit = 1;
    m->want_credit = 5;
}
static void on_renewed(struct session *s, const struct Cfs__SessionRenewReply *m, void *ctx)
{
    (void)s;
    ck_assert_uint_eq(m->credit, 12345);
    ((struct rig *)ctx)->renewed++;
}
static void on_late(struct session *s, uint64_t seq, void *ctx)
{
    (void)s;
    ((struct rig *)ctx)->late_seq = seq;
}
static const struct session_events EVENTS = {on_state, on_event, on_fill, on_renewed, on_late};

static void serve_on(struct rig *g, unsigned i)
{
    char address[32];
    snprintf(address, sizeof address, "m%u:1", i);
    ck_assert_int_eq(server_listen(g->server[i], address, NULL), 0);
}

static void session_make(struct rig *g, const char *addresses, uint32_t deadline_ms)
{
    struct session_options o = {addresses, deadline_ms, &EVENTS, g};
    g->session = session_new(g->client, &o);
}

static struct rig *rig_new(uint64_t seed, const char *addresses, uint32_t deadline_ms)
{
    static const char *const NAMES[SERVERS] = {"m0", "m1", "m2"};
    struct rig *g = calloc(1, sizeof *g);
    log_set_level(LOG_LEVEL_ERROR);
    timers_init(&g->timers, 1000);
    g->net = net_sim_new(&g->timers, seed);
    for (unsigned i = 0; i < SERVERS; i++) {
        g->node[i] = net_sim_node(g->net, NAMES[i], NULL);
        g->server[i] = server_new(g->node[i]);
        server_handle(g->server[i], METHOD_SESSION_OPEN, serve_open, g);
        server_handle(g->server[i], METHOD_SESSION_RENEW, serve_renew, g);
        server_handle(g->server[i], METHOD_COMMAND, serve_command, g);
        server_handle(g->server[i], METHOD_GETATTR, serve_getattr, g);
        server_handle(g->server[i], METHOD_LOOKUP, serve_lookup, g);
        serve_on(g, i);
    }
    g->client = net_sim_node(g->net, "client", NULL);
    session_make(g, addresses, deadline_ms);
    return g;
}

static void on_shut(void *ctx)
{
    ((struct rig *)ctx)->shut++;
}

static void rig_free(struct rig *g)
{
    session_free(g->session);
    g->client->ops->shutdown(g->client, on_shut, g);
    for (unsigned i = 0; i < SERVERS; i++) {
        g->node[i]->ops->shutdown(g->node[i], on_shut, g);
    }
    net_sim_run_until(g->net, g->timers.now_ms + 10000);
    ck_assert_uint_eq(g->shut, SERVERS + 1);
    for (unsigned i = 0; i < SERVERS; i++) {
        server_free(g->server[i]);
    }
    net_sim_free(g->net);
    timers_release(&g->timers);
    for (unsigned i = 0; i < LOG_MAX; i++) {
        free(g->state.executed[i]);
    }
    free(g);
}

static void run(struct rig *g, uint64_t ms)
{
    net_sim_run_until(g->net, g->timers.now_ms + ms);
}

static void on_opened(struct session *s, int rc, struct bytes reply, void *ctx)
{
    struct rig *g = ctx;
    (void)s;
    g->rc = rc;
    if (rc != 0 && reply.len != 0) {
        Cfs__Refusal *m = cfs__refusal__unpack(NULL, reply.len, reply.data);
        snprintf(g->text, sizeof g->text, "%s", m->text);
        cfs__refusal__free_unpacked(m, NULL);
    }
}

static void open_as(struct rig *g, const char *host, uint32_t timeout_ms)
{
    uint8_t packed[128];
    Cfs__SessionOpen m = CFS__SESSION_OPEN__INIT;
    m.host = (char *)(uintptr_t)host;
    m.machine = m.boot = m.version = m.host;
    g->rc = 1;
    session_open(g->session, BYTES(packed, cfs__session_open__pack(&m, packed)), timeout_ms,
                 on_opened, g);
    ck_assert_int_eq(g->rc, 1);
}

static void open_well(struct rig *g)
{
    open_as(g, "first", 10000);
    run(g, 3000);
    ck_assert_int_eq(g->rc, 0);
    ck_assert(session_connected(g->session));
}

struct item {
    struct command cmd;
    struct rig *rig;
    bool done;
};

static void on_done(struct command *c)
{
    struct item *i = container_of(c, struct item, cmd);
    ck_assert(!i->done);
    i->done = true;
    i->rig->done++;
    i->rig->failed += c->rc != 0;
    i->rig->rc = c->rc;
    if (c->rc == 0) {
        char want[32];
        snprintf(want, sizeof want, "r%lu", (unsigned long)c->seq);
        ck_assert(bytes_equal(c->reply, BYTES(want, strlen(want))));
        session_release_seq(i->rig->session, c->seq);
    }
    buf_release(&c->ops);
}

static struct item *submit(struct rig *g, struct item *i, uint64_t seq, const char *ops)
{
    *i = (struct item){.rig = g};
    buf_add(&i->cmd.ops, ops, strlen(ops));
    i->cmd.seq = seq;
    i->cmd.on_done = on_done;
    session_submit(g->session, &i->cmd);
    ck_assert(!i->done);
    return i;
}

static struct item *submit_many(struct rig *g, unsigned n)
{
    struct item *items = calloc(n, sizeof *items);
    for (unsigned i = 0; i < n; i++) {
        char ops[32];
        snprintf(ops, sizeof ops, "op%lu", (unsigned long)session_next_seq(g->session));
        submit(g, &items[i], 0, ops);
    }
    return items;
}

static void all_executed_once(struct rig *g, uint64_t n)
{
    ck_assert_uint_eq(g->state.last_seq, n);
    for (uint64_t i = 1; i <= n; i++) {
        char want[32];
        snprintf(want, sizeof want, "op%lu", (unsigned long)i);
        ck_assert_str_eq(g->state.executed[i], want);
    }
}

START_TEST(commands_are_executed_in_order_and_acknowledged)
{
    struct rig *g = rig_new(1, "m0:1", 0);
    open_well(g);
    struct item *items = submit_many(g, 5000);
    run(g, 3000);
    ck_assert_uint_eq(g->done, 5000);
    all_executed_once(g, 5000);
    free(items);
    items = submit_many(g, 1);
    run(g, 100);
    ck_assert_uint_eq(g->state.acked, 5000);
    ck_assert_uint_eq(session_outstanding(g->session), 0);
    free(items);
    rig_free(g);
}
END_TEST

START_TEST(unreleased_numbers_hold_the_window)
{
    struct rig *g = rig_new(1, "m0:1", 0);
    open_well(g);
    struct item first;
    submit(g, &first, 0, "op1");
    session_abandon(g->session, &first.cmd); /* released once answered */
    ck_assert_uint_eq(first.cmd.ops.len, 0);
    struct item *items = submit_many(g, 1500);
    g->state.busy_first = 3;
    run(g, 3000);
    ck_assert_uint_eq(g->done, 1500);
    ck_assert(!first.done);
    all_executed_once(g, 1501);
    free(items);
    rig_free(g);
}
END_TEST

START_TEST(breaks_lose_and_double_nothing)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct rig *g = rig_new(seed, seed % 2 == 0 ? "m0:1" : "m0:1,m1:1,m2:1", 0);
        struct prng p;
        prng_seed(&p, seed);
        open_well(g);
        struct item *items[20];
        for (unsigned i = 0; i < 20; i++) {
            items[i] = submit_many(g, 1 + (unsigned)prng_below(&p, 100));
            run(g, prng_below(&p, 20));
            if (prng_below(&p, 2) == 0) {
                net_sim_break(g->net, g->client, NULL);
            } else if (seed % 2 != 0) {
                g->leader = (unsigned)prng_below(&p, SERVERS);
            }
            if (prng_below(&p, 4) == 0) {
                net_sim_kill(g->net, g->node[g->leader]);
                run(g, prng_below(&p, 300));
                serve_on(g, g->leader);
            }
        }
        run(g, 20000);
        ck_assert_uint_eq(session_outstanding(g->session), 0);
        ck_assert_uint_eq(g->failed, 0);
        all_executed_once(g, session_next_seq(g->session) - 1);
        for (unsigned i = 0; i < 20; i++) {
            free(items[i]);
        }
        rig_free(g);
    }
}
END_TEST

START_TEST(open_finds_the_leader)
{
    struct rig *g = rig_new(3, "nowhere:1,m0:1,m1:1,m2:1", 0);
    g->leader = 2;
    open_well(g);
    ck_assert_str_eq(session_address(g->session), "m2:1");
    rig_free(g);
}
END_TEST

START_TEST(refused_open_ends_at_once_with_the_text)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    open_as(g, "second", 60000);
    run(g, 100);
    ck_assert_int_eq(g->rc, ERR_SECOND_MOUNT);
    ck_assert_str_eq(g->text, "host first has it mounted");
    rig_free(g);
}
END_TEST

START_TEST(open_of_nobody_ends_at_its_deadline)
{
    struct rig *g = rig_new(3, "m0:9,nowhere:1", 0);
    open_as(g, "first", 4000);
    run(g, 3900);
    ck_assert_int_eq(g->rc, 1);
    run(g, 200);
    ck_assert_int_eq(g->rc, ERR_DEADLINE);
    rig_free(g);
}
END_TEST

START_TEST(lease_is_renewed_and_lost_by_the_time_of_sending)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    open_well(g);
    run(g, 20000);
    ck_assert(!session_suspended(g->session));
    ck_assert_uint_ge(g->renewed, 9);
    net_sim_partition(g->net, g->client, g->node[0], true);
    run(g, SESSION_LEASE_MS - SESSION_RENEW_MS - 100);
    ck_assert(!session_suspended(g->session));
    run(g, SESSION_RENEW_MS + 200);
    ck_assert(session_suspended(g->session));
    ck_assert(!session_connected(g->session));
    ck_assert_uint_ge(g->states, 2);
    net_sim_partition(g->net, g->client, g->node[0], false);
    run(g, 5000);
    ck_assert(session_connected(g->session));
    rig_free(g);
}
END_TEST

START_TEST(ended_session_fails_everything)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    open_well(g);
    g->state.ended = true;
    struct item *items = submit_many(g, 10), late;
    run(g, 1000);
    ck_assert_uint_eq(g->done, 10);
    ck_assert_uint_eq(g->failed, 10);
    ck_assert_int_eq(g->rc, ERR_SESSION_ENDED);
    ck_assert(session_ended(g->session));
    submit(g, &late, 0, "late");
    run(g, 10);
    ck_assert(late.done);
    ck_assert_int_eq(late.cmd.rc, ERR_SESSION_ENDED);
    free(items);
    rig_free(g);
}
END_TEST

START_TEST(refused_command_uses_its_number_up)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    struct item bad;
    open_well(g);
    g->state.refuse_ops_rc = -28;
    submit(g, &bad, 0, "!bad");
    struct item *items = submit_many(g, 5);
    run(g, 2000);
    ck_assert(bad.done);
    ck_assert_int_eq(bad.cmd.rc, -28);
    ck_assert_uint_eq(g->done, 6);
    ck_assert_uint_eq(g->failed, 1);
    ck_assert_str_eq(g->state.executed[1], "");
    ck_assert_str_eq(g->state.executed[6], "op6");
    free(items);
    rig_free(g);
}
END_TEST

START_TEST(refusals_do_not_wedge_the_session)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    open_well(g);
    g->state.full = true;
    struct item *items = submit_many(g, 3);
    run(g, 5000);
    ck_assert_uint_eq(g->done, 1); /* the others wait behind the number that nobody takes */
    ck_assert_int_eq(g->rc, -28);
    g->state.full = false;
    run(g, 1500);
    ck_assert_uint_eq(g->done, 3);
    ck_assert_uint_eq(g->failed, 1);
    ck_assert_str_eq(g->state.executed[1], "");
    ck_assert_str_eq(g->state.executed[3], "op3");
    free(items);
    rig_free(g);
}
END_TEST

START_TEST(resumed_session_repeats_and_fills_gaps)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    struct item a, b, c;
    g->state.session = 77;
    g->state.last_seq = 3; /* a dead worker: 4 lost, 5 sent and lost, 6 abandoned, 7 published */
    session_resume(g->session, 77, 7);
    submit(g, &a, 5, "op5");
    submit(g, &b, 7, "op7");
    ck_assert_uint_eq(session_next_seq(g->session), 8);
    run(g, 200);
    ck_assert(!a.done);
    submit(g, &c, 0, "op8");
    ck_assert_uint_eq(c.cmd.seq, 8);
    run(g, 1000);
    ck_assert(a.done && b.done && c.done);
    ck_assert_uint_eq(g->failed, 0);
    ck_assert_str_eq(g->state.executed[4], "");
    ck_assert_str_eq(g->state.executed[5], "op5");
    ck_assert_str_eq(g->state.executed[6], "");
    ck_assert_str_eq(g->state.executed[7], "op7");
    ck_assert_str_eq(g->state.executed[8], "op8");
    rig_free(g);
}
END_TEST

START_TEST(resume_far_into_a_session_fills_at_most_a_window)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    struct item a;
    g->state.last_seq = 15000;
    session_resume(g->session, 77, 15001);
    session_resume_done(g->session);
    run(g, 1000);
    ck_assert_uint_eq(session_outstanding(g->session), 0);
    ck_assert_uint_le(g->state.duplicates, SESSION_WINDOW);
    submit(g, &a, 0, "op15001");
    run(g, 100);
    ck_assert(a.done);
    ck_assert_str_eq(g->state.executed[15001], "op15001");
    rig_free(g);
}
END_TEST

struct reading {
    struct session_read read;
    struct rig *rig;
    bool done;
};
static void on_read(struct session_read *r)
{
    struct reading *x = container_of(r, struct reading, read);
    x->done = true;
    snprintf(x->rig->text, sizeof x->rig->text, "%.*s", (int)r->reply.len,
             (const char *)r->reply.data);
}
static void read_start(struct rig *g, struct reading *x, uint16_t method)
{
    *x = (struct reading){.rig = g, .read = {.method = method, .on_done = on_read}};
    session_read_start(g->session, &x->read);
    ck_assert(!x->done);
}

START_TEST(read_is_repeated_until_answered_and_errors_are_answers)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    struct reading a, b, c;
    open_well(g);
    net_sim_kill(g->net, g->node[0]);
    read_start(g, &a, METHOD_GETATTR);
    read_start(g, &b, METHOD_GETATTR);
    session_read_cancel(&b.read);
    run(g, 2000);
    ck_assert(!a.done);
    serve_on(g, 0);
    run(g, 1500);
    ck_assert(a.done && !b.done);
    ck_assert_int_eq(a.read.rc, 0);
    ck_assert_str_eq(g->text, "attr");
    read_start(g, &c, METHOD_LOOKUP);
    run(g, 100);
    ck_assert_int_eq(c.read.rc, -2);
    ck_assert_uint_eq(session_outstanding(g->session), 0);
    rig_free(g);
}
END_TEST

/* A server that says of itself what only its caller can know. */
START_TEST(read_answered_with_an_error_of_this_side_is_asked_again)
{
    static const int RCS[] = {ERR_DISCONNECTED, ERR_CANCELLED, ERR_DEADLINE};
    struct rig *g = rig_new(3, "m0:1", 0);
    open_well(g);
    for (unsigned i = 0; i < array_count(RCS); i++) {
        struct reading a;
        g->state.odd_rc = RCS[i];
        read_start(g, &a, METHOD_GETATTR);
        run(g, 1000);
        ck_assert(a.done);
        ck_assert_int_eq(a.read.rc, 0);
    }
    rig_free(g);
}
END_TEST

START_TEST(deadline_ends_the_wait_but_keeps_the_number)
{
    struct rig *g = rig_new(3, "m0:1", 2000);
    struct item a;
    struct reading r;
    open_well(g);
    net_sim_kill(g->net, g->node[0]);
    submit(g, &a, 0, "op1");
    read_start(g, &r, METHOD_GETATTR);
    run(g, 1900);
    ck_assert(!a.done && !r.done);
    run(g, 200);
    ck_assert(a.done && r.done);
    ck_assert_int_eq(a.cmd.rc, ERR_DEADLINE);
    ck_assert_int_eq(r.read.rc, ERR_DEADLINE);
    ck_assert_uint_eq(g->late_seq, 0);
    serve_on(g, 0);
    struct item *items = submit_many(g, 1);
    run(g, 1500);
    ck_assert_uint_eq(g->late_seq, a.cmd.seq);
    ck_assert_uint_eq(g->done, 2);
    all_executed_once(g, 2);
    free(items);
    rig_free(g);
}
END_TEST

START_TEST(events_reach_the_owner)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    open_well(g);
    server_event(g->last_peer, EVENT_TABLES, BYTES(NULL, 0));
    run(g, 10);
    ck_assert_uint_eq(g->events, 1);
    server_event(g->last_peer, EVENT_SESSION_ENDED, BYTES(NULL, 0));
    run(g, 10);
    ck_assert(session_ended(g->session));
    rig_free(g);
}
END_TEST

START_TEST(session_can_go_with_everything_outstanding)
{
    struct rig *g = rig_new(3, "m0:1", 0);
    struct reading r;
    open_well(g);
    struct item *items = submit_many(g, 2000);
    read_start(g, &r, METHOD_GETATTR);
    run(g, 1);
    for (unsigned i = 0; i < 2000; i++) {
        if (!items[i].done) {
            session_abandon(g->session, &items[i].cmd);
        }
    }
    unsigned done = g->done;
    session_free(g->session);
    g->session = NULL;
    run(g, 100);
    ck_assert_uint_eq(g->done, done);
    free(items);
    rig_free(g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("session");
    TCase *t = tcase_create("session");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, commands_are_executed_in_order_and_acknowledged);
    tcase_add_test(t, unreleased_numbers_hold_the_window);
    tcase_add_test(t, breaks_lose_and_double_nothing);
    tcase_add_test(t, open_finds_the_leader);
    tcase_add_test(t, refused_open_ends_at_once_with_the_text);
    tcase_add_test(t, open_of_nobody_ends_at_its_deadline);
    tcase_add_test(t, lease_is_renewed_and_lost_by_the_time_of_sending);
    tcase_add_test(t, ended_session_fails_everything);
    tcase_add_test(t, refused_command_uses_its_number_up);
    tcase_add_test(t, refusals_do_not_wedge_the_session);
    tcase_add_test(t, resumed_session_repeats_and_fills_gaps);
    tcase_add_test(t, resume_far_into_a_session_fills_at_most_a_window);
    tcase_add_test(t, read_is_repeated_until_answered_and_errors_are_answers);
    tcase_add_test(t, read_answered_with_an_error_of_this_side_is_asked_again);
    tcase_add_test(t, deadline_ends_the_wait_but_keeps_the_number);
    tcase_add_test(t, events_reach_the_owner);
    tcase_add_test(t, session_can_go_with_everything_outstanding);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
