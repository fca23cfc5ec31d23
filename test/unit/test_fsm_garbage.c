/* Dead ids: on the list of all, then on the lists of the servers that have not deleted them. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/prng.h"
#include "meta/fsm_state.h"
#include "test/lib/fsm_world.h"
#include "test/lib/kv_mem.h"
#include "test/lib/suite.h"

enum { SERVERS = 6, PG = 1, IDS = 64 };

static struct fsm_world w;

static void begin(void)
{
    fsm_world_init_on(&w, kv_mem_new());
    w.keep = true;
    fsm_world_bootstrap(&w);
    fsm_world_groups(&w, 1);
    ck_assert_int_eq(fsm_world_open_session(&w, "client-1-16bytes"), 0);
}

/* The whole log gives the same state again. */
static void end(void)
{
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    struct fsm_world other;
    fsm_world_init_on(&other, kv_mem_new());
    for (size_t i = 0; i < w.n_log; i++) {
        ck_assert_int_eq(fsm_world_raw(&other, buf_bytes(&w.log[i])), 0);
    }
    ck_assert_uint_eq(fsm_world_hash(&other), fsm_world_hash(&w));
    fsm_world_release(&other);
    fsm_world_release(&w);
}

/* The ids of a list, as bits: of all (server 0), or what a server owes. */
static uint64_t listed(uint32_t server, size_t *ret_ranges)
{
    Cfs__QueryRequest m = CFS__QUERY_REQUEST__INIT;
    m.has_server = server != 0;
    m.server = server;
    uint8_t request[32];
    const size_t len = cfs__query_request__pack(&m, request);
    struct buf out;
    buf_init(&out);
    ck_assert_int_eq(fsm_query(w.fsm, FSM_QUERY_GARBAGE, BYTES(request, len), &out), 0);
    Cfs__GarbageList *l = cfs__garbage_list__unpack(NULL, out.len, out.data);
    ck_assert_ptr_nonnull(l);
    ck_assert(l->end);
    uint64_t bits = 0;
    size_t ranges = 0;
    for (size_t i = 0; i < l->n_garbage; i++) {
        ck_assert_uint_eq(l->garbage[i]->pg, PG);
        for (size_t k = 0; k < l->garbage[i]->n_id; k++, ranges++) {
            for (uint64_t n = 0; n < l->garbage[i]->id[k]->count; n++) {
                const uint64_t bit = (uint64_t)1 << (l->garbage[i]->id[k]->first + n);
                ck_assert_uint_eq(bits & bit, 0); /* nothing twice */
                bits |= bit;
            }
        }
    }
    if (ret_ranges != NULL) {
        *ret_ranges = ranges;
    }
    cfs__garbage_list__free_unpacked(l, NULL);
    buf_release(&out);
    return bits;
}

/* As the counters tell. */
static uint64_t owed_ids(uint32_t server)
{
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    uint64_t n = 0;
    for (size_t i = 0; i < c->n_owed; i++) {
        ck_assert_uint_gt(c->owed[i]->ids, 0);
        n += c->owed[i]->server == server ? c->owed[i]->ids : 0;
    }
    cfs__fsm_counters__free_unpacked(c, NULL);
    return n;
}

static uint64_t garbage(void)
{
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    const uint64_t n = c->garbage_ids;
    cfs__fsm_counters__free_unpacked(c, NULL);
    return n;
}

static uint64_t bits_of(uint64_t first, uint64_t count)
{
    return (((uint64_t)1 << count) - 1) << first;
}

/* These servers (a bit each, from 1 on) have deleted that. */
static int done(uint64_t first, uint64_t count, uint32_t servers)
{
    Cfs__Uint64Range r = CFS__UINT64_RANGE__INIT, *ranges[] = {&r};
    r.first = first;
    r.count = count;
    uint32_t by[32];
    Cfs__GarbageIds ids = CFS__GARBAGE_IDS__INIT, *list[] = {&ids};
    ids.pg = PG;
    ids.n_id = 1;
    ids.id = ranges;
    ids.server = by;
    for (uint32_t i = 1; i < 32; i++) {
        if ((servers >> i & 1) != 0) {
            by[ids.n_server++] = i;
        }
    }
    Cfs__LogGarbageDone m = CFS__LOG_GARBAGE_DONE__INIT;
    m.n_done = 1;
    m.done = list;
    return fsm_world_entry(&w, ENTRY_GARBAGE_DONE, &m.base);
}

/* The session gives all its ids back: they die, without ever having lived. */
static void retire(void)
{
    Cfs__RetireIdsOp m = CFS__RETIRE_IDS_OP__INIT;
    Cfs__Op op = CFS__OP__INIT;
    op.retire_ids = &m;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
}

static void dead_ids(uint32_t count)
{
    ck_assert_int_eq(fsm_world_grant(&w, count), 0);
    retire();
}

/* Files named a, b, c ... of one stripe each, ids 1, 2, 3 ... */
static void files(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const char name[] = {(char)('a' + i), 0};
        ck_assert_int_eq(fsm_world_write(&w, fsm_world_create(&w, 1, name), 0, 4096), 0);
    }
}

static void unlink_file(unsigned i)
{
    const char name[] = {(char)('a' + i), 0};
    ck_assert_int_eq(fsm_world_unlink(&w, 1, name, false), 0);
}

enum { ALL = 0x7e, BUT_6 = 0x3e, BUT_5_6 = 0x1e, ONLY_6 = 0x40 };

START_TEST(what_a_server_has_not_deleted_is_owed_by_it_alone)
{
    dead_ids(10);
    ck_assert_uint_eq(listed(0, NULL), bits_of(1, 10));
    ck_assert_int_eq(done(1, 10, BUT_6), 0);
    ck_assert(w.fx.owed_added);
    ck_assert(!w.fx.garbage_pending);
    ck_assert_uint_eq(garbage(), 0);
    ck_assert_uint_eq(listed(0, NULL), 0);
    for (uint32_t s = 1; s < SERVERS; s++) {
        ck_assert_uint_eq(listed(s, NULL), 0);
    }
    ck_assert_uint_eq(listed(6, NULL), bits_of(1, 10));
    ck_assert_uint_eq(owed_ids(6), 10);
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    ck_assert_uint_eq(listed(6, NULL), bits_of(1, 10));
    ck_assert_int_eq(done(4, 3, ONLY_6), 0); /* in parts, from the middle */
    ck_assert(!w.fx.owed_added);
    ck_assert_uint_eq(listed(6, NULL), bits_of(1, 3) | bits_of(7, 4));
    ck_assert_uint_eq(owed_ids(6), 7);
    ck_assert_int_eq(done(1, 10, ONLY_6), 0);
    ck_assert_uint_eq(listed(6, NULL), 0);
    ck_assert_uint_eq(owed_ids(6), 0);
}
END_TEST

START_TEST(when_all_have_deleted_nobody_owes)
{
    dead_ids(10);
    ck_assert_int_eq(done(1, 5, ALL), 0);
    ck_assert(!w.fx.owed_added);
    ck_assert_int_eq(done(6, 5, 0), 0); /* as older versions say it */
    ck_assert(!w.fx.owed_added);
    ck_assert_uint_eq(garbage(), 0);
    for (uint32_t s = 1; s <= SERVERS; s++) {
        ck_assert_uint_eq(listed(s, NULL), 0);
    }
}
END_TEST

START_TEST(an_entry_that_comes_again_or_late_changes_nothing)
{
    dead_ids(10);
    ck_assert_int_eq(done(1, 10, BUT_5_6), 0);
    ck_assert_int_eq(done(1, 10, ONLY_6), 0);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_int_eq(done(1, 10, BUT_5_6), 0);
        ck_assert(!w.fx.owed_added);
        ck_assert_uint_eq(listed(5, NULL), bits_of(1, 10));
        ck_assert_uint_eq(listed(6, NULL), 0);
        ck_assert_int_eq(done(1, 10, 0), 0);
        ck_assert_uint_eq(listed(5, NULL), bits_of(1, 10));
    }
    /* Who owes it did it by an order to all. */
    ck_assert_int_eq(done(1, 10, ALL), 0);
    ck_assert_uint_eq(listed(5, NULL), 0);
}
END_TEST

START_TEST(live_and_granted_ids_are_touched_by_no_entry)
{
    files(8);
    ck_assert_int_eq(fsm_world_grant(&w, 8), 0);
    unlink_file(2);
    unlink_file(5);
    ck_assert_int_eq(done(1, 40, BUT_6), 0);
    ck_assert_uint_eq(listed(6, NULL), bits_of(3, 1) | bits_of(6, 1));
    ck_assert_int_eq(done(1, 40, ONLY_6), 0);
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    retire();
    ck_assert_uint_eq(listed(0, NULL), bits_of(9, 8));
}
END_TEST

START_TEST(what_is_owed_is_dead)
{
    files(1);
    const uint64_t other = fsm_world_create(&w, 1, "other");
    unlink_file(0);
    ck_assert_int_eq(done(1, 1, BUT_6), 0);
    ck_assert_int_eq(fsm_world_write_in(&w, other, 0, 4096, PG, 1), ERR_DEAD_ID);
    ck_assert_int_eq(done(1, 1, ONLY_6), 0);
    ck_assert_int_eq(fsm_world_write_in(&w, other, 0, 4096, PG, 1), ERR_DEAD_ID);
}
END_TEST

START_TEST(ranges_that_are_owed_are_joined)
{
    static const unsigned order[] = {3, 8, 5, 1, 6, 4, 9, 0, 2, 7};
    size_t ranges = 0;
    files(11);
    for (unsigned i = 0; i < array_count(order); i++) {
        unlink_file(order[i]);
        ck_assert_int_eq(done(order[i] + 1, 1, BUT_6), 0);
    }
    ck_assert_uint_eq(listed(6, &ranges), bits_of(1, 10));
    ck_assert_uint_eq(ranges, 1);
}
END_TEST

START_TEST(the_old_servers_of_a_group_that_moves_owe_too)
{
    uint32_t old[] = {1, 2, 3, 4, 5, 6}, now[] = {1, 2, 3, 4, 5, 7};
    Cfs__PgRow row = CFS__PG_ROW__INIT, *list[] = {&row};
    row.id = PG;
    row.epoch = 2;
    row.k = 4;
    row.m = 2;
    row.slot = now;
    row.n_slot = 6;
    row.old_slot = old;
    row.n_old_slot = 6;
    Cfs__LogGroups m = CFS__LOG_GROUPS__INIT;
    m.pg = list;
    m.n_pg = 1;
    dead_ids(4);
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_GROUPS, &m.base), 0);
    ck_assert_int_eq(done(1, 4, BUT_6), 0);
    ck_assert_uint_eq(listed(6, NULL), bits_of(1, 4));
    ck_assert_uint_eq(listed(7, NULL), bits_of(1, 4));
}
END_TEST

START_TEST(a_malformed_range_changes_nothing)
{
    dead_ids(10);
    ck_assert_int_eq(done(1, 0, BUT_6), ERR_MALFORMED);
    ck_assert_int_eq(done(5, UINT64_MAX, BUT_6), ERR_MALFORMED);
    ck_assert_uint_eq(listed(0, NULL), bits_of(1, 10));
    ck_assert_uint_eq(listed(6, NULL), 0);
    ck_assert(!w.fx.owed_added);
}
END_TEST

/* Any order of deaths and reports against a model of one bit per (list, id). */
static void random_run(uint64_t seed)
{
    struct prng p;
    prng_seed(&p, seed);
    uint64_t list[SERVERS + 1] = {0}, next = 1;
    for (unsigned i = 0; i < 300; i++) {
        const uint64_t count = 1 + prng_below(&p, 4);
        if (next + count < IDS && prng_below(&p, 8) == 0) {
            dead_ids((uint32_t)count);
            list[0] |= bits_of(next, count);
            next += count;
        }
        const uint64_t first = 1 + prng_below(&p, next), length = 1 + prng_below(&p, 9);
        const uint32_t by = (uint32_t)prng_below(&p, 64) << 1;
        const uint64_t bits = first + length < IDS ? bits_of(first, length) : ~(uint64_t)0 << first;
        ck_assert_int_eq(done(first, length, by), 0);
        for (uint32_t s = 1; s <= SERVERS; s++) {
            list[s] |= by != 0 && (by >> s & 1) == 0 ? list[0] & bits : 0;
            list[s] &= (by >> s & 1) != 0 ? ~bits : ~(uint64_t)0;
        }
        list[0] &= ~bits;
        for (uint32_t s = 0; s <= SERVERS; s++) {
            ck_assert_uint_eq(listed(s, NULL), list[s]);
            ck_assert_uint_eq(s == 0 ? garbage() : owed_ids(s),
                              (uint64_t)__builtin_popcountll(list[s]));
        }
        if (i % 50 == 49) {
            ck_assert_int_eq(fsm_world_audit(&w), 0);
            ck_assert_int_eq(fsm_world_reopen(&w), 0);
        }
    }
}

START_TEST(any_order_of_deaths_and_reports_agrees_with_a_model)
{
    random_run((uint64_t)_i + 1);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, what_a_server_has_not_deleted_is_owed_by_it_alone);
    tcase_add_test(t, when_all_have_deleted_nobody_owes);
    tcase_add_test(t, an_entry_that_comes_again_or_late_changes_nothing);
    tcase_add_test(t, live_and_granted_ids_are_touched_by_no_entry);
    tcase_add_test(t, what_is_owed_is_dead);
    tcase_add_test(t, ranges_that_are_owed_are_joined);
    tcase_add_test(t, the_old_servers_of_a_group_that_moves_owe_too);
    tcase_add_test(t, a_malformed_range_changes_nothing);
    tcase_add_loop_test(t, any_order_of_deaths_and_reports_agrees_with_a_model, 0, 8);
    return suite_run("fsm_garbage", t);
}
