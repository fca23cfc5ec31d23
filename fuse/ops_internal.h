#ifndef CFS_FUSE_OPS_INTERNAL_H
#define CFS_FUSE_OPS_INTERNAL_H

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include "fuse/fuseloop.h"
#include "fuse/handles.h"
#include "fuse/itable.h"
#include "fuse/names.h"
#include "fuse/ops.h"
#include "fuse/reader.h"
#include "fuse/writer.h"
#include "meta.pb-c.h"
#include "rpc/session.h"

/* Shared by the ops_*.c files only.
 *
 * A task is one kernel request on its way. It waits for at most one thing of each sort (a command, a read, a fetch of
 * attributes, the writer, the reader) and goes on in `then`. It ends when the kernel is answered: fuseloop
 * then frees the request record and calls task_free through opreq.free_ctx, so nothing may be touched after
 * fuse_reply_*. When the caller is being killed, fuseloop answers it and lets the task go on to its end, or, if nothing
 * was sent for it yet, to the end of its wait. */
enum {
    OPS_NAMES_MAX = 32768,
    OPS_RELEASE_DELAY_MS = 20,
    OPS_ATIME_DELAY_MS = 1000,
    OPS_BATCH_MAX = 256,
    OPS_STATFS_MS = 1000,
    OPS_STATFS_FIRST_MS = 10000,
    OPS_GRANTS_KEPT = 64,
    OPS_LISTINGS_KEPT = 32, /* of about 64 KiB packed, 200 KiB unpacked, each */
    ATTR_INLINE = 1,
    ATTR_XATTR = 2,
    ATTR_ACCESS_ACL = 4,
    ATTR_DEFAULT_ACL = 8
};

struct listed;
struct kept_listing {
    uint64_t ino, used;
    struct listed *listed;
};

struct ops {
    struct client *c;
    struct fuseloop *loop;
    struct handles *handles;
    struct names *names;
    struct table fetches;  /* struct fetch by ino */
    struct table tickets;  /* parked lock requests by ticket */
    struct table listings; /* struct listing by fh */
    struct kept_listing kept[OPS_LISTINGS_KEPT];
    uint64_t kept_clock;
    struct list doubts;    /* commands that were given up and may still be executed */
    struct list removals;  /* tasks that may remove an inode which was not open: opens of it wait */
    uint64_t grants[OPS_GRANTS_KEPT]; /* tickets granted before their request parked */
    unsigned grants_next;
    bool noatime, ended;
    /* statfs */
    struct list statfs_waiters;
    struct session_read statfs_read;
    struct buf statfs_body;
    struct timer statfs_timer;
    uint64_t statfs_started_ms;
    bool statfs_out, statfs_known;
    struct statvfs statfs_last;
    /* background: orphans to release, access times to tell */
    struct background *background;
    struct ahead *ahead;
};

struct task;
typedef void (*task_next)(struct task *t, int rc);
typedef void (*task_done)(struct task *t, int rc, const Cfs__OpReply *reply);

enum { TASK_NAMES = 2 };

struct reading {
    struct read_request rr;
    struct task *t;
};
struct seeking {
    struct task *t; /* NULL: it has been answered */
};

struct task {
    struct ops *o;
    struct opreq *r;
    fuse_req_t req;
    struct fuse_file_info fi;
    uint64_t ino;            /* the inode that it is about (real number), 0 none */
    struct inode *in, *in2;  /* pinned */
    uint64_t dir[TASK_NAMES]; /* directories that its command changes; 0 none */
    struct bytes name[TASK_NAMES];
    uint64_t victim;         /* inode that may lose its last name */
    uint32_t flags;          /* the request's own: rename flags, falloc mode ... */
    uint64_t offset, length, offset2;
    uint64_t to_dir;         /* rename, link: the directory of the new name */
    const char *data;        /* of a write, in the request's record */
    bool quiesced;
    bool submitted, retried;
    bool sync;               /* a write that is durable when answered */
    bool reply_waits;        /* for the writer to be still */
    bool beside;             /* its command runs beside the wait for the writer */
    int rc;
    uint64_t mark;
    uint64_t ticket;
    struct table_node by_ticket;
    /* what it waits for */
    struct list node;        /* in somebody's list of waiters */
    struct list waiters;     /* opens that wait for this removal */
    struct command cmd;
    bool cmd_out;
    task_done done;
    Cfs__OpsReply *result;
    struct session_read read;
    struct buf body;
    bool read_out;
    void (*read_done)(struct task *t, int rc, struct bytes reply);
    struct writer_wait wait;
    bool wait_out;
    struct reading *reading;
    struct seeking *seeking; /* cannot be cancelled: loses its task instead */
    unsigned retries, looks;
    struct timer pause;      /* before a command is tried again */
    task_next then;
    task_next after;         /* an open, a create: what follows its truncation */
    void (*local)(struct task *t); /* the local half of a command that was submitted */
    void *private;           /* freed with it */
};

/* ---- ops.c: tasks ---- */

/* NULL: answered already (EIO of an ended session; EROFS when it is a change on a read-only mount). */
struct task *task_begin(fuse_req_t req, fuse_ino_t node, const struct fuse_file_info *fi);
struct task *task_begin_change(fuse_req_t req, fuse_ino_t node, const struct fuse_file_info *fi);
void task_error(struct task *t, int rc); /* answers; 0 is success */
/* Whether an earlier worker has numbered its command: then it is submitted at once. */
bool task_numbered(const struct task *t);
struct inode *task_pin(struct task *t, uint64_t ino);  /* into t->in */
struct inode *task_pin2(struct task *t, uint64_t ino); /* into t->in2 */
/* Submits the one command of the request. Attributes in the reply go into the itable before done. */
void task_submit(struct task *t, Cfs__Op *op, task_done done);
/* One more, harmless to repeat and so without a number in the record. */
void task_submit_more(struct task *t, Cfs__Op *op, task_done done);
void task_read(struct task *t, uint16_t method, const ProtobufCMessage *request,
               void (*done)(struct task *t, int rc, struct bytes reply));
/* Attributes of t->in are valid, and with `content` those of an inline file too. May call `then` at once. */
void task_need_attr(struct task *t, task_next then);
void task_need_content(struct task *t, task_next then);
void task_fetch(struct task *t, uint64_t ino, task_next then);
void task_fetches_release(struct ops *o);
void task_doubts_release(struct ops *o);
void task_flush(struct task *t, struct inode *in, task_next then);
void task_wait_room(struct task *t, task_next then);
void task_outline(struct task *t, task_next then);
/* Holds the writer back from t->in until the task ends. For a numbered task `then` is called at once, so that it can
 * submit; the command then counts as answered when the writer is still, too. */
void task_quiesce(struct task *t, bool flush, task_next then);
/* The names that its command changes. */
void task_names(struct task *t, uint64_t dir, const char *name);
void task_names2(struct task *t, uint64_t dir, const char *name);

/* ---- ops.c: shared ---- */
/* A number was assigned: the next worker must not give it to another command. Before anything is sent. */
void ops_note_seq(struct ops *o, uint64_t seq);
uint64_t ops_ino(const struct ops *o, fuse_ino_t node);
fuse_ino_t ops_node(const struct ops *o, uint64_t ino);
struct inode *ops_take_lookup(struct ops *o, const Cfs__LookupReply *reply);
bool ops_stat(struct ops *o, struct inode *in, struct stat *out);
double ops_attr_timeout(struct ops *o, struct inode *in);
void ops_entry(struct ops *o, struct inode *in, struct fuse_entry_param *e); /* attr must be valid */
void ops_reply_attr(struct task *t, struct inode *in);
Cfs__Who ops_who(fuse_req_t req);
ProtobufCBinaryData ops_data(struct bytes b);
void ops_victim(struct ops *o, const Cfs__OpReply *reply);
void ops_access_time(struct ops *o, struct inode *in, uint32_t open_flags);
struct arena_handle *task_handle(const struct task *t);
/* New write errors of the inode that this descriptor has not been told; 0 none. */
int ops_report_error(struct inode *in, struct arena_handle *handle);
void ops_take_empty(struct ops *o, struct inode *in);
void ops_close_handle(struct task *t);
void ops_file_flags(struct fuse_file_info *fi);
int ops_open_handle(struct task *t, struct inode *in, uint32_t flags);

/* ---- ops_back.c: background commands ---- */
struct background *background_new(struct ops *o);
void background_free(struct background *b);
void background_release(struct background *b, uint64_t ino); /* an orphan that nobody has open */
void background_access(struct background *b, uint64_t ino, int64_t atime);

/* ---- the callbacks, by file ---- */
void ops_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void ops_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                struct fuse_file_info *fi);
void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                const char *new_name, unsigned flags);
void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);

void ops_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *want, int what,
                 struct fuse_file_info *fi);
void ops_readlink(fuse_req_t req, fuse_ino_t ino);
void ops_statfs(fuse_req_t req, fuse_ino_t ino);
void ops_statfs_release(struct ops *o);
void ops_truncate_open(struct task *t, bool kill_priv, task_next then);

void ops_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
               struct fuse_file_info *fi);
void ops_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void ops_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void ops_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                   struct fuse_file_info *fi);
void ops_copy(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
              fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t len,
              int flags);

void ops_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void ops_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                     struct fuse_file_info *fi);
void ops_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void ops_dir_release(struct ops *o); /* drops all listings */
bool ops_listing_valid(const Cfs__ReaddirReply *r, uint64_t after);

/* ops_ahead.c: a lookup in the directory had to ask. */
struct ahead *ahead_new(struct ops *o);
void ahead_free(struct ahead *a);
void ahead_missed(struct ahead *a, uint64_t dir);

void ops_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
                  int flags);
void ops_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void ops_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void ops_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

void ops_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);
void ops_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
               int sleep);
void ops_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op);
void ops_locks_ended(struct ops *o);

#endif
