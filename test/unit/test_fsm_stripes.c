#include <check.h>
#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "ec/stripe.h"
#include "meta/fsm_state.h"
#include "proto/methods.h"
#include "test/lib/fsm_world.h"
#include "test/lib/suite.h"

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

/* A commit of one stripe that covers the file's first `length` bytes, changed before it is sent. */
static int commit(uint32_t pg, uint64_t id, void (*change)(Cfs__Stripe *s, Cfs__Extent *e))
{
    Cfs__Stripe s = CFS__STRIPE__INIT;
    s.pg = pg;
    s.id = id;
    s.kind = STRIPE_RS;
    s.k = 4;
    s.m = 2;
    s.slot_mask = 0x3f;
    s.length = 65536;
    s.has_epoch = true;
    s.epoch = 1;
    Cfs__Extent e = CFS__EXTENT__INIT;
    e.length = 65536;
    e.kind = 1;
    e.has_pg = e.has_stripe = e.has_stripe_offset = true;
    e.pg = pg;
    e.stripe = id;
    if (change != NULL) {
        change(&s, &e);
    }
    Cfs__Stripe *stripes[] = {&s};
    Cfs__Extent *extents[] = {&e};
    Cfs__WriteOp m = CFS__WRITE_OP__INIT;
    m.ino = file;
    m.n_stripe = m.n_extent = 1;
    m.stripe = stripes;
    m.extent = extents;
    Cfs__Op op = CFS__OP__INIT;
    op.write = &m;
    return fsm_world_op(&w, &op);
}

static Cfs__IdGrant grant(uint32_t count)
{
    ck_assert_int_eq(fsm_world_grant(&w, count), 0);
    return *fsm_world_result(&w)->grant[0];
}

static uint64_t garbage(void)
{
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    uint64_t n = c->garbage_ids;
    cfs__fsm_counters__free_unpacked(c, NULL);
    return n;
}

START_TEST(an_id_is_committed_once_and_only_when_granted)
{
    Cfs__IdGrant g = grant(1);
    ck_assert_int_eq(commit(g.pg, g.first + 100, NULL), ERR_DEAD_ID);
    ck_assert_int_eq(commit(g.pg + 50, g.first, NULL), ERR_DEAD_ID);
    ck_assert_int_eq(commit(g.pg, g.first, NULL), 0);
    ck_assert_int_eq(commit(g.pg, g.first, NULL), ERR_DEAD_ID);
}
END_TEST

START_TEST(an_id_that_was_deleted_is_never_committed_again)
{
    Cfs__IdGrant g = grant(1);
    ck_assert_int_eq(commit(g.pg, g.first, NULL), 0);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 0), 0);
    Cfs__Uint64Range r = CFS__UINT64_RANGE__INIT, *ranges[] = {&r};
    r.first = g.first;
    r.count = 1;
    Cfs__GarbageIds ids = CFS__GARBAGE_IDS__INIT, *done[] = {&ids};
    ids.pg = g.pg;
    ids.n_id = 1;
    ids.id = ranges;
    Cfs__LogGarbageDone m = CFS__LOG_GARBAGE_DONE__INIT;
    m.n_done = 1;
    m.done = done;
    ck_assert_uint_eq(garbage(), 1);
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_GARBAGE_DONE, &m.base), 0);
    ck_assert_uint_eq(garbage(), 0);
    ck_assert_int_eq(commit(g.pg, g.first, NULL), ERR_DEAD_ID);
}
END_TEST

START_TEST(retired_ids_are_dead_but_those_kept)
{
    Cfs__IdGrant g = grant(2);
    ck_assert_int_eq(fsm_world_grant(&w, 20), 0);
    Cfs__Stripe keep = CFS__STRIPE__INIT, *list[] = {&keep};
    keep.pg = g.pg;
    keep.id = g.first;
    Cfs__RetireIdsOp m = CFS__RETIRE_IDS_OP__INIT;
    m.n_keep = 1;
    m.keep = list;
    Cfs__Op op = CFS__OP__INIT;
    op.retire_ids = &m;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_uint_eq(garbage(), 21);
    ck_assert_int_eq(commit(g.pg, g.first, NULL), 0);
    g = grant(1);
    ck_assert_int_eq(commit(g.pg, g.first - 1, NULL), ERR_DEAD_ID);
    ck_assert_int_eq(commit(g.pg, g.first, NULL), 0);
}
END_TEST

static void old_epoch(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)e;
    s->epoch = 0;
}
static void narrow(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)e;
    s->k = 3;
    s->slot_mask = 0x1f;
}
static void intolerant(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)e;
    s->k = 5;
    s->m = 1;
}
static void few_slots(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)e;
    s->slot_mask = 0x1f;
}
static void wide_mask(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)e;
    s->slot_mask = 0x5f;
}
static void copies(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)e;
    s->kind = STRIPE_COPY;
    s->k = 1;
    s->slot_mask = 0x7;
}
static void too_long(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)e;
    s->length = (4u << 20) + 1;
}
static void beyond(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)s;
    e->stripe_offset = 1;
}
static void elsewhere(Cfs__Stripe *s, Cfs__Extent *e)
{
    (void)s;
    e->stripe++;
}

START_TEST(a_commit_is_refused_when_stale_weak_or_impossible)
{
    Cfs__IdGrant g = grant(1);
    ck_assert_int_eq(commit(g.pg, g.first, old_epoch), ERR_STALE_EPOCH);
    ck_assert_int_eq(commit(g.pg, g.first, intolerant), ERR_CHANGED);
    ck_assert_int_eq(commit(g.pg, g.first, few_slots), -EINVAL);
    ck_assert_int_eq(commit(g.pg, g.first, wide_mask), -EINVAL);
    ck_assert_int_eq(commit(g.pg, g.first, too_long), -EINVAL);
    ck_assert_int_eq(commit(g.pg, g.first, beyond), -EINVAL);
    ck_assert_int_eq(commit(g.pg, g.first, elsewhere), -EINVAL);
    ck_assert_int_eq(commit(g.pg, g.first, narrow), 0); /* none of these used the id up */
    g = grant(1);
    ck_assert_int_eq(commit(g.pg, g.first, copies), 0);
}
END_TEST

START_TEST(ids_are_spread_over_groups_and_never_granted_twice)
{
    ck_assert_int_eq(fsm_world_grant(&w, 101), 0);
    const Cfs__OpReply *r = fsm_world_result(&w);
    ck_assert_uint_eq(r->n_grant, 2);
    ck_assert_uint_eq(r->grant[0]->count + r->grant[1]->count, 101);
    uint64_t next[3] = {0};
    for (int i = 0; i < 2; i++) {
        next[r->grant[i]->pg] = r->grant[i]->first + r->grant[i]->count;
    }
    ck_assert_int_eq(fsm_world_grant(&w, 10), 0);
    r = fsm_world_result(&w);
    for (size_t i = 0; i < r->n_grant; i++) {
        ck_assert_uint_eq(r->grant[i]->first, next[r->grant[i]->pg]);
    }
}
END_TEST

START_TEST(a_grant_without_groups_is_to_be_tried_again)
{
    Cfs__GrantIdsOp m = CFS__GRANT_IDS_OP__INIT;
    m.count = 1;
    m.has_k = m.has_m = true;
    m.k = 8;
    m.m = 2;
    Cfs__Op op = CFS__OP__INIT;
    op.grant_ids = &m;
    ck_assert_int_eq(fsm_world_op(&w, &op), ERR_BUSY);
}
END_TEST

START_TEST(a_new_epoch_makes_commits_of_the_old_one_stale)
{
    Cfs__IdGrant g = grant(1);
    Cfs__PgRow row = CFS__PG_ROW__INIT, *rows[] = {&row};
    uint32_t slots[] = {1, 2, 3, 4, 5, 7};
    row.id = g.pg;
    row.epoch = 2;
    row.k = 4;
    row.m = 2;
    row.n_slot = 6;
    row.slot = slots;
    Cfs__LogGroups m = CFS__LOG_GROUPS__INIT;
    m.n_pg = 1;
    m.pg = rows;
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_GROUPS, &m.base), 0);
    ck_assert(w.fx.tables_changed);
    ck_assert_int_eq(commit(g.pg, g.first, NULL), ERR_STALE_EPOCH);
    slots[5] = 1;
    row.epoch = 3;
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_GROUPS, &m.base), ERR_MALFORMED);
}
END_TEST

START_TEST(an_overwrite_in_the_middle_leaves_two_ends_of_the_old_stripe)
{
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    ck_assert_int_eq(fsm_world_write(&w, file, 10000, 10000), 0);
    Cfs__ExtentsReply *r = fsm_world_extents(&w, file, 0, 1 << 20);
    ck_assert_uint_eq(r->n_extent, 3);
    ck_assert_uint_eq(r->n_stripe, 2);
    ck_assert_uint_eq(r->extent[0]->length, 10000);
    ck_assert_uint_eq(r->extent[2]->offset, 20000);
    ck_assert_uint_eq(r->extent[2]->stripe_offset, 20000);
    ck_assert_uint_eq(r->covered_to, 1 << 20);
    cfs__extents_reply__free_unpacked(r, NULL);
    ck_assert_uint_eq(garbage(), 0);
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    ck_assert_uint_eq(garbage(), 2);
}
END_TEST

START_TEST(truncating_and_growing_again_shows_a_hole)
{
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 10001), 0);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 30000), 0);
    Cfs__ExtentsReply *r = fsm_world_extents(&w, file, 0, 1 << 20);
    ck_assert_uint_eq(r->n_extent, 1);
    ck_assert_uint_eq(r->extent[0]->length, 10001);
    cfs__extents_reply__free_unpacked(r, NULL);
}
END_TEST

START_TEST(inline_content_goes_when_the_file_outgrows_it_and_comes_back)
{
    ck_assert_int_eq(fsm_world_inline(&w, file, "small"), 0);
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(&w, file, &rc);
    ck_assert(!r->has_content);
    ck_assert_uint_eq(r->attr->size, 30000);
    cfs__lookup_reply__free_unpacked(r, NULL);
    ck_assert_int_eq(fsm_world_inline(&w, file, "small"), 0);
    r = fsm_world_getattr(&w, file, &rc);
    ck_assert_uint_eq(r->content.len, 5);
    ck_assert_uint_eq(r->attr->size, 5);
    ck_assert_uint_eq(r->attr->allocated, 5);
    cfs__lookup_reply__free_unpacked(r, NULL);
}
END_TEST

START_TEST(truncated_inline_content_does_not_come_back)
{
    ck_assert_int_eq(fsm_world_inline(&w, file, "0123456789"), 0);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 3), 0);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 10), 0);
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(&w, file, &rc);
    ck_assert_uint_eq(r->attr->size, 10);
    ck_assert_uint_eq(r->content.len, 3);
    cfs__lookup_reply__free_unpacked(r, NULL);
}
END_TEST

static int copy(uint64_t from, uint64_t from_at, uint64_t to, uint64_t to_at, uint64_t length)
{
    Cfs__CopyOp c = CFS__COPY_OP__INIT;
    c.source = from;
    c.source_offset = from_at;
    c.ino = to;
    c.offset = to_at;
    c.length = length;
    Cfs__Op op = CFS__OP__INIT;
    op.copy = &c;
    return fsm_world_op(&w, &op);
}

START_TEST(a_copy_shares_the_stripe_at_any_byte)
{
    uint64_t g = fsm_world_create(&w, 1, "g");
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    ck_assert_int_eq(copy(file, 17, g, 5, 100), 0);
    ck_assert_uint_eq(fsm_world_result(&w)->copied, 100);
    Cfs__ExtentsReply *r = fsm_world_extents(&w, g, 0, 1 << 20);
    ck_assert_uint_eq(r->n_extent, 1);
    ck_assert_uint_eq(r->extent[0]->offset, 5);
    ck_assert_uint_eq(r->extent[0]->stripe_offset, 17);
    cfs__extents_reply__free_unpacked(r, NULL);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", false), 0);
    ck_assert_uint_eq(garbage(), 0);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "g", false), 0);
    ck_assert_uint_eq(garbage(), 1);
    file = 1;
}
END_TEST

START_TEST(a_copy_ends_with_the_source_and_does_not_overlap)
{
    uint64_t g = fsm_world_create(&w, 1, "g");
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    ck_assert_int_eq(copy(file, 29000, g, 0, 5000), 0);
    ck_assert_uint_eq(fsm_world_result(&w)->copied, 1000);
    ck_assert_int_eq(copy(file, 40000, g, 0, 5000), 0);
    ck_assert_uint_eq(fsm_world_result(&w)->copied, 0);
    ck_assert_int_eq(copy(file, 0, file, 100, 1000), -EINVAL);
}
END_TEST

START_TEST(inline_content_is_copied_into_small_files_only)
{
    uint64_t g = fsm_world_create(&w, 1, "g");
    ck_assert_int_eq(fsm_world_inline(&w, file, "0123456789"), 0);
    ck_assert_int_eq(copy(file, 2, g, 4, 4), 0);
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(&w, g, &rc);
    ck_assert_uint_eq(r->content.len, 8);
    ck_assert_mem_eq(r->content.data,
                     "\0\0\0\0"
                     "2345",
                     8);
    cfs__lookup_reply__free_unpacked(r, NULL);
    ck_assert_int_eq(copy(file, 0, g, 4090, 10), -EOPNOTSUPP);
}
END_TEST

START_TEST(punching_a_hole_frees_and_reserving_counts)
{
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    Cfs__FallocateOp fa = CFS__FALLOCATE_OP__INIT;
    fa.ino = file;
    fa.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    fa.length = 30000;
    Cfs__Op op = CFS__OP__INIT;
    op.fallocate = &fa;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_uint_eq(fsm_world_result(&w)->attr->allocated, 0);
    ck_assert_uint_eq(fsm_world_result(&w)->attr->size, 30000);
    ck_assert_uint_eq(garbage(), 1);
    fa.mode = FALLOC_FL_KEEP_SIZE;
    fa.length = 1 << 20;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_uint_eq(fsm_world_result(&w)->attr->allocated, 1 << 20);
    ck_assert_uint_eq(fsm_world_result(&w)->attr->size, 30000);
    fa.mode = 0x08; /* collapse */
    ck_assert_int_eq(fsm_world_op(&w, &op), -EOPNOTSUPP);
}
END_TEST

/* ---- snapshots: the format is ready though no command takes one yet ------------------- */

static void take_snapshot(void)
{
    struct volume *v;
    ck_assert_int_eq(rows_volume(w.fsm, 1, &v), 0);
    v->snapshot++;
    w.fsm->volume_dirty = true;
}

static int inode_at(uint64_t ino, uint64_t snapshot, struct inode *out)
{
    struct key k;
    key_start_ns(&k, 1, TABLE_INODE);
    key_add_u64(&k, ino);
    struct buf value;
    buf_init(&value);
    int rc = rows_get_at(w.fsm, &k, snapshot, &value);
    if (rc == 0) {
        rc = inode_decode(buf_bytes(&value), out);
    }
    buf_release(&value);
    return rc;
}

START_TEST(the_first_change_under_a_newer_number_keeps_the_old_value)
{
    struct inode i;
    ck_assert_int_eq(fsm_world_truncate(&w, file, 100), 0);
    take_snapshot();
    ck_assert_int_eq(inode_at(file, 1, &i), 0);
    ck_assert_uint_eq(i.size, 100);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 200), 0);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 300), 0);
    take_snapshot();
    ck_assert_int_eq(fsm_world_truncate(&w, file, 400), 0);
    ck_assert_int_eq(inode_at(file, 1, &i), 0);
    ck_assert_uint_eq(i.size, 100);
    ck_assert_int_eq(inode_at(file, 2, &i), 0);
    ck_assert_uint_eq(i.size, 300);
    ck_assert_int_eq(inode_at(file, 3, &i), 0);
    ck_assert_uint_eq(i.size, 400);
}
END_TEST

START_TEST(what_was_deleted_later_is_there_and_what_came_later_is_not)
{
    struct inode i;
    take_snapshot();
    uint64_t late = fsm_world_create(&w, 1, "late");
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", false), 0);
    ck_assert_int_eq(inode_at(file, 1, &i), 0);
    ck_assert_int_eq(inode_at(file, 2, &i), ERR_NOT_FOUND);
    ck_assert_int_eq(inode_at(late, 1, &i), ERR_NOT_FOUND);
    ck_assert_int_eq(inode_at(late, 2, &i), 0);
}
END_TEST

START_TEST(a_stripe_lives_while_an_old_value_refers_to_it)
{
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    take_snapshot();
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    ck_assert_uint_eq(garbage(), 0);
    ck_assert_int_eq(fsm_world_write(&w, file, 0, 30000), 0);
    ck_assert_uint_eq(garbage(), 1);
    ck_assert_int_eq(fsm_world_truncate(&w, file, 10000), 0);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", false), 0);
    ck_assert_uint_eq(garbage(), 2);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, an_id_is_committed_once_and_only_when_granted);
    tcase_add_test(t, an_id_that_was_deleted_is_never_committed_again);
    tcase_add_test(t, retired_ids_are_dead_but_those_kept);
    tcase_add_test(t, a_commit_is_refused_when_stale_weak_or_impossible);
    tcase_add_test(t, ids_are_spread_over_groups_and_never_granted_twice);
    tcase_add_test(t, a_grant_without_groups_is_to_be_tried_again);
    tcase_add_test(t, a_new_epoch_makes_commits_of_the_old_one_stale);
    tcase_add_test(t, an_overwrite_in_the_middle_leaves_two_ends_of_the_old_stripe);
    tcase_add_test(t, truncating_and_growing_again_shows_a_hole);
    tcase_add_test(t, inline_content_goes_when_the_file_outgrows_it_and_comes_back);
    tcase_add_test(t, truncated_inline_content_does_not_come_back);
    tcase_add_test(t, a_copy_shares_the_stripe_at_any_byte);
    tcase_add_test(t, a_copy_ends_with_the_source_and_does_not_overlap);
    tcase_add_test(t, inline_content_is_copied_into_small_files_only);
    tcase_add_test(t, punching_a_hole_frees_and_reserving_counts);
    tcase_add_test(t, the_first_change_under_a_newer_number_keeps_the_old_value);
    tcase_add_test(t, what_was_deleted_later_is_there_and_what_came_later_is_not);
    tcase_add_test(t, a_stripe_lives_while_an_old_value_refers_to_it);
    return suite_run("fsm_stripes", t);
}
