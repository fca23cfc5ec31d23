/* A world for ops without kernel, session, writer and reader: each side is a fake that records what it is asked and
 * answers when the test says so. Included by test programs of ops only (definitions, not declarations). */
#ifndef CFS_TEST_UNIT_OPS_FAKES_H
#define CFS_TEST_UNIT_OPS_FAKES_H

#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

enum { WORLD_HANDLES = 16, WORLD_WAITS = 64, ROOT = 100 };

struct fuse_req { /* what libfuse would hold */
    struct opreq r;
    struct arena_small record;
    bool answered, data_answer;
    int error;
    struct fuse_entry_param entry;
    struct fuse_file_info fi;
    struct stat attr;
    struct statvfs statfs;
    struct flock lock;
    size_t count;
    uint32_t sum;
    _Alignas(8) char data[8192]; /* the beginning of it */
};

static struct world {
    struct client client;
    struct arena arena;
    struct arena_header header;
    struct arena_handle handles[WORLD_HANDLES];
    struct arena_inode inode;
    struct timers timers;
    struct opreq *current;
    struct command *command[64]; /* submitted, not answered, oldest first */
    unsigned commands, submitted;
    uint64_t next_seq, released;
    struct session_read *read[64];
    unsigned reads, reads_started;
    struct writer_wait *quiet, *flush, *room; /* the last ones */
    struct writer_wait *waiting[WORLD_WAITS]; /* all, oldest first, as far as there is room */
    unsigned waits;
    bool dirty, ended, no_small;
    int write_rc;
    unsigned writes, names_invalidated;
    unsigned invalidated, resumed, truncated, forgotten, writer_started;
    uint64_t truncated_to;
    uint64_t promised, reserving, reserved, layout_wanted;
    bool wants_layout;
    struct fuse_ctx ctx;
} w;

/* ---- session ---- */
void session_submit(struct session *s, struct command *cmd)
{
    (void)s;
    if (cmd->seq == 0) {
        cmd->seq = w.next_seq++;
    }
    w.command[w.commands++] = cmd;
    w.submitted++;
}
void session_release_seq(struct session *s, uint64_t seq)
{
    (void)s;
    w.released = seq;
}
void session_abandon(struct session *s, struct command *cmd)
{
    (void)s;
    buf_release(&cmd->ops);
    for (unsigned i = 0; i < w.commands; i++) {
        if (w.command[i] == cmd) {
            memmove(w.command + i, w.command + i + 1, (--w.commands - i) * sizeof cmd);
            return;
        }
    }
}
void session_read_start(struct session *s, struct session_read *r)
{
    (void)s;
    w.read[w.reads++] = r;
    w.reads_started++;
}
void session_read_cancel(struct session_read *r)
{
    for (unsigned i = 0; i < w.reads; i++) {
        if (w.read[i] == r) {
            memmove(w.read + i, w.read + i + 1, (--w.reads - i) * sizeof r);
            return;
        }
    }
}
uint64_t session_id(const struct session *s)
{
    (void)s;
    return 5;
}
bool session_ended(const struct session *s)
{
    (void)s;
    return w.ended;
}

/* ---- fuseloop ---- */
struct opreq *fuseloop_current(struct fuseloop *f)
{
    (void)f;
    return w.current;
}
uint64_t opreq_seq(const struct opreq *r)
{
    return r->small->seq;
}
void opreq_set_seq(struct opreq *r, uint64_t seq)
{
    r->small->seq = seq;
}
bool opreq_may_park(const struct opreq *r)
{
    (void)r;
    return !w.no_small;
}
void opreq_set_ticket(struct opreq *r, uint64_t ticket)
{
    r->small->ticket = ticket;
}
uint64_t opreq_ticket(const struct opreq *r)
{
    return r->small->ticket;
}
void fuseloop_invalidate_inode(struct fuseloop *f, uint64_t nodeid, int64_t offset, int64_t length)
{
    (void)f;
    (void)nodeid;
    (void)offset;
    (void)length;
    w.invalidated++;
}
int fuseloop_invalidate_names(struct fuseloop *f)
{
    (void)f;
    w.names_invalidated++;
    return 0;
}
const void *opreq_raw(const struct opreq *r)
{
    return r->small->request;
}

/* ---- libfuse ---- */
static int answered(fuse_req_t req)
{
    CHECK(!req->answered);
    req->answered = true;
    if (req->r.free_ctx != NULL) {
        req->r.free_ctx(req->r.ctx);
    }
    return 0;
}
int fuse_reply_err(fuse_req_t req, int err)
{
    req->error = err;
    return answered(req);
}
int fuse_reply_entry(fuse_req_t req, const struct fuse_entry_param *e)
{
    req->entry = *e;
    return answered(req);
}
int fuse_reply_create(fuse_req_t req, const struct fuse_entry_param *e,
                      const struct fuse_file_info *fi)
{
    req->entry = *e;
    req->fi = *fi;
    return answered(req);
}
int fuse_reply_attr(fuse_req_t req, const struct stat *attr, double timeout)
{
    (void)timeout;
    req->attr = *attr;
    return answered(req);
}
int fuse_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
    req->fi = *fi;
    return answered(req);
}
int fuse_reply_write(fuse_req_t req, size_t count)
{
    req->count = count;
    return answered(req);
}
int fuse_reply_buf(fuse_req_t req, const char *buf, size_t size)
{
    if (size > 0) {
        memcpy(req->data, buf, size < sizeof req->data ? size : sizeof req->data);
        req->sum = crc32c(0, buf, size); /* the kernel reads it all */
    }
    req->count = size;
    req->data_answer = true;
    return answered(req);
}
int fuse_reply_iov(fuse_req_t req, const struct iovec *iov, int count)
{
    return fuse_reply_buf(req, iov[0].iov_base, count > 0 ? iov[0].iov_len : 0);
}
int fuse_reply_xattr(fuse_req_t req, size_t count)
{
    req->count = count;
    return answered(req);
}
int fuse_reply_statfs(fuse_req_t req, const struct statvfs *v)
{
    req->statfs = *v;
    return answered(req);
}
int fuse_reply_lock(fuse_req_t req, const struct flock *lock)
{
    req->lock = *lock;
    return answered(req);
}
int fuse_reply_lseek(fuse_req_t req, off_t off)
{
    req->count = (size_t)off;
    return answered(req);
}
void fuse_reply_none(fuse_req_t req)
{
    answered(req);
}
void *fuse_req_userdata(fuse_req_t req)
{
    (void)req;
    return &w.client;
}
const struct fuse_ctx *fuse_req_ctx(fuse_req_t req)
{
    (void)req;
    return &w.ctx;
}
int fuse_req_getgroups(fuse_req_t req, int size, gid_t list[])
{
    (void)req;
    (void)size;
    (void)list;
    return 0;
}

/* ---- writer and reader ---- */
int writer_write(struct writer *x, struct inode *in, uint64_t offset, struct bytes data,
                 unsigned flags)
{
    (void)x;
    (void)in;
    (void)offset;
    (void)data;
    (void)flags;
    w.writes++;
    return w.write_rc;
}
static struct writer_wait *waits(struct writer_wait *wait)
{
    if (w.waits < WORLD_WAITS) {
        w.waiting[w.waits++] = wait;
    }
    return wait;
}
void writer_wait_room(struct writer *x, struct writer_wait *wait)
{
    (void)x;
    w.room = waits(wait);
}
void writer_wait_cancel(struct writer_wait *wait)
{
    for (unsigned i = 0; i < w.waits; i++) {
        if (w.waiting[i] == wait) {
            memmove(w.waiting + i, w.waiting + i + 1, (--w.waits - i) * sizeof wait);
            return;
        }
    }
}
void writer_flush(struct writer *x, struct inode *in, struct writer_wait *wait)
{
    (void)x;
    (void)in;
    w.flush = waits(wait);
}
void writer_start(struct writer *x, struct inode *in)
{
    (void)x;
    (void)in;
    w.writer_started++;
}
void writer_quiesce(struct writer *x, struct inode *in, bool flush, struct writer_wait *wait)
{
    (void)x;
    (void)in;
    (void)flush;
    w.quiet = waits(wait);
}
void writer_resume(struct writer *x, struct inode *in)
{
    (void)x;
    (void)in;
    w.resumed++;
}
void writer_truncate(struct writer *x, struct inode *in, uint64_t size)
{
    (void)x;
    (void)in;
    w.truncated++;
    w.truncated_to = size;
}
void writer_discard(struct writer *x, struct inode *in, uint64_t offset, uint64_t length)
{
    (void)x;
    (void)in;
    (void)offset;
    (void)length;
}
void writer_forget(struct writer *x, struct inode *in)
{
    (void)x;
    (void)in;
    w.forgotten++;
}
void writer_outline(struct writer *x, struct inode *in, struct writer_wait *wait)
{
    (void)x;
    (void)in;
    w.flush = waits(wait);
}
bool writer_dirty(const struct inode *in)
{
    (void)in;
    return w.dirty;
}
uint64_t writer_dirty_bytes(struct writer *x, const struct inode *in)
{
    (void)x;
    (void)in;
    return 0;
}
uint64_t writer_promised(const struct writer *x)
{
    (void)x;
    return w.promised;
}
void writer_reserve(struct writer *x, uint64_t bytes)
{
    (void)x;
    w.reserving += bytes;
}
void writer_reserved(struct writer *x, uint64_t bytes, uint64_t got)
{
    (void)x;
    w.reserving -= bytes;
    w.reserved += got;
}
bool writer_wants_layout(const struct writer *x, const struct inode *in, uint64_t offset,
                         uint64_t len)
{
    (void)x;
    (void)in;
    (void)offset;
    (void)len;
    return w.wants_layout;
}
void reader_want_layout(struct reader *x, struct inode *in, uint64_t offset, uint64_t length)
{
    (void)x;
    (void)in;
    (void)offset;
    w.layout_wanted += length;
}
uint64_t writer_total_dirty(const struct writer *x)
{
    (void)x;
    return w.dirty;
}
void writer_drop_clean(struct writer *x, struct inode *in, uint64_t offset, uint64_t length)
{
    (void)x;
    (void)in;
    (void)offset;
    (void)length;
}
void reader_start(struct reader *x, struct read_request *rr)
{
    (void)x;
    rr->rc = 0;
    rr->on_done(rr);
}
void reader_finish(struct reader *x, struct read_request *rr)
{
    (void)x;
    (void)rr;
}
void reader_seek(struct reader *x, struct inode *in, uint64_t offset, bool hole,
                 void (*on_done)(void *ctx, int rc, uint64_t at), void *ctx)
{
    (void)x;
    (void)in;
    (void)hole;
    on_done(ctx, 0, offset);
}
void reader_invalidate(struct reader *x, uint64_t ino, uint64_t offset, uint64_t length)
{
    (void)x;
    (void)ino;
    (void)offset;
    (void)length;
}

/* ---- what tests say ---- */

static inline void world_setup(void)
{
    memset(&w, 0, sizeof w);
    w.header.sizes.handles = WORLD_HANDLES;
    w.header.root_ino = ROOT;
    w.header.next_seq = 1;
    w.next_seq = 1;
    w.arena = (struct arena){.h = &w.header, .handle = w.handles};
    timers_init(&w.timers, 1000);
    w.client.arena = &w.arena;
    w.client.timers = &w.timers;
    w.client.policy.inline_limit = 4096;
    w.client.itable = itable_new(&w.client, 1 << 20);
    w.client.ops = ops_new(&w.client, NULL);
}

static inline void world_teardown(void)
{
    ops_free(w.client.ops);
    itable_free(w.client.itable);
    timers_release(&w.timers);
}

/* A kernel request; the arena record outlives a restart of the worker. */
static inline fuse_req_t request(uint64_t unique)
{
    fuse_req_t q = xcalloc(1, sizeof *q);
    q->r.unique = unique;
    q->r.small = &q->record;
    w.current = &q->r;
    return q;
}

/* The worker dies: everything on the heap is gone, the records and handles stay. */
static inline fuse_req_t repeated(fuse_req_t old)
{
    if (!old->answered && old->r.free_ctx != NULL) {
        old->r.free_ctx(old->r.ctx);
    }
    ops_free(w.client.ops);
    itable_free(w.client.itable);
    w.commands = w.reads = w.waits = 0;
    w.client.itable = itable_new(&w.client, 1 << 20);
    w.client.ops = ops_new(&w.client, NULL);
    ops_rebuild(w.client.ops);
    fuse_req_t q = request(old->r.unique);
    q->record = old->record;
    q->r.repeated = true;
    return q;
}

static inline Cfs__Attr attr_of(uint64_t ino, uint32_t mode, uint64_t change)
{
    Cfs__Attr a = CFS__ATTR__INIT;
    a.ino = ino;
    a.mode = mode;
    a.nlink = 1;
    a.change = change;
    a.has_flags = 1;
    return a;
}

/* Answers the oldest command. */
static inline void answer_command_raw(int rc, struct bytes reply)
{
    struct command *cmd = w.command[0];
    CHECK(w.commands > 0);
    memmove(w.command, w.command + 1, --w.commands * sizeof w.command[0]);
    cmd->reply = reply;
    cmd->rc = rc;
    cmd->on_done(cmd);
}

/* With one result. */
static inline void answer_command(Cfs__OpReply *result)
{
    Cfs__OpReply *list[] = {result};
    Cfs__OpsReply reply = CFS__OPS_REPLY__INIT;
    reply.n_result = 1;
    reply.result = list;
    uint8_t packed[2048];
    answer_command_raw(0, BYTES(packed, cfs__ops_reply__pack(&reply, packed)));
}

static inline void answer_status(int rc)
{
    Cfs__OpReply r = CFS__OP_REPLY__INIT;
    r.status = status_of_rc(rc);
    answer_command(&r);
}

static inline void answer_attr(const Cfs__Attr *a)
{
    Cfs__OpReply r = CFS__OP_REPLY__INIT;
    Cfs__Attr copy = *a;
    r.attr = &copy;
    answer_command(&r);
}

static inline Cfs__Ops *sent(unsigned i)
{
    CHECK(i < w.commands);
    return cfs__ops__unpack(NULL, w.command[i]->ops.len, w.command[i]->ops.data);
}

static inline void answer_read_raw(int rc, struct bytes reply)
{
    struct session_read *r = w.read[0];
    CHECK(w.reads > 0);
    memmove(w.read, w.read + 1, --w.reads * sizeof w.read[0]);
    r->rc = rc;
    r->reply = reply;
    r->on_done(r);
}

static inline void answer_read(int rc, const ProtobufCMessage *m)
{
    static uint8_t packed[65536];
    answer_read_raw(rc, BYTES(packed, m != NULL ? protobuf_c_message_pack(m, packed) : 0));
}

static inline void answer_lookup(Cfs__Attr a)
{
    Cfs__LookupReply r = CFS__LOOKUP_REPLY__INIT;
    r.attr = &a;
    answer_read(0, &r.base);
}

/* ---- requests that every test makes ---- */

static inline void run_for(uint64_t ms)
{
    timers_run(&w.timers, w.timers.now_ms + ms);
}

static inline void looked_up(uint64_t ino, const char *name, uint32_t mode)
{
    fuse_req_t q = request(1000 + ino);
    ops_lookup(q, FUSE_ROOT_ID, name);
    answer_lookup(attr_of(ino, mode, 1));
    CHECK(q->entry.ino == ino);
    free(q);
}

static inline uint64_t opened(uint64_t ino, uint64_t unique)
{
    fuse_req_t q = request(unique);
    struct fuse_file_info fi = {.flags = O_RDWR};
    ops_open(q, ino, &fi);
    CHECK(q->answered);
    CHECK(q->error == 0);
    uint64_t fh = q->fi.fh;
    free(q);
    return fh;
}

static inline void released(uint64_t ino, uint64_t fh)
{
    fuse_req_t q = request(5000 + ino);
    struct fuse_file_info fi = {.fh = fh};
    ops_release(q, ino, &fi);
    CHECK(q->answered);
    free(q);
}

#endif
