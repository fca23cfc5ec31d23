/* Torture of the Raft driver: meta/replica.c and meta/raft_log.c as they run in production, over
 * simulated disks and links, in virtual time, from one seed.
 *
 *   sim_raft SEED [SERVERS VOTERS MILLISECONDS]
 *
 * Servers crash (what was not synced is lost, torn or kept, by chance), disks fail a write or a sync, links are
 * cut and lose messages but stay FIFO, leadership is transferred, membership changes, snapshots are taken and
 * installed. The state machine is a hash of all commands, kept in a "store" that loses its unsynced tail
 * at a crash, like LevelDB.
 *
 * Checked: no index is applied with two contents anywhere; the hash agrees at every index; nothing that
 * was applied anywhere is lost; after all heals the group goes on and everybody catches up. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/prng.h"
#include "meta/replica.h"
#include "test/lib/disk_mem.h"

enum {
    SERVERS_MAX = 5,
    INDEX_MAX = 200000,
    SEGMENT = 64 << 10,
    CUT_EVERY = 60,
    TRAILING = 12,
    HEAL_MS = 10000
};

enum job_kind { JOB_VOTE, JOB_APPEND, JOB_CUT, JOB_INSTALL };
struct job { /* for a server's log, done in order */
    struct list node;
    enum job_kind kind;
    uint64_t at_ms;
    uint64_t term, vote;
    uint64_t first;
    struct replica_entry **entries;
    unsigned n;
    struct raft_log_state state;
    uint64_t hash;
};

struct state { /* of the state machine: what is seen, and what a crash leaves */
    uint64_t applied, hash;
};

struct server {
    unsigned id;
    bool up;
    struct disk *disk;
    struct raft_log *log;
    struct replica *replica;
    struct list jobs;
    uint64_t last_job_ms;
    struct state now, synced;
    uint64_t snapshot_index, snapshot_hash; /* of the snapshot that can be sent */
    struct raft_log_state installed;        /* synced with the store: what it was loaded from */
    bool failing;                           /* its disk has failed: crash it soon */
};

struct message {
    struct list node;
    uint64_t at_ms;
    unsigned from, to;
    struct buf bytes;
};

static struct world {
    struct prng prng;
    uint64_t now_ms;
    unsigned n, voters;
    struct server server[SERVERS_MAX + 1];
    struct list links[SERVERS_MAX + 1][SERVERS_MAX + 1];
    bool cut[SERVERS_MAX + 1][SERVERS_MAX + 1];
    unsigned drop_per_1000;
    bool healed;
    uint64_t term_at[INDEX_MAX], value_at[INDEX_MAX], hash_at[INDEX_MAX];
    uint64_t committed, next_value;
    unsigned long crashes, leaders, installs, changes, cuts, disk_faults, transfers;
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

static char *address_of(unsigned id)
{
    static char names[SERVERS_MAX + 1][12];
    (void)snprintf(names[id], sizeof names[id], "%u", id);
    return names[id];
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
    return h * 0xff51afd7ed558ccdu;
}

/* ---- outputs of the driver ------------------------------------------------------------------ */

static struct job *job_add(struct server *s, enum job_kind kind)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->kind = kind;
    j->at_ms = W.now_ms + below(below(10) == 0 ? 60 : 6);
    if (j->at_ms < s->last_job_ms) {
        j->at_ms = s->last_job_ms;
    }
    s->last_job_ms = j->at_ms;
    raft_log_state_init(&j->state);
    list_add_tail(&s->jobs, &j->node);
    return j;
}

static void job_free(struct job *j)
{
    for (unsigned i = 0; i < j->n; i++) {
        replica_entry_unref(j->entries[i]);
    }
    free(j->entries);
    raft_log_state_release(&j->state);
    free(j);
}

static void copy_state(struct raft_log_state *to, const struct raft_log_state *from)
{
    *to = *from;
    buf_init(&to->configuration);
    buf_add(&to->configuration, from->configuration.data, from->configuration.len);
}

static void on_vote(void *ctx, uint64_t term, uint64_t vote)
{
    struct job *j = job_add(ctx, JOB_VOTE);
    j->term = term;
    j->vote = vote;
}

static void on_append(void *ctx, uint64_t first, struct replica_entry *const *entries, unsigned n)
{
    struct job *j = job_add(ctx, JOB_APPEND);
    j->first = first;
    j->n = n;
    j->entries = xmalloc(n * sizeof j->entries[0]);
    for (unsigned i = 0; i < n; i++) {
        j->entries[i] = replica_entry_ref(entries[i]);
    }
}

static void on_send(void *ctx, uint64_t to, const char *address, struct bytes message)
{
    const struct server *s = ctx;
    (void)address;
    if (W.cut[s->id][to] || below(1000) < W.drop_per_1000) {
        return;
    }
    struct message *m = xcalloc(1, sizeof *m);
    struct list *link = &W.links[s->id][to];
    m->from = s->id;
    m->to = (unsigned)to;
    m->at_ms = W.now_ms + 1 + below(below(20) == 0 ? 200 : 8);
    if (!list_empty(link)) {
        const struct message *before = list_entry(link->prev, struct message, node);
        m->at_ms = m->at_ms < before->at_ms ? before->at_ms : m->at_ms;
    }
    buf_add(&m->bytes, message.data, message.len);
    list_add_tail(link, &m->node);
}

static void check_applied(const struct server *s, uint64_t index, uint64_t term, uint64_t value)
{
    if (index >= INDEX_MAX) {
        FAIL("log too long");
    }
    if (W.term_at[index] == 0) {
        if (index != W.committed + 1) {
            FAIL("server %u applies %" PRIu64 " but only %" PRIu64 " are known", s->id, index,
                 W.committed);
        }
        W.committed = index;
        W.term_at[index] = term;
        W.value_at[index] = value;
        W.hash_at[index] = s->now.hash;
    } else if (W.term_at[index] != term || W.value_at[index] != value) {
        FAIL("server %u index %" PRIu64 " has two contents", s->id, index);
    } else if (W.hash_at[index] != s->now.hash) {
        FAIL("server %u hash differs at %" PRIu64, s->id, index);
    }
}

static void on_apply(void *ctx, uint64_t index, struct replica_entry *e)
{
    struct server *s = ctx;
    uint64_t value = e->type;
    if (e->type == RAFT_LOG_COMMAND) {
        CHECK(e->len >= 8);
        value = get_le64(e->data);
    }
    W.changes += e->type == RAFT_LOG_CHANGE;
    CHECK(index == s->now.applied + 1);
    s->now.applied = index;
    s->now.hash = mix(s->now.hash, value);
    check_applied(s, index, e->term, value);
}

static void on_role(void *ctx, enum replica_role role, uint64_t term)
{
    (void)ctx;
    (void)term;
    W.leaders += role == REPLICA_LEADER;
}

static void on_cut(void *ctx, const struct raft_log_state *state, uint64_t first_kept)
{
    struct job *j = job_add(ctx, JOB_CUT);
    copy_state(&j->state, state);
    j->first = first_kept;
}

static int on_snapshot(void *ctx, uint64_t index, struct buf *out)
{
    const struct server *s = ctx;
    if (index != s->snapshot_index) {
        return ERR_NOT_FOUND;
    }
    buf_le64(out, s->snapshot_hash);
    return 0;
}

static void on_install(void *ctx, const struct raft_log_state *state, struct bytes data)
{
    struct job *j = job_add(ctx, JOB_INSTALL);
    copy_state(&j->state, state);
    CHECK(data.len == 8);
    j->hash = get_le64(data.data);
}

static const struct replica_outputs outputs = {
    .vote = on_vote,
    .append = on_append,
    .send = on_send,
    .apply = on_apply,
    .role = on_role,
    .cut = on_cut,
    .snapshot = on_snapshot,
    .install = on_install,
};

/* ---- servers -------------------------------------------------------------------------------- */

static void load_visit(void *ctx, uint64_t index, const struct raft_log_entry *e)
{
    const struct server *s = ctx;
    replica_load(s->replica, index, e);
}

static int server_open(struct server *s, struct raft_log_state *state)
{
    const struct replica_options ro = {
        .id = s->id,
        .address = address_of(s->id),
        .election_ms = 300,
        .heartbeat_ms = 50,
        .random = (uint32_t)prng_u64(&W.prng),
        .trailing = TRAILING,
        .outputs = &outputs,
        .ctx = s,
    };
    s->replica = replica_new(&ro);
    const struct raft_log_options lo = {
        .directory = "raft", .segment_bytes = SEGMENT, .random = prng_u64(&W.prng)};
    return raft_log_open(s->disk, &lo, load_visit, s, state, &s->log);
}

static void server_start(struct server *s)
{
    struct raft_log_state state;
    s->now = s->synced;
    s->failing = false;
    const int rc = server_open(s, &state);
    if (rc != 0) {
        FAIL("server %u cannot open its log: %s", s->id, err_name(rc));
    }
    if (s->installed.snapshot_index > state.snapshot_index) {
        /* Died between the load of the store and the reset of the log: the store comes first. */
        s->installed.term = state.term;
        if (raft_log_reset(s->log, &s->installed) != 0) {
            FAIL("server %u cannot finish a reset", s->id);
        }
        s->installed.vote = state.vote;
        raft_log_state_release(&state);
        copy_state(&state, &s->installed);
        replica_load(s->replica, state.snapshot_index + 1, NULL);
    }
    s->snapshot_index = state.snapshot_index;
    s->snapshot_hash = state.snapshot_index > 0 ? W.hash_at[state.snapshot_index] : 0;
    s->last_job_ms = W.now_ms;
    const int started = replica_start(s->replica, &state, s->now.applied, W.now_ms);
    if (started != 0) {
        FAIL("server %u cannot start: %s (applied %" PRIu64 ", log %" PRIu64 " to %" PRIu64
             ", snapshot %" PRIu64 ")",
             s->id, err_name(started), s->now.applied, raft_log_first(s->log), raft_log_last(s->log),
             state.snapshot_index);
    }
    raft_log_state_release(&state);
    s->up = true;
}

static void server_stop(struct server *s)
{
    struct job *j;
    while ((j = list_first(&s->jobs, struct job, node)) != NULL) {
        list_remove(&j->node);
        job_free(j);
    }
    replica_free(s->replica);
    raft_log_close(s->log);
    s->replica = NULL;
    s->log = NULL;
    s->up = false;
}

static void link_clear(unsigned a, unsigned b)
{
    struct message *m;
    while ((m = list_first(&W.links[a][b], struct message, node)) != NULL) {
        list_remove(&m->node);
        buf_release(&m->bytes);
        free(m);
    }
}

static void server_crash(struct server *s)
{
    if (!s->up) {
        return;
    }
    server_stop(s);
    disk_mem_crash(s->disk, prng_u64(&W.prng), below(3) == 0 ? 100 : below(101));
    for (unsigned i = 1; i <= W.n; i++) { /* its connections are gone, both ways */
        link_clear(s->id, i);
        link_clear(i, s->id);
    }
    W.crashes++;
}

static void server_bootstrap(struct server *s)
{
    const char *addresses[SERVERS_MAX];
    struct buf configuration;
    struct raft_log_state state;
    buf_init(&configuration);
    for (unsigned i = 0; i < W.voters; i++) {
        addresses[i] = address_of(i + 1);
    }
    replica_configuration(addresses, W.voters, &configuration);
    CHECK(server_open(s, &state) == 0);
    const struct raft_log_entry e = {.term = 1, .type = RAFT_LOG_CHANGE, .data = buf_bytes(&configuration)};
    CHECK(raft_log_vote(s->log, 1, 0) == 0);
    CHECK(raft_log_append(s->log, 1, &e, 1) == 0);
    raft_log_state_release(&state);
    buf_release(&configuration);
    server_stop(s);
}

/* ---- what happens --------------------------------------------------------------------------- */

static int job_append(struct server *s, const struct job *j)
{
    struct raft_log_entry *e = xmalloc(j->n * sizeof e[0]);
    for (unsigned i = 0; i < j->n; i++) {
        const struct replica_entry *from = j->entries[i];
        e[i] = (struct raft_log_entry){
            .term = from->term, .type = from->type, .data = BYTES(from->data, from->len)};
    }
    const int rc = raft_log_append(s->log, j->first, e, j->n);
    free(e);
    return rc;
}

static void job_install(struct server *s, const struct job *j)
{
    const uint64_t index = j->state.snapshot_index;
    if (j->hash != W.hash_at[index]) {
        FAIL("server %u installs a wrong snapshot of %" PRIu64, s->id, index);
    }
    s->now = (struct state){.applied = index, .hash = j->hash};
    s->synced = s->now;
    s->snapshot_index = index;
    s->snapshot_hash = j->hash;
    raft_log_state_release(&s->installed);
    copy_state(&s->installed, &j->state);
    W.installs++;
}

static void job_run(struct server *s, struct job *j)
{
    int rc = 0;
    switch (j->kind) {
    case JOB_VOTE:
        rc = raft_log_vote(s->log, j->term, j->vote);
        if (rc == 0) {
            replica_voted(s->replica, W.now_ms);
        }
        break;
    case JOB_APPEND:
        rc = job_append(s, j);
        if (rc == 0) {
            replica_stored(s->replica, j->first + j->n - 1, j->entries[j->n - 1]->term, W.now_ms);
        }
        break;
    case JOB_CUT:
        rc = raft_log_cut(s->log, &j->state, j->first);
        break;
    case JOB_INSTALL:
        job_install(s, j);
        rc = raft_log_reset(s->log, &j->state);
        if (rc == 0) {
            replica_installed(s->replica, 0, W.now_ms);
        }
        break;
    }
    s->failing = s->failing || rc != 0;
}

static void server_cut(struct server *s)
{
    if (s->now.applied < s->snapshot_index + CUT_EVERY) {
        return;
    }
    s->synced = s->now; /* the store is synced first */
    const uint64_t index = s->now.applied;
    const uint64_t before = s->snapshot_index;
    const uint64_t hash_before = s->snapshot_hash;
    s->snapshot_index = index; /* the driver may ask for it at once */
    s->snapshot_hash = s->now.hash;
    if (replica_snapshot(s->replica, index, W.now_ms)) {
        W.cuts++;
    } else {
        s->snapshot_index = before;
        s->snapshot_hash = hash_before;
    }
}

static void deliver(struct message *m)
{
    struct server *s = &W.server[m->to];
    if (s->up && !W.cut[m->from][m->to]) {
        const int rc = replica_receive(s->replica, m->from, address_of(m->from), buf_bytes(&m->bytes),
                                       W.now_ms);
        if (rc == ERR_MALFORMED || rc == ERR_VERSION) {
            FAIL("a message does not decode");
        }
    }
    buf_release(&m->bytes);
    free(m);
}

static void submit_some(struct server *s)
{
    struct replica_entry *entries[4];
    const unsigned n = 1 + below(4);
    for (unsigned i = 0; i < n; i++) {
        uint8_t bytes[600] = {0};
        put_le64(bytes, ++W.next_value);
        entries[i] = replica_entry_new(RAFT_LOG_COMMAND, BYTES(bytes, 8 + below(590)));
    }
    uint64_t first = 0;
    const int rc = replica_submit(s->replica, entries, n, W.now_ms, &first);
    if (rc != 0 && rc != ERR_BUSY && rc != ERR_NOT_LEADER) {
        FAIL("submit: %s", err_name(rc));
    }
}

static void change_something(struct server *s)
{
    const unsigned id = 1 + below(W.n);
    const int rc = replica_change(s->replica, id, address_of(id), (int)below(3), W.now_ms);
    if (rc != 0 && rc != ERR_BUSY && rc != ERR_NOT_LEADER && rc != -EINVAL) {
        FAIL("change: %s", err_name(rc));
    }
}

static void cut_links(void)
{
    const unsigned a = 1 + below(W.n);
    for (unsigned i = 1; i <= W.n; i++) {
        const bool out = below(3) != 0;
        const bool in = below(3) != 0;
        W.cut[a][i] = W.cut[a][i] || out;
        W.cut[i][a] = W.cut[i][a] || in;
        if (out) {
            link_clear(a, i);
        }
        if (in) {
            link_clear(i, a);
        }
    }
}

static void start_some(bool all)
{
    for (unsigned i = 1; i <= W.n; i++) {
        if (!W.server[i].up && (all || below(2) == 0)) {
            server_start(&W.server[i]);
        }
    }
}

static void disk_trouble(struct server *s)
{
    if (!s->up) {
        return;
    }
    const struct disk_mem_fault f = {
        .at = (int)below(8), .sticky = below(2) == 0, .torn = below(2) == 0};
    disk_mem_fault(s->disk, f);
    W.disk_faults++;
}

static void leader_trouble(void)
{
    for (unsigned i = 1; i <= W.n; i++) {
        struct server *s = &W.server[i];
        if (s->up && replica_role(s->replica) == REPLICA_LEADER) {
            if (below(2) == 0) {
                server_crash(s);
            } else if (replica_transfer(s->replica, 1 + below(W.n), W.now_ms) == 0) {
                W.transfers++;
            }
        }
    }
}

static void fault(void)
{
    switch (below(8)) {
    case 0:
    case 1:
        server_crash(&W.server[1 + below(W.n)]);
        break;
    case 2:
    case 3:
        start_some(false);
        break;
    case 4:
        cut_links();
        break;
    case 5:
        memset(W.cut, 0, sizeof W.cut);
        break;
    case 6:
        leader_trouble();
        break;
    default:
        disk_trouble(&W.server[1 + below(W.n)]);
        break;
    }
}

static void heal(void)
{
    W.healed = true;
    W.drop_per_1000 = 0;
    memset(W.cut, 0, sizeof W.cut);
    for (unsigned i = 1; i <= W.n; i++) {
        struct server *s = &W.server[i];
        disk_mem_fault(s->disk, (struct disk_mem_fault){.at = -1});
        if (s->failing) {
            server_crash(s);
        }
    }
    start_some(true);
}

static void run_server(struct server *s)
{
    struct job *j;
    while (s->up && !s->failing && (j = list_first(&s->jobs, struct job, node)) != NULL &&
           j->at_ms <= W.now_ms) {
        list_remove(&j->node);
        job_run(s, j);
        job_free(j);
    }
    if (s->up && s->failing) {
        server_crash(s);
    }
    if (s->up) {
        replica_tick(s->replica, W.now_ms);
        server_cut(s);
    }
}

static void run_links(void)
{
    for (unsigned a = 1; a <= W.n; a++) {
        for (unsigned b = 1; b <= W.n; b++) {
            struct message *m;
            while ((m = list_first(&W.links[a][b], struct message, node)) != NULL &&
                   m->at_ms <= W.now_ms) {
                list_remove(&m->node);
                deliver(m);
            }
        }
    }
}

static void run_load(uint64_t *next_ms)
{
    if (W.now_ms < *next_ms) {
        return;
    }
    *next_ms = W.now_ms + 1 + below(6);
    for (unsigned i = 1; i <= W.n; i++) {
        struct server *s = &W.server[i];
        if (s->up && replica_role(s->replica) == REPLICA_LEADER) {
            submit_some(s);
            if (W.voters < W.n && below(60) == 0 && !W.healed) {
                change_something(s);
            }
        }
    }
}

static void world_begin(uint64_t seed)
{
    prng_seed(&W.prng, seed * 0x9e3779b97f4a7c15u + 1);
    W.now_ms = 1000;
    W.drop_per_1000 = below(60);
    for (unsigned i = 1; i <= W.n; i++) {
        for (unsigned k = 1; k <= W.n; k++) {
            list_init(&W.links[i][k]);
        }
    }
    for (unsigned i = 1; i <= W.n; i++) {
        struct server *s = &W.server[i];
        s->id = i;
        s->disk = disk_mem_new(1u << 30);
        list_init(&s->jobs);
        if (i <= W.voters) {
            server_bootstrap(s);
        }
    }
    start_some(true);
}

static void world_end(uint64_t progress_ms)
{
    if (W.now_ms - progress_ms > 3000) {
        for (unsigned i = 1; i <= W.n; i++) {
            const struct replica *r = W.server[i].replica;
            fprintf(stderr, "server %u role %d term %" PRIu64 " applied %" PRIu64 " last %" PRIu64 "\n", i,
                    (int)replica_role(r), replica_term(r), W.server[i].now.applied,
                    replica_last_index(r));
        }
        FAIL("no progress after everything healed: last at %" PRIu64 " of %" PRIu64, progress_ms,
             W.now_ms);
    }
    for (unsigned i = 1; i <= W.n; i++) {
        if (W.voters == W.n && W.server[i].now.applied + 3000 < W.committed) {
            FAIL("server %u did not catch up: %" PRIu64 " of %" PRIu64, i, W.server[i].now.applied,
                 W.committed);
        }
        server_stop(&W.server[i]);
        raft_log_state_release(&W.server[i].installed);
        W.server[i].disk->ops->close(W.server[i].disk);
        for (unsigned k = 1; k <= W.n; k++) {
            link_clear(i, k);
        }
    }
}

static unsigned long argument(int argc, char **argv, int i, unsigned long otherwise)
{
    return argc > i ? strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    const uint64_t seed = argument(argc, argv, 1, 1);
    W.n = (unsigned)argument(argc, argv, 2, seed % 3 == 0 ? 3 : 5);
    W.voters = (unsigned)argument(argc, argv, 3, seed % 2 == 0 ? W.n : 3);
    const uint64_t end = 1000 + argument(argc, argv, 4, 40000);
    CHECK(W.n >= 1 && W.n <= SERVERS_MAX && W.voters >= 1 && W.voters <= W.n);
    world_begin(seed);
    uint64_t next_load = 1000;
    uint64_t next_fault = 2000;
    uint64_t progress = 1000;
    while (W.now_ms < end) {
        const uint64_t before = W.committed;
        run_links();
        for (unsigned i = 1; i <= W.n; i++) {
            run_server(&W.server[i]);
        }
        run_load(&next_load);
        if (!W.healed && W.now_ms >= next_fault) {
            next_fault = W.now_ms + 100 + below(1500);
            fault();
        }
        if (!W.healed && W.now_ms >= end - HEAL_MS) {
            heal();
        }
        progress = W.committed > before ? W.now_ms : progress;
        W.now_ms++;
    }
    world_end(progress);
    printf("seed %" PRIu64 " servers %u voters %u: %" PRIu64 " committed, %lu leaders, %lu crashes, %lu "
           "installs, %lu cuts, %lu changes applied, %lu transfers, %lu disk faults\n",
           seed, W.n, W.voters, W.committed, W.leaders, W.crashes, W.installs, W.cuts, W.changes,
           W.transfers, W.disk_faults);
    return 0;
}
