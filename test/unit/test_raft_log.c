#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/err.h"
#include "base/mem.h"
#include "meta/raft_format.h"
#include "meta/raft_log.h"
#include "test/lib/disk_mem.h"

enum { SEGMENT = 32 << 10, SEEN_MAX = 4096 };

struct seen {
    uint64_t first, next;
    uint64_t term[SEEN_MAX];
    uint64_t value[SEEN_MAX];
};

static void on_entry(void *ctx, uint64_t index, const struct raft_log_entry *e)
{
    struct seen *s = ctx;
    if (e == NULL) {
        s->first = s->next = index;
        return;
    }
    ck_assert_uint_le(index, s->next);
    ck_assert_uint_lt(index, SEEN_MAX);
    s->next = index + 1;
    s->term[index] = e->term;
    s->value[index] = e->data.len >= 8 ? get_le64(e->data.data) : 0;
}

static int open_log(struct disk *d, struct seen *s, struct raft_log_state *state, struct raft_log **log)
{
    const struct raft_log_options o = {.directory = "raft", .segment_bytes = SEGMENT, .random = 7};
    memset(s, 0, sizeof *s);
    return raft_log_open(d, &o, on_entry, s, state, log);
}

static struct raft_log *must_open(struct disk *d, struct seen *s)
{
    struct raft_log_state state;
    struct raft_log *log = NULL;
    ck_assert_int_eq(open_log(d, s, &state, &log), 0);
    raft_log_state_release(&state);
    return log;
}

/* n entries from first on, each of `bytes`, with values index + mark. */
static int append(struct raft_log *log, uint64_t first, unsigned n, uint64_t term, uint64_t mark, size_t bytes)
{
    struct raft_log_entry *e = xcalloc(n, sizeof e[0]);
    uint8_t *data = xcalloc(n, bytes);
    for (unsigned i = 0; i < n; i++) {
        put_le64(data + i * bytes, first + i + mark);
        e[i] = (struct raft_log_entry){
            .term = term, .type = RAFT_LOG_COMMAND, .data = BYTES(data + i * bytes, bytes)};
    }
    const int rc = raft_log_append(log, first, e, n);
    free(data);
    free(e);
    return rc;
}

START_TEST(what_was_appended_is_replayed)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    for (uint64_t i = 1; i <= 100; i += 5) {
        ck_assert_int_eq(append(log, i, 5, 3, 1000, 200), 0);
    }
    raft_log_close(log);
    disk_mem_crash(d, 1, 0);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.next, 101);
    ck_assert_uint_eq(s.value[100], 1100);
    ck_assert_uint_eq(s.term[1], 3);
    ck_assert_uint_eq(raft_log_last(log), 100);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

START_TEST(term_and_vote_survive)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(raft_log_vote(log, 5, 2), 0);
    ck_assert_int_eq(raft_log_vote(log, 6, 3), 0);
    raft_log_close(log);
    disk_mem_crash(d, 1, 0);
    struct raft_log_state state;
    ck_assert_int_eq(open_log(d, &s, &state, &log), 0);
    ck_assert_uint_eq(state.term, 6);
    ck_assert_uint_eq(state.vote, 3);
    raft_log_state_release(&state);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

START_TEST(a_truncation_replaces_what_followed)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(append(log, 1, 20, 1, 0, 100), 0);
    ck_assert_int_eq(append(log, 11, 2, 2, 5000, 100), 0);
    raft_log_close(log);
    disk_mem_crash(d, 1, 0);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.next, 13);
    ck_assert_uint_eq(s.value[10], 10);
    ck_assert_uint_eq(s.value[12], 5012);
    ck_assert_uint_eq(s.term[11], 2);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

START_TEST(a_failed_sync_is_written_again_elsewhere)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(append(log, 1, 3, 1, 0, 100), 0);
    /* The next two changing calls are the write and the sync of the append. */
    disk_mem_fault(d, (struct disk_mem_fault){.at = 1});
    ck_assert_int_eq(append(log, 4, 3, 1, 0, 100), 0);
    ck_assert(disk_mem_fired(d));
    raft_log_close(log);
    disk_mem_crash(d, 3, 0);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.next, 7);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

/* One scenario with a fault at every changing call: whatever was acknowledged is there afterwards, in order, and
 * nothing else but what was tried. */
START_TEST(no_fault_loses_what_was_acknowledged)
{
    for (int at = 0; at < 400; at++) {
        for (int kind = 0; kind < 3; kind++) {
            struct disk *d = disk_mem_new(64 << 20);
            struct seen s;
            struct raft_log_state state;
            struct raft_log *log = NULL;
            disk_mem_fault(d, (struct disk_mem_fault){
                                  .at = at, .sticky = kind > 0, .torn = kind == 2});
            uint64_t acknowledged = 0;
            uint64_t tried = 0;
            if (open_log(d, &s, &state, &log) == 0) {
                raft_log_state_release(&state);
                while (tried < 60) {
                    tried += 4;
                    if (append(log, tried - 3, 4, 1, 0, 900) != 0) {
                        break;
                    }
                    acknowledged = tried;
                    (void)raft_log_prepare(log);
                }
                raft_log_close(log);
            }
            const bool fired = disk_mem_fired(d);
            disk_mem_crash(d, (uint64_t)at, 50);
            log = must_open(d, &s);
            ck_assert_uint_ge(s.next, acknowledged + (acknowledged > 0));
            ck_assert_uint_le(s.next, tried + 1);
            for (uint64_t i = 1; i < s.next; i++) {
                ck_assert_uint_eq(s.value[i], i);
            }
            raft_log_close(log);
            d->ops->close(d);
            if (!fired) {
                return;
            }
        }
    }
}
END_TEST

static void all_are_there(struct disk *d, uint64_t last)
{
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_uint_eq(s.next, last + 1);
    ck_assert_uint_eq(raft_log_last(log), last);
    for (uint64_t i = 1; i <= last; i++) {
        ck_assert_uint_eq(s.value[i], i);
    }
    ck_assert_int_eq(append(log, last + 1, 1, 1, 0, 100), 0);
    raft_log_close(log);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.next, last + 2);
    raft_log_close(log);
}

/* The start writes the last batch again; a power cut at every step of that, and at every step of the start after it,
 * loses nothing of what was acknowledged. */
START_TEST(a_start_cut_off_anywhere_loses_nothing)
{
    enum { AFTER = 20 };
    for (int at = 0; at < AFTER; at++) {
        for (int seed = 0; seed < 40; seed++) {
            struct disk *d = disk_mem_new(64 << 20);
            struct seen s;
            struct raft_log *log = must_open(d, &s);
            ck_assert_int_eq(append(log, 1, 3, 1, 0, 100), 0);
            ck_assert_int_eq(append(log, 4, 6, 1, 0, 900), 0);
            raft_log_close(log);
            for (int start = 0; start < 2; start++) {
                struct raft_log_state state;
                disk_mem_fault(d, (struct disk_mem_fault){
                                      .at = start == 0 ? at : seed % AFTER, .sticky = true, .torn = true});
                if (open_log(d, &s, &state, &log) == 0) {
                    raft_log_state_release(&state);
                    raft_log_close(log);
                }
                disk_mem_crash(d, (uint64_t)seed, 50);
            }
            all_are_there(d, 9);
            d->ops->close(d);
        }
    }
}
END_TEST

static void make_file(struct disk *d, const char *path)
{
    struct disk_file *f = NULL;
    ck_assert_int_eq(d->ops->open(d, path, DISK_CREATE, &f), 0);
    f->ops->file_close(f);
}

START_TEST(without_its_state_file_a_log_is_refused)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(raft_log_vote(log, 5, 2), 0);
    ck_assert_int_eq(append(log, 1, 3, 5, 0, 100), 0);
    raft_log_close(log);
    ck_assert_int_eq(d->ops->unlink(d, "raft/state"), 0);
    for (int i = 0; i < 2; i++) { /* the second time an empty one is there */
        struct raft_log_state state;
        ck_assert_int_eq(open_log(d, &s, &state, &log), ERR_CORRUPT);
    }
    d->ops->close(d);
}
END_TEST

START_TEST(names_that_the_log_does_not_make_are_left_alone)
{
    static const char *const NAMES[] = {"raft/log-1", "raft/log-0x00000000000001", "raft/log-+000000000000001",
                                        "raft/log-0000000000000001.bak", "raft/spare-ffffffffffffffff",
                                        "raft/spare-2"};
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(append(log, 1, 3, 1, 0, 100), 0);
    raft_log_close(log);
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        make_file(d, NAMES[i]);
    }
    all_are_there(d, 3);
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        ck_assert_int_eq(d->ops->unlink(d, NAMES[i]), 0);
    }
    all_are_there(d, 4);
    d->ops->close(d);
}
END_TEST

START_TEST(numbers_behind_which_none_can_be_counted_are_corrupt)
{
    uint8_t header[RAFT_SEGMENT_HEADER_BYTES];
    struct raft_segment_header h;
    const uint64_t end = RAFT_NUMBER_END;
    for (int i = 0; i < 3; i++) {
        h = (struct raft_segment_header){
            .sequence = i == 1 ? end : end - 1, .first_index = i == 2 ? end : end - 1, .size = 8192};
        raft_segment_encode(&h, header);
        ck_assert_int_eq(raft_segment_decode(BYTES(header, sizeof header), &h), i == 0 ? 0 : ERR_CORRUPT);
    }
    struct raft_log_state s;
    struct buf slot;
    uint64_t version = 0;
    raft_log_state_init(&s);
    buf_init(&slot);
    s.snapshot_index = end;
    raft_slot_encode(&s, 1, &slot);
    ck_assert_int_eq(raft_slot_decode(buf_bytes(&slot), &s, &version), ERR_CORRUPT);
    buf_release(&slot);
    raft_log_state_release(&s);
}
END_TEST

START_TEST(rot_in_what_was_synced_is_refused)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(append(log, 1, 1, 1, 0, 100), 0);
    ck_assert_int_eq(append(log, 2, 1, 1, 0, 100), 0);
    raft_log_close(log);
    ck_assert_int_eq(disk_mem_rot(d, "raft/log-0000000000000001", RAFT_BLOCK + 40, 1), 0);
    struct raft_log_state state;
    ck_assert_int_eq(open_log(d, &s, &state, &log), ERR_CORRUPT);
    d->ops->close(d);
}
END_TEST

START_TEST(a_torn_last_batch_is_dropped_and_written_over)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(append(log, 1, 3, 1, 0, 100), 0);
    ck_assert_int_eq(append(log, 4, 3, 1, 0, 3000), 0);
    raft_log_close(log);
    /* The second record of the second batch. */
    ck_assert_int_eq(disk_mem_rot(d, "raft/log-0000000000000001", 2 * RAFT_BLOCK + 3200, 1), 0);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.next, 5);
    ck_assert_int_eq(append(log, 5, 2, 2, 900, 100), 0);
    raft_log_close(log);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.next, 7);
    ck_assert_uint_eq(s.value[4], 4);
    ck_assert_uint_eq(s.value[5], 905);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

static void cut(struct raft_log *log, uint64_t index, uint64_t kept)
{
    struct raft_log_state state;
    raft_log_state_init(&state);
    state.snapshot_index = index;
    state.snapshot_term = 1;
    state.configuration_index = 1;
    buf_add(&state.configuration, "conf", 4);
    ck_assert_int_eq(raft_log_cut(log, &state, kept), 0);
    raft_log_state_release(&state);
}

START_TEST(a_cut_frees_segments_and_keeps_the_trail)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    for (uint64_t i = 1; i <= 200; i++) {
        ck_assert_int_eq(append(log, i, 1, 1, 0, 500), 0);
    }
    const uint64_t before = raft_log_bytes(log);
    cut(log, 190, 180);
    ck_assert_uint_lt(raft_log_bytes(log), before / 2);
    ck_assert_uint_le(raft_log_first(log), 180);
    raft_log_close(log);
    struct raft_log_state state;
    ck_assert_int_eq(open_log(d, &s, &state, &log), 0);
    ck_assert_uint_le(s.first, 180);
    ck_assert_uint_eq(s.next, 201);
    ck_assert_uint_eq(state.snapshot_index, 190);
    ck_assert(bytes_equal(buf_bytes(&state.configuration), BYTES("conf", 4)));
    raft_log_state_release(&state);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

START_TEST(a_reset_begins_behind_the_snapshot)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(append(log, 1, 10, 1, 0, 100), 0);
    struct raft_log_state state;
    raft_log_state_init(&state);
    state.snapshot_index = 500;
    state.snapshot_term = 4;
    ck_assert_int_eq(raft_log_reset(log, &state), 0);
    raft_log_state_release(&state);
    ck_assert_int_eq(append(log, 501, 1, 4, 0, 100), 0);
    raft_log_close(log);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.first, 501);
    ck_assert_uint_eq(s.next, 502);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

/* Power cut at every step of a reset: the log opens, either as before or behind the snapshot. */
START_TEST(a_reset_cut_off_is_finished_at_the_next_start)
{
    for (int at = 0; at < 30; at++) {
        struct disk *d = disk_mem_new(64 << 20);
        struct seen s;
        struct raft_log *log = must_open(d, &s);
        ck_assert_int_eq(append(log, 1, 10, 1, 0, 100), 0);
        struct raft_log_state state;
        raft_log_state_init(&state);
        state.snapshot_index = 5; /* with another history than ours */
        state.snapshot_term = 4;
        disk_mem_fault(d, (struct disk_mem_fault){.at = at, .sticky = true});
        (void)raft_log_reset(log, &state);
        raft_log_state_release(&state);
        raft_log_close(log);
        disk_mem_crash(d, (uint64_t)at, 50);
        ck_assert_int_eq(open_log(d, &s, &state, &log), 0);
        if (state.snapshot_index == 5) {
            ck_assert_uint_eq(s.first, 6);
            ck_assert_uint_eq(s.next, 6);
        } else {
            ck_assert_uint_eq(s.next, 11);
        }
        raft_log_state_release(&state);
        raft_log_close(log);
        d->ops->close(d);
    }
}
END_TEST

/* As above, and then the log goes on: later starts find what was appended, not the history before the snapshot. */
START_TEST(what_follows_a_reset_that_was_cut_off_stays)
{
    for (int at = 0; at < 30; at++) {
        struct disk *d = disk_mem_new(64 << 20);
        struct seen s;
        struct raft_log *log = must_open(d, &s);
        ck_assert_int_eq(append(log, 1, 10, 1, 0, 100), 0);
        struct raft_log_state state;
        raft_log_state_init(&state);
        state.snapshot_index = 5;
        state.snapshot_term = 4;
        disk_mem_fault(d, (struct disk_mem_fault){.at = at, .sticky = true});
        (void)raft_log_reset(log, &state);
        raft_log_state_release(&state);
        raft_log_close(log);
        disk_mem_crash(d, (uint64_t)at, 50);
        ck_assert_int_eq(open_log(d, &s, &state, &log), 0);
        const bool done = state.snapshot_index == 5;
        raft_log_state_release(&state);
        ck_assert_int_eq(append(log, s.next, 1, 4, 0, 100), 0);
        for (int start = 0; start < 3; start++) {
            raft_log_close(log);
            log = must_open(d, &s);
            ck_assert_uint_eq(s.next, done ? 7 : 12);
            ck_assert_uint_eq(raft_log_last(log), s.next - 1);
        }
        raft_log_close(log);
        d->ops->close(d);
    }
}
END_TEST

START_TEST(a_full_disk_refuses_cleanly_and_goes_on_with_room)
{
    struct disk *d = disk_mem_new(8 * SEGMENT);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    uint64_t next = 1;
    int rc = 0;
    while (rc == 0) {
        rc = append(log, next, 1, 1, 0, 3000);
        next += rc == 0;
    }
    ck_assert_int_eq(rc, -ENOSPC);
    ck_assert_int_eq(append(log, next, 1, 1, 0, 3000), -ENOSPC);
    disk_mem_set_total(d, 64 << 20);
    ck_assert_int_eq(append(log, next, 1, 1, 0, 3000), 0);
    raft_log_close(log);
    log = must_open(d, &s);
    ck_assert_uint_eq(s.next, next + 1);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

START_TEST(an_append_costs_one_write_and_one_sync)
{
    struct disk *d = disk_mem_new(64 << 20);
    struct seen s;
    struct raft_log *log = must_open(d, &s);
    ck_assert_int_eq(append(log, 1, 1, 1, 0, 100), 0);
    const struct disk_mem_counts before = disk_mem_counts(d);
    ck_assert_int_eq(append(log, 2, 20, 1, 0, 100), 0);
    const struct disk_mem_counts after = disk_mem_counts(d);
    ck_assert_uint_eq(after.writes - before.writes, 1);
    ck_assert_uint_eq(after.syncs - before.syncs, 1);
    raft_log_close(log);
    d->ops->close(d);
}
END_TEST

START_TEST(records_have_their_golden_bytes)
{
    struct buf b;
    buf_init(&b);
    const struct raft_record r = {.index = 9,
                                  .batch_first = 8,
                                  .flags = RAFT_RECORD_LAST,
                                  .entry = {.term = 2, .type = RAFT_LOG_COMMAND, .data = BYTES("abc", 3)}};
    raft_record_encode(&b, 0x1122334455667788u, 4096, &r);
    ck_assert_uint_eq(b.len, 40);
    static const uint8_t golden[40] = {0x85, 0xd5, 0xaf, 0x01, 3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
                                     1, 0, 0, 0, 1, 1, 0, 0, 'a', 'b', 'c'};
    ck_assert_mem_eq(b.data, golden, sizeof golden);
    buf_release(&b);
}
END_TEST

START_TEST(headers_and_slots_have_their_golden_bytes)
{
    uint8_t header[RAFT_SEGMENT_HEADER_BYTES];
    const struct raft_segment_header h = {
        .sequence = 3, .first_index = 7, .seed = 0x1122334455667788u, .size = 8192, .flags = RAFT_SEGMENT_RESET};
    raft_segment_encode(&h, header);
    static const uint8_t golden_header[RAFT_SEGMENT_HEADER_BYTES] = {
        'C', 'F', 'S', 'L', 'O', 'G', '1', 0, 1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0x20, 0, 0, 0, 0, 0, 0, [60] = 0};
    ck_assert_mem_eq(header, golden_header, sizeof header - 4);
    ck_assert_uint_eq(get_le32(header + 60), crc32c(0, header, 60));
    struct raft_log_state s;
    struct buf slot;
    raft_log_state_init(&s);
    buf_init(&slot);
    s.term = 2;
    s.vote = 3;
    s.snapshot_index = 4;
    s.snapshot_term = 5;
    s.configuration_index = 6;
    buf_add(&s.configuration, "conf", 4);
    raft_slot_encode(&s, 12, &slot);
    static const uint8_t golden_slot[RAFT_SLOT_BYTES] = {
        'C', 'F', 'S', 'R', 'S', 'T', '1', 0, 1, [16] = 12, [24] = 2, [32] = 3, [40] = 4, [48] = 5, [56] = 6,
        [64] = 4, [80] = 'c', 'o', 'n', 'f'};
    ck_assert_uint_eq(slot.len, RAFT_SLOT_BYTES);
    ck_assert_mem_eq(slot.data, golden_slot, RAFT_SLOT_BYTES - 4);
    ck_assert_uint_eq(get_le32(slot.data + RAFT_SLOT_BYTES - 4), crc32c(0, slot.data, RAFT_SLOT_BYTES - 4));
    buf_release(&slot);
    raft_log_state_release(&s);
}
END_TEST

START_TEST(every_truncation_of_a_record_is_refused)
{
    struct buf b;
    struct raft_record r = {.index = 1, .batch_first = 1,
                            .entry = {.term = 2, .type = RAFT_LOG_CHANGE, .data = BYTES("0123456789", 10)}};
    buf_init(&b);
    raft_record_encode(&b, 5, 0, &r);
    for (size_t len = 0; len < RAFT_RECORD_HEADER_BYTES + 10; len++) {
        ck_assert(!raft_record_decode(BYTES(b.data, len), 5, 0, &r));
    }
    ck_assert(raft_record_decode(buf_bytes(&b), 5, 0, &r));
    ck_assert(!raft_record_decode(buf_bytes(&b), 6, 0, &r)); /* another file's */
    for (size_t i = 0; i < RAFT_RECORD_HEADER_BYTES + 10; i++) {
        b.data[i] ^= 0x10;
        ck_assert(!raft_record_decode(buf_bytes(&b), 5, 0, &r));
        b.data[i] ^= 0x10;
    }
    buf_release(&b);
}
END_TEST

START_TEST(headers_and_slots_refuse_every_flipped_bit_and_newer_versions)
{
    uint8_t header[RAFT_SEGMENT_HEADER_BYTES];
    struct raft_segment_header h = {.sequence = 3, .first_index = 7, .seed = 9, .size = 8192};
    raft_segment_encode(&h, header);
    ck_assert_int_eq(raft_segment_decode(BYTES(header, sizeof header), &h), 0);
    ck_assert_uint_eq(h.first_index, 7);
    for (size_t i = 0; i < sizeof header; i++) {
        ck_assert_int_eq(raft_segment_decode(BYTES(header, i), &h), ERR_CORRUPT);
        header[i] ^= 1;
        ck_assert_int_eq(raft_segment_decode(BYTES(header, sizeof header), &h), ERR_CORRUPT);
        header[i] ^= 1;
    }
    struct raft_log_state s;
    struct buf slot;
    uint64_t version = 0;
    raft_log_state_init(&s);
    buf_init(&slot);
    s.term = 77;
    raft_slot_encode(&s, 12, &slot);
    ck_assert_int_eq(raft_slot_decode(buf_bytes(&slot), &s, &version), 0);
    ck_assert_uint_eq(version, 12);
    ck_assert_uint_eq(s.term, 77);
    for (size_t i = 0; i < slot.len; i += 7) {
        slot.data[i] ^= 1;
        ck_assert_int_eq(raft_slot_decode(buf_bytes(&slot), &s, &version), ERR_CORRUPT);
        slot.data[i] ^= 1;
    }
    buf_release(&slot);
    raft_log_state_release(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("raft_log");
    TCase *t = tcase_create("raft_log");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, what_was_appended_is_replayed);
    tcase_add_test(t, term_and_vote_survive);
    tcase_add_test(t, a_truncation_replaces_what_followed);
    tcase_add_test(t, a_failed_sync_is_written_again_elsewhere);
    tcase_add_test(t, no_fault_loses_what_was_acknowledged);
    tcase_add_test(t, a_start_cut_off_anywhere_loses_nothing);
    tcase_add_test(t, without_its_state_file_a_log_is_refused);
    tcase_add_test(t, names_that_the_log_does_not_make_are_left_alone);
    tcase_add_test(t, numbers_behind_which_none_can_be_counted_are_corrupt);
    tcase_add_test(t, rot_in_what_was_synced_is_refused);
    tcase_add_test(t, a_torn_last_batch_is_dropped_and_written_over);
    tcase_add_test(t, a_cut_frees_segments_and_keeps_the_trail);
    tcase_add_test(t, a_reset_begins_behind_the_snapshot);
    tcase_add_test(t, a_reset_cut_off_is_finished_at_the_next_start);
    tcase_add_test(t, what_follows_a_reset_that_was_cut_off_stays);
    tcase_add_test(t, a_full_disk_refuses_cleanly_and_goes_on_with_room);
    tcase_add_test(t, an_append_costs_one_write_and_one_sync);
    tcase_add_test(t, records_have_their_golden_bytes);
    tcase_add_test(t, headers_and_slots_have_their_golden_bytes);
    tcase_add_test(t, every_truncation_of_a_record_is_refused);
    tcase_add_test(t, headers_and_slots_refuse_every_flipped_bit_and_newer_versions);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
