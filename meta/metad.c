/* cfs-meta: arguments, directory, threads, and the order of starting and stopping. Everything that decides is in
 * machine and meta_service.
 *
 * Threads: the loop (RPC, Raft, sessions, heartbeats; never touches LevelDB or the log), the log's (append and
 * sync) and the store's (apply and reads). They talk through mailboxes only.
 *
 * Directory: `cfs-meta` says whose it is, `lock` is held while a server runs, `raft/` is the log, `state/` LevelDB,
 * `ballast` room for the worst case (room.h). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prng.h"
#include "log.pb-c.h"
#include "meta/meta_service.h"
#include "meta/room.h"
#include "meta/store_thread.h"
#include "rpc/limit.h"
#include "rpc/tcp.h"
#include "store/disk_posix.h"
#include "store/kv_leveldb.h"

#define VERSION "0.1.0"
#define MARK "cfs-meta 1\n"
enum { EXIT_FAILED = 1, EXIT_USAGE = 2, SERVER_ID = 1, PAYLOAD_BUFFERS = 4, LOCK_WAIT_MS = 2000 };

static const char USAGE[] =
    "usage: cfs-meta --dir DIR [options]\n"
    "\n"
    "Serves the metadata of a CFS cluster.\n"
    "\n"
    "  --dir DIR            where it keeps its log and state\n"
    "  --listen HOST:PORT   address to serve at (127.0.0.1:0: any free port, loopback only)\n"
    "  --bootstrap          make a new cluster if there is none in DIR yet\n"
    "  --policy K+M         erasure coding of the new cluster's files (4+2)\n"
    "  --inline-limit BYTES files up to this size live in the metadata (4096)\n"
    "  --port-file FILE     write the address served at to FILE once it is\n"
    "  --cache BYTES        read cache of the state (128M)\n"
    "  --write-buffer BYTES write buffer of the state (64M)\n"
    "  --reserve BYTES      disk space below which only deleting is possible\n"
    "                       (16 write buffers, at most a tenth of the filesystem)\n"
    "  --verbose            log more\n"
    "  --help, --version\n"
    "\n"
    "BYTES take K, M, G and T. Stops cleanly on SIGTERM and SIGINT. Exit status: 0 stopped,\n"
    "1 failed, 2 wrong usage.\n";

struct config {
    const char *dir, *listen, *port_file;
    bool bootstrap, has_reserve;
    unsigned k, m;
    uint64_t inline_limit, cache, write_buffer, reserve;
};

struct metad {
    uv_loop_t loop;
    uv_async_t wake;
    uv_signal_t term, interrupt;
    struct timers timers;
    struct tcp_clock *clock;
    struct databuf_pool *payloads;
    struct transport *transport;
    struct server *server;
    struct mailbox *done;
    struct worker *log, *store;
    struct disk *disk;
    struct kv *kv;
    struct machine *machine;
    struct meta_service *service;
    struct buf bootstrap;
    int lock_fd;
    int exit_status;
    bool stopping;
};

/* ---- arguments ------------------------------------------------------------------------------ */

static int refuse(const char *format, const char *what)
{
    fprintf(stderr, "cfs-meta: ");
    fprintf(stderr, format, what);
    fprintf(stderr, " (--help shows the usage)\n");
    return EXIT_USAGE;
}

static bool parse_bytes(const char *text, uint64_t *out)
{
    static const char suffixes[] = "KMGT";
    char *end = NULL;
    errno = 0;
    const unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0 || end == text || text[0] == '-') {
        return false;
    }
    unsigned shift = 0;
    if (*end != '\0') {
        const char *suffix = strchr(suffixes, *end);
        if (suffix == NULL || end[1] != '\0') {
            return false;
        }
        shift = 10 * (unsigned)(suffix - suffixes + 1);
    }
    if (n > UINT64_MAX >> shift) {
        return false;
    }
    *out = (uint64_t)n << shift;
    return true;
}

static bool parse_policy(const char *text, struct config *c)
{
    char extra = 0;
    return sscanf(text, "%2u+%2u%c", &c->k, &c->m, &extra) == 2 && c->k >= 1 && c->k <= 32 && c->m <= 8;
}

enum { OPT_DIR = 1, OPT_LISTEN, OPT_BOOTSTRAP, OPT_POLICY, OPT_INLINE, OPT_PORT_FILE, OPT_CACHE,
       OPT_WRITE_BUFFER, OPT_RESERVE, OPT_VERBOSE, OPT_HELP, OPT_VERSION };

/* -1: go on; else the exit status. */
static int take_bytes(const char *name, const char *value, uint64_t low, uint64_t high, uint64_t *out)
{
    if (!parse_bytes(value, out) || *out < low || *out > high) {
        fprintf(stderr, "cfs-meta: %s: not a size between %" PRIu64 " and %" PRIu64 " bytes: %s\n", name,
                low, high, value);
        return EXIT_USAGE;
    }
    return -1;
}

static int take_option(struct config *c, int option, const char *value)
{
    switch (option) {
    case OPT_DIR:
        c->dir = value;
        return -1;
    case OPT_LISTEN:
        c->listen = value;
        return -1;
    case OPT_BOOTSTRAP:
        c->bootstrap = true;
        return -1;
    case OPT_POLICY:
        return parse_policy(value, c) ? -1 : refuse("--policy: not K+M, with K 1 to 32 and M 0 to 8: %s", value);
    case OPT_INLINE:
        return take_bytes("--inline-limit", value, 0, 65536, &c->inline_limit);
    case OPT_PORT_FILE:
        c->port_file = value;
        return -1;
    case OPT_CACHE:
        return take_bytes("--cache", value, 1 << 20, (uint64_t)1 << 40, &c->cache);
    case OPT_WRITE_BUFFER:
        return take_bytes("--write-buffer", value, 1 << 20, (uint64_t)1 << 30, &c->write_buffer);
    case OPT_RESERVE:
        c->has_reserve = true;
        return take_bytes("--reserve", value, 0, (uint64_t)1 << 50, &c->reserve);
    case OPT_VERBOSE:
        log_set_level(LOG_LEVEL_DEBUG);
        return -1;
    case OPT_HELP:
        fputs(USAGE, stdout);
        return 0;
    case OPT_VERSION:
        puts("cfs-meta " VERSION);
        return 0;
    default:
        return refuse("unknown or incomplete option%s", "");
    }
}

static int parse(int argc, char **argv, struct config *c)
{
    static const struct option options[] = {
        {"dir", required_argument, NULL, OPT_DIR},
        {"listen", required_argument, NULL, OPT_LISTEN},
        {"bootstrap", no_argument, NULL, OPT_BOOTSTRAP},
        {"policy", required_argument, NULL, OPT_POLICY},
        {"inline-limit", required_argument, NULL, OPT_INLINE},
        {"port-file", required_argument, NULL, OPT_PORT_FILE},
        {"cache", required_argument, NULL, OPT_CACHE},
        {"write-buffer", required_argument, NULL, OPT_WRITE_BUFFER},
        {"reserve", required_argument, NULL, OPT_RESERVE},
        {"verbose", no_argument, NULL, OPT_VERBOSE},
        {"help", no_argument, NULL, OPT_HELP},
        {"version", no_argument, NULL, OPT_VERSION},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        const int rc = take_option(c, option, optarg);
        if (rc != -1) {
            return rc;
        }
    }
    if (optind < argc) {
        return refuse("not an option: %s", argv[optind]);
    }
    return c->dir == NULL ? refuse("--dir is missing%s", "") : -1;
}

/* ---- the directory -------------------------------------------------------------------------- */

static int complain(const char *what, const char *path, int rc)
{
    fprintf(stderr, "cfs-meta: %s %s: %s\n", what, path, err_text(rc));
    return EXIT_FAILED;
}

static bool ours(const char *name)
{
    static const char *const names[] = {".", "..", "lock", "lost+found", "cfs-meta", "cfs-meta.new"};
    for (size_t i = 0; i < array_count(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool holds_other_things(const char *dir)
{
    DIR *d = opendir(dir);
    bool found = false;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        found = found || !ours(e->d_name);
    }
    if (d != NULL) {
        closedir(d);
    }
    return found;
}

static int write_file(const char *path, const char *text)
{
    char *fresh = xasprintf("%s.new", path);
    FILE *f = fopen(fresh, "we");
    int rc = f != NULL && fputs(text, f) >= 0 && fflush(f) == 0 && fsync(fileno(f)) == 0 ? 0 : -errno;
    if (f != NULL && fclose(f) != 0 && rc == 0) {
        rc = -errno;
    }
    if (rc == 0 && rename(fresh, path) != 0) {
        rc = -errno;
    }
    free(fresh);
    return rc;
}

/* 0, or the exit status after a line that says why. */
static int check_mark(const char *dir, bool bootstrap)
{
    char *path = xasprintf("%s/cfs-meta", dir);
    char text[64] = "";
    int status = 0;
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        const size_t n = fread(text, 1, sizeof text - 1, f);
        text[n] = '\0';
        fclose(f);
        if (strcmp(text, MARK) != 0) {
            fprintf(stderr, "cfs-meta: %s was made by another version or program\n", path);
            status = EXIT_FAILED;
        }
    } else if (holds_other_things(dir)) {
        fprintf(stderr, "cfs-meta: %s holds something else: give it a directory of its own\n", dir);
        status = EXIT_FAILED;
    } else if (!bootstrap) {
        fprintf(stderr, "cfs-meta: there is no cluster in %s: --bootstrap makes one\n", dir);
        status = EXIT_FAILED;
    } else {
        const int rc = write_file(path, MARK);
        status = rc != 0 ? complain("cannot write", path, rc) : 0;
    }
    free(path);
    return status;
}

/* A killed server gives its lock back only when the kernel has taken it apart. */
static bool lock_patiently(int fd)
{
    for (uint64_t until = clock_now_ms() + LOCK_WAIT_MS; flock(fd, LOCK_EX | LOCK_NB) != 0;) {
        if (clock_now_ms() > until) {
            return false;
        }
        (void)usleep(10000); /* woken early, it looks early */
    }
    return true;
}

static int take_directory(struct metad *d, const struct config *c)
{
    if (mkdir(c->dir, 0700) != 0 && errno != EEXIST) {
        return complain("cannot make", c->dir, -errno);
    }
    char *path = xasprintf("%s/lock", c->dir);
    int status = 0;
    d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->lock_fd < 0) {
        status = complain("cannot open", path, -errno);
    } else if (!lock_patiently(d->lock_fd)) {
        fprintf(stderr, "cfs-meta: %s is in use by another cfs-meta\n", c->dir);
        status = EXIT_FAILED;
    }
    free(path);
    return status != 0 ? status : check_mark(c->dir, c->bootstrap);
}

/* ---- stopping ------------------------------------------------------------------------------- */

static void transport_gone(void *ctx)
{
    struct metad *d = ctx;
    tcp_clock_close(d->clock);
    uv_close((uv_handle_t *)&d->wake, NULL);
    uv_close((uv_handle_t *)&d->term, NULL);
    uv_close((uv_handle_t *)&d->interrupt, NULL);
}

/* The threads end with what they were given; then nobody is left who could answer. */
static void stop(struct metad *d)
{
    if (d->stopping) {
        return;
    }
    d->stopping = true;
    if (d->machine != NULL) {
        meta_service_stop(d->service);
        machine_stop(d->machine);
    }
    if (d->log != NULL) {
        d->log->ops->close(d->log);
        d->store->ops->close(d->store);
        store_thread_deliver(d->done);
    }
    d->transport->ops->shutdown(d->transport, transport_gone, d);
}

static void on_signal(uv_signal_t *signal, int number)
{
    log_info("stopping, signal=%d", number);
    stop(signal->data);
}

static void on_fatal(void *ctx, const char *what, int rc)
{
    struct metad *d = ctx;
    log_error("stopping: %s, error=%s (%s)", what, err_name(rc), err_text(rc));
    d->exit_status = EXIT_FAILED;
    uv_kill(getpid(), SIGTERM); /* stops from the loop, not from inside the machine */
}

/* ---- starting ------------------------------------------------------------------------------- */

static void on_wake(uv_async_t *wake)
{
    struct metad *d = wake->data;
    if (!d->stopping) {
        store_thread_deliver(d->done);
    }
}

static void wake_loop(void *ctx)
{
    struct metad *d = ctx;
    uv_async_send(&d->wake);
}

static uint64_t wall_ns(void *ctx)
{
    (void)ctx;
    return clock_wall_ns();
}

static uint64_t memory(void *ctx)
{
    (void)ctx;
    unsigned long long total = 0;
    unsigned long long resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f != NULL) {
        if (fscanf(f, "%llu %llu", &total, &resident) != 2) {
            resident = 0;
        }
        fclose(f);
    }
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void pack_bootstrap(struct metad *d, const struct config *c)
{
    uint8_t random[32];
    CHECK(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    Cfs__LogBootstrap m = CFS__LOG_BOOTSTRAP__INIT;
    Cfs__Policy policy = CFS__POLICY__INIT;
    policy.k = c->k;
    policy.m = c->m;
    policy.inline_limit = (uint32_t)c->inline_limit;
    m.cluster = (ProtobufCBinaryData){.len = 16, .data = random};
    m.hash_key = (ProtobufCBinaryData){.len = 16, .data = random + 16};
    m.policy = &policy;
    cfs__log_bootstrap__pack(&m, buf_extend(&d->bootstrap, cfs__log_bootstrap__get_packed_size(&m)));
}

static uint64_t reserve_of(const struct metad *d, const struct config *c)
{
    struct disk_space space;
    if (c->has_reserve || d->disk->ops->space(d->disk, &space) != 0) {
        return c->reserve;
    }
    const uint64_t want = 16 * c->write_buffer;
    return want < space.total_bytes / 10 ? want : space.total_bytes / 10;
}

static int open_state(struct metad *d, const struct config *c)
{
    int rc = disk_posix_open(c->dir, &d->disk);
    if (rc != 0) {
        return complain("cannot open", c->dir, rc);
    }
    struct room room; /* LevelDB writes when it is opened */
    room_init(&room, d->disk, reserve_of(d, c));
    char *path = xasprintf("%s/state", c->dir);
    const struct kv_leveldb_options ko = {
        .write_buffer_bytes = c->write_buffer, .cache_bytes = c->cache, .create = true};
    rc = kv_leveldb_open(path, &ko, &d->kv);
    const int status = rc != 0 ? complain("cannot open the state in", path, rc) : 0;
    free(path);
    return status;
}

static int open_machine(struct metad *d, const struct config *c)
{
    if (c->bootstrap) {
        pack_bootstrap(d, c);
    }
    const struct machine_options mo = {
        .id = SERVER_ID,
        .address = "1", /* a group of one: nobody connects to it by this name */
        .disk = d->disk,
        .kv = d->kv,
        .reserve_bytes = reserve_of(d, c),
        .random = prng_random_u64(),
        .timers = &d->timers,
        .bootstrap = buf_bytes(&d->bootstrap),
        .events = &meta_service_events,
        .ctx = d->service,
    };
    const int rc = machine_open(&mo, &d->machine);
    if (rc == ERR_NOT_FOUND) {
        fprintf(stderr, "cfs-meta: there is no cluster in %s: --bootstrap makes one\n", c->dir);
        return EXIT_FAILED;
    }
    return rc != 0 ? complain("cannot read the log or state in", c->dir, rc) : 0;
}

static void open_loop(struct metad *d)
{
    CHECK(uv_loop_init(&d->loop) == 0);
    CHECK(uv_async_init(&d->loop, &d->wake, on_wake) == 0);
    uv_signal_init(&d->loop, &d->term);
    uv_signal_init(&d->loop, &d->interrupt);
    d->wake.data = d->term.data = d->interrupt.data = d;
    uv_signal_start(&d->term, on_signal, SIGTERM);
    uv_signal_start(&d->interrupt, on_signal, SIGINT);
    timers_init(&d->timers, clock_now_ms());
    d->clock = tcp_clock_start(&d->loop, &d->timers);
    d->payloads = databuf_pool_new(FRAME_PAYLOAD_MAX, PAYLOAD_BUFFERS); /* no call of ours has one */
    d->transport = tcp_new(&d->loop, &d->timers, d->payloads);
    d->server = server_new(d->transport);
    d->done = mailbox_new(wake_loop, d);
}

static int serve(struct metad *d, const struct config *c)
{
    char bound[64];
    int rc = server_listen(d->server, c->listen, bound);
    if (rc != 0) {
        return complain("cannot listen at", c->listen, rc);
    }
    meta_service_set_address(d->service, bound);
    d->log = store_thread_new("cfs-meta-log", machine_run_log, d->machine, d->done);
    d->store = store_thread_new("cfs-meta-store", machine_run_store, d->machine, d->done);
    meta_service_start(d->service, d->machine);
    rc = machine_start(d->machine, d->log, d->store);
    if (rc != 0) {
        return complain("log and state do not fit together in", c->dir, rc);
    }
    if (c->port_file != NULL) {
        char *line = xasprintf("%s\n", bound);
        rc = write_file(c->port_file, line);
        free(line);
        if (rc != 0) {
            return complain("cannot write", c->port_file, rc);
        }
    }
    log_info("serving, address=%s dir=%s", bound, c->dir);
    return 0;
}

static int start(struct metad *d, const struct config *c)
{
    const struct meta_service_options so = {
        .server = d->server,
        .timers = &d->timers,
        .version = VERSION,
        .id = SERVER_ID,
        .random = prng_random_u64(),
        .memory = memory,
        .on_fatal = on_fatal,
        .wall_ns = wall_ns,
        .ctx = d,
    };
    d->service = meta_service_new(&so);
    int status = open_state(d, c);
    if (status == 0) {
        status = open_machine(d, c);
    }
    return status == 0 ? serve(d, c) : status;
}

static void close_all(struct metad *d)
{
    const int rc = machine_close(d->machine);
    if (rc != 0) {
        log_error("the state could not be synced at the end, error=%s", err_name(rc));
        d->exit_status = EXIT_FAILED;
    }
    meta_service_free(d->service);
    server_free(d->server);
    tcp_free(d->transport);
    databuf_pool_free(d->payloads);
    mailbox_free(d->done);
    timers_release(&d->timers);
    if (d->kv != NULL) {
        d->kv->ops->close(d->kv);
    }
    if (d->disk != NULL) {
        d->disk->ops->close(d->disk);
    }
    buf_release(&d->bootstrap);
    CHECK(uv_loop_close(&d->loop) == 0);
}

int main(int argc, char **argv)
{
    struct config c = {.listen = "127.0.0.1:0", .k = 4, .m = 2, .inline_limit = 4096,
                       .cache = 128 << 20, .write_buffer = 64 << 20};
    opterr = 0;
    log_set_name("cfs-meta");
    int status = parse(argc, argv, &c);
    if (status >= 0) {
        return status;
    }
    struct metad *d = xcalloc(1, sizeof *d);
    status = take_directory(d, &c);
    if (status == 0) {
        signal(SIGPIPE, SIG_IGN);
        limit_raise();
        open_loop(d);
        d->exit_status = start(d, &c);
        if (d->exit_status != 0) {
            stop(d);
        }
        (void)uv_run(&d->loop, UV_RUN_DEFAULT); /* until everything is closed */
        close_all(d);
        status = d->exit_status;
    }
    free(d);
    return status;
}
