#include <check.h>
#include <stdlib.h>

#include "base/mem.h"
#include "meta/registry.h"

static struct registry r;

static struct registry_server *put(uint32_t id, uint64_t now_ms)
{
    const uint8_t uuid[16] = {(uint8_t)id};
    return registry_put(&r, id, uuid, "127.0.0.1:1", NULL, now_ms);
}

static struct registry_disk *disk(uint64_t filesystem, uint64_t total, uint64_t free_bytes, uint64_t fs_free,
                                  uint32_t state)
{
    struct registry_disk *d = xcalloc(1, sizeof *d);
    *d = (struct registry_disk){.total = total, .free = free_bytes, .filesystem = filesystem,
                                .filesystem_free = fs_free, .state = state};
    return d;
}

static void begin(void)
{
    registry_init(&r);
}

static void end(void)
{
    registry_release(&r);
}

START_TEST(silence_of_five_seconds_is_down_and_a_heartbeat_up_again)
{
    struct registry_server *s = put(1, 1000);
    int conn;
    ck_assert(!registry_heard(s, disk(1, 10, 10, 0, 1), 1, &conn, 1000));
    ck_assert(!registry_tick(&r, 6000));
    ck_assert(registry_tick(&r, 6001));
    ck_assert_int_eq(s->state, SERVER_DOWN);
    ck_assert_uint_eq(registry_count_up(&r), 0);
    ck_assert(!registry_tick(&r, 7000));
    ck_assert(registry_heard(s, disk(1, 10, 10, 0, 1), 1, &conn, 7000));
    ck_assert_int_eq(s->state, SERVER_UP);
}
END_TEST

START_TEST(a_broken_connection_is_down_after_a_second)
{
    struct registry_server *s = put(1, 0);
    int conn, other;
    (void)registry_heard(s, disk(1, 10, 10, 0, 1), 1, &conn, 100);
    registry_gone(&r, &other, 200);
    ck_assert(!registry_tick(&r, 1500));
    registry_gone(&r, &conn, 1500);
    ck_assert(!registry_tick(&r, 2500));
    ck_assert(registry_tick(&r, 2501));
}
END_TEST

START_TEST(after_an_election_nobody_is_down_before_five_seconds)
{
    put(1, 1000);
    put(2, 1000);
    ck_assert(!registry_tick(&r, 5900));
    registry_forgive(&r, 5900);
    ck_assert(!registry_tick(&r, 10900));
    ck_assert(registry_tick(&r, 10901));
}
END_TEST

START_TEST(a_server_whose_disks_are_all_full_is_full)
{
    struct registry_server *s = put(1, 0);
    int conn;
    ck_assert(registry_heard(s, disk(1, 10, 0, 0, 2), 1, &conn, 100));
    ck_assert_int_eq(s->state, SERVER_FULL);
    ck_assert_uint_eq(registry_count_up(&r), 1);
}
END_TEST

START_TEST(sized_servers_on_one_filesystem_add_up_to_what_it_has)
{
    int conn;
    uint64_t total = 0;
    uint64_t left = 0;
    for (uint32_t i = 1; i <= 3; i++) {
        (void)registry_heard(put(i, 0), disk(7, 100, 90, 1000, 1), 1, &conn, 1);
    }
    registry_space(&r, &total, &left);
    ck_assert_uint_eq(total, 300);
    ck_assert_uint_eq(left, 270);
    for (uint32_t i = 1; i <= 3; i++) {
        (void)registry_heard(put(i, 0), disk(7, 100, 90, 120, 1), 1, &conn, 2);
    }
    registry_space(&r, &total, &left);
    ck_assert_uint_eq(left, 120);
}
END_TEST

START_TEST(failed_disks_and_servers_that_are_down_have_no_space)
{
    int conn;
    uint64_t total = 0;
    uint64_t left = 0;
    (void)registry_heard(put(1, 0), disk(1, 100, 50, 0, 3), 1, &conn, 1);
    (void)registry_heard(put(2, 0), disk(2, 100, 60, 0, 1), 1, &conn, 1);
    registry_space(&r, &total, &left);
    ck_assert_uint_eq(left, 60);
    (void)registry_tick(&r, 60000);
    registry_space(&r, &total, &left);
    ck_assert_uint_eq(left, 0);
}
END_TEST

static uint64_t free_now(void)
{
    uint64_t total, free_bytes;
    registry_space(&r, &total, &free_bytes);
    return free_bytes;
}

START_TEST(what_was_stored_since_is_not_free_until_two_heartbeats_told_of_it)
{
    struct registry_server *one = put(1, 0), *two = put(2, 0);
    int conn;
    r.stored = 5000; /* of before: the first heartbeat tells of it */
    (void)registry_heard(one, disk(1, 1000, 500, 0, 1), 1, &conn, 1000);
    (void)registry_heard(two, disk(2, 1000, 500, 0, 1), 1, &conn, 1000);
    ck_assert_uint_eq(free_now(), 1000);
    r.stored += 100;
    ck_assert_uint_eq(free_now(), 900);
    (void)registry_heard(one, disk(1, 1000, 450, 0, 1), 1, &conn, 2000);
    (void)registry_heard(two, disk(2, 1000, 450, 0, 1), 1, &conn, 2000);
    ck_assert_uint_eq(free_now(), 800);
    (void)registry_heard(one, disk(1, 1000, 450, 0, 1), 1, &conn, 3000);
    ck_assert_uint_eq(free_now(), 800);
    (void)registry_heard(two, disk(2, 1000, 450, 0, 1), 1, &conn, 3000);
    ck_assert_uint_eq(free_now(), 900);
    r.stored += 5000;
    ck_assert_uint_eq(free_now(), 0);
    (void)registry_tick(&r, 8001); /* both are down, and what comes back tells of it */
    (void)registry_heard(one, disk(1, 1000, 300, 0, 1), 1, &conn, 9000);
    ck_assert_uint_eq(free_now(), 300);
}
END_TEST

START_TEST(slack_is_what_open_segments_may_hold)
{
    int conn;
    (void)registry_heard(put(1, 0), disk(1, 1ull << 30, 1, 0, 1), 1, &conn, 0);
    (void)registry_heard(put(2, 0), disk(2, 1ull << 40, 1, 0, 1), 1, &conn, 0);
    (void)registry_heard(put(3, 0), disk(3, 64u << 20, 1, 0, 1), 1, &conn, 0);
    ck_assert_uint_eq(registry_slack(&r), (32u + 32 + 3) << 20);
}
END_TEST

START_TEST(servers_are_found_by_id_and_identity)
{
    const uint8_t second[16] = {2};
    const uint8_t none[16] = {77};
    put(5, 0);
    put(2, 0);
    put(9, 0);
    ck_assert_uint_eq(r.n, 3);
    ck_assert_uint_eq(registry_find(&r, 2)->id, 2);
    ck_assert_uint_eq(registry_find(&r, 9)->id, 9);
    ck_assert_ptr_null(registry_find(&r, 3));
    ck_assert_uint_eq(registry_by_uuid(&r, second)->id, 2);
    ck_assert_ptr_null(registry_by_uuid(&r, none));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("registry");
    TCase *t = tcase_create("registry");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, silence_of_five_seconds_is_down_and_a_heartbeat_up_again);
    tcase_add_test(t, a_broken_connection_is_down_after_a_second);
    tcase_add_test(t, after_an_election_nobody_is_down_before_five_seconds);
    tcase_add_test(t, a_server_whose_disks_are_all_full_is_full);
    tcase_add_test(t, sized_servers_on_one_filesystem_add_up_to_what_it_has);
    tcase_add_test(t, failed_disks_and_servers_that_are_down_have_no_space);
    tcase_add_test(t, what_was_stored_since_is_not_free_until_two_heartbeats_told_of_it);
    tcase_add_test(t, slack_is_what_open_segments_may_hold);
    tcase_add_test(t, servers_are_found_by_id_and_identity);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
