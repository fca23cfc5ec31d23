#ifndef CFS_CHUNKSERVER_CHUNK_SERVICE_H
#define CFS_CHUNKSERVER_CHUNK_SERVICE_H

#include "chunkserver/fragstore.h"
#include "rpc/server.h"

/* The FRAGMENT_* methods: judges requests, hands them to the store, answers. On the loop.
 *
 * A put costs one message each way and a share of one sync; its payload is written from the
 * buffer it arrived in. A get costs one message each way, one index lookup and one disk read into a
 * buffer of `reads`; when all of them are out, gets wait in order of arrival. */
struct chunk_service;

struct chunk_service *chunk_service_new(struct server *server, struct timers *timers,
                                        struct fragstore *store, struct databuf_pool *reads);
void chunk_service_stop(struct chunk_service *cs); /* refuses from now on, and what waits */
void chunk_service_free(struct chunk_service *cs); /* nothing may be in the store any more */

/* What the metadata server said last: puts of an older epoch, and deletes of an older reign, are
 * refused. Neither ever goes back. */
void chunk_service_set_epoch(struct chunk_service *cs, uint32_t pg, uint32_t epoch);
bool chunk_service_set_reign(struct chunk_service *cs, uint64_t reign); /* false: it is older */

/* These ids are being deleted: puts of them are refused from now on, unless that was long ago. */
void chunk_service_dead(struct chunk_service *cs, uint32_t pg, uint64_t first, uint64_t count);

#endif
