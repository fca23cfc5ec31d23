#include "chunkserver/segment.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

enum { WINDOW_BYTES = 4 << 20, ZERO_CHUNK = 1 << 20 };

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(DISK_ALIGN, bytes);
    CHECK(p != NULL);
    return p;
}

void segment_path(uint32_t number, char out[32])
{
    snprintf(out, 32, "segments/%08" PRIx32, number);
}

static int write_header(struct segment *s)
{
    uint8_t *block = aligned(SEGMENT_FIRST_RECORD);
    segment_header_encode(block, &s->head);
    memcpy(block + SEGMENT_HEADER_BYTES, block, SEGMENT_HEADER_BYTES);
    struct iovec iov = {.iov_base = block, .iov_len = SEGMENT_FIRST_RECORD};
    int rc = s->file->ops->write(s->file, &iov, 1, 0);
    free(block);
    return rc != 0 ? rc : s->file->ops->sync(s->file);
}

static int fill_with_zeros(struct segment *s)
{
    int rc = segment_grow(s, s->head.size - s->allocated_to);
    uint8_t *zeros = aligned(ZERO_CHUNK);
    memset(zeros, 0, ZERO_CHUNK);
    for (uint64_t at = 0; at < s->head.size && rc == 0; at += ZERO_CHUNK) {
        uint64_t left = s->head.size - at;
        struct iovec iov = {zeros, left < ZERO_CHUNK ? (size_t)left : ZERO_CHUNK};
        rc = s->file->ops->write(s->file, &iov, 1, at);
    }
    free(zeros);
    return rc;
}

int segment_create(struct disk *d, const struct segment_header *head, struct segment **out)
{
    char path[32];
    segment_path(head->number, path);
    struct segment *s = xcalloc(1, sizeof *s);
    s->head = *head;
    s->state = SEGMENT_ACTIVE;
    s->end = SEGMENT_FIRST_RECORD;
    int rc = d->ops->open(d, path, DISK_CREATE | DISK_EXCLUSIVE | DISK_DIRECT, &s->file);
    if (rc != 0) {
        free(s);
        return rc;
    }
    rc = head->kind == SEGMENT_SMALL ? fill_with_zeros(s) : segment_grow(s, SEGMENT_FIRST_RECORD);
    rc = rc != 0 ? rc : write_header(s);
    rc = rc != 0 ? rc : d->ops->sync_dir(d, "segments");
    if (rc != 0) {
        segment_free(s);
        (void)d->ops->unlink(d, path); /* else the next start finds and removes it */
        return rc;
    }
    *out = s;
    return 0;
}

static int read_header(struct segment *s, const uint8_t disk_id[16])
{
    uint8_t *block = aligned(SEGMENT_HEADER_BYTES);
    int rc = ERR_CORRUPT;
    for (unsigned copy = 0; copy < 2 && rc == ERR_CORRUPT; copy++) {
        uint64_t at = (uint64_t)copy * SEGMENT_HEADER_BYTES;
        rc = s->file->ops->read(s->file, block, SEGMENT_HEADER_BYTES, at);
        rc = rc == 0 ? segment_header_decode(block, &s->head) : rc == -ENODATA ? ERR_CORRUPT : rc;
    }
    free(block);
    if (rc == 0 && memcmp(s->head.disk, disk_id, sizeof s->head.disk) != 0) {
        rc = ERR_CORRUPT;
    }
    return rc;
}

int segment_open(struct disk *d, uint32_t number, const uint8_t disk_id[16], struct segment **out)
{
    char path[32];
    segment_path(number, path);
    struct segment *s = xcalloc(1, sizeof *s);
    int rc = d->ops->open(d, path, DISK_DIRECT, &s->file);
    rc = rc != 0 ? rc : s->file->ops->size(s->file, &s->allocated_to, &s->disk_bytes);
    rc = rc != 0 ? rc : read_header(s, disk_id);
    if (rc == 0 && s->head.number != number) {
        rc = ERR_CORRUPT;
    }
    if (rc != 0) {
        segment_free(s);
        return rc;
    }
    s->state = SEGMENT_SEALED;
    s->end = s->allocated_to;
    *out = s;
    return 0;
}

void segment_free(struct segment *s)
{
    if (s != NULL) {
        if (s->file != NULL) {
            s->file->ops->file_close(s->file);
        }
        free(s);
    }
}

int segment_reuse(struct segment *s, uint64_t seed)
{
    CHECK(s->state == SEGMENT_FREE && s->live == 0);
    uint64_t before = s->head.seed;
    s->head.seed = seed;
    bool refill = s->head.kind == SEGMENT_SMALL && s->allocated_to < s->head.size;
    int rc = refill ? fill_with_zeros(s) : 0;
    rc = rc != 0 ? rc : write_header(s);
    if (rc != 0) {
        s->head.seed = before;
        return rc;
    }
    s->state = SEGMENT_ACTIVE;
    s->end = SEGMENT_FIRST_RECORD;
    s->live_bytes = 0;
    s->unsynced = false;
    return 0;
}

int segment_grow(struct segment *s, uint64_t bytes)
{
    int rc = bytes == 0 ? 0 : s->file->ops->allocate(s->file, s->allocated_to, bytes);
    if (rc == 0) {
        s->allocated_to += bytes;
        s->disk_bytes += bytes;
    }
    return rc;
}

/* The file ends at `size` from now on. */
static int cut(struct segment *s, uint64_t size)
{
    int rc = s->file->ops->truncate(s->file, size);
    if (rc == 0) {
        uint64_t gone = s->allocated_to - size;
        s->disk_bytes -= gone < s->disk_bytes ? gone : s->disk_bytes;
        s->allocated_to = size;
    }
    return rc;
}

int segment_seal(struct segment *s)
{
    s->state = SEGMENT_SEALED;
    if (s->head.kind == SEGMENT_STREAM && s->allocated_to > s->end) {
        return cut(s, s->end);
    }
    return 0;
}

int segment_clear(struct segment *s, bool keep_blocks)
{
    CHECK(s->state == SEGMENT_SEALED && s->live == 0);
    if (!keep_blocks) {
        int rc = cut(s, SEGMENT_FIRST_RECORD);
        if (rc != 0) {
            return rc;
        }
        s->disk_bytes = SEGMENT_FIRST_RECORD;
    }
    s->state = SEGMENT_FREE;
    s->end = SEGMENT_FIRST_RECORD;
    return 0;
}

int segment_punch(struct segment *s, uint64_t at, uint64_t len)
{
    int rc = s->file->ops->punch(s->file, at, len);
    if (rc == 0) {
        s->disk_bytes -= len < s->disk_bytes ? len : s->disk_bytes;
    }
    return rc;
}

int segment_sync(struct segment *s)
{
    int rc = s->unsynced ? s->file->ops->sync(s->file) : 0;
    if (rc == 0) {
        s->unsynced = false;
    }
    return rc;
}

/* A part of the file in memory. */
struct window {
    struct segment *s;
    uint8_t *data;
    uint64_t start, end, size;
};

/* Makes [at, at+len) present, if the file is that long; NULL if it is not, or on error. */
static const uint8_t *window_at(struct window *w, uint64_t at, uint64_t len, int *rc)
{
    if (at + len > w->size) {
        return NULL;
    }
    if (at < w->start || at + len > w->end) {
        uint64_t n = w->size - at < WINDOW_BYTES ? w->size - at : WINDOW_BYTES;
        w->start = w->end = at;
        *rc = w->s->file->ops->read(w->s->file, w->data, (size_t)n, at);
        if (*rc != 0) {
            return NULL;
        }
        w->end = at + n;
    }
    return w->data + (at - w->start);
}

int segment_scan(struct segment *s, uint64_t from, segment_visit visit, void *ctx)
{
    uint64_t allocated;
    struct window w = {.s = s};
    int rc = s->file->ops->size(s->file, &w.size, &allocated);
    w.size -= w.size % DISK_ALIGN;
    w.data = aligned(WINDOW_BYTES);
    uint64_t at = from < SEGMENT_FIRST_RECORD ? SEGMENT_FIRST_RECORD : from;
    while (rc == 0) {
        const uint8_t *header = window_at(&w, at, s->head.align, &rc);
        struct fragment f;
        if (header == NULL) {
            break;
        }
        if (record_decode(header, s->head.seed, at, &f) != 0) {
            at += s->head.align;
            continue;
        }
        const uint8_t *record = window_at(&w, at, segment_record_bytes(s, f.bytes), &rc);
        if (record == NULL) {
            at += s->head.align;
            continue;
        }
        if (!visit(ctx, at, &f, record + s->head.align)) {
            break;
        }
        at += segment_record_bytes(s, f.bytes);
    }
    free(w.data);
    return rc;
}
