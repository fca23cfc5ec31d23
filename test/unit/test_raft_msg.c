#include <check.h>
#include <stdlib.h>

#include "base/err.h"
#include "meta/raft_log.h"
#include "meta/raft_msg.h"

static void message(struct buf *out)
{
    const struct raft_msg m = {.type = RAFT_MSG_APPEND, .library_version = 2, .term = 7, .index = 41,
                               .index_term = 6, .commit = 40, .n_entries = 2,
                               .configuration = BYTES(NULL, 0)};
    raft_msg_encode(&m, out);
    raft_msg_entry_encode(7, RAFT_LOG_COMMAND, BYTES("one", 3), out);
    raft_msg_entry_encode(7, RAFT_LOG_BARRIER, BYTES("", 0), out);
}

START_TEST(a_message_comes_back_as_it_was)
{
    struct buf b;
    struct raft_msg m;
    buf_init(&b);
    message(&b);
    ck_assert_int_eq(raft_msg_decode(buf_bytes(&b), &m), 0);
    ck_assert_uint_eq(m.term, 7);
    ck_assert_uint_eq(m.index, 41);
    ck_assert_uint_eq(m.index_term, 6);
    ck_assert_uint_eq(m.commit, 40);
    ck_assert_uint_eq(m.n_entries, 2);
    struct cursor c = cursor_of(m.rest);
    uint64_t term = 0;
    uint8_t type = 0;
    struct bytes data;
    ck_assert(raft_msg_entry_decode(&c, &term, &type, &data));
    ck_assert(bytes_equal(data, BYTES("one", 3)));
    ck_assert(raft_msg_entry_decode(&c, &term, &type, &data));
    ck_assert_uint_eq(type, RAFT_LOG_BARRIER);
    buf_release(&b);
}
END_TEST

START_TEST(a_message_has_its_golden_bytes)
{
    static const uint8_t golden[] = {
        1, 1, 2, 0,                                     /* version, type, library's version, flags */
        7, 0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, /* term, index */
        6, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, /* its term, commit */
        0, 0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 2, 0, 0, 0, /* candidate, features, capacity, entries */
        0,                                              /* no configuration */
        7, 0, 0, 0, 0, 0, 0, 0, 1, 3, 'o', 'n', 'e', 7, 0, 0, 0, 0, 0, 0, 0, 2, 0};
    struct buf b;
    buf_init(&b);
    message(&b);
    ck_assert_uint_eq(b.len, sizeof golden);
    ck_assert_mem_eq(b.data, golden, sizeof golden);
    buf_release(&b);
}
END_TEST

START_TEST(every_truncation_is_refused)
{
    struct buf b;
    struct raft_msg m;
    buf_init(&b);
    message(&b);
    for (size_t len = 0; len < b.len; len++) {
        ck_assert_int_ne(raft_msg_decode(BYTES(b.data, len), &m), 0);
    }
    buf_u8(&b, 0);
    ck_assert_int_eq(raft_msg_decode(buf_bytes(&b), &m), ERR_MALFORMED);
    buf_release(&b);
}
END_TEST

START_TEST(another_version_is_refused_as_such)
{
    struct buf b;
    struct raft_msg m;
    buf_init(&b);
    message(&b);
    b.data[0] = 2;
    ck_assert_int_eq(raft_msg_decode(buf_bytes(&b), &m), ERR_VERSION);
    b.data[0] = 1;
    b.data[1] = 99;
    ck_assert_int_eq(raft_msg_decode(buf_bytes(&b), &m), ERR_MALFORMED);
    buf_release(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("raft_msg");
    TCase *t = tcase_create("raft_msg");
    tcase_add_test(t, a_message_comes_back_as_it_was);
    tcase_add_test(t, a_message_has_its_golden_bytes);
    tcase_add_test(t, every_truncation_is_refused);
    tcase_add_test(t, another_version_is_refused_as_such);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
