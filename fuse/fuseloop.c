#include "fuse/fuseloop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "fuse/loopstate.h"

/* The loop around /dev/fuse. One wake-up: up to REQUESTS_PER_WAKEUP times read a request into a big record, move it to
 * a small one if it fits, hand it to libfuse, which calls ops. An answer comes back through fuseio.c, now or later.
 * While no big record is free we do not poll: requests wait in the kernel, where their callers can still be killed. */

static void poll_update(struct fuseloop *f);

struct opreq *fuseloop_current(struct fuseloop *f)
{
    return f->current;
}

/* What is already past its third death by a fault while being executed is not tried a fourth time. */
static bool refuse_killer(struct fuseloop *f, struct opreq *r)
{
    if (*requests_deaths(r) < REQUEST_DEATHS_MAX) {
        return false;
    }
    log_error("request answered EIO, workers died executing it opcode=%u deaths=%u node=%llu",
              r->opcode, *requests_deaths(r), (unsigned long long)requests_header(r)->nodeid);
    fuseio_answer_error(f, r->unique, -EIO);
    requests_free(f, r);
    return true;
}

/* After a restart: its caller was killed, and nothing was sent for it. */
static bool given_up(struct fuseloop *f, struct opreq *r)
{
    if (!r->answered || opreq_seq(r) != 0 || opreq_ticket(r) != 0) {
        return false;
    }
    requests_free(f, r);
    return true;
}

void fuseloop_execute(struct fuseloop *f, struct opreq *r)
{
    if (refuse_killer(f, r) || given_up(f, r)) {
        return;
    }
    if (r->opcode == FUSE_INIT) {
        fuseio_save_init(f, requests_header(r));
    }
    f->current = r;
    *requests_flags(r) |= ARENA_EXECUTING;
    fuseio_process(f, r);
    if (f->current == r) { /* not answered: it waits */
        *requests_flags(r) &= ~(uint32_t)ARENA_EXECUTING;
        f->current = NULL;
    }
}

/* Requests without an answer: FORGET carries nothing for us, since node ids are inode numbers. */
static bool take_unanswerable(struct fuseloop *f, struct arena_big *big)
{
    const struct fuse_in_header *in = requests_big_header(big);
    if (in->opcode == FUSE_INTERRUPT) {
        interrupts_take(f, in);
    } else if (in->opcode != FUSE_FORGET && in->opcode != FUSE_BATCH_FORGET) {
        return false;
    }
    requests_big_put(f, big);
    return true;
}

static void fuseloop_unmounted(struct fuseloop *f)
{
    if (!f->unmounted) {
        f->unmounted = true;
        f->started = false;
        poll_update(f);
        if (f->options.on_unmounted) {
            f->options.on_unmounted(f->options.ctx);
        }
    }
}

/* 1: a request was read and begun; 0: none is there, or no room for it. */
static int read_one(struct fuseloop *f)
{
    struct arena_big *big = requests_big_get(f);
    if (!big) {
        interrupts_watch(f);
        return 0;
    }
    struct fuse_in_header *in = requests_big_header(big);
    ssize_t n = read(f->dev, in, REQUEST_BYTES_MAX);
    if (n < 0) {
        int rc = -errno;
        requests_big_put(f, big);
        if (rc == -ENODEV || rc == -ECONNABORTED) {
            fuseloop_unmounted(f);
        }
        /* ENOENT: the caller was killed while we read. EPERM: not mounted yet. */
        return rc == -ENOENT || rc == -EINTR;
    }
    if ((size_t)n < sizeof *in || in->len != (uint32_t)n) {
        log_error("request cut short bytes=%zd said=%u", n, in->len);
        requests_big_put(f, big);
        return 1;
    }
    if (!take_unanswerable(f, big)) {
        fuseloop_execute(f, requests_add(f, big));
    }
    return 1;
}

static void on_readable(uv_poll_t *p, int status, int events)
{
    (void)status, (void)events; /* an error shows itself when we read */
    struct fuseloop *f = p->data;
    (void)timers_now(f->client->timers); /* the loop may have slept since it last looked at the clock */
    f->polling = status >= 0;   /* libuv stopped it otherwise */
    for (int i = 0; i < REQUESTS_PER_WAKEUP && f->started && read_one(f) > 0; i++) {
    }
    poll_update(f);
}

static void poll_update(struct fuseloop *f)
{
    bool want = f->started && f->n_free_big > 0;
    if (want && !f->polling) {
        CHECK(uv_poll_start(&f->poll, UV_READABLE, on_readable) == 0);
    } else if (!want && f->polling) {
        uv_poll_stop(&f->poll);
    }
    f->polling = want;
}

void fuseloop_record_freed(struct fuseloop *f)
{
    if (f->started && !f->polling) {
        poll_update(f);
    }
}

/* --- start and stop ------------------------------------------------------------------------------ */

static int compare_for_restart(const void *a, const void *b)
{
    const struct opreq *x = *(struct opreq *const *)a, *y = *(struct opreq *const *)b;
    uint64_t xs = opreq_seq(x), ys = opreq_seq(y);
    if (!xs != !ys) {
        return xs ? -1 : 1;
    }
    if (xs != ys) {
        return xs < ys ? -1 : 1;
    }
    return x->unique < y->unique ? -1 : x->unique > y->unique;
}

/* Oldest first, those with a number before those without; INIT (only ever alone) needs no care. */
static void sort_taken_over(struct fuseloop *f)
{
    size_t n = f->by_unique.n, i = 0;
    struct opreq **all = xcalloc(n + 1, sizeof(struct opreq *));
    list_for_each(node, &f->requests)
    {
        all[i++] = list_entry(node, struct opreq, node);
    }
    qsort(all, n, sizeof all[0], compare_for_restart);
    for (i = 0; i < n; i++) {
        list_remove(&all[i]->node);
        list_add_tail(&f->taken, &all[i]->node);
    }
    free(all);
}

struct opreq *fuseloop_take_next(struct fuseloop *f)
{
    struct opreq *r = list_first(&f->taken, struct opreq, node);
    if (r) {
        list_remove(&r->node);
        list_add_tail(&f->requests, &r->node);
        *requests_flags(r) &= ~(uint32_t)ARENA_EXECUTING;
        if (opreq_interrupted(r)) {
            interrupts_watch(f);
        }
    }
    return r;
}

static bool init_unanswered(struct fuseloop *f)
{
    list_for_each(node, &f->taken)
    {
        if (list_entry(node, struct opreq, node)->opcode == FUSE_INIT) {
            return true;
        }
    }
    return false;
}

int fuseloop_new(const struct fuseloop_options *options, struct fuseloop **out)
{
    struct fuseloop *f = xcalloc(1, sizeof *f);
    f->options = *options;
    f->client = options->client;
    f->arena = options->client->arena;
    f->dev = options->dev_fd;
    f->client->fuseloop = f;
    int flags = fcntl(f->dev, F_GETFL);
    int rc = flags < 0 || fcntl(f->dev, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
    if (rc < 0) {
        free(f);
        return rc;
    }
    interrupts_init(f);
    requests_init(f);
    sort_taken_over(f);
    f->notifier = notifier_new(f->dev);
    rc = fuseio_init(f);
    if (rc < 0) {
        fuseloop_free(f);
        return rc;
    }
    if (f->arena->h->init_bytes && !init_unanswered(f)) {
        fuseio_replay_init(f);
    }
    *out = f;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    struct fuseloop *f = h->data;
    notifier_free(f->notifier);
    requests_release(f);
    free(f);
}

static void close_poll(uv_handle_t *h)
{
    struct fuseloop *f = h->data;
    if (f->poll.data) {
        uv_close((uv_handle_t *)&f->poll, on_closed);
    } else {
        on_closed(h);
    }
}

/* libfuse's session is left alone: destroying it would close /dev/fuse. The memory goes when the loop has run. */
void fuseloop_free(struct fuseloop *f)
{
    if (f) {
        list_for_each_safe(n, next, &f->taken)
        {
            list_remove(n);
            list_add_tail(&f->requests, n);
        }
        f->started = false;
        uv_close((uv_handle_t *)&f->watch, close_poll);
    }
}

int fuseloop_start(struct fuseloop *f)
{
    if (!f->poll.data) {
        int rc = uv_poll_init(f->options.uv, &f->poll, f->dev);
        if (rc < 0) {
            return rc;
        }
        f->poll.data = f;
    }
    f->started = true;
    poll_update(f);
    return 0;
}

void fuseloop_stop(struct fuseloop *f)
{
    f->started = false;
    poll_update(f);
}

unsigned fuseloop_waiting(const struct fuseloop *f)
{
    return (unsigned)f->by_unique.n - f->n_parked;
}

void fuseloop_invalidate_inode(struct fuseloop *f, uint64_t nodeid, int64_t offset, int64_t length)
{
    notifier_inode(f->notifier, nodeid, offset, length);
}

int fuseloop_invalidate_names(struct fuseloop *f)
{
    if (!f->epoch) {
        return -ENOSYS;
    }
    notifier_names(f->notifier);
    return 0;
}
