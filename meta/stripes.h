#ifndef CFS_META_STRIPES_H
#define CFS_META_STRIPES_H

#include "ec/stripe.h"
#include "meta/fsm_state.h"

/* Stripes: rows, references, and the three states of an id. An id is granted (in a range of a
 * session), live (a row) or dead (in the garbage list until servers have deleted it, and in the
 * list of each server that owes its part of that); dead is final. Only a granted id can become
 * live, once; only an extent that apply itself holds can add a reference. */

struct group {
    uint32_t id, epoch;
    uint32_t k, m;
    bool moving;                                                 /* old_slot is there */
    uint32_t slot[STRIPE_SLOTS_MAX], old_slot[STRIPE_SLOTS_MAX]; /* server ids; 0 vacant */
};
int stripes_group(struct fsm *f, uint32_t pg, struct group *out); /* ERR_NOT_FOUND */
void stripes_group_put(struct fsm *f, const struct group *g);
int stripes_group_decode(struct bytes value, struct group *out); /* leaves id */
void stripes_group_prefix(struct key *k);

struct stripe_id {
    uint32_t pg;
    uint64_t id;
};
/* Who refers: the extent's key. */
struct referrer {
    volume_id volume;
    ino_id ino;
    uint64_t end;
    uint64_t snapshot; /* of a history value; 0: the newest */
};

/* Makes a granted id of f->session live, without references yet.
 * ERR_DEAD_ID, ERR_STALE_EPOCH, -EINVAL (impossible shape), ERR_CHANGED (too little tolerance). */
struct stripe_commit {
    struct stripe_id at;
    struct stripe_row row;
    uint32_t epoch;
};
int stripes_commit(struct fsm *f, const struct stripe_commit *c);
int stripes_get(struct fsm *f, struct stripe_id at, struct stripe_row *out); /* ERR_NOT_FOUND */
int stripes_ref(struct fsm *f, struct stripe_id at, const struct referrer *who, uint64_t bytes);
/* The last one makes it garbage. */
int stripes_unref(struct fsm *f, struct stripe_id at, const struct referrer *who, uint64_t bytes);
/* An extent that stays gives up some bytes. */
int stripes_shrink(struct fsm *f, struct stripe_id at, uint64_t bytes);

/* `count` ids (1 .. 65,536) of groups with k + m, for f->session. visit is called per range.
 * ERR_BUSY: there is no such group. */
struct stripe_grant {
    uint32_t pg;
    uint64_t first;
    uint32_t count;
};
enum { STRIPES_GRANTS_MAX = 16, STRIPES_IDS_MAX = 65536 };
struct stripe_wish {
    uint32_t count, k, m;
};
int stripes_grant(struct fsm *f, struct stripe_wish wish,
                  struct stripe_grant out[STRIPES_GRANTS_MAX], unsigned *ret_n);
/* All ids granted to the session die, but those for which keep says true (may be NULL). */
int stripes_retire(struct fsm *f, uint64_t session, const struct stripe_id *keep, size_t n_keep);

int stripes_make_garbage(struct fsm *f, uint32_t pg, uint64_t first, uint64_t last);

/* Servers that hold a slot of a group, now or before it moved, and have not deleted what the others
 * have. */
struct debtors {
    uint32_t server[2 * STRIPE_SLOTS_MAX];
    unsigned n;
};
/* All of a group but `by`; with n_by 0 nobody: then all have deleted it. */
int stripes_debtors(struct fsm *f, uint32_t pg, const uint32_t *by, size_t n_by,
                    struct debtors *out);
/* Dead ids leave the garbage list for the lists of those who owe; ids not on it are ignored. */
int stripes_garbage_done(struct fsm *f, uint32_t pg, uint64_t first, uint64_t last,
                         const struct debtors *owing);
/* The server has deleted these: they leave its list; others are ignored. */
int stripes_owed_done(struct fsm *f, uint32_t server, uint32_t pg, uint64_t first, uint64_t last);
int stripes_owed_count(struct fsm *f, uint32_t server, uint64_t *out); /* ids on its list */
/* Keys: of the garbage list, then group u32, last id u64; of a server's, then the same; of its
 * count. The value of a range is its first id, as u64 behind the version; a count is like it. */
void stripes_garbage_prefix(struct key *k);
void stripes_owed_prefix(struct key *k, uint32_t server);
void stripes_owed_count_prefix(struct key *k);

#endif
