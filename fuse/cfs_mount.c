/* mount.cfs: mounts a CFS cluster. The same binary is holder and worker of the mount (fuse/holder.h). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prng.h"
#include "fuse/control.h"
#include "fuse/earlier.h"
#include "fuse/holder.h"
#include "fuse/mountopts.h"
#include "fuse/worker.h"

enum {
    USABLE_MS = 30000,
    READ_AHEAD_KB = 4096,
    WAIT_GONE_MS = 600000,
    SETTINGS_MAX = 16
};

static const char USAGE[] =
    "usage: mount.cfs HOST:PORT[,HOST:PORT...]:/SUBDIR MNT [-f] [-o OPTIONS]\n"
    "       mount.cfs --wait-unmounted MNT|RUNDIR    until an unmounted client has written everything\n"
    "       mount.cfs --control MNT|RUNDIR COMMAND   status, pids, upgrade [BINARY]\n"
    "  -f              stay in the foreground\n"
    "  -o ro           read-only\n"
    "  -o hard         calls wait for servers without end (default)\n"
    "  -o deadline=S   calls that wait for servers fail with EIO after S seconds\n"
    "  -o memory=N     memory limit of the client in bytes, or with K, M, G (default 512M, least 64M)\n"
    "  -o run_dir=DIR  where its pid files and control socket are (default /run/cfs/NAME)\n"
    "  -o log=FILE     where its log goes (default: nowhere; in the foreground: standard error)\n"
    "  and nosuid nodev noexec noatime relatime sync dirsync ... as for any mount\n";

static int fail(int code, const char *text)
{
    fprintf(stderr, "mount.cfs: %s\n", text);
    return code;
}

static int make_directories(char *path)
{
    for (char *p = path + 1;; p++) {
        if (*p == '/' || *p == 0) {
            char was = *p;
            *p = 0;
            int rc = mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
            *p = was;
            if (rc < 0 || was == 0) {
                return rc;
            }
        }
    }
}

/* --- is it usable? --------------------------------------------------------------------------------- */

/* The kernel has set its own read-ahead with the answer to INIT, which came before that of stat. */
static void raise_read_ahead(const struct stat *st)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", major(st->st_dev),
             minor(st->st_dev));
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || dprintf(fd, "%d\n", READ_AHEAD_KB) < 0) {
        fprintf(stderr, "mount.cfs: read-ahead stays small, %s: %s\n", path, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* The first getattr of the root, in a child that can be killed when it takes too long. */
static bool usable(const char *mount_point)
{
    pid_t child = fork();
    if (child == 0) {
        struct stat st;
        int rc = stat(mount_point, &st);
        if (rc == 0) {
            raise_read_ahead(&st);
        }
        _exit(rc != 0);
    }
    int status = 1, fd = holder_pidfd(child);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, USABLE_MS) == 0) {
        kill(child, SIGKILL);
    }
    waitpid(child, &status, 0);
    close(fd);
    return status == 0;
}

/* --- starting the holder ----------------------------------------------------------------------------- */

static void holder_streams(const struct mountopts *o)
{
    int null = open("/dev/null", O_RDWR);
    int log = o->log[0] ? open(o->log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    dup2(null, STDIN_FILENO);
    if (!o->foreground) {
        dup2(null, STDOUT_FILENO);
    }
    if (log >= 0 || !o->foreground) {
        dup2(log >= 0 ? log : null, STDERR_FILENO);
    }
    if (log > STDERR_FILENO) {
        close(log);
    }
    if (null > STDERR_FILENO) {
        close(null);
    }
}

struct settings {
    struct holder_setting list[SETTINGS_MAX];
    unsigned n;
};

static void set(struct settings *s, const char *key, const char *value)
{
    s->list[s->n++] = (struct holder_setting){.key = key, .value = value};
}

static void set_number(struct settings *s, const char *key, uint64_t value)
{
    set(s, key, xasprintf("%llu", (unsigned long long)value)); /* lives as long as the process */
}

struct mounting {
    struct mountopts o;
    struct earlier earlier;
    char run_dir[MOUNTOPTS_PATH_MAX], binary[MOUNTOPTS_PATH_MAX];
};

/* The child: holder until the end of the mount. Until it mounts it dies with its parent: who kills a mount.cfs that takes too
 * long wants no mount a moment later. */
static int be_holder(struct mounting *m, pid_t parent, int ready_fd)
{
    struct settings s = {.n = 0};
    struct holder_options h = {.lock_fd = m->earlier.lock_fd, .ready_fd = ready_fd};
    uint64_t heap;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent) {
        return HOLDER_EXIT_SYSTEM;
    }
    setsid();
    holder_streams(&m->o);
    if (arena_plan(m->o.memory_bytes, &h.sizes, &heap) < 0) {
        return HOLDER_EXIT_USAGE;
    }
    set(&s, "binary", m->binary);
    set(&s, "run_dir", m->run_dir);
    set(&s, "mount_point", m->o.mount_point);
    set(&s, "source", m->o.source);
    set(&s, "addresses", m->o.addresses);
    set(&s, "path", m->o.path);
    set(&s, "client", m->earlier.client);
    set(&s, "client_file", m->earlier.file);
    set_number(&s, "mount_flags", m->o.flags);
    set_number(&s, "memory", m->o.memory_bytes);
    set_number(&s, "heap", heap);
    set_number(&s, "deadline_ms", m->o.deadline_ms);
    if (m->earlier.dead[0]) {
        set(&s, "earlier", m->earlier.dead);
    }
    if (m->o.flags & MS_RDONLY) {
        set(&s, "ro", "1");
    }
    if (m->o.noatime) {
        set(&s, "noatime", "1");
    }
    h.settings = s.list;
    h.n_settings = s.n;
    return holder_run(&h);
}

/* The holder's one line: 0, or the exit code with its reason said. */
static int await_holder(int fd)
{
    char text[8192] = "";
    size_t used = 0;
    ssize_t n;
    while (used < sizeof text - 1 && (n = read(fd, text + used, sizeof text - 1 - used)) > 0) {
        used += (size_t)n;
    }
    text[strcspn(text, "\n")] = 0;
    if (strcmp(text, "ok") == 0) {
        return 0;
    }
    int code = HOLDER_EXIT_SYSTEM, at = 0;
    if (sscanf(text, "failed %d %n", &code, &at) < 1) {
        return fail(HOLDER_EXIT_SYSTEM, "the client process ended before it was ready");
    }
    return fail(code, text + at);
}

static int prepare(struct mounting *m, char *why)
{
    struct stat st;
    char resolved[PATH_MAX];
    if (geteuid() != 0) {
        snprintf(why, MOUNTOPTS_TEXT_MAX, "only root can mount");
        return HOLDER_EXIT_USAGE;
    }
    if (!realpath(m->o.mount_point, resolved) || stat(resolved, &st) < 0 || !S_ISDIR(st.st_mode)) {
        snprintf(why, MOUNTOPTS_TEXT_MAX, "mount point %.300s: %s", m->o.mount_point,
                 errno == 0 ? "not a directory" : strerror(errno));
        return HOLDER_EXIT_MOUNT;
    }
    memcpy(m->o.mount_point, resolved, strlen(resolved) + 1);
    int rc = m->o.run_dir[0] ? snprintf(m->run_dir, sizeof m->run_dir, "%s", m->o.run_dir) < 0
                             : control_run_dir(CONTROL_RUN, resolved, m->run_dir, sizeof m->run_dir);
    if (rc < 0) {
        snprintf(why, MOUNTOPTS_TEXT_MAX, "run directory %.300s: %s", m->run_dir, strerror(-rc));
        return HOLDER_EXIT_SYSTEM;
    }
    ssize_t n = readlink("/proc/self/exe", m->binary, sizeof m->binary - 1);
    m->binary[n > 0 ? n : 0] = 0;
    return n > 0 ? 0 : HOLDER_EXIT_SYSTEM;
}

/* Earlier clients first: one that drains may have had the same run directory, and removes it when it goes. */
static int claim(struct mounting *m, char *why)
{
    if (earlier_look(m->o.addresses, m->run_dir, m->o.mount_point, &m->earlier, why,
                     MOUNTOPTS_TEXT_MAX) < 0) {
        return HOLDER_EXIT_MOUNT;
    }
    int rc = make_directories(m->run_dir);
    for (int i = 0; rc == -ENOENT && i < 100; i++) { /* a client that goes removed an empty one above */
        rc = make_directories(m->run_dir);
    }
    if (rc < 0) {
        snprintf(why, MOUNTOPTS_TEXT_MAX, "run directory %.300s: %s", m->run_dir, strerror(-rc));
        earlier_undo(&m->earlier);
        return HOLDER_EXIT_SYSTEM;
    }
    return 0;
}

static void on_stop(int number)
{
    (void)number;
}

/* Until the mount is gone. SIGTERM and SIGINT unmount it. */
static int stay(const struct mounting *m)
{
    struct sigaction action = {.sa_handler = on_stop};
    sigset_t stop, before;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, &before);
    struct timespec tick = {.tv_nsec = 200000000};
    while (control_wait_gone(m->run_dir, 0) == -ETIMEDOUT) {
        if (sigtimedwait(&stop, NULL, &tick) > 0) {
            (void)umount2(m->o.mount_point, MNT_DETACH); /* already unmounted is fine */
        }
    }
    return 0;
}

static int mount_cfs(struct mounting *m)
{
    char why[MOUNTOPTS_TEXT_MAX] = "";
    int ready[2];
    int code = prepare(m, why);
    if (code == 0) {
        code = claim(m, why);
    }
    if (code == 0 && pipe2(ready, O_CLOEXEC) < 0) {
        code = HOLDER_EXIT_SYSTEM;
    }
    if (code != 0) {
        return fail(code, why[0] ? why : "no more descriptors");
    }
    pid_t self = getpid(), holder = fork();
    if (holder == 0) {
        close(ready[0]);
        _exit(be_holder(m, self, ready[1]));
    }
    close(ready[1]);
    close(m->earlier.lock_fd);
    code = holder < 0 ? fail(HOLDER_EXIT_SYSTEM, "no more processes") : await_holder(ready[0]);
    if (code != 0) {
        return code;
    }
    earlier_forget_dead(&m->earlier);
    if (!usable(m->o.mount_point)) {
        (void)umount2(m->o.mount_point, MNT_DETACH);
        return fail(HOLDER_EXIT_MOUNT, "the mounted directory does not answer; unmounted again");
    }
    return m->o.foreground ? stay(m) : 0;
}

/* --- the other faces ----------------------------------------------------------------------------------- */

/* A run directory, or the mount point of one in the default place. */
static int find_run_dir(const char *what, char *out, size_t out_bytes)
{
    char path[CONTROL_PATH_MAX + 16];
    struct stat st;
    snprintf(path, sizeof path, "%s/holder.pid", what);
    if (control_mounted(what) || stat(path, &st) < 0) {
        if (control_run_dir_of(what, out, out_bytes) == 0) {
            return 0;
        }
    }
    return snprintf(out, out_bytes, "%s", what) < (int)out_bytes ? 0 : -ENAMETOOLONG;
}

static int control(const char *what, int argc, char *const *argv)
{
    char run_dir[CONTROL_PATH_MAX], line[CONTROL_PATH_MAX] = "", answer[8192];
    if (find_run_dir(what, run_dir, sizeof run_dir) < 0) {
        return fail(HOLDER_EXIT_USAGE, "path too long");
    }
    for (int i = 0; i < argc; i++) {
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, "%s%s", i ? " " : "", argv[i]);
    }
    int rc = control_ask(run_dir, line, 10000, answer, sizeof answer);
    if (rc < 0) {
        fprintf(stderr, "mount.cfs: no client answers in %s: %s\n", run_dir, strerror(-rc));
        return HOLDER_EXIT_SYSTEM;
    }
    fputs(answer, stdout);
    return strncmp(answer, "failed", 6) == 0 ? HOLDER_EXIT_SYSTEM : 0;
}

static int wait_unmounted(const char *what)
{
    char run_dir[CONTROL_PATH_MAX];
    if (find_run_dir(what, run_dir, sizeof run_dir) < 0) {
        return fail(HOLDER_EXIT_USAGE, "path too long");
    }
    int rc = control_wait_gone(run_dir, WAIT_GONE_MS);
    return rc < 0 ? fail(HOLDER_EXIT_SYSTEM, "the client still writes; it goes on trying") : 0;
}

int main(int argc, char **argv)
{
    log_set_name("mount.cfs");
    if (argc >= 2 && strcmp(argv[1], "--worker") == 0) {
        return worker_run();
    }
    if (argc >= 2 && strcmp(argv[1], "--holder") == 0) {
        return holder_take_over();
    }
    if (argc == 3 && strcmp(argv[1], "--wait-unmounted") == 0) {
        return wait_unmounted(argv[2]);
    }
    if (argc >= 4 && strcmp(argv[1], "--control") == 0) {
        return control(argv[2], argc - 3, argv + 3);
    }
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(USAGE, stdout);
        return 0;
    }
    static struct mounting mounting; /* zeroed; one per process */
    struct mounting *m = &mounting;
    char why[MOUNTOPTS_TEXT_MAX];
    m->earlier.lock_fd = -1;
    if (mountopts_parse(argc, argv, &m->o, why) < 0) {
        return fail(HOLDER_EXIT_USAGE, why);
    }
    return mount_cfs(m);
}
