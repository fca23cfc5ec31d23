/* posix_locks DIR [CLAIM]: claims about flock, fcntl and open-file-description locks, waiting and
 * interrupted. */
#define POSIX_MAIN
#include "posix.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>

static int op(int fd, int command, short type, off_t start, off_t len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    return fcntl(fd, command, &l);
}

static int fresh(void)
{
    return open("f", O_CREAT | O_RDWR, 0644);
}

/* What another process answers: its function's value. */
static int elsewhere(int (*run)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(run());
    }
    int status = 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                           : -1;
}

enum { GOT = 10, REFUSED_AGAIN = 11, OTHER = 12 };

static int outcome(int rc)
{
    return rc == 0 ? GOT : errno == EAGAIN || errno == EACCES ? REFUSED_AGAIN : OTHER;
}
static int try_write_all(void)
{
    return outcome(op(fresh(), F_SETLK, F_WRLCK, 0, 0));
}
static int try_read_all(void)
{
    return outcome(op(fresh(), F_SETLK, F_RDLCK, 0, 0));
}
static int try_write_100(void)
{
    return outcome(op(fresh(), F_SETLK, F_WRLCK, 100, 10));
}
static int try_flock(void)
{
    return outcome(flock(fresh(), LOCK_EX | LOCK_NB));
}
static int try_flock_shared(void)
{
    return outcome(flock(fresh(), LOCK_SH | LOCK_NB));
}

static const char *posix_locks_exclude(void)
{
    int fd = fresh();
    NEED(fd >= 0 && op(fd, F_SETLK, F_WRLCK, 0, 0) == 0);
    NEED(elsewhere(try_write_all) == REFUSED_AGAIN && elsewhere(try_read_all) == REFUSED_AGAIN);
    NEED(op(fd, F_SETLK, F_RDLCK, 0, 0) == 0);
    NEED(elsewhere(try_read_all) == GOT && elsewhere(try_write_all) == REFUSED_AGAIN);
    NEED(op(fd, F_SETLK, F_UNLCK, 0, 0) == 0 && elsewhere(try_write_all) == GOT);
    close(fd);
    return NULL;
}

static const char *ranges_split_and_join(void)
{
    int fd = fresh();
    NEED(fd >= 0 && op(fd, F_SETLK, F_WRLCK, 0, 200) == 0 &&
         elsewhere(try_write_100) == REFUSED_AGAIN);
    NEED(op(fd, F_SETLK, F_UNLCK, 100, 10) == 0 && elsewhere(try_write_100) == GOT);
    NEED(op(fd, F_SETLK, F_WRLCK, 100, 10) == 0 && elsewhere(try_write_100) == REFUSED_AGAIN);
    NEED(op(fd, F_SETLK, F_RDLCK, 50, 100) == 0 && elsewhere(try_write_100) == REFUSED_AGAIN);
    NEED(op(fd, F_SETLK, F_UNLCK, 0, 0) == 0 && elsewhere(try_write_all) == GOT);
    close(fd);
    return NULL;
}

static int ask_who(void)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 1};
    if (fcntl(fresh(), F_GETLK, &l) != 0) {
        return OTHER;
    }
    return l.l_type == F_WRLCK && l.l_pid == getppid() && l.l_start == 0 && l.l_len == 10
               ? GOT
               : REFUSED_AGAIN;
}

static const char *getlk_tells_who(void)
{
    int fd = fresh();
    NEED(fd >= 0 && op(fd, F_SETLK, F_WRLCK, 0, 10) == 0);
    NEED(elsewhere(ask_who) == GOT);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    NEED(fcntl(fd, F_GETLK, &l) == 0 &&
         l.l_type == F_UNLCK); /* own locks do not stand in the way */
    close(fd);
    return NULL;
}

static const char *closing_any_descriptor_drops_posix_locks(void)
{
    int fd = fresh(), other = fresh();
    NEED(fd >= 0 && other >= 0 && op(fd, F_SETLK, F_WRLCK, 0, 0) == 0 &&
         elsewhere(try_write_all) == REFUSED_AGAIN);
    NEED(close(other) == 0 && elsewhere(try_write_all) == GOT);
    close(fd);
    return NULL;
}

static const char *flock_excludes_and_follows_the_description(void)
{
    int fd = fresh(), other = fresh(), copy = dup(fd);
    NEED(fd >= 0 && flock(fd, LOCK_EX) == 0);
    REFUSED(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    NEED(elsewhere(try_flock) == REFUSED_AGAIN && elsewhere(try_flock_shared) == REFUSED_AGAIN);
    NEED(close(fd) == 0 && elsewhere(try_flock) == REFUSED_AGAIN); /* the copy keeps it */
    NEED(flock(copy, LOCK_SH) == 0 && elsewhere(try_flock_shared) == GOT &&
         elsewhere(try_flock) == REFUSED_AGAIN);
    NEED(close(copy) == 0 && elsewhere(try_flock) == GOT);
    close(other);
    return NULL;
}

static const char *ofd_locks_belong_to_the_description(void)
{
    int fd = fresh(), other = fresh();
    NEED(fd >= 0 && op(fd, F_OFD_SETLK, F_WRLCK, 0, 0) == 0);
    REFUSED(op(other, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
    int third = fresh();
    NEED(close(third) == 0); /* another descriptor's end drops nothing */
    REFUSED(op(other, F_OFD_SETLK, F_RDLCK, 0, 0), EAGAIN);
    NEED(elsewhere(try_write_all) == REFUSED_AGAIN);
    NEED(close(fd) == 0 && op(other, F_OFD_SETLK, F_WRLCK, 0, 0) == 0);
    close(other);
    return NULL;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A child takes the lock by `take`, holds it for 300 ms, and ends: the parent must wait that long,
 * and then have it. */
static const char *waits_for(int (*take)(int fd))
{
    int ready[2];
    char byte;
    NEED(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int mine = fresh();
        const struct timespec hold = {.tv_nsec = 300000000};
        if (mine < 0 || take(mine) != 0 || write(ready[1], "x", 1) != 1) {
            _exit(1);
        }
        nanosleep(&hold, NULL);
        _exit(0);
    }
    NEED(pid > 0 && read(ready[0], &byte, 1) == 1);
    int fd = fresh();
    double begin = seconds();
    NEED(take(fd) == 0);
    double took = seconds() - begin;
    int status = 1;
    NEED(waitpid(pid, &status, 0) == pid && status == 0);
    close(fd);
    close(ready[0]);
    close(ready[1]);
    NEED(took > 0.1 && took < 3);
    return NULL;
}
static int take_posix(int fd)
{
    return op(fd, F_SETLKW, F_WRLCK, 0, 0);
}
static int take_flock(int fd)
{
    return flock(fd, LOCK_EX);
}
static int take_ofd(int fd)
{
    return op(fd, F_OFD_SETLKW, F_WRLCK, 0, 0);
}
static const char *posix_locks_wait(void)
{
    return waits_for(take_posix);
}
static const char *flock_waits(void)
{
    return waits_for(take_flock);
}
static const char *ofd_locks_wait(void)
{
    return waits_for(take_ofd);
}

static void on_alarm(int number)
{
    (void)number;
}

/* A signal ends the wait with EINTR, and the lock is not taken afterwards. */
static const char *interrupted(int (*take)(int fd))
{
    int held = fresh();
    struct sigaction action = {.sa_handler = on_alarm}; /* no SA_RESTART */
    NEED(held >= 0 && sigaction(SIGALRM, &action, NULL) == 0);
    NEED(take(held) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int mine = fresh();
        struct timespec then = {.tv_sec = 0};
        (void)then;
        alarm(1);
        double begin = seconds();
        int rc = take(mine);
        _exit(!(rc == -1 && errno == EINTR && seconds() - begin < 4));
    }
    int status = 1;
    NEED(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    NEED(close(held) == 0);
    int again = fresh();
    NEED(take(again) == 0);
    close(again);
    return NULL;
}
static const char *a_signal_ends_a_wait_for_posix_locks(void)
{
    return interrupted(take_posix);
}
static const char *a_signal_ends_a_wait_for_flock(void)
{
    return interrupted(take_flock);
}

static const char *a_killed_holder_gives_up_its_locks(void)
{
    int ready[2];
    char byte;
    NEED(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int mine = fresh();
        if (take_posix(mine) == 0 && take_flock(mine) == 0 && write(ready[1], "x", 1) == 1) {
            pause();
        }
        _exit(1);
    }
    NEED(pid > 0 && read(ready[0], &byte, 1) == 1 && elsewhere(try_flock) == REFUSED_AGAIN);
    NEED(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    NEED(elsewhere(try_flock) == GOT && elsewhere(try_write_all) == GOT);
    return NULL;
}

static const char *a_killed_waiter_leaves_the_queue(void)
{
    int held = fresh();
    NEED(held >= 0 && take_flock(held) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(take_flock(fresh()));
    }
    const struct timespec pause_time = {.tv_nsec = 200000000};
    nanosleep(&pause_time, NULL);
    NEED(pid > 0 && kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    NEED(flock(held, LOCK_UN) == 0 && elsewhere(try_flock) == GOT);
    close(held);
    return NULL;
}

static const char *deadlocks_are_refused_or_broken(void)
{
    int fd = fresh();
    NEED(fd >= 0 && op(fd, F_SETLK, F_WRLCK, 0, 1) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int mine = fresh();
        alarm(5); /* an implementation need not see deadlocks; the alarm breaks it */
        signal(SIGALRM, SIG_DFL);
        (void)op(mine, F_SETLK, F_WRLCK, 1, 1);
        (void)op(mine, F_SETLKW, F_WRLCK, 0, 1);
        _exit(0);
    }
    const struct timespec pause_time = {.tv_nsec = 300000000};
    nanosleep(&pause_time, NULL);
    int rc = op(fd, F_SETLKW, F_WRLCK, 1, 1);
    NEED(rc == 0 || errno == EDEADLK);
    NEED(op(fd, F_SETLK, F_UNLCK, 0, 0) == 0 && pid > 0 && waitpid(pid, NULL, 0) == pid);
    close(fd);
    return NULL;
}

/* Many processes add to one counter under a lock: none is lost. */
static const char *counts_under(int (*take)(int fd), int (*drop)(int fd))
{
    enum { CHILDREN = 6, ROUNDS = 30 };
    int fd = fresh();
    long n = 0;
    NEED(fd >= 0 && pwrite(fd, &n, sizeof n, 0) == sizeof n);
    for (int i = 0; i < CHILDREN; i++) {
        if (fork() == 0) {
            int mine = fresh();
            for (int j = 0; j < ROUNDS; j++) {
                if (take(mine) != 0 || pread(mine, &n, sizeof n, 0) != sizeof n) {
                    _exit(1);
                }
                n++;
                if (pwrite(mine, &n, sizeof n, 0) != sizeof n || drop(mine) != 0) {
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    for (int i = 0; i < CHILDREN; i++) {
        int status = 1;
        NEED(wait(&status) > 0 && status == 0);
    }
    NEED(pread(fd, &n, sizeof n, 0) == sizeof n && n == CHILDREN * ROUNDS);
    close(fd);
    return NULL;
}
static int drop_posix(int fd)
{
    return op(fd, F_SETLK, F_UNLCK, 0, 0);
}
static int drop_flock(int fd)
{
    return flock(fd, LOCK_UN);
}
static const char *nothing_is_lost_under_posix_locks(void)
{
    return counts_under(take_posix, drop_posix);
}
static const char *nothing_is_lost_under_flock(void)
{
    return counts_under(take_flock, drop_flock);
}

int main(int argc, char **argv)
{
    static const struct claim CLAIMS[] = {
        {"posix_locks_exclude", posix_locks_exclude},
        {"ranges_split_and_join", ranges_split_and_join},
        {"getlk_tells_who", getlk_tells_who},
        {"closing_any_descriptor_drops_posix_locks", closing_any_descriptor_drops_posix_locks},
        {"flock_excludes_and_follows_the_description", flock_excludes_and_follows_the_description},
        {"ofd_locks_belong_to_the_description", ofd_locks_belong_to_the_description},
        {"posix_locks_wait", posix_locks_wait},
        {"flock_waits", flock_waits},
        {"ofd_locks_wait", ofd_locks_wait},
        {"a_signal_ends_a_wait_for_posix_locks", a_signal_ends_a_wait_for_posix_locks},
        {"a_signal_ends_a_wait_for_flock", a_signal_ends_a_wait_for_flock},
        {"a_killed_holder_gives_up_its_locks", a_killed_holder_gives_up_its_locks},
        {"a_killed_waiter_leaves_the_queue", a_killed_waiter_leaves_the_queue},
        {"deadlocks_are_refused_or_broken", deadlocks_are_refused_or_broken},
        {"nothing_is_lost_under_posix_locks", nothing_is_lost_under_posix_locks},
        {"nothing_is_lost_under_flock", nothing_is_lost_under_flock},
    };
    return posix_run(argc, argv, CLAIMS, sizeof CLAIMS / sizeof CLAIMS[0]);
}
