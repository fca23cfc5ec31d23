/* Extended attributes, ACLs among them. Whether an inode has any is in its attributes, so the usual answer "none" costs
 * no round trip. */
#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/err.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

enum { XATTR_NAME_MAX_BYTES = 255, XATTR_VALUE_MAX_BYTES = 65536, GROUPS_MAX = 4096 };
static const char ACCESS_ACL[] = "system.posix_acl_access";
static const char DEFAULT_ACL[] = "system.posix_acl_default";

static uint32_t flag_of(const char *name)
{
    if (strcmp(name, ACCESS_ACL) == 0) {
        return ATTR_ACCESS_ACL;
    }
    return strcmp(name, DEFAULT_ACL) == 0 ? ATTR_DEFAULT_ACL : ATTR_XATTR;
}

/* ---- get and list: t->length is the room that the caller has, 0 = it asks for the size ---- */

static void reply_value(struct task *t, const void *value, size_t len)
{
    if (t->length == 0) {
        fuse_reply_xattr(t->req, len);
    } else if (len > t->length) {
        task_error(t, -ERANGE);
    } else {
        fuse_reply_buf(t->req, value, len);
    }
}

static void get_done(struct task *t, int rc, struct bytes body)
{
    rc = rc == ERR_NOT_FOUND ? -ENODATA : rc;
    Cfs__XattrReply *reply = rc == 0 ? cfs__xattr_reply__unpack(NULL, body.len, body.data) : NULL;
    if (reply == NULL) {
        task_error(t, rc != 0 ? rc : ERR_MALFORMED);
        return;
    }
    if (reply->has_value) {
        reply_value(t, reply->value.data, reply->value.len);
    } else {
        task_error(t, -ENODATA);
    }
    cfs__xattr_reply__free_unpacked(reply, NULL);
}

static void get_ask(struct task *t, int rc)
{
    if (rc == 0 && (t->in->attr_flags & flag_of(t->data)) == 0) {
        rc = -ENODATA;
    }
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    Cfs__XattrRequest request = CFS__XATTR_REQUEST__INIT;
    request.session = session_id(t->o->c->session);
    request.ino = t->ino;
    request.has_name = 1;
    request.name = ops_data(BYTES(t->data, strlen(t->data)));
    task_read(t, METHOD_GETXATTR, &request.base, get_done);
}

void ops_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct task *t = task_begin(req, ino, NULL);
    if (t == NULL) {
        return;
    }
    t->data = name;
    t->length = size;
    (void)task_pin(t, t->ino);
    task_need_attr(t, get_ask);
}

static void list_reply(struct task *t, const Cfs__XattrReply *reply)
{
    struct buf names;
    buf_init(&names);
    for (size_t i = 0; i < reply->n_name; i++) {
        buf_add(&names, reply->name[i].data, reply->name[i].len);
        buf_u8(&names, 0);
    }
    reply_value(t, names.data, names.len);
    buf_release(&names);
}

static void list_done(struct task *t, int rc, struct bytes body)
{
    Cfs__XattrReply *reply = rc == 0 ? cfs__xattr_reply__unpack(NULL, body.len, body.data) : NULL;
    if (reply == NULL) {
        task_error(t, rc != 0 ? rc : ERR_MALFORMED);
        return;
    }
    list_reply(t, reply);
    cfs__xattr_reply__free_unpacked(reply, NULL);
}

static void list_ask(struct task *t, int rc)
{
    const uint32_t any = ATTR_XATTR | ATTR_ACCESS_ACL | ATTR_DEFAULT_ACL;
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    if ((t->in->attr_flags & any) == 0) {
        reply_value(t, NULL, 0);
        return;
    }
    Cfs__XattrRequest request = CFS__XATTR_REQUEST__INIT;
    request.session = session_id(t->o->c->session);
    request.ino = t->ino;
    task_read(t, METHOD_LISTXATTR, &request.base, list_done);
}

void ops_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct task *t = task_begin(req, ino, NULL);
    if (t == NULL) {
        return;
    }
    t->length = size;
    (void)task_pin(t, t->ino);
    task_need_attr(t, list_ask);
}

/* ---- set and remove ---- */

static void set_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    if (rc == 0 && reply->attr == NULL) {
        itable_forget(t->o->c->itable, t->ino); /* it may have changed the mode */
    }
    task_error(t, rc == ERR_NOT_FOUND ? -ENODATA : rc);
}

static bool in_group(fuse_req_t req, gid_t gid)
{
    gid_t groups[GROUPS_MAX];
    if (fuse_req_ctx(req)->gid == gid) {
        return true;
    }
    int n = fuse_req_getgroups(req, GROUPS_MAX, groups);
    for (int i = 0; i < n && i < GROUPS_MAX; i++) {
        if (groups[i] == gid) {
            return true;
        }
    }
    return false;
}

static void set_submit(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    Cfs__XattrOp x = CFS__XATTR_OP__INIT;
    x.ino = t->ino;
    x.name = ops_data(t->name[0]);
    x.has_value = 1;
    x.value = ops_data(BYTES(t->data, t->length));
    x.has_flags = t->flags != 0;
    x.flags = t->flags;
    bool acl = t->name[0].len == sizeof ACCESS_ACL - 1 &&
               memcmp(t->name[0].data, ACCESS_ACL, t->name[0].len) == 0;
    if (acl && (t->in->st.st_mode & S_ISGID) != 0 && fuse_req_ctx(t->req)->uid != 0) {
        x.has_kill_sgid = 1;
        x.kill_sgid = !in_group(t->req, t->in->st.st_gid);
    }
    Cfs__Op op = CFS__OP__INIT;
    op.xattr = &x;
    task_submit(t, &op, set_done);
}

void ops_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
                  int flags)
{
    struct task *t = task_begin_change(req, ino, NULL);
    if (t == NULL) {
        return;
    }
    if (strlen(name) > XATTR_NAME_MAX_BYTES || size > XATTR_VALUE_MAX_BYTES) {
        task_error(t, size > XATTR_VALUE_MAX_BYTES ? -E2BIG : -ERANGE);
        return;
    }
    t->name[0] = BYTES(name, strlen(name));
    t->data = value;
    t->length = size;
    t->flags = (uint32_t)flags;
    (void)task_pin(t, t->ino);
    if (task_numbered(t)) {
        set_submit(t, 0);
    } else {
        task_need_attr(t, set_submit);
    }
}

void ops_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct task *t = task_begin_change(req, ino, NULL);
    if (t == NULL) {
        return;
    }
    Cfs__XattrOp x = CFS__XATTR_OP__INIT;
    x.ino = t->ino;
    x.name = ops_data(BYTES(name, strlen(name)));
    Cfs__Op op = CFS__OP__INIT;
    op.xattr = &x;
    task_submit(t, &op, set_done);
}
