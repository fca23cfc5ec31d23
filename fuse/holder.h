#ifndef CFS_FUSE_HOLDER_H
#define CFS_FUSE_HOLDER_H

#include <sys/types.h>

#include "fuse/arena.h"

/* The holder: the process that owns a mount. It opens /dev/fuse, mounts, makes the arena, and starts a worker
 * whenever there is none. It knows neither libfuse nor libuv nor the network, so there is little in it that could fail;
 * and if it is killed the worker starts another and hands it everything.
 *
 * Both are the same binary, with the descriptors below open:   BINARY --worker run_dir=DIR   and   BINARY --holder run_dir=DIR
 * They talk over `life`, a seqpacket socket: its end of file tells the worker that the holder died. Messages:
 *   worker to holder   "ready"                   the session is open: mount, please
 *                      "failed CODE TEXT"        it cannot be; CODE is for exit(2) of mount.cfs
 *   holder to worker   "mounted"                 /dev/fuse may be read
 * A worker that finds the arena mounted says and awaits nothing. */
enum holder_fd {
    HOLDER_FD_DEV = 3,
    HOLDER_FD_ARENA,
    HOLDER_FD_LIFE,
    HOLDER_FD_WORKER, /* pidfd of the worker; only for --holder */
    HOLDER_FD_LOCK,   /* flock that says: one of the two lives */
    HOLDER_FD_END
};
enum holder_state { /* arena_header.state */
    HOLDER_FRESH = 0,
    HOLDER_MOUNTED = 1,
    HOLDER_DRAINING = 2,
    HOLDER_DRAINED = 3
};
enum { HOLDER_EXIT_USAGE = 1, HOLDER_EXIT_SYSTEM = 2, HOLDER_EXIT_MOUNT = 32 };

struct holder_setting {
    const char *key, *value;
};
struct holder_options {
    struct arena_sizes sizes;
    /* Put into the arena; the holder itself uses: binary (the program to start), run_dir (existing directory of this
     * mount), mount_point, source, mount_flags (decimal MS_*). */
    const struct holder_setting *settings;
    unsigned n_settings;
    int lock_fd;  /* becomes the holder's */
    int ready_fd; /* "ok\n" or "failed CODE TEXT\n" is written to it, once; closed then */
};
/* The holder's process from its start to its end: returns the exit code. */
int holder_run(const struct holder_options *options);
/* --holder: goes on with the descriptors at their numbers above. */
int holder_take_over(void);

/* Moves the descriptor from its number at start to one that is out of the way, close-on-exec. */
int holder_fd_take(enum holder_fd at);
/* Starts BINARY MODE run_dir=DIR (as the arena's options say) with fds[i - HOLDER_FD_DEV] at number i (-1: none).
 * The pid, or negative. */
pid_t holder_spawn(const struct arena *a, const char *mode,
                   const int fds[HOLDER_FD_END - HOLDER_FD_DEV]);
int holder_pidfd(pid_t pid);
/* run_dir/NAME, written whole or not at all. */
int holder_write_file(const char *run_dir, const char *name, const char *text);

#endif
