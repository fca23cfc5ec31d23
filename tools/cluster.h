#ifndef CFS_TOOLS_CLUSTER_H
#define CFS_TOOLS_CLUSTER_H

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/mountinfo.h"

/* Which cluster a command means, and which mount a path is in. */
enum { CLUSTER_ADDRESSES = 1024 };

struct cluster_mount {                 /* a mount of CFS */
    char addresses[CLUSTER_ADDRESSES]; /* of its source, "host:port[,host:port...]" */
    char subdir[PATH_MAX];             /* of its source, "/" at least */
    char where[PATH_MAX];              /* mount point */
};
/* The CFS mount that holds path. -ENODEV: path is not in one; else -errno of looking at it. */
int cluster_mount_of(const char *path, struct cluster_mount *out);

/* --cluster (NULL if not given), CFS_CLUSTER, the mount that holds the current directory,
 * /etc/cfs/cfs.conf, in this order. -ENOENT: none of them says. */
int cluster_find(const char *option, char out[CLUSTER_ADDRESSES]);

/* What is behind them. The CFS mount with this device, not a bind mount of it, as a process
 * ("self") sees it. */
int cluster_mount_on(const char *process, dev_t dev, struct cluster_mount *out);
/* A CFS mount; -ENODEV: its source is none of ours. */
int cluster_take_mount(const struct mount_entry *e, struct cluster_mount *out);
/* What a cfs.conf says, from an open file; -ENOENT: nothing. */
int cluster_read_conf(FILE *f, char out[CLUSTER_ADDRESSES]);

#endif
