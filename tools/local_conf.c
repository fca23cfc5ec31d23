#include "tools/local.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

static const char *const KINDS[] = {"meta", "chunk", "mount", "holder"};

const char *local_kind_text(enum local_kind kind)
{
    return KINDS[kind];
}

int local_absolute(const char *path, char out[LOCAL_PATH])
{
    char cwd[PATH_MAX] = "";
    if (path[0] != '/' && getcwd(cwd, sizeof cwd) == NULL) {
        return -errno;
    }
    int n = snprintf(out, LOCAL_PATH, "%s%s%s", cwd, path[0] == '/' ? "" : "/", path);
    if (n < 0 || n >= LOCAL_PATH) {
        return -ENAMETOOLONG;
    }
    for (; n > 1 && out[n - 1] == '/'; n--) {
        out[n - 1] = '\0';
    }
    return 0;
}

int local_init(struct local *l, const char *dir)
{
    memset(l, 0, sizeof *l);
    l->lock_fd = -1;
    l->n_meta = 1;
    l->n_chunks = 6;
    snprintf(l->policy, sizeof l->policy, "4+2");
    ssize_t n = readlink("/proc/self/exe", l->bin, sizeof l->bin - 1);
    if (n <= 0) {
        return n < 0 ? -errno : -ENOENT;
    }
    l->bin[n] = '\0';
    char *slash = strrchr(l->bin, '/');
    CHECK(slash != NULL);
    *slash = '\0';
    return local_absolute(dir, l->dir);
}

void local_release(struct local *l)
{
    if (l->lock_fd >= 0) {
        close(l->lock_fd);
        l->lock_fd = -1;
    }
}

void local_path(const struct local *l, char *out, const char *format, ...)
{
    int n = snprintf(out, LOCAL_PATH, "%s/", l->dir);
    va_list args;
    va_start(args, format);
    vsnprintf(out + n, LOCAL_PATH + 1024 - (size_t)n, format, args);
    va_end(args);
}

int local_mkdirs(const char *path)
{
    char copy[LOCAL_PATH + 1024];
    int n = snprintf(copy, sizeof copy, "%s", path);
    if (n < 0 || (size_t)n >= sizeof copy) {
        return -ENAMETOOLONG;
    }
    for (char *at = copy + 1;; at++) {
        if (*at != '/' && *at != '\0') {
            continue;
        }
        char end = *at;
        *at = '\0';
        if (mkdir(copy, 0755) != 0 && errno != EEXIST) {
            return -errno;
        }
        *at = end;
        if (end == '\0') {
            return 0;
        }
    }
}

int local_lock(struct local *l, bool make, unsigned wait_ms)
{
    int rc = make ? local_mkdirs(l->dir) : 0;
    if (rc != 0) {
        return rc;
    }
    char path[LOCAL_PATH + 1024];
    local_path(l, path, "lock");
    l->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (l->lock_fd < 0) {
        return -errno;
    }
    uint64_t until = clock_now_ms() + wait_ms;
    while (flock(l->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK || clock_now_ms() >= until) {
            local_release(l);
            return -EBUSY;
        }
        poll(NULL, 0, 50);
    }
    return 0;
}

static void take_setting(struct local *l, const char *key, const char *value)
{
    unsigned n;
    if (strcmp(key, "meta") == 0) {
        l->n_meta = (unsigned)strtoul(value, NULL, 10);
    } else if (strcmp(key, "chunkservers") == 0) {
        l->n_chunks = (unsigned)strtoul(value, NULL, 10);
    } else if (strcmp(key, "size") == 0) {
        l->size = strtoull(value, NULL, 10);
    } else if (strcmp(key, "meta-reserve") == 0) {
        l->meta_reserve = strtoull(value, NULL, 10);
    } else if (strcmp(key, "policy") == 0) {
        snprintf(l->policy, sizeof l->policy, "%s", value);
    } else if (strcmp(key, "meta-dir") == 0) {
        snprintf(l->meta_dir, sizeof l->meta_dir, "%s", value);
    } else if (sscanf(key, "port.meta%u", &n) == 1 && n >= 1 && n <= LOCAL_META_MAX) {
        l->meta_port[n] = (unsigned)strtoul(value, NULL, 10);
    } else if (sscanf(key, "port.chunk%u", &n) == 1 && n >= 1 && n <= LOCAL_CHUNKS_MAX) {
        l->chunk_port[n] = (unsigned)strtoul(value, NULL, 10);
    }
}

int local_read(struct local *l, FILE *f)
{
    char line[LOCAL_PATH + 256];
    bool ours = fgets(line, sizeof line, f) != NULL && strcmp(line, "# cfs-local 1\n") == 0;
    while (ours && fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *value = strchr(line, '=');
        if (value != NULL) {
            *value = '\0';
            take_setting(l, line, value + 1);
        }
    }
    bool good = ours && l->n_meta == 1 && l->n_chunks >= 1 && l->n_chunks <= LOCAL_CHUNKS_MAX;
    return good ? 0 : -EINVAL;
}

int local_load(struct local *l)
{
    char path[LOCAL_PATH + 1024];
    local_path(l, path, "cluster.conf");
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return -errno;
    }
    int rc = local_read(l, f);
    fclose(f);
    return rc;
}

int local_save(const struct local *l)
{
    char path[LOCAL_PATH + 1024], new_path[LOCAL_PATH + 1024];
    local_path(l, path, "cluster.conf");
    local_path(l, new_path, "cluster.conf.new");
    FILE *f = fopen(new_path, "we");
    if (f == NULL) {
        return -errno;
    }
    fprintf(f, "# cfs-local 1\nmeta=%u\nchunkservers=%u\nsize=%" PRIu64 "\nmeta-reserve=%" PRIu64,
            l->n_meta, l->n_chunks, l->size, l->meta_reserve);
    fprintf(f, "\npolicy=%s\nmeta-dir=%s\n", l->policy, l->meta_dir);
    for (unsigned i = 1; i <= l->n_meta; i++) {
        fprintf(f, "port.meta%u=%u\n", i, l->meta_port[i]);
    }
    for (unsigned i = 1; i <= l->n_chunks; i++) {
        fprintf(f, "port.chunk%u=%u\n", i, l->chunk_port[i]);
    }
    bool failed = ferror(f) != 0 || fflush(f) != 0 || fsync(fileno(f)) != 0;
    failed |= fclose(f) != 0;
    if (failed || rename(new_path, path) != 0) {
        return errno != 0 ? -errno : -EIO;
    }
    return 0;
}

bool local_parse_name(const struct local *l, const char *text, struct local_name *out)
{
    const unsigned most[] = {l->n_meta, l->n_chunks, LOCAL_MOUNTS_MAX, LOCAL_MOUNTS_MAX};
    for (unsigned i = 0; i < array_count(KINDS); i++) {
        size_t len = strlen(KINDS[i]);
        if (strncmp(text, KINDS[i], len) != 0 || text[len] < '1' || text[len] > '9') {
            continue;
        }
        char *end;
        unsigned long n = strtoul(text + len, &end, 10);
        if (*end == '\0' && n <= most[i]) {
            *out = (struct local_name){(enum local_kind)i, (unsigned)n};
            return true;
        }
    }
    return false;
}

void local_addresses(const struct local *l, char out[256])
{
    int n = 0;
    for (unsigned i = 1; i <= l->n_meta; i++) {
        n +=
            snprintf(out + n, 256 - (size_t)n, "%s127.0.0.1:%u", i > 1 ? "," : "", l->meta_port[i]);
    }
}

void local_find(const struct local *l, struct local_name name, struct proc *out)
{
    static const char *const COMMS[] = {"cfs-meta", "cfs-chunkserver", "mount.cfs", "mount.cfs"};
    char path[LOCAL_PATH + 1024];
    if (name.kind == LOCAL_MOUNT || name.kind == LOCAL_HOLDER) {
        local_path(l, path, "mount/%u/%s.pid", name.number,
                   name.kind == LOCAL_MOUNT ? "worker" : "holder");
    } else {
        local_path(l, path, "run/%s%u.pid", KINDS[name.kind], name.number);
    }
    (void)proc_read_file(path, COMMS[name.kind], out); /* none: *out says so */
}
