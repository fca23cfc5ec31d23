#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/log.h"
#include "fuse/loopstate.h"

/* The one file that stands between libfuse 3.14 and the kernel. libfuse decodes requests and encodes answers; its writes
 * pass through on_writev, which amends the answer to INIT, finds the record that the answer belongs to, writes, and frees the
 * record. libfuse never reads: fuseloop.c does, into the arena.
 *
 * Requests that libfuse 3.14 does not know as they come are shown to it as copies in a form that it knows:
 *   TMPFILE (51)        has CREATE's layout
 *   SETXATTR            negotiated in its extended form (flags for the ACL kill bit); libfuse knows the short one
 * Others that it does not know it answers with ENOSYS, upon which the kernel stops asking (STATX: it asks GETATTR). */

/* Flags that the headers of Debian 12 do not name; include/uapi/linux/fuse.h of Linux 6.18 does. */
#define INIT_DIRECT_IO_ALLOW_MMAP ((uint64_t)1 << 36)
/* Numbers of requests are even; fs/fuse/dev.c calls this bit FUSE_INT_REQ_BIT. */
#define INTERRUPT_BIT ((uint64_t)1)
enum { INIT_MINOR_MAX = 45, INIT_MINOR_EPOCH = 44, OPCODE_TMPFILE = 51, MAX_PAGES = 256 };

/* Of what the kernel offers, we take exactly this. Not in it, on purpose: WRITEBACK_CACHE (remote changes would be
 * ignored), AUTO_INVAL_DATA (pages stay until we say), SPLICE (a request would sit in the dead worker's pipe). */
static const uint64_t INIT_FLAGS =
    FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT |
    FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_FLOCK_LOCKS | FUSE_DO_READDIRPLUS |
    FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_POSIX_ACL |
    FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA | FUSE_HANDLE_KILLPRIV_V2 |
    FUSE_SETXATTR_EXT | FUSE_INIT_EXT | INIT_DIRECT_IO_ALLOW_MMAP;

static uint64_t offered_flags(const struct fuse_init_in *in)
{
    return in->flags | (in->flags & FUSE_INIT_EXT ? (uint64_t)in->flags2 << 32 : 0);
}

/* Known from the kernel's bytes alone, so a new worker comes to the same result. */
static void note_negotiated(struct fuseloop *f, const struct fuse_in_header *header)
{
    const struct fuse_init_in *in = (const void *)(header + 1);
    f->setxattr_ext = (in->flags & FUSE_SETXATTR_EXT) != 0;
    f->epoch = in->minor >= INIT_MINOR_EPOCH;
}

static void amend_init(const struct fuse_init_in *in, struct fuse_init_out *out)
{
    uint64_t flags = INIT_FLAGS & offered_flags(in);
    out->major = FUSE_KERNEL_VERSION;
    out->minor = in->minor < INIT_MINOR_MAX ? in->minor : INIT_MINOR_MAX;
    out->max_readahead = in->max_readahead;
    out->flags = (uint32_t)flags;
    out->flags2 = (uint32_t)(flags >> 32);
    out->max_background = 128;
    out->congestion_threshold = 96;
    out->max_write = ARENA_BIG_DATA;
    out->max_pages = MAX_PAGES;
    out->time_gran = 1;
}

static ssize_t iov_bytes(const struct iovec *iov, int n)
{
    size_t total = 0;
    for (int i = 0; i < n; i++) {
        total += iov[i].iov_len;
    }
    return (ssize_t)total;
}

void fuseio_answer_error(struct fuseloop *f, uint64_t unique, int error)
{
    struct fuse_out_header out = {.len = sizeof out, .error = error, .unique = unique};
    /* ENOENT: answered before. ENODEV: unmounted. Nothing else can be wrong with a bare error. */
    ssize_t ignored = write(f->dev, &out, sizeof out);
    (void)ignored;
}

/* The answer to an INTERRUPT changes nothing and may come at any time, but not for a request that the kernel has no more: it
 * says ENOENT then. */
bool fuseio_was_answered(struct fuseloop *f, uint64_t unique)
{
    struct fuse_out_header out = {.len = sizeof out, .unique = unique | INTERRUPT_BIT};
    return write(f->dev, &out, sizeof out) < 0 && errno == ENOENT;
}

/* A page without an entry in our page table is no matter, unless we are killed while the kernel copies from it: then
 * the request would end with EIO, and nobody could answer it again. */
static void touch(const struct iovec *iov, int n)
{
    for (int i = 0; i < n; i++) {
        const volatile uint8_t *at = iov[i].iov_base;
        for (size_t k = 0; k < iov[i].iov_len; k += ARENA_PAGE_BYTES) {
            (void)at[k];
        }
        if (iov[i].iov_len) {
            (void)at[iov[i].iov_len - 1];
        }
    }
}

static void write_answer(struct fuseloop *f, struct opreq *r, struct iovec *iov, int n)
{
    if (r->answered) {
        return;
    }
    touch(iov, n);
    ssize_t rc = writev(f->dev, iov, n);
    if (rc >= 0 || errno == ENOENT || errno == ENODEV || errno == ECONNABORTED) {
        return;
    }
    log_error("kernel refused an answer opcode=%u error=%s bytes=%zd", r->opcode, strerror(errno),
              iov_bytes(iov, n));
    fuseio_answer_error(f, r->unique, -EIO);
}

static ssize_t on_writev(int fd, struct iovec *iov, int n, void *userdata)
{
    (void)fd;
    struct fuseloop *f = ((struct client *)userdata)->fuseloop;
    ssize_t bytes = iov_bytes(iov, n);
    if (f->replaying_init) {
        return bytes;
    }
    const struct fuse_out_header *out = iov[0].iov_base;
    struct opreq *r = requests_find(f, out->unique);
    if (!r) {
        log_error("answer to no request unique=%llu", (unsigned long long)out->unique);
        return bytes;
    }
    if (r->opcode == FUSE_INIT && n > 1 && iov[1].iov_len >= sizeof(struct fuse_init_out)) {
        amend_init((const void *)(requests_header(r) + 1), iov[1].iov_base);
    }
    write_answer(f, r, iov, n);
    requests_free(f, r);
    return bytes;
}

static ssize_t on_read(int fd, void *buf, size_t bytes, void *userdata)
{
    (void)fd, (void)buf, (void)bytes, (void)userdata;
    errno = EINVAL; /* libfuse's own loop is never run */
    return -1;
}

int fuseio_init(struct fuseloop *f)
{
    char name[] = "mount.cfs";
    char *argv[] = {name, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    static const struct fuse_custom_io IO = {.writev = on_writev, .read = on_read};
    memcpy(&f->ops, f->options.ops,
           f->options.ops_bytes < sizeof f->ops ? f->options.ops_bytes : sizeof f->ops);
    f->ops.write_buf = NULL; /* would switch splicing on */
    f->fuse = fuse_session_new(&args, &f->ops, sizeof f->ops, f->client);
    if (!f->fuse) {
        return -ENOMEM;
    }
    int rc = fuse_session_custom_io(f->fuse, &IO, f->dev);
    fuse_opt_free_args(&args);
    return rc;
}

void fuseio_save_init(struct fuseloop *f, const struct fuse_in_header *in)
{
    struct arena_header *h = f->arena->h;
    if (in->len <= ARENA_INIT_BYTES) {
        memcpy(h->init, in, in->len);
        arena_publish32(&h->init_bytes, in->len);
    }
    note_negotiated(f, in);
}

void fuseio_replay_init(struct fuseloop *f)
{
    struct fuse_buf buf = {.size = f->arena->h->init_bytes, .mem = f->arena->h->init};
    f->replaying_init = true;
    fuse_session_process_buf(f->fuse, &buf);
    f->replaying_init = false;
    note_negotiated(f, (const void *)f->arena->h->init);
}

/* The short form has neither setxattr_flags nor padding between size, flags and the name. */
static size_t shorten_setxattr(uint8_t *to, const struct fuse_in_header *in)
{
    const uint8_t *from = (const void *)in;
    size_t before = sizeof *in + FUSE_COMPAT_SETXATTR_IN_SIZE;
    size_t after = sizeof *in + sizeof(struct fuse_setxattr_in);
    memcpy(to, from, before);
    memcpy(to + before, from + after, in->len - after);
    return in->len - (after - before);
}

static size_t translate(struct fuseloop *f, struct opreq *r, const struct fuse_in_header *in)
{
    size_t bytes = in->len;
    bool shorten = in->opcode == FUSE_SETXATTR && f->setxattr_ext &&
                   in->len > sizeof *in + sizeof(struct fuse_setxattr_in);
    if (!shorten && in->opcode != OPCODE_TMPFILE) {
        return 0;
    }
    r->translated = xmalloc(in->len);
    if (shorten) {
        bytes = shorten_setxattr(r->translated, in);
    } else {
        memcpy(r->translated, in, in->len);
        ((struct fuse_in_header *)(void *)r->translated)->opcode = FUSE_CREATE;
    }
    ((struct fuse_in_header *)(void *)r->translated)->len = (uint32_t)bytes;
    return bytes;
}

void fuseio_process(struct fuseloop *f, struct opreq *r)
{
    struct fuse_in_header *in = requests_header(r);
    size_t translated = translate(f, r, in);
    struct fuse_buf buf = {.size = translated ? translated : in->len,
                           .mem = translated ? (void *)r->translated : in};
    fuse_session_process_buf(f->fuse, &buf);
}
