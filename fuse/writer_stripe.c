#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/err.h"
#include "chunk.pb-c.h"
#include "fuse/writer_internal.h"
#include "meta.pb-c.h"
#include "proto/methods.h"

/* One stripe: an id of a granted range, parity and checksums page by page while the data is in the
 * CPU's cache, one PUT per fragment straight from the arena. All answered well: the stripe is ready
 * to be committed. Any of them not: its id is given up, what was learnt about servers is noted, and
 * its pages are dirty again, to be sent under a new id, in the encoding that the servers then
 * allow. A stripe is never committed with a fragment missing. */
enum { IDS_LOW = 256, IDS_ASK = 1024, POOLED_PARITY = 256 << 10, GRANT_RETRY_MS = 500 };

/* ---- ids ---- */

static void grant_take(struct writer *w, const Cfs__OpReply *reply)
{
    for (size_t i = 0; i < reply->n_grant; i++) {
        const Cfs__IdGrant *g = reply->grant[i];
        if (g->count == 0) {
            continue;
        }
        if (w->n_ranges == w->range_cap) {
            w->range_cap = w->range_cap == 0 ? 64 : w->range_cap * 2;
            w->range = xrealloc(w->range, w->range_cap * sizeof *w->range);
        }
        w->range[w->n_ranges++] =
            (struct id_range){.pg = g->pg, .first = g->first, .count = g->count};
        w->ids_left += g->count;
    }
}

static void grant_done(struct command *cmd)
{
    struct writer *w = container_of(cmd, struct writer, grant);
    const uint64_t now = w->client->timers->now_ms;
    w->granting = false;
    buf_release(&cmd->ops);
    session_release_seq(w->client->session, cmd->seq);
    const uint64_t before = w->ids_left;
    if (cmd->rc == 0) {
        Cfs__OpsReply *reply = cfs__ops_reply__unpack(NULL, cmd->reply.len, cmd->reply.data);
        if (reply != NULL && reply->n_result > 0 &&
            reply->result[reply->n_result - 1]->status == 0) {
            grant_take(w, reply->result[reply->n_result - 1]);
            w->retire = false;
        }
        if (reply != NULL) {
            cfs__ops_reply__free_unpacked(reply, NULL);
        }
    } else if (cmd->rc == ERR_SESSION_ENDED) {
        writer_session_ended(w);
        writer_deliver(w);
        return;
    }
    if (w->ids_left == before) { /* no groups yet, or refused */
        w->grant_retry_ms = now + GRANT_RETRY_MS;
    }
    writer_pump_pending(w);
    writer_deliver(w);
}

void ids_want(struct writer *w)
{
    struct client *c = w->client;
    if (w->granting || w->ended || c->timers->now_ms < w->grant_retry_ms ||
        session_id(c->session) == 0) { /* not open yet: a slow server, the tick comes again */
        return;
    }
    Cfs__Ops ops = CFS__OPS__INIT;
    Cfs__Op op[2] = {CFS__OP__INIT, CFS__OP__INIT};
    Cfs__Op *list[2];
    Cfs__RetireIdsOp retire = CFS__RETIRE_IDS_OP__INIT;
    Cfs__GrantIdsOp grant = CFS__GRANT_IDS_OP__INIT;
    if (w->retire) { /* after a restart no range of the dead worker is gone on with */
        op[0].retire_ids = &retire;
        list[ops.n_op++] = &op[0];
    }
    grant.count = IDS_ASK;
    grant.has_k = grant.has_m = true;
    grant.k = c->policy.k;
    grant.m = c->policy.m;
    op[1].grant_ids = &grant;
    list[ops.n_op++] = &op[1];
    ops.op = list;
    w->grant = (struct command){.on_done = grant_done};
    buf_init(&w->grant.ops);
    cfs__ops__pack(&ops, buf_extend(&w->grant.ops, cfs__ops__get_packed_size(&ops)));
    w->granting = true;
    session_submit(c->session, &w->grant);
    arena_publish64(&w->arena->h->next_seq, session_next_seq(c->session));
}

void ids_drop(struct writer *w)
{
    w->n_ranges = 0;
    w->ids_left = 0;
}

/* Fragments of stripes that were given up lie on servers under ids that stay ours until all that we
 * hold are given back. That needs a moment in which none is used by a stripe on its way. */
void ids_give_back(struct writer *w)
{
    if (!w->ids_lost || w->n_alive > 0 || !list_empty(&w->commits) || w->granting || w->ended) {
        return;
    }
    ids_drop(w);
    w->ids_lost = false;
    w->retire = true;
    w->grant_retry_ms = 0;
    ids_want(w);
}

static unsigned count_bits(uint64_t mask)
{
    return (unsigned)__builtin_popcountll(mask);
}

static void tables_again(struct writer *w)
{
    const uint64_t now = w->client->timers->now_ms;
    if (now >= w->tables_retry_ms) {
        w->tables_retry_ms = now + 50;
        tables_fetch(w->client->tables, NULL, NULL);
    }
}

/* Whole groups first, in turn; else the one with most slots up. */
int target_choose(struct writer *w, bool small, struct target *out)
{
    struct client *c = w->client;
    const unsigned m = c->policy.m;
    unsigned best = 0, best_up = 0;
    bool full = false;
    if (w->ids_left < IDS_LOW) {
        ids_want(w);
    }
    for (unsigned i = 0; i < w->n_ranges; i++) {
        const unsigned at = (w->cursor + i) % w->n_ranges;
        const struct pg *pg = tables_pg(c->tables, w->range[at].pg);
        if (pg == NULL) {
            tables_again(w);
            continue;
        }
        const uint64_t up = tables_up(c->tables, pg);
        const unsigned n_up = count_bits(up);
        full = full || count_bits(up | tables_full(c->tables, pg)) > m;
        if (n_up > best_up) {
            best = at;
            best_up = n_up;
        }
        if (n_up == pg->width) {
            break;
        }
    }
    if (best_up <= m) {
        return full ? -ENOSPC : -EAGAIN;
    }
    out->range = best;
    out->pg = tables_pg(c->tables, w->range[best].pg);
    const bool chosen = stripe_choose(c->policy.k, m, tables_up(c->tables, out->pg), small,
                                      w->range[best].first, &out->choice);
    CHECK(chosen);
    return 0;
}

static uint64_t take_id(struct writer *w, unsigned range)
{
    struct id_range *r = &w->range[range];
    const uint64_t id = r->first++;
    w->ids_left--;
    w->cursor = range + 1;
    if (--r->count == 0) {
        *r = w->range[--w->n_ranges];
    }
    return id;
}

/* ---- memory ---- */

/* What is under way stands in the servers' queues before a stripe that an fsync waits for. So what nobody waits for is
 * bounded by the time that its stripes take: a disk that is busy or slow gets less of it at once. */
static uint64_t full_stripe(const struct writer *w)
{
    return (uint64_t)w->client->policy.k * STRIPE_FRAGMENT_MAX;
}

bool stripes_may_start(const struct winode *wi)
{
    const struct writer *w = wi->w;
    const bool awaited = !list_empty(&wi->waiters) || !list_empty(&w->all);
    const uint64_t most = full_stripe(w) * FLIGHT_FULL_STRIPES;
    if (awaited) {
        return w->n_stripes < FLIGHT_STRIPES_MAX + 32 * FLIGHT_AWAITED &&
               w->flight_bytes < most + full_stripe(w) * FLIGHT_AWAITED && !w->ended;
    }
    return w->n_stripes < FLIGHT_STRIPES_MAX && !w->ended && w->flight_bytes < most &&
           w->flight_bytes < w->flight_most;
}

/* In proportion to what was sent: a whole window that was slow halves it, one that was fast makes it
 * a quarter larger. */
static void flight_learn(struct writer *w, const struct wstripe *s)
{
    const uint64_t took = w->client->timers->now_ms - s->started_ms;
    const uint64_t least = full_stripe(w), most = least * FLIGHT_FULL_STRIPES;
    if (took > FLIGHT_SLOW_MS) {
        w->flight_most -= w->flight_most > s->length ? s->length / 2 : 0;
    } else if (took < FLIGHT_FAST_MS) {
        w->flight_most += s->length / 4;
    }
    w->flight_most = w->flight_most < least ? least : w->flight_most > most ? most : w->flight_most;
}

static bool pooled(const struct wstripe *s)
{
    return (size_t)s->code.m * s->fragment_bytes > POOLED_PARITY;
}

/* Large parity buffers are touched once and used again; all of one size. */
static uint8_t *parity_get(struct writer *w, const struct wstripe *s)
{
    if (!pooled(s)) {
        return xmalloc((size_t)s->code.m * s->fragment_bytes + 1);
    }
    if (w->parity_m != s->code.m) { /* the policy has changed */
        while (w->n_parity_pool > 0) {
            free(w->parity_pool[--w->n_parity_pool]);
        }
        w->parity_m = s->code.m;
    }
    return w->n_parity_pool > 0 ? w->parity_pool[--w->n_parity_pool]
                                : xmalloc((size_t)s->code.m * STRIPE_FRAGMENT_MAX);
}

static void parity_put(struct writer *w, struct wstripe *s)
{
    if (s->parity != NULL && pooled(s) && w->parity_m == s->code.m &&
        w->n_parity_pool < array_count(w->parity_pool)) {
        w->parity_pool[w->n_parity_pool++] = s->parity;
    } else {
        free(s->parity);
    }
    s->parity = NULL;
}

void stripe_free(struct wstripe *s)
{
    s->w->n_alive--;
    parity_put(s->w, s);
    for (unsigned i = 0; i < s->n_puts; i++) {
        buf_release(&s->put[i].body);
        free(s->put[i].iov);
    }
    free(s->page);
    free(s->extent);
    free(s);
}

void stripes_release(struct writer *w)
{
    while (!list_empty(&w->stripes)) {
        struct wstripe *s = list_first(&w->stripes, struct wstripe, node);
        for (unsigned j = 0; j < s->n_puts; j++) {
            if (s->put[j].under_way) {
                call_cancel(&s->put[j].call);
            }
        }
        list_remove(&s->node);
        stripe_free(s);
    }
    if (w->granting) {
        session_abandon(w->client->session, &w->grant);
    }
    while (w->n_parity_pool > 0) {
        free(w->parity_pool[--w->n_parity_pool]);
    }
    for (unsigned k = 0; k <= RS_K_MAX; k++) {
        for (unsigned m = 0; m <= RS_M_MAX; m++) {
            rs_free(w->rs[k][m]);
        }
    }
    free(w->range);
}

void stripe_give_back(struct wstripe *s)
{
    s->w->ids_lost = true;
    writer_tick_arm(s->w);
    for (unsigned i = 0; i < s->n_pages; i++) {
        pages_put_back(s->wi, s->page[i]);
    }
    stripe_free(s);
}

/* ---- encoding ---- */

struct sums {
    uint32_t crc[RS_N_MAX][STRIPE_CRC_MAX];
};

static const uint8_t *frame(const struct wstripe *s, unsigned i)
{
    return i < s->n_pages ? page_data(s->w, s->page[i]) : s->w->zero_page;
}

/* One column: page c of every fragment. */
static void encode_column(const struct wstripe *s, struct rs *rs, unsigned c, struct sums *sums)
{
    const unsigned columns = s->fragment_bytes / PAGE_BYTES,
                   block = c * PAGE_BYTES / STRIPE_CRC_BLOCK;
    const uint8_t *data[RS_K_MAX];
    uint8_t *parity[RS_M_MAX];
    for (unsigned i = 0; i < s->code.k; i++) {
        data[i] = frame(s, i * columns + c);
        sums->crc[i][block] = crc32c(sums->crc[i][block], data[i], PAGE_BYTES);
    }
    if (rs == NULL) {
        return;
    }
    for (unsigned j = 0; j < s->code.m; j++) {
        parity[j] = s->parity + (size_t)j * s->fragment_bytes + (size_t)c * PAGE_BYTES;
    }
    rs_encode(rs, PAGE_BYTES, data, parity);
    for (unsigned j = 0; j < s->code.m; j++) {
        uint32_t *crc = &sums->crc[s->code.k + j][block];
        *crc = crc32c(*crc, parity[j], PAGE_BYTES);
    }
}

static void encode(struct wstripe *s, struct sums *sums)
{
    struct writer *w = s->w;
    struct rs *rs = NULL;
    memset(sums, 0, sizeof *sums);
    if (s->code.kind == STRIPE_RS) {
        struct rs **kept = &w->rs[s->code.k][s->code.m];
        if (*kept == NULL) {
            *kept = rs_new(s->code.k, s->code.m);
        }
        rs = *kept;
        s->parity = parity_get(w, s);
    }
    for (unsigned c = 0; c < s->fragment_bytes / PAGE_BYTES; c++) {
        encode_column(s, rs, c, sums);
    }
}

/* ---- sending ---- */

static void put_done(struct call *call);

/* Pages of data fragment i as they lie in the arena, neighbours joined. */
static void gather(struct wput *put, unsigned i)
{
    const struct wstripe *s = put->stripe;
    const unsigned columns = s->fragment_bytes / PAGE_BYTES;
    put->iov = xmalloc(columns * sizeof *put->iov);
    for (unsigned c = 0; c < columns; c++) {
        uint8_t *at = (uint8_t *)(uintptr_t)frame(s, i * columns + c);
        struct iovec *last = put->n_iov > 0 ? &put->iov[put->n_iov - 1] : NULL;
        if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == at) {
            last->iov_len += PAGE_BYTES;
        } else {
            put->iov[put->n_iov++] = (struct iovec){.iov_base = at, .iov_len = PAGE_BYTES};
        }
    }
}

static void put_pack(struct wput *put, uint32_t *crc)
{
    const struct wstripe *s = put->stripe;
    Cfs__FragmentPut message = CFS__FRAGMENT_PUT__INIT;
    message.pg = s->pg;
    message.id = s->id;
    message.slot = put->slot;
    message.epoch = s->epoch;
    message.nonce = s->nonce;
    message.kind = s->code.kind;
    message.k = s->code.k;
    message.m = s->code.m;
    message.stripe_length = s->length;
    message.n_crc = stripe_crc_blocks(s->fragment_bytes);
    message.crc = crc;
    message.has_session = true;
    message.session = session_id(s->w->client->session);
    cfs__fragment_put__pack(&message,
                            buf_extend(&put->body, cfs__fragment_put__get_packed_size(&message)));
}

static void put_prepare(struct wstripe *s, unsigned j, const struct pg *pg, struct sums *sums)
{
    struct wput *put = &s->put[j];
    put->stripe = s;
    put->slot = (uint32_t)stripe_slot_of(s->slot_mask, j);
    put->server = pg->slot[put->slot];
    buf_init(&put->body);
    const unsigned source = s->code.kind == STRIPE_COPY ? 0 : j;
    if (source < s->code.k) {
        gather(put, source);
    } else {
        put->iov = xmalloc(sizeof *put->iov);
        put->iov[0] =
            (struct iovec){.iov_base = s->parity + (size_t)(j - s->code.k) * s->fragment_bytes,
                           .iov_len = s->fragment_bytes};
        put->n_iov = 1;
    }
    put_pack(put, sums->crc[source]);
    put->call = (struct call){.method = METHOD_FRAGMENT_PUT,
                              .body = buf_bytes(&put->body),
                              .payload = put->iov,
                              .n_payload = put->n_iov,
                              .lend = true,
                              .timeout_ms = PUT_MS,
                              .on_done = put_done};
}

/* Frames of the stripe are whole pages; the extents name only the bytes that are valid. */
static void make_extents(struct wstripe *s)
{
    const struct writer *w = s->w;
    s->extent = xmalloc(s->n_pages * sizeof *s->extent);
    for (unsigned i = 0; i < s->n_pages; i++) {
        const uint32_t p = s->page[i];
        const unsigned from = page_from(w, p), to = page_to(w, p);
        const uint64_t at = page_number(w, p) * PAGE_BYTES + from;
        struct wextent *last = s->n_extents > 0 ? &s->extent[s->n_extents - 1] : NULL;
        const uint64_t in_stripe = (uint64_t)i * PAGE_BYTES + from;
        if (last != NULL && last->offset + last->length == at &&
            last->stripe_offset + last->length == in_stripe) {
            last->length += to - from;
        } else {
            s->extent[s->n_extents++] =
                (struct wextent){.offset = at, .length = to - from, .stripe_offset = in_stripe};
        }
        s->length = (uint64_t)i * PAGE_BYTES + to;
    }
}

static struct wstripe *stripe_new(struct winode *wi, const struct target *t, const uint32_t *pages,
                                  unsigned n)
{
    struct writer *w = wi->w;
    struct wstripe *s = xcalloc(1, sizeof *s);
    w->n_alive++;
    s->w = w;
    s->wi = wi;
    s->code = t->choice.code;
    s->slot_mask = t->choice.slot_mask;
    s->pg = t->pg->id;
    s->epoch = t->pg->epoch;
    s->nonce = prng_u64(&w->prng);
    s->page = xmemdup(pages, n * sizeof *pages);
    s->n_pages = n;
    list_init(&s->node);
    make_extents(s);
    s->fragment_bytes = stripe_fragment_bytes(s->code, s->length);
    s->n_puts = (unsigned)s->code.k + s->code.m;
    return s;
}

void stripe_start(struct winode *wi, const struct target *target, const uint32_t *pages, unsigned n)
{
    struct writer *w = wi->w;
    struct wstripe *s = stripe_new(wi, target, pages, n);
    for (unsigned i = 0; i < n; i++) {
        pages_take_off(wi, pages[i]);
    }
    s->id = take_id(w, target->range);
    s->started_ms = w->client->timers->now_ms;
    struct sums sums;
    encode(s, &sums);
    wi->n_stripes++;
    w->n_stripes++;
    w->flight_bytes += s->length;
    s->under_way = s->n_puts;
    for (unsigned j = 0; j < s->n_puts; j++) {
        put_prepare(s, j, target->pg, &sums);
    }
    list_add_tail(&w->stripes, &s->node);
    for (unsigned j = 0; j < s->n_puts; j++) {
        s->put[j].under_way = true;
        call_start(tables_peer(w->client->tables, s->put[j].server), &s->put[j].call);
    }
}

/* What a failed PUT says about its server. */
static void learn(struct writer *w, const struct wput *put)
{
    struct tables *t = w->client->tables;
    switch (put->call.rc) {
    case ERR_DISCONNECTED:
    case ERR_DEADLINE:
        tables_found_down(t, put->server);
        break;
    case ERR_STALE_EPOCH:
        tables_again(w);
        break;
    case ERR_ID_CONFLICT:
    case ERR_DEAD_ID:
    case ERR_BUSY:
    case ERR_CANCELLED: /* the table has a new address for it */
        break;
    default: /* no space, or a disk that fails: leave it out for a while */
        tables_found_full(t, put->server);
        break;
    }
}

static void stripe_failed(struct wstripe *s)
{
    struct winode *wi = s->wi;
    struct writer *w = s->w;
    w->stripes_failed++;
    stripe_give_back(s);
    wi->plan_n = wi->plan_at = 0;
    if (++wi->failures > 2) { /* not merely one server that died: do not spin */
        const uint64_t pause = wi->failures < 50 ? wi->failures * 20u : 1000u;
        wi->retry_at_ms = w->client->timers->now_ms + pause;
    }
    if (!wi->gone) {
        winode_barrier(wi);
    }
}

static void put_done(struct call *call)
{
    struct wput *put = container_of(call, struct wput, call);
    struct wstripe *s = put->stripe;
    struct winode *wi = s->wi;
    struct writer *w = s->w;
    put->under_way = false;
    if (call->rc != 0) {
        s->rc = call->rc;
        learn(w, put);
    }
    if (--s->under_way > 0) {
        return;
    }
    list_remove(&s->node);
    wi->n_stripes--;
    w->n_stripes--;
    w->flight_bytes -= s->length;
    if (s->rc != 0 || wi->gone) {
        stripe_failed(s);
    } else {
        wi->failures = 0;
        flight_learn(w, s);
        w->stripes_written++;
        parity_put(w, s);
        list_add_tail(&wi->ready, &s->node);
        wi->n_ready++;
        wi->ready_extents += s->n_extents;
    }
    writer_pump(wi);
    winode_changed(wi);
    writer_pump_pending(w);
    writer_deliver(w);
}
