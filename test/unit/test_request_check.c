#include <check.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "fuse/request_check.h"
#include "test/lib/suite.h"

/* In memory of exactly its length, so that who looks beyond is seen (SAN=1). */
static bool check_cut(const struct fuse_in_header *whole, size_t len, bool ext)
{
    struct fuse_in_header *in = xmemdup(whole, len);
    in->len = (uint32_t)len;
    const bool good = request_check(in, 960, ext);
    free(in);
    return good;
}

static struct fuse_in_header *request(uint8_t to[256], uint32_t opcode, const void *rest, size_t len)
{
    struct fuse_in_header *in = (void *)to;
    memset(to, 0xff, 256);
    in->opcode = opcode;
    memcpy(in + 1, rest, len);
    in->len = (uint32_t)(sizeof *in + len);
    return in;
}

static void only_whole(uint32_t opcode, const void *rest, size_t len, bool ext)
{
    uint8_t data[256] __attribute__((aligned(8)));
    const struct fuse_in_header *in = request(data, opcode, rest, len);
    for (size_t cut = sizeof *in; cut < in->len; cut++) {
        ck_assert_msg(!check_cut(in, cut, ext), "opcode %u, %zu bytes", opcode, cut);
    }
    ck_assert(check_cut(in, in->len, ext));
}

START_TEST(a_request_has_its_arguments_names_and_data)
{
    only_whole(FUSE_LOOKUP, "name", 5, false);
    only_whole(FUSE_SYMLINK, "name\0target", 12, false);
    only_whole(FUSE_MKDIR, "8 bytes.name", 13, false);
    only_whole(FUSE_RENAME2, "16 bytes........from\0to", 24, false);
    only_whole(FUSE_GETATTR, "16 bytes........", 16, false);
    only_whole(51, "16 bytes........name", 21, false); /* TMPFILE */
}
END_TEST

START_TEST(data_is_as_long_as_the_arguments_say)
{
    uint8_t rest[64] = {0};
    struct fuse_write_in write = {.size = 7};
    memcpy(rest, &write, sizeof write);
    only_whole(FUSE_WRITE, rest, sizeof write + 7, false);
    struct fuse_setxattr_in set = {.size = 3};
    memcpy(rest, &set, sizeof set);
    memcpy(rest + sizeof set, "user.a\0abc", 10);
    only_whole(FUSE_SETXATTR, rest, sizeof set + 10, true);
    memcpy(rest + FUSE_COMPAT_SETXATTR_IN_SIZE, "user.a\0abc", 10);
    only_whole(FUSE_SETXATTR, rest, FUSE_COMPAT_SETXATTR_IN_SIZE + 10, false);
}
END_TEST

START_TEST(a_length_beyond_the_record_or_below_a_header_is_refused)
{
    uint8_t data[256] __attribute__((aligned(8)));
    struct fuse_in_header *in = request(data, FUSE_STATFS, "", 0);
    ck_assert(request_check(in, sizeof *in, false));
    ck_assert(!request_check(in, sizeof *in - 1, false));
    in->len = 961;
    ck_assert(!request_check(in, 960, false));
    in->len = sizeof *in - 1;
    ck_assert(!request_check(in, 960, false));
    in->len = 960;
    in->opcode = 0xffffffff; /* nobody looks into it */
    ck_assert(request_check(in, 960, false));
    in->opcode = FUSE_NOTIFY_REPLY; /* it would never be answered, and its record never be free */
    ck_assert(!request_check(in, 960, false));
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_test(t, a_request_has_its_arguments_names_and_data);
    tcase_add_test(t, data_is_as_long_as_the_arguments_say);
    tcase_add_test(t, a_length_beyond_the_record_or_below_a_header_is_refused);
    return suite_run("request_check", t);
}
