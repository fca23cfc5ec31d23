#ifndef CFS_RPC_CALL_H
#define CFS_RPC_CALL_H

#include "base/list.h"
#include "base/table.h"
#include "rpc/transport.h"

/* The asking side: a `peer` is one address that is connected when needed and again
 * after a break (at once, then with growing pauses of 20 ms to 1 s). A call that
 * was sent and not answered when the connection breaks ends with ERR_DISCONNECTED; so does one that
 * waits for a connect that fails, and, from the loop, one started in the pause after that. Retries
 * live in rpc/session (metadata) and in the reader and writer (fragments), nowhere else.
 *
 * A call costs one frame out, one in. Zero the struct before its first use. It is the caller's and
 * lives until on_done, which runs exactly once, never inside call_start, except after call_cancel
 * (then never). */
struct peer;
struct call {
    /* in, set by the caller */
    uint16_t method;
    struct bytes body;           /* copied at call_start */
    const struct iovec *payload; /* stays until on_done */
    unsigned n_payload;
    bool lend;                   /* the payload does not change until on_done (lender.h); the
                                  * process ignores SIGPIPE */
    uint32_t timeout_ms; /* must be > 0: no call without a deadline */
    void (*on_done)(struct call *c);
    /* out, valid in on_done */
    int rc;                        /* 0, the peer's error, ERR_DEADLINE, ERR_DISCONNECTED */
    struct bytes reply;            /* borrowed for the callback */
    struct databuf *reply_payload; /* databuf_ref to keep */
    /* private */
    struct peer *peer;
    struct list node;
    struct table_node by_id;
    uint64_t id;
    struct timer timer;
    struct outgoing outgoing;
    struct buf kept_body; /* while it waits for the connection */
    int state;
};

struct peer_events {
    void (*on_up)(struct peer *p, void *ctx); /* connected; calls made now go out first */
    /* The connection broke or was refused. Comes before on_done of the calls that this ends. */
    void (*on_down)(struct peer *p, int rc, void *ctx);
    void (*on_event)(struct peer *p, uint16_t method, struct bytes body, void *ctx);
};

/* address is copied. events may be NULL. Connects at the first call, or at peer_connect. */
struct peer *peer_new(struct transport *t, const char *address, const struct peer_events *events,
                      void *ctx);
void peer_free(struct peer *p); /* open calls end with ERR_CANCELLED, from the loop */
void peer_connect(struct peer *p);
bool peer_is_up(const struct peer *p);
const char *peer_address(const struct peer *p);
/* The sentence with which the server refused the last connection; NULL if it did not. Until the next callback. */
const char *peer_refusal(const struct peer *p);
size_t peer_unsent(const struct peer *p);
/* Breaks the connection on suspicion (a silent server): open calls end, it reconnects. */
void peer_reset(struct peer *p);

void call_start(struct peer *p, struct call *c);
void call_cancel(struct call *c); /* fine when it is done; its memory and payload are free at
                                     return (a payload half sent closes the connection) */

#endif
