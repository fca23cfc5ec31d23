#include <arpa/inet.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/log.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "rpc/call.h"
#include "rpc/server.h"
#include "rpc/session.h"
#include "rpc/tcp.h"

/* One loop with a server and a client on it. METHOD_FRAGMENT_PUT answers the length of what came,
 * METHOD_FRAGMENT_GET one MiB of payload, METHOD_LOOKUP its own body, METHOD_GETATTR never. */
enum { MIB = 1 << 20 };
struct rig {
    uv_loop_t loop;
    struct timers timers;
    struct tcp_clock *clock;
    struct databuf_pool *pool;
    struct transport *served, *asking;
    struct server *server;
    struct peer *peer;
    char address[64];
    uint8_t *mib;
    unsigned shut, done, gone, cancels, payloads_sent, ups, downs;
    struct request *kept;
    bool hoard; /* keep the payload of puts */
    struct databuf *hoarded[8];
    unsigned n_hoarded;
    int down_rc;
    struct session *session;
    uint64_t executed;
};

static void on_shut(void *ctx)
{
    ((struct rig *)ctx)->shut++;
}
static void on_reply_sent(void *ctx)
{
    ((struct rig *)ctx)->payloads_sent++;
}
static void serve_echo(struct request *r, void *ctx)
{
    (void)ctx;
    request_reply(r, 0, r->body, NULL);
}
static void serve_put(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    char text[64];
    int n = snprintf(text, sizeof text, "%zu %08x", r->payload != NULL ? r->payload->len : 0,
                     r->payload != NULL ? crc32c(0, r->payload->data, r->payload->len) : 0);
    if (g->hoard && g->n_hoarded < 8) {
        g->hoarded[g->n_hoarded++] = databuf_ref(r->payload);
    }
    request_reply(r, 0, BYTES(text, (size_t)n), NULL);
}
static void serve_get(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    struct iovec iov = {.iov_base = g->mib, .iov_len = MIB};
    struct reply_payload p = {.iov = &iov, .n = 1, .on_sent = on_reply_sent, .ctx = g};
    request_reply(r, 0, BYTES("here", 4), &p);
}
static void serve_never(struct request *r, void *ctx)
{
    ((struct rig *)ctx)->kept = r;
}
static void on_gone(struct server_peer *p, void *ctx)
{
    (void)p;
    ((struct rig *)ctx)->gone++;
}
static void on_cancel(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    g->cancels++;
    if (g->kept == r) {
        g->kept = NULL;
        request_fail(r, ERR_CANCELLED, "cancelled");
    }
}
static void on_up(struct peer *p, void *ctx)
{
    (void)p;
    ((struct rig *)ctx)->ups++;
}
static void on_down(struct peer *p, int rc, void *ctx)
{
    (void)p;
    ((struct rig *)ctx)->downs++;
    ((struct rig *)ctx)->down_rc = rc;
}
static const struct peer_events PEER_EVENTS = {.on_up = on_up, .on_down = on_down};

static void turn(struct rig *g, bool (*enough)(struct rig *g), uint64_t bound_ms)
{
    uint64_t end = clock_now_ms() + bound_ms;
    while (!enough(g) && clock_now_ms() < end) {
        uv_run(&g->loop, UV_RUN_NOWAIT);
    }
}
static bool never(struct rig *g)
{
    (void)g;
    return false;
}
static bool one_done(struct rig *g)
{
    return g->done >= 1;
}
static bool both_shut(struct rig *g)
{
    return g->shut == 2;
}
static bool some_gone(struct rig *g)
{
    return g->gone >= 1;
}

static struct rig *rig_new(unsigned pool_buffers)
{
    struct rig *g = calloc(1, sizeof *g);
    log_set_level(LOG_LEVEL_ERROR);
    ck_assert_int_eq(uv_loop_init(&g->loop), 0);
    timers_init(&g->timers, 0);
    g->clock = tcp_clock_start(&g->loop, &g->timers);
    g->pool = databuf_pool_new(FRAME_PAYLOAD_MAX, pool_buffers);
    g->served = tcp_new(&g->loop, &g->timers, g->pool);
    g->asking = tcp_new(&g->loop, &g->timers, g->pool);
    g->server = server_new(g->served);
    server_handle(g->server, METHOD_LOOKUP, serve_echo, g);
    server_handle(g->server, METHOD_FRAGMENT_PUT, serve_put, g);
    server_handle(g->server, METHOD_FRAGMENT_GET, serve_get, g);
    server_handle(g->server, METHOD_GETATTR, serve_never, g);
    server_on_gone(g->server, on_gone, g);
    server_on_cancel(g->server, on_cancel, g);
    ck_assert_int_eq(server_listen(g->server, "127.0.0.1:0", g->address), 0);
    g->peer = peer_new(g->asking, g->address, &PEER_EVENTS, g);
    g->mib = malloc(MIB);
    for (unsigned i = 0; i < MIB; i++) {
        g->mib[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    return g;
}

static void rig_free(struct rig *g)
{
    peer_free(g->peer);
    g->asking->ops->shutdown(g->asking, on_shut, g);
    if (g->served != NULL) {
        g->served->ops->shutdown(g->served, on_shut, g);
    }
    turn(g, both_shut, 2000);
    ck_assert_uint_eq(g->shut, 2);
    if (g->kept != NULL) {
        request_reply(g->kept, 0, BYTES(NULL, 0), NULL);
    }
    server_free(g->server);
    tcp_free(g->served);
    tcp_free(g->asking);
    tcp_clock_close(g->clock);
    uv_run(&g->loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&g->loop), 0);
    timers_release(&g->timers);
    databuf_pool_free(g->pool);
    free(g->mib);
    free(g);
}

struct asked {
    struct call call;
    struct rig *rig;
    int rc;
    char reply[128];
    size_t payload_len;
    uint32_t payload_crc;
};
static void on_answer(struct call *c)
{
    struct asked *a = container_of(c, struct asked, call);
    a->rig->done++;
    a->rc = c->rc;
    snprintf(a->reply, sizeof a->reply, "%.*s", (int)c->reply.len, (const char *)c->reply.data);
    if (c->reply_payload != NULL) {
        a->payload_len = c->reply_payload->len;
        a->payload_crc = crc32c(0, c->reply_payload->data, c->reply_payload->len);
    }
}
static void ask(struct rig *g, struct asked *a, uint16_t method, struct iovec *payload, unsigned n)
{
    *a = (struct asked){.rig = g, .rc = 1};
    a->call.method = method;
    a->call.body = BYTES("hello", 5);
    a->call.payload = payload;
    a->call.n_payload = n;
    a->call.timeout_ms = 3000;
    a->call.on_done = on_answer;
    call_start(g->peer, &a->call);
    ck_assert_int_eq(a->rc, 1); /* never inside call_start */
}

START_TEST(call_is_answered)
{
    struct rig *g = rig_new(2);
    struct asked a;
    ask(g, &a, METHOD_LOOKUP, NULL, 0);
    turn(g, one_done, 2000);
    ck_assert_int_eq(a.rc, 0);
    ck_assert_str_eq(a.reply, "hello");
    ck_assert(peer_is_up(g->peer));
    rig_free(g);
}
END_TEST

/* 256 pages in one frame, lent or copied, from a start that may lie off a page. */
static void send_pages(struct rig *g, size_t offset, bool lend)
{
    struct asked a = {.rig = g, .rc = 1};
    struct iovec pages[256];
    char want[64];
    for (unsigned i = 0; i < 256; i++) {
        pages[i] = (struct iovec){.iov_base = g->mib + offset + i * 4000, .iov_len = 4000};
    }
    snprintf(want, sizeof want, "%d %08x", 256 * 4000, crc32c(0, g->mib + offset, 256 * 4000));
    g->done = 0;
    a.call = (struct call){.method = METHOD_FRAGMENT_PUT,
                           .body = BYTES("hello", 5),
                           .payload = pages,
                           .n_payload = 256,
                           .lend = lend,
                           .timeout_ms = 3000,
                           .on_done = on_answer};
    call_start(g->peer, &a.call);
    turn(g, one_done, 3000);
    ck_assert_int_eq(a.rc, 0);
    ck_assert_str_eq(a.reply, want);
}

START_TEST(payload_of_256_pages_arrives_whole)
{
    struct rig *g = rig_new(2);
    for (unsigned i = 0; i < 12; i++) {
        send_pages(g, i * 1000, i % 3 != 0);
    }
    rig_free(g);
}
END_TEST

/* The frames around it keep their order and their bytes, also when it is taken back half sent. */
START_TEST(lent_payload_that_is_taken_back_leaves_the_stream_whole)
{
    struct rig *g = rig_new(2);
    struct asked given_up[8], small;
    struct iovec mib = {.iov_base = g->mib, .iov_len = MIB};
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 8; i++) {
            given_up[i] = (struct asked){.rig = g, .rc = 1};
            given_up[i].call = (struct call){.method = METHOD_FRAGMENT_PUT,
                                             .payload = &mib,
                                             .n_payload = 1,
                                             .lend = true,
                                             .timeout_ms = 3000,
                                             .on_done = on_answer};
            call_start(g->peer, &given_up[i].call);
        }
        turn(g, never, 1);
        for (unsigned i = 0; i < 8; i++) {
            if (given_up[i].rc == 1) {
                call_cancel(&given_up[i].call);
            }
        }
        g->done = 0;
        ask(g, &small, METHOD_LOOKUP, NULL, 0);
        turn(g, one_done, 3000);
        ck_assert_int_eq(small.rc, 0);
        ck_assert_str_eq(small.reply, "hello");
        send_pages(g, round, true);
    }
    for (unsigned i = 0; i < FRAME_FAULTS; i++) {
        ck_assert_uint_eq(g->served->counts.faults[i], 0);
    }
    rig_free(g);
}
END_TEST

START_TEST(reply_payload_arrives_and_is_given_back)
{
    struct rig *g = rig_new(2);
    struct asked a;
    ask(g, &a, METHOD_FRAGMENT_GET, NULL, 0);
    turn(g, one_done, 2000);
    ck_assert_int_eq(a.rc, 0);
    ck_assert_uint_eq(a.payload_len, MIB);
    ck_assert_uint_eq(a.payload_crc, crc32c(0, g->mib, MIB));
    turn(g, never, 20);
    ck_assert_uint_eq(g->payloads_sent, 1);
    ck_assert_uint_eq(databuf_pool_left(g->pool), 2);
    rig_free(g);
}
END_TEST

static double bench_echo(struct rig *g, unsigned n)
{
    struct asked a;
    uint64_t start = clock_now_us();
    for (unsigned i = 0; i < n; i++) {
        g->done = 0;
        ask(g, &a, METHOD_LOOKUP, NULL, 0);
        while (g->done == 0) {
            uv_run(&g->loop, UV_RUN_ONCE);
        }
    }
    return (double)(clock_now_us() - start) / n;
}

static int raw_connect(const struct rig *g)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sa.sin_port = htons((uint16_t)atoi(strchr(g->address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

static void throw_bytes(struct rig *g, const void *bytes, size_t len, enum frame_fault expect)
{
    uint64_t before = g->served->counts.faults[expect];
    int fd = raw_connect(g);
    g->gone = 0;
    ck_assert_int_eq((int)write(fd, bytes, len), (int)len);
    if (expect == FRAME_TRUNCATED) {
        shutdown(fd, SHUT_WR);
    }
    turn(g, some_gone, 2000);
    ck_assert_uint_eq(g->gone, 1);
    ck_assert_uint_eq(g->served->counts.faults[expect], before + 1);
    close(fd);
}

static void golden(uint8_t out[FRAME_HEADER_BYTES + 5])
{
    struct frame f = {.kind = FRAME_REQUEST, .method = METHOD_LOOKUP, .id = 1, .body_len = 5};
    f.body_crc = crc32c(0, "hello", 5);
    frame_encode(out, &f);
    memcpy(out + FRAME_HEADER_BYTES, "hello", 5);
}

START_TEST(garbage_closes_the_connection_and_is_counted)
{
    struct rig *g = rig_new(2);
    uint8_t f[FRAME_HEADER_BYTES + 5];
    struct frame huge = {.kind = FRAME_REQUEST, .method = METHOD_LOOKUP, .id = 1};
    golden(f);
    for (size_t cut = 1; cut < sizeof f; cut++) {
        throw_bytes(g, f, cut, FRAME_TRUNCATED);
    }
    throw_bytes(g, "GET / HTTP/1.1\r\n\r\n", 18, FRAME_BAD_MAGIC);
    f[4] = 9;
    throw_bytes(g, f, sizeof f, FRAME_BAD_VERSION);
    golden(f);
    f[9] ^= 4;
    throw_bytes(g, f, sizeof f, FRAME_BAD_HEADER_CRC);
    golden(f);
    f[FRAME_HEADER_BYTES + 2] ^= 1;
    throw_bytes(g, f, sizeof f, FRAME_BAD_BODY_CRC);
    frame_encode(f, &huge);
    put_le32(f + 16, FRAME_BODY_MAX + 1);
    put_le32(f + 36, crc32c(0, f, 36));
    throw_bytes(g, f, sizeof f, FRAME_BODY_TOO_LONG);
    frame_encode(f, &huge);
    put_le32(f + 20, UINT32_MAX);
    put_le32(f + 36, crc32c(0, f, 36));
    throw_bytes(g, f, sizeof f, FRAME_PAYLOAD_TOO_LONG);
    huge.kind = FRAME_REPLY;
    frame_encode(f, &huge);
    throw_bytes(g, f, FRAME_HEADER_BYTES, FRAME_BAD_SEQUENCE);
    struct asked a;
    ask(g, &a, METHOD_LOOKUP, NULL, 0);
    turn(g, one_done, 2000);
    ck_assert_int_eq(a.rc, 0); /* and goes on serving others */
    rig_free(g);
}
END_TEST

START_TEST(single_bytes_make_a_frame_too)
{
    struct rig *g = rig_new(2);
    uint8_t f[FRAME_HEADER_BYTES + 5], back[sizeof f];
    golden(f);
    int fd = raw_connect(g);
    for (size_t i = 0; i < sizeof f; i++) {
        ck_assert_int_eq((int)write(fd, f + i, 1), 1);
        turn(g, never, 1);
    }
    turn(g, never, 20);
    ck_assert_int_eq((int)recv(fd, back, sizeof back, MSG_DONTWAIT), (int)sizeof back);
    ck_assert_int_eq(memcmp(back + FRAME_HEADER_BYTES, "hello", 5), 0);
    close(fd);
    rig_free(g);
}
END_TEST

START_TEST(unknown_and_reserved_methods_are_refused_by_name)
{
    struct rig *g = rig_new(2);
    struct asked a;
    ask(g, &a, METHOD_LEASE_ACQUIRE, NULL, 0);
    turn(g, one_done, 2000);
    ck_assert_int_eq(a.rc, ERR_UNKNOWN_CALL);
    ck_assert_ptr_nonnull(strstr(a.reply, "lease-acquire"));
    g->done = 0;
    ask(g, &a, 9999, NULL, 0);
    turn(g, one_done, 2000);
    ck_assert_int_eq(a.rc, ERR_UNKNOWN_CALL);
    ck_assert_ptr_nonnull(strstr(a.reply, "9999"));
    rig_free(g);
}
END_TEST

START_TEST(refused_connect_ends_the_call_at_once)
{
    struct rig *g = rig_new(2);
    struct asked a;
    uint64_t start = clock_now_ms();
    peer_free(g->peer);
    g->peer = peer_new(g->asking, "127.0.0.1:1", &PEER_EVENTS, g);
    ask(g, &a, METHOD_LOOKUP, NULL, 0);
    turn(g, one_done, 2000);
    ck_assert_int_eq(a.rc, ERR_DISCONNECTED);
    ck_assert_int_eq(g->down_rc, -111);
    ck_assert(clock_now_ms() - start < 500);
    rig_free(g);
}
END_TEST

START_TEST(call_ends_at_its_deadline_and_cancel_reaches_the_server)
{
    struct rig *g = rig_new(2);
    struct asked a, b;
    ask(g, &a, METHOD_GETATTR, NULL, 0);
    a.call.timeout_ms = 0;
    turn(g, never, 30);
    ck_assert_ptr_nonnull(g->kept);
    call_cancel(&a.call);
    call_cancel(&a.call); /* fine when it is done */
    turn(g, never, 30);
    ck_assert_uint_eq(g->cancels, 1);
    ck_assert_uint_eq(g->done, 0);
    b = (struct asked){.rig = g, .rc = 1, .call = {.method = METHOD_GETATTR, .timeout_ms = 50}};
    b.call.on_done = on_answer;
    call_start(g->peer, &b.call);
    turn(g, one_done, 2000);
    ck_assert_int_eq(b.rc, ERR_DEADLINE);
    rig_free(g);
}
END_TEST

START_TEST(cancel_gives_the_payload_back_at_once)
{
    struct rig *g = rig_new(2);
    struct asked a[20], b;
    uint8_t *mine = malloc(MIB);
    struct iovec iov = {.iov_base = mine, .iov_len = MIB};
    char want[64];
    memset(mine, 7, MIB);
    ask(g, &b, METHOD_LOOKUP, NULL, 0);
    turn(g, one_done, 2000);
    for (unsigned i = 0; i < 20; i++) {
        ask(g, &a[i], METHOD_FRAGMENT_PUT, &iov, 1);
    }
    for (unsigned i = 0; i < 20; i++) {
        call_cancel(&a[i].call);
    }
    free(mine); /* ASan would tell */
    g->done = 0;
    iov.iov_base = g->mib;
    snprintf(want, sizeof want, "%d %08x", MIB, crc32c(0, g->mib, MIB));
    ask(g, &b, METHOD_FRAGMENT_PUT, &iov, 1);
    turn(g, one_done, 2000);
    ck_assert_int_eq(b.rc, 0);
    ck_assert_str_eq(b.reply, want);
    rig_free(g);
}
END_TEST

START_TEST(empty_pool_pauses_reading_until_a_buffer_comes_back)
{
    struct rig *g = rig_new(2);
    struct asked a[5];
    struct iovec iov = {.iov_base = g->mib, .iov_len = 100000};
    g->hoard = true;
    for (unsigned i = 0; i < 5; i++) {
        ask(g, &a[i], METHOD_FRAGMENT_PUT, &iov, 1);
    }
    turn(g, never, 100);
    ck_assert_uint_eq(g->n_hoarded, 2);
    ck_assert_uint_eq(g->done, 2);
    g->hoard = false;
    databuf_unref(g->hoarded[0]);
    turn(g, never, 100);
    ck_assert_uint_eq(g->done, 5);
    databuf_unref(g->hoarded[1]);
    rig_free(g);
}
END_TEST

START_TEST(counters_tell_faults_and_memory)
{
    struct rig *g = rig_new(2);
    struct buf b;
    buf_init(&b);
    throw_bytes(g, "garbage!", 8, FRAME_BAD_MAGIC);
    struct asked a;
    ask(g, &a, METHOD_PING, NULL, 0);
    turn(g, never, 30);
    server_counters(g->server, &b);
    Cfs__CountersReply *c = cfs__counters_reply__unpack(NULL, b.len, b.data);
    ck_assert_ptr_nonnull(c);
    unsigned seen = 0;
    for (size_t i = 0; i < c->n_counter; i++) {
        seen += strcmp(c->counter[i]->name, "fault.bad-magic") == 0 && c->counter[i]->value == 1;
        seen += strcmp(c->counter[i]->name, "memory.rss") == 0 && c->counter[i]->value > 100000;
        seen += strcmp(c->counter[i]->name, "asked.ping") == 0 && c->counter[i]->value == 1;
    }
    ck_assert_uint_eq(seen, 3);
    cfs__counters_reply__free_unpacked(c, NULL);
    buf_release(&b);
    rig_free(g);
}
END_TEST

static bool is_down(struct rig *g)
{
    return g->downs >= 1;
}
static bool is_up_again(struct rig *g)
{
    return g->ups >= 2;
}

START_TEST(reset_ends_open_calls_and_the_peer_connects_again)
{
    struct rig *g = rig_new(2);
    struct asked a;
    ask(g, &a, METHOD_GETATTR, NULL, 0);
    turn(g, never, 30);
    peer_reset(g->peer);
    turn(g, is_down, 500);
    ck_assert_int_eq(a.rc, ERR_DISCONNECTED);
    turn(g, is_up_again, 500);
    ck_assert_uint_eq(g->ups, 2);
    rig_free(g);
}
END_TEST

static uint64_t skew_ms;
static uint64_t skewed_clock(void)
{
    return clock_now_ms() + skew_ms;
}

START_TEST(frame_that_never_ends_is_cut_off)
{
    struct rig *g = rig_new(2);
    uint8_t f[FRAME_HEADER_BYTES + 5];
    golden(f);
    skew_ms = 0;
    g->timers.clock = skewed_clock;
    int whole = raw_connect(g), part = raw_connect(g);
    ck_assert_int_eq((int)write(whole, f, sizeof f), (int)sizeof f);
    ck_assert_int_eq((int)write(part, f, sizeof f - 1), (int)sizeof f - 1);
    turn(g, never, 30);
    skew_ms = 29000;
    turn(g, never, 30);
    ck_assert_uint_eq(g->gone, 0);
    skew_ms = 36000;
    turn(g, some_gone, 1000);
    turn(g, never, 30);
    ck_assert_uint_eq(g->gone, 1); /* an idle connection may stay */
    ck_assert_uint_eq(g->served->counts.faults[FRAME_TRUNCATED], 1);
    close(whole);
    close(part);
    rig_free(g);
}
END_TEST

START_TEST(silent_connection_is_closed_and_one_that_spoke_is_not)
{
    struct rig *g = rig_new(2);
    uint8_t f[FRAME_HEADER_BYTES + 5];
    golden(f);
    skew_ms = 0;
    g->timers.clock = skewed_clock;
    int spoke = raw_connect(g), silent = raw_connect(g);
    ck_assert_int_eq((int)write(spoke, f, sizeof f), (int)sizeof f);
    peer_connect(g->peer); /* it has nothing to ask, and pings */
    turn(g, never, 50);
    skew_ms = 8000;
    turn(g, never, 30);
    ck_assert_uint_eq(g->gone, 0);
    skew_ms = 16000;
    turn(g, some_gone, 1000);
    skew_ms = 29000;
    turn(g, never, 30);
    ck_assert_uint_eq(g->gone, 1);
    ck_assert_uint_eq(g->served->counts.faults[FRAME_SILENT], 1);
    ck_assert_uint_eq(g->downs, 0);
    close(spoke);
    close(silent);
    rig_free(g);
}
END_TEST

static struct rig *small_rig(unsigned descriptors)
{
    struct rlimit small = {.rlim_cur = descriptors}, before; /* of this test's own process */
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    small.rlim_max = before.rlim_max;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &small), 0);
    struct rig *g = rig_new(2);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0); /* our other ends need some too */
    return g;
}

static void read_refusal(struct rig *g, int fd)
{
    uint8_t said[300];
    struct frame f;
    turn(g, never, 50);
    ck_assert_int_gt((int)recv(fd, said, sizeof said, MSG_DONTWAIT), FRAME_HEADER_BYTES);
    ck_assert_int_eq(frame_decode(said, &f), FRAME_OK);
    ck_assert_uint_eq(f.kind, FRAME_EVENT);
    ck_assert_uint_eq(f.method, EVENT_REFUSED);
    ck_assert_int_eq((int)recv(fd, said, sizeof said, MSG_DONTWAIT), 0); /* and closed */
    close(fd);
}

START_TEST(connection_too_many_is_told_so_and_the_others_go_on)
{
    enum { DESCRIPTORS = 64, TAKEN = DESCRIPTORS / 4 * 3 };
    struct rig *g = small_rig(DESCRIPTORS);
    struct asked a;
    int fd[TAKEN - 1];
    ask(g, &a, METHOD_LOOKUP, NULL, 0);
    for (unsigned i = 0; i < TAKEN - 1; i++) {
        fd[i] = raw_connect(g);
        turn(g, never, 1);
    }
    read_refusal(g, raw_connect(g));
    struct peer *first = g->peer, *late = peer_new(g->asking, g->address, &PEER_EVENTS, g);
    g->peer = late;
    ask(g, &a, METHOD_LOOKUP, NULL, 0);
    turn(g, never, 500);
    ck_assert_int_eq(a.rc, ERR_DISCONNECTED);
    ck_assert_ptr_nonnull(strstr(peer_refusal(late), "as many connections as it takes"));
    ck_assert_uint_le(g->downs, 8); /* it does not try without pause */
    ck_assert_uint_eq(g->served->counts.refused, 1 + g->downs);
    g->peer = first;
    ask(g, &a, METHOD_LOOKUP, NULL, 0);
    g->done = 0;
    turn(g, one_done, 1000);
    ck_assert_int_eq(a.rc, 0);
    close(fd[0]);
    turn(g, never, 1500);
    g->peer = late;
    g->done = 0;
    ask(g, &a, METHOD_LOOKUP, NULL, 0);
    turn(g, one_done, 1000);
    ck_assert_int_eq(a.rc, 0);
    ck_assert_ptr_null(peer_refusal(late));
    for (unsigned i = 1; i < TAKEN - 1; i++) {
        close(fd[i]);
    }
    peer_free(first);
    rig_free(g);
}
END_TEST

static bool four_gone(struct rig *g)
{
    return g->gone >= 4;
}

/* Frames that begin and do not end hold at most 64 MiB, whoever sends them. */
START_TEST(frames_that_do_not_end_hold_bounded_memory)
{
    enum { SENDERS = 20 };
    struct rig *g = rig_new(2);
    struct frame f = {.kind = FRAME_REQUEST, .method = METHOD_LOOKUP, .id = 1};
    uint8_t head[FRAME_HEADER_BYTES], *most = calloc(1, FRAME_BODY_MAX);
    int fd[SENDERS];
    f.body_len = FRAME_BODY_MAX;
    frame_encode(head, &f);
    for (unsigned i = 0; i < SENDERS; i++) {
        fd[i] = raw_connect(g);
        ck_assert_int_eq((int)write(fd[i], head, sizeof head), (int)sizeof head);
        for (size_t at = 0; at < FRAME_BODY_MAX - 1;) {
            ssize_t n =
                send(fd[i], most + at, FRAME_BODY_MAX - 1 - at, MSG_DONTWAIT | MSG_NOSIGNAL);
            at += n > 0 ? (size_t)n : 0;
            turn(g, never, 1);
        }
    }
    turn(g, four_gone, 5000);
    turn(g, never, 50);
    ck_assert_uint_eq(g->gone, SENDERS - (64 << 20) / FRAME_BODY_MAX);
    ck_assert_uint_eq(g->served->counts.faults[FRAME_TRUNCATED], g->gone);
    for (unsigned i = 0; i < SENDERS; i++) {
        close(fd[i]);
    }
    free(most);
    rig_free(g);
}
END_TEST

START_TEST(reader_that_does_not_read_is_not_served_without_bound)
{
    struct rig *g = rig_new(4);
    struct frame f = {.kind = FRAME_REQUEST, .method = METHOD_FRAGMENT_GET, .id = 1};
    uint8_t head[FRAME_HEADER_BYTES];
    int fd = raw_connect(g);
    frame_encode(head, &f);
    for (unsigned i = 0; i < 1000; i++) { /* asks for 1000 MiB, reads none of it */
        ck_assert_int_eq((int)write(fd, head, sizeof head), (int)sizeof head);
    }
    turn(g, never, 200);
    ck_assert_uint_le(g->served->counts.frames_out, 40);
    close(fd);
    turn(g, some_gone, 1000);
    ck_assert_uint_eq(g->gone, 1);
    turn(g, never, 20);
    ck_assert_uint_eq(g->payloads_sent, g->served->counts.frames_out);
    rig_free(g);
}
END_TEST

static void serve_renew(struct request *r, void *ctx)
{
    uint8_t packed[64];
    Cfs__SessionRenewReply o = CFS__SESSION_RENEW_REPLY__INIT;
    (void)ctx;
    request_reply(r, 0, BYTES(packed, cfs__session_renew_reply__pack(&o, packed)), NULL);
}
static void serve_command(struct request *r, void *ctx)
{
    struct rig *g = ctx;
    Cfs__CommandRequest *m = cfs__command_request__unpack(NULL, r->body.len, r->body.data);
    bool next = m->seq == g->executed + 1;
    g->executed += next;
    cfs__command_request__free_unpacked(m, NULL);
    request_reply(r, next ? 0 : ERR_BUSY, BYTES(NULL, 0), NULL);
}
static void serve_open(struct request *r, void *ctx)
{
    uint8_t packed[256];
    Cfs__SessionOpenReply o = CFS__SESSION_OPEN_REPLY__INIT;
    Cfs__Policy p = CFS__POLICY__INIT;
    (void)ctx;
    o.session = 7;
    o.lease_ms = SESSION_LEASE_MS;
    o.policy = &p;
    request_reply(r, 0, BYTES(packed, cfs__session_open_reply__pack(&o, packed)), NULL);
}
static void on_opened(struct session *s, int rc, struct bytes reply, void *ctx)
{
    (void)s;
    (void)reply;
    ck_assert_int_eq(rc, 0);
    ((struct rig *)ctx)->done++;
}
static void on_command(struct command *c)
{
    struct rig *g = *(struct rig **)(c + 1);
    ck_assert_int_eq(c->rc, 0);
    session_release_seq(g->session, c->seq);
    buf_release(&c->ops);
    g->done++;
}
static bool many_done(struct rig *g)
{
    return g->done == 3000;
}

START_TEST(session_runs_over_tcp)
{
    struct rig *g = rig_new(2);
    struct {
        struct command cmd;
        struct rig *rig;
    } *c = calloc(3000, sizeof *c);
    struct session_options o = {.addresses = g->address};
    server_handle(g->server, METHOD_SESSION_OPEN, serve_open, g);
    server_handle(g->server, METHOD_SESSION_RENEW, serve_renew, g);
    server_handle(g->server, METHOD_COMMAND, serve_command, g);
    g->session = session_new(g->asking, &o);
    session_open(g->session, BYTES("", 0), 5000, on_opened, g);
    turn(g, one_done, 2000);
    ck_assert(session_connected(g->session));
    g->done = 0;
    for (unsigned i = 0; i < 3000; i++) {
        c[i].rig = g;
        c[i].cmd.on_done = on_command;
        session_submit(g->session, &c[i].cmd);
    }
    turn(g, many_done, 5000);
    ck_assert_uint_eq(g->done, 3000);
    ck_assert_uint_eq(g->executed, 3000);
    session_free(g->session);
    free(c);
    rig_free(g);
}
END_TEST

/* Figures only; no claim that a busy machine could break. */
START_TEST(speed_is_printed)
{
    struct rig *g = rig_new(16);
    struct asked a[8];
    struct iovec pages[256];
    unsigned rounds = 60;
    for (unsigned i = 0; i < 256; i++) {
        pages[i] = (struct iovec){.iov_base = g->mib + i * 4096, .iov_len = 4096};
    }
    bench_echo(g, 100);
    double echo_us = bench_echo(g, 2000);
    uint64_t start = clock_now_us();
    for (unsigned i = 0; i < rounds; i++) {
        g->done = 0;
        for (unsigned j = 0; j < 8; j++) {
            ask(g, &a[j], METHOD_FRAGMENT_GET, NULL, 0);
        }
        while (g->done < 8) {
            uv_run(&g->loop, UV_RUN_ONCE);
        }
    }
    double get = 8.0 * rounds * MIB / (double)(clock_now_us() - start) / 1000;
    start = clock_now_us();
    for (unsigned i = 0; i < rounds; i++) {
        g->done = 0;
        for (unsigned j = 0; j < 8; j++) {
            ask(g, &a[j], METHOD_FRAGMENT_PUT, pages, 256);
        }
        while (g->done < 8) {
            uv_run(&g->loop, UV_RUN_ONCE);
        }
    }
    double put = 8.0 * rounds * MIB / (double)(clock_now_us() - start) / 1000;
    printf("one loop, both sides and a CRC of each payload: echo %.1f us, get %.2f GB/s, put %.2f "
           "GB/s\n",
           echo_us, get, put);
    rig_free(g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tcp");
    TCase *t = tcase_create("tcp");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, call_is_answered);
    tcase_add_test(t, payload_of_256_pages_arrives_whole);
    tcase_add_test(t, lent_payload_that_is_taken_back_leaves_the_stream_whole);
    tcase_add_test(t, reply_payload_arrives_and_is_given_back);
    tcase_add_test(t, garbage_closes_the_connection_and_is_counted);
    tcase_add_test(t, single_bytes_make_a_frame_too);
    tcase_add_test(t, unknown_and_reserved_methods_are_refused_by_name);
    tcase_add_test(t, refused_connect_ends_the_call_at_once);
    tcase_add_test(t, call_ends_at_its_deadline_and_cancel_reaches_the_server);
    tcase_add_test(t, cancel_gives_the_payload_back_at_once);
    tcase_add_test(t, empty_pool_pauses_reading_until_a_buffer_comes_back);
    tcase_add_test(t, counters_tell_faults_and_memory);
    tcase_add_test(t, reset_ends_open_calls_and_the_peer_connects_again);
    tcase_add_test(t, frame_that_never_ends_is_cut_off);
    tcase_add_test(t, silent_connection_is_closed_and_one_that_spoke_is_not);
    tcase_add_test(t, connection_too_many_is_told_so_and_the_others_go_on);
    tcase_add_test(t, frames_that_do_not_end_hold_bounded_memory);
    tcase_add_test(t, reader_that_does_not_read_is_not_served_without_bound);
    tcase_add_test(t, session_runs_over_tcp);
    tcase_add_test(t, speed_is_printed);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
