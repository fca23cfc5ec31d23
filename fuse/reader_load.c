#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/err.h"
#include "chunk.pb-c.h"
#include "fuse/reader_internal.h"
#include "proto/methods.h"

/* Getting blocks. A load is one GET of neighbouring blocks of one fragment. What it does not bring
 * (the server is down, the fragment is missing or fails its CRC, it takes longer than nearly all
 * others do) comes from another copy, or is decoded from the same blocks of any k other fragments.
 */

bool stripe_of_extent(const struct iextent *e, struct rstripe *out)
{
    const struct stripe_code code = {.kind = e->code_kind, .k = e->k, .m = e->m};
    if (!stripe_code_valid(code) || e->stripe_length == 0 ||
        e->stripe_length > stripe_length_max(code) ||
        __builtin_popcountll(e->slot_mask) != e->k + e->m ||
        e->slot_mask >> STRIPE_SLOTS_MAX != 0) {
        return false;
    }
    *out = (struct rstripe){.id = e->stripe,
                            .nonce = e->nonce,
                            .slot_mask = e->slot_mask,
                            .pg = e->pg,
                            .fragment_bytes = stripe_fragment_bytes(code, e->stripe_length),
                            .code = code};
    return true;
}

static void decode_start(struct reader *r, const struct rstripe *s, struct block *const block[],
                         unsigned n);

/* ---- latency and hedges ---- */

static int compare_u32(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void note_latency(struct reader *r, uint64_t ms)
{
    r->latency_ms[r->n_latencies++ % LATENCIES] = (uint32_t)ms;
    if (r->n_latencies % (LATENCIES / 4) == 0) {
        uint32_t sorted[LATENCIES];
        const unsigned n = r->n_latencies < LATENCIES ? r->n_latencies : LATENCIES;
        memcpy(sorted, r->latency_ms, n * sizeof sorted[0]);
        qsort(sorted, n, sizeof sorted[0], compare_u32);
        r->p95_ms = sorted[n * 95 / 100];
    }
}

static bool may_hedge(const struct reader *r)
{
    return (r->n_hedges + 1) * 20 <= r->n_loads + 100;
}

/* ---- loads ---- */

static void note_bad(struct reader *r, const struct load *l, uint32_t what)
{
    for (unsigned i = 0; i < r->n_bad; i++) {
        const struct bad_fragment *b = &r->bad[i];
        if (b->pg == l->s.pg && b->stripe == l->s.id && b->slot == l->slot) {
            return;
        }
    }
    if (r->n_bad < BAD_KEPT) {
        r->bad[r->n_bad++] = (struct bad_fragment){
            .pg = l->s.pg, .slot = l->slot, .server = l->server, .what = what, .stripe = l->s.id};
    }
}

static void load_free(struct load *l)
{
    timers_stop(l->r->client->timers, &l->hedge);
    list_remove(&l->node);
    buf_release(&l->body);
    for (unsigned i = 0; i < l->n; i++) {
        block_unpin(l->r, l->block[i]);
    }
    free(l);
}

static bool still_wanted(const struct block *b)
{
    return b->state == BLOCK_LOADING;
}

/* Which server: of a data fragment its slot; of copies one that was not tried, spread by id. */
static bool choose_server(struct load *l)
{
    const struct tables *t = l->r->client->tables;
    const struct pg *pg = tables_pg(t, l->s.pg);
    if (pg == NULL) {
        tables_fetch(l->r->client->tables, NULL, NULL);
        return false;
    }
    const unsigned copies = l->s.code.m + 1u;
    const bool copy = l->s.code.kind == STRIPE_COPY;
    for (unsigned i = 0; i < (copy ? copies : 1); i++) {
        const unsigned j = copy ? (unsigned)((l->s.id + i) % copies) : l->fragment;
        if (copy && (l->tried >> j & 1)) {
            continue;
        }
        const int slot = stripe_slot_of(l->s.slot_mask, j);
        if (slot < 0 || slot >= pg->width) {
            continue;
        }
        const uint32_t server = l->old_slot ? pg->old_slot[slot] : pg->slot[slot];
        if (tables_reachable(t, server)) {
            l->slot = (uint32_t)slot;
            l->server = server;
            l->copy = j;
            return true;
        }
    }
    return false;
}

static void get_done(struct call *call);
static void hedge_due(struct timer *timer);

static bool load_send(struct load *l)
{
    struct reader *r = l->r;
    if (!choose_server(l)) {
        return false;
    }
    Cfs__FragmentGet message = CFS__FRAGMENT_GET__INIT;
    message.pg = l->s.pg;
    message.id = l->s.id;
    message.slot = l->slot;
    message.has_nonce = message.has_offset = message.has_length = true;
    message.nonce = l->s.nonce;
    message.offset = l->first * BLOCK_BYTES;
    message.length = 0;
    for (unsigned i = 0; i < l->n; i++) {
        message.length += l->block[i]->bytes;
    }
    buf_clear(&l->body);
    cfs__fragment_get__pack(&message,
                            buf_extend(&l->body, cfs__fragment_get__get_packed_size(&message)));
    l->call = (struct call){.method = METHOD_FRAGMENT_GET,
                            .body = buf_bytes(&l->body),
                            .timeout_ms = GET_MS,
                            .on_done = get_done};
    l->started_ms = r->client->timers->now_ms;
    r->n_loads++;
    if (!l->helper && !l->hedged) {
        const uint32_t after = r->p95_ms > HEDGE_LEAST_MS ? r->p95_ms : HEDGE_LEAST_MS;
        timers_arm(r->client->timers, &l->hedge, l->started_ms + after);
    }
    call_start(tables_peer(r->client->tables, l->server), &l->call);
    return true;
}

/* A helper of another decode is decoded itself only if somebody else wants it. */
static void decode_lost(struct load *l, struct block *const lost[], unsigned n)
{
    struct block *wanted[LOAD_BLOCKS];
    unsigned n_wanted = 0;
    for (unsigned i = 0; i < n; i++) {
        bool by_others = !l->helper;
        list_for_each (node, &lost[i]->waiters) {
            by_others = by_others || !list_entry(node, struct bwait, node)->direct;
        }
        if (by_others) {
            wanted[n_wanted++] = lost[i];
        }
    }
    if (n_wanted > 0) {
        decode_start(l->r, &l->s, wanted, n_wanted);
    }
}

/* What this load did not bring. Goes on with another copy, or by decoding; users of the blocks are
 * told of a failure only when nothing is left. */
static void load_lost(struct load *l, struct block *const lost[], unsigned n, int rc)
{
    struct reader *r = l->r;
    const struct pg *pg = tables_pg(r->client->tables, l->s.pg);
    timers_stop(r->client->timers, &l->hedge);
    if (n > 0 && rc == ERR_NOT_FOUND && !l->old_slot && pg != NULL && l->slot < pg->width &&
        pg->old_slot[l->slot] != 0) {
        l->old_slot = true; /* the slot is moving, and its old owner still has it */
        if (load_send(l)) {
            return;
        }
        l->old_slot = false;
    }
    if (n > 0 && l->s.code.kind == STRIPE_COPY) {
        l->tried |= 1ull << l->copy;
        l->old_slot = false;
        if (load_send(l)) {
            return;
        }
    } else if (n > 0 && !l->hedged) {
        decode_lost(l, lost, n);
    }
    for (unsigned i = 0; i < l->n; i++) {
        block_source_failed(r, l->block[i], false, rc); /* those that are valid do not mind */
    }
    load_free(l);
}

struct got {
    const uint8_t *data;
    const uint32_t *crc;
    size_t n_crc;
};

/* Whether the answer is what was asked for: whole blocks from our first on. */
static bool answer_fits(const struct load *l, const Cfs__FragmentGetReply *reply, size_t payload)
{
    size_t want = 0;
    for (unsigned i = 0; i < l->n; i++) {
        want += l->block[i]->bytes;
    }
    return reply->fragment_bytes == l->s.fragment_bytes &&
           reply->offset == l->first * BLOCK_BYTES && payload >= want && reply->n_crc >= l->n;
}

static unsigned take_blocks(struct load *l, const struct got *got, struct block *lost[])
{
    unsigned n_lost = 0;
    const uint8_t *at = got->data;
    for (unsigned i = 0; i < l->n; i++) {
        struct block *b = l->block[i];
        if (crc32c(0, at, b->bytes) != got->crc[i]) {
            lost[n_lost++] = b;
        } else if (still_wanted(b)) {
            memcpy(block_data(l->r, b), at, b->bytes);
            block_valid(l->r, b);
        }
        at += b->bytes;
    }
    return n_lost;
}

static void get_failed(struct load *l, int rc)
{
    struct reader *r = l->r;
    struct block *lost[LOAD_BLOCKS];
    unsigned n = 0;
    if (rc == ERR_DISCONNECTED || rc == ERR_DEADLINE) {
        tables_found_down(r->client->tables, l->server);
    } else if (rc == ERR_NOT_FOUND) {
        note_bad(r, l, 1);
    } else if (rc == ERR_CORRUPT) {
        note_bad(r, l, 2);
    }
    for (unsigned i = 0; i < l->n; i++) {
        if (still_wanted(l->block[i])) {
            lost[n++] = l->block[i];
        }
    }
    load_lost(l, lost, n, rc);
}

static void get_done(struct call *call)
{
    struct load *l = container_of(call, struct load, call);
    struct reader *r = l->r;
    timers_stop(r->client->timers, &l->hedge);
    if (call->rc != 0) {
        get_failed(l, call->rc);
        return;
    }
    note_latency(r, r->client->timers->now_ms - l->started_ms);
    Cfs__FragmentGetReply *reply =
        cfs__fragment_get_reply__unpack(NULL, call->reply.len, call->reply.data);
    const struct databuf *payload = call->reply_payload;
    if (reply == NULL || payload == NULL || !answer_fits(l, reply, payload->len)) {
        if (reply != NULL) {
            cfs__fragment_get_reply__free_unpacked(reply, NULL);
        }
        get_failed(l, ERR_CORRUPT);
        return;
    }
    struct block *lost[LOAD_BLOCKS];
    const struct got got = {.data = payload->data, .crc = reply->crc, .n_crc = reply->n_crc};
    const unsigned n = take_blocks(l, &got, lost);
    cfs__fragment_get_reply__free_unpacked(reply, NULL);
    if (n > 0) {
        note_bad(r, l, 2);
    }
    load_lost(l, lost, n, ERR_CORRUPT);
}

static struct load *load_new(struct reader *r, const struct rstripe *s, struct block *const block[],
                             unsigned n)
{
    CHECK(n > 0 && n <= LOAD_BLOCKS);
    struct load *l = xcalloc(1, sizeof *l);
    l->r = r;
    l->s = *s;
    l->fragment = block[0]->fragment;
    l->first = block[0]->index;
    l->n = n;
    buf_init(&l->body);
    l->hedge.on_due = hedge_due;
    for (unsigned i = 0; i < n; i++) {
        l->block[i] = block[i];
        block_pin(r, block[i]);
    }
    list_add_tail(&r->loads, &l->node);
    return l;
}

void load_start(struct reader *r, const struct rstripe *s, uint32_t fragment, uint32_t first,
                struct block *const block[], unsigned n, bool helper)
{
    struct load *l = load_new(r, s, block, n);
    CHECK(l->fragment == fragment && l->first == first);
    l->helper = helper;
    if (!load_send(l)) {
        load_lost(l, block, n, ERR_DISCONNECTED);
    }
}

/* Slower than nearly all others: the same bytes are asked for elsewhere, too. */
static void hedge_due(struct timer *timer)
{
    struct load *l = container_of(timer, struct load, hedge);
    struct reader *r = l->r;
    struct block *late[LOAD_BLOCKS];
    unsigned n = 0;
    for (unsigned i = 0; i < l->n; i++) {
        if (still_wanted(l->block[i]) && !l->block[i]->decoding) {
            late[n++] = l->block[i];
        }
    }
    if (n == 0 || !may_hedge(r)) {
        return;
    }
    r->n_hedges++;
    l->hedged = true;
    if (l->s.code.kind == STRIPE_RS) {
        decode_start(r, &l->s, late, n);
    } else if (n == l->n) {
        for (unsigned i = 0; i < n; i++) {
            late[i]->loads++;
        }
        struct load *other = load_new(r, &l->s, late, n);
        other->tried = l->tried | 1ull << l->copy;
        other->hedged = true;
        if (!load_send(other)) {
            load_lost(other, late, n, ERR_DISCONNECTED);
        }
    }
}

/* ---- decoding ---- */

static void decode_step(struct decode_job *d);
static void decode_next(struct reader *r);

static void decode_drop(struct decode_job *d)
{
    list_remove(&d->node);
    free(d->helper);
    free(d);
}

static void decode_free(struct decode_job *d)
{
    struct reader *r = d->r;
    const unsigned n = (unsigned)d->s.code.k + d->s.code.m;
    for (unsigned i = 0; i < n; i++) {
        for (unsigned b = 0; d->helper[i].acquired && b < d->n; b++) {
            struct bwait *wait = &d->helper[i].wait[b];
            if (wait->block != NULL) {
                list_remove(&wait->node);
                block_unpin(r, wait->block);
            }
        }
    }
    for (unsigned i = 0; i < d->n; i++) {
        block_unpin(r, d->target[i]);
    }
    r->helper_blocks -= d->running ? d->n * d->s.code.k : 0;
    decode_drop(d);
}

static void helper_over(struct helper *h)
{
    struct decode_job *d = h->job;
    if (h->waiting > 0 || d->finished) {
        return;
    }
    if (!h->failed) {
        d->ready |= 1ull << (h - d->helper);
    }
    if (d->busy == 0) {
        decode_step(d);
    }
}

static void helper_block(struct bwait *wait, int rc)
{
    struct helper *h = wait->owner;
    h->waiting--;
    if (rc != 0) {
        h->failed = true;
        h->job->unsure = h->job->unsure || (rc != ERR_NOT_FOUND && rc != ERR_CORRUPT);
    }
    helper_over(h);
}

/* New neighbouring blocks go into one GET. */
static void start_fresh(struct decode_job *d, uint32_t fragment, struct block *const fresh[],
                        unsigned n)
{
    unsigned from = 0;
    for (unsigned i = 1; i <= n; i++) {
        if (i == n || fresh[i]->index != fresh[i - 1]->index + 1) {
            load_start(d->r, &d->s, fragment, fresh[from]->index, fresh + from, i - from, true);
            from = i;
        }
    }
}

static void helper_acquire(struct decode_job *d, unsigned fragment)
{
    struct helper *h = &d->helper[fragment];
    struct block *fresh[LOAD_BLOCKS];
    unsigned n_fresh = 0;
    h->job = d;
    h->acquired = true;
    h->waiting = 1; /* this function */
    d->asked |= 1ull << fragment;
    for (unsigned i = 0; i < d->n; i++) {
        struct bwait *wait = &h->wait[i];
        list_init(&wait->node);
        struct block *b = block_find(d->r, &d->s, fragment, d->target[i]->index);
        if (b != NULL) {
            block_pin(d->r, b);
        } else {
            b = block_new(d->r, &d->s, fragment, d->target[i]->index);
            if (b != NULL) {
                fresh[n_fresh++] = b;
            }
        }
        wait->block = b;
        if (b == NULL || (b->state == BLOCK_LOADING && b->loads == 0)) {
            h->failed = true; /* no room, or it waits for a decode itself */
            d->unsure = true;
        } else if (b->state == BLOCK_LOADING) {
            wait->direct = true;
            wait->on_block = helper_block;
            wait->owner = h;
            h->waiting++;
            list_add_tail(&b->waiters, &wait->node);
        }
    }
    if (n_fresh > 0) {
        start_fresh(d, fragment, fresh, n_fresh);
    }
    h->waiting--;
    helper_over(h);
}

static bool all_cached(const struct decode_job *d, unsigned fragment)
{
    for (unsigned i = 0; i < d->n; i++) {
        const struct block *b = block_find(d->r, &d->s, fragment, d->target[i]->index);
        if (b == NULL || b->state != BLOCK_VALID) {
            return false;
        }
    }
    return true;
}

static bool slot_reachable(const struct decode_job *d, unsigned fragment)
{
    const struct tables *t = d->r->client->tables;
    const struct pg *pg = tables_pg(t, d->s.pg);
    const int slot = stripe_slot_of(d->s.slot_mask, fragment);
    return pg != NULL && slot >= 0 && slot < pg->width && tables_reachable(t, pg->slot[slot]);
}

/* The next fragment to ask for: what is in the cache costs nothing; then what can be reached. -1:
 * none left. */
static int next_helper(struct decode_job *d)
{
    const unsigned n = (unsigned)d->s.code.k + d->s.code.m;
    int reachable = -1;
    for (unsigned i = 0; i < n; i++) {
        const unsigned at = (d->fragment + 1 + i) % n;
        if (at == d->fragment || (d->asked >> at & 1)) {
            continue;
        }
        if (all_cached(d, at)) {
            return (int)at;
        }
        if (slot_reachable(d, at)) {
            reachable = reachable < 0 ? (int)at : reachable;
        } else {
            d->unsure = true;
        }
    }
    return reachable;
}

static struct rs *rs_of(struct reader *r, const struct rstripe *s)
{
    struct rs **kept = &r->rs[s->code.k][s->code.m];
    if (*kept == NULL) {
        *kept = rs_new(s->code.k, s->code.m);
    }
    return *kept;
}

static void decode_now(struct decode_job *d)
{
    struct reader *r = d->r;
    struct rs *rs = rs_of(r, &d->s);
    r->n_decodes++;
    d->finished = true;
    for (unsigned i = 0; i < d->n; i++) {
        struct block *b = d->target[i];
        b->decoding = false;
        if (!still_wanted(b)) {
            continue;
        }
        uint8_t *fragment[RS_N_MAX] = {0};
        for (unsigned j = 0; j < (unsigned)d->s.code.k + d->s.code.m; j++) {
            if (d->ready >> j & 1) {
                fragment[j] = block_data(r, d->helper[j].wait[i].block);
            }
        }
        fragment[d->fragment] = block_data(r, b);
        const int rc = rs_decode(rs, b->bytes, d->ready, 1ull << d->fragment, fragment);
        CHECK(rc == 0);
        block_valid(r, b);
    }
}

static void decode_failed(struct decode_job *d)
{
    d->finished = true;
    for (unsigned i = 0; i < d->n; i++) {
        block_source_failed(d->r, d->target[i], true, d->unsure ? ERR_DISCONNECTED : ERR_NOT_FOUND);
    }
}

static unsigned in_play(const struct decode_job *d)
{
    unsigned n = 0;
    for (unsigned i = 0; i < (unsigned)d->s.code.k + d->s.code.m; i++) {
        n += d->helper[i].acquired && !d->helper[i].failed;
    }
    return n;
}

static void decode_step(struct decode_job *d)
{
    d->busy++;
    while (!d->finished) {
        if ((unsigned)__builtin_popcountll(d->ready) >= d->s.code.k) {
            decode_now(d);
        } else if (in_play(d) >= d->s.code.k) {
            break;
        } else {
            const int fragment = next_helper(d);
            if (fragment < 0) {
                decode_failed(d);
            } else {
                helper_acquire(d, (unsigned)fragment);
            }
        }
    }
    if (--d->busy == 0 && d->finished) {
        struct reader *r = d->r;
        decode_free(d);
        decode_next(r);
    }
}

/* Blocks of the cache that all helpers of running decodes may take together; one decode always
 * runs. */
static unsigned helper_budget(const struct reader *r)
{
    return r->n_blocks / 4;
}

static void decode_next(struct reader *r)
{
    if (r->in_decode_next) {
        return; /* called by the end of one that the loop below has started */
    }
    r->in_decode_next = true;
    while (!list_empty(&r->decode_queue)) {
        struct decode_job *d = list_first(&r->decode_queue, struct decode_job, node);
        const unsigned need = d->n * d->s.code.k;
        if (r->helper_blocks > 0 && r->helper_blocks + need > helper_budget(r)) {
            break;
        }
        list_remove(&d->node);
        list_add_tail(&r->decodes, &d->node);
        d->running = true;
        r->helper_blocks += need;
        decode_step(d);
    }
    r->in_decode_next = false;
}

static void decode_queue(struct reader *r, const struct rstripe *s, struct block *const block[],
                         unsigned n)
{
    struct decode_job *d = xcalloc(1, sizeof *d);
    d->r = r;
    d->s = *s;
    d->fragment = block[0]->fragment;
    d->helper = xcalloc((size_t)s->code.k + s->code.m, sizeof *d->helper);
    for (unsigned i = 0; i < n; i++) {
        block[i]->decoding = true;
        block_pin(r, block[i]);
        d->target[d->n++] = block[i];
    }
    list_add_tail(&r->decode_queue, &d->node);
}

/* In pieces that the budget lets through. */
static void decode_start(struct reader *r, const struct rstripe *s, struct block *const block[],
                         unsigned n)
{
    struct block *wanted[LOAD_BLOCKS];
    unsigned n_wanted = 0, chunk = helper_budget(r) / s->code.k;
    chunk = chunk > 0 ? chunk : 1;
    for (unsigned i = 0; i < n; i++) {
        if (!block[i]->decoding && still_wanted(block[i])) {
            wanted[n_wanted++] = block[i];
        }
    }
    for (unsigned i = 0; i < n_wanted; i += chunk) {
        decode_queue(r, s, wanted + i, n_wanted - i < chunk ? n_wanted - i : chunk);
    }
    decode_next(r);
}

/* The blocks stay as they are: the cache goes next. */
void loads_release(struct reader *r)
{
    while (!list_empty(&r->decode_queue)) {
        decode_drop(list_first(&r->decode_queue, struct decode_job, node));
    }
    while (!list_empty(&r->decodes)) {
        decode_drop(list_first(&r->decodes, struct decode_job, node));
    }
    while (!list_empty(&r->loads)) {
        struct load *l = list_first(&r->loads, struct load, node);
        call_cancel(&l->call);
        timers_stop(r->client->timers, &l->hedge);
        list_remove(&l->node);
        buf_release(&l->body);
        free(l);
    }
    for (unsigned k = 0; k <= RS_K_MAX; k++) {
        for (unsigned m = 0; m <= RS_M_MAX; m++) {
            rs_free(r->rs[k][m]);
        }
    }
}
