#include "fuse/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "fuse/arena_sift.h"
#include "fuse/fuseloop.h"
#include "fuse/holder.h"
#include "fuse/itable.h"
#include "fuse/lifeline.h"
#include "fuse/mountid.h"
#include "fuse/opening.h"
#include "fuse/ops.h"
#include "fuse/reader.h"
#include "fuse/tables.h"
#include "fuse/writer.h"
#include "meta.pb-c.h"
#include "rpc/limit.h"
#include "rpc/tcp.h"

/* The life of a worker:
 *
 *   first of its mount    open the session; fetch the tables; "ready"; the holder mounts; serve
 *   a later one           resume the session; take over handles, dirty pages, then send again, in
 * ascending order of their numbers, the commits and the requests that had one; execute the other
 * requests; serve upgrade (SIGUSR1)     stop reading; wait until nothing is being answered, at most
 * 1 s; exit unmounted (ENODEV)    flush all that is dirty; close the session; note "drained"; exit.
 * The holder goes too.
 *
 * Being killed is always fine, so nothing here tidies up before exit. */
enum {
    WORKER_HAND_OVER_MS = 1000,
    WORKER_POLL_MS = 5,
    WORKER_CLOSE_MS = 10000,
    WORKER_RETRY_MS = 1000,
    WORKER_FLUSH_TRIES = 10, /* of a flush that fails for good (no space, -o deadline): then the
                                bytes are given up */
    WORKER_TICKETS_MAX = 1024,
    WORKER_BAD_MAX = 64
};

struct worker {
    uv_loop_t uv;
    struct lifeline *life;
    struct timers timers;
    struct tcp_clock *clock;
    struct databuf_pool *payloads;
    struct client client;
    struct fuseloop *loop;
    bool serving;
    uint64_t memory_bytes;
    /* the end */
    struct timer end;
    uint64_t end_by_ms;
    struct writer_wait flushed;
    unsigned flush_tries;
    bool ending;
    /* filled for each renewal */
    uint64_t tickets[WORKER_TICKETS_MAX];
    Cfs__BadFragment bad[WORKER_BAD_MAX];
    Cfs__BadFragment *bad_list[WORKER_BAD_MAX];
};

static uint64_t number_option(struct arena *a, const char *key, uint64_t otherwise)
{
    char text[32];
    return arena_option(a, key, text, sizeof text) ? strtoull(text, NULL, 10) : otherwise;
}

static uint64_t resident_bytes(void)
{
    char text[128] = "";
    unsigned long long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);
        text[n > 0 ? n : 0] = 0;
        close(fd);
        (void)sscanf(text, "%*u %llu", &pages);
    }
    return pages * 4096;
}

/* --- events of the session -----------------------------------------------------------------------
 */

static void on_state(struct session *s, void *ctx)
{
    struct worker *w = ctx;
    if (session_ended(s)) {
        log_error("session ended by the server: what is open or dirty is lost session=%llu",
                  (unsigned long long)session_id(s));
        if (w->client.ops) {
            ops_session_ended(w->client.ops);
        }
        if (w->client.writer) { /* no answer may come that tells it: servers may be away, too */
            writer_session_ended(w->client.writer);
        }
        return;
    }
    log_info("session connected=%d suspended=%d server=%s", session_connected(s),
             session_suspended(s), session_address(s));
}

static void fetched(void *ctx, int rc)
{
    (void)ctx;
    if (rc != 0) {
        log_warn("tables not fetched error=%s", err_name(rc));
    }
}

static void lock_granted(struct worker *w, struct bytes body)
{
    Cfs__LockGranted *m = cfs__lock_granted__unpack(NULL, body.len, body.data);
    if (m) {
        ops_lock_granted(w->client.ops, m->ticket);
        cfs__lock_granted__free_unpacked(m, NULL);
    }
}

static void on_event(struct session *s, uint16_t method, struct bytes body, void *ctx)
{
    (void)s;
    struct worker *w = ctx;
    if (method == EVENT_LOCK_GRANTED && w->client.ops) {
        lock_granted(w, body);
    } else if (method == EVENT_TABLES) {
        tables_fetch(w->client.tables, fetched, w);
    }
}

static size_t fill_bad(struct worker *w)
{
    struct bad_fragment found[WORKER_BAD_MAX];
    unsigned n = reader_bad_fragments(w->client.reader, found, WORKER_BAD_MAX);
    for (unsigned i = 0; i < n; i++) {
        cfs__bad_fragment__init(&w->bad[i]);
        w->bad[i].pg = found[i].pg;
        w->bad[i].stripe = found[i].stripe;
        w->bad[i].slot = found[i].slot;
        w->bad[i].server = found[i].server;
        w->bad[i].what = found[i].what;
        w->bad_list[i] = &w->bad[i];
    }
    return n;
}

static void on_renew_fill(struct session *s, Cfs__SessionRenew *m, void *ctx)
{
    (void)s;
    struct worker *w = ctx;
    const struct client *c = &w->client;
    uint64_t dirty = writer_total_dirty(c->writer);
    uint64_t buffer = (uint64_t)c->arena->h->sizes.pages * ARENA_PAGE_BYTES;
    m->has_want_credit = m->has_dirty_bytes = m->has_memory_bytes = m->has_memory_limit = 1;
    m->want_credit = (dirty + 4 * buffer) * (c->policy.m + 1);
    m->dirty_bytes = dirty;
    m->memory_bytes = resident_bytes();
    m->memory_limit = w->memory_bytes;
    m->has_tables_version = 1;
    m->tables_version = tables_version(c->tables);
    m->n_bad = fill_bad(w);
    m->bad = w->bad_list;
    if (c->ops) {
        m->n_waiting_ticket = ops_waiting_tickets(c->ops, w->tickets, WORKER_TICKETS_MAX);
        m->waiting_ticket = w->tickets;
    }
}

static void on_renewed(struct session *s, const Cfs__SessionRenewReply *reply, void *ctx)
{
    (void)s;
    struct worker *w = ctx;
    writer_credit(w->client.writer, reply->credit);
    if (reply->tables_version != tables_version(w->client.tables)) {
        tables_fetch(w->client.tables, fetched, w);
    }
    for (size_t i = 0; i < reply->n_granted_ticket && w->client.ops; i++) {
        ops_lock_granted(w->client.ops, reply->granted_ticket[i]);
    }
}

static void on_late(struct session *s, uint64_t seq, void *ctx)
{
    (void)s;
    struct worker *w = ctx;
    if (w->client.ops) {
        ops_late(w->client.ops, seq);
    }
}

static const struct session_events SESSION_EVENTS = {.on_state = on_state,
                                                     .on_event = on_event,
                                                     .on_renew_fill = on_renew_fill,
                                                     .on_renewed = on_renewed,
                                                     .on_late = on_late};

/* --- the end -------------------------------------------------------------------------------------
 */

static void end_in(struct worker *w, uint64_t ms, void (*on_due)(struct timer *t))
{
    w->end.on_due = on_due;
    timers_arm(&w->timers, &w->end, timers_now(&w->timers) + ms);
}

/* Only when the session is over: else this file, once it is no longer locked, proves to the next
 * mount that we are dead. Its name is random and never used again, so nobody can have taken another
 * for it. */
static void remove_client_file(const struct arena *a)
{
    char path[4096];
    if (arena_option(a, "client_file", path, sizeof path)) {
        unlink(path);
    }
}

/* Who buries us after a kill -9 of both processes then knows what to end. */
static void note_session(const struct arena *a)
{
    char path[4096];
    int fd = arena_option(a, "client_file", path, sizeof path)
                 ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC)
                 : -1;
    if (fd >= 0) {
        dprintf(fd, "%llu\n", (unsigned long long)a->h->session);
        close(fd);
    }
}

static void drained(struct worker *w, bool over)
{
    struct arena *a = w->client.arena;
    if (a->h->bytes_lost) {
        log_error("unmounted, bytes lost bytes=%llu", (unsigned long long)a->h->bytes_lost);
    }
    if (over) {
        remove_client_file(a);
    }
    arena_publish32(&a->h->state, HOLDER_DRAINED);
    _exit(0);
}

static void on_session_closed(struct session *s, int rc, void *ctx);

static void on_close_due(struct timer *t)
{
    struct worker *w = container_of(t, struct worker, end);
    struct session *s = w->client.session;
    if (session_ended(s)) {
        drained(w, true);
    }
    if (session_outstanding(s) > 0 && timers_now(&w->timers) < w->end_by_ms) {
        end_in(w, WORKER_POLL_MS, on_close_due);
        return;
    }
    session_close(s, WORKER_CLOSE_MS, on_session_closed, w);
}

/* A server that is not there: with nothing dirty left, the session may end by itself, too. */
static void on_session_closed(struct session *s, int rc, void *ctx)
{
    (void)s;
    struct worker *w = ctx;
    if (rc != 0) {
        log_warn("session not closed, it ends by its lease error=%s", err_name(rc));
    }
    drained(w, rc == 0);
}

static void flush_again(struct timer *t);

static void on_flushed(struct writer_wait *wait, int rc)
{
    struct worker *w = container_of(wait, struct worker, flushed);
    uint64_t dirty = writer_total_dirty(w->client.writer);
    if (session_ended(w->client.session)) {
        w->client.arena->h->bytes_lost += dirty;
        drained(w, true);
    }
    if (rc != 0 && dirty > 0 && ++w->flush_tries < WORKER_FLUSH_TRIES) {
        log_warn("flush at unmount failed, trying again error=%s dirty=%llu", err_name(rc),
                 (unsigned long long)dirty);
        end_in(w, WORKER_RETRY_MS, flush_again);
        return;
    }
    w->client.arena->h->bytes_lost += dirty;
    w->end_by_ms = timers_now(&w->timers) + WORKER_CLOSE_MS;
    end_in(w, 0, on_close_due);
}

static void flush_again(struct timer *t)
{
    struct worker *w = container_of(t, struct worker, end);
    w->flushed = (struct writer_wait){.on_done = on_flushed};
    list_init(&w->flushed.node);
    writer_flush_all(w->client.writer, &w->flushed);
}

/* After `umount -f` of a busy mount, or an abort, the kernel has ended our connection for good but
 * the mount still lies there: nobody can use it, and it would hide the next one. */
static void detach_dead_mount(struct arena *a)
{
    char where[4096];
    uint64_t id = number_option(a, "mount_id", 0);
    if (arena_option(a, "mount_point", where, sizeof where) && mountid_detach(where, id) == 0) {
        log_info("ended by force though busy, the mount is taken away mount_point=%s", where);
    }
}

static void on_unmounted(void *ctx)
{
    struct worker *w = ctx;
    detach_dead_mount(w->client.arena);
    if (w->ending) {
        timers_stop(&w->timers, &w->end); /* it was about to hand over */
    }
    w->ending = true;
    log_info("unmounted, draining dirty=%llu",
             (unsigned long long)writer_total_dirty(w->client.writer));
    arena_publish32(&w->client.arena->h->state, HOLDER_DRAINING);
    end_in(w, 0, flush_again);
}

static void on_hand_over_due(struct timer *t)
{
    struct worker *w = container_of(t, struct worker, end);
    if (fuseloop_waiting(w->loop) == 0 || timers_now(&w->timers) >= w->end_by_ms) {
        _exit(0);
    }
    end_in(w, WORKER_POLL_MS, on_hand_over_due);
}

static void on_hand_over(void *ctx)
{
    struct worker *w = ctx;
    if (w->ending) {
        return;
    }
    w->ending = true;
    if (w->loop) {
        fuseloop_stop(w->loop);
        w->end_by_ms = timers_now(&w->timers) + WORKER_HAND_OVER_MS;
        end_in(w, 0, on_hand_over_due);
    }
}

static void on_orphan_closed(struct session *s, int rc, void *ctx)
{
    (void)s;
    struct worker *w = ctx;
    if (rc == 0) {
        remove_client_file(w->client.arena);
    }
    _exit(0);
}

static void on_orphaned(void *ctx)
{
    struct worker *w = ctx;
    if (w->client.arena->h->session == 0) {
        _exit(0);
    }
    session_close(w->client.session, 2000, on_orphan_closed, w);
}

/* --- the beginning -------------------------------------------------------------------------------
 */

static void on_answered(void *ctx, uint64_t seq)
{
    struct worker *w = ctx;
    session_release_seq(w->client.session, seq);
}

static void start_serving(void *ctx)
{
    struct worker *w = ctx;
    int rc = fuseloop_start(w->loop);
    if (rc < 0) {
        log_error("requests cannot be read error=%s", err_name(rc));
        _exit(1);
    }
    w->serving = true;
}

static int build_loop(struct worker *w)
{
    size_t bytes;
    const struct fuse_lowlevel_ops *ops = ops_table(&bytes);
    const struct fuseloop_options options = {.uv = &w->uv,
                                             .client = &w->client,
                                             .dev_fd = lifeline_dev(w->life),
                                             .ops = ops,
                                             .ops_bytes = bytes,
                                             .on_answered = on_answered,
                                             .on_unmounted = on_unmounted,
                                             .ctx = w};
    int rc = fuseloop_new(&options, &w->loop);
    if (rc == 0) {
        w->client.ops = ops_new(&w->client, w->loop);
    }
    return rc;
}

static int compare_commits(const void *a, const void *b)
{
    uint64_t x = (*(struct arena_commit *const *)a)->seq,
             y = (*(struct arena_commit *const *)b)->seq;
    return x < y ? -1 : x > y;
}

static size_t gather_commits(struct arena *a, struct arena_commit **out)
{
    size_t n = 0;
    for (uint32_t i = 0; i < a->h->sizes.commits; i++) {
        if (a->commit[i].seq != 0) {
            out[n++] = &a->commit[i];
        }
    }
    qsort(out, n, sizeof out[0], compare_commits);
    return n;
}

/* Two ascending sequences, merged; then what never had a number. */
static void replay(struct worker *w)
{
    struct client *c = &w->client;
    struct arena_commit **commit =
        xcalloc(c->arena->h->sizes.commits, sizeof(struct arena_commit *));
    size_t n = gather_commits(c->arena, commit), i = 0, requests = 0;
    struct opreq *r = fuseloop_take_next(w->loop);
    while (i < n || (r && opreq_seq(r) != 0)) {
        if (i < n && (!r || opreq_seq(r) == 0 || commit[i]->seq < opreq_seq(r))) {
            session_submit(c->session, writer_repeat_commit(c->writer, commit[i++]));
        } else {
            fuseloop_execute(w->loop, r);
            r = fuseloop_take_next(w->loop);
            requests++;
        }
    }
    session_resume_done(c->session);
    for (; r; r = fuseloop_take_next(w->loop), requests++) {
        fuseloop_execute(w->loop, r);
    }
    free(commit);
    log_info("took over session=%llu requests=%zu commits=%zu dirty=%llu",
             (unsigned long long)session_id(c->session), requests, n,
             (unsigned long long)writer_total_dirty(c->writer));
}

static void go_on(struct worker *w)
{
    struct client *c = &w->client;
    struct arena_header *h = c->arena->h;
    opening_recall_policy(c);
    session_resume(c->session, h->session, h->next_seq);
    tables_fetch(c->tables, fetched, w);
    int rc = build_loop(w);
    if (rc < 0) {
        log_error("requests cannot be taken over error=%s", err_name(rc));
        _exit(1);
    }
    ops_rebuild(c->ops);
    writer_rebuild(c->writer);
    replay(w);
    start_serving(w);
}

static void fail_mount(struct worker *w, int rc, const char *text)
{
    (void)rc;
    lifeline_say_failed(w->life, HOLDER_EXIT_MOUNT, text);
    _exit(HOLDER_EXIT_MOUNT);
}

static void on_first_tables(void *ctx, int rc)
{
    struct worker *w = ctx;
    if (rc == 0) {
        rc = build_loop(w);
    }
    if (rc < 0) {
        fail_mount(w, rc, err_text(rc));
    }
    lifeline_say_ready(w->life);
}

static void on_opened(void *ctx, int rc, const char *text)
{
    struct worker *w = ctx;
    if (rc != 0) {
        fail_mount(w, rc, text);
    }
    note_session(w->client.arena);
    tables_fetch(w->client.tables, on_first_tables, w);
}

/* A payload buffer holds one fragment; a decode needs k of them at once. */
static unsigned payload_count(uint64_t heap_bytes)
{
    uint64_t n = heap_bytes / 4 / FRAME_PAYLOAD_MAX;
    return n < 8 ? 8 : n > 64 ? 64 : (unsigned)n;
}

static void build_client(struct worker *w)
{
    struct client *c = &w->client;
    static char addresses[2048];
    char text[16];
    uint64_t heap = number_option(c->arena, "heap", 128u << 20);
    unsigned payloads = payload_count(heap);
    w->memory_bytes = number_option(c->arena, "memory", 0);
    w->payloads = databuf_pool_new(FRAME_PAYLOAD_MAX, payloads);
    c->timers = &w->timers;
    c->transport = tcp_new(&w->uv, &w->timers, w->payloads);
    c->heap_limit_bytes = heap - (uint64_t)payloads * FRAME_PAYLOAD_MAX;
    c->deadline_ms = (uint32_t)number_option(c->arena, "deadline_ms", 0);
    c->read_only = arena_option(c->arena, "ro", text, sizeof text) != NULL;
    (void)arena_option(c->arena, "addresses", addresses, sizeof addresses);
    const struct session_options options = {
        .addresses = addresses, .deadline_ms = c->deadline_ms, .events = &SESSION_EVENTS, .ctx = w};
    c->session = session_new(c->transport, &options);
    c->tables = tables_new(c);
    c->itable = itable_new(c, c->heap_limit_bytes / 2);
    c->writer = writer_new(c);
    c->reader = reader_new(c);
}

int worker_run(void)
{
    struct worker *w = xcalloc(1, sizeof *w);
    const struct lifeline_events events = {.on_mounted = start_serving,
                                           .on_orphaned = on_orphaned,
                                           .on_hand_over = on_hand_over,
                                           .ctx = w};
    uint64_t begun_us = clock_now_us();
    int rc = lifeline_new(&events, &w->life);
    if (rc < 0) {
        log_error("arena not usable error=%s", err_name(rc));
        return HOLDER_EXIT_SYSTEM;
    }
    w->client.arena = lifeline_arena(w->life);
    if (arena_sift(w->client.arena) < 0) {
        return HOLDER_EXIT_SYSTEM;
    }
    limit_raise(); /* three descriptors a chunk server */
    CHECK(uv_loop_init(&w->uv) == 0);
    timers_init(&w->timers, clock_now_ms());
    w->clock = tcp_clock_start(&w->uv, &w->timers);
    CHECK(lifeline_start(w->life, &w->uv) == 0);
    build_client(w);
    if (w->client.arena->h->session != 0 && lifeline_mounted(w->life)) {
        go_on(w);
        log_info("worker serves after_us=%llu", (unsigned long long)(clock_now_us() - begun_us));
    } else {
        opening_start(&w->client, on_opened, w);
    }
    return uv_run(&w->uv, UV_RUN_DEFAULT);
}
