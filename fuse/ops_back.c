/* Commands that no kernel request waits for: orphans to let go, access times. They are
 * not in the arena: what must survive the worker is there in another form (CLOSED handles); the rest may be lost. */
#include <stdlib.h>

#include "base/mem.h"
#include "fuse/ops_internal.h"

enum job_kind { JOB_RELEASE, JOB_ACCESS };

struct job { /* one command under way */
    struct command cmd;
    struct list node;
    struct background *b;
    enum job_kind kind;
    unsigned n;
    uint64_t ino[OPS_BATCH_MAX];
};

struct pending {
    struct table_node node;
    uint64_t ino;
    int64_t atime;
};

struct background {
    struct ops *o;
    struct list jobs;
    struct table access;
    struct timer access_timer, release_timer;
    uint64_t *release;
    unsigned n_release, release_cap;
};

static void on_job(struct command *cmd)
{
    struct job *j = container_of(cmd, struct job, cmd);
    struct ops *o = j->b->o;
    list_remove(&j->node);
    session_release_seq(o->c->session, cmd->seq);
    for (unsigned i = 0; i < j->n; i++) {
        if (j->kind == JOB_RELEASE && cmd->rc == 0) {
            handles_orphan_gone(o->handles, j->ino[i]);
        }
    }
    buf_release(&cmd->ops);
    free(j);
}

static struct job *job_new(struct background *b, enum job_kind kind)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->b = b;
    j->kind = kind;
    j->cmd.on_done = on_job;
    buf_init(&j->cmd.ops);
    list_init(&j->node);
    return j;
}

static void job_submit(struct job *j, Cfs__Op **op, size_t n)
{
    struct session *s = j->b->o->c->session;
    if (j->b->o->ended || session_ended(s)) {
        free(j);
        return;
    }
    Cfs__Ops ops = CFS__OPS__INIT;
    ops.n_op = n;
    ops.op = op;
    cfs__ops__pack(&ops, buf_extend(&j->cmd.ops, cfs__ops__get_packed_size(&ops)));
    list_add_tail(&j->b->jobs, &j->node);
    session_submit(s, &j->cmd);
    ops_note_seq(j->b->o, j->cmd.seq);
}

/* ---- orphans ---- */

static void release_due(struct timer *timer)
{
    struct background *b = container_of(timer, struct background, release_timer);
    while (b->n_release > 0) {
        struct job *j = job_new(b, JOB_RELEASE);
        j->n = b->n_release < OPS_BATCH_MAX ? b->n_release : OPS_BATCH_MAX;
        b->n_release -= j->n;
        for (unsigned i = 0; i < j->n; i++) {
            j->ino[i] = b->release[b->n_release + i];
        }
        Cfs__ReleaseOp release = CFS__RELEASE_OP__INIT;
        release.n_ino = j->n;
        release.ino = j->ino;
        Cfs__Op op = CFS__OP__INIT;
        op.release = &release;
        job_submit(j, (Cfs__Op *[]){&op}, 1);
    }
}

void background_release(struct background *b, uint64_t ino)
{
    struct inode *in = itable_find(b->o->c->itable, ino);
    if (in != NULL) {
        writer_forget(b->o->c->writer, in);
        itable_forget(b->o->c->itable, ino);
    }
    reader_invalidate(b->o->c->reader, ino, 0, UINT64_MAX);
    if (b->n_release == b->release_cap) {
        b->release_cap = b->release_cap ? b->release_cap * 2 : 64;
        b->release = xrealloc(b->release, b->release_cap * sizeof *b->release);
    }
    b->release[b->n_release++] = ino;
    if (!timer_armed(&b->release_timer)) {
        timers_arm(b->o->c->timers, &b->release_timer,
                   timers_now(b->o->c->timers) + OPS_RELEASE_DELAY_MS);
    }
}

/* ---- access times ---- */

struct access_batch {
    struct background *b;
    unsigned n;
    Cfs__Op op[OPS_BATCH_MAX], *list[OPS_BATCH_MAX];
    Cfs__SetattrOp setattr[OPS_BATCH_MAX];
};

static void access_take(struct table_node *node, void *ctx)
{
    struct access_batch *batch = ctx;
    struct pending *p = container_of(node, struct pending, node);
    if (batch->n == OPS_BATCH_MAX) {
        return;
    }
    unsigned i = batch->n++;
    cfs__op__init(&batch->op[i]);
    cfs__setattr_op__init(&batch->setattr[i]);
    batch->setattr[i].ino = p->ino;
    batch->setattr[i].has_atime_at_least = 1;
    batch->setattr[i].atime_at_least = p->atime;
    batch->op[i].setattr = &batch->setattr[i];
    batch->list[i] = &batch->op[i];
    table_remove(&batch->b->access, node);
    free(p);
}

static void access_due(struct timer *timer)
{
    struct background *b = container_of(timer, struct background, access_timer);
    struct access_batch *batch = xcalloc(1, sizeof *batch);
    batch->b = b;
    while (b->access.n > 0) {
        batch->n = 0;
        table_walk(&b->access, access_take, batch);
        job_submit(job_new(b, JOB_ACCESS), batch->list, batch->n);
    }
    free(batch);
}

static struct pending *access_find(struct background *b, uint64_t ino)
{
    struct table_node *n = table_find(&b->access, table_mix(ino));
    for (; n != NULL; n = table_next_same(n)) {
        struct pending *p = container_of(n, struct pending, node);
        if (p->ino == ino) {
            return p;
        }
    }
    return NULL;
}

void background_access(struct background *b, uint64_t ino, int64_t atime)
{
    struct pending *p = access_find(b, ino);
    if (p == NULL) {
        p = xcalloc(1, sizeof *p);
        p->ino = ino;
        table_add(&b->access, &p->node, table_mix(ino));
    }
    p->atime = atime;
    if (!timer_armed(&b->access_timer)) {
        timers_arm(b->o->c->timers, &b->access_timer,
                   timers_now(b->o->c->timers) + OPS_ATIME_DELAY_MS);
    }
}

/* ---- life ---- */

struct background *background_new(struct ops *o)
{
    struct background *b = xcalloc(1, sizeof *b);
    b->o = o;
    list_init(&b->jobs);
    table_init(&b->access);
    b->access_timer.on_due = access_due;
    b->release_timer.on_due = release_due;
    return b;
}

static void pending_free(struct table_node *node, void *ctx)
{
    (void)ctx;
    free(container_of(node, struct pending, node));
}

void background_free(struct background *b)
{
    timers_stop(b->o->c->timers, &b->access_timer);
    timers_stop(b->o->c->timers, &b->release_timer);
    while (!list_empty(&b->jobs)) {
        struct job *j = list_first(&b->jobs, struct job, node);
        list_remove(&j->node);
        session_abandon(b->o->c->session, &j->cmd);
        free(j);
    }
    table_walk(&b->access, pending_free, NULL);
    table_release(&b->access);
    free(b->release);
    free(b);
}
