/* What happens to a proposal:
 *
 *   machine_propose    validated; waits while there is no reign yet or too many are under way
 *   submit             gets its time and reign; into the replica, which asks for an append
 *   log worker         one write and sync for every append that has come meanwhile
 *   replica_stored     commits; the replica hands the entry to on_apply
 *   store worker       fsm_apply: one unsynced batch
 *   apply_done         events, then the proposal's callback
 *
 * The log is cut behind a synced store: every 32 MiB of entries, every 128 MiB of log file, or when idle, the
 * store worker syncs, and the index that it had applied becomes the snapshot's. Entries of the log are kept in
 * memory until then (at most what was appended since, plus the trailing ones). */
#include "meta/machine.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "log.pb-c.h"
#include "meta/room.h"

enum {
    OUTSTANDING_MAX = 2048, /* entries proposed and not yet applied */
    APPEND_BYTES_MAX = 4 << 20, /* of one write of the log */
    APPEND_ENTRIES_MAX = 4096,
    CUT_MEMORY_BYTES = 32 << 20,
    CUT_FILE_BYTES = 128 << 20,
    CUT_IDLE_MS = 5000,
    HOUSEKEEPING_MS = 1000,
    FULL_RETRY_MS = 100
};

enum log_job_kind { LOG_VOTE, LOG_APPEND, LOG_CUT, LOG_SPACE };
struct log_job {
    struct work work;
    struct machine *machine;
    enum log_job_kind kind;
    uint64_t term, vote;
    uint64_t first;
    struct replica_entry **entries;
    unsigned n;
    struct raft_log_state state;
    struct disk_space space;
    uint64_t log_bytes;
    int rc;
};

struct apply_job {
    struct work work;
    struct machine *machine;
    uint64_t index;
    struct replica_entry *entry;
    struct fsm_effects effects;
    int rc;
    struct list node; /* in spare_applies */
};

struct sync_job {
    struct work work;
    struct machine *machine;
    uint64_t applied;
    struct kv_stats stats;
    bool sync;
    int rc;
};

struct machine {
    struct machine_options options;
    struct replica *replica;
    struct raft_log *log; /* the log worker's once started */
    struct fsm *fsm;      /* the store worker's once started */
    struct worker *log_worker, *store_worker;
    struct raft_log_state boot; /* what was found, until machine_start */
    bool stopping;
    atomic_bool log_full; /* written by the log worker while it waits for room */
    atomic_bool closing;  /* tells it to wait no longer */
    struct room room;     /* looked at by the log worker */
    struct list stalled;  /* the store worker's: entries that wait for room to be applied */

    struct list waiting;  /* proposals not submitted yet */
    struct list pending;  /* submitted, in order of index */
    struct list refused;  /* to be answered from the loop */
    struct list late_reads; /* asked for while stopping: cancelled at the end */
    struct list spare_applies;
    unsigned outstanding;
    uint64_t last_time_ns;
    bool leader, ready;
    uint64_t lead_index, reign, applied;
    struct proposal bootstrap;
    struct machine_read cluster_query;
    struct buf lead_body;

    struct timer tick, housekeeping, refusals;
    struct sync_job sync;
    bool syncing;
    struct log_job space_job;
    bool space_asked, space_known;
    struct disk_space space;
    uint64_t snapshot_index, snapshot_memory, snapshot_file;
    uint64_t log_bytes, appended_bytes, last_append_ms;
    struct kv_stats stats;
    uint64_t commits, syncs;
};

static void submit_waiting(struct machine *m);

static uint64_t now_ms(const struct machine *m)
{
    return timers_now(m->options.timers);
}

static void fatal(struct machine *m, const char *what, int rc)
{
    if (!m->stopping) {
        m->stopping = true;
        m->options.events->on_fatal(m->options.ctx, what, rc);
    }
}

static void arm_tick(struct machine *m)
{
    timers_arm(m->options.timers, &m->tick, replica_deadline(m->replica));
}

/* ---- the log worker ------------------------------------------------------------------------- */

static void vote_done(struct work *w)
{
    struct log_job *j = container_of(w, struct log_job, work);
    struct machine *m = j->machine;
    if (j->rc != 0) {
        fatal(m, "term and vote cannot be made durable", j->rc);
    } else if (!m->stopping) {
        replica_voted(m->replica, now_ms(m));
        arm_tick(m);
    }
    free(j);
}

static void append_done(struct work *w)
{
    struct log_job *j = container_of(w, struct log_job, work);
    struct machine *m = j->machine;
    m->log_bytes = j->log_bytes;
    if (j->rc != 0) {
        fatal(m, "the log cannot be written", j->rc);
    } else if (!m->stopping) {
        replica_stored(m->replica, j->first + j->n - 1, j->entries[j->n - 1]->term, now_ms(m));
        arm_tick(m);
    }
    for (unsigned i = 0; i < j->n; i++) {
        replica_entry_unref(j->entries[i]);
    }
    free(j->entries);
    free(j);
}

static void cut_done(struct work *w)
{
    struct log_job *j = container_of(w, struct log_job, work);
    struct machine *m = j->machine;
    m->log_bytes = j->log_bytes;
    m->snapshot_file = j->log_bytes;
    if (j->rc != 0) {
        fatal(m, "the log cannot be cut", j->rc);
    }
    raft_log_state_release(&j->state);
    free(j);
}

static void space_done(struct work *w)
{
    struct log_job *j = container_of(w, struct log_job, work);
    struct machine *m = j->machine;
    m->space_asked = false;
    m->space_known = j->rc == 0;
    if (j->rc == 0) {
        m->space = j->space;
        m->appended_bytes = 0;
    }
    m->log_bytes = j->log_bytes;
}

static struct log_job *log_job_new(struct machine *m, enum log_job_kind kind,
                                   void (*on_done)(struct work *w))
{
    struct log_job *j = xcalloc(1, sizeof *j);
    j->machine = m;
    j->kind = kind;
    j->work.on_done = on_done;
    return j;
}

static size_t job_bytes(const struct log_job *j)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < j->n; i++) {
        bytes += j->entries[i]->len;
    }
    return bytes;
}

/* How many jobs from this one on go into one write. */
static unsigned append_group(const struct list *works, const struct log_job *j, unsigned *entries)
{
    unsigned jobs = 1;
    size_t bytes = job_bytes(j);
    *entries = j->n;
    for (const struct list *node = j->work.letter.node.next; node != works; node = node->next) {
        const struct log_job *next = container_of(node, struct log_job, work.letter.node);
        if (next->kind != LOG_APPEND || next->first != j->first + *entries) {
            break;
        }
        bytes += job_bytes(next);
        if (bytes > APPEND_BYTES_MAX || *entries + next->n > APPEND_ENTRIES_MAX) {
            break;
        }
        *entries += next->n;
        jobs++;
    }
    return jobs;
}

/* A full disk is waited for: the entries are proposed and cannot be taken back, and below the
 * reserve nothing new is proposed but what frees. */
static int append_patiently(struct machine *m, uint64_t first, const struct raft_log_entry *e, unsigned n)
{
    for (;;) {
        const int rc = raft_log_append(m->log, first, e, n);
        atomic_store(&m->log_full, rc == -ENOSPC);
        if (rc != -ENOSPC || atomic_load(&m->closing)) {
            return rc;
        }
        const struct timespec pause = {.tv_nsec = FULL_RETRY_MS * 1000000L};
        (void)nanosleep(&pause, NULL); /* woken early, it tries early */
    }
}

static void run_append(struct machine *m, struct worker *w, struct list *works, struct log_job *j)
{
    unsigned n = 0;
    const unsigned jobs = append_group(works, j, &n);
    struct raft_log_entry *e = xmalloc(n * sizeof e[0]);
    const uint64_t first = j->first;
    unsigned at = 0;
    const struct list *node = &j->work.letter.node;
    for (unsigned i = 0; i < jobs; i++, node = node->next) {
        const struct log_job *one = container_of(node, struct log_job, work.letter.node);
        for (unsigned k = 0; k < one->n; k++) {
            const struct replica_entry *from = one->entries[k];
            e[at++] = (struct raft_log_entry){
                .term = from->term, .type = from->type, .data = BYTES(from->data, from->len)};
        }
    }
    const int rc = append_patiently(m, first, e, n);
    const uint64_t bytes = raft_log_bytes(m->log);
    for (unsigned i = 0; i < jobs; i++) {
        struct log_job *one = list_first(works, struct log_job, work.letter.node);
        list_remove(&one->work.letter.node);
        one->rc = rc;
        one->log_bytes = bytes;
        worker_finish(w, &one->work);
    }
    free(e);
}

static void run_other(struct machine *m, struct log_job *j)
{
    switch (j->kind) {
    case LOG_VOTE:
        j->rc = raft_log_vote(m->log, j->term, j->vote);
        break;
    case LOG_CUT:
        j->rc = raft_log_cut(m->log, &j->state, j->first);
        break;
    default:
        j->rc = m->options.disk->ops->space(m->options.disk, &j->space);
        if (j->rc == 0 && room_look(&m->room, j->space.free_bytes)) {
            j->rc = m->options.disk->ops->space(m->options.disk, &j->space);
        }
        break;
    }
    j->log_bytes = raft_log_bytes(m->log);
}

void machine_run_log(void *machine, struct worker *w, struct list *works)
{
    struct machine *m = machine;
    bool appended = false;
    struct log_job *j;
    while ((j = list_first(works, struct log_job, work.letter.node)) != NULL) {
        if (j->kind == LOG_APPEND) {
            run_append(m, w, works, j);
            appended = true;
        } else {
            list_remove(&j->work.letter.node);
            run_other(m, j);
            worker_finish(w, &j->work);
        }
    }
    if (appended) {
        (void)raft_log_prepare(m->log); /* an append that needs it reports what is wrong */
    }
}

/* ---- the store worker ----------------------------------------------------------------------- */

static bool log_done(struct machine *m, const struct apply_job *j)
{
    return j->entry->type != RAFT_LOG_COMMAND || j->index <= fsm_applied(m->fsm);
}

static void run_apply(struct machine *m, struct apply_job *j)
{
    if (log_done(m, j)) {
        return; /* a barrier or a change of membership; or the store had it before the restart */
    }
    j->rc = fsm_apply(m->fsm, j->index, j->entry->term, BYTES(j->entry->data, j->entry->len),
                      &j->effects);
}

static void run_read(struct machine *m, struct machine_read *r)
{
    r->rc = (r->query ? fsm_query : fsm_read)(m->fsm, r->method, r->request, &r->reply);
}

static void apply_done(struct work *w);
static void read_done(struct work *w);

static void run_sync(struct machine *m, struct sync_job *s)
{
    struct kv *kv = m->options.kv;
    s->sync = s->sync && list_empty(&m->stalled); /* that is a write too */
    s->rc = s->sync ? kv->ops->sync(kv) : 0;
    s->applied = fsm_applied(m->fsm);
    kv->ops->stats(kv, &s->stats);
}

void machine_run_store(void *machine, struct worker *w, struct list *works)
{
    struct machine *m = machine;
    struct list all; /* what waited, then what has come; housekeeping comes each second */
    list_take_all(&m->stalled, &all);
    list_for_each_safe(node, follow, works) {
        list_remove(node);
        list_add_tail(&all, node);
    }
    list_for_each_safe(node, follow, &all) {
        struct work *x = list_entry(node, struct work, letter.node);
        list_remove(node);
        if (x->on_done == apply_done && (!list_empty(&m->stalled) || !room_for_state(&m->room))) {
            list_add_tail(&m->stalled, node); /* reads go on */
            continue;
        }
        if (x->on_done == apply_done) {
            run_apply(m, container_of(x, struct apply_job, work));
        } else if (x->on_done == read_done) {
            run_read(m, container_of(x, struct machine_read, work));
        } else {
            run_sync(m, container_of(x, struct sync_job, work));
        }
        worker_finish(w, x);
    }
}

/* ---- applying ------------------------------------------------------------------------------- */

static void answer(struct machine *m, struct proposal *p, int rc, uint64_t index, struct fsm_effects *e)
{
    (void)m;
    if (p->entry != NULL) {
        replica_entry_unref(p->entry);
        p->entry = NULL;
    }
    p->rc = rc;
    p->index = index;
    p->effects = e;
    p->on_done(p);
}

static void reign_begin(struct machine *m)
{
    m->ready = true;
    submit_waiting(m);
    m->options.events->on_role(m->options.ctx, true);
}

static void bootstrap_done(struct proposal *p)
{
    struct machine *m = container_of(p, struct machine, bootstrap);
    if (p->rc != 0 && p->rc != -EEXIST) {
        fatal(m, "a new cluster cannot be made", p->rc);
    } else if (m->leader) {
        reign_begin(m);
    }
}

static void cluster_known(struct machine_read *r)
{
    struct machine *m = r->machine;
    Cfs__FsmCounters *c = r->rc == 0 ? cfs__fsm_counters__unpack(NULL, r->reply.len, r->reply.data) : NULL;
    const bool there = c != NULL && c->cluster.len > 0;
    const bool failed = c == NULL;
    cfs__fsm_counters__free_unpacked(c, NULL);
    buf_clear(&r->reply);
    if (m->stopping) {
        return;
    }
    if (failed) {
        fatal(m, "the state cannot be read", r->rc);
    } else if (there) {
        if (m->leader) {
            reign_begin(m);
        }
    } else if (m->options.bootstrap.len == 0) {
        fatal(m, "there is no cluster in this directory: start it with --bootstrap", ERR_NOT_FOUND);
    } else {
        m->bootstrap = (struct proposal){
            .type = ENTRY_BOOTSTRAP, .body = m->options.bootstrap, .on_done = bootstrap_done};
        m->ready = true; /* for this one; others wait until on_role */
        machine_propose(m, &m->bootstrap);
    }
}

/* Our own `lead` is applied: from now on there is a reign to propose under. */
static void lead_applied(struct machine *m, uint64_t index)
{
    m->reign = index;
    m->cluster_query = (struct machine_read){
        .method = FSM_QUERY_COUNTERS, .query = true, .on_done = cluster_known,
        .reply = m->cluster_query.reply};
    machine_read(m, &m->cluster_query);
}

static void apply_done(struct work *w)
{
    struct apply_job *j = container_of(w, struct apply_job, work);
    struct machine *m = j->machine;
    const uint64_t index = j->index;
    struct proposal *p = list_first(&m->pending, struct proposal, node);
    const bool ours = p != NULL && p->index == index;
    if (ours) {
        list_remove(&p->node);
        m->outstanding--;
    }
    m->applied = index;
    m->commits++;
    if (j->rc != 0) {
        fatal(m, "an entry cannot be applied", j->rc);
    } else if (!m->stopping) {
        if (j->entry->type == RAFT_LOG_COMMAND) {
            m->options.events->on_applied(m->options.ctx, &j->effects);
        }
        if (m->leader && index == m->lead_index) {
            lead_applied(m, index);
        }
    }
    if (ours) {
        answer(m, p, m->stopping ? ERR_CANCELLED : j->effects.rc, index, &j->effects);
    }
    replica_entry_unref(j->entry);
    list_add_head(&m->spare_applies, &j->node);
    submit_waiting(m);
}

static void on_apply(void *ctx, uint64_t index, struct replica_entry *e)
{
    struct machine *m = ctx;
    if (m->options.observe != NULL && e->type == RAFT_LOG_COMMAND) {
        m->options.observe(m->options.observe_ctx, index, e->term, BYTES(e->data, e->len));
    }
    struct apply_job *j = list_first(&m->spare_applies, struct apply_job, node);
    if (j != NULL) {
        list_remove(&j->node);
    } else {
        j = xcalloc(1, sizeof *j);
        j->machine = m;
        j->work.on_done = apply_done;
        list_init(&j->node);
        fsm_effects_init(&j->effects);
    }
    j->index = index;
    j->rc = 0;
    j->effects.rc = 0;
    buf_clear(&j->effects.reply);
    buf_clear(&j->effects.granted);
    buf_clear(&j->effects.ended);
    j->effects.tables_changed = false;
    j->entry = replica_entry_ref(e);
    worker_post(m->store_worker, &j->work);
}

/* ---- the replica's other outputs ------------------------------------------------------------ */

static void on_vote(void *ctx, uint64_t term, uint64_t vote)
{
    struct machine *m = ctx;
    struct log_job *j = log_job_new(m, LOG_VOTE, vote_done);
    j->term = term;
    j->vote = vote;
    worker_post(m->log_worker, &j->work);
}

static void on_append(void *ctx, uint64_t first, struct replica_entry *const *entries, unsigned n)
{
    struct machine *m = ctx;
    struct log_job *j = log_job_new(m, LOG_APPEND, append_done);
    j->first = first;
    j->n = n;
    j->entries = xmalloc(n * sizeof j->entries[0]);
    for (unsigned i = 0; i < n; i++) {
        j->entries[i] = replica_entry_ref(entries[i]);
        m->appended_bytes += entries[i]->len;
    }
    m->last_append_ms = now_ms(m);
    worker_post(m->log_worker, &j->work);
}

static void on_send(void *ctx, uint64_t server, const char *address, struct bytes message)
{
    (void)ctx, (void)server, (void)address;
    (void)message; /* a group of one has nobody to write to; METHOD_RAFT is refused by name */
}

static int on_snapshot(void *ctx, uint64_t index, struct buf *out)
{
    (void)ctx, (void)index, (void)out;
    return ERR_UNKNOWN_CALL;
}

static void on_install(void *ctx, const struct raft_log_state *state, struct bytes data)
{
    (void)state, (void)data;
    fatal(ctx, "a snapshot was sent, and this version cannot install one", ERR_UNKNOWN_CALL);
}

static void on_cut(void *ctx, const struct raft_log_state *state, uint64_t first_kept)
{
    struct machine *m = ctx;
    struct log_job *j = log_job_new(m, LOG_CUT, cut_done);
    j->state = *state;
    buf_init(&j->state.configuration);
    buf_add(&j->state.configuration, state->configuration.data, state->configuration.len);
    j->first = first_kept;
    worker_post(m->log_worker, &j->work);
}

static void pack_lead(struct machine *m)
{
    Cfs__LogLead lead = CFS__LOG_LEAD__INIT;
    lead.server = m->options.id;
    buf_clear(&m->lead_body);
    cfs__log_lead__pack(&lead, buf_extend(&m->lead_body, cfs__log_lead__get_packed_size(&lead)));
}

static struct replica_entry *entry_of(uint8_t type, struct bytes body)
{
    struct buf b;
    buf_init(&b);
    const struct fsm_entry_header h = {.type = type, .feature_level = FSM_FEATURE_LEVEL};
    fsm_entry_encode(&b, &h, body);
    struct replica_entry *e = replica_entry_new(RAFT_LOG_COMMAND, buf_bytes(&b));
    buf_release(&b);
    return e;
}

/* Time and reign stand at fixed places of the header (fsm.h) and are known only now. While the clock is behind what was
 * said before, time goes on by the least there is: a later change has a later time. */
static void entry_stamp(struct machine *m, struct replica_entry *e, uint64_t reign)
{
    const uint64_t now = m->options.events->wall_ns(m->options.ctx);
    m->last_time_ns = now > m->last_time_ns ? now : m->last_time_ns + 1;
    put_le64(e->data + 4, m->last_time_ns);
    put_le64(e->data + 12, reign);
}

static void lead(struct machine *m)
{
    pack_lead(m);
    struct replica_entry *e = entry_of(ENTRY_LEAD, buf_bytes(&m->lead_body));
    entry_stamp(m, e, 0);
    const int rc = replica_submit(m->replica, &e, 1, now_ms(m), &m->lead_index);
    if (rc != 0) {
        fatal(m, "the reign cannot begin", rc);
    }
}

static void refuse_all(struct machine *m, struct list *from)
{
    struct proposal *p;
    while ((p = list_first(from, struct proposal, node)) != NULL) {
        list_remove(&p->node);
        p->rc = ERR_NOT_LEADER;
        list_add_tail(&m->refused, &p->node);
    }
    timers_arm(m->options.timers, &m->refusals, now_ms(m));
}

static void on_role(void *ctx, enum replica_role role, uint64_t term)
{
    struct machine *m = ctx;
    (void)term;
    const bool leader = role == REPLICA_LEADER;
    if (leader == m->leader) {
        return;
    }
    m->leader = leader;
    m->ready = false;
    m->lead_index = 0;
    if (!leader) {
        m->outstanding = 0;
        refuse_all(m, &m->pending);
        refuse_all(m, &m->waiting);
        m->options.events->on_role(m->options.ctx, false);
    }
    /* A new leader's `lead` is submitted by the tick: no call into the replica from here. */
    timers_arm(m->options.timers, &m->tick, now_ms(m));
}

/* ---- proposing ------------------------------------------------------------------------------ */

static bool below_reserve(const struct machine *m)
{
    /* What was appended since the last look may be on its way to two places: log and tables. */
    return m->space_known &&
           m->space.free_bytes < m->options.reserve_bytes + 2 * m->appended_bytes;
}

static void submit_waiting(struct machine *m)
{
    struct proposal *p;
    while (m->ready && !m->stopping && m->outstanding < OUTSTANDING_MAX &&
           (p = list_first(&m->waiting, struct proposal, node)) != NULL) {
        list_remove(&p->node);
        struct replica_entry *e = p->entry;
        p->entry = NULL;
        entry_stamp(m, e, p->type == ENTRY_BOOTSTRAP ? 0 : m->reign);
        p->index = replica_last_index(m->replica) + 1;
        list_add_tail(&m->pending, &p->node);
        m->outstanding++;
        uint64_t index = 0;
        const int rc = replica_submit(m->replica, &e, 1, now_ms(m), &index);
        if (rc != 0) {
            list_remove(&p->node);
            m->outstanding--;
            p->rc = rc == ERR_BUSY ? ERR_BUSY : ERR_NOT_LEADER;
            list_add_tail(&m->refused, &p->node);
            timers_arm(m->options.timers, &m->refusals, now_ms(m));
        } else {
            CHECK(index == p->index);
        }
    }
}

static void refuse(struct machine *m, struct proposal *p, int rc)
{
    p->rc = rc;
    list_add_tail(&m->refused, &p->node);
    timers_arm(m->options.timers, &m->refusals, now_ms(m));
}

/* Sessions, servers and jobs are few and small, and somebody must be able to come and delete. */
static bool grows(uint8_t type)
{
    return type == ENTRY_COMMAND || type == ENTRY_GROUPS || type == ENTRY_POLICY;
}

void machine_propose(struct machine *m, struct proposal *p)
{
    list_init(&p->node);
    p->effects = NULL;
    p->entry = NULL;
    if (!m->leader || m->stopping) {
        refuse(m, p, ERR_NOT_LEADER);
        return;
    }
    struct replica_entry *e = entry_of(p->type, p->body);
    const struct bytes bytes = BYTES(e->data, e->len);
    int rc = fsm_validate(bytes);
    if (rc == 0 && below_reserve(m) && grows(p->type) && !fsm_entry_frees(bytes)) {
        rc = -ENOSPC;
    }
    if (rc != 0) {
        replica_entry_unref(e);
        refuse(m, p, rc);
        return;
    }
    p->entry = e;
    list_add_tail(&m->waiting, &p->node);
    submit_waiting(m);
    arm_tick(m);
}

static void refusals_due(struct timer *t)
{
    struct machine *m = container_of(t, struct machine, refusals);
    struct list list;
    list_take_all(&m->refused, &list);
    struct proposal *p;
    while ((p = list_first(&list, struct proposal, node)) != NULL) {
        list_remove(&p->node);
        answer(m, p, p->rc, 0, NULL);
    }
}

/* ---- reading -------------------------------------------------------------------------------- */

static void read_done(struct work *w)
{
    struct machine_read *r = container_of(w, struct machine_read, work);
    r->on_done(r);
}

void machine_read(struct machine *m, struct machine_read *r)
{
    r->machine = m;
    r->work.on_done = read_done;
    if (m->stopping) { /* the workers may be gone */
        list_add_tail(&m->late_reads, &r->work.letter.node);
        return;
    }
    worker_post(m->store_worker, &r->work);
}

/* ---- housekeeping --------------------------------------------------------------------------- */

static void tick_due(struct timer *t)
{
    struct machine *m = container_of(t, struct machine, tick);
    if (m->stopping) {
        return;
    }
    if (m->leader && m->lead_index == 0) {
        lead(m);
    }
    replica_tick(m->replica, now_ms(m));
    arm_tick(m);
}

static void sync_done(struct work *w)
{
    struct sync_job *s = container_of(w, struct sync_job, work);
    struct machine *m = s->machine;
    m->syncing = false;
    m->stats = s->stats;
    if (s->rc != 0) {
        fatal(m, "the state cannot be synced", s->rc);
        return;
    }
    if (s->sync && !m->stopping && replica_snapshot(m->replica, s->applied, now_ms(m))) {
        m->snapshot_index = s->applied;
        m->snapshot_memory = replica_memory_bytes(m->replica);
        m->syncs++;
    }
}

static bool cut_due(const struct machine *m)
{
    if (m->applied <= m->snapshot_index) {
        return false;
    }
    const uint64_t memory = replica_memory_bytes(m->replica);
    return memory > m->snapshot_memory + CUT_MEMORY_BYTES ||
           m->log_bytes > m->snapshot_file + CUT_FILE_BYTES ||
           (m->outstanding == 0 && now_ms(m) > m->last_append_ms + CUT_IDLE_MS &&
            m->applied > m->snapshot_index + 16);
}

static void housekeeping_due(struct timer *t)
{
    struct machine *m = container_of(t, struct machine, housekeeping);
    if (m->stopping) {
        return;
    }
    if (!m->space_asked) {
        m->space_asked = true;
        worker_post(m->log_worker, &m->space_job.work);
    }
    if (!m->syncing) {
        m->syncing = true;
        m->sync.sync = cut_due(m);
        worker_post(m->store_worker, &m->sync.work);
    }
    timers_arm(m->options.timers, &m->housekeeping, now_ms(m) + HOUSEKEEPING_MS);
}

/* ---- life ----------------------------------------------------------------------------------- */

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

static void load_visit(void *ctx, uint64_t index, const struct raft_log_entry *e)
{
    struct machine *m = ctx;
    replica_load(m->replica, index, e);
    struct fsm_entry_header h;
    struct bytes body;
    if (e != NULL && e->type == RAFT_LOG_COMMAND && fsm_entry_decode(e->data, &h, &body) == 0 &&
        h.time_ns > m->last_time_ns) {
        m->last_time_ns = h.time_ns; /* time goes on from the last entry, whatever the clock says */
    }
}

/* The first entry of a group: itself. */
static int log_begin(struct machine *m)
{
    struct buf configuration;
    buf_init(&configuration);
    replica_configuration(&m->options.address, 1, &configuration);
    const struct raft_log_entry e = {
        .term = 1, .type = RAFT_LOG_CHANGE, .data = buf_bytes(&configuration)};
    int rc = raft_log_vote(m->log, 1, 0);
    if (rc == 0) {
        rc = raft_log_append(m->log, 1, &e, 1);
    }
    if (rc == 0) {
        m->boot.term = 1;
        replica_load(m->replica, 1, NULL);
        replica_load(m->replica, 1, &e);
    }
    buf_release(&configuration);
    return rc;
}

static int open_log(struct machine *m)
{
    const struct replica_options ro = {
        .id = m->options.id,
        .address = m->options.address,
        .random = (uint32_t)m->options.random,
        .outputs = &outputs,
        .ctx = m,
    };
    m->replica = replica_new(&ro);
    const struct raft_log_options lo = {
        .directory = "raft",
        .segment_bytes = m->options.log_segment_bytes,
        .reserve_bytes = 4u << 20,
        .random = m->options.random,
    };
    int rc = raft_log_open(m->options.disk, &lo, load_visit, m, &m->boot, &m->log);
    if (rc == 0 && raft_log_last(m->log) == 0) {
        if (fsm_applied(m->fsm) > 0) {
            rc = ERR_CORRUPT; /* the log is gone */
        } else {
            rc = m->options.bootstrap.len > 0 ? log_begin(m) : ERR_NOT_FOUND;
        }
    }
    return rc;
}

int machine_open(const struct machine_options *options, struct machine **out)
{
    struct machine *m = xcalloc(1, sizeof *m);
    m->options = *options;
    list_init(&m->waiting);
    list_init(&m->pending);
    list_init(&m->refused);
    list_init(&m->late_reads);
    list_init(&m->spare_applies);
    list_init(&m->stalled);
    room_init(&m->room, options->disk, options->reserve_bytes);
    buf_init(&m->lead_body);
    buf_init(&m->cluster_query.reply);
    raft_log_state_init(&m->boot);
    m->tick.on_due = tick_due;
    m->housekeeping.on_due = housekeeping_due;
    m->refusals.on_due = refusals_due;
    m->sync.machine = m;
    m->sync.work.on_done = sync_done;
    m->space_job.machine = m;
    m->space_job.kind = LOG_SPACE;
    m->space_job.work.on_done = space_done;
    int rc = fsm_open(options->kv, &m->fsm);
    if (rc == 0) {
        rc = open_log(m);
    }
    if (rc == 0) {
        rc = options->disk->ops->space(options->disk, &m->space);
        m->space_known = rc == 0;
    }
    if (rc != 0) {
        (void)machine_close(m); /* what it could say is less than rc */
        return rc;
    }
    m->log_bytes = raft_log_bytes(m->log);
    m->applied = fsm_applied(m->fsm);
    m->snapshot_index = m->boot.snapshot_index;
    *out = m;
    return 0;
}

int machine_start(struct machine *m, struct worker *log, struct worker *store)
{
    m->log_worker = log;
    m->store_worker = store;
    const int rc = replica_start(m->replica, &m->boot, m->applied, now_ms(m));
    if (rc == 0) {
        arm_tick(m);
        if (m->leader && m->lead_index == 0) {
            timers_arm(m->options.timers, &m->tick, now_ms(m));
        }
        timers_arm(m->options.timers, &m->housekeeping, now_ms(m) + HOUSEKEEPING_MS);
    }
    return rc;
}

void machine_stop(struct machine *m)
{
    m->stopping = true;
    atomic_store(&m->closing, true);
    timers_stop(m->options.timers, &m->tick);
    timers_stop(m->options.timers, &m->housekeeping);
    timers_stop(m->options.timers, &m->refusals);
}

static void cancel_all(struct machine *m, struct list *from)
{
    struct proposal *p;
    while ((p = list_first(from, struct proposal, node)) != NULL) {
        list_remove(&p->node);
        answer(m, p, ERR_CANCELLED, 0, NULL);
    }
}

int machine_close(struct machine *m)
{
    if (m == NULL) {
        return 0;
    }
    m->stopping = true;
    cancel_all(m, &m->pending);
    cancel_all(m, &m->waiting);
    cancel_all(m, &m->refused); /* last: the others may have added to it */
    timers_stop(m->options.timers, &m->refusals);
    struct machine_read *late;
    while ((late = list_first(&m->late_reads, struct machine_read, work.letter.node)) != NULL) {
        list_remove(&late->work.letter.node);
        late->rc = ERR_CANCELLED;
        late->on_done(late);
    }
    int rc = 0;
    if (m->fsm != NULL && m->log_worker != NULL) {
        rc = m->options.kv->ops->sync(m->options.kv);
    }
    struct apply_job *j;
    while ((j = list_first(&m->stalled, struct apply_job, work.letter.node)) != NULL) {
        list_remove(&j->work.letter.node);
        replica_entry_unref(j->entry);
        list_add_head(&m->spare_applies, &j->node);
    }
    while ((j = list_first(&m->spare_applies, struct apply_job, node)) != NULL) {
        list_remove(&j->node);
        fsm_effects_release(&j->effects);
        free(j);
    }
    fsm_free(m->fsm);
    replica_free(m->replica);
    raft_log_close(m->log);
    raft_log_state_release(&m->boot);
    buf_release(&m->lead_body);
    buf_release(&m->cluster_query.reply);
    free(m);
    return rc;
}

struct machine_state machine_state(const struct machine *m)
{
    return (struct machine_state){
        .leader = m->leader && m->ready,
        .reign = m->reign,
        .applied = m->applied,
        .log_bytes = m->log_bytes,
        .state_bytes = m->stats.disk_bytes,
        .memory_bytes = m->stats.memory_bytes + replica_memory_bytes(m->replica),
        .free_bytes = m->space.free_bytes,
        .reserve_bytes = m->options.reserve_bytes,
        .refusing = below_reserve(m),
        .log_waiting = atomic_load(&m->log_full) || atomic_load(&m->room.full),
        .space_unknown = !m->space_known,
        .outstanding = m->outstanding,
        .commits = m->commits,
        .syncs = m->syncs,
    };
}
