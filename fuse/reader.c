#include "fuse/reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "fuse/reader_internal.h"

/* A read, on its happy path:
 *   1 plan: extents of the range -> pieces, each in one block (or zeroes); blocks that are not
 * cached are asked for 2 when all are there, dirty pages decide: none in the range, and the answer
 * points into the blocks; else the bytes are copied to private blocks and the pages laid over them
 *   3 the blocks are pinned until reader_finish.
 * What can happen meanwhile: a page of the range is committed and dropped (planned again, since the
 * extents that were used are older); blocks fail (planned again after a pause, with fresh extents,
 * until READER_LOST_MS, or at once EIO when every failure was definite twice); the cache has no
 * room (waits until others finish). */
enum {
    PART_LEAST = 64,
    FETCHES_MAX = 1000,
    STARVED_MS = 5,
    DEFINITE_TRIES = 2,
    SEQUENTIAL_SLACK = 1 << 20
};

static uint64_t now_ms(const struct reader *r)
{
    return r->client->timers->now_ms;
}

static void starved_due(struct timer *timer);

struct reader *reader_new(struct client *c)
{
    struct reader *r = xcalloc(1, sizeof *r);
    r->client = c;
    cache_init(r);
    list_init(&r->jobs);
    list_init(&r->starved);
    list_init(&r->loads);
    list_init(&r->decodes);
    list_init(&r->decode_queue);
    list_init(&r->fetches);
    r->starved_timer.on_due = starved_due;
    return r;
}

void reader_free(struct reader *r)
{
    if (r == NULL) {
        return;
    }
    timers_stop(r->client->timers, &r->starved_timer);
    layouts_release(r);
    loads_release(r);
    cache_release(r);
    free(r);
}

/* ---- ending ---- */

static void unpin_pieces(struct job *job)
{
    for (unsigned i = 0; i < job->n_pieces; i++) {
        struct bwait *wait = &job->piece[i].wait;
        list_remove(&wait->node);
        if (wait->block != NULL) {
            block_unpin(job->r, wait->block);
        }
    }
    job->n_pieces = 0;
}

static void drop_pieces(struct job *job)
{
    struct reader *r = job->r;
    unpin_pieces(job);
    for (unsigned i = 0; i < job->n_own; i++) {
        block_unpin(r, job->own[i]);
    }
    free(job->own);
    job->own = NULL;
    job->n_own = 0;
    job->in_parts = false;
    job->got = 0;
    r->reserved -= job->cost;
    job->cost = 0;
}

static void kick_starved(struct reader *r)
{
    if (!list_empty(&r->starved)) {
        timers_arm(r->client->timers, &r->starved_timer, now_ms(r));
    }
}

static void starved_due(struct timer *timer)
{
    struct reader *r = container_of(timer, struct reader, starved_timer);
    struct list mine;
    list_take_all(&r->starved, &mine);
    while (!list_empty(&mine)) {
        struct job *job = list_first(&mine, struct job, node);
        list_remove(&job->node);
        list_add_tail(&r->jobs, &job->node);
        job_plan(job);
    }
}

static void starve(struct job *job)
{
    drop_pieces(job);
    list_remove(&job->node);
    list_add_tail(&job->r->starved, &job->node);
    if (!timer_armed(&job->r->starved_timer)) { /* also for blocks that only loads hold */
        timers_arm(job->r->client->timers, &job->r->starved_timer, now_ms(job->r) + STARVED_MS);
    }
}

void reader_finish(struct reader *r, struct read_request *rr)
{
    struct job *job = rr->internal;
    if (job == NULL) {
        return;
    }
    rr->internal = NULL;
    drop_pieces(job);
    timers_stop(r->client->timers, &job->retry);
    list_remove(&job->node);
    rr->inode->pins--;
    free(job->piece);
    free(job);
    kick_starved(r);
}

static void answer(struct job *job, int rc)
{
    struct read_request *rr = job->rr;
    job->done = true;
    if (rc != 0) {
        drop_pieces(job);
        rr->n_iov = 0;
        rr->bytes = 0;
    }
    rr->rc = rc;
    rr->on_done(rr); /* may finish it */
}

/* ---- the answer's bytes ---- */

static const uint8_t *piece_bytes(const struct job *job, const struct piece *p)
{
    const struct reader *r = job->r;
    return p->wait.block == NULL ? NULL : block_data(r, p->wait.block) + p->at;
}

static bool own_blocks(struct job *job, uint32_t bytes)
{
    struct reader *r = job->r;
    const unsigned n = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    job->own = xcalloc(n, sizeof(struct block *));
    for (unsigned i = 0; i < n; i++) {
        struct block *b = block_private(r);
        if (b == NULL) {
            return false;
        }
        job->own[job->n_own++] = b;
    }
    return true;
}

/* Copies [at, at + len) of the answer. src NULL: zeroes. */
static void fill(struct job *job, uint32_t at, uint32_t len, const uint8_t *src)
{
    while (len > 0) {
        const uint32_t in_block = at % BLOCK_BYTES;
        const uint32_t n = len < BLOCK_BYTES - in_block ? len : BLOCK_BYTES - in_block;
        uint8_t *to = block_data(job->r, job->own[at / BLOCK_BYTES]) + in_block;
        if (src != NULL) {
            memcpy(to, src, n);
            src += n;
        } else {
            memset(to, 0, n);
        }
        at += n;
        len -= n;
    }
}

static void fill_content(struct job *job, uint32_t bytes)
{
    const struct inode *in = job->rr->inode;
    const uint64_t offset = job->rr->offset;
    uint32_t have = 0;
    if (in->content_valid && in->content.len > offset) {
        const uint64_t left = in->content.len - offset;
        have = left < bytes ? (uint32_t)left : bytes;
        fill(job, 0, have, in->content.data + offset);
    }
    fill(job, have, bytes - have, NULL);
}

static void fill_pieces(struct job *job)
{
    for (unsigned i = 0; i < job->n_pieces; i++) {
        fill(job, job->got, job->piece[i].len, piece_bytes(job, &job->piece[i]));
        job->got += job->piece[i].len;
    }
}

/* Private copy, with the dirty pages on top. False: no blocks. */
static bool answer_copied(struct job *job)
{
    struct read_request *rr = job->rr;
    struct reader *r = job->r;
    const uint32_t bytes = rr->bytes;
    if (job->own == NULL && !own_blocks(job, bytes)) {
        return false;
    }
    if (job->from_content) {
        fill_content(job, bytes);
    }
    fill_pieces(job);
    rr->n_iov = job->n_own;
    for (unsigned i = 0; i < job->n_own; i++) {
        const uint32_t from = i * BLOCK_BYTES, left = bytes - from;
        const uint32_t n = left < BLOCK_BYTES ? left : BLOCK_BYTES;
        uint8_t *to = block_data(r, job->own[i]);
        writer_overlay(r->client->writer, rr->inode, rr->offset + from, to, n);
        rr->iov[i] = (struct iovec){.iov_base = to, .iov_len = n};
    }
    return true;
}

static bool answer_pointed(struct job *job)
{
    struct read_request *rr = job->rr;
    unsigned n = 0;
    for (unsigned i = 0; i < job->n_pieces; i++) {
        const struct piece *p = &job->piece[i];
        uint8_t *from = (uint8_t *)(uintptr_t)piece_bytes(job, p);
        for (uint32_t done = 0; done < p->len;) {
            const uint32_t left = p->len - done;
            const uint32_t len = from != NULL || left < BLOCK_BYTES ? left : BLOCK_BYTES;
            if (n == READER_IOV_MAX) {
                return false;
            }
            uint8_t *at = from != NULL ? from + done : block_data(job->r, &job->r->block[0]);
            rr->iov[n++] = (struct iovec){.iov_base = at, .iov_len = len};
            done += len;
        }
    }
    rr->n_iov = n;
    return true;
}

static void retry_due(struct timer *timer)
{
    job_plan(container_of(timer, struct job, retry));
}

static void blocks_failed(struct job *job)
{
    struct reader *r = job->r;
    const uint32_t limit = r->client->deadline_ms != 0 && r->client->deadline_ms < READER_LOST_MS
                               ? r->client->deadline_ms
                               : READER_LOST_MS;
    const bool sure = job->sure;
    drop_pieces(job);
    job->rc = 0;
    itable_drop_extents(job->rr->inode); /* they may be of before a merge or a move */
    job->failures++;
    if ((sure && job->failures >= DEFINITE_TRIES) || now_ms(r) - job->started_ms >= limit) {
        answer(job, -EIO);
        return;
    }
    job->retry.on_due = retry_due;
    timers_arm(r->client->timers, &job->retry, now_ms(r) + (sure ? 0 : LOST_RETRY_MS));
}

/* The blocks of one part are there: copies it, and goes on with the next, from the loop. False: it
 * is the last one. */
static bool part_there(struct job *job)
{
    uint64_t bytes = job->got;
    for (unsigned i = 0; i < job->n_pieces; i++) {
        bytes += job->piece[i].len;
    }
    if (bytes >= job->rr->bytes) {
        return false;
    }
    fill_pieces(job);
    unpin_pieces(job);
    job->retry.on_due = retry_due;
    timers_arm(job->r->client->timers, &job->retry, now_ms(job->r));
    return true;
}

static void blocks_there(struct job *job)
{
    struct read_request *rr = job->rr;
    struct reader *r = job->r;
    const struct inode *in = rr->inode;
    if (job->rc != 0) {
        blocks_failed(job);
        return;
    }
    if (in->pages_dropped != job->pages_dropped) {
        drop_pieces(job); /* a page that lay over these extents is gone: it is in newer ones */
        job_plan(job);
        return;
    }
    if (job->in_parts && job->own == NULL && !own_blocks(job, rr->bytes)) {
        starve(job);
        return;
    }
    if (job->in_parts && part_there(job)) {
        return;
    }
    const bool over = job->in_parts || job->from_content ||
                      writer_touches(r->client->writer, in, rr->offset, rr->bytes);
    if (!over && answer_pointed(job)) {
        answer(job, 0);
    } else if (answer_copied(job)) {
        answer(job, 0);
    } else {
        starve(job);
    }
}

/* ---- planning ---- */

static void piece_block(struct bwait *wait, int rc)
{
    struct job *job = ((struct piece *)wait->owner)->job;
    if (rc != 0) {
        job->rc = rc;
        job->sure = job->sure && (rc == ERR_NOT_FOUND || rc == ERR_CORRUPT);
    }
    if (--job->pending == 0) {
        blocks_there(job);
    }
}

static struct piece *piece_add(struct job *job)
{
    if (job->n_pieces == job->cap) {
        job->cap = job->cap == 0 ? 20 : job->cap * 2;
        job->piece = xrealloc(job->piece, job->cap * sizeof *job->piece);
    }
    struct piece *p = &job->piece[job->n_pieces++];
    *p = (struct piece){.job = job};
    return p;
}

/* Pieces are collected first and hooked into their blocks afterwards: the array moves while it
 * grows. */
struct want {
    struct rstripe s;
    uint32_t fragment, index; /* fragment UINT32_MAX: zeroes */
};

static void add_hole(struct job *job, uint64_t len, struct want **want)
{
    while (len > 0) {
        const uint32_t n = len < (1u << 30) ? (uint32_t)len : 1u << 30;
        struct piece *p = piece_add(job);
        p->len = n;
        *want = xrealloc(*want, job->cap * sizeof **want);
        (*want)[job->n_pieces - 1] = (struct want){.fragment = UINT32_MAX};
        len -= n;
    }
}

static bool add_extent(struct job *job, const struct iextent *e, uint64_t at, uint64_t end,
                       struct want **want)
{
    struct rstripe s;
    if (!stripe_of_extent(e, &s)) {
        return false;
    }
    uint64_t in_stripe = e->stripe_offset + (at - e->offset);
    while (at < end) {
        const bool copy = s.code.kind == STRIPE_COPY;
        const uint32_t fragment = copy ? 0 : (uint32_t)(in_stripe / s.fragment_bytes);
        const uint32_t in_fragment = (uint32_t)(in_stripe - (uint64_t)fragment * s.fragment_bytes);
        uint64_t len = BLOCK_BYTES - in_fragment % BLOCK_BYTES;
        len = len < s.fragment_bytes - in_fragment ? len : s.fragment_bytes - in_fragment;
        len = len < end - at ? len : end - at;
        struct piece *p = piece_add(job);
        p->at = in_fragment % BLOCK_BYTES;
        p->len = (uint32_t)len;
        *want = xrealloc(*want, job->cap * sizeof **want);
        (*want)[job->n_pieces - 1] =
            (struct want){.s = s, .fragment = fragment, .index = in_fragment / BLOCK_BYTES};
        at += len;
        in_stripe += len;
    }
    return true;
}

/* False: an extent that makes no sense. */
static bool collect(struct job *job, uint64_t at, uint64_t end, struct want **want)
{
    const struct inode *in = job->rr->inode;
    for (unsigned i = itable_extent_at(in, at); at < end; i++) {
        const struct iextent *e = i < in->n_extents ? &in->extent[i] : NULL;
        if (e == NULL || e->offset >= end) {
            add_hole(job, end - at, want);
            return true;
        }
        if (e->offset > at) {
            add_hole(job, e->offset - at, want);
            at = e->offset;
        }
        const uint64_t to = e->offset + e->length < end ? e->offset + e->length : end;
        if (e->kind == 2) {
            add_hole(job, to - at, want);
        } else if (!add_extent(job, e, at, to, want)) {
            return false;
        }
        at = to;
    }
    return true;
}

static bool same_run(const struct want *a, const struct want *b)
{
    return a->s.id == b->s.id && a->s.pg == b->s.pg && a->fragment == b->fragment &&
           a->index + 1 == b->index;
}

struct fresh {
    struct block *block[LOAD_BLOCKS];
    struct want first, last;
    unsigned n;
};

static void fresh_start(struct reader *r, struct fresh *f)
{
    if (f->n > 0) {
        load_start(r, &f->first.s, f->first.fragment, f->first.index, f->block, f->n, false);
        for (unsigned i = 0; i < f->n; i++) {
            block_unpin(r, f->block[i]); /* block_new's; load and waiters have their own */
        }
        f->n = 0;
    }
}

static void fresh_add(struct reader *r, struct fresh *f, const struct want *want, struct block *b)
{
    if (f->n == LOAD_BLOCKS || (f->n > 0 && !same_run(&f->last, want))) {
        fresh_start(r, f);
    }
    if (f->n == 0) {
        f->first = *want;
    }
    f->last = *want;
    f->block[f->n++] = b;
}

/* Pins or makes the block of each piece and hooks the job in. The loads of new blocks start at the
 * end, when every piece waits: a load that fails at once tells them. False: no room. */
static bool hook(struct job *job, const struct want *want, bool *fresh)
{
    struct reader *r = job->r;
    for (unsigned i = 0; i < job->n_pieces; i++) {
        list_init(&job->piece[i].wait.node);
    }
    for (unsigned i = 0; i < job->n_pieces; i++) {
        struct bwait *wait = &job->piece[i].wait;
        if (want[i].fragment == UINT32_MAX) {
            continue;
        }
        struct block *b = block_find(r, &want[i].s, want[i].fragment, want[i].index);
        if (b != NULL) {
            block_pin(r, b);
        } else {
            b = block_new(r, &want[i].s, want[i].fragment, want[i].index);
            fresh[i] = b != NULL;
            if (b == NULL) {
                return false;
            }
            block_pin(r, b); /* the waiter's, besides block_new's */
        }
        wait->block = b;
        if (b->state == BLOCK_LOADING) {
            wait->on_block = piece_block;
            wait->owner = &job->piece[i];
            list_add_tail(&b->waiters, &wait->node);
            job->pending++;
        }
    }
    return true;
}

/* New blocks that nobody will load, since the plan was given up. */
static void unhook_fresh(struct job *job, const bool *fresh, unsigned n)
{
    struct reader *r = job->r;
    for (unsigned i = 0; i < n; i++) {
        if (fresh[i]) {
            struct block *b = job->piece[i].wait.block;
            list_remove(&job->piece[i].wait.node);
            block_source_failed(r, b, false, ERR_BUSY);
            block_unpin(r, b);
        }
    }
}

static bool start_blocks(struct job *job, const struct want *want)
{
    struct reader *r = job->r;
    bool *fresh = xcalloc(job->n_pieces + 1, sizeof *fresh);
    job->pending = 1; /* this function */
    if (!hook(job, want, fresh)) {
        unhook_fresh(job, fresh, job->n_pieces);
        free(fresh);
        return false;
    }
    struct fresh f = {.n = 0};
    for (unsigned i = 0; i < job->n_pieces; i++) {
        if (fresh[i]) {
            fresh_add(r, &f, &want[i], job->piece[i].wait.block);
        }
    }
    fresh_start(r, &f);
    free(fresh);
    return true;
}

/* ---- reading ahead ---- */

static void ahead_block(struct reader *r, struct fresh *f, const struct want *want)
{
    if (block_find(r, &want->s, want->fragment, want->index) == NULL) {
        struct block *b = block_new(r, &want->s, want->fragment, want->index);
        if (b != NULL) {
            fresh_add(r, f, want, b);
        }
    }
}

/* Whole blocks of [from, to), as far as extents are known and a quarter of the cache stays free. */
static uint64_t ahead_range(struct reader *r, const struct inode *in, uint64_t from, uint64_t to)
{
    struct fresh f = {.n = 0};
    uint64_t at = from;
    for (unsigned i = itable_extent_at(in, from); i < in->n_extents && at < to; i++) {
        const struct iextent e = in->extent[i];
        struct rstripe s;
        at = e.offset > at ? e.offset : at;
        if (at >= to || (e.kind == 1 && !stripe_of_extent(&e, &s))) {
            break;
        }
        const uint64_t end = e.offset + e.length < to ? e.offset + e.length : to;
        for (; e.kind == 1 && at < end;) {
            if (cache_left(r) < r->n_blocks / 4 + r->reserved) {
                fresh_start(r, &f);
                return at;
            }
            const uint64_t in_stripe = e.stripe_offset + (at - e.offset);
            struct want want = {.s = s};
            want.fragment =
                s.code.kind == STRIPE_COPY ? 0 : (uint32_t)(in_stripe / s.fragment_bytes);
            const uint64_t in_fragment = in_stripe - (uint64_t)want.fragment * s.fragment_bytes;
            want.index = (uint32_t)(in_fragment / BLOCK_BYTES);
            ahead_block(r, &f, &want);
            uint64_t step = BLOCK_BYTES - in_fragment % BLOCK_BYTES;
            step = step < s.fragment_bytes - in_fragment ? step : s.fragment_bytes - in_fragment;
            at += step;
        }
        at = end;
    }
    fresh_start(r, &f);
    return to;
}

static void read_ahead(struct job *job, uint64_t end)
{
    struct reader *r = job->r;
    struct inode *in = job->rr->inode;
    const uint64_t offset = job->rr->offset;
    const uint64_t slack_low =
        in->read_next > SEQUENTIAL_SLACK ? in->read_next - SEQUENTIAL_SLACK : 0;
    const bool goes_on =
        offset >= slack_low && offset <= in->read_next + SEQUENTIAL_SLACK && end > in->read_next;
    if (goes_on) {
        in->read_streak++;
    } else if (end > in->read_next || offset < slack_low) {
        in->read_streak = 0;
        in->read_ahead_to = 0;
    }
    in->read_next = end > in->read_next || !goes_on ? end : in->read_next;
    if (in->read_streak < 2 && !job->rr->sequential_hint) {
        return;
    }
    const uint64_t server_size = (uint64_t)in->st.st_size;
    uint64_t to = end + 2ull * r->client->policy.k * STRIPE_FRAGMENT_MAX;
    to = to < server_size ? to : server_size;
    const uint64_t from = in->read_ahead_to > end ? in->read_ahead_to : end;
    if (to > in->extents_to && in->extents_to < server_size && in->extents_to > in->extents_from) {
        layout_fetch(r, in, in->extents_to, NULL, NULL);
        to = in->extents_to;
    }
    if (from < in->extents_from || to <= from ||
        (to - from < READ_AHEAD_STEP && to < server_size)) {
        return;
    }
    in->read_ahead_to = ahead_range(r, in, from, to);
}

/* ---- requests ---- */

static bool known(const struct inode *in, uint64_t from, uint64_t to)
{
    return from >= to || (in->extents_from <= from && in->extents_to >= to);
}

/* 0: planned (pieces or content); -EAGAIN: waits for a fetch; else an error. */
static int plan_source(struct job *job, uint64_t end, struct want **want)
{
    struct read_request *rr = job->rr;
    struct inode *in = rr->inode;
    const uint64_t server_size = (uint64_t)in->st.st_size, from = rr->offset + job->got;
    job->from_content = false;
    if (writer_covers(job->r->client->writer, in, from, end - from)) {
        add_hole(job, end - from, want);
        return 0;
    }
    if ((in->attr_flags & 1) && server_size > 0) {
        if (!in->content_valid) {
            job->fetches++;
            content_fetch(job->r, in, job);
            return -EAGAIN;
        }
        job->from_content = true;
        return 0;
    }
    const uint64_t to = end < server_size ? end : server_size;
    if (!known(in, from, to)) {
        const bool partly = in->extents_from <= from && in->extents_to > from;
        job->fetches++;
        layout_fetch(job->r, in, partly ? in->extents_to : from, job, NULL);
        return -EAGAIN;
    }
    return collect(job, from, end, want) ? 0 : -EIO;
}

/* Many small extents may need more blocks than there are: then it goes on part by part. */
static void take_part(struct job *job)
{
    const unsigned quarter = job->r->n_blocks / 4,
                   most = quarter > PART_LEAST ? quarter : PART_LEAST;
    if (job->n_pieces > most) {
        job->n_pieces = most;
        job->in_parts = true;
    }
}

/* What was copied so far is of an older state of the file: from the start. */
static bool is_outdated(const struct job *job, uint64_t bytes)
{
    const struct inode *in = job->rr->inode;
    return job->in_parts && (bytes != job->rr->bytes || (in->attr_flags & 1) ||
                             in->pages_dropped != job->pages_dropped);
}

/* Blocks that a job may hold: those of its pieces, and those of a private copy. */
static uint64_t cost_of(const struct job *job, uint32_t bytes)
{
    return bytes / BLOCK_BYTES + 2 + job->n_pieces;
}

/* Plans, starts what is missing, and answers if nothing is. */
void job_plan(struct job *job)
{
    struct read_request *rr = job->rr;
    struct reader *r = job->r;
    struct inode *in = rr->inode;
    if (job->rc != 0 || job->fetches > FETCHES_MAX) {
        answer(job, job->rc == 0 || job->rc <= ERR_FIRST ? -EIO : job->rc);
        return;
    }
    if (!in->attr_valid) {
        job->fetches++;
        content_fetch(r, in, job);
        return;
    }
    const uint64_t size = itable_size(in);
    const uint64_t end = rr->offset >= size               ? rr->offset
                         : size - rr->offset < rr->length ? size
                                                          : rr->offset + rr->length;
    if (is_outdated(job, end - rr->offset)) {
        drop_pieces(job);
    }
    rr->bytes = (uint32_t)(end - rr->offset);
    rr->n_iov = 0;
    if (rr->bytes == 0) {
        answer(job, 0);
        return;
    }
    job->pages_dropped = in->pages_dropped;
    job->sure = true;
    struct want *want = NULL;
    const int rc = plan_source(job, end, &want);
    if (rc != 0) {
        free(want);
        job->n_pieces = 0; /* not hooked into any block yet */
        if (rc != -EAGAIN) {
            answer(job, rc);
        }
        return;
    }
    take_part(job);
    const bool first = job->cost == 0; /* a later part takes the place of the one before */
    const uint64_t cost = cost_of(job, rr->bytes);
    if (first && r->reserved > 0 && r->reserved + cost > r->n_blocks / 2) {
        free(want);
        job->n_pieces = 0;
        starve(job);
        return;
    }
    if (first) {
        job->cost = cost;
        r->reserved += cost;
    }
    const bool started = job->from_content || start_blocks(job, want);
    free(want);
    if (!started) {
        starve(job);
        return;
    }
    if (first && !job->from_content) {
        read_ahead(job, end);
    }
    if (job->from_content || --job->pending == 0) {
        blocks_there(job);
    }
}

void reader_start(struct reader *r, struct read_request *rr)
{
    struct job *job = xcalloc(1, sizeof *job);
    job->r = r;
    job->rr = rr;
    job->started_ms = now_ms(r);
    rr->internal = job;
    rr->inode->pins++;
    list_add_tail(&r->jobs, &job->node);
    job_plan(job);
}

void reader_invalidate(struct reader *r, uint64_t ino, uint64_t offset, uint64_t length)
{
    /* Blocks are of stripes, which never change; kept pages are of the file. */
    struct inode *in = itable_find(r->client->itable, ino);
    if (in != NULL) {
        writer_drop_clean(r->client->writer, in, offset, length);
    }
}

unsigned reader_bad_fragments(struct reader *r, struct bad_fragment *out, unsigned max)
{
    const unsigned n = r->n_bad < max ? r->n_bad : max;
    memcpy(out, r->bad, n * sizeof *out);
    memmove(r->bad, r->bad + n, (r->n_bad - n) * sizeof *out);
    r->n_bad -= n;
    return n;
}
