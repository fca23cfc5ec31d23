#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/prng.h"
#include "chunkserver/fragdisk_internal.h"

/* Where records go: the active segment of their kind, which is made, grown, sealed and followed by
 * the next here, and the runs by which they are written. */

/* A segment changed its use of the disk. */
void fragdisk_account(struct fragdisk *d, uint64_t before, const struct segment *s)
{
    d->used += s->disk_bytes - before;
    d->space.free_bytes -= s->disk_bytes > before ? s->disk_bytes - before : 0;
    d->space.free_bytes += s->disk_bytes < before ? before - s->disk_bytes : 0;
}

static int take_free_segment(struct fragdisk *d, unsigned kind, bool privileged)
{
    for (uint32_t n = 0; n < d->segments; n++) {
        struct segment *s = fragdisk_segment(d, n);
        if (s != NULL && s->state == SEGMENT_FREE && s->head.kind == kind + 1) {
            uint64_t before = s->disk_bytes;
            uint64_t need = kind + 1 == SEGMENT_SMALL ? s->head.size - s->allocated_to : 0;
            if (need > fragdisk_room(d, privileged)) {
                return -ENOSPC;
            }
            int rc = segment_reuse(s, prng_random_u64());
            fragdisk_account(d, before, s);
            if (rc == 0) {
                d->active[kind] = s;
            }
            return rc;
        }
    }
    return ERR_NOT_FOUND;
}

int fragdisk_make_segment(struct fragdisk *d, uint8_t kind, bool privileged, struct segment **out)
{
    struct segment_header head = {
        .kind = kind,
        .number = d->segments,
        .align = kind == SEGMENT_SMALL ? d->small_align : STRIPE_UNIT,
        .seed = prng_random_u64(),
        .size = d->segment_bytes[kind - 1],
    };
    memcpy(head.disk, d->id, sizeof head.disk);
    uint64_t need = kind == SEGMENT_SMALL ? head.size : SEGMENT_FIRST_RECORD;
    if (d->segments >= SEGMENTS_MAX || need > fragdisk_room(d, privileged)) {
        return -ENOSPC;
    }
    struct segment *s = NULL;
    int rc = segment_create(d->disk, &head, &s);
    if (rc == 0) {
        d->space.free_bytes -= s->disk_bytes < d->space.free_bytes ? s->disk_bytes : 0;
        fragdisk_add_segment(d, s);
        *out = s;
    }
    return rc;
}

/* Closes the active segment of this kind and opens another. What was written to the old one
 * and not synced is still synced by this batch: it keeps its flag. */
static int roll(struct fragdisk *d, unsigned kind, bool privileged)
{
    struct segment *old = d->active[kind];
    d->active[kind] = NULL;
    if (old != NULL) {
        int rc = segment_sync(old);
        if (rc != 0) { /* also for want of space: records of this batch are lost, nobody syncs them any more */
            fragdisk_fail(d, rc);
            return -EIO;
        }
        uint64_t before = old->disk_bytes;
        rc = segment_seal(old);
        fragdisk_account(d, before, old);
        d->sealed_in_batch = true;
        d->dead_segments = true; /* it may have died while it was active */
        if (rc != 0) {
            return rc;
        }
    }
    int rc = take_free_segment(d, kind, privileged);
    return rc == ERR_NOT_FOUND
               ? fragdisk_make_segment(d, (uint8_t)(kind + 1), privileged, &d->active[kind])
               : rc;
}

/* Makes blocks for `need` more bytes, a step at a time so that little is held unused. */
static int grow(struct fragdisk *d, struct segment *s, uint64_t need, bool privileged)
{
    uint64_t left = s->head.size - s->allocated_to;
    uint64_t step = d->stream_step < left ? d->stream_step : left;
    uint64_t room = fragdisk_room(d, privileged) / DISK_ALIGN * DISK_ALIGN;
    step = step < room ? step : room;
    if (step < need) {
        return -ENOSPC;
    }
    uint64_t before = s->disk_bytes;
    int rc = segment_grow(s, step);
    fragdisk_account(d, before, s);
    return rc;
}

/* The active segment with room for this record. */
static int place_record(struct fragdisk *d, struct fragdisk_run *run, uint32_t fragment_bytes,
                        bool privileged)
{
    unsigned kind = fragdisk_kind_of(fragment_bytes);
    struct segment *s = d->active[kind];
    if (s == NULL || s->end + segment_record_bytes(s, fragment_bytes) > s->head.size) {
        int rc = fragdisk_flush(d, run);
        rc = rc != 0 ? rc : roll(d, kind, privileged);
        if (rc != 0) {
            return rc;
        }
        s = d->active[kind];
    }
    uint64_t end = s->end + segment_record_bytes(s, fragment_bytes);
    return end > s->allocated_to ? grow(d, s, end - s->allocated_to, privileged) : 0;
}

int fragdisk_flush(struct fragdisk *d, struct fragdisk_run *run)
{
    if (run->records == 0) {
        return 0;
    }
    struct segment *s = run->segment;
    int rc = s->file->ops->write(s->file, run->iov, 2 * run->records, run->at);
    run->records = 0;
    if (rc != 0) {
        fragdisk_fail(d, rc);
    }
    return rc;
}

int fragdisk_append(struct fragdisk *d, struct fragdisk_run *run, const struct fragment *f,
                    const uint8_t *data, bool privileged, struct index_place *place)
{
    int rc = place_record(d, run, f->bytes, privileged);
    if (rc != 0) {
        return rc;
    }
    struct segment *s = d->active[fragdisk_kind_of(f->bytes)];
    if (run->records == RUN_RECORDS || (run->records > 0 && run->segment != s)) {
        rc = fragdisk_flush(d, run);
        if (rc != 0) {
            return rc;
        }
    }
    if (run->records == 0) {
        run->segment = s;
        run->at = s->end;
    }
    uint8_t *header = d->headers + (size_t)run->records * STRIPE_UNIT;
    record_encode(header, f, s->head.seed, s->end);
    run->iov[2 * run->records] = (struct iovec){header, s->head.align};
    run->iov[2 * run->records + 1] = (struct iovec){(uint8_t *)(uintptr_t)data, f->bytes};
    run->records++;
    *place = (struct index_place){.fragment = *f, .segment = s->head.number, .at = s->end};
    s->end += segment_record_bytes(s, f->bytes);
    s->unsynced = true;
    return 0;
}
