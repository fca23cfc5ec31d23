#include "base/err.h"

#include <errno.h>
#include <string.h>

static const struct {
    int rc;
    int posix;
    const char *name;
    const char *text;
} OURS[] = {
    {ERR_NOT_FOUND, ENOENT, "ERR_NOT_FOUND", "not found"},
    {ERR_CORRUPT, EIO, "ERR_CORRUPT", "a checksum does not match: the bytes are damaged"},
    {ERR_MALFORMED, EIO, "ERR_MALFORMED", "the bytes cannot be decoded"},
    {ERR_VERSION, EIO, "ERR_VERSION", "made by a version that this program cannot read"},
    {ERR_NOT_LEADER, EAGAIN, "ERR_NOT_LEADER", "this metadata server is not the leader"},
    {ERR_STALE_EPOCH, EAGAIN, "ERR_STALE_EPOCH", "the placement group has a newer epoch"},
    {ERR_STALE_REIGN, EAGAIN, "ERR_STALE_REIGN", "an order of an earlier leader"},
    {ERR_SESSION_ENDED, EIO, "ERR_SESSION_ENDED", "the metadata server has ended this session"},
    {ERR_DEADLINE, EIO, "ERR_DEADLINE", "no answer before the deadline"},
    {ERR_DISCONNECTED, EIO, "ERR_DISCONNECTED", "the connection broke before the answer"},
    {ERR_UNKNOWN_CALL, EOPNOTSUPP, "ERR_UNKNOWN_CALL", "the peer does not know this call"},
    {ERR_BUSY, EBUSY, "ERR_BUSY", "busy; try again"},
    {ERR_CANCELLED, ECANCELED, "ERR_CANCELLED", "cancelled"},
    {ERR_TOO_BIG, EMSGSIZE, "ERR_TOO_BIG", "a length is over its limit"},
    {ERR_DEAD_ID, EIO, "ERR_DEAD_ID", "the stripe id is not granted to this session"},
    {ERR_CHANGED, EAGAIN, "ERR_CHANGED", "something changed meanwhile"},
    {ERR_SECOND_MOUNT, EBUSY, "ERR_SECOND_MOUNT",
     "another client has this cluster mounted; several mounts at once need leases, which "
     "this version does not have yet"},
    {ERR_WRONG_CLUSTER, EINVAL, "ERR_WRONG_CLUSTER", "the peer belongs to another cluster"},
    {ERR_ID_CONFLICT, EIO, "ERR_ID_CONFLICT", "this fragment was put before with other bytes"},
    {ERR_QUEUED, EAGAIN, "ERR_QUEUED", "the lock is waited for"},
};

const char *err_name(int rc)
{
    if (rc == 0) {
        return "OK";
    }
    for (unsigned i = 0; i < sizeof OURS / sizeof OURS[0]; i++) {
        if (OURS[i].rc == rc) {
            return OURS[i].name;
        }
    }
    const char *name = strerrorname_np(-rc);
    return name != NULL ? name : "ERR_UNKNOWN";
}

const char *err_text(int rc)
{
    if (rc == 0) {
        return "success";
    }
    for (unsigned i = 0; i < sizeof OURS / sizeof OURS[0]; i++) {
        if (OURS[i].rc == rc) {
            return OURS[i].text;
        }
    }
    const char *text = strerrordesc_np(-rc);
    return text != NULL ? text : "unknown error";
}

int err_to_errno(int rc)
{
    if (rc >= 0) {
        return 0;
    }
    for (unsigned i = 0; i < sizeof OURS / sizeof OURS[0]; i++) {
        if (OURS[i].rc == rc) {
            return OURS[i].posix;
        }
    }
    return rc > ERR_FIRST ? -rc : EIO;
}
