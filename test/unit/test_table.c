#include <check.h>
#include <stdlib.h>

#include "base/prng.h"
#include "base/table.h"

enum { N = 3000 };
struct member {
    struct table_node node;
    uint64_t key;
    bool in, seen;
};

static struct member *find(const struct table *t, uint64_t key, uint64_t hash)
{
    for (struct table_node *n = table_find(t, hash); n != NULL; n = table_next_same(n)) {
        struct member *m = container_of(n, struct member, node);
        if (m->key == key) {
            return m;
        }
    }
    return NULL;
}

START_TEST(table_agrees_with_an_array)
{
    struct table t;
    struct prng p;
    static struct member m[N];
    table_init(&t);
    prng_seed(&p, 9);
    size_t n = 0;
    for (unsigned round = 0; round < 20 * N; round++) {
        unsigned i = (unsigned)prng_below(&p, N);
        m[i].key = i;
        if (m[i].in) {
            table_remove(&t, &m[i].node);
            n--;
        } else {
            table_add(&t, &m[i].node, table_mix(i));
            n++;
        }
        m[i].in = !m[i].in;
        ck_assert_uint_eq(t.n, n);
        ck_assert_ptr_eq(find(&t, i, table_mix(i)), m[i].in ? &m[i] : NULL);
    }
    table_release(&t);
}
END_TEST

START_TEST(members_of_equal_hash_are_all_found)
{
    struct table t;
    static struct member m[100];
    table_init(&t);
    for (unsigned i = 0; i < 100; i++) {
        m[i].key = i;
        table_add(&t, &m[i].node, i % 3);
    }
    for (unsigned i = 0; i < 100; i++) {
        ck_assert_ptr_eq(find(&t, i, i % 3), &m[i]);
        ck_assert_ptr_null(find(&t, i, (i + 1) % 3));
    }
    table_release(&t);
}
END_TEST

static void visit(struct table_node *node, void *ctx)
{
    struct member *m = container_of(node, struct member, node);
    ck_assert(!m->seen);
    m->seen = true;
    if (m->key % 2 == 0) {
        table_remove(ctx, node);
    }
}

START_TEST(walk_sees_each_once_and_may_remove)
{
    struct table t;
    static struct member m[N];
    table_init(&t);
    ck_assert_ptr_null(table_find(&t, 1));
    for (unsigned i = 0; i < N; i++) {
        m[i] = (struct member){.key = i};
        table_add(&t, &m[i].node, table_mix(i));
    }
    table_walk(&t, visit, &t);
    for (unsigned i = 0; i < N; i++) {
        ck_assert(m[i].seen);
    }
    ck_assert_uint_eq(t.n, N / 2);
    table_release(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("table");
    TCase *t = tcase_create("table");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, table_agrees_with_an_array);
    tcase_add_test(t, members_of_equal_hash_are_all_found);
    tcase_add_test(t, walk_sees_each_once_and_may_remove);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
