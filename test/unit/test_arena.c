#include <check.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/arena.h"

static const struct arena_sizes TINY = {
    .big = 1, .small = 4, .handles = 4, .inodes = 4, .pages = 4, .commits = 2, .cache_bytes = 8192};

static uint64_t planned_bytes(uint64_t limit)
{
    struct arena_sizes s;
    uint64_t heap = 0;
    ck_assert_int_eq(arena_plan(limit, &s, &heap), 0);
    return heap + s.big * sizeof(struct arena_big) + s.small * sizeof(struct arena_small) +
           s.handles * sizeof(struct arena_handle) + s.inodes * sizeof(struct arena_inode) +
           s.commits * sizeof(struct arena_commit) + s.cache_bytes +
           (uint64_t)s.pages * (sizeof(struct arena_page) + ARENA_PAGE_BYTES);
}

START_TEST(plan_stays_below_every_limit_and_uses_most_of_it)
{
    for (uint64_t mib = 64; mib <= 4096; mib *= 2) {
        uint64_t planned = planned_bytes(mib << 20);
        ck_assert_uint_le(planned, mib << 20);
        ck_assert_uint_ge(planned, (mib << 20) * 9 / 10);
    }
}
END_TEST

START_TEST(plan_refuses_less_than_64_mib)
{
    struct arena_sizes s;
    uint64_t heap = 77;
    ck_assert_int_eq(arena_plan((64u << 20) - 1, &s, &heap), -EINVAL);
    ck_assert_uint_eq(heap, 77);
}
END_TEST

START_TEST(second_mapping_sees_what_the_first_published)
{
    struct arena a, b;
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    memcpy(a.data + ARENA_PAGE_BYTES, "hello", 5);
    arena_publish64(&a.page[1].word, arena_page_word(ARENA_PAGE_DIRTY, 0, 5));
    ck_assert_int_eq(arena_attach(a.fd, &b), 0);
    ck_assert_ptr_ne(a.h, b.h);
    ck_assert_int_eq(arena_page_state_of(b.page[1].word), ARENA_PAGE_DIRTY);
    ck_assert_uint_eq(arena_page_to(b.page[1].word), 5);
    ck_assert_mem_eq(b.data + ARENA_PAGE_BYTES, "hello", 5);
    arena_detach(&b);
    int fd = a.fd;
    arena_detach(&a);
    close(fd);
}
END_TEST

START_TEST(write_payload_begins_on_a_page)
{
    struct arena a;
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    ck_assert_uint_eq((uintptr_t)a.big[0].data % ARENA_PAGE_BYTES, 0);
    ck_assert_uint_eq((uintptr_t)a.small[1].request % 8, 0);
    ck_assert_uint_eq((uintptr_t)a.data % ARENA_PAGE_BYTES, 0);
    ck_assert_uint_eq((uintptr_t)a.cache % ARENA_PAGE_BYTES, 0);
    close(a.fd);
    arena_detach(&a);
}
END_TEST

/* An arena outlives the program that made it: an upgrade hands it to the next one. What stands here can only change
 * together with ARENA_VERSION. */
#define AT(record, field, at) {#record "." #field, offsetof(struct record, field), at}
#define SIZE(record, bytes) {#record, sizeof(struct record), bytes}
static const struct {
    const char *what;
    size_t is, was;
} LAYOUT[] = {
    /* clang-format off */
    SIZE(arena_sizes, 32), AT(arena_sizes, big, 0), AT(arena_sizes, small, 4),
    AT(arena_sizes, handles, 8), AT(arena_sizes, inodes, 12), AT(arena_sizes, pages, 16),
    AT(arena_sizes, commits, 20), AT(arena_sizes, cache_bytes, 24),
    SIZE(arena_header, 8648), AT(arena_header, magic, 0), AT(arena_header, version, 8),
    AT(arena_header, state, 12), AT(arena_header, total_bytes, 16), AT(arena_header, sizes, 24),
    AT(arena_header, big_at, 56), AT(arena_header, small_at, 64),
    AT(arena_header, handles_at, 72), AT(arena_header, inodes_at, 80),
    AT(arena_header, pages_at, 88), AT(arena_header, commits_at, 96),
    AT(arena_header, data_at, 104), AT(arena_header, cache_at, 112),
    AT(arena_header, init_bytes, 120), AT(arena_header, init, 124),
    AT(arena_header, options, 380), AT(arena_header, session, 8576),
    AT(arena_header, next_seq, 8584), AT(arena_header, root_ino, 8592),
    AT(arena_header, volume, 8600), AT(arena_header, page_stamp, 8608),
    AT(arena_header, worker_starts, 8616), AT(arena_header, answered, 8624),
    AT(arena_header, settled_seq, 8632), AT(arena_header, bytes_lost, 8640),
    SIZE(arena_big, 1056768), AT(arena_big, seq, 0), AT(arena_big, deaths, 8),
    AT(arena_big, flags, 12), AT(arena_big, head, 4096), AT(arena_big, data, 8192),
    SIZE(arena_small, 1016), AT(arena_small, state, 0), AT(arena_small, bytes, 4),
    AT(arena_small, seq, 8), AT(arena_small, ticket, 16), AT(arena_small, deaths, 24),
    AT(arena_small, flags, 28), AT(arena_small, request, 56),
    SIZE(arena_handle, 64), AT(arena_handle, state, 0), AT(arena_handle, generation, 4),
    AT(arena_handle, ino, 8), AT(arena_handle, unique, 16), AT(arena_handle, open_flags, 24),
    AT(arena_handle, flags, 28), AT(arena_handle, reported_error, 32),
    SIZE(arena_inode, 64), AT(arena_inode, ino, 0), AT(arena_inode, size, 8),
    AT(arena_inode, mtime, 16), AT(arena_inode, flags, 24), AT(arena_inode, error, 28),
    AT(arena_inode, errors, 32),
    SIZE(arena_page, 32), AT(arena_page, word, 0), AT(arena_page, ino, 8),
    AT(arena_page, number, 16), AT(arena_page, stamp, 24),
    SIZE(arena_stripe, 48), AT(arena_stripe, id, 0), AT(arena_stripe, nonce, 8),
    AT(arena_stripe, slot_mask, 16), AT(arena_stripe, length, 24), AT(arena_stripe, pg, 32),
    AT(arena_stripe, epoch, 36), AT(arena_stripe, kind, 40), AT(arena_stripe, k, 41),
    AT(arena_stripe, m, 42),
    SIZE(arena_extent, 32), AT(arena_extent, offset, 0), AT(arena_extent, length, 8),
    AT(arena_extent, stripe_offset, 16), AT(arena_extent, stripe, 24),
    SIZE(arena_commit, 2864), AT(arena_commit, seq, 0), AT(arena_commit, ino, 8),
    AT(arena_commit, size, 16), AT(arena_commit, mtime, 24), AT(arena_commit, flags, 32),
    AT(arena_commit, n_stripes, 36), AT(arena_commit, n_extents, 40),
    AT(arena_commit, stripe, 48), AT(arena_commit, extent, 816),
    /* clang-format on */
};

START_TEST(every_field_has_its_place)
{
    ck_assert_uint_eq(ARENA_VERSION, 1);
    for (size_t i = 0; i < sizeof LAYOUT / sizeof LAYOUT[0]; i++) {
        ck_assert_msg(LAYOUT[i].is == LAYOUT[i].was, "%s: %zu, was %zu", LAYOUT[i].what, LAYOUT[i].is,
                      LAYOUT[i].was);
    }
}
END_TEST

START_TEST(every_table_has_its_place)
{
    struct arena a;
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    ck_assert_mem_eq(&a.h->magic, "CFArena1", 8);
    ck_assert_uint_eq(a.h->big_at, 0x3000);
    ck_assert_uint_eq(a.h->small_at, 0x105000);
    ck_assert_uint_eq(a.h->handles_at, 0x106000);
    ck_assert_uint_eq(a.h->inodes_at, 0x107000);
    ck_assert_uint_eq(a.h->pages_at, 0x108000);
    ck_assert_uint_eq(a.h->commits_at, 0x109000);
    ck_assert_uint_eq(a.h->data_at, 0x10b000);
    ck_assert_uint_eq(a.h->cache_at, 0x10f000);
    ck_assert_uint_eq(a.h->total_bytes, 0x111000);
    ck_assert_uint_eq(arena_page_word(ARENA_PAGE_DIRTY, 2, 4096), 0x100021000u);
    close(a.fd);
    arena_detach(&a);
}
END_TEST

START_TEST(attach_refuses_what_is_no_arena)
{
    struct arena a, b;
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    a.h->version++;
    ck_assert_int_eq(arena_attach(a.fd, &b), -EPROTO);
    a.h->version--;
    a.h->sizes.pages++;
    ck_assert_int_eq(arena_attach(a.fd, &b), -EINVAL);
    a.h->sizes.pages--;
    a.h->data_at += 4096;
    ck_assert_int_eq(arena_attach(a.fd, &b), -EINVAL);
    a.h->data_at -= 4096;
    a.h->init_bytes = ARENA_INIT_BYTES + 1;
    ck_assert_int_eq(arena_attach(a.fd, &b), -EINVAL);
    a.h->init_bytes = 0;
    a.h->magic++;
    ck_assert_int_eq(arena_attach(a.fd, &b), -EINVAL);
    a.h->magic--;
    ck_assert_int_eq(arena_attach(a.fd, &b), 0);
    arena_detach(&b);
    ck_assert_int_eq(ftruncate(a.fd, 100), 0);
    ck_assert_int_eq(arena_attach(a.fd, &b), -EINVAL);
    ck_assert_int_eq(arena_attach(-1, &b), -EBADF);
    close(a.fd);
}
END_TEST

START_TEST(options_are_found_replaced_and_bounded)
{
    struct arena a;
    char out[64], big[ARENA_OPTIONS_BYTES];
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    ck_assert_int_eq(arena_set_option(&a, "path", "/x=y"), 0);
    ck_assert_int_eq(arena_set_option(&a, "pat", "short"), 0);
    ck_assert_int_eq(arena_set_option(&a, "path", "/z"), 0);
    ck_assert_str_eq(arena_option(&a, "path", out, sizeof out), "/z");
    ck_assert_str_eq(arena_option(&a, "pat", out, sizeof out), "short");
    ck_assert_ptr_null(arena_option(&a, "pa", out, sizeof out));
    ck_assert_ptr_null(arena_option(&a, "pat", out, 5));
    ck_assert_int_eq(arena_set_option(&a, "k", "a\nb"), -EINVAL);
    ck_assert_int_eq(arena_set_option(&a, "k=", "a"), -EINVAL);
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    ck_assert_int_eq(arena_set_option(&a, "k", big), -ENOSPC);
    ck_assert_str_eq(arena_option(&a, "path", out, sizeof out), "/z");
    close(a.fd);
    arena_detach(&a);
}
END_TEST

/* Runs three publishes in a child that is told to die at side `at`; what the arena then holds. */
static uint32_t published_by_dying_child(struct arena *a, const char *at)
{
    a->small[0].state = 0;
    pid_t pid = fork();
    if (pid == 0) {
        setenv("CFS_DIE_AT", at, 1);
        for (uint32_t i = 1; i <= 3; i++) {
            arena_publish32(&a->small[0].state, i);
        }
        _exit(0);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(WIFSIGNALED(status), at[0] != '7');
    return a->small[0].state;
}

START_TEST(a_last_option_without_line_break_is_replaced_like_others)
{
    struct arena a;
    char value[16];
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    for (int i = 0; i < 2; i++) { /* the last one itself, and the one before it */
        memset(a.h->options, 0, sizeof a.h->options);
        memcpy(a.h->options, "a=1\nb=2", 7);
        ck_assert_int_eq(arena_set_option(&a, i == 0 ? "b" : "a", "33"), 0);
        ck_assert_str_eq(a.h->options, i == 0 ? "a=1\nb=33\n" : "b=2\na=33\n");
        ck_assert_str_eq(arena_option(&a, "b", value, sizeof value), i == 0 ? "33" : "2");
    }
    arena_detach(&a);
}
END_TEST

START_TEST(die_at_kills_before_and_after_each_publish_by_turns)
{
    struct arena a;
    ck_assert_int_eq(arena_create(&TINY, &a), 0);
    ck_assert_uint_eq(published_by_dying_child(&a, "1"), 0);
    ck_assert_uint_eq(published_by_dying_child(&a, "2"), 1);
    ck_assert_uint_eq(published_by_dying_child(&a, "3"), 1);
    ck_assert_uint_eq(published_by_dying_child(&a, "6"), 3);
    ck_assert_uint_eq(published_by_dying_child(&a, "7"), 3);
    close(a.fd);
    arena_detach(&a);
}
END_TEST

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    Suite *suite = suite_create("arena");
    TCase *tc = tcase_create("arena");
    /* The dying children come first: the parent must not have asked the environment yet. */
    tcase_add_test(tc, die_at_kills_before_and_after_each_publish_by_turns);
    tcase_add_test(tc, plan_stays_below_every_limit_and_uses_most_of_it);
    tcase_add_test(tc, plan_refuses_less_than_64_mib);
    tcase_add_test(tc, second_mapping_sees_what_the_first_published);
    tcase_add_test(tc, write_payload_begins_on_a_page);
    tcase_add_test(tc, every_field_has_its_place);
    tcase_add_test(tc, every_table_has_its_place);
    tcase_add_test(tc, attach_refuses_what_is_no_arena);
    tcase_add_test(tc, options_are_found_replaced_and_bounded);
    tcase_add_test(tc, a_last_option_without_line_break_is_replaced_like_others);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
