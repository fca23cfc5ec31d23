/* A metadata server, its clients and played chunk servers in one process, in virtual time, from one
 * seed.
 *
 *   sim_clients SEED [--trace] [--plant=NAME]
 *   sim_clients --self-test        every planted bug is found, and without one nothing is
 *
 * Real are: rpc, session, server, meta_service, machine, replica, raft_log, fsm. Played: disk,
 * store, network, the client's arena, chunk servers. Faults, by the seed: the server crashes and
 * loses what was not synced (log and store each on their own), connections break and lose a suffix,
 * partitions, slow links; the client's worker is killed and goes on with the same session (numbers
 * unknown to the arena become empty commands); a client dies and another proves it, or its lease
 * runs out. With odd seeds chunk servers are down for a while too.
 *
 * Checked: each answer against a model of its own (sim_model); after healing the whole tree, read
 * as a client reads it; of commands without an answer when a session ends a prefix was done, each
 * whole; a lock belongs to one owner, and who waited hears of it; no id that was ordered to be
 * deleted is live, none that is dead is kept; at the end the audit is clean, and the whole log
 * applied to an empty store gives the same bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "log.pb-c.h"
#include "meta/fsm_state.h"
#include "meta/keys.h"
#include "test/lib/kv_mem.h"
#include "test/lib/sim_client.h"
#include "test/lib/sim_meta.h"

enum { NODES_MAX = 56, HEAL_MS = 60000, ROUNDS = 4 };

enum plant {
    PLANT_NONE,
    PLANT_REPLY_WINDOW, /* stored replies are gone after a crash */
    PLANT_SEQUENCE,     /* a session's last number goes back by one at a crash */
    PLANT_GARBAGE_LOST, /* dead ids fall off the list at a crash */
    PLANT_OWED_LOST,    /* what a chunk server owes is forgotten at a crash */
    PLANT_LIVE_ORDER,   /* a live stripe gets onto the list at a crash */
    PLANT_LOST_NAME,    /* a name falls out of the store at a crash */
    PLANT_NO_SYNC,      /* the log's disk says that it synced */
    PLANT_STALE_EPOCH,  /* a stale epoch is accepted */
    PLANT_DEAD_ID,      /* retired ids stay granted */
    PLANT_SHARED_LOCK,  /* an exclusive lock can be had twice */
    PLANT_NO_HOLD,      /* an unlinked file that is open is not kept */
    PLANTS
};
static const char *const PLANT_NAMES[PLANTS] = {
    "none",      "reply-window", "sequence",    "garbage-lost", "owed-lost",   "live-order",
    "lost-name", "no-sync",      "stale-epoch", "dead-id",      "shared-lock", "no-hold"};

struct world {
    uint64_t seed;
    enum plant plant;
    struct prng prng, meta_prng, client_prng, chunk_prng;
    struct timers timers;
    struct net_sim *net;
    struct sim_report report;
    struct sim_meta meta;
    struct sim_chunk chunk[SIM_CHUNKS];
    struct model *model;
    struct sim_client *client;
    unsigned n_clients, nodes;
    /* Faults under way: when they end; 0: none. */
    uint64_t meta_back_ms, client_back_ms, uncut_ms, unslow_ms, chunk_back_ms[SIM_CHUNKS];
    uint64_t commands, restarts, deaths, checks, outages;
};

static uint64_t below(struct world *w, uint64_t n)
{
    return prng_below(&w->prng, n);
}

static void run(struct world *w, uint64_t ms)
{
    net_sim_run_until(w->net, w->timers.now_ms + ms);
    if (w->meta.fatal != NULL) {
        sim_fail(&w->report, "the metadata server stopped by itself: %s: %s", w->meta.fatal,
                 err_name(w->meta.fatal_rc));
    }
}

/* ---- planted bugs in the store -------------------------------------------------------------- */

static void plant_rows(struct world *w, uint8_t space, uint8_t table,
                       void (*change)(struct kv_batch *b, struct bytes key, struct bytes value))
{
    struct kv *kv = w->meta.kv;
    struct kv_batch b;
    kv_batch_init(&b);
    struct kv_iter *it = kv->ops->iter(kv, NULL);
    const uint8_t from[] = {space};
    kv->ops->iter_seek(it, BYTES(from, 1));
    for (; kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
        const struct bytes key = kv->ops->iter_key(it);
        if (key.len < 2 || key.data[0] != space) {
            break;
        }
        /* In the namespace the volume stands before the table. */
        const uint8_t is = space == SPACE_NAMESPACE ? (key.len > 9 ? key.data[9] : 0) : key.data[1];
        if (is == table && (space != SPACE_NAMESPACE || b.n == 0)) {
            change(&b, key, kv->ops->iter_value(it));
        }
    }
    kv->ops->iter_free(it);
    CHECK(kv_write(kv, &b, true) == 0);
    kv_batch_release(&b);
}

static void change_delete(struct kv_batch *b, struct bytes key, struct bytes value)
{
    (void)value;
    kv_batch_delete(b, key);
}

static void change_last_seq(struct kv_batch *b, struct bytes key, struct bytes value)
{
    uint8_t row[18];
    CHECK(value.len == sizeof row);
    memcpy(row, value.data, sizeof row);
    const uint64_t last = get_le64(row + 1);
    if (last > get_le64(row + 9)) {
        put_le64(row + 1, last - 1);
        kv_batch_put(b, key, BYTES(row, sizeof row));
    }
}

static void change_into_garbage(struct kv_batch *b, struct bytes key, struct bytes value)
{
    (void)value;
    uint8_t garbage[KEY_MAX], row[9] = {VALUE_VERSION};
    memcpy(garbage, key.data, key.len);
    garbage[1] = 'g';
    put_le64(row + 1, get_be64(key.data + 6));
    kv_batch_put(b, BYTES(garbage, key.len), BYTES(row, sizeof row));
}

static void plant_store(struct world *w)
{
    switch (w->plant) {
    case PLANT_REPLY_WINDOW:
        plant_rows(w, SPACE_SESSION, 'w', change_delete);
        break;
    case PLANT_SEQUENCE:
        plant_rows(w, SPACE_SESSION, 'q', change_last_seq);
        break;
    case PLANT_GARBAGE_LOST:
        plant_rows(w, SPACE_STRIPE, 'g', change_delete);
        break;
    case PLANT_OWED_LOST:
        plant_rows(w, SPACE_STRIPE, 'o', change_delete);
        plant_rows(w, SPACE_STRIPE, 'c', change_delete);
        break;
    case PLANT_LIVE_ORDER:
        plant_rows(w, SPACE_STRIPE, 's', change_into_garbage);
        break;
    case PLANT_LOST_NAME:
        plant_rows(w, SPACE_NAMESPACE, TABLE_DENTRY, change_delete);
        break;
    default:
        break;
    }
}

static enum sim_edit edit_of(enum plant p)
{
    return p == PLANT_STALE_EPOCH   ? SIM_EDIT_EPOCH
           : p == PLANT_DEAD_ID     ? SIM_EDIT_KEEP_ALL
           : p == PLANT_SHARED_LOCK ? SIM_EDIT_SHARED_LOCK
           : p == PLANT_NO_HOLD     ? SIM_EDIT_NO_HOLD
                                    : SIM_EDIT_NONE;
}

/* ---- checks --------------------------------------------------------------------------------- */

static void say_difference(struct world *w, const char *when, const struct buf *got,
                           const struct buf *want)
{
    size_t at = 0, line = 0;
    while (at < got->len && at < want->len && got->data[at] == want->data[at]) {
        at++;
        line = got->data[at - 1] == '\n' ? at : line;
    }
    const int g = (int)strcspn((const char *)got->data + line, "\n");
    const int m = (int)strcspn((const char *)want->data + line, "\n");
    sim_fail(&w->report, "%s the tree is not the model's: \"%.*s\", not \"%.*s\"", when, g,
             (const char *)got->data + line, m, (const char *)want->data + line);
}

/* The tree against the model; numbers that the model does not know are learned. */
static bool same_tree(const struct buf *got, const uint64_t *inos, unsigned n, struct model *m)
{
    struct buf want;
    buf_init(&want);
    uint64_t known[MODEL_LINES];
    const unsigned lines = model_text(m, &want, known);
    bool same = lines == n && bytes_equal(buf_bytes(got), buf_bytes(&want));
    for (unsigned i = 0; same && i < lines; i++) {
        same = known[i] == inos[i] || known[i] >= MODEL_UNKNOWN;
        if (same && known[i] >= MODEL_UNKNOWN) {
            model_learn(m, known[i], inos[i]);
            for (unsigned k = i + 1; k < lines; k++) {
                known[k] = known[k] == known[i] ? inos[i] : known[k];
            }
        }
    }
    buf_release(&want);
    return same;
}

static int read_tree(struct world *w, struct buf *text, uint64_t *inos, unsigned *n)
{
    const int rc = sim_client_text(w->client, text, inos);
    if (rc != 0) {
        sim_fail(&w->report, "the tree cannot be read: %s", err_name(rc));
        return rc;
    }
    *n = 0;
    for (size_t i = 0; i < text->len; i++) {
        *n += text->data[i] == '\n';
    }
    buf_u8(text, 0); /* for say_difference */
    text->len--;
    return 0;
}

static bool is_live(const struct model *m, uint32_t pg, uint64_t id)
{
    for (unsigned i = 0; i < MODEL_NODES; i++) {
        for (unsigned k = 0; m->node[i].ino != 0 && k < MODEL_CELLS; k++) {
            if (m->node[i].cell[k].pg == pg && m->node[i].cell[k].id == id) {
                return true;
            }
        }
    }
    return false;
}

static void check_no_live_deleted(struct world *w)
{
    for (unsigned i = 0; i < MODEL_NODES; i++) {
        const struct model_node *n = &w->model->node[i];
        for (unsigned k = 0; n->ino != 0 && k < MODEL_CELLS; k++) {
            for (unsigned s = 0; n->cell[k].pg != 0 && s < SIM_CHUNKS; s++) {
                if (sim_chunk_deleted(&w->chunk[s], n->cell[k].pg, n->cell[k].id)) {
                    sim_fail(&w->report,
                             "stripe %u.%" PRIu64 " is live, and was ordered to be deleted",
                             n->cell[k].pg, n->cell[k].id);
                }
            }
        }
    }
}

static void check_tree(struct world *w, const char *when)
{
    struct buf text, want;
    buf_init(&text);
    buf_init(&want);
    uint64_t inos[MODEL_LINES], ignored[MODEL_LINES];
    unsigned n = 0;
    if (!w->report.failed && !w->model->overflow && read_tree(w, &text, inos, &n) == 0 &&
        !same_tree(&text, inos, n, w->model)) {
        (void)model_text(w->model, &want, ignored);
        buf_u8(&want, 0);
        say_difference(w, when, &text, &want);
    }
    check_no_live_deleted(w);
    w->checks++;
    buf_release(&text);
    buf_release(&want);
}

/* A session ended with commands unanswered: of these the first so many were done. */
static void check_prefix(struct world *w, struct sim_client *dead)
{
    struct buf text, want;
    buf_init(&text);
    buf_init(&want);
    uint64_t inos[MODEL_LINES], ignored[MODEL_LINES];
    unsigned n = 0, done = 0;
    bool found = false;
    struct model *trial = xcalloc(1, sizeof *trial), *next = xmemdup(w->model, sizeof *next);
    const int rc = read_tree(w, &text, inos, &n);
    struct list *node = dead->outstanding.next;
    while (rc == 0 && !found) {
        *trial = *next;
        model_end_session(trial);
        found = same_tree(&text, inos, n, trial);
        if (found || node == &dead->outstanding) {
            break;
        }
        const struct sim_record *r = list_entry(node, struct sim_record, node);
        bool failed = false;
        for (unsigned i = 0; i < r->n_ops; i++) {
            failed = model_apply(next, &r->op[i], failed, r->done) == -1;
        }
        node = node->next;
        done++;
    }
    sim_trace(&w->report, "of %u unanswered commands %u were done", dead->n_outstanding, done);
    if (rc == 0 && !found && !next->overflow) {
        struct model *m = w->model;
        model_end_session(m);
        (void)model_text(m, &want, ignored);
        buf_u8(&want, 0);
        say_difference(w, "after the end of a session, whatever part of it was done,", &text,
                       &want);
    }
    if (found) {
        *w->model = *trial;
    }
    w->model->overflow = w->model->overflow || next->overflow;
    check_no_live_deleted(w);
    w->checks++;
    free(trial);
    free(next);
    buf_release(&text);
    buf_release(&want);
}

/* ---- clients -------------------------------------------------------------------------------- */

static struct sim_client *client_new(struct world *w)
{
    struct sim_client *c = xcalloc(1, sizeof *c);
    sim_client_init(c, w->net, &w->timers, &w->client_prng, &w->report, w->model, ++w->n_clients,
                    edit_of(w->plant));
    sim_client_start(c);
    w->nodes++;
    return c;
}

static void client_open(struct world *w, struct sim_client *c, const uint8_t *earlier)
{
    int rc = ERR_BUSY;
    for (unsigned i = 0; i < 40 && rc != 0; i++) {
        rc = sim_client_open(c, earlier, 5000);
        if (rc == ERR_SECOND_MOUNT && earlier != NULL) {
            break;
        }
        run(w, rc == 0 ? 1 : 700);
        if (rc != 0) { /* a session that could not be opened is not tried again */
            session_free(c->session);
            sim_client_start(c);
            w->nodes++;
        }
    }
    if (rc != 0) {
        sim_fail(&w->report, "%s cannot open a session: %s", c->name, err_name(rc));
    }
}

static void client_gone(struct world *w, struct sim_client *c)
{
    w->commands += c->commands;
    w->restarts += c->restarts;
    sim_client_release(c);
    /* The struct stays: what is under way may still name it. */
}

/* ---- faults --------------------------------------------------------------------------------- */

static void end_faults(struct world *w, bool all)
{
    const uint64_t now = w->timers.now_ms;
    if (w->unslow_ms != 0 && (all || now >= w->unslow_ms)) {
        net_sim_delay(w->net, 0, 2);
        w->unslow_ms = 0;
    }
    if (w->meta_back_ms != 0 && (all || now >= w->meta_back_ms)) {
        w->meta_back_ms = 0;
        plant_store(w);
        sim_meta_start(&w->meta);
        w->nodes++;
        sim_trace(&w->report, "server back");
    }
    if (w->client_back_ms != 0 && (all || now >= w->client_back_ms)) {
        w->client_back_ms = 0;
        sim_client_resume(w->client);
        w->nodes++;
        sim_trace(&w->report, "client back");
    }
    if (w->uncut_ms != 0 && (all || now >= w->uncut_ms)) {
        net_sim_partition(w->net, w->client->node, w->meta.node, false);
        w->uncut_ms = 0;
    }
}

static void crash_server(struct world *w)
{
    if (w->meta.up && w->nodes < NODES_MAX && !w->report.failed) {
        sim_trace(&w->report, "server crashes");
        if (w->uncut_ms != 0) {
            net_sim_partition(w->net, w->client->node, w->meta.node, false);
            w->uncut_ms = 0;
        }
        sim_meta_crash(&w->meta);
        w->meta_back_ms = w->timers.now_ms + 1 + below(w, 400);
    }
}

static void kill_client(struct world *w)
{
    if (w->client_back_ms == 0 && w->nodes < NODES_MAX && w->client->open) {
        sim_trace(&w->report, "client's worker killed");
        if (w->uncut_ms != 0) {
            net_sim_partition(w->net, w->client->node, w->meta.node, false);
            w->uncut_ms = 0;
        }
        sim_client_kill(w->client);
        w->client_back_ms = w->timers.now_ms + 1 + below(w, 300);
    }
}

static void begin_fault(struct world *w)
{
    switch (below(w, 8)) {
    case 0:
    case 1:
        crash_server(w);
        break;
    case 2:
    case 3:
        kill_client(w);
        break;
    case 4:
        net_sim_delay(w->net, 0, 5 + below(w, 60));
        w->unslow_ms = w->timers.now_ms + 100 + below(w, 400);
        break;
    case 5:
        if (w->uncut_ms == 0 && w->client_back_ms == 0 && w->meta.up) {
            net_sim_partition(w->net, w->client->node, w->meta.node, true);
            w->uncut_ms = w->timers.now_ms + 1 + below(w, below(w, 3) == 0 ? 4000 : 200);
        }
        break;
    case 6:
        net_sim_break(w->net, w->chunk[below(w, SIM_CHUNKS)].node, NULL);
        break;
    default:
        if (w->client_back_ms == 0) {
            sim_trace(&w->report, "connection broken");
            net_sim_break(w->net, w->client->node, NULL);
        }
        break;
    }
}

static void crash_chunk(struct world *w, unsigned number, uint64_t ms)
{
    sim_trace(&w->report, "chunk server %u is down for %" PRIu64 " ms", number, ms);
    sim_chunk_crash(&w->chunk[number], w->net);
    w->chunk_back_ms[number] = w->timers.now_ms + ms;
    w->outages++;
}

/* Up to two are down, mostly for longer than it takes to be known as down. By a chance of their
 * own: so what else happens stays the same. */
static void chunk_faults(struct world *w)
{
    unsigned down = 0;
    for (unsigned i = 0; i < SIM_CHUNKS; i++) {
        if (w->chunk[i].down && w->timers.now_ms >= w->chunk_back_ms[i]) {
            sim_chunk_start(&w->chunk[i]);
        }
        down += w->chunk[i].down;
    }
    const unsigned number = (unsigned)prng_below(&w->chunk_prng, SIM_CHUNKS);
    if (down < 2 && !w->chunk[number].down && prng_below(&w->chunk_prng, 10) == 0) {
        crash_chunk(w, number, 200 + prng_below(&w->chunk_prng, 8000));
    }
}

static void all_chunks_back(struct world *w)
{
    for (unsigned i = 0; i < SIM_CHUNKS; i++) {
        if (w->chunk[i].down) {
            sim_chunk_start(&w->chunk[i]);
        }
    }
}

static bool with_outages(const struct world *w)
{
    return w->seed % 2 == 1;
}

static bool settling(void *ctx)
{
    const struct world *w = ctx;
    return !w->report.failed && w->meta.fatal == NULL && !sim_client_idle(w->client);
}

static void heal(struct world *w)
{
    end_faults(w, true);
    sim_client_generate(w->client, false);
    if (!w->report.failed && !net_sim_run_while(w->net, settling, w, HEAL_MS)) {
        const struct sim_record *r = list_first(&w->client->outstanding, struct sim_record, node);
        sim_fail(
            &w->report,
            "a minute after all faults were over %u commands are unanswered, the first is %" PRIu64
            "; %u tickets are waited for",
            w->client->n_outstanding, r != NULL ? r->seq : 0, w->client->n_waiting);
    }
    run(w, 1);
}

static void check_locks(struct world *w)
{
    const struct sim_client *c = w->client;
    for (unsigned i = 0; i < c->n_got && i < SIM_GOT && c->n_got < SIM_GOT; i++) {
        bool told = w->model->n_granted > array_count(w->model->granted);
        for (unsigned k = 0; k < w->model->n_granted && k < array_count(w->model->granted); k++) {
            told = told || w->model->granted[k] == c->got[i];
        }
        if (!told) {
            sim_fail(&w->report,
                     "lock ticket %" PRIu64 " was granted while another owner held the lock",
                     c->got[i]);
        }
    }
}

static void one_round(struct world *w)
{
    sim_client_generate(w->client, true);
    const unsigned steps = 20 + (unsigned)below(w, 30);
    for (unsigned i = 0; i < steps && !w->report.failed && !w->client->ended; i++) {
        run(w, 1 + below(w, 50));
        end_faults(w, false);
        if (below(w, 5) == 0) {
            begin_fault(w);
        }
        if (with_outages(w)) {
            chunk_faults(w);
        }
    }
}

/* ---- deaths --------------------------------------------------------------------------------- */

static void replace_dead(struct world *w, bool proof)
{
    struct sim_client *old = w->client, *fresh = NULL;
    w->deaths++;
    sim_trace(&w->report, "client dies, %s",
              proof ? "the next one proves it" : "its lease runs out");
    if (proof) {
        if (w->client_back_ms == 0) {
            sim_client_kill(old);
        }
        w->client_back_ms = 0;
        if (below(w, 3) == 0) {
            crash_server(w);
        }
        end_faults(w, true);
    } else {
        end_faults(w, true);
        sim_client_generate(old, false);
        net_sim_partition(w->net, old->node, w->meta.node, true);
        run(w, 9000 + below(w, 3000));
    }
    if (w->report.failed) {
        return;
    }
    fresh = client_new(w);
    w->client = fresh;
    client_open(w, fresh, proof ? old->identity : NULL);
    if (!proof && !w->report.failed) {
        net_sim_partition(w->net, old->node, w->meta.node, false);
        for (unsigned i = 0; i < 40 && !session_ended(old->session); i++) {
            run(w, 500);
        }
        if (!session_ended(old->session)) {
            sim_fail(&w->report, "%s was not told that its session is over", old->name);
        }
    }
    if (!w->report.failed) {
        check_prefix(w, old);
    }
    client_gone(w, old);
}

static void close_and_open(struct world *w)
{
    struct sim_client *old = w->client;
    const int rc = sim_client_close(old, 30000);
    if (rc != 0) {
        sim_fail(&w->report, "%s cannot close its session: %s", old->name, err_name(rc));
        return;
    }
    client_gone(w, old);
    model_end_session(w->model);
    w->client = client_new(w);
    client_open(w, w->client, NULL);
    if (!w->report.failed) {
        check_tree(w, "after a mount");
    }
}

/* ---- the end -------------------------------------------------------------------------------- */

static void on_problem(void *ctx, const char *text)
{
    sim_fail(&((struct world *)ctx)->report, "audit: %s", text);
}

static void check_counters(struct world *w, struct fsm *f)
{
    struct buf reply;
    buf_init(&reply);
    CHECK(fsm_query(f, FSM_QUERY_COUNTERS, BYTES(NULL, 0), &reply) == 0);
    Cfs__FsmCounters *c = cfs__fsm_counters__unpack(NULL, reply.len, reply.data);
    CHECK(c != NULL);
    for (size_t i = 0; i < c->n_owed; i++) {
        sim_fail(&w->report, "at rest chunk server %u owes the deletion of %" PRIu64 " ids",
                 c->owed[i]->server, c->owed[i]->ids);
    }
    if (c->garbage_ids != 0 || c->reaps != 0 || c->orphans != 0 || c->sessions != 0 ||
        c->locks != 0) {
        sim_fail(&w->report,
                 "at rest there are %" PRIu64 " dead ids, %" PRIu64 " reaps, %" PRIu64
                 " orphans, %" PRIu64 " sessions, %" PRIu64 " locks",
                 c->garbage_ids, c->reaps, c->orphans, c->sessions, c->locks);
    }
    cfs__fsm_counters__free_unpacked(c, NULL);
    buf_release(&reply);
}

/* Every id that was ever handed out is live or deleted on all servers that are up. */
static void check_ids(struct world *w)
{
    struct kv *kv = w->meta.kv;
    struct kv_iter *it = kv->ops->iter(kv, NULL);
    const uint8_t from[] = {SPACE_CLUSTER, 'n'};
    kv->ops->iter_seek(it, BYTES(from, sizeof from));
    for (; kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
        const struct bytes key = kv->ops->iter_key(it), value = kv->ops->iter_value(it);
        if (!bytes_has_prefix(key, BYTES(from, sizeof from))) {
            break;
        }
        const uint32_t pg = get_be32(key.data + 2);
        for (uint64_t id = 1; id < get_le64(value.data + 1); id++) {
            for (unsigned s = 0; !is_live(w->model, pg, id) && s < SIM_CHUNKS; s++) {
                const struct sim_chunk *c = &w->chunk[s];
                if (!c->down && !c->refuses && !sim_chunk_deleted(c, pg, id)) {
                    sim_fail(&w->report,
                             "id %u.%" PRIu64 " is dead, and chunk server %u keeps it for ever", pg,
                             id, s);
                }
            }
        }
    }
    kv->ops->iter_free(it);
}

struct replaying {
    struct world *world;
    struct {
        uint64_t term;
        uint8_t type;
        struct buf data;
    } * entry;
    uint64_t first, n, cap;
};

static void replay_visit(void *ctx, uint64_t index, const struct raft_log_entry *e)
{
    struct replaying *r = ctx;
    if (e == NULL || r->first == 0) {
        r->first = index;
        r->n = 0;
    }
    if (e == NULL) {
        return;
    }
    const uint64_t at = index - r->first;
    for (; r->cap <= at; r->cap = r->cap * 2 + 64) {
        r->entry = xrealloc(r->entry, (r->cap * 2 + 64) * sizeof r->entry[0]);
        memset(r->entry + r->cap, 0, (r->cap + 64) * sizeof r->entry[0]);
    }
    buf_clear(&r->entry[at].data);
    buf_add(&r->entry[at].data, e->data.data, e->data.len);
    r->entry[at].term = e->term;
    r->entry[at].type = e->type;
    r->n = at + 1;
}

static void replay(struct replaying *r, uint64_t applied, struct fsm *f)
{
    struct fsm_effects fx;
    fsm_effects_init(&fx);
    for (uint64_t i = 0; i < r->n && r->first + i <= applied; i++) {
        if (r->entry[i].type != RAFT_LOG_COMMAND) {
            continue;
        }
        buf_clear(&fx.reply);
        buf_clear(&fx.granted);
        buf_clear(&fx.ended);
        const int rc =
            fsm_apply(f, r->first + i, r->entry[i].term, buf_bytes(&r->entry[i].data), &fx);
        if (rc != 0) {
            sim_fail(&r->world->report, "replay stops at entry %" PRIu64 ": %s", r->first + i,
                     err_name(rc));
            break;
        }
    }
    fsm_effects_release(&fx);
}

static void check_replay(struct world *w, struct fsm *f)
{
    struct replaying r = {.world = w};
    const int rc = sim_meta_read_log(&w->meta, replay_visit, &r);
    struct kv *kv = kv_mem_new();
    struct fsm *fresh = NULL;
    uint64_t have = 0, want = 0;
    CHECK(fsm_open(kv, &fresh) == 0);
    if (rc != 0) {
        sim_fail(&w->report, "the log cannot be read: %s", err_name(rc));
    } else if (r.first != 1) { /* cut, as it may be: the whole of it is not there any more */
        sim_trace(&w->report, "no replay: the log begins at %" PRIu64, r.first);
    } else {
        replay(&r, fsm_applied(f), fresh);
        CHECK(fsm_hash(fresh, &have) == 0 && fsm_hash(f, &want) == 0);
        if (have != want) {
            sim_fail(&w->report,
                     "the log of %" PRIu64
                     " entries, applied to an empty store, gives another state",
                     r.n);
        }
    }
    fsm_free(fresh);
    kv->ops->close(kv);
    for (uint64_t i = 0; i < r.cap; i++) {
        buf_release(&r.entry[i].data);
    }
    free(r.entry);
}

/* Nothing waits for all servers. */
static void check_no_garbage(struct world *w)
{
    const uint8_t key[] = {SPACE_SYSTEM, 'n'};
    struct buf value;
    buf_init(&value);
    CHECK(w->meta.kv->ops->get(w->meta.kv, NULL, BYTES(key, sizeof key), &value) == 0);
    CHECK(value.len >= 1 + 8 * (COUNT_GARBAGE_IDS + 1));
    const uint64_t ids = get_le64(value.data + 1 + 8 * (size_t)COUNT_GARBAGE_IDS);
    if (ids != 0) {
        sim_fail(&w->report,
                 "a chunk server is down, and all wait with the deletion of %" PRIu64 " ids", ids);
    }
    buf_release(&value);
}

/* One is down or does nothing for a long time: the others delete all that there is. */
static void last_outage(struct world *w)
{
    all_chunks_back(w);
    const unsigned number = (unsigned)prng_below(&w->chunk_prng, SIM_CHUNKS);
    w->chunk[number].refuses = prng_below(&w->chunk_prng, 2) == 0;
    if (!w->chunk[number].refuses) {
        crash_chunk(w, number, UINT32_MAX);
    }
    run(w, 30000);
    if (!w->report.failed) {
        check_ids(w);
        check_no_garbage(w);
    }
    w->chunk[number].refuses = false;
    all_chunks_back(w);
}

static void finish(struct world *w)
{
    const int rc = sim_client_close(w->client, 30000);
    if (rc != 0) {
        sim_fail(&w->report, "the last session cannot be closed: %s", err_name(rc));
    }
    model_end_session(w->model);
    if (with_outages(w)) {
        last_outage(w);
    }
    run(w, 20000);
    sim_meta_stop(&w->meta);
    if (w->report.failed) {
        return;
    }
    struct fsm *f = NULL;
    CHECK(fsm_open(w->meta.kv, &f) == 0);
    check_no_live_deleted(w);
    check_counters(w, f);
    check_ids(w);
    if (fsm_audit(f, on_problem, w) < 0) {
        sim_fail(&w->report, "the audit cannot read the state");
    }
    check_replay(w, f);
    fsm_free(f);
}

/* ---- a run ---------------------------------------------------------------------------------- */

static struct world *world_new(uint64_t seed, enum plant plant, bool trace)
{
    static const char *const names[SIM_CHUNKS] = {"c0", "c1", "c2", "c3", "c4", "c5"};
    struct world *w = xcalloc(1, sizeof *w);
    w->seed = seed;
    w->plant = plant;
    prng_seed(&w->prng, seed);
    prng_seed(&w->meta_prng, prng_u64(&w->prng));
    prng_seed(&w->client_prng, prng_u64(&w->prng));
    prng_seed(&w->chunk_prng, seed);
    timers_init(&w->timers, 1000);
    w->report.timers = &w->timers;
    w->report.trace = trace;
    w->net = net_sim_new(&w->timers, prng_u64(&w->prng));
    w->model = xcalloc(1, sizeof *w->model);
    model_init(w->model);
    sim_meta_init(&w->meta, &w->timers, w->net, &w->meta_prng);
    if (plant == PLANT_NO_SYNC) {
        sim_meta_never_sync(&w->meta);
    }
    sim_meta_start(&w->meta);
    for (unsigned i = 0; i < SIM_CHUNKS; i++) {
        sim_chunk_init(&w->chunk[i], &w->meta, i, names[i]);
    }
    w->nodes = SIM_CHUNKS + 1;
    run(w, 4000);
    return w;
}

static void world_free(struct world *w)
{
    if (w->client != NULL) {
        client_gone(w, w->client);
    }
    sim_meta_stop(&w->meta);
    for (unsigned i = 0; i < SIM_CHUNKS; i++) {
        sim_chunk_release(&w->chunk[i]);
    }
    sim_meta_release(&w->meta);
    free(w->model);
    free(w);
}

static void rounds(struct world *w)
{
    w->client = client_new(w);
    client_open(w, w->client, NULL);
    for (unsigned i = 0; i < ROUNDS && !w->report.failed; i++) {
        one_round(w);
        const uint64_t end = below(w, 5);
        if (end < 2 && !w->report.failed) {
            replace_dead(w, end == 0 || w->client_back_ms != 0);
            continue;
        }
        heal(w);
        check_locks(w);
        check_tree(w, "after healing");
        if (end == 2 && !w->report.failed) {
            close_and_open(w);
        }
    }
}

/* Whether the run was clean; why not is in *why. */
static bool run_seed(uint64_t seed, enum plant plant, bool trace, char why[1000])
{
    struct world *w = world_new(seed, plant, trace);
    rounds(w);
    if (!w->report.failed && !w->model->overflow) {
        heal(w);
        check_tree(w, "at the end");
    }
    if (!w->report.failed && !w->model->overflow) {
        finish(w);
    }
    const bool clean = !w->report.failed;
    snprintf(why, 1000, "%s", w->report.why);
    if (plant == PLANT_NONE && clean) {
        client_gone(w, w->client);
        printf("seed %" PRIu64 ": %" PRIu64 " commands, %u server crashes, %" PRIu64
               " worker restarts, %" PRIu64 " clients died, %" PRIu64
               " chunk server outages, %" PRIu64 " trees compared%s\n",
               seed, w->commands, w->meta.crashes, w->restarts, w->deaths, w->outages, w->checks,
               w->model->overflow ? ", cut short: the model is full" : "");
        w->client = NULL;
    }
    world_free(w);
    return clean;
}

/* ---- the checkers are checked --------------------------------------------------------------- */

/* Seeds that found something, each by what it found. */
static const struct found {
    uint64_t seed;
    const char *claim;
} FOUND[] = {
    {18, "an order number of an earlier reign finishes no other order"},
    {30, "an append behind a failed one is refused, not a broken invariant"},
    {100, "a waiter hears of its lock though the server crashed that granted it"},
};

/* One line here, and one for test/check.sh, which counts them. */
static void tell_test(const char *name, bool good, const char *text)
{
    printf("%s %s: %s\n", good ? "ok" : "not ok", name, text);
    const char *tally = getenv("TALLY");
    FILE *f = tally != NULL ? fopen(tally, "ae") : NULL;
    if (f != NULL) {
        fprintf(f, "%s sim_clients %s\n", good ? "ok" : "not ok", name);
        fclose(f);
    }
}

static bool find_planted(enum plant p)
{
    enum { SEEDS = 30 };
    char why[1000] = "", text[1100];
    uint64_t seed = 1;
    while (seed <= SEEDS && run_seed(seed, p, false, why)) {
        seed++;
    }
    snprintf(text, sizeof text,
             seed > SEEDS ? "not found in %" PRIu64 " seeds" : "found by seed %" PRIu64 ": %s",
             seed > SEEDS ? (uint64_t)SEEDS : seed, why);
    tell_test(PLANT_NAMES[p], seed <= SEEDS, text);
    return seed <= SEEDS;
}

static int self_test(void)
{
    bool good = true;
    for (enum plant p = PLANT_NONE + 1; p < PLANTS; p++) {
        good = find_planted(p) && good;
    }
    for (unsigned i = 0; i < array_count(FOUND); i++) {
        char why[1000] = "";
        const bool clean = run_seed(FOUND[i].seed, PLANT_NONE, false, why);
        tell_test(FOUND[i].claim, clean, clean ? "clean" : why);
        good = good && clean;
    }
    return good ? 0 : 1;
}

/* A crash leaves behind what the server held, as it should: requests that nobody answers, proposals under way. What
 * leaks in ordinary life is found by the unit tests. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

int main(int argc, char **argv)
{
    log_set_level(LOG_LEVEL_ERROR);
    bool trace = false;
    enum plant plant = PLANT_NONE;
    uint64_t seed = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--self-test") == 0) {
            return self_test();
        }
        if (strcmp(argv[i], "--trace") == 0) {
            trace = true;
        } else if (strncmp(argv[i], "--plant=", 8) == 0) {
            for (enum plant p = 0; p < PLANTS; p++) {
                plant = strcmp(argv[i] + 8, PLANT_NAMES[p]) == 0 ? p : plant;
            }
        } else {
            seed = strtoull(argv[i], NULL, 10);
        }
    }
    if (seed == 0) {
        fprintf(stderr, "usage: %s SEED [--trace] [--plant=NAME] | --self-test\n", argv[0]);
        return 2;
    }
    char why[1000];
    if (run_seed(seed, plant, trace, why)) {
        return 0;
    }
    fprintf(stderr, "seed %" PRIu64 ": %s\nreplay with: %s %" PRIu64 "%s%s --trace\n", seed, why,
            argv[0], seed, plant != PLANT_NONE ? " --plant=" : "",
            plant != PLANT_NONE ? PLANT_NAMES[plant] : "");
    return 1;
}
