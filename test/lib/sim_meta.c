#include "test/lib/sim_meta.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "log.pb-c.h"
#include "proto/methods.h"
#include "test/lib/disk_mem.h"
#include "test/lib/kv_mem.h"

enum { DISK_BYTES = 1 << 30, SEGMENT_BYTES = 256 << 10 };

/* ---- workers -------------------------------------------------------------------------------- */

static uint64_t slowness(struct prng *p)
{
    return prng_below(p, 50) == 0 ? prng_below(p, 80) : prng_below(p, 3);
}

static void worker_post_op(struct worker *w, struct work *x)
{
    struct sim_worker *s = container_of(w, struct sim_worker, base);
    list_init(&x->letter.node);
    if (s->closed) {
        return; /* nobody takes it any more */
    }
    list_add_tail(&s->posted, &x->letter.node);
    if (!timer_armed(&s->run_timer)) {
        timers_arm(s->timers, &s->run_timer, s->timers->now_ms + slowness(s->prng));
    }
}

static void worker_finish_op(struct worker *w, struct work *x)
{
    struct sim_worker *s = container_of(w, struct sim_worker, base);
    list_add_tail(&s->done, &x->letter.node);
}

static void worker_run(struct sim_worker *s)
{
    struct list works;
    list_take_all(&s->posted, &works);
    if (!list_empty(&works)) {
        s->base.run(s->base.ctx, &s->base, &works);
    }
}

static void worker_deliver(struct sim_worker *s)
{
    struct list done;
    list_take_all(&s->done, &done);
    struct work *x;
    while ((x = list_first(&done, struct work, letter.node)) != NULL) {
        list_remove(&x->letter.node);
        x->on_done(x);
    }
}

static void run_due(struct timer *t)
{
    struct sim_worker *s = container_of(t, struct sim_worker, run_timer);
    worker_run(s);
    if (!timer_armed(&s->done_timer)) {
        timers_arm(s->timers, &s->done_timer, s->timers->now_ms + prng_below(s->prng, 3));
    }
}

static void done_due(struct timer *t)
{
    worker_deliver(container_of(t, struct sim_worker, done_timer));
}

static void worker_close_op(struct worker *w)
{
    struct sim_worker *s = container_of(w, struct sim_worker, base);
    timers_stop(s->timers, &s->run_timer);
    timers_stop(s->timers, &s->done_timer);
    s->closed = true;
    worker_run(s);
}

static const struct worker_ops WORKER_OPS = {
    .post = worker_post_op, .finish = worker_finish_op, .close = worker_close_op};

static void worker_init(struct sim_worker *s, const struct sim_meta *m,
                        void (*run)(void *ctx, struct worker *w, struct list *works))
{
    *s = (struct sim_worker){.base = {.ops = &WORKER_OPS, .run = run, .ctx = m->machine},
                             .timers = m->timers,
                             .prng = m->prng};
    list_init(&s->posted);
    list_init(&s->done);
    s->run_timer.on_due = run_due;
    s->done_timer.on_due = done_due;
}

/* ---- the server ----------------------------------------------------------------------------- */

static void on_fatal(void *ctx, const char *what, int rc)
{
    struct sim_meta *m = ctx;
    if (!m->stopping && m->fatal == NULL) {
        m->fatal = what;
        m->fatal_rc = rc;
    }
}

static uint64_t wall_ns(void *ctx)
{
    const struct sim_meta *m = ctx;
    return (uint64_t)((int64_t)m->timers->now_ms + m->clock_skew_ms) * 1000000;
}

void sim_meta_init(struct sim_meta *m, struct timers *timers, struct net_sim *net,
                   struct prng *prng)
{
    *m = (struct sim_meta){.timers = timers, .net = net, .prng = prng};
    m->disk = disk_mem_new(DISK_BYTES);
    disk_mem_keep(m->disk);
    m->kv = kv_mem_new();
    kv_mem_keep(m->kv);
    uint8_t random[32];
    for (unsigned i = 0; i < sizeof random; i++) {
        random[i] = (uint8_t)prng_u64(prng);
    }
    Cfs__Policy policy = CFS__POLICY__INIT;
    policy.k = 4;
    policy.m = 2;
    policy.inline_limit = 4096;
    Cfs__LogBootstrap b = CFS__LOG_BOOTSTRAP__INIT;
    b.cluster = (ProtobufCBinaryData){.len = 16, .data = random};
    b.hash_key = (ProtobufCBinaryData){.len = 16, .data = random + 16};
    b.policy = &policy;
    buf_init(&m->bootstrap);
    cfs__log_bootstrap__pack(&b,
                             buf_extend(&m->bootstrap, cfs__log_bootstrap__get_packed_size(&b)));
}

static int lazy_sync(struct disk_file *f)
{
    (void)f;
    return 0;
}

static int lazy_open(struct disk *d, const char *path, int flags, struct disk_file **out)
{
    const struct disk_ops *real = NULL;
    struct sim_meta *m =
        container_of((struct disk_ops *)(uintptr_t)d->ops, struct sim_meta, lazy_ops);
    d->ops = m->real_ops;
    real = m->real_ops;
    const int rc = real->open(d, path, flags, out);
    d->ops = &m->lazy_ops;
    if (rc == 0) {
        (*out)->ops = &m->lazy_ops;
    }
    return rc;
}

void sim_meta_never_sync(struct sim_meta *m)
{
    m->real_ops = m->disk->ops;
    m->lazy_ops = *m->disk->ops;
    m->lazy_ops.open = lazy_open;
    m->lazy_ops.sync = lazy_sync;
    m->disk->ops = &m->lazy_ops;
}

void sim_meta_start(struct sim_meta *m)
{
    CHECK(!m->up);
    m->clock_skew_ms = 1000000000 + (int64_t)prng_below(m->prng, 20000);
    m->node = net_sim_node(m->net, "meta", NULL);
    m->server = server_new(m->node);
    const struct meta_service_options so = {.server = m->server,
                                            .timers = m->timers,
                                            .address = "meta:1",
                                            .version = "sim",
                                            .id = 1,
                                            .random = prng_u64(m->prng),
                                            .on_fatal = on_fatal,
                                            .wall_ns = wall_ns,
                                            .ctx = m};
    m->service = meta_service_new(&so);
    const struct machine_options mo = {.id = 1,
                                       .address = "meta",
                                       .disk = m->disk,
                                       .kv = m->kv,
                                       .log_segment_bytes = SEGMENT_BYTES,
                                       .random = prng_u64(m->prng),
                                       .timers = m->timers,
                                       .bootstrap = buf_bytes(&m->bootstrap),
                                       .events = &meta_service_events,
                                       .ctx = m->service};
    int rc = machine_open(&mo, &m->machine);
    if (rc == 0) {
        worker_init(&m->log, m, machine_run_log);
        worker_init(&m->store, m, machine_run_store);
        meta_service_start(m->service, m->machine);
        m->stopping = false;
        rc = machine_start(m->machine, &m->log.base, &m->store.base);
    }
    if (rc != 0) {
        m->fatal = "the metadata server cannot be started";
        m->fatal_rc = rc;
        m->stopping = true;
        return;
    }
    CHECK(server_listen(m->server, "meta:1", NULL) == 0);
    m->up = true;
}

/* What is left of the incarnation. The server itself goes with its connections, which the network
 * closes later; a request that nobody will answer any more stays behind, as in a process that is
 * gone. */
static void end_incarnation(struct sim_meta *m)
{
    m->stopping = true;
    m->up = false;
    server_on_gone(m->server, NULL, NULL);
    meta_service_stop(m->service);
    machine_stop(m->machine);
    m->log.base.ops->close(&m->log.base);
    m->store.base.ops->close(&m->store.base);
    worker_deliver(&m->log);
    worker_deliver(&m->store);
    (void)machine_close(m->machine); /* a crash makes its sync fail */
    meta_service_free(m->service);
    m->machine = NULL;
    m->service = NULL;
}

void sim_meta_crash(struct sim_meta *m)
{
    if (!m->up) {
        return;
    }
    m->crashes++;
    net_sim_kill(m->net, m->node);
    const struct disk_mem_fault power = {
        .at = (int)prng_below(m->prng, 3), .sticky = true, .torn = true, .reads = true};
    disk_mem_fault(m->disk, power);
    kv_mem_fail_at(m->kv, (int)prng_below(m->prng, 3));
    end_incarnation(m);
    static const unsigned keeps[] = {0, 0, 1, 2};
    const unsigned how = keeps[prng_below(m->prng, 4)];
    const unsigned unsynced = kv_mem_unsynced(m->kv);
    kv_mem_crash(m->kv, how == 0   ? 0
                        : how == 1 ? (unsigned)prng_below(m->prng, unsynced + 1)
                                   : UINT_MAX);
    disk_mem_crash(m->disk, prng_u64(m->prng), (unsigned)prng_below(m->prng, 3) * 50);
}

void sim_meta_stop(struct sim_meta *m)
{
    if (m->up) {
        net_sim_kill(m->net, m->node);
        end_incarnation(m);
    }
}

void sim_meta_release(struct sim_meta *m)
{
    buf_release(&m->bootstrap);
    kv_mem_free(m->kv);
    disk_mem_free(m->disk);
}

int sim_meta_read_log(struct sim_meta *m,
                      void (*visit)(void *ctx, uint64_t index, const struct raft_log_entry *e),
                      void *ctx)
{
    const struct raft_log_options lo = {
        .directory = "raft", .segment_bytes = SEGMENT_BYTES, .random = 1};
    struct raft_log_state state;
    raft_log_state_init(&state);
    struct raft_log *log = NULL;
    const int rc = raft_log_open(m->disk, &lo, visit, ctx, &state, &log);
    raft_log_close(log);
    raft_log_state_release(&state);
    return rc;
}

/* ---- chunk servers -------------------------------------------------------------------------- */

static size_t bit_of(uint32_t pg, uint64_t id)
{
    CHECK(pg < SIM_GROUPS_MAX && id < SIM_IDS_MAX);
    return (size_t)pg * SIM_IDS_MAX + (size_t)id;
}

bool sim_chunk_deleted(const struct sim_chunk *c, uint32_t pg, uint64_t id)
{
    const size_t bit = bit_of(pg, id);
    return (c->deleted[bit / 8] >> bit % 8 & 1) != 0;
}

static void take_order(struct sim_chunk *c, const Cfs__DeleteOrder *o)
{
    if (o->reign < c->reign || c->refuses || c->n_done == array_count(c->done)) {
        return;
    }
    c->reign = o->reign;
    for (size_t i = 0; i < o->n_id; i++) {
        for (uint64_t k = 0; k < o->id[i]->count; k++) {
            const size_t bit = bit_of(o->pg, o->id[i]->first + k);
            c->deleted[bit / 8] |= (uint8_t)(1u << bit % 8);
        }
    }
    c->done[c->n_done++] = o->order;
}

static void take_heartbeat_reply(struct sim_chunk *c, struct bytes reply)
{
    memmove(c->done, c->done + c->n_sent, (c->n_done - c->n_sent) * sizeof c->done[0]);
    c->n_done -= c->n_sent;
    Cfs__ChunkHeartbeatReply *m = cfs__chunk_heartbeat_reply__unpack(NULL, reply.len, reply.data);
    CHECK(m != NULL);
    c->reign = m->reign > c->reign ? m->reign : c->reign;
    for (size_t i = 0; i < m->n_order; i++) {
        take_order(c, m->order[i]);
    }
    cfs__chunk_heartbeat_reply__free_unpacked(m, NULL);
}

static void call_done(struct call *call)
{
    struct sim_chunk *c = container_of(call, struct sim_chunk, call);
    uint64_t pause = 200;
    if (call->rc == 0 && c->heartbeat) {
        take_heartbeat_reply(c, call->reply);
        pause = c->n_done > 0 ? 1 : 1000;
    } else if (call->rc == 0) {
        Cfs__ChunkRegisterReply *m =
            cfs__chunk_register_reply__unpack(NULL, call->reply.len, call->reply.data);
        CHECK(m != NULL);
        c->id = m->id;
        cfs__chunk_register_reply__free_unpacked(m, NULL);
        pause = 1;
    } else {
        c->id = 0;
    }
    timers_arm(c->timers, &c->timer, c->timers->now_ms + pause + prng_below(c->prng, 20));
}

static void fill_disk(Cfs__DiskRow *d, uint8_t uuid[16], unsigned number)
{
    memset(uuid, (int)number + 1, 16);
    cfs__disk_row__init(d);
    d->uuid = (ProtobufCBinaryData){.len = 16, .data = uuid};
    d->total = (uint64_t)1 << 40;
    d->free = (uint64_t)1 << 39;
    d->filesystem = number + 1;
    d->state = 1;
}

static void chunk_due(struct timer *t)
{
    struct sim_chunk *c = container_of(t, struct sim_chunk, timer);
    uint8_t uuid[16];
    char address[16];
    Cfs__DiskRow disk, *disks[1] = {&disk};
    fill_disk(&disk, uuid, c->number);
    snprintf(address, sizeof address, "c%u:1", c->number);
    buf_clear(&c->body);
    c->heartbeat = c->id != 0;
    if (c->heartbeat) {
        Cfs__ChunkHeartbeat m = CFS__CHUNK_HEARTBEAT__INIT;
        m.id = c->id;
        m.disk = disks;
        m.n_disk = 1;
        m.order_done = c->done;
        m.n_order_done = c->n_sent = c->n_done;
        cfs__chunk_heartbeat__pack(&m,
                                   buf_extend(&c->body, cfs__chunk_heartbeat__get_packed_size(&m)));
    } else {
        Cfs__ChunkRegister m = CFS__CHUNK_REGISTER__INIT;
        m.server = (ProtobufCBinaryData){.len = 16, .data = uuid};
        m.address = address;
        m.version = (char *)(uintptr_t) "sim";
        m.feature_level = 1;
        m.disk = disks;
        m.n_disk = 1;
        cfs__chunk_register__pack(&m,
                                  buf_extend(&c->body, cfs__chunk_register__get_packed_size(&m)));
    }
    c->call = (struct call){.method = c->heartbeat ? METHOD_CHUNK_HEARTBEAT : METHOD_CHUNK_REGISTER,
                            .body = buf_bytes(&c->body),
                            .timeout_ms = 3000,
                            .on_done = call_done};
    call_start(c->peer, &c->call);
}

void sim_chunk_init(struct sim_chunk *c, struct sim_meta *m, unsigned number, const char *name)
{
    *c = (struct sim_chunk){.timers = m->timers, .prng = m->prng, .number = number};
    c->node = net_sim_node(m->net, name, NULL);
    c->peer = peer_new(c->node, "meta:1", NULL, NULL);
    c->deleted = xcalloc(SIM_GROUPS_MAX * SIM_IDS_MAX / 8, 1);
    c->timer.on_due = chunk_due;
    timers_arm(c->timers, &c->timer, c->timers->now_ms + number);
}

void sim_chunk_crash(struct sim_chunk *c, struct net_sim *net)
{
    timers_stop(c->timers, &c->timer);
    call_cancel(&c->call);
    net_sim_break(net, c->node, NULL);
    c->down = true;
    c->id = 0;
    c->n_done = c->n_sent = 0;
}

void sim_chunk_start(struct sim_chunk *c)
{
    c->down = false;
    timers_arm(c->timers, &c->timer, c->timers->now_ms + 1);
}

void sim_chunk_release(struct sim_chunk *c)
{
    timers_stop(c->timers, &c->timer);
    call_cancel(&c->call);
    peer_free(c->peer);
    buf_release(&c->body);
    free(c->deleted);
    c->deleted = NULL;
}
