/* Tasks: the life of a kernel request inside ops (ops_internal.h says the rules). */
#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

/* ---- beginning and end ---- */

static struct bytes name_bytes(const char *name)
{
    return BYTES(name, strlen(name));
}

static void unpin(struct inode *in)
{
    if (in != NULL) {
        CHECK(in->pins > 0);
        in->pins--;
    }
}

static void changes_end(struct task *t, bool known)
{
    for (int i = 0; t->submitted && i < TASK_NAMES; i++) {
        if (t->dir[i] == 0) {
            continue;
        }
        names_change_end(t->o->names, t->dir[i]);
        if (!known) {
            names_set_complete(t->o->names, t->dir[i], false);
            names_drop(t->o->names, t->dir[i], t->name[i]);
        }
        t->dir[i] = 0;
    }
}

static void stop_waiting(struct task *t)
{
    list_remove(&t->node);
    timers_stop(t->o->c->timers, &t->pause);
    if (t->read_out) {
        session_read_cancel(&t->read);
    }
    if (t->wait_out) {
        writer_wait_cancel(&t->wait);
    }
    if (t->reading != NULL) {
        reader_finish(t->o->c->reader, &t->reading->rr);
        free(t->reading);
    }
    if (t->seeking != NULL) {
        t->seeking->t = NULL;
    }
    if (t->ticket != 0) {
        table_remove(&t->o->tickets, &t->by_ticket);
    }
    if (t->cmd_out) { /* only at the end of the worker */
        session_abandon(t->o->c->session, &t->cmd);
    }
}

/* Goes on after a wait. One whose caller was killed meanwhile ends here, if nothing has been sent
 * for it: done later it could undo what others do now (write behind a truncation, truncate what is
 * written anew). */
static void go_on(struct task *t, int rc)
{
    if (t->r->fatal && !t->submitted && opreq_seq(t->r) == 0) {
        task_error(t, -EINTR);
    } else {
        t->then(t, rc);
    }
}

static void resume_waiters(struct list *waiters)
{
    while (!list_empty(waiters)) {
        struct task *w = list_first(waiters, struct task, node);
        list_remove(&w->node);
        go_on(w, 0);
    }
}

static void task_free(void *ctx)
{
    struct task *t = ctx;
    stop_waiting(t);
    changes_end(t, true);
    if (t->quiesced) {
        writer_resume(t->o->c->writer, t->in);
    }
    unpin(t->in);
    unpin(t->in2);
    buf_release(&t->cmd.ops);
    buf_release(&t->body);
    if (t->result != NULL) {
        cfs__ops_reply__free_unpacked(t->result, NULL);
    }
    free(t->private);
    struct list waiters;
    list_take_all(&t->waiters, &waiters);
    free(t);
    resume_waiters(&waiters);
}

struct task *task_begin(fuse_req_t req, fuse_ino_t node, const struct fuse_file_info *fi)
{
    struct client *c = fuse_req_userdata(req);
    struct ops *o = c->ops;
    if (o->ended || session_ended(c->session)) {
        fuse_reply_err(req, EIO);
        return NULL;
    }
    struct task *t = xcalloc(1, sizeof *t);
    t->o = o;
    t->req = req;
    t->r = fuseloop_current(o->loop);
    t->ino = ops_ino(o, node);
    if (fi != NULL) {
        t->fi = *fi;
    }
    list_init(&t->node);
    list_init(&t->waiters);
    buf_init(&t->body);
    buf_init(&t->cmd.ops);
    t->r->ctx = t;
    t->r->free_ctx = task_free;
    return t;
}

struct task *task_begin_change(fuse_req_t req, fuse_ino_t node, const struct fuse_file_info *fi)
{
    struct client *c = fuse_req_userdata(req);
    if (c->read_only) {
        fuse_reply_err(req, EROFS);
        return NULL;
    }
    return task_begin(req, node, fi);
}

void task_error(struct task *t, int rc)
{
    fuse_reply_err(t->req, err_to_errno(rc));
}

bool task_numbered(const struct task *t)
{
    return t->r->repeated && opreq_seq(t->r) != 0;
}

static void pin(struct task *t, struct inode **slot, uint64_t ino)
{
    struct inode *in = itable_get(t->o->c->itable, ino);
    in->pins++;
    unpin(*slot);
    *slot = in;
}

struct inode *task_pin(struct task *t, uint64_t ino)
{
    pin(t, &t->in, ino);
    return t->in;
}

struct inode *task_pin2(struct task *t, uint64_t ino)
{
    pin(t, &t->in2, ino);
    return t->in2;
}

void task_names(struct task *t, uint64_t dir, const char *name)
{
    t->dir[0] = dir;
    t->name[0] = name_bytes(name);
}

void task_names2(struct task *t, uint64_t dir, const char *name)
{
    t->dir[1] = dir;
    t->name[1] = name_bytes(name);
}

struct arena_handle *task_handle(const struct task *t)
{
    return handles_find(t->o->handles, t->fi.fh);
}

/* ---- commands ---- */

static void take_attrs(struct ops *o, const Cfs__OpReply *reply)
{
    const Cfs__Attr *attrs[] = {reply->attr, reply->parent, reply->parent2};
    for (unsigned i = 0; i < array_count(attrs); i++) {
        if (attrs[i] != NULL) {
            (void)itable_take_attr(o->c->itable, attrs[i]);
        }
    }
}

/* With -o deadline the caller has its error, but the command may still be executed, at any time:
 * until it is answered its directories count as changing, and then once more nothing that is known
 * of them and its inodes counts. */
struct doubt {
    struct list node;
    uint64_t seq;
    uint64_t touched[3];
    uint64_t dir[TASK_NAMES]; /* 0: none */
    struct buf name[TASK_NAMES];
};

static void distrust(struct ops *o, const struct doubt *d)
{
    for (unsigned i = 0; i < array_count(d->touched); i++) {
        if (d->touched[i] != 0) {
            itable_forget(o->c->itable, d->touched[i]);
            fuseloop_invalidate_inode(o->loop, ops_node(o, d->touched[i]), -1, 0);
        }
    }
    for (unsigned i = 0; i < TASK_NAMES; i++) {
        if (d->dir[i] != 0) {
            names_set_complete(o->names, d->dir[i], false);
            names_drop(o->names, d->dir[i], buf_bytes(&d->name[i]));
        }
    }
}

static void doubt(struct task *t)
{
    struct doubt *d = xcalloc(1, sizeof *d);
    *d = (struct doubt){.seq = t->cmd.seq, .touched = {t->ino, t->to_dir, t->victim}};
    for (unsigned i = 0; i < TASK_NAMES; i++) {
        buf_init(&d->name[i]);
        buf_add(&d->name[i], t->name[i].data, t->name[i].len);
        d->dir[i] = t->dir[i];
        t->dir[i] = 0;
    }
    list_init(&d->node);
    list_add_tail(&t->o->doubts, &d->node);
    distrust(t->o, d);
}

static void doubt_free(struct doubt *d)
{
    list_remove(&d->node);
    for (unsigned i = 0; i < TASK_NAMES; i++) {
        buf_release(&d->name[i]);
    }
    free(d);
}

void ops_late(struct ops *o, uint64_t seq)
{
    list_for_each_safe (node, follow, &o->doubts) {
        struct doubt *d = list_entry(node, struct doubt, node);
        if (d->seq != seq) {
            continue;
        }
        distrust(o, d);
        for (unsigned i = 0; i < TASK_NAMES; i++) {
            if (d->dir[i] != 0) {
                names_change_end(o->names, d->dir[i]);
            }
        }
        if (d->dir[0] != 0) {
            (void)fuseloop_invalidate_names(o->loop);
        }
        doubt_free(d);
        return;
    }
}

void task_doubts_release(struct ops *o)
{
    while (!list_empty(&o->doubts)) {
        doubt_free(list_first(&o->doubts, struct doubt, node));
    }
}

/* The kernel was told EINTR long ago and does not look at an answer: what it remembers of names, attributes and, where
 * bytes were changed, pages is from before. */
static void tell_kernel(struct task *t)
{
    const uint64_t touched[] = {t->to_dir, t->victim};
    fuseloop_invalidate_inode(t->o->loop, ops_node(t->o, t->ino), t->local != NULL ? 0 : -1, 0);
    for (unsigned i = 0; i < array_count(touched); i++) {
        if (touched[i] != 0) {
            fuseloop_invalidate_inode(t->o->loop, ops_node(t->o, touched[i]), -1, 0);
        }
    }
    if (t->dir[0] != 0) { /* -ENOSYS before Linux 6.16: then names stay as they are for their time */
        (void)fuseloop_invalidate_names(t->o->loop);
    }
}

/* The command is answered, and the writer is still if that was asked for. */
static void command_over(struct task *t)
{
    int rc = t->rc;
    const Cfs__OpReply *reply = NULL;
    if (rc == 0) {
        CHECK(t->result != NULL);
        if (t->result->n_result != 1) {
            rc = ERR_MALFORMED;
        } else {
            reply = t->result->result[0];
            rc = status_to_rc(reply->status);
            take_attrs(t->o, reply);
        }
    }
    if (rc == 0 && t->r->fatal) {
        tell_kernel(t);
    }
    if (t->rc == ERR_DEADLINE) {
        doubt(t);
    }
    changes_end(t, rc == 0);
    if (rc == 0 && t->local != NULL) {
        t->local(t);
    }
    t->local = NULL;
    t->done(t, rc, reply);
}

static void on_command(struct command *cmd)
{
    struct task *t = container_of(cmd, struct task, cmd);
    t->cmd_out = false;
    t->r->command = NULL;
    t->rc = cmd->rc;
    if (t->result != NULL) {
        cfs__ops_reply__free_unpacked(t->result, NULL);
        t->result = NULL;
    }
    if (cmd->rc == 0) {
        t->result = cfs__ops_reply__unpack(NULL, cmd->reply.len, cmd->reply.data);
        if (t->result == NULL) {
            t->rc = ERR_MALFORMED;
        }
    }
    if (cmd->seq != opreq_seq(t->r)) {
        session_release_seq(t->o->c->session, cmd->seq);
    }
    if (t->wait_out) {
        t->reply_waits = true;
    } else {
        command_over(t);
    }
}

static void submit(struct task *t, Cfs__Op *op, task_done done, uint64_t seq)
{
    Cfs__Op *list[] = {op};
    Cfs__Ops ops = CFS__OPS__INIT;
    ops.n_op = 1;
    ops.op = list;
    size_t n = cfs__ops__get_packed_size(&ops);
    buf_clear(&t->cmd.ops);
    cfs__ops__pack(&ops, buf_extend(&t->cmd.ops, n));
    t->cmd.on_done = on_command;
    t->cmd.seq = seq;
    t->done = done;
    t->cmd_out = true;
    session_submit(t->o->c->session, &t->cmd);
    ops_note_seq(t->o, t->cmd.seq);
    t->r->command = &t->cmd;
}

void task_submit(struct task *t, Cfs__Op *op, task_done done)
{
    bool first = !t->submitted;
    submit(t, op, done, t->r->repeated ? opreq_seq(t->r) : 0);
    opreq_set_seq(t->r, t->cmd.seq);
    t->submitted = true;
    for (int i = 0; first && i < TASK_NAMES; i++) {
        if (t->dir[i] != 0) {
            names_change_begin(t->o->names, t->dir[i]);
        }
    }
}

void task_submit_more(struct task *t, Cfs__Op *op, task_done done)
{
    submit(t, op, done, 0);
}

/* ---- reads ---- */

static void on_read(struct session_read *read)
{
    struct task *t = container_of(read, struct task, read);
    t->read_out = false;
    t->read_done(t, read->rc, read->reply);
}

void task_read(struct task *t, uint16_t method, const ProtobufCMessage *request,
               void (*done)(struct task *t, int rc, struct bytes reply))
{
    buf_clear(&t->body);
    size_t n = protobuf_c_message_get_packed_size(request);
    protobuf_c_message_pack(request, buf_extend(&t->body, n));
    memset(&t->read, 0, sizeof t->read);
    t->read.method = method;
    t->read.body = buf_bytes(&t->body);
    t->read.on_done = on_read;
    t->read_done = done;
    t->read_out = true;
    session_read_start(t->o->c->session, &t->read);
}

/* ---- attributes: one fetch per inode, however many wait for it ---- */

struct fetch {
    struct table_node node;
    struct ops *o;
    uint64_t ino;
    struct session_read read;
    struct buf body;
    struct list waiters; /* of struct task */
};

static struct fetch *fetch_find(struct ops *o, uint64_t ino)
{
    struct table_node *n = table_find(&o->fetches, table_mix(ino));
    for (; n != NULL; n = table_next_same(n)) {
        struct fetch *f = container_of(n, struct fetch, node);
        if (f->ino == ino) {
            return f;
        }
    }
    return NULL;
}

static void fetch_free(struct fetch *f)
{
    table_remove(&f->o->fetches, &f->node);
    buf_release(&f->body);
    free(f);
}

static int fetch_take(struct fetch *f)
{
    if (f->read.rc != 0) {
        return f->read.rc;
    }
    Cfs__LookupReply *reply =
        cfs__lookup_reply__unpack(NULL, f->read.reply.len, f->read.reply.data);
    if (reply == NULL || reply->attr->ino != f->ino) {
        if (reply != NULL) {
            cfs__lookup_reply__free_unpacked(reply, NULL);
        }
        return ERR_MALFORMED;
    }
    (void)ops_take_lookup(f->o, reply);
    cfs__lookup_reply__free_unpacked(reply, NULL);
    return 0;
}

static void on_fetch(struct session_read *read)
{
    struct fetch *f = container_of(read, struct fetch, read);
    int rc = fetch_take(f);
    /* No name leads here any more: the kernel looks the name up again. */
    rc = rc == -ENOENT || rc == ERR_NOT_FOUND ? -ESTALE : rc;
    struct list waiters;
    list_take_all(&f->waiters, &waiters);
    fetch_free(f);
    while (!list_empty(&waiters)) {
        struct task *t = list_first(&waiters, struct task, node);
        list_remove(&t->node);
        go_on(t, rc);
    }
}

void task_fetch(struct task *t, uint64_t ino, task_next then)
{
    struct fetch *f = fetch_find(t->o, ino);
    bool fresh = f == NULL;
    if (fresh) {
        f = xcalloc(1, sizeof *f);
        f->o = t->o;
        f->ino = ino;
        list_init(&f->waiters);
        table_add(&t->o->fetches, &f->node, table_mix(ino));
        Cfs__GetattrRequest request = CFS__GETATTR_REQUEST__INIT;
        request.session = session_id(t->o->c->session);
        request.ino = ino;
        buf_init(&f->body);
        size_t n = cfs__getattr_request__get_packed_size(&request);
        cfs__getattr_request__pack(&request, buf_extend(&f->body, n));
        f->read.method = METHOD_GETATTR;
        f->read.body = buf_bytes(&f->body);
        f->read.on_done = on_fetch;
    }
    t->then = then;
    list_remove(&t->node);
    list_add_tail(&f->waiters, &t->node);
    if (fresh) {
        session_read_start(t->o->c->session, &f->read);
    }
}

static void fetch_stop(struct table_node *node, void *ctx)
{
    (void)ctx;
    struct fetch *f = container_of(node, struct fetch, node);
    session_read_cancel(&f->read);
    fetch_free(f);
}

void task_fetches_release(struct ops *o)
{
    table_walk(&o->fetches, fetch_stop, NULL);
}

void task_need_attr(struct task *t, task_next then)
{
    if (t->in->attr_valid) {
        then(t, 0);
    } else {
        task_fetch(t, t->in->ino, then);
    }
}

void task_need_content(struct task *t, task_next then)
{
    bool missing = (t->in->attr_flags & ATTR_INLINE) != 0 && !t->in->content_valid;
    if (t->in->attr_valid && !missing) {
        then(t, 0);
    } else {
        task_fetch(t, t->in->ino, then);
    }
}

/* ---- the writer ---- */

static void on_wait(struct writer_wait *wait, int rc)
{
    struct task *t = container_of(wait, struct task, wait);
    t->wait_out = false;
    t->quiesced = t->quiesced && rc == 0;
    if (!t->beside) {
        go_on(t, rc);
    } else if (t->reply_waits) {
        t->reply_waits = false;
        command_over(t);
    }
}

static void wait_begin(struct task *t, task_next then)
{
    t->then = then;
    t->wait.on_done = on_wait;
    t->wait_out = true;
}

void task_flush(struct task *t, struct inode *in, task_next then)
{
    wait_begin(t, then);
    writer_flush(t->o->c->writer, in, &t->wait);
}

void task_wait_room(struct task *t, task_next then)
{
    wait_begin(t, then);
    writer_wait_room(t->o->c->writer, &t->wait);
}

void task_outline(struct task *t, task_next then)
{
    wait_begin(t, then);
    writer_outline(t->o->c->writer, t->in, &t->wait);
}

void task_quiesce(struct task *t, bool flush, task_next then)
{
    t->beside = task_numbered(t);
    wait_begin(t, then);
    t->quiesced = true;
    writer_quiesce(t->o->c->writer, t->in, flush && !t->beside, &t->wait);
    if (t->beside) {
        then(t, 0);
    }
}
