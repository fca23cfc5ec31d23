#ifndef CFS_FUSE_MOUNTID_H
#define CFS_FUSE_MOUNTID_H

#include <stdint.h>

/* Which mount it is that lies at a place. Numbers of mounts and of their devices are used again,
 * and so are places; the id below never is, from boot to shutdown (kernel 6.8 and newer). Asks no
 * filesystem. */

/* The id of the topmost mount at `where`, its root; 0: none, or the kernel does not say. */
uint64_t mountid_at(const char *where);
/* Takes the mount with this id away from `where`, though it is busy (MNT_DETACH). 0; -ENOENT:
 * another lies there, or none, or id is 0; -errno. */
int mountid_detach(const char *where, uint64_t id);

#endif
