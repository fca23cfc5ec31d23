#include "rpc/lender.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { PIPE_BYTES = 1 << 20 };

void lender_init(struct lender *l)
{
    *l = (struct lender){.in = -1, .out = -1};
}

void lender_release(struct lender *l)
{
    if (l->in >= 0) {
        close(l->in);
        close(l->out);
    }
    lender_init(l);
}

/* Refused once (seccomp, a security module), refused always: the next connections copy. */
static bool splice_refused;

static bool have_pipe(struct lender *l)
{
    int ends[2];
    if (l->in >= 0) {
        return true;
    }
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
        return false;
    }
    l->out = ends[0];
    l->in = ends[1];
    (void)fcntl(l->in, F_SETPIPE_SZ, PIPE_BYTES); /* refused: works in smaller steps */
    return true;
}

size_t lender_take(struct lender *l, const struct iovec *iov, unsigned n)
{
    ssize_t took = -1;
    if (!l->off && !splice_refused && have_pipe(l)) {
        do {
            took = vmsplice(l->in, iov, n, SPLICE_F_NONBLOCK);
        } while (took < 0 && errno == EINTR);
    }
    if (took <= 0) {
        l->off = true;
        return 0;
    }
    l->held = (size_t)took;
    return l->held;
}

ssize_t lender_give(struct lender *l, int fd, bool more)
{
    const unsigned flags = SPLICE_F_NONBLOCK | (more ? SPLICE_F_MORE : 0);
    const ssize_t n = splice(l->out, NULL, fd, NULL, l->held, flags);
    if (n < 0) {
        splice_refused |= errno == EINVAL || errno == ENOSYS || errno == EPERM || errno == EACCES;
        return -errno;
    }
    l->held -= (size_t)n;
    return n;
}
