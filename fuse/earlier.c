#include "fuse/earlier.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/prng.h"
#include "fuse/control.h"

enum { RECORD_MAX = 10240, LOOK_AGAIN_MS = 100, MAKE_TRIES = 100 };

struct record { /* of another client */
    char text[RECORD_MAX];
    char *addresses, *run_dir, *mount_point; /* into text */
    bool dead;
};

static bool read_record(const char *name, struct record *r)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%.64s", CONTROL_CLIENTS, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, r->text, sizeof r->text - 1);
    /* Taken and given back at once: its owner holds it as long as it lives. One that was removed before its lock
     * became free has ended its session itself. */
    struct stat st;
    r->dead = flock(fd, LOCK_SH | LOCK_NB) == 0;
    bool removed = fstat(fd, &st) == 0 && st.st_nlink == 0;
    close(fd);
    if (removed) {
        return false;
    }
    r->text[n > 0 ? n : 0] = 0;
    char *rest = r->text;
    r->addresses = strsep(&rest, "\n");
    r->run_dir = rest ? strsep(&rest, "\n") : NULL;
    r->mount_point = rest ? strsep(&rest, "\n") : NULL;
    return r->mount_point != NULL;
}

static bool is_draining(const struct record *r)
{
    char answer[8192];
    if (!control_mounted(r->mount_point)) {
        return true;
    }
    return control_ask(r->run_dir, "status", 1000, answer, sizeof answer) == 0 &&
           strncmp(answer, "state=drain", 11) == 0;
}

/* One pass over all files. Returns whether one of them must be waited for. */
static bool scan(struct earlier *e, const char *addresses)
{
    bool wait = false;
    unsigned n = 0;
    DIR *dir = opendir(CONTROL_CLIENTS);
    e->dead[0] = 0;
    for (struct dirent *d; dir && (d = readdir(dir));) {
        struct record r;
        if (strlen(d->d_name) != 32 || strcmp(d->d_name, e->client) == 0 ||
            !read_record(d->d_name, &r) || strcmp(r.addresses, addresses) != 0) {
            continue;
        }
        if (!r.dead) {
            wait |= is_draining(&r);
        } else if (n < EARLIER_DEAD_MAX) {
            snprintf(e->dead + strlen(e->dead), sizeof e->dead - strlen(e->dead), "%s%s",
                     n++ ? "," : "", d->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return wait;
}

/* Locked before it has a name, so that nobody can find it unlocked. */
static int make_own(struct earlier *e, const char *addresses, const char *run_dir,
                    const char *mount_point)
{
    char fresh[160];
    snprintf(e->client, sizeof e->client, "%016llx%016llx", (unsigned long long)prng_random_u64(),
             (unsigned long long)prng_random_u64());
    snprintf(e->file, sizeof e->file, "%s/%s", CONTROL_CLIENTS, e->client);
    snprintf(fresh, sizeof fresh, "%s/.%s", CONTROL_CLIENTS, e->client);
    e->lock_fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (e->lock_fd < 0) {
        return -errno;
    }
    if (flock(e->lock_fd, LOCK_EX) < 0 ||
        dprintf(e->lock_fd, "%s\n%s\n%s\n", addresses, run_dir, mount_point) < 0 ||
        rename(fresh, e->file) < 0) {
        int rc = -errno;
        unlink(fresh);
        close(e->lock_fd);
        return rc;
    }
    return 0;
}

/* A client that goes removes the directories when they are empty, and may do so at any moment here. */
static int make_own_in_place(struct earlier *e, const char *addresses, const char *run_dir,
                             const char *mount_point)
{
    int rc = -ENOENT;
    for (int i = 0; i < MAKE_TRIES && rc == -ENOENT; i++) {
        (void)mkdir("/run", 0755); /* if it fails the next says so */
        (void)mkdir(CONTROL_RUN, 0755);
        rc = mkdir(CONTROL_CLIENTS, 0755) < 0 && errno != EEXIST ? -errno : 0;
        if (rc == 0) {
            rc = make_own(e, addresses, run_dir, mount_point);
        }
    }
    return rc;
}

int earlier_look(const char *addresses, const char *run_dir, const char *mount_point,
                 struct earlier *out, char *why, size_t why_bytes)
{
    int rc = make_own_in_place(out, addresses, run_dir, mount_point);
    if (rc < 0) {
        snprintf(why, why_bytes, "%s: %s", CONTROL_CLIENTS, strerror(-rc));
        return rc;
    }
    uint64_t until = clock_now_ms() + EARLIER_WAIT_MS;
    bool said = false;
    while (scan(out, addresses)) {
        if (clock_now_ms() >= until) {
            snprintf(why, why_bytes,
                     "an earlier client of this cluster on this machine still writes its data");
            earlier_undo(out);
            return -EBUSY;
        }
        if (!said) {
            fprintf(stderr, "mount.cfs: waiting for an earlier client that still writes its data\n");
            said = true;
        }
        usleep(LOOK_AGAIN_MS * 1000);
    }
    return 0;
}

void earlier_forget_dead(const struct earlier *e)
{
    char path[160];
    for (const char *id = e->dead; *id;) {
        size_t len = strcspn(id, ",");
        snprintf(path, sizeof path, "%s/%.*s", CONTROL_CLIENTS, (int)len, id);
        unlink(path);
        id += len + (id[len] == ',');
    }
}

void earlier_undo(const struct earlier *e)
{
    unlink(e->file);
}
