#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "meta/fsm_state.h"
#include "test/lib/fsm_world.h"
#include "test/lib/suite.h"

enum { NOREPLACE = 1, EXCHANGE = 2 };

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

static Cfs__Attr attr_of(uint64_t ino)
{
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(&w, ino, &rc);
    ck_assert_int_eq(rc, 0);
    Cfs__Attr a = *r->attr;
    cfs__lookup_reply__free_unpacked(r, NULL);
    return a;
}

START_TEST(making_a_name_twice_is_EEXIST_and_uses_no_number)
{
    uint64_t first = fsm_world_create(&w, 1, "a");
    ck_assert_int_eq(fsm_world_make(&w, 1, "a", S_IFREG | 0644), -EEXIST);
    ck_assert_uint_eq(fsm_world_create(&w, 1, "b"), first + 1);
}
END_TEST

START_TEST(a_name_of_255_bytes_is_taken_and_256_is_too_long)
{
    char name[257];
    memset(name, 'x', 256);
    name[256] = '\0';
    ck_assert_int_eq(fsm_world_make(&w, 1, name, S_IFREG | 0644), -ENAMETOOLONG);
    ck_assert_int_eq(fsm_world_make(&w, 1, name + 1, S_IFREG | 0644), 0);
}
END_TEST

START_TEST(names_with_slash_dot_and_dotdot_are_refused)
{
    ck_assert_int_eq(fsm_world_make(&w, 1, "a/b", S_IFREG | 0644), -EINVAL);
    ck_assert_int_eq(fsm_world_make(&w, 1, ".", S_IFDIR | 0755), -EEXIST);
    ck_assert_int_eq(fsm_world_make(&w, 1, "..", S_IFDIR | 0755), -EEXIST);
    ck_assert_int_eq(fsm_world_rmdir(&w, 1, "."), -EINVAL);
    ck_assert_int_eq(fsm_world_rmdir(&w, 1, ".."), -ENOTEMPTY);
}
END_TEST

START_TEST(a_setgid_directory_gives_its_group_and_directories_its_bit)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d");
    Cfs__SetattrOp s = CFS__SETATTR_OP__INIT;
    s.ino = d;
    s.has_mode = s.has_gid = true;
    s.mode = 02775;
    s.gid = 77;
    Cfs__Op op = CFS__OP__INIT;
    op.setattr = &s;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    Cfs__Attr f = attr_of(fsm_world_create(&w, d, "f")), sub = attr_of(fsm_world_mkdir(&w, d, "s"));
    ck_assert_uint_eq(f.gid, 77);
    ck_assert_uint_eq(f.mode & S_ISGID, 0);
    ck_assert_uint_eq(sub.gid, 77);
    ck_assert_uint_eq(sub.mode & S_ISGID, S_ISGID);
}
END_TEST

START_TEST(a_new_owner_costs_a_file_its_setuid_but_no_directory_its_setgid)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d"), f = fsm_world_create(&w, 1, "f");
    for (int i = 0; i < 4; i++) {
        Cfs__SetattrOp s = CFS__SETATTR_OP__INIT;
        s.ino = i % 2 == 0 ? d : f;
        s.has_mode = i < 2;
        s.mode = 06775;
        s.has_gid = s.has_kill_priv = s.kill_priv = i >= 2;
        s.gid = 77;
        Cfs__Op op = CFS__OP__INIT;
        op.setattr = &s;
        ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    }
    ck_assert_uint_eq(attr_of(d).mode & 07777, 06775);
    ck_assert_uint_eq(attr_of(f).mode & 07777, 0775);
}
END_TEST

START_TEST(a_directory_has_two_links_and_one_per_subdirectory)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d");
    fsm_world_mkdir(&w, d, "s1");
    fsm_world_mkdir(&w, d, "s2");
    fsm_world_create(&w, d, "f");
    ck_assert_uint_eq(attr_of(d).nlink, 4);
    ck_assert_int_eq(fsm_world_rmdir(&w, d, "s1"), 0);
    ck_assert_uint_eq(attr_of(d).nlink, 3);
}
END_TEST

START_TEST(rmdir_refuses_files_and_what_is_not_empty_and_unlink_directories)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d");
    fsm_world_create(&w, d, "f");
    ck_assert_int_eq(fsm_world_rmdir(&w, 1, "d"), -ENOTEMPTY);
    ck_assert_int_eq(fsm_world_rmdir(&w, d, "f"), -ENOTDIR);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "d", false), -EISDIR);
    ck_assert_int_eq(fsm_world_unlink(&w, d, "nothing", false), -ENOENT);
}
END_TEST

START_TEST(an_open_file_outlives_its_name_until_release)
{
    uint64_t ino = fsm_world_create(&w, 1, "f");
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", true), 0);
    ck_assert(fsm_world_result(&w)->orphaned);
    ck_assert_uint_eq(attr_of(ino).nlink, 0);
    ck_assert_int_eq(fsm_world_release_ino(&w, ino), 0);
    int rc;
    ck_assert_ptr_null(fsm_world_getattr(&w, ino, &rc));
    ck_assert_int_eq(rc, -ENOENT);
}
END_TEST

START_TEST(rename_onto_an_open_file_keeps_an_orphan)
{
    fsm_world_create(&w, 1, "a");
    uint64_t b = fsm_world_create(&w, 1, "b");
    Cfs__RenameOp m = CFS__RENAME_OP__INIT;
    m.parent = m.new_parent = 1;
    m.name = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "a"};
    m.new_name = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "b"};
    m.has_held = m.held = true;
    Cfs__Op op = CFS__OP__INIT;
    op.rename = &m;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert(fsm_world_result(&w)->orphaned);
    ck_assert_uint_eq(attr_of(b).nlink, 0);
}
END_TEST

START_TEST(an_unnamed_file_can_be_linked_into_the_tree)
{
    ck_assert_int_eq(fsm_world_make(&w, 1, NULL, S_IFREG | 0600), 0);
    uint64_t ino = fsm_world_result(&w)->attr->ino;
    ck_assert_uint_eq(attr_of(ino).nlink, 0);
    ck_assert_int_eq(fsm_world_link(&w, ino, 1, "named"), 0);
    ck_assert_int_eq(fsm_world_release_ino(&w, ino), 0);
    ck_assert_uint_eq(fsm_world_ino(&w, 1, "named"), ino);
}
END_TEST

START_TEST(a_link_counts_and_a_directory_has_none)
{
    uint64_t ino = fsm_world_create(&w, 1, "f"), d = fsm_world_mkdir(&w, 1, "d");
    ck_assert_int_eq(fsm_world_link(&w, ino, d, "g"), 0);
    ck_assert_uint_eq(attr_of(ino).nlink, 2);
    ck_assert_int_eq(fsm_world_link(&w, d, 1, "e"), -EPERM);
    ck_assert_int_eq(fsm_world_link(&w, ino, 1, "f"), -EEXIST);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", false), 0);
    ck_assert_uint_eq(attr_of(ino).nlink, 1);
}
END_TEST

START_TEST(rename_replaces_and_frees_the_target)
{
    uint64_t a = fsm_world_create(&w, 1, "a"), b = fsm_world_create(&w, 1, "b");
    ck_assert_int_eq(fsm_world_rename(&w, 1, "a", 1, "b", 0), 0);
    ck_assert_uint_eq(fsm_world_ino(&w, 1, "b"), a);
    ck_assert_uint_eq(fsm_world_ino(&w, 1, "a"), 0);
    int rc;
    ck_assert_ptr_null(fsm_world_getattr(&w, b, &rc));
}
END_TEST

START_TEST(rename_of_two_names_of_one_inode_does_nothing)
{
    uint64_t a = fsm_world_create(&w, 1, "a");
    ck_assert_int_eq(fsm_world_link(&w, a, 1, "b"), 0);
    ck_assert_int_eq(fsm_world_rename(&w, 1, "a", 1, "b", 0), 0);
    ck_assert_uint_eq(fsm_world_ino(&w, 1, "a"), a);
    ck_assert_uint_eq(fsm_world_ino(&w, 1, "b"), a);
}
END_TEST

START_TEST(rename_noreplace_refuses_and_exchange_swaps)
{
    uint64_t a = fsm_world_create(&w, 1, "a"), d = fsm_world_mkdir(&w, 1, "d"),
             s = fsm_world_mkdir(&w, d, "s");
    ck_assert_int_eq(fsm_world_rename(&w, 1, "a", d, "s", NOREPLACE), -EEXIST);
    ck_assert_int_eq(fsm_world_rename(&w, 1, "a", d, "none", EXCHANGE), -ENOENT);
    ck_assert_int_eq(fsm_world_rename(&w, 1, "a", d, "s", EXCHANGE), 0);
    ck_assert_uint_eq(fsm_world_ino(&w, 1, "a"), s);
    ck_assert_uint_eq(fsm_world_ino(&w, d, "s"), a);
    ck_assert_uint_eq(attr_of(d).nlink, 2);
    ck_assert_uint_eq(fsm_world_ino(&w, s, ".."), 1);
}
END_TEST

START_TEST(a_directory_cannot_go_below_itself)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d"), s = fsm_world_mkdir(&w, d, "s"),
             t = fsm_world_mkdir(&w, s, "t");
    fsm_world_mkdir(&w, 1, "e");
    ck_assert_int_eq(fsm_world_rename(&w, 1, "d", t, "x", 0), -EINVAL);
    ck_assert_int_eq(fsm_world_rename(&w, s, "t", 1, "d", EXCHANGE), -EINVAL);
    ck_assert_int_eq(fsm_world_rename(&w, s, "t", 1, "d", 0), -ENOTEMPTY);
    ck_assert_int_eq(fsm_world_rename(&w, s, "t", 1, "e", 0), 0);
}
END_TEST

START_TEST(rename_wants_a_directory_for_a_directory)
{
    fsm_world_create(&w, 1, "f");
    fsm_world_mkdir(&w, 1, "d");
    ck_assert_int_eq(fsm_world_rename(&w, 1, "f", 1, "d", 0), -EISDIR);
    ck_assert_int_eq(fsm_world_rename(&w, 1, "d", 1, "f", 0), -ENOTDIR);
}
END_TEST

START_TEST(nothing_is_made_in_a_deleted_directory)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d");
    Cfs__UnlinkOp m = CFS__UNLINK_OP__INIT;
    m.parent = 1;
    m.name = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "d"};
    m.has_directory = m.directory = m.has_held = m.held = true;
    Cfs__Op op = CFS__OP__INIT;
    op.unlink = &m;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_int_eq(fsm_world_make(&w, d, "f", S_IFREG | 0644), -ENOENT);
    fsm_world_create(&w, 1, "f");
    ck_assert_int_eq(fsm_world_rename(&w, 1, "f", d, "f", 0), -ENOENT);
}
END_TEST

START_TEST(every_change_moves_ctime_and_the_change_counter)
{
    uint64_t ino = fsm_world_create(&w, 1, "f");
    Cfs__Attr before = attr_of(ino);
    ck_assert_int_eq(fsm_world_rename(&w, 1, "f", 1, "g", 0), 0);
    Cfs__Attr after = attr_of(ino);
    ck_assert_int_gt(after.ctime, before.ctime);
    ck_assert_int_eq(after.mtime, before.mtime);
    ck_assert_uint_gt(after.change, before.change);
}
END_TEST

START_TEST(ctime_never_goes_back)
{
    uint64_t ino = fsm_world_create(&w, 1, "f");
    int64_t before = attr_of(ino).ctime;
    w.now_ns -= 500000000;
    ck_assert_int_eq(fsm_world_truncate(&w, ino, 10), 0);
    ck_assert_int_eq(attr_of(ino).ctime, before);
}
END_TEST

START_TEST(a_failed_operation_changes_nothing_and_the_next_goes_on)
{
    Cfs__Who who = CFS__WHO__INIT;
    Cfs__MakeOp bad = CFS__MAKE_OP__INIT, good = CFS__MAKE_OP__INIT;
    bad.who = good.who = &who;
    bad.parent = good.parent = 1;
    bad.mode = good.mode = S_IFREG | 0644;
    bad.has_name = good.has_name = true;
    bad.name = good.name = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "x"};
    uint8_t big[5000] = {0};
    bad.has_content = true;
    bad.content = (ProtobufCBinaryData){sizeof big, big};
    Cfs__Op ops[3] = {CFS__OP__INIT, CFS__OP__INIT, CFS__OP__INIT};
    ops[0].make = ops[1].make = &bad;
    ops[1].has_needs_previous = ops[1].needs_previous = true;
    ops[2].make = &good;
    Cfs__Op *list[] = {&ops[0], &ops[1], &ops[2]};
    ck_assert_int_eq(fsm_world_command(&w, list, 3), 0);
    ck_assert_int_eq(w.reply->result[0]->status, EINVAL);
    ck_assert_int_eq(w.reply->result[1]->status, ECANCELED);
    ck_assert_int_eq(w.reply->result[2]->status, 0);
    ck_assert_uint_eq(w.reply->result[2]->attr->size, 0);
}
END_TEST

START_TEST(numbers_go_on_in_another_block)
{
    w.fsm->volume.next_ino = w.fsm->volume.block_end - 1;
    w.fsm->volume_dirty = true;
    ck_assert_uint_eq(fsm_world_create(&w, 1, "last"), INO_BLOCK - 1);
    uint64_t first = fsm_world_create(&w, 1, "first");
    ck_assert_uint_eq(first, INO_BLOCK);
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    ck_assert_uint_eq(attr_of(first).ino, first);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, making_a_name_twice_is_EEXIST_and_uses_no_number);
    tcase_add_test(t, a_name_of_255_bytes_is_taken_and_256_is_too_long);
    tcase_add_test(t, names_with_slash_dot_and_dotdot_are_refused);
    tcase_add_test(t, a_setgid_directory_gives_its_group_and_directories_its_bit);
    tcase_add_test(t, a_new_owner_costs_a_file_its_setuid_but_no_directory_its_setgid);
    tcase_add_test(t, a_directory_has_two_links_and_one_per_subdirectory);
    tcase_add_test(t, rmdir_refuses_files_and_what_is_not_empty_and_unlink_directories);
    tcase_add_test(t, an_open_file_outlives_its_name_until_release);
    tcase_add_test(t, rename_onto_an_open_file_keeps_an_orphan);
    tcase_add_test(t, an_unnamed_file_can_be_linked_into_the_tree);
    tcase_add_test(t, a_link_counts_and_a_directory_has_none);
    tcase_add_test(t, rename_replaces_and_frees_the_target);
    tcase_add_test(t, rename_of_two_names_of_one_inode_does_nothing);
    tcase_add_test(t, rename_noreplace_refuses_and_exchange_swaps);
    tcase_add_test(t, a_directory_cannot_go_below_itself);
    tcase_add_test(t, rename_wants_a_directory_for_a_directory);
    tcase_add_test(t, nothing_is_made_in_a_deleted_directory);
    tcase_add_test(t, every_change_moves_ctime_and_the_change_counter);
    tcase_add_test(t, ctime_never_goes_back);
    tcase_add_test(t, a_failed_operation_changes_nothing_and_the_next_goes_on);
    tcase_add_test(t, numbers_go_on_in_another_block);
    return suite_run("fsm_names", t);
}
