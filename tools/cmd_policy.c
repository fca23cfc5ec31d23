/* cfs policy get DIR, cfs policy set DIR K+M: what new stripes are made of. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "admin.pb-c.h"
#include "base/err.h"
#include "proto/methods.h"
#include "tools/ask.h"
#include "tools/cluster.h"
#include "tools/cmd.h"
#include "tools/json.h"

enum { K_MAX = 32, M_MAX = 8 };

static void show(const struct cmd *c, const char *dir, const Cfs__Policy *p)
{
    if (!c->json) {
        printf("%s: %u+%u, files up to %u bytes in the metadata\n", dir, p->k, p->m,
               p->inline_limit);
        return;
    }
    struct json j;
    json_init(&j);
    json_open(&j, NULL, '{');
    json_text(&j, "path", dir);
    json_number(&j, "k", p->k);
    json_number(&j, "m", p->m);
    json_number(&j, "inline_limit", p->inline_limit);
    json_close(&j, '}');
    json_print(&j);
    json_release(&j);
}

static int call(const struct cmd *c, const char *addresses, const char *dir, unsigned method,
                const Cfs__PolicyRequest *request, Cfs__Policy **out)
{
    struct ask *a = ask_new(c->cluster != NULL ? c->cluster : addresses);
    struct bytes reply;
    int status = CMD_FAILED;
    if (cmd_call(a, method, &request->base, &reply) == 0) {
        *out = cfs__policy__unpack(NULL, reply.len, reply.data);
        status = *out != NULL ? CMD_GOOD
                              : cmd_fail("the policy of %s that was sent does not decode", dir);
    }
    ask_free(a);
    return status;
}

static int parse_policy(const char *text, Cfs__Policy *p)
{
    char rest;
    if (sscanf(text, "%u+%u%c", &p->k, &p->m, &rest) != 2 || p->k < 1 || p->k > K_MAX ||
        p->m > M_MAX) {
        return cmd_usage("a policy is K+M, K 1 to %d and M 0 to %d, for example 4+2; not %s", K_MAX,
                         M_MAX, text);
    }
    return CMD_GOOD;
}

int cmd_policy(const struct cmd *c)
{
    bool set = c->argc == 3 && strcmp(c->argv[0], "set") == 0;
    if (!set && !(c->argc == 2 && strcmp(c->argv[0], "get") == 0)) {
        return cmd_usage("policy get DIR, or policy set DIR K+M");
    }
    const char *dir = c->argv[1];
    struct cluster_mount m;
    struct stat st;
    int rc = cluster_mount_of(dir, &m);
    if (rc != 0 || stat(dir, &st) != 0) {
        return cmd_fail("%s: %s", dir,
                        rc == -ENODEV ? "not in a CFS mount" : err_text(rc != 0 ? rc : -errno));
    }
    if (!S_ISDIR(st.st_mode)) {
        return cmd_fail("%s: not a directory", dir);
    }
    Cfs__PolicyRequest request = CFS__POLICY_REQUEST__INIT;
    Cfs__Policy *now = NULL, next = CFS__POLICY__INIT;
    request.ino = st.st_ino;
    int status = call(c, m.addresses, dir, METHOD_POLICY_GET, &request, &now);
    if (status == CMD_GOOD && set) {
        next.inline_limit = now->inline_limit;
        cfs__policy__free_unpacked(now, NULL);
        now = NULL;
        status = parse_policy(c->argv[2], &next);
        request.policy = &next;
        status = status == CMD_GOOD ? call(c, m.addresses, dir, METHOD_POLICY_SET, &request, &now)
                                    : status;
    }
    if (status == CMD_GOOD) {
        show(c, dir, now);
    }
    cfs__policy__free_unpacked(now, NULL);
    return status;
}
