#ifndef CFS_FUSE_OPS_H
#define CFS_FUSE_OPS_H

#include <stddef.h>

#include "fuse/client.h"

/* The filesystem's answers to FUSE requests: struct fuse_lowlevel_ops for libfuse's decoder. Every namespace change is
 * one command of the session (rpc/session.h); reads of names and attributes are answered from the itable or by one round
 * trip; data goes to writer and reader. Node ids are inode numbers (1 = root of the mount, translated to
 * arena->root_ino and back). Requests that libfuse 3.14 does not know (statx, syncfs) are answered in fuseloop's custom io.
 *
 * The userdata of libfuse's session is the struct client. Opcode 51 (TMPFILE) has CREATE's layout:
 * fuseloop hands libfuse a copy of the request whose opcode is CREATE; opreq.opcode stays 51, and that is how
 * ops knows it. A request is over when one of fuse_reply_* was called; FORGET is answered with fuse_reply_none,
 * so its record is freed when the callback returns.
 *
 * Round trips: LOOKUP 1 (with inline content or extents), GETATTR 0 while cached, CREATE 1 (and the log's sync), OPEN 0,
 * READ 0 or the fragments, WRITE 0, FLUSH 0 (starts the flush), RELEASE 0, FSYNC the fragments and 1, READDIR 1 per 64 KiB. */
struct fuse_lowlevel_ops;
struct fuseloop;

struct ops *ops_new(struct client *c, struct fuseloop *loop);
void ops_free(struct ops *o);
const struct fuse_lowlevel_ops *ops_table(size_t *size);
/* After a restart: counts handles of the arena into the itable, finds orphans. Before any request is executed. */
void ops_rebuild(struct ops *o);
/* A lock that a parked request waits for was granted (EVENT_LOCK_GRANTED, or found at renewal). */
void ops_lock_granted(struct ops *o, uint64_t ticket);
/* Tickets of the requests that wait for a lock, at most max: for the renewal of the session. */
unsigned ops_waiting_tickets(struct ops *o, uint64_t *out, unsigned max);
/* A command that was given up (-o deadline) has been answered, or refused. */
void ops_late(struct ops *o, uint64_t seq);
/* The session was ended by the server: everything of it answers EIO. */
void ops_session_ended(struct ops *o);

#endif
