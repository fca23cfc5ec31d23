#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "proto/methods.h"
#include "test/lib/fsm_world.h"
#include "test/lib/kv_mem.h"

static struct fsm_world w;

static void begin(void)
{
    fsm_world_init(&w);
}

static void end(void)
{
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    fsm_world_release(&w);
}

START_TEST(a_file_made_is_found_with_its_attributes)
{
    uint64_t ino = fsm_world_create(&w, 1, "file");
    int rc;
    Cfs__LookupReply *r = fsm_world_lookup(&w, 1, "file", &rc);
    ck_assert_int_eq(rc, 0);
    ck_assert_uint_eq(r->attr->ino, ino);
    ck_assert_uint_eq(r->attr->mode, S_IFREG | 0644);
    ck_assert_uint_eq(r->attr->nlink, 1);
    ck_assert_int_eq(r->attr->mtime, (int64_t)w.now_ns);
    cfs__lookup_reply__free_unpacked(r, NULL);
}
END_TEST

START_TEST(an_absent_name_is_ENOENT)
{
    int rc;
    ck_assert_ptr_null(fsm_world_lookup(&w, 1, "nothing", &rc));
    ck_assert_int_eq(rc, -ENOENT);
}
END_TEST

START_TEST(inline_content_comes_with_the_lookup)
{
    uint64_t ino = fsm_world_create(&w, 1, "file");
    ck_assert_int_eq(fsm_world_inline(&w, ino, "hello"), 0);
    int rc;
    Cfs__LookupReply *r = fsm_world_lookup(&w, 1, "file", &rc);
    ck_assert(r->has_content);
    ck_assert_uint_eq(r->content.len, 5);
    ck_assert_uint_eq(r->attr->size, 5);
    cfs__lookup_reply__free_unpacked(r, NULL);
}
END_TEST

START_TEST(a_write_commits_extents_and_a_lookup_shows_them)
{
    uint64_t ino = fsm_world_create(&w, 1, "file");
    ck_assert_int_eq(fsm_world_write(&w, ino, 0, 1 << 20), 0);
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(&w, ino, &rc);
    ck_assert_ptr_nonnull(r->extents);
    ck_assert_uint_eq(r->extents->n_extent, 1);
    ck_assert_uint_eq(r->extents->n_stripe, 1);
    ck_assert_uint_eq(r->attr->size, 1 << 20);
    ck_assert_uint_eq(r->attr->allocated, 1 << 20);
    cfs__lookup_reply__free_unpacked(r, NULL);
}
END_TEST

START_TEST(an_unlinked_file_leaves_garbage_ids)
{
    uint64_t ino = fsm_world_create(&w, 1, "file");
    ck_assert_int_eq(fsm_world_write(&w, ino, 0, 1 << 20), 0);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "file", false), 0);
    ck_assert(w.fx.garbage_pending);
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    ck_assert_uint_eq(c->garbage_ids, 1);
    ck_assert_uint_eq(c->stripes, 0);
    ck_assert_uint_eq(c->inodes, 1);
    ck_assert_uint_eq(c->user_bytes, 0);
    cfs__fsm_counters__free_unpacked(c, NULL);
}
END_TEST

START_TEST(readdir_tells_every_name_once_over_many_replies)
{
    for (int i = 0; i < 500; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        fsm_world_create(&w, 1, name);
    }
    bool seen[500] = {false};
    uint64_t after = 0;
    bool done = false;
    for (int round = 0; !done && round < 1000; round++) {
        Cfs__ReaddirRequest m = CFS__READDIR_REQUEST__INIT;
        m.session = w.session;
        m.ino = 1;
        m.after = after;
        m.max_bytes = 200;
        m.has_plus = m.plus = round % 2 == 0;
        struct buf out;
        buf_init(&out);
        ck_assert_int_eq(fsm_world_read(&w, METHOD_READDIR, &m.base, &out), 0);
        Cfs__ReaddirReply *r = cfs__readdir_reply__unpack(NULL, out.len, out.data);
        for (size_t i = 0; i < r->n_entry; i++) {
            char name[16] = "";
            memcpy(name, r->entry[i]->name.data, r->entry[i]->name.len);
            int n = atoi(name + 1);
            ck_assert(!seen[n]);
            seen[n] = true;
            ck_assert_uint_gt(r->entry[i]->hash, after);
            after = r->entry[i]->hash;
        }
        done = r->end;
        cfs__readdir_reply__free_unpacked(r, NULL);
        buf_release(&out);
    }
    ck_assert(done);
    for (int i = 0; i < 500; i++) {
        ck_assert(seen[i]);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fsm");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, a_file_made_is_found_with_its_attributes);
    tcase_add_test(t, an_absent_name_is_ENOENT);
    tcase_add_test(t, inline_content_comes_with_the_lookup);
    tcase_add_test(t, a_write_commits_extents_and_a_lookup_shows_them);
    tcase_add_test(t, an_unlinked_file_leaves_garbage_ids);
    tcase_add_test(t, readdir_tells_every_name_once_over_many_replies);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
