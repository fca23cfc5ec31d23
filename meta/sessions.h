#ifndef CFS_META_SESSIONS_H
#define CFS_META_SESSIONS_H

#include "meta/fsm_state.h"

/* Sessions: who may speak, what was answered, and what a session holds (orphans, id grants, locks).
 */

/* The part of a session that each command changes. */
struct session {
    uint64_t id;
    uint64_t last_seq; /* of the last command applied */
    uint64_t acked;    /* replies up to here are forgotten */
    bool read_only;
};
int sessions_get(struct fsm *f, uint64_t id, struct session *out); /* ERR_SESSION_ENDED */
void sessions_put(struct fsm *f, const struct session *s);

/* Stored replies. */
void sessions_forget(struct fsm *f, struct session *s, uint64_t acked);
void sessions_remember(struct fsm *f, const struct session *s, int rc, struct bytes reply);
/* Appends the stored reply; *ret_rc is what it was answered with. ERR_NOT_FOUND. */
int sessions_recall(struct fsm *f, const struct session *s, uint64_t seq, int *ret_rc,
                    struct buf *out);

int sessions_open_entry(struct fsm *f, struct bytes body);
int sessions_end_entry(struct fsm *f, struct bytes body);
/* Its locks and grants go now, its orphans by reaps. Ended before: 0. */
int sessions_end(struct fsm *f, uint64_t id);

/* Orphans of f->session: inodes without a name that it holds. */
int sessions_hold(struct fsm *f, struct inode *i); /* changes i->orphans; the caller saves */
int sessions_release(struct fsm *f, uint64_t session, ino_id ino); /* not held: 0 */
/* One step of dropping what an ended session held. */
int sessions_reap(struct fsm *f, uint64_t session, uint32_t *left);

#endif
