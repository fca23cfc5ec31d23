#include "fuse/opening.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "fuse/tables.h"
#include "meta.pb-c.h"

enum { OPENING_FEATURE_LEVEL = 1, OPENING_EARLIER_MAX = 4096 };

struct opening {
    struct client *client;
    void (*on_done)(void *ctx, int rc, const char *text);
    void *ctx;
    uint8_t id[16];
    char earlier[OPENING_EARLIER_MAX];
    const char *next_earlier; /* in `earlier`; NULL: none left */
    char host[256], machine[128], boot[64], path[4096], mount_point[4096];
    struct buf packed;
};

/* First line of a file without its newline; false if there is none. */
static bool first_line(const char *path, char *out, size_t out_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, out_bytes - 1);
    if (fd >= 0) {
        close(fd);
    }
    out[n > 0 ? n : 0] = 0;
    out[strcspn(out, "\n")] = 0;
    return out[0] != 0;
}

static void identify(struct opening *o)
{
    if (gethostname(o->host, sizeof o->host - 1) < 0) {
        snprintf(o->host, sizeof o->host, "unknown");
    }
    if (!first_line("/etc/machine-id", o->machine, sizeof o->machine) &&
        !first_line("/var/lib/dbus/machine-id", o->machine, sizeof o->machine)) {
        snprintf(o->machine, sizeof o->machine, "%.120s", o->host);
    }
    if (!first_line("/proc/sys/kernel/random/boot_id", o->boot, sizeof o->boot)) {
        snprintf(o->boot, sizeof o->boot, "unknown");
    }
}

/* 32 hexadecimal digits at `text` into 16 bytes. */
static bool parse_id(const char *text, uint8_t out[16])
{
    for (int i = 0; i < 16; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1) {
            return false;
        }
        out[i] = (uint8_t)byte;
    }
    return true;
}

static void pack(struct opening *o)
{
    Cfs__SessionOpen m = CFS__SESSION_OPEN__INIT;
    uint8_t earlier[16];
    char version[] = "cfs";
    m.client = (ProtobufCBinaryData){.len = sizeof o->id, .data = o->id};
    m.host = o->host;
    m.machine = o->machine;
    m.boot = o->boot;
    m.version = version;
    m.feature_level = OPENING_FEATURE_LEVEL;
    m.mount_point = o->mount_point;
    m.path = o->path;
    m.has_read_only = 1;
    m.read_only = o->client->read_only;
    m.has_pid = 1;
    m.pid = (uint32_t)getpid();
    if (o->next_earlier && parse_id(o->next_earlier, earlier)) {
        m.has_earlier_client = 1;
        m.earlier_client = (ProtobufCBinaryData){.len = sizeof earlier, .data = earlier};
    }
    buf_clear(&o->packed);
    cfs__session_open__pack(&m, buf_extend(&o->packed, cfs__session_open__get_packed_size(&m)));
}

static void finish(struct opening *o, int rc, const char *text)
{
    o->on_done(o->ctx, rc, text);
    buf_release(&o->packed);
    free(o);
}

static int take_reply(struct client *c, struct bytes reply)
{
    char text[64];
    Cfs__SessionOpenReply *m = cfs__session_open_reply__unpack(NULL, reply.len, reply.data);
    if (!m) {
        return ERR_MALFORMED;
    }
    struct arena_header *h = c->arena->h;
    if (m->session == 0 || m->root_ino == 0 || !tables_take_policy(c, m->policy)) {
        cfs__session_open_reply__free_unpacked(m, NULL);
        return ERR_MALFORMED;
    }
    snprintf(text, sizeof text, "%u+%u+%u", c->policy.k, c->policy.m, c->policy.inline_limit);
    int rc = arena_set_option(c->arena, "policy", text);
    h->root_ino = m->root_ino;
    h->volume = m->volume;
    h->next_seq = session_next_seq(c->session);
    arena_publish64(&h->session, m->session);
    cfs__session_open_reply__free_unpacked(m, NULL);
    return rc;
}

void opening_recall_policy(struct client *c)
{
    char text[64];
    unsigned k, m, inline_limit;
    if (arena_option(c->arena, "policy", text, sizeof text) &&
        sscanf(text, "%u+%u+%u", &k, &m, &inline_limit) == 3) {
        c->policy = (struct client_policy){.k = k, .m = m, .inline_limit = inline_limit};
    }
}

static void refusal_text(int rc, struct bytes reply, char *out, size_t out_bytes)
{
    Cfs__Refusal *m = reply.len ? cfs__refusal__unpack(NULL, reply.len, reply.data) : NULL;
    if (m) {
        snprintf(out, out_bytes, "%s", m->text);
        cfs__refusal__free_unpacked(m, NULL);
    } else if (rc == ERR_DEADLINE || rc == ERR_DISCONNECTED) {
        snprintf(out, out_bytes, "no metadata server answers at");
    } else {
        snprintf(out, out_bytes, "%s", err_text(rc));
    }
}

static void on_opened(struct session *s, int rc, struct bytes reply, void *ctx);

static void try_open(struct opening *o)
{
    pack(o);
    session_open(o->client->session, buf_bytes(&o->packed), OPENING_MS, on_opened, o);
}

static void on_opened(struct session *s, int rc, struct bytes reply, void *ctx)
{
    (void)s;
    struct opening *o = ctx;
    char text[OPENING_TEXT_MAX] = "", addresses[256] = "";
    if (rc == ERR_SECOND_MOUNT && o->next_earlier) {
        const char *comma = strchr(o->next_earlier, ',');
        if (comma) {
            o->next_earlier = comma + 1;
            try_open(o);
            return;
        }
    }
    if (rc == 0) {
        rc = take_reply(o->client, reply);
        reply = BYTES(NULL, 0);
    }
    if (rc != 0) {
        refusal_text(rc, reply, text, sizeof text);
        if (rc == ERR_DEADLINE || rc == ERR_DISCONNECTED) {
            size_t used = strlen(text);
            (void)arena_option(o->client->arena, "addresses", addresses, sizeof addresses);
            snprintf(text + used, sizeof text - used, " %s (waited %d s)", addresses,
                     OPENING_MS / 1000);
        }
    }
    finish(o, rc, text);
}

struct opening *opening_start(struct client *c, void (*on_done)(void *ctx, int rc, const char *text),
                              void *ctx)
{
    struct opening *o = xcalloc(1, sizeof *o);
    char id[40] = "";
    o->client = c;
    o->on_done = on_done;
    o->ctx = ctx;
    buf_init(&o->packed);
    identify(o);
    (void)arena_option(c->arena, "client", id, sizeof id);
    (void)parse_id(id, o->id); /* mount.cfs made it; without one it is all zeroes */
    (void)arena_option(c->arena, "path", o->path, sizeof o->path);
    (void)arena_option(c->arena, "mount_point", o->mount_point, sizeof o->mount_point);
    if (arena_option(c->arena, "earlier", o->earlier, sizeof o->earlier)) {
        o->next_earlier = o->earlier;
    }
    try_open(o);
    return o;
}
