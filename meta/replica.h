#ifndef CFS_META_REPLICA_H
#define CFS_META_REPLICA_H

#include "base/buf.h"
#include "meta/raft_log.h"

/* The Raft driver: everything between the library's I/O-free core (raft_step) and a shell that owns
 * a log, links to the other replicas and a state machine. No threads, no clock, no I/O: the shell
 * calls in with the time and is called back. The only file that includes raft.h (docs/raft.md).
 *
 * Callbacks come from inside the functions below; none may call back into the replica, except
 * replica_entry_ref/unref. Work that they start is reported later, in the order in which it was started. */
struct replica;

/* One log entry, shared by the replica, the log and the state machine. Counted on the loop only;
 * other threads may read it while somebody on the loop holds it for them. */
struct replica_entry {
    uint64_t term;
    unsigned refs;
    uint32_t len;
    uint8_t type; /* enum raft_log_type */
    uint8_t data[];
};
struct replica_entry *replica_entry_new(uint8_t type, struct bytes data); /* one reference */
struct replica_entry *replica_entry_ref(struct replica_entry *e);
void replica_entry_unref(struct replica_entry *e);

enum replica_role { REPLICA_FOLLOWER = 1, REPLICA_CANDIDATE, REPLICA_LEADER };

struct replica_outputs {
    /* Make durable, then replica_voted. No message leaves meanwhile. */
    void (*vote)(void *ctx, uint64_t term, uint64_t vote);
    /* Append entries first_index ... (replacing what stands there), then replica_stored with the last. The array
     * is valid during the call; hold the entries by reference. */
    void (*append)(void *ctx, uint64_t first_index, struct replica_entry *const *entries, unsigned n);
    /* To another replica: packed, for replica_receive there. Links are FIFO; losing one is fine. */
    void (*send)(void *ctx, uint64_t server, const char *address, struct bytes message);
    /* Committed and stored here: the state machine's turn, in order, each index once per start. Only
     * type RAFT_LOG_COMMAND means something to it. */
    void (*apply)(void *ctx, uint64_t index, struct replica_entry *e);
    void (*role)(void *ctx, enum replica_role role, uint64_t term);
    /* Write the snapshot's place, then drop log entries below first_kept: raft_log_cut. */
    void (*cut)(void *ctx, const struct raft_log_state *state, uint64_t first_kept);
    /* Append the packed snapshot at this index (the newest one) to *out, for a replica that is too far
     * behind. Negative: not now. */
    int (*snapshot)(void *ctx, uint64_t index, struct buf *out);
    /* Load this snapshot into the state machine, raft_log_reset, then replica_installed. Nothing is
     * applied meanwhile. The arguments are valid during the call. */
    void (*install)(void *ctx, const struct raft_log_state *state, struct bytes data);
};

struct replica_options {
    uint64_t id; /* > 0 */
    const char *address;
    uint32_t election_ms; /* 0: 1000 */
    uint32_t heartbeat_ms; /* 0: 100 */
    uint32_t random;
    unsigned trailing; /* entries kept behind a snapshot; 0: 4096 */
    const struct replica_outputs *outputs;
    void *ctx;
};

struct replica *replica_new(const struct replica_options *options);
void replica_free(struct replica *r); /* NULL is fine */

/* Before replica_start, for each thing that the log was found to hold (raft_log_open's visit). */
void replica_load(struct replica *r, uint64_t index, const struct raft_log_entry *e);
/* Packed configuration of a new group: append it as entry 1, type RAFT_LOG_CHANGE, term 1, on every member, and
 * begin with term 1. addresses[i] belongs to id i + 1; role of those beyond n_voters: not a member yet. */
void replica_configuration(const char *const *addresses, unsigned n, struct buf *out);

/* `applied` is what the state machine holds. Errors: ERR_CORRUPT (log and state machine do not belong together). */
int replica_start(struct replica *r, const struct raft_log_state *state, uint64_t applied, uint64_t now_ms);

/* Takes one reference of each entry, also on failure. ERR_NOT_LEADER. *first_index gets their place. */
int replica_submit(struct replica *r, struct replica_entry **entries, unsigned n, uint64_t now_ms,
                   uint64_t *first_index);

void replica_voted(struct replica *r, uint64_t now_ms);
void replica_stored(struct replica *r, uint64_t last_index, uint64_t last_term, uint64_t now_ms);
void replica_installed(struct replica *r, int rc, uint64_t now_ms);
/* ERR_MALFORMED: cannot be decoded. */
int replica_receive(struct replica *r, uint64_t from, const char *address, struct bytes message,
                    uint64_t now_ms);
uint64_t replica_deadline(const struct replica *r); /* when replica_tick wants to be called */
void replica_tick(struct replica *r, uint64_t now_ms);

/* The state machine's synced state contains everything up to index: lets the log be cut. False: not now (a
 * membership change is on its way, or too little would go). */
bool replica_snapshot(struct replica *r, uint64_t index, uint64_t now_ms);

/* Leader: one change of membership at a time. role: 0 standby, 1 voter, 2 spare. ERR_BUSY while an
 * earlier one is not stored everywhere or the server has not caught up; ERR_NOT_LEADER; -EINVAL, also for
 * taking the vote of one of the last two. */
int replica_change(struct replica *r, uint64_t id, const char *address, int role, uint64_t now_ms);
int replica_transfer(struct replica *r, uint64_t id, uint64_t now_ms);

enum replica_role replica_role(const struct replica *r);
uint64_t replica_term(const struct replica *r);
uint64_t replica_last_index(const struct replica *r);
uint64_t replica_given_index(const struct replica *r); /* last one handed to apply */
uint64_t replica_memory_bytes(const struct replica *r);

#endif
