#ifndef CFS_TEST_LIB_FSM_WORLD_H
#define CFS_TEST_LIB_FSM_WORLD_H

#include "log.pb-c.h"
#include "meta.pb-c.h"
#include "meta/fsm.h"

/* A metadata machine on a store in memory, and short ways to say operations. Time goes on by 1 ms
 * per entry. Index and time are kept here, so the machine can be reopened below. */
struct fsm_world {
    struct kv *kv;
    struct fsm *fsm;
    struct fsm_effects fx;
    uint64_t index, term, now_ns, reign;
    uint64_t session, seq, acked;
    uint64_t reserve_hope;
    uint64_t reserve_max; /* of the next commands; 0: they say nothing of it */
    Cfs__OpsReply *reply; /* of the last command */
    /* Every entry applied, if kept: for replays. */
    bool keep;
    struct buf *log;
    size_t n_log;
};

void fsm_world_init(
    struct fsm_world *w); /* bootstrapped, one session, 2 groups of 4+2 on servers 1..6 */
void fsm_world_init_on(struct fsm_world *w, struct kv *kv); /* takes kv; nothing applied */
void fsm_world_bootstrap(struct fsm_world *w);
void fsm_world_groups(struct fsm_world *w, unsigned n);
void fsm_world_release(struct fsm_world *w);
int fsm_world_reopen(struct fsm_world *w);

/* Applies one entry; returns its rc. Fails the test if the replica stops (fsm_world_try returns the
 * error). */
int fsm_world_entry(struct fsm_world *w, uint8_t type, const ProtobufCMessage *body);
int fsm_world_try(struct fsm_world *w, uint8_t type, const ProtobufCMessage *body, int *stopped);
int fsm_world_raw(struct fsm_world *w, struct bytes entry);

int fsm_world_open_session(struct fsm_world *w, const char *client); /* w->session on success */
int fsm_world_end_session(struct fsm_world *w, uint64_t session);

/* One command of these operations; returns the rc of the entry. */
int fsm_world_command(struct fsm_world *w, Cfs__Op **ops, size_t n);
/* One operation; returns its rc (as negative error). The answer is in fsm_world_result. */
int fsm_world_op(struct fsm_world *w, Cfs__Op *op);
const Cfs__OpReply *fsm_world_result(const struct fsm_world *w);
/* Reaps until nothing is pending. */
void fsm_world_reap(struct fsm_world *w);

/* Operations by their parts. Return the rc; inode numbers through the result. */
uint64_t fsm_world_mkdir(struct fsm_world *w, uint64_t parent, const char *name); /* the ino */
uint64_t fsm_world_create(struct fsm_world *w, uint64_t parent, const char *name);
int fsm_world_make(struct fsm_world *w, uint64_t parent, const char *name, uint32_t mode);
int fsm_world_unlink(struct fsm_world *w, uint64_t parent, const char *name, bool held);
int fsm_world_rmdir(struct fsm_world *w, uint64_t parent, const char *name);
int fsm_world_rename(struct fsm_world *w, uint64_t p1, const char *n1, uint64_t p2, const char *n2,
                     uint32_t flags);
int fsm_world_link(struct fsm_world *w, uint64_t ino, uint64_t parent, const char *name);
int fsm_world_truncate(struct fsm_world *w, uint64_t ino, uint64_t size);
int fsm_world_inline(struct fsm_world *w, uint64_t ino, const char *content);
/* Writes [offset, offset+length) as one stripe of length `length` (RS 4+2); takes an id by itself.
 */
int fsm_world_write(struct fsm_world *w, uint64_t ino, uint64_t offset, uint64_t length);
int fsm_world_write_in(struct fsm_world *w, uint64_t ino, uint64_t offset, uint64_t length,
                       uint32_t pg, uint64_t id);
int fsm_world_grant(struct fsm_world *w, uint32_t count);
int fsm_world_release_ino(struct fsm_world *w, uint64_t ino);

/* Reads. The caller frees; NULL and *rc on error. */
Cfs__LookupReply *fsm_world_lookup(struct fsm_world *w, uint64_t parent, const char *name, int *rc);
Cfs__LookupReply *fsm_world_getattr(struct fsm_world *w, uint64_t ino, int *rc);
Cfs__ExtentsReply *fsm_world_extents(struct fsm_world *w, uint64_t ino, uint64_t offset,
                                     uint64_t length);
uint64_t fsm_world_ino(struct fsm_world *w, uint64_t parent, const char *name); /* 0: none */
int fsm_world_read(struct fsm_world *w, unsigned method, const ProtobufCMessage *m,
                   struct buf *out);
uint64_t fsm_world_hash(struct fsm_world *w);
Cfs__FsmCounters *fsm_world_counters(struct fsm_world *w);

/* Contradictions found by the audit; prints them. */
int fsm_world_audit(struct fsm_world *w);

#endif
