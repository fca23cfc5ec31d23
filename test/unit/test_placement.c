#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "meta/placement.h"

static void servers_fill(struct placement_server *s, unsigned n, unsigned per_domain)
{
    for (unsigned i = 0; i < n; i++) {
        s[i] = (struct placement_server){.id = i + 1, .domain = i / per_domain};
    }
}

static unsigned slots_of(const struct placement_group *g, unsigned n, unsigned width, uint32_t id)
{
    unsigned slots = 0;
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < width; k++) {
            slots += g[i].slot[k] == id;
        }
    }
    return slots;
}

static void check_even(unsigned n_servers, unsigned width, uint64_t seed)
{
    struct placement_server s[64];
    servers_fill(s, n_servers, 1);
    const unsigned n = placement_count(n_servers, width);
    struct placement_group *g = xcalloc(n, sizeof g[0]);
    ck_assert_int_eq(placement_plan(s, n_servers, width, seed, g, n), 0);
    unsigned low = ~0u;
    unsigned high = 0;
    for (unsigned i = 1; i <= n_servers; i++) {
        const unsigned slots = slots_of(g, n, width, i);
        low = slots < low ? slots : low;
        high = slots > high ? slots : high;
    }
    ck_assert_uint_ge(low, PLACEMENT_SLOTS_PER_SERVER);
    ck_assert_uint_le(high - low, 1);
    free(g);
}

START_TEST(every_server_has_its_slots_and_none_two_more_than_another)
{
    for (unsigned n = 1; n <= 20; n++) {
        for (unsigned width = 1; width <= n; width++) {
            check_even(n, width, n * 100 + width);
        }
    }
}
END_TEST

START_TEST(no_group_has_a_server_or_a_domain_twice)
{
    struct placement_server s[18];
    servers_fill(s, 18, 3); /* six domains of three */
    const unsigned n = placement_count(18, 6);
    struct placement_group *g = xcalloc(n, sizeof g[0]);
    ck_assert_int_eq(placement_plan(s, 18, 6, 5, g, n), 0);
    for (unsigned i = 0; i < n; i++) {
        bool domain[6] = {false};
        for (unsigned k = 0; k < 6; k++) {
            const unsigned d = (g[i].slot[k] - 1) / 3;
            ck_assert(!domain[d]);
            domain[d] = true;
        }
    }
    free(g);
}
END_TEST

START_TEST(each_server_gets_every_place_in_its_groups)
{
    struct placement_server s[6];
    servers_fill(s, 6, 1);
    struct placement_group g[128];
    ck_assert_int_eq(placement_plan(s, 6, 6, 1, g, 128), 0);
    for (unsigned k = 0; k < 6; k++) {
        unsigned first = 0;
        for (unsigned i = 0; i < 128; i++) {
            first += g[i].slot[k] == 1;
        }
        ck_assert_uint_gt(first, 8); /* 21 on average */
    }
}
END_TEST

START_TEST(the_same_seed_gives_the_same_plan)
{
    struct placement_server s[8];
    servers_fill(s, 8, 1);
    struct placement_group a[200];
    struct placement_group b[200];
    ck_assert_int_eq(placement_plan(s, 8, 6, 42, a, 200), 0);
    ck_assert_int_eq(placement_plan(s, 8, 6, 42, b, 200), 0);
    ck_assert_mem_eq(a, b, sizeof a);
    ck_assert_int_eq(placement_plan(s, 8, 6, 43, b, 200), 0);
    ck_assert(memcmp(a, b, sizeof a) != 0);
}
END_TEST

START_TEST(too_few_domains_are_refused)
{
    struct placement_server s[9];
    struct placement_group g[4];
    servers_fill(s, 5, 1);
    ck_assert_int_eq(placement_plan(s, 5, 6, 1, g, 4), -EINVAL);
    servers_fill(s, 9, 3);
    ck_assert_int_eq(placement_plan(s, 9, 4, 1, g, 4), -EINVAL);
    ck_assert_int_eq(placement_plan(s, 9, 0, 1, g, 4), -EINVAL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("placement");
    TCase *t = tcase_create("placement");
    tcase_add_test(t, every_server_has_its_slots_and_none_two_more_than_another);
    tcase_add_test(t, no_group_has_a_server_or_a_domain_twice);
    tcase_add_test(t, each_server_gets_every_place_in_its_groups);
    tcase_add_test(t, the_same_seed_gives_the_same_plan);
    tcase_add_test(t, too_few_domains_are_refused);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
