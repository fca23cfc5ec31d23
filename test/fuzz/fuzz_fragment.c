#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "chunk.pb-c.h"
#include "chunkserver/heartbeat.h"
#include "ec/stripe.h"
#include "proto/methods.h"
#include "test/lib/asker.h"
#include "test/lib/messages.h"
#include "test/lib/net_sim.h"
#include "test/lib/protofill.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A chunk server (service and heartbeat) on a store of real files, over a network in virtual time.
 * A peer asks it anything, and the metadata server that its heartbeat talks to answers anything.
 * Each request is answered once or hung up on, and all buffers come back. The store lives as long
 * as the process, since to make one takes longer than an input; what an input put into it is
 * deleted after it. The first byte says how many bytes the metadata server's answers are made of.
 */
enum {
    STEPS_MAX = 24,
    PAYLOADS = 6,
    READS = 3,
    PAYLOAD_MAX = 1 << 17,
    PATIENCE_MS = 20000,
    GROUPS = 4
};

static const uint8_t CLUSTER[16] = {0xc1};

static struct play {
    struct cursor c, answers;
    struct timers timers;
    struct net_sim *net;
    struct transport *node, *peer, *meta;
    struct databuf_pool *payloads, *reads;
    struct server *server, *meta_server;
    struct chunk_service *service;
    struct heartbeat *heartbeat;
    struct asker asker;
} p;

/* ---- the store ---- */

static struct fragstore *store;
static uint64_t now_ms;
static char directory[64];

static void wake(void *ctx)
{
    (void)ctx; /* whoever waits asks again and again */
}

static void store_end(void)
{
    char *command = xasprintf("rm -rf '%s'", directory);
    fragstore_close(store);
    CHECK(system(command) == 0);
    free(command);
}

static bool store_open(const char *where)
{
    char why[256];
    snprintf(directory, sizeof directory, "%s/cfs-fuzz-XXXXXX", where);
    if (mkdtemp(directory) == NULL) {
        return false;
    }
    const char *const dirs[] = {directory};
    const struct fragstore_options o = {
        .dirs = dirs, .n_dirs = 1, .size_max = 256 << 20, .readers = 1, .wake = wake};
    if (fragstore_open(&o, &store, why) != 0) {
        rmdir(directory);
        return false;
    }
    atexit(store_end);
    return fragstore_set_cluster(store, CLUSTER) == 0;
}

/* In memory where that can be. */
static void need_store(void)
{
    if (store == NULL) {
        CHECK(store_open("/dev/shm") || store_open("/tmp"));
    }
}

static void on_done(struct frag_op *op)
{
    op->count = 0;
}

/* Behind everything that was given to the store before. */
static void through_store(enum frag_op_kind kind, uint32_t pg)
{
    struct frag_op op = {.kind = kind, .on_done = on_done};
    op.fragment.key.pg = pg;
    op.count = UINT64_MAX;
    fragstore_submit(store, &op);
    while (op.count != 0) {
        fragstore_poll(store);
        sched_yield();
    }
}

/* ---- what makes sense ---- */

static const struct {
    const char *field;
    uint64_t values[4];
} NUMBERS[] = {
    {"pg", {1, 2, 3, 0}},          {"id", {1, 2, 3, 4}},
    {"first", {1, 2, 3, 0}},       {"count", {1, 2, 100, 0}},
    {"slot", {0, 1, 2, 5}},        {"epoch", {3, 3, 2, 1}},
    {"nonce", {7, 7, 7, 0}},       {"offset", {0, 0, 65536, 5000}},
    {"length", {0, 4096, 100, 1}}, {"reign", {9, 9, 10, 8}},
    {"after", {0, 1, 2, 3}},       {"max", {100, 1, 2, 0}},
    {"order", {1, 2, 3, 4}},
};

static uint64_t number(void *ctx, const char *field, struct cursor *c)
{
    (void)ctx;
    const unsigned n = cursor_u8(c);
    for (unsigned i = 0; i < array_count(NUMBERS); i++) {
        if (strcmp(field, NUMBERS[i].field) == 0) {
            return NUMBERS[i].values[n % 4];
        }
    }
    return n % 4 == 0 ? n / 4 : 0;
}

static struct bytes text(void *ctx, const char *field, struct cursor *c)
{
    (void)ctx;
    (void)c;
    return strcmp(field, "cluster") == 0 ? BYTES(CLUSTER, sizeof CLUSTER) : BYTES("text", 4);
}

static const struct protofill_words SAY = {.number = number, .text = text};

/* ---- asking ---- */

static void ask(uint16_t method, struct bytes body, struct bytes payload, bool changed)
{
    const struct messages m = messages_of(method);
    struct buf other;
    buf_init(&other);
    if (changed && m.request != NULL) {
        protofill(m.request, body, &p.c, &other);
        body = buf_bytes(&other);
    }
    asker_ask(&p.asker, method, body, payload);
    buf_release(&other);
}

static void ask_put(bool changed)
{
    static uint8_t payload[PAYLOAD_MAX];
    static const struct stripe_code CODES[] = {
        {STRIPE_RS, 4, 2}, {STRIPE_COPY, 1, 2}, {STRIPE_RS, 2, 1}, {STRIPE_RS, 32, 8}};
    static const uint64_t LENGTHS[] = {1, 4096, 5000, 100000};
    uint32_t crc[STRIPE_CRC_MAX];
    uint8_t packed[256];
    Cfs__FragmentPut m = CFS__FRAGMENT_PUT__INIT;
    const unsigned n = cursor_u8(&p.c);
    const struct stripe_code code = CODES[n % 4];
    m.pg = 1 + n / 4 % 2;
    m.id = 1 + n / 8 % 4;
    m.slot = n / 32 % 3;
    m.epoch = 3;
    m.nonce = n / 96 < 2 ? 7 : 8;
    m.kind = code.kind;
    m.k = code.k;
    m.m = code.m;
    m.stripe_length = LENGTHS[cursor_u8(&p.c) % array_count(LENGTHS)];
    const uint32_t bytes = stripe_fragment_bytes(code, m.stripe_length);
    m.n_crc = stripe_crc_blocks(bytes);
    m.crc = crc;
    for (unsigned i = 0; i < m.n_crc; i++) {
        const uint32_t left = bytes - i * STRIPE_CRC_BLOCK;
        crc[i] = crc32c(0, payload, left < STRIPE_CRC_BLOCK ? left : STRIPE_CRC_BLOCK);
    }
    const uint32_t cut = changed ? cursor_u8(&p.c) * 512u : 0;
    ask(METHOD_FRAGMENT_PUT, BYTES(packed, cfs__fragment_put__pack(&m, packed)),
        BYTES(payload, cut > bytes ? 0 : bytes - cut), changed);
}

static void ask_sensibly(uint16_t method, bool changed)
{
    struct buf body;
    uint8_t room[PROTOFILL_DRAWN];
    struct cursor drawn = protofill_draw(&p.c, room);
    buf_init(&body);
    protofill_sense(messages_of(method).request, &SAY, &drawn, &body);
    ask(method, buf_bytes(&body), BYTES(NULL, 0), changed);
    buf_release(&body);
}

static void ask_anything(void)
{
    static const uint8_t ZEROES[8192];
    const unsigned n = cursor_u8(&p.c);
    const uint16_t method = n < 128   ? (uint16_t)(METHOD_FRAGMENT_PUT + n % 6)
                            : n < 200 ? (uint16_t)messages_method(n)
                                      : cursor_le16(&p.c);
    const size_t len = cursor_u8(&p.c) % 64;
    ask(method, cursor_take(&p.c, len < cursor_left(&p.c) ? len : 0),
        BYTES(ZEROES, n % 4 == 0 ? n * 32 : 0), false);
}

/* ---- the metadata server ---- */

static void serve_anything(struct request *r, void *ctx)
{
    const ProtobufCMessageDescriptor *d = messages_of(r->method).reply;
    struct buf honest, body;
    (void)ctx;
    buf_init(&honest);
    buf_init(&body);
    const unsigned how = cursor_u8(&p.answers);
    uint8_t room[PROTOFILL_DRAWN];
    struct cursor drawn = protofill_draw(&p.answers, room);
    protofill_sense(d, &SAY, &drawn, &honest);
    protofill(d, how % 2 == 0 ? buf_bytes(&honest) : BYTES(NULL, 0), &p.answers, &body);
    const int rc = how < 224 ? 0 : ERR_FIRST - (int)(how % 32);
    request_reply(r, rc, how < 192 ? buf_bytes(&honest) : buf_bytes(&body), NULL);
    buf_release(&honest);
    buf_release(&body);
}

/* ---- running ---- */

/* The store's threads take real time: before much virtual time goes by they catch up, or the disk
 * would count as hung. */
static void run(uint64_t ms)
{
    if (ms > 100) {
        through_store(FRAG_DELETE, GROUPS);
    }
    const uint64_t end = p.timers.now_ms + ms;
    while (p.timers.now_ms < end) {
        const uint64_t next = timers_next(&p.timers);
        net_sim_run_until(p.net, next < end ? next : end);
        fragstore_poll(store);
    }
}

static void wait_answers(void)
{
    const uint64_t end = clock_now_ms() + PATIENCE_MS;
    while (!asker_idle(&p.asker)) {
        CHECK(clock_now_ms() < end);
        run(1);
        sched_yield();
    }
}

static void step(void)
{
    static const uint16_t METHODS[] = {METHOD_FRAGMENT_GET,  METHOD_FRAGMENT_STAT,
                                       METHOD_FRAGMENT_LIST, METHOD_FRAGMENT_DELETE,
                                       METHOD_FRAGMENT_GET,  METHOD_COUNTERS};
    const unsigned what = cursor_u8(&p.c);
    if (what < 80) {
        ask_put(what % 2 == 0);
    } else if (what < 176) {
        ask_sensibly(METHODS[what % array_count(METHODS)], what / 8 % 2 == 0);
    } else if (what < 200) {
        ask_anything();
    } else if (what < 208) {
        asker_cancel(&p.asker, METHOD_FRAGMENT_GET, cursor_u8(&p.c) % 16);
    } else if (what < 212) {
        asker_hang_up(&p.asker);
    } else if (what < 224) {
        chunk_service_set_epoch(p.service, cursor_u8(&p.c) % GROUPS, what % 5);
    } else {
        run(what < 232 ? 1500 : 3);
    }
    if (what % 4 == 3) {
        wait_answers();
    }
}

/* ---- the world ---- */

static void begin(void)
{
    need_store();
    now_ms += 100000; /* the store knows when it was asked what, and time does not go back */
    timers_init(&p.timers, now_ms);
    p.net = net_sim_new(&p.timers, 1);
    net_sim_delay(p.net, 0, 0);
    p.payloads = databuf_pool_new(FRAME_PAYLOAD_MAX, PAYLOADS);
    p.reads = databuf_pool_new(STRIPE_FRAGMENT_MAX, READS);
    p.node = net_sim_node(p.net, "chunk", p.payloads);
    p.meta = net_sim_node(p.net, "meta", NULL);
    p.peer = net_sim_node(p.net, "peer", databuf_pool_new(FRAME_PAYLOAD_MAX, PAYLOADS));
    p.server = server_new(p.node);
    p.meta_server = server_new(p.meta);
    server_handle(p.meta_server, METHOD_CHUNK_REGISTER, serve_anything, NULL);
    server_handle(p.meta_server, METHOD_CHUNK_HEARTBEAT, serve_anything, NULL);
    p.service = chunk_service_new(p.server, &p.timers, store, p.reads);
    CHECK(server_listen(p.server, "chunk:1", NULL) == 0);
    CHECK(server_listen(p.meta_server, "meta:1", NULL) == 0);
    asker_init(&p.asker, p.peer, "chunk:1");
    const struct heartbeat_options o = {.transport = p.node,
                                        .server = p.server,
                                        .store = store,
                                        .service = p.service,
                                        .addresses = "meta:1",
                                        .listen = "chunk:1",
                                        .version = "fuzz"};
    CHECK(heartbeat_start(&o, &p.heartbeat) == 0);
}

static void shut(void *ctx)
{
    (*(unsigned *)ctx)++;
}

static void end(void)
{
    unsigned n = 0;
    struct databuf_pool *peer_payloads = p.peer->payloads;
    heartbeat_stop(p.heartbeat);
    chunk_service_stop(p.service);
    through_store(FRAG_STAT, 0);
    for (uint32_t pg = 0; pg < GROUPS; pg++) {
        through_store(FRAG_DELETE, pg);
    }
    heartbeat_free(p.heartbeat);
    p.node->ops->shutdown(p.node, shut, &n);
    p.meta->ops->shutdown(p.meta, shut, &n);
    p.peer->ops->shutdown(p.peer, shut, &n);
    run(5000);
    CHECK(n == 3);
    CHECK(databuf_pool_left(p.payloads) == PAYLOADS && databuf_pool_left(p.reads) == READS);
    server_free(p.server);
    server_free(p.meta_server);
    chunk_service_free(p.service);
    net_sim_free(p.net);
    timers_release(&p.timers);
    databuf_pool_free(p.payloads);
    databuf_pool_free(p.reads);
    databuf_pool_free(peer_payloads);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    log_set_level(LOG_LEVEL_ERROR);
    if (len < 2) {
        return 0;
    }
    const size_t answers = data[0] % 64 < len - 1 ? data[0] % 64 : len - 1;
    memset(&p, 0, sizeof p);
    begin();
    p.answers = cursor_of(BYTES(data + 1, answers));
    p.c = cursor_of(BYTES(data + 1 + answers, len - 1 - answers));
    for (unsigned i = 0; i < STEPS_MAX && cursor_left(&p.c) > 0; i++) {
        step();
    }
    wait_answers();
    end();
    return 0;
}
