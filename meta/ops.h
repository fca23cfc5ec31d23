#ifndef CFS_META_OPS_H
#define CFS_META_OPS_H

#include "meta.pb-c.h"
#include "meta/fsm_state.h"
#include "meta/stripes.h"

/* What one operation of a command answers, before it is packed. The operations are in namespace,
 * inodes, content, xattrs, locks, stripes; each takes its decoded message and returns 0 or an
 * error, after which fsm_command takes back what it wrote. */
struct op_result {
    bool has_attr, has_parent, has_parent2, has_victim, orphaned, has_copied;
    struct inode attr, parent, parent2, victim;
    uint64_t ticket;
    uint64_t copied;
    unsigned n_grants;
    struct stripe_grant grants[STRIPES_GRANTS_MAX];
};

static inline void op_result_attr(struct op_result *r, const struct inode *i)
{
    r->has_attr = true;
    r->attr = *i;
}
static inline struct bytes op_bytes(ProtobufCBinaryData b)
{
    return BYTES(b.data, b.len);
}

/* A message from an inode; in attrs.c. */
void ops_attr(const struct inode *i, Cfs__Attr *out);

/* Runs a CommandRequest: sequence, window, operations; in fsm_command.c. */
int command_entry(struct fsm *f, struct bytes body);
int command_validate(struct bytes body);
bool command_frees(struct bytes body);

#endif
