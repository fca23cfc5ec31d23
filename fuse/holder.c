#include "fuse/holder.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "base/clock.h"
#include "base/log.h"
#include "fuse/control.h"
#include "fuse/mountid.h"

enum {
    HOLDER_DEATHS_FREE = 5,      /* within HOLDER_DEATHS_MS and without progress; then it pauses */
    HOLDER_DEATHS_MS = 1000,
    HOLDER_PAUSE_MIN_MS = 50,
    HOLDER_PAUSE_MAX_MS = 1000,
    HOLDER_START_TRIES = 5,
    HOLDER_UPGRADE_MS = 3000,    /* a worker that has not gone by then is killed: nothing is lost */
    HOLDER_PATH_MAX = 4096
};

struct holder {
    struct arena arena;
    int dev, life, worker_fd, lock_fd, control_fd;
    pid_t worker;
    bool worker_is_child;
    uint64_t died_ms[HOLDER_DEATHS_FREE]; /* the last ones, in a ring, */
    uint64_t answered[HOLDER_DEATHS_FREE]; /* and how many requests had been answered by then */
    unsigned n_deaths;
    uint32_t pause_ms;
    char binary[HOLDER_PATH_MAX], run_dir[HOLDER_PATH_MAX], mount_point[HOLDER_PATH_MAX];
};

/* --- descriptors and processes --------------------------------------------------------------------- */

/* Out of the range of enum holder_fd, so that handing over never overwrites one with another. */
static int fd_move_up(int fd)
{
    if (fd < 0) {
        return fd;
    }
    int up = fcntl(fd, F_DUPFD_CLOEXEC, 20);
    int rc = up < 0 ? -errno : up;
    close(fd);
    return rc;
}

int holder_fd_take(enum holder_fd at)
{
    return fd_move_up((int)at);
}

int holder_pidfd(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : fd_move_up(fd);
}

pid_t holder_spawn(const struct arena *a, const char *mode,
                   const int fds[HOLDER_FD_END - HOLDER_FD_DEV])
{
    char binary[HOLDER_PATH_MAX] = "", run[HOLDER_PATH_MAX + 16] = "run_dir=";
    (void)arena_option(a, "binary", binary, sizeof binary);
    (void)arena_option(a, "run_dir", run + strlen(run), sizeof run - strlen(run));
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid = 0;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    for (int i = 0; i < HOLDER_FD_END - HOLDER_FD_DEV; i++) {
        if (fds[i] >= 0) {
            posix_spawn_file_actions_adddup2(&actions, fds[i], HOLDER_FD_DEV + i);
        } else { /* so that each number is taken, by something */
            posix_spawn_file_actions_addopen(&actions, HOLDER_FD_DEV + i, "/dev/null", O_RDWR, 0);
        }
    }
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    char *argv[] = {binary, (char *)mode, run, NULL};
    int rc = posix_spawn(&pid, binary, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return rc ? -rc : pid;
}

int holder_write_file(const char *run_dir, const char *name, const char *text)
{
    char path[HOLDER_PATH_MAX + 64], fresh[HOLDER_PATH_MAX + 96];
    snprintf(path, sizeof path, "%s/%s", run_dir, name);
    snprintf(fresh, sizeof fresh, "%s/.%s.%d", run_dir, name, (int)getpid());
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return -errno;
    }
    size_t len = strlen(text);
    ssize_t n = write(fd, text, len);
    close(fd);
    return n == (ssize_t)len && rename(fresh, path) == 0 ? 0 : -EIO;
}

static void write_pid(const struct holder *h, const char *name, pid_t pid)
{
    char text[32];
    snprintf(text, sizeof text, "%d\n", (int)pid);
    if (holder_write_file(h->run_dir, name, text) < 0) {
        log_warn("pid file not written dir=%s name=%s", h->run_dir, name);
    }
}

/* --- the worker ------------------------------------------------------------------------------------ */

static int worker_start(struct holder *h)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    int theirs = fd_move_up(pair[1]);
    if (h->life >= 0) {
        close(h->life);
    }
    h->life = fd_move_up(pair[0]);
    h->arena.h->worker_starts++;
    const int fds[] = {h->dev, h->arena.fd, theirs, -1, h->lock_fd};
    pid_t pid = holder_spawn(&h->arena, "--worker", fds);
    close(theirs);
    /* A test that dies at one place wants to see what the next worker makes of it. */
    unsetenv("CFS_DIE_AT");
    if (pid < 0) {
        return (int)pid;
    }
    h->worker = pid;
    h->worker_is_child = true;
    h->worker_fd = holder_pidfd(pid);
    write_pid(h, "worker.pid", pid);
    return h->worker_fd < 0 ? h->worker_fd : 0;
}

static void worker_start_surely(struct holder *h)
{
    for (int rc; (rc = worker_start(h)) < 0; sleep(1)) {
        log_error("worker not started error=%s", strerror(-rc));
    }
}

/* What the worker was executing when it died by its own fault is counted against the request, not the others. */
static void blame_requests(struct holder *h)
{
    struct arena *a = &h->arena;
    for (uint32_t i = 0; i < a->h->sizes.small; i++) {
        struct arena_small *s = &a->small[i];
        if (s->state && (s->flags & ARENA_EXECUTING) && !(s->flags & ARENA_PARKED)) {
            s->deaths++;
        }
    }
    for (uint32_t i = 0; i < a->h->sizes.big; i++) {
        struct arena_big *b = &a->big[i];
        size_t before = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in);
        const struct fuse_in_header *in = (void *)(b->head + ARENA_BIG_HEAD - before);
        if (in->len && (b->flags & ARENA_EXECUTING)) {
            b->deaths++;
        }
    }
}

/* How it ended: 0 as it should, else the signal. Unknown counts as SIGKILL, a failing exit (a sanitizer's) as SIGABRT. */
static int worker_reap(struct holder *h)
{
    siginfo_t info;
    int signal_number = SIGKILL;
    memset(&info, 0, sizeof info);
    if (h->worker_is_child && waitid(P_PID, (id_t)h->worker, &info, WEXITED) == 0) {
        int exit_as = info.si_status == 0 ? 0 : SIGABRT;
        signal_number = info.si_code == CLD_EXITED ? exit_as : info.si_status;
    }
    close(h->worker_fd);
    h->worker_fd = -1;
    return signal_number;
}

static bool is_fault(int signal_number)
{
    return signal_number == SIGSEGV || signal_number == SIGBUS || signal_number == SIGABRT ||
           signal_number == SIGILL || signal_number == SIGFPE;
}

/* A worker that dies again and again without having answered anything burns a processor: it gets pauses. */
static void pause_if_hopeless(struct holder *h)
{
    uint64_t now = clock_now_ms(), answered = h->arena.h->answered;
    unsigned oldest = h->n_deaths++ % HOLDER_DEATHS_FREE;
    bool often = h->n_deaths > HOLDER_DEATHS_FREE &&
                 now - h->died_ms[oldest] <
                     HOLDER_DEATHS_MS + (uint64_t)HOLDER_DEATHS_FREE * h->pause_ms;
    bool progress = answered != h->answered[oldest];
    h->died_ms[oldest] = now;
    h->answered[oldest] = answered;
    if (!often || progress) {
        h->pause_ms = 0;
        return;
    }
    h->pause_ms = h->pause_ms ? h->pause_ms * 2 : HOLDER_PAUSE_MIN_MS;
    if (h->pause_ms > HOLDER_PAUSE_MAX_MS) {
        h->pause_ms = HOLDER_PAUSE_MAX_MS;
    }
    log_warn("worker dies without progress, pausing pause_ms=%u", h->pause_ms);
    usleep(h->pause_ms * 1000);
}

/* --- control --------------------------------------------------------------------------------------- */

static int control_listen(struct holder *h)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int dir = open(h->run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return -errno;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/control", dir);
    unlinkat(dir, "control", 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = fd;
    if (fd < 0 || bind(fd, (void *)&address, sizeof address) < 0 || listen(fd, 8) < 0) {
        rc = -errno;
        if (fd >= 0) {
            close(fd);
        }
    }
    close(dir);
    return rc < 0 ? rc : fd_move_up(rc);
}

static uint64_t dirty_bytes(const struct arena *a)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < a->h->sizes.pages; i++) {
        uint64_t word = a->page[i].word;
        if (arena_page_state_of(word) == ARENA_PAGE_DIRTY) {
            bytes += arena_page_to(word) - arena_page_from(word);
        }
    }
    return bytes;
}

static void say_status(struct holder *h, int fd)
{
    static const char *const STATES[] = {"starting", "mounted", "draining", "drained"};
    char source[1024] = "", memory[32] = "";
    const struct arena_header *a = h->arena.h;
    (void)arena_option(&h->arena, "source", source, sizeof source);
    (void)arena_option(&h->arena, "memory", memory, sizeof memory);
    dprintf(fd,
            "state=%s\nmount_point=%s\nsource=%s\nholder=%d\nworker=%d\nworker_starts=%llu\n"
            "answered=%llu\nsession=%llu\ndirty_bytes=%llu\nbytes_lost=%llu\narena_bytes=%llu\n"
            "memory=%s\n",
            a->state < 4 ? STATES[a->state] : "unknown", h->mount_point, source, (int)getpid(),
            (int)h->worker, (unsigned long long)a->worker_starts, (unsigned long long)a->answered,
            (unsigned long long)a->session, (unsigned long long)dirty_bytes(&h->arena),
            (unsigned long long)a->bytes_lost, (unsigned long long)a->total_bytes, memory);
}

static int use_binary(struct holder *h, const char *binary)
{
    int rc = arena_set_option(&h->arena, "binary", binary);
    if (rc == 0) {
        memcpy(h->binary, binary, strlen(binary) + 1);
    }
    return rc;
}

/* The worker is asked to go and, if it does not, killed; either way the next one goes on from the arena. A binary that
 * cannot be started is found out too late: then the one before goes on. */
static int upgrade_worker(struct holder *h, const char *binary)
{
    char before[HOLDER_PATH_MAX];
    memcpy(before, h->binary, sizeof before);
    if (binary[0] && (binary[0] != '/' || strlen(binary) >= sizeof h->binary ||
                      access(binary, X_OK) < 0)) {
        return -ENOENT;
    }
    int rc = binary[0] ? use_binary(h, binary) : 0;
    if (rc < 0) {
        return rc;
    }
    struct pollfd p = {.fd = h->worker_fd, .events = POLLIN};
    (void)syscall(SYS_pidfd_send_signal, h->worker_fd, SIGUSR1, NULL, 0); /* gone is fine too */
    if (poll(&p, 1, HOLDER_UPGRADE_MS) == 0) {
        (void)syscall(SYS_pidfd_send_signal, h->worker_fd, SIGKILL, NULL, 0);
    }
    (void)worker_reap(h);
    rc = worker_start(h);
    if (rc < 0) {
        (void)use_binary(h, before); /* it was there before: there is room for it */
        worker_start_surely(h);
    }
    return rc;
}

/* The holder's own turn: everything is handed to the new binary in the same process, so the worker stays its child. */
static void upgrade_self(struct holder *h)
{
    const int fds[] = {h->dev, h->arena.fd, h->life, h->worker_fd, h->lock_fd};
    for (int i = 0; i < HOLDER_FD_END - HOLDER_FD_DEV; i++) {
        if (fds[i] >= 0) {
            dup2(fds[i], HOLDER_FD_DEV + i);
        }
    }
    char worker[32], run[HOLDER_PATH_MAX + 16];
    snprintf(run, sizeof run, "run_dir=%s", h->run_dir);
    snprintf(worker, sizeof worker, "%d", (int)h->worker);
    setenv("CFS_HOLDER_WORKER", worker, 1);
    char *argv[] = {h->binary, "--holder", run, NULL};
    execv(h->binary, argv);
    log_warn("holder stays as it is error=%s", strerror(errno));
    for (int i = HOLDER_FD_DEV; i < HOLDER_FD_END; i++) {
        close(i);
    }
}

static bool control_command(struct holder *h, int fd, char *line)
{
    const char *argument;
    int rc;
    switch (control_parse(line, &argument)) {
    case CONTROL_STATUS:
        say_status(h, fd);
        return false;
    case CONTROL_PIDS:
        dprintf(fd, "holder=%d\nworker=%d\n", (int)getpid(), (int)h->worker);
        return false;
    case CONTROL_UPGRADE:
        rc = upgrade_worker(h, argument);
        dprintf(fd, rc < 0 ? "failed %s\n" : "ok\n", strerror(-rc));
        return rc == 0;
    default:
        dprintf(fd, "failed unknown command\n");
        return false;
    }
}

/* One client, one line, at most 200 ms of waiting for it. */
static void control_serve(struct holder *h)
{
    char line[HOLDER_PATH_MAX];
    int fd = accept4(h->control_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        return;
    }
    struct timeval patience = {.tv_usec = 200000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    ssize_t n = read(fd, line, sizeof line - 1);
    bool exchange = false;
    if (n > 0) {
        line[n] = 0;
        exchange = control_command(h, fd, line);
    }
    close(fd);
    if (exchange) {
        upgrade_self(h);
    }
}

/* --- the life of a mount --------------------------------------------------------------------------- */

static void remove_run_files(struct holder *h)
{
    static const char *const FILES[] = {"control", "worker.pid", "holder.pid"};
    char path[HOLDER_PATH_MAX + 64];
    for (unsigned i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", h->run_dir, FILES[i]);
        unlink(path);
    }
    rmdir(h->run_dir); /* a log may be in it: then it stays */
    rmdir(CONTROL_CLIENTS); /* the last mount of a machine leaves nothing behind */
    rmdir(CONTROL_RUN);
}

/* The worker is gone. Returns false when the mount's life is over. */
static bool worker_gone(struct holder *h)
{
    int signal_number = worker_reap(h);
    uint32_t state = h->arena.h->state;
    if (state == HOLDER_DRAINED || state == HOLDER_FRESH) {
        return false;
    }
    if (is_fault(signal_number)) {
        blame_requests(h);
    }
    log_info("worker gone, starting another signal=%d pid=%d", signal_number, (int)h->worker);
    pause_if_hopeless(h);
    worker_start_surely(h);
    return true;
}

static int holder_loop(struct holder *h)
{
    for (;;) {
        struct pollfd p[] = {{.fd = h->worker_fd, .events = POLLIN},
                             {.fd = h->control_fd, .events = POLLIN}};
        if (poll(p, 2, -1) < 0 && errno != EINTR) {
            return HOLDER_EXIT_SYSTEM;
        }
        if (p[0].revents && !worker_gone(h)) {
            remove_run_files(h);
            return 0;
        }
        if (p[1].revents) {
            control_serve(h);
        }
    }
}

static int say_ready(int fd, int code, const char *text)
{
    if (fd >= 0) {
        if (code == 0) {
            dprintf(fd, "ok\n");
        } else {
            dprintf(fd, "failed %d %s\n", code, text);
        }
        close(fd);
    }
    return code;
}

/* The worker's first word. One that dies before it is followed by another: opening the session twice is harmless, as
 * the server knows the client by its id. 0, or the exit code, with its text. */
static int await_ready(struct holder *h, char *text, size_t text_bytes)
{
    char message[1024];
    ssize_t n = recv(h->life, message, sizeof message - 1, 0);
    for (int i = 1; n <= 0 && i < HOLDER_START_TRIES; i++) {
        (void)worker_reap(h);
        n = worker_start(h) < 0 ? 0 : recv(h->life, message, sizeof message - 1, 0);
    }
    if (n <= 0) {
        snprintf(text, text_bytes, "the client process ended before it was ready");
        return HOLDER_EXIT_SYSTEM;
    }
    message[n] = 0;
    if (strcmp(message, "ready") == 0) {
        return 0;
    }
    int code = HOLDER_EXIT_MOUNT, at = 0;
    (void)sscanf(message, "failed %d %n", &code, &at);
    snprintf(text, text_bytes, "%s", message + at);
    return code ? code : HOLDER_EXIT_MOUNT;
}

static int do_mount(struct holder *h)
{
    char data[256], source[2048] = "cfs", flags[32] = "0";
    (void)arena_option(&h->arena, "source", source, sizeof source);
    (void)arena_option(&h->arena, "mount_flags", flags, sizeof flags);
    snprintf(data, sizeof data,
             "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=%d",
             h->dev, ARENA_BIG_DATA);
    if (mount(source, h->mount_point, "fuse.cfs", strtoul(flags, NULL, 10), data) < 0) {
        return -errno;
    }
    snprintf(data, sizeof data, "%llu", (unsigned long long)mountid_at(h->mount_point));
    (void)arena_set_option(&h->arena, "mount_id", data); /* without it nothing is taken away */
    h->arena.h->state = HOLDER_MOUNTED;
    if (send(h->life, "mounted", 7, MSG_NOSIGNAL) < 0) {
        log_warn("worker died while mounting"); /* the next one finds the state */
    }
    return 0;
}

static void use_options(struct holder *h)
{
    (void)arena_option(&h->arena, "binary", h->binary, sizeof h->binary);
    (void)arena_option(&h->arena, "run_dir", h->run_dir, sizeof h->run_dir);
    (void)arena_option(&h->arena, "mount_point", h->mount_point, sizeof h->mount_point);
}

static int prepare(struct holder *h, const struct holder_options *o)
{
    int rc = arena_create(&o->sizes, &h->arena);
    if (rc < 0) {
        return rc;
    }
    h->arena.fd = fd_move_up(h->arena.fd);
    for (unsigned i = 0; i < o->n_settings && rc == 0; i++) {
        rc = arena_set_option(&h->arena, o->settings[i].key, o->settings[i].value);
    }
    use_options(h);
    h->dev = fd_move_up(open("/dev/fuse", O_RDWR | O_CLOEXEC));
    if (rc == 0 && h->dev < 0) {
        rc = -errno;
    }
    h->lock_fd = fd_move_up(o->lock_fd);
    if (rc == 0) {
        h->control_fd = control_listen(h);
        rc = h->control_fd < 0 ? h->control_fd : 0;
    }
    return rc;
}

int holder_run(const struct holder_options *options)
{
    struct holder h = {.dev = -1, .life = -1, .worker_fd = -1, .lock_fd = -1, .control_fd = -1};
    char text[HOLDER_PATH_MAX + 256] = "";
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    int ready_fd = fd_move_up(options->ready_fd);
    int rc = prepare(&h, options);
    if (rc == 0) {
        write_pid(&h, "holder.pid", getpid());
        rc = worker_start(&h);
    }
    if (rc < 0) {
        snprintf(text, sizeof text, "cannot prepare the mount: %s", strerror(-rc));
        return say_ready(ready_fd, HOLDER_EXIT_SYSTEM, text);
    }
    int code = await_ready(&h, text, sizeof text);
    (void)prctl(PR_SET_PDEATHSIG, 0); /* mount.cfs ends when the mount is there (see be_holder) */
    if (code == 0 && (rc = do_mount(&h)) < 0) {
        snprintf(text, sizeof text, "mount on %s: %s", h.mount_point, strerror(-rc));
        code = HOLDER_EXIT_MOUNT;
    }
    if (code != 0) {
        /* The end of `life` before "mounted" tells the worker to close its session and go. */
        close(h.life);
        struct pollfd p = {.fd = h.worker_fd, .events = POLLIN};
        if (poll(&p, 1, HOLDER_UPGRADE_MS) == 0) {
            (void)kill(h.worker, SIGKILL);
        }
        (void)worker_reap(&h);
        /* With a session it stays, unlocked: it proves to the next mount that this client is dead. */
        char file[HOLDER_PATH_MAX];
        if (h.arena.h->session == 0 && arena_option(&h.arena, "client_file", file, sizeof file)) {
            unlink(file);
        }
        remove_run_files(&h);
        return say_ready(ready_fd, code, text);
    }
    say_ready(ready_fd, 0, "");
    return holder_loop(&h);
}

int holder_take_over(void)
{
    struct holder h = {.dev = holder_fd_take(HOLDER_FD_DEV),
                       .life = holder_fd_take(HOLDER_FD_LIFE),
                       .worker_fd = holder_fd_take(HOLDER_FD_WORKER),
                       .lock_fd = holder_fd_take(HOLDER_FD_LOCK),
                       .control_fd = -1};
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* the worker that started us ignores it */
    int rc = arena_attach(holder_fd_take(HOLDER_FD_ARENA), &h.arena);
    if (rc < 0) {
        log_error("arena not usable error=%s", strerror(-rc));
        return HOLDER_EXIT_SYSTEM;
    }
    if (arena_lock(&h.arena) < 0) {
        log_warn("arena not locked in memory");
    }
    use_options(&h);
    const char *worker = getenv("CFS_HOLDER_WORKER");
    h.worker = worker ? (pid_t)strtol(worker, NULL, 10) : 0;
    siginfo_t info;
    h.worker_is_child = waitid(P_PID, (id_t)h.worker, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
    unsetenv("CFS_HOLDER_WORKER");
    h.control_fd = control_listen(&h);
    write_pid(&h, "holder.pid", getpid());
    write_pid(&h, "worker.pid", h.worker);
    log_info("holder took over worker=%d", (int)h.worker);
    return holder_loop(&h);
}
