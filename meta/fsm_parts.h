#ifndef CFS_META_FSM_PARTS_H
#define CFS_META_FSM_PARTS_H

#include "meta/fsm_state.h"

/* Entries of the cluster as a whole: fsm_cluster.c. Each returns 0 or what the entry is answered
 * with. */
int cluster_load(struct fsm *f);
int cluster_lead(struct fsm *f, struct bytes body);
int cluster_bootstrap(struct fsm *f, struct bytes body);
int cluster_register(struct fsm *f, struct bytes body);
int cluster_groups(struct fsm *f, struct bytes body);
int cluster_garbage_done(struct fsm *f, struct bytes body);
int cluster_policy(struct fsm *f, struct bytes body);
int cluster_reap(struct fsm *f, struct bytes body);
int cluster_feature(struct fsm *f, struct bytes body);
/* Whether the body decodes and is within bounds: looks at the bytes only. */
int cluster_validate(uint8_t type, struct bytes body);

/* A TablesReply: fsm_query.c. */
int query_tables(struct fsm *f, struct buf *reply);

#endif
