#include "rpc/intake.h"

#include <string.h>

#include "base/check.h"
#include "base/crc.h"

enum {
    DIRECT_MIN = 16 << 10,   /* a shorter rest comes with the frames behind it in one read */
    BODY_KEEP_MAX = 64 << 10 /* a larger body buffer is not kept for the next frame */
};

void intake_init(struct intake *in, struct databuf_pool *pool)
{
    *in = (struct intake){.pool = pool};
}

void intake_release(struct intake *in)
{
    buf_release(&in->body);
    databuf_unref(in->payload);
    databuf_unref(in->delivered);
    *in = (struct intake){0};
}

static struct bytes take(struct bytes *data, size_t n)
{
    struct bytes front = BYTES(data->data, n);
    data->data += n;
    data->len -= n;
    return front;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The header is complete at `head`. */
static enum frame_fault begin(struct intake *in, const uint8_t *head)
{
    enum frame_fault fault = frame_decode(head, &in->frame);
    if (fault == FRAME_OK && in->frame.payload_len != 0 &&
        (in->pool == NULL || in->frame.payload_len > databuf_pool_buffer_bytes(in->pool))) {
        fault = FRAME_PAYLOAD_TOO_LONG;
    }
    in->head_have = 0;
    in->in_body = fault == FRAME_OK;
    return fault;
}

/* True when a header is complete and decoded, or *fault is set. */
static bool step_head(struct intake *in, struct bytes *data, enum frame_fault *fault)
{
    if (in->head_have == 0 && data->len >= FRAME_HEADER_BYTES) {
        *fault = begin(in, take(data, FRAME_HEADER_BYTES).data);
        return true;
    }
    struct bytes part = take(data, least(data->len, FRAME_HEADER_BYTES - in->head_have));
    if (part.len != 0) {
        memcpy(in->head + in->head_have, part.data, part.len);
        in->head_have += part.len;
    }
    if (in->head_have == FRAME_HEADER_BYTES) {
        *fault = begin(in, in->head);
        return true;
    }
    /* Random bytes are told from a slow peer at once, not after 40 of them. */
    if (in->head_have >= 4 && get_le32(in->head) != FRAME_MAGIC) {
        *fault = FRAME_BAD_MAGIC;
        return true;
    }
    return false;
}

/* True when the body is complete: *body is it, in place or in in->body. */
static bool step_body(struct intake *in, struct bytes *data, struct bytes *body)
{
    size_t need = in->frame.body_len - in->body.len;
    if (in->body.len == 0 && data->len >= need && in->frame.payload_len == 0) {
        *body = take(data, need);
        return true;
    }
    struct bytes part = take(data, least(data->len, need));
    buf_add(&in->body, part.data, part.len);
    *body = buf_bytes(&in->body);
    return part.len == need;
}

/* True when the payload is complete. */
static bool step_payload(struct intake *in, struct bytes *data)
{
    size_t need = in->frame.payload_len - in->payload->len;
    struct bytes part = take(data, least(data->len, need));
    if (part.len != 0) {
        memcpy(in->payload->data + in->payload->len, part.data, part.len);
        in->payload->len += part.len;
    }
    return part.len == need;
}

void intake_settle(struct intake *in)
{
    databuf_unref(in->delivered);
    in->delivered = NULL;
    if (!in->in_body && in->body.len != 0) {
        if (in->body.cap > BODY_KEEP_MAX) {
            buf_release(&in->body);
        }
        buf_clear(&in->body);
    }
}

static enum intake_result deliver(struct intake *in, struct bytes body, struct message *m)
{
    *m = (struct message){.frame = in->frame, .body = body, .payload = in->payload};
    in->delivered = in->payload;
    in->payload = NULL;
    in->in_body = in->in_payload = false;
    return INTAKE_MESSAGE;
}

static enum intake_result fail(struct intake *in, enum frame_fault why, enum frame_fault *fault)
{
    in->in_body = in->in_payload = false;
    *fault = why;
    return INTAKE_FAULT;
}

enum intake_result intake_step(struct intake *in, struct bytes *data, struct message *m,
                               enum frame_fault *fault)
{
    enum frame_fault found = FRAME_OK;
    struct bytes body = buf_bytes(&in->body);
    intake_settle(in);
    if (!in->in_body && !step_head(in, data, &found)) {
        return INTAKE_MORE;
    }
    if (found != FRAME_OK) {
        return fail(in, found, fault);
    }
    if (!in->in_payload) {
        if (!step_body(in, data, &body)) {
            return INTAKE_MORE;
        }
        if (crc32c(0, body.data, body.len) != in->frame.body_crc) {
            return fail(in, FRAME_BAD_BODY_CRC, fault);
        }
        if (in->frame.payload_len == 0) {
            return deliver(in, body, m);
        }
        in->in_payload = true;
    }
    if (in->payload == NULL && (in->payload = databuf_get(in->pool)) == NULL) {
        return INTAKE_STARVED;
    }
    return step_payload(in, data) ? deliver(in, buf_bytes(&in->body), m) : INTAKE_MORE;
}

struct iovec intake_direct(const struct intake *in)
{
    if (in->payload == NULL || in->frame.payload_len - in->payload->len < DIRECT_MIN) {
        return (struct iovec){0};
    }
    return (struct iovec){.iov_base = in->payload->data + in->payload->len,
                          .iov_len = in->frame.payload_len - in->payload->len};
}

void intake_direct_done(struct intake *in, size_t n)
{
    CHECK(in->payload != NULL && n <= in->frame.payload_len - in->payload->len);
    in->payload->len += n;
}

bool intake_partial(const struct intake *in)
{
    return in->in_body || in->head_have != 0;
}
