#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/table.h"
#include "meta/raft_format.h"
#include "test/lib/disk_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The Raft log as files in a directory: with other bytes in them, cut short, missing, swapped, of
 * strange names. It opens or refuses with an error; what it opens, it appends to, and opens again
 * with the same entries, also after a power cut. byte 0: which log; then changes of five bytes
 * each: what, which file, place (2), byte. */
enum { SEGMENT = 16 << 10, DISK = 4 << 20, FILES_MAX = 24, NAME_MAX_BYTES = 64, SEEN_MAX = 4096 };

struct file {
    char name[NAME_MAX_BYTES];
    struct buf bytes;
};
struct directory {
    struct file file[FILES_MAX];
    unsigned n;
};

/* What an open told. */
struct seen {
    uint64_t first, next;
    uint64_t entry[SEEN_MAX]; /* a hash of each, from first on */
};

static void on_entry(void *ctx, uint64_t index, const struct raft_log_entry *e)
{
    struct seen *s = ctx;
    if (e == NULL) {
        s->first = s->next = index;
        return;
    }
    CHECK(index >= s->first && index <= s->next && index - s->first < SEEN_MAX);
    uint64_t h = table_mix(e->term) ^ e->type;
    for (size_t i = 0; i < e->data.len; i++) {
        h = table_mix(h ^ e->data.data[i]);
    }
    s->entry[index - s->first] = h;
    s->next = index + 1;
}

static int open_log(struct disk *d, struct seen *s, struct raft_log_state *state,
                    struct raft_log **out)
{
    const struct raft_log_options o = {.directory = "raft", .segment_bytes = SEGMENT, .random = 7};
    s->first = s->next = 1;
    return raft_log_open(d, &o, on_entry, s, state, out);
}

static int append(struct raft_log *log, uint64_t first, unsigned n, uint64_t term, size_t bytes)
{
    uint8_t data[1024] = {(uint8_t)first, (uint8_t)term};
    struct raft_log_entry e[8];
    CHECK(n <= array_count(e) && bytes <= sizeof data);
    for (unsigned i = 0; i < n; i++) {
        e[i] = (struct raft_log_entry){
            .term = term, .type = RAFT_LOG_COMMAND, .data = BYTES(data, bytes)};
    }
    return raft_log_append(log, first, e, n);
}

/* ---- directories -------------------------------------------------------------------- */

static void read_file(struct disk *d, struct file *f)
{
    struct disk_file *open = NULL;
    uint64_t size = 0, allocated = 0;
    char path[NAME_MAX_BYTES + 8];
    (void)snprintf(path, sizeof path, "raft/%s", f->name);
    CHECK(d->ops->open(d, path, 0, &open) == 0);
    CHECK(open->ops->size(open, &size, &allocated) == 0);
    CHECK(open->ops->read(open, buf_extend(&f->bytes, (size_t)size), (size_t)size, 0) == 0);
    open->ops->file_close(open);
}

static void write_file(struct disk *d, const struct file *f)
{
    struct disk_file *open = NULL;
    char path[NAME_MAX_BYTES + 8];
    (void)snprintf(path, sizeof path, "raft/%s", f->name);
    CHECK(d->ops->open(d, path, DISK_CREATE, &open) == 0);
    CHECK(open->ops->truncate(open, f->bytes.len) == 0);
    const struct iovec iov = {.iov_base = f->bytes.data, .iov_len = f->bytes.len};
    CHECK(f->bytes.len == 0 || open->ops->write(open, &iov, 1, 0) == 0);
    CHECK(open->ops->sync(open) == 0);
    open->ops->file_close(open);
}

static struct file *directory_add(struct directory *to, const char *name)
{
    for (unsigned i = 0; i < to->n; i++) {
        if (strcmp(to->file[i].name, name) == 0) {
            return NULL;
        }
    }
    if (to->n == FILES_MAX) {
        return NULL;
    }
    struct file *f = &to->file[to->n++];
    (void)snprintf(f->name, sizeof f->name, "%s", name);
    buf_init(&f->bytes);
    return f;
}

static void listed(const char *name, void *ctx)
{
    CHECK(directory_add(ctx, name) != NULL);
}

static void directory_release(struct directory *dir)
{
    for (unsigned i = 0; i < dir->n; i++) {
        buf_release(&dir->file[i].bytes);
    }
    dir->n = 0;
}

static void directory_copy(const struct directory *from, struct directory *to)
{
    to->n = 0;
    for (unsigned i = 0; i < from->n; i++) {
        struct file *f = directory_add(to, from->file[i].name);
        buf_add(&f->bytes, from->file[i].bytes.data, from->file[i].bytes.len);
    }
}

/* A log of some segments, with a history that was replaced and a spare; `cut`: behind a snapshot.
 */
static void make_directory(struct directory *dir, bool cut)
{
    static struct seen s;
    struct disk *d = disk_mem_new(DISK);
    struct raft_log_state state;
    struct raft_log *log = NULL;
    CHECK(open_log(d, &s, &state, &log) == 0 && raft_log_vote(log, 3, 1) == 0);
    for (uint64_t i = 1; i <= 40; i += 4) {
        CHECK(append(log, i, 4, 1, i % 3 * 500) == 0);
    }
    CHECK(append(log, 33, 5, 2, 900) == 0 && append(log, 38, 1, 3, 10) == 0);
    if (cut) {
        state.snapshot_index = 20;
        state.snapshot_term = 1;
        buf_add(&state.configuration, "conf", 4);
        CHECK(raft_log_cut(log, &state, 15) == 0);
    }
    CHECK(raft_log_prepare(log) == 0);
    raft_log_close(log);
    raft_log_state_release(&state);
    CHECK(d->ops->list(d, "raft", listed, dir) == 0);
    for (unsigned i = 0; i < dir->n; i++) {
        read_file(d, &dir->file[i]);
    }
    d->ops->close(d);
}

/* ---- changes ------------------------------------------------------------------------ */

static uint64_t number_of(uint8_t byte, uint64_t now)
{
    static const uint64_t NUMBERS[] = {0, 1, 2, 8192, 1 << 20, UINT32_MAX, INT64_MAX, UINT64_MAX};
    return byte < 128 ? now + byte - 64 : NUMBERS[byte % array_count(NUMBERS)];
}

/* With checksums that are right: who wrote it meant it. */
static void change_header(struct buf *b, unsigned field, uint8_t byte)
{
    struct raft_segment_header h;
    if (b->len < RAFT_SEGMENT_HEADER_BYTES || raft_segment_decode(buf_bytes(b), &h) != 0) {
        return;
    }
    uint64_t *const fields[] = {&h.sequence, &h.first_index, &h.seed, &h.size};
    *fields[field % 4] = number_of(byte, *fields[field % 4]);
    h.flags ^= field / 4 % 2 * RAFT_SEGMENT_RESET;
    raft_segment_encode(&h, b->data);
}

static void change_record(struct buf *b, unsigned place, uint8_t byte)
{
    struct raft_segment_header h;
    struct raft_record r;
    const uint64_t at = (uint64_t)(place / 4 + 1) * RAFT_BLOCK;
    if (raft_segment_decode(buf_bytes(b), &h) != 0 ||
        !raft_record_decode(buf_bytes(b), h.seed, at, &r)) {
        return;
    }
    uint64_t *const fields[] = {&r.index, &r.batch_first, &r.entry.term};
    if (place % 4 < 3) {
        *fields[place % 4] = number_of(byte, *fields[place % 4]);
    } else {
        r.flags ^= byte;
    }
    struct buf again;
    buf_init(&again);
    raft_record_encode(&again, h.seed, at, &r);
    memcpy(b->data + at, again.data, again.len);
    buf_release(&again);
}

static void change_slot(struct buf *b, unsigned place, uint8_t byte)
{
    struct raft_log_state s;
    uint64_t version = 0;
    const size_t at = place % 2 * RAFT_SLOT_BYTES;
    raft_log_state_init(&s);
    if (b->len >= at + RAFT_SLOT_BYTES &&
        raft_slot_decode(BYTES(b->data + at, RAFT_SLOT_BYTES), &s, &version) == 0) {
        uint64_t *const fields[] = {&version,          &s.term,          &s.vote,
                                    &s.snapshot_index, &s.snapshot_term, &s.configuration_index};
        uint64_t *field = fields[place / 2 % array_count(fields)];
        *field = number_of(byte, *field);
        struct buf again;
        buf_init(&again);
        raft_slot_encode(&s, version, &again);
        memcpy(b->data + at, again.data, RAFT_SLOT_BYTES);
        buf_release(&again);
    }
    raft_log_state_release(&s);
}

static void change_files(struct directory *dir, struct file *f, struct file *other, uint8_t what)
{
    static const char *const NAMES[] = {"log-0000000000000001",
                                        "log-0000000000000009",
                                        "log-000000000000000b",
                                        "log-ffffffffffffffff",
                                        "log-fffffffffffffffe",
                                        "log-1",
                                        "log-0x00000000000001",
                                        "log-zz",
                                        "log-00000000000000011",
                                        "spare-0000000000000003",
                                        "spare-0000000000000040",
                                        "spare-ffffffffffffffff",
                                        "spare-2",
                                        "new-0000000000000004",
                                        "state",
                                        "junk"};
    struct buf bytes = f->bytes;
    char name[NAME_MAX_BYTES];
    switch (what % 4) {
    case 0: /* missing */
        buf_release(&f->bytes);
        *f = dir->file[--dir->n];
        break;
    case 1: /* two have each other's bytes */
        f->bytes = other->bytes;
        other->bytes = bytes;
        break;
    case 2: /* another name for a copy of it */
        other = directory_add(dir, NAMES[what / 4 % array_count(NAMES)]);
        if (other != NULL) {
            buf_add(&other->bytes, f->bytes.data, f->bytes.len);
        }
        break;
    default: /* under another name */
        (void)snprintf(name, sizeof name, "%s", f->name);
        f->name[0] = '\0';
        other = directory_add(dir, NAMES[what / 4 % array_count(NAMES)]);
        if (other != NULL) {
            other->bytes = f->bytes;
            *f = dir->file[--dir->n];
        } else {
            memcpy(f->name, name, sizeof name);
        }
        break;
    }
}

static void change(struct directory *dir, const uint8_t in[5])
{
    if (dir->n == 0) {
        return;
    }
    struct file *f = &dir->file[in[1] % dir->n];
    const unsigned place = in[2] | (unsigned)in[3] << 8;
    struct buf *b = &f->bytes;
    switch (in[0] % 8) {
    case 0:
    case 1:
        if (b->len > 0) {
            b->data[(place + (in[0] & 0x40u) * 256) % b->len] ^= in[4];
        }
        break;
    case 2:
        b->len = place % (b->len + 1);
        break;
    case 3: /* longer */
        memset(buf_extend(b, place % 8192), in[4], place % 8192);
        break;
    case 4:
        change_header(b, place, in[4]);
        break;
    case 5:
        change_record(b, place % 16, in[4]);
        break;
    case 6:
        change_slot(b, place, in[4]);
        break;
    default:
        change_files(dir, f, &dir->file[in[2] % dir->n], in[4]);
        break;
    }
}

/* ---- what must hold ----------------------------------------------------------------- */

static void same_state(const struct raft_log_state *a, const struct raft_log_state *b)
{
    CHECK(a->term == b->term && a->vote == b->vote && a->snapshot_index == b->snapshot_index &&
          a->snapshot_term == b->snapshot_term);
}

static void use(struct disk *d, uint64_t seed)
{
    static struct seen before, after;
    struct raft_log_state state, again;
    struct raft_log *log = NULL;
    if (open_log(d, &before, &state, &log) != 0) {
        return;
    }
    CHECK(raft_log_last(log) == before.next - 1);
    CHECK(append(log, before.next, 2, state.term + 1, 100) == 0);
    CHECK(append(log, before.next + 2, 1, state.term + 1, 3) == 0);
    raft_log_close(log);
    disk_mem_crash(d, seed, 0);
    CHECK(open_log(d, &after, &again, &log) == 0);
    same_state(&state, &again);
    CHECK(after.first == before.first && after.next == before.next + 3);
    CHECK(memcmp(before.entry, after.entry,
                 (size_t)(before.next - before.first) * sizeof before.entry[0]) == 0);
    raft_log_close(log);
    raft_log_state_release(&state);
    raft_log_state_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct directory whole[2], dir;
    if (len < 1) {
        return 0;
    }
    if (whole[0].n == 0) {
        make_directory(&whole[0], false);
        make_directory(&whole[1], true);
    }
    directory_copy(&whole[data[0] % 2], &dir);
    for (size_t i = 1; i + 5 <= len && i < 5 * 16; i += 5) {
        change(&dir, data + i);
    }
    struct disk *d = disk_mem_new(DISK);
    CHECK(d->ops->make_dir(d, "raft") == 0);
    for (unsigned i = 0; i < dir.n; i++) {
        write_file(d, &dir.file[i]);
    }
    CHECK(d->ops->sync_dir(d, "raft") == 0);
    use(d, data[0]);
    d->ops->close(d);
    directory_release(&dir);
    return 0;
}
