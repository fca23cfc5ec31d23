/* cfs stat PATH: where a file lies. The layout comes from the metadata server (METHOD_FILE_LAYOUT),
 * health from asking every chunk server that should have a fragment, one after another: one round
 * trip each. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/err.h"
#include "chunk.pb-c.h"
#include "common.pb-c.h"
#include "ec/stripe.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "tools/ask.h"
#include "tools/cluster.h"
#include "tools/cmd.h"
#include "tools/json.h"

enum { EXTENTS_AT_ONCE = 1000, INLINE_FLAG = 1, FRAGMENT_TIMEOUT_MS = 3000 };

enum health { HEALTH_GOOD, HEALTH_MISSING, HEALTH_CORRUPT, HEALTH_UNREACHABLE, HEALTH_VACANT };
static const char *const HEALTH[] = {"good", "missing", "corrupt", "unreachable", "vacant"};

struct stat_run {
    const struct cmd *c;
    struct ask *ask;
    Cfs__TablesReply *tables;
    struct json *json; /* NULL: for people */
    unsigned good, bad;
    unsigned lost;    /* stripes with fewer good fragments than they need */
    uint64_t seen_id; /* stripes come once per extent: the last one shown */
    uint32_t seen_pg;
};

static const Cfs__PgRow *find_pg(const struct stat_run *r, uint32_t id)
{
    for (size_t i = 0; i < r->tables->n_pg; i++) {
        if (r->tables->pg[i]->id == id) {
            return r->tables->pg[i];
        }
    }
    return NULL;
}

static const char *address_of(const struct stat_run *r, uint32_t server)
{
    for (size_t i = 0; i < r->tables->n_server; i++) {
        if (r->tables->server[i]->id == server) {
            return r->tables->server[i]->address;
        }
    }
    return NULL;
}

/* ---- fragments ---- */

static int ask_fragment(struct stat_run *r, const char *address, unsigned method,
                        const Cfs__FragmentGet *g, struct bytes *reply)
{
    struct buf body;
    buf_init(&body);
    size_t n = cfs__fragment_get__get_packed_size(g);
    cfs__fragment_get__pack(g, buf_extend(&body, n));
    int rc = ask_at(r->ask, address, method, buf_bytes(&body), FRAGMENT_TIMEOUT_MS, reply);
    buf_release(&body);
    return rc;
}

/* Every byte against the checksums that were stored with it. */
static bool payload_good(struct bytes payload, const Cfs__FragmentGetReply *g)
{
    if (payload.len != g->fragment_bytes || g->n_crc != stripe_crc_blocks(g->fragment_bytes)) {
        return false;
    }
    for (size_t i = 0; i < g->n_crc; i++) {
        size_t at = i * STRIPE_CRC_BLOCK;
        size_t len = payload.len - at < STRIPE_CRC_BLOCK ? payload.len - at : STRIPE_CRC_BLOCK;
        if (crc32c(0, payload.data + at, len) != g->crc[i]) {
            return false;
        }
    }
    return true;
}

static enum health health_of_rc(int rc)
{
    return rc == 0                                ? HEALTH_GOOD
           : rc == ERR_NOT_FOUND || rc == -ENOENT ? HEALTH_MISSING
           : rc == ERR_CORRUPT || rc == -EIO      ? HEALTH_CORRUPT
                                                  : HEALTH_UNREACHABLE;
}

static enum health look_at_fragment(struct stat_run *r, const Cfs__Stripe *s, unsigned slot,
                                    const char *address, char disk[256])
{
    Cfs__FragmentGet g = CFS__FRAGMENT_GET__INIT;
    g.pg = s->pg;
    g.id = s->id;
    g.slot = slot;
    g.has_nonce = 1;
    g.nonce = s->nonce;
    struct bytes reply;
    int rc = ask_fragment(r, address, METHOD_FRAGMENT_STAT, &g, &reply);
    if (rc != 0) {
        return health_of_rc(rc);
    }
    Cfs__FragmentInfo *info = cfs__fragment_info__unpack(NULL, reply.len, reply.data);
    if (info != NULL && info->disk != NULL) {
        snprintf(disk, 256, "%s", info->disk);
    }
    cfs__fragment_info__free_unpacked(info, NULL);
    if (!r->c->verify) {
        return HEALTH_GOOD;
    }
    rc = ask_fragment(r, address, METHOD_FRAGMENT_GET, &g, &reply);
    Cfs__FragmentGetReply *got =
        rc == 0 ? cfs__fragment_get_reply__unpack(NULL, reply.len, reply.data) : NULL;
    bool whole = got != NULL && payload_good(ask_payload(r->ask), got);
    cfs__fragment_get_reply__free_unpacked(got, NULL);
    return rc != 0 ? health_of_rc(rc) : whole ? HEALTH_GOOD : HEALTH_CORRUPT;
}

static void show_fragment(struct stat_run *r, unsigned fragment, unsigned slot, uint32_t server,
                          const char *address, const char *disk, enum health health)
{
    if (r->json == NULL) {
        printf("      fragment %-2u  slot %-2u  server %-3u %-21s %-11s %s\n", fragment, slot,
               server, address != NULL ? address : "-", HEALTH[health], disk);
        return;
    }
    json_open(r->json, NULL, '{');
    json_number(r->json, "fragment", fragment);
    json_number(r->json, "slot", slot);
    json_number(r->json, "server", server);
    json_text(r->json, "address", address);
    json_text(r->json, "disk", disk);
    json_text(r->json, "health", HEALTH[health]);
    json_close(r->json, '}');
}

static void show_fragments(struct stat_run *r, const Cfs__Stripe *s)
{
    const Cfs__PgRow *pg = find_pg(r, s->pg);
    unsigned good = 0, needed = s->kind == STRIPE_COPY ? 1 : s->k;
    unsigned n = s->kind == STRIPE_COPY ? s->m + 1 : s->k + s->m;
    if (r->json != NULL) {
        json_open(r->json, "fragments", '[');
    }
    for (unsigned i = 0; i < n; i++) {
        int slot = stripe_slot_of(s->slot_mask, i);
        uint32_t server = pg != NULL && slot >= 0 && (size_t)slot < pg->n_slot ? pg->slot[slot] : 0;
        const char *address = server != 0 ? address_of(r, server) : NULL;
        char disk[256] = "";
        enum health health =
            address != NULL ? look_at_fragment(r, s, (unsigned)slot, address, disk) : HEALTH_VACANT;
        good += health == HEALTH_GOOD;
        r->good += health == HEALTH_GOOD;
        r->bad += health != HEALTH_GOOD;
        show_fragment(r, i, (unsigned)slot, server, address, disk, health);
    }
    r->lost += good < needed;
    if (r->json != NULL) {
        json_close(r->json, ']');
        json_number(r->json, "good", good);
        json_number(r->json, "needed", needed);
    }
}

/* ---- extents ---- */

static const Cfs__Stripe *find_stripe(const Cfs__ExtentsReply *e, const Cfs__Extent *x)
{
    for (size_t i = 0; i < e->n_stripe; i++) {
        if (e->stripe[i]->pg == x->pg && e->stripe[i]->id == x->stripe) {
            return e->stripe[i];
        }
    }
    return NULL;
}

static void stripe_text(const Cfs__Stripe *s, char out[64])
{
    if (s->kind == STRIPE_COPY) {
        snprintf(out, 64, "COPY(%u)", s->m + 1);
    } else {
        snprintf(out, 64, "RS(%u,%u)", s->k, s->m);
    }
}

static void people_extent(struct stat_run *r, const Cfs__Extent *x, const Cfs__Stripe *s)
{
    char encoding[64] = "reserved";
    if (s == NULL) {
        printf("  %14" PRIu64 " %12" PRIu64 "  %s\n", x->offset, x->length, encoding);
        return;
    }
    stripe_text(s, encoding);
    printf("  %14" PRIu64 " %12" PRIu64 "  %-9s stripe %u/%" PRIu64 " from %" PRIu64 ", %" PRIu64
           " bytes%s\n",
           x->offset, x->length, encoding, s->pg, s->id, x->stripe_offset, s->length,
           s->pg == r->seen_pg && s->id == r->seen_id ? " (as above)" : "");
    if (s->pg != r->seen_pg || s->id != r->seen_id) {
        show_fragments(r, s);
    }
    r->seen_pg = s->pg;
    r->seen_id = s->id;
}

static void json_extent(struct stat_run *r, const Cfs__Extent *x, const Cfs__Stripe *s)
{
    char encoding[64] = "";
    struct json *j = r->json;
    json_open(j, NULL, '{');
    json_number(j, "offset", x->offset);
    json_number(j, "length", x->length);
    json_text(j, "kind", s != NULL ? "stripe" : "reserved");
    if (s != NULL) {
        stripe_text(s, encoding);
        json_number(j, "pg", s->pg);
        json_number(j, "stripe", s->id);
        json_number(j, "stripe_offset", x->stripe_offset);
        json_number(j, "stripe_length", s->length);
        json_text(j, "encoding", encoding);
        json_number(j, "k", s->k);
        json_number(j, "m", s->m);
        show_fragments(r, s);
    }
    json_close(j, '}');
}

static void show_attr(struct stat_run *r, const char *path, const Cfs__Attr *a)
{
    bool is_inline = a->has_flags && (a->flags & INLINE_FLAG) != 0;
    if (r->json == NULL) {
        printf("%s\n  inode %" PRIu64 ", %" PRIu64 " bytes, %" PRIu64
               " allocated, mode %o, %u links%s\n",
               path, a->ino, a->size, a->allocated, a->mode, a->nlink,
               is_inline ? ", content in the metadata" : "");
        return;
    }
    json_text(r->json, "path", path);
    json_number(r->json, "ino", a->ino);
    json_number(r->json, "size", a->size);
    json_number(r->json, "allocated", a->allocated);
    json_number(r->json, "mode", a->mode);
    json_number(r->json, "nlink", a->nlink);
    json_number(r->json, "change", a->change);
    json_bool(r->json, "inline", is_inline);
    json_open(r->json, "extents", '[');
}

/* Stripes are looked for as they say, so what they say has to be possible. */
static bool layout_possible(const Cfs__ExtentsReply *e)
{
    for (size_t i = 0; e != NULL && i < e->n_stripe; i++) {
        const Cfs__Stripe *s = e->stripe[i];
        const struct stripe_code code = {
            .kind = (uint8_t)s->kind, .k = (uint8_t)s->k, .m = (uint8_t)s->m};
        if (s->kind > UINT8_MAX || s->k > UINT8_MAX || s->m > UINT8_MAX ||
            !stripe_code_valid(code)) {
            return false;
        }
    }
    return e != NULL;
}

static Cfs__ExtentsReply *fetch(struct stat_run *r, uint64_t ino, uint64_t from)
{
    Cfs__ExtentsRequest request = CFS__EXTENTS_REQUEST__INIT;
    request.session = 0; /* an administrator has none */
    request.ino = ino;
    request.offset = from;
    request.length = INT64_MAX - from;
    request.has_max = 1;
    request.max = EXTENTS_AT_ONCE;
    struct bytes reply;
    if (cmd_call(r->ask, METHOD_FILE_LAYOUT, &request.base, &reply) != 0) {
        return NULL;
    }
    Cfs__ExtentsReply *e = cfs__extents_reply__unpack(NULL, reply.len, reply.data);
    if (!layout_possible(e)) {
        (void)cmd_fail("the layout that was sent does not decode");
        cfs__extents_reply__free_unpacked(e, NULL);
        return NULL;
    }
    return e;
}

static int show_layout(struct stat_run *r, const char *path, uint64_t ino)
{
    bool first = true;
    for (uint64_t from = 0; from < INT64_MAX;) {
        Cfs__ExtentsReply *e = fetch(r, ino, from);
        if (e == NULL || (first && e->attr == NULL)) {
            cfs__extents_reply__free_unpacked(e, NULL);
            return e == NULL ? CMD_FAILED : cmd_fail("the layout that was sent has no attributes");
        }
        if (first) {
            show_attr(r, path, e->attr);
        }
        for (size_t i = 0; i < e->n_extent; i++) {
            (r->json != NULL ? json_extent : people_extent)(r, e->extent[i],
                                                            find_stripe(e, e->extent[i]));
        }
        bool more = e->covered_to > from && e->n_extent > 0;
        from = e->covered_to;
        first = false;
        cfs__extents_reply__free_unpacked(e, NULL);
        if (!more) {
            break;
        }
    }
    return CMD_GOOD;
}

static int fetch_tables(struct stat_run *r)
{
    Cfs__TablesRequest request = CFS__TABLES_REQUEST__INIT;
    struct bytes reply;
    if (cmd_call(r->ask, METHOD_TABLES, &request.base, &reply) != 0) {
        return CMD_FAILED;
    }
    r->tables = cfs__tables_reply__unpack(NULL, reply.len, reply.data);
    return r->tables != NULL ? CMD_GOOD
                             : cmd_fail("the table of servers that was sent does not decode");
}

static int run(struct stat_run *r, const char *path, uint64_t ino)
{
    int status = fetch_tables(r);
    if (status != CMD_GOOD) {
        return status;
    }
    struct json j;
    json_init(&j);
    if (r->c->json) {
        r->json = &j;
        json_open(&j, NULL, '{');
    }
    status = show_layout(r, path, ino);
    if (status == CMD_GOOD) {
        status = r->bad > 0 ? CMD_DEGRADED : CMD_GOOD;
        if (r->json == NULL && r->good + r->bad > 0) {
            printf("  %u fragments good, %u not%s\n", r->good, r->bad,
                   r->lost > 0 ? ": SOME DATA CANNOT BE READ NOW" : "");
        } else if (r->json != NULL) {
            json_close(&j, ']');
            json_number(&j, "good", r->good);
            json_number(&j, "bad", r->bad);
            json_number(&j, "unreadable_stripes", r->lost);
            json_close(&j, '}');
            json_print(&j);
        }
    }
    r->json = NULL;
    json_release(&j);
    return status;
}

static void write_out(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0 || fsync(fd) != 0) {
        fprintf(stderr, "cfs: %s was not written out: %s\n", path, err_text(-errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

int cmd_stat(const struct cmd *c)
{
    struct cluster_mount m;
    struct stat st;
    if (c->argc != 1) {
        return cmd_usage("stat takes one PATH");
    }
    int rc = cluster_mount_of(c->argv[0], &m);
    if (rc != 0) {
        return cmd_fail("%s: %s", c->argv[0], rc == -ENODEV ? "not in a CFS mount" : err_text(rc));
    }
    if (c->sync) {
        write_out(c->argv[0]);
    }
    if (lstat(c->argv[0], &st) != 0) {
        return cmd_fail("%s: %s", c->argv[0], err_text(-errno));
    }
    struct stat_run r = {.c = c, .ask = ask_new(c->cluster != NULL ? c->cluster : m.addresses)};
    int status = run(&r, c->argv[0], st.st_ino);
    cfs__tables_reply__free_unpacked(r.tables, NULL);
    ask_free(r.ask);
    return status;
}
