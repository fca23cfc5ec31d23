#ifndef CFS_FUSE_HANDLES_H
#define CFS_FUSE_HANDLES_H

#include <stdbool.h>
#include <stdint.h>

#include "fuse/arena.h"

/* Open files and directories: an index on the heap over the arena's handle records, which are the truth and outlive
 * the worker. What the kernel holds as `fh` is index | generation << 32.
 *
 * A handle whose inode has lost its last name stays in the arena after the kernel has released it (CLOSED), until the
 * server has let the orphan go: so a worker that dies between the two leaves a successor that still knows. Such a record
 * may also be made for an orphan that nobody has open (handles_keep_orphan). */
struct handles;

struct handles *handles_new(struct arena *a); /* indexes what is in the arena */
void handles_free(struct handles *h);

/* A handle for the request `unique`. A repeated request finds the one it made before. -ENFILE: all are in use. */
struct handle_want {
    uint64_t ino, unique;
    uint32_t open_flags, flags;
    uint64_t reported_error;
    bool repeated;
};
int handles_open(struct handles *h, const struct handle_want *want, uint64_t *ret_fh);
/* NULL when it is gone, or of another generation. */
struct arena_handle *handles_find(const struct handles *h, uint64_t fh);
uint64_t handles_fh(const struct handles *h, const struct arena_handle *record);
/* The kernel has released it. One that is gone is nothing. Returns whether it was the last open one of an orphan: then
 * its record stays, CLOSED, until handles_orphan_gone. */
bool handles_close(struct handles *h, uint64_t fh, uint64_t *ret_ino);

/* How many the kernel has open. */
unsigned handles_count(const struct handles *h, uint64_t ino);
unsigned handles_total(const struct handles *h);
/* Whether a lock was ever asked for through one of them. */
bool handles_locked(const struct handles *h, uint64_t ino);
void handles_set_locked(struct handles *h, struct arena_handle *record);

/* The inode has (on) lost its last name, or got one again (off). Returns how many are open. */
unsigned handles_set_orphan(struct handles *h, uint64_t ino, bool on);
/* Remembers an orphan that nobody has open. */
void handles_keep_orphan(struct handles *h, uint64_t ino);
/* The server has let it go: frees its CLOSED records. */
void handles_orphan_gone(struct handles *h, uint64_t ino);

/* Each record in use, open or closed. */
void handles_walk(struct handles *h, void (*visit)(struct arena_handle *record, void *ctx), void *ctx);

#endif
