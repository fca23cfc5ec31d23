#include "tools/local.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mountinfo.h"

enum { PATH_BYTES = LOCAL_PATH + 1024, COPY_LOOK_MS = 2000 };

/* ---- what is mounted ---- */

static bool is_fuse_at(const struct mount_entry *e, const void *where)
{
    return strncmp(e->type, "fuse", 4) == 0 && strcmp(e->where, where) == 0;
}

bool local_is_mounted(const char *where)
{
    struct mount_entry e;
    return mountinfo_find("self", is_fuse_at, where, &e);
}

/* ---- records of mounts ---- */

static bool read_line(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return false;
    }
    bool good = fgets(out, (int)size, f) != NULL;
    fclose(f);
    if (good) {
        out[strcspn(out, "\n")] = '\0';
    }
    return good;
}

static int write_line(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    if (f == NULL) {
        return -errno;
    }
    fprintf(f, "%s\n", text);
    return fclose(f) != 0 ? -errno : 0;
}

static void look_at_client(const struct local *l, struct local_mount *m)
{
    local_find(l, (struct local_name){LOCAL_HOLDER, m->number}, &m->holder);
    local_find(l, (struct local_name){LOCAL_MOUNT, m->number}, &m->worker);
}

bool local_mount_get(const struct local *l, unsigned number, struct local_mount *out)
{
    char path[PATH_BYTES];
    memset(out, 0, sizeof *out);
    out->number = number;
    local_path(l, path, "mount/%u/where", number);
    if (!read_line(path, out->where, sizeof out->where)) {
        return false;
    }
    local_path(l, path, "mount/%u/options", number);
    (void)read_line(path, out->options, sizeof out->options); /* none: empty */
    local_path(l, path, "mount/%u/made", number);
    out->made = access(path, F_OK) == 0;
    look_at_client(l, out);
    return true;
}

static int record(const struct local *l, const struct local_mount *m)
{
    char path[PATH_BYTES];
    local_path(l, path, "mount/%u", m->number);
    int rc = local_mkdirs(path);
    if (rc == 0 && m->made) {
        local_path(l, path, "mount/%u/made", m->number);
        rc = write_line(path, "the mount point was made by cfs-local");
    }
    if (rc == 0) {
        local_path(l, path, "mount/%u/options", m->number);
        rc = write_line(path, m->options);
    }
    if (rc == 0) {
        local_path(l, path, "mount/%u/where", m->number);
        rc = write_line(path, m->where);
    }
    return rc;
}

/* Removes the record and what the client left in its run directory. */
static void forget(const struct local *l, const struct local_mount *m)
{
    char path[PATH_BYTES];
    local_path(l, path, "mount/%u", m->number);
    DIR *d = opendir(path);
    if (d != NULL) {
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
            (void)unlinkat(dirfd(d), e->d_name, 0); /* "." and ".." refuse */
        }
        closedir(d);
    }
    (void)rmdir(path);
    local_client_bury(l, m->number);
    if (m->made) {
        (void)rmdir(m->where); /* not if somebody put something there */
    }
}

/* ---- unmounting ---- */

static void say_who_uses(const char *where)
{
    char command_path[64], target[PATH_BYTES];
    size_t len = strlen(where);
    DIR *d = opendir("/proc");
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (!isdigit((unsigned char)e->d_name[0])) {
            continue;
        }
        snprintf(command_path, sizeof command_path, "/proc/%.20s/cwd", e->d_name);
        ssize_t n = readlink(command_path, target, sizeof target - 1);
        if (n < (ssize_t)len || strncmp(target, where, len) != 0) {
            continue;
        }
        target[n] = '\0';
        if (target[len] == '\0' || target[len] == '/') {
            fprintf(stderr, "cfs-local: process %s has its working directory in it\n", e->d_name);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
}

static int detach(const struct local_mount *m, bool force)
{
    while (local_is_mounted(m->where)) {
        if (umount2(m->where, UMOUNT_NOFOLLOW) == 0) {
            continue; /* another may lie below */
        }
        if (errno == EBUSY && !force) {
            fprintf(stderr, "cfs-local: %s is busy\n", m->where);
            say_who_uses(m->where);
            return -EBUSY;
        }
        /* Force wakes who waits in it; detach takes it out of the tree though files are open. */
        (void)umount2(m->where, MNT_FORCE | UMOUNT_NOFOLLOW);
        if (local_is_mounted(m->where) && umount2(m->where, MNT_DETACH | UMOUNT_NOFOLLOW) != 0) {
            int rc = -errno;
            fprintf(stderr, "cfs-local: cannot unmount %s: %s\n", m->where, err_text(rc));
            return rc;
        }
    }
    return 0;
}

/* The device of the mount, "0:57". It is written down for whoever asks when it is unmounted here and
 * lives on elsewhere. */
static void device_of(const struct local *l, const struct local_mount *m, char device[32])
{
    struct mount_entry e;
    char path[PATH_BYTES];
    local_path(l, path, "mount/%u/device", m->number);
    if (mountinfo_find("self", is_fuse_at, m->where, &e)) {
        snprintf(device, 32, "%u:%u", e.major, e.minor);
        (void)write_line(path, device);
    } else if (!read_line(path, device, 32)) {
        device[0] = '\0';
    }
}

static bool is_cfs_on(const struct mount_entry *e, const void *device)
{
    char text[32];
    snprintf(text, sizeof text, "%u:%u", e->major, e->minor);
    return strcmp(e->type, "fuse.cfs") == 0 && strcmp(text, device) == 0;
}

/* Only in another namespace: device numbers are used again. */
static bool has_a_copy(const char *process, const char *device)
{
    struct mount_entry e;
    char path[64], theirs[64] = "", ours[64] = "";
    snprintf(path, sizeof path, "/proc/%.20s/ns/mnt", process);
    return readlink(path, theirs, sizeof theirs - 1) > 0 &&
           readlink("/proc/self/ns/mnt", ours, sizeof ours - 1) > 0 && strcmp(theirs, ours) != 0 &&
           mountinfo_find(process, is_cfs_on, device, &e);
}

/* Namespaces made while it was mounted (containers, unshare -m) have copies of the mount. */
static bool say_who_has_a_copy(const char *where, const char *device)
{
    bool said = false;
    DIR *d = device[0] == '\0' ? NULL : opendir("/proc");
    for (struct dirent *e; d != NULL && !said && (e = readdir(d)) != NULL;) {
        if (isdigit((unsigned char)e->d_name[0]) && has_a_copy(e->d_name, device)) {
            fprintf(stderr,
                    "cfs-local: %s is unmounted here, but process %s is in another mount namespace "
                    "that still has it; its client ends when all of those have, or with --force\n",
                    where, e->d_name);
            said = true;
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return said;
}

static bool client_gone(const struct local *l, struct local_mount *m)
{
    look_at_client(l, m);
    return m->holder.pid == 0 && m->worker.pid == 0;
}

static void wait_for_client(const struct local *l, struct local_mount *m, unsigned timeout_ms)
{
    uint64_t until = clock_now_ms() + timeout_ms;
    while (!client_gone(l, m) && clock_now_ms() < until) {
        poll(NULL, 0, 10);
    }
}

/* The holder starts a new worker at once, so it goes first. */
static void kill_client(const struct local *l, struct local_mount *m)
{
    for (int i = 0; i < 100 && !client_gone(l, m); i++) {
        if (m->holder.pid != 0) {
            (void)proc_signal(&m->holder, SIGKILL);
        }
        if (m->worker.pid != 0) {
            (void)proc_signal(&m->worker, SIGKILL);
        }
        poll(NULL, 0, 20);
    }
}

/* Unmounts, waits for the client, with `force` kills it in the end. Its record stays. */
static int end_client(const struct local *l, struct local_mount *m, bool force, unsigned timeout_ms)
{
    char device[32];
    device_of(l, m, device);
    int rc = detach(m, force);
    if (rc != 0) {
        return rc;
    }
    wait_for_client(l, m, timeout_ms < COPY_LOOK_MS ? timeout_ms : COPY_LOOK_MS);
    if (!client_gone(l, m) && !force && say_who_has_a_copy(m->where, device)) {
        return -EBUSY;
    }
    wait_for_client(l, m, timeout_ms);
    if (!client_gone(l, m)) {
        if (!force) {
            fprintf(
                stderr,
                "cfs-local: %s is unmounted, but its client (holder %d, worker %d) still keeps "
                "data that the "
                "servers have not taken; start them, or end it with --force and lose that data\n",
                m->where, (int)m->holder.pid, (int)m->worker.pid);
            return -ETIMEDOUT;
        }
        fprintf(stderr, "cfs-local: killing the client of %s: what it had not written is lost\n",
                m->where);
        kill_client(l, m);
    }
    return 0;
}

int local_mount_end(const struct local *l, struct local_mount *m, bool force, unsigned timeout_ms)
{
    int rc = end_client(l, m, force, timeout_ms);
    if (rc == 0) {
        forget(l, m);
    }
    return rc;
}

/* ---- mounting ---- */

static void show_file(const char *path)
{
    char line[512];
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        fputs(line, stderr);
    }
    fclose(f);
}

static int run_mount(const struct local *l, const struct local_mount *m, unsigned timeout_ms)
{
    char program[PATH_BYTES], source[300], addresses[256], run[PATH_BYTES], log[PATH_BYTES],
        said[PATH_BYTES];
    static char options[3 * PATH_BYTES]; /* long, and one at a time */
    local_addresses(l, addresses);
    snprintf(program, sizeof program, "%s/mount.cfs", l->bin);
    snprintf(source, sizeof source, "%s:/", addresses);
    local_path(l, run, "mount/%u", m->number);
    local_path(l, log, "log/mount%u.log", m->number);
    local_path(l, said, "log/mount%u.said", m->number);
    snprintf(options, sizeof options, "run_dir=%s,log=%s%s%s", run, log,
             m->options[0] != '\0' ? "," : "", m->options);
    char where[LOCAL_PATH];
    snprintf(where, sizeof where, "%s", m->where);
    char dash_o[] = "-o";
    char *argv[] = {program, source, where, dash_o, options, NULL};
    int rc = proc_run(argv, said, timeout_ms);
    show_file(said);
    (void)unlink(said);
    if (rc == -ETIMEDOUT) {
        fprintf(stderr, "cfs-local: mount.cfs did not come back within %u ms\n", timeout_ms);
    } else if (rc < 0) {
        fprintf(stderr, "cfs-local: cannot run %s: %s\n", program, err_text(rc));
    } else if (rc > 0) {
        char name[32];
        snprintf(name, sizeof name, "mount%u", m->number);
        fprintf(stderr, "cfs-local: mount.cfs failed with status %d\n", rc);
        local_show_log(l, name);
    }
    return rc > 0 ? -EIO : rc;
}

/* What a client that was killed left: a mount point that answers ENOTCONN, or a holder alone. */
static void clear_remains(struct local_mount *m)
{
    struct stat st;
    if (local_is_mounted(m->where) && stat(m->where, &st) != 0 && errno == ENOTCONN) {
        (void)umount2(m->where,
                      MNT_DETACH); /* mount.cfs says what is wrong if this was not enough */
    }
}

static int do_mount(const struct local *l, struct local_mount *m, unsigned timeout_ms)
{
    clear_remains(m);
    int rc = record(l, m);
    if (rc != 0) {
        fprintf(stderr, "cfs-local: cannot record the mount: %s\n", err_text(rc));
        return rc;
    }
    rc = run_mount(l, m, timeout_ms);
    if (rc == -ETIMEDOUT) {
        (void)end_client(l, m, true, 300); /* its holder may have come as far as to mount */
    } else if (rc == 0) {
        look_at_client(l, m);
    }
    return rc;
}

static int make_mount_point(const char *where, struct local_mount *m)
{
    struct stat st;
    if (stat(where, &st) == 0 || errno == ENOTCONN) {
        m->made = false;
    } else {
        int rc = local_mkdirs(where);
        if (rc != 0) {
            return rc;
        }
        m->made = true;
    }
    /* A dead mount cannot be resolved: what was given then has to be absolute. */
    char *real = realpath(where, NULL);
    if (real == NULL && (errno != ENOTCONN || where[0] != '/')) {
        return -errno;
    }
    int n = snprintf(m->where, sizeof m->where, "%s", real != NULL ? real : where);
    free(real);
    return n < 0 || (size_t)n >= sizeof m->where ? -ENAMETOOLONG : 0;
}

int local_mount_new(struct local *l, const char *where, const char *options, unsigned timeout_ms)
{
    struct local_mount m = {.number = 0}, other;
    int rc = make_mount_point(where, &m);
    if (rc != 0) {
        fprintf(stderr, "cfs-local: %s: %s\n", where, err_text(rc));
        return rc;
    }
    for (unsigned i = 1; i <= LOCAL_MOUNTS_MAX; i++) {
        bool used = local_mount_get(l, i, &other);
        if (used && strcmp(other.where, m.where) == 0) {
            if (options[0] != '\0') { /* else as it was mounted before it died */
                snprintf(other.options, sizeof other.options, "%s", options);
            }
            return local_mount_again(l, &other, timeout_ms);
        }
        if (!used && m.number == 0) {
            m.number = i;
        }
    }
    if (m.number == 0) {
        fprintf(stderr, "cfs-local: there are %d mounts already\n", LOCAL_MOUNTS_MAX);
        return -ENOSPC;
    }
    snprintf(m.options, sizeof m.options, "%s", options);
    rc = do_mount(l, &m, timeout_ms);
    if (rc != 0) {
        forget(l, &m);
    }
    return rc;
}

int local_mount_again(struct local *l, struct local_mount *m, unsigned timeout_ms)
{
    if (local_is_mounted(m->where) && (m->holder.pid != 0 || m->worker.pid != 0)) {
        return 1;
    }
    return do_mount(l, m, timeout_ms);
}

/* ---- finding ---- */

/* The run directory in a client's command line. */
static bool run_dir_of(const char *pid, char out[LOCAL_PATH])
{
    static const char KEY[] = "run_dir=";
    char path[64], text[3 * PATH_BYTES];
    snprintf(path, sizeof path, "/proc/%.20s/cmdline", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return false;
    }
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    if (strstr(text, "mount.cfs") == NULL) {
        return false;
    }
    for (const char *at = text; at < text + n; at += strlen(at) + 1) {
        const char *key = strstr(at, KEY);
        if (key != NULL) {
            int len = (int)strcspn(key + sizeof KEY - 1, ",");
            return snprintf(out, LOCAL_PATH, "%.*s", len, key + sizeof KEY - 1) < LOCAL_PATH;
        }
    }
    return false;
}

int local_mount_find(const char *where, char dir[LOCAL_PATH], unsigned *number)
{
    DIR *d = opendir("/proc");
    if (d == NULL) {
        return -errno;
    }
    int rc = -ENOENT;
    for (struct dirent *e; rc != 0 && (e = readdir(d)) != NULL;) {
        char run[LOCAL_PATH], path[PATH_BYTES], text[LOCAL_PATH];
        if (!isdigit((unsigned char)e->d_name[0]) || !run_dir_of(e->d_name, run)) {
            continue;
        }
        snprintf(path, sizeof path, "%s/where", run);
        char *slash = strrchr(run, '/');
        if (slash == NULL || slash - run < 6 || strncmp(slash - 6, "/mount", 6) != 0 ||
            !read_line(path, text, sizeof text) || strcmp(text, where) != 0) {
            continue;
        }
        *number = (unsigned)strtoul(slash + 1, NULL, 10);
        slash[-6] = '\0';
        snprintf(dir, LOCAL_PATH, "%s", run);
        rc = 0;
    }
    closedir(d);
    return rc;
}
