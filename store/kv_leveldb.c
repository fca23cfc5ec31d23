#include "store/kv_leveldb.h"

#include <errno.h>
#include <leveldb/c.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

/* Made and freed in leveldb_env.cc. */
leveldb_env_t *leveldb_env_new_syncing(void);
void leveldb_env_free_syncing(leveldb_env_t *env);

enum {
    DEFAULT_WRITE_BUFFER = 64 << 20,
    DEFAULT_CACHE = 64 << 20,
    TABLE_BYTES = 32 << 20,
    BLOOM_BITS = 10
};

struct leveldb_kv {
    struct kv kv;
    leveldb_t *db;
    leveldb_env_t *env;
    leveldb_cache_t *cache;
    leveldb_filterpolicy_t *filter;
    leveldb_options_t *options;
    leveldb_readoptions_t *read;
    leveldb_writeoptions_t *write, *write_synced;
};

struct kv_snapshot {
    const leveldb_snapshot_t *at;
};

struct leveldb_iter {
    struct kv_iter iter;
    leveldb_iterator_t *it;
    leveldb_readoptions_t *read;
};

static struct leveldb_kv *self_of(struct kv *kv)
{
    return container_of(kv, struct leveldb_kv, kv);
}

/* Frees the text. LevelDB says what happened only in words. */
static int rc_of_error(char *error)
{
    if (error == NULL) {
        return 0;
    }
    int rc = -EIO;
    if (strncmp(error, "Corruption", 10) == 0) {
        rc = ERR_CORRUPT;
    } else if (strstr(error, "does not exist") != NULL) {
        rc = -ENOENT;
    } else if (strncmp(error, "IO error: lock ", 15) == 0) {
        rc = ERR_BUSY;
    } else if (strstr(error, strerror(ENOSPC)) != NULL) {
        rc = -ENOSPC;
    } else if (strstr(error, strerror(EACCES)) != NULL) {
        rc = -EACCES;
    }
    leveldb_free(error);
    return rc;
}

static leveldb_readoptions_t *read_at(struct kv_snapshot *at)
{
    leveldb_readoptions_t *read = leveldb_readoptions_create();
    leveldb_readoptions_set_verify_checksums(read, 1);
    if (at != NULL) {
        leveldb_readoptions_set_snapshot(read, at->at);
    }
    return read;
}

static int kv_leveldb_get(struct kv *kv, struct kv_snapshot *at, struct bytes key, struct buf *out)
{
    struct leveldb_kv *self = self_of(kv);
    leveldb_readoptions_t *read = at == NULL ? self->read : read_at(at);
    char *error = NULL;
    size_t len = 0;
    char *value = leveldb_get(self->db, read, (const char *)key.data, key.len, &len, &error);
    if (read != self->read) {
        leveldb_readoptions_destroy(read);
    }
    if (error != NULL) {
        return rc_of_error(error);
    }
    if (value == NULL) {
        return ERR_NOT_FOUND;
    }
    buf_add(out, value, len);
    leveldb_free(value);
    return 0;
}

static void add_to_batch(void *ctx, bool put, struct bytes key, struct bytes value)
{
    if (put) {
        leveldb_writebatch_put(ctx, (const char *)key.data, key.len, (const char *)value.data,
                               value.len);
    } else {
        leveldb_writebatch_delete(ctx, (const char *)key.data, key.len);
    }
}

static int kv_leveldb_write(struct kv *kv, const struct kv_batch *b, bool sync)
{
    struct leveldb_kv *self = self_of(kv);
    leveldb_writebatch_t *batch = leveldb_writebatch_create();
    kv_batch_each(b, add_to_batch, batch);
    char *error = NULL;
    leveldb_write(self->db, sync ? self->write_synced : self->write, batch, &error);
    leveldb_writebatch_destroy(batch);
    return rc_of_error(error);
}

/* An empty batch with sync: the log file is append-only, so its sync covers all
 * batches before it, and log files before this one were synced when they closed. */
static int kv_leveldb_sync(struct kv *kv)
{
    struct kv_batch empty;
    kv_batch_init(&empty);
    int rc = kv_leveldb_write(kv, &empty, true);
    kv_batch_release(&empty);
    return rc;
}

static struct kv_snapshot *kv_leveldb_snapshot(struct kv *kv)
{
    struct kv_snapshot *s = xmalloc(sizeof *s);
    s->at = leveldb_create_snapshot(self_of(kv)->db);
    return s;
}

static void kv_leveldb_snapshot_free(struct kv *kv, struct kv_snapshot *s)
{
    if (s != NULL) {
        leveldb_release_snapshot(self_of(kv)->db, s->at);
        free(s);
    }
}

static void kv_leveldb_stats(struct kv *kv, struct kv_stats *out)
{
    struct leveldb_kv *self = self_of(kv);
    char *text = leveldb_property_value(self->db, "leveldb.approximate-memory-usage");
    out->memory_bytes = text != NULL ? strtoull(text, NULL, 10) : 0;
    leveldb_free(text);
    const char *start = "";
    const char *limit = "\xff\xff\xff\xff\xff\xff\xff\xff";
    size_t start_len = 0, limit_len = 8;
    leveldb_approximate_sizes(self->db, 1, &start, &start_len, &limit, &limit_len,
                              &out->disk_bytes);
}

static void kv_leveldb_close(struct kv *kv)
{
    struct leveldb_kv *self = self_of(kv);
    if (self->db != NULL) {
        leveldb_close(self->db);
    }
    leveldb_readoptions_destroy(self->read);
    leveldb_writeoptions_destroy(self->write);
    leveldb_writeoptions_destroy(self->write_synced);
    leveldb_options_destroy(self->options);
    leveldb_cache_destroy(self->cache);
    leveldb_filterpolicy_destroy(self->filter);
    leveldb_env_free_syncing(self->env);
    free(self);
}

static const struct kv_ops LEVELDB_OPS;

static struct leveldb_iter *iter_of(const struct kv_iter *it)
{
    return container_of((struct kv_iter *)(uintptr_t)it, struct leveldb_iter, iter);
}

static struct kv_iter *kv_leveldb_iter(struct kv *kv, struct kv_snapshot *at)
{
    struct leveldb_iter *i = xcalloc(1, sizeof *i);
    i->iter.ops = &LEVELDB_OPS;
    i->read = read_at(at);
    i->it = leveldb_create_iterator(self_of(kv)->db, i->read);
    return &i->iter;
}

static void kv_leveldb_iter_seek(struct kv_iter *it, struct bytes key)
{
    leveldb_iter_seek(iter_of(it)->it, (const char *)key.data, key.len);
}

static void kv_leveldb_iter_next(struct kv_iter *it)
{
    leveldb_iter_next(iter_of(it)->it);
}

static bool kv_leveldb_iter_valid(const struct kv_iter *it)
{
    return leveldb_iter_valid(iter_of(it)->it) != 0;
}

static struct bytes kv_leveldb_iter_key(const struct kv_iter *it)
{
    size_t len;
    const char *data = leveldb_iter_key(iter_of(it)->it, &len);
    return BYTES(data, len);
}

static struct bytes kv_leveldb_iter_value(const struct kv_iter *it)
{
    size_t len;
    const char *data = leveldb_iter_value(iter_of(it)->it, &len);
    return BYTES(data, len);
}

static int kv_leveldb_iter_error(const struct kv_iter *it)
{
    char *error = NULL;
    leveldb_iter_get_error(iter_of(it)->it, &error);
    return rc_of_error(error);
}

static void kv_leveldb_iter_free(struct kv_iter *it)
{
    if (it != NULL) {
        struct leveldb_iter *i = iter_of(it);
        leveldb_iter_destroy(i->it);
        leveldb_readoptions_destroy(i->read);
        free(i);
    }
}

static const struct kv_ops LEVELDB_OPS = {
    .get = kv_leveldb_get,
    .iter = kv_leveldb_iter,
    .write = kv_leveldb_write,
    .sync = kv_leveldb_sync,
    .snapshot = kv_leveldb_snapshot,
    .snapshot_free = kv_leveldb_snapshot_free,
    .stats = kv_leveldb_stats,
    .close = kv_leveldb_close,
    .iter_seek = kv_leveldb_iter_seek,
    .iter_next = kv_leveldb_iter_next,
    .iter_valid = kv_leveldb_iter_valid,
    .iter_key = kv_leveldb_iter_key,
    .iter_value = kv_leveldb_iter_value,
    .iter_error = kv_leveldb_iter_error,
    .iter_free = kv_leveldb_iter_free,
};

static void set_options(struct leveldb_kv *self, const struct kv_leveldb_options *o)
{
    size_t buffer = o->write_buffer_bytes != 0 ? o->write_buffer_bytes : DEFAULT_WRITE_BUFFER;
    self->env = leveldb_env_new_syncing();
    self->cache = leveldb_cache_create_lru(o->cache_bytes != 0 ? o->cache_bytes : DEFAULT_CACHE);
    self->filter = leveldb_filterpolicy_create_bloom(BLOOM_BITS);
    self->options = leveldb_options_create();
    leveldb_options_set_env(self->options, self->env);
    leveldb_options_set_cache(self->options, self->cache);
    leveldb_options_set_filter_policy(self->options, self->filter);
    leveldb_options_set_write_buffer_size(self->options, buffer);
    leveldb_options_set_max_file_size(self->options, TABLE_BYTES);
    leveldb_options_set_create_if_missing(self->options, o->create);
    leveldb_options_set_compression(self->options, leveldb_snappy_compression);
    /* A damaged log or table is an error, not something to read around. */
    leveldb_options_set_paranoid_checks(self->options, 1);
    self->read = read_at(NULL);
    self->write = leveldb_writeoptions_create();
    self->write_synced = leveldb_writeoptions_create();
    leveldb_writeoptions_set_sync(self->write_synced, 1);
}

int kv_leveldb_open(const char *path, const struct kv_leveldb_options *options, struct kv **out)
{
    struct leveldb_kv *self = xcalloc(1, sizeof *self);
    self->kv.ops = &LEVELDB_OPS;
    set_options(self, options);
    char *error = NULL;
    self->db = leveldb_open(self->options, path, &error);
    if (error != NULL) {
        self->db = NULL;
        kv_leveldb_close(&self->kv);
        return rc_of_error(error);
    }
    *out = &self->kv;
    return 0;
}
