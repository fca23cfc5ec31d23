#include "chunkserver/record.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/err.h"
#include "chunkserver/identity.h"
#include "chunkserver/index.h"
#include "test/lib/disk_mem.h"
#include "test/lib/kv_mem.h"

/* Bytes on a chunk server's disk: round trips, golden bytes, every truncation and flip refused. */

static struct fragment example(void)
{
    struct fragment f = {.key = {.pg = 0x01020304, .id = 0x1122334455667788, .slot = 5},
                         .code = {STRIPE_RS, 4, 2},
                         .bytes = 131072 + 4096,
                         .epoch = 9,
                         .stripe_length = 4 * (131072 + 4096),
                         .nonce = 0xa1a2a3a4a5a6a7a8};
    for (unsigned i = 0; i < 3; i++) {
        f.crc[i] = 0xc0c1c200 + i;
    }
    return f;
}

START_TEST(record_header_has_golden_bytes)
{
    static const uint8_t GOLDEN[] = {
        'C',  'F',  'R',  '1',  1,    1,    4,    2,    0x04, 0x03, 0x02, 0x01, 5,
        0,    0,    0,    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xa8, 0xa7,
        0xa6, 0xa5, 0xa4, 0xa3, 0xa2, 0xa1, 0x00, 0x40, 0x08, 0,    0,    0,    0,
        0,    0x00, 0x10, 0x02, 0,    9,    0,    0,    0,    0x00, 0xc2, 0xc1, 0xc0,
        0x01, 0xc2, 0xc1, 0xc0, 0x02, 0xc2, 0xc1, 0xc0, 0,    0,    0};
    uint8_t out[RECORD_HEADER_BYTES], key[16];
    struct fragment f = example();
    record_encode(out, &f, 0x5eed, 8192);
    ck_assert_int_eq(memcmp(out, GOLDEN, sizeof GOLDEN), 0);
    put_le64(key, 0x5eed);
    put_le64(key + 8, 8192);
    ck_assert_uint_eq(get_le32(out + 508), crc32c(crc32c(0, key, 16), out, 508));
}
END_TEST

START_TEST(record_is_bound_to_its_seed_and_place)
{
    uint8_t out[RECORD_HEADER_BYTES];
    struct fragment f = example(), back;
    record_encode(out, &f, 1, 8192);
    ck_assert_int_eq(record_decode(out, 1, 8192, &back), 0);
    ck_assert(fragment_same(&f, &back));
    ck_assert_uint_eq(back.epoch, 9);
    ck_assert_int_eq(record_decode(out, 2, 8192, &back), ERR_NOT_FOUND);
    ck_assert_int_eq(record_decode(out, 1, 12288, &back), ERR_NOT_FOUND);
}
END_TEST

START_TEST(record_with_any_flipped_bit_is_none)
{
    uint8_t out[RECORD_HEADER_BYTES];
    struct fragment f = example(), back;
    record_encode(out, &f, 1, 8192);
    for (unsigned bit = 0; bit < 8 * RECORD_HEADER_BYTES; bit++) {
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_int_eq(record_decode(out, 1, 8192, &back), ERR_NOT_FOUND);
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}
END_TEST

/* With a right CRC: what the fields say is judged all the same. */
START_TEST(record_of_a_later_version_is_named_and_nonsense_is_none)
{
    uint8_t out[RECORD_HEADER_BYTES];
    struct fragment f = example(), back;
    f.bytes = 4096;
    record_encode(out, &f, 1, 8192);
    ck_assert_int_eq(record_decode(out, 1, 8192, &back), ERR_NOT_FOUND);
    f = example();
    f.key.slot = STRIPE_SLOTS_MAX;
    record_encode(out, &f, 1, 8192);
    ck_assert_int_eq(record_decode(out, 1, 8192, &back), ERR_NOT_FOUND);
    f = example();
    record_encode(out, &f, 1, 8192);
    out[4] = 2;
    uint8_t key[16];
    put_le64(key, 1);
    put_le64(key + 8, 8192);
    put_le32(out + 508, crc32c(crc32c(0, key, 16), out, 508));
    ck_assert_int_eq(record_decode(out, 1, 8192, &back), ERR_VERSION);
}
END_TEST

START_TEST(segment_header_round_trip_flips_and_versions)
{
    static const uint8_t GOLDEN[] = {'C', 'F', 'G', '1', 1,    2,    0, 0, 7, 0, 0, 0,
                                     0,   2,   0,   0,   0xef, 0xbe, 0, 0, 0, 0, 0, 0,
                                     0,   0,   0,   1,   0,    0,    0, 0, 1, 2, 3, 0};
    uint8_t out[SEGMENT_HEADER_BYTES];
    struct segment_header h = {.kind = SEGMENT_SMALL,
                               .number = 7,
                               .align = 512,
                               .seed = 0xbeef,
                               .size = 1 << 24,
                               .disk = {1, 2, 3}},
                          back;
    segment_header_encode(out, &h);
    ck_assert_int_eq(memcmp(out, GOLDEN, sizeof GOLDEN), 0);
    ck_assert_int_eq(segment_header_decode(out, &back), 0);
    ck_assert(back.kind == h.kind && back.number == 7 && back.align == 512 && back.seed == 0xbeef &&
              back.size == 1 << 24 && memcmp(back.disk, h.disk, 16) == 0);
    for (unsigned byte = 0; byte < SEGMENT_HEADER_BYTES; byte++) {
        out[byte] ^= 0x40;
        ck_assert_int_eq(segment_header_decode(out, &back), ERR_CORRUPT);
        out[byte] ^= 0x40;
    }
    out[4] = 2;
    put_le32(out + 4092, crc32c(0, out, 4092));
    ck_assert_int_eq(segment_header_decode(out, &back), ERR_VERSION);
}
END_TEST

static struct bytes row_key, row_value;

static void keep_row(void *ctx, bool put, struct bytes key, struct bytes value)
{
    (void)ctx;
    ck_assert(put);
    row_key = key;
    row_value = value;
}

START_TEST(index_row_has_golden_bytes_and_refuses_truncation)
{
    static const uint8_t KEY[] = {'f',  1,    2,    3,    4,    0x11, 0x22,
                                  0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 5};
    static const uint8_t VALUE[] = {
        1,    1,    4,    2,    3,    0,    0,    0,    0x00, 0x20, 0,    0,    0,
        0,    0,    0,    0x00, 0x10, 0x02, 0,    9,    0,    0,    0,    0x00, 0x40,
        0x08, 0,    0,    0,    0,    0,    0xa8, 0xa7, 0xa6, 0xa5, 0xa4, 0xa3, 0xa2,
        0xa1, 0x00, 0xc2, 0xc1, 0xc0, 0x01, 0xc2, 0xc1, 0xc0, 0x02, 0xc2, 0xc1, 0xc0};
    struct index_place p = {.fragment = example(), .segment = 3, .at = 8192}, back;
    struct kv_batch b;
    kv_batch_init(&b);
    index_put(&b, &p);
    kv_batch_each(&b, keep_row, NULL);
    ck_assert(bytes_equal(row_key, BYTES(KEY, sizeof KEY)));
    ck_assert(bytes_equal(row_value, BYTES(VALUE, sizeof VALUE)));
    ck_assert_int_eq(index_decode(row_key, row_value, &back), 0);
    ck_assert(fragment_same(&back.fragment, &p.fragment) && back.segment == 3 && back.at == 8192);
    for (size_t len = 0; len < sizeof VALUE; len++) {
        ck_assert_int_eq(index_decode(row_key, BYTES(VALUE, len), &back), ERR_CORRUPT);
    }
    uint8_t longer[sizeof VALUE + 1] = {0};
    memcpy(longer, VALUE, sizeof VALUE);
    ck_assert_int_eq(index_decode(row_key, BYTES(longer, sizeof longer), &back), ERR_CORRUPT);
    longer[0] = 2;
    ck_assert_int_eq(index_decode(row_key, BYTES(longer, sizeof VALUE), &back), ERR_VERSION);
    ck_assert_int_eq(index_decode(BYTES(KEY, 13), row_value, &back), ERR_CORRUPT);
    kv_batch_release(&b);
}
END_TEST

START_TEST(index_walks_a_group_in_order_and_stops_at_its_end)
{
    struct kv *kv = kv_mem_new();
    struct kv_batch b;
    kv_batch_init(&b);
    struct index_place p = {.fragment = example()}, back;
    for (uint32_t pg = 1; pg <= 3; pg++) {
        p.fragment.key = (struct frag_key){.pg = pg, .id = 0x100 - pg, .slot = 1};
        index_put(&b, &p);
    }
    struct index_mark mark = {.seed = 4, .scanned = 5}, mark_back;
    index_put_mark(&b, 2, &mark);
    ck_assert_int_eq(kv_write(kv, &b, true), 0);
    ck_assert_int_eq(index_get_mark(kv, 2, &mark_back), 0);
    ck_assert(mark_back.seed == 4 && mark_back.scanned == 5);
    ck_assert_int_eq(index_get_mark(kv, 3, &mark_back), ERR_NOT_FOUND);
    ck_assert_int_eq(index_get(kv, (struct frag_key){2, 0xfe, 1}, &back), 0);
    ck_assert_int_eq(index_get(kv, (struct frag_key){2, 0xfe, 0}, &back), ERR_NOT_FOUND);
    kv_batch_release(&b);
    kv->ops->close(kv);
}
END_TEST

START_TEST(identity_round_trip_truncation_and_flips)
{
    struct identity id = {.has_cluster = true}, back;
    memset(id.server, 0x1a, 16);
    memset(id.cluster, 0x2b, 16);
    memset(id.disk, 0x3c, 16);
    for (int cluster = 0; cluster < 2; cluster++) {
        struct buf text;
        buf_init(&text);
        id.has_cluster = cluster == 1;
        identity_encode(&id, &text);
        ck_assert_int_eq(identity_decode(buf_bytes(&text), &back), 0);
        ck_assert(back.has_cluster == id.has_cluster && memcmp(back.disk, id.disk, 16) == 0);
        for (size_t len = 0; len < text.len; len++) {
            ck_assert_int_eq(identity_decode(BYTES(text.data, len), &back), ERR_CORRUPT);
        }
        for (size_t i = 0; i < text.len; i++) {
            text.data[i] ^= 1;
            ck_assert_int_ne(identity_decode(buf_bytes(&text), &back), 0);
            text.data[i] ^= 1;
        }
        text.data[9] = '2';
        ck_assert_int_eq(identity_decode(buf_bytes(&text), &back), ERR_VERSION);
        buf_release(&text);
    }
}
END_TEST

START_TEST(identity_is_the_old_or_the_new_one_whatever_fails)
{
    for (int at = 0;; at++) {
        struct disk *d = disk_mem_new(1 << 20);
        struct identity id = {.disk = {7}}, back;
        ck_assert_int_eq(identity_read(d, &back), ERR_NOT_FOUND);
        ck_assert_int_eq(identity_write(d, &id), 0);
        id.has_cluster = true;
        disk_mem_fault(d, (struct disk_mem_fault){.at = at, .sticky = true, .torn = true});
        int rc = identity_write(d, &id);
        bool fired = disk_mem_fired(d);
        disk_mem_crash(d, (uint64_t)at, 0);
        ck_assert_int_eq(identity_read(d, &back), 0);
        ck_assert(rc != 0 || back.has_cluster);
        d->ops->close(d);
        if (!fired) {
            break;
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("record");
    TCase *t = tcase_create("formats");
    tcase_add_test(t, record_header_has_golden_bytes);
    tcase_add_test(t, record_is_bound_to_its_seed_and_place);
    tcase_add_test(t, record_with_any_flipped_bit_is_none);
    tcase_add_test(t, record_of_a_later_version_is_named_and_nonsense_is_none);
    tcase_add_test(t, segment_header_round_trip_flips_and_versions);
    tcase_add_test(t, index_row_has_golden_bytes_and_refuses_truncation);
    tcase_add_test(t, index_walks_a_group_in_order_and_stops_at_its_end);
    tcase_add_test(t, identity_round_trip_truncation_and_flips);
    tcase_add_test(t, identity_is_the_old_or_the_new_one_whatever_fails);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
