#include "chunkserver/fragdisk.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/prng.h"
#include "test/lib/disk_mem.h"
#include "test/lib/kv_mem.h"

enum { MIB = 1 << 20, KIB = 1 << 10, WORLD_BYTES = 64 << 20 };

/* One simulated disk with its index, that survives crashes and reopening. */
struct world {
    struct disk *disk;
    struct kv *index;
    struct fragdisk *d;
    uint8_t *data; /* aligned scratch */
    uint64_t size_max;
};

static int world_open(struct world *w)
{
    struct fragdisk_options o = {.disk = w->disk,
                                 .index = w->index,
                                 .id = {1, 2, 3},
                                 .size_max = w->size_max,
                                 .reserve_percent = 3,
                                 .stream_bytes = 4 << 20,
                                 .small_bytes = 256 << 10};
    w->d = NULL;
    return fragdisk_open(&o, &w->d);
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->disk = disk_mem_new(WORLD_BYTES);
    disk_mem_keep(w->disk);
    w->index = kv_mem_new();
    kv_mem_keep(w->index);
    w->data = aligned_alloc(4096, MIB);
    ck_assert_int_eq(world_open(w), 0);
}

static void world_release(struct world *w)
{
    fragdisk_close(w->d);
    disk_mem_free(w->disk);
    kv_mem_free(w->index);
    free(w->data);
}

/* Content follows from the id. */
static void fill(uint8_t *data, uint64_t id, uint32_t bytes)
{
    struct prng p;
    prng_seed(&p, id);
    for (uint32_t i = 0; i < bytes; i += 8) {
        put_le64(data + i, prng_u64(&p));
    }
}

static struct fragment describe(uint64_t id, uint32_t bytes, const uint8_t *data)
{
    struct fragment f = {.key = {.pg = 7, .id = id, .slot = 2},
                         .code = {STRIPE_RS, 4, 2},
                         .bytes = bytes,
                         .epoch = 1,
                         .stripe_length = (uint64_t)bytes * 4,
                         .nonce = id * 3 + 1};
    for (unsigned i = 0; i * STRIPE_CRC_BLOCK < bytes; i++) {
        uint32_t left = bytes - i * STRIPE_CRC_BLOCK;
        f.crc[i] = crc32c(0, data + i * STRIPE_CRC_BLOCK,
                          left < STRIPE_CRC_BLOCK ? left : STRIPE_CRC_BLOCK);
    }
    return f;
}

static int put_one(struct world *w, uint64_t id, uint32_t bytes)
{
    fill(w->data, id, bytes);
    struct frag_put p = {.fragment = describe(id, bytes, w->data), .data = w->data};
    struct frag_put *list[1] = {&p};
    fragdisk_put(w->d, list, 1);
    return p.rc;
}

/* Reads all of it back: 0 when it is there with the right bytes. */
static int check_one(struct world *w, uint64_t id, uint32_t bytes)
{
    static uint8_t expected[MIB];
    struct index_place p;
    int rc = fragdisk_find(w->d, (struct frag_key){7, id, 2}, 0, &p);
    rc = rc != 0 ? rc : fragdisk_read(w->d, &p, 0, p.fragment.bytes, w->data);
    if (rc == 0) {
        fill(expected, id, bytes);
        ck_assert_uint_eq(p.fragment.bytes, bytes);
        ck_assert_int_eq(memcmp(w->data, expected, bytes), 0);
    }
    return rc;
}

static int delete_one(struct world *w, uint64_t first, uint64_t count)
{
    uint64_t n = 0;
    int rc = fragdisk_delete(w->d, 7, first, count, &n);
    return rc != 0 ? rc : fragdisk_sync(w->d);
}

static void tidy(struct world *w)
{
    for (int i = 0; i < 200 && fragdisk_tidy(w->d); i++) {
    }
}

static void reopen(struct world *w)
{
    fragdisk_close(w->d);
    ck_assert_int_eq(world_open(w), 0);
}

START_TEST(put_is_read_back_whole_and_in_ranges)
{
    struct world w;
    world_init(&w);
    ck_assert_int_eq(put_one(&w, 1, 4 * KIB), 0);
    ck_assert_int_eq(put_one(&w, 2, MIB), 0);
    ck_assert_int_eq(put_one(&w, 3, 68 * KIB), 0);
    ck_assert_int_eq(check_one(&w, 1, 4 * KIB), 0);
    ck_assert_int_eq(check_one(&w, 2, MIB), 0);
    ck_assert_int_eq(check_one(&w, 3, 68 * KIB), 0);
    struct index_place p;
    ck_assert_int_eq(fragdisk_find(w.d, (struct frag_key){7, 3, 2}, 10, &p), 0);
    ck_assert_int_eq(fragdisk_find(w.d, (struct frag_key){7, 3, 2}, 11, &p), ERR_NOT_FOUND);
    ck_assert_int_eq(fragdisk_find(w.d, (struct frag_key){7, 3, 1}, 0, &p), ERR_NOT_FOUND);
    ck_assert_int_eq(fragdisk_read(w.d, &p, 65536, 4096, w.data), 0);
    world_release(&w);
}
END_TEST

START_TEST(same_put_again_is_fine_and_another_is_a_conflict)
{
    struct world w;
    world_init(&w);
    ck_assert_int_eq(put_one(&w, 1, 4 * KIB), 0);
    ck_assert_int_eq(put_one(&w, 1, 4 * KIB), 0);
    ck_assert_int_eq(put_one(&w, 1, 8 * KIB), ERR_ID_CONFLICT);
    fill(w.data, 5, 4 * KIB);
    struct frag_put a = {.fragment = describe(5, 4 * KIB, w.data), .data = w.data}, b = a, c = a;
    c.fragment.nonce++;
    struct frag_put *list[3] = {&a, &b, &c};
    fragdisk_put(w.d, list, 3);
    ck_assert_int_eq(a.rc, 0);
    ck_assert_int_eq(b.rc, 0);
    ck_assert_int_eq(c.rc, ERR_ID_CONFLICT);
    w.data[9] ^= 1;
    a.fragment.key.id = 6;
    fragdisk_put(w.d, list, 1);
    ck_assert_int_eq(a.rc, ERR_CORRUPT);
    struct fragdisk_state s;
    fragdisk_state(w.d, &s);
    ck_assert_uint_eq(s.fragments, 2);
    world_release(&w);
}
END_TEST

START_TEST(batch_costs_one_write_per_run_and_one_sync_per_segment)
{
    struct world w;
    world_init(&w);
    ck_assert_int_eq(put_one(&w, 1, 4 * KIB), 0);
    struct frag_put puts[16], *list[16];
    for (unsigned i = 0; i < 16; i++) {
        fill(w.data + i * 4096, 100 + i, 4096);
        puts[i] = (struct frag_put){.fragment = describe(100 + i, 4096, w.data + i * 4096),
                                    .data = w.data + i * 4096};
        list[i] = &puts[i];
    }
    struct disk_mem_counts before = disk_mem_counts(w.disk);
    struct kv_mem_counts index_before = kv_mem_counts(w.index);
    fragdisk_put(w.d, list, 16);
    struct disk_mem_counts after = disk_mem_counts(w.disk);
    ck_assert_uint_eq(after.writes - before.writes, 1);
    ck_assert_uint_eq(after.syncs - before.syncs, 1);
    ck_assert_uint_eq(after.bytes_written - before.bytes_written, 16 * (4096 + 512));
    ck_assert_uint_eq(kv_mem_counts(w.index).writes - index_before.writes, 1);
    ck_assert_uint_eq(kv_mem_counts(w.index).syncs - index_before.syncs, 0);
    world_release(&w);
}
END_TEST

START_TEST(deleted_space_comes_back_and_small_segments_are_compacted)
{
    struct world w;
    world_init(&w);
    for (uint64_t id = 1; id <= 200; id++) {
        ck_assert_int_eq(put_one(&w, id, id % 4 == 0 ? 128 * KIB : 8 * KIB), 0);
    }
    uint64_t full = disk_mem_used(w.disk);
    for (uint64_t id = 1; id <= 200; id++) {
        if (id % 20 != 0) {
            ck_assert_int_eq(delete_one(&w, id, 1), 0);
        }
    }
    tidy(&w);
    ck_assert_uint_lt(disk_mem_used(w.disk), full / 2);
    for (int round = 0; round < 2; round++) {
        for (uint64_t id = 1; id <= 200; id++) {
            ck_assert_int_eq(check_one(&w, id, 128 * KIB), id % 20 == 0 ? 0 : ERR_NOT_FOUND);
        }
        reopen(&w);
    }
    ck_assert_int_eq(delete_one(&w, 1, 200), 0);
    tidy(&w);
    /* What stays: a step of the active stream segment, the active small one, spares. */
    ck_assert_uint_lt(disk_mem_used(w.disk), 3 << 20);
    world_release(&w);
}
END_TEST

/* One bad sector among dead records is no reason to take nothing more. */
START_TEST(unreadable_sector_met_by_compaction_does_not_fail_the_disk)
{
    struct world w;
    struct fragdisk_state s;
    world_init(&w);
    for (uint64_t id = 1; id <= 100; id++) {
        ck_assert_int_eq(put_one(&w, id, 8 * KIB), 0);
    }
    for (uint64_t id = 1; id <= 100; id++) {
        ck_assert_int_eq(id % 10 == 0 ? 0 : delete_one(&w, id, 1), 0);
    }
    disk_mem_fault(w.disk, (struct disk_mem_fault){.at = -1, .bad_reads = 1});
    tidy(&w);
    fragdisk_state(w.d, &s);
    ck_assert_int_eq(fragdisk_error(w.d), 0);
    ck_assert_int_eq((int)s.health, FRAGDISK_GOOD);
    ck_assert_uint_gt(s.compacted, 0); /* of the other segments */
    ck_assert_int_eq(put_one(&w, 1000, 8 * KIB), 0);
    for (uint64_t id = 10; id <= 100; id += 10) {
        ck_assert_int_eq(check_one(&w, id, 8 * KIB), 0);
    }
    world_release(&w);
}
END_TEST

START_TEST(full_disk_refuses_puts_before_it_is_full_and_deletes_go_on)
{
    struct world w;
    world_init(&w);
    w.size_max = 16 << 20;
    reopen(&w);
    uint64_t id = 1;
    int rc = 0;
    while ((rc = put_one(&w, id, MIB)) == 0) {
        id++;
        ck_assert_uint_lt(id, 17);
    }
    ck_assert_int_eq(rc, -ENOSPC);
    ck_assert_uint_gt(id, 10);
    ck_assert_uint_lt(disk_mem_used(w.disk), 16 << 20);
    struct fragdisk_state s;
    fragdisk_state(w.d, &s);
    ck_assert_int_eq((int)s.health, FRAGDISK_FULL);
    ck_assert_int_eq(delete_one(&w, 1, 4), 0);
    tidy(&w);
    fragdisk_refresh(w.d);
    fragdisk_state(w.d, &s);
    ck_assert_int_eq((int)s.health, FRAGDISK_GOOD);
    ck_assert_int_eq(put_one(&w, 1000, MIB), 0);
    ck_assert_int_eq(check_one(&w, 5, MIB), 0);
    world_release(&w);
}
END_TEST

/* LevelDB does not survive a write that finds no room, and others may fill the filesystem. */
START_TEST(filesystem_without_a_byte_left_is_waited_for)
{
    struct world w;
    struct fragdisk_state s;
    world_init(&w);
    for (uint64_t id = 1; id <= 8; id++) {
        ck_assert_int_eq(put_one(&w, id, id % 2 == 0 ? 128 * KIB : 8 * KIB), 0);
    }
    ck_assert_int_eq(delete_one(&w, 8, 1), 0);
    disk_mem_set_total(w.disk, disk_mem_used(w.disk));
    fragdisk_refresh(w.d);
    kv_mem_fail_at(w.index, 0);
    uint64_t n = 0;
    ck_assert_int_eq(put_one(&w, 100, 8 * KIB), -ENOSPC);
    ck_assert_int_eq(fragdisk_delete(w.d, 7, 1, 4, &n), -ENOSPC);
    tidy(&w);
    ck_assert(!kv_mem_failed(w.index));
    ck_assert_int_eq(fragdisk_error(w.d), 0);
    ck_assert_int_eq(check_one(&w, 1, 8 * KIB), 0);
    disk_mem_set_total(w.disk, WORLD_BYTES);
    kv_mem_fail_at(w.index, 1000000);
    fragdisk_refresh(w.d);
    fragdisk_state(w.d, &s);
    ck_assert_int_eq((int)s.health, FRAGDISK_GOOD);
    ck_assert_int_eq(delete_one(&w, 1, 4), 0);
    ck_assert_int_eq(put_one(&w, 100, 8 * KIB), 0);
    tidy(&w);
    ck_assert_int_eq(check_one(&w, 5, 8 * KIB), 0);
    ck_assert_int_eq(check_one(&w, 1, 8 * KIB), ERR_NOT_FOUND);
    world_release(&w);
}
END_TEST

START_TEST(lost_index_is_made_again_from_the_segments)
{
    struct world w;
    world_init(&w);
    for (uint64_t id = 1; id <= 60; id++) {
        ck_assert_int_eq(put_one(&w, id, id % 3 == 0 ? 256 * KIB : 4 * KIB), 0);
    }
    ck_assert_int_eq(delete_one(&w, 3, 1), 0);
    tidy(&w);
    fragdisk_close(w.d);
    kv_mem_free(w.index);
    w.index = kv_mem_new();
    kv_mem_keep(w.index);
    ck_assert_int_eq(world_open(&w), 0);
    for (uint64_t id = 1; id <= 60; id++) {
        uint32_t bytes = id % 3 == 0 ? 256 * KIB : 4 * KIB;
        ck_assert_int_eq(check_one(&w, id, bytes), id == 3 ? ERR_NOT_FOUND : 0);
    }
    ck_assert_int_eq(put_one(&w, 61, 4 * KIB), 0);
    world_release(&w);
}
END_TEST

START_TEST(flipped_byte_is_found_and_counted)
{
    struct world w;
    world_init(&w);
    ck_assert_int_eq(put_one(&w, 1, MIB), 0);
    ck_assert_int_eq(disk_mem_rot(w.disk, "segments/00000000", 8192 + 4096 + 70000, 0x20), 0);
    ck_assert_int_eq(check_one(&w, 1, MIB), ERR_CORRUPT);
    struct fragdisk_state s;
    fragdisk_state(w.d, &s);
    ck_assert_uint_eq(s.corrupt, 1);
    struct index_place p;
    ck_assert_int_eq(fragdisk_find(w.d, (struct frag_key){7, 1, 2}, 0, &p), 0);
    ck_assert_int_eq(fragdisk_read(w.d, &p, 0, 65536, w.data), 0);
    world_release(&w);
}
END_TEST

START_TEST(rotten_segment_header_loses_nothing)
{
    struct world w;
    world_init(&w);
    ck_assert_int_eq(put_one(&w, 1, MIB), 0);
    ck_assert_int_eq(put_one(&w, 2, 4096), 0);
    for (int n = 0; n < 2; n++) {
        char path[32];
        snprintf(path, sizeof path, "segments/%08d", n);
        ck_assert_int_eq(disk_mem_rot(w.disk, path, 20, 1), 0);
        ck_assert_int_eq(disk_mem_rot(w.disk, path, 4096 + 20, 1), 0);
    }
    reopen(&w);
    ck_assert_int_eq(check_one(&w, 1, MIB), 0);
    ck_assert_int_eq(check_one(&w, 2, 4096), 0);
    ck_assert_int_eq(put_one(&w, 3, MIB), 0);
    tidy(&w);
    reopen(&w);
    ck_assert_int_eq(check_one(&w, 2, 4096), 0);
    world_release(&w);
}
END_TEST

START_TEST(index_of_another_disk_is_refused)
{
    struct world w;
    world_init(&w);
    fragdisk_close(w.d);
    struct fragdisk_options o = {.disk = w.disk, .index = w.index, .id = {9}};
    ck_assert_int_eq(fragdisk_open(&o, &w.d), ERR_CORRUPT);
    w.d = NULL;
    world_release(&w);
}
END_TEST

struct seen {
    uint64_t id[64];
    unsigned n;
};

static bool see(void *ctx, const struct index_place *p)
{
    struct seen *s = ctx;
    s->id[s->n++] = p->fragment.key.id;
    return true;
}

START_TEST(list_goes_on_behind_an_id_and_never_splits_one)
{
    struct world w;
    world_init(&w);
    for (uint64_t id = 1; id <= 10; id++) {
        ck_assert_int_eq(put_one(&w, id, 4096), 0);
    }
    fill(w.data, 3, 4096);
    struct frag_put p = {.fragment = describe(3, 4096, w.data), .data = w.data};
    p.fragment.key.slot = 4;
    struct frag_put *list[1] = {&p};
    fragdisk_put(w.d, list, 1);
    ck_assert_int_eq(p.rc, 0);
    struct seen s = {.n = 0};
    ck_assert_int_eq(fragdisk_list(w.d, 7, 1, 2, see, &s), 0);
    ck_assert_uint_eq(s.n, 3);
    ck_assert(s.id[0] == 2 && s.id[1] == 3 && s.id[2] == 3);
    ck_assert_int_eq(fragdisk_list(w.d, 8, 0, 2, see, &s), 0);
    ck_assert_uint_eq(s.n, 3);
    world_release(&w);
}
END_TEST

/* ---- failure sweeps -------------------------------------------------------------------- */

enum { SWEEP_IDS = 40 };
struct outcome {
    bool put[SWEEP_IDS + 1], delete_tried[SWEEP_IDS + 1], deleted[SWEEP_IDS + 1];
};

static uint32_t sweep_bytes(uint64_t id)
{
    return id % 3 == 0 ? 512 * KIB : id % 3 == 1 ? 4 * KIB : 40 * KIB;
}

/* A life of the disk: segments of both kinds fill, seal, die, are compacted and used again. */
static void live(struct world *w, struct outcome *o)
{
    for (uint64_t id = 1; id <= SWEEP_IDS; id++) {
        o->put[id] = put_one(w, id, sweep_bytes(id)) == 0;
        if (id > 8 && id % 8 != 0) {
            o->delete_tried[id - 8] = true;
            o->deleted[id - 8] = delete_one(w, id - 8, 1) == 0;
        }
        if (id % 5 == 0) {
            tidy(w);
        }
    }
}

static void verify(struct world *w, const struct outcome *o)
{
    for (uint64_t id = 1; id <= SWEEP_IDS; id++) {
        int rc = check_one(w, id, sweep_bytes(id));
        ck_assert(rc == 0 || rc == ERR_NOT_FOUND);
        if (o->deleted[id]) {
            ck_assert_int_eq(rc, ERR_NOT_FOUND);
        } else if (o->put[id] && !o->delete_tried[id]) {
            ck_assert_int_eq(rc, 0);
        }
    }
}

/* The power goes at the n-th change of the disk; every way to lose what was not synced. */
static bool sweep_disk(int at, unsigned keep, bool torn)
{
    struct world w;
    struct outcome o = {0};
    world_init(&w);
    disk_mem_fault(w.disk, (struct disk_mem_fault){.at = at, .sticky = true, .torn = torn});
    live(&w, &o);
    bool fired = disk_mem_fired(w.disk);
    kv_mem_fail_at(w.index, 0); /* the power is off: closing writes nothing */
    fragdisk_close(w.d);
    disk_mem_crash(w.disk, (uint64_t)at + 1, keep);
    kv_mem_crash(w.index, keep == 0 ? 0 : (unsigned)at % 5);
    ck_assert_int_eq(world_open(&w), 0);
    verify(&w, &o);
    tidy(&w);
    ck_assert_int_eq(put_one(&w, 1000, MIB), 0);
    ck_assert_int_eq(put_one(&w, 1001, 4096), 0);
    reopen(&w);
    verify(&w, &o);
    ck_assert_int_eq(check_one(&w, 1000, MIB), 0);
    world_release(&w);
    return fired;
}

START_TEST(power_cut_at_any_change_of_the_disk_loses_nothing_answered)
{
    static const unsigned KEEP[] = {0, 50, 100};
    int at = 0;
    while (sweep_disk(at, KEEP[_i], _i == 1)) {
        at++;
    }
    ck_assert_int_gt(at, 50);
}
END_TEST

/* One operation fails once and the process goes on: nothing wrong is ever answered. */
START_TEST(single_failed_change_is_survived)
{
    for (int at = 0;; at++) {
        struct world w;
        struct outcome o = {0};
        world_init(&w);
        disk_mem_fault(w.disk, (struct disk_mem_fault){.at = at, .torn = true});
        live(&w, &o);
        bool fired = disk_mem_fired(w.disk);
        disk_mem_fault(w.disk, (struct disk_mem_fault){.at = -1});
        verify(&w, &o);
        reopen(&w);
        verify(&w, &o);
        world_release(&w);
        if (!fired) {
            break;
        }
    }
}
END_TEST

/* "No space" from a sync in the middle of a batch, where one segment is full and the next begins, must not be taken for
 * a put that only found no room. */
START_TEST(sync_without_space_between_two_segments_loses_nothing_answered)
{
    enum { N = 40, BYTES_EACH = 8 * KIB };
    static uint8_t data[N][BYTES_EACH] __attribute__((aligned(4096)));
    bool fired = true;
    for (int at = 0; fired; at++) {
        struct world w;
        struct frag_put put[N], *puts[N];
        world_init(&w);
        for (unsigned i = 0; i < N; i++) {
            fill(data[i], i + 1, BYTES_EACH);
            put[i] = (struct frag_put){.fragment = describe(i + 1, BYTES_EACH, data[i]), .data = data[i]};
            puts[i] = &put[i];
        }
        disk_mem_fault(w.disk, (struct disk_mem_fault){.at = at, .rc = -ENOSPC});
        fragdisk_put(w.d, puts, N);
        fired = disk_mem_fired(w.disk);
        disk_mem_crash(w.disk, (uint64_t)at, 0);
        fragdisk_close(w.d);
        ck_assert_int_eq(world_open(&w), 0);
        for (unsigned i = 0; i < N; i++) {
            ck_assert(put[i].rc != 0 || check_one(&w, i + 1, BYTES_EACH) == 0);
        }
        world_release(&w);
    }
}
END_TEST

START_TEST(index_failing_at_any_write_loses_nothing_answered)
{
    for (int at = 0;; at++) {
        struct world w;
        struct outcome o = {0};
        world_init(&w);
        kv_mem_fail_at(w.index, at);
        live(&w, &o);
        bool failed = kv_mem_failed(w.index);
        fragdisk_close(w.d);
        disk_mem_crash(w.disk, (uint64_t)at, 0);
        kv_mem_crash(w.index, at % 2 == 0 ? 0 : 1);
        ck_assert_int_eq(world_open(&w), 0);
        verify(&w, &o);
        world_release(&w);
        if (!failed) {
            break;
        }
    }
}
END_TEST

/* Recovery itself is cut short, again and again. */
START_TEST(crash_during_recovery_is_recovered_from)
{
    for (int at = 0; at < 6; at++) {
        struct world w;
        struct outcome o = {0};
        world_init(&w);
        live(&w, &o);
        kv_mem_fail_at(w.index, 0);
        fragdisk_close(w.d);
        disk_mem_crash(w.disk, 5, 0);
        kv_mem_crash(w.index, 0);
        kv_mem_fail_at(w.index, at);
        if (world_open(&w) == 0) {
            fragdisk_close(w.d);
        }
        kv_mem_crash(w.index, (unsigned)at);
        ck_assert_int_eq(world_open(&w), 0);
        verify(&w, &o);
        world_release(&w);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fragdisk");
    TCase *basic = tcase_create("basic");
    tcase_add_test(basic, put_is_read_back_whole_and_in_ranges);
    tcase_add_test(basic, same_put_again_is_fine_and_another_is_a_conflict);
    tcase_add_test(basic, batch_costs_one_write_per_run_and_one_sync_per_segment);
    tcase_add_test(basic, deleted_space_comes_back_and_small_segments_are_compacted);
    tcase_add_test(basic, unreadable_sector_met_by_compaction_does_not_fail_the_disk);
    tcase_add_test(basic, full_disk_refuses_puts_before_it_is_full_and_deletes_go_on);
    tcase_add_test(basic, filesystem_without_a_byte_left_is_waited_for);
    tcase_add_test(basic, lost_index_is_made_again_from_the_segments);
    tcase_add_test(basic, flipped_byte_is_found_and_counted);
    tcase_add_test(basic, rotten_segment_header_loses_nothing);
    tcase_add_test(basic, index_of_another_disk_is_refused);
    tcase_add_test(basic, list_goes_on_behind_an_id_and_never_splits_one);
    suite_add_tcase(s, basic);
    TCase *sweeps = tcase_create("sweeps");
    tcase_set_timeout(sweeps, 120);
    tcase_add_loop_test(sweeps, power_cut_at_any_change_of_the_disk_loses_nothing_answered, 0, 3);
    tcase_add_test(sweeps, single_failed_change_is_survived);
    tcase_add_test(sweeps, sync_without_space_between_two_segments_loses_nothing_answered);
    tcase_add_test(sweeps, index_failing_at_any_write_loses_nothing_answered);
    tcase_add_test(sweeps, crash_during_recovery_is_recovered_from);
    suite_add_tcase(s, sweeps);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
