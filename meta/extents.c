#include "meta/extents.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "meta/sessions.h"
#include "meta/stripes.h"

/* An extent's key is its end: the first extent that reaches beyond an offset is one seek away (the
 * store has no way back), and cutting an extent from the left keeps its key.
 *
 * Clearing a range with more extents than one entry may free leaves a *cut*: (range, serial). Each
 * extent carries the volume's serial of its commit; a cut takes a new serial; an extent inside a
 * cut's range with a lower serial is dead: no walk shows it, though it is still stored and counted.
 * New extents in the range have the cut's serial or a higher one and live. So the effect is
 * immediate, and ENTRY_REAP frees the dead ones at leisure. Extents are split at the edges of a cut
 * before it is made: none is half dead. A live extent may end where a dead one ended: they would
 * have one key, so the dead one is freed first.
 *
 * A deleted inode with more than that leaves a *dead inode* row; the number is never used again. */

static void extent_prefix(struct key *k, volume_id volume, ino_id ino)
{
    key_start_ns(k, volume, TABLE_EXTENT);
    key_add_u64(k, ino);
}

static void extent_key(struct key *k, const struct inode *i, uint64_t end)
{
    extent_prefix(k, i->volume, i->ino);
    key_add_u64(k, end);
}

static void cut_prefix(struct key *k, volume_id volume, ino_id ino)
{
    key_start(k, SPACE_REAP, 'c');
    key_add_u64(k, volume);
    key_add_u64(k, ino);
}

static uint64_t extent_bytes(const struct extent *e)
{
    return e->end - e->start;
}

static uint64_t reserved_bytes(const struct extent *e)
{
    return e != NULL && e->kind == EXTENT_RESERVED ? extent_bytes(e) : 0;
}

/* ---- cuts ------------------------------------------------------------------------ */

struct cut_row {
    struct extent_cut cut;
    uint64_t cursor; /* extents that end at or before it are done */
};

static void cut_put(struct fsm *f, const struct inode *i, const struct cut_row *r)
{
    struct key k;
    cut_prefix(&k, i->volume, i->ino);
    key_add_u64(&k, r->cut.from);
    key_add_u64(&k, r->cut.serial);
    buf_clear(&f->scratch);
    buf_u8(&f->scratch, VALUE_VERSION);
    buf_le64(&f->scratch, r->cut.end);
    buf_le64(&f->scratch, r->cursor);
    rows_put_reap(f, &k, buf_bytes(&f->scratch));
}

static int cut_decode(struct bytes key, struct bytes value, struct cut_row *out)
{
    struct cursor c = cursor_of(value);
    if (cursor_u8(&c) != VALUE_VERSION) {
        return ERR_CORRUPT;
    }
    *out = (struct cut_row){.cut.from = key_u64_at(key, 18), .cut.end = cursor_le64(&c)};
    out->cut.serial = key_u64_at(key, 26);
    out->cursor = cursor_le64(&c);
    return c.bad || c.at != c.end ? ERR_CORRUPT : 0;
}

static void cut_drop(struct fsm *f, struct inode *i, const struct extent_cut *cut)
{
    struct key k;
    cut_prefix(&k, i->volume, i->ino);
    key_add_u64(&k, cut->from);
    key_add_u64(&k, cut->serial);
    rows_delete(f, &k);
    i->cuts--;
    *fsm_counter(f, COUNT_REAPS) -= 1;
}

struct cut_list {
    struct extent_cut *cuts;
    size_t n;
};

static int cut_collect(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct cut_list *l = ctx;
    struct cut_row r;
    int rc = fsm_note(f, cut_decode(key, value, &r));
    if (rc < 0) {
        return rc;
    }
    l->cuts = xrealloc(l->cuts, (l->n + 1) * sizeof *l->cuts);
    l->cuts[l->n++] = r.cut;
    return 0;
}

static int cuts_load(struct fsm *f, const struct inode *i, struct cut_list *out)
{
    *out = (struct cut_list){.n = 0};
    if (i->cuts == 0) {
        return 0;
    }
    struct key prefix;
    cut_prefix(&prefix, i->volume, i->ino);
    return rows_each(f, &prefix, cut_collect, out);
}

static bool is_dead(const struct extent_cut *cuts, size_t n, const struct extent *e)
{
    for (size_t i = 0; i < n; i++) {
        if (e->serial < cuts[i].serial && e->start >= cuts[i].from && e->end <= cuts[i].end) {
            return true;
        }
    }
    return false;
}

/* Ranges inside the new one have a lower serial: it does their work too. */
static int cut_add(struct fsm *f, struct inode *i, uint64_t from, uint64_t end)
{
    struct cut_list old;
    int rc = cuts_load(f, i, &old);
    for (size_t j = 0; rc == 0 && j < old.n; j++) {
        if (old.cuts[j].from >= from && old.cuts[j].end <= end) {
            cut_drop(f, i, &old.cuts[j]);
        }
    }
    free(old.cuts);
    struct volume *v;
    if (rc == 0) {
        rc = rows_volume(f, i->volume, &v);
    }
    if (rc < 0) {
        return rc;
    }
    f->volume_dirty = true;
    v->serial++;
    cut_put(f, i, &(struct cut_row){.cut = {.from = from, .end = end, .serial = v->serial}});
    i->cuts++;
    *fsm_counter(f, COUNT_REAPS) += 1;
    return 0;
}

/* ---- walking ------------------------------------------------------------------------ */

static void walk_settle(struct extents_walk *w)
{
    for (; w->scan.valid; overlay_scan_next(&w->scan)) {
        int rc = extent_decode(w->scan.value, key_u64_at(w->scan.key, w->scan.key.len - 8), &w->e);
        if (rc < 0) {
            w->error = fsm_note(w->f, rc);
            break;
        }
        if (!is_dead(w->cuts, w->n_cuts, &w->e)) {
            w->valid = true;
            return;
        }
    }
    if (w->error == 0) {
        w->error = fsm_note(w->f, w->scan.error);
    }
    w->valid = false;
}

void extents_walk_init(struct extents_walk *w, struct fsm *f, const struct inode *i, uint64_t at)
{
    *w = (struct extents_walk){.f = f};
    struct key prefix, from;
    extent_prefix(&prefix, i->volume, i->ino);
    extent_key(&from, i, at < UINT64_MAX ? at + 1 : at);
    overlay_scan_init(&w->scan, f->overlay, key_bytes(&prefix), key_bytes(&from));
    struct cut_list cuts;
    w->error = cuts_load(f, i, &cuts);
    w->cuts = cuts.cuts;
    w->n_cuts = cuts.n;
    if (w->error == 0) {
        walk_settle(w);
    }
}

void extents_walk_next(struct extents_walk *w)
{
    CHECK(w->valid);
    overlay_scan_next(&w->scan);
    walk_settle(w);
}

void extents_walk_release(struct extents_walk *w)
{
    overlay_scan_release(&w->scan);
    free(w->cuts);
    w->cuts = NULL;
}

/* ---- single extents ------------------------------------------------------------------- */

static struct stripe_id stripe_of(const struct extent *e)
{
    return (struct stripe_id){.pg = e->pg, .id = e->stripe};
}

static struct referrer referrer_of(const struct inode *i, uint64_t end)
{
    return (struct referrer){.volume = i->volume, .ino = i->ino, .end = end};
}

/* Changes the row of an extent (to NULL: removes it). A value that went to history keeps a
 * reference of its own; a reservation there is none any more, for nothing is ever written to it. */
static int extent_row(struct fsm *f, const struct inode *i, const struct extent *before,
                      const struct extent *after)
{
    const struct extent *there = after != NULL ? after : before;
    struct key k;
    CHECK(there != NULL);
    extent_key(&k, i, there->end);
    uint64_t born = rows_born(f, i->volume);
    bool kept = false;
    int rc;
    if (after != NULL) {
        buf_clear(&f->scratch);
        extent_encode(&f->scratch, after, born);
        rc = rows_change(f, i->volume, &k, buf_bytes(&f->scratch), &kept);
    } else {
        rc = rows_remove(f, i->volume, &k, &kept);
    }
    const uint64_t less = reserved_bytes(before), more = reserved_bytes(after);
    if (less != more) {
        *fsm_counter(f, COUNT_RESERVED_BYTES) += more - less;
    }
    if (rc == 0 && kept && before != NULL && before->kind == EXTENT_STRIPE) {
        struct referrer who = referrer_of(i, before->end);
        who.snapshot = f->volume.snapshot - 1;
        rc = stripes_ref(f, stripe_of(before), &who, extent_bytes(before));
    }
    return rc;
}

static int extent_free(struct fsm *f, struct inode *i, const struct extent *e)
{
    int rc = extent_row(f, i, e, NULL);
    if (rc == 0 && e->kind == EXTENT_STRIPE) {
        struct referrer who = referrer_of(i, e->end);
        rc = stripes_unref(f, stripe_of(e), &who, extent_bytes(e));
    }
    return rc == 0 ? rows_account(f, i, -(int64_t)extent_bytes(e)) : rc;
}

/* A dead extent with the key of a new one is in the way. */
static int extent_free_dead_at(struct fsm *f, struct inode *i, uint64_t end)
{
    if (i->cuts == 0) {
        return 0;
    }
    struct key k;
    extent_key(&k, i, end);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    struct extent e;
    rc = fsm_note(f, extent_decode(buf_bytes(&f->value), end, &e));
    return rc < 0 ? rc : extent_free(f, i, &e);
}

static int extent_insert(struct fsm *f, struct inode *i, const struct extent *e)
{
    int rc = extent_free_dead_at(f, i, e->end);
    if (rc == 0) {
        rc = extent_row(f, i, NULL, e);
    }
    if (rc == 0 && e->kind == EXTENT_STRIPE) {
        struct referrer who = referrer_of(i, e->end);
        rc = stripes_ref(f, stripe_of(e), &who, extent_bytes(e));
    }
    return rc == 0 ? rows_account(f, i, (int64_t)extent_bytes(e)) : rc;
}

/* Takes [from, to) out of one extent that overlaps it. */
static int extent_trim(struct fsm *f, struct inode *i, const struct extent *e, uint64_t from,
                       uint64_t to)
{
    int rc = 0;
    if (e->start < from) { /* what is before stays, under a new key */
        struct extent left = *e;
        left.end = from;
        rc = extent_insert(f, i, &left);
    }
    if (rc < 0 || e->end <= to) {
        return rc < 0 ? rc : extent_free(f, i, e);
    }
    struct extent right = *e;
    uint64_t gone = to - e->start;
    right.start = to;
    right.stripe_offset += e->kind == EXTENT_STRIPE ? gone : 0;
    rc = extent_row(f, i, e, &right);
    if (rc == 0 && e->kind == EXTENT_STRIPE) {
        rc = stripes_shrink(f, stripe_of(e), gone);
    }
    return rc == 0 ? rows_account(f, i, -(int64_t)gone) : rc;
}

/* ---- ranges ------------------------------------------------------------------------------ */

/* The first extents that overlap [from, to), at most max. *ret_n tells how many. */
static int extents_gather(struct fsm *f, const struct inode *i, struct extent_cut range,
                          struct extent *out, size_t max, size_t *ret_n)
{
    struct extents_walk w;
    extents_walk_init(&w, f, i, range.from);
    size_t n = 0;
    while (w.valid && w.e.start < range.end && n < max) {
        out[n++] = w.e;
        /* Not one step further than needed: a page that is overwritten again and again leaves
         * thousands of former values, which the store walks over when it leaves the key. */
        if (w.e.end >= range.end) {
            break;
        }
        extents_walk_next(&w);
    }
    int rc = w.error;
    extents_walk_release(&w);
    *ret_n = n;
    return rc;
}

int extents_clear(struct fsm *f, struct inode *i, uint64_t from, uint64_t to)
{
    if (from >= to || i->allocated == 0) {
        return 0;
    }
    size_t most = f->budget < FSM_FREE_BUDGET ? f->budget : FSM_FREE_BUDGET;
    most = most > 0 ? most : 1;
    struct extent *list = xmalloc((most + 1) * sizeof *list);
    size_t n;
    int rc = extents_gather(f, i, (struct extent_cut){.from = from, .end = to}, list, most + 1, &n);
    bool more = n > most;
    n = more ? most : n;
    for (size_t j = 0; rc == 0 && j < n; j++) {
        rc = extent_trim(f, i, &list[j], from, to);
    }
    (void)fsm_spend(f, (uint32_t)n); /* when it is used up: one each */
    uint64_t next = more ? list[most].start : to;
    free(list);
    if (rc < 0 || !more) {
        return rc;
    }
    /* The rest dies by a cut, its last extent split at the edge. `next` is inside the range: the
     * first extent, the only one that can start before it, was freed above. */
    struct extent edge;
    rc = extents_gather(f, i, (struct extent_cut){.from = to - 1, .end = to}, &edge, 1, &n);
    if (rc == 0 && n == 1 && edge.end > to) {
        rc = extent_trim(f, i, &edge, next > edge.start ? next : edge.start, to);
    }
    return rc < 0 ? rc : cut_add(f, i, next, to);
}

static uint64_t serial_now(struct fsm *f, const struct inode *i)
{
    struct volume *v;
    return rows_volume(f, i->volume, &v) == 0 ? v->serial : 0;
}

int extents_set(struct fsm *f, struct inode *i, const struct extent *e)
{
    int rc = extents_clear(f, i, e->start, e->end);
    if (rc < 0) {
        return rc;
    }
    struct extent fresh = *e;
    fresh.serial = serial_now(f, i);
    return extent_insert(f, i, &fresh);
}

int extents_reserve(struct fsm *f, struct inode *i, uint64_t from, uint64_t to)
{
    struct extents_walk w;
    extents_walk_init(&w, f, i, from);
    int rc = w.error;
    uint32_t made = 0, most = fsm_spend(f, EXTENTS_RESERVE_MAX);
    while (rc == 0 && from < to && made < most) {
        uint64_t hole_end = w.valid && w.e.start < to ? w.e.start : to;
        uint64_t next = w.valid && w.e.start < to ? w.e.end : to;
        if (hole_end > from) {
            struct extent e = {.start = from, .end = hole_end, .kind = EXTENT_RESERVED};
            e.serial = serial_now(f, i);
            rc = extent_insert(f, i, &e);
            made++;
        }
        from = next;
        if (rc == 0 && from < to) {
            extents_walk_next(&w);
            rc = w.error;
        }
    }
    extents_walk_release(&w);
    f->budget += most - made; /* what was not used */
    return rc == 0 && from < to ? -EFBIG : rc;
}

static int sum_extent(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct extent e;
    int rc = fsm_note(f, extent_decode(value, key_u64_at(key, key.len - 8), &e));
    *(uint64_t *)ctx += rc == 0 ? reserved_bytes(&e) : 0;
    return rc;
}

static int sum_volume(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)value;
    struct key prefix;
    key_start_ns(&prefix, key_u64_at(key, 2), TABLE_EXTENT);
    return rows_each(f, &prefix, sum_extent, ctx);
}

int extents_sum_reserved(struct fsm *f, uint64_t *out)
{
    struct key volumes;
    key_start(&volumes, SPACE_VOLUME, 'v');
    *out = 0;
    return rows_each(f, &volumes, sum_volume, out);
}

/* ---- reaping -------------------------------------------------------------------------------- */

static void dead_key(struct key *k, const struct inode *i)
{
    key_start(k, SPACE_REAP, 'd');
    key_add_u64(k, i->volume);
    key_add_u64(k, i->ino);
}

/* Frees up to *left rows of a deleted inode: extents, dead or not, then its xattrs and cuts.
 * *ret_done: nothing is left. */
struct burial {
    struct inode *i;
    uint32_t left;
    int kind; /* 0 extents, 1 xattrs, 2 cuts */
};

static int bury_row(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct burial *b = ctx;
    if (b->left == 0) {
        return 1;
    }
    b->left--;
    if (b->kind == 0) {
        struct extent e;
        int rc = fsm_note(f, extent_decode(value, key_u64_at(key, key.len - 8), &e));
        return rc < 0 ? rc : extent_free(f, b->i, &e);
    }
    if (b->kind == 2) {
        struct extent_cut cut = {.from = key_u64_at(key, 18), .serial = key_u64_at(key, 26)};
        cut_drop(f, b->i, &cut);
        return 0;
    }
    struct key k = {.len = 0};
    key_add_bytes(&k, key);
    return rows_remove(f, b->i->volume, &k, NULL);
}

static int bury_some(struct fsm *f, struct inode *i, uint32_t max, uint32_t *ret_left)
{
    struct burial b = {.i = i, .left = max};
    struct key prefix;
    extent_prefix(&prefix, i->volume, i->ino);
    int rc = rows_each(f, &prefix, bury_row, &b);
    if (rc == 0 && b.left > 0) {
        b.kind = 1;
        key_start_ns(&prefix, i->volume, TABLE_XATTR);
        key_add_u64(&prefix, i->ino);
        rc = rows_each(f, &prefix, bury_row, &b);
    }
    if (rc == 0 && b.left > 0) {
        b.kind = 2;
        cut_prefix(&prefix, i->volume, i->ino);
        rc = rows_each(f, &prefix, bury_row, &b);
    }
    *ret_left = b.left;
    return rc;
}

int extents_bury(struct fsm *f, struct inode *i)
{
    if (i->allocated == 0 && i->xattr_bytes == 0 && i->cuts == 0) {
        return 0;
    }
    uint32_t left = 0;
    int rc = bury_some(f, i, FSM_FREE_BUDGET, &left);
    if (rc < 0 || left > 0) {
        return rc;
    }
    struct key k;
    dead_key(&k, i);
    const uint8_t version = VALUE_VERSION;
    rows_put_reap(f, &k, BYTES(&version, 1));
    *fsm_counter(f, COUNT_REAPS) += 1;
    return 0;
}

struct reap_item {
    struct inode i;
    struct cut_row row;
    uint64_t session;
    char kind; /* table of SPACE_REAP; 0: nothing to reap */
};

static int reap_decode(struct fsm *f, struct bytes key, struct bytes value, struct reap_item *r)
{
    r->kind = (char)key.data[1];
    if (r->kind == 's') {
        r->session = key_u64_at(key, 2);
        return 0;
    }
    r->i = (struct inode){.volume = key_u64_at(key, 2), .ino = key_u64_at(key, 10)};
    return r->kind == 'c' ? fsm_note(f, cut_decode(key, value, &r->row)) : 0;
}

/* The first row of the list. Where it was found the next search begins: the rows before it are
 * deleted ones, which the store walks over one by one. */
static int reap_pick(struct fsm *f, struct reap_item *r)
{
    const uint8_t space = SPACE_REAP;
    struct overlay_scan s;
    overlay_scan_init(&s, f->overlay, BYTES(&space, 1), key_bytes(&f->reap_from));
    int rc = fsm_note(f, s.error);
    if (s.valid) {
        f->reap_from.len = 0;
        key_add_bytes(&f->reap_from, s.key);
        rc = reap_decode(f, s.key, s.value, r);
    }
    overlay_scan_release(&s);
    return rc;
}

/* Steps through the range of a cut; frees what it killed. */
static int reap_cut(struct fsm *f, struct reap_item *r, uint32_t *left)
{
    struct inode i;
    int rc = rows_inode(f, r->i.ino, &i);
    if (rc == -ENOENT) { /* its dead inode's row does the rest */
        i = r->i;
        i.cuts = 1;
        cut_drop(f, &i, &r->row.cut);
        return 0;
    }
    struct key prefix, from;
    extent_prefix(&prefix, i.volume, i.ino);
    uint64_t at = r->row.cursor > r->row.cut.from ? r->row.cursor : r->row.cut.from;
    extent_key(&from, &i, at + 1);
    struct overlay_scan s;
    overlay_scan_init(&s, f->overlay, key_bytes(&prefix), key_bytes(&from));
    bool done = true;
    while (rc == 0 && s.valid) {
        struct extent e;
        rc = fsm_note(f, extent_decode(s.value, key_u64_at(s.key, s.key.len - 8), &e));
        if (rc < 0 || e.end > r->row.cut.end) {
            break;
        }
        if (*left == 0) {
            done = false;
            break;
        }
        (*left)--;
        r->row.cursor = e.end;
        if (is_dead(&r->row.cut, 1, &e)) {
            rc = extent_free(f, &i, &e);
        }
        overlay_scan_next(&s);
    }
    rc = rc == 0 ? fsm_note(f, s.error) : rc;
    overlay_scan_release(&s);
    if (rc == 0 && done) {
        cut_drop(f, &i, &r->row.cut);
    } else if (rc == 0) {
        cut_put(f, &i, &r->row);
    }
    return rc == 0 ? rows_inode_save(f, &i) : rc;
}

static int reap_dead(struct fsm *f, struct reap_item *r, uint32_t *left)
{
    int rc = bury_some(f, &r->i, *left, left);
    if (rc == 0 && *left > 0) {
        struct key k;
        dead_key(&k, &r->i);
        rows_delete(f, &k);
        *fsm_counter(f, COUNT_REAPS) -= 1;
    }
    return rc;
}

int extents_reap(struct fsm *f, uint32_t max)
{
    uint32_t left = max == 0 || max > 65536 ? FSM_FREE_BUDGET : max;
    int rc = 0;
    while (rc == 0 && left > 0) {
        struct reap_item r = {.kind = 0};
        rc = reap_pick(f, &r);
        if (rc < 0 || r.kind == 0) {
            return rc;
        }
        left--;
        rc = r.kind == 'c'   ? reap_cut(f, &r, &left)
             : r.kind == 'd' ? reap_dead(f, &r, &left)
                             : sessions_reap(f, r.session, &left);
    }
    return rc;
}
