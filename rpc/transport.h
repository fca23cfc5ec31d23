#ifndef CFS_RPC_TRANSPORT_H
#define CFS_RPC_TRANSPORT_H

#include <stdbool.h>
#include <sys/uio.h>

#include "base/buf.h"
#include "base/list.h"
#include "rpc/databuf.h"
#include "rpc/frame.h"
#include "rpc/timers.h"

/* Pipes of whole frames: the seam between RPC and the network. Real side: tcp.h (and
 * TLS, later). Simulated side: test/lib/net_sim.h (delay, break that loses a suffix,
 * partition). A connection is FIFO in both directions; it is never reopened: a
 * new one is another object, and nothing of the old one arrives after its on_closed.
 *
 * All callbacks come from the loop, never inside the call that causes them. */
struct transport;
struct conn;

struct message { /* a received frame; valid during on_message */
    struct frame frame;
    struct bytes body;
    struct databuf *payload; /* NULL when there is none; databuf_ref to keep */
};

struct outgoing {       /* the caller's memory until on_sent */
    struct frame frame; /* kind, method, id, status, deadline; lengths and CRC are filled in */
    struct bytes body;  /* copied by conn_send */
    const struct iovec *payload; /* array and memory stay the caller's until on_sent */
    unsigned n_payload;
    bool lend; /* the payload does not change until the peer has answered: need not be copied
                * (lender.h) */
    /* The bytes have left (0) or never will (negative). May be NULL if there is no
     * payload; then the outgoing itself is free when conn_send returns. Not called when
     * send itself failed, nor after unsend. */
    void (*on_sent)(struct outgoing *o, int rc);
    /* private to the transport */
    struct list node;
    void *item;
    int rc;
};

struct conn_events {
    void (*on_open)(struct conn *c, void *ctx); /* connecting side only */
    void (*on_message)(struct conn *c, struct message *m, void *ctx);
    /* The last callback; the conn is gone when it returns. rc: 0 closed by us or
     * orderly by the peer, negative errno, ERR_MALFORMED with a fault. on_sent of all that
     * was not sent has been called before. */
    void (*on_closed)(struct conn *c, int rc, void *ctx);
};

struct conn {
    struct transport *transport;
    const struct conn_events *events;
    void *ctx;
};

struct transport_counts { /* of all connections of this transport, since its start */
    uint64_t faults[FRAME_FAULTS];
    uint64_t frames_in, frames_out, bytes_in, bytes_out, accepted, refused;
};

struct transport_ops {
    /* address "host:port"; port 0 = any free one. accept is called per connection and sets
     * events and ctx of it, or returns false to refuse it. *bound: the real "host:port"
     * (64 bytes). */
    int (*listen)(struct transport *t, const char *address,
                  bool (*accept)(struct conn *c, void *ctx), void *ctx, char *bound);
    /* Never fails at once: a failure comes as on_closed. */
    struct conn *(*connect)(struct transport *t, const char *address,
                            const struct conn_events *events, void *ctx);
    int (*send)(struct conn *c, struct outgoing *o); /* ERR_DISCONNECTED once closing */
    /* Takes back an outgoing whose on_sent has not run: it will not, and all its memory is the
     * caller's at return. True if no byte of it had left. A part that had left is completed from a
     * copy. */
    bool (*unsend)(struct conn *c, struct outgoing *o);
    void (*close)(struct conn *c);                  /* on_closed follows, rc 0 */
    void (*abort)(struct conn *c, int rc);          /* the same with this rc */
    size_t (*unsent)(const struct conn *c);         /* bytes queued: for back-pressure */
    void (*pause)(struct conn *c, bool paused);     /* stop reading from it */
    const char *(*peer_name)(const struct conn *c); /* "127.0.0.1:4711" */
    void (*shutdown)(struct transport *t, void (*on_done)(void *ctx), void *ctx);
};

struct transport {
    const struct transport_ops *ops;
    struct timers *timers;         /* of the loop that it lives on */
    struct databuf_pool *payloads; /* received payloads come from here; reading pauses while
                                      it is empty; NULL: frames with payload are refused */
    struct bytes refusal;          /* a whole frame, or empty: said to a connection beyond the limit
                                      before it is closed; whoever sets it keeps the memory */
    struct transport_counts counts;
    struct fault_log *fault_log; /* private: who was logged when */
};
void transport_init(struct transport *t, const struct transport_ops *ops, struct timers *timers,
                    struct databuf_pool *payloads);
void transport_release(struct transport *t);

/* Closes a connection because its peer broke the protocol: counted, and logged
 * at most once a second per peer with the number suppressed. */
void transport_fault(struct conn *c, enum frame_fault fault);
/* A connection that was not taken: counted, and logged like a fault. */
void transport_refused(struct transport *t, const char *peer);

#endif
