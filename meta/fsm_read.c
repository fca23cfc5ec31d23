#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "admin.pb-c.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/table.h"
#include "meta/extents.h"
#include "meta/fsm_parts.h"
#include "meta/inodes.h"
#include "meta/locks.h"
#include "meta/namespace.h"
#include "meta/ops.h"
#include "meta/sessions.h"
#include "meta/xattrs.h"
#include "proto/methods.h"

/* Answers to what only looks. The state is that after the last applied entry. */

static void append(struct buf *out, const ProtobufCMessage *m)
{
    protobuf_c_message_pack(m, buf_extend(out, protobuf_c_message_get_packed_size(m)));
}

static int check_session(struct fsm *f, uint64_t session)
{
    struct session s;
    return sessions_get(f, session, &s);
}

/* ---- extents ------------------------------------------------------------------------ */

/* An ExtentsReply under construction; messages are allocated one by one, so that pointers stay
 * valid. The table finds the stripes that are there: a file written at random has as many as
 * extents. */
struct layout {
    Cfs__ExtentsReply m;
    size_t max;
    struct table stripes;
};
struct layout_stripe {
    Cfs__Stripe m; /* first: freed through the reply's list */
    struct table_node node;
};

static void layout_init(struct layout *l, size_t max)
{
    cfs__extents_reply__init(&l->m);
    l->max = max;
    l->m.extent = xcalloc(max, sizeof *l->m.extent);
    l->m.stripe = xcalloc(max, sizeof *l->m.stripe);
    table_init(&l->stripes);
}

static void layout_release(struct layout *l)
{
    for (size_t i = 0; i < l->m.n_extent; i++) {
        free(l->m.extent[i]);
    }
    for (size_t i = 0; i < l->m.n_stripe; i++) {
        free(l->m.stripe[i]);
    }
    free(l->m.extent);
    free(l->m.stripe);
    table_release(&l->stripes);
}

static bool layout_has(const struct layout *l, const struct extent *e, uint64_t hash)
{
    for (struct table_node *n = table_find(&l->stripes, hash); n != NULL; n = table_next_same(n)) {
        const struct layout_stripe *s = container_of(n, struct layout_stripe, node);
        if (s->m.pg == e->pg && s->m.id == e->stripe) {
            return true;
        }
    }
    return false;
}

/* Each stripe once. */
static int layout_add_stripe(struct fsm *f, struct layout *l, const struct extent *e)
{
    uint64_t hash = table_mix2(e->pg, e->stripe);
    if (layout_has(l, e, hash)) {
        return 0;
    }
    struct stripe_row row;
    int rc = stripes_get(f, (struct stripe_id){.pg = e->pg, .id = e->stripe}, &row);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? ERR_CORRUPT : rc;
    }
    struct layout_stripe *added = xmalloc(sizeof *added);
    table_add(&l->stripes, &added->node, hash);
    Cfs__Stripe *s = &added->m;
    cfs__stripe__init(s);
    s->pg = e->pg;
    s->id = e->stripe;
    s->kind = row.kind;
    s->k = row.k;
    s->m = row.m;
    s->slot_mask = row.slot_mask;
    s->length = row.length;
    s->nonce = row.nonce;
    l->m.stripe[l->m.n_stripe++] = s;
    return 0;
}

static int layout_add(struct fsm *f, struct layout *l, const struct extent *e)
{
    Cfs__Extent *x = xmalloc(sizeof *x);
    cfs__extent__init(x);
    x->offset = e->start;
    x->length = e->end - e->start;
    x->kind = e->kind;
    if (e->kind == EXTENT_STRIPE) {
        x->has_pg = x->has_stripe = x->has_stripe_offset = true;
        x->pg = e->pg;
        x->stripe = e->stripe;
        x->stripe_offset = e->stripe_offset;
    }
    l->m.extent[l->m.n_extent++] = x;
    return e->kind == EXTENT_STRIPE ? layout_add_stripe(f, l, e) : 0;
}

/* Extents that overlap [from, to), up to l->max. covered_to tells how far it got. */
static int layout_fill(struct fsm *f, const struct inode *i, struct extent_cut range,
                       struct layout *l)
{
    struct extents_walk w;
    extents_walk_init(&w, f, i, range.from);
    int rc = w.error;
    bool last = false;
    while (rc == 0 && !last && w.valid && w.e.start < range.end && l->m.n_extent < l->max) {
        rc = layout_add(f, l, &w.e);
        last = w.e.end >= range.end;
        if (rc == 0 && !last) { /* leaving a key costs a walk over its former values */
            extents_walk_next(&w);
            rc = w.error;
        }
    }
    bool more = !last && w.valid && w.e.start < range.end;
    l->m.covered_to = more ? w.e.start : range.end;
    extents_walk_release(&w);
    return rc;
}

static int read_extents(struct fsm *f, const Cfs__ExtentsRequest *m, bool with_attr,
                        struct buf *reply)
{
    struct inode i;
    int rc = rows_inode(f, m->ino, &i);
    if (rc < 0) {
        return rc;
    }
    if (m->offset > INT64_MAX) {
        return -EINVAL;
    }
    size_t max = m->has_max && m->max > 0 && m->max < FSM_EXTENTS_MAX ? m->max : FSM_EXTENTS_MAX;
    uint64_t length = m->length > INT64_MAX - m->offset ? INT64_MAX - m->offset : m->length;
    struct layout l;
    layout_init(&l, max);
    rc = layout_fill(f, &i, (struct extent_cut){.from = m->offset, .end = m->offset + length}, &l);
    Cfs__Attr attr;
    if (rc == 0) {
        ops_attr(&i, &attr);
        l.m.attr = with_attr ? &attr : NULL;
        append(reply, &l.m.base);
    }
    layout_release(&l);
    return rc;
}

/* ---- lookup, getattr --------------------------------------------------------------------- */

static int symlink_target(struct fsm *f, const struct inode *i, struct buf *out)
{
    struct key k;
    key_start_ns(&k, i->volume, TABLE_SYMLINK);
    key_add_u64(&k, i->ino);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0 || f->value.len < VALUE_NS_HEADER) {
        return rc < 0 && rc != ERR_NOT_FOUND ? rc : ERR_CORRUPT;
    }
    buf_add(out, f->value.data + VALUE_NS_HEADER, f->value.len - VALUE_NS_HEADER);
    return 0;
}

/* Whatever makes a second round trip needless: inline content, a target, or the extents if they are
 * few. */
static int reply_inode(struct fsm *f, const struct inode *i, struct buf *reply)
{
    Cfs__LookupReply m = CFS__LOOKUP_REPLY__INIT;
    Cfs__Attr attr;
    ops_attr(i, &attr);
    m.attr = &attr;
    struct buf content;
    buf_init(&content);
    struct layout l;
    layout_init(&l, FSM_LOOKUP_EXTENTS);
    int rc = 0;
    if (S_ISLNK(i->mode)) {
        rc = symlink_target(f, i, &content);
        m.has_content = true;
    } else if ((i->flags & INODE_INLINE) != 0) {
        rc = inodes_inline_get(f, i, &content);
        m.has_content = true;
    } else if (S_ISREG(i->mode)) {
        if (i->allocated > 0) {
            rc = layout_fill(f, i, (struct extent_cut){.from = 0, .end = INT64_MAX}, &l);
        } else {
            l.m.covered_to = INT64_MAX;
        }
        m.extents = rc == 0 && l.m.covered_to == INT64_MAX ? &l.m : NULL;
    }
    m.content = (ProtobufCBinaryData){.len = content.len, .data = content.data};
    if (rc == 0) {
        append(reply, &m.base);
    }
    layout_release(&l);
    buf_release(&content);
    return rc;
}

static int read_lookup(struct fsm *f, const Cfs__LookupRequest *m, struct buf *reply)
{
    int rc = check_session(f, m->session);
    struct inode i;
    if (rc == 0) {
        rc = namespace_directory(f, m->parent, &i);
    }
    if (rc < 0) {
        return rc;
    }
    struct bytes name = op_bytes(m->name);
    rc = namespace_check_name(name);
    if (rc == -EEXIST) { /* "." and ".." */
        rc = name.len == 2 ? rows_inode(f, i.parent, &i) : 0;
    } else if (rc == 0) {
        struct dentry_at at = {.volume = i.volume, .parent = i.ino, .name = name};
        struct dentry d;
        rc = namespace_find(f, &at, &d);
        if (rc == 0) {
            rc = rows_inode(f, d.ino, &i);
            rc = rc == -ENOENT ? ERR_CORRUPT : rc;
        }
    }
    return rc < 0 ? rc : reply_inode(f, &i, reply);
}

static int read_getattr(struct fsm *f, const Cfs__GetattrRequest *m, struct buf *reply)
{
    int rc = check_session(f, m->session);
    struct inode i;
    if (rc == 0) {
        rc = rows_inode(f, m->ino, &i);
    }
    return rc < 0 ? rc : reply_inode(f, &i, reply);
}

static int read_statfs(struct fsm *f, const Cfs__GetattrRequest *m, struct buf *reply)
{
    volume_id id;
    struct volume *v;
    int rc = rows_volume_of(f, m->ino, &id);
    if (rc == 0) {
        rc = rows_volume(f, id, &v);
    }
    if (rc < 0) {
        return rc;
    }
    Cfs__StatfsReply r = CFS__STATFS_REPLY__INIT;
    r.total = v->bytes; /* used; the service knows what there is and fills in total and free */
    r.inodes = v->inodes;
    append(reply, &r.base);
    return 0;
}

/* ---- readdir ----------------------------------------------------------------------------------
 */

struct listing {
    struct buf *reply;
    uint64_t last_hash;
    size_t at, max;
    bool plus, end;
};

static size_t entry_weight(size_t name_len, bool plus)
{
    return name_len + (plus ? 128 : 32);
}

static int listing_add(struct fsm *f, struct listing *l, struct bytes key, const struct dentry *d)
{
    Cfs__ReaddirReply__Entry e = CFS__READDIR_REPLY__ENTRY__INIT;
    Cfs__Attr attr;
    e.name =
        (ProtobufCBinaryData){.len = key.len - 26, .data = (uint8_t *)(uintptr_t)(key.data + 26)};
    e.ino = d->ino;
    e.type = d->type;
    e.hash = key_u64_at(key, 18);
    if (l->plus) {
        struct inode i;
        int rc = rows_inode(f, d->ino, &i);
        if (rc < 0) {
            return rc == -ENOENT ? ERR_CORRUPT : rc;
        }
        ops_attr(&i, &attr);
        e.attr = &attr;
    }
    size_t len = protobuf_c_message_get_packed_size(&e.base);
    buf_u8(l->reply, 1 << 3 | 2); /* field 1 of ReaddirReply */
    buf_varint(l->reply, len);
    protobuf_c_message_pack(&e.base, buf_extend(l->reply, len));
    return 0;
}

/* Stops only where the hash changes: a reader goes on behind a hash. */
static int listing_fill(struct fsm *f, struct overlay_scan *s, struct listing *l)
{
    for (; s->valid; overlay_scan_next(s)) {
        uint64_t hash = key_u64_at(s->key, 18);
        if (hash == 0) {
            return ERR_CORRUPT; /* a reader that goes on behind it would begin again */
        }
        if (l->at >= l->max && hash != l->last_hash) {
            return 0;
        }
        struct dentry d;
        int rc = dentry_decode(s->value, &d);
        if (rc == 0) {
            rc = listing_add(f, l, s->key, &d);
        }
        if (rc < 0) {
            return rc;
        }
        l->last_hash = hash;
        l->at += entry_weight(s->key.len - 26, l->plus);
    }
    l->end = s->error == 0;
    return s->error;
}

static int read_readdir(struct fsm *f, const Cfs__ReaddirRequest *m, struct buf *reply)
{
    int rc = check_session(f, m->session);
    struct inode i;
    if (rc == 0) {
        rc = namespace_directory(f, m->ino, &i);
    }
    if (rc < 0) {
        return rc;
    }
    enum { MAX = 1 << 20 };
    struct listing l = {
        .reply = reply, .plus = m->plus, .max = m->max_bytes < MAX ? m->max_bytes : MAX};
    if (l.max == 0) {
        l.max = 1;
    }
    struct key prefix, from;
    namespace_dentry_prefix(&prefix, i.volume, i.ino);
    from = prefix;
    key_add_u64(&from, m->after + 1);
    if (m->after >= INT64_MAX) {
        l.end = true; /* beyond every hash */
    } else {
        struct overlay_scan s;
        overlay_scan_init(&s, f->overlay, key_bytes(&prefix), key_bytes(&from));
        rc = listing_fill(f, &s, &l);
        overlay_scan_release(&s);
    }
    buf_u8(reply, 2 << 3); /* field 2: end */
    buf_u8(reply, l.end);
    return rc;
}

/* ---- xattrs
 * --------------------------------------------------------------------------------------- */

static int read_getxattr(struct fsm *f, const Cfs__XattrRequest *m, struct buf *reply)
{
    int rc = check_session(f, m->session);
    struct inode i;
    if (rc == 0) {
        rc = rows_inode(f, m->ino, &i);
    }
    if (rc < 0) {
        return rc;
    }
    struct buf value;
    buf_init(&value);
    rc = xattrs_get(f, &i, op_bytes(m->name), &value);
    if (rc == 0) {
        Cfs__XattrReply r = CFS__XATTR_REPLY__INIT;
        r.has_value = true;
        r.value = (ProtobufCBinaryData){.len = value.len, .data = value.data};
        append(reply, &r.base);
    }
    buf_release(&value);
    return rc;
}

static int list_name(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f, (void)value;
    struct buf *reply = ctx;
    buf_u8(reply, 2 << 3 | 2); /* field 2 of XattrReply */
    buf_varint(reply, key.len - 18);
    buf_add(reply, key.data + 18, key.len - 18);
    return 0;
}

static int read_listxattr(struct fsm *f, const Cfs__XattrRequest *m, struct buf *reply)
{
    int rc = check_session(f, m->session);
    struct inode i;
    if (rc == 0) {
        rc = rows_inode(f, m->ino, &i);
    }
    if (rc < 0 || i.xattr_bytes == 0) {
        return rc;
    }
    struct key prefix;
    key_start_ns(&prefix, i.volume, TABLE_XATTR);
    key_add_u64(&prefix, i.ino);
    return rows_each(f, &prefix, list_name, reply);
}

/* ---- policy
 * ------------------------------------------------------------------------------------------- */

static int read_policy(struct fsm *f, const Cfs__PolicyRequest *m, struct buf *reply)
{
    struct volume *v;
    int rc = rows_volume(f, 1, &v);
    if (rc == 0 && m->ino != v->root) {
        rc = -EINVAL; /* only a volume's root has one */
    }
    if (rc < 0) {
        return rc;
    }
    Cfs__Policy p = CFS__POLICY__INIT;
    p.k = v->k;
    p.m = v->m;
    p.inline_limit = v->inline_limit;
    append(reply, &p.base);
    return 0;
}

/* ---- dispatch
 * ------------------------------------------------------------------------------------------ */

static const ProtobufCMessageDescriptor *request_descriptor(unsigned method)
{
    switch (method) {
    case METHOD_LOOKUP:
        return &cfs__lookup_request__descriptor;
    case METHOD_GETATTR:
    case METHOD_STATFS:
        return &cfs__getattr_request__descriptor;
    case METHOD_READDIR:
        return &cfs__readdir_request__descriptor;
    case METHOD_GETXATTR:
    case METHOD_LISTXATTR:
        return &cfs__xattr_request__descriptor;
    case METHOD_EXTENTS:
    case METHOD_FILE_LAYOUT:
        return &cfs__extents_request__descriptor;
    case METHOD_GETLK:
        return &cfs__lock_op__descriptor;
    case METHOD_TABLES:
        return &cfs__tables_request__descriptor;
    case METHOD_POLICY_GET:
        return &cfs__policy_request__descriptor;
    default:
        return NULL;
    }
}

static int read_dispatch(struct fsm *f, unsigned method, const void *m, struct buf *reply)
{
    switch (method) {
    case METHOD_LOOKUP:
        return read_lookup(f, m, reply);
    case METHOD_GETATTR:
        return read_getattr(f, m, reply);
    case METHOD_STATFS:
        return read_statfs(f, m, reply);
    case METHOD_READDIR:
        return read_readdir(f, m, reply);
    case METHOD_GETXATTR:
        return read_getxattr(f, m, reply);
    case METHOD_LISTXATTR:
        return read_listxattr(f, m, reply);
    case METHOD_EXTENTS:
    case METHOD_FILE_LAYOUT:
        return read_extents(f, m, method == METHOD_FILE_LAYOUT, reply);
    case METHOD_GETLK:
        return locks_test(f, m, reply);
    case METHOD_TABLES:
        return query_tables(f, reply);
    default:
        return read_policy(f, m, reply);
    }
}

int fsm_read(struct fsm *f, unsigned method, struct bytes request, struct buf *reply)
{
    const ProtobufCMessageDescriptor *d = request_descriptor(method);
    if (d == NULL) {
        return ERR_UNKNOWN_CALL;
    }
    if (!f->cluster.known) {
        return ERR_BUSY; /* not bootstrapped yet */
    }
    ProtobufCMessage *m = protobuf_c_message_unpack(d, NULL, request.len, request.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    size_t before = reply->len;
    int failed = f->failed;
    int rc = read_dispatch(f, method, m, reply);
    f->failed =
        failed; /* an unreadable row is this caller's answer; apply stops when it meets it */
    if (rc < 0) {
        reply->len = before;
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return rc;
}
