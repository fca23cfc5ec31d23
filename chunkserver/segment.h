#ifndef CFS_CHUNKSERVER_SEGMENT_H
#define CFS_CHUNKSERVER_SEGMENT_H

#include "chunkserver/record.h"
#include "store/disk.h"

/* One segment file: two copies of its header, then records, only ever appended. Space comes
 * back by punching dead records (stream segments) or by using the whole file again under a new
 * seed (both kinds). The file of a segment stays open as long as the disk does, so that a
 * reader on another thread needs no lock; a stale reader finds bytes that do not
 * match the CRCs it knows, and looks again.
 *
 * All but segment_read belongs to the disk's writer thread. */
enum segment_state {
    SEGMENT_FREE,   /* nothing in it is needed: may be used again */
    SEGMENT_ACTIVE, /* takes records */
    SEGMENT_SEALED  /* full, or closed by a restart */
};

struct segment {
    struct segment_header head;
    struct disk_file *file;
    enum segment_state state;
    uint64_t end;          /* where the next record goes */
    uint64_t allocated_to; /* the file has blocks up to here */
    uint64_t disk_bytes;   /* that it holds of the disk */
    uint64_t live_bytes;   /* records that the index points to, headers included */
    uint32_t live;
    bool unsynced; /* written since its last sync */
};

/* Bytes of a record with its header. */
static inline uint64_t segment_record_bytes(const struct segment *s, uint32_t fragment_bytes)
{
    return s->head.align + fragment_bytes;
}

/* A new file, with its headers durable; a small one is filled with zeros, so that a later sync
 * need not commit the filesystem's journal (facts: it halves the time of a small sync). */
int segment_create(struct disk *d, const struct segment_header *head, struct segment **out);
/* ERR_CORRUPT: no sound header (*out untouched). The state is SEALED. */
int segment_open(struct disk *d, uint32_t number, const uint8_t disk_id[16], struct segment **out);
void segment_free(struct segment *s);

/* Gives up all content: durable headers with the new seed, no records. */
int segment_reuse(struct segment *s, uint64_t seed);
int segment_grow(struct segment *s, uint64_t bytes); /* allocate that many more */
int segment_seal(struct segment *s); /* gives back what was allocated behind the end */
/* SEALED, all dead -> FREE. Its blocks go back to the disk unless they are kept for the next use.
 */
int segment_clear(struct segment *s, bool keep_blocks);
int segment_punch(struct segment *s, uint64_t at, uint64_t len);
int segment_sync(struct segment *s); /* nothing to do when not unsynced */

/* Calls visit for each sound header at or behind `from`, with the fragment's bytes (borrowed for
 * the call, not checked), until it returns false. Steps over what is no record. Reads everything.
 */
typedef bool (*segment_visit)(void *ctx, uint64_t at, const struct fragment *f,
                              const uint8_t *data);
int segment_scan(struct segment *s, uint64_t from, segment_visit visit, void *ctx);

void segment_path(uint32_t number, char out[32]);

#endif
