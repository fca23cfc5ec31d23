/* What all FUSE callbacks share: numbers, attributes, handles, and the life of ops itself. */
#include "fuse/ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"

/* ---- numbers: node id 1 is the root of the mount ---- */

uint64_t ops_ino(const struct ops *o, fuse_ino_t node)
{
    return node == FUSE_ROOT_ID ? o->c->arena->h->root_ino : node;
}

fuse_ino_t ops_node(const struct ops *o, uint64_t ino)
{
    return ino == o->c->arena->h->root_ino ? FUSE_ROOT_ID : ino;
}

void ops_note_seq(struct ops *o, uint64_t seq)
{
    struct arena_header *h = o->c->arena->h;
    if (seq >= h->next_seq) {
        arena_publish64(&h->next_seq, seq + 1);
    }
}

/* ---- attributes ---- */

struct inode *ops_take_lookup(struct ops *o, const Cfs__LookupReply *reply)
{
    struct inode *in = itable_take_attr(o->c->itable, reply->attr);
    if (in->change != reply->attr->change) {
        return in; /* something newer is known: its content and extents are not these */
    }
    if (reply->has_content) {
        itable_take_content(in, BYTES(reply->content.data, reply->content.len));
    }
    if (reply->extents != NULL) {
        itable_take_extents(o->c->itable, in, 0, reply->extents);
    }
    return in;
}

/* A file just made or emptied is known whole: nothing has to be fetched. */
void ops_take_empty(struct ops *o, struct inode *in)
{
    Cfs__ExtentsReply nothing = CFS__EXTENTS_REPLY__INIT;
    nothing.covered_to = UINT64_MAX;
    itable_take_content(in, BYTES("", 0));
    itable_take_extents(o->c->itable, in, 0, &nothing);
}

bool ops_stat(struct ops *o, struct inode *in, struct stat *out)
{
    if (!itable_stat(o->c->itable, in, out)) {
        return false;
    }
    out->st_ino = in->ino;
    return true;
}

/* A dirty file's blocks and times still change when it is committed, so the kernel asks each time. */
double ops_attr_timeout(struct ops *o, struct inode *in)
{
    return writer_dirty(in) ? 0.0 : (double)client_lease_ms(o->c, in->ino) / 1000.0;
}

void ops_entry(struct ops *o, struct inode *in, struct fuse_entry_param *e)
{
    memset(e, 0, sizeof *e);
    e->ino = ops_node(o, in->ino);
    e->generation = 1;
    e->attr_timeout = ops_attr_timeout(o, in);
    e->entry_timeout = (double)client_lease_ms(o->c, in->ino) / 1000.0;
    (void)ops_stat(o, in, &e->attr);
}

void ops_reply_attr(struct task *t, struct inode *in)
{
    struct stat st;
    if (!ops_stat(t->o, in, &st)) {
        task_error(t, -EIO);
        return;
    }
    fuse_reply_attr(t->req, &st, ops_attr_timeout(t->o, in));
}

Cfs__Who ops_who(fuse_req_t req)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    Cfs__Who who = CFS__WHO__INIT;
    who.uid = ctx->uid;
    who.gid = ctx->gid;
    who.has_umask = 1;
    who.umask = ctx->umask;
    return who;
}

ProtobufCBinaryData ops_data(struct bytes b)
{
    return (ProtobufCBinaryData){.len = b.len, .data = (uint8_t *)(uintptr_t)b.data};
}

/* An inode has lost a name by a command. */
void ops_victim(struct ops *o, const Cfs__OpReply *reply)
{
    if (reply->victim == NULL) {
        return;
    }
    struct inode *in = itable_take_attr(o->c->itable, reply->victim);
    if (in->st.st_nlink != 0 && !S_ISDIR(in->st.st_mode)) {
        return;
    }
    if (reply->has_orphaned && reply->orphaned) {
        in->orphan = true;
        if (handles_set_orphan(o->handles, in->ino, true) == 0) {
            handles_keep_orphan(o->handles, in->ino);
            background_release(o->background, in->ino);
        }
    } else if (in->st.st_nlink == 0 && handles_count(o->handles, in->ino) == 0) {
        writer_forget(o->c->writer, in);
        reader_invalidate(o->c->reader, in->ino, 0, UINT64_MAX);
    }
}

/* relatime: only when it is not after the last change, or a day old. */
void ops_access_time(struct ops *o, struct inode *in, uint32_t open_flags)
{
    if (o->noatime || o->c->read_only || (open_flags & O_NOATIME) != 0 || !in->attr_valid) {
        return;
    }
    uint64_t now = clock_wall_ns();
    const struct timespec *a = &in->st.st_atim, *m = &in->st.st_mtim, *c = &in->st.st_ctim;
    bool before = a->tv_sec < m->tv_sec || a->tv_sec < c->tv_sec ||
                  (a->tv_sec == m->tv_sec && a->tv_nsec <= m->tv_nsec) ||
                  (a->tv_sec == c->tv_sec && a->tv_nsec <= c->tv_nsec);
    if (!before && (uint64_t)a->tv_sec + 86400 > now / 1000000000u) {
        return;
    }
    in->st.st_atim.tv_sec = (time_t)(now / 1000000000u);
    in->st.st_atim.tv_nsec = (long)(now % 1000000000u);
    background_access(o->background, in->ino, (int64_t)now);
}

/* ---- handles ---- */

/* As Linux counts them: an error that happened while the descriptor was open is told to it once. */
int ops_report_error(struct inode *in, struct arena_handle *handle)
{
    uint64_t errors = in->dirty != NULL ? in->dirty->errors : 0;
    if (handle == NULL || errors == handle->reported_error) {
        return 0;
    }
    bool more = errors > handle->reported_error;
    arena_publish64(&handle->reported_error, errors);
    return more ? in->dirty->error : 0;
}

int ops_open_handle(struct task *t, struct inode *in, uint32_t flags)
{
    if (t->r->fatal) { /* its caller was killed and has its answer: no RELEASE would ever come */
        if ((flags & ARENA_HANDLE_ORPHAN) != 0 && handles_count(t->o->handles, in->ino) == 0) {
            handles_keep_orphan(t->o->handles, in->ino);
            background_release(t->o->background, in->ino);
        }
        return -EINTR;
    }
    struct handle_want want = {
        .ino = in->ino,
        .unique = t->r->unique,
        .open_flags = (uint32_t)t->fi.flags,
        .flags = flags | (in->orphan ? ARENA_HANDLE_ORPHAN : 0),
        .reported_error = in->dirty != NULL ? in->dirty->errors : 0,
        .repeated = t->r->repeated,
    };
    unsigned before = handles_total(t->o->handles);
    int rc = handles_open(t->o->handles, &want, &t->fi.fh);
    if (rc == 0 && handles_total(t->o->handles) > before) {
        in->opens++;
    }
    return rc;
}

/* ---- the table ---- */

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    const unsigned off = FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE |
                         FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                         FUSE_CAP_HANDLE_KILLPRIV;
    const unsigned on = FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK |
                        FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_ASYNC_READ |
                        FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_POSIX_LOCKS |
                        FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO;
    conn->want &= ~off;
    conn->want |= on & conn->capable;
    conn->max_write = ARENA_BIG_DATA;
    conn->max_readahead = 4u << 20;
    conn->max_background = 64;
    conn->congestion_threshold = 48;
    conn->time_gran = 1;
}

/* Node ids are inode numbers: there is nothing to count. */
static void on_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
    (void)ino;
    (void)nlookup;
    fuse_reply_none(req);
}

static void on_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    (void)count;
    (void)forgets;
    fuse_reply_none(req);
}

static const struct fuse_lowlevel_ops TABLE = {
    .init = on_init,
    .forget = on_forget,
    .forget_multi = on_forget_multi,
    .lookup = ops_lookup,
    .mknod = ops_mknod,
    .mkdir = ops_mkdir,
    .symlink = ops_symlink,
    .create = ops_create,
    .unlink = ops_unlink,
    .rmdir = ops_rmdir,
    .rename = ops_rename,
    .link = ops_link,
    .getattr = ops_getattr,
    .setattr = ops_setattr,
    .readlink = ops_readlink,
    .statfs = ops_statfs,
    .open = ops_open,
    .read = ops_read,
    .write = ops_write,
    .flush = ops_flush,
    .release = ops_release,
    .fsync = ops_fsync,
    .lseek = ops_lseek,
    .fallocate = ops_fallocate,
    .copy_file_range = ops_copy,
    .opendir = ops_opendir,
    .readdir = ops_readdir,
    .readdirplus = ops_readdirplus,
    .releasedir = ops_releasedir,
    .fsyncdir = ops_fsyncdir,
    .setxattr = ops_setxattr,
    .getxattr = ops_getxattr,
    .listxattr = ops_listxattr,
    .removexattr = ops_removexattr,
    .getlk = ops_getlk,
    .setlk = ops_setlk,
    .flock = ops_flock,
};

const struct fuse_lowlevel_ops *ops_table(size_t *size)
{
    *size = sizeof TABLE;
    return &TABLE;
}

/* ---- life ---- */

struct ops *ops_new(struct client *c, struct fuseloop *loop)
{
    struct ops *o = xcalloc(1, sizeof *o);
    char text[16];
    o->c = c;
    o->loop = loop;
    o->handles = handles_new(c->arena);
    o->names = names_new(OPS_NAMES_MAX);
    o->background = background_new(o);
    o->ahead = ahead_new(o);
    o->noatime = arena_option(c->arena, "noatime", text, sizeof text) != NULL;
    table_init(&o->fetches);
    table_init(&o->tickets);
    table_init(&o->listings);
    list_init(&o->doubts);
    list_init(&o->removals);
    list_init(&o->statfs_waiters);
    buf_init(&o->statfs_body);
    return o;
}

void ops_free(struct ops *o)
{
    if (o == NULL) {
        return;
    }
    ahead_free(o->ahead);
    background_free(o->background);
    ops_statfs_release(o);
    ops_dir_release(o);
    task_fetches_release(o);
    task_doubts_release(o);
    table_release(&o->fetches);
    table_release(&o->tickets);
    table_release(&o->listings);
    names_free(o->names);
    handles_free(o->handles);
    free(o);
}

static void rebuild_handle(struct arena_handle *record, void *ctx)
{
    struct ops *o = ctx;
    if ((record->flags & ARENA_HANDLE_CLOSED) != 0) {
        background_release(o->background, record->ino);
        return;
    }
    struct inode *in = itable_get(o->c->itable, record->ino);
    in->opens++;
    if ((record->flags & ARENA_HANDLE_ORPHAN) != 0) {
        in->orphan = true;
    }
}

void ops_rebuild(struct ops *o)
{
    handles_walk(o->handles, rebuild_handle, o);
}

void ops_session_ended(struct ops *o)
{
    o->ended = true;
    ops_locks_ended(o);
}
