#include "fuse/mountid.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the headers of Debian 12. */
enum { MNT_ID_UNIQUE = 0x4000 };

/* Nothing but the id is asked for, so a FUSE mount is not asked for anything. */
static uint64_t id_of(int fd)
{
    struct statx s = {.stx_mask = 0};
    long rc = syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, MNT_ID_UNIQUE, &s);
    return rc == 0 && (s.stx_mask & MNT_ID_UNIQUE) != 0 ? s.stx_mnt_id : 0;
}

uint64_t mountid_at(const char *where)
{
    int fd = open(where, O_PATH | O_CLOEXEC);
    uint64_t id = fd < 0 ? 0 : id_of(fd);
    if (fd >= 0) {
        close(fd);
    }
    return id;
}

/* By way of the descriptor, so that it is this mount and no other that came to lie there meanwhile.
 */
int mountid_detach(const char *where, uint64_t id)
{
    char path[64];
    int fd = open(where, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    int rc = -ENOENT;
    if (id != 0 && id_of(fd) == id) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        rc = umount2(path, MNT_DETACH) < 0 ? -errno : 0;
    }
    close(fd);
    return rc;
}
