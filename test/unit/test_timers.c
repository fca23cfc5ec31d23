#include <check.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/prng.h"
#include "rpc/timers.h"

struct probe {
    struct timer timer;
    struct timers *timers;
    unsigned fired;
    uint64_t fired_at;
    struct timer *stops;
    bool again;
};
static uint64_t last_fired;

static void on_due(struct timer *t)
{
    struct probe *p = container_of(t, struct probe, timer);
    p->fired++;
    p->fired_at = p->timers->now_ms;
    ck_assert_uint_ge(t->at_ms, last_fired);
    ck_assert(!timer_armed(t));
    last_fired = t->at_ms;
    if (p->stops != NULL) {
        timers_stop(p->timers, p->stops);
    }
    if (p->again) {
        timers_arm(p->timers, t, p->timers->now_ms);
    }
}

START_TEST(random_arming_fires_in_order_and_once)
{
    enum { N = 500 };
    struct timers ts;
    struct prng prng;
    static struct probe p[N];
    timers_init(&ts, 0);
    prng_seed(&prng, 5);
    last_fired = 0;
    for (unsigned i = 0; i < N; i++) {
        p[i] = (struct probe){.timer = {.on_due = on_due}, .timers = &ts};
        timers_arm(&ts, &p[i].timer, prng_below(&prng, 1000));
    }
    for (unsigned i = 0; i < N; i += 3) {
        timers_arm(&ts, &p[i].timer, prng_below(&prng, 1000)); /* again */
    }
    for (unsigned i = 1; i < N; i += 7) {
        timers_stop(&ts, &p[i].timer);
        timers_stop(&ts, &p[i].timer);
    }
    for (uint64_t now = 0; now <= 1000; now += 50) {
        timers_run(&ts, now);
        ck_assert_uint_gt(timers_next(&ts), now);
    }
    for (unsigned i = 0; i < N; i++) {
        ck_assert_uint_eq(p[i].fired, i % 7 == 1 ? 0 : 1);
        ck_assert(p[i].fired == 0 || p[i].fired_at >= p[i].timer.at_ms);
    }
    ck_assert_uint_eq(timers_next(&ts), UINT64_MAX);
    timers_release(&ts);
}
END_TEST

START_TEST(equal_times_fire_first_come_first_served)
{
    struct timers ts;
    struct probe p[10];
    timers_init(&ts, 0);
    last_fired = 0;
    for (unsigned i = 0; i < 10; i++) {
        p[i] = (struct probe){.timer = {.on_due = on_due}, .timers = &ts};
        timers_arm(&ts, &p[i].timer, 5);
    }
    for (unsigned i = 0; i < 10; i++) {
        ck_assert_ptr_eq(ts.heap[1], &p[i].timer);
        timers_stop(&ts, &p[i].timer);
    }
    timers_release(&ts);
}
END_TEST

START_TEST(callback_may_stop_another_that_is_due)
{
    struct timers ts;
    struct probe a, b;
    timers_init(&ts, 0);
    last_fired = 0;
    b = (struct probe){.timer = {.on_due = on_due}, .timers = &ts};
    a = (struct probe){.timer = {.on_due = on_due}, .timers = &ts, .stops = &b.timer};
    timers_arm(&ts, &a.timer, 1);
    timers_arm(&ts, &b.timer, 1);
    timers_run(&ts, 2);
    ck_assert_uint_eq(a.fired, 1);
    ck_assert_uint_eq(b.fired, 0);
    timers_release(&ts);
}
END_TEST

START_TEST(arming_for_now_does_not_keep_the_loop)
{
    struct timers ts;
    struct probe a = {.timer = {.on_due = on_due}, .timers = &ts, .again = true};
    timers_init(&ts, 0);
    last_fired = 0;
    timers_arm(&ts, &a.timer, 1);
    timers_run(&ts, 1);
    ck_assert_uint_eq(a.fired, 1);
    timers_run(&ts, 1);
    ck_assert_uint_eq(a.fired, 2);
    timers_release(&ts);
}
END_TEST

static uint64_t backwards(void)
{
    return 50;
}

START_TEST(time_never_goes_back)
{
    struct timers ts;
    timers_init(&ts, 100);
    ts.clock = backwards;
    ck_assert_uint_eq(timers_now(&ts), 100);
    timers_run(&ts, 99);
    ck_assert_uint_eq(ts.now_ms, 100);
    timers_release(&ts);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("timers");
    TCase *t = tcase_create("timers");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, random_arming_fires_in_order_and_once);
    tcase_add_test(t, equal_times_fire_first_come_first_served);
    tcase_add_test(t, callback_may_stop_another_that_is_due);
    tcase_add_test(t, arming_for_now_does_not_keep_the_loop);
    tcase_add_test(t, time_never_goes_back);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
