#ifndef CFS_META_RAFT_LOG_H
#define CFS_META_RAFT_LOG_H

#include "base/buf.h"
#include "store/disk.h"

/* The Raft log on disk, and beside it term, vote and what is known of the last snapshot. All
 * calls block: the shell runs them on the thread that owns the log. Formats: docs/raft.md.
 *
 * Cost of raft_log_append: one write and one sync for the whole batch; at a change of segment two
 * more syncs, of the header and the directory, into a file that raft_log_prepare made ready. */
struct raft_log;

enum raft_log_type { RAFT_LOG_COMMAND = 1, RAFT_LOG_BARRIER = 2, RAFT_LOG_CHANGE = 3 };
enum {
    RAFT_LOG_ENTRY_MAX = 8 << 20,         /* bytes of one entry */
    RAFT_LOG_CONFIGURATION_MAX = 3 << 10, /* bytes of an encoded configuration */
    RAFT_LOG_SEGMENT_BYTES = 8 << 20
};

struct raft_log_entry {
    uint64_t term;
    uint8_t type; /* enum raft_log_type */
    struct bytes data;
};

struct raft_log_state {
    uint64_t term;
    uint64_t vote; /* 0: none */
    uint64_t snapshot_index; /* 0: there is none */
    uint64_t snapshot_term;
    uint64_t configuration_index;
    struct buf configuration; /* as of the snapshot, packed by who drives Raft */
};
void raft_log_state_init(struct raft_log_state *s);
void raft_log_state_release(struct raft_log_state *s);

struct raft_log_options {
    const char *directory;  /* below the disk's root; made if it is not there */
    uint64_t segment_bytes; /* 0: RAFT_LOG_SEGMENT_BYTES; a multiple of 4096 */
    uint64_t reserve_bytes; /* no new segment while less than this would stay free */
    uint64_t random;        /* seeds the per-file keys; from the kernel in production */
};

/* Opens or makes the log and replays it: visit is called per entry, oldest first; an entry whose index
 * was seen before replaces that one and all after it; with e NULL the log begins at that index, and what
 * was seen before is void. *state is filled in (release it). ERR_CORRUPT: something
 * that was synced cannot be read any more; ERR_VERSION; disk errors. */
int raft_log_open(struct disk *disk, const struct raft_log_options *options,
                  void (*visit)(void *ctx, uint64_t index, const struct raft_log_entry *e),
                  void *ctx, struct raft_log_state *state, struct raft_log **out);
void raft_log_close(struct raft_log *log); /* NULL is fine */

/* Entries first_index .. first_index + n - 1, replacing whatever stands at or after first_index (which is at
 * most last + 1 and above the snapshot). 0: all of them survive a power cut. -ENOSPC: nothing happened, try again
 * when there is room. Any other error: the log refuses everything from now on; stop. */
int raft_log_append(struct raft_log *log, uint64_t first_index, const struct raft_log_entry *entries,
                    unsigned n);

/* Makes term and vote durable. An error: stop. */
int raft_log_vote(struct raft_log *log, uint64_t term, uint64_t vote);

/* There is a durable state that contains everything up to state->snapshot_index (term and vote in
 * *state are ignored): entries below first_kept may go. */
int raft_log_cut(struct raft_log *log, const struct raft_log_state *state, uint64_t first_kept);

/* A snapshot was installed: the log begins again behind it, empty. */
int raft_log_reset(struct raft_log *log, const struct raft_log_state *state);

/* Makes the next segment ready (zero-filled, synced) so that no append has to. Call it when idle.
 * -ENOSPC is no failure of the log. */
int raft_log_prepare(struct raft_log *log);

uint64_t raft_log_first(const struct raft_log *log); /* last + 1 when empty */
uint64_t raft_log_last(const struct raft_log *log);
uint64_t raft_log_bytes(const struct raft_log *log); /* of segment files, spare ones too */

#endif
