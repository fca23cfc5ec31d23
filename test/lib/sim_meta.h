#ifndef CFS_TEST_LIB_SIM_META_H
#define CFS_TEST_LIB_SIM_META_H

#include "base/prng.h"
#include "chunk.pb-c.h"
#include "meta/meta_service.h"
#include "rpc/call.h"
#include "test/lib/net_sim.h"

/* The server side of a simulated cluster: the real metadata service, machine, replica and log in
 * one process with simulated workers, store and disk, which crash; and chunk servers that only
 * register, say that they live, and note what they were told to delete. Everything by chance comes
 * from one prng. */
enum { SIM_CHUNKS = 6, SIM_GROUPS_MAX = 512, SIM_IDS_MAX = 4096 };

struct sim_worker { /* works later, in order; what it did is reported later still */
    struct worker base;
    struct timers *timers;
    struct prng *prng;
    struct list posted, done;
    struct timer run_timer, done_timer;
    bool closed;
};

struct sim_meta {
    struct timers *timers;
    struct net_sim *net;
    struct prng *prng;
    struct disk *disk;
    struct kv *kv;
    struct disk_ops lazy_ops; /* a disk that says that it synced, and does not */
    const struct disk_ops *real_ops;
    struct buf bootstrap;
    bool up, stopping;
    /* Of one incarnation. */
    struct transport *node;
    struct server *server;
    struct meta_service *service;
    struct machine *machine;
    struct sim_worker log, store;
    int64_t clock_skew_ms;
    unsigned crashes;
    const char *fatal; /* what the machine stopped for by itself */
    int fatal_rc;
};

struct sim_chunk {
    struct timers *timers;
    struct prng *prng;
    struct transport *node;
    struct peer *peer;
    struct call call;
    struct timer timer;
    struct buf body;
    unsigned number;
    uint32_t id; /* 0: not registered */
    uint64_t reign;
    bool heartbeat;     /* what the call is */
    bool down;
    bool refuses;       /* lives, and does no order: its disk failed */
    uint64_t done[256]; /* orders to report */
    unsigned n_done, n_sent;
    uint8_t *deleted; /* a bit per (group, id) */
};

void sim_meta_init(struct sim_meta *m, struct timers *timers, struct net_sim *net,
                   struct prng *prng);
/* Planted: from now on no sync of the log's disk is one. Before the first start. */
void sim_meta_never_sync(struct sim_meta *m);
void sim_meta_start(struct sim_meta *m);
/* Loses what was not synced: of the store all or all but a prefix, of the log's disk any sectors.
 * The two are independent. */
void sim_meta_crash(struct sim_meta *m);
void sim_meta_stop(struct sim_meta *m); /* in order, for the last look at its state */
void sim_meta_release(struct sim_meta *m);

void sim_chunk_init(struct sim_chunk *c, struct sim_meta *m, unsigned number, const char *name);
void sim_chunk_release(struct sim_chunk *c); /* then run the network */
/* It forgets what it has not reported; what it deleted stays deleted. */
void sim_chunk_crash(struct sim_chunk *c, struct net_sim *net);
void sim_chunk_start(struct sim_chunk *c);
bool sim_chunk_deleted(const struct sim_chunk *c, uint32_t pg, uint64_t id);

/* Reads the whole log of a stopped server. visit as in raft_log_open. */
int sim_meta_read_log(struct sim_meta *m,
                      void (*visit)(void *ctx, uint64_t index, const struct raft_log_entry *e),
                      void *ctx);

#endif
