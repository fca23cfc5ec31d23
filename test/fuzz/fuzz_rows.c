#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "meta/acl.h"
#include "meta/keys.h"
#include "meta/stripes.h"
#include "test/lib/fsm_tour.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Rows of the metadata store with other bytes in them: a machine on such a store opens or refuses,
 * answers or says what is wrong, stops when it must; it never falls over. The same for rows under
 * other keys. And each decoder of a value, and of an ACL, alone. byte 0: what is done    byte 1:
 * which row    the rest: bytes for it
 */
static struct fsm_tour whole, t;
static size_t rows;

static void flip(struct buf *b, struct bytes with)
{
    for (size_t i = 0; i + 2 <= with.len && b->len > 0; i += 2) {
        b->data[with.data[i] % b->len] ^= with.data[i + 1];
    }
}

/* Damages a row and opens the machine again. */
static int change_row(uint8_t how, uint8_t which, struct bytes with)
{
    struct buf old, key, value;
    buf_init(&old);
    buf_init(&key);
    buf_init(&value);
    CHECK(fsm_tour_row(&whole, which % rows, &key, &value));
    buf_add(&old, key.data, key.len);
    switch (how) {
    case 0: /* another value */
        buf_clear(&value);
        buf_add(&value, with.data, with.len);
        break;
    case 1: /* some other bytes */
        flip(&value, with);
        break;
    case 2: /* cut short */
        value.len = with.len % (value.len + 1);
        break;
    case 3: /* the key cut short */
        key.len = with.len % key.len + 1;
        break;
    case 4: /* the key goes on */
        buf_add(&key, with.data, with.len < KEY_MAX ? with.len : KEY_MAX);
        break;
    default: /* another key; without bytes for it, none */
        flip(&key, with);
        break;
    }
    const bool gone = how >= 5 && with.len < 2;
    const int rc = fsm_tour_damage(&t, buf_bytes(&old), buf_bytes(&key),
                                   gone ? BYTES(NULL, 0) : buf_bytes(&value));
    buf_release(&old);
    buf_release(&key);
    buf_release(&value);
    return rc;
}

static void make_whole(void)
{
    struct buf key, value;
    buf_init(&key);
    buf_init(&value);
    fsm_tour_init(&whole);
    while (fsm_tour_row(&whole, rows, &key, &value)) {
        rows++;
    }
    buf_release(&key);
    buf_release(&value);
}

static void values(struct bytes v)
{
    struct inode inode;
    struct extent extent;
    struct dentry dentry;
    struct stripe_row stripe;
    struct volume volume;
    struct group group;
    struct lock lock;
    struct buf again;
    uint64_t born;
    buf_init(&again);
    (void)inode_decode(v, &inode);
    (void)extent_decode(v, UINT64_MAX, &extent);
    (void)extent_decode(v, 1, &extent);
    (void)dentry_decode(v, &dentry);
    (void)volume_decode(v, &volume);
    (void)stripes_group_decode(v, &group);
    (void)value_birth(v, &born);
    struct cursor c = cursor_of(v);
    lock_decode(&c, &lock);
    if (stripe_row_decode(v, &stripe) == 0) {
        stripe_row_encode(&again, &stripe);
        CHECK(bytes_equal(buf_bytes(&again), v));
    }
    buf_release(&again);
}

static void acl(struct bytes v)
{
    bool extended = false;
    if (acl_validate(v) != 0) {
        return;
    }
    uint8_t *copy = malloc(v.len);
    memcpy(copy, v.data, v.len);
    CHECK(acl_mode(v, &extended) <= 0777);
    acl_chmod(copy, v.len, 0754);
    CHECK(acl_validate(BYTES(copy, v.len)) == 0);
    CHECK(acl_create(copy, v.len, 0640) <= 0777);
    CHECK(acl_validate(BYTES(copy, v.len)) == 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2) {
        return 0;
    }
    const struct bytes rest = BYTES(data + 2, len - 2);
    if (data[0] % 8 == 6) {
        values(rest);
        return 0;
    }
    if (data[0] % 8 == 7) {
        acl(rest);
        return 0;
    }
    if (whole.w.kv == NULL) {
        make_whole();
    }
    fsm_tour_copy(&t, &whole);
    if (change_row(data[0] % 8, data[1], rest) == 0) {
        (void)fsm_tour_use(&t);
    }
    fsm_tour_release(&t);
    return 0;
}
