#include "meta/locks.h"

#include <errno.h>

int locks_lock(struct fsm *f, const Cfs__LockOp *op, struct op_result *r)
{
    (void)f, (void)op, (void)r;
    return -EOPNOTSUPP;
}
int locks_cancel(struct fsm *f, const Cfs__LockCancelOp *op)
{
    (void)f, (void)op;
    return -EOPNOTSUPP;
}
int locks_drop(struct fsm *f, const Cfs__LockDropOp *op)
{
    (void)f, (void)op;
    return 0;
}
int locks_test(struct fsm *f, const Cfs__LockOp *op, struct buf *reply)
{
    (void)f, (void)op, (void)reply;
    return -EOPNOTSUPP;
}
int locks_end_session(struct fsm *f, uint64_t session)
{
    (void)f, (void)session;
    return 0;
}
