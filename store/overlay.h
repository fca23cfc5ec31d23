#ifndef CFS_STORE_OVERLAY_H
#define CFS_STORE_OVERLAY_H

#include "store/kv.h"

/* One pending batch over a store, and reads that see it. The metadata machine applies an
 * entry in here: what an operation wrote, the next one reads, a failed operation is taken back, and
 * at the end all of it becomes one write batch.
 *
 * A small cache of rows (OVERLAY_CACHE_ROWS rows of at most OVERLAY_CACHE_ROW_MAX bytes) stands
 * before the store; it only ever holds what the store holds, so results do not depend on it.
 * Belongs to one thread. Cost of a get: a binary search in the pending keys, then the cache, then
 * kv. */
enum { OVERLAY_CACHE_ROWS = 16384, OVERLAY_CACHE_ROW_MAX = 240 };

struct overlay;

/* The kv stays the caller's. key_valid (may be NULL): a scan that comes upon a stored key which is
 * not ends with ERR_CORRUPT, so that who reads a key may rely on its form. */
struct overlay *overlay_new(struct kv *kv, bool (*key_valid)(struct bytes key));
void overlay_free(struct overlay *o);       /* pending changes are dropped */

/* *out is appended to. ERR_NOT_FOUND; others as kv get. */
int overlay_get(struct overlay *o, struct bytes key, struct buf *out);
void overlay_put(struct overlay *o, struct bytes key, struct bytes value); /* both copied */
void overlay_delete(struct overlay *o, struct bytes key);

/* A point that overlay_rollback returns to. Marks nest; they are void after a commit. */
size_t overlay_mark(const struct overlay *o);
void overlay_rollback(struct overlay *o, size_t mark);

/* Writes everything pending as one batch. After an error nothing counts: stop. */
int overlay_commit(struct overlay *o, bool sync);
bool overlay_is_empty(const struct overlay *o);

/* Ascending scan of the keys with a prefix, from the first key >= from (which has the prefix, or is
 * empty for the start). Changes made while it stands are not promised to be seen, except that
 * overlay_scan_seek sees all made before it. Key and value are borrowed until the next move or
 * change. */
struct overlay_scan {
    struct overlay *o;
    struct kv_iter *it;
    struct buf prefix;
    struct buf at_key; /* key of the current position */
    struct bytes key, value;
    bool valid;
    int error;
};
void overlay_scan_init(struct overlay_scan *s, struct overlay *o, struct bytes prefix,
                       struct bytes from);
void overlay_scan_release(struct overlay_scan *s);
void overlay_scan_seek(struct overlay_scan *s, struct bytes from);
void overlay_scan_next(struct overlay_scan *s);

#endif
