#ifndef CFS_FUSE_READER_H
#define CFS_FUSE_READER_H

#include <sys/uio.h>

#include "fuse/itable.h"

/* Bytes of files: extents -> fragments straight from the data slots -> CRC checked here -> cache. A
 * missing, corrupt or slow fragment (hedged after p95, at most 5% of reads) is replaced by decoding
 * any k, and reported. NOT_FOUND: the extents are fetched again before anything is called lost.
 * Sequential readers are read ahead of by whole stripes. Fewer than k reachable: EIO after 10 s (or
 * -o deadline). Dirty bytes lie on top (writer_overlay). Memory: the arena's cache region, fixed
 * blocks, least recently used first. */
enum { READER_IOV_MAX = 260, READER_LOST_MS = 10000 };

struct reader *reader_new(struct client *c);
void reader_free(struct reader *r);

struct read_request { /* the caller's memory from reader_start until reader_finish */
    struct inode *inode;
    uint64_t offset;
    uint32_t length;
    bool sequential_hint;
    void (*on_done)(
        struct read_request *rr); /* exactly once; may come inside reader_start on a cache hit */
    int rc;                       /* 0 or negative; with 0: */
    struct iovec
        iov[READER_IOV_MAX]; /* the bytes, in populated memory, pinned until reader_finish */
    unsigned n_iov;
    uint32_t bytes;   /* short only at the end of the file */
    struct list node; /* private */
    void *internal;   /* private */
};
void reader_start(struct reader *r, struct read_request *rr);
void reader_finish(struct reader *r,
                   struct read_request *rr); /* unpins; also cancels one under way */

/* Data or hole at offset: SEEK_DATA / SEEK_HOLE over extents and dirty pages. -ENXIO past the end.
 */
void reader_seek(struct reader *r, struct inode *in, uint64_t offset, bool hole,
                 void (*on_done)(void *ctx, int rc, uint64_t at), void *ctx);
/* What is cached of the file in this range is not true any more. */
void reader_invalidate(struct reader *r, uint64_t ino, uint64_t offset, uint64_t length);

/* Asks for the extents of this range if the inode's cache has not all of them; nobody is told when
 * they are there. The inode is pinned meanwhile. */
void reader_want_layout(struct reader *r, struct inode *in, uint64_t offset, uint64_t length);

/* Fragments found missing or corrupt since the last call, at most max: for the renewal of the
 * session. */
struct bad_fragment {
    uint32_t pg, slot, server, what; /* what: 1 missing, 2 corrupt */
    uint64_t stripe;
};
unsigned reader_bad_fragments(struct reader *r, struct bad_fragment *out, unsigned max);

#endif
