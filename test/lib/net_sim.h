#ifndef CFS_TEST_LIB_NET_SIM_H
#define CFS_TEST_LIB_NET_SIM_H

#include "base/prng.h"
#include "rpc/transport.h"

/* A network in virtual time: any number of nodes in one process, driven by one struct timers. Each
 * node is a struct transport with the rules of tcp.h: connections are FIFO, nothing calls back
 * inside the call that causes it, a break loses what was under way. Addresses are "node:port".
 * Everything that happens by chance comes from one prng, so a seed replays a run. */
struct net_sim;

struct net_sim *net_sim_new(struct timers *timers, uint64_t seed);
void net_sim_free(
    struct net_sim *n); /* all connections must be gone: see net_sim_kill, then run the timers */
/* One-way delay of a message, in ms; default 0 to 2. */
void net_sim_delay(struct net_sim *n, uint64_t min_ms, uint64_t max_ms);

/* A node. name and payloads are borrowed. Freed with the network. */
struct transport *net_sim_node(struct net_sim *n, const char *name, struct databuf_pool *payloads);

/* Breaks the connections between two nodes (b NULL: of a with all): a random suffix of what is
 * under way is lost in each direction; both sides get on_closed with -ECONNRESET. */
void net_sim_break(struct net_sim *n, struct transport *a, struct transport *b);
/* As a crash: listeners are gone too, connects are refused until somebody listens again. */
void net_sim_kill(struct net_sim *n, struct transport *a);
/* While set nothing passes between the two; connects time out. Then what was under way goes on. */
void net_sim_partition(struct net_sim *n, struct transport *a, struct transport *b, bool cut);

/* Runs the timers up to a time, or (false) until `enough` says so; returns whether it did. */
void net_sim_run_until(struct net_sim *n, uint64_t at_ms);
bool net_sim_run_while(struct net_sim *n, bool (*going)(void *ctx), void *ctx, uint64_t bound_ms);

#endif
