/* cfs-chunkserver: keeps fragments on local disks. This file reads the command line, owns the
 * libuv loop and puts the parts together:
 *
 *   loop: TCP, service, heartbeat     disk threads: fragstore     one async handle between them
 *
 * Stopping (SIGTERM, SIGINT): refuse what is new, work off what the disks have, answer it, close.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "chunkserver/chunk_service.h"
#include "chunkserver/heartbeat.h"
#include "rpc/limit.h"
#include "rpc/tcp.h"

#define VERSION "0.1.0"
enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };
enum { PAYLOAD_BUFFERS = 48, READ_BUFFERS = 24, RESERVE_DEFAULT = 3 };

static const char USAGE[] =
    "usage: cfs-chunkserver --disk DIR [--disk DIR ...] --meta HOST:PORT[,HOST:PORT...] [options]\n"
    "\n"
    "Keeps fragments of files on local disks for a CFS cluster.\n"
    "\n"
    "  --disk DIR         a directory on a disk of its own; a fresh one is formatted\n"
    "  --meta ADDRESSES   the metadata servers of the cluster\n"
    "  --listen HOST:PORT address to serve at (127.0.0.1:0: any free port, loopback only)\n"
    "  --size BYTES       use at most so many in all (K, M, G, T as suffix; default: the disks)\n"
    "  --reserve PERCENT  kept free for repairs and deletes (3)\n"
    "  --domain NAME      failure domain, such as rack1/host7 (default: this server)\n"
    "  --port-file FILE   write the address served at to FILE once it is\n"
    "  --verbose          log more\n"
    "  --help, --version\n"
    "\n"
    "Stops cleanly on SIGTERM and SIGINT. Exit status: 0 stopped, 1 failed, 2 wrong usage.\n";

struct config {
    const char *disk[FRAGSTORE_DISKS_MAX];
    unsigned n_disks;
    const char *meta, *listen, *domain, *port_file;
    uint64_t size_max;
    unsigned reserve_percent;
};

struct chunkd {
    uv_loop_t loop;
    uv_async_t wake;
    uv_signal_t term, interrupt;
    struct timers timers;
    struct tcp_clock *clock;
    struct databuf_pool *payloads, *reads;
    struct transport *transport;
    struct server *server;
    struct fragstore *store;
    struct chunk_service *service;
    struct heartbeat *heartbeat;
    int exit_status;
    bool stopping;
};

/* ---- command line ------------------------------------------------------------------------- */

static bool parse_bytes(const char *text, uint64_t *out)
{
    static const char SUFFIX[] = "KMGT";
    char *end = NULL;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *text == '-') {
        return false;
    }
    unsigned shift = 0;
    if (*end != '\0') {
        const char *s = strchr(SUFFIX, *end);
        if (s == NULL || end[1] != '\0') {
            return false;
        }
        shift = 10 * (unsigned)(s - SUFFIX + 1);
    }
    if (n > UINT64_MAX >> shift) {
        return false;
    }
    *out = (uint64_t)n << shift;
    return true;
}

static int refuse(const char *what, const char *value)
{
    fprintf(stderr, "cfs-chunkserver: %s%s%s (--help tells more)\n", what,
            value != NULL ? ": " : "", value != NULL ? value : "");
    return EXIT_USAGE;
}

enum {
    OPT_DISK = 256,
    OPT_META,
    OPT_LISTEN,
    OPT_SIZE,
    OPT_RESERVE,
    OPT_DOMAIN,
    OPT_PORT_FILE,
    OPT_VERBOSE,
    OPT_HELP,
    OPT_VERSION
};

static int take_option(struct config *c, int option, const char *value)
{
    uint64_t n = 0;
    switch (option) {
    case OPT_DISK:
        if (c->n_disks == FRAGSTORE_DISKS_MAX) {
            return refuse("too many disks", NULL);
        }
        c->disk[c->n_disks++] = value;
        return -1;
    case OPT_META:
        c->meta = value;
        return -1;
    case OPT_LISTEN:
        c->listen = value;
        return -1;
    case OPT_DOMAIN:
        c->domain = value;
        return -1;
    case OPT_PORT_FILE:
        c->port_file = value;
        return -1;
    case OPT_VERBOSE:
        log_set_level(LOG_LEVEL_DEBUG);
        return -1;
    case OPT_SIZE:
        return parse_bytes(value, &c->size_max) && (c->size_max == 0 || c->size_max >= 16 << 20)
                   ? -1
                   : refuse("--size must be a number of bytes, 16M or more, or 0", value);
    case OPT_RESERVE:
        if (!parse_bytes(value, &n) || n > 50) {
            return refuse("--reserve must be 0 to 50", value);
        }
        c->reserve_percent = (unsigned)n;
        return -1;
    case OPT_HELP:
        fputs(USAGE, stdout);
        return 0;
    case OPT_VERSION:
        puts("cfs-chunkserver " VERSION);
        return 0;
    default:
        return EXIT_USAGE; /* getopt has said why */
    }
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct config *c)
{
    static const struct option OPTIONS[] = {{"disk", required_argument, NULL, OPT_DISK},
                                            {"meta", required_argument, NULL, OPT_META},
                                            {"listen", required_argument, NULL, OPT_LISTEN},
                                            {"size", required_argument, NULL, OPT_SIZE},
                                            {"reserve", required_argument, NULL, OPT_RESERVE},
                                            {"domain", required_argument, NULL, OPT_DOMAIN},
                                            {"port-file", required_argument, NULL, OPT_PORT_FILE},
                                            {"verbose", no_argument, NULL, OPT_VERBOSE},
                                            {"help", no_argument, NULL, OPT_HELP},
                                            {"version", no_argument, NULL, OPT_VERSION},
                                            {NULL, 0, NULL, 0}};
    int option, status = -1;
    while (status < 0 && (option = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1) {
        status = take_option(c, option, optarg);
    }
    if (status >= 0) {
        return status;
    }
    if (optind < argc) {
        return refuse("what is this argument", argv[optind]);
    }
    if (c->n_disks == 0) {
        return refuse("--disk is missing", NULL);
    }
    return c->meta == NULL ? refuse("--meta is missing", NULL) : -1;
}

/* ---- stopping ------------------------------------------------------------------------------ */

static void transport_gone(void *ctx)
{
    struct chunkd *d = ctx;
    tcp_clock_close(d->clock);
    uv_close((uv_handle_t *)&d->wake, NULL);
    uv_close((uv_handle_t *)&d->term, NULL);
    uv_close((uv_handle_t *)&d->interrupt, NULL);
}

static void stop(struct chunkd *d)
{
    if (d->stopping) {
        return;
    }
    d->stopping = true;
    if (d->heartbeat != NULL) {
        heartbeat_stop(d->heartbeat);
    }
    chunk_service_stop(d->service);
    fragstore_close(d->store);
    d->store = NULL;
    d->transport->ops->shutdown(d->transport, transport_gone, d);
}

static void on_signal(uv_signal_t *signal, int number)
{
    log_info("stopping signal=%d", number);
    stop(signal->data);
}

static void on_foreign(void *ctx, const char *text)
{
    struct chunkd *d = ctx;
    log_error("refused: %s", text);
    d->exit_status = EXIT_FAILED;
    uv_kill(getpid(), SIGTERM); /* stops from the loop, not from inside the heartbeat */
}

/* ---- starting ------------------------------------------------------------------------------ */

static void on_wake(uv_async_t *wake)
{
    struct chunkd *d = wake->data;
    (void)timers_now(&d->timers); /* the loop may have slept since it last looked at the clock */
    if (d->store != NULL) {
        fragstore_poll(d->store);
    }
}

static void wake_loop(void *ctx)
{
    struct chunkd *d = ctx;
    uv_async_send(&d->wake);
}

static int write_port_file(const char *path, const char *address)
{
    char *fresh = xasprintf("%s.new", path);
    FILE *f = fopen(fresh, "we");
    int rc = f != NULL && fprintf(f, "%s\n", address) > 0 ? 0 : -errno;
    if (f != NULL && fclose(f) != 0) {
        rc = -errno;
    }
    if (rc == 0 && rename(fresh, path) != 0) {
        rc = -errno;
    }
    free(fresh);
    return rc;
}

static int open_store(struct chunkd *d, const struct config *c)
{
    char text[256];
    struct fragstore_options o = {.dirs = c->disk,
                                  .n_dirs = c->n_disks,
                                  .size_max = c->size_max,
                                  .reserve_percent = c->reserve_percent,
                                  .wake = wake_loop,
                                  .ctx = d};
    uint64_t start = clock_now_ms();
    int rc = fragstore_open(&o, &d->store, text);
    if (rc != 0) {
        fprintf(stderr, "cfs-chunkserver: %s\n", text);
        return rc;
    }
    uint64_t fragments = 0;
    for (unsigned i = 0; i < fragstore_disks(d->store); i++) {
        struct fragstore_disk disk;
        fragstore_disk_get(d->store, i, &disk);
        fragments += disk.state.fragments;
        if (disk.error != 0) {
            log_error("disk left out path=%s error=\"%s\"", disk.path, err_text(disk.error));
        }
    }
    log_info("disks open fragments=%" PRIu64 " ms=%" PRIu64, fragments, clock_now_ms() - start);
    return 0;
}

static void start_loop(struct chunkd *d)
{
    uv_loop_init(&d->loop);
    uv_async_init(&d->loop, &d->wake, on_wake);
    uv_signal_init(&d->loop, &d->term);
    uv_signal_init(&d->loop, &d->interrupt);
    d->wake.data = d->term.data = d->interrupt.data = d;
    timers_init(&d->timers, clock_now_ms());
    d->clock = tcp_clock_start(&d->loop, &d->timers);
    d->payloads = databuf_pool_new(FRAME_PAYLOAD_MAX, PAYLOAD_BUFFERS);
    d->reads = databuf_pool_new(STRIPE_FRAGMENT_MAX, READ_BUFFERS);
    d->transport = tcp_new(&d->loop, &d->timers, d->payloads);
    d->server = server_new(d->transport);
}

static int serve(struct chunkd *d, const struct config *c)
{
    char bound[64];
    int rc = server_listen(d->server, c->listen, bound);
    if (rc != 0) {
        fprintf(stderr, "cfs-chunkserver: cannot listen at %s: %s\n", c->listen, err_text(rc));
        return rc;
    }
    struct heartbeat_options o = {.transport = d->transport,
                                  .server = d->server,
                                  .store = d->store,
                                  .service = d->service,
                                  .addresses = c->meta,
                                  .listen = bound,
                                  .domain = c->domain,
                                  .version = VERSION,
                                  .on_foreign = on_foreign,
                                  .ctx = d};
    rc = heartbeat_start(&o, &d->heartbeat);
    if (rc != 0) {
        fprintf(stderr, "cfs-chunkserver: --meta has no address: %s\n", c->meta);
        return rc;
    }
    rc = c->port_file != NULL ? write_port_file(c->port_file, bound) : 0;
    if (rc != 0) {
        fprintf(stderr, "cfs-chunkserver: cannot write %s: %s\n", c->port_file, err_text(rc));
        return rc;
    }
    log_info("serving address=%s", bound);
    return 0;
}

static void release(struct chunkd *d)
{
    heartbeat_free(d->heartbeat);
    server_free(d->server);
    chunk_service_free(d->service);
    tcp_free(d->transport);
    timers_release(&d->timers);
    databuf_pool_free(d->payloads);
    databuf_pool_free(d->reads);
    uv_loop_close(&d->loop);
}

static int run(struct chunkd *d, const struct config *c)
{
    if (open_store(d, c) != 0) {
        return EXIT_FAILED; /* nothing else is running */
    }
    start_loop(d);
    d->service = chunk_service_new(d->server, &d->timers, d->store, d->reads);
    uv_signal_start(&d->term, on_signal, SIGTERM);
    uv_signal_start(&d->interrupt, on_signal, SIGINT);
    if (serve(d, c) != 0) {
        d->exit_status = EXIT_FAILED;
        stop(d);
    }
    uv_run(&d->loop, UV_RUN_DEFAULT);
    release(d);
    return d->exit_status;
}

int main(int argc, char **argv)
{
    struct config config = {.listen = "127.0.0.1:0", .reserve_percent = RESERVE_DEFAULT};
    static struct chunkd chunkd; /* zeroed; one per process */
    log_set_name("cfs-chunkserver");
    int status = parse(argc, argv, &config);
    if (status >= 0) {
        return status;
    }
    signal(SIGPIPE, SIG_IGN);
    limit_raise();
    return run(&chunkd, &config);
}
