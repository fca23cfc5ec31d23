#include "chunkserver/chunk_service.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/prng.h"
#include "chunk.pb-c.h"
#include "chunkserver/heartbeat.h"
#include "proto/methods.h"
#include "rpc/tcp.h"

/* A chunk server with real files and real TCP, its client, and a metadata server that is played
 * by the test: all on one loop, all behind one listening port. */
enum { MIB = 1 << 20, WAIT_MS = 10000 };

struct world {
    uv_loop_t loop;
    uv_async_t wake;
    struct timers timers;
    struct tcp_clock *clock;
    struct databuf_pool *payloads, *reads;
    struct transport *transport;
    struct server *server;
    struct fragstore *store;
    struct chunk_service *service;
    struct heartbeat *heartbeat;
    struct peer *peer;
    char address[64];
    char *dir[2];
    unsigned n_dirs;
    uint8_t *data;
    bool gone;
    /* The metadata server's side. */
    uint8_t cluster[16];
    uint64_t reign;
    uint32_t order_pg, epoch_pg, epoch;
    uint64_t order, order_reign, order_first, order_count, order_heard;
    unsigned registers, beats;
    uint64_t fragments, corrupt;
    uint32_t disk_state[2];
    bool saw_fault_counter;
};

static void on_wake(uv_async_t *a)
{
    struct world *w = a->data;
    if (w->store != NULL) {
        fragstore_poll(w->store);
    }
}

static void wake(void *ctx)
{
    uv_async_send(&((struct world *)ctx)->wake);
}

static void play_register(struct request *r, void *ctx)
{
    struct world *w = ctx;
    Cfs__ChunkRegister *m = cfs__chunk_register__unpack(NULL, r->body.len, r->body.data);
    ck_assert_ptr_nonnull(m);
    ck_assert_uint_eq(m->server.len, 16);
    ck_assert_str_eq(m->address, w->address);
    w->registers++;
    cfs__chunk_register__free_unpacked(m, NULL);
    Cfs__ChunkRegisterReply reply = CFS__CHUNK_REGISTER_REPLY__INIT;
    reply.id = 5;
    reply.cluster = (ProtobufCBinaryData){.data = w->cluster, .len = 16};
    reply.reign = w->reign;
    uint8_t packed[64];
    size_t len = cfs__chunk_register_reply__pack(&reply, packed);
    request_reply(r, 0, BYTES(packed, len), NULL);
}

static void note_beat(struct world *w, const Cfs__ChunkHeartbeat *m)
{
    w->beats++;
    ck_assert_uint_eq(m->id, 5);
    w->fragments = m->fragments;
    w->corrupt = m->corrupt;
    for (size_t i = 0; i < m->n_disk && i < 2; i++) {
        w->disk_state[i] = m->disk[i]->state;
    }
    for (size_t i = 0; i < m->n_order_done; i++) {
        w->order_heard = m->order_done[i];
    }
    ck_assert_uint_le(m->counters->n_counter, 40);
    for (size_t i = 0; i < m->counters->n_counter; i++) {
        if (strcmp(m->counters->counter[i]->name, "fault.bad-magic") == 0) {
            w->saw_fault_counter = true;
        }
    }
}

static void play_heartbeat(struct request *r, void *ctx)
{
    struct world *w = ctx;
    Cfs__ChunkHeartbeat *m = cfs__chunk_heartbeat__unpack(NULL, r->body.len, r->body.data);
    ck_assert_ptr_nonnull(m);
    note_beat(w, m);
    cfs__chunk_heartbeat__free_unpacked(m, NULL);
    Cfs__ChunkHeartbeatReply reply = CFS__CHUNK_HEARTBEAT_REPLY__INIT;
    Cfs__DeleteOrder order = CFS__DELETE_ORDER__INIT, *orders[1] = {&order};
    Cfs__Uint64Range range = CFS__UINT64_RANGE__INIT, *ranges[1] = {&range};
    Cfs__PgEpoch epoch = CFS__PG_EPOCH__INIT, *epochs[1] = {&epoch};
    reply.reign = w->reign;
    order.order = w->order;
    order.reign = w->order_reign;
    order.pg = w->order_pg;
    order.n_id = 1;
    order.id = ranges;
    range.first = w->order_first;
    range.count = w->order_count;
    reply.n_order = w->order != 0 && w->order_heard != w->order ? 1 : 0;
    reply.order = orders;
    epoch.pg = w->epoch_pg;
    epoch.epoch = w->epoch;
    reply.n_epoch = w->epoch != 0 ? 1 : 0;
    reply.epoch = epochs;
    uint8_t packed[256];
    size_t len = cfs__chunk_heartbeat_reply__pack(&reply, packed);
    request_reply(r, 0, BYTES(packed, len), NULL);
}

static void open_store(struct world *w)
{
    char text[256];
    struct fragstore_options o = {.dirs = (const char *const *)w->dir,
                                  .n_dirs = w->n_dirs,
                                  .size_max = 256 << 20,
                                  .reserve_percent = 3,
                                  .wake = wake,
                                  .ctx = w};
    ck_assert_int_eq(fragstore_open(&o, &w->store, text), 0);
}

static void world_start(struct world *w)
{
    uv_loop_init(&w->loop);
    uv_async_init(&w->loop, &w->wake, on_wake);
    w->wake.data = w;
    timers_init(&w->timers, clock_now_ms());
    w->clock = tcp_clock_start(&w->loop, &w->timers);
    w->payloads = databuf_pool_new(FRAME_PAYLOAD_MAX, 16);
    w->reads = databuf_pool_new(STRIPE_FRAGMENT_MAX, 4);
    w->transport = tcp_new(&w->loop, &w->timers, w->payloads);
    w->server = server_new(w->transport);
    open_store(w);
    w->service = chunk_service_new(w->server, &w->timers, w->store, w->reads);
    server_handle(w->server, METHOD_CHUNK_REGISTER, play_register, w);
    server_handle(w->server, METHOD_CHUNK_HEARTBEAT, play_heartbeat, w);
    ck_assert_int_eq(server_listen(w->server, "127.0.0.1:0", w->address), 0);
    w->peer = peer_new(w->transport, w->address, NULL, NULL);
    w->gone = false;
}

static void world_init(struct world *w, unsigned n_dirs)
{
    memset(w, 0, sizeof *w);
    w->n_dirs = n_dirs;
    w->reign = 10;
    memset(w->cluster, 0xc1, sizeof w->cluster);
    w->data = aligned_alloc(4096, MIB);
    for (unsigned i = 0; i < n_dirs; i++) {
        char template[] = "/tmp/cfs-test-chunk-XXXXXX";
        ck_assert_ptr_nonnull(mkdtemp(template));
        w->dir[i] = xstrdup(template);
    }
    world_start(w);
}

static void transport_gone(void *ctx)
{
    struct world *w = ctx;
    tcp_clock_close(w->clock);
    uv_close((uv_handle_t *)&w->wake, NULL);
    w->gone = true;
}

static void world_stop(struct world *w)
{
    if (w->heartbeat != NULL) {
        heartbeat_stop(w->heartbeat);
    }
    chunk_service_stop(w->service);
    fragstore_close(w->store);
    w->store = NULL;
    heartbeat_free(w->heartbeat);
    w->heartbeat = NULL;
    peer_free(w->peer);
    w->transport->ops->shutdown(w->transport, transport_gone, w);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    ck_assert(w->gone);
    server_free(w->server);
    chunk_service_free(w->service);
    tcp_free(w->transport);
    timers_release(&w->timers);
    databuf_pool_free(w->payloads);
    databuf_pool_free(w->reads);
    ck_assert_int_eq(uv_loop_close(&w->loop), 0);
}

static void world_release(struct world *w)
{
    world_stop(w);
    for (unsigned i = 0; i < w->n_dirs; i++) {
        char *command = xasprintf("rm -rf %s", w->dir[i]);
        ck_assert_int_eq(system(command), 0);
        free(command);
        free(w->dir[i]);
    }
    free(w->data);
}

static void start_heartbeat(struct world *w)
{
    struct heartbeat_options o = {.transport = w->transport,
                                  .server = w->server,
                                  .store = w->store,
                                  .service = w->service,
                                  .addresses = w->address,
                                  .listen = w->address,
                                  .version = "test"};
    ck_assert_int_eq(heartbeat_start(&o, &w->heartbeat), 0);
}


/* Runs the loop until the condition holds; fails the test if it never does. */
static void run_until(struct world *w, bool (*condition)(struct world *w))
{
    uint64_t end = clock_now_ms() + WAIT_MS;
    while (!condition(w)) {
        ck_assert_uint_lt(clock_now_ms(), end);
        uv_run(&w->loop, UV_RUN_ONCE);
    }
}

/* ---- one call at a time --------------------------------------------------------------------- */

struct answer {
    struct call call;
    bool done;
    int rc;
    struct buf body;
    struct buf payload;
};

static void on_done(struct call *c)
{
    struct answer *a = container_of(c, struct answer, call);
    a->done = true;
    a->rc = c->rc;
    if (c->reply.len > 0) {
        buf_add(&a->body, c->reply.data, c->reply.len);
    }
    if (c->reply_payload != NULL) {
        buf_add(&a->payload, c->reply_payload->data, c->reply_payload->len);
    }
}

static int ask(struct world *w, struct answer *a, uint16_t method, struct bytes body,
               struct iovec *payload)
{
    memset(a, 0, sizeof *a);
    a->call.method = method;
    a->call.body = body;
    a->call.payload = payload;
    a->call.n_payload = payload != NULL ? 1 : 0;
    a->call.timeout_ms = WAIT_MS;
    a->call.on_done = on_done;
    call_start(w->peer, &a->call);
    while (!a->done) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    return a->rc;
}

static void answer_release(struct answer *a)
{
    buf_release(&a->body);
    buf_release(&a->payload);
}

static void fill(uint8_t *data, uint64_t id, uint32_t bytes)
{
    struct prng p;
    prng_seed(&p, id);
    for (uint32_t i = 0; i < bytes; i += 8) {
        put_le64(data + i, prng_u64(&p));
    }
}

struct put_change { /* what is wrong with a put */
    uint32_t slot, epoch, n_crc, kind;
    uint64_t nonce;
    bool flip;
};

static int put_with(struct world *w, uint64_t id, uint32_t bytes, struct put_change change)
{
    uint32_t crc[32] = {0};
    Cfs__FragmentPut m = CFS__FRAGMENT_PUT__INIT;
    fill(w->data, id, bytes);
    m.pg = 3;
    m.id = id;
    m.slot = change.slot != 0 ? change.slot : 1;
    m.epoch = change.epoch != 0 ? change.epoch : 4;
    m.nonce = change.nonce != 0 ? change.nonce : 77;
    m.kind = change.kind != 0 ? change.kind : STRIPE_RS;
    m.k = 4;
    m.m = 2;
    m.stripe_length = 4ull * bytes;
    m.n_crc = change.n_crc != 0 ? change.n_crc : (bytes + 65535) / 65536;
    for (uint32_t at = 0; at < bytes; at += 65536) {
        crc[at / 65536] = crc32c(0, w->data + at, bytes - at < 65536 ? bytes - at : 65536);
    }
    m.crc = crc;
    w->data[17] ^= change.flip ? 1 : 0;
    struct buf packed;
    buf_init(&packed);
    cfs__fragment_put__pack(&m, buf_extend(&packed, cfs__fragment_put__get_packed_size(&m)));
    struct iovec iov = {w->data, bytes};
    struct answer a;
    int rc = ask(w, &a, METHOD_FRAGMENT_PUT, buf_bytes(&packed), bytes > 0 ? &iov : NULL);
    answer_release(&a);
    buf_release(&packed);
    return rc;
}

static int put_one(struct world *w, uint64_t id, uint32_t bytes)
{
    return put_with(w, id, bytes, (struct put_change){0});
}

static int find(struct world *w, uint16_t method, uint64_t id, uint32_t offset, uint32_t length,
                struct answer *a)
{
    Cfs__FragmentGet m = CFS__FRAGMENT_GET__INIT;
    m.pg = 3;
    m.id = id;
    m.slot = 1;
    m.has_offset = m.has_length = m.has_nonce = 1;
    m.offset = offset;
    m.length = length;
    m.nonce = 77;
    uint8_t packed[128];
    size_t len = cfs__fragment_get__pack(&m, packed);
    return ask(w, a, method, BYTES(packed, len), NULL);
}

/* Gets a range and checks bytes and CRCs. */
static int get_one(struct world *w, uint64_t id, uint32_t bytes, uint32_t offset, uint32_t length)
{
    struct answer a;
    int rc = find(w, METHOD_FRAGMENT_GET, id, offset, length, &a);
    if (rc == 0) {
        Cfs__FragmentGetReply *m = cfs__fragment_get_reply__unpack(NULL, a.body.len, a.body.data);
        ck_assert_ptr_nonnull(m);
        ck_assert_uint_eq(m->fragment_bytes, bytes);
        ck_assert_uint_eq(m->offset, offset / 65536 * 65536);
        ck_assert_uint_ge(m->offset + a.payload.len, offset + length);
        fill(w->data, id, bytes);
        ck_assert_int_eq(memcmp(a.payload.data, w->data + m->offset, a.payload.len), 0);
        ck_assert_uint_eq(m->n_crc, (a.payload.len + 65535) / 65536);
        ck_assert_uint_eq(m->crc[0],
                          crc32c(0, a.payload.data, a.payload.len < 65536 ? a.payload.len : 65536));
        cfs__fragment_get_reply__free_unpacked(m, NULL);
    }
    answer_release(&a);
    return rc;
}

START_TEST(put_get_stat_over_tcp)
{
    struct world w;
    world_init(&w, 1);
    ck_assert_int_eq(put_one(&w, 1, MIB), 0);
    ck_assert_int_eq(put_one(&w, 2, 4096), 0);
    ck_assert_int_eq(get_one(&w, 1, MIB, 0, 0), 0);
    ck_assert_int_eq(get_one(&w, 1, MIB, 70000, 131072), 0);
    ck_assert_int_eq(get_one(&w, 1, MIB, MIB - 1, 1), 0);
    ck_assert_int_eq(get_one(&w, 2, 4096, 0, 0), 0);
    ck_assert_int_eq(get_one(&w, 1, MIB, MIB - 1, 2), -EINVAL);
    ck_assert_int_eq(get_one(&w, 9, MIB, 0, 0), ERR_NOT_FOUND);
    struct answer a;
    ck_assert_int_eq(find(&w, METHOD_FRAGMENT_STAT, 2, 0, 0, &a), 0);
    Cfs__FragmentInfo *info = cfs__fragment_info__unpack(NULL, a.body.len, a.body.data);
    ck_assert_ptr_nonnull(info);
    ck_assert_uint_eq(info->fragment_bytes, 4096);
    ck_assert_str_eq(info->disk, w.dir[0]);
    cfs__fragment_info__free_unpacked(info, NULL);
    answer_release(&a);
    world_release(&w);
}
END_TEST

START_TEST(bad_puts_are_refused_with_the_reason)
{
    struct world w;
    world_init(&w, 1);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.slot = 40}), -EINVAL);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.slot = 257}), -EINVAL);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.kind = 9}), -EINVAL);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.n_crc = 2}), -EINVAL);
    ck_assert_int_eq(put_with(&w, 1, 4000, (struct put_change){0}), -EINVAL);
    ck_assert_int_eq(put_with(&w, 1, 0, (struct put_change){0}), -EINVAL);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.flip = true}), ERR_CORRUPT);
    ck_assert_int_eq(put_one(&w, 1, 4096), 0);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.nonce = 78}), ERR_ID_CONFLICT);
    struct answer a;
    int rc = ask(&w, &a, METHOD_FRAGMENT_PUT, BYTES("\xff\xff", 2), NULL);
    ck_assert_int_eq(rc, ERR_DISCONNECTED); /* a body that does not decode ends the connection */
    answer_release(&a);
    world_release(&w);
}
END_TEST

START_TEST(what_was_answered_is_there_after_restart)
{
    struct world w;
    world_init(&w, 2);
    for (uint64_t id = 1; id <= 20; id++) {
        ck_assert_int_eq(put_one(&w, id, id % 2 == 0 ? 128 << 10 : 8192), 0);
    }
    world_stop(&w);
    world_start(&w);
    for (uint64_t id = 1; id <= 20; id++) {
        ck_assert_int_eq(get_one(&w, id, id % 2 == 0 ? 128 << 10 : 8192, 0, 0), 0);
    }
    world_release(&w);
}
END_TEST

START_TEST(list_merges_disks_in_order)
{
    struct world w;
    world_init(&w, 2);
    for (uint64_t id = 1; id <= 12; id++) {
        ck_assert_int_eq(put_one(&w, id, 4096), 0);
    }
    uint64_t after = 0, seen = 0;
    bool end = false;
    while (!end) {
        Cfs__FragmentList m = CFS__FRAGMENT_LIST__INIT;
        uint8_t packed[64];
        struct answer a;
        m.pg = 3;
        m.after = after;
        m.max = 5;
        size_t len = cfs__fragment_list__pack(&m, packed);
        ck_assert_int_eq(ask(&w, &a, METHOD_FRAGMENT_LIST, BYTES(packed, len), NULL), 0);
        Cfs__FragmentListReply *l = cfs__fragment_list_reply__unpack(NULL, a.body.len, a.body.data);
        ck_assert_ptr_nonnull(l);
        for (size_t i = 0; i < l->n_fragment; i++) {
            ck_assert_uint_eq(l->fragment[i]->id, ++seen);
            after = l->fragment[i]->id;
        }
        end = l->end;
        cfs__fragment_list_reply__free_unpacked(l, NULL);
        answer_release(&a);
    }
    ck_assert_uint_eq(seen, 12);
    world_release(&w);
}
END_TEST

static bool order_heard(struct world *w)
{
    return w->order_heard == w->order;
}

static bool beaten(struct world *w)
{
    return w->beats >= 1;
}

START_TEST(orders_are_carried_out_and_reported_at_once)
{
    struct world w;
    world_init(&w, 2);
    for (uint64_t id = 1; id <= 10; id++) {
        ck_assert_int_eq(put_one(&w, id, 8192), 0);
    }
    w.order = 900;
    w.order_reign = 10;
    w.order_pg = 3;
    w.order_first = 2;
    w.order_count = 8;
    uint64_t start = clock_now_ms();
    start_heartbeat(&w);
    run_until(&w, order_heard);
    ck_assert_uint_lt(clock_now_ms() - start, 900); /* did not wait for the next second */
    ck_assert_uint_eq(w.registers, 1);
    ck_assert(w.saw_fault_counter);
    ck_assert_int_eq(get_one(&w, 1, 8192, 0, 0), 0);
    ck_assert_int_eq(get_one(&w, 2, 8192, 0, 0), ERR_NOT_FOUND);
    ck_assert_int_eq(get_one(&w, 9, 8192, 0, 0), ERR_NOT_FOUND);
    ck_assert_int_eq(get_one(&w, 10, 8192, 0, 0), 0);
    ck_assert_int_eq(put_one(&w, 9, 8192), ERR_DEAD_ID); /* it was on its way all the time */
    ck_assert_int_eq(put_one(&w, 11, 8192), 0);
    ck_assert_uint_eq(w.fragments, 2);
    world_release(&w);
}
END_TEST

static bool two_beats(struct world *w)
{
    return w->beats >= 2;
}

START_TEST(order_of_an_earlier_reign_is_not_carried_out)
{
    struct world w;
    world_init(&w, 1);
    ck_assert_int_eq(put_one(&w, 2, 8192), 0);
    w.order = 901;
    w.order_reign = 9;
    w.order_pg = 3;
    w.order_first = 1;
    w.order_count = 8;
    start_heartbeat(&w);
    run_until(&w, two_beats);
    ck_assert_uint_eq(w.order_heard, 0);
    ck_assert_int_eq(get_one(&w, 2, 8192, 0, 0), 0);
    Cfs__FragmentDelete m = CFS__FRAGMENT_DELETE__INIT;
    Cfs__Uint64Range range = CFS__UINT64_RANGE__INIT, *ranges[1] = {&range};
    uint8_t packed[64];
    struct answer a;
    m.pg = 3;
    m.reign = 9;
    m.n_id = 1;
    m.id = ranges;
    range.first = 2;
    range.count = 1;
    size_t len = cfs__fragment_delete__pack(&m, packed);
    ck_assert_int_eq(ask(&w, &a, METHOD_FRAGMENT_DELETE, BYTES(packed, len), NULL),
                     ERR_STALE_REIGN);
    answer_release(&a);
    m.reign = 10;
    len = cfs__fragment_delete__pack(&m, packed);
    ck_assert_int_eq(ask(&w, &a, METHOD_FRAGMENT_DELETE, BYTES(packed, len), NULL), 0);
    answer_release(&a);
    ck_assert_int_eq(get_one(&w, 2, 8192, 0, 0), ERR_NOT_FOUND);
    world_release(&w);
}
END_TEST

START_TEST(deletion_under_way_ends_when_the_server_stops)
{
    enum { RANGES = 300 };
    struct world w;
    struct answer a = {0};
    Cfs__FragmentDelete m = CFS__FRAGMENT_DELETE__INIT;
    Cfs__Uint64Range range = CFS__UINT64_RANGE__INIT, *ranges[RANGES];
    uint8_t packed[RANGES * 8];
    world_init(&w, 1);
    range.count = 1;
    for (unsigned i = 0; i < RANGES; i++) {
        ranges[i] = &range;
    }
    m.n_id = RANGES;
    m.id = ranges;
    a.call.method = METHOD_FRAGMENT_DELETE;
    a.call.body = BYTES(packed, cfs__fragment_delete__pack(&m, packed));
    a.call.timeout_ms = WAIT_MS;
    a.call.on_done = on_done;
    call_start(w.peer, &a.call);
    const uint64_t before = w.transport->counts.frames_in;
    while (w.transport->counts.frames_in == before) {
        uv_run(&w.loop, UV_RUN_ONCE);
    }
    chunk_service_stop(w.service);
    while (!a.done) {
        uv_run(&w.loop, UV_RUN_ONCE);
    }
    ck_assert_int_eq(a.rc, ERR_BUSY);
    answer_release(&a);
    world_release(&w);
}
END_TEST

START_TEST(put_of_an_older_epoch_is_refused)
{
    struct world w;
    world_init(&w, 1);
    w.epoch_pg = 3;
    w.epoch = 5;
    start_heartbeat(&w);
    run_until(&w, beaten);
    run_until(&w, two_beats);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.epoch = 4}), ERR_STALE_EPOCH);
    ck_assert_int_eq(put_with(&w, 1, 4096, (struct put_change){.epoch = 5}), 0);
    ck_assert_int_eq(put_with(&w, 2, 4096, (struct put_change){.epoch = 6}), 0);
    world_release(&w);
}
END_TEST

static bool corruption_told(struct world *w)
{
    return w->corrupt == 1;
}

static void flip_byte(const char *dir, int segment, off_t at)
{
    char *path = xasprintf("%s/segments/%08d", dir, segment);
    uint8_t byte = 0;
    int fd = open(path, O_RDWR);
    if (fd >= 0 && pread(fd, &byte, 1, at) == 1) {
        byte ^= 4;
        ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
        ck_assert_int_eq(fsync(fd), 0);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(path);
}

START_TEST(flipped_byte_is_an_error_and_is_told)
{
    struct world w;
    world_init(&w, 1);
    ck_assert_int_eq(put_one(&w, 1, MIB), 0);
    for (int n = 0; n < 2; n++) { /* one of them is a spare: nobody misses its zeros */
        flip_byte(w.dir[0], n, 8192 + 4096 + 300000);
    }
    ck_assert_int_eq(get_one(&w, 1, MIB, 0, 65536), 0);
    ck_assert_int_eq(get_one(&w, 1, MIB, 0, 0), ERR_CORRUPT);
    start_heartbeat(&w);
    run_until(&w, corruption_told);
    world_release(&w);
}
END_TEST

START_TEST(broken_disk_is_left_out_and_the_other_goes_on)
{
    struct world w;
    world_init(&w, 2);
    for (uint64_t id = 1; id <= 8; id++) {
        ck_assert_int_eq(put_one(&w, id, 4096), 0);
    }
    world_stop(&w);
    char *command = xasprintf("rm -rf %s/index && touch %s/index", w.dir[1], w.dir[1]);
    ck_assert_int_eq(system(command), 0);
    free(command);
    world_start(&w);
    unsigned found = 0;
    for (uint64_t id = 1; id <= 8; id++) {
        int rc = get_one(&w, id, 4096, 0, 0);
        ck_assert(rc == 0 || rc == -EIO);
        found += rc == 0;
    }
    ck_assert(found > 0 && found < 8);
    for (uint64_t id = 11; id <= 18; id++) {
        ck_assert_int_eq(put_one(&w, id, 4096), 0);
        ck_assert_int_eq(get_one(&w, id, 4096, 0, 0), 0);
    }
    start_heartbeat(&w);
    run_until(&w, beaten);
    ck_assert_uint_eq(w.disk_state[0], 1);
    ck_assert_uint_eq(w.disk_state[1], 3);
    world_release(&w);
}
END_TEST

START_TEST(disk_of_another_cluster_is_refused)
{
    struct world w;
    world_init(&w, 1);
    start_heartbeat(&w);
    run_until(&w, beaten);
    uint8_t other[16] = {1};
    ck_assert_int_eq(fragstore_set_cluster(w.store, w.cluster), 0);
    ck_assert_int_eq(fragstore_set_cluster(w.store, other), ERR_WRONG_CLUSTER);
    world_stop(&w);
    memset(w.cluster, 0xee, sizeof w.cluster);
    w.beats = w.registers = 0;
    world_start(&w);
    start_heartbeat(&w);
    uint64_t end = clock_now_ms() + 1500;
    while (clock_now_ms() < end) {
        uv_run(&w.loop, UV_RUN_ONCE);
    }
    ck_assert_uint_gt(w.registers, 0);
    ck_assert_uint_eq(w.beats, 0);
    world_release(&w);
}
END_TEST

/* More gets than read buffers: they wait, and all are answered. */
enum { MANY = 32 };

static struct answer many[MANY];

static bool all_done(struct world *w)
{
    (void)w;
    for (unsigned i = 0; i < MANY; i++) {
        if (!many[i].done) {
            return false;
        }
    }
    return true;
}

static void get_many(struct world *w)
{
    Cfs__FragmentGet m = CFS__FRAGMENT_GET__INIT;
    uint8_t packed[64];
    m.pg = 3;
    m.id = 1;
    m.slot = 1;
    size_t len = cfs__fragment_get__pack(&m, packed);
    memset(many, 0, sizeof many);
    for (unsigned i = 0; i < MANY; i++) {
        many[i].call.method = METHOD_FRAGMENT_GET;
        many[i].call.body = BYTES(packed, len);
        many[i].call.timeout_ms = WAIT_MS;
        many[i].call.on_done = on_done;
        call_start(w->peer, &many[i].call);
    }
    run_until(w, all_done);
    for (unsigned i = 0; i < MANY; i++) {
        ck_assert_int_eq(many[i].rc, 0);
        ck_assert_uint_eq(many[i].payload.len, MIB);
        answer_release(&many[i]);
    }
}

START_TEST(gets_beyond_the_buffers_wait_for_one)
{
    struct world w;
    world_init(&w, 1);
    ck_assert_int_eq(put_one(&w, 1, MIB), 0);
    get_many(&w);
    world_release(&w);
}
END_TEST

/* Each get of a buffer is refused once, in the server's reads and in what both sides receive. */
START_TEST(any_buffer_may_be_refused)
{
    struct world w;
    unsigned refusals = 0;
    world_init(&w, 1);
    ck_assert_int_eq(put_one(&w, 1, MIB), 0);
    struct databuf_pool *pools[] = {w.reads, w.payloads};
    for (unsigned i = 0; i < 2; i++) {
        unsigned n = 1;
        do {
            databuf_pool_refuse_at(pools[i], n++);
            get_many(&w);
            refusals += databuf_pool_refused(pools[i]);
        } while (databuf_pool_refused(pools[i]) && n < 200);
        databuf_pool_refuse_at(pools[i], 0);
    }
    ck_assert_uint_gt(refusals, 8);
    world_release(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chunk_service");
    TCase *t = tcase_create("service");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, put_get_stat_over_tcp);
    tcase_add_test(t, bad_puts_are_refused_with_the_reason);
    tcase_add_test(t, what_was_answered_is_there_after_restart);
    tcase_add_test(t, list_merges_disks_in_order);
    tcase_add_test(t, orders_are_carried_out_and_reported_at_once);
    tcase_add_test(t, order_of_an_earlier_reign_is_not_carried_out);
    tcase_add_test(t, deletion_under_way_ends_when_the_server_stops);
    tcase_add_test(t, put_of_an_older_epoch_is_refused);
    tcase_add_test(t, flipped_byte_is_an_error_and_is_told);
    tcase_add_test(t, broken_disk_is_left_out_and_the_other_goes_on);
    tcase_add_test(t, disk_of_another_cluster_is_refused);
    tcase_add_test(t, gets_beyond_the_buffers_wait_for_one);
    tcase_add_test(t, any_buffer_may_be_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
