#include <check.h>
#include <stdint.h>
#include <string.h>

#include "rpc/databuf.h"

static void on_free(void *ctx)
{
    (*(unsigned *)ctx)++;
}

START_TEST(pool_is_bounded_and_tells_when_one_is_back)
{
    unsigned told = 0, other = 0;
    struct databuf_pool *p = databuf_pool_new(5000, 2);
    databuf_pool_on_free(p, on_free, &told);
    databuf_pool_on_free(p, on_free, &other);
    databuf_pool_on_free(p, NULL, &other);
    struct databuf *a = databuf_get(p), *b = databuf_get(p);
    ck_assert_ptr_nonnull(a);
    ck_assert_ptr_nonnull(b);
    ck_assert_uint_eq(databuf_pool_left(p), 0);
    databuf_unref(a);
    ck_assert_uint_eq(told, 0); /* nobody was refused */
    a = databuf_get(p);
    ck_assert_ptr_null(databuf_get(p));
    databuf_unref(b);
    ck_assert_uint_eq(told, 1);
    ck_assert_uint_eq(other, 0);
    databuf_unref(a);
    ck_assert_uint_eq(told, 1);
    databuf_unref(NULL);
    databuf_pool_free(p);
}
END_TEST

START_TEST(buffers_are_aligned_apart_and_writable)
{
    struct databuf *b[8];
    struct databuf_pool *p = databuf_pool_new(5000, 8);
    for (unsigned i = 0; i < 8; i++) {
        b[i] = databuf_get(p);
        ck_assert_uint_eq((uintptr_t)b[i]->data % 4096, 0);
        ck_assert_uint_eq(b[i]->cap, 8192);
        ck_assert_uint_eq(b[i]->len, 0);
        memset(b[i]->data, (int)i, b[i]->cap);
    }
    for (unsigned i = 0; i < 8; i++) {
        ck_assert_uint_eq(b[i]->data[0], i);
        ck_assert_uint_eq(b[i]->data[8191], i);
        databuf_unref(b[i]);
    }
    databuf_pool_free(p);
}
END_TEST

START_TEST(last_reference_gives_back_and_the_warm_one_comes_first)
{
    struct databuf_pool *p = databuf_pool_new(4096, 3);
    struct databuf *a = databuf_get(p);
    databuf_ref(a);
    databuf_unref(a);
    ck_assert_uint_eq(databuf_pool_left(p), 2);
    a->len = 7;
    databuf_unref(a);
    ck_assert_uint_eq(databuf_pool_left(p), 3);
    struct databuf *again = databuf_get(p);
    ck_assert_ptr_eq(again, a);
    ck_assert_uint_eq(again->len, 0);
    databuf_unref(again);
    databuf_pool_free(p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("databuf");
    TCase *t = tcase_create("databuf");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, pool_is_bounded_and_tells_when_one_is_back);
    tcase_add_test(t, buffers_are_aligned_apart_and_writable);
    tcase_add_test(t, last_reference_gives_back_and_the_warm_one_comes_first);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
