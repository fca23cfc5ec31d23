#ifndef CFS_FUSE_WRITER_INTERNAL_H
#define CFS_FUSE_WRITER_INTERNAL_H

#include "base/prng.h"
#include "ec/rs.h"
#include "ec/stripe.h"
#include "fuse/tables.h"
#include "fuse/writer.h"

/* What the files of the writer share.
 *   writer.c         the calls of writer.h: who waits for what, timers, errors
 *   writer_write.c  WRITE, truncation, holes; what is dirty
 *   writer_pages.c   records in the arena and their index
 *   writer_plan.c    which dirty pages go into which stripe
 *   writer_stripe.c  ids, encoding, PUTs
 *   writer_commit.c  commits, inline content, attributes that are missing
 *
 * A page record: free -> idle (dirty, may still be changed) -> flight (in a stripe or an inline
 * commit: never changed, a WRITE makes a newer record) -> clean (committed, kept while there is
 * room) or free. Several records may exist for one page; those that are not superseded never
 * overlap, nor do idle ones touch. A record that is superseded is covered by a newer one and waits
 * only for its commit.
 *
 * A page is not put into a stripe while an older record of it is in flight; so all that is under
 * way of an inode is disjoint, and its stripes may be committed in any order.
 *
 * Flush: a *barrier* is the number of dirty pages, at one moment, that are not committed yet. There
 * is at most one per inode; who asks for a flush meanwhile waits for the next one. */
enum {
    PAGE_BYTES = ARENA_PAGE_BYTES,
    FLIGHT_FULL_STRIPES = 8, /* most bytes under way, in full stripes */
    FLIGHT_STRIPES_MAX = 64,
    FLIGHT_AWAITED = 2, /* full stripes more, 32 times as many small ones, that somebody waits for */
    FLIGHT_SLOW_MS = 150,
    FLIGHT_FAST_MS = 75,
    COMMITS_PER_INODE = 4,
    COMMIT_BATCH = 8, /* ready stripes that do not wait for the commit under way */
    PACK_PAGES = STRIPE_FRAGMENT_MAX / PAGE_BYTES, /* small runs packed into one stripe */
    PACK_EXTENTS = 48,
    RS_LEAST_PAGES = 16384 / PAGE_BYTES, /* times k: shorter goes as copies */
    PUT_MS = 3000,
    AGE_MS = 5000,
    TICK_MS = 100,
    RETRY_MS = 1000,
    CREDIT_WAIT_MS = 5000,
    ALLOC_RESERVE = 32 /* pages that a WRITE leaves for splitting and for content */
};

enum page_state { PAGE_FREE, PAGE_IDLE, PAGE_FLIGHT, PAGE_CLEAN };

struct wpage {              /* heap side of arena->page[i] */
    struct table_node node; /* in index, unless free */
    struct list at;         /* in its inode's idle, flight or clean */
    struct list lru;        /* in writer's lru when clean */
    struct winode *owner;
    uint64_t since; /* stamp of the write that made it dirty */
    uint8_t state;  /* enum page_state */
    bool superseded;
    bool paid; /* dirty, in a reserved extent, and acknowledged though there was no credit */
};

struct plan_entry {
    uint64_t number;
    uint32_t page;
    uint32_t from; /* orders records of one page */
};

struct winode {
    struct list node;    /* in writer's dirty or quiet */
    struct list pending; /* in writer's pending: wants stripes started */
    struct writer *w;
    struct inode *inode; /* NULL once forgotten */
    uint64_t ino;
    struct list idle, flight, clean;
    unsigned n_idle, n_flight, n_clean;
    uint64_t dirty_bytes; /* valid bytes of idle and flight, superseded ones left out */
    uint64_t dirty_since_ms;
    uint64_t meta_stamp; /* last change of size, times, flags */
    uint64_t meta_since; /* first one that is not committed; 0 none */
    bool barrier_on;
    uint64_t barrier; /* pages with since <= this count */
    unsigned barrier_pages;
    bool start_again;    /* a flush was asked for during the barrier, by nobody who waits */
    uint64_t settled_to; /* all that was dirty at this stamp is committed */
    unsigned failures;   /* stripes in a row that could not be written */
    struct list waiters; /* struct writer_wait */
    unsigned holders;    /* writer_quiesce without writer_resume yet */
    bool outline;        /* this flush makes extents of a file that would fit inline */
    struct plan_entry *plan;
    unsigned plan_n, plan_at;
    uint64_t run_from, run_to; /* page numbers of the last contiguous run written */
    struct list ready;         /* stripes on their servers, not committed */
    unsigned n_stripes, n_ready, ready_extents, n_commits;
    struct wcommit *inline_commit;
    struct session_read fetch; /* attributes that a restart forgot */
    struct buf fetch_body;
    bool fetching, gone;
    uint64_t retry_at_ms; /* after an error: not before */
};

struct wextent {
    uint64_t offset, length, stripe_offset;
};

struct wput {
    struct call call;
    bool under_way;
    struct wstripe *stripe;
    struct buf body;
    struct iovec *iov;
    unsigned n_iov;
    uint32_t server, slot;
};

struct wstripe {
    struct list node; /* in writer's stripes, its inode's ready, or its commit's stripes */
    struct writer *w;
    struct winode *wi;
    struct stripe_code code;
    uint32_t pg, epoch, fragment_bytes;
    uint64_t id, nonce, slot_mask, length;
    uint32_t *page;
    unsigned n_pages;
    struct wextent *extent;
    unsigned n_extents;
    uint8_t *parity; /* m * fragment_bytes */
    struct wput put[RS_N_MAX];
    unsigned n_puts, under_way;
    uint64_t started_ms;
    int rc;
};

struct wcommit {
    struct list node; /* in writer's commits */
    struct command command;
    struct writer *w;
    struct winode *wi; /* NULL: a repeat, only to settle the number */
    struct arena_commit *record;
    struct list stripes;
    uint32_t *page; /* of inline content */
    unsigned n_pages;
    struct buf content;
    bool is_inline;
    uint64_t meta_stamp;
    uint64_t end; /* the file's size at the server once this is applied */
    bool size_partial;
};

struct id_range {
    uint32_t pg, count;
    uint64_t first;
};

struct target { /* where a stripe goes */
    unsigned range;
    const struct pg *pg;
    struct stripe_choice choice;
};

struct writer {
    struct client *client;
    struct arena *arena;
    struct table index; /* wpage by (ino, number) */
    struct wpage *page;
    uint32_t *free_page;
    unsigned n_pages, n_free, n_dirty, n_clean;
    unsigned n_paid; /* of the dirty ones */
    struct list lru; /* clean pages, coldest first */
    uint32_t *free_record, *free_commit;
    unsigned n_free_records, n_free_commits;
    struct list dirty, quiet; /* winodes */
    struct list pending;
    struct list room;    /* struct writer_wait */
    struct list all;     /* writer_flush_all */
    struct list settled; /* writer_wait to be called back */
    struct timer tick, soon;
    uint64_t stamp;
    struct prng prng;
    bool ended;
    int space_rc;        /* -ENOSPC ... since the last flush failed for it */
    struct list commits; /* under way */
    /* stripes */
    struct list stripes; /* under way */
    unsigned n_stripes;
    unsigned n_alive; /* also those that are ready, or in a commit */
    uint64_t flight_bytes;
    uint64_t flight_most; /* bytes under way that nobody waits for */
    struct rs *rs[RS_K_MAX + 1][RS_M_MAX + 1];
    uint8_t *zero_page;
    uint8_t *parity_pool[2 * FLIGHT_FULL_STRIPES];
    unsigned n_parity_pool, parity_m;
    /* ids */
    struct id_range *range;
    unsigned n_ranges, range_cap, cursor;
    uint64_t ids_left;
    struct command grant;
    bool granting, retire, ids_lost;
    uint64_t grant_retry_ms;
    uint64_t tables_retry_ms;
    /* credit */
    uint64_t credit, credit_used, credit_short_ms;
    uint64_t reserving; /* raw bytes that fallocates under way may take */
    uint64_t stripes_written, stripes_failed;
};

/* Raw bytes that dirty bytes may take: as copies of single blocks, each with a record's header. */
static inline uint64_t raw_worst(const struct writer *w, uint64_t bytes)
{
    const uint64_t most = UINT64_MAX / 128;
    return (bytes < most ? bytes : most) / 8 * 9 * (w->client->policy.m + 1u);
}

/* writer_pages.c */
static inline uint64_t page_number(const struct writer *w, uint32_t p)
{
    return w->arena->page[p].number;
}
static inline unsigned page_from(const struct writer *w, uint32_t p)
{
    return arena_page_from(w->arena->page[p].word);
}
static inline unsigned page_to(const struct writer *w, uint32_t p)
{
    return arena_page_to(w->arena->page[p].word);
}
static inline uint8_t *page_data(const struct writer *w, uint32_t p)
{
    return w->arena->data + (size_t)p * PAGE_BYTES;
}
static inline uint32_t page_index(const struct writer *w, const struct wpage *wp)
{
    return (uint32_t)(wp - w->page);
}
void pages_init(struct writer *w);
void pages_release(struct writer *w);
/* Bytes [from, to) of a page become src (NULL: zeroes). The caller made sure of room. */
void pages_put(struct winode *wi, uint64_t number, unsigned from, unsigned to, const uint8_t *src);
void pages_take_off(struct winode *wi, uint32_t p);  /* idle -> flight */
void pages_put_back(struct winode *wi, uint32_t p);  /* flight -> idle, or free when superseded */
void pages_committed(struct winode *wi, uint32_t p); /* flight -> clean, or free */
void pages_free(struct winode *wi, uint32_t p);
/* The idle record that holds these bytes of a page is paid for by a reservation. */
void pages_pay(struct winode *wi, uint64_t number, unsigned from, unsigned to);
bool pages_in_flight(const struct winode *wi, uint64_t number);
void pages_dirty_again(struct winode *wi, uint64_t from, uint64_t to); /* clean -> idle */
void pages_drop(struct winode *wi, struct list *which, uint64_t from, uint64_t to);
bool pages_older_in_flight(const struct winode *wi, uint32_t p);
bool pages_cover(struct writer *w, const struct winode *wi, uint64_t offset, uint64_t len);
/* The record that holds all of a page and may be sent; -1: none. */
int64_t pages_find_whole_idle(const struct winode *wi, uint64_t number);
void pages_rebuild(struct writer *w);
unsigned pages_room(const struct writer *w); /* free or clean */

/* writer_plan.c: starts what can be started. */
void plan_stream(struct winode *wi);
int plan_flush(struct winode *wi); /* negative: an error for the inode */

/* writer_stripe.c */
int target_choose(struct writer *w, bool small, struct target *out);
bool stripes_may_start(const struct winode *wi);
/* Takes the pages (idle) off into a stripe at `target` and sends it. */
void stripe_start(struct winode *wi, const struct target *target, const uint32_t *pages,
                  unsigned n);
void stripe_free(struct wstripe *s);
void stripe_give_back(struct wstripe *s); /* its pages are dirty again; frees it */
void ids_want(struct writer *w);
void ids_drop(struct writer *w);
void ids_give_back(struct writer *w); /* those of stripes that failed, once nothing is on its way */
void stripes_release(struct writer *w);
void commits_release(struct writer *w);

/* writer_commit.c */
bool commit_fits_inline(const struct winode *wi);
void commit_inline(struct winode *wi); /* all idle pages; there are some */
void commit_meta(struct winode *wi);   /* size and times alone */
void commit_ready(struct winode *wi);
void commit_give_back(struct winode *wi); /* what is ready: its pages are dirty again */
void commit_fetch(struct winode *wi);
/* Content of an inline file becomes dirty pages; -ENODATA: unknown. */
int commit_load_content(struct winode *wi);
bool commit_server_inline(const struct winode *wi);

/* writer.c */
struct winode *winode_find(const struct inode *in);
struct winode *winode_get(struct writer *w, struct inode *in);
void winode_changed(
    struct winode *wi); /* moves it between lists, settles waiters, frees it when empty */
bool winode_is_dirty(const struct winode *wi);
void winode_fail(struct winode *wi, int rc);
void winode_forget(struct winode *wi);
void winode_barrier(struct winode *wi);
void writer_pump(struct winode *wi);
void writer_pump_pending(struct writer *w);
void writer_deliver(struct writer *w);
void writer_deliver_soon(struct writer *w);
void writer_tick_arm(struct writer *w);
bool writer_has_room(const struct writer *w, unsigned pages);
void writer_pressure(struct writer *w);     /* starts flushing everything that is not streaming */
bool winode_quiet(const struct winode *wi); /* nothing of it is under way */
/* Whether somebody keeps new things from starting. One that still waits for its flush does not. */
bool winode_held(const struct winode *wi);

#endif
