#include "tools/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* "host:port,host:port:/subdir" into its two halves. */
static int split_source(const char *source, struct cluster_mount *out)
{
    const char *colon = strstr(source, ":/");
    size_t len = colon != NULL ? (size_t)(colon - source) : 0;
    if (len == 0 || len >= sizeof out->addresses) {
        return -ENODEV;
    }
    memcpy(out->addresses, source, len);
    out->addresses[len] = '\0';
    snprintf(out->subdir, sizeof out->subdir, "%s", colon + 1);
    return 0;
}

int cluster_take_mount(const struct mount_entry *e, struct cluster_mount *out)
{
    snprintf(out->where, sizeof out->where, "%s", e->where);
    return split_source(e->source, out);
}

struct first_on {
    dev_t dev;
    bool *seen;
};

/* The first: bind mounts of it come after it, and its client does not go by their names. */
static bool is_first_on(const struct mount_entry *e, const void *ctx)
{
    const struct first_on *f = ctx;
    if (*f->seen || makedev(e->major, e->minor) != f->dev || strcmp(e->type, "fuse.cfs") != 0) {
        return false;
    }
    *f->seen = true;
    return true;
}

int cluster_mount_on(const char *process, dev_t dev, struct cluster_mount *out)
{
    struct mount_entry e;
    bool seen = false;
    const struct first_on first = {.dev = dev, .seen = &seen};
    return mountinfo_find(process, is_first_on, &first, &e) ? cluster_take_mount(&e, out) : -ENODEV;
}

int cluster_mount_of(const char *path, struct cluster_mount *out)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return -errno;
    }
    return cluster_mount_on("self", st.st_dev, out);
}

/* "cluster = HOST:PORT,..." in /etc/cfs/cfs.conf; # begins a comment. */
int cluster_read_conf(FILE *f, char out[CLUSTER_ADDRESSES])
{
    char line[CLUSTER_ADDRESSES + 64];
    int rc = -ENOENT;
    while (rc != 0 && fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "#\n")] = '\0';
        char value[CLUSTER_ADDRESSES];
        if (sscanf(line, " cluster = %1023s", value) == 1) {
            snprintf(out, CLUSTER_ADDRESSES, "%s", value);
            rc = 0;
        }
    }
    return rc;
}

static int read_conf(char out[CLUSTER_ADDRESSES])
{
    FILE *f = fopen("/etc/cfs/cfs.conf", "re");
    if (f == NULL) {
        return -errno;
    }
    int rc = cluster_read_conf(f, out);
    fclose(f);
    return rc;
}

static int take(const char *text, char out[CLUSTER_ADDRESSES])
{
    int n = snprintf(out, CLUSTER_ADDRESSES, "%s", text);
    return n < 0 || n >= CLUSTER_ADDRESSES ? -ENAMETOOLONG : 0;
}

int cluster_find(const char *option, char out[CLUSTER_ADDRESSES])
{
    const char *environment = getenv("CFS_CLUSTER");
    if (option != NULL) {
        return take(option, out);
    }
    if (environment != NULL && environment[0] != '\0') {
        return take(environment, out);
    }
    struct cluster_mount m;
    if (cluster_mount_of(".", &m) == 0) {
        return take(m.addresses, out);
    }
    return read_conf(out) == 0 ? 0 : -ENOENT;
}
