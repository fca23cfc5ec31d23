#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "test/lib/fake_cluster.h"

/* Reads from a cluster whose servers die, lie and linger. Files are written by one worker and read
 * by another that knows nothing. */
enum { MIB = 1 << 20, PAGES = 4096, CACHE = 16 << 20, BYTES_ALL = 10 * MIB + 12345 };

struct rig {
    struct cluster *cl;
    struct arena *arena, *arena2;
    struct fake_worker *w;
    uint64_t ino, small;
};

static void second_worker(struct rig *g, uint64_t cache)
{
    const uint64_t session = g->arena->h->session, next = g->arena->h->next_seq;
    worker_stop(g->w);
    cluster_arena_free(g->arena2);
    g->arena2 = cluster_arena_new(PAGES, cache);
    g->arena2->h->session = session;
    g->arena2->h->next_seq = next;
    g->w = worker_start(g->cl, g->arena2);
}

static void put(struct rig *g, uint64_t ino, uint64_t offset, size_t len, uint64_t version)
{
    uint8_t *data = malloc(len);
    cluster_fill(data, offset, len, version);
    for (size_t at = 0; at < len; at += MIB) {
        const size_t n = len - at < MIB ? len - at : MIB;
        ck_assert_int_eq(worker_write(g->w, ino, offset + at, data + at, n), 0);
    }
    free(data);
    ck_assert_int_eq(worker_flush(g->w, ino), 0);
}

/* A large file in RS stripes, a small one in copies; then a worker that has cached nothing. */
static struct rig rig_with_cache(uint64_t seed, uint64_t cache)
{
    struct rig g = {.cl = cluster_new(seed)};
    g.ino = cluster_create(g.cl, "large");
    g.small = cluster_create(g.cl, "small");
    g.arena = cluster_arena_new(PAGES, CACHE);
    g.w = worker_start(g.cl, g.arena);
    put(&g, g.ino, 0, BYTES_ALL, 1);
    put(&g, g.small, 0, 30000, 2);
    second_worker(&g, cache);
    return g;
}

static struct rig rig_new(uint64_t seed)
{
    return rig_with_cache(seed, CACHE);
}

static void rig_free(struct rig *g)
{
    cluster_free(g->cl);
    cluster_arena_free(g->arena);
    cluster_arena_free(g->arena2);
}

static void check_range(struct rig *g, uint64_t ino, uint64_t offset, size_t len, uint64_t version)
{
    uint8_t *want = malloc(len), *got = malloc(len);
    cluster_fill(want, offset, len, version);
    for (size_t at = 0; at < len; at += MIB) {
        const size_t n = len - at < MIB ? len - at : MIB;
        ck_assert_int_eq(worker_read(g->w, ino, offset + at, got + at, (uint32_t)n), (int)n);
    }
    ck_assert(memcmp(want, got, len) == 0);
    free(want);
    free(got);
}

static void check_all(struct rig *g)
{
    check_range(g, g->ino, 0, BYTES_ALL, 1);
    check_range(g, g->small, 0, 30000, 2);
}

static uint64_t gets(const struct rig *g)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        n += g->cl->chunk[i].gets;
    }
    return n;
}

START_TEST(a_second_read_comes_from_the_cache)
{
    struct rig g = rig_new(1);
    check_range(&g, g.ino, 100000, 4096, 1);
    const uint64_t before = gets(&g);
    ck_assert_uint_eq(before, 1);
    check_range(&g, g.ino, 102000, 4096, 1);
    ck_assert_uint_eq(gets(&g), before);
    ck_assert_uint_eq(g.cl->extents_reads, 1);
    rig_free(&g);
}
END_TEST

START_TEST(reads_end_where_the_file_ends)
{
    struct rig g = rig_new(2);
    uint8_t *got = malloc(MIB);
    ck_assert_int_eq(worker_read(g.w, g.ino, BYTES_ALL - 10, got, 4096), 10);
    ck_assert_int_eq(worker_read(g.w, g.ino, BYTES_ALL, got, 4096), 0);
    ck_assert_int_eq(worker_read(g.w, g.ino, BYTES_ALL + 5 * MIB, got, 4096), 0);
    free(got);
    rig_free(&g);
}
END_TEST

START_TEST(any_two_dead_servers_are_decoded_around)
{
    for (unsigned a = 0; a < CLUSTER_CHUNKS; a++) {
        struct rig g = rig_new(3 + a);
        cluster_kill(g.cl, a);
        cluster_kill(g.cl, (a + 1 + a % 3) % CLUSTER_CHUNKS);
        const uint64_t before = g.cl->timers.now_ms;
        check_all(&g);
        ck_assert_uint_lt(g.cl->timers.now_ms - before, 2000);
        rig_free(&g);
    }
}
END_TEST

START_TEST(a_flipped_byte_is_found_decoded_and_reported)
{
    struct rig g = rig_new(10);
    g.cl->chunk[2].corrupt = true;
    check_all(&g);
    struct bad_fragment bad[64];
    const unsigned n = reader_bad_fragments(g.w->client.reader, bad, 64);
    ck_assert_uint_gt(n, 0);
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_eq(bad[i].server, 3);
        ck_assert_uint_eq(bad[i].what, 2);
    }
    ck_assert_uint_eq(reader_bad_fragments(g.w->client.reader, bad, 64), 0);
    rig_free(&g);
}
END_TEST

START_TEST(missing_fragments_are_decoded_and_reported)
{
    struct rig g = rig_new(11);
    g.cl->chunk[0].lose = true;
    g.cl->chunk[1].lose = true;
    check_all(&g);
    struct bad_fragment bad[64];
    ck_assert_uint_gt(reader_bad_fragments(g.w->client.reader, bad, 64), 1);
    ck_assert_uint_eq(bad[0].what, 1);
    rig_free(&g);
}
END_TEST

START_TEST(more_missing_than_the_code_stands_is_eio_soon)
{
    struct rig g = rig_new(12);
    for (unsigned i = 0; i < 3; i++) {
        g.cl->chunk[i].lose = true;
    }
    uint8_t got[4096];
    const uint64_t before = g.cl->timers.now_ms;
    ck_assert_int_eq(worker_read(g.w, g.ino, 0, got, 4096), -EIO);
    ck_assert_uint_lt(g.cl->timers.now_ms - before, 2000);
    ck_assert_uint_ge(g.cl->extents_reads, 2); /* asked again before it was called lost */
    g.cl->chunk[1].lose = false;
    check_all(&g);
    rig_free(&g);
}
END_TEST

START_TEST(three_dead_servers_are_eio_after_the_deadline_and_recover)
{
    struct rig g = rig_new(13);
    for (unsigned i = 0; i < 3; i++) {
        cluster_kill(g.cl, i);
    }
    uint8_t got[4096];
    const uint64_t before = g.cl->timers.now_ms;
    ck_assert_int_eq(worker_read(g.w, g.ino, 0, got, 4096), -EIO);
    ck_assert_uint_ge(g.cl->timers.now_ms - before, READER_LOST_MS);
    ck_assert_uint_lt(g.cl->timers.now_ms - before, READER_LOST_MS + 4000);
    cluster_revive(g.cl, 2);
    cluster_run(g.cl, 2000);
    check_all(&g);
    rig_free(&g);
}
END_TEST

START_TEST(a_read_waits_for_a_server_that_is_back_in_time)
{
    struct rig g = rig_new(14);
    for (unsigned i = 0; i < 3; i++) {
        cluster_kill(g.cl, i);
    }
    uint8_t got[4096], want[4096];
    cluster_run(g.cl, 1000);
    cluster_revive(g.cl, 0);
    ck_assert_int_eq(worker_read(g.w, g.ino, 0, got, 4096), 4096);
    cluster_fill(want, 0, 4096, 1);
    ck_assert_mem_eq(got, want, 4096);
    rig_free(&g);
}
END_TEST

START_TEST(a_slow_server_is_hedged)
{
    struct rig g = rig_new(15);
    check_range(&g, g.ino, 0, 2 * MIB, 1);
    g.cl->chunk[3].get_delay_ms = 2000;
    const uint64_t before = g.cl->timers.now_ms;
    check_range(&g, g.ino, 4 * MIB, 4 * MIB, 1);
    ck_assert_uint_lt(g.cl->timers.now_ms - before, 500);
    rig_free(&g);
}
END_TEST

START_TEST(a_silent_server_costs_no_more_than_a_hedge)
{
    struct rig g = rig_new(16);
    check_range(&g, g.ino, 0, 4096, 1);
    g.cl->chunk[1].silent = true;
    g.cl->chunk[4].silent = true;
    const uint64_t before = g.cl->timers.now_ms;
    check_all(&g);
    ck_assert_uint_lt(g.cl->timers.now_ms - before, 4000);
    cluster_run(g.cl, 4000);
    rig_free(&g);
}
END_TEST

START_TEST(copies_are_read_from_whoever_has_one)
{
    struct rig g = rig_new(17);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        g.cl->chunk[i].corrupt = i % 2 == 0;
        g.cl->chunk[i].lose = i == 1;
    }
    check_range(&g, g.small, 0, 30000, 2);
    rig_free(&g);
}
END_TEST

START_TEST(holes_are_zero_and_found_by_seek)
{
    struct rig g = rig_new(18);
    put(&g, g.ino, 20 * MIB, 100000, 3);
    second_worker(&g, CACHE);
    uint8_t *got = malloc(MIB);
    ck_assert_int_eq(worker_read(g.w, g.ino, 15 * MIB, got, MIB), MIB);
    for (unsigned i = 0; i < MIB; i++) {
        ck_assert_uint_eq(got[i], 0);
    }
    free(got);
    check_range(&g, g.ino, 20 * MIB, 100000, 3);
    uint64_t at;
    ck_assert_int_eq(worker_seek(g.w, g.ino, 0, true, &at), 0);
    ck_assert_uint_eq(at, BYTES_ALL);
    ck_assert_int_eq(worker_seek(g.w, g.ino, BYTES_ALL, false, &at), 0);
    ck_assert_uint_eq(at, 20 * MIB);
    ck_assert_int_eq(worker_seek(g.w, g.ino, 5, false, &at), 0);
    ck_assert_uint_eq(at, 5);
    ck_assert_int_eq(worker_seek(g.w, g.ino, 20 * MIB, true, &at), 0);
    ck_assert_uint_eq(at, 20 * MIB + 100000);
    ck_assert_int_eq(worker_seek(g.w, g.ino, 20 * MIB + 100000, false, &at), -ENXIO);
    uint8_t x = 1;
    ck_assert_int_eq(worker_write(g.w, g.ino, 18 * MIB, &x, 1), 0);
    ck_assert_int_eq(worker_seek(g.w, g.ino, 15 * MIB, false, &at), 0);
    ck_assert_uint_eq(at, 18 * MIB);
    rig_free(&g);
}
END_TEST

START_TEST(a_sequential_reader_is_read_ahead_of)
{
    struct rig g = rig_new(19);
    check_range(&g, g.ino, 0, 4 * MIB, 1);
    cluster_run(g.cl, 100);
    const uint64_t before = gets(&g);
    check_range(&g, g.ino, 4 * MIB, 2 * MIB, 1);
    const struct inode *in = worker_inode(g.w, g.ino);
    ck_assert_uint_ge(in->read_ahead_to, 8 * MIB);
    ck_assert_uint_le(gets(&g) - before, 12);
    rig_free(&g);
}
END_TEST

enum { MANY = 60 };
struct many {
    struct read_request rr;
    struct rig *g;
    bool done;
};

static void many_done(struct read_request *rr)
{
    struct many *m = container_of(rr, struct many, rr);
    ck_assert_int_eq(rr->rc, 0);
    uint8_t *want = malloc(rr->bytes);
    cluster_fill(want, rr->offset, rr->bytes, 1);
    size_t at = 0;
    for (unsigned i = 0; i < rr->n_iov; i++) {
        ck_assert(memcmp(rr->iov[i].iov_base, want + at, rr->iov[i].iov_len) == 0);
        at += rr->iov[i].iov_len;
    }
    ck_assert_uint_eq(at, rr->bytes);
    free(want);
    m->done = true;
    reader_finish(m->g->w->client.reader, rr);
}

/* Many at once, a cache that holds a fraction of what they want, a server down. */
START_TEST(many_reads_share_a_small_cache)
{
    for (uint64_t seed = 20; seed < 24; seed++) {
        struct rig g = rig_with_cache(seed, 2 * MIB);
        struct many *m = calloc(MANY, sizeof *m);
        struct prng p;
        prng_seed(&p, seed);
        cluster_kill(g.cl, (unsigned)seed % CLUSTER_CHUNKS);
        struct inode *in = worker_inode(g.w, g.ino);
        for (unsigned i = 0; i < MANY; i++) {
            m[i].g = &g;
            m[i].rr = (struct read_request){.inode = in,
                                            .offset = prng_below(&p, BYTES_ALL - MIB),
                                            .length = 1 + (uint32_t)prng_below(&p, 400000),
                                            .on_done = many_done};
            reader_start(g.w->client.reader, &m[i].rr);
        }
        for (unsigned i = 0; i < MANY; i++) {
            ck_assert(cluster_run_flag(g.cl, &m[i].done, 60000));
        }
        free(m);
        check_all(&g);
        rig_free(&g);
    }
}
END_TEST

static void ignore_done(struct read_request *rr)
{
    (void)rr;
}

START_TEST(a_cancelled_read_leaves_nothing_pinned)
{
    struct rig g = rig_with_cache(25, 2 * MIB);
    for (unsigned i = 0; i < 200; i++) {
        struct read_request rr = {.inode = worker_inode(g.w, g.ino),
                                  .offset = i * 40000,
                                  .length = 300000,
                                  .on_done = ignore_done};
        reader_start(g.w->client.reader, &rr);
        cluster_run(g.cl, i % 3);
        reader_finish(g.w->client.reader, &rr);
    }
    check_all(&g);
    rig_free(&g);
}
END_TEST

/* Reads while the same pages are written, committed, evicted: never an older byte. */
START_TEST(reads_among_overwrites_see_the_newest_bytes)
{
    struct rig g = {.cl = cluster_new(30)};
    g.ino = cluster_create(g.cl, "f");
    g.arena = cluster_arena_new(1200, 2 * MIB);
    g.w = worker_start(g.cl, g.arena);
    uint8_t *model = calloc(1, 8 * MIB), *got = calloc(1, MIB);
    struct prng p;
    prng_seed(&p, 30);
    size_t size = 0;
    for (unsigned i = 0; i < 500; i++) {
        const uint64_t at = prng_below(&p, 7 * MIB);
        const size_t len = 1 + prng_below(&p, 200000);
        cluster_fill(model + at, at, len, i);
        ck_assert_int_eq(worker_write(g.w, g.ino, at, model + at, len), 0);
        size = at + len > size ? at + len : size;
        const uint64_t from = prng_below(&p, size);
        const size_t want = size - from < 150000 ? size - from : 150000;
        ck_assert_int_eq(worker_read(g.w, g.ino, from, got, (uint32_t)want), (int)want);
        ck_assert(memcmp(got, model + from, want) == 0);
    }
    free(model);
    free(got);
    rig_free(&g);
}
END_TEST

/* The read has planned with the old extents; the page that lay over them is committed and dropped
 * before the old fragments arrive. */
START_TEST(a_page_dropped_during_a_read_is_not_missed)
{
    struct rig g = rig_new(40);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        g.cl->chunk[i].get_delay_ms = 1000;
    }
    struct inode *in = worker_inode(g.w, g.ino);
    struct many m = {.rr = {.inode = in, .length = 4096, .on_done = ignore_done}};
    reader_start(g.w->client.reader, &m.rr);
    cluster_run(g.cl, 50);
    uint8_t data[4096];
    cluster_fill(data, 0, sizeof data, 99);
    ck_assert_int_eq(worker_write(g.w, g.ino, 0, data, sizeof data), 0);
    ck_assert_int_eq(worker_flush(g.w, g.ino), 0);
    writer_drop_clean(g.w->client.writer, in, 0, UINT64_MAX);
    cluster_run(g.cl, 5000);
    ck_assert_int_eq(m.rr.rc, 0);
    ck_assert_uint_eq(m.rr.bytes, 4096);
    ck_assert_mem_eq(m.rr.iov[0].iov_base, data, 4096);
    reader_finish(g.w->client.reader, &m.rr);
    rig_free(&g);
}
END_TEST

/* Each get of a buffer is refused once: in the client, then in a chunk server's place. */
START_TEST(any_buffer_may_be_refused)
{
    unsigned n = 1;
    bool refused = true;
    for (; refused && n < 500; n++) {
        struct rig g = rig_new(40);
        cluster_kill(g.cl, n % CLUSTER_CHUNKS); /* so that more is fetched, and decoded */
        databuf_pool_refuse_at(g.w->payloads, n);
        check_range(&g, g.ino, 0, 3 * MIB + 77, 1);
        refused = databuf_pool_refused(g.w->payloads);
        rig_free(&g);
    }
    ck_assert_uint_gt(n, 1);
    ck_assert(!refused);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("reader");
    TCase *t = tcase_create("reader");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_second_read_comes_from_the_cache);
    tcase_add_test(t, reads_end_where_the_file_ends);
    tcase_add_test(t, any_two_dead_servers_are_decoded_around);
    tcase_add_test(t, a_flipped_byte_is_found_decoded_and_reported);
    tcase_add_test(t, missing_fragments_are_decoded_and_reported);
    tcase_add_test(t, more_missing_than_the_code_stands_is_eio_soon);
    tcase_add_test(t, three_dead_servers_are_eio_after_the_deadline_and_recover);
    tcase_add_test(t, a_read_waits_for_a_server_that_is_back_in_time);
    tcase_add_test(t, a_slow_server_is_hedged);
    tcase_add_test(t, a_silent_server_costs_no_more_than_a_hedge);
    tcase_add_test(t, copies_are_read_from_whoever_has_one);
    tcase_add_test(t, holes_are_zero_and_found_by_seek);
    tcase_add_test(t, a_sequential_reader_is_read_ahead_of);
    tcase_add_test(t, many_reads_share_a_small_cache);
    tcase_add_test(t, a_cancelled_read_leaves_nothing_pinned);
    tcase_add_test(t, reads_among_overwrites_see_the_newest_bytes);
    tcase_add_test(t, a_page_dropped_during_a_read_is_not_missed);
    tcase_add_test(t, any_buffer_may_be_refused);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
