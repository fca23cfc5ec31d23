#include "rpc/transport.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"

/* One entry per peer host that was at fault lately. More hosts than entries share by
 * overwriting the entry that was silent longest: the log stays bounded, the counters exact. */
enum { FAULT_HOSTS = 32, HOST_CHARS = 48 };
struct fault_log {
    struct {
        char host[HOST_CHARS];
        struct log_limit limit;
    } entry[FAULT_HOSTS];
};

void transport_init(struct transport *t, const struct transport_ops *ops, struct timers *timers,
                    struct databuf_pool *payloads)
{
    *t = (struct transport){.ops = ops, .timers = timers, .payloads = payloads};
    t->fault_log = xcalloc(1, sizeof *t->fault_log);
}

void transport_release(struct transport *t)
{
    free(t->fault_log);
    t->fault_log = NULL;
}

/* Ports change with every connection; the host is who is at fault. */
static void host_of(const char *peer, char host[HOST_CHARS])
{
    size_t len = strnlen(peer, HOST_CHARS - 1);
    const char *colon = strrchr(peer, ':');
    if (colon != NULL && (size_t)(colon - peer) < len) {
        len = (size_t)(colon - peer);
    }
    memcpy(host, peer, len);
    host[len] = 0;
}

static struct log_limit *limit_of(struct fault_log *log, const char *host)
{
    unsigned oldest = 0;
    for (unsigned i = 0; i < FAULT_HOSTS; i++) {
        if (strcmp(log->entry[i].host, host) == 0) {
            return &log->entry[i].limit;
        }
        if (log->entry[i].limit.last_ms < log->entry[oldest].limit.last_ms) {
            oldest = i;
        }
    }
    memset(&log->entry[oldest], 0, sizeof log->entry[oldest]);
    memcpy(log->entry[oldest].host, host, strlen(host) + 1);
    return &log->entry[oldest].limit;
}

static bool may_log(struct transport *t, const char *peer, unsigned long *suppressed)
{
    char host[HOST_CHARS];
    host_of(peer, host);
    return log_allowed(limit_of(t->fault_log, host), timers_now(t->timers), suppressed);
}

void transport_refused(struct transport *t, const char *peer)
{
    unsigned long suppressed = 0;
    t->counts.refused++;
    if (may_log(t, peer, &suppressed)) {
        log_warn(
            "connection refused, there are as many as this server takes peer=%s suppressed=%lu",
            peer, suppressed);
    }
}

void transport_fault(struct conn *c, enum frame_fault fault)
{
    struct transport *t = c->transport;
    const char *peer = t->ops->peer_name(c);
    unsigned long suppressed = 0;
    t->counts.faults[fault]++;
    if (may_log(t, peer, &suppressed)) {
        log_warn("connection closed, its peer broke the protocol peer=%s fault=%s suppressed=%lu",
                 peer, frame_fault_name(fault), suppressed);
    }
    t->ops->abort(c, ERR_MALFORMED);
}
