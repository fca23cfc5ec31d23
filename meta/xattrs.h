#ifndef CFS_META_XATTRS_H
#define CFS_META_XATTRS_H

#include "meta/ops.h"

/* Extended attributes, and the two that mean something here: the POSIX ACLs. */
enum { XATTRS_VALUE_MAX = 65536, XATTRS_INODE_MAX = 1 << 20, XATTRS_LIST_MAX = 65536 };

int xattrs_set(struct fsm *f, const Cfs__XattrOp *op, struct op_result *r);
/* -ENODATA. Appends. */
int xattrs_get(struct fsm *f, const struct inode *i, struct bytes name, struct buf *out);

/* A new inode under `parent`: its default ACL, else the umask, decides the mode. Saves no inode. */
int xattrs_inherit(struct fsm *f, const struct inode *parent, struct inode *i, uint32_t umask);
/* The mode was changed: the access ACL, if there is one, follows. */
int xattrs_chmod(struct fsm *f, struct inode *i);

#endif
