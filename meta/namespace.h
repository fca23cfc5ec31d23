#ifndef CFS_META_NAMESPACE_H
#define CFS_META_NAMESPACE_H

#include "meta/ops.h"

/* Names: dentries, and the operations that make, drop and move them. */

enum { NAMESPACE_LINKS_MAX = 65000, NAMESPACE_TARGET_MAX = 4095 };

int namespace_make(struct fsm *f, const Cfs__MakeOp *op, struct op_result *r);
int namespace_unlink(struct fsm *f, const Cfs__UnlinkOp *op, struct op_result *r);
int namespace_rename(struct fsm *f, const Cfs__RenameOp *op, struct op_result *r);
int namespace_link(struct fsm *f, const Cfs__LinkOp *op, struct op_result *r);

/* An existing directory. -ENOENT, -ENOTDIR. */
int namespace_directory(struct fsm *f, ino_id ino, struct inode *out);
/* Whether a new entry can have this name: -EINVAL, -ENAMETOOLONG, -EEXIST for "." and "..". */
int namespace_check_name(struct bytes name);

/* Dentries. */
struct dentry_at {
    volume_id volume;
    ino_id parent;
    struct bytes name;
};
void namespace_dentry_prefix(struct key *k, volume_id volume, ino_id parent);
int namespace_find(struct fsm *f, const struct dentry_at *at, struct dentry *out); /* -ENOENT */
int namespace_put(struct fsm *f, const struct dentry_at *at, const struct dentry *d);
int namespace_remove(struct fsm *f, const struct dentry_at *at);

/* Adds a name to a directory's sums (or takes one away) and touches its times. The caller saves it.
 */
void namespace_grow(struct fsm *f, struct inode *directory, size_t name_len);
void namespace_shrink(struct fsm *f, struct inode *directory, size_t name_len);
/* One link less: deletes, keeps as an orphan of the session if held, or saves. */
int namespace_drop_link(struct fsm *f, struct inode *i, bool held, struct op_result *r);
/* Deletes an inode without names and holders, and all that belongs to it. */
int namespace_destroy(struct fsm *f, struct inode *i);
/* The inode of an absolute path of directories. */
int namespace_walk(struct fsm *f, const char *path, ino_id *out);

#endif
