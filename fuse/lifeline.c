#include "fuse/lifeline.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"

struct lifeline {
    uv_loop_t *uv;
    struct lifeline_events events;
    uv_poll_t poll;
    uv_signal_t hand_over;
    struct arena arena;
    int dev, life, lock, self; /* self: our own pidfd, for the next holder */
};

static void on_life(uv_poll_t *p, int status, int events);

static int life_watch(struct lifeline *l)
{
    int rc = uv_poll_init(l->uv, &l->poll, l->life);
    if (rc == 0) {
        l->poll.data = l;
        rc = uv_poll_start(&l->poll, UV_READABLE | UV_DISCONNECT, on_life);
    }
    return rc;
}

/* Our pid goes along in the environment: the new holder is our child, not our parent. */
static int replace_holder(struct lifeline *l)
{
    char self[32];
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    int theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, 20);
    l->life = fcntl(pair[0], F_DUPFD_CLOEXEC, 20);
    close(pair[0]);
    close(pair[1]);
    snprintf(self, sizeof self, "%d", (int)getpid());
    setenv("CFS_HOLDER_WORKER", self, 1);
    const int fds[] = {l->dev, l->arena.fd, theirs, l->self, l->lock};
    pid_t pid = holder_spawn(&l->arena, "--holder", fds);
    unsetenv("CFS_HOLDER_WORKER");
    close(theirs);
    log_warn("holder died, started another pid=%d", (int)pid);
    return pid < 0 ? (int)pid : life_watch(l);
}

static void on_old_life_closed(uv_handle_t *h)
{
    struct lifeline *l = h->data;
    close(l->life);
    l->life = -1;
    if (l->arena.h->state == HOLDER_FRESH) {
        l->events.on_orphaned(l->events.ctx);
        return;
    }
    int rc = replace_holder(l);
    if (rc < 0) {
        log_error("holder not replaced, the mount ends with this process error=%s", strerror(-rc));
    }
}

static void on_life(uv_poll_t *p, int status, int events)
{
    (void)status, (void)events;
    struct lifeline *l = p->data;
    char message[64];
    ssize_t n = recv(l->life, message, sizeof message - 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        uv_close((uv_handle_t *)p, on_old_life_closed);
        return;
    }
    message[n] = 0;
    if (strcmp(message, "mounted") == 0) {
        l->events.on_mounted(l->events.ctx);
    }
}

static void on_sigusr1(uv_signal_t *s, int number)
{
    (void)number;
    struct lifeline *l = s->data;
    l->events.on_hand_over(l->events.ctx);
}

int lifeline_new(const struct lifeline_events *events, struct lifeline **out)
{
    struct lifeline *l = xcalloc(1, sizeof *l);
    l->events = *events;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* a holder that we started may die before us; nobody else would reap it */
    l->dev = holder_fd_take(HOLDER_FD_DEV);
    l->life = holder_fd_take(HOLDER_FD_LIFE);
    l->lock = holder_fd_take(HOLDER_FD_LOCK);
    int arena_fd = holder_fd_take(HOLDER_FD_ARENA);
    close(HOLDER_FD_WORKER);
    l->self = holder_pidfd(getpid());
    int rc = arena_attach(arena_fd, &l->arena);
    if (rc == 0 && (l->dev < 0 || l->life < 0)) {
        rc = -EBADF;
    }
    /* What is answered from the heap must not be swapped out either: a kill during that copy loses the answer. */
    (void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT); /* refused only where RLIMIT_MEMLOCK is */
    if (rc < 0) {
        free(l);
        return rc;
    }
    *out = l;
    return 0;
}

int lifeline_start(struct lifeline *l, uv_loop_t *uv)
{
    l->uv = uv;
    int rc = life_watch(l);
    if (rc == 0) {
        uv_signal_init(uv, &l->hand_over);
        l->hand_over.data = l;
        rc = uv_signal_start(&l->hand_over, on_sigusr1, SIGUSR1);
    }
    return rc;
}

struct arena *lifeline_arena(struct lifeline *l)
{
    return &l->arena;
}

int lifeline_dev(const struct lifeline *l)
{
    return l->dev;
}

bool lifeline_mounted(const struct lifeline *l)
{
    return l->arena.h->state != HOLDER_FRESH;
}

static void say(struct lifeline *l, const char *text)
{
    /* If nobody listens, the end of file is what we will see next. */
    ssize_t ignored = send(l->life, text, strlen(text), MSG_NOSIGNAL);
    (void)ignored;
}

void lifeline_say_ready(struct lifeline *l)
{
    say(l, "ready");
}

void lifeline_say_failed(struct lifeline *l, int code, const char *text)
{
    char message[1000];
    snprintf(message, sizeof message, "failed %d %s", code, text);
    say(l, message);
}
