#ifndef CFS_FUSE_FUSELOOP_H
#define CFS_FUSE_FUSELOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/table.h"
#include "fuse/client.h"

/* /dev/fuse on the worker's loop: reads requests into arena records, hands them to libfuse's decoder (which calls
 * ops), frees the record when the answer has been written, replays INIT into a new worker's libfuse session, and after a
 * restart executes again what the dead worker had read, in ascending order of command numbers, before anything new.
 *
 * struct opreq is a request on the worker's heap, one per record in use. ops finds its own through
 * fuseloop_current() inside the callback and keeps the pointer until it replies: fuse_reply_*() ends in our
 * writev, which answers the kernel, frees the record and the opreq. The request's bytes (names, data) stay in the record
 * and may be pointed to until the reply. */
struct fuseloop;

struct opreq {
    struct table_node by_unique;
    struct list node;
    struct fuseloop *loop;
    uint64_t unique;
    uint32_t opcode;
    uint32_t pid;            /* thread that asks */
    bool repeated;           /* a dead worker had it: seq may be set; then submit at once, without first waiting for
                                flushes, so that numbers stay in order */
    struct arena_small *small; /* one of the two is set */
    struct arena_big *big;
    struct command *command; /* its command while outstanding; ops owns it */
    uint64_t released_seq;   /* private: released at the session when answered */
    /* ops sets it while waiting for something that a signal may end; called with the opreq, must answer (EINTR ...). */
    void (*on_interrupt)(struct opreq *r);
    bool fatal;              /* SIGKILL is pending for the caller */
    void *ctx;               /* ops' state for this request */
    void (*free_ctx)(void *ctx); /* called when the record is freed, if set */
};

struct opreq *fuseloop_current(struct fuseloop *f);
uint64_t opreq_seq(const struct opreq *r);             /* 0: no command yet */
void opreq_set_seq(struct opreq *r, uint64_t seq);     /* published before anything is sent */
void opreq_set_ticket(struct opreq *r, uint64_t ticket); /* parked: waits for a lock */
uint64_t opreq_ticket(const struct opreq *r);
/* Raw bits that libfuse 3.14 hides: WRITE_KILL_SUIDGID, OPEN_KILL_SUIDGID ... the request as the kernel sent it. */
const void *opreq_raw(const struct opreq *r);          /* struct fuse_in_header */

/* Kernel cache notifications; from a thread of their own, so they never wait for the loop. */
void fuseloop_invalidate_inode(struct fuseloop *f, uint64_t nodeid, int64_t offset, int64_t length);

#endif
