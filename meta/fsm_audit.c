#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/table.h"
#include "meta/extents.h"
#include "meta/inodes.h"
#include "meta/stripes.h"

/* Checks everything that is said twice. Most of it needs no memory: rows of one inode or one stripe
 * lie together, and their counterpart is one get away. The counts of names and of holders per inode
 * are gathered in a table first (the one place with memory per file). */

struct tally {
    struct table_node node;
    ino_id ino;
    uint32_t names, holders;
};

struct audit {
    struct fsm *f;
    void (*problem)(void *ctx, const char *text);
    void *ctx;
    int problems;
    struct table tallies;
    uint64_t inodes, bytes, reserved, stripes, stored, garbage, owed, orphans, sessions, locks,
        reaps;
    /* of the rows that are being summed up */
    const struct inode *inode;
    uint64_t sum, count, subdirs, end;
    ino_id last_ino;
    struct stripe_id at;
    struct stripe_row row;
};

static void complain(struct audit *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void complain(struct audit *a, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    a->problems++;
    if (a->problem != NULL) {
        a->problem(a->ctx, text);
    }
}

static void same(struct audit *a, const char *what, uint64_t id, uint64_t said, uint64_t found)
{
    if (said != found) {
        complain(a, "%s of %" PRIu64 ": %" PRIu64 " said, %" PRIu64 " found", what, id, said,
                 found);
    }
}

static struct tally *tally_of(struct audit *a, ino_id ino)
{
    uint64_t hash = table_mix(ino);
    for (struct table_node *n = table_find(&a->tallies, hash); n != NULL; n = table_next_same(n)) {
        struct tally *t = container_of(n, struct tally, node);
        if (t->ino == ino) {
            return t;
        }
    }
    struct tally *t = xcalloc(1, sizeof *t);
    t->ino = ino;
    table_add(&a->tallies, &t->node, hash);
    return t;
}

static void tally_free(struct table_node *node, void *ctx)
{
    (void)ctx;
    free(container_of(node, struct tally, node));
}

static int each(struct audit *a, struct key prefix,
                int (*visit)(struct fsm *f, struct bytes key, struct bytes value, void *ctx))
{
    return rows_each(a->f, &prefix, visit, a);
}

static struct key table_of(uint8_t space, uint8_t table)
{
    struct key k;
    key_start(&k, space, table);
    return k;
}

static struct key rows_of(const struct inode *i, uint8_t table)
{
    struct key k;
    key_start_ns(&k, i->volume, table);
    key_add_u64(&k, i->ino);
    return k;
}

/* ---- tallies ---------------------------------------------------------------------------- */

static int count_name(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    struct dentry d;
    int rc = fsm_note(f, dentry_decode(value, &d));
    if (rc < 0) {
        return rc;
    }
    tally_of(a, d.ino)->names++;
    struct bytes name = BYTES(key.data + 26, key.len - 26);
    if (key_u64_at(key, 18) != key_name_hash(f->cluster.hash_key, name)) {
        complain(a, "name in directory %" PRIu64 " under a wrong hash", key_u64_at(key, 10));
    }
    return 0;
}

static int count_holder(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f, (void)value;
    struct audit *a = ctx;
    tally_of(a, key_u64_at(key, 10))->holders++;
    a->orphans++;
    return 0;
}

/* ---- inodes --------------------------------------------------------------------------------- */

static int sum_extent(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    struct extent e;
    int rc = fsm_note(f, extent_decode(value, key_u64_at(key, key.len - 8), &e));
    if (rc == 0) {
        a->sum += e.end - e.start;
    }
    return rc;
}

static int sum_xattr(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f;
    ((struct audit *)ctx)->sum += key.len - 18 + 1 + value.len - VALUE_NS_HEADER;
    return 0;
}

static int sum_name(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    struct dentry d;
    struct inode child;
    int rc = fsm_note(f, dentry_decode(value, &d));
    if (rc < 0) {
        return rc;
    }
    a->count++;
    a->sum += 24 + key.len - 26;
    if (rows_inode(f, d.ino, &child) != 0) {
        complain(a, "name in directory %" PRIu64 " of no inode %" PRIu64, a->inode->ino, d.ino);
        return 0;
    }
    if ((child.mode & S_IFMT) != d.type) {
        complain(a, "type of inode %" PRIu64 " differs from its name's", d.ino);
    }
    if (S_ISDIR(child.mode)) {
        a->subdirs++;
        same(a, "parent", d.ino, child.parent, a->inode->ino);
    }
    return 0;
}

static int check_directory(struct audit *a, const struct inode *i)
{
    a->inode = i;
    a->sum = a->count = a->subdirs = 0;
    int rc = each(a, rows_of(i, TABLE_DENTRY), sum_name);
    same(a, "entries", i->ino, i->entries, a->count);
    same(a, "directory size", i->ino, i->size, a->sum);
    same(a, "links", i->ino, i->nlink, i->nlink == 0 ? 0 : 2 + a->subdirs);
    if (i->nlink == 0 && a->count > 0) {
        complain(a, "deleted directory %" PRIu64 " has names", i->ino);
    }
    return rc;
}

/* Live extents do not overlap, and lie in stripes that know them. */
static int check_extents(struct audit *a, const struct inode *i)
{
    struct extents_walk w;
    extents_walk_init(&w, a->f, i, 0);
    uint64_t end = 0;
    for (; w.valid; extents_walk_next(&w)) {
        if (w.e.start < end) {
            complain(a, "extents of %" PRIu64 " overlap at %" PRIu64, i->ino, w.e.start);
        }
        end = w.e.end;
    }
    if (end > 0 && (i->flags & INODE_INLINE) != 0) {
        complain(a, "inode %" PRIu64 " has inline content and extents", i->ino);
    }
    int rc = w.error;
    extents_walk_release(&w);
    return rc;
}

static int check_content(struct audit *a, const struct inode *i)
{
    a->sum = 0;
    int rc = each(a, rows_of(i, TABLE_EXTENT), sum_extent);
    uint64_t extents = a->sum;
    struct buf content;
    buf_init(&content);
    if (rc == 0 && (i->flags & INODE_INLINE) != 0) {
        rc = inodes_inline_get(a->f, i, &content);
    }
    same(a, "inline bytes", i->ino, i->inline_bytes, content.len);
    same(a, "allocated", i->ino, i->allocated, extents + content.len);
    if (content.len > i->size) {
        complain(a, "inode %" PRIu64 " has more content than size", i->ino);
    }
    buf_release(&content);
    a->sum = 0;
    if (rc == 0) {
        rc = each(a, rows_of(i, TABLE_XATTR), sum_xattr);
    }
    same(a, "xattr bytes", i->ino, i->xattr_bytes, a->sum);
    return rc == 0 ? check_extents(a, i) : rc;
}

static int check_inode(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    struct inode i = {.volume = key_u64_at(key, 1), .ino = key_u64_at(key, 10)};
    int rc = fsm_note(f, inode_decode(value, &i));
    if (rc < 0) {
        return rc;
    }
    const struct tally *t = tally_of(a, i.ino);
    bool root = i.parent == i.ino;
    if (S_ISDIR(i.mode)) {
        same(a, "names of directory", i.ino, root || i.nlink == 0 ? 0 : 1, t->names);
        rc = check_directory(a, &i);
    } else {
        same(a, "links", i.ino, i.nlink, t->names);
    }
    same(a, "holders", i.ino, i.orphans, t->holders);
    if (i.nlink == 0 && i.orphans == 0) {
        complain(a, "inode %" PRIu64 " has neither names nor holders", i.ino);
    }
    a->inodes++;
    a->bytes += i.allocated;
    return rc == 0 ? check_content(a, &i) : rc;
}

/* Rows of extents whose inode is gone must be on the reap list. */
static int check_owner(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    ino_id ino = key_u64_at(key, 10);
    struct extent e;
    int rc = fsm_note(f, extent_decode(value, key_u64_at(key, 18), &e));
    if (rc < 0) {
        return rc;
    }
    a->reserved += e.kind == EXTENT_RESERVED ? e.end - e.start : 0;
    struct inode i;
    bool dead = rows_inode(f, ino, &i) != 0;
    if (dead) {
        a->bytes += e.end - e.start;
    }
    if (dead && ino != a->last_ino) {
        struct key k = table_of(SPACE_REAP, 'd');
        key_add_u64(&k, key_u64_at(key, 1));
        key_add_u64(&k, ino);
        if (rows_get(f, &k, &f->value) != 0) {
            complain(a, "extents of no inode %" PRIu64, ino);
        }
    }
    a->last_ino = ino;
    struct stripe_row row;
    if (e.kind == EXTENT_STRIPE) {
        rc = stripes_get(f, (struct stripe_id){e.pg, e.stripe}, &row);
        if (rc < 0) {
            complain(a, "extent of %" PRIu64 " in no stripe %u/%" PRIu64, ino, e.pg, e.stripe);
        } else if (e.stripe_offset + (e.end - e.start) > row.length) {
            complain(a, "extent of %" PRIu64 " reaches beyond its stripe", ino);
        }
    }
    return 0;
}

/* ---- stripes ------------------------------------------------------------------------------------
 */

enum { REFERRER_KEY = 38, REFERRER_HISTORY_KEY = 46 };

static int check_referrer(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)value;
    struct audit *a = ctx;
    struct key k;
    key_start_ns(&k, key_u64_at(key, 14), TABLE_EXTENT);
    key_add_u64(&k, key_u64_at(key, 22));
    key_add_u64(&k, key_u64_at(key, 30));
    if (key.len == REFERRER_HISTORY_KEY) {
        struct key h;
        key_history(&h, key_bytes(&k), key_u64_at(key, 38));
        k = h;
    }
    struct extent e = {.pg = 0};
    int rc = rows_get(f, &k, &f->value);
    if (rc == 0) {
        rc = extent_decode(buf_bytes(&f->value), key_u64_at(key, 30), &e);
    }
    if (rc < 0 || e.kind != EXTENT_STRIPE || e.pg != a->at.pg || e.stripe != a->at.id) {
        complain(a, "stripe %u/%" PRIu64 " refers back to no extent", a->at.pg, a->at.id);
        return 0;
    }
    a->count++;
    a->sum += e.end - e.start;
    return 0;
}

static int check_stripe(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    a->at = (struct stripe_id){.pg = get_be32(key.data + 2), .id = key_u64_at(key, 6)};
    int rc = fsm_note(f, stripe_row_decode(value, &a->row));
    if (rc < 0) {
        return rc;
    }
    struct key prefix = table_of(SPACE_STRIPE, 'r');
    key_add_u32(&prefix, a->at.pg);
    key_add_u64(&prefix, a->at.id);
    a->sum = a->count = 0;
    rc = each(a, prefix, check_referrer);
    same(a, "references of stripe", a->at.id, a->row.refs, a->count);
    same(a, "live bytes of stripe", a->at.id, a->row.live_bytes, a->sum);
    if (a->row.refs == 0) {
        complain(a, "stripe %u/%" PRIu64 " without references", a->at.pg, a->at.id);
    }
    struct stripe_code code = {.kind = a->row.kind, .k = a->row.k, .m = a->row.m};
    a->stripes++;
    a->stored += stripe_stored_bytes(code, a->row.length);
    return rc;
}

/* Dead or granted ids are not alive. */
static int check_range(struct audit *a, uint32_t pg, uint64_t first, uint64_t last,
                       const char *what)
{
    struct key prefix = table_of(SPACE_STRIPE, 's');
    key_add_u32(&prefix, pg);
    struct key from = prefix;
    key_add_u64(&from, first);
    struct overlay_scan s;
    overlay_scan_init(&s, a->f->overlay, key_bytes(&prefix), key_bytes(&from));
    if (s.valid && key_u64_at(s.key, 6) <= last) {
        complain(a, "live stripe %u/%" PRIu64 " is %s too", pg, key_u64_at(s.key, 6), what);
    }
    int rc = s.error;
    overlay_scan_release(&s);
    return rc;
}

/* The number that is the value of many rows. */
static int number_of(struct fsm *f, struct bytes value, uint64_t *out)
{
    if (value.len != 9 || value.data[0] != VALUE_VERSION) {
        return fsm_note(f, ERR_CORRUPT);
    }
    *out = get_le64(value.data + 1);
    return 0;
}

static int check_garbage(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    uint64_t first = 0, last = key_u64_at(key, 6);
    int rc = number_of(f, value, &first);
    if (rc < 0) {
        return rc;
    }
    a->garbage += last - first + 1;
    return check_range(a, get_be32(key.data + 2), first, last, "garbage");
}

/* Nor are those that one server has still to delete; nobody else has. */
static int check_owed(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    uint32_t pg = get_be32(key.data + 6);
    uint64_t first = 0, last = key_u64_at(key, 10);
    int rc = number_of(f, value, &first);
    if (rc < 0) {
        return rc;
    }
    a->count += last - first + 1;
    struct key prefix = table_of(SPACE_STRIPE, 'g'), from;
    key_add_u32(&prefix, pg);
    from = prefix;
    key_add_u64(&from, first);
    struct overlay_scan s;
    overlay_scan_init(&s, f->overlay, key_bytes(&prefix), key_bytes(&from));
    uint64_t dead = UINT64_MAX;
    rc = s.valid ? number_of(f, s.value, &dead) : s.error;
    if (s.valid && dead <= last) {
        complain(a, "ids %u/%" PRIu64 "... are owed by one server and by all", pg, first);
    }
    overlay_scan_release(&s);
    return rc < 0 ? rc : check_range(a, pg, first, last, "owed");
}

static int check_owed_count(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct audit *a = ctx;
    uint64_t said = 0;
    uint32_t server = get_be32(key.data + 2);
    struct key prefix;
    stripes_owed_prefix(&prefix, server);
    a->count = 0;
    int rc = number_of(f, value, &said);
    rc = rc < 0 ? rc : each(a, prefix, check_owed);
    same(a, "ids owed", server, said, a->count);
    a->owed += a->count;
    return rc;
}

/* All that is owed is in some server's count. */
static int check_all_owed(struct audit *a)
{
    int rc = each(a, table_of(SPACE_STRIPE, 'c'), check_owed_count);
    a->count = 0;
    rc = rc < 0 ? rc : each(a, table_of(SPACE_STRIPE, 'o'), check_owed);
    same(a, "ids owed by all servers", 0, a->owed, a->count);
    return rc;
}

static int check_grant(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    uint32_t pg = get_be32(key.data + 10);
    uint64_t first = 0;
    int rc = number_of(f, value, &first);
    return rc < 0 ? rc : check_range(ctx, pg, first, key_u64_at(key, 14), "granted");
}

/* ---- counts
 * ------------------------------------------------------------------------------------------ */

static int count_row(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f, (void)key, (void)value;
    ((struct audit *)ctx)->count++;
    return 0;
}

/* version, count of held locks ... */
static int count_locks(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f, (void)key;
    struct cursor c = cursor_of(value);
    (void)cursor_u8(&c);
    ((struct audit *)ctx)->locks += cursor_varint(&c);
    return 0;
}

static int count_rows(struct audit *a, uint8_t space, uint8_t table, uint64_t *out)
{
    a->count = 0;
    int rc = each(a, table_of(space, table), count_row);
    *out += a->count;
    return rc;
}

static int check_counts(struct audit *a)
{
    int rc = count_rows(a, SPACE_SESSION, 's', &a->sessions);
    rc = rc < 0 ? rc : each(a, table_of(SPACE_LOCK, 'l'), count_locks);
    rc = rc < 0 ? rc : count_rows(a, SPACE_REAP, 'c', &a->reaps);
    rc = rc < 0 ? rc : count_rows(a, SPACE_REAP, 'd', &a->reaps);
    rc = rc < 0 ? rc : count_rows(a, SPACE_REAP, 's', &a->reaps);
    const uint64_t *v = a->f->counters.v;
    same(a, "count of stripes", 0, v[COUNT_STRIPES], a->stripes);
    same(a, "stored bytes", 0, v[COUNT_STORED_BYTES], a->stored);
    same(a, "reserved bytes", 0, v[COUNT_RESERVED_BYTES], a->reserved);
    same(a, "count of garbage", 0, v[COUNT_GARBAGE_IDS], a->garbage);
    same(a, "count of orphans", 0, v[COUNT_ORPHANS], a->orphans);
    same(a, "count of sessions", 0, v[COUNT_SESSIONS], a->sessions);
    same(a, "count of locks", 0, v[COUNT_LOCKS], a->locks);
    same(a, "count of reaps", 0, v[COUNT_REAPS], a->reaps);
    return rc;
}

static int check_volume(struct audit *a, volume_id id)
{
    struct key k;
    key_start_ns(&k, id, TABLE_DENTRY);
    int rc = each(a, k, count_name);
    key_start_ns(&k, id, TABLE_INODE);
    rc = rc < 0 ? rc : each(a, k, check_inode);
    key_start_ns(&k, id, TABLE_EXTENT);
    rc = rc < 0 ? rc : each(a, k, check_owner);
    struct volume *v;
    rc = rc < 0 ? rc : rows_volume(a->f, id, &v);
    if (rc == 0) {
        same(a, "inodes of volume", id, v->inodes, a->inodes);
        same(a, "bytes of volume", id, v->bytes, a->bytes);
    }
    return rc;
}

int fsm_audit(struct fsm *f, void (*problem)(void *ctx, const char *text), void *ctx)
{
    if (!f->cluster.known) {
        return 0;
    }
    struct audit a = {.f = f, .problem = problem, .ctx = ctx};
    int failed = f->failed;
    table_init(&a.tallies);
    int rc = each(&a, table_of(SPACE_SESSION, 'o'), count_holder);
    rc = rc < 0 ? rc : check_volume(&a, 1);
    rc = rc < 0 ? rc : each(&a, table_of(SPACE_STRIPE, 's'), check_stripe);
    rc = rc < 0 ? rc : each(&a, table_of(SPACE_STRIPE, 'g'), check_garbage);
    rc = rc < 0 ? rc : check_all_owed(&a);
    rc = rc < 0 ? rc : each(&a, table_of(SPACE_SESSION, 'g'), check_grant);
    rc = rc < 0 ? rc : check_counts(&a);
    table_walk(&a.tallies, tally_free, NULL);
    table_release(&a.tallies);
    f->failed = failed;
    return rc < 0 ? rc : a.problems;
}
