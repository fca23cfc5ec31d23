/* The tree as a client reads it, in the words of the model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "proto/methods.h"
#include "test/lib/sim_client.h"

enum { READ_MS = 60000 };

struct reading {
    struct session_read read;
    bool done;
    int rc;
    struct buf *reply;
};

static void read_done(struct session_read *r)
{
    struct reading *g = container_of(r, struct reading, read);
    g->done = true;
    g->rc = r->rc;
    buf_add(g->reply, r->reply.data, r->reply.len);
}

static bool reading_going(void *ctx)
{
    return !((struct reading *)ctx)->done;
}

int sim_client_read(struct sim_client *c, uint16_t method, const ProtobufCMessage *m,
                    struct buf *reply)
{
    struct buf body;
    buf_init(&body);
    protobuf_c_message_pack(m, buf_extend(&body, protobuf_c_message_get_packed_size(m)));
    buf_clear(reply);
    struct reading g = {.read = {.method = method, .body = buf_bytes(&body), .on_done = read_done},
                        .reply = reply};
    session_read_start(c->session, &g.read);
    (void)net_sim_run_while(c->net, reading_going, &g, READ_MS);
    if (!g.done) {
        session_read_cancel(&g.read);
        g.rc = ERR_DEADLINE;
    }
    buf_release(&body);
    return g.rc;
}

/* ---- one inode ------------------------------------------------------------------------------ */

static int take_content(struct sim_client *c, struct model_node *n, ProtobufCBinaryData content)
{
    n->content = (unsigned)content.len;
    n->tag = content.len > 0 ? content.data[0] : 0;
    for (size_t i = 0; i < content.len; i++) {
        if (content.data[i] != n->tag) {
            sim_fail(c->report, "inode %llu has mixed content", (unsigned long long)n->ino);
            return ERR_CORRUPT;
        }
    }
    return 0;
}

static int take_extents(struct sim_client *c, struct model_node *n, const Cfs__ExtentsReply *m)
{
    for (size_t i = 0; i < m->n_extent; i++) {
        const Cfs__Extent *e = m->extent[i];
        if (e->kind != 1 || e->offset % MODEL_CELL != 0 || e->length % MODEL_CELL != 0 ||
            e->offset + e->length > (uint64_t)MODEL_CELLS * MODEL_CELL) {
            sim_fail(c->report, "inode %llu has an extent that nobody wrote",
                     (unsigned long long)n->ino);
            return ERR_CORRUPT;
        }
        for (uint64_t at = 0; at < e->length; at += MODEL_CELL) {
            n->cell[(e->offset + at) / MODEL_CELL] =
                (struct model_cell){.pg = e->pg, .id = e->stripe, .at = e->stripe_offset + at};
        }
    }
    return 0;
}

static int read_extents(struct sim_client *c, struct model_node *n)
{
    struct buf reply;
    buf_init(&reply);
    uint64_t at = 0;
    int rc = 0;
    while (rc == 0 && at < (uint64_t)MODEL_CELLS * MODEL_CELL) {
        Cfs__ExtentsRequest q = CFS__EXTENTS_REQUEST__INIT;
        q.session = c->session_number;
        q.ino = n->ino;
        q.offset = at;
        q.length = (uint64_t)MODEL_CELLS * MODEL_CELL - at;
        rc = sim_client_read(c, METHOD_EXTENTS, &q.base, &reply);
        Cfs__ExtentsReply *m =
            rc == 0 ? cfs__extents_reply__unpack(NULL, reply.len, reply.data) : NULL;
        if (m == NULL) {
            rc = rc != 0 ? rc : ERR_MALFORMED;
        } else {
            rc = m->covered_to > at ? take_extents(c, n, m) : ERR_MALFORMED;
            at = m->covered_to;
        }
        cfs__extents_reply__free_unpacked(m, NULL);
    }
    buf_release(&reply);
    return rc;
}

static int read_xattrs(struct sim_client *c, struct model_node *n)
{
    static const char *const names[MODEL_XATTRS] = {"user.a", "user.b"};
    struct buf reply;
    buf_init(&reply);
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < MODEL_XATTRS; i++) {
        Cfs__XattrRequest q = CFS__XATTR_REQUEST__INIT;
        q.session = c->session_number;
        q.ino = n->ino;
        q.has_name = true;
        q.name = (ProtobufCBinaryData){.len = 6, .data = (uint8_t *)(uintptr_t)names[i]};
        rc = sim_client_read(c, METHOD_GETXATTR, &q.base, &reply);
        Cfs__XattrReply *m = rc == 0 ? cfs__xattr_reply__unpack(NULL, reply.len, reply.data) : NULL;
        n->xattr[i] = m != NULL && m->value.len == 1 ? m->value.data[0] : 0;
        cfs__xattr_reply__free_unpacked(m, NULL);
        rc = rc == -61 /* ENODATA */ ? 0 : rc;
    }
    buf_release(&reply);
    return rc;
}

static int read_node(struct sim_client *c, uint64_t ino, struct model_node *n, unsigned *nlink)
{
    struct buf reply;
    buf_init(&reply);
    Cfs__GetattrRequest q = CFS__GETATTR_REQUEST__INIT;
    q.session = c->session_number;
    q.ino = ino;
    int rc = sim_client_read(c, METHOD_GETATTR, &q.base, &reply);
    Cfs__LookupReply *m = rc == 0 ? cfs__lookup_reply__unpack(NULL, reply.len, reply.data) : NULL;
    rc = rc == 0 && m == NULL ? ERR_MALFORMED : rc;
    if (rc == 0) {
        *n = (struct model_node){.ino = ino, .mode = m->attr->mode, .size = m->attr->size};
        *nlink = m->attr->nlink;
        if (S_ISREG(n->mode) && (m->attr->flags & 1) != 0) {
            rc = take_content(c, n, m->content);
        } else if (S_ISREG(n->mode)) {
            rc = read_extents(c, n);
        }
        if (rc == 0 && (m->attr->flags & 2) != 0) {
            rc = read_xattrs(c, n);
        }
    }
    cfs__lookup_reply__free_unpacked(m, NULL);
    buf_release(&reply);
    return rc;
}

/* ---- the tree ------------------------------------------------------------------------------- */

struct names {
    struct {
        char name[8];
        uint64_t ino;
    } v[MODEL_ENTRIES];
    unsigned n;
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int read_names(struct sim_client *c, uint64_t dir, struct names *out)
{
    struct buf reply;
    buf_init(&reply);
    uint64_t after = 0;
    bool end = false;
    int rc = 0;
    out->n = 0;
    while (rc == 0 && !end) {
        Cfs__ReaddirRequest q = CFS__READDIR_REQUEST__INIT;
        q.session = c->session_number;
        q.ino = dir;
        q.after = after;
        q.max_bytes = 300;
        rc = sim_client_read(c, METHOD_READDIR, &q.base, &reply);
        Cfs__ReaddirReply *m =
            rc == 0 ? cfs__readdir_reply__unpack(NULL, reply.len, reply.data) : NULL;
        end = m == NULL || m->end || m->n_entry == 0;
        for (size_t i = 0; m != NULL && i < m->n_entry; i++) {
            const Cfs__ReaddirReply__Entry *e = m->entry[i];
            after = e->hash;
            if (out->n == MODEL_ENTRIES || e->name.len >= sizeof out->v[0].name) {
                rc = ERR_TOO_BIG;
                break;
            }
            memset(out->v[out->n].name, 0, sizeof out->v[0].name);
            memcpy(out->v[out->n].name, e->name.data, e->name.len);
            out->v[out->n++].ino = e->ino;
        }
        cfs__readdir_reply__free_unpacked(m, NULL);
    }
    buf_release(&reply);
    qsort(out->v, out->n, sizeof out->v[0], compare_names);
    return rc;
}

struct walk {
    struct sim_client *client;
    struct buf *out;
    uint64_t *inos;
    unsigned lines;
};

static int walk(struct walk *w, uint64_t dir, const char *path)
{
    struct names *names = xcalloc(1, sizeof *names);
    int rc = read_names(w->client, dir, names);
    for (unsigned i = 0; rc == 0 && i < names->n; i++) {
        char below[512];
        struct model_node n;
        unsigned nlink = 0;
        if (w->lines == MODEL_LINES ||
            snprintf(below, sizeof below, "%s/%s", path, names->v[i].name) >= (int)sizeof below) {
            rc = ERR_TOO_BIG;
            break;
        }
        rc = read_node(w->client, names->v[i].ino, &n, &nlink);
        if (rc == 0) {
            w->inos[w->lines++] = n.ino;
            model_line(w->out, below, &n, nlink);
        }
        if (rc == 0 && S_ISDIR(n.mode)) {
            rc = walk(w, n.ino, below);
        }
    }
    free(names);
    return rc;
}

int sim_client_text(struct sim_client *c, struct buf *out, uint64_t inos[MODEL_LINES])
{
    struct walk w = {.client = c, .out = out, .inos = inos, .lines = 1};
    struct model_node root;
    unsigned nlink = 0;
    const int rc = read_node(c, MODEL_ROOT, &root, &nlink);
    if (rc != 0) {
        return rc;
    }
    inos[0] = MODEL_ROOT;
    model_line(out, "/", &root, nlink);
    return walk(&w, MODEL_ROOT, "");
}
