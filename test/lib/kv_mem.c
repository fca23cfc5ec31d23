#include "test/lib/kv_mem.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/prng.h"

/* A skip list of versions, ordered by key, then newest first. A batch gets the
 * next sequence number; a snapshot (or an iterator) is a number and sees, per key,
 * the newest version at or below it. A crash is then simply: forget all versions above
 * a number. Versions that nobody can see any more are dropped when their key is written
 * again, and all at once when dead ones outnumber the live. */
enum { LEVELS = 16, SWEEP_MIN = 256 };

struct version {
    struct bytes key, value;
    uint64_t seq;
    bool put;
    unsigned levels;
    struct version *next[];
};

struct kv_snapshot {
    struct list node;
    uint64_t seq;
};

struct kv_mem {
    struct kv kv;
    struct version *head;
    uint64_t seq, synced_seq;
    struct list snapshots; /* of struct kv_snapshot: what must stay visible */
    struct prng prng;
    size_t n, dead, bytes;
    int fail_in; /* -1: never */
    bool failed, keep;
    struct kv_mem_counts counts;
};

struct mem_iter {
    struct kv_iter iter;
    struct kv_mem *kv;
    struct kv_snapshot at;
    struct version *current;
};

static struct kv_mem *self_of(const struct kv *kv)
{
    return container_of((struct kv *)(uintptr_t)kv, struct kv_mem, kv);
}

/* Whether v comes before (key, seq) in the list's order. */
static bool before(const struct version *v, struct bytes key, uint64_t seq)
{
    int order = bytes_compare(v->key, key);
    return order < 0 || (order == 0 && v->seq > seq);
}

/* The first version at or behind (key, seq); path gets the predecessors. */
static struct version *find(struct kv_mem *m, struct bytes key, uint64_t seq,
                            struct version *path[LEVELS])
{
    struct version *at = m->head;
    for (int level = LEVELS - 1; level >= 0; level--) {
        while (at->next[level] != NULL && before(at->next[level], key, seq)) {
            at = at->next[level];
        }
        if (path != NULL) {
            path[level] = at;
        }
    }
    return at->next[0];
}

static struct version *version_new(unsigned levels, struct bytes key, struct bytes value)
{
    struct version *v =
        xcalloc(1, sizeof *v + levels * sizeof(struct version *) + key.len + value.len);
    uint8_t *data = (uint8_t *)&v->next[levels];
    v->levels = levels;
    if (key.len > 0) {
        memcpy(data, key.data, key.len);
    }
    if (value.len > 0) {
        memcpy(data + key.len, value.data, value.len);
    }
    v->key = BYTES(data, key.len);
    v->value = BYTES(data + key.len, value.len);
    return v;
}

static void remove_version(struct kv_mem *m, struct version *v)
{
    struct version *path[LEVELS];
    CHECK(find(m, v->key, v->seq, path) == v);
    for (unsigned level = 0; level < v->levels; level++) {
        path[level]->next[level] = v->next[level];
    }
    m->n--;
    m->bytes -= v->key.len + v->value.len;
    m->dead -= v->put ? 0 : 1;
    free(v);
}

/* Versions above it can be rolled back or be seen apart from newer ones. */
static uint64_t horizon(const struct kv_mem *m)
{
    uint64_t seq = m->synced_seq;
    list_for_each (node, &m->snapshots) {
        const struct kv_snapshot *s = list_entry(node, struct kv_snapshot, node);
        seq = s->seq < seq ? s->seq : seq;
    }
    return seq;
}

/* Drops the versions of one key that nobody can see; returns what follows the key. */
static struct version *prune(struct kv_mem *m, struct version *v, uint64_t limit)
{
    struct version *kept = NULL;
    struct version *newest = v;
    while (v != NULL && (v == newest || bytes_equal(v->key, newest->key))) {
        struct version *following = v->next[0];
        if (kept != NULL) {
            remove_version(m, v);
        } else if (v->seq <= limit) {
            kept = v;
        }
        v = following;
    }
    if (kept != NULL && kept == newest && !kept->put) {
        remove_version(m, kept);
    }
    return v;
}

static void sweep(struct kv_mem *m)
{
    uint64_t limit = horizon(m);
    for (struct version *v = m->head->next[0]; v != NULL;) {
        v = prune(m, v, limit);
    }
}

static void insert(void *ctx, bool put, struct bytes key, struct bytes value)
{
    struct kv_mem *m = ctx;
    struct version *path[LEVELS];
    struct version *older = find(m, key, m->seq, path);
    if (older != NULL && older->seq == m->seq && bytes_equal(older->key, key)) {
        remove_version(m, older); /* twice in one batch: the last one counts */
        (void)find(m, key, m->seq, path);
    }
    unsigned levels = 1;
    while (levels < LEVELS && prng_below(&m->prng, 4) == 0) {
        levels++;
    }
    struct version *v = version_new(levels, key, value);
    v->seq = m->seq;
    v->put = put;
    for (unsigned level = 0; level < levels; level++) {
        v->next[level] = path[level]->next[level];
        path[level]->next[level] = v;
    }
    m->n++;
    m->bytes += key.len + value.len;
    m->dead += put ? 0 : 1;
    (void)prune(m, v, horizon(m));
}

/* Whether this call is to fail; counts down. */
static bool fault(struct kv_mem *m)
{
    if (m->fail_in < 0) {
        return false;
    }
    if (m->fail_in > 0) {
        m->fail_in--;
        return false;
    }
    m->failed = true;
    return true;
}

static int mem_sync(struct kv *kv)
{
    struct kv_mem *m = self_of(kv);
    m->counts.syncs++;
    if (fault(m)) {
        return -EIO;
    }
    m->synced_seq = m->seq;
    if (m->dead > SWEEP_MIN && m->dead > m->n / 2) {
        sweep(m);
    }
    return 0;
}

static int mem_write(struct kv *kv, const struct kv_batch *b, bool sync)
{
    struct kv_mem *m = self_of(kv);
    m->counts.writes++;
    if (fault(m)) {
        return -EIO;
    }
    m->seq++;
    kv_batch_each(b, insert, m);
    return sync ? mem_sync(kv) : 0;
}

static int mem_get(struct kv *kv, struct kv_snapshot *at, struct bytes key, struct buf *out)
{
    struct kv_mem *m = self_of(kv);
    m->counts.gets++;
    struct version *v = find(m, key, at != NULL ? at->seq : m->seq, NULL);
    if (v == NULL || !v->put || !bytes_equal(v->key, key)) {
        return ERR_NOT_FOUND;
    }
    buf_add(out, v->value.data, v->value.len);
    return 0;
}

static struct kv_snapshot *mem_snapshot(struct kv *kv)
{
    struct kv_mem *m = self_of(kv);
    struct kv_snapshot *s = xcalloc(1, sizeof *s);
    s->seq = m->seq;
    list_add_tail(&m->snapshots, &s->node);
    return s;
}

static void mem_snapshot_free(struct kv *kv, struct kv_snapshot *s)
{
    (void)kv;
    if (s != NULL) {
        list_remove(&s->node);
        free(s);
    }
}

static void mem_stats(struct kv *kv, struct kv_stats *out)
{
    const struct kv_mem *m = self_of(kv);
    out->memory_bytes = m->bytes + m->n * sizeof(struct version);
    out->disk_bytes = m->bytes;
}

static void mem_close(struct kv *kv)
{
    struct kv_mem *m = self_of(kv);
    CHECK(list_empty(&m->snapshots));
    if (m->keep) {
        return;
    }
    for (struct version *v = m->head; v != NULL;) {
        struct version *following = v->next[0];
        free(v);
        v = following;
    }
    free(m);
}

static struct mem_iter *iter_of(const struct kv_iter *it)
{
    return container_of((struct kv_iter *)(uintptr_t)it, struct mem_iter, iter);
}

/* Moves from v, the first candidate of its key, to the first version that is visible. */
static void settle(struct mem_iter *i, struct version *v)
{
    while (v != NULL) {
        if (v->seq > i->at.seq) {
            v = v->next[0];
        } else if (v->put) {
            break;
        } else {
            struct version *dead = v;
            while (v != NULL && bytes_equal(v->key, dead->key)) {
                v = v->next[0];
            }
        }
    }
    i->current = v;
}

static const struct kv_ops MEM_OPS;

static struct kv_iter *mem_iter_new(struct kv *kv, struct kv_snapshot *at)
{
    struct kv_mem *m = self_of(kv);
    struct mem_iter *i = xcalloc(1, sizeof *i);
    m->counts.iterators++;
    i->iter.ops = &MEM_OPS;
    i->kv = m;
    i->at.seq = at != NULL ? at->seq : m->seq;
    list_add_tail(&m->snapshots, &i->at.node);
    return &i->iter;
}

static void mem_iter_seek(struct kv_iter *it, struct bytes key)
{
    struct mem_iter *i = iter_of(it);
    settle(i, find(i->kv, key, UINT64_MAX, NULL));
}

static void mem_iter_next(struct kv_iter *it)
{
    struct mem_iter *i = iter_of(it);
    struct version *v = i->current;
    while (v != NULL && bytes_equal(v->key, i->current->key)) {
        v = v->next[0];
    }
    settle(i, v);
}

static bool mem_iter_valid(const struct kv_iter *it)
{
    return iter_of(it)->current != NULL;
}

static struct bytes mem_iter_key(const struct kv_iter *it)
{
    return iter_of(it)->current->key;
}

static struct bytes mem_iter_value(const struct kv_iter *it)
{
    return iter_of(it)->current->value;
}

static int mem_iter_error(const struct kv_iter *it)
{
    (void)it;
    return 0;
}

static void mem_iter_free(struct kv_iter *it)
{
    if (it != NULL) {
        list_remove(&iter_of(it)->at.node);
        free(iter_of(it));
    }
}

static const struct kv_ops MEM_OPS = {
    .get = mem_get,
    .iter = mem_iter_new,
    .write = mem_write,
    .sync = mem_sync,
    .snapshot = mem_snapshot,
    .snapshot_free = mem_snapshot_free,
    .stats = mem_stats,
    .close = mem_close,
    .iter_seek = mem_iter_seek,
    .iter_next = mem_iter_next,
    .iter_valid = mem_iter_valid,
    .iter_key = mem_iter_key,
    .iter_value = mem_iter_value,
    .iter_error = mem_iter_error,
    .iter_free = mem_iter_free,
};

struct kv *kv_mem_new(void)
{
    struct kv_mem *m = xcalloc(1, sizeof *m);
    m->kv.ops = &MEM_OPS;
    m->head = version_new(LEVELS, BYTES(NULL, 0), BYTES(NULL, 0));
    list_init(&m->snapshots);
    prng_seed(&m->prng, 1);
    m->fail_in = -1;
    return &m->kv;
}

void kv_mem_keep(struct kv *kv)
{
    self_of(kv)->keep = true;
}

void kv_mem_free(struct kv *kv)
{
    self_of(kv)->keep = false;
    mem_close(kv);
}

void kv_mem_fail_at(struct kv *kv, int n)
{
    self_of(kv)->fail_in = n;
    self_of(kv)->failed = false;
}

bool kv_mem_failed(const struct kv *kv)
{
    return self_of(kv)->failed;
}

unsigned kv_mem_unsynced(const struct kv *kv)
{
    const struct kv_mem *m = self_of(kv);
    return (unsigned)(m->seq - m->synced_seq);
}

void kv_mem_crash(struct kv *kv, unsigned keep)
{
    struct kv_mem *m = self_of(kv);
    CHECK(list_empty(&m->snapshots));
    if (keep < m->seq - m->synced_seq) {
        uint64_t limit = m->synced_seq + keep;
        for (struct version *v = m->head->next[0]; v != NULL;) {
            struct version *following = v->next[0];
            if (v->seq > limit) {
                remove_version(m, v);
            }
            v = following;
        }
        m->seq = limit;
    }
    m->synced_seq = m->seq; /* what survived is on stable storage now */
    kv_mem_fail_at(kv, -1);
}

struct kv_mem_counts kv_mem_counts(const struct kv *kv)
{
    return self_of(kv)->counts;
}
