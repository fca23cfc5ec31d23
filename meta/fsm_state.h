#ifndef CFS_META_FSM_STATE_H
#define CFS_META_FSM_STATE_H

#include "meta/fsm.h"
#include "meta/keys.h"
#include "store/overlay.h"

/* What the files of the metadata machine share: its state while one entry is applied, and access to
 * rows. Nothing outside meta/ includes this (tests do).
 *
 * Errors of these functions: a negative errno (or ERR_*) is an answer to the client. A failure of
 * the store is noted in fsm.failed besides, and stops the replica whatever the caller makes of it.
 */

/* One row of numbers: what must never be used twice, and sums that `status` shows. Appended to,
 * never renumbered. */
enum counter {
    COUNT_NEXT_SESSION,
    COUNT_NEXT_BLOCK,
    COUNT_NEXT_SERVER,
    COUNT_NEXT_TICKET,
    COUNT_GRANT_CURSOR, /* group at which the next id grant begins */
    COUNT_STRIPES,
    COUNT_STORED_BYTES,
    COUNT_GARBAGE_IDS,
    COUNT_ORPHANS,
    COUNT_SESSIONS,
    COUNT_LOCKS,
    COUNT_REAPS,
    COUNT_REIGN,          /* log index of the last ENTRY_LEAD */
    COUNT_RESERVED_BYTES, /* of stored reserved extents; a row without it: summed up at the start */
    COUNT_N
};
struct counters {
    uint64_t v[COUNT_N];
};

struct cluster {
    bool known; /* bootstrapped */
    uint8_t id[16];
    uint8_t hash_key[16];
    uint64_t reign;
    uint32_t feature_level;
    uint32_t tables_version;
};

enum {
    FSM_FREE_BUDGET = 512,   /* extents that one operation frees itself; the rest is reaped */
    FSM_ENTRY_BUDGET = 8192, /* extents that all operations of an entry free, reserve or copy */
    FSM_BLOCK_CACHE = 1024,  /* inode block -> volume, which never changes */
    FSM_OPS_MAX = 4096,      /* operations in a command */
    FSM_LOOKUP_EXTENTS = 8,  /* a lookup's answer has the extents of a file with so few */
    FSM_EXTENTS_MAX = 4096   /* extents in an answer */
};

struct fsm {
    struct kv *kv;
    struct overlay *overlay;
    uint64_t applied, applied_term;
    struct cluster cluster;
    struct counters counters;
    bool counters_dirty;
    struct volume volume; /* the one used last; id 0: none */
    bool volume_dirty;
    struct {
        uint64_t block;
        volume_id volume;
    } blocks[FSM_BLOCK_CACHE];
    /* of the entry that is being applied */
    int64_t now;
    uint64_t index;
    uint64_t session;      /* of a command */
    uint32_t budget;       /* what is left of FSM_ENTRY_BUDGET; each operation may use one more */
    uint64_t reserve_hope; /* up to here it is not hopeless */
    uint64_t reserve_max;  /* of a command: COUNT_RESERVED_BYTES may not grow beyond it */
    int failed;            /* the store's error: stop */
    struct key reap_from;  /* no row of SPACE_REAP is below it: spares a walk over deleted ones */
    struct fsm_effects *effects;
    struct buf scratch; /* for encoding a value */
    struct buf value;   /* for reading one */
};

/* A savepoint inside an entry. */
struct fsm_mark {
    size_t overlay;
    struct counters counters;
    bool counters_dirty;
    struct volume volume;
    bool volume_dirty;
    struct cluster cluster;
};
struct fsm_mark fsm_mark(const struct fsm *f);
void fsm_rollback(struct fsm *f, const struct fsm_mark *m);

/* Takes up to `want` from the entry's budget, at least 1. */
static inline uint32_t fsm_spend(struct fsm *f, uint32_t want)
{
    uint32_t n = want < f->budget ? want : f->budget;
    f->budget -= n;
    return n > 0 ? n : 1;
}

/* Notes a store's error; passes every other through. */
int fsm_note(struct fsm *f, int rc);

static inline uint64_t *fsm_counter(struct fsm *f, enum counter c)
{
    f->counters_dirty = true;
    return &f->counters.v[c];
}

/* ---- rows.c ---- */

/* Raw rows. rows_get clears *out first. ERR_NOT_FOUND. */
int rows_get(struct fsm *f, const struct key *k, struct buf *out);
void rows_put(struct fsm *f, const struct key *k, struct bytes value);
void rows_delete(struct fsm *f, const struct key *k);
/* Rows of the reap list. */
void rows_put_reap(struct fsm *f, const struct key *k, struct bytes value);
/* A row whose value is the version byte alone. */
void rows_put_mark(struct fsm *f, const struct key *k);

/* Every change of a namespace row goes through here: the first under a newer snapshot number moves
 * the old value to its history key. `value` was encoded with born = rows_born(). *ret_kept (may be
 * NULL): the old value went to history, so what it refers to is still referred to. */
uint64_t rows_born(struct fsm *f, volume_id volume);
int rows_change(struct fsm *f, volume_id volume, const struct key *k, struct bytes value,
                bool *ret_kept);
static inline int rows_remove(struct fsm *f, volume_id volume, const struct key *k, bool *ret_kept)
{
    return rows_change(f, volume, k, BYTES(NULL, 0), ret_kept);
}
/* The value that was current at `snapshot`. */
int rows_get_at(struct fsm *f, const struct key *k, uint64_t snapshot, struct buf *out);

/* Loads the volume into f->volume. */
int rows_volume(struct fsm *f, volume_id id,
                struct volume **out); /* changes: set f->volume_dirty */
void rows_flush(struct fsm *f);       /* volume and counters into the overlay */
int rows_volume_of(struct fsm *f, ino_id ino, volume_id *out); /* -ENOENT */

/* Inodes. Load gives -ENOENT. Save sets neither times nor change. */
int rows_inode(struct fsm *f, ino_id ino, struct inode *out);
int rows_inode_save(struct fsm *f, const struct inode *i);
/* A new number; *out is zeroed but for ino, volume and times. */
int rows_inode_new(struct fsm *f, volume_id volume, struct inode *out);
int rows_inode_delete(struct fsm *f, const struct inode *i);
/* Marks a change of attributes: ctime (never back) and the change counter. */
void rows_touch(struct fsm *f, struct inode *i);
/* Adds to allocated of the inode and bytes of its volume. */
int rows_account(struct fsm *f, struct inode *i, int64_t bytes);

/* Bounded iteration in key order; the row after the last is not visited. visit returns 0 to go on,
 * 1 to stop, negative to fail. It may change the overlay. */
int rows_each(struct fsm *f, const struct key *prefix,
              int (*visit)(struct fsm *f, struct bytes key, struct bytes value, void *ctx),
              void *ctx);

#endif
