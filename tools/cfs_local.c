/* cfs-local: a whole cluster on one machine, in one command. The work is in local_*.c; here are the
 * command line and the order of things. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "tools/json.h"
#include "tools/local.h"

/* up ends within its time also when it fails: the last part of that is for stopping what it began,
 * at most UNDO_MS. */
enum { EXIT_USAGE = 2, TERM_MS = 5000, UP_MS = 10000, UNDO_MS = 2000, LOCK_MS = 10000 };

static const char HELP[] =
    "cfs-local: a whole CFS cluster on this machine\n"
    "\n"
    "  cfs-local up --dir DIR [--meta 1] [--meta-dir DIR] [--meta-reserve BYTES] [--chunkservers "
    "6]\n"
    "               [--size BYTES] [--policy 4+2] [--mount MNT] [-o OPTIONS] [--timeout SECONDS]\n"
    "      Makes the cluster, or starts what of it does not run, and returns when it is usable. "
    "With\n"
    "      --mount it is mounted there too, with mount options OPTIONS. On a cluster that runs it\n"
    "      changes nothing. If it fails, it says why and stops what it started; it gives up after\n"
    "      SECONDS, stopping included (default 10, or the environment variable "
    "CFS_LOCAL_TIMEOUT).\n"
    "  cfs-local down --dir DIR [--force] [--timeout SECONDS]\n"
    "      Unmounts, waits until what was dirty is with the servers, stops the servers. --force: "
    "also\n"
    "      busy mounts; a client that cannot drain in time is killed.\n"
    "  cfs-local status --dir DIR [--json]\n"
    "      What runs. Exit status 0: all of it, 3: a part, 4: nothing.\n"
    "  cfs-local mount --dir DIR MNT [-o OPTIONS] [--timeout SECONDS]\n"
    "  cfs-local umount MNT [--force] [--timeout SECONDS]\n"
    "      Returns when the client has written everything and ended.\n"
    "  cfs-local kill --dir DIR NAME          SIGKILL\n"
    "  cfs-local stop --dir DIR NAME          SIGTERM, later SIGKILL; a mount: umount\n"
    "  cfs-local start --dir DIR NAME         starts it again, on the same port; a mount: mounts "
    "again\n"
    "  cfs-local pid --dir DIR NAME           prints its process id\n"
    "\n"
    "  NAME is meta1, chunk1 chunk2 ..., mount1 ... (the worker of that mount), holder1 ... (its "
    "holder).\n"
    "  BYTES may end in K, M, G or T. --size bounds what one chunk server stores.\n"
    "  Everything is under DIR: data/, log/, run/, mount/, cluster.conf. Servers listen on "
    "127.0.0.1 only;\n"
    "  their ports are chosen once and kept. Several clusters, each with a DIR, run side by side.\n"
    "  Exit status: 0 good, 1 failed (one line says why), 2 wrong command line.\n";

struct options {
    const char *dir, *meta_dir, *policy, *mount, *mount_options;
    uint64_t size, meta_reserve;
    unsigned n_meta, n_chunks, timeout_ms; /* 0: not given */
    bool json, force;
    const char *name; /* NAME or MNT */
};

/* ---- up ---- */

static int differs(const char *what)
{
    fprintf(stderr,
            "cfs-local: this cluster was made with another --%s; it cannot be changed here\n",
            what);
    return -EINVAL;
}

/* What was asked for against what the cluster was made with. */
static int compare_settings(const struct local *l, const struct options *o)
{
    if (o->n_chunks != 0 && o->n_chunks != l->n_chunks) {
        return differs("chunkservers");
    }
    if (o->size != 0 && o->size != l->size) {
        return differs("size");
    }
    if (o->policy != NULL && strcmp(o->policy, l->policy) != 0) {
        return differs("policy (see `cfs policy set`)");
    }
    char meta_dir[LOCAL_PATH];
    if (o->meta_dir != NULL &&
        (local_absolute(o->meta_dir, meta_dir) != 0 || strcmp(meta_dir, l->meta_dir) != 0)) {
        return differs("meta-dir");
    }
    if (o->meta_reserve != 0 && o->meta_reserve != l->meta_reserve) {
        return differs("meta-reserve");
    }
    return 0;
}

static int check_policy(const struct local *l)
{
    unsigned k, m;
    char rest;
    if (sscanf(l->policy, "%u+%u%c", &k, &m, &rest) != 2 || k < 1 || k > 32 || m > 8) {
        fprintf(stderr, "cfs-local: --policy is K+M with K 1 to 32 and M 0 to 8, not %s\n",
                l->policy);
        return -EINVAL;
    }
    if (l->n_chunks < k + m) {
        fprintf(stderr, "cfs-local: policy %s needs %u chunk servers, --chunkservers says %u\n",
                l->policy, k + m, l->n_chunks);
        return -EINVAL;
    }
    return 0;
}

static int make_cluster(struct local *l, const struct options *o)
{
    static const char *const DIRS[] = {"data", "run", "log", "mount"};
    l->n_chunks = o->n_chunks != 0 ? o->n_chunks : l->n_chunks;
    l->size = o->size;
    l->meta_reserve = o->meta_reserve;
    if (o->policy != NULL) {
        snprintf(l->policy, sizeof l->policy, "%s", o->policy);
    }
    int rc = o->meta_dir != NULL ? local_absolute(o->meta_dir, l->meta_dir) : 0;
    rc = rc == 0 ? check_policy(l) : rc;
    for (unsigned i = 0; rc == 0 && i < array_count(DIRS); i++) {
        char path[LOCAL_PATH + 1024];
        local_path(l, path, "%s", DIRS[i]);
        rc = local_mkdirs(path);
    }
    if (rc == 0) {
        rc = local_save(l);
    }
    if (rc != 0 && rc != -EINVAL) {
        fprintf(stderr, "cfs-local: cannot make a cluster in %s: %s\n", l->dir, err_text(rc));
    }
    return rc;
}

static int load_or_make(struct local *l, const struct options *o)
{
    int rc = local_load(l);
    if (rc == 0) {
        return compare_settings(l, o);
    }
    if (rc == -ENOENT) {
        return make_cluster(l, o);
    }
    fprintf(stderr, "cfs-local: %s/cluster.conf: %s\n", l->dir,
            rc == -EINVAL ? "not a cluster of this version" : err_text(rc));
    return rc;
}

struct started { /* by this `up` */
    struct local_name server[LOCAL_META_MAX + LOCAL_CHUNKS_MAX];
    unsigned n_servers;
    unsigned mount[LOCAL_MOUNTS_MAX];
    unsigned n_mounts;
};

static unsigned left_ms(uint64_t until)
{
    uint64_t now = clock_now_ms();
    return now < until ? (unsigned)(until - now) : 1;
}

static unsigned undo_ms(const struct options *o)
{
    return o->timeout_ms / 5 < UNDO_MS ? o->timeout_ms / 5 : UNDO_MS;
}

/* Nothing more can be done about what fails here. Servers are asked to end side by side, and soon
 * killed, which they survive as any other crash. */
static void undo(struct local *l, const struct options *o, const struct started *s)
{
    uint64_t until = clock_now_ms() + undo_ms(o);
    for (unsigned i = 0; i < s->n_mounts; i++) {
        struct local_mount m;
        if (local_mount_get(l, s->mount[i], &m)) {
            (void)local_mount_end(l, &m, true, left_ms(until) / 2);
        }
    }
    for (unsigned i = 0; i < s->n_servers; i++) {
        struct proc p;
        local_find(l, s->server[i], &p);
        (void)proc_signal(&p, SIGTERM);
    }
    for (unsigned i = s->n_servers; i > 0; i--) {
        (void)local_server_stop(l, s->server[i - 1], left_ms(until));
    }
}

static int start_servers(struct local *l, enum local_kind kind, unsigned n, uint64_t until,
                         struct started *s)
{
    for (unsigned i = 1; i <= n; i++) {
        struct local_name name = {kind, i};
        int rc = local_server_start(l, name, left_ms(until));
        if (rc < 0) {
            return rc;
        }
        if (rc == 0) {
            s->server[s->n_servers++] = name;
        }
    }
    return 0;
}

static int mount_one(struct local *l, unsigned number, uint64_t until, struct started *s)
{
    struct local_mount m;
    if (!local_mount_get(l, number, &m)) {
        return 0;
    }
    int rc = local_mount_again(l, &m, left_ms(until));
    if (rc == 0) {
        s->mount[s->n_mounts++] = number;
    }
    return rc < 0 ? rc : 0;
}

static unsigned count_mounts(const struct local *l, bool used[LOCAL_MOUNTS_MAX + 1])
{
    unsigned n = 0;
    struct local_mount m;
    for (unsigned i = 1; i <= LOCAL_MOUNTS_MAX; i++) {
        used[i] = local_mount_get(l, i, &m);
        n += used[i];
    }
    return n;
}

/* What was mounted and died, then what is asked for. */
static int start_mounts(struct local *l, const struct options *o, uint64_t until, struct started *s)
{
    bool before[LOCAL_MOUNTS_MAX + 1], after[LOCAL_MOUNTS_MAX + 1];
    for (unsigned i = 1; i <= LOCAL_MOUNTS_MAX; i++) {
        int rc = mount_one(l, i, until, s);
        if (rc != 0) {
            return rc;
        }
    }
    if (o->mount == NULL) {
        return 0;
    }
    (void)count_mounts(l, before);
    int rc = local_mount_new(l, o->mount, o->mount_options, left_ms(until));
    if (rc < 0) {
        return rc;
    }
    (void)count_mounts(l, after);
    for (unsigned i = 1; i <= LOCAL_MOUNTS_MAX; i++) {
        if (after[i] && !before[i]) {
            s->mount[s->n_mounts++] = i;
        }
    }
    return 0;
}

static int start_all(struct local *l, const struct options *o, uint64_t until, struct started *s)
{
    int rc = start_servers(l, LOCAL_META, l->n_meta, until, s);
    if (rc == 0) {
        rc = start_servers(l, LOCAL_CHUNK, l->n_chunks, until, s);
    }
    if (rc == 0) {
        rc = local_wait_usable(l, left_ms(until));
    }
    if (rc == 0) {
        rc = start_mounts(l, o, until, s);
    }
    return rc;
}

static int lock_cluster(struct local *l, bool make, unsigned wait_ms)
{
    int rc = local_lock(l, make, wait_ms);
    if (rc == -EBUSY) {
        fprintf(stderr, "cfs-local: another cfs-local works on %s\n", l->dir);
    } else if (rc == -ENOENT) {
        fprintf(stderr, "cfs-local: there is no cluster in %s\n", l->dir);
    } else if (rc != 0) {
        fprintf(stderr, "cfs-local: %s: %s\n", l->dir, err_text(rc));
    }
    return rc;
}

static int do_up(struct local *l, const struct options *o)
{
    uint64_t until = clock_now_ms() + o->timeout_ms - undo_ms(o);
    int rc = lock_cluster(l, true, left_ms(until));
    if (rc == 0) {
        rc = load_or_make(l, o);
    }
    if (rc != 0) {
        return rc;
    }
    struct started s = {.n_servers = 0};
    rc = start_all(l, o, until, &s);
    if (rc != 0) {
        undo(l, o, &s);
        fprintf(stderr, "cfs-local: up failed; what it had started was stopped\n");
        return rc;
    }
    char addresses[256];
    local_addresses(l, addresses);
    if (s.n_servers + s.n_mounts == 0) {
        printf("cfs-local: the cluster in %s runs already (metadata at %s); nothing to do\n",
               l->dir, addresses);
    } else {
        printf("cfs-local: the cluster in %s is up: metadata at %s, %u servers and %u mounts "
               "started\n",
               l->dir, addresses, s.n_servers, s.n_mounts);
    }
    return 0;
}

/* ---- down ---- */

static int load_cluster(struct local *l)
{
    int rc = local_load(l);
    if (rc == -ENOENT) {
        fprintf(stderr, "cfs-local: there is no cluster in %s\n", l->dir);
    } else if (rc != 0) {
        fprintf(stderr, "cfs-local: %s/cluster.conf: %s\n", l->dir,
                rc == -EINVAL ? "not a cluster of this version" : err_text(rc));
    }
    return rc;
}

static int stop_mounts(struct local *l, const struct options *o)
{
    int rc = 0;
    for (unsigned i = 1; i <= LOCAL_MOUNTS_MAX; i++) {
        struct local_mount m;
        if (local_mount_get(l, i, &m)) {
            int one = local_mount_end(l, &m, o->force, o->timeout_ms);
            rc = rc != 0 ? rc : one;
        }
    }
    return rc;
}

/* Asks all at once, so that they stop side by side, then waits for each. */
static int stop_servers(const struct local *l, enum local_kind kind, unsigned n)
{
    int rc = 0;
    for (unsigned i = 1; i <= n; i++) {
        struct proc p;
        local_find(l, (struct local_name){kind, i}, &p);
        (void)proc_signal(&p, SIGTERM); /* one that has ended is fine */
    }
    for (unsigned i = 1; i <= n; i++) {
        int one = local_server_stop(l, (struct local_name){kind, i}, TERM_MS);
        if (one < 0) {
            fprintf(stderr, "cfs-local: cannot stop %s%u: %s\n", local_kind_text(kind), i,
                    err_text(one));
            rc = one;
        }
    }
    return rc;
}

static int do_down(struct local *l, const struct options *o)
{
    int rc = lock_cluster(l, false, LOCK_MS);
    if (rc == 0) {
        rc = load_cluster(l);
    }
    if (rc == 0) {
        rc = stop_mounts(l, o);
    }
    if (rc != 0) {
        return rc;
    }
    rc = stop_servers(l, LOCAL_CHUNK, l->n_chunks);
    int meta = stop_servers(l, LOCAL_META, l->n_meta);
    if (rc == 0 && meta == 0) {
        printf("cfs-local: the cluster in %s is down\n", l->dir);
    }
    return rc != 0 ? rc : meta;
}

/* ---- status ---- */

struct tally {
    unsigned running, all;
};

static void status_server(const struct local *l, struct local_name name, struct json *j,
                          struct tally *t)
{
    struct proc p;
    char text[32], address[32];
    local_find(l, name, &p);
    bool meta = name.kind == LOCAL_META;
    snprintf(text, sizeof text, "%s%u", local_kind_text(name.kind), name.number);
    snprintf(address, sizeof address, "127.0.0.1:%u",
             meta ? l->meta_port[name.number] : l->chunk_port[name.number]);
    t->all++;
    t->running += p.pid != 0;
    if (j == NULL) {
        printf("  %-10s %-8s %7d  %s\n", text, p.pid != 0 ? "running" : "stopped", (int)p.pid,
               address);
        return;
    }
    json_open(j, NULL, '{');
    json_text(j, "name", text);
    json_bool(j, "running", p.pid != 0);
    json_number(j, "pid", (uint64_t)p.pid);
    json_text(j, "address", address);
    json_close(j, '}');
}

static void status_mount(const struct local *l, unsigned number, struct json *j, struct tally *t)
{
    struct local_mount m;
    if (!local_mount_get(l, number, &m)) {
        return;
    }
    bool mounted = local_is_mounted(m.where),
         good = mounted && m.holder.pid != 0 && m.worker.pid != 0;
    t->all++;
    t->running += good;
    if (j == NULL) {
        printf("  mount%-5u %-8s %7d  %s (holder %d)\n", number,
               good      ? "running"
               : mounted ? "degraded"
                         : "dead",
               (int)m.worker.pid, m.where, (int)m.holder.pid);
        return;
    }
    json_open(j, NULL, '{');
    json_number(j, "number", number);
    json_text(j, "where", m.where);
    json_text(j, "options", m.options);
    json_bool(j, "mounted", mounted);
    json_number(j, "worker_pid", (uint64_t)m.worker.pid);
    json_number(j, "holder_pid", (uint64_t)m.holder.pid);
    json_close(j, '}');
}

static void status_all(const struct local *l, struct json *j, struct tally *t)
{
    if (j != NULL) {
        json_open(j, "servers", '[');
    }
    for (unsigned i = 1; i <= l->n_meta; i++) {
        status_server(l, (struct local_name){LOCAL_META, i}, j, t);
    }
    for (unsigned i = 1; i <= l->n_chunks; i++) {
        status_server(l, (struct local_name){LOCAL_CHUNK, i}, j, t);
    }
    if (j != NULL) {
        json_close(j, ']');
        json_open(j, "mounts", '[');
    }
    for (unsigned i = 1; i <= LOCAL_MOUNTS_MAX; i++) {
        status_mount(l, i, j, t);
    }
    if (j != NULL) {
        json_close(j, ']');
    }
}

static int do_status(struct local *l, const struct options *o)
{
    int rc = load_cluster(l);
    if (rc != 0) {
        return rc;
    }
    char addresses[256];
    local_addresses(l, addresses);
    struct tally t = {0, 0};
    if (o->json) {
        struct json j;
        json_init(&j);
        json_open(&j, NULL, '{');
        json_text(&j, "dir", l->dir);
        json_text(&j, "addresses", addresses);
        json_text(&j, "policy", l->policy);
        json_number(&j, "size", l->size);
        status_all(l, &j, &t);
        json_text(&j, "state", t.running == t.all ? "up" : t.running == 0 ? "down" : "degraded");
        json_close(&j, '}');
        json_print(&j);
        json_release(&j);
    } else {
        printf("cluster %s   metadata %s   policy %s\n", l->dir, addresses, l->policy);
        status_all(l, NULL, &t);
    }
    return t.running == t.all ? 0 : t.running == 0 ? 4 : 3;
}

/* ---- one at a time ---- */

static int find_name(struct local *l, const struct options *o, struct local_name *name)
{
    int rc = load_cluster(l);
    if (rc == 0 && !local_parse_name(l, o->name, name)) {
        fprintf(stderr,
                "cfs-local: no %s here; names are meta1, chunk1 to chunk%u, mount1, holder1 ...\n",
                o->name, l->n_chunks);
        return -ENOENT;
    }
    return rc;
}

static int not_running(const char *name)
{
    fprintf(stderr, "cfs-local: %s does not run\n", name);
    return -ESRCH;
}

static int do_kill(struct local *l, const struct options *o)
{
    struct local_name name;
    struct proc p;
    int rc = find_name(l, o, &name);
    if (rc != 0) {
        return rc;
    }
    local_find(l, name, &p);
    rc = p.pid != 0 ? proc_signal(&p, SIGKILL) : -ESRCH;
    if (rc != 0) {
        return not_running(o->name);
    }
    return proc_wait(&p, 10000);
}

static int do_pid(struct local *l, const struct options *o)
{
    struct local_name name;
    struct proc p;
    int rc = find_name(l, o, &name);
    if (rc != 0) {
        return rc;
    }
    local_find(l, name, &p);
    if (p.pid == 0) {
        return not_running(o->name);
    }
    printf("%d\n", (int)p.pid);
    return 0;
}

static bool is_mount_name(struct local_name name)
{
    return name.kind == LOCAL_MOUNT || name.kind == LOCAL_HOLDER;
}

static int do_stop(struct local *l, const struct options *o)
{
    struct local_name name;
    int rc = find_name(l, o, &name);
    if (rc != 0) {
        return rc;
    }
    if (!is_mount_name(name)) {
        rc = local_server_stop(l, name, TERM_MS);
        return rc == 1 ? not_running(o->name) : rc;
    }
    struct local_mount m;
    if (name.kind == LOCAL_HOLDER) {
        fprintf(stderr, "cfs-local: a holder ends with its mount; stop mount%u, or kill %s\n",
                name.number, o->name);
        return -EINVAL;
    }
    return local_mount_get(l, name.number, &m) ? local_mount_end(l, &m, o->force, o->timeout_ms)
                                               : not_running(o->name);
}

static int do_start(struct local *l, const struct options *o)
{
    struct local_name name;
    int rc = find_name(l, o, &name);
    if (rc != 0) {
        return rc;
    }
    if (!is_mount_name(name)) {
        rc = local_server_start(l, name, o->timeout_ms);
    } else {
        struct local_mount m;
        if (!local_mount_get(l, name.number, &m)) {
            fprintf(stderr, "cfs-local: nothing is known of %s; use cfs-local mount\n", o->name);
            return -ENOENT;
        }
        rc = local_mount_again(l, &m, o->timeout_ms);
    }
    if (rc == 1) {
        printf("cfs-local: %s runs already\n", o->name);
    }
    return rc < 0 ? rc : 0;
}

static int do_mount(struct local *l, const struct options *o)
{
    int rc = lock_cluster(l, false, LOCK_MS);
    if (rc == 0) {
        rc = load_cluster(l);
    }
    if (rc == 0) {
        rc = local_mount_new(l, o->name, o->mount_options, o->timeout_ms);
    }
    if (rc == 1) {
        printf("cfs-local: %s is mounted already\n", o->name);
    }
    return rc < 0 ? rc : 0;
}

static int do_umount(struct local *l, const struct options *o)
{
    char *real = realpath(o->name, NULL); /* a dead mount does not resolve: then as it was given */
    const char *where = real != NULL ? real : o->name;
    char dir[LOCAL_PATH];
    unsigned number;
    struct local_mount m;
    int rc = o->dir != NULL ? -ENOENT : local_mount_find(where, dir, &number);
    if (rc == 0) {
        rc = local_init(l, dir);
    }
    for (unsigned i = 1; o->dir != NULL && rc != 0 && i <= LOCAL_MOUNTS_MAX; i++) {
        if (local_mount_get(l, i, &m) && strcmp(m.where, where) == 0) {
            number = i;
            rc = 0;
        }
    }
    if (rc != 0 || !local_mount_get(l, number, &m)) {
        fprintf(stderr,
                "cfs-local: %s is no mount of cfs-local; try umount(8), or say --dir DIR if its "
                "client is dead\n",
                where);
        rc = -ENOENT;
    } else {
        rc = local_mount_end(l, &m, o->force, o->timeout_ms);
    }
    free(real);
    return rc;
}

/* ---- command line ---- */

static bool parse_bytes(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    static const char UNITS[] = "KMGT";
    const char *unit = *end != '\0' ? strchr(UNITS, *end) : NULL;
    unsigned shift = unit != NULL ? 10 * (unsigned)(unit - UNITS + 1) : 0;
    end += unit != NULL;
    if (errno != 0 || end == text || *end != '\0' || n == 0 || n > UINT64_MAX >> shift ||
        text[0] == '-') {
        return false;
    }
    *out = (uint64_t)n << shift;
    return true;
}

static bool parse_count(const char *text, unsigned most, unsigned *out)
{
    uint64_t n;
    if (!parse_bytes(text, &n) || n > most) {
        return false;
    }
    *out = (unsigned)n;
    return true;
}

enum {
    O_DIR = 256,
    O_META,
    O_META_DIR,
    O_META_RESERVE,
    O_CHUNKS,
    O_SIZE,
    O_POLICY,
    O_MOUNT,
    O_JSON,
    O_FORCE,
    O_TIMEOUT
};

static bool take_option(int option, const char *value, struct options *o)
{
    unsigned seconds = 0;
    switch (option) {
    case O_DIR:
        o->dir = value;
        return true;
    case O_META:
        if (!parse_count(value, 1, &o->n_meta)) {
            fprintf(stderr, "cfs-local: --meta: one metadata server for now\n");
            return false;
        }
        return true;
    case O_META_DIR:
        o->meta_dir = value;
        return true;
    case O_META_RESERVE:
        return parse_bytes(value, &o->meta_reserve);
    case O_CHUNKS:
        return parse_count(value, LOCAL_CHUNKS_MAX, &o->n_chunks);
    case O_SIZE:
        return parse_bytes(value, &o->size);
    case O_POLICY:
        o->policy = value;
        return true;
    case O_MOUNT:
        o->mount = value;
        return true;
    case O_JSON:
        o->json = true;
        return true;
    case O_FORCE:
        o->force = true;
        return true;
    case O_TIMEOUT:
        if (!parse_count(value, 86400, &seconds)) {
            return false;
        }
        o->timeout_ms = seconds * 1000;
        return true;
    case 'o':
        o->mount_options = value;
        return true;
    default:
        return false;
    }
}

static const struct command {
    const char *name;
    int (*run)(struct local *l, const struct options *o);
    unsigned timeout_ms;
    bool needs_dir, needs_name;
} COMMANDS[] = {
    {"up", do_up, UP_MS, true, false},
    {"down", do_down, 120000, true, false},
    {"status", do_status, 0, true, false},
    {"mount", do_mount, 60000, true, true},
    {"umount", do_umount, 120000, false, true},
    {"kill", do_kill, 0, true, true},
    {"stop", do_stop, 120000, true, true},
    {"start", do_start, 30000, true, true},
    {"pid", do_pid, 0, true, true},
};

static const struct command *find_command(const char *name)
{
    for (unsigned i = 0; i < array_count(COMMANDS); i++) {
        if (strcmp(COMMANDS[i].name, name) == 0) {
            return &COMMANDS[i];
        }
    }
    return NULL;
}

/* A machine that is known to be slow gives up more time without saying so each time. */
static bool up_default(struct options *o)
{
    const char *text = getenv("CFS_LOCAL_TIMEOUT");
    if (text != NULL && text[0] != '\0' && !take_option(O_TIMEOUT, text, o)) {
        fprintf(stderr, "cfs-local: CFS_LOCAL_TIMEOUT is a number of seconds, not %s\n", text);
        return false;
    }
    return true;
}

static bool parse(int argc, char **argv, const struct command *c, struct options *o)
{
    static const struct option LONG[] = {{"dir", 1, NULL, O_DIR},
                                         {"meta", 1, NULL, O_META},
                                         {"meta-dir", 1, NULL, O_META_DIR},
                                         {"meta-reserve", 1, NULL, O_META_RESERVE},
                                         {"chunkservers", 1, NULL, O_CHUNKS},
                                         {"size", 1, NULL, O_SIZE},
                                         {"policy", 1, NULL, O_POLICY},
                                         {"mount", 1, NULL, O_MOUNT},
                                         {"json", 0, NULL, O_JSON},
                                         {"force", 0, NULL, O_FORCE},
                                         {"timeout", 1, NULL, O_TIMEOUT},
                                         {NULL, 0, NULL, 0}};
    o->mount_options = "";
    o->timeout_ms = c->timeout_ms;
    if (c->run == do_up && !up_default(o)) {
        return false;
    }
    for (int option; (option = getopt_long(argc, argv, "o:", LONG, NULL)) != -1;) {
        if (!take_option(option, optarg, o)) {
            if (option != '?' && option != O_META) {
                fprintf(stderr, "cfs-local: %s is not a value for that option\n", optarg);
            }
            return false;
        }
    }
    o->name = optind < argc ? argv[optind] : NULL;
    if (argc - optind != (c->needs_name ? 1 : 0) || (c->needs_dir && o->dir == NULL)) {
        fprintf(stderr, "cfs-local: %s needs%s%s; see cfs-local --help\n", c->name,
                c->needs_dir ? " --dir DIR" : "", c->needs_name ? " one NAME or MNT" : "");
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(HELP, argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_USAGE : 0;
    }
    const struct command *c = find_command(argv[1]);
    if (c == NULL) {
        fprintf(stderr, "cfs-local: no command %s; see cfs-local --help\n", argv[1]);
        return EXIT_USAGE;
    }
    struct options o = {0};
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(HELP, stdout);
            return 0;
        }
    }
    if (!parse(argc - 1, argv + 1, c, &o)) {
        return EXIT_USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    struct local l;
    int rc = local_init(&l, o.dir != NULL ? o.dir : ".");
    if (rc != 0) {
        fprintf(stderr, "cfs-local: %s: %s\n", o.dir, err_text(rc));
        return 1;
    }
    rc = c->run(&l, &o);
    local_release(&l);
    return rc < 0 ? 1 : rc;
}
