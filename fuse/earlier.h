#ifndef CFS_FUSE_EARLIER_H
#define CFS_FUSE_EARLIER_H

#include <stddef.h>

/* Earlier clients of this machine (design.md, section 6, "The end of a session"). Each mount holds an flock on
 * /run/cfs/clients/ID, through one open file that holder and worker share: the lock is free exactly when both are dead.
 * ID is the mount's client id, never used twice. In the file: addresses, run directory, mount point and session, a line each.
 * Who has ended its own session removes the file before the lock goes; with the last file the directories go, too. */
enum { EARLIER_DEAD_MAX = 64, EARLIER_WAIT_MS = 60000 };
struct earlier {
    int lock_fd;               /* our own file, locked */
    char client[33];           /* our id, 32 hexadecimal digits */
    char file[128];            /* our file */
    char dead[EARLIER_DEAD_MAX * 33 + 1]; /* ids of dead clients of these addresses, separated by commas */
};
/* Makes and locks our file, finds the dead. Waits, and says so on standard error, while a client of these addresses that was
 * unmounted still writes its data. -errno with a reason in why. */
int earlier_look(const char *addresses, const char *run_dir, const char *mount_point,
                 struct earlier *out, char *why, size_t why_bytes);
void earlier_forget_dead(const struct earlier *e); /* their sessions are over: removes their files */
void earlier_undo(const struct earlier *e);        /* nothing was mounted: removes ours */

#endif
