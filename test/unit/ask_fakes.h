/* Commands of `cfs` without servers and mounts: a test says what each question is answered. Included by test programs of
 * commands only (definitions, not declarations). */
#ifndef CFS_TEST_UNIT_ASK_FAKES_H
#define CFS_TEST_UNIT_ASK_FAKES_H

#include <stdio.h>
#include <string.h>

#include "tools/ask.h"
#include "tools/cluster.h"
#include "tools/cmd.h"

static struct asks {
    int (*answer)(unsigned method, struct bytes *reply, struct bytes *payload);
    struct bytes payload;
    unsigned n;
} asks;

struct ask *ask_new(const char *addresses)
{
    (void)addresses;
    return (struct ask *)&asks;
}
void ask_free(struct ask *a)
{
    (void)a;
}
int ask_call(struct ask *a, unsigned method, struct bytes body, unsigned timeout_ms,
             struct bytes *reply)
{
    (void)a;
    (void)body;
    (void)timeout_ms;
    asks.n++;
    return asks.answer(method, reply, &asks.payload);
}
int ask_at(struct ask *a, const char *address, unsigned method, struct bytes body,
           unsigned timeout_ms, struct bytes *reply)
{
    (void)address;
    return ask_call(a, method, body, timeout_ms, reply);
}
struct bytes ask_payload(const struct ask *a)
{
    (void)a;
    return asks.payload;
}
const char *ask_text(const struct ask *a)
{
    (void)a;
    return "refused";
}
int cluster_mount_of(const char *path, struct cluster_mount *out)
{
    (void)path;
    memset(out, 0, sizeof *out);
    return 0;
}
int cluster_find(const char *option, char out[CLUSTER_ADDRESSES])
{
    (void)option;
    snprintf(out, CLUSTER_ADDRESSES, "meta:1");
    return 0;
}

#endif
