#include "meta/xattrs.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/err.h"
#include "base/mem.h"
#include "meta/acl.h"
#include "meta/inodes.h"

/* Values are rows of their own. inode.xattr_bytes is the sum of names (with their zero) and values,
 * and bounds both what an inode holds and the length of a listing. The two ACLs are xattrs like
 * others, but for their effect on the mode; flags in the inode say that they are there. */

static const char ACCESS[] = "system.posix_acl_access";
static const char DEFAULT[] = "system.posix_acl_default";

static struct bytes access_name(void)
{
    return BYTES(ACCESS, sizeof ACCESS - 1);
}
static struct bytes default_name(void)
{
    return BYTES(DEFAULT, sizeof DEFAULT - 1);
}

static void xattr_key(struct key *k, const struct inode *i, struct bytes name)
{
    key_start_ns(k, i->volume, TABLE_XATTR);
    key_add_u64(k, i->ino);
    key_add_bytes(k, name);
}

static int check_name(struct bytes name)
{
    static const char *const prefixes[] = {"user.", "trusted.", "security."};
    if (name.len == 0 || name.len > KEY_NAME_MAX) {
        return -ERANGE;
    }
    if (memchr(name.data, 0, name.len) != NULL) {
        return -EINVAL;
    }
    if (bytes_equal(name, access_name()) || bytes_equal(name, default_name())) {
        return 0;
    }
    for (size_t i = 0; i < array_count(prefixes); i++) {
        struct bytes prefix = BYTES(prefixes[i], strlen(prefixes[i]));
        if (bytes_has_prefix(name, prefix)) {
            return name.len > prefix.len ? 0 : -EINVAL;
        }
    }
    return -EOPNOTSUPP;
}

int xattrs_get(struct fsm *f, const struct inode *i, struct bytes name, struct buf *out)
{
    int rc = check_name(name);
    if (rc < 0) {
        return rc;
    }
    if (i->xattr_bytes == 0) {
        return -ENODATA;
    }
    struct key k;
    xattr_key(&k, i, name);
    rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? -ENODATA : rc;
    }
    if (f->value.len < VALUE_NS_HEADER || f->value.data[0] != VALUE_VERSION) {
        return fsm_note(f, ERR_CORRUPT);
    }
    buf_add(out, f->value.data + VALUE_NS_HEADER, f->value.len - VALUE_NS_HEADER);
    return 0;
}

/* ---- changing one ------------------------------------------------------------------- */

static uint32_t weight(struct bytes name, size_t value_len)
{
    return (uint32_t)(name.len + 1 + value_len);
}

static void set_flags(struct inode *i, struct bytes name, bool there)
{
    uint32_t flag = bytes_equal(name, access_name())    ? INODE_ACL
                    : bytes_equal(name, default_name()) ? INODE_DEFAULT_ACL
                                                        : 0;
    i->flags = there ? i->flags | flag : i->flags & ~flag;
    i->flags = i->xattr_bytes > 0 ? i->flags | INODE_XATTRS : i->flags & ~(uint32_t)INODE_XATTRS;
}

/* The weight of what is there now; 0: nothing. */
static int present(struct fsm *f, const struct inode *i, struct bytes name, uint32_t *out)
{
    struct buf old;
    buf_init(&old);
    int rc = xattrs_get(f, i, name, &old);
    *out = rc == 0 ? weight(name, old.len) : 0;
    buf_release(&old);
    return rc == -ENODATA ? 0 : rc;
}

static int store(struct fsm *f, struct inode *i, struct bytes name, struct bytes value)
{
    uint32_t old;
    int rc = present(f, i, name, &old);
    if (rc < 0) {
        return rc;
    }
    uint32_t sum = i->xattr_bytes - old + weight(name, value.len);
    if (sum > XATTRS_INODE_MAX) {
        return -ENOSPC;
    }
    struct key k;
    xattr_key(&k, i, name);
    uint64_t born = rows_born(f, i->volume);
    buf_clear(&f->scratch);
    buf_u8(&f->scratch, VALUE_VERSION);
    buf_le64(&f->scratch, born);
    buf_add(&f->scratch, value.data, value.len);
    i->xattr_bytes = sum;
    set_flags(i, name, true);
    return rows_change(f, i->volume, &k, buf_bytes(&f->scratch), NULL);
}

static int drop(struct fsm *f, struct inode *i, struct bytes name)
{
    uint32_t old;
    int rc = present(f, i, name, &old);
    if (rc < 0 || old == 0) {
        return rc < 0 ? rc : -ENODATA;
    }
    struct key k;
    xattr_key(&k, i, name);
    i->xattr_bytes -= old;
    set_flags(i, name, false);
    return rows_remove(f, i->volume, &k, NULL);
}

/* Names, each with its zero, must fit the 64 KiB that listxattr(2) can answer. */
static int name_sum(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f, (void)value;
    *(size_t *)ctx += key.len - 18 + 1;
    return 0;
}

static int check_list(struct fsm *f, const struct inode *i, struct bytes name)
{
    size_t sum = name.len + 1;
    if (i->xattr_bytes < XATTRS_LIST_MAX - sum) {
        return 0; /* names alone are no longer than names and values */
    }
    struct key prefix;
    xattr_key(&prefix, i, BYTES("", 0));
    int rc = rows_each(f, &prefix, name_sum, &sum);
    return rc < 0 ? rc : sum > XATTRS_LIST_MAX ? -ENOSPC : 0;
}

/* ---- ACLs ---------------------------------------------------------------------------- */

/* An access ACL sets the mode; one that says no more than the mode is not stored. */
static int set_access_acl(struct fsm *f, const Cfs__XattrOp *op, struct inode *i)
{
    struct bytes acl = op_bytes(op->value);
    int rc = acl_validate(acl);
    if (rc < 0) {
        return rc;
    }
    bool extended = false;
    if (acl.len > 4) { /* an empty one removes, as in Linux */
        i->mode = (i->mode & ~0777u) | acl_mode(acl, &extended);
        i->mode = op->kill_sgid ? i->mode & ~(uint32_t)S_ISGID : i->mode;
    }
    if (extended) {
        return store(f, i, access_name(), acl);
    }
    rc = drop(f, i, access_name());
    return rc == -ENODATA ? 0 : rc;
}

static int set_default_acl(struct fsm *f, const Cfs__XattrOp *op, struct inode *i)
{
    struct bytes acl = op_bytes(op->value);
    int rc = acl_validate(acl);
    if (rc < 0) {
        return rc;
    }
    if (acl.len > 4) {
        return S_ISDIR(i->mode) ? store(f, i, default_name(), acl) : -EACCES;
    }
    rc = drop(f, i, default_name());
    return rc == -ENODATA ? 0 : rc;
}

static int set_acl(struct fsm *f, const Cfs__XattrOp *op, struct inode *i)
{
    if (S_ISLNK(i->mode)) {
        return -EOPNOTSUPP;
    }
    return bytes_equal(op_bytes(op->name), access_name()) ? set_access_acl(f, op, i)
                                                          : set_default_acl(f, op, i);
}

/* ---- the operation ---------------------------------------------------------------------- */

static int check_flags(struct fsm *f, const Cfs__XattrOp *op, const struct inode *i)
{
    if ((op->flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE)) != 0) {
        return -EINVAL;
    }
    uint32_t old = 0;
    int rc = op->flags != 0 ? present(f, i, op_bytes(op->name), &old) : 0;
    if (rc < 0) {
        return rc;
    }
    if ((op->flags & XATTR_CREATE) != 0 && old != 0) {
        return -EEXIST;
    }
    return (op->flags & XATTR_REPLACE) != 0 && old == 0 ? -ENODATA : 0;
}

static int set_value(struct fsm *f, const Cfs__XattrOp *op, struct inode *i)
{
    struct bytes name = op_bytes(op->name);
    if (op->value.len > XATTRS_VALUE_MAX) {
        return -E2BIG;
    }
    int rc = check_flags(f, op, i);
    if (rc == 0) {
        rc = check_list(f, i, name);
    }
    if (rc < 0) {
        return rc;
    }
    return name.data[1] == 'y' ? set_acl(f, op, i) /* system. */
                               : store(f, i, name, op_bytes(op->value));
}

/* An ACL that is not there can be removed, as on other filesystems. */
static int remove_value(struct fsm *f, const Cfs__XattrOp *op, struct inode *i)
{
    struct bytes name = op_bytes(op->name);
    int rc = drop(f, i, name);
    return rc == -ENODATA && name.data[1] == 'y' ? 0 : rc;
}

int xattrs_set(struct fsm *f, const Cfs__XattrOp *op, struct op_result *r)
{
    struct inode i;
    int rc = check_name(op_bytes(op->name));
    if (rc == 0) {
        rc = rows_inode(f, op->ino, &i);
    }
    if (rc < 0) {
        return rc;
    }
    rc = op->has_value ? set_value(f, op, &i) : remove_value(f, op, &i);
    rows_touch(f, &i);
    op_result_attr(r, &i);
    return rc == 0 ? rows_inode_save(f, &i) : rc;
}

/* ---- inheritance and chmod ------------------------------------------------------------------ */

static int inherit_acl(struct fsm *f, const struct inode *parent, struct inode *i, struct buf *acl)
{
    int rc = xattrs_get(f, parent, default_name(), acl);
    if (rc == 0 && S_ISDIR(i->mode)) {
        rc = store(f, i, default_name(), buf_bytes(acl));
    }
    if (rc < 0) {
        return rc;
    }
    i->mode = (i->mode & ~0777u) | acl_create(acl->data, acl->len, i->mode);
    bool extended;
    (void)acl_mode(buf_bytes(acl), &extended);
    return extended ? store(f, i, access_name(), buf_bytes(acl)) : 0;
}

int xattrs_inherit(struct fsm *f, const struct inode *parent, struct inode *i, uint32_t umask)
{
    if (S_ISLNK(i->mode)) {
        return 0;
    }
    if ((parent->flags & INODE_DEFAULT_ACL) == 0) {
        i->mode &= ~(umask & 0777);
        return 0;
    }
    struct buf acl;
    buf_init(&acl);
    int rc = inherit_acl(f, parent, i, &acl);
    buf_release(&acl);
    return rc;
}

int xattrs_chmod(struct fsm *f, struct inode *i)
{
    if ((i->flags & INODE_ACL) == 0) {
        return 0;
    }
    struct buf acl;
    buf_init(&acl);
    int rc = xattrs_get(f, i, access_name(), &acl);
    if (rc == 0) {
        acl_chmod(acl.data, acl.len, i->mode);
        rc = store(f, i, access_name(), buf_bytes(&acl));
    }
    buf_release(&acl);
    return rc;
}
