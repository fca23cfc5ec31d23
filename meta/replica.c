/* The driver of the Raft library's I/O-free core.
 *
 * One rule shapes the file: step() feeds one event and carries out what the update says, in this order: vote,
 * entries, snapshot, messages; settle() then hands committed entries to the state machine. Only settle calls
 * step again (for a committed configuration), so nothing recurses.
 *
 * What the library expects of its driver was learned by torture (docs/raft.md, "Rules"):
 *   - term and vote are durable before any message of that step leaves: messages are held meanwhile;
 *   - update.entries replaces our log from its index on; its batch is ours to free, its array is not;
 *   - the commit index runs ahead of what is stored here: entries are applied only up to `stored`, and none
 *     while a snapshot is being installed, else the state machine could be ahead of the log after a crash;
 *   - three guards: cut_compacted, stale_rejection and the term of a refused pre-vote.
 *
 * Entries are kept once, counted, in `ring`; the library gets arrays that point into them. It wants to free a
 * batch per array, so each array has one token byte of the library's memory as its batch. */
#include "meta/replica.h"

#include <errno.h>
#include <raft.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"
#include "meta/raft_msg.h"

enum {
    ELECTION_MS = 1000,
    HEARTBEAT_MS = 100,
    INSTALL_MS = 10000,
    TRAILING = 4096,
    TRAILING_BYTES = 16 << 20,
    INFLIGHT_MAX = 4096,
    CAPACITY = 1000, /* of the library's disk accounting, which we do not use */
    CATCH_UP_MAX = 64 /* entries that a standby may lack when it is promoted */
};

struct held { /* a message that waits for term and vote to be durable */
    struct list node;
    uint64_t to;
    char *address;
    struct buf bytes;
};

struct batch { /* an array of the library's entries that stand on ours */
    struct raft_entry *entries;
    struct replica_entry **ours; /* one reference each */
    unsigned n;
};

struct replica {
    struct raft raft;
    struct raft_tracer tracer;
    const struct replica_outputs *out;
    void *ctx;
    unsigned trailing;

    struct replica_entry **ring; /* power of two */
    size_t cap, head, n;
    uint64_t start; /* index of ring[head] */
    uint64_t bytes;

    uint64_t stored; /* synced up to here */
    uint64_t given;  /* handed to apply up to here */
    unsigned votes_pending;
    struct list held;
    bool started;
    bool installing;
    struct raft_snapshot_metadata install;
    size_t install_offset;
    bool install_last;
    struct raft_log_state snapshot; /* the newest that our log is cut behind */
    uint64_t deadline;
    const struct batch *current; /* of the event that is being stepped */
};

/* ---- entries -------------------------------------------------------------------------------- */

struct replica_entry *replica_entry_new(uint8_t type, struct bytes data)
{
    struct replica_entry *e = xmalloc(sizeof *e + data.len + 1);
    *e = (struct replica_entry){.refs = 1, .len = (uint32_t)data.len, .type = type};
    if (data.len > 0) {
        memcpy(e->data, data.data, data.len);
    }
    return e;
}

struct replica_entry *replica_entry_ref(struct replica_entry *e)
{
    e->refs++;
    return e;
}

void replica_entry_unref(struct replica_entry *e)
{
    if (--e->refs == 0) {
        free(e);
    }
}

static struct replica_entry *ring_at(const struct replica *r, uint64_t index)
{
    if (index < r->start || index - r->start >= r->n) {
        return NULL;
    }
    return r->ring[(r->head + (index - r->start)) & (r->cap - 1)];
}

static void ring_push(struct replica *r, struct replica_entry *e) /* takes the reference */
{
    if (r->n == r->cap) {
        const size_t cap = r->cap == 0 ? 256 : r->cap * 2;
        struct replica_entry **ring = xmalloc(cap * sizeof ring[0]);
        for (size_t i = 0; i < r->n; i++) {
            ring[i] = r->ring[(r->head + i) & (r->cap - 1)];
        }
        free(r->ring);
        r->ring = ring;
        r->cap = cap;
        r->head = 0;
    }
    r->ring[(r->head + r->n) & (r->cap - 1)] = e;
    r->n++;
    r->bytes += sizeof *e + e->len;
}

static void ring_truncate(struct replica *r, uint64_t index)
{
    while (r->n > 0 && r->start + r->n > index) {
        r->n--;
        struct replica_entry *e = r->ring[(r->head + r->n) & (r->cap - 1)];
        r->bytes -= sizeof *e + e->len;
        replica_entry_unref(e);
    }
}

static void ring_drop_below(struct replica *r, uint64_t index)
{
    while (r->n > 0 && r->start < index) {
        struct replica_entry *e = r->ring[r->head];
        r->bytes -= sizeof *e + e->len;
        replica_entry_unref(e);
        r->head = (r->head + 1) & (r->cap - 1);
        r->start++;
        r->n--;
    }
}

static void batch_init(struct batch *b, unsigned n)
{
    b->n = n;
    b->entries = n == 0 ? NULL : raft_malloc(n * sizeof b->entries[0]);
    b->ours = n == 0 ? NULL : xmalloc(n * sizeof b->ours[0]);
    void *token = n == 0 ? NULL : raft_malloc(1);
    for (unsigned i = 0; i < n; i++) {
        b->entries[i] = (struct raft_entry){.batch = token};
    }
}

static void batch_set(struct batch *b, unsigned i, struct replica_entry *e) /* takes it */
{
    b->ours[i] = e;
    b->entries[i].term = e->term;
    b->entries[i].type = (enum raft_entry_type)e->type;
    b->entries[i].buf = (struct raft_buffer){.base = e->data, .len = e->len};
}

static void batch_release(struct batch *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        replica_entry_unref(b->ours[i]);
    }
    free(b->ours);
    raft_free(b->entries);
}

/* ---- configurations ------------------------------------------------------------------------- */

static void configuration_copy(const struct raft_configuration *from, struct raft_configuration *to)
{
    raft_configuration_init(to);
    for (unsigned i = 0; i < from->n; i++) {
        CHECK(raft_configuration_add(to, from->servers[i].id, from->servers[i].address,
                                     from->servers[i].role) == 0);
    }
}

static void configuration_pack(const struct raft_configuration *c, struct buf *out)
{
    struct raft_buffer b = {0};
    CHECK(raft_configuration_encode(c, &b) == 0);
    buf_add(out, b.base, b.len);
    raft_free(b.base);
}

static int configuration_unpack(struct bytes in, struct raft_configuration *out)
{
    /* The decoder asks for aligned memory that it may read as words. */
    struct raft_buffer b = {.base = raft_malloc(in.len + 8), .len = in.len};
    memcpy(b.base, in.data, in.len);
    const int rc = raft_configuration_decode(&b, out);
    raft_free(b.base);
    return rc == 0 ? 0 : ERR_MALFORMED;
}

void replica_configuration(const char *const *addresses, unsigned n, struct buf *out)
{
    struct raft_configuration c;
    raft_configuration_init(&c);
    for (unsigned i = 0; i < n; i++) {
        CHECK(raft_configuration_add(&c, i + 1, addresses[i], RAFT_VOTER) == 0);
    }
    configuration_pack(&c, out);
    raft_configuration_close(&c);
}

/* ---- carrying out an update ----------------------------------------------------------------- */

static void update_entries(struct replica *r, const struct raft_update *u)
{
    const uint64_t index = u->entries.index;
    const unsigned n = u->entries.n;
    struct raft_entry *announced = u->entries.batch;
    ring_truncate(r, index);
    CHECK(index == r->start + r->n);
    if (r->stored >= index) {
        r->stored = index - 1;
    }
    struct replica_entry **list = xmalloc(n * sizeof list[0]);
    const struct batch *b = r->current;
    for (unsigned i = 0; i < n; i++) {
        struct replica_entry *e;
        if (b != NULL && announced >= b->entries && announced < b->entries + b->n) {
            e = container_of(announced[i].buf.base, struct replica_entry, data);
            replica_entry_ref(e);
        } else { /* the library's own: a leader's barrier */
            e = replica_entry_new((uint8_t)announced[i].type,
                                  BYTES(announced[i].buf.base, announced[i].buf.len));
        }
        e->term = announced[i].term;
        list[i] = e;
        ring_push(r, e);
    }
    if (announced[0].batch != NULL) {
        raft_free(announced[0].batch);
    }
    r->out->append(r->ctx, index, list, n);
    free(list);
}

static void update_snapshot(struct replica *r, struct raft_update *u)
{
    r->installing = true;
    r->install = u->snapshot.metadata;
    r->install_offset = u->snapshot.offset;
    r->install_last = u->snapshot.last;
    ring_truncate(r, 0);
    r->start = r->install.index + 1;
    r->stored = r->install.index;
    r->snapshot.snapshot_index = r->install.index;
    r->snapshot.snapshot_term = r->install.term;
    r->snapshot.configuration_index = r->install.configuration_index;
    buf_clear(&r->snapshot.configuration);
    configuration_pack(&r->install.configuration, &r->snapshot.configuration);
    r->out->install(r->ctx, &r->snapshot, BYTES(u->snapshot.chunk.base, u->snapshot.chunk.len));
    raft_free(u->snapshot.chunk.base);
}

static void pack_append(const struct replica *r, const struct raft_append_entries *a, struct raft_msg *m,
                        struct buf *out)
{
    m->type = RAFT_MSG_APPEND;
    m->library_version = a->version;
    m->term = a->term;
    m->index = a->prev_log_index;
    m->index_term = a->prev_log_term;
    m->commit = a->leader_commit;
    m->n_entries = a->n_entries;
    raft_msg_encode(m, out);
    for (unsigned i = 0; i < a->n_entries; i++) {
        const struct replica_entry *e = ring_at(r, a->prev_log_index + 1 + i);
        CHECK(e != NULL); /* the library's trail and the ring are cut together */
        raft_msg_entry_encode(e->term, e->type, BYTES(e->data, e->len), out);
    }
}

static void pack_vote(const struct raft_request_vote *v, struct raft_msg *m)
{
    m->type = RAFT_MSG_VOTE;
    m->library_version = v->version;
    m->term = v->term;
    m->candidate = v->candidate_id;
    m->index = v->last_log_index;
    m->index_term = v->last_log_term;
    m->flag = (uint8_t)((v->disrupt_leader ? 1 : 0) | (v->pre_vote ? 2 : 0));
}

static void pack_vote_result(const struct replica *r, const struct raft_request_vote_result *v,
                             struct raft_msg *m)
{
    m->type = RAFT_MSG_VOTE_RESULT;
    m->library_version = v->version;
    m->term = v->term;
    m->flag = (uint8_t)((v->vote_granted ? 1 : 0) | (v->pre_vote ? 2 : 0));
    m->features = v->features;
    m->capacity = v->capacity;
    /* The library echoes the request's term in a refused pre-vote; then candidates at different terms
     * refuse each other for ever. They must learn the higher one. */
    if (v->pre_vote && !v->vote_granted && m->term < raft_current_term(&r->raft)) {
        m->term = raft_current_term(&r->raft);
    }
}

static void pack_append_result(const struct raft_append_entries_result *a, struct raft_msg *m)
{
    m->type = RAFT_MSG_APPEND_RESULT;
    m->library_version = a->version;
    m->term = a->term;
    m->index = a->rejected;
    m->index_term = a->last_log_index;
    m->features = a->features;
    m->capacity = a->capacity;
}

static void pack_timeout_now(const struct raft_timeout_now *t, struct raft_msg *m)
{
    m->type = RAFT_MSG_TIMEOUT_NOW;
    m->library_version = t->version;
    m->term = t->term;
    m->index = t->last_log_index;
    m->index_term = t->last_log_term;
}

static bool pack_install(const struct replica *r, const struct raft_install_snapshot *s,
                         struct raft_msg *m, struct buf *out)
{
    if (s->last_index != r->snapshot.snapshot_index) {
        return false; /* asked for before a newer one was taken; the library asks again */
    }
    m->type = RAFT_MSG_INSTALL;
    m->library_version = s->version;
    m->term = s->term;
    m->index = s->last_index;
    m->index_term = s->last_term;
    m->commit = r->snapshot.configuration_index;
    m->configuration = buf_bytes(&r->snapshot.configuration);
    raft_msg_encode(m, out);
    return r->out->snapshot(r->ctx, s->last_index, out) == 0;
}

/* False: this one is not sent. */
static bool pack(struct replica *r, const struct raft_message *from, struct buf *out)
{
    struct raft_msg m = {.configuration = BYTES(NULL, 0)};
    switch (from->type) {
    case RAFT_APPEND_ENTRIES:
        pack_append(r, &from->append_entries, &m, out);
        return true;
    case RAFT_INSTALL_SNAPSHOT:
        return pack_install(r, &from->install_snapshot, &m, out);
    case RAFT_APPEND_ENTRIES_RESULT:
        pack_append_result(&from->append_entries_result, &m);
        break;
    case RAFT_REQUEST_VOTE:
        pack_vote(&from->request_vote, &m);
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        pack_vote_result(r, &from->request_vote_result, &m);
        break;
    case RAFT_TIMEOUT_NOW:
        pack_timeout_now(&from->timeout_now, &m);
        break;
    default:
        return false;
    }
    raft_msg_encode(&m, out);
    return true;
}

static void update_messages(struct replica *r, const struct raft_update *u)
{
    for (unsigned i = 0; i < u->messages.n; i++) {
        const struct raft_message *m = &u->messages.batch[i];
        struct buf bytes;
        buf_init(&bytes);
        if (!pack(r, m, &bytes)) {
            buf_release(&bytes);
        } else if (r->votes_pending > 0) {
            struct held *h = xcalloc(1, sizeof *h);
            h->to = m->server_id;
            h->address = xstrdup(m->server_address);
            h->bytes = bytes;
            list_add_tail(&r->held, &h->node);
        } else {
            r->out->send(r->ctx, m->server_id, m->server_address, buf_bytes(&bytes));
            buf_release(&bytes);
        }
    }
}

static void held_send(struct replica *r, bool really)
{
    struct held *h;
    while ((h = list_first(&r->held, struct held, node)) != NULL) {
        list_remove(&h->node);
        if (really) {
            r->out->send(r->ctx, h->to, h->address, buf_bytes(&h->bytes));
        }
        buf_release(&h->bytes);
        free(h->address);
        free(h);
    }
}

static int rc_of_raft(int rv)
{
    switch (rv) {
    case 0:
        return 0;
    case RAFT_NOTLEADER:
    case RAFT_LEADERSHIPLOST:
        return ERR_NOT_LEADER;
    case RAFT_CANTCHANGE:
    case RAFT_BUSY:
    case RAFT_TOOMANY:
    case RAFT_NOSPACE:
        return ERR_BUSY;
    case RAFT_MALFORMED:
    case RAFT_CORRUPT:
        return ERR_CORRUPT;
    default:
        return -EINVAL;
    }
}

static int step(struct replica *r, struct raft_event *e, const struct batch *b)
{
    struct raft_update u = {0};
    e->capacity = CAPACITY;
    r->current = b;
    const int rv = raft_step(&r->raft, e, &u);
    if (rv != 0) {
        r->current = NULL;
        return rc_of_raft(rv);
    }
    if ((u.flags & (RAFT_UPDATE_CURRENT_TERM)) != 0 || (u.flags & (RAFT_UPDATE_VOTED_FOR)) != 0) {
        r->votes_pending++;
        r->out->vote(r->ctx, raft_current_term(&r->raft), raft_voted_for(&r->raft));
    }
    if ((u.flags & (RAFT_UPDATE_ENTRIES)) != 0) {
        update_entries(r, &u);
    }
    r->current = NULL;
    if ((u.flags & (RAFT_UPDATE_SNAPSHOT)) != 0) {
        update_snapshot(r, &u);
    }
    if ((u.flags & (RAFT_UPDATE_MESSAGES)) != 0) {
        update_messages(r, &u);
    }
    if ((u.flags & (RAFT_UPDATE_STATE)) != 0) {
        r->out->role(r->ctx, replica_role(r), replica_term(r));
    }
    const uint64_t deadline = raft_timeout(&r->raft);
    /* A tick that changed nothing must not come again within the same millisecond. */
    r->deadline = e->type == RAFT_TIMEOUT && deadline <= e->time ? e->time + 1 : deadline;
    return 0;
}

static void settle(struct replica *r, uint64_t now_ms)
{
    for (;;) {
        const uint64_t commit = raft_commit_index(&r->raft);
        const uint64_t upto = commit < r->stored ? commit : r->stored;
        if (r->installing || r->given >= upto) {
            return;
        }
        const uint64_t index = r->given + 1;
        struct replica_entry *e = ring_at(r, index);
        CHECK(e != NULL);
        r->given = index;
        r->out->apply(r->ctx, index, e);
        if (e->type == RAFT_LOG_CHANGE) {
            struct raft_event ev = {.time = now_ms, .type = RAFT_CONFIGURATION};
            ev.configuration.index = index;
            CHECK(configuration_unpack(BYTES(e->data, e->len), &ev.configuration.conf) == 0);
            (void)step(r, &ev, NULL); /* announces; it has nothing to refuse */
        }
    }
}

/* ---- life ----------------------------------------------------------------------------------- */

static void trace_nothing(struct raft_tracer *t, int type, const void *info)
{
    (void)t;
    (void)type;
    (void)info;
}

struct replica *replica_new(const struct replica_options *o)
{
    struct replica *r = xcalloc(1, sizeof *r);
    CHECK(raft_init(&r->raft, NULL, NULL, o->id, o->address) == 0);
    r->tracer = (struct raft_tracer){.impl = r, .version = 2, .emit = trace_nothing};
    r->raft.tracer = &r->tracer;
    raft_seed(&r->raft, o->random);
    raft_set_election_timeout(&r->raft, o->election_ms != 0 ? o->election_ms : ELECTION_MS);
    raft_set_heartbeat_timeout(&r->raft, o->heartbeat_ms != 0 ? o->heartbeat_ms : HEARTBEAT_MS);
    raft_set_install_snapshot_timeout(&r->raft, INSTALL_MS);
    raft_set_pre_vote(&r->raft, true);
    raft_set_max_inflight_entries(&r->raft, INFLIGHT_MAX);
    r->out = o->outputs;
    r->ctx = o->ctx;
    r->trailing = o->trailing != 0 ? o->trailing : TRAILING;
    r->start = 1;
    r->deadline = UINT64_MAX;
    list_init(&r->held);
    raft_log_state_init(&r->snapshot);
    return r;
}

void replica_free(struct replica *r)
{
    if (r == NULL) {
        return;
    }
    held_send(r, false);
    if (r->installing) {
        raft_configuration_close(&r->install.configuration);
    }
    raft_close(&r->raft, NULL);
    ring_truncate(r, 0);
    free(r->ring);
    raft_log_state_release(&r->snapshot);
    free(r);
}

void replica_load(struct replica *r, uint64_t index, const struct raft_log_entry *e)
{
    CHECK(!r->started);
    if (e == NULL) {
        ring_truncate(r, 0);
        r->start = index;
        return;
    }
    ring_truncate(r, index);
    CHECK(index == r->start + r->n);
    struct replica_entry *copy = replica_entry_new(e->type, e->data);
    copy->term = e->term;
    ring_push(r, copy);
}

/* All that was loaded, as the library wants it; the token stays ours here. */
static void start_batch(const struct replica *r, struct batch *b)
{
    batch_init(b, (unsigned)r->n);
    for (unsigned i = 0; i < b->n; i++) {
        batch_set(b, i, replica_entry_ref(ring_at(r, r->start + i)));
    }
}

static int start_metadata(struct replica *r, const struct raft_log_state *state,
                          struct raft_snapshot_metadata *out)
{
    out->index = state->snapshot_index;
    out->term = state->snapshot_term;
    out->configuration_index = state->configuration_index;
    r->snapshot.snapshot_index = state->snapshot_index;
    r->snapshot.snapshot_term = state->snapshot_term;
    r->snapshot.configuration_index = state->configuration_index;
    buf_add(&r->snapshot.configuration, state->configuration.data, state->configuration.len);
    return configuration_unpack(buf_bytes(&state->configuration), &out->configuration);
}

int replica_start(struct replica *r, const struct raft_log_state *state, uint64_t applied, uint64_t now_ms)
{
    const uint64_t last = r->start + r->n - 1;
    if (applied < state->snapshot_index || applied > last || applied + 1 < r->start ||
        state->snapshot_index + 1 < r->start) {
        return ERR_CORRUPT;
    }
    struct raft_snapshot_metadata metadata;
    struct raft_event e = {.time = now_ms, .type = RAFT_START};
    if (state->snapshot_index > 0) {
        const int rc = start_metadata(r, state, &metadata);
        if (rc != 0) {
            return ERR_CORRUPT;
        }
        e.start.metadata = &metadata;
    }
    r->started = true;
    r->stored = last;
    r->given = applied;
    struct batch b;
    start_batch(r, &b);
    e.start.term = state->term;
    e.start.voted_for = state->vote;
    e.start.start_index = r->start;
    e.start.entries = b.entries;
    e.start.n_entries = b.n;
    void *token = b.n > 0 ? b.entries[0].batch : NULL;
    const int rc = step(r, &e, NULL);
    raft_free(token);
    batch_release(&b);
    if (rc == 0) {
        settle(r, now_ms);
    }
    return rc;
}

int replica_submit(struct replica *r, struct replica_entry **entries, unsigned n, uint64_t now_ms,
                   uint64_t *first_index)
{
    if (replica_role(r) != REPLICA_LEADER) {
        for (unsigned i = 0; i < n; i++) {
            replica_entry_unref(entries[i]);
        }
        return ERR_NOT_LEADER;
    }
    struct batch b;
    batch_init(&b, n);
    for (unsigned i = 0; i < n; i++) {
        entries[i]->term = raft_current_term(&r->raft);
        batch_set(&b, i, entries[i]);
    }
    *first_index = r->start + r->n;
    struct raft_event e = {.time = now_ms, .type = RAFT_SUBMIT};
    e.submit.entries = b.entries;
    e.submit.n = n;
    const int rc = step(r, &e, &b);
    if (rc != 0) {
        raft_free(b.entries[0].batch); /* refused (leadership is being transferred): still ours */
    }
    batch_release(&b);
    if (rc == 0) {
        settle(r, now_ms);
    }
    return rc;
}

/* ---- what the shell reports ----------------------------------------------------------------- */

void replica_voted(struct replica *r, uint64_t now_ms)
{
    (void)now_ms;
    CHECK(r->votes_pending > 0);
    if (--r->votes_pending == 0) {
        held_send(r, true);
    }
}

void replica_stored(struct replica *r, uint64_t last_index, uint64_t last_term, uint64_t now_ms)
{
    const struct replica_entry *e = ring_at(r, last_index);
    /* Replaced meanwhile: the append that replaced it reports for both. */
    if (e == NULL || e->term != last_term || last_index <= r->stored) {
        return;
    }
    r->stored = last_index;
    struct raft_event ev = {.time = now_ms, .type = RAFT_PERSISTED_ENTRIES};
    ev.persisted_entries.index = last_index;
    (void)step(r, &ev, NULL); /* announces; it has nothing to refuse */
    settle(r, now_ms);
}

void replica_installed(struct replica *r, int rc, uint64_t now_ms)
{
    CHECK(r->installing && rc == 0); /* a shell that could not install stops */
    r->installing = false;
    r->given = r->install.index;
    struct raft_event e = {.time = now_ms, .type = RAFT_PERSISTED_SNAPSHOT};
    e.persisted_snapshot.metadata = r->install;
    e.persisted_snapshot.offset = r->install_offset;
    e.persisted_snapshot.last = r->install_last;
    (void)step(r, &e, NULL); /* announces; it has nothing to refuse */
    settle(r, now_ms);
}

void replica_tick(struct replica *r, uint64_t now_ms)
{
    if (now_ms < r->deadline) {
        return;
    }
    struct raft_event e = {.time = now_ms, .type = RAFT_TIMEOUT};
    (void)step(r, &e, NULL); /* only memory could fail, and that aborts */
    settle(r, now_ms);
}

/* ---- messages ------------------------------------------------------------------------------- */

/* Entries at or below the start of our log are committed; the library takes prev_log_index 0 as always
 * matching and would append them again at the end. */
static void cut_compacted(const struct replica *r, struct raft_append_entries *a, struct batch *b)
{
    const uint64_t base = r->start - 1;
    if (r->installing || a->prev_log_index >= base) {
        return;
    }
    const uint64_t cut = base - a->prev_log_index;
    if (cut >= a->n_entries) {
        if (b->n > 0) {
            raft_free(b->entries[0].batch);
        }
        a->n_entries = 0;
        a->prev_log_index = r->snapshot.snapshot_index;
        a->prev_log_term = r->snapshot.snapshot_term;
        return;
    }
    a->prev_log_index = base;
    a->prev_log_term = b->entries[cut - 1].term;
    a->n_entries -= (unsigned)cut;
    a->entries += cut;
}

/* A rejection at or below what the peer is known to have is late; the library would set the next index
 * below the match index and never send that peer an entry again. */
static bool stale_rejection(const struct replica *r, uint64_t from, const struct raft_msg *m)
{
    raft_index match = 0;
    return m->type == RAFT_MSG_APPEND_RESULT && m->index > 0 &&
           replica_role(r) == REPLICA_LEADER && m->term == raft_current_term(&r->raft) &&
           raft_match_index(&r->raft, from, &match) == 0 && m->index <= match;
}

static void unpack_entries(const struct raft_msg *m, struct batch *b)
{
    struct cursor c = cursor_of(m->rest);
    batch_init(b, m->n_entries);
    for (unsigned i = 0; i < b->n; i++) {
        uint64_t term = 0;
        uint8_t type = 0;
        struct bytes data;
        CHECK(raft_msg_entry_decode(&c, &term, &type, &data)); /* raft_msg_decode has seen them */
        struct replica_entry *e = replica_entry_new(type, data);
        e->term = term;
        batch_set(b, i, e);
    }
}

static int unpack_install(const struct raft_msg *m, struct raft_install_snapshot *s)
{
    *s = (struct raft_install_snapshot){
        .version = m->library_version,
        .term = m->term,
        .last_index = m->index,
        .last_term = m->index_term,
        .conf_index = m->commit,
    };
    const int rc = configuration_unpack(m->configuration, &s->conf);
    if (rc == 0) {
        s->data.base = raft_malloc(m->rest.len + 1);
        s->data.len = m->rest.len;
        memcpy(s->data.base, m->rest.data, m->rest.len);
    }
    return rc;
}

static void unpack_flat(const struct raft_msg *m, struct raft_message *to)
{
    const bool one = (m->flag & 1) != 0;
    const bool two = (m->flag & 2) != 0;
    switch (m->type) {
    case RAFT_MSG_APPEND_RESULT:
        to->type = RAFT_APPEND_ENTRIES_RESULT;
        to->append_entries_result = (struct raft_append_entries_result){
            .version = m->library_version, .term = m->term, .rejected = m->index,
            .last_log_index = m->index_term, .features = m->features, .capacity = m->capacity};
        break;
    case RAFT_MSG_VOTE:
        to->type = RAFT_REQUEST_VOTE;
        to->request_vote = (struct raft_request_vote){
            .version = m->library_version, .term = m->term, .candidate_id = m->candidate,
            .last_log_index = m->index, .last_log_term = m->index_term,
            .disrupt_leader = one, .pre_vote = two};
        break;
    case RAFT_MSG_VOTE_RESULT:
        to->type = RAFT_REQUEST_VOTE_RESULT;
        to->request_vote_result = (struct raft_request_vote_result){
            .version = m->library_version, .term = m->term, .vote_granted = one,
            .pre_vote = two, .features = m->features, .capacity = m->capacity};
        break;
    default:
        to->type = RAFT_TIMEOUT_NOW;
        to->timeout_now = (struct raft_timeout_now){
            .version = m->library_version, .term = m->term, .last_log_index = m->index,
            .last_log_term = m->index_term};
        break;
    }
}

int replica_receive(struct replica *r, uint64_t from, const char *address, struct bytes message,
                    uint64_t now_ms)
{
    struct raft_msg m;
    int rc = raft_msg_decode(message, &m);
    if (rc != 0 || stale_rejection(r, from, &m)) {
        return rc;
    }
    if (m.type == RAFT_MSG_INSTALL && r->installing) {
        return 0; /* the library would forget to free it; heartbeats carry the rest */
    }
    struct raft_message raw = {.server_id = from, .server_address = address};
    struct batch b = {0};
    if (m.type == RAFT_MSG_APPEND) {
        unpack_entries(&m, &b);
        raw.type = RAFT_APPEND_ENTRIES;
        raw.append_entries = (struct raft_append_entries){
            .version = m.library_version, .term = m.term, .prev_log_index = m.index,
            .prev_log_term = m.index_term, .leader_commit = m.commit, .entries = b.entries,
            .n_entries = b.n};
        cut_compacted(r, &raw.append_entries, &b);
    } else if (m.type == RAFT_MSG_INSTALL) {
        raw.type = RAFT_INSTALL_SNAPSHOT;
        rc = unpack_install(&m, &raw.install_snapshot);
    } else {
        unpack_flat(&m, &raw);
    }
    if (rc == 0) {
        struct raft_event e = {.time = now_ms, .type = RAFT_RECEIVE};
        e.receive.message = &raw;
        rc = step(r, &e, &b);
        settle(r, now_ms);
    }
    batch_release(&b);
    return rc;
}

/* ---- snapshots and membership --------------------------------------------------------------- */

/* What stays behind a snapshot for those who are a little late: by number, and by bytes. */
static uint64_t first_kept(const struct replica *r, uint64_t index)
{
    uint64_t first = index + 1;
    uint64_t bytes = 0;
    while (first > r->start && index + 1 - first < r->trailing && bytes < TRAILING_BYTES) {
        first--;
        bytes += ring_at(r, first)->len;
    }
    return first;
}

bool replica_snapshot(struct replica *r, uint64_t index, uint64_t now_ms)
{
    const struct replica_entry *e = ring_at(r, index);
    if (r->installing || e == NULL || index > r->given || index <= r->snapshot.snapshot_index ||
        r->raft.configuration_uncommitted_index != 0 ||
        r->raft.configuration_committed_index > index) {
        return false;
    }
    const uint64_t keep = first_kept(r, index);
    struct raft_event ev = {.time = now_ms, .type = RAFT_SNAPSHOT};
    ev.snapshot.metadata.index = index;
    ev.snapshot.metadata.term = e->term;
    ev.snapshot.metadata.configuration_index = r->raft.configuration_committed_index;
    ev.snapshot.trailing = (unsigned)(index + 1 - keep);
    configuration_copy(&r->raft.configuration, &ev.snapshot.metadata.configuration);
    r->snapshot.snapshot_index = index;
    r->snapshot.snapshot_term = e->term;
    r->snapshot.configuration_index = r->raft.configuration_committed_index;
    buf_clear(&r->snapshot.configuration);
    configuration_pack(&r->raft.configuration, &r->snapshot.configuration);
    ring_drop_below(r, keep);
    (void)step(r, &ev, NULL); /* announces; it has nothing to refuse */
    r->out->cut(r->ctx, &r->snapshot, keep);
    settle(r, now_ms);
    return true;
}

static bool everybody_has(const struct replica *r, uint64_t index)
{
    const struct raft_configuration *c = &r->raft.configuration;
    for (unsigned i = 0; i < c->n; i++) {
        raft_index match = 0;
        if (c->servers[i].role == RAFT_VOTER && c->servers[i].id != r->raft.id &&
            (raft_match_index(&r->raft, c->servers[i].id, &match) != 0 || match < index)) {
            return false;
        }
    }
    return true;
}

static unsigned voters(const struct raft_configuration *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->n; i++) {
        n += c->servers[i].role == RAFT_VOTER;
    }
    return n;
}

static int change_prepare(const struct replica *r, struct raft_configuration *c, uint64_t id,
                          const char *address, int role)
{
    unsigned at = 0;
    while (at < c->n && c->servers[at].id != id) {
        at++;
    }
    if (at == c->n) {
        return role != RAFT_VOTER ? rc_of_raft(raft_configuration_add(c, id, address, role)) : ERR_BUSY;
    }
    raft_index match = 0;
    if (role == RAFT_VOTER &&
        (raft_match_index(&r->raft, id, &match) != 0 || match + CATCH_UP_MAX < replica_last_index(r))) {
        return ERR_BUSY; /* it could hold up commits for as long as it takes to catch up */
    }
    if (c->servers[at].role == RAFT_VOTER && role != RAFT_VOTER && voters(c) <= 2) {
        return -EINVAL; /* with one voter left, losing it loses the group */
    }
    c->servers[at].role = role;
    return 0;
}

int replica_change(struct replica *r, uint64_t id, const char *address, int role, uint64_t now_ms)
{
    if (replica_role(r) != REPLICA_LEADER) {
        return ERR_NOT_LEADER;
    }
    if (role < RAFT_STANDBY || role > RAFT_SPARE || id == 0) {
        return -EINVAL;
    }
    if (r->raft.configuration_uncommitted_index != 0 ||
        !everybody_has(r, r->raft.configuration_committed_index)) {
        return ERR_BUSY;
    }
    struct raft_configuration c;
    configuration_copy(&r->raft.configuration, &c);
    int rc = change_prepare(r, &c, id, address, role);
    if (rc == 0) {
        struct buf packed;
        buf_init(&packed);
        configuration_pack(&c, &packed);
        struct replica_entry *e = replica_entry_new(RAFT_LOG_CHANGE, buf_bytes(&packed));
        uint64_t index = 0;
        rc = replica_submit(r, &e, 1, now_ms, &index);
        buf_release(&packed);
    }
    raft_configuration_close(&c);
    return rc;
}

int replica_transfer(struct replica *r, uint64_t id, uint64_t now_ms)
{
    if (replica_role(r) != REPLICA_LEADER) {
        return ERR_NOT_LEADER;
    }
    if (raft_transferee(&r->raft) != 0 || id == r->raft.id) {
        return ERR_BUSY;
    }
    struct raft_event e = {.time = now_ms, .type = RAFT_TRANSFER};
    e.transfer.server_id = id;
    return step(r, &e, NULL);
}

/* ---- looking -------------------------------------------------------------------------------- */

enum replica_role replica_role(const struct replica *r)
{
    switch (r->raft.state) {
    case RAFT_LEADER:
        return REPLICA_LEADER;
    case RAFT_CANDIDATE:
        return REPLICA_CANDIDATE;
    default:
        return REPLICA_FOLLOWER;
    }
}

uint64_t replica_term(const struct replica *r)
{
    return raft_current_term(&r->raft);
}

uint64_t replica_deadline(const struct replica *r)
{
    return r->deadline;
}

uint64_t replica_last_index(const struct replica *r)
{
    return r->start + r->n - 1;
}

uint64_t replica_given_index(const struct replica *r)
{
    return r->given;
}

uint64_t replica_memory_bytes(const struct replica *r)
{
    return r->bytes;
}
