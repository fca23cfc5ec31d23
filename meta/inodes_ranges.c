#include <errno.h>

#include "meta/inodes.h"

int inodes_fallocate(struct fsm *f, const Cfs__FallocateOp *op, struct op_result *r)
{
    (void)f, (void)op, (void)r;
    return -EOPNOTSUPP;
}
int inodes_copy(struct fsm *f, const Cfs__CopyOp *op, struct op_result *r)
{
    (void)f, (void)op, (void)r;
    return -EOPNOTSUPP;
}
