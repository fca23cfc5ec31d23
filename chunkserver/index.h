#ifndef CFS_CHUNKSERVER_INDEX_H
#define CFS_CHUNKSERVER_INDEX_H

#include "chunkserver/record.h"
#include "store/kv.h"

/* Rows of a disk's index (docs/disk-format-chunk.md). The index says where a fragment is and
 * what its CRCs are, so a read costs one lookup and one disk access. All of it can be made
 * again from the segments.
 *
 *   'f' pg id slot      -> where a fragment is, and its facts
 *   's' segment         -> the seed it was used with, and how far it is indexed
 *   'p' segment offset  -> bytes to punch: the delete is durable, the space not yet back
 *   'v'                 -> format version and the disk's identity */
struct index_place {
    struct fragment fragment;
    uint32_t segment;
    uint64_t at; /* of the record */
};
struct index_mark {
    uint64_t seed;
    uint64_t scanned; /* every sound record before this offset has been indexed */
};
struct index_hole {
    uint32_t segment;
    uint64_t seed;
    uint64_t at, len;
};

void index_put(struct kv_batch *b, const struct index_place *p);
void index_delete(struct kv_batch *b, struct frag_key key);
void index_put_mark(struct kv_batch *b, uint32_t segment, const struct index_mark *m);
void index_put_hole(struct kv_batch *b, const struct index_hole *h);
void index_delete_hole(struct kv_batch *b, const struct index_hole *h);
void index_put_identity(struct kv_batch *b, const uint8_t disk[16]);

/* One get each. ERR_NOT_FOUND, ERR_CORRUPT, ERR_VERSION, -EIO. */
int index_get(struct kv *kv, struct frag_key key, struct index_place *out);
int index_get_mark(struct kv *kv, uint32_t segment, struct index_mark *out);
int index_get_identity(struct kv *kv, uint8_t disk[16]);

/* Walks fragments of one group from id `first` on, in order of (id, slot), or all of them;
 * stops when visit returns false. Returns 0 or an error of the store. */
typedef bool (*index_visit)(void *ctx, const struct index_place *p);
int index_walk_pg(struct kv *kv, uint32_t pg, uint64_t first, index_visit visit, void *ctx);
int index_walk_all(struct kv *kv, index_visit visit, void *ctx);
/* Holes from (segment, at) on. */
int index_walk_holes(struct kv *kv, uint32_t segment, uint64_t at,
                     bool (*visit)(void *ctx, const struct index_hole *h), void *ctx);

/* For tests and the fuzz target. */
int index_decode(struct bytes key, struct bytes value, struct index_place *out);

#endif
