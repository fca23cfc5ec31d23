#include "proto/methods.h"

#include <errno.h>
#include <stddef.h>

#include "base/err.h"
#include "base/mem.h"

static const struct {
    unsigned method;
    const char *name;
} NAMES[] = {
    {METHOD_PING, "ping"},
    {METHOD_COUNTERS, "counters"},
    {EVENT_REFUSED, "refused"},
    {METHOD_SESSION_OPEN, "session-open"},
    {METHOD_SESSION_RENEW, "session-renew"},
    {METHOD_COMMAND, "command"},
    {METHOD_SESSION_CLOSE, "session-close"},
    {METHOD_LOOKUP, "lookup"},
    {METHOD_GETATTR, "getattr"},
    {METHOD_READDIR, "readdir"},
    {METHOD_GETXATTR, "getxattr"},
    {METHOD_LISTXATTR, "listxattr"},
    {METHOD_EXTENTS, "extents"},
    {METHOD_STATFS, "statfs"},
    {METHOD_GETLK, "getlk"},
    {METHOD_TABLES, "tables"},
    {METHOD_LEASE_ACQUIRE, "lease-acquire"},
    {METHOD_LEASE_RELEASE, "lease-release"},
    {METHOD_LEASE_REASSERT, "lease-reassert"},
    {METHOD_LAYOUT_RETURN, "layout-return"},
    {EVENT_LOCK_GRANTED, "lock-granted"},
    {EVENT_TABLES, "tables-changed"},
    {EVENT_SESSION_ENDED, "session-ended"},
    {EVENT_LEASE_RECALL, "lease-recall"},
    {EVENT_LAYOUT_RECALL, "layout-recall"},
    {METHOD_CHUNK_REGISTER, "chunk-register"},
    {METHOD_CHUNK_HEARTBEAT, "chunk-heartbeat"},
    {METHOD_FRAGMENT_PUT, "fragment-put"},
    {METHOD_FRAGMENT_GET, "fragment-get"},
    {METHOD_FRAGMENT_DELETE, "fragment-delete"},
    {METHOD_FRAGMENT_STAT, "fragment-stat"},
    {METHOD_FRAGMENT_LIST, "fragment-list"},
    {METHOD_RAFT, "raft"},
    {METHOD_STATUS, "status"},
    {METHOD_POLICY_GET, "policy-get"},
    {METHOD_POLICY_SET, "policy-set"},
    {METHOD_FILE_LAYOUT, "file-layout"},
    {METHOD_VOLUME_CREATE, "volume-create"},
};

const char *method_name(unsigned method)
{
    for (unsigned i = 0; i < array_count(NAMES); i++) {
        if (NAMES[i].method == method) {
            return NAMES[i].name;
        }
    }
    return NULL;
}

int status_of_rc(int rc)
{
    if (rc == 0) {
        return 0;
    }
    return rc < 0 && rc > ERR_LAST ? -rc : EIO;
}

int status_to_rc(int status)
{
    if (status == 0) {
        return 0;
    }
    return status > 0 && status < -ERR_LAST ? -status : -EIO;
}
