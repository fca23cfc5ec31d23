#include "meta/namespace.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/err.h"
#include "meta/extents.h"
#include "meta/inodes.h"
#include "meta/sessions.h"
#include "meta/xattrs.h"

/* ---- dentries -------------------------------------------------------------------- */

void namespace_dentry_prefix(struct key *k, volume_id volume, ino_id parent)
{
    key_start_ns(k, volume, TABLE_DENTRY);
    key_add_u64(k, parent);
}

static void dentry_key(struct fsm *f, struct key *k, const struct dentry_at *at)
{
    namespace_dentry_prefix(k, at->volume, at->parent);
    key_add_u64(k, key_name_hash(f->cluster.hash_key, at->name));
    key_add_bytes(k, at->name);
}

int namespace_find(struct fsm *f, const struct dentry_at *at, struct dentry *out)
{
    struct key k;
    dentry_key(f, &k, at);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? -ENOENT : rc;
    }
    return fsm_note(f, dentry_decode(buf_bytes(&f->value), out));
}

int namespace_put(struct fsm *f, const struct dentry_at *at, const struct dentry *d)
{
    struct key k;
    dentry_key(f, &k, at);
    uint64_t born = rows_born(f, at->volume);
    buf_clear(&f->scratch);
    dentry_encode(&f->scratch, d, born);
    return rows_change(f, at->volume, &k, buf_bytes(&f->scratch), NULL);
}

int namespace_remove(struct fsm *f, const struct dentry_at *at)
{
    struct key k;
    dentry_key(f, &k, at);
    return rows_remove(f, at->volume, &k, NULL);
}

int namespace_check_name(struct bytes name)
{
    if (name.len == 0) {
        return -EINVAL;
    }
    if (name.len > KEY_NAME_MAX) {
        return -ENAMETOOLONG;
    }
    if (memchr(name.data, '/', name.len) != NULL || memchr(name.data, 0, name.len) != NULL) {
        return -EINVAL;
    }
    if (name.data[0] == '.' && (name.len == 1 || (name.len == 2 && name.data[1] == '.'))) {
        return -EEXIST;
    }
    return 0;
}

/* ---- directories ------------------------------------------------------------------ */

enum { ENTRY_SIZE = 24 };

void namespace_grow(struct fsm *f, struct inode *directory, size_t name_len)
{
    directory->entries++;
    directory->size += ENTRY_SIZE + name_len;
    directory->mtime = f->now;
    rows_touch(f, directory);
}

void namespace_shrink(struct fsm *f, struct inode *directory, size_t name_len)
{
    directory->entries--;
    directory->size -= ENTRY_SIZE + name_len;
    directory->mtime = f->now;
    rows_touch(f, directory);
}

int namespace_directory(struct fsm *f, ino_id ino, struct inode *out)
{
    int rc = rows_inode(f, ino, out);
    return rc < 0 ? rc : S_ISDIR(out->mode) ? 0 : -ENOTDIR;
}

int namespace_walk(struct fsm *f, const char *path, ino_id *out)
{
    struct volume *v;
    int rc = rows_volume(f, 1, &v);
    if (rc < 0) {
        return rc;
    }
    ino_id at = v->root;
    while (*path != '\0') {
        size_t len = strcspn(path, "/");
        struct bytes name = BYTES(path, len);
        path += len + (path[len] == '/');
        if (len == 0 || (len == 1 && name.data[0] == '.')) {
            continue;
        }
        rc = namespace_check_name(name);
        struct inode i;
        struct dentry d;
        if (rc == 0) {
            rc = namespace_directory(f, at, &i);
        }
        if (rc == 0) {
            struct dentry_at where = {.volume = i.volume, .parent = at, .name = name};
            rc = namespace_find(f, &where, &d);
        }
        if (rc < 0) {
            return rc;
        }
        at = d.ino;
    }
    struct inode last;
    rc = namespace_directory(f, at, &last);
    if (rc == 0) {
        *out = at;
    }
    return rc;
}

/* ---- links ------------------------------------------------------------------------- */

int namespace_destroy(struct fsm *f, struct inode *i)
{
    CHECK(i->orphans == 0 && i->nlink == 0);
    int rc = 0;
    if ((i->flags & INODE_INLINE) != 0) {
        rc = inodes_inline_drop(f, i);
    }
    if (rc == 0 && S_ISLNK(i->mode)) {
        struct key k;
        key_start_ns(&k, i->volume, TABLE_SYMLINK);
        key_add_u64(&k, i->ino);
        rc = rows_remove(f, i->volume, &k, NULL);
    }
    if (rc == 0) {
        rc = rows_inode_delete(f, i);
    }
    return rc == 0 ? extents_bury(f, i) : rc;
}

int namespace_drop_link(struct fsm *f, struct inode *i, bool held, struct op_result *r)
{
    i->nlink = S_ISDIR(i->mode) ? 0 : i->nlink - 1;
    rows_touch(f, i);
    int rc = 0;
    if (i->nlink == 0 && held) {
        rc = sessions_hold(f, i);
        r->orphaned = true;
    }
    r->has_victim = true;
    r->victim = *i;
    if (rc < 0) {
        return rc;
    }
    return i->nlink == 0 && i->orphans == 0 ? namespace_destroy(f, i) : rows_inode_save(f, i);
}

/* ---- make ---------------------------------------------------------------------------- */

static int make_check(const Cfs__MakeOp *op)
{
    uint32_t type = op->mode & S_IFMT;
    bool known = type == S_IFREG || type == S_IFDIR || type == S_IFLNK || type == S_IFIFO ||
                 type == S_IFSOCK || type == S_IFCHR || type == S_IFBLK;
    if (!known || (type == S_IFLNK) != (op->has_target != 0) ||
        (op->has_content && type != S_IFREG) || (!op->has_name && type != S_IFREG)) {
        return -EINVAL;
    }
    if (op->has_target &&
        (op->target.len == 0 || memchr(op->target.data, 0, op->target.len) != NULL)) {
        return op->target.len == 0 ? -ENOENT : -EINVAL;
    }
    if (op->has_target && op->target.len > NAMESPACE_TARGET_MAX) {
        return -ENAMETOOLONG;
    }
    return op->has_name ? namespace_check_name(op_bytes(op->name)) : 0;
}

/* The name is taken: an error, or with existing_ok the answer. */
static int make_existing(struct fsm *f, const Cfs__MakeOp *op, const struct dentry *d,
                         struct op_result *r)
{
    if (!op->existing_ok) {
        return -EEXIST;
    }
    if (d->type != S_IFREG) {
        return d->type == S_IFDIR ? -EISDIR : -EEXIST;
    }
    struct inode i;
    int rc = rows_inode(f, d->ino, &i);
    if (rc == 0) {
        op_result_attr(r, &i);
    }
    return rc;
}

/* Owner, group, mode: as a local filesystem does it. */
static void make_owner(const Cfs__MakeOp *op, const struct inode *parent, struct inode *i)
{
    i->mode = op->mode & (S_IFMT | 07777);
    i->uid = op->who->uid;
    i->gid = op->who->gid;
    i->rdev = S_ISCHR(i->mode) || S_ISBLK(i->mode) ? op->rdev : 0;
    if ((parent->mode & S_ISGID) != 0) {
        i->gid = parent->gid;
        i->mode |= S_ISDIR(i->mode) ? S_ISGID : 0;
    }
    if (S_ISLNK(i->mode)) {
        i->mode = S_IFLNK | 0777;
    }
    i->nlink = S_ISDIR(i->mode) ? 2 : op->has_name ? 1 : 0;
    i->parent = S_ISDIR(i->mode) ? parent->ino : 0;
}

static int make_content(struct fsm *f, const Cfs__MakeOp *op, struct inode *i)
{
    if (op->has_target) {
        struct key k;
        key_start_ns(&k, i->volume, TABLE_SYMLINK);
        key_add_u64(&k, i->ino);
        uint64_t born = rows_born(f, i->volume);
        buf_clear(&f->scratch);
        buf_u8(&f->scratch, VALUE_VERSION);
        buf_le64(&f->scratch, born);
        buf_add(&f->scratch, op->target.data, op->target.len);
        i->size = op->target.len;
        return rows_change(f, i->volume, &k, buf_bytes(&f->scratch), NULL);
    }
    if (op->has_content) {
        i->size = op->content.len;
        return inodes_inline_set(f, i, op_bytes(op->content));
    }
    return 0;
}

/* Makes the inode, not its name. */
static int make_inode(struct fsm *f, const Cfs__MakeOp *op, const struct inode *parent,
                      struct inode *i)
{
    int rc = rows_inode_new(f, parent->volume, i);
    if (rc < 0) {
        return rc;
    }
    make_owner(op, parent, i);
    rc = xattrs_inherit(f, parent, i, op->who->has_umask ? op->who->umask : 0);
    if (rc == 0) {
        rc = make_content(f, op, i);
    }
    if (rc == 0 && !op->has_name) {
        rc = sessions_hold(f, i);
    }
    return rc == 0 ? rows_inode_save(f, i) : rc;
}

int namespace_make(struct fsm *f, const Cfs__MakeOp *op, struct op_result *r)
{
    int rc = make_check(op);
    struct inode parent, i;
    if (rc == 0) {
        rc = namespace_directory(f, op->parent, &parent);
    }
    if (rc == 0 && parent.nlink == 0) {
        rc = -ENOENT;
    }
    if (rc < 0) {
        return rc;
    }
    if (!op->has_name) {
        rc = make_inode(f, op, &parent, &i);
        op_result_attr(r, &i);
        return rc;
    }
    struct dentry_at at = {
        .volume = parent.volume, .parent = parent.ino, .name = op_bytes(op->name)};
    struct dentry d;
    rc = namespace_find(f, &at, &d);
    if (rc != -ENOENT) {
        return rc < 0 ? rc : make_existing(f, op, &d, r);
    }
    rc = make_inode(f, op, &parent, &i);
    if (rc == 0) {
        d = (struct dentry){.ino = i.ino, .type = i.mode & S_IFMT};
        rc = namespace_put(f, &at, &d);
    }
    if (rc < 0) {
        return rc;
    }
    namespace_grow(f, &parent, at.name.len);
    parent.nlink += S_ISDIR(i.mode);
    op_result_attr(r, &i);
    r->has_parent = true;
    r->parent = parent;
    return rows_inode_save(f, &parent);
}

/* ---- unlink and rmdir --------------------------------------------------------------------- */

static int unlink_check(const Cfs__UnlinkOp *op, const struct inode *victim)
{
    if (op->directory) {
        return !S_ISDIR(victim->mode) ? -ENOTDIR : victim->entries > 0 ? -ENOTEMPTY : 0;
    }
    return S_ISDIR(victim->mode) ? -EISDIR : 0;
}

int namespace_unlink(struct fsm *f, const Cfs__UnlinkOp *op, struct op_result *r)
{
    struct bytes name = op_bytes(op->name);
    int rc = namespace_check_name(name);
    if (rc < 0) {
        return rc != -EEXIST ? rc : name.len == 1 ? -EINVAL : -ENOTEMPTY; /* "." and ".." */
    }
    struct inode parent, victim;
    struct dentry d;
    rc = namespace_directory(f, op->parent, &parent);
    if (rc < 0) {
        return rc;
    }
    struct dentry_at at = {.volume = parent.volume, .parent = parent.ino, .name = name};
    rc = namespace_find(f, &at, &d);
    if (rc == 0) {
        rc = rows_inode(f, d.ino, &victim);
    }
    if (rc == 0) {
        rc = unlink_check(op, &victim);
    }
    if (rc == 0) {
        rc = namespace_remove(f, &at);
    }
    if (rc == 0) {
        namespace_shrink(f, &parent, name.len);
        parent.nlink -= S_ISDIR(victim.mode);
        rc = rows_inode_save(f, &parent);
    }
    if (rc == 0) {
        r->has_parent = true;
        r->parent = parent;
        rc = namespace_drop_link(f, &victim, op->held, r);
    }
    return rc;
}

/* ---- link ------------------------------------------------------------------------------------ */

int namespace_link(struct fsm *f, const Cfs__LinkOp *op, struct op_result *r)
{
    struct bytes name = op_bytes(op->name);
    struct inode i, parent;
    int rc = namespace_check_name(name);
    if (rc == 0) {
        rc = rows_inode(f, op->ino, &i);
    }
    if (rc == 0) {
        rc = namespace_directory(f, op->parent, &parent);
    }
    if (rc < 0) {
        return rc;
    }
    if (S_ISDIR(i.mode)) {
        return -EPERM;
    }
    if (parent.nlink == 0) {
        return -ENOENT;
    }
    if (i.volume != parent.volume) {
        return -EXDEV;
    }
    if (i.nlink >= NAMESPACE_LINKS_MAX) {
        return -EMLINK;
    }
    struct dentry_at at = {.volume = parent.volume, .parent = parent.ino, .name = name};
    struct dentry d;
    rc = namespace_find(f, &at, &d);
    if (rc != -ENOENT) {
        return rc < 0 ? rc : -EEXIST;
    }
    d = (struct dentry){.ino = i.ino, .type = i.mode & S_IFMT};
    rc = namespace_put(f, &at, &d);
    if (rc < 0) {
        return rc;
    }
    i.nlink++;
    rows_touch(f, &i);
    namespace_grow(f, &parent, name.len);
    op_result_attr(r, &i);
    r->has_parent = true;
    r->parent = parent;
    rc = rows_inode_save(f, &i);
    return rc == 0 ? rows_inode_save(f, &parent) : rc;
}
