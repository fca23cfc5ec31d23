#ifndef CFS_CHUNKSERVER_FRAGDISK_H
#define CFS_CHUNKSERVER_FRAGDISK_H

#include "chunkserver/index.h"
#include "chunkserver/record.h"
#include "store/disk.h"
#include "store/kv.h"

/* Fragments on one disk: segments hold them, the index finds them. Blocking; no clock, no threads
 * of its own. One thread calls everything ("the writer"); fragdisk_find, _read, _list and
 * _state may be called from others at the same time when the index allows gets and iterators from
 * any thread (LevelDB does).
 *
 * Promises: a put that returned 0 is found after any crash, with the bytes it had. A
 * delete that returned 0 stays so while the index lives (if the index is lost and made again,
 * dead fragments may come back: their ids are never used again, the metadata drops
 * them). Costs: a batch of puts is one pwritev per run of up to 16, one sync per segment file
 * touched (at most two), one unsynced index write. No payload byte is copied. */
struct fragdisk;

struct fragdisk_options {
    struct disk *disk; /* taken on success */
    struct kv *index;  /* taken on success */
    uint8_t id[16];
    uint64_t size_max;        /* bytes it may hold; 0: what the filesystem has */
    unsigned reserve_percent; /* of the total, refused to puts */
    uint64_t stream_bytes;    /* size of segments; 0: chosen by capacity */
    uint64_t small_bytes;
};
/* Recovers: reads what the index does not know yet, all of it if the index is new. ERR_CORRUPT: the
 * index is damaged or another disk's: remove it and open again. */
int fragdisk_open(const struct fragdisk_options *options, struct fragdisk **out);
void fragdisk_close(struct fragdisk *d); /* syncs the index; frees disk and index */

struct frag_put {
    struct fragment fragment; /* judged by fragment_refusal before */
    const uint8_t *data;      /* DISK_ALIGN aligned, fragment.bytes */
    int rc;
};
enum { FRAGDISK_BATCH_MAX = 64 };
/* Sets rc of each: 0 durable; ERR_CORRUPT the bytes do not match the CRCs; ERR_ID_CONFLICT another
 * fragment has this key (an equal one: 0); -ENOSPC; -EIO: the disk failed, and takes no more. */
void fragdisk_put(struct fragdisk *d, struct frag_put *const puts[], unsigned n);

/* nonce 0: any. ERR_NOT_FOUND. One lookup. */
int fragdisk_find(struct fragdisk *d, struct frag_key key, uint64_t nonce, struct index_place *out);
/* Reads bytes [offset, offset + len) of a fragment that was found: offset a multiple of
 * STRIPE_CRC_BLOCK, len whole blocks or to the end; `to` DISK_ALIGN aligned. CRCs are
 * checked. ERR_NOT_FOUND: deleted meanwhile. ERR_CORRUPT: damaged (and counted). */
int fragdisk_read(struct fragdisk *d, const struct index_place *place, uint32_t offset,
                  uint32_t len, uint8_t *to);

/* Deletes all fragments of ids [first, first + count) of a group. Durable, and to be answered, when
 * fragdisk_sync has returned 0, which serves many deletes; nothing else but deletes may come before
 * it. Space comes back by fragdisk_tidy. -EIO on a failed disk, whatever could be done. -ENOSPC:
 * others have filled the filesystem, nothing was done, try again later. */
int fragdisk_delete(struct fragdisk *d, uint32_t pg, uint64_t first, uint64_t count,
                    uint64_t *deleted);
int fragdisk_sync(struct fragdisk *d); /* one sync of the index */
/* Fragments of a group with id > after, at most about max, never a part of an id. */
int fragdisk_list(struct fragdisk *d, uint32_t pg, uint64_t after, unsigned max,
                  bool (*visit)(void *ctx, const struct index_place *p), void *ctx);

/* One bounded step of what can wait: punch, free and compact. Returns whether there may be more. */
bool fragdisk_tidy(struct fragdisk *d);
void fragdisk_refresh(struct fragdisk *d); /* looks at the filesystem's free space again */

enum fragdisk_health { FRAGDISK_GOOD = 1, FRAGDISK_FULL = 2, FRAGDISK_FAILED = 3 };
struct fragdisk_state {
    enum fragdisk_health health;
    uint64_t total, free; /* bytes; free: for puts, the reserve already taken off */
    uint64_t used;        /* bytes of segments on the disk */
    uint64_t filesystem;
    uint64_t filesystem_free; /* of the whole filesystem */
    uint64_t fragments, corrupt;
    uint64_t puts, put_bytes, batches, reads, read_bytes, deletes, compacted; /* since the start */
};
void fragdisk_state(struct fragdisk *d, struct fragdisk_state *out);
int fragdisk_error(const struct fragdisk *d); /* what made it fail; 0 */

#endif
