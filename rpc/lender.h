#ifndef CFS_RPC_LENDER_H
#define CFS_RPC_LENDER_H

#include <stdbool.h>
#include <sys/uio.h>

/* Sends memory without copying it: its pages are put into a pipe (vmsplice) and moved from there
 * into a socket (splice), which keeps references until the peer has them. Two system calls for up
 * to 1 MiB, where sendmsg copies every byte into fresh pages: half of the sender's time when it
 * streams (docs/protocol.md, "Lending").
 *
 * The memory must not change until the peer has said that it has it. If it does change (a call was
 * given up), the peer gets other bytes of the same length, and its checksum tells. splice raises
 * SIGPIPE: who lends ignores it. */
struct lender {
    int in, out; /* the pipe, -1 until it is needed */
    size_t held; /* bytes in it: taken, not yet given */
    bool off;    /* this kernel does not do it */
};

void lender_init(struct lender *l);
void lender_release(struct lender *l);
/* Takes from the beginning of the runs what fits; only when nothing is held. 0: it does not work
 * here, copy instead. */
size_t lender_take(struct lender *l, const struct iovec *iov, unsigned n);
/* Moves held bytes into the socket; more: other bytes will follow at once. Bytes moved, or a
 * negative errno (-EAGAIN: the socket is full). */
ssize_t lender_give(struct lender *l, int fd, bool more);

#endif
