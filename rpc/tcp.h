#ifndef CFS_RPC_TCP_H
#define CFS_RPC_TCP_H

#include <uv.h>

#include "rpc/transport.h"

/* transport.h over TCP on a libuv loop: TCP_NODELAY, keep-alive, at most
 * TCP_CONNECTIONS_MAX connections (one more is refused and counted). A frame header and
 * its body arrive in one read when they fit 64 KiB; a large payload is read straight
 * into its databuf (one copy, the kernel's). A send is one writev when the socket
 * takes it. Dead peers: connect gives up after 3 s. */
enum { TCP_CONNECTIONS_MAX = 4096, TCP_CONNECT_MS = 3000 };

struct transport *tcp_new(uv_loop_t *loop, struct timers *timers, struct databuf_pool *payloads);
void tcp_free(struct transport *t); /* after shutdown has called back */

/* Drives `timers` from the loop: one uv timer that always fires at timers_next. Call
 * it once per loop; tcp_timers_kick after arming from outside a callback of this loop. */
struct tcp_clock;
struct tcp_clock *tcp_clock_start(uv_loop_t *loop, struct timers *timers);
void tcp_clock_close(struct tcp_clock *c); /* freed when the loop has run its close callbacks */

#endif
