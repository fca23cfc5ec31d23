#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuse/arena_sift.h"
#include "test/lib/fake_cluster.h"

/* The worker dies at every publish, before or after the store by turns. What survives is a copy of
 * the arena; the dead one goes on running, cut off from everybody. A new worker rebuilds itself
 * from the copy, the write that was being executed is executed again (fuseloop does that), the rest
 * of the script follows, and at the end a worker on an empty arena must read every byte that was
 * acknowledged.
 *
 * arena_publish* of fuse/arena.c is replaced here; so nothing of that file may be linked. */
enum { MIB = 1 << 20, PAGES = 2048, CACHE = 8 << 20, FILE_MAX = 6 << 20, STEPS = 14 };

static struct {
    bool armed, dead;
    unsigned long count, die_at;
    struct arena *live, *copy;
    struct fake_worker *worker;
} killer;

static void publish_seen(bool after)
{
    if (!killer.armed || killer.dead) {
        return;
    }
    if (!after) {
        killer.count++;
    }
    const bool store_first = killer.count % 2 == 0;
    if (killer.count == killer.die_at && after == store_first) {
        killer.dead = true;
        killer.copy = cluster_arena_copy(killer.live);
        worker_cut(killer.worker);
    }
}

void arena_publish32(uint32_t *word, uint32_t value)
{
    publish_seen(false);
    *word = value;
    publish_seen(true);
}

void arena_publish64(uint64_t *word, uint64_t value)
{
    publish_seen(false);
    *word = value;
    publish_seen(true);
}

struct step {
    uint64_t offset;
    size_t len;
    bool flush;
    unsigned pause_ms;
};

/* Inline, outgrown, appended to, overwritten while in flight, streamed. */
static const struct step SCRIPT[STEPS] = {
    {.offset = 0, .len = 700, .flush = true},
    {.offset = 700, .len = 800},
    {.offset = 1500, .len = 9000, .pause_ms = 3},
    {.offset = 100, .len = 50, .flush = true},
    {.offset = 10500, .len = 3},
    {.offset = 10503, .len = 70000, .flush = true, .pause_ms = 1},
    {.offset = 20000, .len = 10},
    {.offset = 20005, .len = 4096, .pause_ms = 2},
    {.offset = 30000, .len = 100, .flush = true},
    {.offset = 80503, .len = MIB},
    {.offset = 80503 + MIB, .len = MIB, .pause_ms = 1},
    {.offset = 90000, .len = 5000},
    {.offset = 80503 + 2 * MIB, .len = MIB, .flush = true},
    {.offset = 5, .len = 20000, .pause_ms = 1},
};

struct world {
    struct cluster *cl;
    struct arena *arena;
    struct fake_worker *w;
    uint64_t ino;
    uint8_t *model;
    size_t size;
};

struct flushing {
    struct writer_wait wait;
    bool done;
};

static void flushed(struct writer_wait *wait, int rc)
{
    ck_assert_int_eq(rc, 0);
    container_of(wait, struct flushing, wait)->done = true;
}

/* Runs until the flush is over, or the worker is dead. */
static void flush(struct world *x)
{
    struct flushing f = {.wait = {.on_done = flushed}};
    writer_flush(x->w->client.writer, worker_inode(x->w, x->ino), &f.wait);
    for (unsigned i = 0; i < 60000 && !f.done && !killer.dead; i++) {
        cluster_run(x->cl, 1);
    }
    ck_assert(f.done || killer.dead);
    writer_wait_cancel(&f.wait);
}

/* One WRITE as the kernel would send it; false: the worker died meanwhile. */
static bool step_write(struct world *x, const struct step *s, uint64_t version)
{
    cluster_fill(x->model + s->offset, s->offset, s->len, version);
    x->size = s->offset + s->len > x->size ? s->offset + s->len : x->size;
    for (unsigned tries = 0; tries < 60000; tries++) {
        struct inode *in = worker_inode(x->w, x->ino);
        if (killer.dead) {
            return false;
        }
        const int rc = writer_write(x->w->client.writer, in, s->offset,
                                    BYTES(x->model + s->offset, s->len), 0);
        if (rc == 0 || killer.dead) {
            return !killer.dead;
        }
        ck_assert(rc == -EAGAIN || rc == -ENODATA);
        if (rc == -ENODATA) {
            in->attr_valid = false;
        }
        cluster_run(x->cl, 1);
    }
    ck_abort_msg("no room for ever");
    return false;
}

static void restart(struct world *x)
{
    /* The dead worker goes with its own arena; its last publishes are not ours. */
    struct fake_worker *dead = x->w;
    struct arena *old = x->arena;
    killer.armed = false;
    x->arena = killer.copy;
    killer.copy = NULL;
    ck_assert_int_eq(arena_sift(x->arena), 0); /* nothing that a worker wrote is taken for rubbish */
    killer.dead = false;
    worker_stop(dead);
    cluster_arena_free(old);
    x->w = worker_start(x->cl, x->arena);
    killer.worker = x->w;
    killer.live = x->arena;
}

static void check_all(struct world *x)
{
    struct arena *fresh = cluster_arena_new(PAGES, CACHE);
    fresh->h->session = x->arena->h->session;
    fresh->h->next_seq = x->arena->h->next_seq;
    worker_stop(x->w);
    x->w = worker_start(x->cl, fresh);
    uint8_t *got = malloc(FILE_MAX);
    size_t at = 0;
    int n;
    while ((n = worker_read(x->w, x->ino, at, got + at, 500000)) > 0) {
        at += (size_t)n;
    }
    ck_assert_int_eq(n, 0);
    ck_assert_uint_eq(at, x->size);
    for (size_t i = 0; i < at; i++) {
        if (got[i] != x->model[i]) {
            ck_abort_msg("killed at publish %lu: byte %zu differs", killer.die_at, i);
        }
    }
    free(got);
    worker_stop(x->w);
    cluster_arena_free(x->arena);
    x->arena = fresh;
}

/* Whether the worker died at all. */
static bool run_script(uint64_t seed, unsigned long die_at)
{
    struct world x = {.cl = cluster_new(seed), .model = calloc(1, FILE_MAX)};
    x.ino = cluster_create(x.cl, "file");
    x.arena = cluster_arena_new(PAGES, CACHE);
    memset(&killer, 0, sizeof killer);
    x.w = worker_start(x.cl, x.arena);
    killer.armed = true;
    killer.die_at = die_at;
    killer.live = x.arena;
    killer.worker = x.w;
    for (unsigned i = 0; i < STEPS; i++) {
        if (!step_write(&x, &SCRIPT[i], i + 1)) {
            restart(&x);
            ck_assert(step_write(&x, &SCRIPT[i], i + 1));
        }
        if (SCRIPT[i].flush) {
            flush(&x);
        }
        if (!killer.dead) {
            cluster_run(x.cl, SCRIPT[i].pause_ms);
        }
        if (killer.dead) {
            restart(&x);
        }
    }
    const bool died = !killer.armed;
    flush(&x);
    if (killer.dead) {
        restart(&x);
        flush(&x);
    }
    killer.armed = false;
    ck_assert_uint_eq(writer_total_dirty(x.w->client.writer), 0);
    for (uint32_t i = 0; i < x.arena->h->sizes.commits; i++) {
        ck_assert_uint_eq(x.arena->commit[i].seq, 0);
    }
    check_all(&x);
    cluster_free(x.cl);
    cluster_arena_free(x.arena);
    free(x.model);
    return died || killer.count >= killer.die_at;
}

START_TEST(no_byte_is_lost_at_any_publish)
{
    const char *from = getenv("CFS_KILL_FROM");
    unsigned long die_at = from == NULL ? 1 : strtoul(from, NULL, 10);
    /* Every publish of the first part, where the kinds of commits are; then every 37th of the
     * streams. */
    while (run_script(die_at, die_at)) {
        die_at += die_at < 150 ? 1 : 37;
    }
    ck_assert_uint_gt(die_at, 500);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("writer_kill");
    TCase *t = tcase_create("writer_kill");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, no_byte_is_lost_at_any_publish);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
