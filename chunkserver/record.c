#include "chunkserver/record.h"

#include <string.h>

#include "base/crc.h"
#include "base/err.h"

#define RECORD_MAGIC 0x31524643u  /* "CFR1" */
#define SEGMENT_MAGIC 0x31474643u /* "CFG1" */

/* Offsets in a record header; the rest is zero. */
enum {
    REC_MAGIC = 0,
    REC_VERSION = 4,
    REC_KIND = 5,
    REC_K = 6,
    REC_M = 7,
    REC_PG = 8,
    REC_SLOT = 12,
    REC_ID = 16,
    REC_NONCE = 24,
    REC_STRIPE_LENGTH = 32,
    REC_BYTES = 40,
    REC_EPOCH = 44,
    REC_BLOCK_CRC = 48,
    REC_HEADER_CRC = RECORD_HEADER_BYTES - 4
};

/* Offsets in a segment header; the rest is zero. */
enum {
    SEG_MAGIC = 0,
    SEG_VERSION = 4,
    SEG_KIND = 5,
    SEG_NUMBER = 8,
    SEG_ALIGN = 12,
    SEG_SEED = 16,
    SEG_SIZE = 24,
    SEG_DISK = 32,
    SEG_CRC = SEGMENT_HEADER_BYTES - 4
};

const char *fragment_refusal(const struct fragment *f)
{
    if (!stripe_code_valid(f->code)) {
        return "no such encoding";
    }
    if (f->key.slot >= STRIPE_SLOTS_MAX) {
        return "no such slot";
    }
    if (f->bytes == 0 || f->bytes > STRIPE_FRAGMENT_MAX || f->bytes % STRIPE_UNIT != 0) {
        return "fragment length is not a multiple of 4 KiB up to 1 MiB";
    }
    if (f->stripe_length == 0 || f->stripe_length > stripe_length_max(f->code)) {
        return "stripe length is out of range";
    }
    if (stripe_fragment_bytes(f->code, f->stripe_length) != f->bytes) {
        return "fragment length does not follow from the stripe's length";
    }
    return NULL;
}

bool fragment_same(const struct fragment *a, const struct fragment *b)
{
    return a->key.pg == b->key.pg && a->key.id == b->key.id && a->key.slot == b->key.slot &&
           a->code.kind == b->code.kind && a->code.k == b->code.k && a->code.m == b->code.m &&
           a->bytes == b->bytes && a->stripe_length == b->stripe_length && a->nonce == b->nonce &&
           memcmp(a->crc, b->crc, sizeof a->crc) == 0;
}

bool fragment_matches(const struct fragment *f, unsigned first, const uint8_t *data, size_t len)
{
    while (len > 0) {
        size_t n = len < STRIPE_CRC_BLOCK ? len : STRIPE_CRC_BLOCK;
        if (first >= STRIPE_CRC_MAX || crc32c(0, data, n) != f->crc[first]) {
            return false;
        }
        first++;
        data += n;
        len -= n;
    }
    return true;
}

static uint32_t record_crc(const uint8_t *header, uint64_t seed, uint64_t at)
{
    uint8_t key[16];
    put_le64(key, seed);
    put_le64(key + 8, at);
    return crc32c(crc32c(0, key, sizeof key), header, REC_HEADER_CRC);
}

void record_encode(uint8_t out[RECORD_HEADER_BYTES], const struct fragment *f, uint64_t seed,
                   uint64_t at)
{
    memset(out, 0, RECORD_HEADER_BYTES);
    put_le32(out + REC_MAGIC, RECORD_MAGIC);
    out[REC_VERSION] = RECORD_VERSION;
    out[REC_KIND] = f->code.kind;
    out[REC_K] = f->code.k;
    out[REC_M] = f->code.m;
    put_le32(out + REC_PG, f->key.pg);
    put_le32(out + REC_SLOT, f->key.slot);
    put_le64(out + REC_ID, f->key.id);
    put_le64(out + REC_NONCE, f->nonce);
    put_le64(out + REC_STRIPE_LENGTH, f->stripe_length);
    put_le32(out + REC_BYTES, f->bytes);
    put_le32(out + REC_EPOCH, f->epoch);
    for (unsigned i = 0; i < STRIPE_CRC_MAX; i++) {
        put_le32(out + REC_BLOCK_CRC + (size_t)4 * i, f->crc[i]);
    }
    put_le32(out + REC_HEADER_CRC, record_crc(out, seed, at));
}

int record_decode(const uint8_t in[RECORD_HEADER_BYTES], uint64_t seed, uint64_t at,
                  struct fragment *out)
{
    if (get_le32(in + REC_MAGIC) != RECORD_MAGIC ||
        get_le32(in + REC_HEADER_CRC) != record_crc(in, seed, at)) {
        return ERR_NOT_FOUND;
    }
    if (in[REC_VERSION] != RECORD_VERSION) {
        return ERR_VERSION;
    }
    struct fragment f = {
        .key = {.pg = get_le32(in + REC_PG), .id = get_le64(in + REC_ID)},
        .code = {.kind = in[REC_KIND], .k = in[REC_K], .m = in[REC_M]},
        .bytes = get_le32(in + REC_BYTES),
        .epoch = get_le32(in + REC_EPOCH),
        .stripe_length = get_le64(in + REC_STRIPE_LENGTH),
        .nonce = get_le64(in + REC_NONCE),
    };
    uint32_t slot = get_le32(in + REC_SLOT);
    f.key.slot = slot < STRIPE_SLOTS_MAX ? (uint8_t)slot : STRIPE_SLOTS_MAX;
    for (unsigned i = 0; i < STRIPE_CRC_MAX; i++) {
        f.crc[i] = get_le32(in + REC_BLOCK_CRC + (size_t)4 * i);
    }
    if (fragment_refusal(&f) != NULL) {
        return ERR_NOT_FOUND;
    }
    *out = f;
    return 0;
}

void segment_header_encode(uint8_t out[SEGMENT_HEADER_BYTES], const struct segment_header *h)
{
    memset(out, 0, SEGMENT_HEADER_BYTES);
    put_le32(out + SEG_MAGIC, SEGMENT_MAGIC);
    out[SEG_VERSION] = SEGMENT_VERSION;
    out[SEG_KIND] = h->kind;
    put_le32(out + SEG_NUMBER, h->number);
    put_le32(out + SEG_ALIGN, h->align);
    put_le64(out + SEG_SEED, h->seed);
    put_le64(out + SEG_SIZE, h->size);
    memcpy(out + SEG_DISK, h->disk, sizeof h->disk);
    put_le32(out + SEG_CRC, crc32c(0, out, SEG_CRC));
}

int segment_header_decode(const uint8_t in[SEGMENT_HEADER_BYTES], struct segment_header *out)
{
    if (get_le32(in + SEG_MAGIC) != SEGMENT_MAGIC ||
        get_le32(in + SEG_CRC) != crc32c(0, in, SEG_CRC)) {
        return ERR_CORRUPT;
    }
    if (in[SEG_VERSION] != SEGMENT_VERSION) {
        return ERR_VERSION;
    }
    struct segment_header h = {
        .kind = in[SEG_KIND],
        .number = get_le32(in + SEG_NUMBER),
        .align = get_le32(in + SEG_ALIGN),
        .seed = get_le64(in + SEG_SEED),
        .size = get_le64(in + SEG_SIZE),
    };
    memcpy(h.disk, in + SEG_DISK, sizeof h.disk);
    bool align_ok =
        h.align >= RECORD_HEADER_BYTES && h.align <= STRIPE_UNIT && (h.align & (h.align - 1)) == 0;
    if ((h.kind != SEGMENT_STREAM && h.kind != SEGMENT_SMALL) || !align_ok ||
        h.size < SEGMENT_FIRST_RECORD) {
        return ERR_CORRUPT;
    }
    *out = h;
    return 0;
}
