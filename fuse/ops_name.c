/* Names: lookups, and the commands that make, move and remove them. */
#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

enum { OPCODE_TMPFILE = 51, RENAME_FLAGS_KNOWN = 3 /* NOREPLACE, EXCHANGE */ };

/* While a change of the directory is under way, which only the death of its caller or -o deadline
 * allows, the kernel keeps no answer: it would not hear of the end. */
static double name_timeout(const struct task *t)
{
    return names_busy(t->o->names, t->ino) ? 0.0
                                           : (double)client_lease_ms(t->o->c, t->ino) / 1000.0;
}

static void reply_entry(struct task *t, struct inode *in)
{
    struct fuse_entry_param e;
    ops_entry(t->o, in, &e);
    e.entry_timeout = name_timeout(t);
    fuse_reply_entry(t->req, &e);
}

static bool is_absent(int rc)
{
    return rc == -ENOENT || rc == ERR_NOT_FOUND;
}

static bool too_long(fuse_req_t req, const char *name)
{
    if (strlen(name) <= 255) {
        return false;
    }
    fuse_reply_err(req, ENAMETOOLONG);
    return true;
}

/* ---- lookup ---- */

static void reply_absent(struct task *t, bool sure)
{
    struct fuse_entry_param e = {0};
    e.entry_timeout = sure ? name_timeout(t) : 0.0;
    fuse_reply_entry(t->req, &e);
}

static void remember_name(struct task *t, const struct inode *in)
{
    struct names *n = t->o->names;
    if (t->name[0].len == 0 || !names_unchanged(n, t->ino, t->mark)) {
        return;
    }
    names_put(n, t->ino, t->name[0], in->ino);
    if (S_ISDIR(in->st.st_mode)) {
        names_set_parent(n, in->ino, t->ino);
    }
}

static void lookup_done(struct task *t, int rc, struct bytes body)
{
    if (is_absent(rc)) { /* unless it was made since the server looked */
        reply_absent(t, names_unchanged(t->o->names, t->ino, t->mark));
        return;
    }
    Cfs__LookupReply *reply =
        rc == 0 ? cfs__lookup_reply__unpack(NULL, body.len, body.data) : NULL;
    if (reply == NULL) {
        task_error(t, rc != 0 ? rc : ERR_MALFORMED);
        return;
    }
    struct inode *in = ops_take_lookup(t->o, reply);
    cfs__lookup_reply__free_unpacked(reply, NULL);
    remember_name(t, in);
    reply_entry(t, in);
}

/* What is known: 0 when an answer was given. */
static int lookup_known(struct task *t)
{
    struct ops *o = t->o;
    uint64_t ino = names_find(o->names, t->ino, t->name[0]);
    struct inode *in = ino != 0 ? itable_find(o->c->itable, ino) : NULL;
    if (in != NULL && in->attr_valid) {
        reply_entry(t, in);
        return 0;
    }
    if (ino == 0 && names_complete(o->names, t->ino)) {
        reply_absent(t, true);
        return 0;
    }
    return -ENODATA;
}

static void lookup_this(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    reply_entry(t, t->in);
}

void ops_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct task *t = too_long(req, name) ? NULL : task_begin(req, parent, NULL);
    if (t == NULL) {
        return;
    }
    if (strcmp(name, ".") == 0) { /* by file handle (NFS): any inode */
        (void)task_pin(t, t->ino);
        task_need_attr(t, lookup_this);
        return;
    }
    bool dots = strcmp(name, "..") == 0;
    t->name[0] = BYTES(name, strlen(name));
    if (!dots && lookup_known(t) == 0) {
        return;
    }
    Cfs__LookupRequest request = CFS__LOOKUP_REQUEST__INIT;
    request.session = session_id(t->o->c->session);
    request.parent = t->ino;
    request.name = ops_data(t->name[0]);
    t->mark = names_mark(t->o->names, t->ino);
    if (dots) {
        t->name[0].len = 0;
    }
    struct ahead *ahead = t->o->ahead;
    const uint64_t dir = t->ino;
    task_read(t, METHOD_LOOKUP, &request.base, lookup_done);
    if (!dots) {
        ahead_missed(ahead, dir);
    }
}

/* ---- make ---- */

static struct inode *take_made(struct task *t, const Cfs__OpReply *reply)
{
    struct ops *o = t->o;
    struct inode *in = itable_find(o->c->itable, reply->attr->ino);
    if (in == NULL) {
        in = itable_take_attr(o->c->itable, reply->attr);
    }
    if (S_ISREG(in->st.st_mode) && in->st.st_size == 0 && in->st.st_blocks == 0) {
        ops_take_empty(o, in);
    }
    if (t->name[0].len > 0) {
        names_put(o->names, t->ino, t->name[0], in->ino);
    }
    if (S_ISDIR(in->st.st_mode)) {
        names_set_complete(o->names, in->ino, true);
        names_set_parent(o->names, in->ino, t->ino);
    }
    return in;
}

static bool made_wrong(struct task *t, int rc, const Cfs__OpReply *reply)
{
    if (rc == 0 && reply->attr == NULL) {
        rc = ERR_MALFORMED;
    }
    if (rc != 0) {
        task_error(t, rc);
    }
    return rc != 0;
}

static void make_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    if (made_wrong(t, rc, reply)) {
        return;
    }
    struct inode *in = take_made(t, reply);
    if (S_ISLNK(in->st.st_mode) && t->data != NULL) {
        itable_take_content(in, BYTES(t->data, strlen(t->data)));
    }
    reply_entry(t, in);
}

static void make(struct task *t, const char *name, Cfs__MakeOp *make_op, task_done done)
{
    Cfs__Who who = ops_who(t->req);
    make_op->who = &who;
    make_op->parent = t->ino;
    if (name != NULL) {
        task_names(t, t->ino, name);
        make_op->has_name = 1;
        make_op->name = ops_data(t->name[0]);
    }
    Cfs__Op op = CFS__OP__INIT;
    op.make = make_op;
    task_submit(t, &op, done);
}

void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct task *t = too_long(req, name) ? NULL : task_begin_change(req, parent, NULL);
    if (t == NULL) {
        return;
    }
    Cfs__MakeOp m = CFS__MAKE_OP__INIT;
    m.mode = mode;
    m.has_rdev = rdev != 0;
    m.rdev = (uint32_t)rdev;
    make(t, name, &m, make_done);
}

void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct task *t = too_long(req, name) ? NULL : task_begin_change(req, parent, NULL);
    if (t == NULL) {
        return;
    }
    Cfs__MakeOp m = CFS__MAKE_OP__INIT;
    m.mode = S_IFDIR | (mode & 07777);
    make(t, name, &m, make_done);
}

void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct task *t = too_long(req, name) ? NULL : task_begin_change(req, parent, NULL);
    if (t == NULL) {
        return;
    }
    Cfs__MakeOp m = CFS__MAKE_OP__INIT;
    m.mode = S_IFLNK | 0777;
    m.has_target = 1;
    m.target = ops_data(BYTES(target, strlen(target)));
    t->data = target;
    make(t, name, &m, make_done);
}

/* ---- create ---- */

static void create_reply(struct task *t, int rc)
{
    struct fuse_entry_param e;
    bool tmpfile = t->name[0].len == 0;
    rc = rc == 0 ? ops_open_handle(t, t->in, tmpfile ? ARENA_HANDLE_ORPHAN : 0) : rc;
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    ops_file_flags(&t->fi);
    ops_entry(t->o, t->in, &e);
    fuse_reply_create(t->req, &e, &t->fi);
}

static void create_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    if (made_wrong(t, rc, reply)) {
        return;
    }
    struct inode *in = take_made(t, reply);
    (void)task_pin(t, in->ino);
    in->orphan = t->name[0].len == 0;
    /* The name was there after all. Truncating is harmless to repeat, so it needs no number in the record. */
    if ((t->fi.flags & O_TRUNC) != 0 && reply->attr->size != 0 && S_ISREG(reply->attr->mode)) {
        ops_truncate_open(t, false, create_reply);
        return;
    }
    create_reply(t, 0);
}

void ops_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                struct fuse_file_info *fi)
{
    struct task *t = too_long(req, name) ? NULL : task_begin_change(req, parent, fi);
    if (t == NULL) {
        return;
    }
    Cfs__MakeOp m = CFS__MAKE_OP__INIT;
    m.mode = S_IFREG | (mode & 07777);
    m.has_existing_ok = 1;
    m.existing_ok = (fi->flags & O_EXCL) == 0;
    make(t, t->r->opcode == OPCODE_TMPFILE ? NULL : name, &m, create_done);
}

/* ---- remove ---- */

/* Whether the inode that loses a name must live on: it is open, or we cannot say which one it is. */
static bool is_held(struct task *t, uint64_t ino)
{
    t->victim = ino;
    if (ino == 0 || handles_count(t->o->handles, ino) > 0) {
        return true;
    }
    list_remove(&t->node);
    list_add_tail(&t->o->removals, &t->node); /* an open of it meanwhile waits */
    return false;
}

/* Which inode a name that goes away leads to. While another change of the directory is under way, which only the death of
 * its caller allows, nobody can say. */
static uint64_t name_of(struct ops *o, uint64_t dir, struct bytes name)
{
    return names_busy(o->names, dir) ? 0 : names_find(o->names, dir, name);
}

static void remove_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    if (rc == 0) {
        /* Once more: beside it, which only the death of a caller allows, another change may have
         * put it, or a listing. */
        names_drop(t->o->names, t->ino, t->name[0]);
        ops_victim(t->o, reply);
    }
    task_error(t, rc);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, bool directory)
{
    struct task *t = too_long(req, name) ? NULL : task_begin_change(req, parent, NULL);
    if (t == NULL) {
        return;
    }
    task_names(t, t->ino, name);
    Cfs__UnlinkOp u = CFS__UNLINK_OP__INIT;
    u.parent = t->ino;
    u.name = ops_data(t->name[0]);
    u.has_directory = 1;
    u.directory = directory;
    u.has_held = 1;
    u.held = is_held(t, name_of(t->o, t->ino, t->name[0]));
    names_drop(t->o->names, t->ino, t->name[0]);
    Cfs__Op op = CFS__OP__INIT;
    op.unlink = &u;
    task_submit(t, &op, remove_done);
}

void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, false);
}

void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, true);
}

/* ---- rename: what was written to the file is durable before the name that publishes it ---- */

static void move_name(struct ops *o, uint64_t dir, struct bytes name, uint64_t ino)
{
    if (ino == 0) {
        names_set_complete(o->names, dir, false);
        names_drop(o->names, dir, name);
        return;
    }
    names_put(o->names, dir, name, ino);
    struct inode *in = itable_find(o->c->itable, ino);
    bool known = in != NULL && in->attr_valid;
    if (known && S_ISDIR(in->st.st_mode)) {
        names_set_parent(o->names, ino, dir);
    } else if (!known && names_parent(o->names, ino) != 0) {
        names_set_parent(o->names, ino, 0); /* if a directory: not this any more */
    }
}

static void rename_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    struct ops *o = t->o;
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    uint64_t moved = reply->attr != NULL ? reply->attr->ino : 0;
    bool same = reply->parent == NULL; /* two names of one inode: both stay */
    if ((t->flags & RENAME_EXCHANGE) != 0) {
        move_name(o, t->ino, t->name[0], t->victim);
    } else if (!same) {
        names_drop(o->names, t->ino, t->name[0]);
        ops_victim(o, reply);
    }
    move_name(o, t->to_dir, t->name[1], moved);
    task_error(t, 0);
}

static void rename_submit(struct task *t, int rc)
{
    struct ops *o = t->o;
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    uint64_t target = name_of(o, t->to_dir, t->name[1]);
    bool absent = target == 0 && names_complete(o->names, t->to_dir);
    Cfs__RenameOp r = CFS__RENAME_OP__INIT;
    r.parent = t->ino;
    r.name = ops_data(t->name[0]);
    r.new_parent = t->to_dir;
    r.new_name = ops_data(t->name[1]);
    r.has_flags = 1;
    r.flags = t->flags;
    r.has_held = 1;
    t->victim = target;
    if ((t->flags & RENAME_EXCHANGE) == 0 && !absent) {
        r.held = is_held(t, target);
    }
    Cfs__Op op = CFS__OP__INIT;
    op.rename = &r;
    task_submit(t, &op, rename_done);
}

static void rename_flush(struct task *t, uint64_t source)
{
    struct inode *in = itable_find(t->o->c->itable, source);
    if (in == NULL || !writer_dirty(in)) {
        rename_submit(t, 0);
        return;
    }
    task_flush(t, task_pin(t, source), rename_submit);
}

static void rename_found(struct task *t, int rc, struct bytes body)
{
    Cfs__LookupReply *reply =
        rc == 0 ? cfs__lookup_reply__unpack(NULL, body.len, body.data) : NULL;
    if (reply == NULL) {
        task_error(t, rc != 0 ? rc : ERR_MALFORMED);
        return;
    }
    uint64_t source = ops_take_lookup(t->o, reply)->ino;
    cfs__lookup_reply__free_unpacked(reply, NULL);
    rename_flush(t, source);
}

void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                const char *new_name, unsigned flags)
{
    bool bad = too_long(req, name) || too_long(req, new_name);
    struct task *t = bad ? NULL : task_begin_change(req, parent, NULL);
    if (t == NULL) {
        return;
    }
    if ((flags & ~(unsigned)RENAME_FLAGS_KNOWN) != 0) {
        task_error(t, -EINVAL);
        return;
    }
    t->flags = flags;
    t->to_dir = ops_ino(t->o, new_parent);
    task_names(t, t->ino, name);
    task_names2(t, t->to_dir, new_name);
    uint64_t source = names_find(t->o->names, t->ino, t->name[0]);
    if (task_numbered(t) || writer_total_dirty(t->o->c->writer) == 0) {
        rename_submit(t, 0);
    } else if (source != 0) {
        rename_flush(t, source);
    } else {
        Cfs__LookupRequest request = CFS__LOOKUP_REQUEST__INIT;
        request.session = session_id(t->o->c->session);
        request.parent = t->ino;
        request.name = ops_data(t->name[0]);
        task_read(t, METHOD_LOOKUP, &request.base, rename_found);
    }
}

/* ---- link ---- */

static void link_done(struct task *t, int rc, const Cfs__OpReply *reply)
{
    if (made_wrong(t, rc, reply)) {
        return;
    }
    t->in->orphan = false;
    (void)handles_set_orphan(t->o->handles, t->in->ino, false);
    names_put(t->o->names, t->to_dir, t->name[0], t->in->ino);
    reply_entry(t, t->in);
}

static void link_submit(struct task *t, int rc)
{
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    Cfs__LinkOp l = CFS__LINK_OP__INIT;
    l.ino = t->ino;
    l.parent = t->dir[0];
    l.name = ops_data(t->name[0]);
    Cfs__Op op = CFS__OP__INIT;
    op.link = &l;
    task_submit(t, &op, link_done);
}

void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct task *t = too_long(req, name) ? NULL : task_begin_change(req, ino, NULL);
    if (t == NULL) {
        return;
    }
    t->to_dir = ops_ino(t->o, parent);
    task_names(t, t->to_dir, name);
    (void)task_pin(t, t->ino);
    if (!task_numbered(t) && writer_dirty(t->in)) {
        task_flush(t, t->in, link_submit);
    } else {
        link_submit(t, 0);
    }
}
