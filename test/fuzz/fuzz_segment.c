#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "chunkserver/identity.h"
#include "chunkserver/index.h"
#include "chunkserver/segment.h"
#include "test/lib/disk_mem.h"

/* All decoders of a chunk server's disk on arbitrary bytes: segment header, record header, scan
 * of a segment, index row, identity. What a scan finds must lie inside of the file and be a
 * fragment that the rules allow. Half of the inputs are given right checksums, or nothing would get
 * past them. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_BYTES = SEGMENT_FIRST_RECORD + 65536 };

static bool visit(void *ctx, uint64_t at, const struct fragment *f, const uint8_t *data)
{
    const struct segment *s = ctx;
    CHECK(fragment_refusal(f) == NULL);
    CHECK(at + segment_record_bytes(s, f->bytes) <= FILE_BYTES);
    (void)fragment_matches(f, 0, data, f->bytes);
    return true;
}

/* Signs whatever stands at each 4 KiB as a record of this segment would be. */
static void sign(uint8_t *file, uint64_t seed)
{
    for (size_t at = SEGMENT_FIRST_RECORD; at + 512 <= FILE_BYTES; at += 4096) {
        struct fragment f = {.key = {.pg = get_le32(file + at), .slot = file[at + 4] % 40},
                             .code = {STRIPE_RS, 4, 2},
                             .bytes = 4096u * (1u + file[at + 5] % 20u),
                             .nonce = 1};
        f.stripe_length = 4ull * f.bytes;
        record_encode(file + at, &f, seed, at);
    }
}

static void scan(const uint8_t *data, size_t size)
{
    struct disk *d = disk_mem_new(1 << 20);
    struct disk_file *file = NULL;
    struct segment *s = NULL;
    uint8_t *image = calloc(1, FILE_BYTES);
    static const uint8_t DISK[16] = {1};
    struct segment_header head = {.kind = SEGMENT_STREAM,
                                  .align = size > 1 && data[1] % 2 == 0 ? 512 : 4096,
                                  .seed = 77,
                                  .size = FILE_BYTES,
                                  .disk = {1}};
    memcpy(image + SEGMENT_FIRST_RECORD, data, size);
    if (size > 0 && data[0] % 2 == 0) {
        sign(image, head.seed);
    }
    segment_header_encode(image, &head);
    struct iovec iov = {image, FILE_BYTES};
    CHECK(d->ops->open(d, "segments/00000000", DISK_CREATE, &file) == 0);
    CHECK(file->ops->write(file, &iov, 1, 0) == 0);
    file->ops->file_close(file);
    CHECK(segment_open(d, 0, DISK, &s) == 0);
    CHECK(segment_scan(s, 0, visit, s) == 0);
    segment_free(s);
    d->ops->close(d);
    free(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t block[SEGMENT_HEADER_BYTES] = {0};
    struct segment_header head;
    struct fragment fragment;
    struct identity identity;
    struct index_place place;
    if (size > 65536) {
        return 0;
    }
    memcpy(block, data, size < sizeof block ? size : sizeof block);
    (void)segment_header_decode(block, &head);
    (void)record_decode(block, 1, 2, &fragment);
    (void)identity_decode(BYTES(data, size), &identity);
    if (size >= 14) {
        (void)index_decode(BYTES(data, 14), BYTES(data + 14, size - 14), &place);
    }
    scan(data, size);
    return 0;
}
