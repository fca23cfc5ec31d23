/* Throws garbage at a server that speaks the frames of docs/protocol.md: random bytes, other
 * protocols, every truncation, wrong versions, huge lengths, flipped bits, frames of every method
 * with random bodies, replies that nobody asked for, connections that stop in the middle of a
 * frame. Bounded: so many threads, one connection each at a time, so many seconds. It does not
 * judge; it tells what it threw, and whether the server still accepts at the end.
 *
 *   throw_garbage HOST:PORT SECONDS [THREADS [SEED]]
 *
 * Prints one line "thrown ..."; exit status 0: the server still accepts and answers a ping, 1: not,
 * 2: usage. */
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    HEADER = 40,
    BUFFER = 1 << 16,
    THREADS_MAX = 64,
    KINDS = 9,
    SEND_MS = 200 /* a server that does not read is left alone after this */
};

struct target {
    struct sockaddr_storage address;
    socklen_t len;
    double until;
};
struct thrower {
    pthread_t thread;
    const struct target *target;
    uint64_t random;
    unsigned long connections, refused, frames, bytes;
};

static uint32_t crc_table[256];

/* Slow and obvious, and our own, so that this program needs nothing of what it tests. */
static void crc_prepare(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) {
            c = (c & 1) != 0 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
        }
        crc_table[i] = c;
    }
}

static uint32_t crc32c(const uint8_t *data, size_t len)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < len; i++) {
        c = crc_table[(c ^ data[i]) & 255] ^ (c >> 8);
    }
    return ~c;
}

static void put(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}

static uint64_t next(struct thrower *t)
{
    uint64_t z = (t->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t below(struct thrower *t, uint64_t bound)
{
    return next(t) % bound;
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void fill(struct thrower *t, uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        at[i] = (uint8_t)next(t);
    }
}

struct head {
    uint8_t kind;
    uint16_t method;
    uint64_t id;
    uint32_t body_len, payload_len, deadline_ms;
};

static void seal(uint8_t *frame, uint32_t body_len)
{
    put(frame + 32, crc32c(frame + HEADER, body_len), 4);
    put(frame + 36, crc32c(frame, 36), 4);
}

/* The body is at frame + 40 already. */
static size_t build(uint8_t *frame, const struct head *h)
{
    put(frame, 0x31534643u, 4);
    frame[4] = 1;
    frame[5] = h->kind;
    put(frame + 6, h->method, 2);
    put(frame + 8, h->id, 8);
    put(frame + 16, h->body_len, 4);
    put(frame + 20, h->payload_len, 4);
    put(frame + 24, 0, 4);
    put(frame + 28, h->deadline_ms, 4);
    seal(frame, h->body_len);
    return HEADER + h->body_len + h->payload_len;
}

static uint16_t some_method(struct thrower *t)
{
    static const uint16_t METHODS[] = {1,   2,   100, 101, 102, 103, 110, 111, 112, 113,  114, 115,
                                       116, 117, 118, 130, 150, 152, 200, 201, 300, 301,  302, 303,
                                       304, 400, 500, 501, 502, 503, 510, 0,   999, 65535};
    return METHODS[below(t, sizeof METHODS / sizeof METHODS[0])];
}

/* A body that looks like protobuf for a while: small field numbers, all wire types, short lengths.
 */
static void plausible_body(struct thrower *t, uint8_t *at, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint8_t type = (uint8_t)below(t, 6);
        at[i++] = (uint8_t)((1 + below(t, 12)) << 3 | type);
        if (i < len && type == 2) {
            at[i++] = (uint8_t)below(t, 24);
        } else if (i < len && type == 0) {
            at[i++] = (uint8_t)below(t, 128);
        }
    }
}

static size_t valid_frame(struct thrower *t, uint8_t *out)
{
    struct head h = {.kind = 1, .method = some_method(t), .id = next(t)};
    h.body_len = (uint32_t)below(t, below(t, 10) == 0 ? 20000 : 120);
    h.payload_len = below(t, 4) == 0 ? (uint32_t)below(t, 30000) : 0;
    h.deadline_ms = (uint32_t)below(t, 1000);
    if (below(t, 2) == 0) {
        plausible_body(t, out + HEADER, h.body_len);
    } else {
        fill(t, out + HEADER, h.body_len);
    }
    fill(t, out + HEADER + h.body_len, h.payload_len);
    return build(out, &h);
}

static size_t make(struct thrower *t, unsigned kind, uint8_t *out)
{
    static const char HTTP[] = "GET /metrics HTTP/1.1\r\nHost: cfs\r\n\r\n";
    size_t len = valid_frame(t, out);
    switch (kind) {
    case 0: /* random bytes */
        len = 1 + below(t, 5000);
        fill(t, out, len);
        break;
    case 1: /* another protocol */
        len = sizeof HTTP - 1;
        memcpy(out, HTTP, len);
        break;
    case 2: /* cut short */
        len = below(t, len);
        break;
    case 3: /* another version, its checksum right */
        out[4] = (uint8_t)below(t, 256);
        put(out + 36, crc32c(out, 36), 4);
        break;
    case 4: /* a huge body, the header right */
        put(out + 16, below(t, 2) == 0 ? UINT32_MAX : (4u << 20) + 1 + below(t, 1u << 30), 4);
        put(out + 36, crc32c(out, 36), 4);
        break;
    case 5: /* a huge payload, or one that never comes */
        put(out + 20, below(t, 2) == 0 ? UINT32_MAX : 1u << 20, 4);
        put(out + 36, crc32c(out, 36), 4);
        break;
    case 6: /* one bit flipped anywhere */
        out[below(t, len)] ^= (uint8_t)(1u << below(t, 8));
        break;
    case 7: /* replies, cancels, events, and kinds that there are not */
        out[5] = (uint8_t)below(t, 8);
        put(out + 36, crc32c(out, 36), 4);
        break;
    default: /* whole and well framed; only its meaning is rubbish */
        break;
    }
    return len;
}

static int dial(const struct target *to)
{
    struct timeval patience = {.tv_usec = SEND_MS * 1000};
    int fd = socket(to->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (const struct sockaddr *)&to->address, to->len) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* What the server answers is read and dropped, so that its side never fills for our sake. */
static int drain(int fd)
{
    uint8_t rubbish[4096];
    ssize_t n;
    while ((n = recv(fd, rubbish, sizeof rubbish, MSG_DONTWAIT)) > 0) {
    }
    return n == 0 || (n < 0 && errno != EAGAIN) ? -1 : 0;
}

/* One connection: frames until the server hangs up, or we do. */
static void throw_at(struct thrower *t, int fd, uint8_t *buffer)
{
    unsigned rounds = 1 + (unsigned)below(t, 20);
    for (unsigned i = 0; i < rounds && now() < t->target->until; i++) {
        unsigned kind = (unsigned)below(t, KINDS);
        size_t len = make(t, kind, buffer);
        ssize_t n = send(fd, buffer, len, MSG_NOSIGNAL);
        t->frames++;
        if (n > 0) {
            t->bytes += (unsigned long)n;
        }
        if (n != (ssize_t)len || drain(fd) != 0) {
            return;
        }
    }
    if (below(t, 8) == 0) {
        usleep(
            (useconds_t)below(t, 100000)); /* left hanging for a moment, perhaps inside a frame */
    }
}

static void *run(void *arg)
{
    struct thrower *t = arg;
    uint8_t *buffer = malloc(BUFFER);
    while (buffer != NULL && now() < t->target->until) {
        int fd = dial(t->target);
        if (fd < 0) {
            t->refused++;
            usleep(20000);
            continue;
        }
        t->connections++;
        throw_at(t, fd, buffer);
        if (below(t, 4) == 0) {
            struct linger reset = {.l_onoff = 1};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        close(fd);
    }
    free(buffer);
    return NULL;
}

static int resolve(const char *where, struct target *out)
{
    char host[256];
    const char *colon = strrchr(where, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    if (colon == NULL || (size_t)(colon - where) >= sizeof host) {
        return -1;
    }
    memcpy(host, where, (size_t)(colon - where));
    host[colon - where] = 0;
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0 || found == NULL) {
        return -1;
    }
    memcpy(&out->address, found->ai_addr, found->ai_addrlen);
    out->len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* Whether a well-behaved caller is still served. */
static int ping(const struct target *to)
{
    uint8_t frame[HEADER], reply[HEADER];
    struct head h = {.kind = 1, .method = 1, .id = 7, .deadline_ms = 5000};
    struct timeval patience = {.tv_sec = 5};
    int fd = dial(to);
    if (fd < 0) {
        return 0;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    int served = send(fd, frame, build(frame, &h), MSG_NOSIGNAL) == HEADER &&
                 recv(fd, reply, HEADER, MSG_WAITALL) == HEADER && reply[5] == 2 && reply[8] == 7;
    close(fd);
    return served;
}

int main(int argc, char **argv)
{
    static struct thrower thrower[THREADS_MAX];
    struct target target = {0};
    int threads = argc > 3 ? atoi(argv[3]) : 4;
    uint64_t seed = argc > 4 ? strtoull(argv[4], NULL, 0) : (uint64_t)time(NULL);
    if (argc < 3 || atof(argv[2]) <= 0 || threads < 1 || threads > THREADS_MAX ||
        resolve(argv[1], &target) != 0) {
        fprintf(stderr, "usage: throw_garbage HOST:PORT SECONDS [THREADS [SEED]]\n");
        return 2;
    }
    crc_prepare();
    target.until = now() + atof(argv[2]);
    for (int i = 0; i < threads; i++) {
        thrower[i] = (struct thrower){.target = &target, .random = seed + (uint64_t)i * 7919};
        if (pthread_create(&thrower[i].thread, NULL, run, &thrower[i]) != 0) {
            return 2;
        }
    }
    struct thrower sum = {0};
    for (int i = 0; i < threads; i++) {
        pthread_join(thrower[i].thread, NULL);
        sum.connections += thrower[i].connections;
        sum.refused += thrower[i].refused;
        sum.frames += thrower[i].frames;
        sum.bytes += thrower[i].bytes;
    }
    int served = ping(&target);
    printf("thrown connections=%lu refused=%lu frames=%lu bytes=%lu seed=%llu server=%s\n",
           sum.connections, sum.refused, sum.frames, sum.bytes, (unsigned long long)seed,
           served ? "serves" : "does-not-serve");
    return served ? 0 : 1;
}
