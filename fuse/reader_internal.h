#ifndef CFS_FUSE_READER_INTERNAL_H
#define CFS_FUSE_READER_INTERNAL_H

#include "ec/rs.h"
#include "ec/stripe.h"
#include "fuse/reader.h"
#include "fuse/tables.h"
#include "fuse/writer.h"

/* What the files of the reader share.
 *   reader.c        requests: plan, overlay, answer; read-ahead; seek
 *   reader_layout.c extents and content that are not cached yet
 *   reader_cache.c  blocks of 64 KiB in the arena's cache region
 *   reader_load.c   GETs, checks, hedges; decoding
 *
 * A block is a CRC block of one fragment of one stripe. The bytes of a stripe never change, so the
 * cache is never stale; for copies there is one block, whichever copy it came from.
 *
 * A block that is loading has sources: loads (GETs) and at most one decode. It becomes valid by the
 * first that succeeds and fails when the last has failed. A decode takes its helpers only from
 * blocks that are valid or loading directly, never from those that wait for another decode: so
 * there are no cycles. */
enum {
    BLOCK_BYTES = STRIPE_CRC_BLOCK,
    LOAD_BLOCKS = STRIPE_CRC_MAX,
    GET_MS = 3000,
    HEDGE_LEAST_MS = 20,
    LATENCIES = 128,
    BAD_KEPT = 256,
    LOST_RETRY_MS = 100,
    READ_AHEAD_STEP = 1 << 20
};

struct rstripe { /* of which stripe: copied, since extents come and go */
    uint64_t id, nonce, slot_mask;
    uint32_t pg, fragment_bytes;
    struct stripe_code code;
};

enum block_state { BLOCK_FREE, BLOCK_LOADING, BLOCK_VALID, BLOCK_FAILED, BLOCK_PRIVATE };

struct block {
    struct table_node node; /* in index while loading or valid */
    struct list lru;        /* in free, or in lru when valid without pins */
    struct list waiters;    /* struct bwait, while loading */
    uint64_t stripe;
    uint32_t pg, fragment, index;
    uint32_t bytes; /* of it that exist */
    uint8_t state;  /* enum block_state */
    bool decoding;
    unsigned loads, pins;
    int rc; /* why the last source failed */
};

struct bwait {
    struct list node;
    struct block *block; /* pinned */
    bool direct;         /* does not wait for decoding */
    void *owner;         /* struct helper or struct piece */
    void (*on_block)(struct bwait *wait, int rc);
};

struct load {
    struct list node;
    struct reader *r;
    struct rstripe s;
    uint32_t fragment, first; /* fragment of the blocks; first block */
    unsigned n, copy;         /* of copies: which one */
    uint64_t tried;           /* copies that failed */
    bool helper, hedged;
    struct block *block[LOAD_BLOCKS];
    struct call call;
    struct buf body;
    uint32_t server, slot;
    bool old_slot;
    uint64_t started_ms;
    struct timer hedge;
};

struct helper {
    struct decode_job *job;
    struct bwait wait[LOAD_BLOCKS];
    unsigned waiting;
    bool acquired, failed;
};

struct decode_job {
    struct list node;
    struct reader *r;
    struct rstripe s;
    uint32_t fragment;
    bool running;     /* out of the queue: its helpers count */
    unsigned n, busy; /* busy: inside decode_step */
    uint64_t asked, ready;
    bool unsure, finished; /* unsure: some helper may be there later */
    struct block *target[LOAD_BLOCKS];
    struct helper *helper; /* one per fragment */
};

struct piece { /* of a request: contiguous bytes out of one block, or zeroes */
    struct bwait wait;
    uint32_t at, len;
    struct job *job;
};

struct job {
    struct list node; /* in jobs, or starved, or an extents fetch */
    struct reader *r;
    struct read_request *rr;
    struct piece *piece;
    unsigned n_pieces, cap, pending;
    struct block **own; /* private blocks that the answer was copied to */
    unsigned n_own;
    uint64_t cost;            /* blocks reserved */
    uint64_t started_ms, end; /* end: of the bytes to give */
    uint32_t pages_dropped;
    int rc;
    bool sure; /* all failures were definite */
    bool from_content, done;
    bool in_parts; /* more pieces than blocks: copied out part by part */
    uint32_t got;  /* bytes of the answer in own, while in parts */
    unsigned failures, fetches;
    struct timer retry;
};

struct lfetch { /* layout or content of an inode on its way */
    struct list node;
    struct reader *r;
    struct inode *inode;
    struct session_read read;
    struct buf body;
    uint64_t from;
    uint32_t layout;
    struct list jobs;
    struct list seeks;
};

struct reader {
    struct client *client;
    struct block *block;
    unsigned n_blocks, n_free, n_lru;
    uint64_t reserved;
    struct table index;
    struct list free, lru;
    struct list jobs, starved, loads, decodes, decode_queue, fetches;
    unsigned helper_blocks; /* of decodes that run */
    bool in_decode_next;
    struct timer starved_timer;
    struct rs *rs[RS_K_MAX + 1][RS_M_MAX + 1];
    struct bad_fragment bad[BAD_KEPT];
    unsigned n_bad;
    uint32_t latency_ms[LATENCIES];
    unsigned n_latencies;
    uint32_t p95_ms;
    uint64_t n_loads, n_hedges, n_decodes;
};

/* reader_cache.c */
void cache_init(struct reader *r);
void cache_release(struct reader *r);
uint8_t *block_data(const struct reader *r, const struct block *b);
struct block *block_find(const struct reader *r, const struct rstripe *s, uint32_t fragment,
                         uint32_t index);
struct block *block_new(struct reader *r, const struct rstripe *s, uint32_t fragment,
                        uint32_t index);       /* pinned, loading; NULL: none left */
struct block *block_private(struct reader *r); /* pinned */
void block_pin(struct reader *r, struct block *b);
void block_unpin(struct reader *r, struct block *b);
void block_valid(struct reader *r, struct block *b);
void block_source_failed(struct reader *r, struct block *b, bool decode, int rc);
unsigned cache_left(const struct reader *r); /* free or evictable */

/* reader_load.c */
/* Gets n blocks (new, loading) of one fragment from index `first` on. */
void load_start(struct reader *r, const struct rstripe *s, uint32_t fragment, uint32_t first,
                struct block *const block[], unsigned n, bool helper);
void loads_release(struct reader *r);
bool stripe_of_extent(const struct iextent *e, struct rstripe *out);

/* reader_layout.c */
/* Starts, or joins, what makes [from, ...) of the inode known; the job is planned again when it is
 * there. */
void layout_fetch(struct reader *r, struct inode *in, uint64_t from, struct job *job,
                  struct list *seek);
void content_fetch(struct reader *r, struct inode *in, struct job *job);
void layouts_release(struct reader *r);

/* reader.c */
void job_plan(struct job *job);
void seek_step(struct list *seek, int rc);

#endif
