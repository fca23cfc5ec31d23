#include "test/lib/fake_cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/log.h"
#include "chunk.pb-c.h"
#include "ec/stripe.h"
#include "log.pb-c.h"
#include "proto/methods.h"

/* ---- chunk servers ---- */

struct fragment {
    struct list node;
    uint32_t pg, slot;
    uint64_t id, nonce;
    size_t len;
    uint8_t *data;
    struct iovec iov;
    uint32_t crc[STRIPE_CRC_MAX];
};

struct parked { /* a request that is answered late, or never */
    struct list node;
    struct request *request;
    uint64_t at_ms;
};

static struct fragment *fragment_find(struct fake_chunk *c, uint32_t pg, uint64_t id, uint32_t slot)
{
    list_for_each (node, &c->fragments) {
        struct fragment *f = list_entry(node, struct fragment, node);
        if (f->pg == pg && f->id == id && f->slot == slot) {
            return f;
        }
    }
    return NULL;
}

static bool park(struct fake_chunk *c, struct request *r, uint64_t at_ms)
{
    struct parked *p = calloc(1, sizeof *p);
    p->request = r;
    p->at_ms = at_ms;
    list_add_tail(&c->silent_requests, &p->node);
    if (at_ms != UINT64_MAX &&
        (!timer_armed(&c->delay_timer) || at_ms < c->delay_timer.at_ms)) {
        timers_arm(&c->cluster->timers, &c->delay_timer, at_ms);
    }
    return true;
}

static int put_check(const Cfs__FragmentPut *m, const struct databuf *payload)
{
    const struct stripe_code code = {
        .kind = (uint8_t)m->kind, .k = (uint8_t)m->k, .m = (uint8_t)m->m};
    CHECK(stripe_code_valid(code) && payload != NULL);
    CHECK(payload->len == stripe_fragment_bytes(code, m->stripe_length));
    CHECK(m->n_crc == stripe_crc_blocks((uint32_t)payload->len));
    for (size_t i = 0; i < m->n_crc; i++) {
        const size_t at = i * STRIPE_CRC_BLOCK, left = payload->len - at;
        const size_t n = left < STRIPE_CRC_BLOCK ? left : STRIPE_CRC_BLOCK;
        if (crc32c(0, payload->data + at, n) != m->crc[i]) {
            return ERR_CORRUPT;
        }
    }
    return 0;
}

static void take_put(struct fake_chunk *c, struct request *r)
{
    if (c->refuse_puts > 0) {
        c->refuse_puts -= c->refuse_puts != UINT32_MAX;
        request_reply(r, c->put_rc, BYTES(NULL, 0), NULL);
        return;
    }
    Cfs__FragmentPut *m = cfs__fragment_put__unpack(NULL, r->body.len, r->body.data);
    CHECK(m != NULL);
    int rc = put_check(m, r->payload);
    if (rc == 0 && c->cluster->lies && fragment_find(c, m->pg, m->id, m->slot) != NULL) {
        rc = ERR_ID_CONFLICT;
    }
    if (rc == 0) {
        CHECK(fragment_find(c, m->pg, m->id, m->slot) == NULL); /* ids are never used twice */
        struct fragment *f = calloc(1, sizeof *f);
        f->pg = m->pg;
        f->slot = m->slot;
        f->id = m->id;
        f->nonce = m->nonce;
        f->len = r->payload->len;
        f->data = xmemdup(r->payload->data, f->len);
        memcpy(f->crc, m->crc, m->n_crc * sizeof f->crc[0]);
        list_add_tail(&c->fragments, &f->node);
    }
    cfs__fragment_put__free_unpacked(m, NULL);
    request_reply(r, rc, BYTES(NULL, 0), NULL);
}

/* One after the other, as fast as the disk goes. */
static void serve_put(struct request *r, void *ctx)
{
    struct fake_chunk *c = ctx;
    const uint64_t now = c->cluster->timers.now_ms;
    c->puts++;
    if (c->silent) {
        park(c, r, UINT64_MAX);
    } else if (c->put_ms_per_mib > 0 && r->payload != NULL) {
        const uint64_t begin = c->busy_until_ms > now ? c->busy_until_ms : now;
        c->busy_until_ms = begin + 1 + r->payload->len * c->put_ms_per_mib / (1 << 20);
        park(c, r, c->busy_until_ms);
    } else {
        take_put(c, r);
    }
}

static void get_sent(void *ctx)
{
    free(ctx);
}

struct sending {
    struct iovec iov;
    uint8_t data[];
};

static void answer_get(struct fake_chunk *c, struct request *r)
{
    Cfs__FragmentGet *m = cfs__fragment_get__unpack(NULL, r->body.len, r->body.data);
    CHECK(m != NULL);
    struct fragment *f = fragment_find(c, m->pg, m->id, m->slot);
    if (f == NULL || c->lose || (m->has_nonce && f->nonce != m->nonce) || m->offset >= f->len) {
        cfs__fragment_get__free_unpacked(m, NULL);
        request_reply(r, ERR_NOT_FOUND, BYTES(NULL, 0), NULL);
        return;
    }
    const size_t from = m->offset / STRIPE_CRC_BLOCK * STRIPE_CRC_BLOCK;
    size_t to = m->length == 0 ? f->len : m->offset + (size_t)m->length;
    to = (to + STRIPE_CRC_BLOCK - 1) / STRIPE_CRC_BLOCK * STRIPE_CRC_BLOCK;
    to = to < f->len ? to : f->len;
    cfs__fragment_get__free_unpacked(m, NULL);
    struct sending *s = malloc(sizeof *s + (to - from));
    memcpy(s->data, f->data + from, to - from);
    s->data[0] ^= c->corrupt ? 1 : 0;
    s->iov = (struct iovec){.iov_base = s->data, .iov_len = to - from};
    Cfs__FragmentGetReply reply = CFS__FRAGMENT_GET_REPLY__INIT;
    reply.fragment_bytes = (uint32_t)f->len;
    reply.offset = (uint32_t)from;
    reply.crc = f->crc + from / STRIPE_CRC_BLOCK;
    reply.n_crc = (to - from + STRIPE_CRC_BLOCK - 1) / STRIPE_CRC_BLOCK;
    uint8_t packed[256];
    const struct reply_payload payload = {.iov = &s->iov, .n = 1, .on_sent = get_sent, .ctx = s};
    request_reply(r, 0, BYTES(packed, cfs__fragment_get_reply__pack(&reply, packed)), &payload);
}

static void serve_get(struct request *r, void *ctx)
{
    struct fake_chunk *c = ctx;
    c->gets++;
    if (c->silent) {
        park(c, r, UINT64_MAX);
    } else if (c->get_delay_ms > 0) {
        park(c, r, c->cluster->timers.now_ms + c->get_delay_ms);
    } else {
        answer_get(c, r);
    }
}

static void delay_due(struct timer *t)
{
    struct fake_chunk *c = container_of(t, struct fake_chunk, delay_timer);
    uint64_t next = UINT64_MAX;
    list_for_each_safe (node, follow, &c->silent_requests) {
        struct parked *p = list_entry(node, struct parked, node);
        if (p->at_ms <= c->cluster->timers.now_ms) {
            list_remove(&p->node);
            if (p->request->method == METHOD_FRAGMENT_PUT) {
                take_put(c, p->request);
            } else {
                answer_get(c, p->request);
            }
            free(p);
        } else {
            next = p->at_ms < next ? p->at_ms : next;
        }
    }
    if (next != UINT64_MAX) {
        timers_arm(&c->cluster->timers, &c->delay_timer, next);
    }
}

static void serve_ping(struct request *r, void *ctx)
{
    struct fake_chunk *c = ctx;
    if (c->silent) {
        park(c, r, UINT64_MAX);
    } else {
        request_reply(r, 0, BYTES(NULL, 0), NULL);
    }
}

static void drop_parked(struct fake_chunk *c)
{
    while (!list_empty(&c->silent_requests)) {
        struct parked *p = list_first(&c->silent_requests, struct parked, node);
        list_remove(&p->node);
        request_reply(p->request, ERR_BUSY, BYTES(NULL, 0), NULL);
        free(p);
    }
}

static void chunk_listen(struct fake_chunk *c)
{
    char address[16];
    snprintf(address, sizeof address, "c%u:1", c->number);
    CHECK(server_listen(c->server, address, NULL) == 0);
}

static void chunk_init(struct cluster *cl, unsigned i)
{
    static const char *const NAMES[CLUSTER_CHUNKS] = {"c0", "c1", "c2", "c3", "c4", "c5"};
    struct fake_chunk *c = &cl->chunk[i];
    c->cluster = cl;
    c->number = i;
    list_init(&c->fragments);
    list_init(&c->silent_requests);
    c->delay_timer.on_due = delay_due;
    c->node = net_sim_node(cl->net, NAMES[i], databuf_pool_new((1 << 20) + 4096, 16));
    c->server = server_new(c->node);
    server_handle(c->server, METHOD_FRAGMENT_PUT, serve_put, c);
    server_handle(c->server, METHOD_FRAGMENT_GET, serve_get, c);
    server_handle(c->server, METHOD_PING, serve_ping, c);
    chunk_listen(c);
}

void cluster_kill(struct cluster *cl, unsigned chunk)
{
    cl->chunk[chunk].down = true;
    net_sim_kill(cl->net, cl->chunk[chunk].node);
}

void cluster_revive(struct cluster *cl, unsigned chunk)
{
    struct fake_chunk *c = &cl->chunk[chunk];
    if (c->silent) {
        c->silent = false;
        drop_parked(c);
    }
    if (c->down) {
        c->down = false;
        chunk_listen(c);
    }
}

void cluster_full(struct cluster *cl, unsigned chunk, bool full)
{
    cl->chunk[chunk].put_rc = -ENOSPC;
    cl->chunk[chunk].refuse_puts = full ? UINT32_MAX : 0;
}

unsigned cluster_fragments(const struct cluster *cl, unsigned chunk)
{
    unsigned n = 0;
    const struct list *head = &cl->chunk[chunk].fragments;
    for (const struct list *node = head->next; node != head; node = node->next) {
        n++;
    }
    return n;
}

/* ---- metadata ---- */

static bool is_write(struct bytes command)
{
    Cfs__CommandRequest *m = cfs__command_request__unpack(NULL, command.len, command.data);
    CHECK(m != NULL);
    Cfs__Ops *ops = cfs__ops__unpack(NULL, m->ops.len, m->ops.data);
    const bool write = ops != NULL && ops->n_op > 0 && ops->op[0]->write != NULL;
    cfs__ops__free_unpacked(ops, NULL);
    cfs__command_request__free_unpacked(m, NULL);
    return write;
}

static void apply(struct cluster *cl, struct bytes command)
{
    struct buf entry;
    buf_init(&entry);
    cl->world.now_ns += 1000000;
    const struct fsm_entry_header h = {.type = ENTRY_COMMAND,
                                       .feature_level = 1,
                                       .time_ns = cl->world.now_ns,
                                       .reign = cl->world.reign};
    fsm_entry_encode(&entry, &h, command);
    CHECK(fsm_validate(buf_bytes(&entry)) == 0);
    CHECK(fsm_world_raw(&cl->world, buf_bytes(&entry)) == 0);
    buf_release(&entry);
}

/* The number is used up by an empty command; the client is told an error. */
static void refuse_write(struct cluster *cl, struct request *r)
{
    uint8_t body[128], packed[64];
    Cfs__CommandRequest *m = cfs__command_request__unpack(NULL, r->body.len, r->body.data);
    Cfs__CommandRequest empty = *m;
    empty.ops.len = 0;
    apply(cl, BYTES(body, cfs__command_request__pack(&empty, body)));
    cfs__command_request__free_unpacked(m, NULL);
    Cfs__OpsReply reply = CFS__OPS_REPLY__INIT;
    Cfs__OpReply one = CFS__OP_REPLY__INIT, *list[1] = {&one};
    one.status = status_of_rc(cl->command_status);
    reply.n_result = 1;
    reply.result = list;
    request_reply(r, 0, BYTES(packed, cfs__ops_reply__pack(&reply, packed)), NULL);
}

static void serve_command(struct request *r, void *ctx)
{
    struct cluster *cl = ctx;
    cl->commands++;
    if (cl->write_errors > 0 && is_write(r->body)) {
        cl->write_errors--;
        refuse_write(cl, r);
        return;
    }
    apply(cl, r->body);
    request_reply(r, cl->world.fx.rc, buf_bytes(&cl->world.fx.reply), NULL);
}

static void serve_read(struct request *r, void *ctx)
{
    struct cluster *cl = ctx;
    struct buf reply;
    buf_init(&reply);
    cl->extents_reads += r->method == METHOD_EXTENTS;
    const int rc = fsm_read(cl->world.fsm, r->method, r->body, &reply);
    request_reply(r, rc, buf_bytes(&reply), NULL);
    buf_release(&reply);
}

static void serve_tables(struct request *r, void *ctx)
{
    struct cluster *cl = ctx;
    struct buf reply, packed;
    buf_init(&reply);
    buf_init(&packed);
    CHECK(fsm_read(cl->world.fsm, METHOD_TABLES, r->body, &reply) == 0);
    Cfs__TablesReply *m = cfs__tables_reply__unpack(NULL, reply.len, reply.data);
    Cfs__TablesReply out = *m;
    Cfs__ServerRow row[CLUSTER_CHUNKS], *rows[CLUSTER_CHUNKS];
    char address[CLUSTER_CHUNKS][16];
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        cfs__server_row__init(&row[i]);
        snprintf(address[i], sizeof address[i], "c%u:1", i);
        row[i].id = i + 1;
        row[i].address = address[i];
        row[i].state = cl->tables_say_down[i] ? 2 : 1;
        rows[i] = &row[i];
    }
    out.n_server = CLUSTER_CHUNKS;
    out.server = rows;
    cfs__tables_reply__pack(&out, buf_extend(&packed, cfs__tables_reply__get_packed_size(&out)));
    request_reply(r, 0, buf_bytes(&packed), NULL);
    cfs__tables_reply__free_unpacked(m, NULL);
    buf_release(&reply);
    buf_release(&packed);
}

static void serve_renew(struct request *r, void *ctx)
{
    struct cluster *cl = ctx;
    Cfs__SessionRenewReply reply = CFS__SESSION_RENEW_REPLY__INIT;
    reply.credit = cl->credit;
    uint8_t packed[64];
    request_reply(r, 0, BYTES(packed, cfs__session_renew_reply__pack(&reply, packed)), NULL);
}

struct cluster *cluster_new(uint64_t seed)
{
    struct cluster *cl = calloc(1, sizeof *cl);
    log_set_level(LOG_LEVEL_ERROR);
    timers_init(&cl->timers, 100000);
    cl->net = net_sim_new(&cl->timers, seed);
    cl->credit = UINT64_MAX;
    fsm_world_init(&cl->world);
    cl->meta_node = net_sim_node(cl->net, "meta", NULL);
    cl->meta = server_new(cl->meta_node);
    server_handle(cl->meta, METHOD_COMMAND, serve_command, cl);
    server_handle(cl->meta, METHOD_SESSION_RENEW, serve_renew, cl);
    server_handle(cl->meta, METHOD_TABLES, serve_tables, cl);
    server_handle(cl->meta, METHOD_GETATTR, serve_read, cl);
    server_handle(cl->meta, METHOD_EXTENTS, serve_read, cl);
    CHECK(server_listen(cl->meta, "meta:1", NULL) == 0);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        chunk_init(cl, i);
    }
    return cl;
}

static void on_shut(void *ctx)
{
    (*(unsigned *)ctx)++;
}

static void chunk_release(struct fake_chunk *c)
{
    while (!list_empty(&c->fragments)) {
        struct fragment *f = list_first(&c->fragments, struct fragment, node);
        list_remove(&f->node);
        free(f->data);
        free(f);
    }
}

void cluster_free(struct cluster *cl)
{
    for (unsigned i = 0; i < cl->n_workers; i++) {
        if (cl->worker[i] != NULL) {
            worker_stop(cl->worker[i]);
        }
    }
    unsigned shut = 0;
    struct databuf_pool *pool[CLUSTER_CHUNKS];
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        struct fake_chunk *c = &cl->chunk[i];
        timers_stop(&cl->timers, &c->delay_timer);
        drop_parked(c);
        pool[i] = c->node->payloads;
        c->node->ops->shutdown(c->node, on_shut, &shut);
    }
    cl->meta_node->ops->shutdown(cl->meta_node, on_shut, &shut);
    cluster_run(cl, 10000);
    CHECK(shut == CLUSTER_CHUNKS + 1);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        server_free(cl->chunk[i].server);
        chunk_release(&cl->chunk[i]);
    }
    server_free(cl->meta);
    net_sim_free(cl->net);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        databuf_pool_free(pool[i]);
    }
    timers_release(&cl->timers);
    fsm_world_release(&cl->world);
    free(cl);
}

void cluster_run(struct cluster *cl, uint64_t ms)
{
    net_sim_run_until(cl->net, cl->timers.now_ms + ms);
}

static bool not_yet(void *ctx)
{
    const bool *const *flag = ctx;
    return !**flag;
}

bool cluster_run_flag(struct cluster *cl, const bool *flag, uint64_t bound_ms)
{
    return net_sim_run_while(cl->net, not_yet, &flag, bound_ms) || *flag;
}

uint64_t cluster_create(struct cluster *cl, const char *name)
{
    return fsm_world_create(&cl->world, 1, name);
}

/* ---- arena ---- */

struct arena *cluster_arena_new(uint32_t pages, uint64_t cache_bytes)
{
    struct arena *a = calloc(1, sizeof *a);
    a->h = calloc(1, sizeof *a->h);
    a->h->magic = ARENA_MAGIC;
    a->h->version = ARENA_VERSION;
    a->h->sizes = (struct arena_sizes){.big = 0,
                                       .small = 0,
                                       .handles = 0,
                                       .inodes = 64,
                                       .pages = pages,
                                       .commits = 32,
                                       .cache_bytes = cache_bytes};
    a->inode = calloc(a->h->sizes.inodes, sizeof *a->inode);
    a->page = calloc(pages, sizeof *a->page);
    a->commit = calloc(a->h->sizes.commits, sizeof *a->commit);
    a->data = malloc((size_t)pages * ARENA_PAGE_BYTES);
    memset(a->data, 0xee, (size_t)pages * ARENA_PAGE_BYTES); /* what another file left */
    a->cache = malloc(cache_bytes);
    return a;
}

struct arena *cluster_arena_copy(const struct arena *a)
{
    struct arena *b = cluster_arena_new(a->h->sizes.pages, a->h->sizes.cache_bytes);
    *b->h = *a->h;
    memcpy(b->inode, a->inode, a->h->sizes.inodes * sizeof *a->inode);
    memcpy(b->page, a->page, a->h->sizes.pages * sizeof *a->page);
    memcpy(b->commit, a->commit, a->h->sizes.commits * sizeof *a->commit);
    memcpy(b->data, a->data, (size_t)a->h->sizes.pages * ARENA_PAGE_BYTES);
    return b;
}

void cluster_arena_free(struct arena *a)
{
    if (a != NULL) {
        free(a->h);
        free(a->inode);
        free(a->page);
        free(a->commit);
        free(a->data);
        free(a->cache);
        free(a);
    }
}

/* ---- workers ---- */

/* As worker.c does it. */
static void on_state(struct session *s, void *ctx)
{
    const struct fake_worker *w = ctx;
    if (session_ended(s) && w->client.writer != NULL) {
        writer_session_ended(w->client.writer);
    }
}

static void on_event(struct session *s, uint16_t method, struct bytes body, void *ctx)
{
    (void)s;
    (void)body;
    const struct fake_worker *w = ctx;
    if (method == EVENT_TABLES && w->client.tables != NULL) {
        tables_fetch(w->client.tables, NULL, NULL);
    }
}

static void on_fill(struct session *s, struct Cfs__SessionRenew *m, void *ctx)
{
    (void)s;
    (void)m;
    (void)ctx;
}

static void on_renewed(struct session *s, const struct Cfs__SessionRenewReply *m, void *ctx)
{
    (void)s;
    struct fake_worker *w = ctx;
    if (w->client.writer != NULL) {
        writer_credit(w->client.writer, m->credit);
    }
}

static const struct session_events EVENTS = {on_state, on_event, on_fill, on_renewed, NULL};

static void flag_done(void *ctx, int rc)
{
    CHECK(rc == 0);
    *(bool *)ctx = true;
}

static int compare_records(const void *a, const void *b)
{
    const struct arena_commit *x = *(struct arena_commit *const *)a,
                              *y = *(struct arena_commit *const *)b;
    return x->seq < y->seq ? -1 : 1;
}

static void repeat_commits(struct fake_worker *w)
{
    const struct arena *a = w->client.arena;
    struct arena_commit *record[64];
    unsigned n = 0;
    for (uint32_t i = 0; i < a->h->sizes.commits; i++) {
        if (a->commit[i].seq != 0) {
            record[n++] = &a->commit[i];
        }
    }
    qsort(record, n, sizeof *record, compare_records);
    for (unsigned i = 0; i < n; i++) {
        session_submit(w->client.session, writer_repeat_commit(w->client.writer, record[i]));
    }
    session_resume_done(w->client.session);
}

static uint64_t resume_number(const struct arena *a)
{
    uint64_t next = a->h->next_seq;
    for (uint32_t i = 0; i < a->h->sizes.commits; i++) {
        next = a->commit[i].seq >= next ? a->commit[i].seq + 1 : next;
    }
    return next;
}

struct fake_worker *worker_start(struct cluster *cl, struct arena *arena)
{
    struct fake_worker *w = calloc(1, sizeof *w);
    const bool again = arena->h->session != 0;
    w->cluster = cl;
    static const char *const NAMES[] = {"w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"};
    CHECK(cl->n_workers < array_count(NAMES));
    w->payloads = databuf_pool_new((1 << 20) + 4096, 24);
    w->node = net_sim_node(cl->net, NAMES[cl->n_workers], w->payloads);
    if (!again) {
        arena->h->session = cl->world.session;
        arena->h->next_seq = cl->world.seq + 1;
    }
    struct client *c = &w->client;
    *c = (struct client){.timers = &cl->timers,
                         .transport = w->node,
                         .arena = arena,
                         .policy = {.k = 4, .m = 2, .inline_limit = 4096},
                         .heap_limit_bytes = 64 << 20};
    const struct session_options options = {.addresses = "meta:1", .events = &EVENTS, .ctx = w};
    c->session = session_new(w->node, &options);
    session_resume(c->session, arena->h->session, resume_number(arena));
    c->tables = tables_new(c);
    c->itable = itable_new(c, 4 << 20);
    c->writer = writer_new(c);
    c->reader = reader_new(c);
    if (again) {
        writer_rebuild(c->writer);
    }
    repeat_commits(w);
    cl->worker[cl->n_workers++] = w;
    bool there = false;
    tables_fetch(c->tables, flag_done, &there);
    CHECK(cluster_run_flag(cl, &there, 10000));
    return w;
}

void worker_cut(struct fake_worker *w)
{
    struct cluster *cl = w->cluster;
    net_sim_partition(cl->net, w->node, cl->meta_node, true);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        net_sim_partition(cl->net, w->node, cl->chunk[i].node, true);
    }
}

/* What is under way is broken, and ends; then the parts go. */
void worker_stop(struct fake_worker *w)
{
    struct cluster *cl = w->cluster;
    struct client *c = &w->client;
    unsigned shut = 0;
    reader_free(c->reader);
    writer_free(c->writer);
    c->writer = NULL;
    itable_free(c->itable);
    tables_free(c->tables);
    session_free(c->session);
    w->node->ops->shutdown(w->node, on_shut, &shut);
    cluster_run(cl, 5000);
    CHECK(shut == 1);
    for (unsigned i = 0; i < cl->n_workers; i++) {
        if (cl->worker[i] == w) {
            cl->worker[i] = NULL;
        }
    }
    databuf_pool_free(w->payloads);
    free(w);
}

/* ---- shorts ---- */

struct fetching {
    struct session_read read;
    struct fake_worker *w;
    bool done;
    int rc;
};

static void fetched(struct session_read *read)
{
    struct fetching *f = container_of(read, struct fetching, read);
    f->done = true;
    f->rc = read->rc;
    if (read->rc != 0) {
        return;
    }
    Cfs__LookupReply *m = cfs__lookup_reply__unpack(NULL, read->reply.len, read->reply.data);
    CHECK(m != NULL);
    struct inode *in = itable_take_attr(f->w->client.itable, m->attr);
    if (m->has_content) {
        itable_take_content(in, BYTES(m->content.data, m->content.len));
    }
    cfs__lookup_reply__free_unpacked(m, NULL);
}

static void fetch_attr(struct fake_worker *w, uint64_t ino)
{
    uint8_t packed[32];
    struct fetching f = {.w = w};
    Cfs__GetattrRequest m = CFS__GETATTR_REQUEST__INIT;
    m.session = session_id(w->client.session);
    m.ino = ino;
    f.read = (struct session_read){.method = METHOD_GETATTR,
                                   .body = BYTES(packed, cfs__getattr_request__pack(&m, packed)),
                                   .on_done = fetched};
    session_read_start(w->client.session, &f.read);
    CHECK(cluster_run_flag(w->cluster, &f.done, 60000));
    CHECK(f.rc == 0);
}

struct inode *worker_inode(struct fake_worker *w, uint64_t ino)
{
    struct inode *in = itable_get(w->client.itable, ino);
    if (in->opens == 0) {
        in->opens = 1;
    }
    if (!in->attr_valid || ((in->attr_flags & 1) && !in->content_valid)) {
        fetch_attr(w, ino);
    }
    return in;
}

struct waiting {
    struct writer_wait wait;
    bool done;
    int rc;
};

static void waited(struct writer_wait *wait, int rc)
{
    struct waiting *x = container_of(wait, struct waiting, wait);
    CHECK(!x->done);
    x->done = true;
    x->rc = rc;
}

int worker_write(struct fake_worker *w, uint64_t ino, uint64_t offset, const void *data, size_t len)
{
    for (unsigned tries = 0; tries < 10000; tries++) {
        struct inode *in = worker_inode(w, ino);
        const int rc = writer_write(w->client.writer, in, offset, BYTES(data, len), 0);
        if (rc == -ENODATA) {
            fetch_attr(w, ino);
        } else if (rc == -EAGAIN) {
            if (writer_wants_layout(w->client.writer, in, offset, len)) {
                reader_want_layout(w->client.reader, in, offset, len);
            }
            struct waiting x = {.wait = {.on_done = waited}};
            writer_wait_room(w->client.writer, &x.wait);
            CHECK(cluster_run_flag(w->cluster, &x.done, 600000));
        } else {
            return rc;
        }
    }
    return -ETIMEDOUT;
}

int worker_flush(struct fake_worker *w, uint64_t ino)
{
    struct waiting x = {.wait = {.on_done = waited}};
    writer_flush(w->client.writer, worker_inode(w, ino), &x.wait);
    CHECK(!x.done);
    if (!cluster_run_flag(w->cluster, &x.done, 120000)) {
        writer_wait_cancel(&x.wait);
        return -ETIMEDOUT;
    }
    return x.rc;
}

int worker_flush_all(struct fake_worker *w)
{
    struct waiting x = {.wait = {.on_done = waited}};
    writer_flush_all(w->client.writer, &x.wait);
    if (!cluster_run_flag(w->cluster, &x.done, 120000)) {
        writer_wait_cancel(&x.wait);
        return -ETIMEDOUT;
    }
    return x.rc;
}

struct reading {
    struct read_request rr;
    bool done;
};

static void read_done(struct read_request *rr)
{
    container_of(rr, struct reading, rr)->done = true;
}

int worker_read(struct fake_worker *w, uint64_t ino, uint64_t offset, void *to, uint32_t len)
{
    struct reading x = {
        .rr = {
            .inode = worker_inode(w, ino), .offset = offset, .length = len, .on_done = read_done}};
    reader_start(w->client.reader, &x.rr);
    if (!cluster_run_flag(w->cluster, &x.done, 120000)) {
        reader_finish(w->client.reader, &x.rr);
        return -ETIMEDOUT;
    }
    int rc = x.rr.rc;
    if (rc == 0) {
        uint8_t *at = to;
        for (unsigned i = 0; i < x.rr.n_iov; i++) {
            memcpy(at, x.rr.iov[i].iov_base, x.rr.iov[i].iov_len);
            at += x.rr.iov[i].iov_len;
        }
        CHECK((size_t)(at - (uint8_t *)to) == x.rr.bytes);
        rc = (int)x.rr.bytes;
    }
    reader_finish(w->client.reader, &x.rr);
    return rc;
}

struct seeking {
    bool done;
    int rc;
    uint64_t at;
};

static void seek_done(void *ctx, int rc, uint64_t at)
{
    struct seeking *x = ctx;
    x->done = true;
    x->rc = rc;
    x->at = at;
}

int worker_seek(struct fake_worker *w, uint64_t ino, uint64_t offset, bool hole, uint64_t *at)
{
    struct seeking x = {0};
    reader_seek(w->client.reader, worker_inode(w, ino), offset, hole, seek_done, &x);
    CHECK(cluster_run_flag(w->cluster, &x.done, 60000));
    *at = x.at;
    return x.rc;
}

void cluster_fill(uint8_t *to, uint64_t offset, size_t len, uint64_t version)
{
    for (size_t i = 0; i < len; i++) {
        const uint64_t at = offset + i;
        to[i] = (uint8_t)(table_mix2(at / 8, version) >> (at % 8 * 8));
    }
}
