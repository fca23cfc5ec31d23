#include "chunkserver/chunk_service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/table.h"
#include "chunk.pb-c.h"
#include "proto/methods.h"

struct epoch_row {
    struct table_node node;
    uint32_t pg, epoch;
};

/* Ids ordered deleted. A put of one may still come, from a client that was stopped or over a slow connection; it would
 * lie here for ever, for nobody orders the same deletion again. The newest orders are enough for that. */
enum { DEAD_RANGES = 1024 };
struct dead_range {
    uint32_t pg;
    uint64_t first, last;
};

struct chunk_service {
    struct server *server;
    struct fragstore *store;
    struct databuf_pool *reads;
    struct table epochs;
    uint64_t reign;
    struct list waiting; /* struct work: gets that wait for a buffer */
    bool stopped, pumping;
    struct timer pump; /* armed when a buffer came back */
    struct timers *timers;
    struct log_limit corrupt_limit;
    struct dead_range dead[DEAD_RANGES]; /* a ring */
    uint64_t n_dead;
};

/* A request on its way through the store. */
struct work {
    struct frag_op op;
    struct chunk_service *cs;
    struct request *r;
    struct databuf *buf; /* GET */
    struct iovec iov;    /* GET: what the reply sends */
    struct list node;
    uint64_t last; /* DELETE: ranges done */
    Cfs__FragmentDelete *ranges;
};

static struct work *work_new(struct chunk_service *cs, struct request *r, enum frag_op_kind kind,
                             void (*on_done)(struct frag_op *op))
{
    struct work *w = xcalloc(1, sizeof *w);
    w->cs = cs;
    w->r = r;
    w->op.kind = kind;
    w->op.on_done = on_done;
    list_init(&w->node);
    return w;
}

static struct work *work_of(struct frag_op *op)
{
    return container_of(op, struct work, op);
}

/* ---- what the metadata server said -------------------------------------------------------- */

static struct epoch_row *epoch_find(const struct chunk_service *cs, uint32_t pg)
{
    struct table_node *n = table_find(&cs->epochs, table_mix(pg));
    for (; n != NULL; n = table_next_same(n)) {
        struct epoch_row *row = container_of(n, struct epoch_row, node);
        if (row->pg == pg) {
            return row;
        }
    }
    return NULL;
}

void chunk_service_set_epoch(struct chunk_service *cs, uint32_t pg, uint32_t epoch)
{
    struct epoch_row *row = epoch_find(cs, pg);
    if (row == NULL) {
        row = xcalloc(1, sizeof *row);
        row->pg = pg;
        table_add(&cs->epochs, &row->node, table_mix(pg));
    }
    row->epoch = epoch > row->epoch ? epoch : row->epoch;
}

bool chunk_service_set_reign(struct chunk_service *cs, uint64_t reign)
{
    if (reign < cs->reign) {
        return false;
    }
    cs->reign = reign;
    return true;
}

void chunk_service_dead(struct chunk_service *cs, uint32_t pg, uint64_t first, uint64_t count)
{
    if (count > 0) {
        uint64_t last = count - 1 > UINT64_MAX - first ? UINT64_MAX : first + count - 1;
        cs->dead[cs->n_dead++ % DEAD_RANGES] =
            (struct dead_range){.pg = pg, .first = first, .last = last};
    }
}

static bool is_dead(const struct chunk_service *cs, const struct frag_key *key)
{
    uint64_t n = cs->n_dead < DEAD_RANGES ? cs->n_dead : DEAD_RANGES;
    for (uint64_t i = 0; i < n; i++) {
        const struct dead_range *d = &cs->dead[i];
        if (d->pg == key->pg && d->first <= key->id && key->id <= d->last) {
            return true;
        }
    }
    return false;
}

/* ---- put ---------------------------------------------------------------------------------- */

static void put_done(struct frag_op *op)
{
    struct work *w = work_of(op);
    if (op->rc == 0) {
        request_reply(w->r, 0, BYTES(NULL, 0), NULL);
    } else if (op->rc == ERR_CORRUPT) {
        request_fail(w->r, op->rc, "the payload does not match its checksums");
    } else {
        request_fail(w->r, op->rc, "%s", err_text(op->rc));
    }
    free(w);
}

/* Moves a message into a fragment; NULL, or why it cannot be one. */
static const char *put_fragment(const Cfs__FragmentPut *m, size_t bytes, struct fragment *f)
{
    if (m->slot >= STRIPE_SLOTS_MAX || m->kind > UINT8_MAX || m->k > UINT8_MAX ||
        m->m > UINT8_MAX || bytes > STRIPE_FRAGMENT_MAX) {
        return "a number is out of range";
    }
    *f = (struct fragment){
        .key = {.pg = m->pg, .id = m->id, .slot = (uint8_t)m->slot},
        .code = {.kind = (uint8_t)m->kind, .k = (uint8_t)m->k, .m = (uint8_t)m->m},
        .bytes = (uint32_t)bytes,
        .epoch = m->epoch,
        .stripe_length = m->stripe_length,
        .nonce = m->nonce,
    };
    const char *refusal = fragment_refusal(f);
    if (refusal == NULL && m->n_crc != stripe_crc_blocks(f->bytes)) {
        refusal = "wrong number of checksums";
    }
    for (size_t i = 0; refusal == NULL && i < m->n_crc; i++) {
        f->crc[i] = m->crc[i];
    }
    return refusal;
}

static void handle_put(struct request *r, void *ctx)
{
    struct chunk_service *cs = ctx;
    Cfs__FragmentPut *m = cfs__fragment_put__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
        return;
    }
    struct work *w = work_new(cs, r, FRAG_PUT, put_done);
    const char *refusal =
        put_fragment(m, r->payload != NULL ? r->payload->len : 0, &w->op.fragment);
    const struct epoch_row *row = epoch_find(cs, m->pg);
    cfs__fragment_put__free_unpacked(m, NULL);
    if (cs->stopped) {
        request_fail(r, ERR_BUSY, "this chunk server is stopping");
    } else if (refusal != NULL) {
        request_fail(r, -EINVAL, "fragment refused: %s", refusal);
    } else if (row != NULL && w->op.fragment.epoch < row->epoch) {
        request_fail(r, ERR_STALE_EPOCH, "group %u has epoch %u", row->pg, row->epoch);
    } else if (is_dead(cs, &w->op.fragment.key)) {
        request_fail(r, ERR_DEAD_ID, "this id was deleted");
    } else {
        w->op.data = r->payload->data;
        fragstore_submit(cs->store, &w->op);
        return;
    }
    free(w);
}

/* ---- get and stat ------------------------------------------------------------------------- */

static void log_corrupt(struct chunk_service *cs, const struct frag_op *op)
{
    unsigned long suppressed = 0;
    struct fragstore_disk disk;
    if (!log_allowed(&cs->corrupt_limit, clock_now_ms(), &suppressed)) {
        return;
    }
    fragstore_disk_get(cs->store, op->disk, &disk);
    log_warn("damaged fragment pg=%u id=%llu slot=%u disk=%s suppressed=%lu", op->fragment.key.pg,
             (unsigned long long)op->fragment.key.id, op->fragment.key.slot, disk.path, suppressed);
}

static void get_sent(void *ctx)
{
    struct work *w = ctx;
    databuf_unref(w->buf);
    free(w);
}

static void get_reply(struct work *w)
{
    const struct fragment *f = &w->op.fragment;
    uint32_t crc[STRIPE_CRC_MAX];
    Cfs__FragmentGetReply m = CFS__FRAGMENT_GET_REPLY__INIT;
    m.fragment_bytes = f->bytes;
    m.offset = w->op.offset;
    m.n_crc = stripe_crc_blocks(w->op.length);
    memcpy(crc, f->crc + w->op.offset / STRIPE_CRC_BLOCK, m.n_crc * sizeof *crc);
    m.crc = crc;
    uint8_t packed[256];
    CHECK(cfs__fragment_get_reply__get_packed_size(&m) <= sizeof packed);
    size_t len = cfs__fragment_get_reply__pack(&m, packed);
    w->iov = (struct iovec){w->op.data, w->op.length};
    struct reply_payload payload = {.iov = &w->iov, .n = 1, .on_sent = get_sent, .ctx = w};
    request_reply(w->r, 0, BYTES(packed, len), &payload);
}

static void get_done(struct frag_op *op)
{
    struct work *w = work_of(op);
    if (op->rc == 0) {
        get_reply(w);
        return;
    }
    if (op->rc == ERR_CORRUPT) {
        log_corrupt(w->cs, op);
    }
    request_fail(w->r, op->rc, "%s",
                 op->rc == -EINVAL ? "the range is outside of the fragment" : err_text(op->rc));
    databuf_unref(w->buf);
    free(w);
}

static void stat_done(struct frag_op *op);
static void list_done(struct frag_op *op);

static void pack_info(const struct chunk_service *cs, const struct fragment *f, int disk,
                      Cfs__FragmentInfo *m)
{
    cfs__fragment_info__init(m);
    m->pg = f->key.pg;
    m->id = f->key.id;
    m->slot = f->key.slot;
    m->nonce = f->nonce;
    m->kind = f->code.kind;
    m->k = f->code.k;
    m->m = f->code.m;
    m->stripe_length = f->stripe_length;
    m->fragment_bytes = f->bytes;
    m->has_epoch = 1;
    m->epoch = f->epoch;
    if (disk >= 0) {
        struct fragstore_disk d;
        fragstore_disk_get(cs->store, (unsigned)disk, &d);
        m->disk = (char *)(uintptr_t)d.path;
    }
}

static void stat_done(struct frag_op *op)
{
    struct work *w = work_of(op);
    if (op->rc != 0) {
        request_fail(w->r, op->rc, "%s", err_text(op->rc));
    } else {
        Cfs__FragmentInfo m;
        struct buf packed;
        buf_init(&packed);
        pack_info(w->cs, &op->fragment, (int)op->disk, &m);
        cfs__fragment_info__pack(&m, buf_extend(&packed, cfs__fragment_info__get_packed_size(&m)));
        request_reply(w->r, 0, buf_bytes(&packed), NULL);
        buf_release(&packed);
    }
    free(w);
}

/* Gives buffers to the gets that wait, first come first served. */
static void pump_run(struct timer *t)
{
    struct chunk_service *cs = container_of(t, struct chunk_service, pump);
    while (!list_empty(&cs->waiting)) {
        struct databuf *buf = databuf_get(cs->reads);
        if (buf == NULL) {
            return; /* the pool tells when one is back */
        }
        struct work *w = list_first(&cs->waiting, struct work, node);
        list_remove(&w->node);
        w->buf = buf;
        w->op.data = buf->data;
        fragstore_submit(cs->store, &w->op);
    }
}

static void pool_has_one(void *ctx)
{
    struct chunk_service *cs = ctx;
    timers_arm(cs->timers, &cs->pump, 0); /* not in its own call: that is the pool's */
}

static void handle_find(struct request *r, void *ctx, enum frag_op_kind kind)
{
    struct chunk_service *cs = ctx;
    Cfs__FragmentGet *m = cfs__fragment_get__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
        return;
    }
    bool bad = m->slot >= STRIPE_SLOTS_MAX;
    struct work *w = work_new(cs, r, kind, kind == FRAG_GET ? get_done : stat_done);
    w->op.fragment.key = (struct frag_key){.pg = m->pg, .id = m->id, .slot = (uint8_t)m->slot};
    w->op.fragment.nonce = m->has_nonce ? m->nonce : 0;
    w->op.offset = m->has_offset ? m->offset : 0;
    w->op.length = m->has_length ? m->length : 0;
    cfs__fragment_get__free_unpacked(m, NULL);
    if (bad || cs->stopped) {
        request_fail(r, bad ? -EINVAL : ERR_BUSY,
                     bad ? "no such slot" : "this chunk server is stopping");
        free(w);
    } else if (kind == FRAG_GET) {
        list_add_tail(&cs->waiting, &w->node);
        pump_run(&cs->pump);
    } else {
        fragstore_submit(cs->store, &w->op);
    }
}

static void handle_get(struct request *r, void *ctx)
{
    handle_find(r, ctx, FRAG_GET);
}

static void handle_stat(struct request *r, void *ctx)
{
    handle_find(r, ctx, FRAG_STAT);
}

/* ---- list --------------------------------------------------------------------------------- */

static void list_done(struct frag_op *op)
{
    struct work *w = work_of(op);
    if (op->rc != 0) {
        request_fail(w->r, op->rc, "%s", err_text(op->rc));
    } else {
        Cfs__FragmentListReply m = CFS__FRAGMENT_LIST_REPLY__INIT;
        Cfs__FragmentInfo *info = xcalloc(op->n_list + 1, sizeof *info);
        m.fragment = xcalloc(op->n_list + 1, sizeof(Cfs__FragmentInfo *));
        for (unsigned i = 0; i < op->n_list; i++) {
            pack_info(w->cs, &op->list[i], -1, &info[i]);
            m.fragment[i] = &info[i];
        }
        m.n_fragment = op->n_list;
        m.end = op->end;
        struct buf packed;
        buf_init(&packed);
        cfs__fragment_list_reply__pack(
            &m, buf_extend(&packed, cfs__fragment_list_reply__get_packed_size(&m)));
        request_reply(w->r, 0, buf_bytes(&packed), NULL);
        buf_release(&packed);
        free(m.fragment);
        free(info);
    }
    free(op->list);
    free(w);
}

static void handle_list(struct request *r, void *ctx)
{
    struct chunk_service *cs = ctx;
    Cfs__FragmentList *m = cfs__fragment_list__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
        return;
    }
    if (cs->stopped) {
        request_fail(r, ERR_BUSY, "this chunk server is stopping");
    } else {
        struct work *w = work_new(cs, r, FRAG_LIST, list_done);
        w->op.fragment.key = (struct frag_key){.pg = m->pg, .id = m->after};
        w->op.max = m->max;
        fragstore_submit(cs->store, &w->op);
    }
    cfs__fragment_list__free_unpacked(m, NULL);
}

/* ---- delete ------------------------------------------------------------------------------- */

/* One range after the other; the first failure ends it, and so does the server's end. */
static void delete_next(struct frag_op *op)
{
    struct work *w = work_of(op);
    const bool more = w->last < w->ranges->n_id;
    if (op->rc == 0 && more && w->cs->stopped) {
        op->rc = ERR_BUSY;
    }
    if (op->rc == 0 && more) {
        const Cfs__Uint64Range *range = w->ranges->id[w->last++];
        op->fragment.key = (struct frag_key){.pg = w->ranges->pg, .id = range->first};
        op->count = range->count;
        chunk_service_dead(w->cs, w->ranges->pg, range->first, range->count);
        fragstore_submit(w->cs->store, op);
        return;
    }
    if (op->rc == 0) {
        request_reply(w->r, 0, BYTES(NULL, 0), NULL);
    } else {
        request_fail(w->r, op->rc, "%s", err_text(op->rc));
    }
    cfs__fragment_delete__free_unpacked(w->ranges, NULL);
    free(w);
}

static void handle_delete(struct request *r, void *ctx)
{
    struct chunk_service *cs = ctx;
    Cfs__FragmentDelete *m = cfs__fragment_delete__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
        return;
    }
    if (cs->stopped || m->reign < cs->reign) {
        request_fail(r, cs->stopped ? ERR_BUSY : ERR_STALE_REIGN,
                     cs->stopped ? "this chunk server is stopping"
                                 : "an order of an earlier leader");
        cfs__fragment_delete__free_unpacked(m, NULL);
        return;
    }
    struct work *w = work_new(cs, r, FRAG_DELETE, delete_next);
    w->ranges = m;
    delete_next(&w->op);
}

/* ---- life --------------------------------------------------------------------------------- */

struct chunk_service *chunk_service_new(struct server *server, struct timers *timers,
                                        struct fragstore *store, struct databuf_pool *reads)
{
    struct chunk_service *cs = xcalloc(1, sizeof *cs);
    cs->server = server;
    cs->store = store;
    cs->reads = reads;
    cs->timers = timers;
    cs->pump.on_due = pump_run;
    list_init(&cs->waiting);
    table_init(&cs->epochs);
    databuf_pool_on_free(reads, pool_has_one, cs);
    server_handle(server, METHOD_FRAGMENT_PUT, handle_put, cs);
    server_handle(server, METHOD_FRAGMENT_GET, handle_get, cs);
    server_handle(server, METHOD_FRAGMENT_STAT, handle_stat, cs);
    server_handle(server, METHOD_FRAGMENT_LIST, handle_list, cs);
    server_handle(server, METHOD_FRAGMENT_DELETE, handle_delete, cs);
    return cs;
}

void chunk_service_stop(struct chunk_service *cs)
{
    cs->stopped = true;
    while (!list_empty(&cs->waiting)) {
        struct work *w = list_first(&cs->waiting, struct work, node);
        list_remove(&w->node);
        request_fail(w->r, ERR_BUSY, "this chunk server is stopping");
        free(w);
    }
}

static void free_epoch(struct table_node *node, void *ctx)
{
    struct chunk_service *cs = ctx;
    table_remove(&cs->epochs, node);
    free(container_of(node, struct epoch_row, node));
}

void chunk_service_free(struct chunk_service *cs)
{
    if (cs == NULL) {
        return;
    }
    CHECK(list_empty(&cs->waiting));
    timers_stop(cs->timers, &cs->pump);
    databuf_pool_on_free(cs->reads, NULL, cs);
    table_walk(&cs->epochs, free_epoch, cs);
    table_release(&cs->epochs);
    free(cs);
}
