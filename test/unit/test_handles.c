#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "base/mem.h"
#include "fuse/handles.h"

enum { HANDLES = 4 };
static struct arena_header header;
static struct arena_handle records[HANDLES];
static struct arena arena;
static struct handles *h;

static void setup(void)
{
    header = (struct arena_header){.sizes.handles = HANDLES};
    for (int i = 0; i < HANDLES; i++) {
        records[i] = (struct arena_handle){0};
    }
    arena = (struct arena){.h = &header, .handle = records};
    h = handles_new(&arena);
}

static void teardown(void)
{
    handles_free(h);
}

static void restart(void)
{
    handles_free(h);
    h = handles_new(&arena);
}

static uint64_t opened(uint64_t ino, uint64_t unique, bool repeated)
{
    uint64_t fh = 0;
    struct handle_want want = {.ino = ino, .unique = unique, .repeated = repeated};
    ck_assert_int_eq(handles_open(h, &want, &fh), 0);
    return fh;
}

START_TEST(repeated_open_finds_the_handle_it_made)
{
    uint64_t fh = opened(10, 7, false);
    restart();
    ck_assert_uint_eq(opened(10, 7, true), fh);
    ck_assert_uint_eq(handles_count(h, 10), 1);
}
END_TEST

START_TEST(repeated_open_that_made_none_makes_one)
{
    uint64_t fh = opened(10, 7, true);
    ck_assert_ptr_nonnull(handles_find(h, fh));
}
END_TEST

START_TEST(release_of_a_gone_generation_is_nothing)
{
    uint64_t ino, fh = opened(10, 1, false);
    ck_assert(!handles_close(h, fh, &ino));
    ck_assert_uint_eq(ino, 10);
    uint64_t again[HANDLES];
    for (unsigned i = 0; i < HANDLES; i++) {
        again[i] = opened(11, 2 + i, false);
    }
    ck_assert(!handles_close(h, fh, &ino));
    ck_assert_uint_eq(handles_count(h, 11), HANDLES);
    ck_assert_uint_ne(again[HANDLES - 1], fh);
    ck_assert_uint_eq((uint32_t)again[HANDLES - 1], (uint32_t)fh);
}
END_TEST

START_TEST(full_table_refuses)
{
    for (unsigned i = 0; i < HANDLES; i++) {
        opened(i + 1, i, false);
    }
    uint64_t fh = 99;
    struct handle_want want = {.ino = 5};
    ck_assert_int_eq(handles_open(h, &want, &fh), -ENFILE);
    ck_assert_uint_eq(fh, 99);
}
END_TEST

START_TEST(closed_orphan_is_known_to_the_next_worker_until_the_server_let_it_go)
{
    uint64_t ino, a = opened(10, 1, false), b = opened(10, 2, false);
    ck_assert_uint_eq(handles_set_orphan(h, 10, true), 2);
    ck_assert(!handles_close(h, a, &ino));
    ck_assert(handles_close(h, b, &ino));
    restart();
    ck_assert_uint_eq(handles_count(h, 10), 0);
    ck_assert_uint_eq(handles_total(h), 1);
    ck_assert_ptr_null(handles_find(h, b));
    handles_orphan_gone(h, 10);
    ck_assert_uint_eq(handles_total(h), 0);
}
END_TEST

START_TEST(orphan_that_nobody_has_open_is_kept)
{
    handles_keep_orphan(h, 77);
    restart();
    ck_assert_uint_eq(handles_total(h), 1);
    ck_assert_uint_eq(handles_count(h, 77), 0);
    handles_orphan_gone(h, 77);
    ck_assert_uint_eq(handles_total(h), 0);
}
END_TEST

START_TEST(a_new_name_ends_the_orphan)
{
    uint64_t ino, fh = opened(10, 1, false);
    handles_set_orphan(h, 10, true);
    handles_set_orphan(h, 10, false);
    ck_assert(!handles_close(h, fh, &ino));
    ck_assert_uint_eq(handles_total(h), 0);
}
END_TEST

START_TEST(a_lock_through_one_handle_marks_the_inode)
{
    uint64_t ino, a = opened(10, 1, false), b = opened(10, 2, false);
    ck_assert(!handles_locked(h, 10));
    handles_set_locked(h, handles_find(h, a));
    ck_assert(handles_locked(h, 10));
    handles_close(h, a, &ino);
    ck_assert(!handles_locked(h, 10));
    handles_close(h, b, &ino);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("handles");
    TCase *c = tcase_create("handles");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, repeated_open_finds_the_handle_it_made);
    tcase_add_test(c, repeated_open_that_made_none_makes_one);
    tcase_add_test(c, release_of_a_gone_generation_is_nothing);
    tcase_add_test(c, full_table_refuses);
    tcase_add_test(c, closed_orphan_is_known_to_the_next_worker_until_the_server_let_it_go);
    tcase_add_test(c, orphan_that_nobody_has_open_is_kept);
    tcase_add_test(c, a_new_name_ends_the_orphan);
    tcase_add_test(c, a_lock_through_one_handle_marks_the_inode);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
