#ifndef CFS_META_INODES_H
#define CFS_META_INODES_H

#include "meta/ops.h"

/* Attributes and content of one inode. */

enum {
    INODES_WRITE_PARTS_MAX = 8192
}; /* stripes, and extents, of one write; more is ERR_TOO_BIG */

int inodes_setattr(struct fsm *f, const Cfs__SetattrOp *op, struct op_result *r);
int inodes_write(struct fsm *f, const Cfs__WriteOp *op, struct op_result *r);
int inodes_fallocate(struct fsm *f, const Cfs__FallocateOp *op, struct op_result *r);
int inodes_copy(struct fsm *f, const Cfs__CopyOp *op, struct op_result *r);

/* The whole content of a small file. Set replaces what was inline (not extents) and sets flag and
 * sums, not the size; empty content has no row. The caller saves the inode. */
int inodes_inline_set(struct fsm *f, struct inode *i, struct bytes content);
int inodes_inline_drop(struct fsm *f, struct inode *i);
int inodes_inline_get(struct fsm *f, const struct inode *i, struct buf *out); /* appended */
/* Sets the size: what is beyond a smaller one is gone, a larger one reads zero there. */
int inodes_resize(struct fsm *f, struct inode *i, uint64_t size);
/* Clears suid, and sgid of a group-executable file; not of a directory. */
void inodes_kill_priv(struct inode *i);

#endif
