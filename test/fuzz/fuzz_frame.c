#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "rpc/intake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A header that decodes encodes to the same bytes. */
static void fuzz_header(const uint8_t *data)
{
    struct frame f;
    uint8_t again[FRAME_HEADER_BYTES];
    if (frame_decode(data, &f) == FRAME_OK) {
        frame_encode(again, &f);
        CHECK(memcmp(again, data, FRAME_HEADER_BYTES) == 0);
    }
}

/* Checksums would stop a fuzzer at the door, so they are set right where asked for (bit 0 of the
 * first byte); the lengths stay its own, within bounds that a small input can fill. */
static void mend(uint8_t *data, size_t size)
{
    for (size_t at = 0; at + FRAME_HEADER_BYTES <= size;) {
        uint8_t *h = data + at;
        uint32_t body = get_le32(h + 16) % 300, payload = get_le32(h + 20) % 40000;
        put_le32(h, FRAME_MAGIC);
        h[4] = FRAME_VERSION;
        put_le32(h + 16, body);
        put_le32(h + 20, payload);
        if (at + FRAME_HEADER_BYTES + body <= size) {
            put_le32(h + 32, crc32c(0, h + FRAME_HEADER_BYTES, body));
        }
        put_le32(h + 36, crc32c(0, h, 36));
        at += FRAME_HEADER_BYTES + body + payload;
    }
}

static void fuzz_stream(struct databuf_pool *pool, const uint8_t *data, size_t size, size_t piece)
{
    struct intake in;
    intake_init(&in, pool);
    for (size_t at = 0; at < size; at += piece) {
        struct bytes part = BYTES(data + at, size - at < piece ? size - at : piece);
        struct message m;
        enum frame_fault fault = FRAME_OK;
        enum intake_result r;
        while ((r = intake_step(&in, &part, &m, &fault)) == INTAKE_MESSAGE) {
            CHECK(m.body.len == m.frame.body_len);
            CHECK((m.payload != NULL ? m.payload->len : 0) == m.frame.payload_len);
        }
        if (r == INTAKE_FAULT) {
            CHECK(fault > FRAME_OK && fault < FRAME_FAULTS);
            break;
        }
        CHECK(r == INTAKE_MORE && part.len == 0);
    }
    intake_release(&in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 + FRAME_HEADER_BYTES) {
        return 0;
    }
    struct databuf_pool *pool = databuf_pool_new(65536, 2);
    uint8_t *copy = malloc(size - 2);
    memcpy(copy, data + 2, size - 2);
    if ((data[0] & 1) != 0) {
        mend(copy, size - 2);
    }
    fuzz_header(copy);
    fuzz_stream(pool, copy, size - 2, 1 + (size_t)data[1] * 7);
    CHECK(databuf_pool_left(pool) == 2);
    databuf_pool_free(pool);
    free(copy);
    return 0;
}
