#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse/arena_sift.h"
#include "test/lib/suite.h"

static const struct arena_sizes TINY = {
    .big = 1, .small = 1, .handles = 4, .inodes = 4, .pages = 4, .commits = 2, .cache_bytes = 4096};

static struct arena a;

/* A record of each kind, as workers write them. */
static void begin(void)
{
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    a.h->session = 7;
    a.h->next_seq = 1000000;
    for (uint32_t i = 0; i < 2; i++) {
        a.handle[i] = (struct arena_handle){.state = 1, .generation = 3, .ino = 5 + i, .flags = ARENA_HANDLE_DIR};
        a.inode[i] = (struct arena_inode){
            .ino = 5 + i, .flags = ARENA_INODE_SIZE | ARENA_INODE_MTIME, .size = INT64_MAX, .error = -EIO, .errors = 1};
        a.page[i] = (struct arena_page){
            .word = arena_page_word(ARENA_PAGE_DIRTY, i, 4096), .ino = 5, .number = i, .stamp = 9};
        a.commit[i] = (struct arena_commit){.seq = 1000000 - i * 65535, .ino = 5, .n_stripes = 1, .n_extents = 2,
                                            .flags = ARENA_INODE_SIZE | ARENA_COMMIT_INLINE};
    }
    a.page[2].word = arena_page_word(ARENA_PAGE_CLEAN, 0, 4096);
    ck_assert_int_eq(arena_sift(&a), 0);
}

static void end(void)
{
    close(a.fd);
    arena_detach(&a);
}

START_TEST(a_handle_that_nobody_wrote_is_dropped)
{
    struct arena_handle good = a.handle[1];
    for (int i = 0; i < 4; i++) {
        a.handle[1] = good;
        a.handle[1].state = i == 0 ? 2 : 1;
        a.handle[1].generation = i == 1 ? 0 : 1;
        a.handle[1].ino = i == 2 ? 0 : 5;
        a.handle[1].flags = i == 3 ? 16 : 0;
        ck_assert_int_eq(arena_sift(&a), 1);
        ck_assert_uint_eq(a.handle[1].state, 0);
        ck_assert_uint_eq(a.handle[0].state, 1);
    }
}
END_TEST

START_TEST(an_inode_that_nobody_wrote_is_dropped)
{
    const struct arena_inode good = a.inode[1];
    for (int i = 0; i < 3; i++) {
        a.inode[1] = good;
        a.inode[1].flags |= i == 0 ? 8 : 0;
        a.inode[1].size += i == 1;
        a.inode[1].error = i == 2 ? 1 : 0;
        ck_assert_int_eq(arena_sift(&a), 1);
        ck_assert_uint_eq(a.inode[1].ino, 0);
    }
}
END_TEST

START_TEST(of_two_records_of_an_inode_one_is_dropped)
{
    a.inode[3] = a.inode[0];
    ck_assert_int_eq(arena_sift(&a), 1);
    ck_assert_uint_eq(a.inode[3].ino, 0);
    ck_assert_uint_eq(a.inode[0].ino, 5);
    ck_assert_uint_eq(a.inode[1].ino, 6);
}
END_TEST

START_TEST(a_page_that_nobody_wrote_is_dropped)
{
    const struct arena_page good = a.page[1];
    static const uint64_t WORDS[] = {(uint64_t)3 << 32 | 4096, (uint64_t)1 << 40 | (uint64_t)1 << 32 | 4096,
                                     (uint64_t)1 << 32 | 4097, (uint64_t)1 << 32 | 5 << 16 | 5, 4096};
    for (size_t i = 0; i < 8; i++) {
        a.page[1] = good;
        a.page[1].word = i < 5 ? WORDS[i] : good.word;
        a.page[1].ino = i == 5 ? 0 : 5;
        a.page[1].number = i == 6 ? UINT64_MAX / 4096 : 1;
        a.page[1].stamp = i == 7 ? UINT64_MAX : 1;
        ck_assert_int_eq(arena_sift(&a), 1);
        ck_assert_uint_eq(a.page[1].word, 0);
    }
}
END_TEST

START_TEST(the_last_page_that_a_file_can_have_stays)
{
    a.page[1].number = INT64_MAX / 4096;
    ck_assert_int_eq(arena_sift(&a), 0);
    ck_assert_uint_ne(a.page[1].word, 0);
    a.page[1].number++;
    ck_assert_int_eq(arena_sift(&a), 1);
}
END_TEST

START_TEST(a_commit_that_nobody_wrote_is_dropped)
{
    const struct arena_commit good = a.commit[1];
    for (int i = 0; i < 7; i++) {
        a.commit[1] = good;
        struct arena_commit *c = &a.commit[1];
        c->seq = i == 0 ? 1000001 : i == 1 ? 1000000 - 65536 : c->seq;
        c->ino = i == 2 ? 0 : 5;
        c->flags |= i == 3 ? 16 : 0;
        c->n_stripes = i == 4 ? ARENA_COMMIT_STRIPES + 1 : 1;
        c->n_extents = i == 5 ? ARENA_COMMIT_EXTENTS + 1 : 2;
        c->extent[1].stripe = i == 6;
        ck_assert_int_eq(arena_sift(&a), 1);
        ck_assert_uint_eq(c->seq, 0);
    }
}
END_TEST

START_TEST(a_session_without_a_next_number_is_refused)
{
    a.h->next_seq = 0;
    ck_assert_int_eq(arena_sift(&a), -EINVAL);
    a.h->next_seq = UINT64_MAX;
    ck_assert_int_eq(arena_sift(&a), -EINVAL);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, a_handle_that_nobody_wrote_is_dropped);
    tcase_add_test(t, an_inode_that_nobody_wrote_is_dropped);
    tcase_add_test(t, of_two_records_of_an_inode_one_is_dropped);
    tcase_add_test(t, a_page_that_nobody_wrote_is_dropped);
    tcase_add_test(t, the_last_page_that_a_file_can_have_stays);
    tcase_add_test(t, a_commit_that_nobody_wrote_is_dropped);
    tcase_add_test(t, a_session_without_a_next_number_is_refused);
    return suite_run("arena_sift", t);
}
