#include <stdlib.h>

#include "chunk.pb-c.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "test/lib/suite.h"
#include "test/unit/ask_fakes.h"

static Cfs__Stripe stripe;

static int answer(unsigned method, struct bytes *reply, struct bytes *payload)
{
    static uint8_t packed[1024];
    Cfs__TablesReply tables = CFS__TABLES_REPLY__INIT;
    Cfs__Policy policy = CFS__POLICY__INIT;
    Cfs__ExtentsReply layout = CFS__EXTENTS_REPLY__INIT;
    Cfs__Attr attr = CFS__ATTR__INIT;
    Cfs__Extent extent = CFS__EXTENT__INIT, *extents[] = {&extent};
    Cfs__Stripe *stripes[] = {&stripe};
    *payload = BYTES(NULL, 0);
    if (method == METHOD_TABLES) {
        tables.policy = &policy;
        *reply = BYTES(packed, cfs__tables_reply__pack(&tables, packed));
        return 0;
    }
    extent.kind = 1;
    extent.length = 4096;
    extent.has_pg = extent.has_stripe = true;
    extent.pg = stripe.pg;
    extent.stripe = stripe.id;
    layout.n_extent = layout.n_stripe = 1;
    layout.extent = extents;
    layout.stripe = stripes;
    layout.attr = &attr;
    layout.covered_to = INT64_MAX;
    *reply = BYTES(packed, cfs__extents_reply__pack(&layout, packed));
    return 0;
}

static void setup(void)
{
    asks.answer = answer;
    asks.n = 0;
    cfs__stripe__init(&stripe);
    stripe.id = stripe.pg = 7;
    stripe.kind = 1;
    stripe.k = 4;
    stripe.m = 2;
    stripe.slot_mask = 0x3f;
    stripe.length = 4096;
}

static int run(void)
{
    static char root[] = "/";
    char *argv[] = {root};
    const struct cmd c = {.argc = 1, .argv = argv};
    return cmd_stat(&c);
}

START_TEST(fragments_that_nobody_has_are_bad)
{
    ck_assert_int_eq(run(), CMD_DEGRADED);
    ck_assert_uint_eq(asks.n, 2);
}
END_TEST

/* Else it would look for as many fragments as it says. */
START_TEST(stripe_that_cannot_be_is_a_failure)
{
    stripe.m = UINT32_MAX - 1;
    ck_assert_int_eq(run(), CMD_FAILED);
    stripe.m = 2;
    stripe.k = 33;
    ck_assert_int_eq(run(), CMD_FAILED);
    stripe.kind = 3;
    ck_assert_int_eq(run(), CMD_FAILED);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("cmd_stat");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, fragments_that_nobody_has_are_bad);
    tcase_add_test(t, stripe_that_cannot_be_is_a_failure);
    return suite_run("cmd_stat", t);
}
