/* cfs client list, cfs client upgrade MNT. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "tools/cluster.h"
#include "tools/cmd.h"

/* The client itself knows how: mount.cfs, installed beside this program or where mount(8) looks,
 * asks the holder of that mount to go on as the program it was asked from. */
static int upgrade(const char *where)
{
    struct cluster_mount m;
    char program[PATH_MAX + 16] = "";
    int rc = cluster_mount_of(where, &m);
    if (rc != 0) {
        return cmd_fail("%s: %s", where, rc == -ENODEV ? "not in a CFS mount" : err_text(rc));
    }
    ssize_t n = readlink("/proc/self/exe", program, PATH_MAX);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash != NULL) {
        snprintf(slash + 1, 16, "mount.cfs");
    }
    if (access(program, X_OK) != 0) {
        snprintf(program, sizeof program, "/sbin/mount.cfs");
    }
    char control[] = "--control", command[] = "upgrade";
    char *argv[] = {program, control, m.where, command, program, NULL};
    execv(program, argv);
    return cmd_fail("cannot run %s: %s", program, err_text(-errno));
}

int cmd_client(const struct cmd *c)
{
    if (c->argc == 1 && strcmp(c->argv[0], "list") == 0) {
        struct cmd status = *c;
        status.argc = 0;
        return cmd_clients(&status);
    }
    if (c->argc == 2 && strcmp(c->argv[0], "upgrade") == 0) {
        return upgrade(c->argv[1]);
    }
    return cmd_usage("client list, or client upgrade MNT");
}
