#include "fuse/control.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mountinfo.h"

enum control_verb control_parse(char *line, const char **argument)
{
    line[strcspn(line, "\r\n")] = 0;
    *argument = "";
    if (strcmp(line, "status") == 0) {
        return CONTROL_STATUS;
    }
    if (strcmp(line, "pids") == 0) {
        return CONTROL_PIDS;
    }
    if (strncmp(line, "upgrade ", 8) == 0) {
        *argument = line + 8;
        return CONTROL_UPGRADE;
    }
    return strcmp(line, "upgrade") == 0 ? CONTROL_UPGRADE : CONTROL_UNKNOWN;
}

int control_run_dir(const char *run, const char *mount_point, char *out, size_t out_bytes)
{
    char name[CONTROL_PATH_MAX];
    size_t n = 0;
    const char *p = mount_point + (mount_point[0] == '/');
    for (; *p; p++) {
        if (n + 5 > sizeof name) {
            return -ENAMETOOLONG;
        }
        if (*p == '-') {
            memcpy(name + n, "\\x2d", 4);
            n += 4;
        } else {
            name[n++] = *p == '/' ? '-' : *p;
        }
    }
    while (n > 1 && name[n - 1] == '-') {
        n--; /* slashes at the end */
    }
    name[n] = 0;
    if (n > 255) {
        return -ENAMETOOLONG;
    }
    int written = snprintf(out, out_bytes, "%s/%s", run, n ? name : "-");
    return written < 0 || (size_t)written >= out_bytes ? -ENAMETOOLONG : 0;
}

/* By way of the directory's descriptor: a path in struct sockaddr_un has only 108 bytes. */
static int control_connect(const char *run_dir)
{
    int dir = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return -errno;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/control", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = fd < 0 ? -errno : fd;
    if (fd >= 0 && connect(fd, (void *)&address, sizeof address) < 0) {
        rc = -errno;
        close(fd);
    }
    close(dir);
    return rc;
}

static int ask_once(const char *run_dir, const char *line, uint32_t timeout_ms, char *out,
                    size_t out_bytes)
{
    int fd = control_connect(run_dir);
    if (fd < 0) {
        return fd;
    }
    size_t used = 0;
    bool sent = send(fd, line, strlen(line), MSG_NOSIGNAL) >= 0 && send(fd, "\n", 1, MSG_NOSIGNAL) > 0;
    int rc = sent ? 0 : -errno;
    uint64_t until = clock_now_ms() + timeout_ms;
    while (rc == 0 && used + 1 < out_bytes) {
        uint64_t now = clock_now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (now >= until || poll(&p, 1, (int)(until - now)) == 0) {
            rc = -ETIMEDOUT;
            break;
        }
        ssize_t n = read(fd, out + used, out_bytes - 1 - used);
        if (n <= 0) {
            rc = n < 0 && errno != EINTR ? -errno : 0;
            if (n == 0) {
                rc = used ? 0 : -ECONNRESET; /* every command has an answer */
                break;
            }
            continue;
        }
        used += (size_t)n;
    }
    out[used] = 0;
    close(fd);
    return rc;
}

/* A holder that is just being replaced by another takes nothing for a moment: every command may be sent twice. */
int control_ask(const char *run_dir, const char *line, uint32_t timeout_ms, char *out,
                size_t out_bytes)
{
    int rc = 0;
    for (int i = 0; i < 20; i++) {
        rc = ask_once(run_dir, line, timeout_ms, out, out_bytes);
        if (rc != -ECONNRESET && rc != -ECONNREFUSED && rc != -EPIPE) {
            break;
        }
        poll(NULL, 0, 100);
    }
    return rc;
}

/* The pid in run_dir/name, 0 if there is none. */
static int pid_in_file(const char *run_dir, const char *name)
{
    char path[CONTROL_PATH_MAX], text[32];
    int n = snprintf(path, sizeof path, "%s/%s", run_dir, name);
    int fd = n > 0 && (size_t)n < sizeof path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) {
        return 0;
    }
    ssize_t bytes = read(fd, text, sizeof text - 1);
    close(fd);
    text[bytes > 0 ? bytes : 0] = 0;
    return (int)strtol(text, NULL, 10);
}

static int wait_process(int pid, uint64_t until)
{
    int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0) {
        return 0;
    }
    uint64_t now = clock_now_ms();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n = now < until ? poll(&p, 1, (int)(until - now)) : 0;
    close(fd);
    return n == 0 ? -ETIMEDOUT : 0;
}

/* Each may be replaced by another while we wait for it; at the end of the drain both go and take their files along. */
int control_wait_gone(const char *run_dir, uint32_t timeout_ms)
{
    static const char *const FILES[] = {"worker.pid", "holder.pid"};
    uint64_t until = clock_now_ms() + timeout_ms;
    int last[2] = {0, 0};
    for (;;) {
        bool fresh = false;
        for (unsigned i = 0; i < 2; i++) {
            int pid = pid_in_file(run_dir, FILES[i]);
            fresh |= pid != 0 && pid != last[i];
            last[i] = pid;
            if (wait_process(pid, until) < 0) {
                return -ETIMEDOUT;
            }
        }
        if (!fresh) {
            return 0;
        }
        usleep(2000); /* the survivor of the two needs a moment to write its successor's number */
    }
}

static bool is_cfs_at(const struct mount_entry *e, const void *where)
{
    return strcmp(e->where, where) == 0 && strcmp(e->type, "fuse.cfs") == 0;
}

bool control_mounted(const char *mount_point)
{
    struct mount_entry e;
    return mountinfo_find("self", is_cfs_at, mount_point, &e);
}

/* Lines of a client's file: addresses, run directory, mount point. */
static bool client_file_names(const char *name, const char *mount_point, char *run_dir)
{
    char path[CONTROL_PATH_MAX], at[CONTROL_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", CONTROL_CLIENTS, name);
    FILE *f = fopen(path, "re");
    bool found = f && fscanf(f, "%*[^\n] %4095[^\n] %4095[^\n]", run_dir, at) == 2 &&
                 strcmp(at, mount_point) == 0;
    if (f) {
        fclose(f);
    }
    return found;
}

int control_run_dir_of(const char *mount_point, char *out, size_t out_bytes)
{
    char run_dir[CONTROL_PATH_MAX];
    DIR *dir = opendir(CONTROL_CLIENTS);
    int rc = -ENOENT;
    for (struct dirent *d; dir && rc != 0 && (d = readdir(dir));) {
        if (d->d_name[0] != '.' && client_file_names(d->d_name, mount_point, run_dir)) {
            rc = (size_t)snprintf(out, out_bytes, "%s", run_dir) < out_bytes ? 0 : -ENAMETOOLONG;
        }
    }
    if (dir) {
        closedir(dir);
    }
    return rc;
}
