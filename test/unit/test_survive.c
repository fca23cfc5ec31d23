/* Holder, worker, arena and fuseloop under kill -9, with a filesystem of one flat directory in place of ops: its files
 * live in the arena's cache region, its namespace changes pass through one redo record. A load checks every call.
 *
 *   test_survive                          the short form, as part of the unit tests (skipped without root or /dev/fuse)
 *   test_survive MOUNTPOINT KILLS MICROS  longer; with CFS_DIE_EVERY=n in the environment workers also kill themselves
 *   test_survive MOUNTPOINT KILLS MICROS RUNDIR   the same load and kills on a mount that is there, of any client */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <uv.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "fuse/control.h"
#include "fuse/fuseloop.h"
#include "fuse/holder.h"
#include "fuse/lifeline.h"

/* --- the filesystem -------------------------------------------------------------------------------- */

enum { MINI_FILES = 32, MINI_FILE_MAX = 2 << 20, MINI_NAME_MAX = 32 };
struct mini_file {
    uint64_t ino; /* 0: free */
    uint64_t size;
    uint32_t mode;
    char name[MINI_NAME_MAX];
};
struct mini_change {
    uint32_t index;
    struct mini_file file;
};
struct mini { /* in the arena's cache region */
    uint64_t next_ino;
    uint32_t executions;  /* of mkdir("answered") */
    uint64_t redo_unique; /* published: the changes below belong to this request, and are true */
    uint32_t n_changes;
    struct mini_change change[2];
    struct mini_file file[MINI_FILES];
    uint8_t data[MINI_FILES][MINI_FILE_MAX] __attribute__((aligned(4096)));
};

static struct timers mini_timers; /* none is armed; the loop reads the time from it */
static struct client mini_client = {.timers = &mini_timers};

static struct mini *mini(void)
{
    return (void *)mini_client.arena->cache;
}
static struct mini_file *mini_by_ino(uint64_t ino)
{
    for (int i = 0; i < MINI_FILES; i++) {
        if (mini()->file[i].ino == ino) {
            return &mini()->file[i];
        }
    }
    return NULL;
}
static struct mini_file *mini_by_name(const char *name)
{
    for (int i = 0; i < MINI_FILES; i++) {
        if (mini()->file[i].ino && strcmp(mini()->file[i].name, name) == 0) {
            return &mini()->file[i];
        }
    }
    return NULL;
}
static uint8_t *mini_data(struct mini_file *f)
{
    return mini()->data[f - mini()->file];
}

/* One request at a time, so the last change made is the only one whose answer may be missing. */
static bool mini_done_before(void)
{
    struct opreq *r = fuseloop_current(mini_client.fuseloop);
    return r->repeated && mini()->redo_unique == r->unique;
}
static void mini_begin(void)
{
    arena_publish64(&mini()->redo_unique, 0);
    mini()->n_changes = 0;
}
static void mini_change(struct mini_file *f, const struct mini_file *to)
{
    struct mini_change *c = &mini()->change[mini()->n_changes++];
    c->index = (uint32_t)(f - mini()->file);
    c->file = *to;
}
static void mini_apply(void)
{
    for (uint32_t i = 0; i < mini()->n_changes; i++) {
        mini()->file[mini()->change[i].index] = mini()->change[i].file;
    }
    arena_publish32(&mini()->n_changes, 0); /* applied again later, they would undo a write */
}
static void mini_commit(void)
{
    arena_publish64(&mini()->redo_unique, fuseloop_current(mini_client.fuseloop)->unique);
    mini_apply();
}

static void mini_stat(const struct mini_file *f, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = f ? f->ino : 1;
    st->st_mode = f ? f->mode : S_IFDIR | 0755;
    st->st_nlink = 1;
    st->st_size = f ? (off_t)f->size : 0;
    st->st_blksize = 4096;
}
static void mini_entry(const struct mini_file *f, struct fuse_entry_param *e)
{
    memset(e, 0, sizeof *e);
    e->ino = f->ino;
    e->attr_timeout = 1000;
    mini_stat(f, &e->attr);
}
static void op_lookup(fuse_req_t q, fuse_ino_t dir, const char *name)
{
    (void)dir;
    struct fuse_entry_param e;
    struct mini_file *f = mini_by_name(name);
    if (!f) {
        fuse_reply_err(q, ENOENT);
        return;
    }
    mini_entry(f, &e);
    fuse_reply_entry(q, &e);
}
static void op_getattr(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct stat st;
    struct mini_file *f = mini_by_ino(ino);
    if (!f && ino != 1) {
        fuse_reply_err(q, ENOENT);
        return;
    }
    mini_stat(ino == 1 ? NULL : f, &st);
    fuse_reply_attr(q, &st, 1000);
}
static void op_setattr(fuse_req_t q, fuse_ino_t ino, struct stat *want, int what,
                       struct fuse_file_info *fi)
{
    (void)fi;
    struct stat st;
    struct mini_file *f = mini_by_ino(ino);
    if (!f) {
        fuse_reply_err(q, ENOENT);
        return;
    }
    struct mini_file next = *f;
    if (what & FUSE_SET_ATTR_SIZE) {
        next.size = (uint64_t)want->st_size;
        if (next.size > f->size) {
            memset(mini_data(f) + f->size, 0, next.size - f->size);
        }
    }
    mini_begin();
    mini_change(f, &next);
    mini_commit();
    mini_stat(f, &st);
    fuse_reply_attr(q, &st, 1000);
}
static void op_create(fuse_req_t q, fuse_ino_t dir, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    (void)dir;
    struct fuse_entry_param e;
    if (!mini_done_before()) {
        struct mini_file made = {.ino = mini()->next_ino, .mode = S_IFREG | (mode & 07777)};
        snprintf(made.name, sizeof made.name, "%s", name);
        struct mini_file *f = mini_by_ino(0);
        if (mini_by_name(name) || !f) {
            fuse_reply_err(q, f ? EEXIST : ENOSPC);
            return;
        }
        mini_begin();
        mini()->next_ino++; /* one skipped after a kill does no harm */
        mini_change(f, &made);
        mini_commit();
    }
    mini_entry(mini_by_name(name), &e);
    fuse_reply_create(q, &e, fi);
}
static void op_unlink(fuse_req_t q, fuse_ino_t dir, const char *name)
{
    (void)dir;
    if (!mini_done_before()) {
        struct mini_file *f = mini_by_name(name);
        struct mini_file none = {.ino = 0};
        if (!f) {
            fuse_reply_err(q, ENOENT);
            return;
        }
        mini_begin();
        mini_change(f, &none);
        mini_commit();
    }
    fuse_reply_err(q, 0);
}
static void op_rename(fuse_req_t q, fuse_ino_t d1, const char *from, fuse_ino_t d2, const char *to,
                      unsigned flags)
{
    (void)d1, (void)d2, (void)flags;
    if (!mini_done_before()) {
        struct mini_file *f = mini_by_name(from), *over = mini_by_name(to);
        if (!f) {
            fuse_reply_err(q, ENOENT);
            return;
        }
        struct mini_file renamed = *f, none = {.ino = 0};
        snprintf(renamed.name, sizeof renamed.name, "%s", to);
        mini_begin();
        if (over) {
            mini_change(over, &none);
        }
        mini_change(f, &renamed);
        mini_commit();
    }
    fuse_reply_err(q, 0);
}
static void op_open(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    fi->direct_io = (fi->flags & O_ACCMODE) == O_WRONLY;
    fuse_reply_open(q, fi);
}
static void op_read(fuse_req_t q, fuse_ino_t ino, size_t n, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    struct mini_file *f = mini_by_ino(ino);
    if (!f) {
        fuse_reply_err(q, ENOENT);
        return;
    }
    uint64_t at = (uint64_t)off < f->size ? (uint64_t)off : f->size;
    fuse_reply_buf(q, (char *)mini_data(f) + at, n < f->size - at ? n : f->size - at);
}
static void op_write(fuse_req_t q, fuse_ino_t ino, const char *buf, size_t n, off_t off,
                     struct fuse_file_info *fi)
{
    (void)fi;
    struct mini_file *f = mini_by_ino(ino);
    if (!f || (uint64_t)off + n > MINI_FILE_MAX) {
        fuse_reply_err(q, f ? EFBIG : ENOENT);
        return;
    }
    CHECK(n < 4096 || (uintptr_t)buf % 4096 == 0);
    memcpy(mini_data(f) + off, buf, n);
    if ((uint64_t)off + n > f->size) {
        arena_publish64(&f->size, (uint64_t)off + n);
    }
    fuse_reply_write(q, n);
}
static void op_ok(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino, (void)fi;
    fuse_reply_err(q, 0);
}
static void op_fsync(fuse_req_t q, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync;
    op_ok(q, ino, fi);
}
/* A lock that is never granted: waits for a signal. */
static void lock_interrupted(struct opreq *r)
{
    fuse_reply_err(r->ctx, EINTR);
}
static void op_setlk(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
                     int wait)
{
    (void)ino, (void)fi, (void)lock, (void)wait;
    struct opreq *r = fuseloop_current(mini_client.fuseloop);
    opreq_set_ticket(r, 7);
    r->ctx = q;
    r->on_interrupt = lock_interrupted;
}
static void op_flock(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi, int what)
{
    (void)ino, (void)fi, (void)q, (void)what; /* waits for ever, and a signal must be fatal to end it */
    char path[160];
    const char *run = arena_option(mini_client.arena, "run_dir", path, 128);
    if (run && fuseloop_current(mini_client.fuseloop)->repeated) { /* executed by a second worker, too */
        close(creat(strcat(path, "/again"), 0600));
    }
}
static struct lifeline *mini_life;

/* Dies when the kernel has its answer, and the record is not free yet. */
static void answer_and_die(void)
{
    const struct fuse_out_header out = {.len = sizeof out,
                                        .error = -EEXIST,
                                        .unique = fuseloop_current(mini_client.fuseloop)->unique};
    if (++mini()->executions == 1) {
        CHECK(write(lifeline_dev(mini_life), &out, sizeof out) == sizeof out);
        raise(SIGKILL);
    }
}
/* "poison" kills its worker by a fault, "answered" after the answer; "executions": how often that was carried out. */
static void op_mkdir(fuse_req_t q, fuse_ino_t dir, const char *name, mode_t mode)
{
    (void)dir, (void)mode;
    if (strcmp(name, "poison") == 0) {
        raise(SIGSEGV);
    } else if (strcmp(name, "answered") == 0) {
        answer_and_die();
    }
    fuse_reply_err(q, mini()->executions == 1 ? ERANGE : EIO);
}
static void op_setxattr(fuse_req_t q, fuse_ino_t ino, const char *name, const char *value, size_t n,
                        int flags)
{
    (void)ino;
    bool right = strcmp(name, "user.k") == 0 && n == 5 && memcmp(value, "value", 5) == 0;
    fuse_reply_err(q, right && flags == XATTR_CREATE ? 0 : EINVAL);
}

static const struct fuse_lowlevel_ops MINI_OPS = {
    .lookup = op_lookup, .getattr = op_getattr,   .setattr = op_setattr, .create = op_create,
    .unlink = op_unlink, .rename = op_rename,     .open = op_open,       .read = op_read,
    .write = op_write,   .release = op_ok,        .flush = op_ok,        .fsync = op_fsync,
    .setlk = op_setlk,   .setxattr = op_setxattr, .mkdir = op_mkdir,     .flock = op_flock,
};

/* --- its worker ------------------------------------------------------------------------------------ */

static void on_mounted(void *ctx)
{
    (void)ctx;
    CHECK(fuseloop_start(mini_client.fuseloop) == 0);
}
static void on_orphaned(void *ctx)
{
    (void)ctx;
    _exit(0);
}
static void on_unmounted(void *ctx)
{
    (void)ctx;
    mini_client.arena->h->state = HOLDER_DRAINED;
    _exit(0);
}
static int mini_worker(void)
{
    uv_loop_t uv;
    const struct lifeline_events events = {
        .on_mounted = on_mounted, .on_orphaned = on_orphaned, .on_hand_over = on_orphaned};
    log_set_level(getenv("CFS_TEST_LOG") ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    CHECK(lifeline_new(&events, &mini_life) == 0);
    CHECK(uv_loop_init(&uv) == 0);
    CHECK(lifeline_start(mini_life, &uv) == 0);
    mini_client.arena = lifeline_arena(mini_life);
    if (mini()->next_ino == 0) {
        mini()->next_ino = 2;
    }
    if (mini()->redo_unique) {
        mini_apply();
    }
    struct fuseloop *f;
    const struct fuseloop_options options = {.uv = &uv,
                                             .client = &mini_client,
                                             .dev_fd = lifeline_dev(mini_life),
                                             .ops = &MINI_OPS,
                                             .ops_bytes = sizeof MINI_OPS,
                                             .on_unmounted = on_unmounted};
    CHECK(fuseloop_new(&options, &f) == 0);
    for (struct opreq *r = fuseloop_take_next(f); r; r = fuseloop_take_next(f)) {
        fuseloop_execute(f, r);
    }
    if (lifeline_mounted(mini_life)) {
        on_mounted(NULL);
    } else {
        lifeline_say_ready(mini_life);
    }
    return uv_run(&uv, UV_RUN_DEFAULT);
}

/* --- its mount ------------------------------------------------------------------------------------- */

struct world {
    char mount_point[96], run_dir[96];
    pid_t holder; /* the first one */
};

static bool world_possible(void)
{
    return geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0;
}
static int world_holder(const struct world *w, int ready_fd)
{
    char binary[4096] = "";
    ssize_t n = readlink("/proc/self/exe", binary, sizeof binary - 1);
    CHECK(n > 0);
    const struct holder_setting settings[] = {{"binary", binary},
                                              {"run_dir", w->run_dir},
                                              {"mount_point", w->mount_point},
                                              {"source", "mini"}};
    const struct holder_options options = {
        .sizes = {.big = 6, .small = 64, .handles = 8, .inodes = 8, .pages = 8, .commits = 2,
                  .cache_bytes = sizeof(struct mini) + 4096},
        .settings = settings,
        .n_settings = 4,
        .lock_fd = -1,
        .ready_fd = ready_fd};
    log_set_level(getenv("CFS_TEST_LOG") ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    return holder_run(&options);
}
static void world_start(struct world *w, const char *mount_point)
{
    int ready[2];
    char text[256] = "";
    snprintf(w->run_dir, sizeof w->run_dir, "/tmp/cfs-survive-run.%d", (int)getpid());
    if (mount_point) {
        snprintf(w->mount_point, sizeof w->mount_point, "%s", mount_point);
    } else {
        snprintf(w->mount_point, sizeof w->mount_point, "/tmp/cfs-survive-mnt.%d", (int)getpid());
        mkdir(w->mount_point, 0755);
    }
    mkdir(w->run_dir, 0700);
    CHECK(pipe(ready) == 0);
    w->holder = fork();
    if (w->holder == 0) {
        close(ready[0]);
        _exit(world_holder(w, ready[1]));
    }
    close(ready[1]);
    ssize_t n = read(ready[0], text, sizeof text - 1);
    close(ready[0]);
    if (n < 3 || memcmp(text, "ok\n", 3) != 0) {
        fprintf(stderr, "mount failed: %s\n", text);
        exit(1);
    }
}
static pid_t world_pid(const struct world *w, const char *name)
{
    char path[160], text[32] = "";
    snprintf(path, sizeof path, "%s/%s", w->run_dir, name);
    int fd = open(path, O_RDONLY);
    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);
        (void)n;
        close(fd);
    }
    return atoi(text);
}
static void world_stop(struct world *w)
{
    if (umount2(w->mount_point, 0) < 0) {
        perror("umount");
        umount2(w->mount_point, MNT_DETACH);
    }
    int rc = control_wait_gone(w->run_dir, 10000);
    if (rc < 0) {
        fprintf(stderr, "processes stay after umount\n");
        kill(world_pid(w, "holder.pid"), SIGKILL);
        kill(world_pid(w, "worker.pid"), SIGKILL);
    }
    waitpid(w->holder, NULL, 0);
    rmdir(w->run_dir);
    rmdir(w->mount_point);
    if (rc < 0) {
        exit(1);
    }
}

/* --- a load that notices everything ---------------------------------------------------------------- */

static void load_failed(const char *what, unsigned round)
{
    fprintf(stderr, "FAILED: %s, round %u, errno %d (%s)\n", what, round, errno, strerror(errno));
    _exit(1);
}
static void load_fill(uint64_t *out, size_t bytes, unsigned round, int id)
{
    for (size_t i = 0; i < bytes / 8; i++) {
        out[i] = ((uint64_t)round << 32) + (uint64_t)id * 1000003u + i;
    }
}
/* 1 MiB from a mapping that was never touched by the kernel before: fresh each time. */
static void load_write(const char *path, size_t bytes, unsigned round, int id)
{
    int flags = O_CREAT | O_EXCL | (round % 2 ? O_RDWR : O_WRONLY); /* page cache and direct in turn */
    int fd = open(path, flags, 0644);
    if (fd < 0) {
        load_failed("create", round);
    }
    uint64_t *fresh = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    load_fill(fresh, bytes, round, id);
    if (pwrite(fd, fresh, bytes, 0) != (ssize_t)bytes) {
        load_failed("write", round);
    }
    munmap(fresh, bytes);
    if (ftruncate(fd, (off_t)bytes + 5) || fsync(fd) || close(fd)) {
        load_failed("truncate, sync, close", round);
    }
}
static void load_read(const char *path, size_t bytes, unsigned round, int id)
{
    int fd = open(path, O_RDWR);
    uint64_t *want = malloc(bytes), *got = malloc(bytes);
    load_fill(want, bytes, round, id);
    if (fd < 0 || pread(fd, got, bytes, 0) != (ssize_t)bytes || memcmp(want, got, bytes) != 0) {
        load_failed("read back", round);
    }
    uint64_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    map[0] = ~(uint64_t)round;
    if (msync(map, bytes, MS_SYNC) || munmap(map, bytes)) {
        load_failed("msync", round);
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (pread(fd, got, 8, 0) != 8 || got[0] != ~(uint64_t)round || close(fd)) {
        load_failed("read of what was mapped", round);
    }
    free(want);
    free(got);
}
static int load(const char *dir, int id, const volatile int *stop)
{
    char a[128], b[128];
    uint64_t worst = 0;
    unsigned round = 1;
    snprintf(a, sizeof a, "%s/a%d", dir, id);
    snprintf(b, sizeof b, "%s/b%d", dir, id);
    for (; !*stop; round++) {
        struct stat st;
        uint64_t begin = clock_now_ms();
        size_t bytes = round % 3 ? 1 << 20 : 4096 * (1 + round % 7);
        load_write(a, bytes, round, id);
        if (rename(a, b) || stat(b, &st) || st.st_size != (off_t)bytes + 5 || stat(a, &st) == 0) {
            load_failed("rename, stat", round);
        }
        load_read(b, bytes, round, id);
        if (unlink(b)) {
            load_failed("unlink", round);
        }
        uint64_t took = clock_now_ms() - begin;
        worst = took > worst ? took : worst;
    }
    printf("load %d: %u calls, none failed; longest round of 17 calls %llu ms\n", id, round * 17,
           (unsigned long long)worst);
    return 0;
}

/* Until a worker serves: a kill of the holder before would end the mount, as nobody would be left to replace it. */
static void await_worker(const struct world *w)
{
    struct stat st;
    char path[128];
    snprintf(path, sizeof path, "%s/none%d", w->mount_point, rand());
    (void)stat(path, &st);
}

/* Kills worker and, every tenth time, holder. Returns the number of loads that saw a failure. */
static int kill_under_load(struct world *w, int kills, unsigned span_us, bool holders)
{
    volatile int *stop =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t loads[3];
    int failed = 0;
    for (int i = 0; i < 3; i++) {
        loads[i] = fork();
        if (loads[i] == 0) {
            int rc = load(w->mount_point, i, stop);
            fflush(stdout);
            _exit(rc);
        }
    }
    for (int i = 0; i < kills; i++) {
        usleep(1000 + (unsigned)rand() % span_us);
        bool holder = holders && i % 10 == 9;
        if (holder) {
            await_worker(w);
        }
        pid_t pid = world_pid(w, holder ? "holder.pid" : "worker.pid");
        if (pid > 0) {
            kill(pid, SIGKILL);
        }
        if (holder) { /* until it is replaced, a kill of the worker would end the mount */
            uint64_t until = clock_now_ms() + 5000;
            char pids[128];
            while (clock_now_ms() < until && (world_pid(w, "holder.pid") == pid ||
                   control_ask(w->run_dir, "pids", 1000, pids, sizeof pids) < 0)) {
                usleep(2000);
            }
        }
    }
    *stop = 1;
    for (int i = 0; i < 3; i++) {
        int status = 0;
        waitpid(loads[i], &status, 0);
        failed += status != 0;
    }
    return failed;
}

/* --- tests ----------------------------------------------------------------------------------------- */

static struct world shared_world;

START_TEST(no_call_fails_while_worker_and_holder_are_killed)
{
    ck_assert_int_eq(kill_under_load(&shared_world, 60, 40000, true), 0);
}
END_TEST

/* A holder that is just being replaced hangs up: who asks, asks again. */
static int ask_patiently(const char *line, char *out, size_t out_bytes)
{
    int rc = -1;
    for (int i = 0; i < 500 && rc < 0; i++) {
        rc = control_ask(shared_world.run_dir, line, 5000, out, out_bytes);
        if (rc < 0) {
            usleep(10000);
        }
    }
    return rc;
}

START_TEST(mount_survives_upgrade)
{
    char before[256], after[256], line[160];
    ck_assert_int_eq(ask_patiently("pids", before, sizeof before), 0);
    ck_assert_int_eq(ask_patiently("upgrade", after, sizeof after), 0);
    ck_assert_str_eq(after, "ok\n");
    ck_assert_int_eq(ask_patiently("pids", after, sizeof after), 0);
    ck_assert_str_ne(before, after);
    ck_assert_int_eq(ask_patiently("upgrade /nonexistent", after, sizeof after), 0);
    ck_assert_int_eq(strncmp(after, "failed", 6), 0);
    snprintf(line, sizeof line, "upgrade %s/notaprogram", shared_world.run_dir);
    int fd = creat(line + strlen("upgrade "), 0700);
    ck_assert_int_eq(write(fd, "rubbish", 7), 7);
    close(fd);
    ck_assert_int_eq(ask_patiently(line, after, sizeof after), 0);
    ck_assert_int_eq(strncmp(after, "failed", 6), 0);
    unlink(line + strlen("upgrade "));
    await_worker(&shared_world);
    ck_assert_int_eq(ask_patiently("nonsense", after, sizeof after), 0);
    ck_assert_str_eq(after, "failed unknown command\n");
}
END_TEST

static void on_alarm(int number)
{
    (void)number;
}
static int open_scratch(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/scratch", shared_world.mount_point);
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    ck_assert_int_ge(fd, 0);
    return fd;
}

START_TEST(waiting_lock_ends_with_eintr_also_after_a_restart)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open_scratch();
    sigaction(SIGALRM, &action, NULL);
    pid_t killer = fork();
    if (killer == 0) {
        usleep(200000);
        kill(world_pid(&shared_world, "worker.pid"), SIGKILL);
        usleep(300000);
        kill(getppid(), SIGALRM);
        _exit(0);
    }
    uint64_t begin = clock_now_ms();
    ck_assert_int_eq(fcntl(fd, F_SETLKW, &lock), -1);
    ck_assert_int_eq(errno, EINTR);
    ck_assert_uint_ge(clock_now_ms() - begin, 400);
    waitpid(killer, NULL, 0);
    close(fd);
}
END_TEST

/* op_flock never answers. SIGALRM must not end it, SIGKILL must. */
START_TEST(killed_caller_gets_away_from_a_call_that_is_never_answered)
{
    int fd = open_scratch();
    pid_t waiter = fork();
    if (waiter == 0) {
        struct sigaction action = {.sa_handler = on_alarm};
        sigaction(SIGALRM, &action, NULL);
        syscall(SYS_flock, fd, 2);
        _exit(0);
    }
    usleep(100000);
    kill(waiter, SIGALRM);
    usleep(300000);
    ck_assert_int_eq(waitpid(waiter, NULL, WNOHANG), 0);
    kill(waiter, SIGKILL);
    uint64_t begin = clock_now_ms();
    int status = 0;
    ck_assert_int_eq(waitpid(waiter, &status, 0), waiter);
    ck_assert(WIFSIGNALED(status));
    ck_assert_uint_lt(clock_now_ms() - begin, 2000);
    close(fd);
}
END_TEST

static pid_t flock_waiter(int fd)
{
    pid_t waiter = fork();
    if (waiter == 0) {
        syscall(SYS_flock, fd, 2);
        _exit(0);
    }
    usleep(100000);
    return waiter;
}
static void end_waiter(pid_t waiter)
{
    kill(waiter, SIGKILL);
    ck_assert_int_eq(waitpid(waiter, NULL, 0), waiter);
}
static bool executed_again(void)
{
    char path[160];
    kill(world_pid(&shared_world, "worker.pid"), SIGKILL);
    usleep(100000);
    await_worker(&shared_world);
    snprintf(path, sizeof path, "%s/again", shared_world.run_dir);
    return unlink(path) == 0;
}

/* What waits for somebody who lives is. */
START_TEST(request_of_a_killed_caller_is_not_executed_again)
{
    int fd = open_scratch();
    end_waiter(flock_waiter(fd));
    ck_assert(!executed_again());
    pid_t waiter = flock_waiter(fd);
    ck_assert(executed_again());
    end_waiter(waiter);
    ck_assert(!executed_again());
    close(fd);
}
END_TEST

START_TEST(request_that_kills_three_workers_gets_eio)
{
    char path[128];
    snprintf(path, sizeof path, "%s/poison", shared_world.mount_point);
    ck_assert_int_eq(mkdir(path, 0755), -1);
    ck_assert_int_eq(errno, EIO);
}
END_TEST

/* It would take away what its caller has put there since. */
START_TEST(what_was_answered_is_not_executed_again)
{
    char path[128];
    snprintf(path, sizeof path, "%s/answered", shared_world.mount_point);
    ck_assert_int_eq(mkdir(path, 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    snprintf(path, sizeof path, "%s/executions", shared_world.mount_point);
    ck_assert_int_eq(mkdir(path, 0755), -1);
    ck_assert_int_eq(errno, ERANGE);
}
END_TEST

START_TEST(extended_setxattr_is_understood)
{
    int fd = open_scratch();
    ck_assert_int_eq(fsetxattr(fd, "user.k", "value", 5, XATTR_CREATE), 0);
    close(fd);
}
END_TEST

static int run_tests(void)
{
    Suite *suite = suite_create("survive");
    TCase *tc = tcase_create("survive");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, extended_setxattr_is_understood);
    tcase_add_test(tc, waiting_lock_ends_with_eintr_also_after_a_restart);
    tcase_add_test(tc, killed_caller_gets_away_from_a_call_that_is_never_answered);
    tcase_add_test(tc, what_was_answered_is_not_executed_again);
    tcase_add_test(tc, request_of_a_killed_caller_is_not_executed_again);
    tcase_add_test(tc, request_that_kills_three_workers_gets_eio);
    tcase_add_test(tc, mount_survives_upgrade);
    tcase_add_test(tc, no_call_fails_while_worker_and_holder_are_killed);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    world_start(&shared_world, NULL);
    srunner_run_all(runner, CK_NORMAL);
    world_stop(&shared_world);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "--worker") == 0) {
        return mini_worker();
    }
    if (argc >= 2 && strcmp(argv[1], "--holder") == 0) {
        log_set_level(getenv("CFS_TEST_LOG") ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
        return holder_take_over();
    }
    if (argc == 5) {
        snprintf(shared_world.mount_point, sizeof shared_world.mount_point, "%s", argv[1]);
        snprintf(shared_world.run_dir, sizeof shared_world.run_dir, "%s", argv[4]);
        return kill_under_load(&shared_world, atoi(argv[2]), (unsigned)atoi(argv[3]),
                               !getenv("CFS_DIE_EVERY"));
    }
    if (!world_possible()) {
        printf("skipped: needs root and /dev/fuse\n");
        return 0;
    }
    if (argc == 4) {
        world_start(&shared_world, argv[1]);
        int failed = kill_under_load(&shared_world, atoi(argv[2]), (unsigned)atoi(argv[3]),
                                     !getenv("CFS_DIE_EVERY"));
        world_stop(&shared_world);
        return failed;
    }
    return run_tests();
}
