#ifndef CFS_FUSE_CLIENT_H
#define CFS_FUSE_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "fuse/arena.h"
#include "rpc/session.h"
#include "rpc/transport.h"

/* The worker of a mount: what its parts share. One loop owns it all. Parts, each a file:
 *   tables   servers and placement groups, one peer per chunk server
 *   itable   inodes: attributes, extents, inline content, open counts (heap, bounded, rebuilt)
 *   writer   dirty pages (arena) -> stripes -> commits
 *   reader   extents -> fragments -> bytes, with a bounded cache
 *   ops      FUSE requests
 *   fuseloop /dev/fuse, request records, interrupts, restart */
struct tables;
struct itable;
struct writer;
struct reader;
struct ops;
struct fuseloop;

struct client_policy {
    unsigned k, m;
    uint32_t inline_limit;
};

struct client {
    struct timers *timers;
    struct transport *transport;
    struct arena *arena;
    struct session *session;
    struct tables *tables;
    struct itable *itable;
    struct writer *writer;
    struct reader *reader;
    struct ops *ops;
    struct fuseloop *fuseloop;
    struct client_policy policy;
    uint64_t heap_limit_bytes;
    uint32_t deadline_ms;  /* -o deadline; 0 = hard */
    bool read_only;
};

/* Whether this client may answer from its cache for an inode, for how long in ms (0: no lease). Until leases
 * are there the only session holds all of them. */
static inline uint64_t client_lease_ms(const struct client *c, uint64_t ino)
{
    (void)c;
    (void)ino;
    return 3600u * 1000u;
}

#endif
