#include "meta/stripes.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

/* Ranges of ids (grants and garbage) are keyed by their last id, with the first in the value: the
 * range that holds an id is then found by one seek, and shrinking it from the left, which is what a
 * client that uses its ids in order does, keeps its key. */

/* ---- placement groups ------------------------------------------------------------ */

void stripes_group_prefix(struct key *k)
{
    key_start(k, SPACE_CLUSTER, 'p');
}

int stripes_group_decode(struct bytes value, struct group *out)
{
    struct cursor c = cursor_of(value);
    uint8_t version = cursor_u8(&c);
    if (version != VALUE_VERSION) {
        return !c.bad && version > VALUE_VERSION ? ERR_VERSION : ERR_CORRUPT;
    }
    struct group g = {.id = out->id, .epoch = cursor_le32(&c)};
    g.k = cursor_u8(&c);
    g.m = cursor_u8(&c);
    g.moving = cursor_u8(&c) != 0;
    if (g.k + g.m > STRIPE_SLOTS_MAX) {
        return ERR_CORRUPT;
    }
    for (unsigned i = 0; i < g.k + g.m; i++) {
        g.slot[i] = cursor_le32(&c);
    }
    for (unsigned i = 0; g.moving && i < g.k + g.m; i++) {
        g.old_slot[i] = cursor_le32(&c);
    }
    if (c.bad || c.at != c.end) {
        return ERR_CORRUPT;
    }
    *out = g;
    return 0;
}

int stripes_group(struct fsm *f, uint32_t pg, struct group *out)
{
    struct key k;
    stripes_group_prefix(&k);
    key_add_u32(&k, pg);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc;
    }
    out->id = pg;
    return fsm_note(f, stripes_group_decode(buf_bytes(&f->value), out));
}

void stripes_group_put(struct fsm *f, const struct group *g)
{
    struct key k;
    stripes_group_prefix(&k);
    key_add_u32(&k, g->id);
    struct buf *b = &f->scratch;
    buf_clear(b);
    buf_u8(b, VALUE_VERSION);
    buf_le32(b, g->epoch);
    buf_u8(b, (uint8_t)g->k);
    buf_u8(b, (uint8_t)g->m);
    buf_u8(b, g->moving);
    for (unsigned i = 0; i < g->k + g->m; i++) {
        buf_le32(b, g->slot[i]);
    }
    for (unsigned i = 0; g->moving && i < g->k + g->m; i++) {
        buf_le32(b, g->old_slot[i]);
    }
    rows_put(f, &k, buf_bytes(b));
}

/* ---- ranges of ids --------------------------------------------------------------- */

struct range {
    uint64_t first, last;
};

static void range_put(struct fsm *f, const struct key *prefix, struct range r)
{
    struct key k = *prefix;
    key_add_u64(&k, r.last);
    uint8_t value[9] = {VALUE_VERSION};
    put_le64(value + 1, r.first);
    rows_put(f, &k, BYTES(value, sizeof value));
}

static void range_delete(struct fsm *f, const struct key *prefix, uint64_t last)
{
    struct key k = *prefix;
    key_add_u64(&k, last);
    rows_delete(f, &k);
}

static int range_decode(struct fsm *f, struct bytes key, struct bytes value, struct range *out)
{
    if (value.len != 9 || value.data[0] != VALUE_VERSION) {
        return fsm_note(f, ERR_CORRUPT);
    }
    const struct range r = {.first = get_le64(value.data + 1),
                            .last = key_u64_at(key, key.len - 8)};
    if (r.first > r.last) {
        return fsm_note(f, ERR_CORRUPT); /* who takes a part out of it relies on that */
    }
    *out = r;
    return 0;
}

/* The first range with last >= id. ERR_NOT_FOUND. */
static int range_seek(struct fsm *f, const struct key *prefix, uint64_t id, struct range *out)
{
    struct key from = *prefix;
    key_add_u64(&from, id);
    struct overlay_scan s;
    overlay_scan_init(&s, f->overlay, key_bytes(prefix), key_bytes(&from));
    int rc = s.valid ? range_decode(f, s.key, s.value, out)
                     : fsm_note(f, s.error < 0 ? s.error : ERR_NOT_FOUND);
    overlay_scan_release(&s);
    return rc;
}

/* Takes [take.first, take.last] out of a range that holds it. */
static void range_cut(struct fsm *f, const struct key *prefix, struct range r, struct range take)
{
    CHECK(r.first <= take.first && take.first <= take.last && take.last <= r.last);
    if (take.last < r.last) {
        range_put(f, prefix, (struct range){.first = take.last + 1, .last = r.last});
    } else {
        range_delete(f, prefix, r.last);
    }
    if (take.first > r.first) {
        range_put(f, prefix, (struct range){.first = r.first, .last = take.first - 1});
    }
}

/* ---- garbage ---------------------------------------------------------------------- */

void stripes_garbage_prefix(struct key *k)
{
    key_start(k, SPACE_STRIPE, 'g');
}

static void garbage_prefix(struct key *k, uint32_t pg)
{
    stripes_garbage_prefix(k);
    key_add_u32(k, pg);
}

int stripes_make_garbage(struct fsm *f, uint32_t pg, uint64_t first, uint64_t last)
{
    struct key prefix;
    garbage_prefix(&prefix, pg);
    *fsm_counter(f, COUNT_GARBAGE_IDS) += last - first + 1;
    struct range r = {.first = first, .last = last};
    if (first > 0) { /* joins the range that ends right before */
        struct key before = prefix;
        key_add_u64(&before, first - 1);
        int rc = rows_get(f, &before, &f->value);
        if (rc == 0) {
            struct range joined;
            rc = range_decode(f, key_bytes(&before), buf_bytes(&f->value), &joined);
            r.first = rc == 0 ? joined.first : first;
            rows_delete(f, &before);
        }
        if (rc < 0 && rc != ERR_NOT_FOUND) {
            return rc;
        }
    }
    range_put(f, &prefix, r);
    return 0;
}

/* Calls taken for each part of [first, last] that is on the list, having cut it out. */
static int ranges_take(struct fsm *f, const struct key *prefix, struct range all,
                       int (*taken)(struct fsm *f, struct range take, void *ctx), void *ctx)
{
    uint64_t first = all.first;
    while (first <= all.last) {
        struct range r;
        int rc = range_seek(f, prefix, first, &r);
        if (rc < 0 || r.first > all.last) {
            return rc == ERR_NOT_FOUND ? 0 : rc;
        }
        struct range take = {.first = r.first > first ? r.first : first,
                             .last = r.last < all.last ? r.last : all.last};
        range_cut(f, prefix, r, take);
        rc = taken(f, take, ctx);
        if (rc < 0 || take.last == UINT64_MAX) {
            return rc;
        }
        first = take.last + 1;
    }
    return 0;
}

/* ---- what a server owes --------------------------------------------------------------- */

/* Ids that others of their group have deleted, and this server has not: it was down, or its disk
 * does not let go. The range is joined with its neighbours, so a list is no longer than there are
 * live stripes between the dead ones. */

void stripes_owed_prefix(struct key *k, uint32_t server)
{
    key_start(k, SPACE_STRIPE, 'o');
    key_add_u32(k, server);
}

void stripes_owed_count_prefix(struct key *k)
{
    key_start(k, SPACE_STRIPE, 'c');
}

static void owed_count_key(struct key *k, uint32_t server)
{
    stripes_owed_count_prefix(k);
    key_add_u32(k, server);
}

int stripes_owed_count(struct fsm *f, uint32_t server, uint64_t *out)
{
    struct key k;
    owed_count_key(&k, server);
    *out = 0;
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    if (f->value.len != 9 || f->value.data[0] != VALUE_VERSION) {
        return fsm_note(f, ERR_CORRUPT);
    }
    *out = get_le64(f->value.data + 1);
    return 0;
}

/* No row for 0. */
static void owed_count_put(struct fsm *f, uint32_t server, uint64_t ids)
{
    struct key k;
    owed_count_key(&k, server);
    uint8_t value[9] = {VALUE_VERSION};
    put_le64(value + 1, ids);
    if (ids > 0) {
        rows_put(f, &k, BYTES(value, sizeof value));
    } else {
        rows_delete(f, &k);
    }
}

static int owed_add(struct fsm *f, uint32_t server, uint32_t pg, struct range r)
{
    uint64_t ids = 0;
    int rc = stripes_owed_count(f, server, &ids);
    if (rc < 0) {
        return rc;
    }
    owed_count_put(f, server, ids + (r.last - r.first + 1));
    f->effects->owed_added = true;
    struct key prefix;
    stripes_owed_prefix(&prefix, server);
    key_add_u32(&prefix, pg);
    struct range near;
    rc = r.first > 0 ? range_seek(f, &prefix, r.first - 1, &near) : ERR_NOT_FOUND;
    if (rc == 0 && near.last == r.first - 1) {
        range_delete(f, &prefix, near.last);
        r.first = near.first;
    }
    if (rc == 0 || rc == ERR_NOT_FOUND) {
        rc = r.last < UINT64_MAX ? range_seek(f, &prefix, r.last + 1, &near) : ERR_NOT_FOUND;
    }
    if (rc == 0 && near.first == r.last + 1) {
        r.last = near.last;
    }
    if (rc < 0 && rc != ERR_NOT_FOUND) {
        return rc;
    }
    range_put(f, &prefix, r);
    return 0;
}

static int owed_taken(struct fsm *f, struct range take, void *ctx)
{
    (void)f;
    *(uint64_t *)ctx += take.last - take.first + 1;
    return 0;
}

int stripes_owed_done(struct fsm *f, uint32_t server, uint32_t pg, uint64_t first, uint64_t last)
{
    struct key prefix;
    stripes_owed_prefix(&prefix, server);
    key_add_u32(&prefix, pg);
    uint64_t done = 0, ids = 0;
    int rc =
        ranges_take(f, &prefix, (struct range){.first = first, .last = last}, owed_taken, &done);
    if (rc == 0 && done > 0) {
        rc = stripes_owed_count(f, server, &ids);
        owed_count_put(f, server, ids > done ? ids - done : 0);
    }
    return rc;
}

static bool names(const uint32_t *list, size_t n, uint32_t server)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i] == server) {
            return true;
        }
    }
    return false;
}

int stripes_debtors(struct fsm *f, uint32_t pg, const uint32_t *by, size_t n_by,
                    struct debtors *out)
{
    out->n = 0;
    struct group g;
    int rc = n_by > 0 ? stripes_group(f, pg, &g) : ERR_NOT_FOUND;
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    const uint32_t *slots[] = {g.slot, g.old_slot};
    for (unsigned s = 0; s < (g.moving ? 2 : 1); s++) {
        for (unsigned i = 0; i < g.k + g.m; i++) {
            uint32_t server = slots[s][i];
            if (server != 0 && !names(by, n_by, server) && !names(out->server, out->n, server)) {
                out->server[out->n++] = server;
            }
        }
    }
    return 0;
}

struct leaving {
    uint32_t pg;
    const struct debtors *owing;
};

static int garbage_taken(struct fsm *f, struct range take, void *ctx)
{
    const struct leaving *l = ctx;
    *fsm_counter(f, COUNT_GARBAGE_IDS) -= take.last - take.first + 1;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < l->owing->n; i++) {
        rc = owed_add(f, l->owing->server[i], l->pg, take);
    }
    return rc;
}

int stripes_garbage_done(struct fsm *f, uint32_t pg, uint64_t first, uint64_t last,
                         const struct debtors *owing)
{
    struct key prefix;
    garbage_prefix(&prefix, pg);
    struct leaving l = {.pg = pg, .owing = owing};
    return ranges_take(f, &prefix, (struct range){.first = first, .last = last}, garbage_taken, &l);
}

/* ---- grants ------------------------------------------------------------------------ */

static void grant_prefix(struct key *k, uint64_t session)
{
    key_start(k, SPACE_SESSION, 'g');
    key_add_u64(k, session);
}

static int grant_take(struct fsm *f, struct stripe_id at)
{
    struct key prefix;
    grant_prefix(&prefix, f->session);
    key_add_u32(&prefix, at.pg);
    struct range r;
    int rc = range_seek(f, &prefix, at.id, &r);
    if (rc < 0 || r.first > at.id) {
        return rc < 0 && rc != ERR_NOT_FOUND ? rc : ERR_DEAD_ID;
    }
    range_cut(f, &prefix, r, (struct range){.first = at.id, .last = at.id});
    return 0;
}

struct choosing {
    uint32_t k, m, cursor;
    uint32_t *at_or_after, *before; /* group ids on either side of the cursor */
    unsigned n_after, n_before, max;
};

static int choose_group(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct choosing *c = ctx;
    struct group g = {.id = get_be32(key.data + 2)};
    int rc = fsm_note(f, stripes_group_decode(value, &g));
    if (rc < 0) {
        return rc;
    }
    if (g.k != c->k || g.m != c->m) {
        return 0;
    }
    if (g.id >= c->cursor) {
        c->at_or_after[c->n_after++] = g.id;
    } else if (c->n_before < c->max) {
        c->before[c->n_before++] = g.id;
    }
    return c->n_after == c->max;
}

/* The next id of a group, in a row of its own: the group's row is scanned, and a store like LevelDB
 * walks over every former value of a key that it passes. */
static int next_ids(struct fsm *f, uint32_t pg, uint32_t count, uint64_t *ret_first)
{
    struct key k;
    key_start(&k, SPACE_CLUSTER, 'n');
    key_add_u32(&k, pg);
    int rc = rows_get(f, &k, &f->value);
    uint64_t first = 1;
    if (rc == 0) {
        if (f->value.len != 9 || f->value.data[0] != VALUE_VERSION) {
            return fsm_note(f, ERR_CORRUPT);
        }
        first = get_le64(f->value.data + 1);
    } else if (rc != ERR_NOT_FOUND) {
        return rc;
    }
    uint8_t value[9] = {VALUE_VERSION};
    put_le64(value + 1, first + count);
    rows_put(f, &k, BYTES(value, sizeof value));
    *ret_first = first;
    return 0;
}

static int grant_in(struct fsm *f, uint32_t pg, uint32_t count, struct stripe_grant *out)
{
    uint64_t first = 0;
    int rc = next_ids(f, pg, count, &first);
    if (rc < 0) {
        return rc;
    }
    struct key prefix;
    grant_prefix(&prefix, f->session);
    key_add_u32(&prefix, pg);
    range_put(f, &prefix, (struct range){.first = first, .last = first + count - 1});
    *out = (struct stripe_grant){.pg = pg, .first = first, .count = count};
    return 0;
}

int stripes_grant(struct fsm *f, struct stripe_wish wish,
                  struct stripe_grant out[STRIPES_GRANTS_MAX], unsigned *ret_n)
{
    if (wish.count == 0 || wish.count > STRIPES_IDS_MAX) {
        return -EINVAL;
    }
    uint32_t after[STRIPES_GRANTS_MAX] = {0}, before[STRIPES_GRANTS_MAX] = {0};
    struct choosing c = {.k = wish.k,
                         .m = wish.m,
                         .cursor = (uint32_t)f->counters.v[COUNT_GRANT_CURSOR],
                         .at_or_after = after,
                         .before = before,
                         .max = wish.count < STRIPES_GRANTS_MAX ? wish.count : STRIPES_GRANTS_MAX};
    struct key prefix;
    stripes_group_prefix(&prefix);
    int rc = rows_each(f, &prefix, choose_group, &c);
    if (rc < 0) {
        return rc;
    }
    unsigned n = 0;
    uint32_t chosen[STRIPES_GRANTS_MAX];
    for (unsigned i = 0; i < c.n_after; i++) {
        chosen[n++] = after[i];
    }
    for (unsigned i = 0; i < c.n_before && n < c.max; i++) {
        chosen[n++] = before[i];
    }
    if (n == 0) {
        return ERR_BUSY;
    }
    for (unsigned i = 0; i < n && rc == 0; i++) {
        uint32_t count = wish.count / n + (i < wish.count % n ? 1 : 0);
        rc = grant_in(f, chosen[i], count, &out[i]);
    }
    *fsm_counter(f, COUNT_GRANT_CURSOR) = (uint64_t)chosen[n - 1] + 1;
    *ret_n = n;
    return rc;
}

static int compare_ids(const void *a, const void *b)
{
    const struct stripe_id *x = a, *y = b;
    if (x->pg != y->pg) {
        return x->pg < y->pg ? -1 : 1;
    }
    return x->id < y->id ? -1 : x->id > y->id;
}

struct retiring {
    const struct stripe_id *keep; /* sorted */
    size_t n, at;
};

static int retire_range(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct retiring *r = ctx;
    struct range range;
    int rc = range_decode(f, key, value, &range);
    struct key prefix = {.len = 0};
    key_add_bytes(&prefix, BYTES(key.data, key.len - 8));
    uint32_t pg = get_be32(key.data + key.len - 12);
    if (rc < 0) {
        return rc;
    }
    range_delete(f, &prefix, range.last);
    uint64_t next = range.first;
    while (r->at < r->n && compare_ids(&r->keep[r->at], &(struct stripe_id){pg, range.first}) < 0) {
        r->at++;
    }
    for (; r->at < r->n && r->keep[r->at].pg == pg && r->keep[r->at].id <= range.last; r->at++) {
        uint64_t id = r->keep[r->at].id;
        if (id < next) {
            continue; /* named twice */
        }
        range_put(f, &prefix, (struct range){.first = id, .last = id});
        if (id > next) {
            rc = stripes_make_garbage(f, pg, next, id - 1);
        }
        next = id + 1;
        if (rc < 0) {
            return rc;
        }
    }
    return next <= range.last ? stripes_make_garbage(f, pg, next, range.last) : 0;
}

int stripes_retire(struct fsm *f, uint64_t session, const struct stripe_id *keep, size_t n_keep)
{
    struct stripe_id *sorted = NULL;
    if (n_keep > 0) {
        sorted = xmemdup(keep, n_keep * sizeof *keep);
        qsort(sorted, n_keep, sizeof *sorted, compare_ids);
    }
    struct retiring r = {.keep = sorted, .n = n_keep};
    struct key prefix;
    grant_prefix(&prefix, session);
    int rc = rows_each(f, &prefix, retire_range, &r);
    free(sorted);
    return rc;
}

/* ---- stripes and references ----------------------------------------------------------- */

static void stripe_key(struct key *k, struct stripe_id at)
{
    key_start(k, SPACE_STRIPE, 's');
    key_add_u32(k, at.pg);
    key_add_u64(k, at.id);
}

static void referrer_key(struct key *k, struct stripe_id at, const struct referrer *who)
{
    key_start(k, SPACE_STRIPE, 'r');
    key_add_u32(k, at.pg);
    key_add_u64(k, at.id);
    key_add_u64(k, who->volume);
    key_add_u64(k, who->ino);
    key_add_u64(k, who->end);
    if (who->snapshot != 0) {
        key_add_u64(k, who->snapshot);
    }
}

static void stripe_put(struct fsm *f, struct stripe_id at, const struct stripe_row *row)
{
    struct key k;
    stripe_key(&k, at);
    buf_clear(&f->scratch);
    stripe_row_encode(&f->scratch, row);
    rows_put(f, &k, buf_bytes(&f->scratch));
}

int stripes_get(struct fsm *f, struct stripe_id at, struct stripe_row *out)
{
    struct key k;
    stripe_key(&k, at);
    int rc = rows_get(f, &k, &f->value);
    return rc < 0 ? rc : fsm_note(f, stripe_row_decode(buf_bytes(&f->value), out));
}

static struct stripe_code row_code(const struct stripe_row *row)
{
    return (struct stripe_code){.kind = row->kind, .k = row->k, .m = row->m};
}

static int check_shape(const struct stripe_commit *c, const struct group *g)
{
    struct stripe_code code = row_code(&c->row);
    uint32_t width = g->k + g->m;
    if (!stripe_code_valid(code) || c->row.length == 0 || c->row.length > stripe_length_max(code) ||
        c->row.slot_mask >> width != 0 ||
        __builtin_popcountll(c->row.slot_mask) != code.k + code.m) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < width; i++) {
        if ((c->row.slot_mask >> i & 1) != 0 && g->slot[i] == 0) {
            return -EINVAL; /* a vacant slot holds nothing */
        }
    }
    return stripe_tolerates(code, c->row.slot_mask, g->m) ? 0 : ERR_CHANGED;
}

int stripes_commit(struct fsm *f, const struct stripe_commit *c)
{
    struct group g;
    int rc = stripes_group(f, c->at.pg, &g);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? ERR_DEAD_ID : rc;
    }
    if (g.epoch != c->epoch) {
        return ERR_STALE_EPOCH;
    }
    rc = check_shape(c, &g);
    if (rc == 0) {
        rc = grant_take(f, c->at);
    }
    if (rc < 0) {
        return rc;
    }
    stripe_put(f, c->at, &c->row);
    *fsm_counter(f, COUNT_STRIPES) += 1;
    const uint64_t stored = stripe_stored_bytes(row_code(&c->row), c->row.length);
    *fsm_counter(f, COUNT_STORED_BYTES) += stored;
    f->effects->stored += stored;
    return 0;
}

/* A row that must be there: an extent refers to it. */
static int stripe_load(struct fsm *f, struct stripe_id at, struct stripe_row *out)
{
    int rc = stripes_get(f, at, out);
    return rc == ERR_NOT_FOUND ? fsm_note(f, ERR_CORRUPT) : rc;
}

int stripes_ref(struct fsm *f, struct stripe_id at, const struct referrer *who, uint64_t bytes)
{
    struct stripe_row row;
    int rc = stripe_load(f, at, &row);
    if (rc < 0) {
        return rc;
    }
    row.refs++;
    row.live_bytes += bytes;
    stripe_put(f, at, &row);
    struct key k;
    referrer_key(&k, at, who);
    rows_put_mark(f, &k);
    return 0;
}

int stripes_unref(struct fsm *f, struct stripe_id at, const struct referrer *who, uint64_t bytes)
{
    struct stripe_row row;
    int rc = stripe_load(f, at, &row);
    if (rc < 0) {
        return rc;
    }
    if (row.refs == 0) {
        return fsm_note(f, ERR_CORRUPT); /* a stripe goes with its last reference */
    }
    row.refs--;
    row.live_bytes -= bytes;
    struct key k;
    referrer_key(&k, at, who);
    rows_delete(f, &k);
    if (row.refs > 0) {
        stripe_put(f, at, &row);
        return 0;
    }
    stripe_key(&k, at);
    rows_delete(f, &k);
    *fsm_counter(f, COUNT_STRIPES) -= 1;
    *fsm_counter(f, COUNT_STORED_BYTES) -= stripe_stored_bytes(row_code(&row), row.length);
    return stripes_make_garbage(f, at.pg, at.id, at.id);
}

int stripes_shrink(struct fsm *f, struct stripe_id at, uint64_t bytes)
{
    struct stripe_row row;
    int rc = stripe_load(f, at, &row);
    if (rc == 0) {
        row.live_bytes -= bytes;
        stripe_put(f, at, &row);
    }
    return rc;
}
