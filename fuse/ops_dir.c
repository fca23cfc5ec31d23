/* Directories. A listing is kept per open handle: the last reply of the server, about 64 KiB of entries. It can be fetched
 * again at any time, since a position is a hash: "." is followed by position 1, ".." by 2, an entry by its hash. The
 * server never splits entries of one hash between replies, and neither do we: the kernel would go on
 * behind all of them.
 *
 * The listings of the directories read last, those that one reply held whole, are kept beyond their handles: who opens
 * such a directory again (programs that look for a name in any case read it each time) asks nobody, as long as the
 * lease is held and no change of the directory has begun since.
 *
 * An entry carries attributes to the kernel only while no change of the directory has been under way since it was fetched:
 * else a name that was removed meanwhile would come to life in the kernel's cache. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

enum { LIST_BYTES = 65536, REPLY_BYTES_MAX = 1 << 20, AFTER_DOT = 1, AFTER_DOTDOT = 2 };

/* A reply, shared by the handles that read from it and the kept ones. */
struct listed {
    unsigned refs;
    uint64_t after; /* what was asked for */
    uint64_t mark;  /* of the directory when it was asked for */
    bool plus;
    Cfs__ReaddirReply *reply;
};

struct listing {
    struct table_node node;
    uint64_t fh;
    struct listed *got; /* NULL: nothing */
};

static struct listing *listing_find(struct ops *o, uint64_t fh)
{
    struct table_node *n = table_find(&o->listings, table_mix(fh));
    for (; n != NULL; n = table_next_same(n)) {
        struct listing *l = container_of(n, struct listing, node);
        if (l->fh == fh) {
            return l;
        }
    }
    return NULL;
}

static struct listing *listing_get(struct ops *o, uint64_t fh)
{
    struct listing *l = listing_find(o, fh);
    if (l == NULL) {
        l = xcalloc(1, sizeof *l);
        l->fh = fh;
        table_add(&o->listings, &l->node, table_mix(fh));
    }
    return l;
}

static void listed_unref(struct listed *d)
{
    if (d != NULL && --d->refs == 0) {
        cfs__readdir_reply__free_unpacked(d->reply, NULL);
        free(d);
    }
}

static void listing_set(struct listing *l, struct listed *d)
{
    if (d != NULL) {
        d->refs++;
    }
    listed_unref(l->got);
    l->got = d;
}

static void listing_free(struct table_node *node, void *ctx)
{
    struct ops *o = ctx;
    struct listing *l = container_of(node, struct listing, node);
    listing_set(l, NULL);
    table_remove(&o->listings, &l->node);
    free(l);
}

void ops_dir_release(struct ops *o)
{
    table_walk(&o->listings, listing_free, o);
    for (unsigned i = 0; i < OPS_LISTINGS_KEPT; i++) {
        listed_unref(o->kept[i].listed);
    }
}

/* ---- kept listings ---- */

/* Instead of that of the same directory, or of the one that was used longest ago. */
static void keep(struct ops *o, uint64_t ino, struct listed *d)
{
    struct kept_listing *k = &o->kept[0];
    for (unsigned i = 0; i < OPS_LISTINGS_KEPT; i++) {
        struct kept_listing *other = &o->kept[i];
        if (other->ino == ino) {
            k = other;
            break;
        }
        k = other->used < k->used ? other : k;
    }
    d->refs++;
    listed_unref(k->listed);
    *k = (struct kept_listing){.ino = ino, .used = ++o->kept_clock, .listed = d};
}

/* Attributes come from the inodes: a reply's own may have changed since. */
static bool attributes_known(const struct ops *o, const Cfs__ReaddirReply *r)
{
    for (size_t i = 0; i < r->n_entry; i++) {
        const struct inode *in = itable_find(o->c->itable, r->entry[i]->ino);
        if (in == NULL || !in->attr_valid) {
            return false;
        }
    }
    return true;
}

static struct listed *kept(struct ops *o, uint64_t ino, bool plus)
{
    for (unsigned i = 0; i < OPS_LISTINGS_KEPT; i++) {
        struct kept_listing *k = &o->kept[i];
        if (k->ino == ino && k->listed != NULL) {
            bool good = client_lease_ms(o->c, ino) > 0 &&
                        names_unchanged(o->names, ino, k->listed->mark) &&
                        (!plus || (k->listed->plus && attributes_known(o, k->listed->reply)));
            k->used = ++o->kept_clock;
            return good ? k->listed : NULL;
        }
    }
    return NULL;
}

/* ---- a reply to the kernel ---- */

struct page {
    struct task *t;
    char *buf;
    size_t used, size, group; /* group: where the entries of the current hash begin */
    uint64_t up;              /* what ".." says when names does not know; 0: not asked yet */
    bool plus;
};

static size_t add_entry(struct page *p, const char *name, const struct fuse_entry_param *e,
                        uint64_t position)
{
    char *at = p->buf + p->used;
    size_t left = p->size - p->used;
    if (p->plus) {
        return fuse_add_direntry_plus(p->t->req, at, left, name, e, (off_t)position);
    }
    return fuse_add_direntry(p->t->req, at, left, name, &e->attr, (off_t)position);
}

static bool page_add(struct page *p, const char *name, const struct fuse_entry_param *e,
                     uint64_t position)
{
    size_t n = add_entry(p, name, e, position);
    if (n > p->size - p->used) {
        return false;
    }
    p->used += n;
    return true;
}

/* What ".." names; nothing is above the root of the mount. 0: the server has to be asked. */
static uint64_t parent_of(const struct page *p)
{
    const struct ops *o = p->t->o;
    uint64_t root = o->c->arena->h->root_ino;
    uint64_t up = p->t->ino == root ? root : names_parent(o->names, p->t->ino);
    return up != 0 ? up : p->up;
}

/* "." and ".." never make an entry in the kernel's cache. */
static bool add_dots(struct page *p, uint64_t *position)
{
    struct fuse_entry_param e = {0};
    e.attr.st_mode = S_IFDIR;
    if (*position == 0) {
        e.attr.st_ino = p->t->ino;
        if (!page_add(p, ".", &e, AFTER_DOT)) {
            return false;
        }
        *position = AFTER_DOT;
    }
    if (*position == AFTER_DOT) {
        e.attr.st_ino = parent_of(p);
        if (!page_add(p, "..", &e, AFTER_DOTDOT)) {
            return false;
        }
        *position = AFTER_DOTDOT;
    }
    return true;
}

static void fill_entry(struct ops *o, const Cfs__ReaddirReply__Entry *entry, bool fresh,
                       struct fuse_entry_param *e)
{
    memset(e, 0, sizeof *e);
    if (fresh && entry->attr != NULL) {
        struct inode *in = itable_find(o->c->itable, entry->ino);
        if (in != NULL && in->attr_valid) {
            ops_entry(o, in, e);
            return;
        }
    }
    e->attr.st_ino = entry->ino;
    e->attr.st_mode = entry->type & S_IFMT;
}

/* Adds entries behind the position; false: the page is full. */
static bool add_entries(struct page *p, const struct listed *d, uint64_t *position)
{
    struct ops *o = p->t->o;
    bool fresh = p->plus && names_unchanged(o->names, p->t->ino, d->mark);
    char name[256];
    uint64_t hash = 0;
    for (size_t i = 0; i < d->reply->n_entry; i++) {
        const Cfs__ReaddirReply__Entry *entry = d->reply->entry[i];
        if (entry->hash <= *position && entry->hash != hash) {
            continue;
        }
        if (entry->hash != hash) {
            p->group = p->used;
            hash = entry->hash;
        }
        struct fuse_entry_param e;
        memcpy(name, entry->name.data, entry->name.len);
        name[entry->name.len] = 0;
        fill_entry(o, entry, fresh, &e);
        if (!page_add(p, name, &e, hash)) {
            p->used = p->group; /* all of one hash, or none */
            return false;
        }
        *position = hash;
    }
    return true;
}

static void page_reply(struct page *p)
{
    fuse_reply_buf(p->t->req, p->buf, p->used);
}

/* ---- fetching ---- */

bool ops_listing_valid(const Cfs__ReaddirReply *r, uint64_t after)
{
    uint64_t last = after;
    for (size_t i = 0; i < r->n_entry; i++) {
        const Cfs__ReaddirReply__Entry *e = r->entry[i];
        bool ordered = i == 0 ? e->hash > last : e->hash >= last;
        if (!ordered || e->hash <= AFTER_DOTDOT || e->hash > INT64_MAX || e->name.len == 0 ||
            e->name.len > 255 || memchr(e->name.data, 0, e->name.len) != NULL ||
            memchr(e->name.data, '/', e->name.len) != NULL) {
            return false;
        }
        last = e->hash;
    }
    return r->end || r->n_entry > 0;
}

static void take_entries(struct task *t, struct listed *d)
{
    struct ops *o = t->o;
    bool fresh = names_unchanged(o->names, t->ino, d->mark);
    for (size_t i = 0; i < d->reply->n_entry; i++) {
        const Cfs__ReaddirReply__Entry *e = d->reply->entry[i];
        if (e->attr != NULL && e->attr->ino == e->ino) {
            (void)itable_take_attr(o->c->itable, e->attr);
        }
        if (fresh) {
            names_put(o->names, t->ino, BYTES(e->name.data, e->name.len), e->ino);
            if (S_ISDIR(e->type)) {
                names_set_parent(o->names, e->ino, t->ino);
            }
        }
    }
    if (fresh && d->after == 0 && d->reply->end) {
        names_set_complete(o->names, t->ino, true);
        keep(o, t->ino, d);
    }
}

static void list_more(struct task *t);

static void list_done(struct task *t, int rc, struct bytes body)
{
    Cfs__ReaddirReply *reply =
        rc == 0 ? cfs__readdir_reply__unpack(NULL, body.len, body.data) : NULL;
    if (reply == NULL || !ops_listing_valid(reply, t->offset2)) {
        if (reply != NULL) {
            cfs__readdir_reply__free_unpacked(reply, NULL);
        }
        task_error(t, rc != 0 ? rc : ERR_MALFORMED);
        return;
    }
    struct listed *d = xmalloc(sizeof *d);
    *d = (struct listed){.refs = 1,
                         .after = t->offset2,
                         .mark = t->mark,
                         .plus = t->flags != 0,
                         .reply = reply};
    take_entries(t, d);
    listing_set(listing_get(t->o, t->fi.fh), d);
    listed_unref(d);
    list_more(t);
}

static void list_fetch(struct task *t, uint64_t after)
{
    Cfs__ReaddirRequest request = CFS__READDIR_REQUEST__INIT;
    request.session = session_id(t->o->c->session);
    request.ino = t->ino;
    request.after = after;
    request.max_bytes = LIST_BYTES;
    request.has_plus = 1;
    request.plus = t->flags != 0;
    t->offset2 = after;
    t->mark = names_mark(t->o->names, t->ino);
    task_read(t, METHOD_READDIR, &request.base, list_done);
}

/* Whether the listing says what follows the position: it was asked for from there or before, and goes beyond it. */
static bool covers(const struct listed *d, uint64_t after, bool plus)
{
    if (d == NULL || d->after > after || (plus && !d->plus)) {
        return false;
    }
    size_t n = d->reply->n_entry;
    return d->reply->end || (n > 0 && d->reply->entry[n - 1]->hash > after);
}

/* A rename that was answered meanwhile knows better. A directory without a parent was removed: it
 * is its own. */
static void parent_done(struct task *t, int rc, struct bytes body)
{
    struct ops *o = t->o;
    struct page *p = t->private;
    Cfs__LookupReply *reply = rc == 0 ? cfs__lookup_reply__unpack(NULL, body.len, body.data) : NULL;
    if (reply != NULL) {
        p->up = ops_take_lookup(o, reply)->ino;
        cfs__lookup_reply__free_unpacked(reply, NULL);
        if (names_parent(o->names, t->ino) == 0) {
            names_set_parent(o->names, t->ino, p->up);
        }
    } else if (rc == -ENOENT || rc == ERR_NOT_FOUND) {
        p->up = t->ino;
    } else {
        task_error(t, rc != 0 ? rc : ERR_MALFORMED);
        return;
    }
    list_more(t);
}

static void parent_fetch(struct task *t)
{
    Cfs__LookupRequest request = CFS__LOOKUP_REQUEST__INIT;
    request.session = session_id(t->o->c->session);
    request.parent = t->ino;
    request.name = ops_data(BYTES("..", 2));
    task_read(t, METHOD_LOOKUP, &request.base, parent_done);
}

/* t->private is the page, t->offset the position. */
static void list_more(struct task *t)
{
    struct page *p = t->private;
    struct listing *l = listing_get(t->o, t->fi.fh);
    if (t->offset < AFTER_DOTDOT && parent_of(p) == 0) {
        parent_fetch(t); /* a worker that took over knows no parents */
        return;
    }
    if (!add_dots(p, &t->offset)) {
        page_reply(p);
        return;
    }
    uint64_t after = t->offset == AFTER_DOTDOT ? 0 : t->offset;
    if (!covers(l->got, after, p->plus) && after == 0) {
        listing_set(l, kept(t->o, t->ino, p->plus));
    }
    if (!covers(l->got, after, p->plus)) {
        if (p->used > 0 && t->offset > AFTER_DOTDOT) {
            page_reply(p); /* what there is first; the next call fetches */
        } else {
            list_fetch(t, after);
        }
        return;
    }
    bool room = add_entries(p, l->got, &t->offset);
    if (!room && p->used == 0) {
        task_error(t, -EINVAL);
    } else if (!room || l->got->reply->end || p->used > 0) {
        page_reply(p);
    } else {
        list_more(t);
    }
}

/* The position is the kernel's; 0 begins anew, and so sees what has changed. */
static void list_start(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       const struct fuse_file_info *fi, bool plus)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    if (off < 0) {
        task_error(t, -EINVAL);
        return;
    }
    size = size < REPLY_BYTES_MAX ? size : REPLY_BYTES_MAX;
    struct page *p = xmalloc(sizeof *p + size);
    *p = (struct page){.t = t, .buf = (char *)(p + 1), .size = size, .plus = plus};
    t->private = p;
    t->offset = (uint64_t)off;
    t->flags = plus;
    if (off == 0) {
        listing_set(listing_get(t->o, fi->fh), NULL);
        ops_access_time(t->o, task_pin(t, t->ino), 0);
    }
    list_more(t);
}

void ops_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    list_start(req, ino, size, off, fi, false);
}

void ops_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    list_start(req, ino, size, off, fi, true);
}

/* ---- open, release, sync ---- */

void ops_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    int rc = ops_open_handle(t, task_pin(t, t->ino), ARENA_HANDLE_DIR);
    if (rc != 0) {
        task_error(t, rc);
        return;
    }
    fuse_reply_open(req, &t->fi);
}

void ops_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct task *t = task_begin(req, ino, fi);
    if (t == NULL) {
        return;
    }
    struct listing *l = listing_find(t->o, fi->fh);
    if (l != NULL) {
        listing_free(&l->node, t->o);
    }
    ops_close_handle(t);
    task_error(t, 0);
}

/* Every change of a name is durable before it is answered. */
void ops_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync;
    struct task *t = task_begin(req, ino, fi);
    if (t != NULL) {
        task_error(t, 0);
    }
}
