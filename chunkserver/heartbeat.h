#ifndef CFS_CHUNKSERVER_HEARTBEAT_H
#define CFS_CHUNKSERVER_HEARTBEAT_H

#include "chunkserver/chunk_service.h"
#include "rpc/call.h"

/* How the chunk server and the metadata servers stay in touch: registers, then says each second how
 * it is, and does what it is told: deletes dead ids, learns epochs. Asks one address after
 * the other until one is the leader. While none answers the server goes on serving; what it has
 * done is reported again until a leader has heard it. */
struct heartbeat;

enum {
    HEARTBEAT_MS = 1000,
    HEARTBEAT_RETRY_MS = 250, /* when no address helped */
    HEARTBEAT_TIMEOUT_MS = 3000,
    HEARTBEAT_HUNG_MS = 10000 /* a disk that does not answer for so long is left out */
};

struct heartbeat_options {
    struct transport *transport;
    struct server *server; /* for its counters */
    struct fragstore *store;
    struct chunk_service *service;
    const char *addresses; /* of cfs-meta: "host:port[,host:port...]" */
    const char *listen;    /* where clients find this server */
    const char *domain;    /* may be NULL */
    const char *version;
    /* Called once if a metadata server says that this server is another cluster's. May be NULL. */
    void (*on_foreign)(void *ctx, const char *text);
    void *ctx;
};
/* -EINVAL: no address. Strings are copied. */
int heartbeat_start(const struct heartbeat_options *options, struct heartbeat **out);
void heartbeat_stop(struct heartbeat *h); /* asks nothing more; before the store is closed */
void heartbeat_free(struct heartbeat *h); /* when the store holds none of its operations */

#endif
