#include "fuse/writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "fuse/writer_internal.h"

/* The calls of writer.h: what comes in, who waits for what, and when something is started. The
 * happy path: 1 writer_write copies into pages (writer_pages.c) and notes size and time 2 a full
 * run starts a stripe at once; a flush, age or pressure set a barrier and start the rest
 * (writer_plan.c) 3 fragments are on their servers: the stripe is ready (writer_stripe.c) 4 a
 * commit takes what is ready (writer_commit.c); its pages are clean, the barrier counts down 5 the
 * barrier is at zero: those who waited for it are told. Who waits is called back from the loop,
 * never from inside a call of this header: what is settled by a call is put into `settled`, and
 * told by a timer that is due at once. */
enum { WAIT_FLUSH, WAIT_QUIESCE_FLUSH, WAIT_QUIESCE, WAIT_ROOM, WAIT_ALL };

static uint64_t now_ms(const struct writer *w)
{
    return w->client->timers->now_ms;
}

/* An idle client does not wake up: the tick runs while there is something to look after. */
void writer_tick_arm(struct writer *w)
{
    if (!timer_armed(&w->tick)) {
        timers_arm(w->client->timers, &w->tick, now_ms(w) + TICK_MS);
    }
}

/* ---- telling ---- */

static void settle(struct writer *w, struct writer_wait *wait, int rc)
{
    list_remove(&wait->node);
    wait->rc = rc;
    list_add_tail(&w->settled, &wait->node);
}

void writer_deliver_soon(struct writer *w)
{
    if (!list_empty(&w->settled) && !timer_armed(&w->soon)) {
        timers_arm(w->client->timers, &w->soon, now_ms(w));
    }
}

bool writer_has_room(const struct writer *w, unsigned pages)
{
    const unsigned dirty_max = w->n_pages - w->n_pages / 4;
    return pages_room(w) >= pages + ALLOC_RESERVE && w->n_dirty + pages <= dirty_max;
}

static void wake_room(struct writer *w, int rc)
{
    while (!list_empty(&w->room)) {
        settle(w, list_first(&w->room, struct writer_wait, node), rc);
    }
}

static bool all_settled(const struct writer *w, uint64_t upto)
{
    list_for_each (node, &w->dirty) {
        const struct winode *wi = list_entry(node, struct winode, node);
        if (winode_is_dirty(wi) && wi->settled_to < upto) {
            return false;
        }
    }
    return true;
}

static void wake_all(struct writer *w, int rc)
{
    list_for_each_safe (node, follow, &w->all) {
        struct writer_wait *wait = list_entry(node, struct writer_wait, node);
        if (rc != 0 || all_settled(w, wait->upto)) {
            settle(w, wait, rc);
        }
    }
}

void writer_deliver(struct writer *w)
{
    const bool room =
        writer_has_room(w, w->n_pages / 16) && w->n_free_records > 0 && w->credit_short_ms == 0;
    if (room || w->space_rc != 0) { /* who is short of credit is woken by the tick */
        wake_room(w, 0);
    }
    if (!list_empty(&w->all)) {
        wake_all(w, 0);
    }
    struct list mine;
    list_take_all(&w->settled, &mine);
    while (!list_empty(&mine)) {
        struct writer_wait *wait = list_first(&mine, struct writer_wait, node);
        list_remove(&wait->node);
        if (wait->rc != 0 && (wait->kind == WAIT_QUIESCE || wait->kind == WAIT_QUIESCE_FLUSH)) {
            writer_resume(w, wait->inode); /* it failed: it holds nothing */
        }
        wait->on_done(wait, wait->rc);
    }
}

static void soon_due(struct timer *timer)
{
    writer_deliver(container_of(timer, struct writer, soon));
}

/* ---- inodes ---- */

struct winode *winode_find(const struct inode *in)
{
    return in->writer_state;
}

struct winode *winode_get(struct writer *w, struct inode *in)
{
    if (in->writer_state != NULL) {
        return in->writer_state;
    }
    struct winode *wi = xcalloc(1, sizeof *wi);
    wi->w = w;
    wi->inode = in;
    wi->ino = in->ino;
    wi->settled_to = w->stamp;
    list_init(&wi->node);
    list_init(&wi->pending);
    list_init(&wi->idle);
    list_init(&wi->flight);
    list_init(&wi->clean);
    list_init(&wi->waiters);
    list_init(&wi->ready);
    buf_init(&wi->fetch_body);
    list_add_tail(&w->quiet, &wi->node);
    in->writer_state = wi;
    return wi;
}

bool winode_is_dirty(const struct winode *wi)
{
    return wi->n_idle + wi->n_flight > 0 || wi->meta_since != 0 ||
           (wi->inode != NULL && wi->inode->dirty != NULL && wi->inode->dirty->flags != 0);
}

static void record_free(struct winode *wi)
{
    struct writer *w = wi->w;
    struct arena_inode *record = wi->inode->dirty;
    wi->inode->dirty = NULL;
    arena_publish64(&record->ino, 0);
    w->free_record[w->n_free_records++] = (uint32_t)(record - w->arena->inode);
}

/* An error is kept as long as somebody may ask for it. */
static void record_check(struct winode *wi)
{
    const struct arena_inode *record = wi->inode == NULL ? NULL : wi->inode->dirty;
    if (record != NULL && !winode_is_dirty(wi) && record->flags == 0 &&
        (record->errors == 0 || wi->inode->opens == 0)) {
        record_free(wi);
    }
}

static void winode_free(struct winode *wi)
{
    if (wi->fetching) {
        session_read_cancel(&wi->fetch);
    }
    if (wi->inode != NULL) {
        wi->inode->writer_state = NULL;
    }
    list_remove(&wi->node);
    list_remove(&wi->pending);
    buf_release(&wi->fetch_body);
    free(wi->plan);
    free(wi);
}

bool winode_held(const struct winode *wi)
{
    unsigned flushing = 0;
    for (const struct list *node = wi->waiters.next; node != &wi->waiters; node = node->next) {
        flushing += list_entry(node, struct writer_wait, node)->kind == WAIT_QUIESCE_FLUSH;
    }
    return wi->holders > flushing;
}

bool winode_quiet(const struct winode *wi)
{
    return wi->n_stripes == 0 && wi->n_ready == 0 && wi->n_commits == 0;
}

void winode_barrier(struct winode *wi)
{
    struct writer *w = wi->w;
    if (wi->barrier_on) {
        wi->start_again = true;
        return;
    }
    wi->barrier_on = true;
    wi->barrier = w->stamp;
    wi->barrier_pages = wi->n_idle + wi->n_flight;
    wi->plan_n = wi->plan_at = 0;
    if (list_empty(&wi->pending)) { /* whoever comes by next starts it */
        list_add_tail(&w->pending, &wi->pending);
    }
}

/* Content was being committed inline when it was to become extents: it is again where it was. */
static bool outline_again(struct winode *wi)
{
    struct writer *w = wi->w;
    if (!wi->outline || !commit_server_inline(wi)) {
        return false;
    }
    w->stamp++;
    if (commit_load_content(wi) != 0) {
        return false;
    }
    wi->barrier_on = false;
    winode_barrier(wi);
    if (!timer_armed(&w->soon)) {
        timers_arm(w->client->timers, &w->soon, now_ms(w));
    }
    return true;
}

static void barrier_passed(struct winode *wi)
{
    struct writer *w = wi->w;
    bool more = false;
    if (outline_again(wi)) {
        return;
    }
    wi->barrier_on = false;
    wi->settled_to = wi->barrier;
    wi->dirty_since_ms = now_ms(w);
    list_for_each_safe (node, follow, &wi->waiters) {
        struct writer_wait *wait = list_entry(node, struct writer_wait, node);
        if (wait->kind == WAIT_QUIESCE) {
            continue;
        }
        if (wait->upto > wi->barrier) {
            more = true;
        } else if (wait->kind == WAIT_FLUSH) {
            settle(w, wait, 0);
        } else {
            wait->kind = WAIT_QUIESCE; /* from here on it holds */
        }
    }
    wi->outline = false;
    more = more || wi->start_again;
    wi->start_again = false;
    if (more && winode_is_dirty(wi)) {
        winode_barrier(wi);
        if (!timer_armed(&w->soon)) {
            timers_arm(w->client->timers, &w->soon, now_ms(w));
        }
    }
}

static void settle_waiters(struct winode *wi)
{
    struct writer *w = wi->w;
    for (unsigned rounds = 0; wi->barrier_on && rounds < 3; rounds++) {
        if (wi->barrier_pages > 0 || (wi->meta_since != 0 && wi->meta_since <= wi->barrier)) {
            break;
        }
        barrier_passed(wi);
    }
    if (!wi->barrier_on && !winode_is_dirty(wi)) { /* nothing to wait for */
        wi->barrier = w->stamp;
        barrier_passed(wi);
    }
    if (winode_quiet(wi)) {
        list_for_each_safe (node, follow, &wi->waiters) {
            struct writer_wait *wait = list_entry(node, struct writer_wait, node);
            if (wait->kind == WAIT_QUIESCE) {
                settle(w, wait, 0);
            }
        }
    }
}

void winode_changed(struct winode *wi)
{
    struct writer *w = wi->w;
    if (wi->meta_since != 0 && wi->n_commits == 0 && wi->inode != NULL &&
        wi->inode->dirty != NULL && wi->inode->dirty->flags == 0) {
        wi->meta_since = 0; /* a command has set what was to be told */
    }
    settle_waiters(wi);
    if (wi->inode != NULL) {
        record_check(wi);
    }
    const bool dirty = winode_is_dirty(wi) || (wi->inode != NULL && wi->inode->dirty != NULL);
    list_remove(&wi->node);
    list_add_tail(dirty ? &w->dirty : &w->quiet, &wi->node);
    if (dirty) {
        writer_tick_arm(w);
    }
    writer_deliver_soon(w);
    if (!dirty && wi->n_clean == 0 && wi->holders == 0 && winode_quiet(wi) &&
        list_empty(&wi->waiters) && !wi->fetching) {
        winode_free(wi);
    }
}

void winode_forget(struct winode *wi)
{
    struct writer *w = wi->w;
    wi->gone = true;
    wi->barrier_on = false;
    while (!list_empty(&wi->idle)) {
        pages_free(wi, page_index(w, list_first(&wi->idle, struct wpage, at)));
    }
    while (!list_empty(&wi->clean)) {
        pages_free(wi, page_index(w, list_first(&wi->clean, struct wpage, at)));
    }
    commit_give_back(wi);
    wi->meta_since = 0;
    if (wi->inode != NULL) {
        if (wi->inode->dirty != NULL) {
            record_free(wi);
        }
        wi->inode->pages_dropped++;
        wi->inode->writer_state = NULL;
        wi->inode = NULL;
    }
    while (!list_empty(&wi->waiters)) {
        settle(w, list_first(&wi->waiters, struct writer_wait, node), 0);
    }
    wi->holders = 0;
    winode_changed(wi);
}

void winode_fail(struct winode *wi, int rc)
{
    struct writer *w = wi->w;
    struct arena_inode *record = wi->inode == NULL ? NULL : wi->inode->dirty;
    if (record != NULL) {
        record->error = rc <= ERR_FIRST ? -EIO : rc;
        arena_publish64(&record->errors, record->errors + 1);
    }
    if (rc == -ENOSPC || rc == -EDQUOT) {
        w->space_rc = rc;
    }
    wi->barrier_on = wi->start_again = false;
    wi->retry_at_ms = now_ms(w) + RETRY_MS;
    wi->dirty_since_ms = 0; /* as old as can be: tried again by age */
    list_for_each_safe (node, follow, &wi->waiters) {
        struct writer_wait *wait = list_entry(node, struct writer_wait, node);
        if (wait->kind != WAIT_QUIESCE) {
            settle(w, wait, rc <= ERR_FIRST ? -EIO : rc);
        }
    }
    wake_all(w, rc <= ERR_FIRST ? -EIO : rc);
}

static void fail_waiters(struct writer *w, struct list *inodes)
{
    list_for_each (node, inodes) {
        struct winode *wi = list_entry(node, struct winode, node);
        while (!list_empty(&wi->waiters)) {
            settle(w, list_first(&wi->waiters, struct writer_wait, node), -EIO);
        }
    }
}

void writer_session_ended(struct writer *w)
{
    if (w->ended) {
        return;
    }
    w->ended = true;
    list_for_each (node, &w->dirty) {
        winode_fail(list_entry(node, struct winode, node), -EIO);
    }
    fail_waiters(w, &w->dirty); /* who waits for stillness, too: what is ready is never committed */
    fail_waiters(w, &w->quiet);
    wake_room(w, -EIO);
    wake_all(w, -EIO);
    writer_deliver_soon(w);
}

/* ---- starting ---- */

/* What is inline at the server goes with whatever replaces it. It need not be in any page: a write
 * that came while it was being committed could not know of it, and clean pages go when room or the
 * worker does. */
static bool content_there(struct winode *wi)
{
    if (!commit_server_inline(wi) || wi->inline_commit != NULL || commit_load_content(wi) == 0) {
        return true;
    }
    wi->inode->attr_valid = false;
    commit_fetch(wi);
    return false;
}

static void flush_inline(struct winode *wi)
{
    if (wi->n_flight > 0 || wi->n_commits > 0) {
        return;
    }
    if (wi->n_idle > 0) {
        if (content_there(wi)) {
            commit_inline(wi);
        }
    } else if (wi->meta_since != 0) {
        commit_meta(wi);
    }
}

static void start_flush(struct winode *wi)
{
    if (commit_fits_inline(wi)) {
        flush_inline(wi);
        return;
    }
    if (!content_there(wi)) {
        return;
    }
    const int rc = plan_flush(wi);
    if (rc != 0) {
        winode_fail(wi, rc);
        return;
    }
    if (wi->barrier_pages == 0 && wi->meta_since != 0 && wi->meta_since <= wi->barrier &&
        wi->n_commits == 0 && wi->n_ready == 0) {
        commit_meta(wi);
    }
}

void writer_pump(struct winode *wi)
{
    struct writer *w = wi->w;
    if (wi->gone || w->ended || now_ms(w) < wi->retry_at_ms) {
        return;
    }
    if (!wi->inode->attr_valid) {
        if (winode_is_dirty(wi)) {
            commit_fetch(wi);
        }
        return;
    }
    if (!winode_held(wi)) {
        if (wi->barrier_on) {
            start_flush(wi);
        }
        if (now_ms(w) >= wi->retry_at_ms) {
            plan_stream(wi);
        }
    }
    commit_ready(wi);
}

void writer_pump_pending(struct writer *w)
{
    struct list mine;
    list_take_all(&w->pending, &mine);
    while (!list_empty(&mine)) {
        struct winode *wi = list_first(&mine, struct winode, pending);
        list_remove(&wi->pending);
        writer_pump(wi);
        winode_changed(wi);
    }
}

/* All that is idle belongs to a run that goes on, and stripes of it are on their way: a flush would
 * only cut it into shorter stripes. */
static bool is_streaming(const struct winode *wi)
{
    return (wi->n_stripes > 0 || !list_empty(&wi->pending)) &&
           wi->n_idle <= wi->run_to - wi->run_from + 1;
}

void writer_pressure(struct writer *w)
{
    struct list mine;
    list_take_all(&w->dirty, &mine);
    while (!list_empty(&mine)) {
        struct winode *wi = list_first(&mine, struct winode, node);
        list_remove(&wi->node);
        list_add_tail(&w->dirty, &wi->node);
        if (!wi->barrier_on && winode_is_dirty(wi) && !is_streaming(wi)) {
            winode_barrier(wi);
        }
    }
    if (!timer_armed(&w->soon)) {
        timers_arm(w->client->timers, &w->soon, now_ms(w));
    }
}

/* ---- time ---- */

static void late(struct writer *w, struct list *waiters)
{
    const uint32_t limit = w->client->deadline_ms;
    list_for_each_safe (node, follow, waiters) {
        struct writer_wait *wait = list_entry(node, struct writer_wait, node);
        if (limit != 0 && now_ms(w) - wait->started_ms >= limit) {
            settle(w, wait, -EIO); /* what is dirty stays, and is tried again */
        }
    }
}

static void tick_inode(struct winode *wi)
{
    struct writer *w = wi->w;
    late(w, &wi->waiters);
    if (!wi->barrier_on && winode_is_dirty(wi) && now_ms(w) >= wi->retry_at_ms &&
        now_ms(w) - wi->dirty_since_ms >= AGE_MS) {
        winode_barrier(wi);
    }
    if (wi->barrier_on || wi->n_ready > 0 || !list_empty(&wi->waiters)) {
        writer_pump(wi);
    }
    winode_changed(wi);
}

static void tick_due(struct timer *timer)
{
    struct writer *w = container_of(timer, struct writer, tick);
    struct list mine;
    list_take_all(&w->dirty, &mine);
    while (!list_empty(&mine)) {
        struct winode *wi = list_first(&mine, struct winode, node);
        list_remove(&wi->node);
        list_add_tail(&w->dirty, &wi->node);
        tick_inode(wi);
    }
    writer_pump_pending(w);
    late(w, &w->room);
    late(w, &w->all);
    if (w->n_dirty == 0) {
        w->space_rc = 0; /* who caused it is gone */
    }
    if (w->credit_short_ms != 0) {
        wake_room(w, 0);
    }
    ids_give_back(w);
    if (w->ids_left == 0) {
        ids_want(w); /* before the first write needs them */
    }
    writer_deliver(w);
    if (!list_empty(&w->dirty) || !list_empty(&w->room) || !list_empty(&w->all) || w->n_dirty > 0 ||
        ((w->retire || w->ids_lost) && !w->ended)) { /* no ids come after the end */
        writer_tick_arm(w);
    }
}

static void soon_pump(struct timer *timer)
{
    struct writer *w = container_of(timer, struct writer, soon);
    writer_pump_pending(w);
    soon_due(timer);
}

/* ---- life ---- */

struct writer *writer_new(struct client *c)
{
    struct writer *w = xcalloc(1, sizeof *w);
    const struct arena_sizes *sizes = &c->arena->h->sizes;
    w->client = c;
    w->arena = c->arena;
    pages_init(w);
    list_init(&w->dirty);
    list_init(&w->quiet);
    list_init(&w->pending);
    list_init(&w->room);
    list_init(&w->all);
    list_init(&w->settled);
    list_init(&w->commits);
    list_init(&w->stripes);
    w->zero_page = xcalloc(1, PAGE_BYTES);
    w->free_record = xcalloc(sizes->inodes, sizeof *w->free_record);
    w->free_commit = xcalloc(sizes->commits, sizeof *w->free_commit);
    for (uint32_t i = sizes->inodes; i-- > 0;) {
        if (c->arena->inode[i].ino == 0) {
            w->free_record[w->n_free_records++] = i;
        }
    }
    for (uint32_t i = sizes->commits; i-- > 0;) {
        if (c->arena->commit[i].seq == 0) {
            w->free_commit[w->n_free_commits++] = i;
        }
    }
    prng_seed(&w->prng, prng_random_u64());
    w->credit = UINT64_MAX;
    w->stamp = 1;
    w->flight_most = UINT64_MAX / 2; /* the first stripe brings it down to what the policy allows */
    w->tick.on_due = tick_due;
    w->soon.on_due = soon_pump;
    timers_arm(c->timers, &w->tick, c->timers->now_ms + TICK_MS);
    return w;
}

static void free_list_of(struct list *inodes)
{
    while (!list_empty(inodes)) {
        struct winode *wi = list_first(inodes, struct winode, node);
        while (!list_empty(&wi->ready)) {
            struct wstripe *s = list_first(&wi->ready, struct wstripe, node);
            list_remove(&s->node);
            stripe_free(s);
        }
        if (wi->inode != NULL) {
            wi->inode->dirty = NULL;
        }
        winode_free(wi);
    }
}

/* Before the session and the tables are freed. */
void writer_free(struct writer *w)
{
    if (w == NULL) {
        return;
    }
    timers_stop(w->client->timers, &w->tick);
    timers_stop(w->client->timers, &w->soon);
    commits_release(w);
    stripes_release(w);
    free_list_of(&w->dirty);
    free_list_of(&w->quiet);
    pages_release(w);
    free(w->zero_page);
    free(w->free_record);
    free(w->free_commit);
    free(w);
}

void writer_rebuild(struct writer *w)
{
    const struct arena_sizes *sizes = &w->arena->h->sizes;
    for (uint32_t i = 0; i < sizes->inodes; i++) {
        struct arena_inode *record = &w->arena->inode[i];
        if (record->ino == 0) {
            continue;
        }
        struct inode *in = itable_get(w->client->itable, record->ino);
        struct winode *wi = winode_get(w, in);
        in->dirty = record;
        wi->meta_since = wi->meta_stamp = record->flags != 0 ? 1 : 0;
    }
    pages_rebuild(w);
    struct list mine;
    list_take_all(&w->quiet, &mine);
    while (!list_empty(&mine)) {
        struct winode *wi = list_first(&mine, struct winode, node);
        wi->settled_to = 0;
        winode_changed(
            wi); /* not flushed by age at once only because the clock is young: dirty_since is 0 */
    }
    w->retire = true;
}

uint64_t writer_promised(const struct writer *w)
{
    return (uint64_t)(w->n_dirty - w->n_paid) * PAGE_BYTES;
}

void writer_reserve(struct writer *w, uint64_t bytes)
{
    const uint64_t raw = raw_worst(w, bytes);
    const uint64_t most = UINT64_MAX / 2; /* so that it can be added to */
    w->reserving = raw < most - w->reserving ? w->reserving + raw : most;
}

void writer_reserved(struct writer *w, uint64_t bytes, uint64_t got)
{
    const uint64_t raw = raw_worst(w, bytes);
    w->reserving -= raw < w->reserving ? raw : w->reserving;
    w->credit_used += raw_worst(w, got);
}

/* What was reserved before the leader answered is in its figure; a reservation under way goes on
 * the safe side. */
void writer_credit(struct writer *w, uint64_t credit_bytes)
{
    w->credit = credit_bytes;
    w->credit_used = 0;
    if (!list_empty(&w->room)) {
        wake_room(w, 0);
        writer_deliver_soon(w);
    }
}

/* ---- waiting ---- */

static void wait_begin(struct writer *w, struct inode *in, struct writer_wait *wait, int kind)
{
    wait->kind = kind;
    wait->rc = 0;
    wait->inode = in;
    wait->upto = w->stamp;
    wait->started_ms = now_ms(w);
    list_init(&wait->node);
    writer_tick_arm(w);
}

void writer_wait_room(struct writer *w, struct writer_wait *wait)
{
    wait_begin(w, NULL, wait, WAIT_ROOM);
    list_add_tail(&w->room, &wait->node);
    if (w->ended || w->space_rc != 0) {
        wake_room(w, 0);
        writer_deliver_soon(w);
    }
}

void writer_wait_cancel(struct writer_wait *wait)
{
    list_remove(&wait->node);
}

void writer_flush(struct writer *w, struct inode *in, struct writer_wait *wait)
{
    wait_begin(w, in, wait, WAIT_FLUSH);
    struct winode *wi = winode_find(in);
    if (wi == NULL || !winode_is_dirty(wi) || w->ended) {
        settle(w, wait, w->ended ? -EIO : 0);
        writer_deliver_soon(w);
        return;
    }
    list_add_tail(&wi->waiters, &wait->node);
    wi->retry_at_ms = 0;
    winode_barrier(wi);
    writer_pump(wi);
    winode_changed(wi);
}

void writer_start(struct writer *w, struct inode *in)
{
    struct winode *wi = winode_find(in);
    if (wi == NULL || w->ended) {
        return;
    }
    if (winode_is_dirty(wi)) {
        winode_barrier(wi);
        writer_pump(wi);
    }
    winode_changed(wi);
}

void writer_flush_all(struct writer *w, struct writer_wait *wait)
{
    wait_begin(w, NULL, wait, WAIT_ALL);
    list_add_tail(&w->all, &wait->node);
    if (w->ended) {
        settle(w, wait, -EIO);
    }
    list_for_each (node, &w->dirty) {
        struct winode *wi = list_entry(node, struct winode, node);
        wi->retry_at_ms = 0;
        if (winode_is_dirty(wi)) {
            winode_barrier(wi);
        }
    }
    if (!timer_armed(&w->soon)) {
        timers_arm(w->client->timers, &w->soon, now_ms(w));
    }
}

void writer_quiesce(struct writer *w, struct inode *in, bool flush, struct writer_wait *wait)
{
    wait_begin(w, in, wait, flush ? WAIT_QUIESCE_FLUSH : WAIT_QUIESCE);
    struct winode *wi = winode_get(w, in);
    wi->holders++;
    if (w->ended) {
        settle(w, wait, -EIO);
        winode_changed(wi);
        return;
    }
    list_add_tail(&wi->waiters, &wait->node);
    if (flush && winode_is_dirty(wi)) {
        wi->retry_at_ms = 0;
        winode_barrier(wi);
        writer_pump(wi);
    } else {
        wait->kind = WAIT_QUIESCE;
    }
    winode_changed(wi);
}

void writer_resume(struct writer *w, struct inode *in)
{
    struct winode *wi = winode_find(in);
    if (wi == NULL || wi->holders == 0) {
        return; /* forgotten meanwhile */
    }
    wi->holders--;
    writer_pump(wi);
    winode_changed(wi);
    writer_deliver_soon(w);
}

void writer_outline(struct writer *w, struct inode *in, struct writer_wait *wait)
{
    struct winode *wi = winode_get(w, in);
    if (commit_fits_inline(wi) || commit_server_inline(wi)) {
        w->stamp++;
        const int rc = commit_server_inline(wi) ? commit_load_content(wi) : 0;
        if (rc != 0) {
            wait_begin(w, in, wait, WAIT_FLUSH);
            settle(w, wait, rc);
            winode_changed(wi);
            return;
        }
        wi->outline = true; /* until the barrier has passed */
    }
    writer_flush(w, in, wait);
    if (in->writer_state != NULL) {
        winode_changed(in->writer_state);
    }
}
