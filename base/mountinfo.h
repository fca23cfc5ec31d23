#ifndef CFS_BASE_MOUNTINFO_H
#define CFS_BASE_MOUNTINFO_H

#include <stdbool.h>

/* What is mounted, from /proc/PID/mountinfo (proc(5)): "ID PARENT MAJOR:MINOR ROOT WHERE OPTIONS...
 * - TYPE SOURCE ...". */
enum { MOUNT_PATH_MAX = 4096 };

struct mount_entry {
    unsigned major, minor; /* of the device */
    char where[MOUNT_PATH_MAX];
    char type[64]; /* "fuse.cfs" */
    char source[MOUNT_PATH_MAX];
};

/* One line, without escapes in the result; false: it is none. */
bool mountinfo_take(const char *line, struct mount_entry *out);

/* The last mount (the topmost of those at one place) that is wanted, of a process ("self", "4711").
 * False: there is none, or it cannot be looked at. */
bool mountinfo_find(const char *process,
                    bool (*wanted)(const struct mount_entry *e, const void *ctx), const void *ctx,
                    struct mount_entry *out);

/* Undoes, in place, the escapes of mountinfo: a backslash and three octal digits. What is none
 * stays. */
void mountinfo_unescape(char *text);

#endif
