#include "tools/ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"
#include "common.pb-c.h"
#include "proto/methods.h"
#include "rpc/call.h"
#include "rpc/tcp.h"

enum { ADDRESS_BYTES = 256 };

struct asked { /* a server that was asked before */
    struct list node;
    struct peer *peer;
    char address[ADDRESS_BYTES];
};

struct ask {
    uv_loop_t loop;
    struct timers timers;
    struct databuf_pool *pool;
    struct transport *transport;
    struct tcp_clock *clock;
    struct list asked;
    char *addresses;
    struct buf reply;
    struct databuf *payload; /* of the last reply, NULL if it had none */
    char text[512];
};

struct one_call {
    struct call call;
    struct ask *ask;
    bool done;
};

struct ask *ask_new(const char *addresses)
{
    struct ask *a = xcalloc(1, sizeof *a);
    CHECK(uv_loop_init(&a->loop) == 0);
    timers_init(&a->timers, clock_now_ms());
    /* Nothing that is asked here answers with much payload. */
    a->pool = databuf_pool_new(FRAME_PAYLOAD_MAX, 2);
    a->transport = tcp_new(&a->loop, &a->timers, a->pool);
    a->clock = tcp_clock_start(&a->loop, &a->timers);
    list_init(&a->asked);
    a->addresses = xstrdup(addresses);
    buf_init(&a->reply);
    return a;
}

static void on_shutdown(void *ctx)
{
    *(bool *)ctx = true;
}

void ask_free(struct ask *a)
{
    if (a == NULL) {
        return;
    }
    databuf_unref(a->payload);
    list_for_each_safe (node, follow, &a->asked) {
        struct asked *s = list_entry(node, struct asked, node);
        peer_free(s->peer);
        free(s);
    }
    bool down = false;
    a->transport->ops->shutdown(a->transport, on_shutdown, &down);
    while (!down && uv_run(&a->loop, UV_RUN_ONCE) != 0) {
    }
    tcp_clock_close(a->clock);
    while (uv_run(&a->loop, UV_RUN_DEFAULT) != 0) {
    }
    tcp_free(a->transport);
    (void)uv_loop_close(&a->loop); /* all handles were closed above */
    databuf_pool_free(a->pool);
    timers_release(&a->timers);
    buf_release(&a->reply);
    free(a->addresses);
    free(a);
}

static struct peer *peer_for(struct ask *a, const char *address)
{
    list_for_each (node, &a->asked) {
        struct asked *s = list_entry(node, struct asked, node);
        if (strcmp(s->address, address) == 0) {
            return s->peer;
        }
    }
    struct asked *s = xcalloc(1, sizeof *s);
    snprintf(s->address, sizeof s->address, "%s", address);
    s->peer = peer_new(a->transport, address, NULL, NULL);
    list_add_tail(&a->asked, &s->node);
    return s->peer;
}

static void take_refusal(struct ask *a, int rc, struct bytes reply)
{
    snprintf(a->text, sizeof a->text, "%s", err_text(rc));
    Cfs__Refusal *r = reply.len > 0 ? cfs__refusal__unpack(NULL, reply.len, reply.data) : NULL;
    if (r != NULL) {
        snprintf(a->text, sizeof a->text, "%s", r->text);
        cfs__refusal__free_unpacked(r, NULL);
    }
}

static void on_done(struct call *c)
{
    struct one_call *one = container_of(c, struct one_call, call);
    struct ask *a = one->ask;
    buf_clear(&a->reply);
    buf_add(&a->reply, c->reply.data, c->reply.len);
    if (c->rc != 0) {
        take_refusal(a, c->rc, buf_bytes(&a->reply));
    }
    if (c->rc == ERR_DISCONNECTED && peer_refusal(c->peer) != NULL) {
        snprintf(a->text, sizeof a->text, "%s", peer_refusal(c->peer));
    }
    a->payload = c->reply_payload != NULL ? databuf_ref(c->reply_payload) : NULL;
    one->done = true;
}

int ask_at(struct ask *a, const char *address, unsigned method, struct bytes body,
           unsigned timeout_ms, struct bytes *reply)
{
    struct one_call one = {.ask = a,
                           .call = {.method = (uint16_t)method,
                                    .body = body,
                                    .timeout_ms = timeout_ms,
                                    .on_done = on_done}};
    databuf_unref(a->payload);
    a->payload = NULL;
    a->timers.now_ms = clock_now_ms();
    call_start(peer_for(a, address), &one.call);
    while (!one.done) {
        uv_run(&a->loop, UV_RUN_ONCE);
    }
    if (one.call.rc == 0) {
        *reply = buf_bytes(&a->reply);
    }
    return one.call.rc;
}

int ask_call(struct ask *a, unsigned method, struct bytes body, unsigned timeout_ms,
             struct bytes *reply)
{
    int rc = ERR_DISCONNECTED;
    snprintf(a->text, sizeof a->text, "no address to ask");
    char *copy = xstrdup(a->addresses), *rest = copy;
    for (char *one = strsep(&rest, ","); one != NULL; one = strsep(&rest, ",")) {
        rc = ask_at(a, one, method, body, timeout_ms, reply);
        bool ask_next = rc == ERR_NOT_LEADER || rc == ERR_DISCONNECTED || rc == ERR_DEADLINE;
        if (!ask_next) {
            break;
        }
    }
    free(copy);
    return rc;
}

struct bytes ask_payload(const struct ask *a)
{
    return a->payload != NULL ? BYTES(a->payload->data, a->payload->len) : BYTES(NULL, 0);
}

const char *ask_text(const struct ask *a)
{
    return a->text;
}
