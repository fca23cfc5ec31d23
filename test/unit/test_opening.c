#include "fuse/opening.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "test/lib/fake_cluster.h"
#include "test/lib/suite.h"

/* A mount that begins, and a server that may answer anything. */
struct rig {
    struct cluster *cl;
    struct transport *node;
    struct arena *arena;
    struct client client;
    Cfs__SessionOpenReply reply;
    Cfs__Policy policy;
    bool done, shut;
    int rc;
};

static void serve_open(struct request *r, void *ctx)
{
    const struct rig *g = ctx;
    uint8_t packed[256];
    request_reply(r, 0, BYTES(packed, cfs__session_open_reply__pack(&g->reply, packed)), NULL);
}

static struct rig *rig_new(void)
{
    struct rig *g = calloc(1, sizeof *g);
    g->cl = cluster_new(1);
    g->node = net_sim_node(g->cl->net, "opening", NULL);
    g->arena = cluster_arena_new(16, 65536);
    g->client = (struct client){.timers = &g->cl->timers, .transport = g->node, .arena = g->arena};
    const struct session_options options = {.addresses = "meta:1"};
    g->client.session = session_new(g->node, &options);
    cfs__session_open_reply__init(&g->reply);
    cfs__policy__init(&g->policy);
    g->policy.k = 4;
    g->policy.m = 2;
    g->policy.inline_limit = 4096;
    g->reply.policy = &g->policy;
    g->reply.session = 77;
    g->reply.lease_ms = SESSION_LEASE_MS;
    g->reply.root_ino = 5;
    server_handle(g->cl->meta, METHOD_SESSION_OPEN, serve_open, g);
    return g;
}

static void on_opened(void *ctx, int rc, const char *text)
{
    struct rig *g = ctx;
    ck_assert(!g->done);
    ck_assert((rc == 0) == (text[0] == 0));
    g->done = true;
    g->rc = rc;
}

static void on_shut(void *ctx)
{
    *(bool *)ctx = true;
}

/* The answer that the mount gets; the rig is gone then. */
static int opened(struct rig *g)
{
    opening_start(&g->client, on_opened, g);
    ck_assert(cluster_run_flag(g->cl, &g->done, 20000));
    const int rc = g->rc;
    if (rc == 0) {
        ck_assert_uint_eq(g->arena->h->session, 77);
        ck_assert_uint_eq(g->arena->h->root_ino, 5);
        ck_assert_uint_eq(g->client.policy.k, g->policy.k);
        ck_assert_uint_eq(g->client.policy.inline_limit, g->policy.inline_limit);
    } else {
        ck_assert_uint_eq(g->arena->h->session, 0);
    }
    session_free(g->client.session);
    g->node->ops->shutdown(g->node, on_shut, &g->shut);
    ck_assert(cluster_run_flag(g->cl, &g->shut, 20000));
    cluster_free(g->cl);
    cluster_arena_free(g->arena);
    free(g);
    return rc;
}

START_TEST(session_root_and_policy_are_noted)
{
    ck_assert_int_eq(opened(rig_new()), 0);
}
END_TEST

/* The largest k and m of the encoder are the sizes of arrays. */
START_TEST(policy_that_cannot_be_is_refused)
{
    static const Cfs__Policy WRONG[] = {{.k = 0, .m = 2, .inline_limit = 0},
                                        {.k = 33, .m = 2, .inline_limit = 0},
                                        {.k = 4, .m = 9, .inline_limit = 0},
                                        {.k = 4, .m = UINT32_MAX, .inline_limit = 0},
                                        {.k = 4, .m = 2, .inline_limit = UINT32_MAX}};
    for (unsigned i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        struct rig *g = rig_new();
        g->policy.k = WRONG[i].k;
        g->policy.m = WRONG[i].m;
        g->policy.inline_limit = WRONG[i].inline_limit;
        ck_assert_int_eq(opened(g), ERR_MALFORMED);
    }
}
END_TEST

START_TEST(session_without_number_or_root_is_refused)
{
    struct rig *g = rig_new();
    g->reply.session = 0;
    ck_assert_int_eq(opened(g), ERR_MALFORMED);
    g = rig_new();
    g->reply.root_ino = 0;
    ck_assert_int_eq(opened(g), ERR_MALFORMED);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("opening");
    tcase_add_test(t, session_root_and_policy_are_noted);
    tcase_add_test(t, policy_that_cannot_be_is_refused);
    tcase_add_test(t, session_without_number_or_root_is_refused);
    return suite_run("opening", t);
}
