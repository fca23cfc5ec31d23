#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "fuse/writer_internal.h"

/* Page records: the arena has what must survive, the heap the index. See writer_internal.h for the
 * states and for what may overlap; this file keeps both true at every publish.
 *
 * A WRITE to a page: all records that it touches become one. Its target is an idle or clean one
 * among them, else a new one. The target gets what the others have outside of the new bytes, then
 * the new bytes; then its word is published with the whole range and a fresh stamp; then the others
 * are freed, or superseded if they are in flight. Killed before the publish, the WRITE is executed
 * again (arena.h, rule 4); killed after it, the rebuild finds older records inside a newer one and
 * drops them. */

/* Neighbours of a file lie in neighbouring buckets: a stream touches a new cache line of the index
 * each eight pages. */
static uint64_t key_of(uint64_t ino, uint64_t number)
{
    return (table_mix2(ino, number / 16) & ~(uint64_t)15) | number % 16;
}

static struct wpage *match(const struct writer *w, struct table_node *node, uint64_t ino,
                           uint64_t number)
{
    for (; node != NULL; node = table_next_same(node)) {
        struct wpage *wp = container_of(node, struct wpage, node);
        const struct arena_page *record = &w->arena->page[wp - w->page];
        if (record->ino == ino && record->number == number) {
            return wp;
        }
    }
    return NULL;
}

static struct wpage *first_of(const struct writer *w, uint64_t ino, uint64_t number)
{
    return match(w, table_find(&w->index, key_of(ino, number)), ino, number);
}

static struct wpage *next_of(const struct writer *w, struct wpage *wp)
{
    const struct arena_page *record = &w->arena->page[wp - w->page];
    return match(w, table_next_same(&wp->node), record->ino, record->number);
}

void pages_init(struct writer *w)
{
    w->n_pages = w->arena->h->sizes.pages;
    w->page = xcalloc(w->n_pages, sizeof *w->page);
    w->free_page = xcalloc(w->n_pages, sizeof *w->free_page);
    table_init(&w->index);
    list_init(&w->lru);
    for (unsigned i = w->n_pages;
         i-- > 0;) { /* lowest on top: neighbours in a file are neighbours here */
        list_init(&w->page[i].at);
        list_init(&w->page[i].lru);
        if (w->arena->page[i].word == 0) {
            w->free_page[w->n_free++] = i;
        }
    }
}

void pages_release(struct writer *w)
{
    table_release(&w->index);
    free(w->page);
    free(w->free_page);
}

unsigned pages_room(const struct writer *w)
{
    return w->n_free + w->n_clean;
}

/* ---- moving between states: counters live here ---- */

static void leave_state(struct winode *wi, struct wpage *wp)
{
    struct writer *w = wi->w;
    const uint32_t p = page_index(w, wp);
    const unsigned bytes = page_to(w, p) - page_from(w, p);
    if (wp->state == PAGE_CLEAN) {
        wi->n_clean--;
        w->n_clean--;
        list_remove(&wp->lru);
    } else {
        wi->n_idle -= wp->state == PAGE_IDLE;
        wi->n_flight -= wp->state == PAGE_FLIGHT;
        w->n_dirty--;
        w->n_paid -= wp->paid;
        wi->dirty_bytes -= wp->superseded ? 0 : bytes;
        if (wi->barrier_on && wp->since <= wi->barrier) {
            wi->barrier_pages--;
        }
    }
    list_remove(&wp->at);
}

static void enter_state(struct winode *wi, struct wpage *wp, enum page_state state)
{
    struct writer *w = wi->w;
    const uint32_t p = page_index(w, wp);
    const unsigned bytes = page_to(w, p) - page_from(w, p);
    wp->state = (uint8_t)state;
    wp->owner = wi;
    if (state == PAGE_CLEAN) {
        wp->paid = false;
        wi->n_clean++;
        w->n_clean++;
        list_add_tail(&wi->clean, &wp->at);
        list_add_tail(&w->lru, &wp->lru);
        return;
    }
    wi->n_idle += state == PAGE_IDLE;
    wi->n_flight += state == PAGE_FLIGHT;
    w->n_dirty++;
    w->n_paid += wp->paid;
    wi->dirty_bytes += wp->superseded ? 0 : bytes;
    if (wi->barrier_on && wp->since <= wi->barrier) {
        wi->barrier_pages++;
    }
    list_add_tail(state == PAGE_IDLE ? &wi->idle : &wi->flight, &wp->at);
}

void pages_free(struct winode *wi, uint32_t p)
{
    struct writer *w = wi->w;
    struct wpage *wp = &w->page[p];
    leave_state(wi, wp);
    arena_publish64(&w->arena->page[p].word, 0);
    table_remove(&w->index, &wp->node);
    wp->state = PAGE_FREE;
    wp->owner = NULL;
    wp->superseded = wp->paid = false;
    w->free_page[w->n_free++] = p;
}

static void drop_seen(struct winode *wi)
{
    if (wi->inode != NULL) {
        wi->inode->pages_dropped++; /* a read that counts on this page plans again */
    }
}

static uint32_t page_alloc(struct writer *w)
{
    if (w->n_free == 0) {
        struct wpage *coldest = list_first(&w->lru, struct wpage, lru);
        CHECK(coldest != NULL); /* writer_write asked for room */
        struct winode *owner = coldest->owner;
        drop_seen(owner);
        pages_free(owner, page_index(w, coldest));
    }
    return w->free_page[--w->n_free];
}

void pages_take_off(struct winode *wi, uint32_t p)
{
    struct wpage *wp = &wi->w->page[p];
    CHECK(wp->state == PAGE_IDLE && wp->owner == wi);
    leave_state(wi, wp);
    enter_state(wi, wp, PAGE_FLIGHT);
}

/* The record that superseded this one now stands for its bytes, too: a flush that counted on them
 * waits for it. It is idle: no page is sent while an older record of it is in flight. */
static void since_as_old(struct winode *wi, const struct wpage *older)
{
    struct writer *w = wi->w;
    const uint32_t p = page_index(w, older);
    for (struct wpage *wp = first_of(w, wi->ino, page_number(w, p)); wp != NULL;
         wp = next_of(w, wp)) {
        const uint32_t q = page_index(w, wp);
        if (wp->state == PAGE_IDLE && page_from(w, q) <= page_from(w, p) &&
            page_to(w, q) >= page_to(w, p) && wp->since > older->since) {
            leave_state(wi, wp);
            wp->since = older->since;
            enter_state(wi, wp, PAGE_IDLE);
            return;
        }
    }
}

void pages_put_back(struct winode *wi, uint32_t p)
{
    struct wpage *wp = &wi->w->page[p];
    CHECK(wp->state == PAGE_FLIGHT && wp->owner == wi);
    if (wp->superseded && !wi->gone) {
        since_as_old(wi, wp);
    }
    if (wp->superseded || wi->gone) {
        pages_free(wi, p); /* the newer record has all of it, or nobody wants it */
        return;
    }
    leave_state(wi, wp);
    enter_state(wi, wp, PAGE_IDLE);
}

void pages_committed(struct winode *wi, uint32_t p)
{
    struct wpage *wp = &wi->w->page[p];
    CHECK(wp->state == PAGE_FLIGHT && wp->owner == wi);
    if (wp->superseded || wi->gone) {
        pages_free(wi, p);
        return;
    }
    leave_state(wi, wp);
    uint64_t *word = &wi->w->arena->page[p].word;
    arena_publish64(
        word, arena_page_word(ARENA_PAGE_CLEAN, arena_page_from(*word), arena_page_to(*word)));
    enter_state(wi, wp, PAGE_CLEAN);
}

/* ---- putting bytes in ---- */

static void fresh(struct winode *wi, uint64_t number, unsigned from, unsigned to,
                  const uint8_t *src)
{
    struct writer *w = wi->w;
    const uint32_t p = page_alloc(w);
    struct arena_page *record = &w->arena->page[p];
    uint8_t *data = page_data(w, p);
    if (to - from < PAGE_BYTES || src == NULL) {
        memset(data, 0, PAGE_BYTES); /* what another file left here must not get into a stripe */
    }
    if (src != NULL) {
        memcpy(data + from, src, to - from);
    }
    record->ino = wi->ino;
    record->number = number;
    record->stamp = w->stamp;
    arena_publish64(&record->word, arena_page_word(ARENA_PAGE_DIRTY, from, to));
    struct wpage *wp = &w->page[p];
    wp->since = w->stamp;
    wp->superseded = false;
    table_add(&w->index, &wp->node, key_of(wi->ino, number));
    enter_state(wi, wp, PAGE_IDLE);
}

/* Bytes of record `from_p` outside of [from, to) go to the same places of `to_p`. */
static void copy_outside(struct writer *w, uint32_t to_p, uint32_t from_p, unsigned from,
                         unsigned to)
{
    const unsigned a = page_from(w, from_p), b = page_to(w, from_p);
    const unsigned head = b < from ? b : from, tail = a > to ? a : to;
    if (a < head) {
        memcpy(page_data(w, to_p) + a, page_data(w, from_p) + a, head - a);
    }
    if (tail < b) {
        memcpy(page_data(w, to_p) + tail, page_data(w, from_p) + tail, b - tail);
    }
}

static bool touches(const struct writer *w, uint32_t p, unsigned from, unsigned to)
{
    return from <= page_to(w, p) && to >= page_from(w, p);
}

/* The record that takes the new bytes: an idle or clean one that they touch. A new one if there is
 * none. */
static uint32_t choose_target(struct winode *wi, struct wpage *first, unsigned from, unsigned to,
                              uint64_t number)
{
    struct writer *w = wi->w;
    for (struct wpage *wp = first; wp != NULL; wp = next_of(w, wp)) {
        if (!wp->superseded && wp->state != PAGE_FLIGHT &&
            touches(w, page_index(w, wp), from, to)) {
            leave_state(wi, wp);
            return page_index(w, wp);
        }
    }
    const uint32_t p = page_alloc(w);
    struct arena_page *record = &w->arena->page[p];
    memset(page_data(w, p), 0, PAGE_BYTES);
    record->ino = wi->ino;
    record->number = number;
    w->page[p].state = PAGE_FREE;
    w->page[p].superseded = false;
    return p;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void merge(struct winode *wi, struct wpage *first, unsigned from, unsigned to,
                  const uint8_t *src)
{
    struct writer *w = wi->w;
    const uint64_t number = page_number(w, page_index(w, first));
    const uint32_t target = choose_target(wi, first, from, to, number);
    struct wpage *wp = &w->page[target];
    const bool is_new = wp->state == PAGE_FREE;
    uint64_t since = wp->state == PAGE_IDLE ? wp->since : w->stamp;
    unsigned low = from, high = to;
    if (!is_new) {
        low = page_from(w, target) < low ? page_from(w, target) : low;
        high = page_to(w, target) > high ? page_to(w, target) : high;
    }
    struct wpage *other[PAGE_BYTES / 2];
    unsigned n_others = 0;
    /* page_alloc may have evicted a clean record of this page: look from the start. */
    for (struct wpage *o = first_of(w, wi->ino, number); o != NULL; o = next_of(w, o)) {
        const uint32_t p = page_index(w, o);
        if (p != target && !o->superseded && touches(w, p, from, to) &&
            n_others < array_count(other)) {
            copy_outside(w, target, p, from, to);
            low = page_from(w, p) < low ? page_from(w, p) : low;
            high = page_to(w, p) > high ? page_to(w, p) : high;
            since = o->state == PAGE_IDLE ? least(since, o->since) : since;
            other[n_others++] = o;
        }
    }
    if (src != NULL) {
        memcpy(page_data(w, target) + from, src, to - from);
    } else {
        memset(page_data(w, target) + from, 0, to - from);
    }
    w->arena->page[target].stamp = w->stamp;
    arena_publish64(&w->arena->page[target].word, arena_page_word(ARENA_PAGE_DIRTY, low, high));
    if (is_new) {
        table_add(&w->index, &wp->node, key_of(wi->ino, number));
    }
    wp->since = since;
    enter_state(wi, wp, PAGE_IDLE);
    for (unsigned i = 0; i < n_others; i++) {
        const uint32_t p = page_index(w, other[i]);
        if (other[i]->state == PAGE_FLIGHT) {
            wi->dirty_bytes -= page_to(w, p) - page_from(w, p);
            other[i]->superseded = true;
        } else {
            pages_free(wi, p);
        }
    }
}

void pages_put(struct winode *wi, uint64_t number, unsigned from, unsigned to, const uint8_t *src)
{
    struct writer *w = wi->w;
    struct wpage *first = first_of(w, wi->ino, number);
    for (struct wpage *wp = first; wp != NULL; wp = next_of(w, wp)) {
        if (!wp->superseded && touches(w, page_index(w, wp), from, to)) {
            merge(wi, first, from, to, src);
            return;
        }
    }
    fresh(wi, number, from, to, src);
}

void pages_pay(struct winode *wi, uint64_t number, unsigned from, unsigned to)
{
    struct writer *w = wi->w;
    for (struct wpage *wp = first_of(w, wi->ino, number); wp != NULL; wp = next_of(w, wp)) {
        const uint32_t p = page_index(w, wp);
        if (wp->state == PAGE_IDLE && page_from(w, p) <= from && page_to(w, p) >= to && !wp->paid) {
            wp->paid = true;
            w->n_paid++;
            return;
        }
    }
}

/* ---- looking ---- */

bool pages_in_flight(const struct winode *wi, uint64_t number)
{
    const struct writer *w = wi->w;
    for (struct wpage *wp = first_of(w, wi->ino, number); wp != NULL; wp = next_of(w, wp)) {
        if (wp->state == PAGE_FLIGHT) {
            return true;
        }
    }
    return false;
}

bool pages_older_in_flight(const struct winode *wi, uint32_t p)
{
    return pages_in_flight(wi, page_number(wi->w, p));
}

int64_t pages_find_whole_idle(const struct winode *wi, uint64_t number)
{
    const struct writer *w = wi->w;
    int64_t found = -1;
    for (struct wpage *wp = first_of(w, wi->ino, number); wp != NULL; wp = next_of(w, wp)) {
        const uint32_t p = page_index(w, wp);
        if (wp->state == PAGE_FLIGHT) {
            return -1;
        }
        if (wp->state == PAGE_IDLE && page_from(w, p) == 0 && page_to(w, p) == PAGE_BYTES) {
            found = p;
        }
    }
    return found;
}

bool pages_cover(struct writer *w, const struct winode *wi, uint64_t offset, uint64_t len)
{
    const uint64_t end = offset + len;
    for (uint64_t at = offset; at < end;) {
        const uint64_t number = at / PAGE_BYTES, base = number * PAGE_BYTES;
        const unsigned from = (unsigned)(at - base);
        const unsigned to = (unsigned)least(end - base, PAGE_BYTES);
        unsigned have = 0;
        for (struct wpage *wp = first_of(w, wi->ino, number); wp != NULL; wp = next_of(w, wp)) {
            const uint32_t p = page_index(w, wp);
            const unsigned a = page_from(w, p) > from ? page_from(w, p) : from;
            const unsigned b = page_to(w, p) < to ? page_to(w, p) : to;
            have += !wp->superseded && a < b ? b - a : 0; /* disjoint, so they add up */
        }
        if (have < to - from) {
            return false;
        }
        at = base + to;
    }
    return true;
}

void writer_overlay(struct writer *w, const struct inode *in, uint64_t offset, uint8_t *to,
                    size_t len)
{
    const struct winode *wi = in->writer_state;
    if (wi == NULL || wi->n_idle + wi->n_flight + wi->n_clean == 0) {
        return;
    }
    const uint64_t end = offset + len;
    for (uint64_t base = offset - offset % PAGE_BYTES; base < end; base += PAGE_BYTES) {
        for (struct wpage *wp = first_of(w, wi->ino, base / PAGE_BYTES); wp != NULL;
             wp = next_of(w, wp)) {
            const uint32_t p = page_index(w, wp);
            uint64_t a = base + page_from(w, p), b = base + page_to(w, p);
            a = a < offset ? offset : a;
            b = b > end ? end : b;
            if (!wp->superseded && a < b) {
                memcpy(to + (a - offset), page_data(w, p) + (a - base), b - a);
            }
        }
    }
}

bool writer_covers(struct writer *w, const struct inode *in, uint64_t offset, size_t len)
{
    const struct winode *wi = in->writer_state;
    return wi != NULL && pages_cover(w, wi, offset, len);
}

bool writer_touches(struct writer *w, const struct inode *in, uint64_t offset, size_t len)
{
    const struct winode *wi = in->writer_state;
    if (wi == NULL || wi->n_idle + wi->n_flight + wi->n_clean == 0) {
        return false;
    }
    for (uint64_t number = offset / PAGE_BYTES; number * PAGE_BYTES < offset + len; number++) {
        if (first_of(w, wi->ino, number) != NULL) {
            return true;
        }
    }
    return false;
}

/* ---- taking bytes out ---- */

static void set_range(struct winode *wi, uint32_t p, unsigned from, unsigned to)
{
    struct wpage *wp = &wi->w->page[p];
    const enum page_state state = wp->state;
    leave_state(wi, wp);
    arena_publish64(
        &wi->w->arena->page[p].word,
        arena_page_word(state == PAGE_CLEAN ? ARENA_PAGE_CLEAN : ARENA_PAGE_DIRTY, from, to));
    enter_state(wi, wp, state);
}

/* Of one record: nothing is left of [from, to), byte offsets in the file. */
static void drop_part(struct winode *wi, uint32_t p, uint64_t from, uint64_t to)
{
    struct writer *w = wi->w;
    const uint64_t base = page_number(w, p) * PAGE_BYTES;
    const uint64_t a = base + page_from(w, p), b = base + page_to(w, p);
    if (b <= from || a >= to) {
        return;
    }
    drop_seen(wi);
    if ((a >= from && b <= to) || w->page[p].state == PAGE_CLEAN) {
        pages_free(wi, p);
    } else if (a >= from) {
        set_range(wi, p, (unsigned)(to - base), (unsigned)(b - base));
    } else if (b <= to) {
        set_range(wi, p, (unsigned)(a - base), (unsigned)(from - base));
    } else {
        memset(page_data(w, p) + (from - base), 0,
               to - from); /* zero is what is to be read there */
    }
}

void pages_drop(struct winode *wi, struct list *which, uint64_t from, uint64_t to)
{
    struct list mine;
    list_take_all(which, &mine); /* set_range appends to the list */
    while (!list_empty(&mine)) {
        struct wpage *wp = list_first(&mine, struct wpage, at);
        list_remove(&wp->at);
        list_add_tail(which, &wp->at);
        drop_part(wi, page_index(wi->w, wp), from, to);
    }
}

void pages_dirty_again(struct winode *wi, uint64_t from, uint64_t to)
{
    struct writer *w = wi->w;
    for (uint64_t number = from / PAGE_BYTES; number * PAGE_BYTES < to; number++) {
        for (struct wpage *wp = first_of(w, wi->ino, number); wp != NULL; wp = next_of(w, wp)) {
            if (wp->state != PAGE_CLEAN) {
                continue;
            }
            struct arena_page *record = &w->arena->page[page_index(w, wp)];
            leave_state(wi, wp);
            record->stamp = w->stamp;
            arena_publish64(&record->word,
                            arena_page_word(ARENA_PAGE_DIRTY, arena_page_from(record->word),
                                            arena_page_to(record->word)));
            wp->since = w->stamp;
            enter_state(wi, wp, PAGE_IDLE);
        }
    }
}

/* ---- after a restart ---- */

/* A record that a newer one overlaps: what it has outside of the newer one moves there. */
static void rebuild_join(struct winode *wi, uint32_t older, uint32_t newer)
{
    struct writer *w = wi->w;
    struct wpage *wp = &w->page[newer];
    copy_outside(w, newer, older, page_from(w, newer), page_to(w, newer));
    const unsigned low =
        page_from(w, older) < page_from(w, newer) ? page_from(w, older) : page_from(w, newer);
    const unsigned high =
        page_to(w, older) > page_to(w, newer) ? page_to(w, older) : page_to(w, newer);
    set_range(wi, page_index(w, wp), low, high);
    pages_free(wi, older);
}

static void rebuild_page(struct writer *w, uint32_t p)
{
    const struct arena_page *record = &w->arena->page[p];
    struct winode *wi = winode_get(w, itable_get(w->client->itable, record->ino));
    struct wpage *wp = &w->page[p];
    wp->since = record->stamp;
    table_add(&w->index, &wp->node, key_of(record->ino, record->number));
    enter_state(wi, wp, PAGE_IDLE);
    w->stamp = record->stamp > w->stamp ? record->stamp : w->stamp;
    for (bool again = true; again;) {
        again = false;
        for (struct wpage *o = first_of(w, wi->ino, record->number); o != NULL; o = next_of(w, o)) {
            const uint32_t q = page_index(w, o);
            if (q == p || page_from(w, q) >= page_to(w, p) || page_to(w, q) <= page_from(w, p)) {
                continue;
            }
            const bool q_newer = w->arena->page[q].stamp > record->stamp;
            rebuild_join(wi, q_newer ? p : q, q_newer ? q : p);
            again = !q_newer;
            break;
        }
    }
}

void pages_rebuild(struct writer *w)
{
    for (uint32_t p = 0; p < w->n_pages; p++) {
        const uint64_t word = w->arena->page[p].word;
        if (arena_page_state_of(word) == ARENA_PAGE_DIRTY &&
            arena_page_from(word) < arena_page_to(word) && arena_page_to(word) <= PAGE_BYTES) {
            rebuild_page(w, p);
        } else if (word != 0) { /* clean: the server has it */
            arena_publish64(&w->arena->page[p].word, 0);
            w->free_page[w->n_free++] = p;
        }
    }
}
