#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "chunkserver/fragdisk_internal.h"

/* Opening a disk:
 *
 *   1. the index says how many live records each segment has (one walk)
 *   2. each segment file is opened; what lies behind its mark is scanned and entered if its
 *      bytes match its CRCs and the key is not known; with a new index that is everything
 *   3. a segment in whose unscanned part was no sound header goes on as the active one, at most one
 *      of each kind; all others are sealed, so that nothing is ever appended over a record that a
 *      crash left behind unanswered
 *
 * A file without a sound header is the rest of an interrupted creation (or of a reuse, in which
 * nothing lives) and is removed; but not if the index points into it: then it is read by the index
 * alone; and not while the index is being made again: then it is left for people to look at. */
enum { SCAN_BATCH = 256 };

struct scan {
    struct fragdisk *d;
    struct segment *segment;
    struct kv_batch batch;
    bool fresh_index;
    uint64_t end; /* behind the last sound header */
    unsigned seen;
    int rc;
};

struct numbers {
    uint32_t *number;
    size_t n, cap;
};

static void note_name(const char *name, void *ctx)
{
    struct numbers *all = ctx;
    char *end = NULL;
    unsigned long number = strtoul(name, &end, 16);
    if (strlen(name) != 8 || *end != '\0' || number >= SEGMENTS_MAX) {
        return;
    }
    if (all->n == all->cap) {
        all->cap = all->cap == 0 ? 64 : 2 * all->cap;
        all->number = xrealloc(all->number, all->cap * sizeof *all->number);
    }
    all->number[all->n++] = (uint32_t)number;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

struct live {
    struct fragdisk *d;
    struct known { /* per segment, from the index alone */
        uint32_t records;
        bool small;
    } * known;
    uint64_t fragments;
};

static bool note_live(void *ctx, const struct index_place *p)
{
    struct live *live = ctx;
    if (p->segment < SEGMENTS_MAX) {
        live->known[p->segment].records++;
        live->known[p->segment].small = fragdisk_kind_of(p->fragment.bytes) + 1 == SEGMENT_SMALL;
    }
    live->fragments++;
    return true;
}

/* Second walk, when the segments are known: bytes depend on their alignment. */
static bool add_live(void *ctx, const struct index_place *p)
{
    struct live *live = ctx;
    struct segment *s = fragdisk_segment(live->d, p->segment);
    if (s != NULL) {
        s->live++;
        s->live_bytes += segment_record_bytes(s, p->fragment.bytes);
    }
    live->fragments++;
    return true;
}

static int scan_write(struct scan *scan)
{
    int rc = scan->batch.n > 0 ? kv_write(scan->d->index, &scan->batch, false) : 0;
    kv_batch_clear(&scan->batch);
    return rc;
}

/* Behind a mark only what is whole counts: it may be torn and was then never answered. When
 * all of the index is made again, a fragment with some sound blocks is worth keeping; one
 * with none was deleted and punched. */
static bool worth_keeping(const struct scan *scan, const struct fragment *f, const uint8_t *data)
{
    if (!scan->fresh_index) {
        return fragment_matches(f, 0, data, f->bytes);
    }
    for (uint32_t at = 0; at < f->bytes; at += STRIPE_CRC_BLOCK) {
        uint32_t left = f->bytes - at;
        uint32_t len = left < STRIPE_CRC_BLOCK ? left : STRIPE_CRC_BLOCK;
        if (fragment_matches(f, at / STRIPE_CRC_BLOCK, data + at, len)) {
            return true;
        }
    }
    return false;
}

static void drop_record(struct scan *scan, uint64_t at, const struct fragment *f)
{
    const struct segment *s = scan->segment;
    if (s->head.kind == SEGMENT_STREAM) {
        struct index_hole h = {.segment = s->head.number,
                               .seed = s->head.seed,
                               .at = at + s->head.align,
                               .len = f->bytes};
        index_put_hole(&scan->batch, &h);
    }
}

static bool scan_record(void *ctx, uint64_t at, const struct fragment *f, const uint8_t *data)
{
    struct scan *scan = ctx;
    struct index_place there, p = {.fragment = *f, .segment = scan->segment->head.number, .at = at};
    scan->seen++;
    scan->end = at + segment_record_bytes(scan->segment, f->bytes);
    int rc = 0;
    if (!worth_keeping(scan, f, data)) {
        drop_record(scan, at, f);
    } else {
        rc = index_get(scan->d->index, f->key, &there);
        if (rc == ERR_NOT_FOUND) {
            index_put(&scan->batch, &p);
            rc = 0;
        }
    }
    scan->rc = scan->rc != 0 ? scan->rc : rc;
    if (scan->batch.n >= SCAN_BATCH) {
        rc = scan_write(scan);
        scan->rc = scan->rc != 0 ? scan->rc : rc;
    }
    return scan->rc == 0;
}

/* Enters what lies behind the mark; *seen counts sound headers there. */
static int scan_segment(struct fragdisk *d, struct segment *s, bool fresh_index, unsigned *seen)
{
    struct index_mark mark;
    int rc = index_get_mark(d->index, s->head.number, &mark);
    if (rc != 0 && rc != ERR_NOT_FOUND) {
        return rc;
    }
    uint64_t from =
        rc == 0 && mark.seed == s->head.seed ? mark.scanned : (uint64_t)SEGMENT_FIRST_RECORD;
    struct scan scan = {.d = d, .segment = s, .fresh_index = fresh_index, .end = from};
    kv_batch_init(&scan.batch);
    rc = segment_scan(s, from, scan_record, &scan);
    rc = rc != 0 ? rc : scan.rc;
    s->end = scan.end;
    if (rc == 0 && scan.seen > 0) {
        fragdisk_add_mark(&scan.batch, s); /* sealed: all of it */
        rc = scan_write(&scan);
    }
    kv_batch_release(&scan.batch);
    *seen = scan.seen;
    return rc;
}

/* Whether appending may go on where the mark is. */
static bool may_continue(const struct fragdisk *d, const struct segment *s)
{
    const struct segment *rival = d->active[s->head.kind - 1];
    uint64_t most = SMALL_FRAGMENT_MAX + STRIPE_UNIT;
    if (s->head.kind == SEGMENT_STREAM) {
        most = STRIPE_FRAGMENT_MAX + STRIPE_UNIT;
        /* A sealed one was cut behind its last record; so was an empty one. */
        if (s->allocated_to <= s->end && s->allocated_to > SEGMENT_FIRST_RECORD) {
            return false;
        }
    }
    return rival == NULL && s->end + most <= s->head.size;
}

static int without_header(struct fragdisk *d, uint32_t number, struct known known, bool fresh_index)
{
    char path[32];
    segment_path(number, path);
    d->segments = number + 1; /* the number is burnt */
    if (fresh_index) {
        return 0;
    }
    if (known.records == 0) {
        int rc = d->disk->ops->unlink(d->disk, path);
        return rc != 0 ? rc : d->disk->ops->sync_dir(d->disk, "segments");
    }
    struct index_mark mark = {0};
    struct segment *s = xcalloc(1, sizeof *s);
    int rc = d->disk->ops->open(d->disk, path, DISK_DIRECT, &s->file);
    rc = rc != 0 ? rc : s->file->ops->size(s->file, &s->allocated_to, &s->disk_bytes);
    rc = rc != 0 ? rc : index_get_mark(d->index, number, &mark);
    if (rc != 0) {
        segment_free(s);
        return rc == ERR_NOT_FOUND ? ERR_CORRUPT : rc;
    }
    s->head = (struct segment_header){.kind = known.small ? SEGMENT_SMALL : SEGMENT_STREAM,
                                      .number = number,
                                      .align = known.small ? d->small_align : STRIPE_UNIT,
                                      .seed = mark.seed,
                                      .size = s->allocated_to};
    memcpy(s->head.disk, d->id, sizeof s->head.disk);
    s->end = s->allocated_to;
    s->state = SEGMENT_SEALED;
    fragdisk_add_segment(d, s);
    return 0;
}

static int open_segment(struct fragdisk *d, uint32_t number, struct known known, bool fresh_index)
{
    struct segment *s = NULL;
    int rc = segment_open(d->disk, number, d->id, &s);
    if (rc == ERR_CORRUPT) {
        return without_header(d, number, known, fresh_index);
    }
    if (rc != 0) {
        return rc;
    }
    fragdisk_add_segment(d, s);
    unsigned seen = 0;
    rc = scan_segment(d, s, fresh_index, &seen);
    if (rc == 0 && seen == 0 && may_continue(d, s)) {
        s->state = SEGMENT_ACTIVE;
        d->active[s->head.kind - 1] = s;
        return 0;
    }
    uint64_t before = s->disk_bytes;
    rc = rc != 0 ? rc : segment_seal(s);
    d->used -= before - s->disk_bytes;
    return rc;
}

static int open_segments(struct fragdisk *d, bool fresh_index)
{
    struct numbers all = {0};
    struct live live = {.d = d, .known = xcalloc(SEGMENTS_MAX, sizeof *live.known)};
    int rc = d->disk->ops->list(d->disk, "segments", note_name, &all);
    rc = rc != 0 ? rc : index_walk_all(d->index, note_live, &live);
    if (all.n > 0) {
        qsort(all.number, all.n, sizeof *all.number, compare_numbers);
    }
    for (size_t i = 0; i < all.n && rc == 0; i++) {
        rc = open_segment(d, all.number[i], live.known[all.number[i]], fresh_index);
    }
    free(live.known);
    free(all.number);
    if (rc != 0) {
        return rc;
    }
    live.fragments = 0;
    rc = index_walk_all(d->index, add_live, &live);
    atomic_store(&d->shown.fragments, live.fragments);
    return rc;
}

int fragdisk_recover(struct fragdisk *d)
{
    uint8_t id[16];
    int rc = d->disk->ops->make_dir(d->disk, "segments");
    rc = rc != 0 ? rc : d->disk->ops->sync_dir(d->disk, ".");
    if (rc != 0) {
        return rc;
    }
    rc = index_get_identity(d->index, id);
    if (rc == 0 && memcmp(id, d->id, sizeof id) != 0) {
        return ERR_CORRUPT;
    }
    bool fresh_index = rc == ERR_NOT_FOUND;
    if (rc != 0 && !fresh_index) {
        return rc;
    }
    rc = open_segments(d, fresh_index);
    if (rc == 0 && fresh_index) {
        struct kv_batch b;
        kv_batch_init(&b);
        index_put_identity(&b, d->id);
        rc = kv_write(d->index, &b, true);
        kv_batch_release(&b);
    }
    return rc;
}
