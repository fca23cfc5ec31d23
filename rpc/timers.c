#include "rpc/timers.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"

void timers_init(struct timers *ts, uint64_t now_ms)
{
    *ts = (struct timers){.now_ms = now_ms};
}

void timers_release(struct timers *ts)
{
    free(ts->heap);
    *ts = (struct timers){.now_ms = ts->now_ms};
}

uint64_t timers_now(struct timers *ts)
{
    if (ts->clock != NULL) {
        uint64_t now = ts->clock();
        ts->now_ms = now > ts->now_ms ? now : ts->now_ms;
    }
    return ts->now_ms;
}

static bool earlier(const struct timer *a, const struct timer *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

static void put_at(struct timers *ts, struct timer *t, unsigned place)
{
    ts->heap[place] = t;
    t->place = place;
}

static void sift_up(struct timers *ts, struct timer *t, unsigned place)
{
    while (place > 1 && earlier(t, ts->heap[place / 2])) {
        put_at(ts, ts->heap[place / 2], place);
        place /= 2;
    }
    put_at(ts, t, place);
}

static void sift_down(struct timers *ts, struct timer *t, unsigned place)
{
    while (place * 2 <= ts->n) {
        unsigned child = place * 2;
        if (child < ts->n && earlier(ts->heap[child + 1], ts->heap[child])) {
            child++;
        }
        if (!earlier(ts->heap[child], t)) {
            break;
        }
        put_at(ts, ts->heap[child], place);
        place = child;
    }
    put_at(ts, t, place);
}

void timers_stop(struct timers *ts, struct timer *t)
{
    if (t->place == 0) {
        return;
    }
    unsigned place = t->place;
    CHECK(place <= ts->n && ts->heap[place] == t);
    t->place = 0;
    struct timer *last = ts->heap[ts->n--];
    if (last != t) {
        sift_up(ts, last, place);
        sift_down(ts, last, last->place);
    }
}

void timers_arm(struct timers *ts, struct timer *t, uint64_t at_ms)
{
    timers_stop(ts, t);
    if (ts->n + 2 > ts->cap) {
        ts->cap = ts->cap == 0 ? 64 : ts->cap * 2;
        ts->heap = xrealloc(ts->heap, ts->cap * sizeof ts->heap[0]);
    }
    t->at_ms = at_ms;
    t->order = ++ts->armed;
    sift_up(ts, t, ++ts->n);
}

uint64_t timers_next(const struct timers *ts)
{
    return ts->n == 0 ? UINT64_MAX : ts->heap[1]->at_ms;
}

/* What is armed meanwhile waits for the next run, so a timer that arms itself for "now" cannot
 * keep us here for ever. */
void timers_run(struct timers *ts, uint64_t now_ms)
{
    if (now_ms > ts->now_ms) {
        ts->now_ms = now_ms;
    }
    uint64_t limit = ts->armed;
    while (ts->n != 0 && ts->heap[1]->at_ms <= now_ms && ts->heap[1]->order <= limit) {
        struct timer *t = ts->heap[1];
        timers_stop(ts, t);
        t->on_due(t);
    }
}
