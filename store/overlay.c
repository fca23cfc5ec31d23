#include "store/overlay.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/table.h"

/* Pending rows lie in blocks that are reused after each commit; an array of pointers keeps them
 * in key order. Entries are small (a handful of rows, some thousands at most for a reap), so a
 * binary search and memmove beat any tree. Each change pushes the row's former value on an undo
 * stack. */
struct row {
    struct bytes key;
    struct bytes value; /* data NULL: deleted */
};
struct undo {
    struct row *row;
    struct bytes value; /* before */
    bool fresh;         /* the row was not pending before */
};
struct block {
    struct block *next;
    size_t used, cap;
    uint8_t data[];
};
struct cached {
    uint64_t hash;
    uint16_t key_len, value_len;
    bool used, absent;
    uint8_t data[OVERLAY_CACHE_ROW_MAX];
};
struct overlay {
    struct kv *kv;
    bool (*key_valid)(struct bytes key);
    struct row **rows;
    size_t n_rows, cap_rows;
    struct undo *undos;
    size_t n_undos, cap_undos;
    struct block *blocks;
    struct kv_batch batch;
    struct cached *cache;
};

enum { BLOCK_BYTES = 64 * 1024, BLOCKS_KEPT = 1 };

struct overlay *overlay_new(struct kv *kv, bool (*key_valid)(struct bytes key))
{
    struct overlay *o = xcalloc(1, sizeof *o);
    o->kv = kv;
    o->key_valid = key_valid;
    kv_batch_init(&o->batch);
    o->cache = xcalloc(OVERLAY_CACHE_ROWS, sizeof *o->cache);
    return o;
}

static void drop_blocks(struct overlay *o, bool all)
{
    struct block *keep = NULL;
    for (struct block *b = o->blocks, *next; b != NULL; b = next) {
        next = b->next;
        if (!all && keep == NULL && b->cap == BLOCK_BYTES) {
            keep = b;
            b->used = 0;
            b->next = NULL;
        } else {
            free(b);
        }
    }
    o->blocks = keep;
}

void overlay_free(struct overlay *o)
{
    if (o == NULL) {
        return;
    }
    drop_blocks(o, true);
    free(o->rows);
    free(o->undos);
    kv_batch_release(&o->batch);
    free(o->cache);
    free(o);
}

static uint8_t *place(struct overlay *o, size_t len)
{
    len = (len + 7) & ~(size_t)7;
    struct block *b = o->blocks;
    if (b == NULL || b->cap - b->used < len) {
        size_t cap = len > BLOCK_BYTES ? len : BLOCK_BYTES;
        b = xmalloc(sizeof *b + cap);
        b->cap = cap;
        b->used = 0;
        b->next = o->blocks;
        o->blocks = b;
    }
    uint8_t *p = b->data + b->used;
    b->used += len;
    return p;
}

static struct bytes place_copy(struct overlay *o, struct bytes b)
{
    uint8_t *p = place(o, b.len + 1);
    if (b.len > 0) {
        memcpy(p, b.data, b.len);
    }
    return BYTES(p, b.len);
}

/* Index of the first pending row with a key >= `key`. */
static size_t lower_bound(const struct overlay *o, struct bytes key)
{
    size_t low = 0, high = o->n_rows;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (bytes_compare(o->rows[mid]->key, key) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static struct row *find_pending(const struct overlay *o, struct bytes key)
{
    size_t i = lower_bound(o, key);
    return i < o->n_rows && bytes_equal(o->rows[i]->key, key) ? o->rows[i] : NULL;
}

static uint64_t hash_key(struct bytes key)
{
    uint64_t h = key.len;
    size_t i = 0;
    for (; i + 8 <= key.len; i += 8) {
        h = table_mix(h ^ get_le64(key.data + i));
    }
    for (; i < key.len; i++) {
        h = table_mix(h ^ key.data[i]);
    }
    return h;
}

static struct cached *cache_slot(struct overlay *o, uint64_t hash)
{
    return &o->cache[hash & (OVERLAY_CACHE_ROWS - 1)];
}

static bool cache_holds(const struct cached *c, uint64_t hash, struct bytes key)
{
    return c->used && c->hash == hash && c->key_len == key.len &&
           memcmp(c->data, key.data, key.len) == 0;
}

/* value.data NULL: the store has no such key. */
static void cache_set(struct overlay *o, uint64_t hash, struct bytes key, struct bytes value)
{
    struct cached *c = cache_slot(o, hash);
    if (key.len + value.len > OVERLAY_CACHE_ROW_MAX) {
        if (cache_holds(c, hash, key)) {
            c->used = false;
        }
        return;
    }
    c->hash = hash;
    c->used = true;
    c->absent = value.data == NULL;
    c->key_len = (uint16_t)key.len;
    c->value_len = (uint16_t)value.len;
    memcpy(c->data, key.data, key.len);
    if (value.len > 0) {
        memcpy(c->data + key.len, value.data, value.len);
    }
}

int overlay_get(struct overlay *o, struct bytes key, struct buf *out)
{
    const struct row *row = find_pending(o, key);
    if (row != NULL) {
        if (row->value.data == NULL) {
            return ERR_NOT_FOUND;
        }
        buf_add(out, row->value.data, row->value.len);
        return 0;
    }
    uint64_t hash = hash_key(key);
    const struct cached *c = cache_slot(o, hash);
    if (cache_holds(c, hash, key)) {
        if (c->absent) {
            return ERR_NOT_FOUND;
        }
        buf_add(out, c->data + c->key_len, c->value_len);
        return 0;
    }
    size_t before = out->len;
    int rc = kv_get(o->kv, key, out);
    if (rc == 0) {
        static const uint8_t nothing;
        size_t len = out->len - before;
        cache_set(o, hash, key, BYTES(len > 0 ? out->data + before : &nothing, len));
    } else if (rc == ERR_NOT_FOUND) {
        cache_set(o, hash, key, BYTES(NULL, 0));
    }
    return rc;
}

static void push_undo(struct overlay *o, struct row *row, bool fresh)
{
    if (o->n_undos == o->cap_undos) {
        o->cap_undos = o->cap_undos == 0 ? 64 : o->cap_undos * 2;
        o->undos = xrealloc(o->undos, o->cap_undos * sizeof *o->undos);
    }
    o->undos[o->n_undos++] = (struct undo){.row = row, .value = row->value, .fresh = fresh};
}

static struct row *pending_row(struct overlay *o, struct bytes key)
{
    size_t i = lower_bound(o, key);
    if (i < o->n_rows && bytes_equal(o->rows[i]->key, key)) {
        push_undo(o, o->rows[i], false);
        return o->rows[i];
    }
    if (o->n_rows == o->cap_rows) {
        o->cap_rows = o->cap_rows == 0 ? 64 : o->cap_rows * 2;
        o->rows = xrealloc(o->rows, o->cap_rows * sizeof(struct row *));
    }
    struct row *row = (struct row *)(void *)place(o, sizeof *row);
    row->key = place_copy(o, key);
    row->value = BYTES(NULL, 0);
    memmove(o->rows + i + 1, o->rows + i, (o->n_rows - i) * sizeof(struct row *));
    o->rows[i] = row;
    o->n_rows++;
    push_undo(o, row, true);
    return row;
}

void overlay_put(struct overlay *o, struct bytes key, struct bytes value)
{
    struct bytes copy = place_copy(o, value);
    pending_row(o, key)->value = copy;
}

void overlay_delete(struct overlay *o, struct bytes key)
{
    pending_row(o, key)->value = BYTES(NULL, 0);
}

size_t overlay_mark(const struct overlay *o)
{
    return o->n_undos;
}

void overlay_rollback(struct overlay *o, size_t mark)
{
    CHECK(mark <= o->n_undos);
    while (o->n_undos > mark) {
        const struct undo *u = &o->undos[--o->n_undos];
        if (!u->fresh) {
            u->row->value = u->value;
            continue;
        }
        size_t i = lower_bound(o, u->row->key);
        CHECK(i < o->n_rows && o->rows[i] == u->row);
        memmove(o->rows + i, o->rows + i + 1, (o->n_rows - i - 1) * sizeof(struct row *));
        o->n_rows--;
    }
}

bool overlay_is_empty(const struct overlay *o)
{
    return o->n_rows == 0;
}

int overlay_commit(struct overlay *o, bool sync)
{
    kv_batch_clear(&o->batch);
    for (size_t i = 0; i < o->n_rows; i++) {
        const struct row *row = o->rows[i];
        if (row->value.data == NULL) {
            kv_batch_delete(&o->batch, row->key);
        } else {
            kv_batch_put(&o->batch, row->key, row->value);
        }
    }
    int rc = kv_write(o->kv, &o->batch, sync);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < o->n_rows; i++) {
        cache_set(o, hash_key(o->rows[i]->key), o->rows[i]->key, o->rows[i]->value);
    }
    o->n_rows = 0;
    o->n_undos = 0;
    drop_blocks(o, false);
    return 0;
}

/* Takes the lower of the store's and the pending next key; pending wins and may be a deletion. */
static void scan_settle(struct overlay_scan *s, struct bytes from)
{
    const struct kv_ops *ops = s->it->ops;
    size_t i = lower_bound(s->o, from);
    for (;;) {
        bool stored =
            ops->iter_valid(s->it) && bytes_has_prefix(ops->iter_key(s->it), buf_bytes(&s->prefix));
        const struct row *row = i < s->o->n_rows ? s->o->rows[i] : NULL;
        bool pending = row != NULL && bytes_has_prefix(row->key, buf_bytes(&s->prefix));
        s->valid = stored || pending;
        if (!s->valid) {
            s->error = ops->iter_error(s->it);
            return;
        }
        int c = !stored ? 1 : !pending ? -1 : bytes_compare(ops->iter_key(s->it), row->key);
        if (stored && s->o->key_valid != NULL && !s->o->key_valid(ops->iter_key(s->it))) {
            s->valid = false;
            s->error = ERR_CORRUPT;
            return;
        }
        if (c < 0) {
            s->key = ops->iter_key(s->it);
            s->value = ops->iter_value(s->it);
            return;
        }
        if (row->value.data != NULL) {
            s->key = row->key;
            s->value = row->value;
            return;
        }
        if (c == 0) {
            ops->iter_next(s->it);
        }
        i++;
    }
}

void overlay_scan_seek(struct overlay_scan *s, struct bytes from)
{
    struct bytes start = from.len == 0 ? buf_bytes(&s->prefix) : from;
    s->it->ops->iter_seek(s->it, start);
    scan_settle(s, start);
}

void overlay_scan_init(struct overlay_scan *s, struct overlay *o, struct bytes prefix,
                       struct bytes from)
{
    *s = (struct overlay_scan){.o = o, .it = o->kv->ops->iter(o->kv, NULL)};
    buf_init(&s->prefix);
    buf_init(&s->at_key);
    buf_add(&s->prefix, prefix.data, prefix.len);
    overlay_scan_seek(s, from);
}

void overlay_scan_release(struct overlay_scan *s)
{
    if (s->it != NULL) {
        s->it->ops->iter_free(s->it);
        s->it = NULL;
    }
    buf_release(&s->prefix);
    buf_release(&s->at_key);
}

void overlay_scan_next(struct overlay_scan *s)
{
    CHECK(s->valid);
    buf_clear(&s->at_key);
    buf_add(&s->at_key, s->key.data, s->key.len);
    const uint8_t zero = 0;
    buf_add(&s->at_key, &zero, 1); /* the smallest key above the current one */
    if (s->it->ops->iter_valid(s->it) &&
        bytes_compare(s->it->ops->iter_key(s->it), buf_bytes(&s->at_key)) < 0) {
        s->it->ops->iter_next(s->it);
    }
    scan_settle(s, buf_bytes(&s->at_key));
}
