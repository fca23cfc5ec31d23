#include "meta/fsm.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "meta/extents.h"
#include "meta/fsm_parts.h"
#include "meta/ops.h"
#include "meta/sessions.h"

/* One entry at a time: header, dispatch by type, and one write batch which also holds the applied
 * index. Everything between goes to the overlay, so an entry that is refused is rolled back and
 * leaves its reply only.
 *
 * What is kept in memory besides (cluster row, counters, the volume used last, block table, row
 * cache) is a copy of what the store holds; losing it changes nothing. */

void fsm_effects_init(struct fsm_effects *e)
{
    memset(e, 0, sizeof *e);
    buf_init(&e->reply);
    buf_init(&e->granted);
    buf_init(&e->ended);
}

void fsm_effects_release(struct fsm_effects *e)
{
    buf_release(&e->reply);
    buf_release(&e->granted);
    buf_release(&e->ended);
}

static void effects_clear(struct fsm_effects *e)
{
    buf_clear(&e->reply);
    buf_clear(&e->granted);
    buf_clear(&e->ended);
    e->rc = 0;
    e->tables_changed = e->reap_pending = e->garbage_pending = e->owed_added = false;
    e->stored = e->reserved = 0;
}

/* ---- state -------------------------------------------------------------------------- */

static int load_applied(struct fsm *f)
{
    struct key k;
    key_start(&k, SPACE_SYSTEM, 'a');
    int rc = rows_get(f, &k, &f->value);
    if (rc == ERR_NOT_FOUND) {
        return 0;
    }
    if (rc < 0) {
        return rc;
    }
    struct cursor c = cursor_of(buf_bytes(&f->value));
    uint8_t version = cursor_u8(&c);
    f->applied = cursor_le64(&c);
    f->applied_term = cursor_le64(&c);
    if (version > VALUE_VERSION) {
        return ERR_VERSION;
    }
    return c.bad || version != VALUE_VERSION ? ERR_CORRUPT : 0;
}

static void put_applied(struct fsm *f, uint64_t index, uint64_t term)
{
    struct key k;
    key_start(&k, SPACE_SYSTEM, 'a');
    uint8_t value[17] = {VALUE_VERSION};
    put_le64(value + 1, index);
    put_le64(value + 9, term);
    rows_put(f, &k, BYTES(value, sizeof value));
}

/* Fewer numbers than we know: written before the later ones existed. They are 0, but for the
 * reserved bytes, which are summed up. That sum is not stored before the next change of a counter:
 * the row stays a function of the entries. */
static int load_counters(struct fsm *f)
{
    struct key k;
    key_start(&k, SPACE_SYSTEM, 'n');
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    struct cursor c = cursor_of(buf_bytes(&f->value));
    if (cursor_u8(&c) != VALUE_VERSION) {
        return ERR_VERSION;
    }
    int n = 0;
    for (; n < COUNT_N && cursor_left(&c) > 0; n++) {
        f->counters.v[n] = cursor_le64(&c);
    }
    if (c.bad || cursor_left(&c) > 0) {
        return c.bad ? ERR_CORRUPT : ERR_VERSION;
    }
    return n > COUNT_RESERVED_BYTES ? 0
                                    : extents_sum_reserved(f, &f->counters.v[COUNT_RESERVED_BYTES]);
}

int fsm_open(struct kv *kv, struct fsm **out)
{
    struct fsm *f = xcalloc(1, sizeof *f);
    f->kv = kv;
    f->overlay = overlay_new(kv, key_valid);
    buf_init(&f->scratch);
    buf_init(&f->value);
    int rc = load_applied(f);
    if (rc == 0) {
        rc = load_counters(f);
    }
    if (rc == 0) {
        rc = cluster_load(f);
    }
    if (rc < 0) {
        fsm_free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void fsm_free(struct fsm *f)
{
    if (f == NULL) {
        return;
    }
    overlay_free(f->overlay);
    buf_release(&f->scratch);
    buf_release(&f->value);
    free(f);
}

uint64_t fsm_applied(const struct fsm *f)
{
    return f->applied;
}

uint64_t fsm_applied_term(const struct fsm *f)
{
    return f->applied_term;
}

struct fsm_mark fsm_mark(const struct fsm *f)
{
    return (struct fsm_mark){.overlay = overlay_mark(f->overlay),
                             .counters = f->counters,
                             .counters_dirty = f->counters_dirty,
                             .volume = f->volume,
                             .volume_dirty = f->volume_dirty,
                             .cluster = f->cluster};
}

void fsm_rollback(struct fsm *f, const struct fsm_mark *m)
{
    overlay_rollback(f->overlay, m->overlay);
    if (f->counters.v[COUNT_NEXT_BLOCK] != m->counters.v[COUNT_NEXT_BLOCK]) {
        memset(f->blocks, 0, sizeof f->blocks); /* a block may go to another volume now */
    }
    f->counters = m->counters;
    f->counters_dirty = m->counters_dirty;
    f->volume = m->volume;
    f->volume_dirty = m->volume_dirty;
    f->cluster = m->cluster;
}

/* ---- entries -------------------------------------------------------------------------- */

void fsm_entry_encode(struct buf *out, const struct fsm_entry_header *h, struct bytes body)
{
    buf_u8(out, ENTRY_VERSION);
    buf_u8(out, h->type);
    buf_le16(out, h->feature_level);
    buf_le64(out, h->time_ns);
    buf_le64(out, h->reign);
    buf_add(out, body.data, body.len);
}

int fsm_entry_decode(struct bytes entry, struct fsm_entry_header *h, struct bytes *body)
{
    struct cursor c = cursor_of(entry);
    uint8_t version = cursor_u8(&c);
    struct fsm_entry_header got = {.type = cursor_u8(&c)};
    got.feature_level = cursor_le16(&c);
    got.time_ns = cursor_le64(&c);
    got.reign = cursor_le64(&c);
    if (c.bad) {
        return ERR_MALFORMED;
    }
    if (version != ENTRY_VERSION || got.feature_level > FSM_FEATURE_LEVEL) {
        return ERR_VERSION;
    }
    if (got.type < ENTRY_LEAD || got.type > ENTRY_NOOP) {
        return ERR_VERSION;
    }
    if (got.time_ns > INT64_MAX) {
        return ERR_MALFORMED;
    }
    *h = got;
    *body = BYTES(c.at, (size_t)(c.end - c.at));
    return 0;
}

static int dispatch(struct fsm *f, uint8_t type, struct bytes body)
{
    if (!f->cluster.known && type != ENTRY_BOOTSTRAP && type != ENTRY_LEAD && type != ENTRY_NOOP) {
        return ERR_WRONG_CLUSTER; /* of no cluster yet */
    }
    switch (type) {
    case ENTRY_LEAD:
        return cluster_lead(f, body);
    case ENTRY_BOOTSTRAP:
        return cluster_bootstrap(f, body);
    case ENTRY_SESSION_OPEN:
        return sessions_open_entry(f, body);
    case ENTRY_SESSION_END:
        return sessions_end_entry(f, body);
    case ENTRY_COMMAND:
        return command_entry(f, body);
    case ENTRY_REGISTER:
        return cluster_register(f, body);
    case ENTRY_GROUPS:
        return cluster_groups(f, body);
    case ENTRY_GARBAGE_DONE:
        return cluster_garbage_done(f, body);
    case ENTRY_POLICY:
        return cluster_policy(f, body);
    case ENTRY_REAP:
        return cluster_reap(f, body);
    case ENTRY_FEATURE:
        return cluster_feature(f, body);
    default:
        return 0; /* ENTRY_NOOP: fsm_entry_decode lets no other through */
    }
}

static int finish(struct fsm *f, uint64_t index, uint64_t term)
{
    put_applied(f, index, term);
    rows_flush(f);
    int rc = overlay_commit(f->overlay, false);
    if (rc < 0) {
        return rc;
    }
    f->applied = index;
    f->applied_term = term;
    return 0;
}

int fsm_apply(struct fsm *f, uint64_t index, uint64_t term, struct bytes entry,
              struct fsm_effects *out)
{
    effects_clear(out);
    if (f->failed < 0) {
        return f->failed; /* what is pending is half an entry: only a reopened store goes on */
    }
    if (index <= f->applied) {
        return 0;
    }
    struct fsm_entry_header h;
    struct bytes body;
    int rc = fsm_entry_decode(entry, &h, &body);
    if (rc < 0) {
        return rc;
    }
    f->now = (int64_t)h.time_ns;
    f->index = index;
    f->session = 0;
    f->budget = FSM_ENTRY_BUDGET;
    f->reserve_max = f->reserve_hope = UINT64_MAX;
    f->effects = out;
    struct fsm_mark mark = fsm_mark(f);
    rc = dispatch(f, h.type, body);
    if (f->failed < 0) {
        return f->failed;
    }
    if (rc < 0) {
        fsm_rollback(f, &mark);
        buf_clear(&out->granted);
        buf_clear(&out->ended);
        out->tables_changed = out->owed_added = false;
        out->stored = 0;
    }
    out->rc = rc;
    out->reserved = f->counters.v[COUNT_RESERVED_BYTES];
    out->reap_pending = f->counters.v[COUNT_REAPS] > 0;
    out->garbage_pending = f->counters.v[COUNT_GARBAGE_IDS] > 0;
    rc = finish(f, index, term);
    if (rc < 0) {
        f->failed = rc;
    }
    return rc;
}

int fsm_validate(struct bytes entry)
{
    enum { ENTRY_MAX = (4 << 20) + 4096 };
    if (entry.len > ENTRY_MAX) {
        return ERR_TOO_BIG;
    }
    struct fsm_entry_header h;
    struct bytes body;
    int rc = fsm_entry_decode(entry, &h, &body);
    if (rc < 0) {
        return rc;
    }
    return h.type == ENTRY_COMMAND ? command_validate(body) : cluster_validate(h.type, body);
}

bool fsm_entry_frees(struct bytes entry)
{
    struct fsm_entry_header h;
    struct bytes body;
    if (fsm_entry_decode(entry, &h, &body) < 0) {
        return false;
    }
    switch (h.type) {
    case ENTRY_COMMAND:
        return command_frees(body);
    case ENTRY_LEAD:
    case ENTRY_SESSION_END:
    case ENTRY_GARBAGE_DONE:
    case ENTRY_REAP:
    case ENTRY_NOOP:
        return true;
    default:
        return false;
    }
}

int fsm_hash(struct fsm *f, uint64_t *out)
{
    static const uint8_t key[16] = "cfs fsm hash 001";
    uint64_t h = 0;
    struct kv_iter *it = f->kv->ops->iter(f->kv, NULL);
    for (it->ops->iter_seek(it, BYTES("", 0)); it->ops->iter_valid(it); it->ops->iter_next(it)) {
        h = h * 0x9e3779b97f4a7c15u + key_siphash(key, it->ops->iter_key(it));
        h = h * 0x9e3779b97f4a7c15u + key_siphash(key, it->ops->iter_value(it));
    }
    int rc = it->ops->iter_error(it);
    it->ops->iter_free(it);
    if (rc == 0) {
        *out = h;
    }
    return rc;
}
