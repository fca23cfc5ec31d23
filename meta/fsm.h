#ifndef CFS_META_FSM_H
#define CFS_META_FSM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "store/kv.h"

/* The metadata machine: apply(state, index, entry) -> reply, and reads. A function of
 * its arguments and the store: no clock, randomness, hash order or configuration that
 * was not replicated. Leader, replay and simulation run this one function. It belongs
 * to the store thread.
 *
 * A log entry is a fixed header and a packed body (docs/disk-format.md, "Log entries"):
 *   0  u8   version, 1
 *   1  u8   type (enum entry_type)
 *   2  u16  feature level that it needs
 *   4  u64  time, ns since 1970, by the leader's clock
 *  12  u64  reign in which it was proposed (0 in `lead` itself)
 *  20  ...  body
 * The time is never before that of the previous entry: the leader takes care.
 *
 * One entry = one write batch, which also stores the applied index; an entry at or below it
 * is skipped. "No such file" is a reply; an entry that cannot be applied (unknown version, a store
 * that fails) returns an error and the process stops. */
enum { ENTRY_HEADER_BYTES = 20, ENTRY_VERSION = 1, FSM_FEATURE_LEVEL = 1, FSM_WINDOW = 1024 };

enum entry_type {
    ENTRY_LEAD = 1,      /* a leader begins its reign; its index is the reign */
    ENTRY_BOOTSTRAP = 2, /* the first of a cluster: uuid, hash key of names, policy, root volume */
    ENTRY_SESSION_OPEN = 3, /* SessionOpen, and the sessions that the leader found expired */
    ENTRY_SESSION_END = 4,
    ENTRY_COMMAND = 5,      /* CommandRequest of a client, as it came */
    ENTRY_REGISTER = 6,     /* a chunk server is new, or has a new address */
    ENTRY_GROUPS = 7,       /* placement groups as planned by the leader */
    ENTRY_GARBAGE_DONE = 8, /* dead ids that servers have deleted; the others of the group owe it */
    ENTRY_POLICY = 9,
    ENTRY_REAP = 10, /* one bounded step of freeing what a dead inode or truncated range held */
    ENTRY_FEATURE = 11,
    ENTRY_NOOP = 12
};

struct fsm;

/* What the leader's service must do besides answering. Lists are packed runs: see fsm.c. */
struct fsm_effects {
    int rc;              /* of the entry as a whole: goes on the wire as status */
    struct buf reply;    /* packed reply message, or Refusal when rc != 0 and there is a sentence */
    struct buf granted;  /* (le64 session, le64 ticket) per lock granted by this entry */
    struct buf ended;    /* (le64 session) per session ended by it */
    bool tables_changed; /* servers, groups or policy */
    bool reap_pending;   /* there is dead data to free: propose ENTRY_REAP */
    bool garbage_pending; /* there are dead ids to have deleted */
    bool owed_added;      /* some server has come to owe deletions */
    uint64_t stored;      /* bytes of the stripes that it committed, all fragments */
    uint64_t reserved;    /* bytes of reserved extents, of all files, after it */
};
void fsm_effects_init(struct fsm_effects *e);
void fsm_effects_release(struct fsm_effects *e);

/* Opens the state in the store. An empty store is a new cluster: the first entry must be BOOTSTRAP.
 * ERR_VERSION: written by a newer version. The kv stays the caller's. */
int fsm_open(struct kv *kv, struct fsm **out);
void fsm_free(struct fsm *f);
uint64_t fsm_applied(const struct fsm *f);
uint64_t fsm_applied_term(const struct fsm *f); /* of the entry at fsm_applied, as given */

/* Applies one entry. Negative: this replica must stop. */
int fsm_apply(struct fsm *f, uint64_t index, uint64_t term, struct bytes entry,
              struct fsm_effects *out);

/* Whether an entry would be refused before it is proposed (malformed, too large, over a limit): 0
 * or the error. The leader calls it once for each, on the loop: it looks at the bytes only. */
int fsm_validate(struct bytes entry);
/* Whether a command only frees (unlink, truncate to less, release ...): allowed below the reserve.
 */
bool fsm_entry_frees(struct bytes entry);

/* Answers a read method (METHOD_LOOKUP ... METHOD_TABLES, METHOD_FILE_LAYOUT, METHOD_POLICY_GET).
 * Appends the packed reply. An error is the caller's answer, not a failure of the replica. */
int fsm_read(struct fsm *f, unsigned method, struct bytes request, struct buf *reply);

/* For the leader's own plans (placement, garbage, status); same thread as apply. Messages of
 * proto/log.proto; the request may be empty. */
enum fsm_query_what {
    FSM_QUERY_SESSIONS = 1, /* QueryRequest, SessionList */
    FSM_QUERY_GARBAGE = 2,  /* QueryRequest, GarbageList: dead ids to have deleted, by all or one */
    FSM_QUERY_COUNTERS = 3, /* -, FsmCounters */
    FSM_QUERY_SERVERS = 4,  /* -, RegisteredList */
    FSM_QUERY_TABLES = 5,   /* -, TablesReply */
    FSM_QUERY_TICKETS = 6   /* QueryRequest, TicketList: lock tickets that were granted meanwhile */
};
int fsm_query(struct fsm *f, unsigned what, struct bytes request, struct buf *reply);

/* The whole state as one hash, in key order: replicas at equal index must agree. Slow: for tests.
 */
int fsm_hash(struct fsm *f, uint64_t *out);

/* Whether everything that is said twice agrees: references, extents, stripes, counters, names, link
 * counts. Calls problem for each contradiction and returns how many there are, or a store's error.
 * Slow. */
int fsm_audit(struct fsm *f, void (*problem)(void *ctx, const char *text), void *ctx);

/* Puts a header before a body: what is proposed. reign is 0 in ENTRY_LEAD and ENTRY_BOOTSTRAP. */
struct fsm_entry_header {
    uint8_t type;
    uint16_t feature_level;
    uint64_t time_ns;
    uint64_t reign;
};
void fsm_entry_encode(struct buf *out, const struct fsm_entry_header *h, struct bytes body);
int fsm_entry_decode(struct bytes entry, struct fsm_entry_header *h, struct bytes *body);

#endif
