#ifndef CFS_FUSE_WORKER_H
#define CFS_FUSE_WORKER_H

/* The worker: the process that does a mount's work, until it dies and the next one goes on from the arena. Started by
 * the holder with the descriptors of holder.h. Returns the exit code. */
int worker_run(void);

#endif
