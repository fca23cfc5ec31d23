#include "chunkserver/heartbeat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "chunk.pb-c.h"
#include "proto/methods.h"

/* States: REGISTERING until a leader has given us our number, then BEATING. Any failure moves
 * on to the next address; ERR_NOT_FOUND (a leader that does not know the number) registers again.
 *
 * One call is out at a time, and one set of orders is being done at a time: those of the last
 * reply. When they are done the next heartbeat goes out at once, with their numbers; a number is
 * sent until a reply to a heartbeat that carried it has come. */
enum { METAS_MAX = 16, FEATURE_LEVEL = 1, OWN_COUNTERS = 9, ORDER_WINDOW = 64 };

struct heartbeat {
    struct heartbeat_options o;
    struct timers *timers;
    struct peer *meta[METAS_MAX];
    unsigned n_metas, current;
    char *listen, *domain, *version;
    struct timer timer;
    struct call call;
    struct buf packed;
    bool calling, stopped, registered, foreign_told;
    uint32_t id, epochs_version;
    uint64_t reign;
    uint64_t *done; /* numbers of orders done and not yet heard */
    size_t n_done, n_sent;
    bool lost; /* told that no metadata server answers */
    /* Orders of the last reply, and where we are in them. */
    Cfs__ChunkHeartbeatReply *reply;
    size_t order, range;
    bool *order_failed; /* per order */
    struct order_op {
        struct frag_op op;
        struct heartbeat *heartbeat;
        size_t order;
    } op[ORDER_WINDOW];
    unsigned deleting; /* of op, in the store */
    struct log_limit order_limit;
};

static void beat(struct timer *t);
static void orders_next(struct heartbeat *h);

/* ---- saying how we are --------------------------------------------------------------------- */

struct disk_rows {
    Cfs__DiskRow row[FRAGSTORE_DISKS_MAX];
    Cfs__DiskRow *pointer[FRAGSTORE_DISKS_MAX];
    struct fragstore_disk disk[FRAGSTORE_DISKS_MAX];
    unsigned n;
    struct fragdisk_state sum;
};

static void collect_disks(const struct heartbeat *h, struct disk_rows *rows)
{
    memset(rows, 0, sizeof *rows);
    rows->n = fragstore_disks(h->o.store);
    for (unsigned i = 0; i < rows->n; i++) {
        struct fragstore_disk *d = &rows->disk[i];
        Cfs__DiskRow *row = &rows->row[i];
        fragstore_disk_get(h->o.store, i, d);
        cfs__disk_row__init(row);
        row->uuid = (ProtobufCBinaryData){.data = d->id, .len = IDENTITY_BYTES};
        row->total = d->state.total;
        row->free = d->state.health == FRAGDISK_FAILED ? 0 : d->state.free;
        row->filesystem = d->state.filesystem;
        row->has_filesystem_free = true;
        row->filesystem_free = d->state.filesystem_free;
        row->state = d->state.health;
        row->path = (char *)(uintptr_t)d->path;
        rows->pointer[i] = row;
        rows->sum.fragments += d->state.fragments;
        rows->sum.corrupt += d->state.corrupt;
        rows->sum.puts += d->state.puts;
        rows->sum.put_bytes += d->state.put_bytes;
        rows->sum.batches += d->state.batches;
        rows->sum.reads += d->state.reads;
        rows->sum.read_bytes += d->state.read_bytes;
        rows->sum.deletes += d->state.deletes;
        rows->sum.compacted += d->state.compacted;
        rows->sum.used += d->state.used;
    }
}

struct own_counters {
    Cfs__CountersReply__Counter counter[OWN_COUNTERS];
    Cfs__CountersReply__Counter **pointer; /* the server's, then ours */
};

static void pack_beat(struct heartbeat *h, const struct disk_rows *rows, Cfs__CountersReply *c)
{
    Cfs__ChunkHeartbeat m = CFS__CHUNK_HEARTBEAT__INIT;
    m.id = h->id;
    const struct identity *id = fragstore_identity(h->o.store);
    m.has_server = 1;
    m.server =
        (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id->server, .len = IDENTITY_BYTES};
    m.n_disk = rows->n;
    m.disk = (Cfs__DiskRow **)(uintptr_t)rows->pointer;
    m.n_order_done = h->n_done;
    m.order_done = h->done;
    h->n_sent = h->n_done;
    m.has_fragments = m.has_corrupt = m.has_epochs_version = 1;
    m.fragments = rows->sum.fragments;
    m.corrupt = rows->sum.corrupt;
    m.epochs_version = h->epochs_version;
    m.counters = c;
    cfs__chunk_heartbeat__pack(&m,
                               buf_extend(&h->packed, cfs__chunk_heartbeat__get_packed_size(&m)));
}

static void make_beat(struct heartbeat *h)
{
    struct disk_rows *rows = xmalloc(sizeof *rows);
    collect_disks(h, rows);
    const struct fragdisk_state *sum = &rows->sum;
    const struct {
        const char *name;
        uint64_t value;
    } own[OWN_COUNTERS] = {{"disk.puts", sum->puts},
                           {"disk.put-bytes", sum->put_bytes},
                           {"disk.syncs", sum->batches},
                           {"disk.gets", sum->reads},
                           {"disk.get-bytes", sum->read_bytes},
                           {"disk.deletes", sum->deletes},
                           {"disk.compacted-bytes", sum->compacted},
                           {"disk.used", sum->used},
                           {"disk.corrupt", sum->corrupt}};
    struct buf counters;
    buf_init(&counters);
    server_counters(h->o.server, &counters);
    Cfs__CountersReply *base = cfs__counters_reply__unpack(NULL, counters.len, counters.data);
    CHECK(base != NULL);
    Cfs__CountersReply all = CFS__COUNTERS_REPLY__INIT;
    struct own_counters mine;
    all.n_counter = base->n_counter + OWN_COUNTERS;
    mine.pointer = xcalloc(all.n_counter, sizeof *mine.pointer);
    for (unsigned i = 0; i < OWN_COUNTERS; i++) {
        cfs__counters_reply__counter__init(&mine.counter[i]);
        mine.counter[i].name = (char *)(uintptr_t)own[i].name;
        mine.counter[i].value = own[i].value;
        mine.pointer[base->n_counter + i] = &mine.counter[i];
    }
    if (base->n_counter > 0) {
        memcpy(mine.pointer, base->counter, base->n_counter * sizeof *mine.pointer);
    }
    all.counter = mine.pointer;
    pack_beat(h, rows, &all);
    free(mine.pointer);
    cfs__counters_reply__free_unpacked(base, NULL);
    buf_release(&counters);
    free(rows);
}

static void make_register(struct heartbeat *h)
{
    struct disk_rows *rows = xmalloc(sizeof *rows);
    collect_disks(h, rows);
    const struct identity *id = fragstore_identity(h->o.store);
    Cfs__ChunkRegister m = CFS__CHUNK_REGISTER__INIT;
    m.server =
        (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id->server, .len = IDENTITY_BYTES};
    m.has_cluster = id->has_cluster;
    m.cluster = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id->cluster,
                                      .len = id->has_cluster ? IDENTITY_BYTES : 0};
    m.address = h->listen;
    m.version = h->version;
    m.feature_level = FEATURE_LEVEL;
    m.n_disk = rows->n;
    m.disk = rows->pointer;
    m.domain = h->domain;
    cfs__chunk_register__pack(&m, buf_extend(&h->packed, cfs__chunk_register__get_packed_size(&m)));
    free(rows);
}

/* ---- what comes back ----------------------------------------------------------------------- */

static void schedule(struct heartbeat *h, uint64_t in_ms)
{
    if (!h->stopped) {
        timers_arm(h->timers, &h->timer, timers_now(h->timers) + in_ms);
    }
}

static void foreign(struct heartbeat *h, const char *text)
{
    if (!h->foreign_told && h->o.on_foreign != NULL) {
        h->foreign_told = true;
        h->o.on_foreign(h->o.ctx, text);
    }
}

static char *refusal_text(const struct call *c)
{
    Cfs__Refusal *m =
        c->reply.len == 0 ? NULL : cfs__refusal__unpack(NULL, c->reply.len, c->reply.data);
    char *text = xstrdup(m != NULL ? m->text : err_text(c->rc));
    if (m != NULL) {
        cfs__refusal__free_unpacked(m, NULL);
    }
    return text;
}

/* The current address did not help: the next one, at once until all had their turn. */
static void failed(struct heartbeat *h, struct call *c)
{
    char *text = refusal_text(c);
    if (c->rc == ERR_WRONG_CLUSTER) {
        foreign(h, text);
    }
    if (c->rc != ERR_NOT_LEADER && !h->lost) {
        h->lost = true;
        log_warn("metadata server does not help: serving on, asking on address=%s error=%s "
                 "text=\"%s\"",
                 peer_address(h->meta[h->current]), err_name(c->rc), text);
    }
    free(text);
    if (c->rc == ERR_NOT_FOUND) {
        h->registered = false; /* a leader that does not know us */
    }
    h->current = (h->current + 1) % h->n_metas;
    schedule(h, h->current != 0 ? 0 : HEARTBEAT_RETRY_MS);
}

static int accept_cluster(struct heartbeat *h, const ProtobufCBinaryData *cluster)
{
    if (cluster->len != IDENTITY_BYTES) {
        return ERR_MALFORMED;
    }
    int rc = fragstore_set_cluster(h->o.store, cluster->data);
    if (rc == ERR_WRONG_CLUSTER) {
        foreign(h, "the metadata server belongs to another cluster than the disks of this server");
    }
    return rc;
}

static int register_reply(struct heartbeat *h, const struct call *c)
{
    Cfs__ChunkRegisterReply *m =
        cfs__chunk_register_reply__unpack(NULL, c->reply.len, c->reply.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = m->reign < h->reign ? ERR_STALE_REIGN : accept_cluster(h, &m->cluster);
    if (rc == 0) {
        h->id = m->id;
        h->reign = m->reign;
        (void)chunk_service_set_reign(h->o.service, m->reign); /* not older: just compared */
        h->registered = true;
        h->epochs_version = 0;
        log_info("registered id=%u meta=%s", h->id, peer_address(h->meta[h->current]));
    }
    cfs__chunk_register_reply__free_unpacked(m, NULL);
    return rc;
}

static int beat_reply(struct heartbeat *h, const struct call *c)
{
    Cfs__ChunkHeartbeatReply *m =
        cfs__chunk_heartbeat_reply__unpack(NULL, c->reply.len, c->reply.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    if (!chunk_service_set_reign(h->o.service, m->reign)) {
        cfs__chunk_heartbeat_reply__free_unpacked(m, NULL);
        return ERR_STALE_REIGN;
    }
    h->reign = m->reign;
    for (size_t i = 0; i < m->n_epoch; i++) {
        chunk_service_set_epoch(h->o.service, m->epoch[i]->pg, m->epoch[i]->epoch);
    }
    h->epochs_version = m->has_epochs_version ? m->epochs_version : h->epochs_version;
    /* What was sent with this heartbeat has been heard. */
    h->n_done -= h->n_sent;
    if (h->n_done > 0) {
        memmove(h->done, h->done + h->n_sent, h->n_done * sizeof *h->done);
    }
    h->n_sent = 0;
    h->reply = m;
    h->order = h->range = 0;
    h->order_failed = xcalloc(m->n_order + 1, sizeof *h->order_failed);
    return 0;
}

/* ---- orders -------------------------------------------------------------------------------- */

static void range_deleted(struct frag_op *op)
{
    struct order_op *one = container_of(op, struct order_op, op);
    struct heartbeat *h = one->heartbeat;
    if (op->rc != 0) {
        h->order_failed[one->order] = true; /* not reported as done: it will be given again */
        unsigned long suppressed = 0;
        if (log_allowed(&h->order_limit, timers_now(h->timers), &suppressed)) {
            log_warn("order not carried out error=%s text=\"%s\" suppressed=%lu", err_name(op->rc),
                     err_text(op->rc), suppressed);
        }
    }
    if (--h->deleting == 0) {
        orders_next(h);
    }
}

static void orders_end(struct heartbeat *h)
{
    size_t before = h->n_done;
    for (size_t i = 0; i < h->order && !h->stopped; i++) {
        if (!h->order_failed[i]) {
            h->done = xrealloc(h->done, (h->n_done + 1) * sizeof *h->done);
            h->done[h->n_done++] = h->reply->order[i]->order;
        }
    }
    cfs__chunk_heartbeat_reply__free_unpacked(h->reply, NULL);
    h->reply = NULL;
    free(h->order_failed);
    h->order_failed = NULL;
    schedule(h, h->n_done > before ? 0 : HEARTBEAT_MS);
}

/* The next range to delete, or NULL. */
static const Cfs__Uint64Range *next_range(struct heartbeat *h, size_t *order)
{
    while (h->order < h->reply->n_order) {
        const Cfs__DeleteOrder *o = h->reply->order[h->order];
        if (h->range == 0 && o->reign < h->reign) {
            log_warn("order of an earlier leader refused order=%llu", (unsigned long long)o->order);
            h->order_failed[h->order] = true;
        }
        if (h->range < o->n_id && !h->order_failed[h->order]) {
            *order = h->order;
            return o->id[h->range++];
        }
        h->order++;
        h->range = 0;
    }
    return NULL;
}

/* A window of ranges at a time: they share a sync on each disk. */
static void orders_next(struct heartbeat *h)
{
    const Cfs__Uint64Range *range = NULL;
    size_t order = 0;
    unsigned n = 0;
    while (n < ORDER_WINDOW && !h->stopped && (range = next_range(h, &order)) != NULL) {
        struct order_op *one = &h->op[n++];
        memset(one, 0, sizeof *one);
        one->heartbeat = h;
        one->order = order;
        one->op.kind = FRAG_DELETE;
        one->op.fragment.key =
            (struct frag_key){.pg = h->reply->order[order]->pg, .id = range->first};
        one->op.count = range->count;
        chunk_service_dead(h->o.service, h->reply->order[order]->pg, range->first, range->count);
        one->op.on_done = range_deleted;
    }
    h->deleting = n;
    for (unsigned i = 0; i < n; i++) {
        fragstore_submit(h->o.store, &h->op[i].op);
    }
    if (n == 0) {
        orders_end(h);
    }
}

/* ---- the beat ------------------------------------------------------------------------------ */

static void on_reply(struct call *c)
{
    struct heartbeat *h = container_of(c, struct heartbeat, call);
    h->calling = false;
    if (h->stopped) {
        return;
    }
    bool beating = h->registered;
    if (c->rc == 0) {
        c->rc = beating ? beat_reply(h, c) : register_reply(h, c);
    }
    if (c->rc != 0) {
        failed(h, c);
        return;
    }
    if (h->lost) {
        h->lost = false;
        log_info("metadata server answers address=%s", peer_address(h->meta[h->current]));
    }
    if (beating) {
        orders_next(h);
    } else {
        schedule(h, 0);
    }
}

static void beat(struct timer *t)
{
    struct heartbeat *h = container_of(t, struct heartbeat, timer);
    if (h->stopped || h->calling || h->reply != NULL) {
        return;
    }
    fragstore_refresh(h->o.store, timers_now(h->timers), HEARTBEAT_HUNG_MS);
    buf_clear(&h->packed);
    if (h->registered) {
        make_beat(h);
    } else {
        make_register(h);
    }
    memset(&h->call, 0, sizeof h->call);
    h->call.method = h->registered ? METHOD_CHUNK_HEARTBEAT : METHOD_CHUNK_REGISTER;
    h->call.body = buf_bytes(&h->packed);
    h->call.timeout_ms = HEARTBEAT_TIMEOUT_MS;
    h->call.on_done = on_reply;
    h->calling = true;
    call_start(h->meta[h->current], &h->call);
}

/* ---- life ---------------------------------------------------------------------------------- */

static void add_metas(struct heartbeat *h, const char *addresses)
{
    char *copy = xstrdup(addresses), *rest = copy;
    for (char *one = strsep(&rest, ","); one != NULL; one = strsep(&rest, ",")) {
        if (*one != '\0' && h->n_metas < METAS_MAX) {
            h->meta[h->n_metas++] = peer_new(h->o.transport, one, NULL, NULL);
        }
    }
    free(copy);
}

int heartbeat_start(const struct heartbeat_options *options, struct heartbeat **out)
{
    struct heartbeat *h = xcalloc(1, sizeof *h);
    h->o = *options;
    h->timers = options->transport->timers;
    h->listen = xstrdup(options->listen);
    h->domain = options->domain != NULL ? xstrdup(options->domain) : NULL;
    h->version = xstrdup(options->version);
    h->timer.on_due = beat;
    buf_init(&h->packed);
    add_metas(h, options->addresses);
    if (h->n_metas == 0) {
        heartbeat_free(h);
        return -EINVAL;
    }
    schedule(h, 0);
    *out = h;
    return 0;
}

void heartbeat_stop(struct heartbeat *h)
{
    h->stopped = true;
    timers_stop(h->timers, &h->timer);
    if (h->calling) {
        call_cancel(&h->call);
        h->calling = false;
    }
}

void heartbeat_free(struct heartbeat *h)
{
    if (h == NULL) {
        return;
    }
    CHECK(h->deleting == 0);
    for (unsigned i = 0; i < h->n_metas; i++) {
        peer_free(h->meta[i]);
    }
    if (h->reply != NULL) {
        cfs__chunk_heartbeat_reply__free_unpacked(h->reply, NULL);
    }
    free(h->order_failed);
    free(h->done);
    buf_release(&h->packed);
    free(h->listen);
    free(h->domain);
    free(h->version);
    free(h);
}
