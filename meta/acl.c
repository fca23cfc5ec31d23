#include "meta/acl.h"

#include <errno.h>
#include <stddef.h>

/* Tags, as in <linux/posix_acl.h>. */
enum {
    TAG_USER_OBJ = 0x01,
    TAG_USER = 0x02,
    TAG_GROUP_OBJ = 0x04,
    TAG_GROUP = 0x08,
    TAG_MASK = 0x10,
    TAG_OTHER = 0x20
};
enum { HEADER = 4, ENTRY = 8, XATTR_VERSION = 2 };

static size_t acl_count(size_t len)
{
    return (len - HEADER) / ENTRY;
}
static uint16_t tag_at(const uint8_t *acl, size_t i)
{
    return get_le16(acl + HEADER + i * ENTRY);
}
static uint16_t perm_at(const uint8_t *acl, size_t i)
{
    return get_le16(acl + HEADER + i * ENTRY + 2);
}
static void set_perm(uint8_t *acl, size_t i, uint32_t perm)
{
    put_le16(acl + HEADER + i * ENTRY + 2, (uint16_t)(perm & 7));
}

/* The state is the tag that was seen last: entries come in the order of their tags. */
static bool tag_follows(uint16_t before, uint16_t tag)
{
    bool repeats = tag == TAG_USER || tag == TAG_GROUP;
    return tag > before || (repeats && tag == before);
}

int acl_validate(struct bytes acl)
{
    if (acl.len < HEADER || get_le32(acl.data) != XATTR_VERSION ||
        (acl.len - HEADER) % ENTRY != 0 || acl_count(acl.len) > ACL_ENTRIES_MAX) {
        return -EINVAL;
    }
    unsigned seen = 0;
    uint16_t before = 0;
    for (size_t i = 0; i < acl_count(acl.len); i++) {
        uint16_t tag = tag_at(acl.data, i);
        bool known = tag != 0 && tag <= TAG_OTHER && (tag & (tag - 1)) == 0;
        if (!known || perm_at(acl.data, i) > 7 || !tag_follows(before, tag)) {
            return -EINVAL;
        }
        before = tag;
        seen |= tag;
    }
    if (seen == 0) {
        return 0;
    }
    unsigned base = TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_OTHER;
    bool named = (seen & (TAG_USER | TAG_GROUP)) != 0;
    return (seen & base) != base || (named && (seen & TAG_MASK) == 0) ? -EINVAL : 0;
}

uint32_t acl_mode(struct bytes acl, bool *ret_extended)
{
    uint32_t mode = 0, mask = 0;
    bool extended = false, masked = false;
    for (size_t i = 0; i < acl_count(acl.len); i++) {
        uint32_t perm = perm_at(acl.data, i);
        switch (tag_at(acl.data, i)) {
        case TAG_USER_OBJ:
            mode |= perm << 6;
            break;
        case TAG_GROUP_OBJ:
            mode |= perm << 3;
            break;
        case TAG_OTHER:
            mode |= perm;
            break;
        case TAG_MASK:
            mask = perm;
            masked = extended = true;
            break;
        default:
            extended = true;
            break;
        }
    }
    *ret_extended = extended;
    return masked ? (mode & ~070u) | mask << 3 : mode;
}

static size_t find_tag(const uint8_t *acl, size_t len, uint16_t tag)
{
    size_t i = 0;
    while (i < acl_count(len) && tag_at(acl, i) != tag) {
        i++;
    }
    return i;
}

/* The entry that stands for the group bits of the mode. */
static size_t group_entry(const uint8_t *acl, size_t len)
{
    size_t i = find_tag(acl, len, TAG_MASK);
    return i < acl_count(len) ? i : find_tag(acl, len, TAG_GROUP_OBJ);
}

void acl_chmod(uint8_t *acl, size_t len, uint32_t mode)
{
    size_t n = acl_count(len);
    size_t user = find_tag(acl, len, TAG_USER_OBJ), group = group_entry(acl, len);
    size_t other = find_tag(acl, len, TAG_OTHER);
    if (user < n && group < n && other < n) {
        set_perm(acl, user, mode >> 6);
        set_perm(acl, group, mode >> 3);
        set_perm(acl, other, mode);
    }
}

uint32_t acl_create(uint8_t *acl, size_t len, uint32_t mode)
{
    bool extended;
    uint32_t cut = mode & acl_mode(BYTES(acl, len), &extended) & 0777;
    acl_chmod(acl, len, cut);
    return cut;
}
