#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/crc.h"
#include "base/err.h"
#include "proto/methods.h"

static const uint64_t VALUES[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, 1ull << 35, UINT64_MAX};

START_TEST(integers_have_golden_bytes)
{
    static const uint8_t WANT[] = {7, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12, 8,    7,   6,   5,
                                   4, 3,    2,    1,    0x12, 0x34, 0x56, 0x78, 1,   2,   3,
                                   4, 5,    6,    7,    8,    0xac, 0x02, 3,    'a', 'b', 'c'};
    struct buf b;
    buf_init(&b);
    buf_u8(&b, 7);
    buf_le16(&b, 0x1234);
    buf_le32(&b, 0x12345678);
    buf_le64(&b, 0x0102030405060708);
    buf_be32(&b, 0x12345678);
    buf_be64(&b, 0x0102030405060708);
    buf_varint(&b, 300);
    buf_run(&b, "abc", 3);
    ck_assert(bytes_equal(buf_bytes(&b), BYTES(WANT, sizeof WANT)));
    buf_release(&b);
    buf_release(&b);
}
END_TEST

START_TEST(every_truncation_is_noticed)
{
    struct buf b;
    buf_init(&b);
    buf_be64(&b, 1);
    buf_varint(&b, UINT64_MAX);
    buf_run(&b, "hello", 5);
    buf_le16(&b, 9);
    for (size_t cut = 0; cut <= b.len; cut++) {
        struct cursor c = cursor_of(BYTES(b.data, cut));
        cursor_be64(&c);
        cursor_varint(&c);
        struct bytes run = cursor_run(&c);
        uint16_t last = cursor_le16(&c);
        ck_assert_int_eq(c.bad, cut != b.len);
        ck_assert_uint_eq(last, c.bad ? 0 : 9);
        ck_assert(run.len == 0 || memcmp(run.data, "hello", 5) == 0);
    }
    buf_release(&b);
}
END_TEST

START_TEST(varints_round_trip_and_overlong_ones_are_refused)
{
    static const uint8_t TOO_LONG[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                       0xff, 0xff, 0xff, 0xff, 0x01};
    static const uint8_t TOO_BIG[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    for (unsigned i = 0; i < sizeof VALUES / sizeof VALUES[0]; i++) {
        struct buf b;
        buf_init(&b);
        buf_varint(&b, VALUES[i]);
        struct cursor c = cursor_of(buf_bytes(&b));
        ck_assert_uint_eq(cursor_varint(&c), VALUES[i]);
        ck_assert(!c.bad && cursor_left(&c) == 0);
        buf_release(&b);
    }
    struct cursor c = cursor_of(BYTES(TOO_LONG, sizeof TOO_LONG));
    cursor_varint(&c);
    ck_assert(c.bad);
    c = cursor_of(BYTES(TOO_BIG, sizeof TOO_BIG));
    cursor_varint(&c);
    ck_assert(c.bad);
}
END_TEST

START_TEST(run_of_huge_length_is_refused)
{
    struct buf b;
    buf_init(&b);
    buf_varint(&b, UINT64_MAX);
    struct cursor c = cursor_of(buf_bytes(&b));
    ck_assert_uint_eq(cursor_run(&c).len, 0);
    ck_assert(c.bad);
    buf_release(&b);
}
END_TEST

START_TEST(comparison_is_by_bytes_then_length)
{
    ck_assert_int_lt(bytes_compare(BYTES("a", 1), BYTES("b", 1)), 0);
    ck_assert_int_lt(bytes_compare(BYTES("a", 1), BYTES("ab", 2)), 0);
    ck_assert_int_gt(bytes_compare(BYTES("\xff", 1), BYTES("a", 1)), 0);
    ck_assert_int_eq(bytes_compare(BYTES(NULL, 0), BYTES("", 0)), 0);
    ck_assert(bytes_has_prefix(BYTES("abc", 3), BYTES("ab", 2)));
    ck_assert(!bytes_has_prefix(BYTES("a", 1), BYTES("ab", 2)));
    ck_assert(bytes_has_prefix(BYTES("a", 1), BYTES(NULL, 0)));
}
END_TEST

START_TEST(printf_and_growth_keep_the_bytes)
{
    struct buf b;
    buf_init(&b);
    for (unsigned i = 0; i < 1000; i++) {
        buf_printf(&b, "%u,", i % 10);
    }
    ck_assert_uint_eq(b.len, 2000);
    ck_assert_int_eq(memcmp(b.data + 1998, "9,", 2), 0);
    buf_clear(&b);
    ck_assert_uint_eq(b.len, 0);
    buf_release(&b);
}
END_TEST

START_TEST(crc_is_castagnoli_and_chains)
{
    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283u);
    ck_assert_uint_eq(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
    ck_assert_uint_eq(crc32c(0, NULL, 0), 0);
}
END_TEST

START_TEST(every_error_has_a_name_a_posix_number_and_a_wire_status)
{
    for (int rc = ERR_FIRST - 1; rc > ERR_LAST; rc--) {
        ck_assert_str_ne(err_name(rc), "ERR_UNKNOWN");
        ck_assert_int_gt(err_to_errno(rc), 0);
        ck_assert_int_eq(status_to_rc(status_of_rc(rc)), rc);
    }
    ck_assert_int_eq(status_to_rc(status_of_rc(-ENOSPC)), -ENOSPC);
    ck_assert_int_eq(status_to_rc(-1), -EIO);
    ck_assert_int_eq(status_to_rc(1 << 30), -EIO);
    ck_assert_int_eq(status_of_rc(-(1 << 30)), EIO);
    ck_assert_int_eq(status_of_rc(0), 0);
    ck_assert_str_eq(err_name(-ENOSPC), "ENOSPC");
    ck_assert_str_eq(method_name(METHOD_FRAGMENT_PUT), "fragment-put");
    ck_assert_ptr_null(method_name(9999));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("buf");
    TCase *t = tcase_create("buf");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, integers_have_golden_bytes);
    tcase_add_test(t, every_truncation_is_noticed);
    tcase_add_test(t, varints_round_trip_and_overlong_ones_are_refused);
    tcase_add_test(t, run_of_huge_length_is_refused);
    tcase_add_test(t, comparison_is_by_bytes_then_length);
    tcase_add_test(t, printf_and_growth_keep_the_bytes);
    tcase_add_test(t, crc_is_castagnoli_and_chains);
    tcase_add_test(t, every_error_has_a_name_a_posix_number_and_a_wire_status);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
