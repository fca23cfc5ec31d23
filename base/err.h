#ifndef CFS_BASE_ERR_H
#define CFS_BASE_ERR_H

/* Error numbers. Functions that can fail return 0 (or a count) on success and a
 * negative number on failure: a negative errno for what the system said, or one
 * of these, below -5000, for what only CFS knows. */

enum {
    ERR_FIRST = -5000,
    ERR_NOT_FOUND = -5001,     /* a key, fragment or id is not there */
    ERR_CORRUPT = -5002,       /* a checksum or a format does not hold */
    ERR_MALFORMED = -5003,     /* bytes from outside that cannot be decoded */
    ERR_VERSION = -5004,       /* made by a version that this one cannot read */
    ERR_NOT_LEADER = -5005,    /* ask another metadata server */
    ERR_STALE_EPOCH = -5006,   /* the placement group has moved on */
    ERR_STALE_REIGN = -5007,   /* an order of an earlier leader */
    ERR_SESSION_ENDED = -5008, /* the server's word: this session is over */
    ERR_DEADLINE = -5009,      /* the caller's time ran out */
    ERR_DISCONNECTED = -5010,  /* the connection broke before the answer */
    ERR_UNKNOWN_CALL = -5011,  /* the peer does not know this method */
    ERR_BUSY = -5012,          /* not now; try again */
    ERR_CANCELLED = -5013,     /* the caller gave up */
    ERR_TOO_BIG = -5014,       /* a length beyond its constant */
    ERR_DEAD_ID = -5015,       /* the stripe id may never be committed */
    ERR_CHANGED = -5016,       /* the condition of a conditional change failed */
    ERR_SECOND_MOUNT = -5017,  /* another client holds this cluster */
    ERR_WRONG_CLUSTER = -5018, /* the peer belongs to another cluster */
    ERR_ID_CONFLICT = -5019,   /* a second put of one fragment differs */
    ERR_QUEUED = -5020,        /* a lock call waits: the ticket is in the reply */
    ERR_LAST = -5021
};

/* The name ("ERR_CORRUPT", "ENOSPC") of a negative error; never NULL. */
const char *err_name(int rc);

/* A sentence for people; never NULL; valid until the next call in this thread. */
const char *err_text(int rc);

/* A positive errno for a program that knows only POSIX: our own become EIO,
 * EAGAIN, ESTALE ... as a filesystem call would say it. 0 stays 0. */
int err_to_errno(int rc);

#endif
