/* cfs client list, cfs client upgrade MNT. */
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"

int cmd_client(const struct cmd *c)
{
    if (c->argc == 1 && strcmp(c->argv[0], "list") == 0) {
        struct cmd status = *c;
        status.argc = 0;
        return cmd_status(&status);
    }
    if (c->argc != 2 || strcmp(c->argv[0], "upgrade") != 0) {
        return cmd_usage("client list, or client upgrade MNT");
    }
    return cmd_fail("%s: this client takes no upgrade", c->argv[1]);
}
