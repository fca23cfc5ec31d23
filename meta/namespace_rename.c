#include <errno.h>
#include <sys/stat.h>

#include "base/err.h"
#include "meta/namespace.h"

/* rename(2). All checks come before the first change. Inodes that play two parts (both
 * parents one directory) exist once in memory: the struct holds pointers. */

enum { NOREPLACE = 1, EXCHANGE = 2, DEPTH_MAX = 1 << 20 };

struct moving {
    const Cfs__RenameOp *op;
    struct dentry_at from, to;
    struct inode old_parent, other_parent;
    struct inode *new_parent; /* &old_parent when both are one */
    struct inode source, target;
    struct dentry source_entry, target_entry;
    bool has_target;
};

/* Whether `ino` is `ancestor` or below it. */
static int is_below(struct fsm *f, ino_id ino, ino_id ancestor, bool *out)
{
    for (int depth = 0; depth < DEPTH_MAX; depth++) {
        if (ino == ancestor) {
            *out = true;
            return 0;
        }
        struct inode i;
        int rc = rows_inode(f, ino, &i);
        if (rc < 0) {
            return rc;
        }
        if (i.parent == ino) {
            *out = false;
            return 0;
        }
        ino = i.parent;
    }
    return -ELOOP;
}

static int moving_name(const Cfs__RenameOp *op)
{
    int rc = namespace_check_name(op_bytes(op->name));
    if (rc == 0) {
        rc = namespace_check_name(op_bytes(op->new_name));
    }
    if (rc == -EEXIST) {
        return -EBUSY; /* "." and "..", as rename(2) says */
    }
    bool both = (op->flags & NOREPLACE) != 0 && (op->flags & EXCHANGE) != 0;
    return rc == 0 && ((op->flags & ~(uint32_t)(NOREPLACE | EXCHANGE)) != 0 || both) ? -EINVAL : rc;
}

static int moving_parents(struct fsm *f, struct moving *m)
{
    int rc = namespace_directory(f, m->op->parent, &m->old_parent);
    m->new_parent = &m->old_parent;
    if (rc == 0 && m->op->new_parent != m->op->parent) {
        rc = namespace_directory(f, m->op->new_parent, &m->other_parent);
        m->new_parent = &m->other_parent;
    }
    if (rc < 0) {
        return rc;
    }
    if (m->new_parent->volume != m->old_parent.volume) {
        return -EXDEV;
    }
    if (m->new_parent->nlink == 0) {
        return -ENOENT;
    }
    m->from = (struct dentry_at){m->old_parent.volume, m->old_parent.ino, op_bytes(m->op->name)};
    m->to =
        (struct dentry_at){m->new_parent->volume, m->new_parent->ino, op_bytes(m->op->new_name)};
    return 0;
}

static int moving_entries(struct fsm *f, struct moving *m)
{
    int rc = namespace_find(f, &m->from, &m->source_entry);
    if (rc == 0) {
        rc = rows_inode(f, m->source_entry.ino, &m->source);
    }
    if (rc < 0) {
        return rc;
    }
    rc = namespace_find(f, &m->to, &m->target_entry);
    if (rc == -ENOENT) {
        return (m->op->flags & EXCHANGE) != 0 ? -ENOENT : 0;
    }
    if (rc == 0) {
        m->has_target = true;
        rc = (m->op->flags & NOREPLACE) != 0 ? -EEXIST
                                             : rows_inode(f, m->target_entry.ino, &m->target);
    }
    return rc;
}

/* A directory cannot go below itself; in an exchange neither can. */
static int moving_loops(struct fsm *f, const struct moving *m)
{
    bool below = false;
    int rc = 0;
    if (S_ISDIR(m->source.mode)) {
        rc = is_below(f, m->new_parent->ino, m->source.ino, &below);
    }
    if (rc == 0 && !below && (m->op->flags & EXCHANGE) != 0 && S_ISDIR(m->target.mode)) {
        rc = is_below(f, m->old_parent.ino, m->target.ino, &below);
    }
    return rc < 0 ? rc : below ? -EINVAL : 0;
}

static int moving_kinds(const struct moving *m)
{
    if (!m->has_target || (m->op->flags & EXCHANGE) != 0) {
        return 0;
    }
    if (S_ISDIR(m->source.mode) != S_ISDIR(m->target.mode)) {
        return S_ISDIR(m->source.mode) ? -ENOTDIR : -EISDIR;
    }
    return S_ISDIR(m->target.mode) && m->target.entries > 0 ? -ENOTEMPTY : 0;
}

/* The inode that got another name: its ctime, and its parent if it is a directory. */
static int moved(struct fsm *f, struct inode *i, ino_id parent)
{
    rows_touch(f, i);
    if (S_ISDIR(i->mode)) {
        i->parent = parent;
    }
    return rows_inode_save(f, i);
}

static int exchange(struct fsm *f, struct moving *m)
{
    int rc = namespace_put(f, &m->to, &m->source_entry);
    if (rc == 0) {
        rc = namespace_put(f, &m->from, &m->target_entry);
    }
    if (rc == 0) {
        rc = moved(f, &m->source, m->new_parent->ino);
    }
    if (rc == 0) {
        rc = moved(f, &m->target, m->old_parent.ino);
    }
    int source_dir = S_ISDIR(m->source.mode), target_dir = S_ISDIR(m->target.mode);
    m->old_parent.nlink += (uint32_t)(target_dir - source_dir);
    m->new_parent->nlink += (uint32_t)(source_dir - target_dir);
    m->old_parent.mtime = m->new_parent->mtime = f->now;
    rows_touch(f, &m->old_parent);
    if (m->new_parent != &m->old_parent) {
        rows_touch(f, m->new_parent);
    }
    return rc;
}

static int replace(struct fsm *f, struct moving *m, struct op_result *r)
{
    int rc = namespace_remove(f, &m->from);
    if (rc == 0) {
        rc = namespace_put(f, &m->to, &m->source_entry);
    }
    if (rc < 0) {
        return rc;
    }
    namespace_shrink(f, &m->old_parent, m->from.name.len);
    bool directory = S_ISDIR(m->source.mode);
    m->old_parent.nlink -= directory;
    m->new_parent->nlink += directory;
    if (m->has_target) {
        m->new_parent->nlink -= S_ISDIR(m->target.mode);
        m->new_parent->mtime = f->now;
        rows_touch(f, m->new_parent);
        rc = namespace_drop_link(f, &m->target, m->op->held, r);
    } else {
        namespace_grow(f, m->new_parent, m->to.name.len);
    }
    return rc == 0 ? moved(f, &m->source, m->new_parent->ino) : rc;
}

static int moving_finish(struct fsm *f, struct moving *m, struct op_result *r)
{
    int rc = rows_inode_save(f, &m->old_parent);
    if (rc == 0 && m->new_parent != &m->old_parent) {
        rc = rows_inode_save(f, m->new_parent);
        r->has_parent2 = true;
        r->parent2 = *m->new_parent;
    }
    r->has_parent = true;
    r->parent = m->old_parent;
    op_result_attr(r, &m->source);
    return rc;
}

int namespace_rename(struct fsm *f, const Cfs__RenameOp *op, struct op_result *r)
{
    struct moving m = {.op = op};
    int rc = moving_name(op);
    if (rc == 0) {
        rc = moving_parents(f, &m);
    }
    if (rc == 0) {
        rc = moving_entries(f, &m);
    }
    if (rc < 0) {
        return rc;
    }
    if (m.has_target &&
        m.source.ino == m.target.ino) { /* two names of one inode: nothing happens */
        op_result_attr(r, &m.source);
        return 0;
    }
    rc = moving_loops(f, &m);
    if (rc == 0) {
        rc = moving_kinds(&m);
    }
    if (rc == 0) {
        rc = (op->flags & EXCHANGE) != 0 ? exchange(f, &m) : replace(f, &m, r);
    }
    return rc == 0 ? moving_finish(f, &m, r) : rc;
}
