#ifndef CFS_FUSE_TABLES_H
#define CFS_FUSE_TABLES_H

#include "fuse/client.h"
#include "rpc/call.h"

/* Servers and placement groups as the metadata server last said, and a peer per chunk server. */
struct tables *tables_new(struct client *c);
void tables_free(struct tables *t);
/* Fetches the table (again); on_done when it is there. Also called by the session's EVENT_TABLES.
 */
void tables_fetch(struct tables *t, void (*on_done)(void *ctx, int rc), void *ctx);
uint32_t tables_version(const struct tables *t);

/* The policy in force, as the server says it. False, and nothing changes: there is no such. */
struct Cfs__Policy;
bool tables_take_policy(struct client *c, const struct Cfs__Policy *p);

struct pg {
    uint32_t id, epoch;
    uint8_t k, m, width;
    uint32_t slot[40];     /* server ids; 0 vacant */
    uint32_t old_slot[40]; /* while a slot moves: reads try these too */
};
const struct pg *tables_pg(const struct tables *t, uint32_t pg); /* NULL: unknown, fetch */
struct peer *tables_peer(struct tables *t, uint32_t server);     /* NULL: unknown */
/* Slots of the group that take new fragments: up by the table, and not found dead or full by this
 * client. */
uint64_t tables_up(const struct tables *t, const struct pg *pg);
/* Slots that would take them but for space: up, and full by the table or by what this client found.
 */
uint64_t tables_full(const struct tables *t, const struct pg *pg);
/* The table says up and this client did not find it down: worth asking for a fragment. */
bool tables_reachable(const struct tables *t, uint32_t server);
/* What the client itself saw; down lasts until the connection is back, full for 5 s. */
void tables_found_down(struct tables *t, uint32_t server);
void tables_found_full(struct tables *t, uint32_t server);

#endif
