#ifndef CFS_META_STATUS_H
#define CFS_META_STATUS_H

#include <stdbool.h>

#include "admin.pb-c.h"
#include "base/buf.h"

/* What people are told about a cluster: sentences from numbers, worst first. A pure function: whoever fills a
 * StatusReply (meta_service) calls it last. Sentences are appended to reply->problem, on the heap. */
void status_problems(Cfs__StatusReply *reply, bool log_waiting);
void status_problems_free(Cfs__StatusReply *reply);

#endif
