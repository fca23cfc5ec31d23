#include "meta/raft_format.h"

#include <string.h>

#include "base/crc.h"
#include "base/err.h"

static const char segment_magic[8] = "CFSLOG1";
static const char slot_magic[8] = "CFSRST1";
enum { FORMAT_VERSION = 1, SLOT_FIXED_BYTES = 80 };

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

void raft_segment_encode(const struct raft_segment_header *h, uint8_t out[RAFT_SEGMENT_HEADER_BYTES])
{
    memset(out, 0, RAFT_SEGMENT_HEADER_BYTES);
    memcpy(out, segment_magic, sizeof segment_magic);
    put_le32(out + 8, FORMAT_VERSION);
    put_le32(out + 12, h->flags);
    put_le64(out + 16, h->sequence);
    put_le64(out + 24, h->first_index);
    put_le64(out + 32, h->seed);
    put_le64(out + 40, h->size);
    put_le32(out + 60, crc32c(0, out, 60));
}

int raft_segment_decode(struct bytes in, struct raft_segment_header *out)
{
    const uint8_t *p = in.data;
    if (in.len < RAFT_SEGMENT_HEADER_BYTES ||
        memcmp(p, segment_magic, sizeof segment_magic) != 0 || get_le32(p + 60) != crc32c(0, p, 60)) {
        return ERR_CORRUPT;
    }
    if (get_le32(p + 8) != FORMAT_VERSION || (get_le32(p + 12) & ~(uint32_t)RAFT_SEGMENT_RESET) != 0) {
        return ERR_VERSION;
    }
    const struct raft_segment_header h = {
        .flags = get_le32(p + 12),
        .sequence = get_le64(p + 16),
        .first_index = get_le64(p + 24),
        .seed = get_le64(p + 32),
        .size = get_le64(p + 40),
    };
    if (h.first_index == 0 || h.first_index >= RAFT_NUMBER_END || h.sequence >= RAFT_NUMBER_END ||
        h.size < 2 * RAFT_BLOCK || h.size % RAFT_BLOCK != 0) {
        return ERR_CORRUPT;
    }
    *out = h;
    return 0;
}

uint64_t raft_record_bytes(size_t data_len)
{
    return round_up(RAFT_RECORD_HEADER_BYTES + (uint64_t)data_len, 8);
}

static uint32_t record_crc(uint64_t seed, uint64_t at, const uint8_t *header, struct bytes data)
{
    uint8_t key[16];
    put_le64(key, seed);
    put_le64(key + 8, at);
    uint32_t crc = crc32c(0, key, sizeof key);
    crc = crc32c(crc, header + 4, RAFT_RECORD_HEADER_BYTES - 4);
    return crc32c(crc, data.data, data.len);
}

void raft_record_encode(struct buf *out, uint64_t seed, uint64_t at, const struct raft_record *r)
{
    const struct bytes data = r->entry.data;
    const size_t whole = (size_t)raft_record_bytes(data.len);
    uint8_t *p = buf_extend(out, whole);
    memset(p, 0, RAFT_RECORD_HEADER_BYTES);
    put_le32(p + 4, (uint32_t)data.len);
    put_le64(p + 8, r->index);
    put_le64(p + 16, r->entry.term);
    put_le32(p + 24, (uint32_t)(r->index - r->batch_first));
    p[28] = r->entry.type;
    p[29] = r->flags;
    if (data.len > 0) {
        memcpy(p + RAFT_RECORD_HEADER_BYTES, data.data, data.len);
    }
    memset(p + RAFT_RECORD_HEADER_BYTES + data.len, 0,
           whole - RAFT_RECORD_HEADER_BYTES - data.len);
    put_le32(p, record_crc(seed, at, p, data));
}

bool raft_record_decode(struct bytes file, uint64_t seed, uint64_t at, struct raft_record *out)
{
    if (at > file.len || file.len - at < RAFT_RECORD_HEADER_BYTES) {
        return false;
    }
    const uint8_t *p = file.data + at;
    const uint32_t len = get_le32(p + 4);
    const uint64_t index = get_le64(p + 8);
    const uint32_t back = get_le32(p + 24);
    if (len > RAFT_LOG_ENTRY_MAX || len > file.len - at - RAFT_RECORD_HEADER_BYTES || index == 0 ||
        back >= index || p[28] < RAFT_LOG_COMMAND || p[28] > RAFT_LOG_CHANGE) {
        return false;
    }
    const struct bytes data = BYTES(p + RAFT_RECORD_HEADER_BYTES, len);
    if (record_crc(seed, at, p, data) != get_le32(p)) {
        return false;
    }
    *out = (struct raft_record){
        .index = index,
        .batch_first = index - back,
        .flags = p[29],
        .entry = {.term = get_le64(p + 16), .type = p[28], .data = data},
        .end = at + raft_record_bytes(len),
    };
    return true;
}

/* A batch is written only when the one before it is synced. So an intact first record of a later
 * batch proves that what could not be read at `index` had been synced: damage, not a torn tail. */
static bool later_batch(struct bytes file, uint64_t seed, uint64_t from, uint64_t index)
{
    for (uint64_t at = round_up(from, RAFT_BLOCK); at < file.len; at += RAFT_BLOCK) {
        struct raft_record r;
        if (raft_record_decode(file, seed, at, &r) && r.batch_first == r.index && r.index > index) {
            return true;
        }
    }
    return false;
}

int raft_segment_scan(struct bytes file, const struct raft_segment_header *h,
                      void (*visit)(void *ctx, const struct raft_record *r), void *ctx,
                      uint64_t *next_index, uint64_t *tail)
{
    uint64_t at = RAFT_BLOCK;
    uint64_t index = h->first_index;
    uint64_t batch = index;
    struct raft_record r;
    while (raft_record_decode(file, h->seed, at, &r) && r.index == index && r.batch_first == batch) {
        visit(ctx, &r);
        index++;
        at = r.end;
        if ((r.flags & RAFT_RECORD_LAST) != 0) {
            at = round_up(at, RAFT_BLOCK);
            batch = index;
        }
    }
    *next_index = index;
    *tail = at;
    return later_batch(file, h->seed, at + 1, index) ? ERR_CORRUPT : 0;
}

/* Slot: magic, version of the format, counter, term, vote, snapshot index and term, index and
 * bytes of the configuration, CRC of it all in the last four bytes. */
void raft_slot_encode(const struct raft_log_state *s, uint64_t version, struct buf *out)
{
    uint8_t *p = buf_extend(out, RAFT_SLOT_BYTES);
    memset(p, 0, RAFT_SLOT_BYTES);
    memcpy(p, slot_magic, sizeof slot_magic);
    put_le32(p + 8, FORMAT_VERSION);
    put_le64(p + 16, version);
    put_le64(p + 24, s->term);
    put_le64(p + 32, s->vote);
    put_le64(p + 40, s->snapshot_index);
    put_le64(p + 48, s->snapshot_term);
    put_le64(p + 56, s->configuration_index);
    put_le32(p + 64, (uint32_t)s->configuration.len);
    if (s->configuration.len > 0) {
        memcpy(p + SLOT_FIXED_BYTES, s->configuration.data, s->configuration.len);
    }
    put_le32(p + RAFT_SLOT_BYTES - 4, crc32c(0, p, RAFT_SLOT_BYTES - 4));
}

int raft_slot_decode(struct bytes in, struct raft_log_state *out, uint64_t *version)
{
    const uint8_t *p = in.data;
    if (in.len < RAFT_SLOT_BYTES || memcmp(p, slot_magic, sizeof slot_magic) != 0 ||
        get_le32(p + RAFT_SLOT_BYTES - 4) != crc32c(0, p, RAFT_SLOT_BYTES - 4)) {
        return ERR_CORRUPT;
    }
    if (get_le32(p + 8) != FORMAT_VERSION) {
        return ERR_VERSION;
    }
    if (get_le32(p + 64) > RAFT_LOG_CONFIGURATION_MAX || get_le64(p + 40) >= RAFT_NUMBER_END) {
        return ERR_CORRUPT;
    }
    *version = get_le64(p + 16);
    out->term = get_le64(p + 24);
    out->vote = get_le64(p + 32);
    out->snapshot_index = get_le64(p + 40);
    out->snapshot_term = get_le64(p + 48);
    out->configuration_index = get_le64(p + 56);
    buf_clear(&out->configuration);
    buf_add(&out->configuration, p + SLOT_FIXED_BYTES, get_le32(p + 64));
    return 0;
}
