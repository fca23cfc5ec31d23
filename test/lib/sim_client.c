#include "test/lib/sim_client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "proto/methods.h"

void sim_fail(struct sim_report *r, const char *format, ...)
{
    if (r->failed) {
        return;
    }
    r->failed = true;
    int n = snprintf(r->why, sizeof r->why, "at %llu ms: ", (unsigned long long)r->timers->now_ms);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->why + n, sizeof r->why - (size_t)n, format, args);
    va_end(args);
    sim_trace(r, "FAILED %s", r->why);
}

void sim_trace(const struct sim_report *r, const char *format, ...)
{
    if (!r->trace) {
        return;
    }
    va_list args;
    va_start(args, format);
    printf("%8llu ", (unsigned long long)r->timers->now_ms);
    (void)vprintf(format, args);
    printf("\n");
    va_end(args);
}

/* ---- what leaves it, with a planted fault --------------------------------------------------- */

static int tap_send(struct conn *conn, struct outgoing *o)
{
    struct sim_tap *t =
        container_of((struct transport_ops *)(uintptr_t)conn->transport->ops, struct sim_tap, ops);
    struct buf edited;
    buf_init(&edited);
    const struct bytes body = o->body;
    if (o->frame.method == METHOD_COMMAND && t->edit != SIM_EDIT_NONE &&
        sim_ops_edit(t->edit, body, &t->prng, &edited)) {
        o->body = buf_bytes(&edited);
    }
    const int rc = t->real->send(conn, o);
    o->body = body;
    buf_release(&edited);
    return rc;
}

/* ---- commands ------------------------------------------------------------------------------- */

static struct sim_record *record_new(struct sim_client *c)
{
    struct sim_record *r = xcalloc(1, sizeof *r);
    r->client = c;
    list_init(&r->node);
    buf_init(&r->reply);
    return r;
}

static void record_free(struct sim_record *r)
{
    list_remove(&r->node);
    buf_release(&r->reply);
    buf_release(&r->cmd.ops);
    free(r);
}

static void remember_wait(struct sim_client *c, uint64_t ticket)
{
    if (c->n_waiting == SIM_WAITING) {
        memmove(c->waiting, c->waiting + 1, (SIM_WAITING - 1) * sizeof c->waiting[0]);
        c->n_waiting--;
    }
    c->waiting[c->n_waiting++] = ticket;
}

static void forget_wait(struct sim_client *c, uint64_t ticket)
{
    for (unsigned i = 0; i < c->n_waiting; i++) {
        if (c->waiting[i] == ticket) {
            c->waiting[i] = c->waiting[--c->n_waiting];
            return;
        }
    }
}

static bool got(const struct sim_client *c, uint64_t ticket)
{
    for (unsigned i = 0; i < c->n_got && i < SIM_GOT; i++) {
        if (c->got[i] == ticket) {
            return true;
        }
    }
    return false;
}

static void take_grant(struct sim_client *c, uint64_t ticket)
{
    if (!got(c, ticket)) {
        sim_trace(c->report, "%s ticket %llu granted", c->name, (unsigned long long)ticket);
        c->got[c->n_got++ % SIM_GOT] = ticket;
    }
    forget_wait(c, ticket);
}

/* Until its answer is there a ticket that is being cancelled is neither granted nor not. */
static bool being_cancelled(const struct sim_client *c, uint64_t ticket)
{
    for (const struct list *n = c->outstanding.next; n != &c->outstanding; n = n->next) {
        const struct sim_record *r = container_of(n, struct sim_record, node);
        for (unsigned i = 0; i < r->n_ops; i++) {
            if (r->op[i].kind == SIM_CANCEL && r->op[i].ticket == ticket) {
                return true;
            }
        }
    }
    return false;
}

static bool waits_for(const struct sim_client *c, uint64_t ticket)
{
    for (unsigned i = 0; i < c->n_waiting; i++) {
        if (c->waiting[i] == ticket) {
            return true;
        }
    }
    return false;
}

static int class_of(int rc)
{
    return rc == 0 || rc == ERR_QUEUED ? rc : -1;
}

static void tell_model(struct sim_client *c, struct sim_record *r)
{
    bool failed = false;
    for (unsigned i = 0; i < r->n_ops; i++) {
        struct sim_op *op = &r->op[i];
        const int want = model_apply(c->model, op, failed, true);
        sim_trace(c->report,
                  "%s %llu.%u %s ino=%llu %llu/%s %llu/%s f=%u made=%llu id=%u.%llu own=%llu: %s",
                  c->name, (unsigned long long)r->seq, i, sim_ops_name(op->kind),
                  (unsigned long long)op->ino, (unsigned long long)op->parent, op->name,
                  (unsigned long long)op->parent2, op->name2, op->flags,
                  (unsigned long long)op->made, op->id.pg, (unsigned long long)op->id.id,
                  (unsigned long long)op->owner, op->rc == 0 ? "0" : err_name(op->rc));
        if (want != class_of(op->rc) && !c->model->overflow) {
            sim_fail(c->report, "%s: command %llu.%u (%s) was answered %s; the model says %s",
                     c->name, (unsigned long long)r->seq, i, sim_ops_name(op->kind),
                     op->rc == 0 ? "success" : err_name(op->rc),
                     want == 0            ? "success"
                     : want == ERR_QUEUED ? "queued"
                                          : "an error");
        }
        failed = want == -1;
        if (op->rc == ERR_QUEUED && !got(c, op->got_ticket)) {
            remember_wait(c, op->got_ticket);
        } else if (op->kind == SIM_CANCEL && op->rc == 0) {
            forget_wait(c, op->ticket);
        } else if (op->kind == SIM_CANCEL && op->rc == -EALREADY && waits_for(c, op->ticket)) {
            take_grant(c, op->ticket);
        }
    }
}

static void tell_finished(struct sim_client *c)
{
    struct sim_record *r;
    while ((r = list_first(&c->outstanding, struct sim_record, node)) != NULL && r->done) {
        list_remove(&r->node);
        c->n_outstanding--;
        tell_model(c, r);
        if (c->session != NULL && r->cmd.pending == NULL && prng_below(c->prng, 2) == 0) {
            session_release_seq(c->session, r->seq);
            record_free(r);
        } else {
            list_add_tail(&c->unreleased, &r->node);
        }
    }
}

static void on_done(struct command *cmd)
{
    struct sim_record *r = container_of(cmd, struct sim_record, cmd);
    struct sim_client *c = r->client;
    if (cmd->rc == ERR_SESSION_ENDED) {
        c->ended = true; /* done stays as it was: nobody knows */
        return;
    }
    if (cmd->rc != 0) {
        c->refused++;
        sim_fail(c->report, "%s: command %llu was refused as a whole: %s", c->name,
                 (unsigned long long)r->seq, err_name(cmd->rc));
        return;
    }
    if (r->done) {
        if (!bytes_equal(buf_bytes(&r->reply), cmd->reply)) {
            sim_fail(c->report, "%s: the repeat of command %llu was answered differently", c->name,
                     (unsigned long long)r->seq);
        }
        r->checking = false;
        return;
    }
    buf_add(&r->reply, cmd->reply.data, cmd->reply.len);
    if (!sim_ops_unpack(r->op, r->n_ops, cmd->reply)) {
        sim_fail(c->report, "%s: the answer of command %llu is not one to it", c->name,
                 (unsigned long long)r->seq);
        return;
    }
    r->done = true;
    tell_finished(c);
}

static struct sim_record *submit(struct sim_client *c)
{
    struct sim_record *r = record_new(c);
    r->n_ops = prng_below(c->prng, 3) == 0 ? 1 + (unsigned)prng_below(c->prng, SIM_OPS) : 1;
    for (unsigned i = 0; i < r->n_ops; i++) {
        sim_ops_random(c, &r->op[i]);
        r->op[i].needs_previous = i > 0 && prng_below(c->prng, 2) == 0;
    }
    sim_ops_pack(r->op, r->n_ops, &r->cmd.ops);
    r->cmd.on_done = on_done;
    session_submit(c->session, &r->cmd);
    r->seq = r->cmd.seq;
    c->commands++;
    return r;
}

static void release_some(struct sim_client *c)
{
    list_for_each_safe (node, follow, &c->unreleased) {
        struct sim_record *r = list_entry(node, struct sim_record, node);
        if (!r->checking && prng_below(c->prng, 4) == 0) {
            session_release_seq(c->session, r->seq);
            record_free(r);
        }
    }
}

static void client_due(struct timer *t)
{
    struct sim_client *c = container_of(t, struct sim_client, timer);
    if (c->session == NULL || c->ended || !c->open) {
        return;
    }
    session_resume_done(c->session);
    release_some(c);
    const unsigned n = (unsigned)prng_below(c->prng, 4);
    for (unsigned i = 0; i < n && c->generating && c->n_outstanding < SIM_OUTSTANDING; i++) {
        struct sim_record *r = submit(c);
        c->next_seq = r->seq + 1;
        list_add_tail(&c->outstanding, &r->node);
        c->n_outstanding++;
    }
    timers_arm(c->timers, &c->timer, c->timers->now_ms + 1 + prng_below(c->prng, 8));
}

void sim_client_generate(struct sim_client *c, bool on)
{
    c->generating = on;
}

/* ---- the session ---------------------------------------------------------------------------- */

static void on_event(struct session *s, uint16_t method, struct bytes body, void *ctx)
{
    (void)s;
    if (method == EVENT_LOCK_GRANTED) {
        Cfs__LockGranted *m = cfs__lock_granted__unpack(NULL, body.len, body.data);
        CHECK(m != NULL);
        take_grant(ctx, m->ticket);
        cfs__lock_granted__free_unpacked(m, NULL);
    }
}

static void on_fill(struct session *s, struct Cfs__SessionRenew *m, void *ctx)
{
    (void)s;
    struct sim_client *c = ctx;
    m->waiting_ticket = c->waiting;
    m->n_waiting_ticket = c->n_waiting;
}

static void on_renewed(struct session *s, const struct Cfs__SessionRenewReply *m, void *ctx)
{
    (void)s;
    for (size_t i = 0; i < m->n_granted_ticket; i++) {
        const struct sim_client *c = ctx;
        if (waits_for(c, m->granted_ticket[i]) && !being_cancelled(c, m->granted_ticket[i])) {
            take_grant(ctx, m->granted_ticket[i]);
        }
    }
}

static void on_state(struct session *s, void *ctx)
{
    struct sim_client *c = ctx;
    c->ended = c->ended || session_ended(s);
}

static const struct session_events EVENTS = {on_state, on_event, on_fill, on_renewed, NULL};

void sim_client_init(struct sim_client *c, struct net_sim *net, struct timers *timers,
                     struct prng *prng, struct sim_report *report, struct model *model,
                     unsigned number, enum sim_edit edit)
{
    *c = (struct sim_client){
        .report = report, .timers = timers, .net = net, .prng = prng, .model = model};
    snprintf(c->name, sizeof c->name, "client%u", number);
    memset(c->identity, (int)(number % 250) + 1, sizeof c->identity);
    list_init(&c->outstanding);
    list_init(&c->unreleased);
    c->timer.on_due = client_due;
    c->tap = xcalloc(1, sizeof *c->tap);
    c->tap->edit = edit;
}

void sim_client_start(struct sim_client *c)
{
    c->node = net_sim_node(c->net, c->name, NULL);
    c->tap->real = c->node->ops;
    c->tap->ops = *c->node->ops;
    c->tap->ops.send = tap_send;
    if (c->tap->edit != SIM_EDIT_NONE) {
        c->node->ops = &c->tap->ops;
    }
    const struct session_options so = {.addresses = "meta:1", .events = &EVENTS, .ctx = c};
    c->session = session_new(c->node, &so);
}

struct opening {
    bool done;
    int rc;
    struct sim_client *client;
};

static void open_done(struct session *s, int rc, struct bytes reply, void *ctx)
{
    struct opening *o = ctx;
    (void)s;
    o->done = true;
    o->rc = rc;
    if (rc == 0) {
        Cfs__SessionOpenReply *m = cfs__session_open_reply__unpack(NULL, reply.len, reply.data);
        CHECK(m != NULL);
        o->client->session_number = m->session;
        cfs__session_open_reply__free_unpacked(m, NULL);
    }
}

static bool opening_going(void *ctx)
{
    return !((struct opening *)ctx)->done;
}

int sim_client_open(struct sim_client *c, const uint8_t *earlier, uint64_t bound_ms)
{
    Cfs__SessionOpen m = CFS__SESSION_OPEN__INIT;
    m.client = (ProtobufCBinaryData){.len = 16, .data = c->identity};
    m.host = m.machine = (char *)(uintptr_t) "host";
    m.boot = (char *)(uintptr_t) "boot";
    m.version = (char *)(uintptr_t) "sim";
    m.feature_level = 1;
    m.has_earlier_client = earlier != NULL;
    m.earlier_client = (ProtobufCBinaryData){.len = 16, .data = (uint8_t *)(uintptr_t)earlier};
    struct buf b;
    buf_init(&b);
    cfs__session_open__pack(&m, buf_extend(&b, cfs__session_open__get_packed_size(&m)));
    struct opening o = {.client = c};
    session_open(c->session, buf_bytes(&b), (uint32_t)bound_ms, open_done, &o);
    (void)net_sim_run_while(c->net, opening_going, &o, bound_ms + 5000);
    buf_release(&b);
    if (!o.done || o.rc != 0) {
        return o.done ? o.rc : ERR_DEADLINE;
    }
    c->open = true;
    c->next_seq = session_next_seq(c->session);
    timers_arm(c->timers, &c->timer, c->timers->now_ms + 1);
    sim_trace(c->report, "%s open, session %llu", c->name, (unsigned long long)c->session_number);
    return 0;
}

void sim_client_kill(struct sim_client *c)
{
    timers_stop(c->timers, &c->timer);
    const unsigned lost = c->open && !c->ended ? (unsigned)prng_below(c->prng, 3) : 0;
    const bool published = prng_below(c->prng, 2) == 0;
    for (unsigned i = 0; i < lost;
         i++) { /* numbered, and never sent: sending happens from the loop */
        struct sim_record *r = submit(c);
        c->next_seq = published ? r->seq + 1 : c->next_seq;
        list_add_tail(&c->unreleased, &r->node);
        r->checking = true; /* marks it below */
        r->n_ops = 0;
    }
    net_sim_kill(c->net, c->node);
    session_free(c->session);
    c->session = NULL;
    list_for_each_safe (node, follow, &c->unreleased) {
        struct sim_record *r = list_entry(node, struct sim_record, node);
        if (r->n_ops == 0) {
            record_free(r);
        }
    }
}

static void repeat(struct sim_client *c, struct sim_record *r)
{
    buf_release(&r->cmd.ops);
    r->cmd = (struct command){.seq = r->seq, .on_done = on_done};
    buf_init(&r->cmd.ops);
    sim_ops_pack(r->op, r->n_ops, &r->cmd.ops);
    r->checking = r->done;
    session_submit(c->session, &r->cmd);
}

void sim_client_resume(struct sim_client *c)
{
    c->restarts++;
    sim_client_start(c);
    session_resume(c->session, c->session_number, c->next_seq);
    list_for_each_safe (node, follow, &c->unreleased) {
        struct sim_record *r = list_entry(node, struct sim_record, node);
        if (prng_below(c->prng, 2) == 0) {
            record_free(r);
        } else {
            repeat(c, r);
        }
    }
    list_for_each (node, &c->outstanding) {
        repeat(c, list_entry(node, struct sim_record, node));
    }
    if (prng_below(c->prng, 2) == 0) {
        session_resume_done(c->session);
    }
    c->open = true;
    timers_arm(c->timers, &c->timer, c->timers->now_ms + 1);
}

bool sim_client_idle(const struct sim_client *c)
{
    if (!list_empty(&c->outstanding) || session_outstanding(c->session) > 0) {
        return false;
    }
    const unsigned n = c->model->n_granted;
    for (unsigned i = 0; i < n && i < array_count(c->model->granted); i++) {
        if (!got(c, c->model->granted[i]) && n < array_count(c->model->granted)) {
            return false;
        }
    }
    return true;
}

struct closing {
    bool done;
    int rc;
};

static void close_done(struct session *s, int rc, void *ctx)
{
    (void)s;
    *(struct closing *)ctx = (struct closing){.done = true, .rc = rc};
}

static bool closing_going(void *ctx)
{
    return !((struct closing *)ctx)->done;
}

int sim_client_close(struct sim_client *c, uint64_t bound_ms)
{
    struct closing k = {0};
    c->open = false;
    timers_stop(c->timers, &c->timer);
    session_close(c->session, (uint32_t)bound_ms, close_done, &k);
    (void)net_sim_run_while(c->net, closing_going, &k, bound_ms + 5000);
    return k.done ? k.rc : ERR_DEADLINE;
}

void sim_client_forget(struct sim_client *c)
{
    struct sim_record *r;
    while ((r = list_first(&c->outstanding, struct sim_record, node)) != NULL ||
           (r = list_first(&c->unreleased, struct sim_record, node)) != NULL) {
        record_free(r);
    }
    c->n_outstanding = 0;
}

void sim_client_release(struct sim_client *c)
{
    timers_stop(c->timers, &c->timer);
    if (c->session != NULL) {
        net_sim_kill(c->net, c->node);
        session_free(c->session);
        c->session = NULL;
    }
    sim_client_forget(c);
}
