#ifndef CFS_TEST_LIB_FSM_TOUR_H
#define CFS_TEST_LIB_FSM_TOUR_H

#include "test/lib/fsm_world.h"

/* A world with at least one row of every table, and a tour through all that reads or changes rows:
 * for tests that damage a row, and for the golden bytes of the store. Always the same world. */
struct fsm_tour {
    struct fsm_world w;
    uint64_t dir, file, small, last_ino;
};

void fsm_tour_init(struct fsm_tour *t);
/* The same world on a store of its own. */
void fsm_tour_copy(struct fsm_tour *t, const struct fsm_tour *from);
void fsm_tour_release(struct fsm_tour *t);

/* The n-th row in the order of keys; false: there are fewer. Appends. */
bool fsm_tour_row(const struct fsm_tour *t, size_t n, struct buf *key, struct buf *value);
/* Puts value under key instead of the row `old` (value.data NULL: only deletes), and opens the
 * machine again; its error. */
int fsm_tour_damage(struct fsm_tour *t, struct bytes old, struct bytes key, struct bytes value);

/* Audit, every read and query, then operations, a new session, the end of all and reaps, whatever
 * comes of each; ends early when the replica stops. Returns why it stopped, or 0. */
int fsm_tour_use(struct fsm_tour *t);
/* The client's machine has been started anew: a session that ends what it had before. The same. */
int fsm_tour_open_another(struct fsm_tour *t);

#endif
