#ifndef CFS_META_LOCKS_H
#define CFS_META_LOCKS_H

#include "meta/ops.h"

/* Locks: posix (fcntl), flock and OFD, with a queue. A lock call answers at once: granted (0),
 * refused
 * (-EAGAIN), or ERR_QUEUED with a ticket; grants to waiters go to effects.granted. */
int locks_lock(struct fsm *f, const Cfs__LockOp *op, struct op_result *r);
int locks_cancel(struct fsm *f, const Cfs__LockCancelOp *op); /* -EALREADY: granted before */
/* 1: the ticket of that session still waits, 0: it does not; negative: the store failed. */
int locks_waits(struct fsm *f, uint64_t session, uint64_t ticket);
int locks_drop(struct fsm *f, const Cfs__LockDropOp *op);
/* A LockInfo: the first lock that is in the way, or type F_UNLCK. */
int locks_test(struct fsm *f, const Cfs__LockOp *op, struct buf *reply);
/* Everything that a session holds or waits for. */
int locks_end_session(struct fsm *f, uint64_t session);

#endif
