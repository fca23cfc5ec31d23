#ifndef CFS_RPC_OUTBOX_H
#define CFS_RPC_OUTBOX_H

#include "rpc/transport.h"

/* The sending core of a connection: frames in, runs of bytes out. No socket. Header and body are
 * copied; small frames that wait together become one run; payload is only pointed to. The shell
 * gathers, writes what the socket takes, and tells how much that was. */
struct outbox {
    struct list items;
    size_t bytes;      /* not yet taken by the socket */
    struct list *done; /* outgoings whose on_sent is due are appended here, with rc */
    uint64_t frames;
};

void outbox_init(struct outbox *x, struct list *done);
/* Fills in lengths and checksum of o->frame. ERR_TOO_BIG: nothing was done. */
int outbox_add(struct outbox *x, struct outgoing *o);
/* Up to `max` runs; returns how many, 0 when there is nothing. */
unsigned outbox_gather(const struct outbox *x, struct iovec *iov, unsigned max);
/* The same in two kinds, for a shell that can lend (lender.h): the rest of a large payload that is
 * lent and is next; what comes before the next such payload. */
unsigned outbox_gather_lent(const struct outbox *x, struct iovec *iov, unsigned max);
unsigned outbox_gather_copied(const struct outbox *x, struct iovec *iov, unsigned max);
void outbox_advance(struct outbox *x, size_t n);
bool outbox_unsend(struct outbox *x,
                   struct outgoing *o);     /* as in transport.h; not for what is in `done` */
void outbox_fail(struct outbox *x, int rc); /* all that is left goes to `done` with rc */

#endif
