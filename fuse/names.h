#ifndef CFS_FUSE_NAMES_H
#define CFS_FUSE_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* What this client knows of names: (directory, name) -> inode, filled by lookups, listings and its own changes, and
 * which directories it knows whole (it made them). A bounded cache on the heap, least recently used first to go; it
 * saves the round trip of a LOOKUP, and tells unlink and rename which inode they hit. Under a lease it is exact:
 * a change takes its names out when it is submitted and puts them in when it is answered. What a read brings
 * counts only if no change of that directory was under way meanwhile (names_mark, names_unchanged). */
struct names;

struct names *names_new(unsigned entries_max);
void names_free(struct names *n);

uint64_t names_find(struct names *n, uint64_t dir, struct bytes name); /* 0: not known */
void names_put(struct names *n, uint64_t dir, struct bytes name, uint64_t ino);
void names_drop(struct names *n, uint64_t dir, struct bytes name);

/* A change of a directory is submitted, is over. Pairs. */
void names_change_begin(struct names *n, uint64_t dir);
void names_change_end(struct names *n, uint64_t dir);
uint64_t names_mark(struct names *n, uint64_t dir);
bool names_unchanged(struct names *n, uint64_t dir, uint64_t mark);
bool names_busy(struct names *n, uint64_t dir); /* a change is under way */

/* A listing in several replies, beside which the directory may change: what this client has put or dropped since the
 * watch began is newer than any reply. One watch at a time; a new one takes the place of the old. */
void names_watch(struct names *n, uint64_t dir); /* 0: none any more */
/* A name in a listing of the watched directory. False: it was changed since, the listing is older. */
bool names_put_listed(struct names *n, uint64_t dir, struct bytes name, uint64_t ino);
/* Everything that was listed or changed since is known here. False: a name had to go, the outcome
 * of a change is not known, or there were too many. */
bool names_watch_whole(const struct names *n, uint64_t dir);

/* Complete: a name that is not known is not there. Lost when an entry has to go. */
void names_set_complete(struct names *n, uint64_t dir, bool complete);
bool names_complete(struct names *n, uint64_t dir);
void names_set_parent(struct names *n, uint64_t dir, uint64_t parent);
uint64_t names_parent(struct names *n, uint64_t dir); /* 0: not known */

#endif
