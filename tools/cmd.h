#ifndef CFS_TOOLS_CMD_H
#define CFS_TOOLS_CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* What a command of `cfs` is given, and what they share. Each is in a file cmd_NAME.c. */
struct cmd {
    const char *cluster; /* --cluster, or NULL */
    bool json, sync, verify;
    int argc; /* words behind the command's name */
    char **argv;
};

/* Exit status of all commands. */
enum { CMD_GOOD = 0, CMD_FAILED = 1, CMD_USAGE = 2, CMD_DEGRADED = 3 };

int cmd_status(const struct cmd *c);
int cmd_clients(const struct cmd *c); /* of cmd_status.c: the clients alone */
int cmd_stat(const struct cmd *c);
int cmd_policy(const struct cmd *c);
int cmd_client(const struct cmd *c);

/* One line on stderr. Returns CMD_FAILED. */
int cmd_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int cmd_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Asks `ask` (see ask.h) with a packed protobuf message and gives the packed reply, borrowed. Says
 * on stderr what is wrong. */
struct ask;
struct ProtobufCMessage;
enum { CMD_TIMEOUT_MS = 10000 };
int cmd_call(struct ask *a, unsigned method, const struct ProtobufCMessage *request,
             struct bytes *reply);

/* "1.5 GiB" in a buffer of 16. */
const char *cmd_size(uint64_t bytes, char out[16]);

#endif
