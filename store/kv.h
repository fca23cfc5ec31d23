#ifndef CFS_STORE_KV_H
#define CFS_STORE_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* Ordered store of byte keys: the seam under the metadata machine and the chunk
 * server's index. Real side: kv_leveldb.h. Simulated side: test/lib/kv_mem.h (can
 * fail the n-th write, can lose what was not synced).
 *
 * Order is bytewise (memcmp, shorter first). A store belongs to one thread, but a
 * snapshot may be read from another; the LevelDB side allows get and iterators from any
 * thread at any time (the chunk server's readers use that). */
struct kv;
struct kv_iter;

struct kv_batch {
    struct buf ops; /* private encoding: tag, key run, value run */
    unsigned n;
};
void kv_batch_init(struct kv_batch *b);
void kv_batch_release(struct kv_batch *b);
void kv_batch_clear(struct kv_batch *b);
void kv_batch_put(struct kv_batch *b, struct bytes key, struct bytes value);
void kv_batch_delete(struct kv_batch *b, struct bytes key);
/* Calls put or del (value.data NULL) for each, oldest first. */
void kv_batch_each(const struct kv_batch *b,
                   void (*visit)(void *ctx, bool put, struct bytes key, struct bytes value),
                   void *ctx);

struct kv_stats {
    uint64_t memory_bytes; /* tables, caches, write buffers: approximate */
    uint64_t disk_bytes;
};

struct kv_snapshot; /* a moment of the store */

struct kv_ops {
    /* *out is appended to. ERR_NOT_FOUND; -EIO and the like mean: stop this replica. */
    int (*get)(struct kv *kv, struct kv_snapshot *at, struct bytes key, struct buf *out);
    struct kv_iter *(*iter)(struct kv *kv, struct kv_snapshot *at);
    /* Atomic. With sync it, and all before it, survives a power cut. */
    int (*write)(struct kv *kv, const struct kv_batch *b, bool sync);
    /* Everything written so far is on stable storage when this returns 0. */
    int (*sync)(struct kv *kv);
    struct kv_snapshot *(*snapshot)(struct kv *kv);
    void (*snapshot_free)(struct kv *kv, struct kv_snapshot *s);
    void (*stats)(struct kv *kv, struct kv_stats *out);
    void (*close)(struct kv *kv);

    void (*iter_seek)(struct kv_iter *it, struct bytes key); /* first key >= key */
    void (*iter_next)(struct kv_iter *it);
    bool (*iter_valid)(const struct kv_iter *it); /* false at the end and after an error */
    struct bytes (*iter_key)(const struct kv_iter *it);   /* borrowed until the next move */
    struct bytes (*iter_value)(const struct kv_iter *it); /* borrowed until the next move */
    int (*iter_error)(const struct kv_iter *it);          /* 0, or why it became invalid */
    void (*iter_free)(struct kv_iter *it);
};
struct kv {
    const struct kv_ops *ops;
};
struct kv_iter {
    const struct kv_ops *ops;
};

static inline int kv_get(struct kv *kv, struct bytes key, struct buf *out)
{
    return kv->ops->get(kv, NULL, key, out);
}
static inline int kv_write(struct kv *kv, const struct kv_batch *b, bool sync)
{
    return kv->ops->write(kv, b, sync);
}

#endif
