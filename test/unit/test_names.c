#include <check.h>
#include <stdio.h>
#include <string.h>

#include "fuse/names.h"

static struct names *n;
static void setup(void)
{
    n = names_new(8);
}
static void teardown(void)
{
    names_free(n);
}
static struct bytes b(const char *s)
{
    return BYTES(s, strlen(s));
}

START_TEST(finds_what_was_put_and_not_what_was_dropped)
{
    names_put(n, 1, b("a"), 10);
    names_put(n, 2, b("a"), 20);
    ck_assert_uint_eq(names_find(n, 1, b("a")), 10);
    ck_assert_uint_eq(names_find(n, 2, b("a")), 20);
    names_drop(n, 1, b("a"));
    ck_assert_uint_eq(names_find(n, 1, b("a")), 0);
}
END_TEST

START_TEST(an_evicted_name_ends_completeness)
{
    names_set_complete(n, 1, true);
    names_put(n, 1, b("first"), 10);
    ck_assert(names_complete(n, 1));
    char name[8];
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "%u", i);
        names_put(n, 2, b(name), 100 + i);
    }
    ck_assert_uint_eq(names_find(n, 1, b("first")), 0);
    ck_assert(!names_complete(n, 1));
}
END_TEST

START_TEST(a_change_under_way_makes_a_read_doubtful)
{
    uint64_t mark = names_mark(n, 1);
    ck_assert(names_unchanged(n, 1, mark));
    names_change_begin(n, 1);
    ck_assert(!names_unchanged(n, 1, mark));
    mark = names_mark(n, 1);
    ck_assert(!names_unchanged(n, 1, mark));
    names_change_end(n, 1);
    ck_assert(!names_unchanged(n, 1, mark));
    ck_assert(names_unchanged(n, 1, names_mark(n, 1)));
}
END_TEST

START_TEST(a_directory_forgotten_and_met_again_has_another_mark)
{
    uint64_t mark = names_mark(n, 1);
    for (uint64_t dir = 2; dir < 30; dir++) {
        names_mark(n, dir);
    }
    ck_assert(!names_unchanged(n, 1, mark));
    ck_assert_uint_ne(names_mark(n, 1), mark);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("names");
    TCase *c = tcase_create("names");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, finds_what_was_put_and_not_what_was_dropped);
    tcase_add_test(c, an_evicted_name_ends_completeness);
    tcase_add_test(c, a_change_under_way_makes_a_read_doubtful);
    tcase_add_test(c, a_directory_forgotten_and_met_again_has_another_mark);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
