#include "tools/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

/* Reads a small file of /proc; the text is always terminated. */
static ssize_t read_small(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    ssize_t n = read(fd, out, size - 1);
    int rc = n < 0 ? -errno : 0;
    close(fd);
    out[n > 0 ? n : 0] = '\0';
    return rc != 0 ? rc : n;
}

int proc_look(pid_t pid, struct proc *out)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (pid <= 0 || read_small(path, text, sizeof text) <= 0) {
        return -ESRCH;
    }
    /* The name in parentheses may hold anything; fields are counted behind the last one. */
    const char *at = strrchr(text, ')');
    if (at == NULL || at[1] == '\0' || at[2] == 'Z' || at[2] == 'X') {
        return -ESRCH;
    }
    at += 2;
    for (int field = 3; field < 22 && at != NULL; field++) {
        at = strchr(at, ' ');
        at = at != NULL ? at + 1 : NULL;
    }
    if (at == NULL) {
        return -ESRCH;
    }
    out->pid = pid;
    out->start = strtoull(at, NULL, 10);
    return 0;
}

bool proc_alive(const struct proc *p)
{
    struct proc now;
    return p->pid > 0 && proc_look(p->pid, &now) == 0 && now.start == p->start;
}

static bool runs_program(pid_t pid, const char *comm)
{
    char path[64], text[64];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    if (read_small(path, text, sizeof text) <= 0) {
        return false;
    }
    text[strcspn(text, "\n")] = '\0';
    return strcmp(text, comm) == 0;
}

int proc_read_file(const char *path, const char *comm, struct proc *out)
{
    char text[64];
    *out = (struct proc){0};
    if (read_small(path, text, sizeof text) <= 0) {
        return -ENOENT;
    }
    long pid = 0;
    uint64_t start = 0;
    int fields = sscanf(text, "%ld %" SCNu64, &pid, &start);
    struct proc found;
    if (fields < 1 || proc_look((pid_t)pid, &found) != 0) {
        return -ESRCH;
    }
    bool same = fields == 2 ? found.start == start : runs_program(found.pid, comm);
    if (!same) {
        return -ESRCH;
    }
    *out = found;
    return 0;
}

int proc_write_file(const char *path, const struct proc *p)
{
    char new_path[4096];
    int n = snprintf(new_path, sizeof new_path, "%s.new", path);
    if (n < 0 || (size_t)n >= sizeof new_path) {
        return -ENAMETOOLONG;
    }
    FILE *f = fopen(new_path, "we");
    if (f == NULL) {
        return -errno;
    }
    fprintf(f, "%d %" PRIu64 "\n", (int)p->pid, p->start);
    if (fclose(f) != 0 || rename(new_path, path) != 0) {
        return -errno;
    }
    return 0;
}

static int open_checked(const struct proc *p)
{
    if (p->pid <= 0) {
        return -ESRCH;
    }
    int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    if (fd < 0) {
        return -errno;
    }
    if (!proc_alive(p)) {
        close(fd);
        return -ESRCH;
    }
    return fd;
}

int proc_signal(const struct proc *p, int signal)
{
    int fd = open_checked(p);
    if (fd < 0) {
        return fd;
    }
    int rc = syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

int proc_wait(const struct proc *p, unsigned timeout_ms)
{
    int fd = open_checked(p);
    if (fd < 0) {
        (void)waitpid(p->pid, NULL, WNOHANG); /* fails if it is no child of ours: nothing to reap */
        return fd == -ESRCH ? 0 : fd;
    }
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    uint64_t until = clock_now_ms() + timeout_ms;
    int n;
    do {
        uint64_t now = clock_now_ms();
        n = poll(&poll_fd, 1, now >= until ? 0 : (int)(until - now));
    } while (n < 0 && errno == EINTR);
    close(fd);
    if (n > 0) {
        (void)waitpid(p->pid, NULL, WNOHANG);
    }
    return n > 0 ? 0 : -ETIMEDOUT;
}

int proc_end(const struct proc *p, unsigned term_ms)
{
    int rc = proc_signal(p, SIGTERM);
    if (rc == -ESRCH) {
        return proc_wait(p, 0);
    }
    if (rc == 0 && proc_wait(p, term_ms) == 0) {
        return 0;
    }
    (void)proc_signal(p, SIGKILL); /* it may have ended just now */
    return proc_wait(p, 10000);
}

/* What the child does between fork and exec. Reports a failure through `report`, which exec closes.
 */
_Noreturn static void child_exec(char *const argv[], const char *log, int log_flags, int report)
{
    setsid();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL); /* ignored here, and that would be inherited */
    int in = open("/dev/null", O_RDONLY);
    int out = open(log, O_WRONLY | O_CREAT | log_flags, 0644);
    if (in >= 0 && out >= 0 && dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(out, 2) >= 0 &&
        dup2(report, 3) >= 0 && fcntl(3, F_SETFD, FD_CLOEXEC) == 0) {
        (void)syscall(SYS_close_range, 4u, ~0u, 0u); /* an old kernel leaves them open: harmless */
        report = 3;
        if (chdir("/") == 0) {
            execv(argv[0], argv);
        }
    }
    int error = errno;
    ssize_t ignored = write(report, &error, sizeof error);
    (void)ignored; /* the parent then sees a child that ended at once */
    _exit(127);
}

static int spawn(char *const argv[], const char *log, int log_flags, struct proc *out)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return -errno;
    }
    pid_t pid = fork();
    if (pid < 0) {
        int rc = -errno;
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    if (pid == 0) {
        child_exec(argv, log, log_flags, ends[1]);
    }
    close(ends[1]);
    int error = 0;
    ssize_t n;
    do {
        n = read(ends[0], &error, sizeof error);
    } while (n < 0 && errno == EINTR);
    close(ends[0]);
    if (n == sizeof error) {
        (void)waitpid(pid, NULL, 0);
        return -error;
    }
    *out = (struct proc){.pid = pid};
    return 0;
}

int proc_spawn(char *const argv[], const char *log, struct proc *out)
{
    struct proc p;
    int rc = spawn(argv, log, O_APPEND, &p);
    if (rc != 0) {
        return rc;
    }
    if (proc_look(p.pid, out) != 0) { /* it ended at once; its log says why */
        (void)waitpid(p.pid, NULL, 0);
        return -ECHILD;
    }
    return 0;
}

int proc_run(char *const argv[], const char *log, unsigned timeout_ms)
{
    struct proc p;
    int rc = spawn(argv, log, O_TRUNC, &p);
    if (rc != 0) {
        return rc;
    }
    for (uint64_t until = clock_now_ms() + timeout_ms;;) {
        int status;
        pid_t n = waitpid(p.pid, &status, WNOHANG);
        if (n == p.pid) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        if (clock_now_ms() >= until) {
            kill(p.pid, SIGKILL); /* our own unreaped child: the pid cannot be another's */
            (void)waitpid(p.pid, NULL, 0);
            return -ETIMEDOUT;
        }
        poll(NULL, 0, 5);
    }
}
