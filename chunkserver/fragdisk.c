#include "chunkserver/fragdisk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "chunkserver/fragdisk_internal.h"

/* A put, in order, and what a crash in between leaves:
 *
 *   1. CRCs checked, index asked for the key        nothing
 *   2. records written behind the segments' ends    perhaps sound records behind the mark
 *   3. the segments synced                          sound records behind the mark
 *   4. index: places and marks, not synced          the same, or indexed
 *   5. answered
 *
 * The marks are in the same batch as the places, and LevelDB loses only a suffix of its batches: so
 * whatever an index has lost lies behind its mark, and the next start scans there. A record
 * that was never answered may come to life that way; its id was granted and never
 * committed, and dies like any other.
 *
 * A delete is answered when its index batch is synced (many share a sync); the same batch has the
 * hole to punch. Punching comes later and is repeated after a crash: the hole carries the segment's
 * seed, so it can never hit a record of the segment's next use.
 *
 * A failed write or sync (other than for want of space) makes the disk FAILED: it still reads. */

/* Whether the index may be written. Somebody else may fill the filesystem to the last byte, whatever this server keeps free;
 * LevelDB does not survive a write without room. Costs a system call. */
static bool index_has_room(struct fragdisk *d)
{
    enum { INDEX_LEAST = 1 << 20 };
    struct disk_space space;
    if (d->disk->ops->space(d->disk, &space) == 0) {
        d->space = space;
    }
    return d->space.free_bytes >= INDEX_LEAST;
}

static void add(_Atomic(uint64_t) *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

void fragdisk_fail(struct fragdisk *d, int rc)
{
    if (d->error == 0) {
        d->error = rc;
        atomic_store(&d->shown.health, FRAGDISK_FAILED);
    }
}

static uint64_t total_bytes(const struct fragdisk *d)
{
    uint64_t total = d->space.total_bytes;
    return d->size_max != 0 && d->size_max < total ? d->size_max : total;
}

uint64_t fragdisk_room(const struct fragdisk *d, bool privileged)
{
    uint64_t total = total_bytes(d);
    uint64_t room = d->used < total ? total - d->used : 0;
    room = room < d->space.free_bytes ? room : d->space.free_bytes;
    uint64_t reserve = privileged ? 0 : total / 100 * d->reserve_percent;
    return room > reserve ? room - reserve : 0;
}

/* What the active segments can take without any allocation. */
static uint64_t room_allocated(const struct fragdisk *d)
{
    uint64_t room = 0;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        const struct segment *s = d->active[kind];
        room += s != NULL ? s->allocated_to - s->end : 0;
    }
    return room;
}

void fragdisk_publish(struct fragdisk *d)
{
    uint64_t room = fragdisk_room(d, false);
    uint64_t usable = room + room_allocated(d);
    atomic_store(&d->shown.total, total_bytes(d));
    atomic_store(&d->shown.used, d->used);
    atomic_store(&d->shown.free, usable);
    atomic_store(&d->shown.filesystem, d->space.filesystem);
    atomic_store(&d->shown.filesystem_free, d->space.free_bytes);
    unsigned health = d->error != 0                    ? FRAGDISK_FAILED
                      : room < 2 * STRIPE_FRAGMENT_MAX ? FRAGDISK_FULL
                                                       : FRAGDISK_GOOD;
    atomic_store(&d->shown.health, health);
}

void fragdisk_refresh(struct fragdisk *d)
{
    struct disk_space space;
    if (d->disk->ops->space(d->disk, &space) == 0) {
        d->space = space;
    }
    d->holes = d->holes || d->holes_stuck;
    d->holes_stuck = false;
    fragdisk_publish(d);
}

void fragdisk_state(struct fragdisk *d, struct fragdisk_state *out)
{
    out->health = (enum fragdisk_health)atomic_load(&d->shown.health);
    out->total = atomic_load(&d->shown.total);
    out->free = atomic_load(&d->shown.free);
    out->used = atomic_load(&d->shown.used);
    out->filesystem = atomic_load(&d->shown.filesystem);
    out->filesystem_free = atomic_load(&d->shown.filesystem_free);
    out->fragments = atomic_load(&d->shown.fragments);
    out->corrupt = atomic_load(&d->shown.corrupt);
    out->puts = atomic_load(&d->shown.puts);
    out->put_bytes = atomic_load(&d->shown.put_bytes);
    out->batches = atomic_load(&d->shown.batches);
    out->reads = atomic_load(&d->shown.reads);
    out->read_bytes = atomic_load(&d->shown.read_bytes);
    out->deletes = atomic_load(&d->shown.deletes);
    out->compacted = atomic_load(&d->shown.compacted);
}

int fragdisk_error(const struct fragdisk *d)
{
    return d->error;
}

void fragdisk_add_segment(struct fragdisk *d, struct segment *s)
{
    CHECK(s->head.number < SEGMENTS_MAX);
    if (s->head.number >= d->segments) {
        d->segments = s->head.number + 1;
    }
    d->used += s->disk_bytes;
    atomic_store_explicit(&d->segment[s->head.number], s, memory_order_release);
}

int fragdisk_sync_segments(struct fragdisk *d)
{
    for (unsigned kind = 0; kind < KINDS; kind++) {
        int rc = d->active[kind] != NULL ? segment_sync(d->active[kind]) : 0;
        if (rc != 0) {
            fragdisk_fail(d, rc);
            return rc;
        }
    }
    return 0;
}

void fragdisk_add_mark(struct kv_batch *b, const struct segment *s)
{
    struct index_mark m = {.seed = s->head.seed,
                           .scanned = s->state == SEGMENT_ACTIVE ? s->end : s->head.size};
    index_put_mark(b, s->head.number, &m);
}

void fragdisk_add_marks(struct fragdisk *d, struct kv_batch *b)
{
    for (unsigned kind = 0; kind < KINDS; kind++) {
        if (d->active[kind] != NULL) {
            fragdisk_add_mark(b, d->active[kind]);
        }
    }
}

enum { SEEN_NEW, SEEN_SAME, SEEN_REFUSED };

/* Whether the key is taken, by the index or by an earlier put of this batch. */
static int judge(struct fragdisk *d, struct frag_put *const puts[], unsigned i, unsigned *same_as)
{
    struct frag_put *p = puts[i];
    struct index_place there;
    *same_as = i;
    if (!fragment_matches(&p->fragment, 0, p->data, p->fragment.bytes)) {
        p->rc = ERR_CORRUPT;
        return SEEN_REFUSED;
    }
    int rc = index_get(d->index, p->fragment.key, &there);
    if (rc == 0) {
        p->rc = fragment_same(&there.fragment, &p->fragment) ? 0 : ERR_ID_CONFLICT;
        return SEEN_REFUSED;
    }
    if (rc != ERR_NOT_FOUND) {
        fragdisk_fail(d, rc);
        p->rc = -EIO;
        return SEEN_REFUSED;
    }
    for (unsigned j = 0; j < i; j++) {
        const struct frag_key *a = &puts[j]->fragment.key, *b = &p->fragment.key;
        if (a->pg != b->pg || a->id != b->id || a->slot != b->slot || puts[j]->rc != -EINPROGRESS) {
            continue;
        }
        *same_as = j;
        p->rc = ERR_ID_CONFLICT;
        return fragment_same(&puts[j]->fragment, &p->fragment) ? SEEN_SAME : SEEN_REFUSED;
    }
    return SEEN_NEW;
}

static void count_live(struct fragdisk *d, const struct index_place *p)
{
    struct segment *s = fragdisk_segment(d, p->segment);
    s->live++;
    s->live_bytes += segment_record_bytes(s, p->fragment.bytes);
}

/* Syncs the batch and enters it in the index. Only then does anything of it count. */
static int commit(struct fragdisk *d, const struct index_place *places, unsigned n)
{
    int rc = fragdisk_sync_segments(d);
    if (rc != 0 || n == 0) {
        return rc;
    }
    struct kv_batch b;
    kv_batch_init(&b);
    for (unsigned i = 0; i < n; i++) {
        index_put(&b, &places[i]);
        fragdisk_add_mark(&b, fragdisk_segment(d, places[i].segment));
    }
    fragdisk_add_marks(d, &b);
    rc = kv_write(d->index, &b, d->sealed_in_batch);
    kv_batch_release(&b);
    if (rc != 0) {
        fragdisk_fail(d, rc);
        return rc;
    }
    d->sealed_in_batch = false;
    for (unsigned i = 0; i < n; i++) {
        count_live(d, &places[i]);
        add(&d->shown.put_bytes, places[i].fragment.bytes);
    }
    add(&d->shown.puts, n);
    add(&d->shown.batches, 1);
    add(&d->shown.fragments, n);
    return 0;
}

void fragdisk_put(struct fragdisk *d, struct frag_put *const puts[], unsigned n)
{
    CHECK(n <= FRAGDISK_BATCH_MAX);
    struct index_place places[FRAGDISK_BATCH_MAX];
    unsigned same_as[FRAGDISK_BATCH_MAX], placed = 0;
    struct fragdisk_run run = {.records = 0};
    if (!index_has_room(d)) {
        for (unsigned i = 0; i < n; i++) {
            puts[i]->rc = -ENOSPC;
        }
        fragdisk_publish(d);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        puts[i]->rc = -EINPROGRESS;
        same_as[i] = i;
        int seen = d->error != 0 ? SEEN_REFUSED : judge(d, puts, i, &same_as[i]);
        if (d->error != 0) {
            puts[i]->rc = -EIO;
        } else if (seen == SEEN_SAME) {
            puts[i]->rc = -EAGAIN; /* as the other one, below */
        } else if (seen == SEEN_NEW) {
            int rc =
                fragdisk_append(d, &run, &puts[i]->fragment, puts[i]->data, false, &places[placed]);
            placed += rc == 0 ? 1 : 0;
            if (rc != 0) {
                puts[i]->rc = rc;
            }
            if (rc != 0 && rc != -ENOSPC) {
                fragdisk_fail(d, rc);
            }
        }
    }
    int rc = fragdisk_flush(d, &run);
    rc = d->error != 0 ? -EIO : rc != 0 ? rc : commit(d, places, placed);
    for (unsigned i = 0; i < n; i++) {
        puts[i]->rc = puts[i]->rc == -EINPROGRESS ? (rc != 0 ? -EIO : 0) : puts[i]->rc;
        puts[i]->rc = puts[i]->rc == -EAGAIN ? puts[same_as[i]]->rc : puts[i]->rc;
    }
    fragdisk_publish(d);
}

int fragdisk_find(struct fragdisk *d, struct frag_key key, uint64_t nonce, struct index_place *out)
{
    struct index_place p;
    int rc = index_get(d->index, key, &p);
    if (rc == 0 && nonce != 0 && p.fragment.nonce != nonce) {
        return ERR_NOT_FOUND;
    }
    if (rc == 0) {
        *out = p;
    }
    return rc;
}

/* ERR_CORRUPT here may also mean that the record is not there any more. */
static int read_once(struct fragdisk *d, const struct index_place *p, uint32_t offset, uint32_t len,
                     uint8_t *to)
{
    struct segment *s = fragdisk_segment(d, p->segment);
    if (s == NULL) {
        return ERR_CORRUPT;
    }
    int rc = s->file->ops->read(s->file, to, len, p->at + s->head.align + offset);
    if (rc != 0) {
        return rc == -ENODATA ? ERR_CORRUPT : rc;
    }
    return fragment_matches(&p->fragment, offset / STRIPE_CRC_BLOCK, to, len) ? 0 : ERR_CORRUPT;
}

int fragdisk_read(struct fragdisk *d, const struct index_place *place, uint32_t offset,
                  uint32_t len, uint8_t *to)
{
    enum { TRIES = 4 }; /* each retry means that it was moved meanwhile: compaction is slower */
    struct index_place p = *place;
    int rc = ERR_CORRUPT;
    CHECK(offset % STRIPE_CRC_BLOCK == 0 && offset + len <= p.fragment.bytes);
    for (unsigned i = 0; i < TRIES; i++) {
        rc = read_once(d, &p, offset, len, to);
        if (rc == 0) {
            add(&d->shown.reads, 1);
            add(&d->shown.read_bytes, len);
            return 0;
        }
        struct index_place now;
        int found = index_get(d->index, p.fragment.key, &now);
        if (found != 0) {
            return found;
        }
        if (now.segment == p.segment && now.at == p.at) {
            break;
        }
        p = now;
    }
    add(&d->shown.corrupt, 1); /* unreadable sectors count as damage too */
    return rc == ERR_CORRUPT || rc == -EIO ? ERR_CORRUPT : rc;
}

enum { DELETE_CHUNK = 512 };
struct doomed {
    struct index_place *place;
    unsigned n;
    uint64_t last; /* id */
};

static bool collect(void *ctx, const struct index_place *p)
{
    struct doomed *doomed = ctx;
    if (p->fragment.key.id > doomed->last || doomed->n == DELETE_CHUNK) {
        return false;
    }
    doomed->place[doomed->n++] = *p;
    return true;
}

static void forget(struct fragdisk *d, struct kv_batch *b, const struct index_place *p)
{
    const struct segment *s = fragdisk_segment(d, p->segment);
    index_delete(b, p->fragment.key);
    if (s != NULL && s->head.kind == SEGMENT_STREAM) {
        struct index_hole h = {.segment = p->segment,
                               .seed = s->head.seed,
                               .at = p->at + s->head.align,
                               .len = p->fragment.bytes};
        index_put_hole(b, &h);
    }
}

static int delete_collected(struct fragdisk *d, const struct doomed *doomed)
{
    struct kv_batch b;
    kv_batch_init(&b);
    for (unsigned i = 0; i < doomed->n; i++) {
        forget(d, &b, &doomed->place[i]);
    }
    int rc = kv_write(d->index, &b, false);
    kv_batch_release(&b);
    if (rc != 0) {
        fragdisk_fail(d, rc);
        return rc;
    }
    for (unsigned i = 0; i < doomed->n; i++) {
        const struct index_place *p = &doomed->place[i];
        struct segment *s = fragdisk_segment(d, p->segment);
        if (s != NULL) {
            s->live--;
            s->live_bytes -= segment_record_bytes(s, p->fragment.bytes);
        }
    }
    d->holes = d->dead_segments = true;
    add(&d->shown.deletes, doomed->n);
    atomic_fetch_sub(&d->shown.fragments, doomed->n);
    return 0;
}

int fragdisk_delete(struct fragdisk *d, uint32_t pg, uint64_t first, uint64_t count,
                    uint64_t *deleted)
{
    struct doomed doomed = {.place = xmalloc(DELETE_CHUNK * sizeof *doomed.place)};
    doomed.last = count != 0 && count - 1 > UINT64_MAX - first ? UINT64_MAX : first + count - 1;
    uint64_t n = 0;
    /* On a failed disk a record that was never answered may come to life at the next start, behind
     * the mark, where nothing knows yet that it is to be deleted. */
    int rc = d->error != 0 ? -EIO : index_has_room(d) ? 0 : -ENOSPC;
    do {
        doomed.n = 0;
        rc = rc != 0 || count == 0 ? rc : index_walk_pg(d->index, pg, first, collect, &doomed);
        if (rc == 0 && doomed.n > 0) {
            rc = delete_collected(d, &doomed);
            n += doomed.n;
            first = doomed.place[doomed.n - 1].fragment.key.id;
        }
    } while (rc == 0 && doomed.n == DELETE_CHUNK);
    free(doomed.place);
    fragdisk_publish(d);
    if (rc == 0) {
        *deleted = n;
    }
    return rc;
}

int fragdisk_sync(struct fragdisk *d)
{
    int rc = d->error != 0 ? -EIO : d->index->ops->sync(d->index);
    if (rc != 0) {
        fragdisk_fail(d, rc);
    }
    return rc;
}

struct listing {
    unsigned left;
    uint64_t last;
    bool (*visit)(void *ctx, const struct index_place *p);
    void *ctx;
};

static bool list_one(void *ctx, const struct index_place *p)
{
    struct listing *l = ctx;
    if (l->left == 0 && p->fragment.key.id != l->last) {
        return false;
    }
    l->left -= l->left > 0 ? 1 : 0;
    l->last = p->fragment.key.id;
    return l->visit(l->ctx, p);
}

int fragdisk_list(struct fragdisk *d, uint32_t pg, uint64_t after, unsigned max,
                  bool (*visit)(void *ctx, const struct index_place *p), void *ctx)
{
    struct listing l = {.left = max, .last = after, .visit = visit, .ctx = ctx};
    if (after == UINT64_MAX) {
        return 0;
    }
    return index_walk_pg(d->index, pg, after + 1, list_one, &l);
}

/* Room for records at their largest: not more than the disk can hold several of. */
static uint64_t segment_size(uint64_t capacity, uint64_t parts, uint64_t least, uint64_t most)
{
    uint64_t size = most;
    while (size > least && size > capacity / parts) {
        size /= 2;
    }
    return size;
}

static void choose_sizes(struct fragdisk *d, const struct fragdisk_options *o)
{
    uint64_t capacity = total_bytes(d);
    d->segment_bytes[SEGMENT_STREAM - 1] =
        o->stream_bytes != 0 ? o->stream_bytes : segment_size(capacity, 16, 4 << 20, 256 << 20);
    d->segment_bytes[SEGMENT_SMALL - 1] =
        o->small_bytes != 0 ? o->small_bytes : segment_size(capacity, 64, 1 << 20, 16 << 20);
    d->stream_step = segment_size(d->segment_bytes[SEGMENT_STREAM - 1], 4, 2 << 20, 16 << 20);
}

int fragdisk_open(const struct fragdisk_options *o, struct fragdisk **out)
{
    struct fragdisk *d = xcalloc(1, sizeof *d);
    d->disk = o->disk;
    d->index = o->index;
    memcpy(d->id, o->id, sizeof d->id);
    d->size_max = o->size_max;
    d->reserve_percent = o->reserve_percent;
    d->segment = xcalloc(SEGMENTS_MAX, sizeof *d->segment);
    d->headers = aligned_alloc(DISK_ALIGN, (size_t)RUN_RECORDS * STRIPE_UNIT);
    CHECK(d->headers != NULL);
    memset(d->headers, 0, (size_t)RUN_RECORDS * STRIPE_UNIT);
    int rc = d->disk->ops->space(d->disk, &d->space);
    if (rc == 0) {
        d->small_align = d->space.align_bytes;
        choose_sizes(d, o);
        rc = fragdisk_recover(d);
    }
    if (rc != 0) {
        d->disk = NULL; /* stay the caller's */
        d->index = NULL;
        fragdisk_close(d);
        return rc;
    }
    d->holes = d->dead_segments = true;
    fragdisk_refresh(d);
    *out = d;
    return 0;
}

void fragdisk_close(struct fragdisk *d)
{
    if (d == NULL) {
        return;
    }
    for (uint32_t n = 0; n < SEGMENTS_MAX; n++) {
        segment_free(fragdisk_segment(d, n));
    }
    if (d->index != NULL) {
        (void)d->index->ops->sync(d->index); /* only spares the next start a scan */
        d->index->ops->close(d->index);
    }
    if (d->disk != NULL) {
        d->disk->ops->close(d->disk);
    }
    free(d->headers);
    free(d->segment);
    free(d);
}
