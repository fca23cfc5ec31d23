#ifndef CFS_TEST_LIB_FAKE_CLUSTER_H
#define CFS_TEST_LIB_FAKE_CLUSTER_H

#include "fuse/itable.h"
#include "fuse/reader.h"
#include "fuse/tables.h"
#include "fuse/writer.h"
#include "rpc/server.h"
#include "test/lib/fsm_world.h"
#include "test/lib/net_sim.h"

/* A cluster for the client's data path, in virtual time: the real metadata machine behind a thin
 * service, six chunk servers that keep fragments in memory, and workers (session, tables, itable,
 * writer, reader) on an arena in ordinary memory. Everything over the simulated network with the
 * real RPC. */
enum { CLUSTER_CHUNKS = 6 };

struct fake_chunk {
    struct cluster *cluster;
    unsigned number; /* server id is number + 1 */
    struct transport *node;
    struct server *server;
    struct list fragments;
    struct list silent_requests;
    struct timer delay_timer;
    bool down, silent, corrupt,
        lose; /* corrupt: a byte is flipped in each answer; lose: nothing is found */
    int put_rc;
    unsigned refuse_puts; /* so many next PUTs get put_rc; UINT32_MAX: all */
    uint64_t get_delay_ms;
    uint64_t put_ms_per_mib, busy_until_ms; /* of a disk that takes one after the other; 0: at once */
    unsigned puts, gets;
};

struct cluster {
    struct timers timers;
    struct net_sim *net;
    struct fsm_world world;
    struct transport *meta_node;
    struct server *meta;
    struct fake_chunk chunk[CLUSTER_CHUNKS];
    unsigned commands, extents_reads;
    int command_status; /* nonzero: WriteOps get this error while write_errors > 0 */
    unsigned write_errors;
    unsigned n_workers;
    struct fake_worker *worker[8];
    bool tables_say_down[CLUSTER_CHUNKS];
    uint64_t credit;
    bool lies; /* workers are told what is not so: what they send may be wrong, but not malformed */
};

struct fake_worker {
    struct cluster *cluster;
    struct client client;
    struct transport *node;
    struct databuf_pool *payloads;
    bool opened;
};

struct cluster *cluster_new(uint64_t seed);
void cluster_free(struct cluster *cl); /* stops its workers */
void cluster_run(struct cluster *cl, uint64_t ms);
/* Until *flag, at most bound_ms; whether it came. */
bool cluster_run_flag(struct cluster *cl, const bool *flag, uint64_t bound_ms);
uint64_t cluster_create(struct cluster *cl, const char *name); /* before the first worker */
void cluster_kill(struct cluster *cl, unsigned chunk);         /* keeps its fragments */
void cluster_revive(struct cluster *cl, unsigned chunk);
void cluster_full(struct cluster *cl, unsigned chunk, bool full);
unsigned cluster_fragments(const struct cluster *cl, unsigned chunk);

/* Sizes that make limits near. The regions are malloc'd: a worker can be killed by copying them. */
struct arena *cluster_arena_new(uint32_t pages, uint64_t cache_bytes);
struct arena *cluster_arena_copy(const struct arena *a);
void cluster_arena_free(struct arena *a);

/* Goes on with the session of the world; after a copy it does what a restarted worker does. */
struct fake_worker *worker_start(struct cluster *cl, struct arena *arena);
void worker_stop(struct fake_worker *w);
void worker_cut(struct fake_worker *w); /* it never reaches anybody again */

/* Synchronous shorts; they run the network. */
struct inode *worker_inode(struct fake_worker *w,
                           uint64_t ino); /* attributes (and content) there, opened once */
int worker_write(struct fake_worker *w, uint64_t ino, uint64_t offset, const void *data,
                 size_t len);
int worker_flush(struct fake_worker *w, uint64_t ino);
int worker_flush_all(struct fake_worker *w);
/* Bytes read, or an error. */
int worker_read(struct fake_worker *w, uint64_t ino, uint64_t offset, void *to, uint32_t len);
int worker_seek(struct fake_worker *w, uint64_t ino, uint64_t offset, bool hole, uint64_t *at);

/* Deterministic bytes: of place and version. */
void cluster_fill(uint8_t *to, uint64_t offset, size_t len, uint64_t version);

#endif
