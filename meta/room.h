#ifndef CFS_META_ROOM_H
#define CFS_META_ROOM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/disk.h"

/* For the case that somebody else fills the disk of a metadata server. The reserve keeps this server from
 * filling it; against others it keeps a file of blocks, `ballast`, and gives it up when next to nothing is left: so what
 * frees can still be done. And what is written to LevelDB waits while not even that helps: LevelDB does not
 * survive a write that finds no space. */
struct room {
    struct disk *disk;
    uint64_t bytes;         /* of the ballast; 0: none */
    uint64_t reserve_bytes; /* it is made again only when this much would stay free */
    bool held;
    atomic_bool full; /* set by room_for_state: the state waits */
};

/* Blocking. Gives the ballast up at once if there is little room. */
void room_init(struct room *r, struct disk *disk, uint64_t reserve_bytes);
/* Gives up or makes the ballast, as the free space (as just looked at) wants it. True if it did. From one thread at a time. */
bool room_look(struct room *r, uint64_t free_bytes);
/* Whether a batch may be written to the state now. From another thread at any time. */
bool room_for_state(struct room *r);

#endif
