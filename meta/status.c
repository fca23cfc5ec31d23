#include "meta/status.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

enum { PROBLEMS_MAX = 64, STATE_UP = 1, STATE_DOWN = 2, STATE_OUT = 3, STATE_FULL = 4 };

static void say(Cfs__StatusReply *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(Cfs__StatusReply *r, const char *format, ...)
{
    if (r->n_problem == PROBLEMS_MAX) {
        return;
    }
    char text[512];
    va_list ap;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    r->problem = xrealloc(r->problem, (r->n_problem + 1) * sizeof r->problem[0]);
    r->problem[r->n_problem++] = xstrdup(text);
}

static unsigned count_state(const Cfs__StatusReply *r, uint32_t state)
{
    unsigned n = 0;
    for (size_t i = 0; i < r->n_chunk; i++) {
        n += r->chunk[i]->row->state == state;
    }
    return n;
}

static void groups(Cfs__StatusReply *r)
{
    const unsigned width = r->policy->k + r->policy->m;
    if (r->groups_unwritable > 0) {
        say(r, "%u of %u placement groups cannot be written: fewer than %u of their servers are up.",
            r->groups_unwritable, r->groups, r->policy->m + 1);
    }
    if (r->groups == 0) {
        say(r, "There are no placement groups yet: policy %u+%u needs %u chunk servers, %u are up.",
            r->policy->k, r->policy->m, width,
            count_state(r, STATE_UP) + count_state(r, STATE_FULL));
    }
    const unsigned lost = r->groups_degraded - r->groups_unwritable;
    if (r->groups_degraded > r->groups_unwritable) {
        say(r, "%u of %u placement groups have a server down: new stripes there are narrower.", lost,
            r->groups);
    }
}

static void metadata(Cfs__StatusReply *r, bool log_waiting)
{
    for (size_t i = 0; i < r->n_meta; i++) {
        const Cfs__StatusReply__Meta *m = r->meta[i];
        if (log_waiting) {
            say(r, "Metadata server %u has no room for its log or state: all changes wait. Make room on its disk.",
                m->id);
        } else if (m->refusing_writes) {
            say(r, "Metadata server %u has %" PRIu64 " MiB left on its disk, less than its reserve of %" PRIu64
                   " MiB: only deleting is possible.",
                m->id, m->free_bytes >> 20, m->reserve_bytes >> 20);
        }
    }
}

static void servers(Cfs__StatusReply *r)
{
    for (size_t i = 0; i < r->n_chunk; i++) {
        const Cfs__StatusReply__Chunk *c = r->chunk[i];
        if (c->row->state == STATE_DOWN || c->row->state == STATE_OUT) {
            say(r, "Chunk server %u (%s) is %s, not heard for %" PRIu64 " s.", c->row->id, c->row->address,
                c->row->state == STATE_DOWN ? "down" : "out", c->last_heard_ms / 1000);
        }
        for (size_t k = 0; k < c->n_disk; k++) {
            if (c->disk[k]->state == 3) {
                say(r, "A disk of chunk server %u has failed: %s.", c->row->id,
                    c->disk[k]->path != NULL ? c->disk[k]->path : "unknown path");
            }
        }
    }
}

static void data(Cfs__StatusReply *r)
{
    for (size_t i = 0; i < r->n_chunk; i++) {
        if (r->chunk[i]->corrupt > 0) {
            say(r, "Chunk server %u found %" PRIu64 " damaged fragments.", r->chunk[i]->row->id,
                r->chunk[i]->corrupt);
        }
    }
    if (r->bad_fragments > 0) {
        say(r, "Readers found %" PRIu64 " fragments missing or damaged; their content was rebuilt from the "
               "others.",
            r->bad_fragments);
    }
}

static void space(Cfs__StatusReply *r)
{
    if (r->raw_total > 0 && r->raw_free < r->raw_total / 20) {
        say(r, "The pool is nearly full: %" PRIu64 " of %" PRIu64 " MiB raw are free.", r->raw_free >> 20,
            r->raw_total >> 20);
    }
    for (size_t i = 0; i < r->n_chunk; i++) {
        if (r->chunk[i]->row->state == STATE_FULL) {
            say(r, "Chunk server %u is full.", r->chunk[i]->row->id);
        }
    }
}

void status_problems(Cfs__StatusReply *reply, bool log_waiting)
{
    metadata(reply, log_waiting);
    groups(reply);
    data(reply);
    servers(reply);
    space(reply);
}

void status_problems_free(Cfs__StatusReply *reply)
{
    for (size_t i = 0; i < reply->n_problem; i++) {
        free(reply->problem[i]);
    }
    free(reply->problem);
    reply->problem = NULL;
    reply->n_problem = 0;
}
