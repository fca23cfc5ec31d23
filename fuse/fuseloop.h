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
struct fuse_lowlevel_ops;
struct uv_loop_s;

struct fuseloop_options {
    struct uv_loop_s *uv;
    struct client *client;   /* userdata of libfuse's session; client->arena is attached; client->fuseloop is set here */
    int dev_fd;              /* /dev/fuse, opened by the holder; made non-blocking */
    const struct fuse_lowlevel_ops *ops; /* copied */
    size_t ops_bytes;
    void (*on_answered)(void *ctx, uint64_t seq); /* the command of an answered request may be released */
    void (*on_unmounted)(void *ctx);              /* /dev/fuse said ENODEV: once, from the loop */
    void *ctx;
};
/* Takes over the arena's requests (fuseloop_take_next gives them), replays INIT. Negative: libfuse refused, or no memory map. */
int fuseloop_new(const struct fuseloop_options *options, struct fuseloop **out);
void fuseloop_free(struct fuseloop *f); /* records stay in the arena */

/* After a restart, in this order: the requests that have a command number, ascending (the caller puts commits and
 * fillers between them), then the others by unique id. NULL: no more. fuseloop_execute may be called for each once. */
struct opreq *fuseloop_take_next(struct fuseloop *f);
void fuseloop_execute(struct fuseloop *f, struct opreq *r);

/* Starts, and for a handover stops, reading of new requests. */
int fuseloop_start(struct fuseloop *f);
void fuseloop_stop(struct fuseloop *f);
unsigned fuseloop_waiting(const struct fuseloop *f); /* requests not answered, without parked ones */

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
    /* ops sets it while waiting for something that a signal may end; called with the opreq, must answer (EINTR ...). */
    void (*on_interrupt)(struct opreq *r);
    bool fatal;              /* SIGKILL is pending for the caller */
    void *ctx;               /* ops' state for this request */
    void (*free_ctx)(void *ctx); /* called when the record is freed, if set */
    uint8_t *translated;     /* private: what libfuse was shown, where it does not know the request as it came */
    bool answered;           /* private: the caller was killed and has its answer; the rest goes on without it */
};

struct opreq *fuseloop_current(struct fuseloop *f);
bool opreq_interrupted(const struct opreq *r);         /* a signal came, perhaps before on_interrupt was set */
uint64_t opreq_seq(const struct opreq *r);             /* 0: no command yet */
void opreq_set_seq(struct opreq *r, uint64_t seq);     /* published before anything is sent */
/* Whether it may wait for long: not in one of the few large buffers, which it has while no small record is free. */
bool opreq_may_park(const struct opreq *r);
void opreq_set_ticket(struct opreq *r, uint64_t ticket); /* parked: waits for a lock */
uint64_t opreq_ticket(const struct opreq *r);
/* Raw bits that libfuse 3.14 hides: WRITE_KILL_SUIDGID, OPEN_KILL_SUIDGID ... the request as the kernel sent it. */
const void *opreq_raw(const struct opreq *r);          /* struct fuse_in_header */

/* Kernel cache notifications; from a thread of their own, so they never wait for the loop. A negative offset drops
 * attributes only. fuseloop_invalidate_names drops all cached names (kernel 6.16; -ENOSYS before, found at INIT). */
void fuseloop_invalidate_inode(struct fuseloop *f, uint64_t nodeid, int64_t offset, int64_t length);
int fuseloop_invalidate_names(struct fuseloop *f);

#endif
