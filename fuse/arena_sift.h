#ifndef CFS_FUSE_ARENA_SIFT_H
#define CFS_FUSE_ARENA_SIFT_H

#include "fuse/arena.h"

/* A new worker's one look at what an earlier one left, before anything is taken over: handles, inodes, pages and
 * commits that no worker can have written are dropped, with a line in the log; what is taken over may rely on the rest.
 * (Requests are looked at where they are taken over: who waits for one is to be answered.) How many were dropped, or
 * -EINVAL: the session's own numbers make no sense. */
int arena_sift(struct arena *a);

/* Whether a command of the session in the arena can have this number, at most a number too high: a record is published
 * before next_seq. */
bool arena_sift_seq(const struct arena *a, uint64_t seq);

#endif
