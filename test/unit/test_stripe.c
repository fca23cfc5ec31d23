#include <check.h>

#include "ec/stripe.h"

static const struct stripe_code RS42 = {.kind = STRIPE_RS, .k = 4, .m = 2};
static const struct stripe_code COPY3 = {.kind = STRIPE_COPY, .k = 1, .m = 2};

START_TEST(fragments_are_whole_units)
{
    ck_assert_uint_eq(stripe_fragment_bytes(RS42, 1), 4096);
    ck_assert_uint_eq(stripe_fragment_bytes(RS42, 16384), 4096);
    ck_assert_uint_eq(stripe_fragment_bytes(RS42, 16385), 8192);
    ck_assert_uint_eq(stripe_fragment_bytes(RS42, 4 << 20), 1 << 20);
    ck_assert_uint_eq(stripe_fragment_bytes(COPY3, 5000), 8192);
    ck_assert_uint_eq(stripe_length_max(RS42), 4 << 20);
    ck_assert_uint_eq(stripe_length_max(COPY3), 1 << 20);
    ck_assert_uint_eq(stripe_stored_bytes(RS42, 4 << 20), 6 << 20);
    ck_assert_uint_eq(stripe_stored_bytes(COPY3, 1), 3 * 4096);
    ck_assert_uint_eq(stripe_crc_blocks(4096), 1);
    ck_assert_uint_eq(stripe_crc_blocks(65536), 1);
    ck_assert_uint_eq(stripe_crc_blocks(69632), 2);
    ck_assert_uint_eq(stripe_crc_blocks(1 << 20), STRIPE_CRC_MAX);
}
END_TEST

START_TEST(slots_and_fragments_map_both_ways)
{
    const uint64_t mask = 0x8000000035u;
    static const int slots[] = {0, 2, 4, 5, 39};
    for (unsigned j = 0; j < 5; j++) {
        ck_assert_int_eq(stripe_slot_of(mask, j), slots[j]);
        ck_assert_int_eq(stripe_fragment_on(mask, (unsigned)slots[j]), (int)j);
    }
    ck_assert_int_eq(stripe_slot_of(mask, 5), -1);
    ck_assert_int_eq(stripe_fragment_on(mask, 1), -1);
    ck_assert_int_eq(stripe_fragment_on(mask, 64), -1);
}
END_TEST

START_TEST(full_group_gives_the_policy)
{
    struct stripe_choice c;
    ck_assert(stripe_choose(4, 2, 0x3f, false, 5, &c));
    ck_assert_uint_eq(c.code.kind, STRIPE_RS);
    ck_assert_uint_eq(c.code.k, 4);
    ck_assert_uint_eq(c.code.m, 2);
    ck_assert_uint_eq(c.slot_mask, 0x3f);
}
END_TEST

/* Whatever is up, what is chosen lies on slots that are up and survives m losses. */
START_TEST(every_choice_keeps_the_tolerance)
{
    for (unsigned k = 1; k <= 5; k++) {
        for (unsigned m = 0; m <= 3; m++) {
            for (uint64_t up = 0; up < 1ull << (k + m); up++) {
                for (unsigned small = 0; small < 2; small++) {
                    struct stripe_choice c;
                    const unsigned n = (unsigned)__builtin_popcountll(up);
                    const bool chosen = stripe_choose(k, m, up, small, up * 7, &c);
                    ck_assert_int_eq(chosen, n >= m + 1);
                    if (chosen) {
                        ck_assert_uint_eq(c.slot_mask & ~up, 0);
                        ck_assert(stripe_tolerates(c.code, c.slot_mask, m));
                    }
                }
            }
        }
    }
}
END_TEST

START_TEST(fewer_servers_give_narrower_codes_then_copies)
{
    struct stripe_choice c;
    ck_assert(stripe_choose(4, 2, 0x1f, false, 0, &c));
    ck_assert(c.code.kind == STRIPE_RS && c.code.k == 3 && c.code.m == 2);
    ck_assert(stripe_choose(4, 2, 0x2d, false, 0, &c));
    ck_assert(c.code.kind == STRIPE_RS && c.code.k == 2 && c.slot_mask == 0x2d);
    ck_assert(stripe_choose(4, 2, 0x31, false, 0, &c));
    ck_assert(c.code.kind == STRIPE_COPY && c.code.m == 2 && c.slot_mask == 0x31);
    ck_assert(!stripe_choose(4, 2, 0x30, false, 0, &c));
}
END_TEST

START_TEST(copies_rotate_over_the_slots)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < 6; i++) {
        struct stripe_choice c;
        ck_assert(stripe_choose(4, 2, 0x3f, true, i, &c));
        ck_assert_uint_eq(c.code.kind, STRIPE_COPY);
        seen |= 1ull << __builtin_ctzll(c.slot_mask);
    }
    ck_assert_uint_gt((unsigned)__builtin_popcountll(seen), 3);
}
END_TEST

START_TEST(invalid_codes_do_not_tolerate)
{
    ck_assert(!stripe_tolerates((struct stripe_code){.kind = 0, .k = 4, .m = 2}, 0x3f, 2));
    ck_assert(!stripe_tolerates(RS42, 0x1f, 2));
    ck_assert(!stripe_tolerates(RS42, 0x3f, 3));
    ck_assert(!stripe_tolerates(RS42, 0x7f, 2));
    ck_assert(!stripe_tolerates(RS42, 0x1full | 1ull << 40, 2));
    ck_assert(stripe_tolerates(COPY3, 0x0e, 2));
    ck_assert(!stripe_code_valid((struct stripe_code){.kind = STRIPE_COPY, .k = 2, .m = 2}));
    ck_assert(!stripe_code_valid((struct stripe_code){.kind = STRIPE_RS, .k = 33, .m = 2}));
    ck_assert(!stripe_code_valid((struct stripe_code){.kind = STRIPE_RS, .k = 3, .m = 9}));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stripe");
    TCase *t = tcase_create("stripe");
    tcase_add_test(t, fragments_are_whole_units);
    tcase_add_test(t, slots_and_fragments_map_both_ways);
    tcase_add_test(t, full_group_gives_the_policy);
    tcase_add_test(t, every_choice_keeps_the_tolerance);
    tcase_add_test(t, fewer_servers_give_narrower_codes_then_copies);
    tcase_add_test(t, copies_rotate_over_the_slots);
    tcase_add_test(t, invalid_codes_do_not_tolerate);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
