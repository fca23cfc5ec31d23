#include "store/kv.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/prng.h"
#include "store/kv_leveldb.h"
#include "test/lib/kv_mem.h"

/* Both sides of the seam keep the same promises: each test of the first group runs on both. */
static char *dir;

static struct kv *open_kv(int side)
{
    if (side == 0) {
        return kv_mem_new();
    }
    char template[] = "/tmp/cfs-test-kv-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(template));
    dir = xstrdup(template);
    struct kv *kv = NULL;
    struct kv_leveldb_options o = {.write_buffer_bytes = 1 << 16, .create = true};
    ck_assert_int_eq(kv_leveldb_open(dir, &o, &kv), 0);
    return kv;
}

static void close_kv(struct kv *kv)
{
    kv->ops->close(kv);
    if (dir != NULL) {
        char *command = xasprintf("rm -rf %s", dir);
        ck_assert_int_eq(system(command), 0);
        free(command);
        free(dir);
        dir = NULL;
    }
}

static struct bytes text(const char *s)
{
    return BYTES(s, strlen(s));
}

static void put(struct kv *kv, const char *key, const char *value)
{
    struct kv_batch b;
    kv_batch_init(&b);
    if (value != NULL) {
        kv_batch_put(&b, text(key), text(value));
    } else {
        kv_batch_delete(&b, text(key));
    }
    ck_assert_int_eq(kv_write(kv, &b, false), 0);
    kv_batch_release(&b);
}

static void assert_value(struct kv *kv, struct kv_snapshot *at, const char *key, const char *value)
{
    struct buf out;
    buf_init(&out);
    int rc = kv->ops->get(kv, at, text(key), &out);
    if (value == NULL) {
        ck_assert_int_eq(rc, ERR_NOT_FOUND);
    } else {
        ck_assert_int_eq(rc, 0);
        ck_assert(bytes_equal(buf_bytes(&out), text(value)));
    }
    buf_release(&out);
}

START_TEST(last_write_of_a_batch_counts)
{
    struct kv *kv = open_kv(_i);
    struct kv_batch b;
    kv_batch_init(&b);
    kv_batch_put(&b, text("a"), text("1"));
    kv_batch_put(&b, text("b"), text(""));
    kv_batch_delete(&b, text("b"));
    kv_batch_put(&b, text("a"), text("2"));
    kv_batch_put(&b, text("c"), text(""));
    ck_assert_int_eq(kv_write(kv, &b, true), 0);
    kv_batch_release(&b);
    assert_value(kv, NULL, "a", "2");
    assert_value(kv, NULL, "b", NULL);
    assert_value(kv, NULL, "c", "");
    ck_assert_int_eq(kv->ops->sync(kv), 0);
    close_kv(kv);
}
END_TEST

START_TEST(iteration_is_bytewise_and_skips_deleted)
{
    struct kv *kv = open_kv(_i);
    put(kv, "b", "1");
    put(kv, "a\xff", "2");
    put(kv, "a", "3");
    put(kv, "aa", "4");
    put(kv, "aa", NULL);
    struct kv_iter *it = kv->ops->iter(kv, NULL);
    put(kv, "ab", "late");
    static const char *const order[] = {"a", "a\xff", "b"};
    it->ops->iter_seek(it, text(""));
    for (unsigned i = 0; i < 3; i++, it->ops->iter_next(it)) {
        ck_assert(it->ops->iter_valid(it));
        ck_assert(bytes_equal(it->ops->iter_key(it), text(order[i])));
    }
    ck_assert(!it->ops->iter_valid(it));
    ck_assert_int_eq(it->ops->iter_error(it), 0);
    it->ops->iter_seek(it, text("aa"));
    ck_assert(bytes_equal(it->ops->iter_value(it), text("2")));
    it->ops->iter_free(it);
    close_kv(kv);
}
END_TEST

START_TEST(snapshot_stays_while_the_store_changes)
{
    struct kv *kv = open_kv(_i);
    put(kv, "k", "old");
    put(kv, "gone", "here");
    struct kv_snapshot *s = kv->ops->snapshot(kv);
    put(kv, "k", "new");
    put(kv, "gone", NULL);
    put(kv, "added", "x");
    ck_assert_int_eq(kv->ops->sync(kv), 0);
    assert_value(kv, s, "k", "old");
    assert_value(kv, s, "gone", "here");
    assert_value(kv, s, "added", NULL);
    assert_value(kv, NULL, "k", "new");
    kv->ops->snapshot_free(kv, s);
    close_kv(kv);
}
END_TEST

/* Against a plain array: random puts, deletes, syncs and full scans. */
START_TEST(random_operations_match_a_plain_array)
{
    struct kv *kv = open_kv(_i);
    struct prng prng;
    prng_seed(&prng, 7);
    int model[64];
    memset(model, -1, sizeof model);
    for (int step = 0; step < 20000; step++) {
        char key[8], value[16];
        unsigned k = (unsigned)prng_below(&prng, 64);
        snprintf(key, sizeof key, "%02u", k);
        snprintf(value, sizeof value, "%d", step);
        bool del = prng_below(&prng, 3) == 0;
        put(kv, key, del ? NULL : value);
        model[k] = del ? -1 : step;
        if (step % 997 == 0) {
            ck_assert_int_eq(kv->ops->sync(kv), 0);
        }
    }
    struct kv_iter *it = kv->ops->iter(kv, NULL);
    it->ops->iter_seek(it, text(""));
    for (unsigned k = 0; k < 64; k++) {
        if (model[k] >= 0) {
            ck_assert(it->ops->iter_valid(it));
            struct bytes v = it->ops->iter_value(it);
            char *value = xasprintf("%.*s", (int)v.len, (const char *)v.data);
            ck_assert_int_eq(atoi(value), model[k]);
            free(value);
            it->ops->iter_next(it);
        }
    }
    ck_assert(!it->ops->iter_valid(it));
    it->ops->iter_free(it);
    struct kv_stats stats;
    kv->ops->stats(kv, &stats);
    ck_assert_uint_gt(stats.memory_bytes, 0);
    close_kv(kv);
}
END_TEST

START_TEST(leveldb_keeps_data_over_reopen_and_locks_its_directory)
{
    struct kv *kv = open_kv(1);
    put(kv, "k", "v");
    struct kv *second = NULL;
    struct kv_leveldb_options o = {.create = false};
    ck_assert_int_eq(kv_leveldb_open(dir, &o, &second), ERR_BUSY);
    kv->ops->close(kv);
    ck_assert_int_eq(kv_leveldb_open(dir, &o, &kv), 0);
    assert_value(kv, NULL, "k", "v");
    close_kv(kv);
    ck_assert_int_eq(kv_leveldb_open("/tmp/cfs-test-kv-absent", &o, &kv), -ENOENT);
}
END_TEST

/* ---- what a power cut leaves of LevelDB's log -------------------------------------------------------- */

enum { LOG_ROWS = 2000, LOG_HURT_BYTES = 4096 };

static void run(const char *format, const char *a, const char *b)
{
    char *command = xasprintf(format, a, b);
    ck_assert_int_eq(system(command), 0);
    free(command);
}

/* Overwrites bytes of the newest log in a directory of LevelDB. */
static void hurt_log(const char *where, long at, int byte)
{
    char *command = xasprintf("ls %s/*.log | tail -n 1", where);
    FILE *p = popen(command, "r");
    char name[PATH_MAX] = "";
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_nonnull(fgets(name, sizeof name, p));
    ck_assert_int_eq(pclose(p), 0);
    free(command);
    name[strcspn(name, "\n")] = '\0';
    FILE *f = fopen(name, "r+");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
    for (int i = 0; i < LOG_HURT_BYTES; i++) {
        ck_assert_int_eq(fputc(byte, f), byte);
    }
    ck_assert_int_eq(fclose(f), 0);
}

static void put_numbers(struct kv *kv, int from, int n)
{
    char key[16], value[200];
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    for (int i = from; i < from + n; i++) {
        snprintf(key, sizeof key, "%06d", i);
        put(kv, key, value);
    }
}

/* How many rows from 000000 on are there; none may follow a missing one. */
static int count_prefix(struct kv *kv)
{
    int n = 0;
    struct kv_iter *it = kv->ops->iter(kv, NULL);
    for (it->ops->iter_seek(it, text("")); it->ops->iter_valid(it); it->ops->iter_next(it), n++) {
        char key[16];
        snprintf(key, sizeof key, "%06d", n);
        ck_assert(bytes_equal(it->ops->iter_key(it), text(key)));
    }
    ck_assert_int_eq(it->ops->iter_error(it), 0);
    it->ops->iter_free(it);
    return n;
}

/* A page of the log that was not written back, or was written in part, with later ones behind it: an
 * earlier batch must not be lost and a later one kept. */
START_TEST(leveldb_keeps_a_prefix_of_its_batches_over_a_power_cut)
{
    static const long places[] = {0, 100, 32768 - 4096, 32768, 5 * 32768 + 8192, 7 * 32768 + 11};
    const int byte = _i % 2 == 0 ? 0 : 0x5a;
    struct kv *kv = NULL, *left = NULL;
    char template[] = "/tmp/cfs-test-kv-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(template));
    char *live = xasprintf("%s/live", template), *copy = xasprintf("%s/copy", template);
    struct kv_leveldb_options o = {.write_buffer_bytes = 4 << 20, .create = true};
    ck_assert_int_eq(kv_leveldb_open(live, &o, &kv), 0);
    put_numbers(kv, 0, LOG_ROWS);
    run("cp -r %s %s", live, copy); /* as the disk is when the power goes */
    hurt_log(copy, places[_i / 2], byte);
    ck_assert_int_eq(kv_leveldb_open(copy, &o, &left), 0);
    const int n = count_prefix(left);
    ck_assert_int_lt(n, LOG_ROWS);
    ck_assert_int_ge(n, (int)(places[_i / 2] / 250));
    put_numbers(left, n, 10); /* and it goes on from there */
    left->ops->close(left);
    ck_assert_int_eq(kv_leveldb_open(copy, &o, &left), 0);
    ck_assert_int_eq(count_prefix(left), n + 10);
    left->ops->close(left);
    kv->ops->close(kv);
    run("rm -rf %s%s", template, "");
    free(live);
    free(copy);
}
END_TEST

/* Damage in a log that another one followed is none that a power cut makes: it had been synced. */
START_TEST(leveldb_refuses_a_damaged_log_before_the_newest)
{
    struct kv *kv = NULL, *left = NULL;
    char template[] = "/tmp/cfs-test-kv-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(template));
    char *live = xasprintf("%s/live", template), *copy = xasprintf("%s/copy", template);
    struct kv_leveldb_options o = {.write_buffer_bytes = 4 << 20, .create = true};
    ck_assert_int_eq(kv_leveldb_open(live, &o, &kv), 0);
    put_numbers(kv, 0, LOG_ROWS);
    run("cp -r %s %s", live, copy);
    run("cp %s/*.log %s/000099.log", live, copy);
    ck_assert_int_eq(kv_leveldb_open(copy, &o, &left), 0);
    ck_assert_int_eq(count_prefix(left), LOG_ROWS);
    left->ops->close(left);
    run("rm -rf %s%s", copy, "");
    run("cp -r %s %s", live, copy);
    hurt_log(copy, 40000, 0);
    run("cp %s/*.log %s/000099.log", live, copy);
    ck_assert_int_eq(kv_leveldb_open(copy, &o, &left), ERR_CORRUPT);
    kv->ops->close(kv);
    run("rm -rf %s%s", template, "");
    free(live);
    free(copy);
}
END_TEST

START_TEST(crash_loses_the_unsynced_tail_only)
{
    for (unsigned keep = 0; keep < 4; keep++) {
        struct kv *kv = kv_mem_new();
        put(kv, "a", "1");
        ck_assert_int_eq(kv->ops->sync(kv), 0);
        put(kv, "a", "2");
        put(kv, "a", NULL);
        put(kv, "b", "3");
        ck_assert_uint_eq(kv_mem_unsynced(kv), 3);
        kv_mem_crash(kv, keep);
        static const char *const a[] = {"1", "2", NULL, NULL};
        assert_value(kv, NULL, "a", a[keep]);
        assert_value(kv, NULL, "b", keep == 3 ? "3" : NULL);
        close_kv(kv);
    }
}
END_TEST

START_TEST(armed_fault_fails_that_call_and_all_after)
{
    struct kv *kv = kv_mem_new();
    kv_mem_fail_at(kv, 1);
    put(kv, "a", "1");
    ck_assert(!kv_mem_failed(kv));
    ck_assert_int_eq(kv->ops->sync(kv), -EIO);
    ck_assert_int_eq(kv->ops->sync(kv), -EIO);
    ck_assert(kv_mem_failed(kv));
    kv_mem_crash(kv, 0);
    assert_value(kv, NULL, "a", NULL);
    put(kv, "a", "2");
    close_kv(kv);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kv");
    TCase *both = tcase_create("both sides");
    tcase_add_loop_test(both, last_write_of_a_batch_counts, 0, 2);
    tcase_add_loop_test(both, iteration_is_bytewise_and_skips_deleted, 0, 2);
    tcase_add_loop_test(both, snapshot_stays_while_the_store_changes, 0, 2);
    tcase_add_loop_test(both, random_operations_match_a_plain_array, 0, 2);
    suite_add_tcase(s, both);
    TCase *each = tcase_create("each side");
    tcase_add_test(each, leveldb_keeps_data_over_reopen_and_locks_its_directory);
    tcase_add_loop_test(each, leveldb_keeps_a_prefix_of_its_batches_over_a_power_cut, 0, 12);
    tcase_add_test(each, leveldb_refuses_a_damaged_log_before_the_newest);
    tcase_add_test(each, crash_loses_the_unsynced_tail_only);
    tcase_add_test(each, armed_fault_fails_that_call_and_all_after);
    suite_add_tcase(s, each);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
