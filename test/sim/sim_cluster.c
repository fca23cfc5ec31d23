/* A metadata server and its clients in virtual time, from one seed.
 *
 *   sim_cluster SEED [MILLISECONDS]
 *
 * The server is the real one (meta_service, machine, replica, raft_log, fsm) on a simulated disk, store
 * and network; its two workers run on the virtual clock. The clients are rpc sessions, one after another (a second
 * mount is refused in this version): each has many commands under way, then dies and is followed by one that proves it
 * dead. The server crashes at any moment and loses what was not synced; connections break with messages lost.
 *
 * Every operation is chosen so that it succeeds if, and only if, all before it were done exactly once. Checked: each
 * answer; at the end the names, the audit of the state, and that a replay of all committed entries into an
 * empty store gives the same hash. An index that is committed twice must carry the same entry. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prng.h"
#include "log.pb-c.h"
#include "meta.pb-c.h"
#include "meta/meta_service.h"
#include "proto/methods.h"
#include "rpc/session.h"
#include "test/lib/disk_mem.h"
#include "test/lib/kv_mem.h"
#include "test/lib/net_sim.h"

enum { NAMES_MAX = 20000, ENTRIES_MAX = 100000, FLYING_MAX = 24, ROOT = 1, DIRECTORIES = 4 };

struct sim_worker {
    struct worker worker;
    struct list queue, finished;
    struct timer timer;
};

struct name { /* of the model: a file and where it is, once what flies has landed */
    bool there;
    unsigned directory;
};

struct operation {
    struct command command;
    unsigned name;
};

static struct world {
    struct prng prng;
    struct timers timers;
    struct net_sim *net;
    struct transport *server_node, *client_node;
    struct server *server;
    struct disk *disk;
    struct kv *kv;
    struct sim_worker log, store;
    struct machine *machine;
    struct meta_service *service;
    bool up;
    uint64_t up_at_ms;
    struct buf bootstrap;

    struct session *session;
    uint8_t client[16], earlier[16];
    bool opened, had_client;
    unsigned flying;
    uint64_t directory[DIRECTORIES];
    unsigned n_directories;
    struct name names[NAMES_MAX];
    unsigned n_names;
    uint64_t done;

    struct buf entries[ENTRIES_MAX];
    uint64_t term[ENTRIES_MAX];
    uint64_t last;
    unsigned long crashes, breaks, clients;
} W;

#define FAIL(...) \
    do { \
        fprintf(stderr, "FAIL: " __VA_ARGS__); \
        fprintf(stderr, "\n"); \
        abort(); \
    } while (0)

static unsigned below(unsigned n)
{
    return (unsigned)prng_below(&W.prng, n);
}

/* ---- workers on the virtual clock ----------------------------------------------------------- */

static void sim_post(struct worker *w, struct work *x)
{
    struct sim_worker *s = container_of(w, struct sim_worker, worker);
    list_add_tail(&s->queue, &x->letter.node);
    if (!timer_armed(&s->timer)) {
        timers_arm(&W.timers, &s->timer, W.timers.now_ms + below(below(20) == 0 ? 40 : 3));
    }
}

static void sim_finish(struct worker *w, struct work *x)
{
    struct sim_worker *s = container_of(w, struct sim_worker, worker);
    list_add_tail(&s->finished, &x->letter.node);
}

static void sim_run(struct sim_worker *s)
{
    struct list works;
    list_take_all(&s->queue, &works);
    if (!list_empty(&works)) {
        s->worker.run(s->worker.ctx, &s->worker, &works);
    }
    list_take_all(&s->finished, &works);
    list_for_each_safe(node, follow, &works) {
        struct work *x = list_entry(node, struct work, letter.node);
        list_remove(node);
        x->on_done(x);
    }
}

static void sim_due(struct timer *t)
{
    struct sim_worker *s = container_of(t, struct sim_worker, timer);
    sim_run(s);
    if (!list_empty(&s->queue) && !timer_armed(&s->timer)) {
        timers_arm(&W.timers, &s->timer, W.timers.now_ms + 1);
    }
}

static void sim_worker_init(struct sim_worker *s, struct machine *m,
                            void (*run)(void *ctx, struct worker *w, struct list *works))
{
    static const struct worker_ops ops = {.post = sim_post, .finish = sim_finish};
    *s = (struct sim_worker){.worker = {.ops = &ops, .run = run, .ctx = m},
                             .timer = {.on_due = sim_due}};
    list_init(&s->queue);
    list_init(&s->finished);
}

/* ---- the server ----------------------------------------------------------------------------- */

static void on_fatal(void *ctx, const char *what, int rc)
{
    (void)ctx;
    FAIL("the server stops: %s, %s", what, err_name(rc));
}

static uint64_t wall_ns(void *ctx)
{
    (void)ctx;
    return W.timers.now_ms * 1000000u;
}

static void observe(void *ctx, uint64_t index, uint64_t term, struct bytes entry)
{
    (void)ctx;
    CHECK(index < ENTRIES_MAX);
    if (W.entries[index].len > 0) {
        if (W.term[index] != term || !bytes_equal(buf_bytes(&W.entries[index]), entry)) {
            FAIL("index %" PRIu64 " is committed with two contents", index);
        }
        return;
    }
    buf_add(&W.entries[index], entry.data, entry.len);
    W.term[index] = term;
    W.last = index > W.last ? index : W.last;
}

static void server_start(void)
{
    const struct meta_service_options so = {.server = W.server,
                                            .timers = &W.timers,
                                            .version = "sim",
                                            .id = 1,
                                            .random = prng_u64(&W.prng),
                                            .on_fatal = on_fatal,
                                            .wall_ns = wall_ns};
    W.service = meta_service_new(&so);
    const struct machine_options mo = {.id = 1,
                                       .address = "1",
                                       .disk = W.disk,
                                       .kv = W.kv,
                                       .log_segment_bytes = 256 << 10,
                                       .random = prng_u64(&W.prng),
                                       .timers = &W.timers,
                                       .bootstrap = buf_bytes(&W.bootstrap),
                                       .events = &meta_service_events,
                                       .ctx = W.service,
                                       .observe = observe};
    const int rc = machine_open(&mo, &W.machine);
    if (rc != 0) {
        FAIL("the server cannot open: %s", err_name(rc));
    }
    sim_worker_init(&W.log, W.machine, machine_run_log);
    sim_worker_init(&W.store, W.machine, machine_run_store);
    meta_service_start(W.service, W.machine);
    const int started = machine_start(W.machine, &W.log.worker, &W.store.worker);
    if (started != 0) {
        FAIL("the server cannot start: %s", err_name(started));
    }
    char bound[64];
    CHECK(server_listen(W.server, "meta:1", bound) == 0);
    W.up = true;
}

static void nothing_gone(struct server_peer *p, void *ctx)
{
    (void)p;
    (void)ctx;
}

/* The end of a server: what its workers still hold is run, against a disk and a store that fail. */
static void server_end(bool crash)
{
    const unsigned kept = crash ? below(kv_mem_unsynced(W.kv) + 1) : 0;
    meta_service_stop(W.service);
    machine_stop(W.machine);
    net_sim_kill(W.net, W.server_node);
    if (crash) {
        disk_mem_fault(W.disk, (struct disk_mem_fault){.at = 0, .sticky = true});
        kv_mem_fail_at(W.kv, 0);
    }
    timers_stop(&W.timers, &W.log.timer);
    timers_stop(&W.timers, &W.store.timer);
    sim_run(&W.log);
    sim_run(&W.store);
    (void)machine_close(W.machine); /* a crashed store cannot be synced */
    net_sim_run_until(W.net, W.timers.now_ms + 1); /* its connections end */
    server_on_gone(W.server, nothing_gone, NULL);
    meta_service_free(W.service);
    if (crash) {
        disk_mem_crash(W.disk, prng_u64(&W.prng), below(101));
        kv_mem_crash(W.kv, kept);
        W.crashes++;
    }
    W.up = false;
    W.up_at_ms = W.timers.now_ms + 10 + below(below(8) == 0 ? 9000 : 500);
}

/* ---- clients -------------------------------------------------------------------------------- */

static void on_opened(struct session *s, int rc, struct bytes reply, void *ctx)
{
    (void)s;
    (void)reply;
    (void)ctx;
    if (rc != 0) {
        FAIL("a session cannot be opened: %s", err_name(rc));
    }
    W.opened = true;
}

static void client_start(void)
{
    const struct session_options so = {.addresses = "meta:1"};
    W.session = session_new(W.client_node, &so);
    memcpy(W.earlier, W.client, 16);
    put_le64(W.client, prng_u64(&W.prng));
    put_le64(W.client + 8, prng_u64(&W.prng));
    Cfs__SessionOpen m = CFS__SESSION_OPEN__INIT;
    m.client = (ProtobufCBinaryData){.len = 16, .data = W.client};
    m.host = (char *)(uintptr_t)"host";
    m.machine = (char *)(uintptr_t)"machine";
    m.boot = (char *)(uintptr_t)"boot";
    m.version = (char *)(uintptr_t)"sim";
    m.feature_level = 1;
    m.has_earlier_client = W.had_client;
    m.earlier_client = (ProtobufCBinaryData){.len = 16, .data = W.earlier};
    struct buf b;
    buf_init(&b);
    cfs__session_open__pack(&m, buf_extend(&b, cfs__session_open__get_packed_size(&m)));
    W.opened = false;
    W.had_client = true;
    W.clients++;
    session_open(W.session, buf_bytes(&b), 60000, on_opened, NULL);
    buf_release(&b);
}

static void operation_done(struct command *c)
{
    struct operation *o = container_of(c, struct operation, command);
    if (c->rc != 0) {
        FAIL("a command failed: %s", err_name(c->rc));
    }
    Cfs__OpsReply *r = cfs__ops_reply__unpack(NULL, c->reply.len, c->reply.data);
    if (r == NULL || r->n_result != 1) {
        FAIL("an answer of %zu bytes to one operation", c->reply.len);
    }
    if (r->result[0]->status != 0) {
        FAIL("operation on name %u: %s: done twice, or one before it was lost", o->name,
             err_name(status_to_rc(r->result[0]->status)));
    }
    if (o->name >= NAMES_MAX) {
        W.directory[o->name - NAMES_MAX] = r->result[0]->attr->ino;
        W.n_directories++;
    }
    cfs__ops_reply__free_unpacked(r, NULL);
    session_release_seq(W.session, c->seq);
    buf_release(&c->ops);
    free(o);
    W.flying--;
    W.done++;
}

static void submit(Cfs__Op *op, unsigned name)
{
    struct operation *o = xcalloc(1, sizeof *o);
    Cfs__Ops m = CFS__OPS__INIT;
    m.op = &op;
    m.n_op = 1;
    o->name = name;
    buf_init(&o->command.ops);
    cfs__ops__pack(&m, buf_extend(&o->command.ops, cfs__ops__get_packed_size(&m)));
    o->command.on_done = operation_done;
    W.flying++;
    session_submit(W.session, &o->command);
}

static ProtobufCBinaryData text_of(unsigned name, char buffer[16])
{
    const int n = snprintf(buffer, 16, "n%u", name);
    return (ProtobufCBinaryData){.len = (size_t)n, .data = (uint8_t *)buffer};
}

static void make(uint64_t parent, unsigned name, uint32_t mode)
{
    char buffer[16];
    Cfs__Op op = CFS__OP__INIT;
    Cfs__MakeOp m = CFS__MAKE_OP__INIT;
    Cfs__Who who = CFS__WHO__INIT;
    m.who = &who;
    m.parent = parent;
    m.has_name = true;
    m.name = text_of(name, buffer);
    m.mode = mode;
    op.make = &m;
    submit(&op, name);
}

static void unlink_name(unsigned name)
{
    char buffer[16];
    Cfs__Op op = CFS__OP__INIT;
    Cfs__UnlinkOp m = CFS__UNLINK_OP__INIT;
    m.parent = W.directory[W.names[name].directory];
    m.name = text_of(name, buffer);
    op.unlink = &m;
    W.names[name].there = false;
    submit(&op, name);
}

static void move_name(unsigned name)
{
    char buffer[16];
    const unsigned to = (W.names[name].directory + 1 + below(DIRECTORIES - 1)) % DIRECTORIES;
    Cfs__Op op = CFS__OP__INIT;
    Cfs__RenameOp m = CFS__RENAME_OP__INIT;
    m.parent = W.directory[W.names[name].directory];
    m.name = text_of(name, buffer);
    m.new_parent = W.directory[to];
    m.new_name = m.name;
    m.has_flags = true;
    m.flags = 1; /* NOREPLACE: a second execution would fail either way */
    op.rename = &m;
    W.names[name].directory = to;
    submit(&op, name);
}

static void operate(void)
{
    if (W.n_directories < DIRECTORIES) {
        if (W.flying == 0) {
            make(ROOT, NAMES_MAX + W.n_directories, S_IFDIR | 0755);
        }
        return;
    }
    const unsigned name = W.n_names > 0 ? below(W.n_names) : 0;
    const bool there = W.n_names > 0 && W.names[name].there;
    switch (below(4)) {
    case 0:
        if (there) {
            unlink_name(name);
        }
        break;
    case 1:
        if (there) {
            move_name(name);
        }
        break;
    default:
        if (W.n_names < NAMES_MAX) {
            W.names[W.n_names] = (struct name){.there = true, .directory = below(DIRECTORIES)};
            make(W.directory[W.names[W.n_names].directory], W.n_names, S_IFREG | 0644);
            W.n_names++;
        }
        break;
    }
}

/* ---- the end -------------------------------------------------------------------------------- */

static bool lookup(struct fsm *f, uint64_t session, unsigned directory, unsigned name)
{
    char buffer[16];
    struct buf request;
    struct buf reply;
    Cfs__LookupRequest m = CFS__LOOKUP_REQUEST__INIT;
    m.session = session;
    m.parent = W.directory[directory];
    m.name = text_of(name, buffer);
    buf_init(&request);
    buf_init(&reply);
    cfs__lookup_request__pack(&m, buf_extend(&request, cfs__lookup_request__get_packed_size(&m)));
    const int rc = fsm_read(f, METHOD_LOOKUP, buf_bytes(&request), &reply);
    if (rc != 0 && rc != -ENOENT) {
        FAIL("lookup of name %u: %s", name, err_name(rc));
    }
    buf_release(&request);
    buf_release(&reply);
    return rc == 0;
}

static void on_problem(void *ctx, const char *text)
{
    (void)ctx;
    fprintf(stderr, "audit: %s\n", text);
}

static uint64_t replayed_hash(void)
{
    struct kv *kv = kv_mem_new();
    struct fsm *f = NULL;
    struct fsm_effects e;
    uint64_t hash = 0;
    fsm_effects_init(&e);
    CHECK(fsm_open(kv, &f) == 0);
    for (uint64_t i = 1; i <= W.last; i++) {
        if (W.entries[i].len > 0 && fsm_apply(f, i, W.term[i], buf_bytes(&W.entries[i]), &e) != 0) {
            FAIL("entry %" PRIu64 " cannot be replayed", i);
        }
    }
    CHECK(fsm_hash(f, &hash) == 0);
    fsm_effects_release(&e);
    fsm_free(f);
    kv->ops->close(kv);
    return hash;
}

static void check_state(uint64_t session)
{
    struct fsm *f = NULL;
    uint64_t hash = 0;
    CHECK(fsm_open(W.kv, &f) == 0);
    for (unsigned i = 0; i < W.n_names; i++) {
        for (unsigned k = 0; k < DIRECTORIES; k++) {
            const bool wanted = W.names[i].there && W.names[i].directory == k;
            if (lookup(f, session, k, i) != wanted) {
                FAIL("name %u in directory %u is %s", i, k, wanted ? "lost" : "there");
            }
        }
    }
    const int problems = fsm_audit(f, on_problem, NULL);
    if (problems != 0) {
        FAIL("the audit finds %d contradictions", problems);
    }
    CHECK(fsm_hash(f, &hash) == 0);
    if (hash != replayed_hash()) {
        FAIL("a replay of all entries gives another state");
    }
    fsm_free(f);
}

static void on_shut(void *ctx)
{
    *(unsigned *)ctx += 1;
}

static void world_end(void)
{
    const uint64_t session = session_id(W.session);
    unsigned shut = 0;
    session_free(W.session);
    server_end(false);
    check_state(session);
    W.server_node->ops->shutdown(W.server_node, on_shut, &shut);
    W.client_node->ops->shutdown(W.client_node, on_shut, &shut);
    net_sim_run_until(W.net, W.timers.now_ms + 10000);
    CHECK(shut == 2);
    server_free(W.server);
    net_sim_free(W.net);
    timers_release(&W.timers);
    W.kv->ops->close(W.kv);
    W.disk->ops->close(W.disk);
    buf_release(&W.bootstrap);
    for (uint64_t i = 0; i <= W.last; i++) {
        buf_release(&W.entries[i]);
    }
}

static void world_begin(uint64_t seed)
{
    static uint8_t random[32] = {1, 2, 3};
    log_set_level(LOG_LEVEL_ERROR);
    prng_seed(&W.prng, seed * 0x9e3779b97f4a7c15u + 5);
    timers_init(&W.timers, 1000);
    W.net = net_sim_new(&W.timers, prng_u64(&W.prng));
    W.server_node = net_sim_node(W.net, "meta", NULL);
    W.client_node = net_sim_node(W.net, "client", NULL);
    W.server = server_new(W.server_node);
    W.disk = disk_mem_new(1u << 30);
    W.kv = kv_mem_new();
    Cfs__LogBootstrap m = CFS__LOG_BOOTSTRAP__INIT;
    Cfs__Policy policy = CFS__POLICY__INIT;
    policy.k = 4;
    policy.m = 2;
    policy.inline_limit = 4096;
    m.cluster = (ProtobufCBinaryData){.len = 16, .data = random};
    m.hash_key = (ProtobufCBinaryData){.len = 16, .data = random + 16};
    m.policy = &policy;
    cfs__log_bootstrap__pack(&m, buf_extend(&W.bootstrap, cfs__log_bootstrap__get_packed_size(&m)));
    server_start();
    client_start();
}

static void trouble(bool healing)
{
    if (!W.up && W.timers.now_ms >= W.up_at_ms) {
        server_start();
    } else if (W.up && !healing && below(1500) == 0) {
        server_end(true);
    } else if (!healing && below(700) == 0) {
        net_sim_break(W.net, W.client_node, NULL);
        W.breaks++;
    } else if (W.opened && W.flying == 0 && session_outstanding(W.session) == 0 && !healing &&
               below(400) == 0) {
        session_free(W.session); /* dies; what it had is ended by the next */
        client_start();
    }
}

static void step(bool healing)
{
    W.timers.now_ms++;
    net_sim_run_until(W.net, W.timers.now_ms);
    trouble(healing);
    if (W.opened && !healing && W.flying < FLYING_MAX && below(3) > 0) {
        operate();
    }
}

int main(int argc, char **argv)
{
    const uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    const uint64_t end = 1000 + (argc > 2 ? strtoull(argv[2], NULL, 10) : 7000);
    world_begin(seed);
    while (W.timers.now_ms < end) {
        step(false);
    }
    for (uint64_t until = W.timers.now_ms + 60000; W.flying > 0 || !W.opened || !W.up;) {
        step(true);
        if (W.timers.now_ms > until) {
            FAIL("%u commands are not answered a minute after all healed", W.flying);
        }
    }
    world_end();
    printf("seed %" PRIu64 ": %" PRIu64 " operations, %lu crashes, %lu breaks, %lu clients, %" PRIu64
           " entries\n",
           seed, W.done, W.crashes, W.breaks, W.clients, W.last);
    return 0;
}
