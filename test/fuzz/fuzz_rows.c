#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "meta/acl.h"
#include "meta/keys.h"
#include "meta/stripes.h"
#include "proto/methods.h"
#include "store/kv.h"
#include "test/lib/fsm_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Rows of the metadata store with other bytes in them: a machine on such a store opens or refuses,
 * answers or says what is wrong, stops when it must; it never falls over. And each decoder of a
 * value, and of an ACL, alone. byte 0: what is done    byte 1: which row    the rest: bytes for it
 */
static struct fsm_world w;
static uint64_t dir, file, small;

static bool find_row(unsigned n, struct buf *key, struct buf *value)
{
    struct kv_iter *it = w.kv->ops->iter(w.kv, NULL);
    unsigned rows = 0;
    for (it->ops->iter_seek(it, BYTES("", 0)); it->ops->iter_valid(it); it->ops->iter_next(it)) {
        rows++;
    }
    it->ops->iter_seek(it, BYTES("", 0));
    for (n %= rows; n > 0; n--) {
        it->ops->iter_next(it);
    }
    struct bytes k = it->ops->iter_key(it), v = it->ops->iter_value(it);
    buf_add(key, k.data, k.len);
    buf_add(value, v.data, v.len);
    it->ops->iter_free(it);
    return rows > 0;
}

static void flip(struct buf *b, struct bytes with)
{
    for (size_t i = 0; i + 2 <= with.len && b->len > 0; i += 2) {
        b->data[with.data[i] % b->len] ^= with.data[i + 1];
    }
}

static void change_row(uint8_t how, uint8_t which, struct bytes with)
{
    struct buf key, value;
    struct kv_batch b;
    buf_init(&key);
    buf_init(&value);
    kv_batch_init(&b);
    CHECK(find_row(which, &key, &value));
    switch (how % 5) {
    case 0: /* another value */
        kv_batch_put(&b, buf_bytes(&key), with);
        break;
    case 1: /* some other bytes */
        flip(&value, with);
        kv_batch_put(&b, buf_bytes(&key), buf_bytes(&value));
        break;
    case 2: /* cut short */
        kv_batch_put(&b, buf_bytes(&key), BYTES(value.data, with.len % (value.len + 1)));
        break;
    default: /* gone; rows under other keys: key_u64_at still CHECKs the length of a key that it
                finds */
        kv_batch_delete(&b, buf_bytes(&key));
        break;
    }
    CHECK(kv_write(w.kv, &b, true) == 0);
    kv_batch_release(&b);
    buf_release(&key);
    buf_release(&value);
}

static void make_world(void)
{
    fsm_world_init(&w);
    dir = fsm_world_mkdir(&w, 1, "d");
    file = fsm_world_create(&w, 1, "f");
    small = fsm_world_create(&w, dir, "small");
    CHECK(fsm_world_inline(&w, small, "content") == 0);
    CHECK(fsm_world_write(&w, file, 0, 65536) == 0);
    CHECK(fsm_world_write(&w, file, 65536, 65536) == 0);
    CHECK(fsm_world_make(&w, dir, "link", S_IFLNK | 0777) == 0);
    uint64_t held = fsm_world_create(&w, dir, "held");
    CHECK(fsm_world_unlink(&w, dir, "held", true) == 0);
    CHECK(held != 0 && fsm_world_truncate(&w, file, 70000) == 0);
    Cfs__LockOp lock = CFS__LOCK_OP__INIT;
    lock.ino = file;
    lock.owner = lock.handle = 7;
    lock.kind = lock.type = 1;
    lock.end = 100;
    Cfs__XattrOp xattr = CFS__XATTR_OP__INIT;
    xattr.ino = file;
    xattr.name = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "user.a"};
    xattr.has_value = true;
    xattr.value = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "value"};
    Cfs__Op op = CFS__OP__INIT, op2 = CFS__OP__INIT;
    op.lock = &lock;
    op2.xattr = &xattr;
    CHECK(fsm_world_op(&w, &op) == 0 && fsm_world_op(&w, &op2) == 0);
}

static void read_all(void)
{
    static const uint16_t METHODS[] = {METHOD_GETATTR,  METHOD_READDIR, METHOD_LISTXATTR,
                                       METHOD_EXTENTS,  METHOD_STATFS,  METHOD_TABLES,
                                       METHOD_GETXATTR, METHOD_GETLK,   METHOD_FILE_LAYOUT};
    struct buf out, request;
    buf_init(&out);
    buf_init(&request);
    for (uint64_t ino = 1; ino <= small + 2; ino++) {
        for (size_t i = 0; i < sizeof METHODS / sizeof METHODS[0]; i++) {
            /* session, ino, offset or hash, length or bytes: field numbers of all these requests */
            buf_clear(&request);
            const uint64_t fields[] = {w.session, ino, 0, 1 << 20, 1};
            for (unsigned f = 0; f < 5; f++) {
                buf_varint(&request, (f + 1) << 3);
                buf_varint(&request, fields[f]);
            }
            (void)fsm_read(w.fsm, METHODS[i], buf_bytes(&request), &out);
            buf_clear(&out);
        }
    }
    Cfs__LookupRequest lookup = CFS__LOOKUP_REQUEST__INIT;
    lookup.session = w.session;
    lookup.parent = dir;
    lookup.name = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "small"};
    (void)fsm_world_read(&w, METHOD_LOOKUP, &lookup.base, &out);
    for (unsigned what = FSM_QUERY_SESSIONS; what <= FSM_QUERY_TICKETS; what++) {
        (void)fsm_query(w.fsm, what, BYTES("", 0), &out);
    }
    buf_release(&out);
    buf_release(&request);
}

/* One operation, whatever comes of it; false when the replica stopped. */
static bool op(Cfs__Op *one)
{
    Cfs__Ops m = CFS__OPS__INIT;
    uint8_t packed[512];
    m.n_op = 1;
    m.op = &one;
    Cfs__CommandRequest c = CFS__COMMAND_REQUEST__INIT;
    c.session = w.session;
    c.seq = w.seq + 1;
    c.acked = w.seq;
    CHECK(cfs__ops__get_packed_size(&m) <= sizeof packed);
    c.ops = (ProtobufCBinaryData){cfs__ops__pack(&m, packed), packed};
    int stopped;
    w.seq += fsm_world_try(&w, ENTRY_COMMAND, &c.base, &stopped) == 0 && stopped == 0;
    return stopped == 0;
}

static bool change_names(void)
{
    Cfs__Op make_op = CFS__OP__INIT, rename_op = CFS__OP__INIT, unlink_op = CFS__OP__INIT;
    Cfs__Who who = CFS__WHO__INIT;
    Cfs__MakeOp make = CFS__MAKE_OP__INIT;
    make.who = &who;
    make.parent = dir;
    make.mode = S_IFREG | 0644;
    make.has_name = true;
    make.name = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "new"};
    make_op.make = &make;
    Cfs__RenameOp rename = CFS__RENAME_OP__INIT;
    rename.parent = 1;
    rename.name = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "f"};
    rename.new_parent = dir;
    rename.new_name = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "small"};
    rename_op.rename = &rename;
    Cfs__UnlinkOp unlink = CFS__UNLINK_OP__INIT;
    unlink.parent = dir;
    unlink.name = (ProtobufCBinaryData){4, (uint8_t *)(uintptr_t) "link"};
    unlink_op.unlink = &unlink;
    return op(&make_op) && op(&rename_op) && op(&unlink_op);
}

static bool change_data(void)
{
    Cfs__Op setattr_op = CFS__OP__INIT, copy_op = CFS__OP__INIT, lock_op = CFS__OP__INIT,
            grant_op = CFS__OP__INIT, punch_op = CFS__OP__INIT;
    Cfs__SetattrOp setattr = CFS__SETATTR_OP__INIT;
    setattr.ino = small;
    setattr.has_size = setattr.has_mode = true;
    setattr.size = 3;
    setattr.mode = 0600;
    setattr_op.setattr = &setattr;
    Cfs__CopyOp copy = CFS__COPY_OP__INIT;
    copy.source = file;
    copy.ino = small;
    copy.offset = 4096;
    copy.length = 100000;
    copy_op.copy = &copy;
    Cfs__FallocateOp punch = CFS__FALLOCATE_OP__INIT;
    punch.ino = file;
    punch.mode = 3;
    punch.offset = 1000;
    punch.length = 80000;
    punch_op.fallocate = &punch;
    Cfs__LockOp lock = CFS__LOCK_OP__INIT;
    lock.ino = file;
    lock.owner = 8;
    lock.kind = lock.type = 1;
    lock.start = 50;
    lock.end = 200;
    lock.has_wait = lock.wait = true;
    lock_op.lock = &lock;
    Cfs__GrantIdsOp grant = CFS__GRANT_IDS_OP__INIT;
    grant.count = 10;
    grant_op.grant_ids = &grant;
    return op(&setattr_op) && op(&copy_op) && op(&punch_op) && op(&lock_op) && op(&grant_op);
}

static void use(void)
{
    Cfs__LogSessionEnd end = CFS__LOG_SESSION_END__INIT;
    Cfs__LogReap reap = CFS__LOG_REAP__INIT;
    int stopped = 0;
    read_all();
    if (!change_names() || !change_data()) {
        return;
    }
    end.session = w.session;
    (void)fsm_world_try(&w, ENTRY_SESSION_END, &end.base, &stopped);
    for (int i = 0; i < 4 && stopped == 0; i++) {
        (void)fsm_world_try(&w, ENTRY_REAP, &reap.base, &stopped);
    }
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
    make_world();
    change_row(data[0], data[1], rest);
    if (fsm_world_reopen(&w) == 0) {
        (void)fsm_audit(w.fsm, NULL, NULL);
        use();
    }
    fsm_world_release(&w);
    return 0;
}
