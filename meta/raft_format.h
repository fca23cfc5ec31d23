#ifndef CFS_META_RAFT_FORMAT_H
#define CFS_META_RAFT_FORMAT_H

#include "meta/raft_log.h"

/* What the log's files look like, as pure functions over bytes (docs/raft.md, "Files"). A record's
 * checksum is keyed by its file's random seed and its place in the file, so what an earlier life of a recycled
 * file left behind, or what a user put into an entry, is never taken for a record. */
enum {
    RAFT_BLOCK = 4096, /* batches begin on these; synced blocks are never written again */
    RAFT_SEGMENT_HEADER_BYTES = 64,
    RAFT_RECORD_HEADER_BYTES = 32,
    RAFT_SLOT_BYTES = 4096,
    RAFT_SEGMENT_RESET = 1, /* flag: nothing in earlier segments counts */
    RAFT_RECORD_LAST = 1    /* flag: the last record of its batch */
};
#define RAFT_NUMBER_END ((uint64_t)1 << 62) /* indices and sequences are below: the next one can be counted */

struct raft_segment_header {
    uint64_t sequence;
    uint64_t first_index;
    uint64_t seed;
    uint64_t size;
    uint32_t flags;
};
void raft_segment_encode(const struct raft_segment_header *h,
                         uint8_t out[RAFT_SEGMENT_HEADER_BYTES]);
int raft_segment_decode(struct bytes in, struct raft_segment_header *out);

struct raft_record {
    uint64_t index;
    uint64_t batch_first; /* index of the first record of its batch */
    uint8_t flags;
    struct raft_log_entry entry; /* data borrowed from the file's bytes */
    uint64_t end;                /* where the next record of the batch would stand */
};
uint64_t raft_record_bytes(size_t data_len); /* in the file, with padding */
void raft_record_encode(struct buf *out, uint64_t seed, uint64_t at, const struct raft_record *r);
/* Looks at file[at...]. False when there is no intact record. */
bool raft_record_decode(struct bytes file, uint64_t seed, uint64_t at, struct raft_record *out);

/* All intact records of a file from its first block on, in order, while their indices follow each other.
 * Returns 0, or ERR_CORRUPT when a synced batch stands behind a broken one. */
int raft_segment_scan(struct bytes file, const struct raft_segment_header *h,
                      void (*visit)(void *ctx, const struct raft_record *r), void *ctx,
                      uint64_t *next_index, uint64_t *tail);

void raft_slot_encode(const struct raft_log_state *s, uint64_t version, struct buf *out);
/* ERR_CORRUPT, ERR_VERSION. out->configuration must be initialised. */
int raft_slot_decode(struct bytes in, struct raft_log_state *out, uint64_t *version);

#endif
