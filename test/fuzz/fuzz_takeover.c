#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "fuse/arena_sift.h"
#include "fuse/handles.h"
#include "fuse/loopstate.h"
#include "test/lib/fake_cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Records of an arena with a good header and other bytes in them: a new worker takes them over or
 * drops them; it reads nothing outside of them, and does not fall over. byte 0: handles, requests,
 * or inodes, pages and commits; then (place in the table (2), byte) each. Tables lie in memory of
 * exactly their size. */
enum { HANDLES = 6, SMALLS = 3, PAGES = 12, INODES = 64, COMMITS = 32, NEXT_SEQ = 100000 };

/* Half of the changes hit the first words of a record of the table, the others any byte. */
static void change(void *table, size_t record, size_t records, struct bytes with)
{
    uint8_t *to = table;
    for (size_t i = 0; i + 4 <= with.len; i += 4) {
        const size_t place = with.data[i + 1] | (size_t)with.data[i + 2] << 8;
        const size_t in_record = with.data[i] % 2 == 0 ? place % 64 : place;
        to[with.data[i] / 2 % records * record + in_record % record] = with.data[i + 3];
    }
}

/* ---- handles ------------------------------------------------------------------------ */

static void handles(struct bytes with)
{
    struct arena_header h = {.session = 1, .next_seq = NEXT_SEQ, .sizes = {.handles = HANDLES}};
    struct arena a = {.h = &h, .handle = xcalloc(HANDLES, sizeof *a.handle)};
    for (uint32_t i = 0; i < HANDLES; i++) {
        a.handle[i] = (struct arena_handle){.state = i < 4,
                                            .generation = 1 + i,
                                            .ino = 5 + i / 2,
                                            .unique = 10 + i * 2,
                                            .flags = i};
    }
    change(a.handle, sizeof *a.handle, HANDLES, with);
    CHECK(arena_sift(&a) >= 0);
    struct handles *t = handles_new(&a);
    const unsigned total = handles_total(t);
    const struct handle_want want = {.ino = 5, .unique = 12, .repeated = true};
    uint64_t fh = 0, ino = 0;
    if (handles_open(t, &want, &fh) == 0) {
        CHECK(handles_find(t, fh) == NULL || handles_fh(t, handles_find(t, fh)) == fh);
    }
    CHECK(handles_total(t) >= total && handles_total(t) <= HANDLES);
    (void)handles_set_orphan(t, 5, true);
    (void)handles_locked(t, 6);
    for (uint32_t i = 0; i < HANDLES; i++) {
        const uint64_t of = handles_fh(t, &a.handle[i]);
        if (handles_close(t, of, &ino)) {
            handles_orphan_gone(t, ino);
        }
        CHECK(handles_find(t, of) == NULL);
    }
    handles_free(t);
    free(a.handle);
}

/* ---- requests ----------------------------------------------------------------------- */

static struct fuseloop *loop;

/* What libfuse gives us lies in the request, or in its copy, which has exactly its size. */
static void inside(const void *at, size_t bytes)
{
    const struct opreq *r = fuseloop_current(loop);
    CHECK(r != NULL);
    if (r->translated == NULL) {
        const struct fuse_in_header *in = opreq_raw(r);
        const size_t offset = (size_t)((const uint8_t *)at - (const uint8_t *)in);
        CHECK(offset <= in->len && bytes <= in->len - offset);
    }
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; i++) {
        sum += ((const uint8_t *)at)[i];
    }
    CHECK(sum != UINT_MAX);
}

static void name_inside(const char *name)
{
    inside(name, strlen(name) + 1);
}

static void op_lookup(fuse_req_t q, fuse_ino_t dir, const char *name)
{
    (void)dir;
    name_inside(name);
    fuse_reply_err(q, ENOENT);
}
static void op_mkdir(fuse_req_t q, fuse_ino_t dir, const char *name, mode_t mode)
{
    (void)mode;
    op_lookup(q, dir, name);
}
static void op_mknod(fuse_req_t q, fuse_ino_t dir, const char *name, mode_t mode, dev_t dev)
{
    (void)mode, (void)dev;
    op_lookup(q, dir, name);
}
static void op_symlink(fuse_req_t q, const char *target, fuse_ino_t dir, const char *name)
{
    name_inside(target);
    op_lookup(q, dir, name);
}
static void op_rename(fuse_req_t q, fuse_ino_t d1, const char *from, fuse_ino_t d2, const char *to,
                      unsigned flags)
{
    (void)d2, (void)flags;
    name_inside(to);
    op_lookup(q, d1, from);
}
static void op_link(fuse_req_t q, fuse_ino_t ino, fuse_ino_t dir, const char *name)
{
    (void)ino;
    op_lookup(q, dir, name);
}
static void op_create(fuse_req_t q, fuse_ino_t dir, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    (void)mode, (void)fi;
    op_lookup(q, dir, name);
}
static void op_write(fuse_req_t q, fuse_ino_t ino, const char *buf, size_t n, off_t off,
                     struct fuse_file_info *fi)
{
    (void)ino, (void)off, (void)fi;
    inside(buf, n);
    fuse_reply_err(q, EIO);
}
static void op_setxattr(fuse_req_t q, fuse_ino_t ino, const char *name, const char *value, size_t n,
                        int flags)
{
    (void)flags;
    inside(value, n);
    op_lookup(q, ino, name);
}
static void op_getxattr(fuse_req_t q, fuse_ino_t ino, const char *name, size_t n)
{
    (void)n;
    op_lookup(q, ino, name);
}
static void op_setattr(fuse_req_t q, fuse_ino_t ino, struct stat *st, int to_set,
                       struct fuse_file_info *fi)
{
    (void)ino, (void)st, (void)to_set, (void)fi;
    fuse_reply_err(q, EIO);
}
static void op_setlk(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
                     int sleep)
{
    (void)ino, (void)fi, (void)lock, (void)sleep;
    fuse_reply_err(q, EIO);
}

static const struct fuse_lowlevel_ops OPS = {
    .lookup = op_lookup,
    .mkdir = op_mkdir,
    .mknod = op_mknod,
    .symlink = op_symlink,
    .unlink = op_lookup,
    .rmdir = op_lookup,
    .rename = op_rename,
    .link = op_link,
    .create = op_create,
    .write = op_write,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .removexattr = op_lookup,
    .setattr = op_setattr,
    .setlk = op_setlk,
};

static uint32_t write_request(uint8_t *at, uint32_t opcode, uint64_t unique, struct bytes rest)
{
    struct fuse_in_header in = {.opcode = opcode, .unique = unique, .nodeid = 1, .pid = 1};
    in.len = (uint32_t)(sizeof in + rest.len);
    memcpy(at, &in, sizeof in);
    memcpy(at + sizeof in, rest.data, rest.len);
    return in.len;
}

/* One of each kind by turns: the seed chooses. */
static void good_small(struct arena_small *s, unsigned kind, uint64_t unique)
{
    static const struct {
        uint32_t opcode;
        const char *rest;
        size_t len;
    } KINDS[] = {{FUSE_LOOKUP, "name", 5},
                 {FUSE_SYMLINK, "name\0target", 12},
                 {FUSE_MKDIR, "8 bytes.name", 13},
                 {FUSE_RENAME2, "16 bytes........from\0to", 24},
                 {FUSE_CREATE, "16 bytes........name", 21},
                 {51, "16 bytes........name", 21},
                 {FUSE_SETXATTR, "\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0user.a\0abc", 26},
                 {FUSE_WRITE, "fh......offset..\7\0\0\0flagsowner...........7 bytes", 47},
                 {FUSE_SETLKW, "48 bytes........................................", 48},
                 {FUSE_SETATTR,
                  "88 bytes............................................................"
                  "....................",
                  88}};
    const unsigned k = kind % array_count(KINDS);
    *s = (struct arena_small){.state = 1, .seq = kind % 3 * 1000, .ticket = kind % 2};
    s->bytes =
        write_request(s->request, KINDS[k].opcode, unique, BYTES(KINDS[k].rest, KINDS[k].len));
}

/* Made once: libfuse's session stays for good. */
static void loop_make(struct arena *a)
{
    static struct timers timers;
    static struct client client;
    static uv_loop_t uv;
    struct fuse_init_in init = {
        .major = 7, .minor = 38, .flags = FUSE_SETXATTR_EXT | FUSE_BIG_WRITES};
    client = (struct client){.timers = &timers, .arena = a};
    a->h->init_bytes = write_request(a->h->init, FUSE_INIT, 2, BYTES(&init, sizeof init));
    const struct fuseloop_options options = {.uv = &uv,
                                             .client = &client,
                                             .dev_fd = open("/dev/null", O_RDWR | O_CLOEXEC),
                                             .ops = &OPS,
                                             .ops_bytes = sizeof OPS};
    CHECK(options.dev_fd >= 0 && uv_loop_init(&uv) == 0 && fuseloop_new(&options, &loop) == 0);
}

static void requests(struct bytes with)
{
    static struct arena_header h = {.session = 1, .sizes = {.big = 0}};
    static struct arena a = {.h = &h};
    if (loop == NULL) {
        loop_make(&a);
    }
    requests_release(loop);
    const unsigned seed = with.len > 0 ? with.data[0] : 0;
    h.next_seq = NEXT_SEQ / 50;
    h.sizes.small = 1 + seed % SMALLS;
    h.sizes.big = 1;
    a.small = xcalloc(h.sizes.small, sizeof *a.small);
    a.big = xcalloc(1, sizeof *a.big);
    for (unsigned i = 0; i < h.sizes.small; i++) {
        good_small(&a.small[i], seed / SMALLS + i, 4 + 2 * (uint64_t)i);
    }
    struct fuse_in_header *in = requests_big_header(&a.big[0]);
    const struct fuse_write_in big_write = {.size = 4096};
    (void)write_request((void *)in, FUSE_WRITE, 100, BYTES(&big_write, sizeof big_write));
    in->len += 4096;
    const size_t half = with.len / 2;
    change(a.small, sizeof *a.small, h.sizes.small, BYTES(with.data, half));
    change(in, REQUEST_BEFORE_DATA, 1, BYTES(with.data + half, with.len - half));
    loop->n_free_big = loop->n_free_small = loop->n_parked = 0;
    CHECK(requests_init(loop) == 0);
    CHECK(loop->by_unique.n + loop->n_free_small + loop->n_free_big == h.sizes.small + h.sizes.big);
    while (!list_empty(&loop->requests)) {
        struct opreq *r = list_first(&loop->requests, struct opreq, node);
        CHECK(opreq_seq(r) <= h.next_seq);
        fuseloop_execute(loop, r);
        CHECK(list_first(&loop->requests, struct opreq, node) != r); /* each is answered at once */
    }
    CHECK(loop->n_free_small == h.sizes.small && loop->n_free_big == h.sizes.big);
    free(a.small);
    free(a.big);
    requests_release(loop);
    h.sizes.small = h.sizes.big = 0;
    loop->n_free_big = loop->n_free_small = 0;
    CHECK(requests_init(loop) == 0);
}

/* ---- inodes, pages, commits --------------------------------------------------------- */

static void writing(struct bytes with)
{
    struct cluster *cl = cluster_new(1);
    const uint64_t ino = cluster_create(cl, "file");
    struct arena *a = cluster_arena_new(PAGES, 2 << 20);
    a->h->session = cl->world.session;
    a->h->next_seq = cl->world.seq + 3;
    for (uint32_t i = 0; i < 6; i++) {
        a->page[i] =
            (struct arena_page){.word = arena_page_word(ARENA_PAGE_DIRTY, 0, 100 * (i + 1)),
                                .ino = ino,
                                .number = i,
                                .stamp = 1 + i};
    }
    for (uint32_t i = 0; i < 2; i++) {
        a->inode[i] =
            (struct arena_inode){.ino = ino + i, .flags = ARENA_INODE_SIZE, .size = 30000};
        a->commit[i] =
            (struct arena_commit){.seq = cl->world.seq + 1 + i,
                                  .ino = ino,
                                  .n_stripes = 1,
                                  .n_extents = 1,
                                  .stripe[0] = {.id = 1, .pg = 1, .kind = 1, .k = 4, .m = 2},
                                  .extent[0] = {.length = 4096}};
    }
    const size_t third = with.len / 3;
    change(a->inode, sizeof *a->inode, 4, BYTES(with.data, third));
    change(a->page, sizeof *a->page, PAGES, BYTES(with.data + third, third));
    change(a->commit, sizeof *a->commit, 4, BYTES(with.data + 2 * third, with.len - 2 * third));
    CHECK(arena_sift(a) >= 0);
    (void)worker_start(cl, a);
    cluster_run(cl, 3000);
    cluster_free(cl);
    cluster_arena_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static void (*const PARTS[])(struct bytes with) = {handles, requests, writing};
    if (len > 1) {
        PARTS[data[0] % array_count(PARTS)](BYTES(data + 1, len - 1));
    }
    return 0;
}
