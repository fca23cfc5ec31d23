#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"
#include "fuse/itable.h"
#include "meta.pb-c.h"

static struct client client;

static struct inode *take(struct itable *t, uint64_t ino, uint64_t size, uint64_t change,
                          uint32_t flags)
{
    Cfs__Attr a = CFS__ATTR__INIT;
    a.ino = ino;
    a.mode = S_IFREG | 0644;
    a.nlink = 1;
    a.size = size;
    a.allocated = 4096;
    a.mtime = -1500000000; /* before 1970 */
    a.change = change;
    a.flags = flags;
    return itable_take_attr(t, &a);
}

START_TEST(an_older_answer_does_not_replace_a_newer_one)
{
    struct itable *t = itable_new(&client, 1 << 20);
    take(t, 5, 100, 7, 0);
    struct inode *in = take(t, 5, 50, 6, 0);
    ck_assert_int_eq(in->st.st_size, 100);
    take(t, 5, 200, 8, 0);
    ck_assert_int_eq(in->st.st_size, 200);
    ck_assert_int_eq(in->st.st_mtim.tv_sec, -2);
    ck_assert_int_eq(in->st.st_mtim.tv_nsec, 500000000);
    ck_assert_int_eq(in->st.st_blocks, 8);
    itable_free(t);
}
END_TEST

START_TEST(content_goes_when_the_file_has_changed)
{
    struct itable *t = itable_new(&client, 1 << 20);
    struct inode *in = take(t, 5, 3, 1, 1);
    itable_take_content(in, BYTES("abc", 3));
    take(t, 5, 3, 1, 1);
    ck_assert(in->content_valid);
    take(t, 5, 3, 2, 1);
    ck_assert(!in->content_valid);
    itable_free(t);
}
END_TEST

/* An open file stays, but what is known of its extents can be asked for again. */
START_TEST(extents_of_open_files_are_bounded_too)
{
    struct itable *t = itable_new(&client, 256 << 10);
    for (uint64_t ino = 1; ino <= 100; ino++) {
        struct inode *in = take(t, ino, 1 << 20, 1, 0);
        Cfs__ExtentsReply nothing = CFS__EXTENTS_REPLY__INIT;
        nothing.covered_to = UINT64_MAX;
        in->opens = 1;
        itable_take_extents(t, in, 0, &nothing);
        for (uint64_t i = 0; i < 200; i++) {
            const struct iextent e = {.offset = i * 8192, .length = 4096, .kind = 2};
            itable_put_extent(in, &e);
        }
    }
    ck_assert_uint_lt(itable_memory(t), 512 << 10);
    ck_assert(itable_find(t, 1)->attr_valid);
    struct inode *last = itable_find(t, 100);
    ck_assert_uint_eq(last->n_extents, 200);
    itable_free(t);
}
END_TEST

START_TEST(what_the_arena_adds_lies_on_top)
{
    struct itable *t = itable_new(&client, 1 << 20);
    struct inode *in = take(t, 5, 100, 1, 0);
    in->st.st_mode = S_IFREG | S_ISUID | S_ISGID | 0755;
    struct arena_inode dirty = {.ino = 5,
                                .size = 300,
                                .mtime = 1700000000000000001,
                                .flags =
                                    ARENA_INODE_SIZE | ARENA_INODE_MTIME | ARENA_INODE_KILL_PRIV};
    in->dirty = &dirty;
    struct stat st;
    ck_assert(itable_stat(t, in, &st));
    ck_assert_int_eq(st.st_size, 300);
    ck_assert_int_eq(st.st_mtim.tv_nsec, 1);
    ck_assert_int_eq(st.st_ctim.tv_sec, 1700000000);
    ck_assert_uint_eq(st.st_mode, S_IFREG | 0755);
    ck_assert_uint_eq(itable_size(in), 300);
    in->dirty = NULL;
    ck_assert_uint_eq(itable_size(in), 100);
    itable_free(t);
}
END_TEST

START_TEST(memory_is_bounded_and_what_is_used_stays)
{
    struct itable *t = itable_new(&client, 100000);
    struct inode *open = take(t, 1, 0, 1, 0);
    open->opens = 1;
    struct inode *pinned = take(t, 2, 0, 1, 0);
    pinned->pins = 1;
    for (uint64_t ino = 10; ino < 5000; ino++) {
        take(t, ino, 0, 1, 0);
    }
    ck_assert_uint_lt(itable_memory(t), 130000);
    ck_assert_ptr_eq(itable_find(t, 1), open);
    ck_assert_ptr_eq(itable_find(t, 2), pinned);
    ck_assert_ptr_null(itable_find(t, 10));
    itable_free(t);
}
END_TEST

START_TEST(forget_drops_what_nobody_uses)
{
    struct itable *t = itable_new(&client, 1 << 20);
    struct inode *in = take(t, 5, 3, 1, 1);
    in->opens = 1;
    itable_forget(t, 5);
    ck_assert_ptr_eq(itable_find(t, 5), in);
    ck_assert(!in->attr_valid);
    in->opens = 0;
    itable_forget(t, 5);
    ck_assert_ptr_null(itable_find(t, 5));
    itable_forget(t, 6);
    itable_free(t);
}
END_TEST

static struct iextent extent(uint64_t offset, uint64_t length, uint64_t stripe)
{
    return (struct iextent){.offset = offset,
                            .length = length,
                            .kind = 1,
                            .code_kind = 1,
                            .k = 4,
                            .m = 2,
                            .stripe = stripe,
                            .stripe_length = 4 << 20};
}

/* An empty answer: everything up to `to` is known to be a hole. */
static void know(struct itable *t, struct inode *in, uint64_t to)
{
    Cfs__ExtentsReply r = CFS__EXTENTS_REPLY__INIT;
    r.covered_to = to;
    itable_take_extents(t, in, 0, &r);
}

/* Against a map byte -> (stripe, place in stripe). */
START_TEST(random_commits_keep_the_cache_true)
{
    enum { SPAN = 500 };
    struct prng p;
    prng_seed(&p, 1);
    for (unsigned round = 0; round < 20; round++) {
        struct itable *t = itable_new(&client, 1 << 20);
        struct inode *in = take(t, 5, SPAN, 1, 0);
        uint64_t stripe[SPAN] = {0}, at[SPAN] = {0};
        know(t, in, SPAN);
        for (uint64_t id = 1; id < 200; id++) {
            const uint64_t offset = prng_below(&p, SPAN - 1),
                           length = 1 + prng_below(&p, (SPAN - offset) / 2 + 1);
            struct iextent e = extent(offset, offset + length > SPAN ? SPAN - offset : length, id);
            e.stripe_offset = prng_below(&p, 100);
            itable_put_extent(in, &e);
            for (uint64_t i = 0; i < e.length; i++) {
                stripe[offset + i] = id;
                at[offset + i] = e.stripe_offset + i;
            }
            uint64_t last = 0;
            for (unsigned i = 0; i < in->n_extents; i++) {
                ck_assert_uint_ge(in->extent[i].offset, last);
                last = in->extent[i].offset + in->extent[i].length;
            }
            for (uint64_t i = 0; i < SPAN; i++) {
                const unsigned n = itable_extent_at(in, i);
                const bool there = n < in->n_extents && in->extent[n].offset <= i;
                ck_assert_uint_eq(there ? in->extent[n].stripe : 0, stripe[i]);
                ck_assert(!there ||
                          in->extent[n].stripe_offset + (i - in->extent[n].offset) == at[i]);
            }
        }
        itable_free(t);
    }
}
END_TEST

START_TEST(a_commit_beyond_what_is_known_is_not_taken_for_all)
{
    struct itable *t = itable_new(&client, 1 << 20);
    struct inode *in = take(t, 5, 1000, 1, 0);
    const uint32_t layout = in->layout;
    struct iextent e = extent(500, 10, 1);
    itable_put_extent(in, &e);
    ck_assert_uint_eq(in->n_extents, 0);
    ck_assert_uint_ne(in->layout, layout); /* a fetch under way is void */
    know(t, in, 100);
    itable_put_extent(in, &e);
    ck_assert_uint_eq(in->n_extents, 0);
    e = extent(100, 50, 2);
    itable_put_extent(in, &e);
    ck_assert_uint_eq(in->n_extents, 1);
    ck_assert_uint_eq(in->extents_to, 150);
    itable_drop_extents(in);
    ck_assert_uint_eq(in->extents_to, 0);
    itable_free(t);
}
END_TEST

START_TEST(extents_that_make_no_sense_are_not_known)
{
    struct itable *t = itable_new(&client, 1 << 20);
    struct inode *in = take(t, 5, 1000, 1, 0);
    Cfs__ExtentsReply r = CFS__EXTENTS_REPLY__INIT;
    Cfs__Extent a = CFS__EXTENT__INIT, b = CFS__EXTENT__INIT, *list[2] = {&a, &b};
    Cfs__Stripe s = CFS__STRIPE__INIT, *stripes[1] = {&s};
    s.pg = 1;
    s.id = 9;
    s.kind = 1;
    s.k = 4;
    s.m = 2;
    s.length = 300;
    a.offset = 0;
    a.length = b.length = 200;
    a.kind = b.kind = 1;
    a.has_pg = b.has_pg = a.has_stripe = b.has_stripe = true;
    a.pg = b.pg = 1;
    a.stripe = 9;
    b.offset = 400;
    b.stripe = 10; /* not in the answer */
    r.n_extent = 2;
    r.extent = list;
    r.n_stripe = 1;
    r.stripe = stripes;
    r.covered_to = 1000;
    itable_take_extents(t, in, 0, &r);
    ck_assert_uint_eq(in->n_extents, 1);
    ck_assert_uint_eq(in->extents_to, 400);
    b.stripe = 9;
    b.has_stripe_offset = true;
    b.stripe_offset = 150; /* beyond its stripe */
    itable_take_extents(t, in, 0, &r);
    ck_assert_uint_eq(in->extents_to, 400);
    b.offset = 1ull << 40; /* and beyond what is said at all */
    itable_take_extents(t, in, 0, &r);
    ck_assert_uint_eq(in->extents_to, 1000);
    b.offset = 400;
    b.stripe_offset = 100;
    itable_take_extents(t, in, 0, &r);
    ck_assert_uint_eq(in->n_extents, 2);
    ck_assert_uint_eq(in->extents_to, 1000);
    itable_free(t);
}
END_TEST

/* Each of them is looked for among the stripes: the worker would stand still for minutes. */
START_TEST(more_extents_than_anybody_asks_for_are_not_taken)
{
    enum { MANY = 150000 };
    struct itable *t = itable_new(&client, 1 << 20);
    struct inode *in = take(t, 5, 1000, 1, 0);
    Cfs__ExtentsReply r = CFS__EXTENTS_REPLY__INIT;
    Cfs__Extent e = CFS__EXTENT__INIT, **list = calloc(MANY, sizeof *list);
    Cfs__Stripe s = CFS__STRIPE__INIT, **stripes = calloc(MANY, sizeof *stripes);
    e.length = 1;
    e.kind = 2;
    for (unsigned i = 0; i < MANY; i++) {
        list[i] = &e;
        stripes[i] = &s;
    }
    r.n_extent = MANY;
    r.extent = list;
    r.stripe = stripes;
    r.covered_to = 1000;
    itable_take_extents(t, in, 0, &r);
    ck_assert_uint_eq(in->extents_to, 0);
    r.n_extent = 1;
    r.n_stripe = MANY;
    itable_take_extents(t, in, 0, &r);
    ck_assert_uint_eq(in->extents_to, 0);
    r.n_stripe = 1;
    itable_take_extents(t, in, 0, &r);
    ck_assert_uint_eq(in->extents_to, 1000);
    itable_free(t);
    free(list);
    free(stripes);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("itable");
    TCase *t = tcase_create("itable");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, an_older_answer_does_not_replace_a_newer_one);
    tcase_add_test(t, content_goes_when_the_file_has_changed);
    tcase_add_test(t, extents_of_open_files_are_bounded_too);
    tcase_add_test(t, what_the_arena_adds_lies_on_top);
    tcase_add_test(t, memory_is_bounded_and_what_is_used_stays);
    tcase_add_test(t, forget_drops_what_nobody_uses);
    tcase_add_test(t, random_commits_keep_the_cache_true);
    tcase_add_test(t, a_commit_beyond_what_is_known_is_not_taken_for_all);
    tcase_add_test(t, extents_that_make_no_sense_are_not_known);
    tcase_add_test(t, more_extents_than_anybody_asks_for_are_not_taken);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
