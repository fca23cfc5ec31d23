/* Rows that nobody wrote: the machine says so, and goes on or stops; it never falls over. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "meta/fsm_state.h"
#include "test/lib/fsm_tour.h"
#include "test/lib/suite.h"

static struct fsm_tour whole, t;
static struct buf key, value, other;

static void begin(void)
{
    fsm_tour_init(&whole);
    buf_init(&key);
    buf_init(&value);
    buf_init(&other);
}

static void end(void)
{
    fsm_tour_release(&whole);
    buf_release(&key);
    buf_release(&value);
    buf_release(&other);
}

static bool row(size_t n)
{
    buf_clear(&key);
    buf_clear(&value);
    buf_clear(&other);
    return fsm_tour_row(&whole, n, &key, &value);
}

/* Of row n: its key or value replaced by `other`. Not a contradiction that a tour falls over. */
static void tour_with(struct bytes with_key, struct bytes with_value)
{
    fsm_tour_copy(&t, &whole);
    if (fsm_tour_damage(&t, buf_bytes(&key), with_key, with_value) == 0) {
        (void)fsm_tour_use(&t);
    }
    fsm_tour_release(&t);
}

START_TEST(the_world_of_these_tests_is_whole)
{
    bool seen[10][128] = {{false}};
    ck_assert_int_eq(fsm_world_audit(&whole.w), 0);
    for (size_t n = 0; row(n); n++) {
        ck_assert(key_valid(buf_bytes(&key)));
        const uint8_t space = key.data[0];
        const bool named = space == SPACE_NAMESPACE || space == SPACE_HISTORY;
        seen[space][key.data[named ? 9 : 1]] = true;
    }
    static const char *const TABLES[] = {"",      "acn",   "icdexl", "ie",  "vb",
                                         "srgoc", "sqwog", "ltos",   "cds", "supn"};
    for (size_t space = 1; space < 10; space++) {
        for (const char *p = TABLES[space]; *p != '\0'; p++) {
            ck_assert_msg(seen[space][(uint8_t)*p], "no row of %zu %c", space, *p);
        }
    }
    fsm_tour_copy(&t, &whole);
    ck_assert_int_eq(fsm_tour_use(&t), 0);
    fsm_tour_release(&t);
}
END_TEST

static int audit_with(uint8_t space, uint8_t table, size_t cut)
{
    size_t n = 0;
    while (row(n) && (key.data[0] != space || key.data[1] != table)) {
        n++;
    }
    fsm_tour_copy(&t, &whole);
    int rc =
        fsm_tour_damage(&t, buf_bytes(&key), BYTES(key.data, key.len - cut), buf_bytes(&value));
    rc = rc == 0 ? fsm_audit(t.w.fsm, NULL, NULL) : rc;
    fsm_tour_release(&t);
    return rc;
}

START_TEST(a_key_that_is_cut_short_is_told_as_damage)
{
    ck_assert_int_eq(audit_with(SPACE_STRIPE, 'r', 0), 0);
    ck_assert_int_eq(audit_with(SPACE_STRIPE, 'r', 1), ERR_CORRUPT);
    ck_assert_int_eq(audit_with(SPACE_SESSION, 'o', 9), ERR_CORRUPT);
    ck_assert_int_eq(audit_with(SPACE_REAP, 'c', 8), ERR_CORRUPT);
    ck_assert_int_eq(audit_with(SPACE_STRIPE, 'g', 4), ERR_CORRUPT);
}
END_TEST

/* Its end finds nothing to end; to look for it again and again would never stop. */
START_TEST(half_a_session_of_a_dead_machine_stops_the_replica)
{
    size_t n = 0;
    while (row(n) && (key.data[0] != SPACE_SESSION || key.data[1] != 'q')) {
        n++;
    }
    fsm_tour_copy(&t, &whole);
    ck_assert_int_eq(fsm_tour_damage(&t, buf_bytes(&key), BYTES("", 0), BYTES(NULL, 0)), 0);
    ck_assert_int_eq(fsm_tour_open_another(&t), ERR_CORRUPT);
    fsm_tour_release(&t);
}
END_TEST

/* Cut short at every length, and longer by one and by eight. */
START_TEST(a_row_under_a_key_of_another_length_ends_nothing)
{
    for (size_t n = 0; row(n); n++) {
        for (size_t len = 1; len < key.len; len++) {
            tour_with(BYTES(key.data, len), buf_bytes(&value));
        }
        buf_add(&other, key.data, key.len);
        buf_u8(&other, 0);
        tour_with(buf_bytes(&other), buf_bytes(&value));
        buf_le64(&other, 0);
        tour_with(BYTES(other.data, key.len + 8), buf_bytes(&value));
    }
}
END_TEST

START_TEST(a_row_under_another_key_ends_nothing)
{
    for (size_t n = 0; row(n); n++) {
        tour_with(BYTES("", 0), BYTES(NULL, 0));
        for (size_t at = 1; at < key.len; at++) {
            buf_clear(&other);
            buf_add(&other, key.data, key.len);
            other.data[at] ^= 1;
            tour_with(buf_bytes(&other), buf_bytes(&value));
        }
    }
}
END_TEST

START_TEST(a_value_of_another_length_ends_nothing)
{
    for (size_t n = 0; row(n); n++) {
        for (size_t len = 0; len < value.len; len++) {
            tour_with(buf_bytes(&key), BYTES(value.data, len));
        }
        buf_add(&other, value.data, value.len);
        buf_u8(&other, 0);
        tour_with(buf_bytes(&key), buf_bytes(&other));
    }
}
END_TEST

START_TEST(a_value_with_another_byte_ends_nothing)
{
    static const uint8_t MASKS[] = {0x01, 0xff};
    for (size_t n = 0; row(n); n++) {
        for (size_t at = 0; at < value.len; at++) {
            buf_clear(&other);
            buf_add(&other, value.data, value.len);
            other.data[at] ^= MASKS[_i];
            tour_with(buf_bytes(&key), buf_bytes(&other));
        }
    }
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, begin, end);
    tcase_add_test(c, the_world_of_these_tests_is_whole);
    tcase_add_test(c, a_key_that_is_cut_short_is_told_as_damage);
    tcase_add_test(c, half_a_session_of_a_dead_machine_stops_the_replica);
    tcase_add_test(c, a_row_under_a_key_of_another_length_ends_nothing);
    tcase_add_test(c, a_row_under_another_key_ends_nothing);
    tcase_add_test(c, a_value_of_another_length_ends_nothing);
    tcase_add_loop_test(c, a_value_with_another_byte_ends_nothing, 0, 2);
    return suite_run("fsm_damage", c);
}
