#ifndef CFS_TOOLS_ASK_H
#define CFS_TOOLS_ASK_H

#include "base/buf.h"

/* Calls for programs that ask one thing after another: a loop of its own that runs until the
 * reply is there. One round trip per call, the connection is kept. */
struct ask;

/* addresses: "host:port[,host:port...]", copied. Nothing is connected yet. */
struct ask *ask_new(const char *addresses);
void ask_free(struct ask *a);

/* Asks the metadata servers one after another until one answers that is in charge. *reply is
 * borrowed until the next call. Negative: err.h; ask_text then has a sentence. */
int ask_call(struct ask *a, unsigned method, struct bytes body, unsigned timeout_ms,
             struct bytes *reply);
/* The same to one given server. */
int ask_at(struct ask *a, const char *address, unsigned method, struct bytes body,
           unsigned timeout_ms, struct bytes *reply);
/* The payload of the last good reply; borrowed until the next call. */
struct bytes ask_payload(const struct ask *a);
/* What the last failure means, in the server's words if it sent any. Valid until the next call. */
const char *ask_text(const struct ask *a);

#endif
