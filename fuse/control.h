#ifndef CFS_FUSE_CONTROL_H
#define CFS_FUSE_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How tools talk to a mount. Each mount has a run directory, RUN/NAME, where RUN is -o run_dir= (default /run/cfs) and
 * NAME is the mount point without its first '/', with the others written as '-' and '-' written as "\x2d"
 * (as systemd does). In it:
 *   holder.pid  worker.pid   decimal, newline; replaced atomically whenever the process changes
 *   control                  unix stream socket of the holder. One line is sent, the answer is read to its end:
 *     status                 "key=value" lines: state, mount_point, source, holder, worker, worker_starts, answered, session,
 *                            dirty_bytes, bytes_lost, arena_bytes, memory
 *     pids                   "holder=N" and "worker=N"
 *     upgrade [BINARY]       the worker stops reading, waits at most 1 s, and hands over to a new one started from BINARY
 *                            (default: the same path again); then the holder too becomes BINARY. "ok" or "failed TEXT".
 *   Any other line is answered "failed unknown command".
 * The directory is removed when the mount is gone and drained. RUN/clients/ID are locked by the mounts that live. */
enum { CONTROL_PATH_MAX = 4096 };
#define CONTROL_RUN "/run/cfs"
#define CONTROL_CLIENTS "/run/cfs/clients"

enum control_verb { CONTROL_UNKNOWN, CONTROL_STATUS, CONTROL_PIDS, CONTROL_UPGRADE };
/* What is asked for by a line, which ends at its first line break (cut there). *argument: the BINARY of
 * upgrade, into the line; else "". */
enum control_verb control_parse(char *line, const char **argument);

/* RUN/NAME of a mount point (absolute). -ENAMETOOLONG. */
int control_run_dir(const char *run, const char *mount_point, char *out, size_t out_bytes);
/* One command; the answer as text in out. -ECONNREFUSED or -ENOENT: nobody there. */
int control_ask(const char *run_dir, const char *line, uint32_t timeout_ms, char *out,
                size_t out_bytes);
/* Until the mount's processes have drained the arena and are gone. -ETIMEDOUT; 0 at once if there never was one. */
int control_wait_gone(const char *run_dir, uint32_t timeout_ms);

/* Whether a CFS client is mounted there, by the kernel's list; asks no filesystem. */
bool control_mounted(const char *mount_point);
/* The run directory of the client that is, or lately was, mounted there, wherever that directory is: from the files in
 * CONTROL_CLIENTS. -ENOENT. */
int control_run_dir_of(const char *mount_point, char *out, size_t out_bytes);

#endif
