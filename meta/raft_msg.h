#ifndef CFS_META_RAFT_MSG_H
#define CFS_META_RAFT_MSG_H

#include "base/buf.h"

/* Raft messages as bytes (docs/raft.md, "Messages"): the body of METHOD_RAFT. A flat struct, so
 * that neither this file nor its tests know the library. */
enum raft_msg_type {
    RAFT_MSG_APPEND = 1,
    RAFT_MSG_APPEND_RESULT,
    RAFT_MSG_VOTE,
    RAFT_MSG_VOTE_RESULT,
    RAFT_MSG_INSTALL,
    RAFT_MSG_TIMEOUT_NOW
};
enum { RAFT_MSG_VERSION = 1, RAFT_MSG_ENTRIES_MAX = 8192 };

struct raft_msg {
    uint8_t type;
    uint8_t library_version; /* of the library's message struct */
    uint64_t term;
    uint64_t index;       /* APPEND prev, RESULT rejected, VOTE last log, INSTALL last, TIMEOUT last log */
    uint64_t index_term;  /* term at index; RESULT: last log index */
    uint64_t commit;      /* APPEND: leader's commit; INSTALL: index of the configuration */
    uint64_t candidate;   /* VOTE */
    uint8_t flag;         /* VOTE: disrupt 1, pre-vote 2; VOTE_RESULT: granted 1, pre-vote 2 */
    uint16_t features, capacity;
    uint32_t n_entries;      /* APPEND: that many follow in `rest`, each by raft_msg_entry */
    struct bytes configuration; /* INSTALL; borrowed */
    struct bytes rest;          /* APPEND: entries; INSTALL: data; borrowed */
};
void raft_msg_encode(const struct raft_msg *m, struct buf *out); /* rest is appended by the caller */
int raft_msg_decode(struct bytes in, struct raft_msg *out);      /* ERR_MALFORMED, ERR_VERSION */
void raft_msg_entry_encode(uint64_t term, uint8_t type, struct bytes data, struct buf *out);
/* False: malformed. */
bool raft_msg_entry_decode(struct cursor *c, uint64_t *term, uint8_t *type, struct bytes *data);

#endif
