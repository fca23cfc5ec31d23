#include <check.h>
#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "test/lib/fake_cluster.h"

/* The data path against the real metadata machine and played chunk servers. Each test reads back
 * through a second worker that knows nothing but the cluster. */
enum { MIB = 1 << 20, PAGES = 4096, CACHE = 16 << 20 };

struct rig {
    struct cluster *cl;
    struct arena *arena, *arena2;
    struct fake_worker *w;
    uint64_t ino;
};

static struct rig rig_new(uint64_t seed)
{
    struct rig g = {.cl = cluster_new(seed)};
    g.ino = cluster_create(g.cl, "file");
    g.arena = cluster_arena_new(PAGES, CACHE);
    g.w = worker_start(g.cl, g.arena);
    return g;
}

static void rig_free(struct rig *g)
{
    cluster_free(g->cl);
    cluster_arena_free(g->arena);
    cluster_arena_free(g->arena2);
}

/* A worker on an empty arena, on the same session: nothing cached. */
static void fresh_worker(struct rig *g)
{
    const uint64_t session = g->arena->h->session, next = g->arena->h->next_seq;
    worker_stop(g->w);
    g->w = NULL;
    cluster_arena_free(g->arena2);
    g->arena2 = cluster_arena_new(PAGES, CACHE);
    g->arena2->h->session = session;
    g->arena2->h->next_seq = next;
    g->w = worker_start(g->cl, g->arena2);
}

static void write_version(struct rig *g, uint64_t offset, size_t len, uint64_t version)
{
    uint8_t *data = malloc(len);
    cluster_fill(data, offset, len, version);
    for (size_t at = 0; at < len; at += MIB) {
        const size_t n = len - at < MIB ? len - at : MIB;
        ck_assert_int_eq(worker_write(g->w, g->ino, offset + at, data + at, n), 0);
    }
    free(data);
}

static void check_version(struct rig *g, uint64_t offset, size_t len, uint64_t version)
{
    uint8_t *want = malloc(len), *got = malloc(len);
    cluster_fill(want, offset, len, version);
    for (size_t at = 0; at < len; at += MIB) {
        const size_t n = len - at < MIB ? len - at : MIB;
        ck_assert_int_eq(worker_read(g->w, g->ino, offset + at, got + at, (uint32_t)n), (int)n);
    }
    for (size_t i = 0; i < len; i++) {
        if (want[i] != got[i]) {
            ck_abort_msg("byte %zu of %zu differs", i, len);
        }
    }
    free(want);
    free(got);
}

static unsigned extents_of(struct rig *g)
{
    Cfs__ExtentsReply *r = fsm_world_extents(&g->cl->world, g->ino, 0, UINT32_MAX);
    const unsigned n = (unsigned)r->n_extent;
    cfs__extents_reply__free_unpacked(r, NULL);
    return n;
}

START_TEST(a_small_file_is_committed_inline)
{
    struct rig g = rig_new(1);
    write_version(&g, 0, 1000, 1);
    check_version(&g, 0, 1000, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    check_version(&g, 0, 1000, 1);
    ck_assert_uint_eq(g.cl->chunk[0].puts, 0);
    fresh_worker(&g);
    check_version(&g, 0, 1000, 1);
    rig_free(&g);
}
END_TEST

START_TEST(a_stream_becomes_full_stripes_at_once)
{
    struct rig g = rig_new(2);
    write_version(&g, 0, 12 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_eq(extents_of(&g), 3);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        ck_assert_uint_eq(cluster_fragments(g.cl, i), 3);
    }
    check_version(&g, 0, 12 * MIB, 1);
    fresh_worker(&g);
    check_version(&g, 0, 12 * MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(odd_lengths_are_read_back)
{
    static const size_t lengths[] = {1,     4095,   4096,    4097,        65535,
                                     65536, 100000, MIB - 1, 4 * MIB - 1, 4 * MIB + 5};
    for (unsigned i = 0; i < array_count(lengths); i++) {
        struct rig g = rig_new(3);
        write_version(&g, 0, lengths[i], 1);
        ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
        fresh_worker(&g);
        check_version(&g, 0, lengths[i], 1);
        rig_free(&g);
    }
}
END_TEST

START_TEST(more_data_than_the_buffer_waits_for_room)
{
    struct rig g = rig_new(4);
    write_version(&g, 0, 40 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    fresh_worker(&g);
    check_version(&g, 0, 40 * MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(a_file_that_outgrows_its_inline_content_keeps_it)
{
    struct rig g = rig_new(5);
    write_version(&g, 0, 3000, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    fresh_worker(&g);
    write_version(&g, 20000, 5000, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    fresh_worker(&g);
    check_version(&g, 0, 3000, 1);
    check_version(&g, 20000, 5000, 1);
    uint8_t hole[100], zero[100] = {0};
    ck_assert_int_eq(worker_read(g.w, g.ino, 10000, hole, 100), 100);
    ck_assert_mem_eq(hole, zero, 100);
    rig_free(&g);
}
END_TEST

START_TEST(appends_to_one_page_do_not_pile_up_extents)
{
    struct rig g = rig_new(6);
    write_version(&g, 0, 5000, 1);
    for (unsigned i = 0; i < 30; i++) {
        ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
        write_version(&g, 5000 + i * 100, 100, 1);
    }
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_le(extents_of(&g), 3);
    fresh_worker(&g);
    check_version(&g, 0, 8000, 1);
    rig_free(&g);
}
END_TEST

struct model {
    uint8_t *bytes;
    size_t size;
};

static void model_write(struct rig *g, struct model *m, uint64_t offset, size_t len,
                        uint64_t version)
{
    cluster_fill(m->bytes + offset, offset, len, version);
    m->size = offset + len > m->size ? offset + len : m->size;
    ck_assert_int_eq(worker_write(g->w, g->ino, offset, m->bytes + offset, len), 0);
}

static void model_check(struct rig *g, const struct model *m)
{
    uint8_t *got = malloc(m->size + MIB);
    size_t at = 0;
    int n;
    while ((n = worker_read(g->w, g->ino, at, got + at, 300000)) > 0) {
        at += (size_t)n;
    }
    ck_assert_int_eq(n, 0);
    ck_assert_uint_eq(at, m->size);
    for (size_t i = 0; i < m->size; i++) {
        if (got[i] != m->bytes[i]) {
            ck_abort_msg("byte %zu of %zu differs", i, m->size);
        }
    }
    free(got);
}

/* Writes of all sizes and alignments, reads and flushes between them. */
START_TEST(random_writes_read_back_as_the_model_says)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct rig g = rig_new(seed);
        struct prng p;
        prng_seed(&p, seed);
        struct model m = {.bytes = calloc(1, 8 * MIB)};
        const size_t span = seed % 2 == 0 ? 100000 : 6 * MIB;
        for (unsigned i = 0; i < 300; i++) {
            const uint64_t offset = prng_below(&p, span);
            const size_t len = 1 + prng_below(&p, prng_below(&p, 8) == 0 ? 300000 : 9000);
            model_write(&g, &m, offset, len, i + 1);
            if (prng_below(&p, 10) == 0) {
                ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
            }
            if (prng_below(&p, 20) == 0) {
                cluster_run(g.cl, prng_below(&p, 7000));
            }
            if (prng_below(&p, 30) == 0) {
                model_check(&g, &m);
            }
        }
        model_check(&g, &m);
        ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
        model_check(&g, &m);
        fresh_worker(&g);
        model_check(&g, &m);
        free(m.bytes);
        rig_free(&g);
    }
}
END_TEST

/* Each in a stripe of its own, so that one read needs more blocks than the cache has (256). */
START_TEST(one_read_may_have_more_pieces_than_the_cache_has_blocks)
{
    struct rig g = rig_new(22);
    uint8_t *want = calloc(1, MIB), *got = calloc(1, MIB);
    cluster_fill(want + MIB - 5000, MIB - 5000, 5000, 1);
    write_version(&g, MIB - 5000, 5000, 1);
    for (unsigned i = 0; i < 400; i++) {
        const uint64_t at = (uint64_t)i * 2500;
        cluster_fill(want + at, at, 700, 2);
        write_version(&g, at, 700, 2);
        ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    }
    fresh_worker(&g);
    ck_assert_int_eq(worker_read(g.w, g.ino, 0, got, MIB), MIB);
    ck_assert_mem_eq(got, want, MIB);
    ck_assert_int_eq(worker_read(g.w, g.ino, 1000, got, MIB - 2000), MIB - 2000);
    ck_assert_mem_eq(got, want + 1000, MIB - 2000);
    free(want);
    free(got);
    rig_free(&g);
}
END_TEST

START_TEST(dirty_data_is_flushed_by_age)
{
    struct rig g = rig_new(7);
    write_version(&g, 0, 200000, 1);
    cluster_run(g.cl, 8000);
    ck_assert_uint_gt(extents_of(&g), 0);
    ck_assert_uint_eq(writer_total_dirty(g.w->client.writer), 0);
    rig_free(&g);
}
END_TEST

START_TEST(killed_servers_are_left_out_and_taken_in_again)
{
    struct rig g = rig_new(8);
    write_version(&g, 0, 4 * MIB, 1);
    cluster_kill(g.cl, 1);
    cluster_kill(g.cl, 4);
    const uint64_t before = g.cl->timers.now_ms;
    write_version(&g, 4 * MIB, 8 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_lt(g.cl->timers.now_ms - before, 500);
    check_version(&g, 0, 12 * MIB, 1);
    fresh_worker(&g);
    check_version(&g, 0, 12 * MIB, 1);
    cluster_revive(g.cl, 1);
    cluster_revive(g.cl, 4);
    cluster_run(g.cl, 3000);
    const unsigned fragments = cluster_fragments(g.cl, 4);
    write_version(&g, 12 * MIB, 4 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_eq(cluster_fragments(g.cl, 4), fragments + 1);
    rig_free(&g);
}
END_TEST

static uint64_t garbage_ids(struct rig *g)
{
    Cfs__FsmCounters *c = fsm_world_counters(&g->cl->world);
    const uint64_t n = c->garbage_ids;
    cfs__fsm_counters__free_unpacked(c, NULL);
    return n;
}

START_TEST(fragments_of_failed_stripes_become_garbage_when_nothing_is_under_way)
{
    struct rig g = rig_new(24);
    write_version(&g, 0, 4 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    cluster_run(g.cl, 1000);
    ck_assert_uint_eq(garbage_ids(&g), 0);
    cluster_kill(g.cl, 1);
    write_version(&g, 4 * MIB, 8 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    cluster_run(g.cl, 1000);
    ck_assert_uint_gt(garbage_ids(&g), 0);
    const uint64_t once = garbage_ids(&g);
    write_version(&g, 12 * MIB, 4 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    cluster_run(g.cl, 5000);
    ck_assert_uint_eq(garbage_ids(&g), once);
    check_version(&g, 0, 16 * MIB, 1);
    fresh_worker(&g);
    check_version(&g, 0, 16 * MIB, 1);
    rig_free(&g);
}
END_TEST

/* Two files on slow disks: one is written all the time, of the other a block is synced now and then. */
START_TEST(a_sync_does_not_wait_behind_all_that_is_being_flushed)
{
    struct cluster *cl = cluster_new(26);
    struct rig g = {.cl = cl, .ino = cluster_create(cl, "busy")};
    const uint64_t synced = cluster_create(cl, "synced");
    uint64_t longest = 0;
    uint8_t block[65536];
    g.arena = cluster_arena_new(16 * PAGES, CACHE);
    g.w = worker_start(cl, g.arena);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        cl->chunk[i].put_ms_per_mib = 100;
    }
    for (unsigned i = 0; i < 12; i++) {
        write_version(&g, (uint64_t)i * 16 * MIB, 16 * MIB, 1);
        cluster_fill(block, 0, sizeof block, i);
        ck_assert_int_eq(worker_write(g.w, synced, 0, block, sizeof block), 0);
        const uint64_t before = cl->timers.now_ms;
        ck_assert_int_eq(worker_flush(g.w, synced), 0);
        const uint64_t took = cl->timers.now_ms - before;
        longest = i >= 4 && took > longest ? took : longest; /* once it has learnt */
    }
    ck_assert_uint_lt(longest, 350);
    check_version(&g, 0, 192 * MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(a_silent_server_is_left_out_after_the_deadline)
{
    struct rig g = rig_new(9);
    write_version(&g, 0, 4 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    g.cl->chunk[2].silent = true;
    const uint64_t before = g.cl->timers.now_ms;
    write_version(&g, 4 * MIB, 8 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_lt(g.cl->timers.now_ms - before, 4000);
    const uint64_t second = g.cl->timers.now_ms;
    write_version(&g, 12 * MIB, 8 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_lt(g.cl->timers.now_ms - second, 500);
    check_version(&g, 0, 20 * MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(with_fewer_than_m_plus_1_servers_writes_wait)
{
    struct rig g = rig_new(10);
    for (unsigned i = 0; i < 4; i++) {
        cluster_kill(g.cl, i);
    }
    write_version(&g, 0, MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), -ETIMEDOUT);
    cluster_revive(g.cl, 0);
    cluster_run(g.cl, 5000);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    check_version(&g, 0, MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(a_full_pool_is_enospc_and_goes_on_when_there_is_room)
{
    struct rig g = rig_new(11);
    write_version(&g, 0, 100000, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        cluster_full(g.cl, i, true);
    }
    write_version(&g, 100000, 100000, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), -ENOSPC);
    const struct inode *in = worker_inode(g.w, g.ino);
    ck_assert_int_eq(in->dirty->error, -ENOSPC);
    ck_assert_uint_ge(in->dirty->errors, 1);
    uint8_t one = 1;
    ck_assert_int_eq(worker_write(g.w, g.ino, 300000, &one, 1), -ENOSPC);
    check_version(&g, 0, 200000, 1);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        cluster_full(g.cl, i, false);
    }
    cluster_run(g.cl, 10000);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    fresh_worker(&g);
    check_version(&g, 0, 200000, 1);
    rig_free(&g);
}
END_TEST

START_TEST(an_error_of_the_commit_is_reported_and_tried_again)
{
    struct rig g = rig_new(12);
    write_version(&g, 0, MIB, 1);
    g.cl->command_status = -ENOSPC;
    g.cl->write_errors = 1;
    ck_assert_int_eq(worker_flush(g.w, g.ino), -ENOSPC);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    g.cl->command_status = ERR_STALE_EPOCH;
    g.cl->write_errors = 2;
    write_version(&g, MIB, MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    fresh_worker(&g);
    check_version(&g, 0, 2 * MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(without_credit_writes_wait_and_then_fail)
{
    struct rig g = rig_new(13);
    g.cl->credit = 3 * MIB;
    cluster_run(g.cl, 5000);
    write_version(&g, 0, 500000, 1);
    g.cl->credit = 4096;
    cluster_run(g.cl, 5000);
    uint8_t *data = calloc(1, MIB);
    ck_assert_int_eq(worker_write(g.w, g.ino, 4 * MIB, data, MIB), -ENOSPC);
    g.cl->credit = UINT64_MAX;
    cluster_run(g.cl, 5000);
    ck_assert_int_eq(worker_write(g.w, g.ino, 4 * MIB, data, MIB), 0);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    free(data);
    rig_free(&g);
}
END_TEST

static struct rig rig_reserved(uint64_t seed, uint64_t length)
{
    struct rig g = {.cl = cluster_new(seed)};
    g.ino = cluster_create(g.cl, "file");
    Cfs__FallocateOp m = CFS__FALLOCATE_OP__INIT;
    m.ino = g.ino;
    m.mode = FALLOC_FL_KEEP_SIZE;
    m.length = length;
    Cfs__Op op = CFS__OP__INIT;
    op.fallocate = &m;
    ck_assert_int_eq(fsm_world_op(&g.cl->world, &op), 0);
    g.arena = cluster_arena_new(PAGES, CACHE);
    g.w = worker_start(g.cl, g.arena);
    g.cl->credit = 4096;
    cluster_run(g.cl, 5000);
    return g;
}

START_TEST(what_is_reserved_needs_no_credit)
{
    struct rig g = rig_reserved(21, 4 * MIB + 100);
    uint8_t *data = calloc(1, MIB);
    write_version(&g, 0, 2 * MIB, 1);
    ck_assert_uint_eq(writer_promised(g.w->client.writer), 0);
    write_version(&g, MIB, 1000, 1); /* what is not sent yet, again */
    ck_assert_int_eq(worker_write(g.w, g.ino, 8 * MIB, data, 4096), -ENOSPC);
    ck_assert_int_eq(worker_write(g.w, g.ino, 4 * MIB - 4096, data, 8192), -ENOSPC); /* beyond it */
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_int_eq(worker_write(g.w, g.ino, 0, data, 4096),
                     -ENOSPC); /* it is not reserved any more */
    write_version(&g, 2 * MIB, 2 * MIB + 100, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_eq(writer_total_dirty(g.w->client.writer), 0);
    Cfs__FsmCounters *c = fsm_world_counters(&g.cl->world);
    ck_assert_uint_eq(c->reserved_bytes, 0);
    cfs__fsm_counters__free_unpacked(c, NULL);
    g.cl->credit = UINT64_MAX;
    fresh_worker(&g);
    check_version(&g, 0, 4 * MIB + 100, 1);
    free(data);
    rig_free(&g);
}
END_TEST

START_TEST(small_writes_are_paid_a_block_at_a_time)
{
    struct rig g = rig_reserved(22, 64 * 1024);
    for (uint64_t i = 0; i < 8; i++) {
        write_version(&g, i * 8192, 512, 1);
        ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    }
    uint8_t data[4096] = {0};
    ck_assert_int_eq(worker_write(g.w, g.ino, 1024, data, 512), -ENOSPC); /* its block was paid */
    write_version(&g, 512, 4096 - 512, 1); /* but its rest may be filled */
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    g.cl->credit = UINT64_MAX;
    fresh_worker(&g);
    check_version(&g, 0, 4096, 1);
    rig_free(&g);
}
END_TEST

START_TEST(a_reservation_under_way_takes_from_the_credit)
{
    struct rig g = rig_new(23);
    struct writer *w = g.w->client.writer;
    g.cl->credit = 40 * MIB; /* 27/8 for each byte */
    cluster_run(g.cl, 5000);
    uint8_t *data = calloc(1, MIB);
    writer_reserve(w, 11 * MIB);
    struct inode *in = worker_inode(g.w, g.ino);
    ck_assert_int_eq(writer_write(w, in, 0, BYTES(data, MIB), 0), -EAGAIN);
    writer_reserved(w, 11 * MIB, 0); /* refused */
    ck_assert_int_eq(writer_write(w, in, 0, BYTES(data, MIB), 0), 0);
    writer_reserve(w, UINT64_MAX);
    writer_reserve(w, UINT64_MAX);
    ck_assert_int_eq(writer_write(w, in, MIB, BYTES(data, MIB), 0), -EAGAIN);
    writer_reserved(w, UINT64_MAX, 10 * MIB);
    writer_reserved(w, UINT64_MAX, 0);
    ck_assert_int_eq(writer_write(w, in, MIB, BYTES(data, MIB), 0), -EAGAIN);
    free(data);
    rig_free(&g);
}
END_TEST

struct waiting {
    struct writer_wait wait;
    unsigned done;
    int rc;
};

static void waited(struct writer_wait *wait, int rc)
{
    struct waiting *x = container_of(wait, struct waiting, wait);
    x->done++;
    x->rc = rc;
}

START_TEST(quiesce_holds_back_what_is_new)
{
    struct rig g = rig_new(14);
    write_version(&g, 0, 3 * MIB, 1);
    struct waiting x = {.wait = {.on_done = waited}};
    struct inode *in = worker_inode(g.w, g.ino);
    writer_quiesce(g.w->client.writer, in, true, &x.wait);
    cluster_run(g.cl, 1000);
    ck_assert_uint_eq(x.done, 1);
    ck_assert_int_eq(x.rc, 0);
    ck_assert_uint_eq(writer_total_dirty(g.w->client.writer), 0);
    const unsigned puts = g.cl->chunk[0].puts;
    write_version(&g, 3 * MIB, 8 * MIB, 1);
    cluster_run(g.cl, 9000);
    ck_assert_uint_eq(g.cl->chunk[0].puts, puts);
    writer_resume(g.w->client.writer, in);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    check_version(&g, 0, 11 * MIB, 1);
    rig_free(&g);
}
END_TEST

/* What is inline at the server may be in no page any more (evicted, or a worker died) while a later
 * write to the same page waits for its turn: the next content must have both. */
START_TEST(a_write_beside_the_commit_of_inline_content_keeps_it)
{
    struct rig g = rig_new(20);
    write_version(&g, 0, 1000, 1);
    cluster_run(g.cl, 500);
    const unsigned before = g.cl->commands;
    writer_start(g.w->client.writer, worker_inode(g.w, g.ino));
    write_version(&g, 2000, 500, 1);
    while (g.cl->commands == before) {
        cluster_run(g.cl, 1);
    }
    g.cl->command_status = -ENOSPC; /* the first is committed, the second is not */
    g.cl->write_errors = 1;
    cluster_run(g.cl, 500);
    ck_assert_uint_eq(g.cl->write_errors, 0);
    ck_assert_uint_gt(writer_total_dirty(g.w->client.writer), 0);
    worker_stop(g.w);
    g.w = worker_start(g.cl, g.arena);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    check_version(&g, 0, 1000, 1);
    fresh_worker(&g);
    check_version(&g, 0, 1000, 1);
    check_version(&g, 2000, 500, 1);
    rig_free(&g);
}
END_TEST

/* The stripes of a file that outgrows its content may only be committed with that content, which
 * the quiesce holds back. */
START_TEST(quiesce_ends_while_a_file_outgrows_its_inline_content)
{
    struct rig g = rig_new(21);
    write_version(&g, 0, 100, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    cluster_run(g.cl, 500); /* ids have come */
    write_version(&g, 8192, 8 * MIB, 1);
    struct waiting x = {.wait = {.on_done = waited}};
    struct inode *in = worker_inode(g.w, g.ino);
    writer_quiesce(g.w->client.writer, in, false, &x.wait);
    cluster_run(g.cl, 3000);
    ck_assert_uint_eq(x.done, 1);
    ck_assert_int_eq(x.rc, 0);
    writer_resume(g.w->client.writer, in);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    fresh_worker(&g);
    check_version(&g, 0, 100, 1);
    check_version(&g, 8192, 8 * MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(a_cancelled_quiesce_leaves_nothing_held)
{
    struct rig g = rig_new(15);
    write_version(&g, 0, 3 * MIB, 1);
    struct waiting x = {.wait = {.on_done = waited}};
    struct inode *in = worker_inode(g.w, g.ino);
    writer_quiesce(g.w->client.writer, in, true, &x.wait);
    writer_wait_cancel(&x.wait);
    writer_resume(g.w->client.writer, in);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_eq(x.done, 0);
    rig_free(&g);
}
END_TEST

START_TEST(a_quiesce_that_fails_holds_nothing_back)
{
    struct rig g = rig_new(19);
    write_version(&g, 0, 3 * MIB, 1);
    g.cl->command_status = -ENOSPC;
    g.cl->write_errors = 1;
    struct waiting x = {.wait = {.on_done = waited}};
    struct inode *in = worker_inode(g.w, g.ino);
    writer_quiesce(g.w->client.writer, in, true, &x.wait);
    cluster_run(g.cl, 200);
    ck_assert_uint_eq(x.done, 1);
    ck_assert_int_ne(x.rc, 0);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    check_version(&g, 0, 3 * MIB, 1);
    rig_free(&g);
}
END_TEST

START_TEST(forget_drops_what_is_dirty_and_under_way)
{
    struct rig g = rig_new(16);
    write_version(&g, 0, 7 * MIB, 1);
    struct inode *in = worker_inode(g.w, g.ino);
    writer_start(g.w->client.writer, in);
    writer_forget(g.w->client.writer, in);
    ck_assert_ptr_null(in->dirty);
    ck_assert_ptr_null(in->writer_state);
    cluster_run(g.cl, 5000);
    ck_assert_uint_eq(writer_total_dirty(g.w->client.writer), 0);
    for (uint32_t i = 0; i < PAGES; i++) {
        ck_assert_uint_eq(g.arena->page[i].word, 0);
    }
    rig_free(&g);
}
END_TEST

START_TEST(discard_and_truncate_take_bytes_out)
{
    struct rig g = rig_new(17);
    write_version(&g, 0, 50000, 1);
    struct writer *w = g.w->client.writer;
    struct inode *in = worker_inode(g.w, g.ino);
    writer_discard(w, in, 10000, 20000);
    uint8_t got[50000], want[50000];
    cluster_fill(want, 0, 50000, 1);
    memset(want + 10000, 0, 20000);
    ck_assert_int_eq(worker_read(g.w, g.ino, 0, got, 50000), 50000);
    ck_assert_mem_eq(got, want, 50000);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    fresh_worker(&g);
    ck_assert_int_eq(worker_read(g.w, g.ino, 0, got, 50000), 50000);
    ck_assert_mem_eq(got, want, 50000);
    rig_free(&g);
}
END_TEST

START_TEST(outline_makes_extents_of_an_inline_file)
{
    struct rig g = rig_new(18);
    write_version(&g, 0, 2000, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    ck_assert_uint_eq(extents_of(&g), 0);
    struct waiting x = {.wait = {.on_done = waited}};
    writer_outline(g.w->client.writer, worker_inode(g.w, g.ino), &x.wait);
    cluster_run(g.cl, 1000);
    ck_assert_uint_eq(x.done, 1);
    ck_assert_int_eq(x.rc, 0);
    ck_assert_uint_eq(extents_of(&g), 1);
    fresh_worker(&g);
    check_version(&g, 0, 2000, 1);
    rig_free(&g);
}
END_TEST

/* Nothing from another file may get into a stripe: what lies around partial pages is zero. */
START_TEST(whoever_waits_when_the_session_ends_is_told)
{
    struct rig g = rig_new(21);
    struct writer *w = g.w->client.writer;
    struct waiting flush = {.wait = {.on_done = waited}}, all = flush, room = flush;
    for (unsigned i = 0; i < 4; i++) {
        cluster_kill(g.cl, i); /* nothing can be written, so no answer tells it */
    }
    write_version(&g, 0, MIB, 1);
    writer_flush(w, worker_inode(g.w, g.ino), &flush.wait);
    writer_flush_all(w, &all.wait);
    cluster_run(g.cl, 2000);
    ck_assert_uint_eq(flush.done + all.done, 0);
    writer_session_ended(w);
    writer_session_ended(w);
    ck_assert_uint_eq(flush.done + all.done, 0); /* never inside the call */
    cluster_run(g.cl, 10);
    ck_assert_uint_eq(flush.done, 1);
    ck_assert_uint_eq(all.done, 1);
    ck_assert_int_eq(flush.rc, -EIO);
    ck_assert_int_eq(all.rc, -EIO);
    writer_wait_room(w, &room.wait);
    cluster_run(g.cl, 10);
    ck_assert_uint_eq(room.done, 1);
    rig_free(&g);
}
END_TEST

START_TEST(a_quiesce_ends_with_the_session_though_stripes_are_on_their_way)
{
    struct rig g = rig_new(22);
    struct writer *w = g.w->client.writer;
    struct waiting still = {.wait = {.on_done = waited}};
    write_version(&g, 0, 4 * MIB, 1);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    g.cl->chunk[0].silent = true; /* so that stripes stay on their way */
    write_version(&g, 4 * MIB, 8 * MIB, 1);
    writer_quiesce(w, worker_inode(g.w, g.ino), false, &still.wait);
    writer_session_ended(w);
    cluster_run(g.cl, 10);
    ck_assert_uint_eq(still.done, 1);
    ck_assert_int_eq(still.rc, -EIO);
    rig_free(&g);
}
END_TEST

START_TEST(outline_beside_the_commit_of_inline_content_makes_extents)
{
    struct rig g = rig_new(23);
    struct writer *w = g.w->client.writer;
    struct waiting x = {.wait = {.on_done = waited}};
    write_version(&g, 0, 1000, 1);
    writer_start(w, worker_inode(g.w, g.ino)); /* a close: the content is on its way */
    writer_outline(w, worker_inode(g.w, g.ino), &x.wait);
    cluster_run(g.cl, 2000);
    ck_assert_uint_eq(x.done, 1);
    ck_assert_int_eq(x.rc, 0);
    ck_assert_uint_gt(extents_of(&g), 0);
    check_version(&g, 0, 1000, 1);
    rig_free(&g);
}
END_TEST

START_TEST(flush_all_covers_many_files)
{
    struct cluster *cl = cluster_new(19);
    uint64_t ino[20];
    for (unsigned i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "f%u", i);
        ino[i] = cluster_create(cl, name);
    }
    struct arena *arena = cluster_arena_new(PAGES, CACHE);
    struct fake_worker *w = worker_start(cl, arena);
    uint8_t data[30000], got[30000];
    for (unsigned i = 0; i < 20; i++) {
        cluster_fill(data, 0, i * 1500 + 1, i);
        ck_assert_int_eq(worker_write(w, ino[i], 0, data, i * 1500 + 1), 0);
    }
    ck_assert_int_eq(worker_flush_all(w), 0);
    ck_assert_uint_eq(writer_total_dirty(w->client.writer), 0);
    for (unsigned i = 0; i < 20; i++) {
        cluster_fill(data, 0, i * 1500 + 1, i);
        ck_assert_int_eq(worker_read(w, ino[i], 0, got, 30000), (int)(i * 1500 + 1));
        ck_assert_mem_eq(got, data, i * 1500 + 1);
    }
    cluster_free(cl);
    cluster_arena_free(arena);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("writer");
    TCase *t = tcase_create("writer");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_small_file_is_committed_inline);
    tcase_add_test(t, a_stream_becomes_full_stripes_at_once);
    tcase_add_test(t, odd_lengths_are_read_back);
    tcase_add_test(t, more_data_than_the_buffer_waits_for_room);
    tcase_add_test(t, a_file_that_outgrows_its_inline_content_keeps_it);
    tcase_add_test(t, appends_to_one_page_do_not_pile_up_extents);
    tcase_add_test(t, random_writes_read_back_as_the_model_says);
    tcase_add_test(t, one_read_may_have_more_pieces_than_the_cache_has_blocks);
    tcase_add_test(t, dirty_data_is_flushed_by_age);
    tcase_add_test(t, killed_servers_are_left_out_and_taken_in_again);
    tcase_add_test(t, fragments_of_failed_stripes_become_garbage_when_nothing_is_under_way);
    tcase_add_test(t, a_sync_does_not_wait_behind_all_that_is_being_flushed);
    tcase_add_test(t, a_silent_server_is_left_out_after_the_deadline);
    tcase_add_test(t, with_fewer_than_m_plus_1_servers_writes_wait);
    tcase_add_test(t, a_full_pool_is_enospc_and_goes_on_when_there_is_room);
    tcase_add_test(t, an_error_of_the_commit_is_reported_and_tried_again);
    tcase_add_test(t, without_credit_writes_wait_and_then_fail);
    tcase_add_test(t, what_is_reserved_needs_no_credit);
    tcase_add_test(t, small_writes_are_paid_a_block_at_a_time);
    tcase_add_test(t, a_reservation_under_way_takes_from_the_credit);
    tcase_add_test(t, quiesce_holds_back_what_is_new);
    tcase_add_test(t, a_write_beside_the_commit_of_inline_content_keeps_it);
    tcase_add_test(t, quiesce_ends_while_a_file_outgrows_its_inline_content);
    tcase_add_test(t, a_cancelled_quiesce_leaves_nothing_held);
    tcase_add_test(t, a_quiesce_that_fails_holds_nothing_back);
    tcase_add_test(t, forget_drops_what_is_dirty_and_under_way);
    tcase_add_test(t, discard_and_truncate_take_bytes_out);
    tcase_add_test(t, outline_makes_extents_of_an_inline_file);
    tcase_add_test(t, whoever_waits_when_the_session_ends_is_told);
    tcase_add_test(t, a_quiesce_ends_with_the_session_though_stripes_are_on_their_way);
    tcase_add_test(t, outline_beside_the_commit_of_inline_content_makes_extents);
    tcase_add_test(t, flush_all_covers_many_files);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
