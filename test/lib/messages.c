#include "test/lib/messages.h"

#include "admin.pb-c.h"
#include "base/mem.h"
#include "chunk.pb-c.h"
#include "meta.pb-c.h"
#include "proto/methods.h"

static const struct {
    unsigned method;
    struct messages messages;
} ALL[] = {
    {METHOD_PING, {&cfs__empty__descriptor, &cfs__empty__descriptor}},
    {METHOD_COUNTERS, {&cfs__empty__descriptor, &cfs__counters_reply__descriptor}},
    {METHOD_SESSION_OPEN, {&cfs__session_open__descriptor, &cfs__session_open_reply__descriptor}},
    {METHOD_SESSION_RENEW,
     {&cfs__session_renew__descriptor, &cfs__session_renew_reply__descriptor}},
    {METHOD_COMMAND, {&cfs__command_request__descriptor, &cfs__ops_reply__descriptor}},
    {METHOD_SESSION_CLOSE, {&cfs__session_close__descriptor, &cfs__empty__descriptor}},
    {METHOD_LOOKUP, {&cfs__lookup_request__descriptor, &cfs__lookup_reply__descriptor}},
    {METHOD_GETATTR, {&cfs__getattr_request__descriptor, &cfs__lookup_reply__descriptor}},
    {METHOD_READDIR, {&cfs__readdir_request__descriptor, &cfs__readdir_reply__descriptor}},
    {METHOD_GETXATTR, {&cfs__xattr_request__descriptor, &cfs__xattr_reply__descriptor}},
    {METHOD_LISTXATTR, {&cfs__xattr_request__descriptor, &cfs__xattr_reply__descriptor}},
    {METHOD_EXTENTS, {&cfs__extents_request__descriptor, &cfs__extents_reply__descriptor}},
    {METHOD_STATFS, {&cfs__getattr_request__descriptor, &cfs__statfs_reply__descriptor}},
    {METHOD_GETLK, {&cfs__lock_op__descriptor, &cfs__lock_info__descriptor}},
    {METHOD_TABLES, {&cfs__tables_request__descriptor, &cfs__tables_reply__descriptor}},
    {METHOD_CHUNK_REGISTER,
     {&cfs__chunk_register__descriptor, &cfs__chunk_register_reply__descriptor}},
    {METHOD_CHUNK_HEARTBEAT,
     {&cfs__chunk_heartbeat__descriptor, &cfs__chunk_heartbeat_reply__descriptor}},
    {METHOD_FRAGMENT_PUT, {&cfs__fragment_put__descriptor, &cfs__empty__descriptor}},
    {METHOD_FRAGMENT_GET, {&cfs__fragment_get__descriptor, &cfs__fragment_get_reply__descriptor}},
    {METHOD_FRAGMENT_DELETE, {&cfs__fragment_delete__descriptor, &cfs__empty__descriptor}},
    {METHOD_FRAGMENT_STAT, {&cfs__fragment_get__descriptor, &cfs__fragment_info__descriptor}},
    {METHOD_FRAGMENT_LIST,
     {&cfs__fragment_list__descriptor, &cfs__fragment_list_reply__descriptor}},
    {METHOD_STATUS, {&cfs__empty__descriptor, &cfs__status_reply__descriptor}},
    {METHOD_POLICY_GET, {&cfs__policy_request__descriptor, &cfs__policy__descriptor}},
    {METHOD_POLICY_SET, {&cfs__policy_request__descriptor, &cfs__policy__descriptor}},
    {METHOD_FILE_LAYOUT, {&cfs__extents_request__descriptor, &cfs__extents_reply__descriptor}},
};

struct messages messages_of(unsigned method)
{
    for (unsigned i = 0; i < array_count(ALL); i++) {
        if (ALL[i].method == method) {
            return ALL[i].messages;
        }
    }
    return (struct messages){NULL, NULL};
}

unsigned messages_method(unsigned i)
{
    return ALL[i % array_count(ALL)].method;
}
