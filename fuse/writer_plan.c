#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "fuse/writer_internal.h"

/* Which dirty pages become which stripe. Streams: a run of contiguous whole pages that reached a
 * full stripe goes at once. Flush: all that the barrier counts, in order of the file: long runs as
 * RS stripes, short ones packed together. */

static bool whole_to_next(const struct writer *w, uint32_t p, uint32_t next)
{
    return page_to(w, p) == PAGE_BYTES && page_from(w, next) == 0 &&
           page_number(w, next) == page_number(w, p) + 1;
}

static unsigned full_pages(const struct stripe_choice *c)
{
    return c->code.k * (unsigned)(STRIPE_FRAGMENT_MAX / PAGE_BYTES);
}

static void want_later(struct winode *wi)
{
    if (list_empty(&wi->pending)) {
        list_add_tail(&wi->w->pending, &wi->pending);
    }
}

/* ---- streams ---- */

/* The n pages from run_from on; false if one of them cannot be sent now (then the run begins behind
 * it). */
static bool take_run(struct winode *wi, unsigned n, uint32_t *out)
{
    for (unsigned i = 0; i < n; i++) {
        const int64_t p = pages_find_whole_idle(wi, wi->run_from + i);
        if (p < 0) {
            wi->run_from += i + 1; /* what is left behind goes with a flush */
            return false;
        }
        out[i] = (uint32_t)p;
    }
    return true;
}

void plan_stream(struct winode *wi)
{
    struct writer *w = wi->w;
    uint32_t *pages = NULL;
    const unsigned most = RS_K_MAX * (unsigned)(STRIPE_FRAGMENT_MAX / PAGE_BYTES);
    const unsigned full = w->client->policy.k * (unsigned)(STRIPE_FRAGMENT_MAX / PAGE_BYTES);
    while (wi->run_to >= wi->run_from + full) {
        struct target target;
        if (!stripes_may_start(wi) || target_choose(w, false, &target) != 0) {
            want_later(wi);
            break;
        }
        if (pages == NULL) {
            pages = xmalloc(most * sizeof *pages);
        }
        const unsigned n = full_pages(&target.choice);
        if (take_run(wi, n, pages)) {
            wi->run_from += n;
            stripe_start(wi, &target, pages, n);
        }
    }
    free(pages);
}

/* ---- flush ---- */

static int compare_entries(const void *a, const void *b)
{
    const struct plan_entry *x = a, *y = b;
    if (x->number != y->number) {
        return x->number < y->number ? -1 : 1;
    }
    return x->from < y->from ? -1 : x->from > y->from;
}

static bool plan_make(struct winode *wi)
{
    struct writer *w = wi->w;
    const bool all = commit_server_inline(wi); /* its content has to go as well */
    wi->plan_at = wi->plan_n = 0;
    if (wi->n_idle == 0) {
        return false;
    }
    wi->plan = xrealloc(wi->plan, wi->n_idle * sizeof *wi->plan);
    bool sorted = true;
    list_for_each (node, &wi->idle) {
        const struct wpage *wp = list_entry(node, struct wpage, at);
        const uint32_t p = page_index(w, wp);
        if ((all || wp->since <= wi->barrier) && !pages_older_in_flight(wi, p)) {
            wi->plan[wi->plan_n] = (struct plan_entry){
                .number = page_number(w, p), .page = p, .from = page_from(w, p)};
            if (wi->plan_n > 0 &&
                compare_entries(&wi->plan[wi->plan_n - 1], &wi->plan[wi->plan_n]) > 0) {
                sorted = false;
            }
            wi->plan_n++;
        }
    }
    if (!sorted) {
        qsort(wi->plan, wi->plan_n, sizeof *wi->plan, compare_entries);
    }
    return wi->plan_n > 0;
}

/* The plan is as old as its making: pages may have been sent, merged, dropped meanwhile. */
static bool still_there(const struct winode *wi, const struct plan_entry *e)
{
    const struct writer *w = wi->w;
    const struct wpage *wp = &w->page[e->page];
    return wp->state == PAGE_IDLE && wp->owner == wi && page_number(w, e->page) == e->number &&
           !pages_older_in_flight(wi, e->page);
}

struct batch {
    uint32_t *page;
    unsigned *at; /* place in the plan of each */
    unsigned n, extents, max;
};

/* Appends the run that begins at plan entry `at`, up to max pages in all; returns its length. */
static unsigned add_run(const struct winode *wi, unsigned at, struct batch *b)
{
    unsigned n = 0;
    for (; at < wi->plan_n && b->n < b->max; at++) {
        const struct plan_entry *e = &wi->plan[at];
        if (!still_there(wi, e)) {
            continue;
        }
        if (n > 0 && !whole_to_next(wi->w, b->page[b->n - 1], e->page)) {
            break;
        }
        b->page[b->n] = e->page;
        b->at[b->n++] = at;
        n++;
    }
    b->extents += n > 0;
    return n;
}

/* The next pages to send together: one long run, or several short ones. */
static void next_batch(const struct winode *wi, struct batch *b)
{
    const unsigned k = wi->w->client->policy.k, long_run = k * RS_LEAST_PAGES;
    b->n = b->extents = 0;
    b->max = k * (unsigned)(STRIPE_FRAGMENT_MAX / PAGE_BYTES);
    unsigned run = add_run(wi, wi->plan_at, b);
    if (run == 0 || run >= long_run) {
        return;
    }
    b->max = PACK_PAGES;
    while (b->extents < PACK_EXTENTS && b->n < b->max) {
        const unsigned before = b->n;
        run = add_run(wi, b->at[b->n - 1] + 1, b);
        if (run == 0) {
            return;
        }
        if (run >= long_run) { /* goes by itself, next time */
            b->n = before;
            b->extents--;
            return;
        }
    }
}

static int flush_next(struct winode *wi, struct batch *b)
{
    struct writer *w = wi->w;
    next_batch(wi, b);
    if (b->n == 0) {
        wi->plan_at = wi->plan_n;
        return 0;
    }
    struct target target;
    const bool small = b->n < w->client->policy.k * (unsigned)RS_LEAST_PAGES;
    const int rc = target_choose(w, small, &target);
    if (rc == 0) {
        const unsigned fit = full_pages(&target.choice);
        const unsigned n = b->n < fit ? b->n : fit;
        wi->plan_at = b->at[n - 1] + 1;
        stripe_start(wi, &target, b->page, n);
    }
    return rc;
}

int plan_flush(struct winode *wi)
{
    int rc = 0;
    if (wi->plan_at >= wi->plan_n && !plan_make(wi)) {
        return 0;
    }
    const size_t most = RS_K_MAX * (size_t)(STRIPE_FRAGMENT_MAX / PAGE_BYTES);
    struct batch b = {.page = xmalloc(most * sizeof *b.page), .at = xmalloc(most * sizeof *b.at)};
    while (rc == 0 && (wi->plan_at < wi->plan_n || plan_make(wi))) {
        if (!stripes_may_start(wi)) {
            rc = -EAGAIN;
            break;
        }
        rc = flush_next(wi, &b);
    }
    if (rc == -EAGAIN) {
        want_later(wi);
        rc = 0;
    }
    free(b.page);
    free(b.at);
    return rc;
}
