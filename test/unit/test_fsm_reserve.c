#include <check.h>
#include <errno.h>
#include <linux/falloc.h>
#include <string.h>

#include "meta/fsm_state.h"
#include "test/lib/fsm_world.h"
#include "test/lib/suite.h"

/* Preallocated space: how much is reserved in all, and what is refused. The audit at the end of
 * each test sums it up again. */
enum { K = 1024, MIB = 1 << 20, KEEP = FALLOC_FL_KEEP_SIZE };

static struct fsm_world w;
static uint64_t file;

static void begin(void)
{
    fsm_world_init(&w);
    file = fsm_world_create(&w, 1, "f");
}

static void end(void)
{
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    fsm_world_release(&w);
}

static uint64_t reserved(void)
{
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    uint64_t n = c->reserved_bytes;
    cfs__fsm_counters__free_unpacked(c, NULL);
    return n;
}

struct wish {
    uint64_t ino, offset, length, dirty;
    uint32_t mode;
};

static int reserve(struct wish x)
{
    Cfs__FallocateOp m = CFS__FALLOCATE_OP__INIT;
    m.ino = x.ino;
    m.mode = x.mode;
    m.offset = x.offset;
    m.length = x.length;
    m.has_dirty = true;
    m.dirty = x.dirty;
    Cfs__Op op = CFS__OP__INIT;
    op.fallocate = &m;
    return fsm_world_op(&w, &op);
}

static int copy(uint64_t from, uint64_t to, uint64_t length)
{
    Cfs__CopyOp m = CFS__COPY_OP__INIT;
    m.source = from;
    m.ino = to;
    m.length = length;
    Cfs__Op op = CFS__OP__INIT;
    op.copy = &m;
    return fsm_world_op(&w, &op);
}

START_TEST(the_sum_follows_every_change)
{
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = MIB}), 0);
    ck_assert_uint_eq(reserved(), MIB);
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = MIB}), 0);
    ck_assert_uint_eq(reserved(), MIB);
    ck_assert_int_eq(fsm_world_write(&w, file, 256 * K, 64 * K), 0); /* in its middle */
    ck_assert_uint_eq(reserved(), MIB - 64 * K);
    ck_assert_int_eq(fsm_world_write(&w, file, 256 * K, 64 * K),
                     0); /* nothing reserved there now */
    ck_assert_uint_eq(reserved(), MIB - 64 * K);
    struct wish hole = {.ino = file, .mode = FALLOC_FL_PUNCH_HOLE | KEEP, .length = 100 * K};
    ck_assert_int_eq(reserve(hole), 0);
    ck_assert_uint_eq(reserved(), MIB - 164 * K);
    struct wish zero = {.ino = file, .mode = FALLOC_FL_ZERO_RANGE, .length = MIB};
    ck_assert_int_eq(reserve(zero), 0); /* what was written is reserved again */
    ck_assert_uint_eq(reserved(), MIB);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 10 * K), 0);
    ck_assert_uint_eq(reserved(), 10 * K);
    uint64_t other = fsm_world_create(&w, 1, "g");
    ck_assert_int_eq(reserve((struct wish){.ino = other, .length = MIB}), 0);
    ck_assert_int_eq(copy(file, other, 10 * K), 0); /* a hole is copied: nothing was written */
    ck_assert_uint_eq(reserved(), MIB);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "g", false), 0);
    ck_assert_uint_eq(reserved(), 10 * K);
}
END_TEST

START_TEST(an_orphan_keeps_what_it_has_until_it_goes)
{
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = MIB}), 0);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", true), 0);
    ck_assert_uint_eq(reserved(), MIB);
    ck_assert_int_eq(fsm_world_release_ino(&w, file), 0);
    ck_assert_uint_eq(reserved(), 0);
}
END_TEST

START_TEST(what_is_freed_by_reaps_counts_until_then)
{
    for (uint64_t i = 0; i < 1500; i++) { /* more pieces than one entry frees */
        ck_assert_int_eq(reserve((struct wish){.ino = file, .offset = i * 8 * K, .length = 4 * K}),
                         0);
    }
    ck_assert_int_eq(fsm_world_truncate(&w, file, 0), 0);
    ck_assert_uint_gt(reserved(), 0);
    ck_assert_uint_lt(reserved(), 1500 * 4 * K);
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    w.reserve_max = 8 * MIB; /* but as it will come back, the client is to ask again */
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = 7 * MIB}), -EAGAIN);
    fsm_world_reap(&w);
    ck_assert_uint_eq(reserved(), 0);
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = 7 * MIB}), 0);
}
END_TEST

START_TEST(all_together_may_not_be_more_than_the_leader_said)
{
    uint64_t other = fsm_world_create(&w, 1, "g");
    w.reserve_max = 3 * MIB;
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = 4 * MIB}), -ENOSPC);
    ck_assert_uint_eq(reserved(), 0);
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = 2 * MIB}), 0);
    ck_assert_int_eq(reserve((struct wish){.ino = other, .length = 2 * MIB}), -ENOSPC);
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(&w, other, &rc);
    ck_assert_uint_eq(r->attr->size, 0);
    ck_assert_uint_eq(r->attr->allocated, 0);
    cfs__lookup_reply__free_unpacked(r, NULL);
    struct wish dirty = {.ino = other, .length = MIB, .dirty = 1};
    ck_assert_int_eq(reserve(dirty), -ENOSPC);
    ck_assert_int_eq(reserve((struct wish){.ino = other, .length = MIB}), 0);
    w.reserve_max = 1; /* what is there already, or given back, is never refused */
    ck_assert_int_eq(reserve((struct wish){.ino = other, .length = MIB, .dirty = MIB}), 0);
    struct wish zero = {.ino = other, .mode = FALLOC_FL_ZERO_RANGE, .length = MIB};
    ck_assert_int_eq(reserve(zero), 0);
    struct wish hole = {.ino = file, .mode = FALLOC_FL_PUNCH_HOLE | KEEP, .length = MIB};
    ck_assert_int_eq(reserve(hole), 0);
    ck_assert_uint_eq(reserved(), 2 * MIB);
    struct wish huge = {.ino = file, .length = INT64_MAX};
    ck_assert_int_eq(reserve(huge), -ENOSPC);
}
END_TEST

START_TEST(with_dead_stripes_it_is_asked_again)
{
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 64 * K), 0);
    w.reserve_max = MIB;
    struct wish x = {.ino = file, .length = 2 * MIB};
    ck_assert_int_eq(reserve(x), -ENOSPC);
    w.reserve_hope = 2 * MIB; /* of a leader that waits for heartbeats */
    ck_assert_int_eq(reserve(x), -EAGAIN);
    x.length += 65 * K;
    ck_assert_int_eq(reserve(x), -ENOSPC);
    w.reserve_hope = 0;
    ck_assert_int_eq(fsm_world_truncate(&w, file, 0), 0);
    ck_assert_int_eq(reserve(x), -EAGAIN);
}
END_TEST

START_TEST(inline_content_is_no_place_for_it)
{
    ck_assert_int_eq(fsm_world_inline(&w, file, "hello"), 0);
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = 4096}), 0);
    ck_assert_int_eq(reserve((struct wish){.ino = file, .offset = 4096, .length = 1}), -EOPNOTSUPP);
    ck_assert_uint_eq(reserved(), 0);
}
END_TEST

START_TEST(too_many_holes_are_refused_and_not_half_filled)
{
    for (uint64_t i = 0; i < 4098; i++) {
        ck_assert_int_eq(reserve((struct wish){.ino = file, .offset = i * 8 * K, .length = 4 * K}),
                         0);
    }
    uint64_t before = reserved();
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = 4098 * 8 * K}), -EFBIG);
    ck_assert_uint_eq(reserved(), before);
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = 4095 * 8 * K}), 0);
    ck_assert_uint_eq(reserved(), before + 4095 * 4 * K);
}
END_TEST

START_TEST(a_snapshot_keeps_no_reservation)
{
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = MIB}), 0);
    struct volume *v;
    ck_assert_int_eq(rows_volume(w.fsm, 1, &v), 0);
    v->snapshot++;
    w.fsm->volume_dirty = true;
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 64 * K), 0);
    ck_assert_uint_eq(reserved(), MIB - 64 * K);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 0), 0);
    ck_assert_uint_eq(reserved(), 0);
}
END_TEST

/* The row of counters as it was written before this one was there. */
static void write_old_counters(void)
{
    struct key k;
    key_start(&k, SPACE_SYSTEM, 'n');
    struct buf value;
    buf_init(&value);
    ck_assert_int_eq(rows_get(w.fsm, &k, &value), 0);
    value.len = 1 + 8 * (size_t)COUNT_RESERVED_BYTES;
    rows_put(w.fsm, &k, buf_bytes(&value));
    ck_assert_int_eq(overlay_commit(w.fsm->overlay, false), 0);
    buf_release(&value);
}

START_TEST(an_older_directory_is_summed_up_at_the_start)
{
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = MIB}), 0);
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 64 * K), 0);
    write_old_counters();
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    ck_assert_uint_eq(reserved(), MIB - 64 * K);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 128 * K), 0);
    ck_assert_int_eq(fsm_world_reopen(&w), 0); /* now it is stored */
    ck_assert_uint_eq(reserved(), 64 * K);
}
END_TEST

START_TEST(an_entry_tells_the_leader_what_it_stored_and_what_is_reserved)
{
    ck_assert_int_eq(reserve((struct wish){.ino = file, .length = MIB}), 0);
    ck_assert_uint_eq(w.fx.reserved, MIB);
    ck_assert_uint_eq(w.fx.stored, 0);
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 64 * K), 0);
    ck_assert_uint_eq(w.fx.reserved, MIB - 64 * K);
    ck_assert_uint_eq(w.fx.stored, 96 * K);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("reserve");
    tcase_add_checked_fixture(t, begin, end);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, the_sum_follows_every_change);
    tcase_add_test(t, an_orphan_keeps_what_it_has_until_it_goes);
    tcase_add_test(t, what_is_freed_by_reaps_counts_until_then);
    tcase_add_test(t, all_together_may_not_be_more_than_the_leader_said);
    tcase_add_test(t, with_dead_stripes_it_is_asked_again);
    tcase_add_test(t, inline_content_is_no_place_for_it);
    tcase_add_test(t, too_many_holes_are_refused_and_not_half_filled);
    tcase_add_test(t, a_snapshot_keeps_no_reservation);
    tcase_add_test(t, an_older_directory_is_summed_up_at_the_start);
    tcase_add_test(t, an_entry_tells_the_leader_what_it_stored_and_what_is_reserved);
    return suite_run("fsm_reserve", t);
}
