#ifndef CFS_STORE_DISK_POSIX_H
#define CFS_STORE_DISK_POSIX_H

#include "store/disk.h"

/* The real side of disk.h. `root` must be a directory; where the filesystem has no
 * O_DIRECT, DISK_DIRECT files are opened without it (same alignment rules).
 * -ENOTDIR, -ENOENT, -EACCES. */
int disk_posix_open(const char *root, struct disk **out);

#endif
