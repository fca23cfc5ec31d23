#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/log.h"
#include "test/lib/protofill.h"
#include "test/unit/ops_fakes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Kernel requests whose questions and commands are answered by a server that may say anything. The
 * input is a list of steps: a request, an answer (honest, changed in some fields, an error, or any
 * bytes), an event, time. In the end everything is answered honestly: then each request was
 * answered once, whatever was said before. */
enum { LIVE_MAX = 16, STEPS_MAX = 60, OUTSTANDING_MAX = 40, DRAIN_MAX = 10000, NODES = 8 };

static struct play {
    struct cursor c;
    fuse_req_t live[LIVE_MAX];
    uint64_t handle[LIVE_MAX]; /* that were opened, some of them closed */
    unsigned handles;
    uint64_t unique;
    char data[4096];
    struct buf reply;
} p;

static uint64_t node(void)
{
    const unsigned n = cursor_u8(&p.c) % NODES;
    return n == 0 ? FUSE_ROOT_ID : 6 + n;
}

static const char *name(void)
{
    static const char *const NAMES[] = {"a", "b", "c", "..", "."};
    return NAMES[cursor_u8(&p.c) % array_count(NAMES)];
}

/* ---- honest replies ---- */

static uint32_t mode_of(uint64_t ino)
{
    static const uint32_t MODES[] = {S_IFDIR | 0755, S_IFREG | 0644, S_IFLNK | 0777,
                                     S_IFREG | 0600};
    return ino == ROOT ? S_IFDIR | 0755 : MODES[ino % array_count(MODES)];
}

static Cfs__Attr attr(uint64_t ino)
{
    Cfs__Attr a = attr_of(ino, mode_of(ino), 1 + p.unique);
    a.size = ino % 2 == 0 ? 10 : 100000;
    a.flags = ino % 8;
    return a;
}

/* The second field of every request is the inode that it is about. */
static uint64_t asked(struct bytes request)
{
    struct cursor c = cursor_of(request);
    (void)cursor_varint(&c);
    (void)cursor_varint(&c);
    (void)cursor_varint(&c);
    return cursor_varint(&c);
}

static void honest_lookup(struct session_read *r, struct buf *out)
{
    const uint64_t ino = r->method == METHOD_GETATTR ? asked(r->body) : 7 + p.unique % 6;
    Cfs__LookupReply m = CFS__LOOKUP_REPLY__INIT;
    Cfs__Attr a = attr(ino);
    Cfs__ExtentsReply extents = CFS__EXTENTS_REPLY__INIT;
    Cfs__Extent extent = CFS__EXTENT__INIT, *list[] = {&extent};
    m.attr = &a;
    m.has_content = (a.flags & ATTR_INLINE) != 0 || S_ISLNK(a.mode);
    m.content = ops_data(BYTES("0123456789", 10));
    extent.length = 100;
    extent.kind = 2;
    extents.n_extent = 1;
    extents.extent = list;
    extents.covered_to = a.size;
    m.extents = m.has_content ? NULL : &extents;
    protobuf_c_message_pack(&m.base, buf_extend(out, protobuf_c_message_get_packed_size(&m.base)));
}

static void honest_list(struct buf *out)
{
    static const char *const NAMES[] = {"a", "b", "c"};
    Cfs__ReaddirReply m = CFS__READDIR_REPLY__INIT;
    Cfs__ReaddirReply__Entry entry[3], *list[3];
    Cfs__Attr a[3];
    for (unsigned i = 0; i < 3; i++) {
        cfs__readdir_reply__entry__init(&entry[i]);
        a[i] = attr(7 + i);
        entry[i].name = ops_data(BYTES(NAMES[i], 1));
        entry[i].ino = 7 + i;
        entry[i].type = a[i].mode & S_IFMT;
        entry[i].hash = 1000 * (i + 1);
        entry[i].attr = i == 1 ? &a[i] : NULL;
        list[i] = &entry[i];
    }
    m.n_entry = 3;
    m.entry = list;
    m.end = true;
    cfs__readdir_reply__pack(&m, buf_extend(out, cfs__readdir_reply__get_packed_size(&m)));
}

static void honest_xattr(struct buf *out)
{
    Cfs__XattrReply m = CFS__XATTR_REPLY__INIT;
    ProtobufCBinaryData list[] = {ops_data(BYTES("user.a", 6)), ops_data(BYTES("user.b", 6))};
    m.has_value = true;
    m.value = ops_data(BYTES("value", 5));
    m.n_name = 2;
    m.name = list;
    cfs__xattr_reply__pack(&m, buf_extend(out, cfs__xattr_reply__get_packed_size(&m)));
}

/* The type of the reply; its honest form goes to out. */
static const ProtobufCMessageDescriptor *honest_read(struct session_read *r, struct buf *out)
{
    Cfs__StatfsReply statfs = CFS__STATFS_REPLY__INIT;
    Cfs__LockInfo lock = CFS__LOCK_INFO__INIT;
    switch (r->method) {
    case METHOD_READDIR:
        honest_list(out);
        return &cfs__readdir_reply__descriptor;
    case METHOD_GETXATTR:
    case METHOD_LISTXATTR:
        honest_xattr(out);
        return &cfs__xattr_reply__descriptor;
    case METHOD_STATFS:
        statfs.total = 1 << 30;
        statfs.free = 1 << 29;
        cfs__statfs_reply__pack(&statfs,
                                buf_extend(out, cfs__statfs_reply__get_packed_size(&statfs)));
        return &cfs__statfs_reply__descriptor;
    case METHOD_GETLK:
        lock.has_start = lock.has_end = lock.has_pid = true;
        lock.end = 10;
        cfs__lock_info__pack(&lock, buf_extend(out, cfs__lock_info__get_packed_size(&lock)));
        return &cfs__lock_info__descriptor;
    default:
        honest_lookup(r, out);
        return &cfs__lookup_reply__descriptor;
    }
}

/* Enough for each kind of command. */
static void honest_command(struct buf *out)
{
    Cfs__OpsReply m = CFS__OPS_REPLY__INIT;
    Cfs__OpReply result = CFS__OP_REPLY__INIT, *list[] = {&result};
    Cfs__Attr a = attr(7 + p.unique % 6), parent = attr(ROOT), victim = attr(7 + p.unique % 5);
    victim.nlink = 0;
    result.attr = &a;
    result.parent = &parent;
    result.victim = p.unique % 2 == 0 ? &victim : NULL;
    result.has_orphaned = result.orphaned = p.unique % 4 == 0;
    result.has_ticket = true;
    result.ticket = 1 + p.unique % 4;
    result.has_copied = true;
    result.copied = 100;
    m.n_result = 1;
    m.result = list;
    cfs__ops_reply__pack(&m, buf_extend(out, cfs__ops_reply__get_packed_size(&m)));
}

/* ---- answers ---- */

static int lie_rc(void)
{
    static const int RCS[] = {-ENOENT,      ERR_NOT_FOUND, ERR_QUEUED,  -EAGAIN,
                              ERR_DEADLINE, -EALREADY,     ERR_CHANGED, ERR_UNKNOWN_CALL};
    const unsigned n = cursor_u8(&p.c);
    return n < 240 ? RCS[n % array_count(RCS)] : status_to_rc((int)cursor_le32(&p.c));
}

/* In memory of its own, so that a read beyond its end is seen. */
static struct bytes exact(const struct buf *b)
{
    static uint8_t *kept;
    free(kept);
    kept = b->len > 0 ? xmemdup(b->data, b->len) : NULL;
    return BYTES(kept, b->len);
}

/* What honest says is changed in some fields, or something else is said. */
static int lie(const ProtobufCMessageDescriptor *d, struct buf *honest, struct bytes *ret_reply)
{
    const unsigned how = cursor_u8(&p.c);
    int rc = 0;
    buf_clear(&p.reply);
    if (how < 176) {
        protofill(d, buf_bytes(honest), &p.c, &p.reply);
    } else if (how < 232) {
        rc = lie_rc();
        if (how % 2 == 0) {
            protofill(d, buf_bytes(honest), &p.c, &p.reply);
        }
    } else {
        const struct bytes raw = cursor_take(&p.c, cursor_left(&p.c) < how % 32 ? 0 : how % 32);
        buf_add(&p.reply, raw.data, raw.len);
    }
    *ret_reply = exact(&p.reply);
    return rc;
}

static void answer_one_read(void)
{
    struct buf honest;
    struct bytes reply;
    buf_init(&honest);
    const ProtobufCMessageDescriptor *d = honest_read(w.read[0], &honest);
    const int rc = lie(d, &honest, &reply);
    buf_release(&honest);
    answer_read_raw(rc, reply);
}

static void answer_one_command(void)
{
    struct buf honest;
    struct bytes reply;
    buf_init(&honest);
    honest_command(&honest);
    const int rc = lie(&cfs__ops_reply__descriptor, &honest, &reply);
    buf_release(&honest);
    answer_command_raw(rc, reply);
}

static void end_wait(int rc)
{
    struct writer_wait *wait = w.waiting[0];
    writer_wait_cancel(wait);
    wait->on_done(wait, rc);
}

/* ---- requests ---- */

static fuse_req_t begin(void)
{
    for (unsigned i = 0; i < LIVE_MAX; i++) {
        if (p.live[i] == NULL || p.live[i]->answered) {
            const fuse_req_t q = p.live[i];
            if (q != NULL && q->fi.fh != 0) {
                p.handle[p.handles++ % LIVE_MAX] = q->fi.fh;
            }
            free(q);
            p.live[i] = request(++p.unique);
            return p.live[i];
        }
    }
    return NULL;
}

static struct fuse_file_info file(void)
{
    return (struct fuse_file_info){.fh = p.handle[cursor_u8(&p.c) % LIVE_MAX],
                                   .lock_owner = cursor_u8(&p.c) % 4};
}

static void ask_names(fuse_req_t q, unsigned kind)
{
    struct fuse_file_info fi = {.flags = O_RDWR | (kind % 2 == 0 ? O_TRUNC : 0)};
    const uint64_t at = node();
    switch (kind % 9) {
    case 0:
        ops_mknod(q, at, name(), S_IFREG | 0644, 0);
        break;
    case 1:
        ops_mkdir(q, at, name(), 0755);
        break;
    case 2:
        ops_symlink(q, "target", at, name());
        break;
    case 3:
        ops_create(q, at, name(), 0644, &fi);
        break;
    case 4:
        ops_unlink(q, at, name());
        break;
    case 5:
        ops_rmdir(q, at, name());
        break;
    case 6:
        ops_rename(q, at, name(), node(), name(), cursor_u8(&p.c) % 4);
        break;
    case 7:
        ops_link(q, at, node(), name());
        break;
    default:
        ops_lookup(q, at, name());
        break;
    }
}

static void ask_file(fuse_req_t q, unsigned kind)
{
    struct fuse_file_info fi = file(),
                          opening = {.flags = kind % 2 == 0 ? O_RDONLY : O_RDWR | O_TRUNC};
    const uint64_t at = node();
    switch (kind % 9) {
    case 0:
        ops_open(q, at, &opening);
        break;
    case 1:
        ops_read(q, at, 4096, cursor_u8(&p.c), &fi);
        break;
    case 2:
        w.write_rc = cursor_u8(&p.c) % 3 == 0 ? -ENODATA : 0;
        ops_write(q, at, p.data, 100, 0, &fi);
        break;
    case 3:
        ops_flush(q, at, &fi);
        break;
    case 4:
        ops_release(q, at, &fi);
        break;
    case 5:
        ops_fsync(q, at, 0, &fi);
        break;
    case 6:
        ops_lseek(q, at, 5, kind % 2 == 0 ? SEEK_DATA : SEEK_HOLE, &fi);
        break;
    case 7:
        ops_fallocate(q, at, kind % 2 == 0 ? 0 : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      8192, &fi);
        break;
    default:
        ops_copy(q, at, 0, &fi, node(), 0, &fi, 1 << 20, 0);
        break;
    }
}

static void ask_attr(fuse_req_t q, unsigned kind)
{
    static const char *const XATTRS[] = {"user.a", "system.posix_acl_access",
                                         "system.posix_acl_default"};
    const char *xattr = XATTRS[kind % array_count(XATTRS)];
    struct fuse_setattr_in *set = (void *)(q->record.request + sizeof(struct fuse_in_header));
    const uint64_t at = node();
    switch (kind % 8) {
    case 0:
        ops_getattr(q, at, NULL);
        break;
    case 1:
        set->valid = cursor_u8(&p.c);
        set->size = cursor_le16(&p.c);
        ops_setattr(q, at, NULL, 0, NULL);
        break;
    case 2:
        ops_readlink(q, at);
        break;
    case 3:
        ops_statfs(q, at);
        break;
    case 4:
        ops_getxattr(q, at, xattr, cursor_u8(&p.c));
        break;
    case 5:
        ops_listxattr(q, at, cursor_u8(&p.c));
        break;
    case 6:
        ops_setxattr(q, at, xattr, p.data, 100, 0);
        break;
    default:
        ops_removexattr(q, at, xattr);
        break;
    }
}

static void ask_other(fuse_req_t q, unsigned kind)
{
    struct fuse_file_info fi = file();
    struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
    const uint64_t at = node();
    switch (kind % 7) {
    case 0:
        ops_opendir(q, at, &fi);
        break;
    case 1:
        ops_readdir(q, at, 4096, cursor_u8(&p.c) % 4 * 500, &fi);
        break;
    case 2:
        ops_readdirplus(q, at, 4096, cursor_u8(&p.c) % 4 * 500, &fi);
        break;
    case 3:
        ops_releasedir(q, at, &fi);
        break;
    case 4:
        ops_getlk(q, at, &fi, &lock);
        break;
    case 5:
        ops_setlk(q, at, &fi, &lock, 1);
        break;
    default:
        ops_flock(q, at, &fi, LOCK_EX);
        break;
    }
}

static void ask(unsigned kind)
{
    static void (*const SORTS[])(fuse_req_t q, unsigned kind) = {ask_names, ask_file, ask_attr,
                                                                 ask_other};
    const fuse_req_t q = w.commands < OUTSTANDING_MAX ? begin() : NULL;
    if (q != NULL) {
        SORTS[kind % 4](q, kind / 4);
    }
}

/* A signal, at last SIGKILL. */
static void interrupt(unsigned which, bool fatal)
{
    const fuse_req_t q = p.live[which % LIVE_MAX];
    if (q == NULL || q->answered) {
        return;
    }
    q->r.fatal = q->r.fatal || fatal;
    if (q->r.on_interrupt != NULL) {
        q->r.on_interrupt(&q->r);
    }
}

static void step(void)
{
    const unsigned what = cursor_u8(&p.c);
    if (what < 144) {
        ask(what);
    } else if (what < 216) {
        if (w.reads > 0 && (what % 2 == 0 || w.commands == 0)) {
            answer_one_read();
        } else if (w.commands > 0) {
            answer_one_command();
        }
    } else if (what < 226) {
        ops_lock_granted(w.client.ops, cursor_u8(&p.c) % 6);
    } else if (what < 232) {
        interrupt(cursor_u8(&p.c), what % 2 == 0);
    } else if (what < 240) {
        run_for(what < 236 ? 50 : 1000);
    } else if (what == 255) {
        w.ended = true;
        ops_session_ended(w.client.ops);
    } else if (w.waits > 0) {
        end_wait(what < 252 ? 0 : -EIO);
    }
}

/* ---- the end ---- */

static bool all_answered(void)
{
    for (unsigned i = 0; i < LIVE_MAX; i++) {
        if (p.live[i] != NULL && !p.live[i]->answered) {
            return false;
        }
    }
    return true;
}

/* The cursor is empty, so every answer is honest; who waits for a lock is told of its end. */
static void drain(void)
{
    p.c = cursor_of(BYTES(NULL, 0));
    w.write_rc = 0;
    for (unsigned i = 0; i < DRAIN_MAX && !all_answered(); i++) {
        if (w.commands > 0) {
            answer_one_command();
        } else if (w.reads > 0) {
            answer_one_read();
        } else if (w.waits > 0) {
            end_wait(0);
        } else if (w.client.ops->tickets.n > 0) {
            ops_locks_ended(w.client.ops);
        } else {
            run_for(1000);
        }
    }
    CHECK(all_answered());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    log_set_level(LOG_LEVEL_ERROR);
    world_setup();
    memset(&p, 0, sizeof p);
    buf_init(&p.reply);
    p.c = cursor_of(BYTES(data, len));
    for (unsigned i = 0; i < STEPS_MAX && cursor_left(&p.c) > 0; i++) {
        step();
    }
    drain();
    while (w.commands > 0) { /* those that no request waits for */
        answer_one_command();
    }
    world_teardown();
    for (unsigned i = 0; i < LIVE_MAX; i++) {
        free(p.live[i]);
    }
    buf_release(&p.reply);
    return 0;
}
