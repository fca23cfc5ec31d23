#include "tools/local.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/prng.h"
#include "meta.pb-c.h"
#include "admin.pb-c.h"
#include "proto/methods.h"
#include "tools/ask.h"

/* ---- ports ---- */

static bool port_free(unsigned port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    int one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    /* As the server will: a port in TIME_WAIT is free, one that is listened on is not. */
    bool good = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
                bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 1) == 0;
    close(fd);
    return good;
}

static bool port_ours(const struct local *l, unsigned port)
{
    for (unsigned i = 1; i <= l->n_meta; i++) {
        if (l->meta_port[i] == port) {
            return true;
        }
    }
    for (unsigned i = 1; i <= l->n_chunks; i++) {
        if (l->chunk_port[i] == port) {
            return true;
        }
    }
    return false;
}

/* A free port below those of outgoing connections; 0: none found. */
static unsigned port_choose(const struct local *l)
{
    unsigned low = 32768, first = 10000;
    FILE *f = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    if (f != NULL) {
        if (fscanf(f, "%u", &low) != 1) {
            low = 32768;
        }
        fclose(f);
    }
    if (low < first + 1000) {
        first = 2000;
        low = low < first + 1000 ? first + 8000 : low;
    }
    for (int i = 0; i < 1000; i++) {
        unsigned port = first + (unsigned)(prng_random_u64() % (low - first));
        if (!port_ours(l, port) && port_free(port)) {
            return port;
        }
    }
    return 0;
}

static unsigned *port_of(struct local *l, struct local_name name)
{
    return name.kind == LOCAL_META ? &l->meta_port[name.number] : &l->chunk_port[name.number];
}

/* The kept port, or a new one where nobody knows the old: a chunk server tells its address when it
 * registers, but mounts and chunk servers know the metadata server by its port. */
static int settle_port(struct local *l, struct local_name name)
{
    unsigned *port = port_of(l, name);
    if (*port != 0 && (name.kind == LOCAL_META || port_free(*port))) {
        return 0;
    }
    *port = port_choose(l);
    return *port != 0 ? local_save(l) : -EADDRNOTAVAIL;
}

/* ---- starting ---- */

enum { ARGS_MAX = 24, ARG_BYTES = LOCAL_PATH + 1024 };
struct args {
    char *at[ARGS_MAX + 1];
    unsigned n;
};

static void args_add(struct args *a, const char *text)
{
    if (a->n < ARGS_MAX) {
        a->at[a->n++] = xstrdup(text);
    }
}

static void args_number(struct args *a, const char *option, uint64_t value)
{
    char text[32];
    if (value != 0) {
        snprintf(text, sizeof text, "%" PRIu64, value);
        args_add(a, option);
        args_add(a, text);
    }
}

static void args_release(struct args *a)
{
    for (unsigned i = 0; i < a->n; i++) {
        free(a->at[i]);
    }
}

static void data_dir(const struct local *l, struct local_name name, char *out)
{
    if (name.kind == LOCAL_META && l->meta_dir[0] != '\0') {
        snprintf(out, ARG_BYTES, "%s", l->meta_dir);
    } else {
        local_path(l, out, "data/%s%u", local_kind_text(name.kind), name.number);
    }
}

static void make_args(struct local *l, struct local_name name, const char *port_file,
                      struct args *a)
{
    char text[ARG_BYTES], addresses[256];
    bool meta = name.kind == LOCAL_META;
    snprintf(text, sizeof text, "%s/%s", l->bin, meta ? "cfs-meta" : "cfs-chunkserver");
    args_add(a, text);
    args_add(a, "--listen");
    snprintf(text, sizeof text, "127.0.0.1:%u", *port_of(l, name));
    args_add(a, text);
    data_dir(l, name, text);
    if (meta) {
        args_add(a, "--dir");
        args_add(a, text);
        args_add(a, "--bootstrap");
        args_add(a, "--policy");
        args_add(a, l->policy);
        args_number(a, "--reserve", l->meta_reserve);
    } else {
        local_addresses(l, addresses);
        args_add(a, "--meta");
        args_add(a, addresses);
        args_add(a, "--disk");
        args_add(a, text);
        args_number(a, "--size", l->size);
    }
    args_add(a, "--port-file");
    args_add(a, port_file);
}

void local_show_log(const struct local *l, const char *name)
{
    enum { TAIL = 1500 };
    char path[ARG_BYTES], text[TAIL + 1];
    local_path(l, path, "log/%s.log", name);
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return;
    }
    if (fseek(f, -TAIL, SEEK_END) != 0) {
        rewind(f);
    }
    size_t n = fread(text, 1, TAIL, f);
    fclose(f);
    text[n] = '\0';
    const char *at = n == TAIL && strchr(text, '\n') != NULL ? strchr(text, '\n') + 1 : text;
    if (n > 0) {
        fprintf(stderr, "cfs-local: the end of %s:\n%s%s", path, at,
                text[n - 1] == '\n' ? "" : "\n");
    }
}

/* Waits for the port file, which a server writes when it listens. */
static int wait_listening(const struct proc *p, const char *port_file, unsigned timeout_ms)
{
    for (uint64_t until = clock_now_ms() + timeout_ms;;) {
        if (access(port_file, F_OK) == 0) {
            return 0;
        }
        if (!proc_alive(p)) {
            return -ECHILD;
        }
        if (clock_now_ms() >= until) {
            return -ETIMEDOUT;
        }
        poll(NULL, 0, 5);
    }
}

static int start_failed(const struct local *l, const char *name, int rc)
{
    if (rc == -ECHILD) {
        fprintf(stderr, "cfs-local: %s ended as soon as it was started\n", name);
    } else if (rc == -ETIMEDOUT) {
        fprintf(stderr, "cfs-local: %s did not listen in time\n", name);
    } else {
        fprintf(stderr, "cfs-local: cannot start %s: %s\n", name, err_text(rc));
    }
    local_show_log(l, name);
    return rc;
}

static int start_once(struct local *l, struct local_name name, const char *text,
                      unsigned timeout_ms)
{
    char port_file[ARG_BYTES], log[ARG_BYTES], pid_file[ARG_BYTES];
    local_path(l, port_file, "run/%s.port", text);
    local_path(l, pid_file, "run/%s.pid", text);
    local_path(l, log, "log/%s.log", text);
    (void)unlink(port_file); /* there is none the first time */
    struct args a = {.n = 0};
    make_args(l, name, port_file, &a);
    struct proc p;
    int rc = proc_spawn(a.at, log, &p);
    args_release(&a);
    if (rc != 0) {
        return rc;
    }
    rc = proc_write_file(pid_file, &p);
    if (rc == 0) {
        rc = wait_listening(&p, port_file, timeout_ms);
    }
    if (rc != 0) {
        (void)proc_end(&p, 1000);
        (void)unlink(pid_file);
    }
    return rc;
}

int local_server_start(struct local *l, struct local_name name, unsigned timeout_ms)
{
    char text[32], path[ARG_BYTES];
    snprintf(text, sizeof text, "%s%u", local_kind_text(name.kind), name.number);
    struct proc p;
    local_find(l, name, &p);
    if (p.pid != 0) {
        return 1;
    }
    data_dir(l, name, path);
    int rc = local_mkdirs(path);
    if (rc == 0) {
        rc = settle_port(l, name);
    }
    if (rc != 0) {
        return start_failed(l, text, rc);
    }
    rc = start_once(l, name, text, timeout_ms);
    return rc != 0 ? start_failed(l, text, rc) : 0;
}

int local_server_stop(const struct local *l, struct local_name name, unsigned term_ms)
{
    struct proc p;
    local_find(l, name, &p);
    int rc = p.pid != 0 ? proc_end(&p, term_ms) : 1;
    if (rc >= 0) {
        char path[ARG_BYTES];
        local_path(l, path, "run/%s%u.pid", local_kind_text(name.kind), name.number);
        (void)unlink(path); /* it may not be there */
    }
    return rc;
}

/* ---- usable ---- */

static bool usable(const Cfs__StatusReply *s, unsigned n_chunks, char *why, size_t why_bytes)
{
    unsigned up = 0;
    for (size_t i = 0; i < s->n_chunk; i++) {
        up += s->chunk[i]->row->state == 1 || s->chunk[i]->row->state == 4;
    }
    snprintf(why, why_bytes,
             "%u of %u chunk servers are up, %u placement groups, %u of them take no writes", up,
             n_chunks, s->groups, s->groups_unwritable);
    return up >= n_chunks && s->groups > 0 && s->groups_unwritable == 0;
}

int local_wait_usable(const struct local *l, unsigned timeout_ms)
{
    char addresses[256], why[256] = "the metadata server does not answer";
    local_addresses(l, addresses);
    struct ask *ask = ask_new(addresses);
    bool good = false;
    for (uint64_t until = clock_now_ms() + timeout_ms; !good && clock_now_ms() < until;) {
        struct bytes reply;
        uint64_t now = clock_now_ms();
        unsigned ms = now + 1000 < until ? 1000 : now < until ? (unsigned)(until - now) : 1;
        int rc = ask_call(ask, METHOD_STATUS, BYTES(NULL, 0), ms, &reply);
        Cfs__StatusReply *s =
            rc == 0 ? cfs__status_reply__unpack(NULL, reply.len, reply.data) : NULL;
        if (s != NULL) {
            good = usable(s, l->n_chunks, why, sizeof why);
            cfs__status_reply__free_unpacked(s, NULL);
        } else {
            snprintf(why, sizeof why, "the metadata server says: %s",
                     rc == 0 ? "bytes that do not decode" : ask_text(ask));
        }
        if (!good) {
            poll(NULL, 0, 20);
        }
    }
    ask_free(ask);
    if (!good) {
        fprintf(stderr, "cfs-local: not usable after %u ms: %s\n", timeout_ms, why);
    }
    return good ? 0 : -ETIMEDOUT;
}
