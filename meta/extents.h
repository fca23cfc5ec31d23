#ifndef CFS_META_EXTENTS_H
#define CFS_META_EXTENTS_H

#include "meta/fsm_state.h"

/* Extents of a file, and the bounded freeing of many. All functions change the inode given
 * (allocated, cuts); the caller saves it. */

/* Walks the live extents in order. Made for short walks: an iterator each. */
struct extent_cut {
    uint64_t from, end, serial;
};
struct extents_walk {
    struct overlay_scan scan;
    struct extent_cut *cuts;
    size_t n_cuts;
    struct extent e; /* the current one, while valid */
    bool valid;
    int error;
    struct fsm *f;
};
/* Starts at the first live extent that ends after `at`. */
void extents_walk_init(struct extents_walk *w, struct fsm *f, const struct inode *i, uint64_t at);
void extents_walk_next(struct extents_walk *w);
void extents_walk_release(struct extents_walk *w);

/* Makes [from, to) a hole. At most FSM_FREE_BUDGET extents are freed here; the rest is cut: dead at
 * once, freed by reaps. */
int extents_clear(struct fsm *f, struct inode *i, uint64_t from, uint64_t to);

/* Puts an extent over whatever was in its range. Takes a reference to its stripe. */
int extents_set(struct fsm *f, struct inode *i, const struct extent *e);
/* Reserved extents in the holes of [from, to). An entry is bounded: with more than
 * EXTENTS_RESERVE_MAX holes nothing is promised: -EFBIG. */
enum { EXTENTS_RESERVE_MAX = 4096 };
int extents_reserve(struct fsm *f, struct inode *i, uint64_t from, uint64_t to);

/* Frees what a deleted inode held, or leaves it to reaps. The inode row is gone already. */
int extents_bury(struct fsm *f, struct inode *i);
/* Bytes of all reserved extents that are stored: what COUNT_RESERVED_BYTES counts. Slow. */
int extents_sum_reserved(struct fsm *f, uint64_t *out);
/* One bounded step over the reap list: about `max` extents. */
int extents_reap(struct fsm *f, uint32_t max);

#endif
