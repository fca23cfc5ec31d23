#include "ec/stripe.h"

#include "base/check.h"
#include "ec/rs.h"

static unsigned count_bits(uint64_t mask)
{
    return (unsigned)__builtin_popcountll(mask);
}

bool stripe_code_valid(struct stripe_code code)
{
    if (code.m > RS_M_MAX) {
        return false;
    }
    if (code.kind == STRIPE_COPY) {
        return code.k == 1;
    }
    return code.kind == STRIPE_RS && code.k >= 1 && code.k <= RS_K_MAX;
}

uint32_t stripe_fragment_bytes(struct stripe_code code, uint64_t length)
{
    CHECK(code.k > 0 && length <= stripe_length_max(code));
    const uint64_t part = (length + code.k - 1) / code.k;
    return (uint32_t)((part + STRIPE_UNIT - 1) / STRIPE_UNIT * STRIPE_UNIT);
}

uint64_t stripe_length_max(struct stripe_code code)
{
    return (uint64_t)code.k * STRIPE_FRAGMENT_MAX;
}

uint64_t stripe_stored_bytes(struct stripe_code code, uint64_t length)
{
    return (uint64_t)stripe_fragment_bytes(code, length) * (code.k + (uint64_t)code.m);
}

unsigned stripe_crc_blocks(uint32_t fragment_bytes)
{
    return (fragment_bytes + STRIPE_CRC_BLOCK - 1) / STRIPE_CRC_BLOCK;
}

int stripe_slot_of(uint64_t slot_mask, unsigned fragment)
{
    for (; slot_mask != 0; slot_mask &= slot_mask - 1) {
        if (fragment-- == 0) {
            return __builtin_ctzll(slot_mask);
        }
    }
    return -1;
}

int stripe_fragment_on(uint64_t slot_mask, unsigned slot)
{
    if (slot >= 64 || !(slot_mask >> slot & 1)) {
        return -1;
    }
    return (int)count_bits(slot_mask & ((1ull << slot) - 1));
}

/* n of the bits of `up`, beginning with the rotate-th and going round. */
static uint64_t pick(uint64_t up, unsigned n, uint64_t rotate)
{
    const unsigned have = count_bits(up);
    uint64_t mask = 0;
    for (unsigned i = 0; i < n; i++) {
        mask |= 1ull << stripe_slot_of(up, (unsigned)((rotate + i) % have));
    }
    return mask;
}

bool stripe_choose(unsigned k, unsigned m, uint64_t up, bool small, uint64_t rotate,
                   struct stripe_choice *out)
{
    const unsigned n = count_bits(up);
    if (n < m + 1) {
        return false;
    }
    const unsigned data = n - m < k ? n - m : k;
    if (small || data < 2) {
        out->code = (struct stripe_code){.kind = STRIPE_COPY, .k = 1, .m = (uint8_t)m};
        out->slot_mask = pick(up, m + 1, rotate);
        return true;
    }
    out->code = (struct stripe_code){.kind = STRIPE_RS, .k = (uint8_t)data, .m = (uint8_t)m};
    out->slot_mask = pick(up, data + m, rotate);
    return true;
}

bool stripe_tolerates(struct stripe_code code, uint64_t slot_mask, unsigned m)
{
    return stripe_code_valid(code) && code.m >= m &&
           count_bits(slot_mask) == (unsigned)code.k + code.m && slot_mask >> STRIPE_SLOTS_MAX == 0;
}
