#ifndef CFS_CHUNKSERVER_FRAGDISK_INTERNAL_H
#define CFS_CHUNKSERVER_FRAGDISK_INTERNAL_H

#include <stdatomic.h>

#include "chunkserver/fragdisk.h"
#include "chunkserver/segment.h"

/* Shared by fragdisk.c (put, get, delete), fragdisk_recover.c (open) and fragdisk_tidy.c. */
enum {
    SEGMENTS_MAX = 1 << 16,
    SMALL_FRAGMENT_MAX = 65536, /* longer ones go to stream segments */
    KINDS = 2,
    RUN_RECORDS = 16 /* written by one pwritev */
};

struct fragdisk {
    struct disk *disk;
    struct kv *index;
    uint8_t id[16];
    uint64_t size_max;
    unsigned reserve_percent;
    uint64_t segment_bytes[KINDS], stream_step;
    uint32_t small_align;
    /* By number; never removed nor closed while the disk is open, so readers need no lock. */
    _Atomic(struct segment *) *segment;
    uint32_t segments;             /* numbers below this have been used */
    struct segment *active[KINDS]; /* NULL: none */
    uint64_t used;                 /* sum of disk_bytes */
    uint8_t *headers;              /* aligned room for the headers of a run */
    struct disk_space space;       /* as last looked at */
    bool sealed_in_batch;          /* the next index write is synced: bounds the next scan */
    int error;
    /* Where fragdisk_tidy goes on. */
    struct index_hole hole_cursor;
    bool holes, dead_segments;
    bool holes_stuck; /* punching found no room: tried again with the next refresh */
    struct {          /* read by other threads */
        _Atomic(unsigned) health;
        _Atomic(uint64_t) total, free, used, filesystem, filesystem_free, fragments, corrupt;
        _Atomic(uint64_t) puts, put_bytes, batches, reads, read_bytes, deletes, compacted;
    } shown;
};

/* A run of records that lie one behind the other in one segment: one pwritev. */
struct fragdisk_run {
    struct segment *segment;
    uint64_t at, bytes;
    unsigned records;
    struct iovec iov[2 * RUN_RECORDS];
};

static inline unsigned fragdisk_kind_of(uint32_t fragment_bytes)
{
    return fragment_bytes <= SMALL_FRAGMENT_MAX ? SEGMENT_SMALL - 1 : SEGMENT_STREAM - 1;
}
static inline struct segment *fragdisk_segment(struct fragdisk *d, uint32_t number)
{
    return number < SEGMENTS_MAX ? atomic_load_explicit(&d->segment[number], memory_order_acquire)
                                 : NULL;
}

void fragdisk_fail(struct fragdisk *d, int rc); /* no more puts; the first reason is kept */
void fragdisk_publish(struct fragdisk *d);
/* Bytes that may still be allocated, keeping the reserve unless the caller may use it. */
uint64_t fragdisk_room(const struct fragdisk *d, bool privileged);
/* A segment's disk_bytes were `before`. */
void fragdisk_account(struct fragdisk *d, uint64_t before, const struct segment *s);
/* A new segment, durable, not yet in use. -ENOSPC. kind: enum segment_kind. */
int fragdisk_make_segment(struct fragdisk *d, uint8_t kind, bool privileged, struct segment **out);
void fragdisk_add_segment(struct fragdisk *d, struct segment *s);

/* Adds a record to the run, writing the run first when it does not continue; *place gets where. */
int fragdisk_append(struct fragdisk *d, struct fragdisk_run *run, const struct fragment *f,
                    const uint8_t *data, bool privileged, struct index_place *place);
int fragdisk_flush(struct fragdisk *d, struct fragdisk_run *run);
int fragdisk_sync_segments(struct fragdisk *d);
/* Index rows of the marks of both active segments. */
void fragdisk_add_marks(struct fragdisk *d, struct kv_batch *b);
void fragdisk_add_mark(struct kv_batch *b, const struct segment *s);

int fragdisk_recover(struct fragdisk *d);

#endif
