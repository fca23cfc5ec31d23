/* The Raft log on the disk seam.
 *
 * Segment files of 8 MiB are zero-filled and synced before the first record goes in, so a synced append only
 * overwrites allocated blocks (else each one commits the filesystem's journal: facts measured for CFS). A
 * batch begins on a block and a block that was synced is never written again: neither a torn write nor a
 * failed one can touch what was promised earlier. Hence whatever would overwrite opens a new
 * segment instead, whose header says from which index on it counts:
 *   - a batch that replaces entries (a follower that had followed a leader that lost);
 *   - a batch whose write or sync failed: after a failed sync the page cache cannot be trusted, it may
 *     call clean what never reached the disk;
 *   - the last batch found at start: it may have been read from the page cache of a process that died
 *     between its write and its sync, so it is written again before anybody relies on it.
 * Such a segment replaces nothing before its first batch is whole: who died while writing that had
 * promised nothing of it, but may have promised what it was to replace.
 * A cut turns whole segments into spare files, up to two, which save the zero-filling of the next ones.
 *
 * Term, vote and the last snapshot's place stand in one file of two slots, written alternately, each with
 * a counter and a checksum: the newer intact one counts. */
#include "meta/raft_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/prng.h"
#include "meta/raft_format.h"

enum { SPARES_MAX = 2, NAME_BYTES = 64, ZERO_BYTES = 1 << 20, DIRECT_BYTES = 256 << 10 };

struct segment {
    struct raft_segment_header header;
    struct disk_file *file; /* open only for the one that is written */
};

struct raft_log {
    struct disk *disk;
    char *directory;
    uint64_t segment_bytes;
    uint64_t reserve_bytes;
    struct prng prng;

    struct segment *segments; /* oldest first; the last one is written */
    unsigned n_segments, cap_segments;
    uint64_t spares[SPARES_MAX];
    unsigned n_spares;
    uint64_t sequence; /* highest in use */
    uint64_t first, next; /* indices: of the oldest entry, of the next append */
    uint64_t at;          /* where the next batch goes in the last segment */
    bool dirty_tail;      /* what stands at `at` is not to be trusted: open a new segment */
    bool failed;
    struct buf scratch;
    uint8_t *aligned; /* DIRECT_BYTES, through which a segment is written past the page cache */

    struct disk_file *slots;
    struct raft_log_state state;
    uint64_t slot_version;
};

struct replay {
    struct raft_log *log;
    void (*visit)(void *ctx, uint64_t index, const struct raft_log_entry *e);
    void *ctx;
    struct buf tail; /* copies of the last batch: struct raft_log_entry, data owned */
    uint64_t tail_first;
    uint64_t snapshot_term; /* of the entry at the snapshot's index; 0: not seen */
    struct buf unborn;      /* sequences (uint64_t) of segments that never counted */
    uint64_t unborn_from;   /* lowest first index of those at the end; 0: the last one is none */
};

void raft_log_state_init(struct raft_log_state *s)
{
    memset(s, 0, sizeof *s);
    buf_init(&s->configuration);
}

void raft_log_state_release(struct raft_log_state *s)
{
    buf_release(&s->configuration);
}

static void copy_snapshot(struct raft_log_state *to, const struct raft_log_state *from)
{
    to->snapshot_index = from->snapshot_index;
    to->snapshot_term = from->snapshot_term;
    to->configuration_index = from->configuration_index;
    buf_clear(&to->configuration);
    buf_add(&to->configuration, from->configuration.data, from->configuration.len);
}

static void name_of(const struct raft_log *log, const char *kind, uint64_t sequence,
                    char out[NAME_BYTES])
{
    (void)snprintf(out, NAME_BYTES, "%s/%s-%016" PRIx64, log->directory, kind, sequence);
}

/* Of a name exactly as name_of makes it; whatever else lies there is not ours. */
static bool sequence_of(const char *name, const char *kind, uint64_t *out)
{
    char again[NAME_BYTES];
    const size_t len = strlen(kind);
    if (strncmp(name, kind, len) != 0 || name[len] != '-') {
        return false;
    }
    const uint64_t sequence = strtoull(name + len + 1, NULL, 16);
    (void)snprintf(again, sizeof again, "%s-%016" PRIx64, kind, sequence);
    if (strcmp(name, again) != 0) {
        return false;
    }
    *out = sequence;
    return true;
}

static int write_bytes(struct disk_file *f, const void *data, size_t len, uint64_t at)
{
    const struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return f->ops->write(f, &iov, 1, at);
}

/* Whole blocks. Past the page cache a write and its sync take little more than half the time. */
static int write_blocks(struct raft_log *log, struct disk_file *f, const uint8_t *data, size_t len,
                        uint64_t at)
{
    int rc = 0;
    for (size_t done = 0; done < len && rc == 0; done += DIRECT_BYTES) {
        const size_t n = len - done < DIRECT_BYTES ? len - done : DIRECT_BYTES;
        memcpy(log->aligned, data + done, n);
        rc = write_bytes(f, log->aligned, n, at + done);
    }
    return rc;
}

/* ---- state slots ---------------------------------------------------------------------------- */

static int slots_write(struct raft_log *log)
{
    if (log->failed) {
        return -EIO;
    }
    struct buf b;
    buf_init(&b);
    log->slot_version++;
    raft_slot_encode(&log->state, log->slot_version, &b);
    int rc = write_bytes(log->slots, b.data, b.len, log->slot_version % 2 * RAFT_SLOT_BYTES);
    if (rc == 0) {
        rc = log->slots->ops->sync(log->slots);
    }
    buf_release(&b);
    if (rc != 0) {
        log->failed = true; /* the other slot still holds the last durable state */
    }
    return rc;
}

/* A new file gets both slots, so that from then on one intact slot is always there. */
static int slots_create(struct raft_log *log)
{
    int rc = slots_write(log);
    if (rc == 0) {
        rc = slots_write(log);
    }
    if (rc == 0) {
        rc = log->disk->ops->sync_dir(log->disk, log->directory);
    }
    return rc;
}

static int slots_read(struct raft_log *log)
{
    uint8_t bytes[2 * RAFT_SLOT_BYTES];
    int rc = log->slots->ops->read(log->slots, bytes, sizeof bytes, 0);
    if (rc != 0) {
        return rc == -ENODATA ? ERR_CORRUPT : rc;
    }
    bool found = false;
    struct raft_log_state s;
    raft_log_state_init(&s);
    rc = ERR_CORRUPT;
    for (unsigned i = 0; i < 2; i++) {
        uint64_t version = 0;
        const int one = raft_slot_decode(BYTES(bytes + i * RAFT_SLOT_BYTES, RAFT_SLOT_BYTES), &s,
                                         &version);
        if (one == ERR_VERSION) {
            rc = ERR_VERSION;
        }
        if (one == 0 && (!found || version > log->slot_version)) {
            found = true;
            log->slot_version = version;
            log->state.term = s.term;
            log->state.vote = s.vote;
            copy_snapshot(&log->state, &s);
        }
    }
    raft_log_state_release(&s);
    return found ? 0 : rc;
}

static void note_segment(const char *name, void *ctx)
{
    uint64_t sequence = 0;
    if (sequence_of(name, "log", &sequence)) {
        *(bool *)ctx = true;
    }
}

static int slots_open(struct raft_log *log)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s/state", log->directory);
    uint64_t size = 0;
    uint64_t allocated = 0;
    int rc = log->disk->ops->open(log->disk, name, DISK_CREATE, &log->slots);
    if (rc == 0) {
        rc = log->slots->ops->size(log->slots, &size, &allocated);
    }
    if (rc != 0) {
        return rc;
    }
    if (size >= 2 * (uint64_t)RAFT_SLOT_BYTES) {
        return slots_read(log);
    }
    /* Shorter than two slots: its maker died before it returned, so nothing was promised. But it is
     * made before the first segment: beside one it has been lost, and a vote with it. */
    bool segments = false;
    rc = log->disk->ops->list(log->disk, log->directory, note_segment, &segments);
    if (rc == 0 && segments) {
        rc = ERR_CORRUPT;
    }
    return rc == 0 ? slots_create(log) : rc;
}

/* ---- segments ------------------------------------------------------------------------------- */

static struct segment *last_segment(struct raft_log *log)
{
    return log->n_segments > 0 ? &log->segments[log->n_segments - 1] : NULL;
}

static struct segment *segment_add(struct raft_log *log, const struct raft_segment_header *h,
                                   struct disk_file *file)
{
    if (log->n_segments == log->cap_segments) {
        log->cap_segments = log->cap_segments == 0 ? 16 : log->cap_segments * 2;
        log->segments = xrealloc(log->segments, log->cap_segments * sizeof log->segments[0]);
    }
    struct segment *s = &log->segments[log->n_segments++];
    *s = (struct segment){.header = *h, .file = file};
    return s;
}

static int zero_fill(struct disk_file *f, uint64_t size)
{
    uint8_t *zeros = xcalloc(1, ZERO_BYTES);
    int rc = 0;
    for (uint64_t at = 0; at < size && rc == 0; at += ZERO_BYTES) {
        rc = write_bytes(f, zeros, (size_t)(size - at < ZERO_BYTES ? size - at : ZERO_BYTES), at);
    }
    free(zeros);
    return rc == 0 ? f->ops->sync(f) : rc;
}

/* Makes spare-SEQUENCE, zero-filled. Failures leave nothing behind. */
static int spare_make(struct raft_log *log, uint64_t sequence, uint64_t size)
{
    struct disk *d = log->disk;
    struct disk_space space;
    int rc = d->ops->space(d, &space);
    if (rc != 0) {
        return rc;
    }
    if (space.free_bytes < size + log->reserve_bytes) {
        return -ENOSPC;
    }
    char making[NAME_BYTES];
    char name[NAME_BYTES];
    name_of(log, "new", sequence, making);
    name_of(log, "spare", sequence, name);
    struct disk_file *f = NULL;
    rc = d->ops->open(d, making, DISK_CREATE, &f);
    if (rc != 0) {
        return rc;
    }
    rc = zero_fill(f, size);
    f->ops->file_close(f);
    if (rc == 0) {
        rc = d->ops->rename(d, making, name);
    }
    if (rc != 0) {
        (void)d->ops->unlink(d, making); /* the failure before it is the one to report */
    }
    return rc;
}

/* Turns a spare into the segment to write. */
static int segment_open_new(struct raft_log *log, const struct raft_segment_header *h, uint64_t spare)
{
    struct disk *d = log->disk;
    char from[NAME_BYTES];
    char name[NAME_BYTES];
    name_of(log, "spare", spare, from);
    name_of(log, "log", h->sequence, name);
    struct disk_file *f = NULL;
    int rc = d->ops->open(d, from, DISK_DIRECT, &f);
    if (rc != 0) {
        return rc;
    }
    uint8_t header[RAFT_BLOCK] = {0};
    raft_segment_encode(h, header);
    rc = write_blocks(log, f, header, sizeof header, 0);
    if (rc == 0) {
        rc = f->ops->sync(f);
    }
    if (rc == 0) {
        rc = d->ops->rename(d, from, name);
    }
    if (rc == 0) {
        rc = d->ops->sync_dir(d, log->directory);
    }
    if (rc != 0) {
        f->ops->file_close(f);
        return rc;
    }
    struct segment *before = last_segment(log);
    if (before != NULL && before->file != NULL) {
        before->file->ops->file_close(before->file);
        before->file = NULL;
    }
    (void)segment_add(log, h, f);
    return 0;
}

/* The next append goes to a fresh segment that counts from first_index on. */
static int segment_switch(struct raft_log *log, uint64_t first_index, uint64_t batch_bytes, uint32_t flags)
{
    const uint64_t want = (RAFT_BLOCK + batch_bytes + RAFT_BLOCK - 1) / RAFT_BLOCK * RAFT_BLOCK;
    struct raft_segment_header h = {
        .sequence = log->sequence + 1,
        .first_index = first_index,
        .seed = prng_u64(&log->prng),
        .size = want > log->segment_bytes ? want : log->segment_bytes,
        .flags = flags,
    };
    uint64_t spare = h.sequence;
    int rc = 0;
    if (h.size == log->segment_bytes && log->n_spares > 0) {
        spare = log->spares[--log->n_spares];
    } else {
        rc = spare_make(log, spare, h.size);
    }
    if (rc != 0) {
        return rc;
    }
    log->sequence++;
    rc = segment_open_new(log, &h, spare);
    if (rc == 0) {
        log->at = RAFT_BLOCK;
        log->dirty_tail = false;
        log->next = first_index;
        log->first = log->first > first_index ? first_index : log->first;
    }
    return rc;
}

static void segment_drop(struct raft_log *log, struct segment *s)
{
    char name[NAME_BYTES];
    char spare[NAME_BYTES];
    name_of(log, "log", s->header.sequence, name);
    name_of(log, "spare", s->header.sequence, spare);
    if (s->file != NULL) {
        s->file->ops->file_close(s->file);
    }
    if (s->header.size == log->segment_bytes && log->n_spares < SPARES_MAX &&
        log->disk->ops->rename(log->disk, name, spare) == 0) {
        log->spares[log->n_spares++] = s->header.sequence;
        return;
    }
    (void)log->disk->ops->unlink(log->disk, name); /* else it is found and dropped at the next start */
}

/* Drops segments from the front. A spare is written only after the directory is synced: else a crash
 * could show a new header under an old name. */
static int segments_drop(struct raft_log *log, unsigned n)
{
    if (n == 0) {
        return 0;
    }
    for (unsigned i = 0; i < n; i++) {
        segment_drop(log, &log->segments[i]);
    }
    log->n_segments -= n;
    memmove(log->segments, log->segments + n, log->n_segments * sizeof log->segments[0]);
    return log->disk->ops->sync_dir(log->disk, log->directory);
}

/* ---- appending ------------------------------------------------------------------------------ */

static uint64_t batch_bytes(const struct raft_log_entry *entries, unsigned n)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n; i++) {
        bytes += raft_record_bytes(entries[i].data.len);
    }
    return (bytes + RAFT_BLOCK - 1) / RAFT_BLOCK * RAFT_BLOCK;
}

static void batch_encode(struct raft_log *log, uint64_t first_index, const struct raft_log_entry *entries,
                         unsigned n)
{
    const struct segment *s = last_segment(log);
    buf_clear(&log->scratch);
    for (unsigned i = 0; i < n; i++) {
        const struct raft_record r = {
            .index = first_index + i,
            .batch_first = first_index,
            .flags = i + 1 == n ? RAFT_RECORD_LAST : 0,
            .entry = entries[i],
        };
        raft_record_encode(&log->scratch, s->header.seed, log->at + log->scratch.len, &r);
    }
    const size_t odd = log->scratch.len % RAFT_BLOCK;
    if (odd != 0) {
        memset(buf_extend(&log->scratch, RAFT_BLOCK - odd), 0, RAFT_BLOCK - odd);
    }
}

/* One attempt. *rc is -ENOSPC only if nothing was written. */
static int append_once(struct raft_log *log, uint64_t first_index, const struct raft_log_entry *entries,
                       unsigned n)
{
    const uint64_t bytes = batch_bytes(entries, n);
    const struct segment *s = last_segment(log);
    int rc = 0;
    if (s == NULL || log->dirty_tail || first_index < log->next || log->at + bytes > s->header.size) {
        rc = segment_switch(log, first_index, bytes, 0);
    }
    if (rc != 0) {
        return rc;
    }
    batch_encode(log, first_index, entries, n);
    struct disk_file *f = last_segment(log)->file;
    rc = write_blocks(log, f, log->scratch.data, log->scratch.len, log->at);
    if (rc == 0) {
        rc = f->ops->sync(f);
    }
    if (rc != 0) {
        log->dirty_tail = true;
        return rc == -ENOSPC ? -EIO : rc;
    }
    log->at += bytes;
    log->next = first_index + n;
    return 0;
}

static int append_twice(struct raft_log *log, uint64_t first_index, const struct raft_log_entry *entries,
                        unsigned n)
{
    if (log->failed) {
        return -EIO;
    }
    int rc = append_once(log, first_index, entries, n);
    if (rc != 0 && rc != -ENOSPC && log->dirty_tail) {
        rc = append_once(log, first_index, entries, n);
    }
    if (rc != 0 && rc != -ENOSPC) {
        log->failed = true;
    }
    if (log->scratch.cap > 4u << 20) {
        buf_release(&log->scratch); /* one huge batch must not hold its memory for ever */
        buf_init(&log->scratch);
    }
    return rc;
}

/* ---- replay --------------------------------------------------------------------------------- */

static void tail_clear(struct replay *p)
{
    struct raft_log_entry *e = (void *)p->tail.data;
    for (size_t i = 0; i < p->tail.len / sizeof *e; i++) {
        free((void *)(uintptr_t)e[i].data.data);
    }
    buf_clear(&p->tail);
}

static void replay_visit(void *ctx, const struct raft_record *r)
{
    struct replay *p = ctx;
    if (r->index == r->batch_first) {
        tail_clear(p);
        p->tail_first = r->index;
    }
    if (r->index <= p->log->state.snapshot_index) {
        p->snapshot_term = r->index == p->log->state.snapshot_index ? r->entry.term : 0;
    }
    struct raft_log_entry copy = r->entry;
    copy.data.data = xmemdup(r->entry.data.data, r->entry.data.len);
    buf_add(&p->tail, &copy, sizeof copy);
    p->visit(p->ctx, r->index, &r->entry);
}

static void replay_anew(struct replay *p, uint64_t first_index)
{
    p->log->first = first_index;
    p->snapshot_term = 0;
    tail_clear(p);
    p->visit(p->ctx, first_index, NULL);
}

/* Where this segment joins what was read before it. */
static int replay_join(struct replay *p, const struct raft_segment_header *h)
{
    struct raft_log *log = p->log;
    /* It was begun when one before it was whole that is not now. */
    const bool lost = p->unborn_from != 0 && h->first_index > p->unborn_from;
    const bool gap = lost || (log->n_segments > 0 && h->first_index > log->next);
    /* A gap: the ones before were being dropped, and not in order. Fine if a snapshot has it all. */
    if (gap && h->first_index > log->state.snapshot_index + 1) {
        return ERR_CORRUPT;
    }
    if (gap || (h->flags & RAFT_SEGMENT_RESET) != 0 || log->n_segments == 0 ||
        h->first_index < log->first) {
        replay_anew(p, h->first_index);
    }
    log->next = h->first_index;
    return 0;
}

static void count_whole(void *ctx, const struct raft_record *r)
{
    *(unsigned *)ctx += (r->flags & RAFT_RECORD_LAST) != 0;
}

/* Was to replace entries, and has no whole batch. */
static bool is_unborn(const struct replay *p, struct bytes file, const struct raft_segment_header *h)
{
    const struct raft_log *log = p->log;
    uint64_t next = 0;
    uint64_t tail = 0;
    unsigned whole = 0;
    if (log->n_segments == 0 || h->first_index >= log->next || (h->flags & RAFT_SEGMENT_RESET) != 0) {
        return false;
    }
    return raft_segment_scan(file, h, count_whole, &whole, &next, &tail) == 0 && whole == 0;
}

/* Counts what is in a segment, or notes that it does not count. */
static int replay_records(struct replay *p, const struct raft_segment_header *h, struct bytes file,
                          bool newest)
{
    struct raft_log *log = p->log;
    if (is_unborn(p, file, h)) {
        buf_add(&p->unborn, &h->sequence, sizeof h->sequence);
        if (p->unborn_from == 0 || h->first_index < p->unborn_from) {
            p->unborn_from = h->first_index;
        }
        return 0;
    }
    int rc = replay_join(p, h);
    p->unborn_from = 0;
    if (rc == 0) {
        rc = raft_segment_scan(file, h, replay_visit, p, &log->next, &log->at);
        /* In an older segment a hole shows as a gap before the next one. */
        rc = newest ? rc : 0;
    }
    if (rc == 0) {
        (void)segment_add(log, h, NULL);
    }
    return rc;
}

static int replay_segment(struct replay *p, uint64_t sequence, bool newest)
{
    struct raft_log *log = p->log;
    char name[NAME_BYTES];
    name_of(log, "log", sequence, name);
    struct disk_file *f = NULL;
    struct buf file;
    buf_init(&file);
    uint64_t size = 0;
    uint64_t allocated = 0;
    struct raft_segment_header h;
    int rc = log->disk->ops->open(log->disk, name, 0, &f);
    if (rc == 0) {
        rc = f->ops->size(f, &size, &allocated);
    }
    if (rc == 0 && size > (uint64_t)UINT32_MAX) {
        rc = ERR_CORRUPT;
    }
    if (rc == 0) {
        rc = f->ops->read(f, buf_extend(&file, (size_t)size), (size_t)size, 0);
    }
    if (rc == 0) {
        rc = raft_segment_decode(buf_bytes(&file), &h);
    }
    if (rc == 0 && (h.sequence != sequence || h.size > size)) {
        rc = ERR_CORRUPT;
    }
    if (rc == 0) {
        rc = replay_records(p, &h, buf_bytes(&file), newest);
    }
    if (f != NULL) {
        f->ops->file_close(f);
    }
    buf_release(&file);
    return rc;
}

struct listing {
    struct raft_log *log;
    struct buf logs; /* uint64_t each */
};

static void listing_visit(const char *name, void *ctx)
{
    struct listing *l = ctx;
    uint64_t sequence = 0;
    if (sequence_of(name, "log", &sequence)) {
        buf_add(&l->logs, &sequence, sizeof sequence);
    } else if (sequence_of(name, "spare", &sequence) && sequence < RAFT_NUMBER_END &&
               l->log->n_spares < SPARES_MAX) {
        l->log->spares[l->log->n_spares++] = sequence;
    } else {
        return;
    }
    if (sequence > l->log->sequence) {
        l->log->sequence = sequence;
    }
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Spares of another size (the options changed) are of no use. */
static void spares_check(struct raft_log *log)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < log->n_spares; i++) {
        char name[NAME_BYTES];
        name_of(log, "spare", log->spares[i], name);
        struct disk_file *f = NULL;
        uint64_t size = 0;
        uint64_t allocated = 0;
        if (log->disk->ops->open(log->disk, name, 0, &f) == 0) {
            if (f->ops->size(f, &size, &allocated) != 0) {
                size = 0;
            }
            f->ops->file_close(f);
        }
        if (size == log->segment_bytes) {
            log->spares[kept++] = log->spares[i];
        } else {
            (void)log->disk->ops->unlink(log->disk, name); /* only room is lost if that fails */
        }
    }
    log->n_spares = kept;
}

/* Durably, before anything is written behind them: what comes next could begin above their index. */
static int drop_unborn(struct replay *p)
{
    struct disk *d = p->log->disk;
    const uint64_t *sequence = (const void *)p->unborn.data;
    const size_t n = p->unborn.len / sizeof *sequence;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        char name[NAME_BYTES];
        name_of(p->log, "log", sequence[i], name);
        rc = d->ops->unlink(d, name);
    }
    return n == 0 || rc != 0 ? rc : d->ops->sync_dir(d, p->log->directory);
}

static int replay_all(struct replay *p)
{
    struct raft_log *log = p->log;
    struct listing l = {.log = log};
    buf_init(&l.logs);
    int rc = log->disk->ops->list(log->disk, log->directory, listing_visit, &l);
    const size_t n = l.logs.len / sizeof(uint64_t);
    uint64_t *sequences = (uint64_t *)(void *)l.logs.data;
    if (n > 1) {
        qsort(sequences, n, sizeof sequences[0], compare_u64);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = replay_segment(p, sequences[i], i + 1 == n);
    }
    buf_release(&l.logs);
    if (rc == 0) {
        rc = drop_unborn(p);
    }
    if (rc == 0) {
        spares_check(log);
    }
    return rc;
}

/* A snapshot was installed and its reset of the log did not get to its end: the log stops before
 * the snapshot, or goes through its index with another history. */
static int finish_reset(struct replay *p)
{
    struct raft_log *log = p->log;
    const uint64_t index = log->state.snapshot_index;
    const bool covered = log->next <= index;
    const bool other = log->first <= index && p->snapshot_term != log->state.snapshot_term;
    if (index == 0 || !(covered || other)) {
        return 0;
    }
    replay_anew(p, index + 1);
    const unsigned old = log->n_segments;
    const int rc = segment_switch(log, index + 1, 0, RAFT_SEGMENT_RESET);
    return rc == 0 ? segments_drop(log, old) : rc;
}

/* Segments whose every entry a later one replaces. Not one that says that nothing before it counts:
 * what is before it may still be there. */
static int drop_replaced(struct raft_log *log)
{
    while (log->n_segments > 1) {
        struct segment *before = &log->segments[log->n_segments - 2];
        const struct segment *newest = &log->segments[log->n_segments - 1];
        if (before->header.first_index < newest->header.first_index ||
            (before->header.flags & RAFT_SEGMENT_RESET) != 0) {
            break;
        }
        segment_drop(log, before);
        *before = *newest;
        log->n_segments--;
    }
    return log->disk->ops->sync_dir(log->disk, log->directory);
}

static int rewrite_tail(struct replay *p)
{
    struct raft_log *log = p->log;
    const size_t n = p->tail.len / sizeof(struct raft_log_entry);
    log->dirty_tail = true; /* whatever happens, nothing is added to the file that was found */
    if (n == 0 || log->next != p->tail_first + n) {
        return 0; /* the last segment is empty: its maker synced all before it */
    }
    const int rc = append_twice(log, p->tail_first, (void *)p->tail.data, (unsigned)n);
    if (rc == -ENOSPC) {
        /* There is no room to be careful. What was found is made durable where it stands. */
        char name[NAME_BYTES];
        name_of(log, "log", last_segment(log)->header.sequence, name);
        struct disk_file *f = NULL;
        int again = log->disk->ops->open(log->disk, name, 0, &f);
        if (again == 0) {
            again = f->ops->sync(f);
            f->ops->file_close(f);
        }
        return again;
    }
    return rc == 0 ? drop_replaced(log) : rc;
}

static struct raft_log *log_new(struct disk *disk, const struct raft_log_options *options)
{
    struct raft_log *log = xcalloc(1, sizeof *log);
    log->disk = disk;
    log->directory = xstrdup(options->directory);
    log->segment_bytes = options->segment_bytes != 0 ? options->segment_bytes : RAFT_LOG_SEGMENT_BYTES;
    CHECK(log->segment_bytes % RAFT_BLOCK == 0 && log->segment_bytes >= 2 * RAFT_BLOCK);
    log->reserve_bytes = options->reserve_bytes;
    prng_seed(&log->prng, options->random);
    log->first = 1;
    log->next = 1;
    buf_init(&log->scratch);
    log->aligned = aligned_alloc(DISK_ALIGN, DIRECT_BYTES);
    CHECK(log->aligned != NULL);
    raft_log_state_init(&log->state);
    return log;
}

int raft_log_open(struct disk *disk, const struct raft_log_options *options,
                  void (*visit)(void *ctx, uint64_t index, const struct raft_log_entry *e),
                  void *ctx, struct raft_log_state *state, struct raft_log **out)
{
    struct raft_log *log = log_new(disk, options);
    struct replay p = {.log = log, .visit = visit, .ctx = ctx};
    buf_init(&p.tail);
    buf_init(&p.unborn);
    int rc = disk->ops->make_dir(disk, log->directory);
    if (rc == 0) {
        rc = slots_open(log);
    }
    if (rc == 0) {
        rc = replay_all(&p);
    }
    if (rc == 0) {
        rc = finish_reset(&p);
    }
    if (rc == 0) {
        rc = rewrite_tail(&p);
    }
    tail_clear(&p);
    buf_release(&p.tail);
    buf_release(&p.unborn);
    if (rc != 0) {
        raft_log_close(log);
        return rc;
    }
    raft_log_state_init(state);
    state->term = log->state.term;
    state->vote = log->state.vote;
    copy_snapshot(state, &log->state);
    *out = log;
    return 0;
}

void raft_log_close(struct raft_log *log)
{
    if (log == NULL) {
        return;
    }
    struct segment *s = last_segment(log);
    if (s != NULL && s->file != NULL) {
        s->file->ops->file_close(s->file);
    }
    if (log->slots != NULL) {
        log->slots->ops->file_close(log->slots);
    }
    raft_log_state_release(&log->state);
    buf_release(&log->scratch);
    free(log->aligned);
    free(log->segments);
    free(log->directory);
    free(log);
}

/* ---- for the driver ------------------------------------------------------------------------- */

int raft_log_append(struct raft_log *log, uint64_t first_index, const struct raft_log_entry *entries,
                    unsigned n)
{
    CHECK(n > 0 && first_index > log->state.snapshot_index);
    if (log->failed) {
        return -EIO; /* what was to stand below this batch may have been lost with the failure */
    }
    if (log->n_segments > 0 && first_index > log->next) {
        return -EIO; /* the batch before it found no room, and whoever waited for that is stopping */
    }
    return append_twice(log, first_index, entries, n);
}

int raft_log_vote(struct raft_log *log, uint64_t term, uint64_t vote)
{
    log->state.term = term;
    log->state.vote = vote;
    return slots_write(log);
}

int raft_log_cut(struct raft_log *log, const struct raft_log_state *state, uint64_t first_kept)
{
    CHECK(state->snapshot_index < log->next && first_kept <= state->snapshot_index + 1);
    copy_snapshot(&log->state, state);
    const int rc = slots_write(log);
    if (rc != 0) {
        return rc;
    }
    unsigned n = 0;
    while (n + 1 < log->n_segments && log->segments[n + 1].header.first_index <= first_kept) {
        n++;
    }
    if (n > 0) {
        log->first = log->segments[n].header.first_index;
    }
    return segments_drop(log, n);
}

int raft_log_reset(struct raft_log *log, const struct raft_log_state *state)
{
    /* A crash between the two steps is seen at the next start: finish_reset. */
    const unsigned old = log->n_segments;
    copy_snapshot(&log->state, state);
    int rc = slots_write(log);
    if (rc == 0) {
        rc = segment_switch(log, state->snapshot_index + 1, 0, RAFT_SEGMENT_RESET);
    }
    if (rc != 0) {
        log->failed = true;
        return rc;
    }
    log->first = state->snapshot_index + 1;
    return segments_drop(log, old);
}

int raft_log_prepare(struct raft_log *log)
{
    if (log->failed) {
        return -EIO;
    }
    if (log->n_spares > 0) {
        return 0;
    }
    const int rc = spare_make(log, log->sequence + 1, log->segment_bytes);
    if (rc == 0) {
        log->sequence++;
        log->spares[log->n_spares++] = log->sequence;
    }
    return rc;
}

uint64_t raft_log_first(const struct raft_log *log)
{
    return log->first;
}

uint64_t raft_log_last(const struct raft_log *log)
{
    return log->next - 1;
}

uint64_t raft_log_bytes(const struct raft_log *log)
{
    uint64_t bytes = log->n_spares * log->segment_bytes;
    for (unsigned i = 0; i < log->n_segments; i++) {
        bytes += log->segments[i].header.size;
    }
    return bytes;
}
