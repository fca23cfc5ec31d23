#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "chunk.pb-c.h"
#include "meta.pb-c.h"
#include "meta/fsm.h"
#include "proto/methods.h"
#include "test/lib/asker.h"
#include "test/lib/kv_mem.h"
#include "test/lib/messages.h"
#include "test/lib/protofill.h"
#include "test/lib/sim_meta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A whole metadata server (service, machine, replica, log, state machine) in virtual time, and one
 * peer that asks it anything: requests that make sense, such requests with some fields changed, and
 * any bytes, under any method. Each is answered once or hung up on, the server never stops, and
 * what it keeps is consistent. */
enum { STEPS_MAX = 40, PATIENCE_MS = 60000, CHUNKS = 6 };

static struct play {
    struct cursor c;
    struct timers timers;
    struct prng prng;
    struct net_sim *net;
    struct sim_meta meta;
    struct transport *node;
    struct asker asker;
    uint64_t session, seq, id;
    uint8_t client[16];
} p;

/* ---- what makes sense ---- */

static const struct {
    const char *field;
    uint64_t values[4];
} NUMBERS[] = {
    {"ino", {1, 2, 3, 4}},
    {"parent", {1, 1, 2, 3}},
    {"new_parent", {1, 1, 2, 3}},
    {"source", {2, 3, 4, 1}},
    {"mode", {S_IFREG | 0644, S_IFDIR | 0755, S_IFLNK | 0777, 3}},
    {"length", {4096, 100000, 1, 1 << 20}},
    {"stripe_length", {4096, 100000, 1, 1 << 20}},
    {"offset", {0, 4096, 100, 1 << 20}},
    {"size", {0, 100, 4097, 1 << 20}},
    {"end", {10, 100, INT64_MAX, 0}},
    {"count", {1, 10, 1024, 2}},
    {"k", {4, 4, 2, 1}},
    {"m", {2, 2, 1, 0}},
    {"kind", {1, 2, 1, 3}},
    {"type", {0, 1, 2, 1}},
    {"slot_mask", {0x3f, 0x3f, 7, 3}},
    {"max_bytes", {65536, 100, 1 << 20, 0}},
    {"feature_level", {1, 1, 1, 2}},
    {"id", {1, 2, 3, 6}},
    {"pg", {1, 1, 2, 3}},
    {"stripe", {1, 2, 3, 4}},
    {"owner", {7, 8, 9, 7}},
    {"handle", {1, 2, 3, 1}},
    {"ticket", {1, 2, 3, 4}},
    {"total", {1ull << 40, 1ull << 40, 1 << 30, 0}},
    {"free", {1ull << 39, 1ull << 30, 0, 1ull << 39}},
    {"state", {1, 1, 2, 3}},
    {"epoch", {1, 1, 2, 0}},
    {"inline_limit", {4096, 0, 65536, 4096}},
    {"atime", {1000000000, 0, 5, 7}},
    {"mtime", {1000000000, 0, 5, 7}},
};

static uint64_t number(void *ctx, const char *field, struct cursor *c)
{
    (void)ctx;
    const unsigned n = cursor_u8(c);
    if (strcmp(field, "session") == 0) {
        return n < 250 ? p.session : n;
    }
    if (strcmp(field, "seq") == 0) {
        return p.seq + (n < 240 ? 1 : n % 3);
    }
    if (strcmp(field, "acked") == 0) {
        return n < 240 ? p.seq : n;
    }
    for (unsigned i = 0; i < array_count(NUMBERS); i++) {
        if (strcmp(field, NUMBERS[i].field) == 0) {
            p.id = strcmp(field, "id") == 0 ? NUMBERS[i].values[n % 4] : p.id;
            return NUMBERS[i].values[n % 4];
        }
    }
    return n % 4 == 0 ? n / 4 : 0;
}

static struct bytes text(void *ctx, const char *field, struct cursor *c)
{
    static const char *const NAMES[] = {"a", "b", "c", "longer-name"};
    static uint8_t sixteen[16];
    static struct buf ops;
    (void)ctx;
    const unsigned n = cursor_u8(c);
    if (strcmp(field, "ops") == 0) {
        const struct protofill_words say = {.number = number, .text = text};
        buf_clear(&ops);
        protofill_sense(&cfs__ops__descriptor, &say, c, &ops);
        return buf_bytes(&ops);
    }
    if (strcmp(field, "client") == 0) {
        return BYTES(p.client, sizeof p.client);
    }
    if (strcmp(field, "server") == 0 || strcmp(field, "uuid") == 0) {
        /* Mostly that of the server whose number was said. */
        memset(sixteen, n < 192 ? (int)p.id : (int)(1 + n % CHUNKS), sizeof sixteen);
        return BYTES(sixteen, sizeof sixteen);
    }
    if (strcmp(field, "address") == 0) {
        return BYTES("c1:1", 4);
    }
    if (strcmp(field, "cluster") == 0) { /* as sim_meta.c makes it: any; left out is fine, too */
        return BYTES(p.meta.bootstrap.data, p.meta.bootstrap.len < 16 ? 0 : 16);
    }
    if (strcmp(field, "path") == 0) {
        return BYTES("/", 1);
    }
    const char *name = NAMES[n % array_count(NAMES)];
    return BYTES(name, strlen(name));
}

/* ---- asking ---- */

static void on_answer(void *ctx, unsigned method, int rc, struct bytes body)
{
    (void)ctx;
    if (method == METHOD_COMMAND && rc == 0) {
        p.seq++;
    }
    if (method == METHOD_SESSION_OPEN && rc == 0) {
        Cfs__SessionOpenReply *m = cfs__session_open_reply__unpack(NULL, body.len, body.data);
        p.session = m->session;
        p.seq = 0;
        cfs__session_open_reply__free_unpacked(m, NULL);
    }
}

static void ask_sensibly(unsigned method, bool changed)
{
    const struct protofill_words say = {.number = number, .text = text};
    const struct messages m = messages_of(method);
    struct buf body, other;
    uint8_t room[PROTOFILL_DRAWN];
    struct cursor drawn = protofill_draw(&p.c, room);
    buf_init(&body);
    buf_init(&other);
    protofill_sense(m.request, &say, &drawn, &body);
    if (changed) {
        protofill(m.request, buf_bytes(&body), &p.c, &other);
    }
    const struct buf *b = changed ? &other : &body;
    asker_ask(&p.asker, (uint16_t)method, buf_bytes(b), BYTES(NULL, 0));
    buf_release(&body);
    buf_release(&other);
}

static void ask_anything(void)
{
    const unsigned n = cursor_u8(&p.c);
    const uint16_t method = n < 200 ? (uint16_t)messages_method(n) : cursor_le16(&p.c);
    const size_t len = cursor_u8(&p.c) % 64;
    asker_ask(&p.asker, method, cursor_take(&p.c, len < cursor_left(&p.c) ? len : 0),
              BYTES(NULL, 0));
}

static void run(uint64_t ms)
{
    net_sim_run_until(p.net, p.timers.now_ms + ms);
    CHECK(p.meta.fatal == NULL);
}

static void step(void)
{
    static const uint16_t METHODS[] = {
        METHOD_CHUNK_HEARTBEAT, METHOD_SESSION_RENEW,  METHOD_CHUNK_REGISTER, METHOD_SESSION_OPEN,
        METHOD_SESSION_CLOSE,   METHOD_LOOKUP,         METHOD_GETATTR,        METHOD_READDIR,
        METHOD_GETXATTR,        METHOD_LISTXATTR,      METHOD_EXTENTS,        METHOD_STATFS,
        METHOD_GETLK,           METHOD_TABLES,         METHOD_STATUS,         METHOD_POLICY_GET,
        METHOD_POLICY_SET,      METHOD_FILE_LAYOUT,    METHOD_COUNTERS,       METHOD_FRAGMENT_GET,
        METHOD_CHUNK_HEARTBEAT, METHOD_CHUNK_HEARTBEAT};
    const unsigned what = cursor_u8(&p.c);
    if (what < 96) {
        ask_sensibly(METHOD_COMMAND, what % 4 == 0);
    } else if (what < 208) {
        ask_sensibly(METHODS[cursor_u8(&p.c) % array_count(METHODS)], what % 2 == 0);
    } else if (what < 224) {
        ask_anything();
    } else if (what < 228) {
        asker_cancel(&p.asker, METHOD_COMMAND, cursor_u8(&p.c));
    } else if (what == 228) {
        asker_hang_up(&p.asker);
    } else {
        run(what < 232 ? 15000 : what < 240 ? 1000 : 20);
    }
    if (what % 8 != 7) {
        run(15); /* its answer */
    }
}

static bool waits(void *ctx)
{
    (void)ctx;
    return !asker_idle(&p.asker);
}

/* ---- the world ---- */

/* So that there are chunk servers up, groups, and a session. */
static void furnish(void)
{
    static const uint8_t NOTHING[1];
    p.c = cursor_of(BYTES(NOTHING, 0));
    for (unsigned i = 0; i < CHUNKS; i++) {
        uint8_t packed[128];
        char address[16];
        uint8_t server[16];
        memset(server, (int)i + 1, sizeof server);
        snprintf(address, sizeof address, "c%u:1", i);
        Cfs__ChunkRegister m = CFS__CHUNK_REGISTER__INIT;
        m.server = (ProtobufCBinaryData){.len = sizeof server, .data = server};
        m.address = address;
        m.version = address;
        m.feature_level = 1;
        asker_ask(&p.asker, METHOD_CHUNK_REGISTER,
                  BYTES(packed, cfs__chunk_register__pack(&m, packed)), BYTES(NULL, 0));
    }
    run(60);
    for (unsigned i = 0; i < CHUNKS; i++) {
        uint8_t packed[128], uuid[16];
        memset(uuid, (int)i + 1, sizeof uuid);
        Cfs__DiskRow disk = CFS__DISK_ROW__INIT, *disks[] = {&disk};
        disk.uuid = (ProtobufCBinaryData){.len = sizeof uuid, .data = uuid};
        disk.total = 1ull << 40;
        disk.free = 1ull << 39;
        disk.filesystem = i + 1;
        disk.state = 1;
        Cfs__ChunkHeartbeat m = CFS__CHUNK_HEARTBEAT__INIT;
        m.id = i + 1;
        m.n_disk = 1;
        m.disk = disks;
        asker_ask(&p.asker, METHOD_CHUNK_HEARTBEAT,
                  BYTES(packed, cfs__chunk_heartbeat__pack(&m, packed)), BYTES(NULL, 0));
    }
    ask_sensibly(METHOD_SESSION_OPEN, false);
    run(4000);
    CHECK(p.session != 0 && p.asker.hung_up == 0);
}

static void begin(void)
{
    timers_init(&p.timers, 1000);
    prng_seed(&p.prng, 1);
    p.net = net_sim_new(&p.timers, 1);
    net_sim_delay(p.net, 0, 0);
    sim_meta_init(&p.meta, &p.timers, p.net, &p.prng);
    sim_meta_start(&p.meta);
    CHECK(p.meta.up);
    p.node = net_sim_node(p.net, "peer", NULL);
    memset(p.client, 7, sizeof p.client);
    asker_init(&p.asker, p.node, "meta:1");
    p.asker.on_answer = on_answer;
    run(500);
    furnish();
}

static void shut(void *ctx)
{
    (*(unsigned *)ctx)++;
}

static void end(void)
{
    unsigned n = 0;
    struct server *server = p.meta.server;
    struct transport *node = p.meta.node;
    p.node->ops->shutdown(p.node, shut, &n);
    node->ops->shutdown(node, shut, &n);
    net_sim_run_until(p.net, p.timers.now_ms + 5000);
    CHECK(n == 2);
    sim_meta_stop(&p.meta);
    server_free(server);
    net_sim_free(p.net);
    struct fsm *fsm = NULL;
    CHECK(fsm_open(p.meta.kv, &fsm) == 0);
    CHECK(fsm_audit(fsm, NULL, NULL) == 0);
    fsm_free(fsm);
    sim_meta_release(&p.meta);
    timers_release(&p.timers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    log_set_level(LOG_LEVEL_ERROR);
    memset(&p, 0, sizeof p);
    begin();
    p.c = cursor_of(BYTES(data, len));
    for (unsigned i = 0; i < STEPS_MAX && cursor_left(&p.c) > 0; i++) {
        step();
    }
    CHECK(net_sim_run_while(p.net, waits, NULL, PATIENCE_MS) || asker_idle(&p.asker));
    CHECK(p.meta.fatal == NULL);
    end();
    return 0;
}
