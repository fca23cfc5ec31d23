#include "meta/xattrs.h"

#include <errno.h>
#include <sys/stat.h>

int xattrs_set(struct fsm *f, const Cfs__XattrOp *op, struct op_result *r)
{
    (void)f, (void)op, (void)r;
    return -EOPNOTSUPP;
}
int xattrs_get(struct fsm *f, const struct inode *i, struct bytes name, struct buf *out)
{
    (void)f, (void)i, (void)name, (void)out;
    return -ENODATA;
}
int xattrs_inherit(struct fsm *f, const struct inode *parent, struct inode *i, uint32_t umask)
{
    (void)f, (void)parent;
    i->mode &= S_ISLNK(i->mode) ? ~0u : ~(umask & 0777);
    return 0;
}
int xattrs_chmod(struct fsm *f, struct inode *i)
{
    (void)f, (void)i;
    return 0;
}
