#include "rpc/frame.h"

#include <stddef.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/crc.h"

const char *frame_fault_name(enum frame_fault fault)
{
    static const char *const NAMES[FRAME_FAULTS] = {
        [FRAME_OK] = "ok",
        [FRAME_BAD_MAGIC] = "bad-magic",
        [FRAME_BAD_VERSION] = "bad-version",
        [FRAME_BAD_HEADER_CRC] = "bad-header-crc",
        [FRAME_BAD_KIND] = "bad-kind",
        [FRAME_BODY_TOO_LONG] = "body-too-long",
        [FRAME_PAYLOAD_TOO_LONG] = "payload-too-long",
        [FRAME_BAD_BODY_CRC] = "bad-body-crc",
        [FRAME_BAD_BODY] = "bad-body",
        [FRAME_BAD_SEQUENCE] = "bad-sequence",
        [FRAME_TRUNCATED] = "truncated",
        [FRAME_SILENT] = "silent",
    };
    return (unsigned)fault < FRAME_FAULTS ? NAMES[fault] : "unknown";
}

void frame_encode(uint8_t out[FRAME_HEADER_BYTES], const struct frame *f)
{
    CHECK(f->body_len <= FRAME_BODY_MAX && f->payload_len <= FRAME_PAYLOAD_MAX);
    put_le32(out, FRAME_MAGIC);
    out[4] = FRAME_VERSION;
    out[5] = f->kind;
    put_le16(out + 6, f->method);
    put_le64(out + 8, f->id);
    put_le32(out + 16, f->body_len);
    put_le32(out + 20, f->payload_len);
    put_le32(out + 24, (uint32_t)f->status);
    put_le32(out + 28, f->deadline_ms);
    put_le32(out + 32, f->body_crc);
    put_le32(out + 36, crc32c(0, out, 36));
}

/* Magic and version come before the checksum: a peer of another version may compute it otherwise,
 * and should be told apart from a damaged one. */
enum frame_fault frame_decode(const uint8_t in[FRAME_HEADER_BYTES], struct frame *f)
{
    if (get_le32(in) != FRAME_MAGIC) {
        return FRAME_BAD_MAGIC;
    }
    if (in[4] != FRAME_VERSION) {
        return FRAME_BAD_VERSION;
    }
    if (get_le32(in + 36) != crc32c(0, in, 36)) {
        return FRAME_BAD_HEADER_CRC;
    }
    if (in[5] < FRAME_REQUEST || in[5] > FRAME_EVENT) {
        return FRAME_BAD_KIND;
    }
    if (get_le32(in + 16) > FRAME_BODY_MAX) {
        return FRAME_BODY_TOO_LONG;
    }
    if (get_le32(in + 20) > FRAME_PAYLOAD_MAX) {
        return FRAME_PAYLOAD_TOO_LONG;
    }
    *f = (struct frame){
        .kind = in[5],
        .method = get_le16(in + 6),
        .id = get_le64(in + 8),
        .body_len = get_le32(in + 16),
        .payload_len = get_le32(in + 20),
        .status = (int32_t)get_le32(in + 24),
        .deadline_ms = get_le32(in + 28),
        .body_crc = get_le32(in + 32),
    };
    return FRAME_OK;
}
