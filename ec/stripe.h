#ifndef CFS_EC_STRIPE_H
#define CFS_EC_STRIPE_H

#include <stdbool.h>
#include <stdint.h>

/* Geometry of stripes (design.md, section 4). Pure arithmetic.
 *
 * A stripe is `length` bytes (1 .. k MiB), kept as fragments on slots of its
 * placement group. Slots are numbered 0 .. width-1 within the group; slot_mask
 * has a bit for each slot that holds a fragment. Fragment j of the encoding is
 * on the slot of the j-th lowest set bit.
 *   RS(k,m):  k+m bits; fragment i < k holds bytes [i*f, (i+1)*f), f = fragment bytes,
 *             zero padded; fragments k.. are parity.
 *   COPY(c):  c bits, each holds all bytes, padded to 4 KiB; written as k = 1, m = c - 1.
 * COPY(c) is decoded as "any one": its encoding kind says so, not its k. */
enum {
    STRIPE_UNIT = 4096,            /* fragment lengths are multiples of this */
    STRIPE_FRAGMENT_MAX = 1 << 20, /* bytes of the longest fragment */
    STRIPE_CRC_BLOCK = 65536,      /* bytes that one CRC32C covers; the last block may be short */
    STRIPE_CRC_MAX = STRIPE_FRAGMENT_MAX / STRIPE_CRC_BLOCK,
    STRIPE_SLOTS_MAX = 40 /* width of the widest placement group */
};

enum stripe_kind { STRIPE_RS = 1, STRIPE_COPY = 2 };

struct stripe_code {
    uint8_t kind; /* enum stripe_kind */
    uint8_t k;    /* data fragments; 1 for COPY */
    uint8_t m;    /* losses that it survives */
};

bool stripe_code_valid(struct stripe_code code);
/* Bytes of each fragment of a stripe of `length` bytes: ceil(length/k), up to a STRIPE_UNIT. */
uint32_t stripe_fragment_bytes(struct stripe_code code, uint64_t length);
/* The longest stripe of this code. */
uint64_t stripe_length_max(struct stripe_code code);
/* Bytes on disk of all fragments together. */
uint64_t stripe_stored_bytes(struct stripe_code code, uint64_t length);
/* CRC blocks of a fragment. */
unsigned stripe_crc_blocks(uint32_t fragment_bytes);

/* The slot of fragment j, or -1; the fragment on a slot, or -1. */
int stripe_slot_of(uint64_t slot_mask, unsigned fragment);
int stripe_fragment_on(uint64_t slot_mask, unsigned slot);

/* What a writer uses when only `up` (mask of usable slots) of the group's slots
 * accept, for a policy of k data and m parity: RS(k,m) on all when enough are up,
 * else RS(n-m, m) while n-m >= 2, else COPY(m+1), never with less tolerance than m.
 * small: the data is too short for RS and goes as COPY(m+1). `rotate` picks
 * which slots a COPY uses. Returns false when fewer than m+1 slots are up. */
struct stripe_choice {
    struct stripe_code code;
    uint64_t slot_mask;
};
bool stripe_choose(unsigned k, unsigned m, uint64_t up, bool small, uint64_t rotate,
                   struct stripe_choice *out);

/* Whether a code with this mask survives m losses: what `apply` checks. */
bool stripe_tolerates(struct stripe_code code, uint64_t slot_mask, unsigned m);

#endif
