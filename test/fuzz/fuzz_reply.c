#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "fuse/opening.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "test/lib/fake_cluster.h"
#include "test/lib/messages.h"
#include "test/lib/protofill.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A worker's data path (session, tables, itable, writer, reader) in a cluster whose servers lie:
 * what they answer is changed on its way. The first byte says how many bytes are a script of what
 * the worker does, the rest is what the lies are made of. When they are used up all answers are
 * honest again: then every question is answered in bounded time, and all payload buffers come back.
 */
enum {
    PAGES = 256,
    CACHE = 2 << 20,
    SCRIPT_MAX = 24,
    WRITE_MAX = 96 << 10,
    READ_MAX = 96 << 10,
    FILE_BYTES = 96 << 10,
    PATIENCE_MS = 300000,
    WORKERS_MAX = 6
};

struct tap { /* over what one server sends */
    struct transport_ops ops;
    const struct transport_ops *real;
};

static struct lies {
    struct cursor c;
    bool on;
    struct tap tap[CLUSTER_CHUNKS + 1];
    struct cluster *cl;
    struct fake_worker *w;
    uint64_t ino[2];
    unsigned seeks; /* that cannot be cancelled */
    uint8_t data[WRITE_MAX], got[READ_MAX];
} l;

/* ---- lying ---- */

static int lie_status(void)
{
    const unsigned n = cursor_u8(&l.c);
    if (n < 160) {
        return -ERR_FIRST + (int)(n % 21);
    }
    return n < 224 ? (int)(n - 160) : (int)cursor_le32(&l.c);
}

static void lie_event(struct conn *conn, const struct transport_ops *real)
{
    static const uint16_t EVENTS[] = {EVENT_REFUSED, EVENT_LOCK_GRANTED, EVENT_TABLES,
                                      EVENT_SESSION_ENDED, EVENT_LAYOUT_RECALL};
    const unsigned n = cursor_u8(&l.c);
    struct outgoing o = {.frame = {.kind = (uint8_t)(n < 240 ? FRAME_EVENT : n % 5),
                                   .method = EVENTS[n % array_count(EVENTS)],
                                   .id = n < 240 ? 0 : n},
                         .body = cursor_take(&l.c, cursor_left(&l.c) < n % 8 ? 0 : n % 8)};
    (void)real->send(conn, &o);
}

/* Less of it than there is, or none. */
static void cut_payload(struct outgoing *o, struct iovec *iov)
{
    if (o->n_payload == 1) {
        *iov = o->payload[0];
        iov->iov_len = cursor_u8(&l.c) % 4 == 0 ? 0 : iov->iov_len * cursor_u8(&l.c) / 256;
        o->payload = iov;
        o->n_payload = iov->iov_len > 0;
    }
}

/* What else may be wrong with a reply than the fields of its body. */
static void lie_about(struct conn *conn, struct outgoing *o, const struct transport_ops *real,
                      unsigned how, struct iovec *iov)
{
    switch (how % 8) {
    case 0:
        lie_event(conn, real);
        break;
    case 1:
        o->frame.id += cursor_u8(&l.c);
        break;
    case 2:
        o->frame.method = (uint16_t)(o->frame.method + cursor_u8(&l.c));
        break;
    case 3:
        o->body.len = o->body.len * cursor_u8(&l.c) / 256;
        break;
    case 4:
        o->body = cursor_take(&l.c, cursor_left(&l.c) < how % 32 ? 0 : how % 32);
        break;
    case 5:
        cut_payload(o, iov);
        break;
    default:
        o->frame.status = lie_status();
        break;
    }
}

static int tap_send(struct conn *conn, struct outgoing *o)
{
    const struct tap *t =
        container_of((struct transport_ops *)(uintptr_t)conn->transport->ops, struct tap, ops);
    if (!l.on || cursor_left(&l.c) == 0 || o->frame.kind != FRAME_REPLY) {
        return t->real->send(conn, o);
    }
    const struct outgoing honest = *o;
    const unsigned how = cursor_u8(&l.c);
    struct iovec iov;
    struct buf body;
    buf_init(&body);
    if (how >= 64 && how < 192) {
        const struct messages m = messages_of(o->frame.method);
        protofill(m.reply != NULL ? m.reply : &cfs__refusal__descriptor, o->body, &l.c, &body);
        o->body = buf_bytes(&body);
    } else if (how >= 192) {
        lie_about(conn, o, t->real, how - 192, &iov);
    }
    const int rc = t->real->send(conn, o);
    o->frame = honest.frame;
    o->body = honest.body;
    o->payload = honest.payload;
    o->n_payload = honest.n_payload;
    buf_release(&body);
    return rc;
}

static void tap_on(unsigned i, struct transport *node)
{
    struct tap *t = &l.tap[i];
    t->real = node->ops;
    t->ops = *node->ops;
    t->ops.send = tap_send;
    node->ops = &t->ops;
}

/* ---- what the worker does ---- */

static struct inode *inode_of(unsigned which)
{
    struct inode *in = itable_get(l.w->client.itable, l.ino[which % 2]);
    in->opens = 1;
    return in;
}

struct asked {
    bool done;
    int rc;
};

/* While there are lies left nothing is promised, but that time goes by. */
static bool wait_for(const struct asked *a)
{
    return cluster_run_flag(l.cl, &a->done, l.on ? 3000 : PATIENCE_MS);
}

struct reading {
    struct read_request rr;
    struct asked asked;
};

static void read_done(struct read_request *rr)
{
    struct asked *a = &container_of(rr, struct reading, rr)->asked;
    CHECK(!a->done);
    a->done = true;
    a->rc = rr->rc;
}

static void do_read(unsigned which, uint64_t offset, uint32_t len)
{
    struct reading r = {
        .rr = {.inode = inode_of(which), .offset = offset, .length = len, .on_done = read_done}};
    reader_start(l.w->client.reader, &r.rr);
    CHECK(wait_for(&r.asked) || l.on);
    if (r.asked.done && r.asked.rc == 0) {
        size_t at = 0;
        CHECK(r.rr.bytes <= len);
        for (unsigned i = 0; i < r.rr.n_iov; i++) {
            CHECK(at + r.rr.iov[i].iov_len <= len);
            memcpy(l.got + at, r.rr.iov[i].iov_base, r.rr.iov[i].iov_len);
            at += r.rr.iov[i].iov_len;
        }
        CHECK(at == r.rr.bytes);
    }
    reader_finish(l.w->client.reader, &r.rr);
}

struct waiting {
    struct writer_wait wait;
    struct asked asked;
};

static void waited(struct writer_wait *wait, int rc)
{
    struct asked *a = &container_of(wait, struct waiting, wait)->asked;
    CHECK(!a->done);
    a->done = true;
    a->rc = rc;
}

static bool wait_writer(struct waiting *x)
{
    const bool done = wait_for(&x->asked);
    if (!done) {
        writer_wait_cancel(&x->wait);
    }
    return done;
}

static void do_flush(void)
{
    struct waiting x = {.wait = {.on_done = waited}};
    writer_flush_all(l.w->client.writer, &x.wait);
    CHECK(wait_writer(&x) || l.on);
}

/* As ops_write does it. */
static void do_write(unsigned which, uint64_t offset, size_t len)
{
    struct client *c = &l.w->client;
    for (unsigned tries = 0; tries < 8; tries++) {
        struct inode *in = inode_of(which);
        const int rc = writer_write(c->writer, in, offset, BYTES(l.data, len), 0);
        if (rc == -ENODATA) {
            do_read(which, 0, 1); /* fetches its attributes and content */
        } else if (rc == -EAGAIN) {
            if (writer_wants_layout(c->writer, in, offset, len)) {
                reader_want_layout(c->reader, in, offset, len);
            }
            struct waiting x = {.wait = {.on_done = waited}};
            writer_wait_room(c->writer, &x.wait);
            if (!wait_writer(&x)) {
                return;
            }
        } else {
            return;
        }
    }
}

static void sought(void *ctx, int rc, uint64_t at)
{
    struct asked *a = ctx;
    (void)at;
    l.seeks--;
    a->done = true;
    a->rc = rc;
}

/* Cannot be cancelled, so what it tells outlives this function. */
static void do_seek(unsigned which, uint64_t offset, bool hole)
{
    static struct asked asked[SCRIPT_MAX + 4];
    static unsigned n;
    struct asked *a = &asked[n++ % array_count(asked)];
    *a = (struct asked){0};
    l.seeks++;
    reader_seek(l.w->client.reader, inode_of(which), offset, hole, sought, a);
    CHECK(wait_for(a) || l.on);
}

static void do_forget(unsigned which)
{
    struct inode *in = inode_of(which);
    if (in->pins == 0) {
        in->attr_valid = false;
        itable_drop_extents(in);
    }
}

static void do_chunk(unsigned n)
{
    struct fake_chunk *c = &l.cl->chunk[n % CLUSTER_CHUNKS];
    switch (n / CLUSTER_CHUNKS % 4) {
    case 0:
        c->lose = !c->lose;
        break;
    case 1:
        c->corrupt = !c->corrupt;
        break;
    case 2:
        cluster_kill(l.cl, c->number);
        break;
    default:
        cluster_revive(l.cl, c->number);
        break;
    }
}

/* The worker dies, and the next one goes on with what is in the arena. It begins among honest
 * servers, which is what test/lib/fake_cluster.c knows; what it repeats is answered later. */
static void do_restart(void)
{
    struct arena *arena = l.w->client.arena;
    const bool on = l.on;
    if (l.cl->n_workers < WORKERS_MAX && l.seeks == 0) {
        l.on = false;
        worker_stop(l.w);
        l.w = worker_start(l.cl, arena);
        l.on = on;
    }
}

static void do_session(unsigned n)
{
    struct client *c = &l.w->client;
    switch (n % 4) {
    case 0:
        tables_fetch(c->tables, NULL, NULL);
        cluster_run(l.cl, 10);
        break;
    case 1:
        session_renew_soon(c->session);
        cluster_run(l.cl, 10);
        break;
    case 2:
        do_restart();
        break;
    default:
        cluster_run(l.cl, 1000u * (n / 4 % 8));
        break;
    }
}

static void play(struct cursor script)
{
    for (unsigned i = 0; i < SCRIPT_MAX && cursor_left(&script) > 0; i++) {
        const unsigned what = cursor_u8(&script), n = cursor_u8(&script);
        const uint64_t offset = (uint64_t)(n / 2) << 12;
        switch (what % 8) {
        case 0:
        case 1:
            do_read(n, offset, what < 128 ? 5000 : READ_MAX);
            break;
        case 2:
            do_write(n, offset, what < 128 ? 3000 : WRITE_MAX);
            break;
        case 3:
            do_flush();
            break;
        case 4:
            do_seek(n, offset, what < 128);
            break;
        case 5:
            do_forget(n);
            break;
        case 6:
            do_chunk(n);
            break;
        default:
            do_session(n);
            break;
        }
    }
}

/* ---- opening ---- */

static void serve_open(struct request *r, void *ctx)
{
    Cfs__SessionOpenReply m = CFS__SESSION_OPEN_REPLY__INIT;
    Cfs__Policy policy = CFS__POLICY__INIT;
    uint8_t cluster[16] = {1}, packed[256];
    (void)ctx;
    policy.k = 4;
    policy.m = 2;
    policy.inline_limit = 4096;
    m.policy = &policy;
    m.session = l.cl->world.session;
    m.lease_ms = SESSION_LEASE_MS;
    m.root_ino = 1;
    m.volume = 1;
    m.cluster = (ProtobufCBinaryData){.data = cluster, .len = sizeof cluster};
    request_reply(r, 0, BYTES(packed, cfs__session_open_reply__pack(&m, packed)), NULL);
}

static void serve_close(struct request *r, void *ctx)
{
    (void)ctx;
    request_reply(r, 0, BYTES(NULL, 0), NULL);
}

static void opened(void *ctx, int rc, const char *text)
{
    struct asked *a = ctx;
    CHECK(!a->done && (rc == 0 || strlen(text) < 4096));
    a->done = true;
    a->rc = rc;
}

static void closed(struct session *s, int rc, void *ctx)
{
    (void)s;
    opened(ctx, rc, "");
}

static void on_shut(void *ctx)
{
    *(bool *)ctx = true;
}

/* A mount that only begins and ends; its policy and numbers are what a worker goes on with. */
static void play_opening(void)
{
    struct arena *arena = cluster_arena_new(16, 65536);
    struct transport *node = net_sim_node(l.cl->net, "opening", NULL);
    struct client c = {.timers = &l.cl->timers, .transport = node, .arena = arena};
    const struct session_options options = {.addresses = "meta:1"};
    struct asked begun = {0}, ended = {0};
    bool shut = false;
    c.session = session_new(node, &options);
    opening_start(&c, opened, &begun);
    CHECK(cluster_run_flag(l.cl, &begun.done, PATIENCE_MS));
    if (begun.rc == 0) {
        CHECK(c.policy.k >= 1 && c.policy.k <= 32 && c.policy.m <= 8);
        CHECK(arena->h->session != 0);
        cluster_run(l.cl, 5000);
        session_close(c.session, 10000, closed, &ended);
        CHECK(cluster_run_flag(l.cl, &ended.done, PATIENCE_MS));
    }
    session_free(c.session);
    node->ops->shutdown(node, on_shut, &shut);
    CHECK(cluster_run_flag(l.cl, &shut, PATIENCE_MS));
    cluster_arena_free(arena);
}

/* ---- the end ---- */

/* From here on nobody lies, and everybody is there: what is asked is answered. */
static void settle(void)
{
    l.on = false;
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        cluster_revive(l.cl, i);
        l.cl->chunk[i].lose = l.cl->chunk[i].corrupt = false;
    }
    tables_fetch(l.w->client.tables, NULL, NULL);
    cluster_run(l.cl, 20000);
    do_flush();
    do_forget(0);
    do_forget(1);
    do_read(0, 0, READ_MAX);
    do_read(1, 0, 100);
    do_seek(0, 0, true);
}

static void begin(struct arena *arena)
{
    l.cl = cluster_new(1);
    l.cl->lies = true;
    l.ino[0] = cluster_create(l.cl, "large");
    l.ino[1] = cluster_create(l.cl, "small");
    server_handle(l.cl->meta, METHOD_SESSION_OPEN, serve_open, NULL);
    server_handle(l.cl->meta, METHOD_SESSION_CLOSE, serve_close, NULL);
    l.w = worker_start(l.cl, arena);
    tap_on(CLUSTER_CHUNKS, l.cl->meta_node);
    for (unsigned i = 0; i < CLUSTER_CHUNKS; i++) {
        tap_on(i, l.cl->chunk[i].node);
    }
}

/* Two files, in stripes and inline. */
static void write_files(void)
{
    for (size_t at = 0; at < FILE_BYTES; at += WRITE_MAX / 2) {
        do_write(0, at, WRITE_MAX / 2);
    }
    do_write(1, 0, 100);
    do_flush();
    do_forget(0);
}

/* One for all inputs, as new: to map and fill its memory takes longer than what is done in it. */
static struct arena *fresh_arena(void)
{
    static struct arena *kept;
    kept = kept != NULL ? kept : cluster_arena_new(PAGES, CACHE);
    const struct arena_sizes sizes = kept->h->sizes;
    *kept->h =
        (struct arena_header){.magic = ARENA_MAGIC, .version = ARENA_VERSION, .sizes = sizes};
    memset(kept->inode, 0, sizes.inodes * sizeof *kept->inode);
    memset(kept->page, 0, sizes.pages * sizeof *kept->page);
    memset(kept->commit, 0, sizes.commits * sizeof *kept->commit);
    return kept;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    log_set_level(LOG_LEVEL_ERROR);
    if (len < 2) {
        return 0;
    }
    const size_t script = data[0] % 64 < len - 1 ? data[0] % 64 : len - 1;
    memset(&l.tap, 0, sizeof l.tap);
    l.seeks = 0;
    begin(fresh_arena());
    l.c = cursor_of(BYTES(data + 1 + script, len - 1 - script));
    l.on = data[0] / 64 % 2 == 1; /* also while ids are granted */
    write_files();
    l.on = true;
    if (data[0] >= 224) {
        play_opening();
    }
    play(cursor_of(BYTES(data + 1, script)));
    settle();
    cluster_free(l.cl);
    return 0;
}
