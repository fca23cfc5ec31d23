#ifndef CFS_META_META_SERVICE_H
#define CFS_META_META_SERVICE_H

#include "meta/machine.h"
#include "rpc/server.h"

/* What cfs-meta answers: sessions, commands, reads, chunk servers, administration. Belongs to the loop; knows
 * neither sockets nor threads (rpc/server.h and machine.h are its seams), so it runs in a simulation.
 *
 * A command costs one proposal; a read one trip to the store worker, behind everything that was answered before; a
 * renewal, a heartbeat and TABLES are answered from memory. */
struct meta_service;

struct meta_service_options {
    struct server *server;
    struct timers *timers;
    const char *address; /* for status; may be set later */
    const char *version;
    uint32_t id;
    uint64_t random;
    /* Memory of the process in bytes; may be NULL. */
    uint64_t (*memory)(void *ctx);
    void (*on_fatal)(void *ctx, const char *what, int rc);
    uint64_t (*wall_ns)(void *ctx);
    void *ctx;
};

/* Registers its handlers with the server. */
struct meta_service *meta_service_new(const struct meta_service_options *options);
void meta_service_free(struct meta_service *s); /* after the machine is closed */

/* The machine's events are to be these, with the service as context; then say which machine. */
extern const struct machine_events meta_service_events;
void meta_service_start(struct meta_service *s, struct machine *m);
void meta_service_set_address(struct meta_service *s, const char *address);
/* No callback of a timer from now on. */
void meta_service_stop(struct meta_service *s);

#endif
