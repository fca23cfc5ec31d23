#ifndef CFS_CHUNKSERVER_RECORD_H
#define CFS_CHUNKSERVER_RECORD_H

#include <stdbool.h>

#include "base/buf.h"
#include "ec/stripe.h"

/* What is on a chunk server's disk, as bytes (docs/disk-format-chunk.md): the header of a
 * segment file, and the records in it, each a header and a fragment. Pure code.
 *
 * A record's header CRC is keyed by its segment's random seed and by its own offset: a
 * fragment whose bytes look like a record, an old record in a recycled segment, and a
 * record that a disk wrote to the wrong place are all refused. */
enum {
    RECORD_HEADER_BYTES = 512,
    RECORD_VERSION = 1,
    SEGMENT_HEADER_BYTES = 4096,
    SEGMENT_VERSION = 1,
    SEGMENT_FIRST_RECORD = 2 * SEGMENT_HEADER_BYTES /* behind two copies of the header */
};

struct frag_key {
    uint32_t pg;
    uint64_t id;
    uint8_t slot; /* < STRIPE_SLOTS_MAX */
};
struct fragment { /* all that is known of a fragment, without its bytes */
    struct frag_key key;
    struct stripe_code code;
    uint32_t bytes; /* multiple of STRIPE_UNIT, 1 unit to STRIPE_FRAGMENT_MAX */
    uint32_t epoch; /* of the group when it was written */
    uint64_t stripe_length;
    uint64_t nonce;
    uint32_t crc[STRIPE_CRC_MAX]; /* of each 64 KiB block; unused ones zero */
};

/* The one place where a fragment from outside is judged. NULL: fine; else why not. */
const char *fragment_refusal(const struct fragment *f);
bool fragment_same(const struct fragment *a, const struct fragment *b); /* but for the epoch */
/* Whether the bytes from block `first` on (len of them) match their CRCs. */
bool fragment_matches(const struct fragment *f, unsigned first, const uint8_t *data, size_t len);

void record_encode(uint8_t out[RECORD_HEADER_BYTES], const struct fragment *f, uint64_t seed,
                   uint64_t at);
/* ERR_NOT_FOUND: no record here; ERR_VERSION: a sound one, of a later version. */
int record_decode(const uint8_t in[RECORD_HEADER_BYTES], uint64_t seed, uint64_t at,
                  struct fragment *out);

enum segment_kind { SEGMENT_STREAM = 1, SEGMENT_SMALL = 2 };
struct segment_header {
    uint8_t kind;     /* enum segment_kind */
    uint32_t number;  /* of the file */
    uint32_t align;   /* of records: 512 .. 4096, a power of two */
    uint64_t seed;    /* new with each use of the file */
    uint64_t size;    /* bytes that the file may grow to */
    uint8_t disk[16]; /* identity of the disk that it belongs to */
};
void segment_header_encode(uint8_t out[SEGMENT_HEADER_BYTES], const struct segment_header *h);
int segment_header_decode(const uint8_t in[SEGMENT_HEADER_BYTES], struct segment_header *out);

#endif
