#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/prng.h"
#include "store/overlay.h"
#include "test/lib/kv_mem.h"
#include "test/lib/suite.h"

static struct kv *kv;
static struct overlay *o;

static void begin(void)
{
    kv = kv_mem_new();
    o = overlay_new(kv, NULL);
}

static void end(void)
{
    overlay_free(o);
    kv->ops->close(kv);
}

static struct bytes text(const char *s)
{
    return BYTES(s, strlen(s));
}

static void put(const char *key, const char *value)
{
    overlay_put(o, text(key), text(value));
}

/* The value as text; "-" if there is none. Valid until the next call. */
static const char *get(const char *key)
{
    static char value[64];
    struct buf b;
    buf_init(&b);
    int rc = overlay_get(o, text(key), &b);
    snprintf(value, sizeof value, "%.*s", (int)b.len, rc == 0 && b.len > 0 ? (char *)b.data : "");
    buf_release(&b);
    return rc == 0 ? value : "-";
}

/* Keys with the prefix, from `from` on, as one text. */
static const char *scan(const char *prefix, const char *from)
{
    static char keys[512];
    keys[0] = '\0';
    struct overlay_scan s;
    overlay_scan_init(&s, o, text(prefix), text(from));
    for (; s.valid; overlay_scan_next(&s)) {
        size_t at = strlen(keys);
        snprintf(keys + at, sizeof keys - at, "%.*s=%.*s ", (int)s.key.len,
                 (const char *)s.key.data, (int)s.value.len, (const char *)s.value.data);
    }
    ck_assert_int_eq(s.error, 0);
    overlay_scan_release(&s);
    return keys;
}

START_TEST(what_is_pending_is_read_and_not_yet_stored)
{
    put("a", "1");
    ck_assert_str_eq(get("a"), "1");
    struct buf b;
    buf_init(&b);
    ck_assert_int_eq(kv_get(kv, text("a"), &b), ERR_NOT_FOUND);
    ck_assert_int_eq(overlay_commit(o, false), 0);
    ck_assert_int_eq(kv_get(kv, text("a"), &b), 0);
    ck_assert(overlay_is_empty(o));
    buf_release(&b);
}
END_TEST

START_TEST(a_pending_deletion_hides_what_is_stored)
{
    put("a", "1");
    ck_assert_int_eq(overlay_commit(o, false), 0);
    overlay_delete(o, text("a"));
    ck_assert_str_eq(get("a"), "-");
    ck_assert_str_eq(scan("", ""), "");
}
END_TEST

START_TEST(a_scan_merges_both_sides_in_order)
{
    put("p1", "s");
    put("p3", "s");
    put("p5", "s");
    put("q1", "s");
    ck_assert_int_eq(overlay_commit(o, false), 0);
    put("p2", "n");
    put("p3", "n");
    put("p6", "n");
    put("o9", "n");
    overlay_delete(o, text("p5"));
    overlay_delete(o, text("p7"));
    ck_assert_str_eq(scan("p", ""), "p1=s p2=n p3=n p6=n ");
    ck_assert_str_eq(scan("p", "p3"), "p3=n p6=n ");
    ck_assert_str_eq(scan("p", "p4"), "p6=n ");
    ck_assert_str_eq(scan("x", ""), "");
}
END_TEST

START_TEST(a_rollback_takes_back_what_came_after_the_mark)
{
    put("a", "1");
    put("b", "1");
    size_t mark = overlay_mark(o);
    put("a", "2");
    overlay_delete(o, text("b"));
    put("c", "2");
    overlay_rollback(o, mark);
    ck_assert_str_eq(get("a"), "1");
    ck_assert_str_eq(get("b"), "1");
    ck_assert_str_eq(get("c"), "-");
    overlay_rollback(o, 0);
    ck_assert(overlay_is_empty(o));
}
END_TEST

START_TEST(a_failed_commit_is_an_error)
{
    put("a", "1");
    kv_mem_fail_at(kv, 0);
    ck_assert_int_lt(overlay_commit(o, false), 0);
}
END_TEST

START_TEST(absence_is_remembered_and_forgotten_when_the_key_comes)
{
    ck_assert_str_eq(get("a"), "-");
    ck_assert_str_eq(get("a"), "-");
    put("a", "1");
    ck_assert_int_eq(overlay_commit(o, false), 0);
    ck_assert_str_eq(get("a"), "1");
    overlay_delete(o, text("a"));
    ck_assert_int_eq(overlay_commit(o, false), 0);
    ck_assert_str_eq(get("a"), "-");
}
END_TEST

START_TEST(a_row_that_was_read_is_not_read_again)
{
    put("a", "1");
    ck_assert_int_eq(overlay_commit(o, false), 0);
    unsigned before = kv_mem_counts(kv).gets;
    for (int i = 0; i < 10; i++) {
        ck_assert_str_eq(get("a"), "1");
    }
    ck_assert_uint_eq(kv_mem_counts(kv).gets, before);
}
END_TEST

START_TEST(a_value_that_grew_too_big_for_the_cache_is_not_stale)
{
    put("a", "1");
    ck_assert_int_eq(overlay_commit(o, false), 0);
    uint8_t big[OVERLAY_CACHE_ROW_MAX + 1];
    memset(big, 'x', sizeof big);
    overlay_put(o, text("a"), BYTES(big, sizeof big));
    ck_assert_int_eq(overlay_commit(o, false), 0);
    struct buf b;
    buf_init(&b);
    ck_assert_int_eq(overlay_get(o, text("a"), &b), 0);
    ck_assert_uint_eq(b.len, sizeof big);
    buf_release(&b);
}
END_TEST

/* Against a plain array: random puts, deletes, rollbacks, commits, gets and scans. */
START_TEST(it_behaves_like_an_array)
{
    enum { KEYS = 40 };
    char now[KEYS] = {0}, marked[KEYS] = {0};
    size_t mark = 0;
    struct prng p;
    prng_seed(&p, (uint64_t)_i);
    for (int step = 0; step < 3000; step++) {
        unsigned k = (unsigned)prng_below(&p, KEYS);
        char key[8], value[2] = {(char)('a' + prng_below(&p, 26)), 0};
        snprintf(key, sizeof key, "k%02u", k);
        switch (prng_below(&p, 10)) {
        case 0:
            ck_assert_int_eq(overlay_commit(o, false), 0);
            mark = overlay_mark(o);
            memcpy(marked, now, sizeof now);
            break;
        case 1:
            mark = overlay_mark(o);
            memcpy(marked, now, sizeof now);
            break;
        case 2:
            overlay_rollback(o, mark);
            memcpy(now, marked, sizeof now);
            break;
        case 3:
        case 4:
            overlay_delete(o, text(key));
            now[k] = 0;
            break;
        default:
            put(key, value);
            now[k] = value[0];
            break;
        }
        char want[512] = "";
        for (unsigned i = 0; i < KEYS; i++) {
            if (now[i] != 0) {
                snprintf(want + strlen(want), sizeof want - strlen(want), "k%02u=%c ", i, now[i]);
            }
        }
        ck_assert_str_eq(scan("k", ""), want);
        ck_assert_int_eq(get(key)[0], now[k] != 0 ? now[k] : '-');
    }
}
END_TEST

static bool short_enough(struct bytes key)
{
    return key.len <= 2;
}

START_TEST(a_scan_ends_with_an_error_at_a_stored_key_that_is_not_valid)
{
    overlay_free(o);
    o = overlay_new(kv, short_enough);
    put("p1", "1");
    put("p2x", "2");
    put("p3", "3");
    ck_assert_int_eq(overlay_commit(o, false), 0);
    struct overlay_scan s;
    overlay_scan_init(&s, o, text("p"), text(""));
    ck_assert(s.valid);
    overlay_scan_next(&s);
    ck_assert(!s.valid);
    ck_assert_int_eq(s.error, ERR_CORRUPT);
    overlay_scan_release(&s);
    ck_assert_str_eq(scan("p3", ""), "p3=3 ");
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, what_is_pending_is_read_and_not_yet_stored);
    tcase_add_test(t, a_pending_deletion_hides_what_is_stored);
    tcase_add_test(t, a_scan_merges_both_sides_in_order);
    tcase_add_test(t, a_rollback_takes_back_what_came_after_the_mark);
    tcase_add_test(t, a_failed_commit_is_an_error);
    tcase_add_test(t, absence_is_remembered_and_forgotten_when_the_key_comes);
    tcase_add_test(t, a_row_that_was_read_is_not_read_again);
    tcase_add_test(t, a_value_that_grew_too_big_for_the_cache_is_not_stale);
    tcase_add_test(t, a_scan_ends_with_an_error_at_a_stored_key_that_is_not_valid);
    tcase_add_loop_test(t, it_behaves_like_an_array, 0, 3);
    return suite_run("overlay", t);
}
