#ifndef CFS_RPC_TCP_H
#define CFS_RPC_TCP_H

#include <uv.h>

#include "rpc/transport.h"

/* transport.h over TCP on a libuv loop: TCP_NODELAY, keep-alive, at most TCP_CONNECTIONS_MAX
 * accepted connections, and three quarters of the process's descriptors (the rest is for files and
 * what we connect to). One more is told transport.refusal, closed and counted. As many that we
 * connect may be there besides.
 *
 * System calls: one recvmsg brings all frames that fit 64 KiB, or the rest of a large payload
 * straight into its databuf and up to 64 KiB of what follows. A frame with payload is one sendmsg
 * when the socket takes it, in the call that sends; frames without payload leave together once the
 * callbacks of this turn of the loop have run. No copy of payload on either side but the kernel's.
 *
 * Bounds: an accepted connection with more than 16 MiB of unsent replies is not read; a frame that
 * takes longer than 30 s (60 s with payload), or a socket that takes nothing for 60 s, ends its
 * connection; so does silence in the first 10 s; of frames that have begun at most 64
 * MiB are kept, then the one that began first is ended; a connect gives up after 3 s. The loop
 * stays alive until shutdown. */
enum { TCP_CONNECTIONS_MAX = 4096, TCP_CONNECT_MS = 3000 };

struct transport *tcp_new(uv_loop_t *loop, struct timers *timers, struct databuf_pool *payloads);
void tcp_free(struct transport *t); /* after shutdown has called back */

/* Drives `timers` from the loop, and sets timers->clock, so that timers_now() is fresh in any
 * callback. One per loop. Timers may be armed from any callback of the loop. Keeps the loop alive
 * until closed. */
struct tcp_clock;
struct tcp_clock *tcp_clock_start(uv_loop_t *loop, struct timers *timers);
void tcp_clock_close(struct tcp_clock *c); /* freed when the loop has run its close callbacks */

#endif
