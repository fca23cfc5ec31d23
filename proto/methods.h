#ifndef CFS_PROTO_METHODS_H
#define CFS_PROTO_METHODS_H

/* Numbers of calls and events on the wire. A number is never used twice for
 * different things; gaps belong to the group above them. The comment names request
 * and reply messages. */
enum method {
    /* every server */
    METHOD_PING = 1,     /* Empty, Empty */
    METHOD_COUNTERS = 2, /* Empty, CountersReply: frames, faults, memory of that process */
    EVENT_REFUSED = 3,   /* Refusal: why the connection is closed now; the first and last thing said in it */

    /* client -> cfs-meta: session and commands */
    METHOD_SESSION_OPEN = 100,  /* SessionOpen, SessionOpenReply */
    METHOD_SESSION_RENEW = 101, /* SessionRenew, SessionRenewReply */
    METHOD_COMMAND = 102,       /* CommandRequest, OpsReply: exactly once, in order */
    METHOD_SESSION_CLOSE = 103, /* SessionClose, Empty */

    /* client -> cfs-meta: reads */
    METHOD_LOOKUP = 110,    /* LookupRequest, LookupReply */
    METHOD_GETATTR = 111,   /* GetattrRequest, LookupReply */
    METHOD_READDIR = 112,   /* ReaddirRequest, ReaddirReply */
    METHOD_GETXATTR = 113,  /* XattrRequest, XattrReply */
    METHOD_LISTXATTR = 114, /* XattrRequest, XattrReply */
    METHOD_EXTENTS = 115,   /* ExtentsRequest, ExtentsReply */
    METHOD_STATFS = 116,    /* GetattrRequest, StatfsReply */
    METHOD_GETLK = 117,     /* LockOp, LockInfo */
    METHOD_TABLES = 118,    /* TablesRequest, TablesReply */

    /* Leases (roadmap 1). Reserved: refused by name with ERR_UNKNOWN_CALL. */
    METHOD_LEASE_ACQUIRE = 130,
    METHOD_LEASE_RELEASE = 131,
    METHOD_LEASE_REASSERT = 132,
    METHOD_LAYOUT_RETURN = 133,

    /* cfs-meta -> client: events */
    EVENT_LOCK_GRANTED = 150,  /* LockGranted */
    EVENT_TABLES = 151,        /* TablesRequest: the version that there is now */
    EVENT_SESSION_ENDED = 152, /* Empty */
    EVENT_LEASE_RECALL = 153,  /* reserved (roadmap 1) */
    EVENT_LAYOUT_RECALL = 154, /* reserved (roadmap 1) */

    /* cfs-chunkserver -> cfs-meta */
    METHOD_CHUNK_REGISTER = 200,  /* ChunkRegister, ChunkRegisterReply */
    METHOD_CHUNK_HEARTBEAT = 201, /* ChunkHeartbeat, ChunkHeartbeatReply */

    /* anyone with a ticket -> cfs-chunkserver */
    METHOD_FRAGMENT_PUT = 300,    /* FragmentPut + payload, Empty: synced when answered */
    METHOD_FRAGMENT_GET = 301,    /* FragmentGet, FragmentGetReply + payload */
    METHOD_FRAGMENT_DELETE = 302, /* FragmentDelete, Empty */
    METHOD_FRAGMENT_STAT = 303,   /* FragmentGet, FragmentInfo */
    METHOD_FRAGMENT_LIST = 304,   /* FragmentList, FragmentListReply */

    /* cfs-meta -> cfs-meta (Raft) */
    METHOD_RAFT = 400, /* reserved for replication (roadmap 3) */

    /* cfs -> cfs-meta */
    METHOD_STATUS = 500,       /* Empty, StatusReply */
    METHOD_POLICY_GET = 501,   /* PolicyRequest, Policy */
    METHOD_POLICY_SET = 502,   /* PolicyRequest, Policy */
    METHOD_FILE_LAYOUT = 503,  /* ExtentsRequest, ExtentsReply with attr */
    METHOD_VOLUME_CREATE = 510 /* reserved (roadmap 2) */
};

/* A method's name in lower case with dashes ("fragment-put"), or NULL if unknown.
 * Reserved ones have names too. */
const char *method_name(unsigned method);

/* On the wire an error is its positive number: Linux errno below 5000, ours above
 * (base/err.h). Both directions are total: what cannot be an error becomes EIO. */
int status_of_rc(int rc);
int status_to_rc(int status);

#endif
