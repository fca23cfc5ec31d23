#ifndef CFS_RPC_SERVER_H
#define CFS_RPC_SERVER_H

#include "base/list.h"
#include "rpc/transport.h"

/* The answering side. Each method has one handler; unknown and reserved methods are refused with
 * ERR_UNKNOWN_CALL and their name or number in the text. A handler answers now or later, from the
 * loop, exactly once by request_reply. A request whose connection is gone may still be
 * answered, and must be, since that frees it: the answer is dropped. METHOD_PING and
 * METHOD_COUNTERS have handlers from the start. A connection with SERVER_PENDING_MAX unanswered
 * requests, or SERVER_PENDING_BYTES of bodies in them, is not read until some are. A connection
 * beyond the transport's limit is told so by EVENT_REFUSED. */
enum { SERVER_PENDING_MAX = 4096, SERVER_PENDING_BYTES = 16 << 20, SERVER_METHODS = 1024 };
struct server;
struct server_peer; /* one connection; opaque, its pointer identifies it while it lives */

struct request {
    struct server *server;
    struct server_peer *peer; /* NULL once its connection is gone */
    uint16_t method;
    uint64_t id;
    uint64_t deadline_at_ms; /* 0: none */
    struct bytes body;       /* owned by the request */
    struct databuf *payload; /* owned by the request; databuf_ref to keep longer */
    bool cancelled;          /* the caller gave up; answering is still allowed */
    void *ctx;               /* the handler's, for its own state */
    struct list node;        /* private */
};

typedef void (*server_handler)(struct request *r, void *ctx);

struct server *server_new(struct transport *t);
void server_free(struct server *s); /* after the transport's shutdown */
int server_listen(struct server *s, const char *address, char *bound /* 64 bytes */);
void server_handle(struct server *s, uint16_t method, server_handler handler, void *ctx);
/* Called when a connection of a peer ends (sessions, leases); may be NULL. */
void server_on_gone(struct server *s, void (*on_gone)(struct server_peer *p, void *ctx), void *ctx);
/* Called when a caller cancels; the request is one that was not answered yet. */
void server_on_cancel(struct server *s, void (*on_cancel)(struct request *r, void *ctx), void *ctx);

/* Answers and frees the request. rc: 0 or an error (sent as wire status). body is copied.
 * payload memory stays the caller's until on_sent(ctx) (may be NULL: no payload). */
struct reply_payload {
    const struct iovec *iov;
    unsigned n;
    void (*on_sent)(void *ctx);
    void *ctx;
};
void request_reply(struct request *r, int rc, struct bytes body,
                   const struct reply_payload *payload);
/* Answers an error with a sentence that the caller may show. */
void request_fail(struct request *r, int rc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Closes the connection as malformed: for bodies that do not decode. Frees the request. */
void request_malformed(struct request *r);

/* A packed CountersReply: frames, bytes, connections, faults by name, memory.rss of the process,
 * and asked.METHOD for each method that was asked for. */
void server_counters(const struct server *s, struct buf *packed);

/* One-way message to a connected peer. Dropped if it is gone. */
void server_event(struct server_peer *p, uint16_t method, struct bytes body);
const char *server_peer_name(const struct server_peer *p);
void server_peer_close(struct server_peer *p);

#endif
