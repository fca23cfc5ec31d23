#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "fuse/writer_internal.h"

/* What changes dirty data from above, and what looks at it: the kernel's WRITE, truncation, holes.
 */

static uint64_t now_ms(const struct writer *w)
{
    return w->client->timers->now_ms;
}

/* ---- writing ---- */

static struct arena_inode *record_get(struct winode *wi)
{
    struct writer *w = wi->w;
    if (wi->inode->dirty == NULL) {
        struct arena_inode *record = &w->arena->inode[w->free_record[--w->n_free_records]];
        record->size = 0;
        record->mtime = 0;
        record->flags = 0;
        record->error = 0;
        record->errors = 0;
        arena_publish64(&record->ino, wi->ino);
        wi->inode->dirty = record;
    }
    return wi->inode->dirty;
}

enum { KIND_RESERVED = 2 };

/* A write that is to be admitted. */
struct admission {
    uint64_t offset, end, pages;
    bool looks; /* for pages that a reservation pays for */
};

static uint64_t first_page(const struct admission *a)
{
    return a->offset / PAGE_BYTES;
}

/* The bytes of page `number` that are written. */
static void page_part(const struct admission *a, uint64_t number, uint64_t *from, uint64_t *to)
{
    const uint64_t base = number * PAGE_BYTES;
    *from = a->offset > base ? a->offset : base;
    *to = a->end < base + PAGE_BYTES ? a->end : base + PAGE_BYTES;
}

/* Bytes of [from, to) in reserved extents, as far as the cache knows. */
static uint64_t reserved_in(const struct inode *in, uint64_t from, uint64_t to)
{
    uint64_t sum = 0;
    from = from > in->extents_from ? from : in->extents_from;
    to = to < in->extents_to ? to : in->extents_to;
    for (unsigned i = itable_extent_at(in, from); i < in->n_extents && from < to; i++) {
        const struct iextent *e = &in->extent[i];
        const uint64_t a = e->offset > from ? e->offset : from;
        const uint64_t b = e->offset + e->length < to ? e->offset + e->length : to;
        if (e->offset >= to) {
            break;
        }
        sum += e->kind == KIND_RESERVED && a < b ? b - a : 0;
    }
    return sum;
}

/* Room for a page was set aside once. So it pays for the first bytes of a page that is wholly
 * reserved, and for the last ones of another; and not while an earlier version of the page is on
 * its way there. */
static bool page_is_paid(const struct inode *in, const struct admission *a, uint64_t number)
{
    const struct winode *wi = winode_find(in);
    const uint64_t base = number * PAGE_BYTES;
    uint64_t from, to;
    page_part(a, number, &from, &to);
    const uint64_t there = reserved_in(in, base, base + PAGE_BYTES);
    return reserved_in(in, from, to) == to - from && (there == PAGE_BYTES || there == to - from) &&
           (wi == NULL || !pages_in_flight(wi, number));
}

static uint64_t unpaid_pages(const struct inode *in, const struct admission *a)
{
    uint64_t n = a->pages;
    for (uint64_t i = 0; a->looks && i < a->pages; i++) {
        n -= page_is_paid(in, a, first_page(a) + i);
    }
    return n;
}

bool writer_wants_layout(const struct writer *w, const struct inode *in, uint64_t offset,
                         uint64_t len)
{
    return w->credit_short_ms != 0 && in->st.st_blocks > 0 &&
           (offset < in->extents_from || offset + len > in->extents_to);
}

/* Whether the bytes may be acknowledged: 0, -EAGAIN or the error. */
static int admit(struct writer *w, const struct inode *in, struct admission *a)
{
    if (w->ended) {
        return -EIO;
    }
    const uint64_t used = w->credit_used + w->reserving;
    const uint64_t left = w->credit > used ? w->credit - used : 0;
    a->looks = w->space_rc != 0 || raw_worst(w, writer_promised(w) + a->pages * PAGE_BYTES) > left;
    const uint64_t unpaid = unpaid_pages(in, a);
    if (unpaid > 0 && w->space_rc != 0) {
        return w->space_rc;
    }
    if (unpaid > 0 && raw_worst(w, writer_promised(w) + unpaid * PAGE_BYTES) > left) {
        if (w->credit_short_ms == 0) {
            w->credit_short_ms = now_ms(w) + 1;
        }
        writer_pressure(w);
        return now_ms(w) + 1 - w->credit_short_ms >= CREDIT_WAIT_MS &&
                       !writer_wants_layout(w, in, a->offset, a->end - a->offset)
                   ? -ENOSPC
                   : -EAGAIN;
    }
    w->credit_short_ms = a->looks ? w->credit_short_ms : 0;
    if (!writer_has_room(w, (unsigned)a->pages) || (in->dirty == NULL && w->n_free_records == 0)) {
        writer_pressure(w);
        return -EAGAIN;
    }
    if (w->n_dirty > w->n_pages / 2) {
        writer_pressure(w);
    }
    return 0;
}

static void note_meta(struct winode *wi, uint64_t end, unsigned flags)
{
    struct arena_inode *record = record_get(wi);
    uint32_t set = record->flags | ARENA_INODE_MTIME;
    record->mtime = (int64_t)clock_wall_ns();
    if (end > itable_size(wi->inode)) {
        arena_publish64(&record->size, end);
        set |= ARENA_INODE_SIZE;
    }
    if (flags & WRITER_KILL_PRIV) {
        set |= ARENA_INODE_KILL_PRIV;
    }
    arena_publish32(&record->flags, set);
    wi->meta_stamp = wi->w->stamp;
    if (wi->meta_since == 0) {
        wi->meta_since = wi->w->stamp;
    }
}

/* Extends the run of contiguous whole pages, or begins another. */
static void note_run(struct winode *wi, uint64_t offset, uint64_t end)
{
    const uint64_t first = (offset + PAGE_BYTES - 1) / PAGE_BYTES, last = end / PAGE_BYTES;
    const bool goes_on = offset / PAGE_BYTES <= wi->run_to && first >= wi->run_from &&
                         end / PAGE_BYTES >= wi->run_to;
    if (!goes_on) {
        wi->run_from = first;
        wi->run_to = first;
    }
    if (last > wi->run_to) {
        wi->run_to = last;
    }
}

static void put_bytes(struct winode *wi, const struct admission *a, const uint8_t *data)
{
    for (uint64_t i = 0; i < a->pages; i++) {
        const uint64_t number = first_page(a) + i, base = number * PAGE_BYTES;
        const bool paid = a->looks && page_is_paid(wi->inode, a, number);
        uint64_t from, to;
        page_part(a, number, &from, &to);
        pages_put(wi, number, (unsigned)(from - base), (unsigned)(to - base),
                  data + (from - a->offset));
        if (paid) {
            pages_pay(wi, number, (unsigned)(from - base), (unsigned)(to - base));
        }
    }
}

int writer_write(struct writer *w, struct inode *in, uint64_t offset, struct bytes data,
                 unsigned flags)
{
    if (data.len == 0) {
        return 0;
    }
    if (offset > INT64_MAX || data.len > INT64_MAX - offset) {
        return -EFBIG;
    }
    if (!in->attr_valid) {
        return -ENODATA;
    }
    const uint64_t end = offset + data.len;
    struct admission a = {
        .offset = offset, .end = end, .pages = (end - 1) / PAGE_BYTES - offset / PAGE_BYTES + 1};
    const int rc = admit(w, in, &a);
    if (rc != 0) {
        return rc;
    }
    struct winode *wi = winode_get(w, in);
    const bool was_dirty = winode_is_dirty(wi);
    w->stamp++;
    if (commit_server_inline(wi) && commit_load_content(wi) != 0) {
        winode_changed(wi);
        return -ENODATA;
    }
    put_bytes(wi, &a, data.data);
    note_meta(wi, end, flags);
    if (!was_dirty) {
        wi->dirty_since_ms = now_ms(w);
        wi->settled_to = w->stamp - 1;
    }
    note_run(wi, offset, end);
    writer_pump(wi);
    winode_changed(wi);
    return 0;
}

/* ---- taking bytes out ---- */

void writer_truncate(struct writer *w, struct inode *in, uint64_t size)
{
    writer_discard(w, in, size, UINT64_MAX - size);
    struct winode *wi = winode_find(in);
    if (wi == NULL || in->dirty == NULL) {
        return;
    }
    /* The command has set the size. */
    const uint32_t flags = in->dirty->flags & ~(uint32_t)ARENA_INODE_SIZE;
    arena_publish32(&in->dirty->flags, flags);
    if (flags == 0) {
        wi->meta_since = 0;
    }
    wi->run_from = wi->run_to = 0;
    winode_changed(wi);
}

void writer_discard(struct writer *w, struct inode *in, uint64_t offset, uint64_t length)
{
    struct winode *wi = winode_find(in);
    if (wi == NULL) {
        return;
    }
    const uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
    pages_drop(wi, &wi->idle, offset, end);
    pages_drop(wi, &wi->clean, offset, end);
    winode_changed(wi);
    writer_deliver_soon(w);
}

void writer_drop_clean(struct writer *w, struct inode *in, uint64_t offset, uint64_t length)
{
    struct winode *wi = winode_find(in);
    if (wi == NULL) {
        return;
    }
    const uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
    pages_drop(wi, &wi->clean, offset, end);
    winode_changed(wi);
    writer_deliver_soon(w);
}

void writer_forget(struct writer *w, struct inode *in)
{
    struct winode *wi = winode_find(in);
    if (wi != NULL) {
        winode_forget(wi);
        writer_deliver_soon(w);
    }
}

/* ---- looking ---- */

uint64_t writer_next_dirty(struct writer *w, const struct inode *in, uint64_t offset)
{
    const struct winode *wi = in->writer_state;
    uint64_t next = UINT64_MAX;
    if (wi == NULL) {
        return next;
    }
    const struct list *lists[] = {&wi->idle, &wi->flight};
    for (unsigned i = 0; i < array_count(lists); i++) {
        for (struct list *node = lists[i]->next; node != lists[i]; node = node->next) {
            const uint32_t p = page_index(w, list_entry(node, struct wpage, at));
            const uint64_t base = page_number(w, p) * PAGE_BYTES;
            const uint64_t from = base + page_from(w, p), to = base + page_to(w, p);
            if (to > offset) {
                const uint64_t at = from > offset ? from : offset;
                next = at < next ? at : next;
            }
        }
    }
    return next;
}

bool writer_dirty(const struct inode *in)
{
    const struct winode *wi = in->writer_state;
    return wi != NULL && (winode_is_dirty(wi) || !winode_quiet(wi) || wi->holders > 0 ||
                          !list_empty(&wi->waiters));
}

uint64_t writer_dirty_bytes(struct writer *w, const struct inode *in)
{
    (void)w;
    const struct winode *wi = in->writer_state;
    return wi == NULL ? 0 : wi->dirty_bytes;
}

uint64_t writer_total_dirty(const struct writer *w)
{
    return (uint64_t)w->n_dirty * PAGE_BYTES;
}
