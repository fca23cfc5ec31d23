#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/err.h"
#include "proto/methods.h"
#include "test/lib/fsm_world.h"
#include "test/lib/suite.h"

static struct fsm_world w;
static uint64_t file;

static void begin(void)
{
    fsm_world_init(&w);
    file = fsm_world_create(&w, 1, "f");
}

static void end(void)
{
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    fsm_world_release(&w);
}

static int change(uint64_t ino, const char *name, const void *value, size_t len, uint32_t flags)
{
    Cfs__XattrOp x = CFS__XATTR_OP__INIT;
    x.ino = ino;
    x.name = (ProtobufCBinaryData){strlen(name), (uint8_t *)(uintptr_t)name};
    x.has_value = value != NULL;
    x.value = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)value};
    x.has_flags = flags != 0;
    x.flags = flags;
    Cfs__Op op = CFS__OP__INIT;
    op.xattr = &x;
    return fsm_world_op(&w, &op);
}

static int set(uint64_t ino, const char *name, const char *value, uint32_t flags)
{
    return change(ino, name, value, strlen(value), flags);
}

static int removed(uint64_t ino, const char *name)
{
    return change(ino, name, NULL, 0, 0);
}

static Cfs__XattrReply *read_xattr(unsigned method, uint64_t ino, const char *name, int *rc)
{
    Cfs__XattrRequest m = CFS__XATTR_REQUEST__INIT;
    m.session = w.session;
    m.ino = ino;
    m.has_name = true;
    m.name = (ProtobufCBinaryData){strlen(name), (uint8_t *)(uintptr_t)name};
    struct buf out;
    buf_init(&out);
    *rc = fsm_world_read(&w, method, &m.base, &out);
    Cfs__XattrReply *r = *rc == 0 ? cfs__xattr_reply__unpack(NULL, out.len, out.data) : NULL;
    buf_release(&out);
    return r;
}

static bool has_value(uint64_t ino, const char *name, const void *value, size_t len)
{
    int rc;
    Cfs__XattrReply *r = read_xattr(METHOD_GETXATTR, ino, name, &rc);
    bool same = r != NULL && r->value.len == len && memcmp(r->value.data, value, len) == 0;
    if (r != NULL) {
        cfs__xattr_reply__free_unpacked(r, NULL);
    }
    return same;
}

static uint32_t mode_of(uint64_t ino)
{
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(&w, ino, &rc);
    uint32_t mode = r->attr->mode;
    cfs__lookup_reply__free_unpacked(r, NULL);
    return mode;
}

START_TEST(a_value_is_set_read_listed_and_removed)
{
    ck_assert_int_eq(set(file, "user.a", "1", 0), 0);
    ck_assert_int_eq(set(file, "user.b", "", 0), 0);
    ck_assert(has_value(file, "user.a", "1", 1));
    int rc;
    Cfs__XattrReply *r = read_xattr(METHOD_LISTXATTR, file, "", &rc);
    ck_assert_uint_eq(r->n_name, 2);
    cfs__xattr_reply__free_unpacked(r, NULL);
    ck_assert_int_eq(removed(file, "user.a"), 0);
    ck_assert_int_eq(removed(file, "user.a"), -ENODATA);
    ck_assert_ptr_null(read_xattr(METHOD_GETXATTR, file, "user.a", &rc));
    ck_assert_int_eq(rc, -ENODATA);
}
END_TEST

START_TEST(create_and_replace_mean_what_they_say)
{
    ck_assert_int_eq(set(file, "user.a", "1", XATTR_REPLACE), -ENODATA);
    ck_assert_int_eq(set(file, "user.a", "1", XATTR_CREATE), 0);
    ck_assert_int_eq(set(file, "user.a", "2", XATTR_CREATE), -EEXIST);
    ck_assert_int_eq(set(file, "user.a", "3", XATTR_REPLACE), 0);
    ck_assert(has_value(file, "user.a", "3", 1));
}
END_TEST

START_TEST(unknown_prefixes_and_empty_names_are_refused)
{
    ck_assert_int_eq(set(file, "bad.a", "1", 0), -EOPNOTSUPP);
    ck_assert_int_eq(set(file, "system.other", "1", 0), -EOPNOTSUPP);
    ck_assert_int_eq(set(file, "user.", "1", 0), -EINVAL);
    ck_assert_int_eq(set(file, "", "1", 0), -ERANGE);
}
END_TEST

START_TEST(a_value_of_64_kib_fits_and_one_byte_more_does_not)
{
    char *value = calloc(1, 65537);
    ck_assert_int_eq(change(file, "user.a", value, 65537, 0), -E2BIG);
    ck_assert_int_eq(change(file, "user.a", value, 65536, 0), 0);
    ck_assert(has_value(file, "user.a", value, 65536));
    free(value);
}
END_TEST

START_TEST(an_inode_holds_one_mebibyte_of_them)
{
    char *value = calloc(1, 65536), name[16];
    int rc = 0, n = 0;
    for (; rc == 0; n++) {
        snprintf(name, sizeof name, "user.%d", n);
        rc = change(file, name, value, 65536, 0);
    }
    ck_assert_int_eq(rc, -ENOSPC);
    ck_assert_int_eq(n, 16);
    ck_assert_int_eq(removed(file, "user.0"), 0);
    ck_assert_int_eq(set(file, "user.z", "1", 0), 0);
    free(value);
}
END_TEST

START_TEST(a_deleted_inode_takes_them_along)
{
    char name[16];
    for (int i = 0; i < 600; i++) { /* more than one entry frees */
        snprintf(name, sizeof name, "user.%d", i);
        ck_assert_int_eq(set(file, name, "v", 0), 0);
    }
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "f", false), 0);
    ck_assert(w.fx.reap_pending);
    fsm_world_reap(&w);
}
END_TEST

/* ---- ACLs ------------------------------------------------------------------------- */

struct ace {
    uint16_t tag, perm;
    uint32_t id;
};

static size_t acl_build(uint8_t *to, const struct ace *list, size_t n)
{
    put_le32(to, 2);
    for (size_t i = 0; i < n; i++) {
        put_le16(to + 4 + i * 8, list[i].tag);
        put_le16(to + 6 + i * 8, list[i].perm);
        put_le32(to + 8 + i * 8, list[i].id);
    }
    return 4 + n * 8;
}

static const struct ace NAMED[] = {
    {1, 7, ~0u}, {2, 5, 1000}, {4, 5, ~0u}, {0x10, 5, ~0u}, {0x20, 0, ~0u}};
static const struct ace PLAIN[] = {{1, 6, ~0u}, {4, 4, ~0u}, {0x20, 0, ~0u}};

START_TEST(an_access_acl_sets_the_mode_and_chmod_its_mask)
{
    uint8_t acl[64];
    size_t len = acl_build(acl, NAMED, 5);
    ck_assert_int_eq(change(file, "system.posix_acl_access", acl, len, 0), 0);
    ck_assert_uint_eq(mode_of(file) & 0777, 0750);
    Cfs__SetattrOp s = CFS__SETATTR_OP__INIT;
    s.ino = file;
    s.has_mode = true;
    s.mode = 0600;
    Cfs__Op op = CFS__OP__INIT;
    op.setattr = &s;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    struct ace after[5];
    memcpy(after, NAMED, sizeof after);
    after[0].perm = 6;
    after[3].perm = 0;
    len = acl_build(acl, after, 5);
    ck_assert(has_value(file, "system.posix_acl_access", acl, len));
}
END_TEST

START_TEST(an_acl_that_says_no_more_than_the_mode_is_not_kept)
{
    uint8_t acl[64];
    size_t len = acl_build(acl, PLAIN, 3);
    ck_assert_int_eq(change(file, "system.posix_acl_access", acl, len, 0), 0);
    ck_assert_uint_eq(mode_of(file) & 0777, 0640);
    int rc;
    ck_assert_ptr_null(read_xattr(METHOD_GETXATTR, file, "system.posix_acl_access", &rc));
    ck_assert_int_eq(rc, -ENODATA);
}
END_TEST

START_TEST(malformed_acls_are_refused)
{
    uint8_t acl[64];
    size_t len = acl_build(acl, NAMED, 5);
    for (size_t cut = 0; cut < len; cut++) {
        if (cut != 4) { /* no entries: removes */
            ck_assert_int_eq(change(file, "system.posix_acl_access", acl, cut, 0), -EINVAL);
        }
    }
    struct ace no_mask[] = {{1, 7, ~0u}, {2, 5, 1000}, {4, 5, ~0u}, {0x20, 0, ~0u}};
    len = acl_build(acl, no_mask, 4);
    ck_assert_int_eq(change(file, "system.posix_acl_access", acl, len, 0), -EINVAL);
    len = acl_build(acl, PLAIN, 3);
    ck_assert_int_eq(change(file, "system.posix_acl_default", acl, len, 0), -EACCES);
}
END_TEST

START_TEST(a_default_acl_is_inherited_and_stands_for_the_umask)
{
    uint64_t d = fsm_world_mkdir(&w, 1, "d");
    uint8_t acl[64];
    size_t len = acl_build(acl, NAMED, 5);
    ck_assert_int_eq(change(d, "system.posix_acl_default", acl, len, 0), 0);
    ck_assert_int_eq(fsm_world_make(&w, d, "f", S_IFREG | 0666), 0);
    uint64_t f = fsm_world_result(&w)->attr->ino;
    ck_assert_uint_eq(mode_of(f) & 0777, 0640);
    struct ace want[5];
    memcpy(want, NAMED, sizeof want);
    want[0].perm = 6;
    want[3].perm = 4;
    uint8_t inherited[64];
    size_t inherited_len = acl_build(inherited, want, 5);
    ck_assert(has_value(f, "system.posix_acl_access", inherited, inherited_len));
    uint64_t s = fsm_world_mkdir(&w, d, "s");
    ck_assert(has_value(s, "system.posix_acl_default", acl, len));
    ck_assert_uint_eq(mode_of(s) & 0777, 0750);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, a_value_is_set_read_listed_and_removed);
    tcase_add_test(t, create_and_replace_mean_what_they_say);
    tcase_add_test(t, unknown_prefixes_and_empty_names_are_refused);
    tcase_add_test(t, a_value_of_64_kib_fits_and_one_byte_more_does_not);
    tcase_add_test(t, an_inode_holds_one_mebibyte_of_them);
    tcase_add_test(t, a_deleted_inode_takes_them_along);
    tcase_add_test(t, an_access_acl_sets_the_mode_and_chmod_its_mask);
    tcase_add_test(t, an_acl_that_says_no_more_than_the_mode_is_not_kept);
    tcase_add_test(t, malformed_acls_are_refused);
    tcase_add_test(t, a_default_acl_is_inherited_and_stands_for_the_umask);
    return suite_run("fsm_xattrs", t);
}
