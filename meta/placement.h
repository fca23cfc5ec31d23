#ifndef CFS_META_PLACEMENT_H
#define CFS_META_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which servers hold which slots: a pure plan, the same for the same seed. */
enum { PLACEMENT_WIDTH_MAX = 40, PLACEMENT_SLOTS_PER_SERVER = 128, PLACEMENT_SERVERS_MAX = 1024 };

struct placement_server {
    uint32_t id;     /* never 0 */
    uint32_t domain; /* failure domain; two slots of a group are never in one */
};
struct placement_group {
    uint32_t slot[PLACEMENT_WIDTH_MAX]; /* server ids */
};

/* How many groups of `width` slots give each of n servers at least PLACEMENT_SLOTS_PER_SERVER. */
unsigned placement_count(unsigned n_servers, unsigned width);

/* Fills n_groups groups of `width` slots. Slots per server differ by at most one where each server is a domain of
 * its own; which slot of its groups a server holds is random. -EINVAL: fewer domains than `width`, or more than the
 * limits above. */
int placement_plan(const struct placement_server *servers, unsigned n_servers, unsigned width, uint64_t seed,
                   struct placement_group *groups, unsigned n_groups);

#endif
