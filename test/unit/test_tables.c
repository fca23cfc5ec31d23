#include <check.h>
#include <stdlib.h>

#include "meta.pb-c.h"
#include "proto/methods.h"
#include "test/lib/fake_cluster.h"

struct rig {
    struct cluster *cl;
    struct arena *arena;
    struct fake_worker *w;
    struct tables *t;
};

static struct rig rig_new(void)
{
    struct rig g = {.cl = cluster_new(1), .arena = cluster_arena_new(1024, 1 << 20)};
    g.w = worker_start(g.cl, g.arena);
    g.t = g.w->client.tables;
    return g;
}

static void rig_free(struct rig *g)
{
    cluster_free(g->cl);
    cluster_arena_free(g->arena);
}

static void fetched(void *ctx, int rc)
{
    ck_assert_int_eq(rc, 0);
    ++*(unsigned *)ctx;
}

START_TEST(groups_and_servers_are_known_after_the_fetch)
{
    struct rig g = rig_new();
    const struct pg *pg = tables_pg(g.t, 1);
    ck_assert_ptr_nonnull(pg);
    ck_assert_uint_eq(pg->width, 6);
    ck_assert_uint_eq(pg->slot[5], 6);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x3f);
    ck_assert_uint_eq(tables_full(g.t, pg), 0);
    ck_assert_ptr_nonnull(tables_peer(g.t, 1));
    ck_assert_ptr_null(tables_peer(g.t, 77));
    ck_assert_ptr_null(tables_pg(g.t, 77));
    ck_assert(!tables_reachable(g.t, 77));
    rig_free(&g);
}
END_TEST

static void serve_policy(struct request *r, void *ctx)
{
    Cfs__TablesReply m = CFS__TABLES_REPLY__INIT;
    uint8_t packed[64];
    m.policy = ctx;
    request_reply(r, 0, BYTES(packed, cfs__tables_reply__pack(&m, packed)), NULL);
}

START_TEST(policy_that_cannot_be_does_not_count)
{
    struct rig g = rig_new();
    unsigned n = 0;
    const struct client_policy *now = &g.w->client.policy;
    Cfs__Policy policy = CFS__POLICY__INIT;
    policy.k = 2;
    policy.m = 1;
    policy.inline_limit = 5 << 20; /* more than a command can carry */
    server_handle(g.cl->meta, METHOD_TABLES, serve_policy, &policy);
    tables_fetch(g.t, fetched, &n);
    cluster_run(g.cl, 100);
    ck_assert_uint_eq(now->k, 4);
    ck_assert_uint_eq(now->inline_limit, 4096);
    policy.inline_limit = 65536;
    tables_fetch(g.t, fetched, &n);
    cluster_run(g.cl, 100);
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(now->k, 2);
    ck_assert_uint_eq(now->inline_limit, 65536);
    rig_free(&g);
}
END_TEST

START_TEST(two_fetches_at_once_both_end)
{
    struct rig g = rig_new();
    unsigned n = 0;
    const struct pg *pg = tables_pg(g.t, 1);
    tables_fetch(g.t, fetched, &n);
    tables_fetch(g.t, fetched, &n);
    tables_fetch(g.t, NULL, NULL);
    cluster_run(g.cl, 100);
    ck_assert_uint_eq(n, 2);
    ck_assert_ptr_eq(tables_pg(g.t, 1), pg); /* pointers stay good */
    rig_free(&g);
}
END_TEST

START_TEST(a_killed_server_is_down_until_it_answers_again)
{
    struct rig g = rig_new();
    const struct pg *pg = tables_pg(g.t, 1);
    peer_connect(tables_peer(g.t, 3));
    cluster_run(g.cl, 50);
    cluster_kill(g.cl, 2);
    cluster_run(g.cl, 20);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x3b);
    ck_assert(!tables_reachable(g.t, 3));
    cluster_run(g.cl, 5000);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x3b);
    cluster_revive(g.cl, 2);
    cluster_run(g.cl, 3000);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x3f);
    rig_free(&g);
}
END_TEST

/* A stopped process still has its connections accepted by the kernel: only an answer counts. */
START_TEST(a_silent_server_stays_down_while_it_only_accepts)
{
    struct rig g = rig_new();
    const struct pg *pg = tables_pg(g.t, 1);
    g.cl->chunk[4].silent = true;
    tables_found_down(g.t, 5);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x2f);
    cluster_run(g.cl, 20000);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x2f);
    cluster_revive(g.cl, 4);
    cluster_run(g.cl, 5000);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x3f);
    rig_free(&g);
}
END_TEST

START_TEST(a_full_server_is_tried_again_after_a_while)
{
    struct rig g = rig_new();
    const struct pg *pg = tables_pg(g.t, 2);
    tables_found_full(g.t, 1);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x3e);
    ck_assert_uint_eq(tables_full(g.t, pg), 0x01);
    ck_assert(tables_reachable(g.t, 1)); /* to read from */
    cluster_run(g.cl, 6000);
    ck_assert_uint_eq(tables_up(g.t, pg), 0x3f);
    rig_free(&g);
}
END_TEST

START_TEST(what_the_table_calls_down_takes_nothing)
{
    struct rig g = rig_new();
    unsigned n = 0;
    g.cl->tables_say_down[0] = true;
    tables_fetch(g.t, fetched, &n);
    cluster_run(g.cl, 100);
    ck_assert_uint_eq(n, 1);
    ck_assert_uint_eq(tables_up(g.t, tables_pg(g.t, 1)), 0x3e);
    ck_assert(!tables_reachable(g.t, 1));
    rig_free(&g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tables");
    TCase *t = tcase_create("tables");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, groups_and_servers_are_known_after_the_fetch);
    tcase_add_test(t, policy_that_cannot_be_does_not_count);
    tcase_add_test(t, two_fetches_at_once_both_end);
    tcase_add_test(t, a_killed_server_is_down_until_it_answers_again);
    tcase_add_test(t, a_silent_server_stays_down_while_it_only_accepts);
    tcase_add_test(t, a_full_server_is_tried_again_after_a_while);
    tcase_add_test(t, what_the_table_calls_down_takes_nothing);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
