#ifndef CFS_RPC_SESSION_H
#define CFS_RPC_SESSION_H

#include "rpc/call.h"

struct Cfs__SessionRenew;
struct Cfs__SessionRenewReply;

/* A client's side of its session with the metadata servers: finds the leader,
 * numbers commands, keeps them in order, sends again after a break what was not
 * answered (the server answers a repeated number from its window of replies: nothing is
 * done twice), renews the lease, acknowledges replies. This is the one layer that retries
 * metadata calls.
 *
 * Sequence numbers start at 1. A command is outstanding from session_submit until its
 * on_done; at most SESSION_WINDOW are, more wait here in order. Acknowledged is everything below
 * the lowest number that is not yet *released*: the owner releases a number when
 * its effect is safe with it (in the arena: when the kernel has been answered). */
enum {
    SESSION_WINDOW = 1024,
    SESSION_RENEW_MS = 2000,
    SESSION_LEASE_MS = 10000,
    SESSION_RESUME_SPAN = 1 << 16,     /* more numbers than a dead worker can have left open */
    SESSION_OPS_MAX = (4 << 20) - 256 /* bytes of one command, so that it fits a frame */
};

struct session;

struct command {    /* the caller's memory until on_done */
    uint64_t seq;   /* 0: the session assigns the next one at submit; else a repeat after a
                       restart of the worker, submitted in ascending order before any new one */
    struct buf ops; /* packed Ops message (proto/meta.proto); owned by the command; stays
                       until on_done */
    void (*on_done)(struct command *c);
    int rc; /* 0, ERR_SESSION_ENDED, ERR_DEADLINE with -o deadline (then ops are empty: the
               session keeps the command until it is answered), or the error by which the
               server refused the command as a whole: its number is then used up by an empty one */
    struct bytes reply;      /* packed OpsReply, or Refusal; borrowed for the callback */
    struct pending *pending; /* private; NULL when not outstanding. Zero the struct before use */
};

struct session_events {
    void (*on_state)(struct session *s, void *ctx); /* connected, suspended, ended: look */
    /* Pushed by the server: lock grants, new tables (proto/methods.h, EVENT_*). */
    void (*on_event)(struct session *s, uint16_t method, struct bytes body, void *ctx);
    /* Before each renewal: fill in what the owner knows (credit wanted, dirty bytes, bad fragments,
     * tickets ...); what is pointed to is read before the next call of the loop. session and acked
     * are set. */
    void (*on_renew_fill)(struct session *s, struct Cfs__SessionRenew *renew, void *ctx);
    /* After each renewal that was granted. */
    void (*on_renewed)(struct session *s, const struct Cfs__SessionRenewReply *reply, void *ctx);
    /* A command that nobody waits for any more is answered or refused: whoever was told
     * ERR_DEADLINE can look now. */
    void (*on_late)(struct session *s, uint64_t seq, void *ctx);
}; /* each may be NULL */
struct session_options {
    const char *addresses; /* "host:port[,host:port...]" */
    uint32_t deadline_ms;  /* 0 = hard: commands and reads wait without end */
    const struct session_events *events;
    void *ctx;
};

struct session *session_new(struct transport *t, const struct session_options *options);
void session_free(struct session *s); /* nothing is called back any more; the loop must still run
                                         for the connection */

/* A fresh session: sends a packed SessionOpen and calls back with the packed SessionOpenReply or
 * the server's refusal (text in the reply's `text`). timeout_ms bounds it all. */
void session_open(struct session *s, struct bytes packed_open, uint32_t timeout_ms,
                  void (*on_done)(struct session *s, int rc, struct bytes reply, void *ctx),
                  void *ctx);
/* Goes on with a session that an earlier worker opened. Then submit the repeats (seq set),
 * ascending; then session_resume_done, or the first new command, says that these were all: numbers
 * that nobody repeated, of the last SESSION_WINDOW before the lowest repeat and up to next_seq, are
 * filled with empty commands, so that the server sees no gap. */
void session_resume(struct session *s, uint64_t session_id, uint64_t next_seq);
void session_resume_done(struct session *s);
/* Tells the server that the session is over (orphans and locks go), at umount. on_done is called
 * with 0, or with ERR_DEADLINE. Nothing may be outstanding. */
void session_close(struct session *s, uint32_t timeout_ms,
                   void (*on_done)(struct session *s, int rc, void *ctx), void *ctx);
/* Renews now instead of at the next tick: more credit is wanted. */
void session_renew_soon(struct session *s);

/* Assigns cmd->seq before it returns, so the caller can publish it in the arena before anything is
 * sent (sending happens from the loop). */
void session_submit(struct session *s, struct command *cmd);
void session_release_seq(struct session *s, uint64_t seq);
/* Drops interest: on_done is not called; the number stays outstanding until answered, and is then
 * released. The ops are moved away from the caller. */
void session_abandon(struct session *s, struct command *cmd);

/* A read (LOOKUP, READDIR ...): sent to the leader, repeated after a break, until it is answered.
 * Same lifetime rules as struct call. */
struct session_read {
    uint16_t method;
    struct bytes body; /* stays until on_done */
    void (*on_done)(struct session_read *r);
    int rc;
    struct bytes reply;
    struct list node; /* private, as all that follow; zero the struct before use */
    struct call call;
    struct session *session;
    struct timer timer;
    int state;
};
void session_read_start(struct session *s, struct session_read *r);
void session_read_cancel(struct session_read *r);

uint64_t session_id(const struct session *s);
uint64_t session_next_seq(const struct session *s);
bool session_connected(const struct session *s); /* a connection, and the lease runs */
bool session_suspended(const struct session *s); /* opened, not ended, and the lease has run out */
bool session_ended(const struct session *s);
const char *session_address(const struct session *s); /* the metadata server that it talks to */
/* Commands and reads waiting or in flight. */
unsigned session_outstanding(const struct session *s);

#endif
