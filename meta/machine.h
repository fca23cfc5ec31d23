#ifndef CFS_META_MACHINE_H
#define CFS_META_MACHINE_H

#include "meta/fsm.h"
#include "meta/raft_log.h"
#include "meta/replica.h"
#include "meta/worker.h"
#include "rpc/timers.h"

/* One metadata server below its service: the replica (on the loop), the log and the state machine
 * (each behind a worker), and what ties them together. Knows no protocol, no thread and no clock.
 *
 * A proposal costs one log write and sync, shared with all that came meanwhile, and two hand-overs
 * between loop and workers; a read costs one hand-over. */
struct machine;

struct proposal { /* the caller's until on_done */
    uint8_t type;      /* enum entry_type */
    struct bytes body; /* copied by machine_propose */
    void (*on_done)(struct proposal *p);
    /* Valid in on_done. ERR_NOT_LEADER; -ENOSPC: below the reserve; what fsm_validate says; else
     * effects.rc, and effects hold for the callback. */
    int rc;
    struct fsm_effects *effects; /* NULL if it was not applied */
    uint64_t index;
    struct list node; /* private */
    struct replica_entry *entry; /* private */
};

struct machine_read { /* the caller's until on_done */
    unsigned method; /* of proto/methods.h, or one of enum fsm_query_what with `query` */
    bool query;
    struct bytes request; /* stays until on_done */
    struct buf reply;     /* owned by the caller; appended to */
    int rc;
    void (*on_done)(struct machine_read *r);
    struct work work; /* private */
    struct machine *machine;
};

struct machine_events {
    void (*on_role)(void *ctx, bool leader); /* leader: `lead` is applied, reign is known */
    /* After each applied entry, also those that others proposed, before its proposal's on_done. */
    void (*on_applied)(void *ctx, const struct fsm_effects *e);
    void (*on_fatal)(void *ctx, const char *what, int rc); /* this replica must stop */
    uint64_t (*wall_ns)(void *ctx);
};

struct machine_options {
    uint32_t id;
    const char *address;
    struct disk *disk;    /* its root holds "raft"; used by the log worker, once started; the store worker
                             asks for its space */
    struct kv *kv;        /* used by the store worker only, once started */
    uint64_t log_segment_bytes; /* 0: default */
    uint64_t reserve_bytes; /* below this only what frees is proposed; room.h has what is kept beside it */
    uint64_t random;
    struct timers *timers;
    /* Packed LogBootstrap: makes a new cluster where there is none. Empty: refuse (ERR_NOT_FOUND). */
    struct bytes bootstrap;
    const struct machine_events *events;
    void *ctx;
    /* Sees every committed command before it is applied, after a restart again: for tests. May be NULL. */
    void (*observe)(void *ctx, uint64_t index, uint64_t term, struct bytes entry);
    void *observe_ctx;
};

/* Opens log and state (blocking), replays nothing yet. *run_log and *run_store are what the two workers run with
 * the machine as context. */
int machine_open(const struct machine_options *options, struct machine **out);
void machine_run_log(void *machine, struct worker *w, struct list *works);
void machine_run_store(void *machine, struct worker *w, struct list *works);
/* Replays and takes part from now on. */
int machine_start(struct machine *m, struct worker *log, struct worker *store);
/* No callback of the service from now on; then close the workers, deliver what they finished, and close. */
void machine_stop(struct machine *m);
/* Answers what is left with ERR_CANCELLED, syncs the state, and returns the result of that. */
int machine_close(struct machine *m);

void machine_propose(struct machine *m, struct proposal *p);
void machine_read(struct machine *m, struct machine_read *r);

struct machine_state {
    bool leader; /* and its reign has begun */
    uint64_t reign;
    uint64_t applied;
    uint64_t log_bytes, state_bytes, memory_bytes;
    uint64_t free_bytes, reserve_bytes;
    bool refusing;      /* below the reserve */
    bool log_waiting;   /* log or state find no room at all: commands wait */
    bool space_unknown;
    unsigned outstanding; /* proposals */
    uint64_t commits, syncs; /* entries and log writes since the start */
};
struct machine_state machine_state(const struct machine *m);

#endif
