#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "meta/keys.h"
#include "test/lib/suite.h"

/* Bytes on disk: what these tests say can only change together with a version. */

static void hex_is(struct bytes b, const char *hex)
{
    char got[1024] = "";
    ck_assert_uint_lt(b.len * 2, sizeof got);
    for (size_t i = 0; i < b.len; i++) {
        snprintf(got + 2 * i, 3, "%02x", b.data[i]);
    }
    ck_assert_str_eq(got, hex);
}

START_TEST(a_namespace_key_is_space_volume_table_rest)
{
    struct key k, h;
    key_start_ns(&k, 1, TABLE_EXTENT);
    key_add_u64(&k, 0x10203);
    key_add_u64(&k, 4096);
    hex_is(key_bytes(&k), "02"
                          "0000000000000001"
                          "65"
                          "0000000000010203"
                          "0000000000001000");
    key_history(&h, key_bytes(&k), 7);
    hex_is(key_bytes(&h), "03"
                          "0000000000000001"
                          "65"
                          "0000000000010203"
                          "0000000000001000"
                          "0000000000000007");
}
END_TEST

START_TEST(siphash_gives_its_authors_vectors)
{
    uint8_t key[16], data[16];
    for (uint8_t i = 0; i < 16; i++) {
        key[i] = data[i] = i;
    }
    ck_assert_uint_eq(key_siphash(key, BYTES(data, 0)), 0x726fdb47dd0e0e31u);
    ck_assert_uint_eq(key_siphash(key, BYTES(data, 1)), 0x74f839c593dc67fdu);
    ck_assert_uint_eq(key_siphash(key, BYTES(data, 8)), 0x93f5f5799a932462u);
    ck_assert_uint_eq(key_siphash(key, BYTES(data, 15)), 0xa129ca6149be45e5u);
}
END_TEST

START_TEST(the_hash_of_a_name_stays_between_dotdot_and_63_bits)
{
    uint8_t key[16] = "hash-key-16-byt";
    for (int i = 0; i < 10000; i++) {
        char name[16];
        int n = snprintf(name, sizeof name, "%d", i);
        uint64_t h = key_name_hash(key, BYTES(name, (size_t)n));
        ck_assert_uint_gt(h, 2);
        ck_assert_uint_lt(h, INT64_MAX);
    }
    ck_assert_uint_eq(key_name_hash(key, BYTES("golden", 6)), 7880849928014826172u);
}
END_TEST

/* Each value: its golden bytes, back again, and no shorter or longer form is taken. */
static struct bytes encoded(struct buf *b, int which)
{
    static const struct inode inode = {.mode = 0100644,
                                       .nlink = 1,
                                       .uid = 2,
                                       .gid = 3,
                                       .rdev = 4,
                                       .flags = 5,
                                       .size = 6,
                                       .allocated = 7,
                                       .change = 8,
                                       .atime = 9,
                                       .mtime = 10,
                                       .ctime = 11,
                                       .btime = -12,
                                       .parent = 13,
                                       .entries = 14,
                                       .xattr_bytes = 15,
                                       .orphans = 16,
                                       .inline_bytes = 17,
                                       .cuts = 18};
    static const struct extent extent = {
        .start = 1, .serial = 2, .kind = EXTENT_STRIPE, .pg = 3, .stripe = 4, .stripe_offset = 5};
    static const struct extent reserved = {.start = 1, .serial = 2, .kind = EXTENT_RESERVED};
    static const struct dentry dentry = {.ino = 1, .type = 0040000};
    static const struct stripe_row stripe = {.family = 1,
                                             .kind = 1,
                                             .k = 4,
                                             .m = 2,
                                             .slot_mask = 0x3f,
                                             .length = 6,
                                             .nonce = 7,
                                             .refs = 8,
                                             .live_bytes = 9};
    static const struct volume volume = {.root = 1,
                                         .family = 2,
                                         .snapshot = 3,
                                         .serial = 4,
                                         .inodes = 5,
                                         .bytes = 6,
                                         .next_ino = 7,
                                         .block_end = 8,
                                         .k = 4,
                                         .m = 2,
                                         .inline_limit = 4096};
    buf_clear(b);
    switch (which) {
    case 0:
        inode_encode(b, &inode, 1);
        break;
    case 1:
        extent_encode(b, &extent, 1);
        break;
    case 2:
        extent_encode(b, &reserved, 1);
        break;
    case 3:
        dentry_encode(b, &dentry, 1);
        break;
    case 4:
        stripe_row_encode(b, &stripe);
        break;
    default:
        volume_encode(b, &volume);
        break;
    }
    return buf_bytes(b);
}

static int decoded(struct bytes value, int which)
{
    struct inode inode = {.ino = 0};
    struct extent extent;
    struct dentry dentry;
    struct stripe_row stripe;
    struct volume volume = {.id = 1};
    switch (which) {
    case 0:
        return inode_decode(value, &inode);
    case 1:
    case 2:
        return extent_decode(value, 100, &extent);
    case 3:
        return dentry_decode(value, &dentry);
    case 4:
        return stripe_row_decode(value, &stripe);
    default:
        return volume_decode(value, &volume);
    }
}

static const char *const GOLDEN[] = {
    "010100000000000000"
    "a4810000010000000200000003000000040000000500000006000000000000000700000000000000"
    "080000000000000009000000000000000a000000000000000b00000000000000f4ffffffffffffff"
    "0d000000000000000e000000000000000f000000100000001100000012000000",
    "010100000000000000"
    "01010000000000000002000000000000000300000004000000000000000500000000000000",
    "010100000000000000"
    "0201000000000000000200000000000000",
    "010100000000000000"
    "010000000000000000400000",
    "010100000000000000"
    "0104023f000000000000000600000000000000070000000000000008000000000000000900000000"
    "000000",
    "010100000000000000"
    "02000000000000000300000000000000040000000000000005000000000000000600000000000000"
    "07000000000000000800000000000000040000000200000000100000"};

START_TEST(values_have_their_golden_bytes)
{
    struct buf b;
    buf_init(&b);
    hex_is(encoded(&b, _i), GOLDEN[_i]);
    ck_assert_int_eq(decoded(buf_bytes(&b), _i), 0);
    buf_release(&b);
}
END_TEST

START_TEST(every_truncation_and_a_byte_too_many_are_refused)
{
    struct buf b;
    buf_init(&b);
    struct bytes value = encoded(&b, _i);
    for (size_t len = 0; len < value.len; len++) {
        uint8_t *exact = malloc(len + 1); /* so that a sanitizer sees a read beyond it */
        memcpy(exact, value.data, len);
        ck_assert_int_eq(decoded(BYTES(exact, len), _i), ERR_CORRUPT);
        free(exact);
    }
    buf_u8(&b, 0);
    ck_assert_int_eq(decoded(buf_bytes(&b), _i), ERR_CORRUPT);
    buf_release(&b);
}
END_TEST

START_TEST(a_value_of_a_later_version_says_so)
{
    struct buf b;
    buf_init(&b);
    (void)encoded(&b, _i);
    b.data[0] = VALUE_VERSION + 1;
    ck_assert_int_eq(decoded(buf_bytes(&b), _i), ERR_VERSION);
    buf_release(&b);
}
END_TEST

START_TEST(an_inode_comes_back_as_it_was)
{
    struct buf b;
    buf_init(&b);
    struct inode i = {.ino = 77, .volume = 1};
    ck_assert_int_eq(inode_decode(encoded(&b, 0), &i), 0);
    ck_assert_uint_eq(i.ino, 77);
    ck_assert_int_eq(i.btime, -12);
    ck_assert_uint_eq(i.cuts, 18);
    buf_release(&b);
}
END_TEST

START_TEST(an_extent_that_ends_before_it_starts_is_corrupt)
{
    struct buf b;
    buf_init(&b);
    struct extent e;
    ck_assert_int_eq(extent_decode(encoded(&b, 1), 1, &e), ERR_CORRUPT);
    buf_release(&b);
}
END_TEST

/* Per table: space, letter, length of what follows the letter; a name is a byte or more. */
static const struct {
    uint8_t space, table;
    size_t rest;
    bool named;
} TABLES[] = {
    {1, 'a', 0, false},  {1, 'c', 0, false},  {1, 'n', 0, false},  {2, 'i', 8, false},
    {2, 'c', 8, false},  {2, 'd', 17, true},  {2, 'e', 16, false}, {2, 'x', 9, true},
    {2, 'l', 8, false},  {3, 'i', 16, false}, {3, 'd', 25, true},  {3, 'e', 24, false},
    {4, 'v', 8, false},  {4, 'b', 8, false},  {5, 's', 12, false}, {5, 'r', 36, false},
    {5, 'r', 44, false}, {5, 'g', 12, false}, {5, 'o', 16, false}, {5, 'c', 4, false},
    {6, 's', 8, false},  {6, 'q', 8, false},  {6, 'w', 16, false}, {6, 'o', 16, false},
    {6, 'g', 20, false}, {7, 'l', 8, false},  {7, 't', 16, false}, {7, 'o', 24, false},
    {7, 's', 16, false}, {8, 'c', 32, false}, {8, 'd', 16, false}, {8, 's', 8, false},
    {9, 's', 4, false},  {9, 'u', 16, false}, {9, 'p', 4, false},  {9, 'n', 4, false}};

START_TEST(a_key_has_the_length_of_its_table)
{
    uint8_t data[KEY_MAX] = {TABLES[_i].space};
    const bool ns = data[0] == SPACE_NAMESPACE || data[0] == SPACE_HISTORY;
    const size_t before = ns ? 10 : 2, whole = before + TABLES[_i].rest;
    data[before - 1] = TABLES[_i].table;
    ck_assert(key_valid(BYTES(data, whole)));
    ck_assert(!key_valid(BYTES(data, whole - 1)));
    ck_assert_int_eq(key_valid(BYTES(data, whole + 1)), TABLES[_i].named);
    ck_assert_int_eq(key_valid(BYTES(data, whole + KEY_NAME_MAX - 1)), TABLES[_i].named);
    ck_assert(!key_valid(BYTES(data, whole + KEY_NAME_MAX)));
    ck_assert(!key_valid(BYTES(data, 1)) && !key_valid(BYTES(data, 0)));
    data[before - 1] = 'z';
    ck_assert(!key_valid(BYTES(data, whole)));
    data[0] = 10;
    ck_assert(!key_valid(BYTES(data, whole)));
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_test(t, a_namespace_key_is_space_volume_table_rest);
    tcase_add_test(t, siphash_gives_its_authors_vectors);
    tcase_add_test(t, the_hash_of_a_name_stays_between_dotdot_and_63_bits);
    tcase_add_loop_test(t, values_have_their_golden_bytes, 0, 6);
    tcase_add_loop_test(t, every_truncation_and_a_byte_too_many_are_refused, 0, 6);
    tcase_add_loop_test(t, a_value_of_a_later_version_says_so, 0, 6);
    tcase_add_test(t, an_inode_comes_back_as_it_was);
    tcase_add_test(t, an_extent_that_ends_before_it_starts_is_corrupt);
    tcase_add_loop_test(t, a_key_has_the_length_of_its_table, 0,
                        (int)(sizeof TABLES / sizeof TABLES[0]));
    return suite_run("keys", t);
}
