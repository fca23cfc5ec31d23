#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "test/lib/fsm_world.h"
#include "test/lib/suite.h"

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

struct opening {
    const char *client, *earlier, *boot, *path;
    uint64_t expired;
    bool read_only;
};

static int open_as(const struct opening *o)
{
    Cfs__SessionOpen open = CFS__SESSION_OPEN__INIT;
    open.client = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)o->client};
    open.host = (char *)(uintptr_t) "other";
    open.machine = (char *)(uintptr_t) "machine";
    open.boot = (char *)(uintptr_t)(o->boot != NULL ? o->boot : "boot");
    open.version = (char *)(uintptr_t) "1";
    open.feature_level = 1;
    open.path = (char *)(uintptr_t)o->path;
    open.has_read_only = open.read_only = o->read_only;
    if (o->earlier != NULL) {
        open.has_earlier_client = true;
        open.earlier_client = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)o->earlier};
    }
    uint64_t expired = o->expired;
    Cfs__LogSessionOpen m = CFS__LOG_SESSION_OPEN__INIT;
    m.open = &open;
    m.lease_ms = 10000;
    m.n_expired = expired != 0;
    m.expired = &expired;
    int rc = fsm_world_entry(&w, ENTRY_SESSION_OPEN, &m.base);
    if (rc == 0) {
        Cfs__SessionOpenReply *r =
            cfs__session_open_reply__unpack(NULL, w.fx.reply.len, w.fx.reply.data);
        w.session = r->session;
        w.seq = w.acked = 0;
        cfs__session_open_reply__free_unpacked(r, NULL);
    }
    return rc;
}

/* One empty command with a sequence of its own. */
static int numbered(uint64_t seq, uint64_t acked)
{
    Cfs__CommandRequest c = CFS__COMMAND_REQUEST__INIT;
    c.session = w.session;
    c.seq = seq;
    c.acked = acked;
    return fsm_world_entry(&w, ENTRY_COMMAND, &c.base);
}

START_TEST(a_second_mount_is_refused_by_the_name_of_the_first)
{
    ck_assert_int_eq(open_as(&(struct opening){.client = "client-2-16bytes"}), ERR_SECOND_MOUNT);
    Cfs__Refusal *r = cfs__refusal__unpack(NULL, w.fx.reply.len, w.fx.reply.data);
    ck_assert_ptr_nonnull(r);
    ck_assert_ptr_nonnull(strstr(r->text, "host host at /mnt"));
    cfs__refusal__free_unpacked(r, NULL);
    ck_assert_int_eq(fsm_world_make(&w, 1, "f", S_IFREG | 0644), 0);
}
END_TEST

START_TEST(an_open_that_is_repeated_gives_the_same_session)
{
    uint64_t before = w.session;
    ck_assert_int_eq(open_as(&(struct opening){.client = "client-1-16bytes"}), 0);
    ck_assert_uint_eq(w.session, before);
}
END_TEST

START_TEST(an_expired_session_makes_room_and_is_ended)
{
    uint64_t before = w.session;
    ck_assert_int_eq(open_as(&(struct opening){.client = "client-2-16bytes", .expired = before}),
                     0);
    ck_assert_uint_ne(w.session, before);
    ck_assert_uint_eq(w.fx.ended.len, 8);
    ck_assert_uint_eq(get_le64(w.fx.ended.data), before);
}
END_TEST

START_TEST(a_client_proven_dead_makes_room)
{
    struct opening o = {.client = "client-2-16bytes", .earlier = "client-1-16bytes"};
    ck_assert_int_eq(open_as(&o), 0);
    ck_assert_uint_eq(w.fx.ended.len, 8);
}
END_TEST

START_TEST(a_machine_that_booted_again_makes_room)
{
    ck_assert_int_eq(open_as(&(struct opening){.client = "client-2-16bytes", .boot = "boot2"}), 0);
}
END_TEST

START_TEST(a_path_that_is_not_there_is_refused)
{
    ck_assert_int_eq(fsm_world_end_session(&w, w.session), 0);
    ck_assert_int_eq(open_as(&(struct opening){.client = "client-2-16bytes", .path = "/no"}),
                     -ENOENT);
}
END_TEST

START_TEST(a_path_gives_its_directory_as_root)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d");
    uint64_t s = fsm_world_mkdir(&w, d, "s");
    ck_assert_int_eq(fsm_world_end_session(&w, w.session), 0);
    ck_assert_int_eq(open_as(&(struct opening){.client = "client-2-16bytes", .path = "/d//s/"}), 0);
    Cfs__SessionOpenReply *r =
        cfs__session_open_reply__unpack(NULL, w.fx.reply.len, w.fx.reply.data);
    ck_assert_uint_eq(r->root_ino, s);
    cfs__session_open_reply__free_unpacked(r, NULL);
}
END_TEST

START_TEST(a_read_only_session_changes_nothing)
{
    ck_assert_int_eq(fsm_world_end_session(&w, w.session), 0);
    ck_assert_int_eq(open_as(&(struct opening){.client = "client-2-16bytes", .read_only = true}),
                     0);
    ck_assert_int_eq(fsm_world_make(&w, 1, "f", S_IFREG | 0644), -EROFS);
}
END_TEST

START_TEST(a_retry_is_answered_and_not_executed)
{
    Cfs__Who who = CFS__WHO__INIT;
    Cfs__MakeOp make = CFS__MAKE_OP__INIT;
    make.who = &who;
    make.parent = 1;
    make.mode = S_IFREG | 0644;
    make.has_name = true;
    make.name = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "f"};
    Cfs__Op op = CFS__OP__INIT;
    op.make = &make;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    uint64_t ino = fsm_world_result(&w)->attr->ino;
    w.seq--;
    w.acked = w.seq;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_uint_eq(fsm_world_result(&w)->attr->ino, ino);
}
END_TEST

START_TEST(a_gap_is_refused)
{
    ck_assert_int_eq(numbered(2, 0), ERR_BUSY);
    ck_assert_int_eq(numbered(1, 0), 0);
    ck_assert_int_eq(numbered(2, 0), 0);
    ck_assert_int_eq(numbered(0, 0), ERR_BUSY);
}
END_TEST

START_TEST(the_window_is_full_after_1024_and_moves_with_the_acknowledgement)
{
    for (uint64_t i = 1; i <= FSM_WINDOW; i++) {
        ck_assert_int_eq(numbered(i, 0), 0);
    }
    ck_assert_int_eq(numbered(FSM_WINDOW + 1, 0), ERR_BUSY);
    ck_assert_int_eq(numbered(1, 0), 0);
    ck_assert_int_eq(numbered(FSM_WINDOW + 1, 1), 0);
    ck_assert_int_eq(numbered(1, 1), -EINVAL);
    ck_assert_int_eq(numbered(2, 1), 0);
}
END_TEST

START_TEST(replies_outlive_a_restart)
{
    ck_assert_int_eq(numbered(1, 0), 0);
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    ck_assert_int_eq(numbered(1, 0), 0);
    ck_assert_int_eq(numbered(3, 0), ERR_BUSY);
}
END_TEST

START_TEST(an_ended_session_is_told_so)
{
    ck_assert_int_eq(fsm_world_end_session(&w, w.session), 0);
    ck_assert_int_eq(numbered(1, 0), ERR_SESSION_ENDED);
    ck_assert_int_eq(fsm_world_end_session(&w, w.session), 0);
}
END_TEST

START_TEST(the_end_frees_orphans_grants_and_locks)
{
    fsm_world_create(&w, 1, "f");
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", true), 0);
    ck_assert_int_eq(fsm_world_grant(&w, 100), 0);
    uint64_t g = fsm_world_create(&w, 1, "g");
    Cfs__LockOp l = CFS__LOCK_OP__INIT;
    l.ino = g;
    l.kind = 2;
    l.type = 1;
    Cfs__Op op = CFS__OP__INIT;
    op.lock = &l;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_int_eq(fsm_world_end_session(&w, w.session), 0);
    ck_assert(w.fx.reap_pending);
    fsm_world_reap(&w);
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    ck_assert_uint_eq(c->orphans, 0);
    ck_assert_uint_eq(c->garbage_ids, 100);
    ck_assert_uint_eq(c->locks, 0);
    ck_assert_uint_eq(c->sessions, 0);
    ck_assert_uint_eq(c->inodes, 2);
    cfs__fsm_counters__free_unpacked(c, NULL);
}
END_TEST

START_TEST(an_entry_at_or_below_the_applied_index_is_skipped)
{
    uint64_t before = fsm_world_hash(&w);
    struct buf e;
    buf_init(&e);
    struct fsm_entry_header h = {.type = ENTRY_NOOP, .feature_level = 1, .time_ns = 1};
    fsm_entry_encode(&e, &h, BYTES("", 0));
    ck_assert_int_eq(fsm_apply(w.fsm, w.index, 9, buf_bytes(&e), &w.fx), 0);
    ck_assert_uint_eq(fsm_world_hash(&w), before);
    buf_release(&e);
}
END_TEST

START_TEST(an_entry_of_a_later_version_stops_the_replica)
{
    uint8_t entry[ENTRY_HEADER_BYTES] = {ENTRY_VERSION + 1, ENTRY_NOOP, 1};
    ck_assert_int_eq(fsm_apply(w.fsm, w.index + 1, 1, BYTES(entry, sizeof entry), &w.fx),
                     ERR_VERSION);
    entry[0] = ENTRY_VERSION;
    entry[1] = ENTRY_NOOP + 1;
    ck_assert_int_eq(fsm_apply(w.fsm, w.index + 1, 1, BYTES(entry, sizeof entry), &w.fx),
                     ERR_VERSION);
    entry[1] = ENTRY_NOOP;
    entry[2] = FSM_FEATURE_LEVEL + 1;
    ck_assert_int_eq(fsm_apply(w.fsm, w.index + 1, 1, BYTES(entry, sizeof entry), &w.fx),
                     ERR_VERSION);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, a_second_mount_is_refused_by_the_name_of_the_first);
    tcase_add_test(t, an_open_that_is_repeated_gives_the_same_session);
    tcase_add_test(t, an_expired_session_makes_room_and_is_ended);
    tcase_add_test(t, a_client_proven_dead_makes_room);
    tcase_add_test(t, a_machine_that_booted_again_makes_room);
    tcase_add_test(t, a_path_that_is_not_there_is_refused);
    tcase_add_test(t, a_path_gives_its_directory_as_root);
    tcase_add_test(t, a_read_only_session_changes_nothing);
    tcase_add_test(t, a_retry_is_answered_and_not_executed);
    tcase_add_test(t, a_gap_is_refused);
    tcase_add_test(t, the_window_is_full_after_1024_and_moves_with_the_acknowledgement);
    tcase_add_test(t, replies_outlive_a_restart);
    tcase_add_test(t, an_ended_session_is_told_so);
    tcase_add_test(t, the_end_frees_orphans_grants_and_locks);
    tcase_add_test(t, an_entry_at_or_below_the_applied_index_is_skipped);
    tcase_add_test(t, an_entry_of_a_later_version_stops_the_replica);
    return suite_run("fsm_sessions", t);
}
