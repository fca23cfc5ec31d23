#ifndef CFS_TOOLS_PROC_H
#define CFS_TOOLS_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Processes that a local cluster owns. One is known by its pid and its start time (field 22 of
 * /proc/PID/stat), so that a recycled pid is never taken for it, and is signalled through
 * a pidfd that was checked after it was opened. Pid files hold "PID START\n"; a file that holds a
 * pid alone is believed only if that process runs the expected program (`comm`). */
struct proc {
    pid_t pid;      /* 0: none */
    uint64_t start; /* clock ticks after boot */
};

/* Fills start. -ESRCH: no such process, or only its zombie is left. */
int proc_look(pid_t pid, struct proc *out);
bool proc_alive(const struct proc *p);

/* 0 or -ENOENT / -ESRCH (*out is {0} then): nothing there, or what is written there has ended. */
int proc_read_file(const char *path, const char *comm, struct proc *out);
int proc_write_file(const char *path, const struct proc *p);

/* -ESRCH when it has ended meanwhile. */
int proc_signal(const struct proc *p, int signal);
/* Waits until it has ended. -ETIMEDOUT. A child of ours is reaped. */
int proc_wait(const struct proc *p, unsigned timeout_ms);
/* SIGTERM, then after term_ms SIGKILL; waits for the end. */
int proc_end(const struct proc *p, unsigned term_ms);

/* Starts argv[0] as a daemon: session of its own, stdin from /dev/null, output appended to `log`,
 * no other descriptor. Stays our child until we exit. -errno of the exec if that failed. */
int proc_spawn(char *const argv[], const char *log, struct proc *out);
/* Runs argv to its end with output to the file `log` (emptied first). Its exit status, or -errno.
 */
int proc_run(char *const argv[], const char *log, unsigned timeout_ms);

#endif
