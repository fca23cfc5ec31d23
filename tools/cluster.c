#include "tools/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/mountinfo.h"

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

/* One line: "ID PARENT MAJ:MIN ROOT WHERE OPTIONS... - TYPE SOURCE SUPER". */
int cluster_take_line(char *line, dev_t dev, struct cluster_mount *out)
{
    unsigned major_id, minor_id;
    char where[PATH_MAX], type[64], source[PATH_MAX];
    if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major_id, &minor_id, where) != 3 ||
        makedev(major_id, minor_id) != dev) {
        return -ENODEV;
    }
    const char *dash = strstr(line, " - ");
    if (dash == NULL || sscanf(dash + 3, "%63s %4095s", type, source) != 2 ||
        strcmp(type, "fuse.cfs") != 0) {
        return -ENODEV;
    }
    mountinfo_unescape(where);
    mountinfo_unescape(source);
    snprintf(out->where, sizeof out->where, "%s", where);
    return split_source(source, out);
}

int cluster_mount_of(const char *path, struct cluster_mount *out)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return -errno;
    }
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (f == NULL) {
        return -errno;
    }
    char *line = NULL;
    size_t cap = 0;
    int rc = -ENODEV;
    while (rc != 0 && getline(&line, &cap, f) > 0) {
        rc = cluster_take_line(line, st.st_dev, out);
    }
    free(line);
    fclose(f);
    return rc;
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
