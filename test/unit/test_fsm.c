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

/* Two bytes each on the wire, two hundred in memory: they are counted before they are unpacked. */
START_TEST(a_command_of_too_many_operations_is_refused_unpacked)
{
    struct buf ops, e;
    buf_init(&ops);
    buf_init(&e);
    for (unsigned i = 0; i <= 4096; i++) {
        buf_add(&ops, "\x0a\x00", 2);
    }
    struct fsm_entry_header h = {.type = ENTRY_COMMAND, .feature_level = 1, .time_ns = 1};
    for (size_t len = 2 * 4096; len <= ops.len; len += 2) {
        struct buf body;
        buf_init(&body);
        buf_add(&body, "\x08\x01\x10\x01\x18\x00\x22", 7);
        buf_varint(&body, len);
        buf_add(&body, ops.data, len);
        buf_clear(&e);
        fsm_entry_encode(&e, &h, buf_bytes(&body));
        ck_assert_int_eq(fsm_validate(buf_bytes(&e)), len == 2 * 4096 ? 0 : ERR_TOO_BIG);
        buf_release(&body);
    }
    buf_release(&ops);
    buf_release(&e);
}
END_TEST

START_TEST(an_entry_has_its_golden_bytes_and_every_short_header_is_refused)
{
    struct buf e;
    buf_init(&e);
    struct fsm_entry_header h = {
        .type = ENTRY_REAP, .feature_level = 1, .time_ns = 0x0102030405060708, .reign = 9};
    fsm_entry_encode(&e, &h, BYTES("\x08\x05", 2));
    ck_assert_uint_eq(e.len, 22);
    ck_assert_mem_eq(
        e.data, "\x01\x0a\x01\x00\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\0\0\0\0\x08\x05", 22);
    ck_assert_int_eq(fsm_validate(buf_bytes(&e)), 0);
    ck_assert(fsm_entry_frees(buf_bytes(&e)));
    struct bytes body;
    for (size_t len = 0; len < ENTRY_HEADER_BYTES; len++) {
        ck_assert_int_eq(fsm_entry_decode(BYTES(e.data, len), &h, &body), ERR_MALFORMED);
    }
    buf_release(&e);
}
END_TEST

START_TEST(a_read_that_does_not_decode_or_is_unknown_is_refused)
{
    struct buf out;
    buf_init(&out);
    ck_assert_int_eq(fsm_read(w.fsm, METHOD_LOOKUP, BYTES("\xff", 1), &out), ERR_MALFORMED);
    ck_assert_int_eq(fsm_read(w.fsm, METHOD_LEASE_ACQUIRE, BYTES("", 0), &out), ERR_UNKNOWN_CALL);
    ck_assert_uint_eq(out.len, 0);
    buf_release(&out);
}
END_TEST

START_TEST(garbage_is_listed_in_bounded_pieces)
{
    char name[16];
    for (int i = 0; i < 20; i++) { /* ids come from both groups in turn */
        snprintf(name, sizeof name, "f%d", i);
        ck_assert_int_eq(fsm_world_write(&w, fsm_world_create(&w, 1, name), 0, 4096), 0);
    }
    for (int i = 0; i < 20; i++) { /* every other id of each group dies */
        snprintf(name, sizeof name, "f%d", i);
        ck_assert_int_eq(i / 2 % 2 == 0 ? fsm_world_unlink(&w, 1, name, false) : 0, 0);
    }
    Cfs__QueryRequest m = CFS__QUERY_REQUEST__INIT;
    for (uint32_t max = 3; max <= 30; max *= 10) {
        m.has_max = true;
        m.max = max;
        uint8_t request[32];
        size_t len = cfs__query_request__pack(&m, request);
        struct buf out;
        buf_init(&out);
        ck_assert_int_eq(fsm_query(w.fsm, FSM_QUERY_GARBAGE, BYTES(request, len), &out), 0);
        Cfs__GarbageList *l = cfs__garbage_list__unpack(NULL, out.len, out.data);
        size_t ranges = 0;
        for (size_t i = 0; i < l->n_garbage; i++) {
            ranges += l->garbage[i]->n_id;
        }
        ck_assert_uint_le(ranges, max);
        ck_assert_uint_gt(ranges, 0);
        ck_assert_int_eq(l->end, max == 30);
        cfs__garbage_list__free_unpacked(l, NULL);
        buf_release(&out);
    }
}
END_TEST

START_TEST(servers_and_groups_are_in_the_tables)
{
    Cfs__LogRegister m = CFS__LOG_REGISTER__INIT;
    m.server = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t) "server-1-16bytes"};
    m.address = (char *)(uintptr_t) "127.0.0.1:7001";
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_REGISTER, &m.base), 0);
    ck_assert(w.fx.tables_changed);
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_REGISTER, &m.base), 0);
    ck_assert(!w.fx.tables_changed);
    struct buf out;
    buf_init(&out);
    ck_assert_int_eq(fsm_query(w.fsm, FSM_QUERY_TABLES, BYTES("", 0), &out), 0);
    Cfs__TablesReply *r = cfs__tables_reply__unpack(NULL, out.len, out.data);
    ck_assert_uint_eq(r->n_server, 1);
    ck_assert_uint_eq(r->server[0]->id, 1);
    ck_assert_str_eq(r->server[0]->address, "127.0.0.1:7001");
    ck_assert_uint_eq(r->n_pg, 2);
    ck_assert_uint_eq(r->pg[1]->n_slot, 6);
    ck_assert_uint_eq(r->policy->k, 4);
    cfs__tables_reply__free_unpacked(r, NULL);
    buf_release(&out);
}
END_TEST

START_TEST(a_policy_is_changed_and_told)
{
    Cfs__Policy p = CFS__POLICY__INIT;
    p.k = 2;
    p.m = 1;
    p.inline_limit = 100;
    Cfs__LogPolicy m = CFS__LOG_POLICY__INIT;
    m.policy = &p;
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_POLICY, &m.base), 0);
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    ck_assert_uint_eq(c->policy->k, 2);
    ck_assert_uint_eq(c->policy->inline_limit, 100);
    cfs__fsm_counters__free_unpacked(c, NULL);
    p.k = 33;
    ck_assert_int_eq(fsm_world_entry(&w, ENTRY_POLICY, &m.base), -EINVAL);
}
END_TEST

START_TEST(more_than_512_extents_are_freed_by_reaps_and_gone_at_once)
{
    uint64_t ino = fsm_world_create(&w, 1, "f");
    for (uint64_t i = 0; i < 600; i++) {
        ck_assert_int_eq(fsm_world_write(&w, ino, i * 8192, 4096), 0);
    }
    ck_assert_int_eq(fsm_world_truncate(&w, ino, 0), 0);
    ck_assert(w.fx.reap_pending);
    ck_assert_int_eq(fsm_world_truncate(&w, ino, 1 << 30), 0);
    Cfs__ExtentsReply *r = fsm_world_extents(&w, ino, 0, 1 << 30);
    ck_assert_uint_eq(r->n_extent, 0);
    cfs__extents_reply__free_unpacked(r, NULL);
    ck_assert_int_eq(fsm_world_write(&w, ino, 599 * 8192, 4096), 0); /* where a dead one ends */
    r = fsm_world_extents(&w, ino, 0, 1 << 30);
    ck_assert_uint_eq(r->n_extent, 1);
    cfs__extents_reply__free_unpacked(r, NULL);
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    fsm_world_reap(&w);
    r = fsm_world_extents(&w, ino, 0, 1 << 30);
    ck_assert_uint_eq(r->n_extent, 1);
    cfs__extents_reply__free_unpacked(r, NULL);
    int rc;
    Cfs__LookupReply *a = fsm_world_getattr(&w, ino, &rc);
    ck_assert_uint_eq(a->attr->allocated, 4096);
    cfs__lookup_reply__free_unpacked(a, NULL);
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
    tcase_add_test(t, an_entry_has_its_golden_bytes_and_every_short_header_is_refused);
    tcase_add_test(t, a_command_of_too_many_operations_is_refused_unpacked);
    tcase_add_test(t, a_read_that_does_not_decode_or_is_unknown_is_refused);
    tcase_add_test(t, garbage_is_listed_in_bounded_pieces);
    tcase_add_test(t, servers_and_groups_are_in_the_tables);
    tcase_add_test(t, a_policy_is_changed_and_told);
    tcase_add_test(t, more_than_512_extents_are_freed_by_reaps_and_gone_at_once);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
