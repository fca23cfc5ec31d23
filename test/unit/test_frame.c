#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/prng.h"
#include "rpc/intake.h"
#include "rpc/outbox.h"

static const uint8_t GOLDEN[FRAME_HEADER_BYTES] = {
    0x43, 0x46, 0x53, 0x31, 0x01, 0x01, 0x2d, 0x01, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03,
    0x02, 0x01, 0x05, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xb8, 0x0b, 0x00, 0x00, 0x4c, 0xbb, 0x71, 0x9a, 0x00, 0x00, 0x00, 0x00};
static const struct frame SAMPLE = {.kind = FRAME_REQUEST,
                                    .method = 301,
                                    .id = 0x0102030405060708,
                                    .body_len = 5,
                                    .payload_len = 4096,
                                    .deadline_ms = 3000,
                                    .body_crc = 0x9a71bb4c};

START_TEST(header_is_golden)
{
    uint8_t out[FRAME_HEADER_BYTES];
    struct frame f;
    ck_assert_uint_eq(crc32c(0, "hello", 5), SAMPLE.body_crc);
    frame_encode(out, &SAMPLE);
    ck_assert_int_eq(memcmp(out, GOLDEN, 36), 0);
    ck_assert_uint_eq(get_le32(out + 36), crc32c(0, GOLDEN, 36));
    ck_assert_int_eq(frame_decode(out, &f), FRAME_OK);
    ck_assert_uint_eq(f.kind, SAMPLE.kind);
    ck_assert_uint_eq(f.method, SAMPLE.method);
    ck_assert_uint_eq(f.id, SAMPLE.id);
    ck_assert_uint_eq(f.body_len, SAMPLE.body_len);
    ck_assert_uint_eq(f.payload_len, SAMPLE.payload_len);
    ck_assert_uint_eq(f.deadline_ms, SAMPLE.deadline_ms);
    ck_assert_uint_eq(f.body_crc, SAMPLE.body_crc);
}
END_TEST

START_TEST(every_flipped_bit_is_refused)
{
    for (unsigned bit = 0; bit < FRAME_HEADER_BYTES * 8; bit++) {
        uint8_t out[FRAME_HEADER_BYTES];
        struct frame f = {.id = 42};
        frame_encode(out, &SAMPLE);
        out[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        ck_assert_int_ne(frame_decode(out, &f), FRAME_OK);
        ck_assert_uint_eq(f.id, 42);
    }
}
END_TEST

START_TEST(every_fault_has_a_name)
{
    for (unsigned i = 0; i < FRAME_FAULTS; i++) {
        ck_assert_ptr_nonnull(frame_fault_name(i));
    }
    ck_assert_str_eq(frame_fault_name(FRAME_BAD_MAGIC), "bad-magic");
}
END_TEST

/* A stream of random frames, made by the outbox as the socket would see it. */
enum { FRAMES = 60 };
struct stream {
    struct list done;
    struct outbox box;
    struct outgoing out[FRAMES];
    struct iovec iov[FRAMES][3];
    uint8_t *body, *payload;
    struct buf wire;
    struct prng prng;
    unsigned sent;
    bool lends;
};

static void on_sent(struct outgoing *o, int rc)
{
    (void)o;
    (void)rc;
}

static void stream_add(struct stream *s, unsigned i)
{
    struct outgoing *o = &s->out[i];
    *o = (struct outgoing){.frame = {.kind = FRAME_REQUEST, .method = 1, .id = i + 1}};
    o->body = BYTES(s->body + i, prng_below(&s->prng, 4) == 0 ? 100000 : prng_below(&s->prng, 300));
    if (prng_below(&s->prng, 3) == 0) {
        for (unsigned k = 0; k < 3; k++) {
            s->iov[i][k].iov_base = s->payload + i + k;
            s->iov[i][k].iov_len = prng_below(&s->prng, 2) ? 100000 : prng_below(&s->prng, 50);
        }
        o->payload = s->iov[i];
        o->n_payload = 3;
        o->lend = prng_below(&s->prng, 2) == 0;
        o->on_sent = on_sent;
    }
    ck_assert_int_eq(outbox_add(&s->box, o), 0);
}

static void stream_drain(struct stream *s, size_t limit)
{
    struct iovec iov[7];
    unsigned n = s->lends ? outbox_gather_lent(&s->box, iov, 7) : 0;
    if (n == 0) {
        n = s->lends ? outbox_gather_copied(&s->box, iov, 7) : outbox_gather(&s->box, iov, 7);
    }
    ck_assert(n != 0 || s->box.bytes == 0);
    size_t took = 0;
    for (unsigned i = 0; i < n && took < limit; i++) {
        size_t part = iov[i].iov_len < limit - took ? iov[i].iov_len : limit - took;
        buf_add(&s->wire, iov[i].iov_base, part);
        took += part;
    }
    outbox_advance(&s->box, took);
}

static struct stream *stream_new(uint64_t seed)
{
    struct stream *s = calloc(1, sizeof *s);
    prng_seed(&s->prng, seed);
    s->lends = seed % 2 == 0;
    list_init(&s->done);
    outbox_init(&s->box, &s->done);
    s->body = malloc(200000);
    s->payload = malloc(400000);
    for (unsigned i = 0; i < 200000; i++) {
        s->body[i] = (uint8_t)prng_u64(&s->prng);
        s->payload[2 * i] = s->payload[2 * i + 1] = (uint8_t)prng_u64(&s->prng);
    }
    return s;
}

static void stream_free(struct stream *s)
{
    outbox_fail(&s->box, -1);
    buf_release(&s->wire);
    free(s->body);
    free(s->payload);
    free(s);
}

static void check_frame(const struct stream *s, const struct message *m)
{
    const struct outgoing *o = &s->out[m->frame.id - 1];
    size_t at = 0;
    ck_assert(bytes_equal(m->body, o->body));
    for (unsigned k = 0; k < o->n_payload; k++) {
        ck_assert_uint_le(at + o->payload[k].iov_len, m->payload->len);
        ck_assert_int_eq(
            memcmp(m->payload->data + at, o->payload[k].iov_base, o->payload[k].iov_len), 0);
        at += o->payload[k].iov_len;
    }
    ck_assert_uint_eq(m->payload != NULL ? m->payload->len : 0, at);
}

/* Gives the wire's bytes in random pieces, some read in place. */
static unsigned take_in(struct stream *s, struct intake *in)
{
    unsigned n = 0;
    for (size_t at = 0; at < s->wire.len;) {
        struct iovec direct = intake_direct(in);
        size_t most = s->wire.len - at, len = 1 + prng_below(&s->prng, 70000);
        len = len < most ? len : most;
        if (direct.iov_len != 0) {
            size_t part = direct.iov_len < len ? direct.iov_len : len;
            memcpy(direct.iov_base, s->wire.data + at, part);
            intake_direct_done(in, part);
            at += part;
            len -= part;
        }
        struct bytes piece = BYTES(s->wire.data + at, len);
        struct message m;
        enum frame_fault fault;
        enum intake_result r;
        while ((r = intake_step(in, &piece, &m, &fault)) == INTAKE_MESSAGE) {
            check_frame(s, &m);
            n++;
        }
        ck_assert_int_eq(r, INTAKE_MORE);
        ck_assert_uint_eq(piece.len, 0);
        at += len;
    }
    return n;
}

START_TEST(what_goes_out_comes_in_however_it_is_cut)
{
    struct databuf_pool *pool = databuf_pool_new(FRAME_PAYLOAD_MAX, 2);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct stream *s = stream_new(seed);
        struct intake in;
        for (unsigned i = 0; i < FRAMES; i++) {
            stream_add(s, i);
            stream_drain(s, prng_below(&s->prng, 100000));
        }
        while (s->box.bytes != 0) {
            stream_drain(s, 1 + prng_below(&s->prng, 300000));
        }
        intake_init(&in, pool);
        ck_assert_uint_eq(take_in(s, &in), FRAMES);
        ck_assert(!intake_partial(&in));
        intake_release(&in);
        stream_free(s);
    }
    ck_assert_uint_eq(databuf_pool_left(pool), 2);
    databuf_pool_free(pool);
}
END_TEST

START_TEST(frames_taken_back_leave_the_others_whole)
{
    struct databuf_pool *pool = databuf_pool_new(FRAME_PAYLOAD_MAX, 2);
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct stream *s = stream_new(seed);
        struct intake in;
        unsigned expect = FRAMES;
        for (unsigned i = 0; i < FRAMES; i++) {
            stream_add(s, i);
            stream_drain(s, prng_below(&s->prng, 60000));
            unsigned victim = (unsigned)prng_below(&s->prng, i + 1);
            if (s->out[victim].item != NULL && outbox_unsend(&s->box, &s->out[victim])) {
                expect--;
            }
        }
        while (s->box.bytes != 0) {
            stream_drain(s, 1 + prng_below(&s->prng, 300000));
        }
        ck_assert(list_empty(&s->box.items));
        intake_init(&in, pool);
        ck_assert_uint_eq(take_in(s, &in), expect);
        intake_release(&in);
        stream_free(s);
    }
    databuf_pool_free(pool);
}
END_TEST

START_TEST(longer_than_a_frame_is_refused_when_sending)
{
    struct stream *s = stream_new(1);
    struct iovec iov = {.iov_base = s->payload, .iov_len = FRAME_PAYLOAD_MAX + 1};
    struct outgoing o = {.payload = &iov, .n_payload = 1, .on_sent = on_sent};
    ck_assert_int_lt(outbox_add(&s->box, &o), 0);
    o = (struct outgoing){.body = BYTES(s->body, FRAME_BODY_MAX + 1)};
    ck_assert_int_lt(outbox_add(&s->box, &o), 0);
    ck_assert_uint_eq(s->box.bytes, 0);
    stream_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("frame");
    TCase *t = tcase_create("frame");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, header_is_golden);
    tcase_add_test(t, every_flipped_bit_is_refused);
    tcase_add_test(t, every_fault_has_a_name);
    tcase_add_test(t, what_goes_out_comes_in_however_it_is_cut);
    tcase_add_test(t, frames_taken_back_leave_the_others_whole);
    tcase_add_test(t, longer_than_a_frame_is_refused_when_sending);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
