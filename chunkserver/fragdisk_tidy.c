#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "chunkserver/fragdisk_internal.h"

/* What can wait, in steps of a few milliseconds so that puts in the same thread do not:
 *   holes        dead fragments of stream segments, whose delete is durable, are punched;
 *   clearing     a sealed segment without live records may be used again;
 *   compaction   the live records of a mostly dead small segment move to the active one;
 *   a spare      the next small segment is made before it is needed.
 *
 * Compaction copies, syncs, and enters the new places in the index, synced, before the old
 * segment counts as free. A crash before that leaves two equal copies, of which the index knows
 * one; the other is dead space. */
enum { TIDY_LEAST = 1 << 20, HOLES_PER_STEP = 32, COMPACT_BATCH = 256, FREE_SMALL_KEPT = 1 };

struct holes {
    struct index_hole hole[HOLES_PER_STEP];
    unsigned n;
};

static bool take_hole(void *ctx, const struct index_hole *h)
{
    struct holes *holes = ctx;
    holes->hole[holes->n++] = *h;
    return holes->n < HOLES_PER_STEP;
}

static int punch_one(struct fragdisk *d, const struct index_hole *h)
{
    struct segment *s = fragdisk_segment(d, h->segment);
    if (s == NULL || s->head.seed != h->seed || s->state == SEGMENT_FREE) {
        return 0; /* its use ended: the space is back already */
    }
    uint64_t before = s->disk_bytes;
    int rc = segment_punch(s, h->at, h->len);
    if (rc == -EOPNOTSUPP) {
        return 0; /* a filesystem without holes: comes back when all of the segment is dead */
    }
    d->used -= before - s->disk_bytes;
    d->space.free_bytes += before - s->disk_bytes;
    return rc;
}

static bool punch_step(struct fragdisk *d)
{
    struct holes holes = {.n = 0};
    struct kv_batch done;
    int rc =
        index_walk_holes(d->index, d->hole_cursor.segment, d->hole_cursor.at, take_hole, &holes);
    kv_batch_init(&done);
    for (unsigned i = 0; i < holes.n && rc == 0; i++) {
        rc = punch_one(d, &holes.hole[i]);
        if (rc == 0) {
            index_delete_hole(&done, &holes.hole[i]);
        }
    }
    /* Not synced: a hole punched twice is no harm. */
    int rc2 = done.n > 0 ? kv_write(d->index, &done, false) : 0;
    kv_batch_release(&done);
    if (rc == -ENOSPC && rc2 == 0) {
        /* A full filesystem has no block to split an extent with. What stays to do is in the index.
         */
        d->holes = false;
        d->holes_stuck = true;
        return false;
    }
    if (rc != 0 || rc2 != 0) {
        fragdisk_fail(d, rc != 0 ? rc : rc2);
        return false;
    }
    bool from_start = d->hole_cursor.segment == 0 && d->hole_cursor.at == 0;
    if (holes.n == HOLES_PER_STEP) {
        d->hole_cursor = holes.hole[holes.n - 1];
    } else {
        d->holes = !from_start; /* once more from the start, then rest */
        d->hole_cursor = (struct index_hole){0};
    }
    return true;
}

/* Small segments that wait for their next use with their blocks written: recycled ones are the
 * cheapest to sync to. */
static unsigned free_small(struct fragdisk *d)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < d->segments; i++) {
        const struct segment *s = fragdisk_segment(d, i);
        n += s != NULL && s->state == SEGMENT_FREE && s->head.kind == SEGMENT_SMALL &&
             s->allocated_to >= s->head.size;
    }
    return n;
}

static bool clear_step(struct fragdisk *d)
{
    unsigned kept = free_small(d);
    for (uint32_t n = 0; n < d->segments; n++) {
        struct segment *s = fragdisk_segment(d, n);
        if (s == NULL || s->state != SEGMENT_SEALED || s->live != 0) {
            continue;
        }
        uint64_t before = s->disk_bytes;
        bool keep = s->head.kind == SEGMENT_SMALL && kept < FREE_SMALL_KEPT;
        int rc = segment_clear(s, keep);
        kept += keep;
        if (rc != 0) {
            fragdisk_fail(d, rc);
            return false;
        }
        d->used -= before - s->disk_bytes;
        d->space.free_bytes += before - s->disk_bytes;
    }
    return true;
}

/* The sealed small segment with the least alive, if it is worth the copying. */
static struct segment *choose_victim(struct fragdisk *d)
{
    bool tight = atomic_load(&d->shown.health) != FRAGDISK_GOOD;
    struct segment *best = NULL;
    for (uint32_t n = 0; n < d->segments; n++) {
        struct segment *s = fragdisk_segment(d, n);
        if (s == NULL || s->state != SEGMENT_SEALED || s->head.kind != SEGMENT_SMALL) {
            continue;
        }
        uint64_t limit = tight ? s->head.size / 8 * 7 : s->head.size / 2;
        if (s->live_bytes < limit && (best == NULL || s->live_bytes < best->live_bytes)) {
            best = s;
        }
    }
    return best;
}

struct compaction {
    struct fragdisk *d;
    struct segment *from;
    struct kv_batch batch;
    struct index_place moved[COMPACT_BATCH];
    unsigned n;
    int rc;
};

/* Makes the copies made so far count. */
static int compact_commit(struct compaction *c)
{
    struct fragdisk *d = c->d;
    int rc = fragdisk_sync_segments(d);
    if (rc != 0 || c->n == 0) {
        return rc;
    }
    for (unsigned i = 0; i < c->n; i++) {
        index_put(&c->batch, &c->moved[i]);
    }
    fragdisk_add_marks(d, &c->batch);
    rc = kv_write(d->index, &c->batch, true);
    kv_batch_clear(&c->batch);
    for (unsigned i = 0; i < c->n && rc == 0; i++) {
        struct segment *to = fragdisk_segment(d, c->moved[i].segment);
        uint32_t bytes = c->moved[i].fragment.bytes;
        to->live++;
        to->live_bytes += segment_record_bytes(to, bytes);
        c->from->live--;
        c->from->live_bytes -= segment_record_bytes(c->from, bytes);
        atomic_fetch_add(&d->shown.compacted, bytes);
    }
    c->n = 0;
    return rc;
}

/* A damaged record moves as it is, with its CRCs: it stays damaged, and known. */
static bool compact_record(void *ctx, uint64_t at, const struct fragment *f, const uint8_t *data)
{
    struct compaction *c = ctx;
    struct index_place there;
    int rc = index_get(c->d->index, f->key, &there);
    if (rc == ERR_NOT_FOUND ||
        (rc == 0 && (there.at != at || there.segment != c->from->head.number))) {
        return true;
    }
    struct fragdisk_run run = {.records = 0};
    rc = rc != 0 ? rc : fragdisk_append(c->d, &run, &there.fragment, data, true, &c->moved[c->n]);
    rc = rc != 0 ? rc : fragdisk_flush(c->d, &run);
    c->n += rc == 0 ? 1 : 0;
    if (rc == 0 && c->n == COMPACT_BATCH) {
        rc = compact_commit(c);
    }
    c->rc = rc;
    return rc == 0;
}

static bool compact_step(struct fragdisk *d)
{
    struct segment *victim = choose_victim(d);
    if (victim == NULL) {
        return false;
    }
    struct compaction c = {.d = d, .from = victim};
    kv_batch_init(&c.batch);
    /* What cannot be read stays where it is, as below; readers find that out by themselves. */
    (void)segment_scan(victim, 0, compact_record, &c);
    int rc = c.rc;
    if (rc == 0 || rc == -ENOSPC) {
        int rc2 = compact_commit(&c);
        rc = rc2 != 0 ? rc2 : rc;
    }
    kv_batch_release(&c.batch);
    if (rc != 0 && rc != -ENOSPC) {
        fragdisk_fail(d, rc);
    }
    d->dead_segments = true;
    /* Records whose headers rotted, or that cannot be read, are not moved: the segment stays, and is not tried again. */
    if (rc == 0 && victim->live != 0) {
        victim->live_bytes = victim->head.size;
    }
    return rc == 0;
}

/* The next small segment is written with zeros while there is nothing else to do: a put should not
 * wait for it. */
static bool spare_step(struct fragdisk *d)
{
    const struct segment *active = d->active[SEGMENT_SMALL - 1];
    struct segment *spare = NULL;
    bool enough = active != NULL && active->end < active->head.size / 2;
    if (enough || free_small(d) > 0 ||
        fragdisk_room(d, false) < 8 * d->segment_bytes[SEGMENT_SMALL - 1]) {
        return false;
    }
    int rc = fragdisk_make_segment(d, SEGMENT_SMALL, false, &spare);
    if (rc != 0) {
        return false; /* the put that needs it will say why */
    }
    spare->state = SEGMENT_FREE;
    return true;
}

bool fragdisk_tidy(struct fragdisk *d)
{
    bool more = false;
    if (d->error != 0 || d->space.free_bytes < TIDY_LEAST) {
        return false; /* each step writes to the index; the next refresh may find room */
    }
    if (d->holes) {
        more = punch_step(d);
    } else if (d->dead_segments) {
        d->dead_segments = false;
        more = clear_step(d);
    } else {
        more = compact_step(d) || spare_step(d);
    }
    fragdisk_publish(d);
    return more;
}
