#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prng.h"
#include "proto/methods.h"
#include "rpc/call.h"
#include "rpc/server.h"
#include "test/lib/net_sim.h"

/* METHOD_LOOKUP answers its body after a random while, METHOD_GETATTR keeps the request. */
enum { KEPT_MAX = 64, CALLS = 300 };
struct rig {
    struct timers timers;
    struct net_sim *net;
    struct transport *s, *c;
    struct server *server;
    struct peer *peer;
    struct prng prng;
    struct request *kept[KEPT_MAX];
    unsigned n_kept, gone, cancels, ups, downs, shut, done, sent_back, answered, served;
    int down_rc;
    bool freed_in_callback;
    struct databuf_pool *pool;
};

struct later {
    struct timer timer;
    struct request *request;
};
static void on_later(struct timer *t)
{
    struct later *l = container_of(t, struct later, timer);
    request_reply(l->request, 0, l->request->body, NULL);
    free(l);
}
static void serve_lookup(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    struct later *l = calloc(1, sizeof *l);
    g->served++;
    l->timer.on_due = on_later;
    l->request = r;
    timers_arm(&g->timers, &l->timer, g->timers.now_ms + prng_below(&g->prng, 20));
}
static void serve_getattr(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    ck_assert_uint_lt(g->n_kept, KEPT_MAX);
    g->kept[g->n_kept++] = r;
}
static void on_sent_back(void *ctx)
{
    ((struct rig *)ctx)->sent_back++;
}
static void on_gone(struct server_peer *p, void *ctx)
{
    (void)p;
    ((struct rig *)ctx)->gone++;
}
static void on_cancel(struct request *r, void *ctx)
{
    ck_assert(r->cancelled);
    ((struct rig *)ctx)->cancels++;
}
static void on_up(struct peer *p, void *ctx)
{
    struct rig *g = ctx;
    ck_assert(peer_is_up(p));
    g->ups++;
}
static void on_down(struct peer *p, int rc, void *ctx)
{
    struct rig *g = ctx;
    ck_assert(!peer_is_up(p));
    g->downs++;
    g->down_rc = rc;
}
static const struct peer_events PEER_EVENTS = {.on_up = on_up, .on_down = on_down};

static struct rig *rig_new(uint64_t seed)
{
    struct rig *g = calloc(1, sizeof *g);
    log_set_level(LOG_LEVEL_ERROR);
    prng_seed(&g->prng, seed);
    timers_init(&g->timers, 1000);
    g->pool = databuf_pool_new(4096, 4);
    g->net = net_sim_new(&g->timers, seed);
    g->s = net_sim_node(g->net, "server", g->pool);
    g->c = net_sim_node(g->net, "client", g->pool);
    g->server = server_new(g->s);
    server_handle(g->server, METHOD_LOOKUP, serve_lookup, g);
    server_handle(g->server, METHOD_GETATTR, serve_getattr, g);
    server_on_gone(g->server, on_gone, g);
    server_on_cancel(g->server, on_cancel, g);
    ck_assert_int_eq(server_listen(g->server, "server:1", NULL), 0);
    g->peer = peer_new(g->c, "server:1", &PEER_EVENTS, g);
    return g;
}

static void run(struct rig *g, uint64_t ms)
{
    net_sim_run_until(g->net, g->timers.now_ms + ms);
}
static void on_shut(void *ctx)
{
    ((struct rig *)ctx)->shut++;
}
static void rig_free(struct rig *g)
{
    if (!g->freed_in_callback) {
        peer_free(g->peer);
    }
    run(g, 100);
    g->c->ops->shutdown(g->c, on_shut, g);
    g->s->ops->shutdown(g->s, on_shut, g);
    run(g, 10000);
    ck_assert_uint_eq(g->shut, 2);
    while (g->n_kept > 0) {
        request_reply(g->kept[--g->n_kept], 0, BYTES(NULL, 0), NULL);
    }
    server_free(g->server);
    net_sim_free(g->net);
    timers_release(&g->timers);
    databuf_pool_free(g->pool);
    free(g);
}

struct asked {
    struct call call;
    struct rig *rig;
    unsigned done;
    bool frees_peer;
};
static void on_answer(struct call *c)
{
    struct asked *a = container_of(c, struct asked, call);
    a->done++;
    a->rig->done++;
    a->rig->answered += c->rc == 0;
    ck_assert(c->rc != 0 || bytes_equal(c->reply, BYTES(&a->call.timeout_ms, 4)) ||
              c->method != METHOD_LOOKUP);
    if (a->frees_peer) {
        a->rig->freed_in_callback = true;
        peer_free(a->rig->peer);
    }
}
static void ask(struct rig *g, struct asked *a, uint16_t method, uint32_t timeout_ms)
{
    *a = (struct asked){.rig = g};
    a->call.method = method;
    a->call.timeout_ms = timeout_ms;
    a->call.body = BYTES(&a->call.timeout_ms, 4);
    a->call.on_done = on_answer;
    call_start(g->peer, &a->call);
    ck_assert_uint_eq(a->done, 0);
}

START_TEST(every_call_ends_exactly_once_whatever_happens)
{
    unsigned answered = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct rig *g = rig_new(seed);
        static struct asked a[CALLS];
        unsigned cancelled = 0;
        for (unsigned i = 0; i < CALLS; i++) {
            ask(g, &a[i], METHOD_LOOKUP, 5 + (uint32_t)prng_below(&g->prng, 50));
            if (prng_below(&g->prng, 4) == 0) {
                struct asked *victim = &a[prng_below(&g->prng, i + 1)];
                cancelled += victim->done == 0;
                victim->done += victim->done == 0; /* counted as ended: never called back */
                call_cancel(&victim->call);
            }
            if (prng_below(&g->prng, 20) == 0) {
                net_sim_break(g->net, g->c, g->s);
            }
            if (prng_below(&g->prng, 150) == 0) {
                net_sim_kill(g->net, g->s);
                run(g, prng_below(&g->prng, 100));
                server_listen(g->server, "server:1", NULL);
            }
            run(g, prng_below(&g->prng, 3));
        }
        run(g, 200);
        for (unsigned i = 0; i < CALLS; i++) {
            ck_assert_uint_eq(a[i].done, 1);
        }
        ck_assert_uint_eq(g->done + cancelled, CALLS);
        answered += g->answered;
        rig_free(g);
    }
    ck_assert_uint_gt(answered, 60 * CALLS / 5); /* or nothing was tested */
}
END_TEST

START_TEST(refused_peer_tries_again_with_growing_pauses)
{
    struct rig *g = rig_new(1);
    struct asked a, b;
    net_sim_kill(g->net, g->s);
    ask(g, &a, METHOD_LOOKUP, 3000);
    run(g, 5);
    ck_assert_int_eq(a.call.rc, ERR_DISCONNECTED);
    ck_assert_int_eq(g->down_rc, -ECONNREFUSED);
    ask(g, &b, METHOD_LOOKUP, 3000); /* in the pause: told at once */
    run(g, 1);
    ck_assert_int_eq(b.call.rc, ERR_DISCONNECTED);
    run(g, 10000);
    ck_assert_uint_ge(g->downs, 10);
    ck_assert_uint_le(g->downs, 18);
    server_listen(g->server, "server:1", NULL);
    run(g, 1010);
    ck_assert_uint_eq(g->ups, 1);
    rig_free(g);
}
END_TEST

START_TEST(broken_peer_is_down_at_once_and_up_again)
{
    struct rig *g = rig_new(1);
    struct asked a;
    ask(g, &a, METHOD_GETATTR, 3000);
    run(g, 10);
    net_sim_break(g->net, g->c, g->s);
    run(g, 5);
    ck_assert_int_eq(a.call.rc, ERR_DISCONNECTED);
    ck_assert_uint_eq(g->downs, 1);
    run(g, 10);
    ck_assert_uint_eq(g->ups, 2);
    ck_assert_uint_eq(g->gone, 1);
    ck_assert_ptr_null(g->kept[0]->peer); /* may still be answered: dropped */
    rig_free(g);
}
END_TEST

START_TEST(silence_ends_at_the_deadline_and_late_replies_are_ignored)
{
    struct rig *g = rig_new(1);
    struct asked a, b;
    ask(g, &a, METHOD_GETATTR, 500);
    run(g, 490);
    ck_assert_uint_eq(a.done, 0);
    ck_assert_uint_ge(g->kept[0]->deadline_at_ms, 1490);
    run(g, 20);
    ck_assert_int_eq(a.call.rc, ERR_DEADLINE);
    request_reply(g->kept[--g->n_kept], 0, BYTES(NULL, 0), NULL);
    ask(g, &b, METHOD_LOOKUP, 500);
    run(g, 100);
    ck_assert_int_eq(b.call.rc, 0);
    ck_assert_uint_eq(g->downs, 0);
    rig_free(g);
}
END_TEST

START_TEST(cancel_is_told_to_the_server_once)
{
    struct rig *g = rig_new(1);
    struct asked a;
    ask(g, &a, METHOD_GETATTR, 500);
    run(g, 10);
    call_cancel(&a.call);
    call_cancel(&a.call);
    run(g, 1000);
    ck_assert_uint_eq(g->cancels, 1);
    ck_assert_uint_eq(a.done, 0);
    rig_free(g);
}
END_TEST

START_TEST(peer_may_be_freed_in_a_callback)
{
    struct rig *g = rig_new(1);
    struct asked a[3];
    ask(g, &a[0], METHOD_LOOKUP, 500);
    a[0].frees_peer = true;
    ask(g, &a[1], METHOD_GETATTR, 500);
    ask(g, &a[2], METHOD_GETATTR, 500);
    run(g, 100);
    ck_assert_uint_eq(g->done, 3);
    ck_assert_int_eq(a[1].call.rc, ERR_CANCELLED);
    ck_assert_int_eq(a[2].call.rc, ERR_CANCELLED);
    rig_free(g);
}
END_TEST

START_TEST(peer_freed_in_the_pause_ends_what_waits)
{
    struct rig *g = rig_new(1);
    struct asked a, b;
    net_sim_kill(g->net, g->s);
    ask(g, &a, METHOD_LOOKUP, 3000);
    run(g, 5);
    ask(g, &b, METHOD_LOOKUP, 3000);
    peer_free(g->peer);
    g->freed_in_callback = true;
    ck_assert_uint_eq(b.done, 0);
    run(g, 5);
    ck_assert_uint_eq(b.done, 1);
    rig_free(g);
}
END_TEST

START_TEST(payload_of_a_dropped_reply_is_given_back_from_the_loop)
{
    struct rig *g = rig_new(1);
    struct asked a;
    char bytes[100] = "payload";
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct reply_payload p = {.iov = &iov, .n = 1, .on_sent = on_sent_back, .ctx = g};
    ask(g, &a, METHOD_GETATTR, 500);
    run(g, 10);
    net_sim_break(g->net, g->c, g->s);
    run(g, 10);
    request_reply(g->kept[--g->n_kept], 0, BYTES(NULL, 0), &p);
    ck_assert_uint_eq(g->sent_back, 0);
    run(g, 1);
    ck_assert_uint_eq(g->sent_back, 1);
    rig_free(g);
}
END_TEST

/* A peer that lies: replies that nobody asked for, requests to a client. */
static unsigned liar_closed;
static void liar_message(struct conn *c, struct message *m, void *ctx)
{
    struct outgoing o = {.frame = {.kind = *(uint8_t *)ctx, .method = m->frame.method}};
    o.frame.id = m->frame.id + 100;
    (void)c->transport->ops->send(c, &o);
}
static void liar_gone(struct conn *c, int rc, void *ctx)
{
    (void)c;
    (void)rc;
    (void)ctx;
    liar_closed++;
}
static const struct conn_events LIAR = {.on_message = liar_message, .on_closed = liar_gone};
static bool liar_accept(struct conn *c, void *ctx)
{
    c->events = &LIAR;
    c->ctx = ctx;
    return true;
}

START_TEST(lying_server_is_hung_up_on)
{
    static uint8_t kinds[] = {FRAME_REPLY, FRAME_REQUEST, FRAME_CANCEL};
    for (unsigned i = 0; i < 3; i++) {
        struct rig *g = rig_new(1);
        struct asked a;
        ck_assert_int_eq(g->s->ops->listen(g->s, "server:2", liar_accept, &kinds[i], NULL), 0);
        peer_free(g->peer);
        g->peer = peer_new(g->c, "server:2", &PEER_EVENTS, g);
        liar_closed = 0;
        ask(g, &a, METHOD_LOOKUP, 500);
        run(g, 20);
        ck_assert_int_eq(a.call.rc, ERR_DISCONNECTED);
        ck_assert_int_eq(g->down_rc, ERR_MALFORMED);
        ck_assert_uint_eq(g->c->counts.faults[FRAME_BAD_SEQUENCE], 1);
        ck_assert_uint_eq(liar_closed, 1);
        rig_free(g);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("call");
    TCase *t = tcase_create("call");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_call_ends_exactly_once_whatever_happens);
    tcase_add_test(t, refused_peer_tries_again_with_growing_pauses);
    tcase_add_test(t, broken_peer_is_down_at_once_and_up_again);
    tcase_add_test(t, silence_ends_at_the_deadline_and_late_replies_are_ignored);
    tcase_add_test(t, cancel_is_told_to_the_server_once);
    tcase_add_test(t, peer_may_be_freed_in_a_callback);
    tcase_add_test(t, peer_freed_in_the_pause_ends_what_waits);
    tcase_add_test(t, payload_of_a_dropped_reply_is_given_back_from_the_loop);
    tcase_add_test(t, lying_server_is_hung_up_on);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
