/* cfs: the administrator's command. Here: the command line and what the commands share. */
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tools/cmd.h"

static const char HELP[] =
    "cfs: looks at a CFS cluster and changes it\n"
    "\n"
    "  cfs status [--json]\n"
    "      Servers, health, space, placement groups, clients, faults; what is degraded comes "
    "first.\n"
    "  cfs stat PATH [--json] [--verify] [--sync]\n"
    "      Where a file lies: extents, stripes, fragments, and how healthy they are. --verify "
    "reads every\n"
    "      fragment and checks its checksums. --sync writes out what the client still keeps of "
    "it.\n"
    "  cfs policy get DIR [--json]\n"
    "  cfs policy set DIR K+M [--json]\n"
    "      Erasure coding of new stripes, here of the whole volume: K data and M parity "
    "fragments.\n"
    "  cfs client list [--json]\n"
    "  cfs client upgrade MNT\n"
    "      Starts the client of a mount again from the program that is installed now, without "
    "unmounting.\n"
    "\n"
    "  The cluster is the one named by --cluster HOST:PORT[,HOST:PORT...], else by CFS_CLUSTER, "
    "else\n"
    "  that of the CFS mount which holds the current directory, else `cluster = HOST:PORT` in\n"
    "  /etc/cfs/cfs.conf. Commands with a PATH or DIR take that of its mount.\n"
    "  Exit status: 0 good, 1 failed, 2 wrong command line, 3 answered, but something is "
    "degraded.\n";

static const struct {
    const char *name;
    int (*run)(const struct cmd *c);
} COMMANDS[] = {
    {"status", cmd_status}, {"stat", cmd_stat}, {"policy", cmd_policy}, {"client", cmd_client}};

enum { O_CLUSTER = 256, O_JSON, O_VERIFY, O_SYNC, O_HELP };

static bool parse(int argc, char **argv, struct cmd *c)
{
    static const struct option LONG[] = {{"cluster", 1, NULL, O_CLUSTER}, {"json", 0, NULL, O_JSON},
                                         {"verify", 0, NULL, O_VERIFY},   {"sync", 0, NULL, O_SYNC},
                                         {"help", 0, NULL, O_HELP},       {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "h", LONG, NULL)) != -1;) {
        switch (option) {
        case O_CLUSTER:
            c->cluster = optarg;
            break;
        case O_JSON:
            c->json = true;
            break;
        case O_VERIFY:
            c->verify = true;
            break;
        case O_SYNC:
            c->sync = true;
            break;
        case 'h':
        case O_HELP:
            fputs(HELP, stdout);
            exit(CMD_GOOD);
        default:
            return false;
        }
    }
    c->argc = argc - optind;
    c->argv = argv + optind;
    return true;
}

int main(int argc, char **argv)
{
    struct cmd c = {0};
    signal(SIGPIPE, SIG_DFL);
    if (!parse(argc, argv, &c)) {
        return CMD_USAGE;
    }
    if (c.argc == 0) {
        fputs(HELP, stderr);
        return CMD_USAGE;
    }
    for (unsigned i = 0; i < array_count(COMMANDS); i++) {
        if (strcmp(COMMANDS[i].name, c.argv[0]) == 0) {
            c.argc--;
            c.argv++;
            return COMMANDS[i].run(&c);
        }
    }
    return cmd_usage("no command %s; see cfs --help", c.argv[0]);
}
