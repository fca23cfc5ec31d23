#include "test/lib/asker.h"

#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "common.pb-c.h"
#include "proto/methods.h"
#include "test/lib/messages.h"

static void check_body(unsigned method, int status, struct bytes body)
{
    const struct messages m = messages_of(method);
    const ProtobufCMessageDescriptor *d = status == 0 ? m.reply : &cfs__refusal__descriptor;
    CHECK(d != NULL); /* nobody serves such a method */
    ProtobufCMessage *unpacked = protobuf_c_message_unpack(d, NULL, body.len, body.data);
    CHECK(unpacked != NULL || (status != 0 && body.len == 0));
    if (unpacked != NULL) {
        protobuf_c_message_free_unpacked(unpacked, NULL);
    }
}

/* Linux has 133 errors. */
static bool known(int status)
{
    return status == 0 || (status > 0 && status <= 133) ||
           (status > -ERR_FIRST && status < -ERR_LAST);
}

static void on_message(struct conn *c, struct message *m, void *ctx)
{
    struct asker *a = ctx;
    (void)c;
    if (m->frame.kind == FRAME_EVENT) {
        return;
    }
    CHECK(m->frame.kind == FRAME_REPLY && m->frame.id >= 1 && m->frame.id <= a->n);
    struct asked *q = &a->asked[m->frame.id - 1];
    CHECK(q->waiting && q->method == m->frame.method && known(m->frame.status));
    check_body(q->method, m->frame.status, m->body);
    q->waiting = false;
    a->answers++;
    a->refusals += m->frame.status != 0;
    if (a->on_answer != NULL) {
        a->on_answer(a->ctx, q->method, status_to_rc(m->frame.status), m->body);
    }
}

static void on_closed(struct conn *c, int rc, void *ctx)
{
    struct asker *a = ctx;
    (void)rc;
    if (a->conn == c) {
        a->conn = NULL;
        a->n = 0;
        a->hung_up++;
    }
}

static const struct conn_events EVENTS = {.on_message = on_message, .on_closed = on_closed};

void asker_init(struct asker *a, struct transport *node, const char *address)
{
    memset(a, 0, sizeof *a);
    a->node = node;
    a->address = address;
}

static void connect_once(struct asker *a)
{
    if (a->conn == NULL) {
        a->n = 0;
        a->conn = a->node->ops->connect(a->node, a->address, &EVENTS, a);
    }
}

void asker_ask(struct asker *a, uint16_t method, struct bytes body, struct bytes payload)
{
    connect_once(a);
    if (a->n == ASKER_MAX) {
        return;
    }
    struct iovec iov = {.iov_base = (uint8_t *)(uintptr_t)payload.data, .iov_len = payload.len};
    struct asked *q = &a->asked[a->n++];
    *q = (struct asked){.id = a->n, .method = method, .waiting = true};
    struct outgoing o = {.frame = {.kind = FRAME_REQUEST, .method = method, .id = q->id},
                         .body = body,
                         .payload = &iov,
                         .n_payload = payload.len > 0};
    if (a->node->ops->send(a->conn, &o) != 0) {
        q->waiting = false; /* it is closing */
    }
}

void asker_cancel(struct asker *a, uint16_t method, uint64_t id)
{
    connect_once(a);
    struct outgoing o = {.frame = {.kind = FRAME_CANCEL, .method = method, .id = id}};
    (void)a->node->ops->send(a->conn, &o);
}

bool asker_idle(const struct asker *a)
{
    for (unsigned i = 0; a->conn != NULL && i < a->n; i++) {
        if (a->asked[i].waiting) {
            return false;
        }
    }
    return true;
}

void asker_hang_up(struct asker *a)
{
    if (a->conn != NULL) {
        a->node->ops->close(a->conn);
    }
}
