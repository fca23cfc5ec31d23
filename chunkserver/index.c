#include "chunkserver/index.h"

#include <string.h>

#include "base/err.h"

enum { ROW_VERSION = 1, KEY_BYTES = 14, MARK_KEY_BYTES = 5, HOLE_KEY_BYTES = 13 };

static void fragment_key(uint8_t out[KEY_BYTES], struct frag_key key)
{
    out[0] = 'f';
    put_be32(out + 1, key.pg);
    put_be64(out + 5, key.id);
    out[13] = key.slot;
}

static void mark_key(uint8_t out[MARK_KEY_BYTES], uint32_t segment)
{
    out[0] = 's';
    put_be32(out + 1, segment);
}

static void hole_key(uint8_t out[HOLE_KEY_BYTES], uint32_t segment, uint64_t at)
{
    out[0] = 'p';
    put_be32(out + 1, segment);
    put_be64(out + 5, at);
}

void index_put(struct kv_batch *b, const struct index_place *p)
{
    const struct fragment *f = &p->fragment;
    uint8_t key[KEY_BYTES];
    fragment_key(key, f->key);
    struct buf value;
    buf_init(&value);
    buf_u8(&value, ROW_VERSION);
    buf_u8(&value, f->code.kind);
    buf_u8(&value, f->code.k);
    buf_u8(&value, f->code.m);
    buf_le32(&value, p->segment);
    buf_le64(&value, p->at);
    buf_le32(&value, f->bytes);
    buf_le32(&value, f->epoch);
    buf_le64(&value, f->stripe_length);
    buf_le64(&value, f->nonce);
    unsigned blocks = stripe_crc_blocks(f->bytes);
    for (unsigned i = 0; i < blocks; i++) {
        buf_le32(&value, f->crc[i]);
    }
    kv_batch_put(b, BYTES(key, sizeof key), buf_bytes(&value));
    buf_release(&value);
}

void index_delete(struct kv_batch *b, struct frag_key key)
{
    uint8_t k[KEY_BYTES];
    fragment_key(k, key);
    kv_batch_delete(b, BYTES(k, sizeof k));
}

int index_decode(struct bytes key, struct bytes value, struct index_place *out)
{
    struct cursor c = cursor_of(value);
    if (key.len != KEY_BYTES || key.data[0] != 'f' || value.len == 0) {
        return ERR_CORRUPT;
    }
    if (cursor_u8(&c) != ROW_VERSION) {
        return ERR_VERSION;
    }
    struct index_place p = {0};
    struct fragment *f = &p.fragment;
    f->key = (struct frag_key){
        .pg = get_be32(key.data + 1), .id = get_be64(key.data + 5), .slot = key.data[13]};
    f->code.kind = cursor_u8(&c);
    f->code.k = cursor_u8(&c);
    f->code.m = cursor_u8(&c);
    p.segment = cursor_le32(&c);
    p.at = cursor_le64(&c);
    f->bytes = cursor_le32(&c);
    f->epoch = cursor_le32(&c);
    f->stripe_length = cursor_le64(&c);
    f->nonce = cursor_le64(&c);
    if (c.bad || fragment_refusal(f) != NULL) {
        return ERR_CORRUPT;
    }
    unsigned blocks = stripe_crc_blocks(f->bytes);
    for (unsigned i = 0; i < blocks; i++) {
        f->crc[i] = cursor_le32(&c);
    }
    if (c.bad || cursor_left(&c) != 0) {
        return ERR_CORRUPT;
    }
    *out = p;
    return 0;
}

int index_get(struct kv *kv, struct frag_key key, struct index_place *out)
{
    uint8_t k[KEY_BYTES];
    fragment_key(k, key);
    struct buf value;
    buf_init(&value);
    int rc = kv_get(kv, BYTES(k, sizeof k), &value);
    if (rc == 0) {
        rc = index_decode(BYTES(k, sizeof k), buf_bytes(&value), out);
    }
    buf_release(&value);
    return rc;
}

void index_put_mark(struct kv_batch *b, uint32_t segment, const struct index_mark *m)
{
    uint8_t key[MARK_KEY_BYTES], value[17];
    mark_key(key, segment);
    value[0] = ROW_VERSION;
    put_le64(value + 1, m->seed);
    put_le64(value + 9, m->scanned);
    kv_batch_put(b, BYTES(key, sizeof key), BYTES(value, sizeof value));
}

int index_get_mark(struct kv *kv, uint32_t segment, struct index_mark *out)
{
    uint8_t key[MARK_KEY_BYTES];
    mark_key(key, segment);
    struct buf value;
    buf_init(&value);
    int rc = kv_get(kv, BYTES(key, sizeof key), &value);
    if (rc == 0 && (value.len != 17 || value.data[0] != ROW_VERSION)) {
        rc = ERR_CORRUPT;
    }
    if (rc == 0) {
        out->seed = get_le64(value.data + 1);
        out->scanned = get_le64(value.data + 9);
    }
    buf_release(&value);
    return rc;
}

void index_put_hole(struct kv_batch *b, const struct index_hole *h)
{
    uint8_t key[HOLE_KEY_BYTES], value[17];
    hole_key(key, h->segment, h->at);
    value[0] = ROW_VERSION;
    put_le64(value + 1, h->seed);
    put_le64(value + 9, h->len);
    kv_batch_put(b, BYTES(key, sizeof key), BYTES(value, sizeof value));
}

void index_delete_hole(struct kv_batch *b, const struct index_hole *h)
{
    uint8_t key[HOLE_KEY_BYTES];
    hole_key(key, h->segment, h->at);
    kv_batch_delete(b, BYTES(key, sizeof key));
}

void index_put_identity(struct kv_batch *b, const uint8_t disk[16])
{
    uint8_t value[17] = {ROW_VERSION};
    memcpy(value + 1, disk, 16);
    kv_batch_put(b, BYTES("v", 1), BYTES(value, sizeof value));
}

int index_get_identity(struct kv *kv, uint8_t disk[16])
{
    struct buf value;
    buf_init(&value);
    int rc = kv_get(kv, BYTES("v", 1), &value);
    if (rc == 0 && value.len >= 1 && value.data[0] != ROW_VERSION) {
        rc = ERR_VERSION;
    } else if (rc == 0 && value.len != 17) {
        rc = ERR_CORRUPT;
    }
    if (rc == 0) {
        memcpy(disk, value.data + 1, 16);
    }
    buf_release(&value);
    return rc;
}

/* Fragments from `from` on, while the key has the prefix. */
static int walk(struct kv *kv, struct bytes from, struct bytes prefix, index_visit visit, void *ctx)
{
    struct kv_iter *it = kv->ops->iter(kv, NULL);
    int rc = 0;
    bool go = true;
    for (it->ops->iter_seek(it, from); go && it->ops->iter_valid(it); it->ops->iter_next(it)) {
        struct bytes key = it->ops->iter_key(it);
        struct index_place p;
        if (!bytes_has_prefix(key, prefix)) {
            break;
        }
        rc = index_decode(key, it->ops->iter_value(it), &p);
        go = rc == 0 && visit(ctx, &p);
    }
    rc = rc != 0 ? rc : it->ops->iter_error(it);
    it->ops->iter_free(it);
    return rc;
}

int index_walk_pg(struct kv *kv, uint32_t pg, uint64_t first, index_visit visit, void *ctx)
{
    uint8_t from[KEY_BYTES];
    fragment_key(from, (struct frag_key){.pg = pg, .id = first});
    return walk(kv, BYTES(from, sizeof from), BYTES(from, 5), visit, ctx);
}

int index_walk_all(struct kv *kv, index_visit visit, void *ctx)
{
    return walk(kv, BYTES("f", 1), BYTES("f", 1), visit, ctx);
}

int index_walk_holes(struct kv *kv, uint32_t segment, uint64_t at,
                     bool (*visit)(void *ctx, const struct index_hole *h), void *ctx)
{
    uint8_t from[HOLE_KEY_BYTES];
    hole_key(from, segment, at);
    struct kv_iter *it = kv->ops->iter(kv, NULL);
    int rc = 0;
    bool go = true;
    for (it->ops->iter_seek(it, BYTES(from, sizeof from)); go && it->ops->iter_valid(it);
         it->ops->iter_next(it)) {
        struct bytes key = it->ops->iter_key(it), value = it->ops->iter_value(it);
        if (key.data[0] != 'p') {
            break;
        }
        if (key.len != HOLE_KEY_BYTES || value.len != 17 || value.data[0] != ROW_VERSION) {
            rc = ERR_CORRUPT;
            break;
        }
        struct index_hole h = {.segment = get_be32(key.data + 1),
                               .at = get_be64(key.data + 5),
                               .seed = get_le64(value.data + 1),
                               .len = get_le64(value.data + 9)};
        go = visit(ctx, &h);
    }
    rc = rc != 0 ? rc : it->ops->iter_error(it);
    it->ops->iter_free(it);
    return rc;
}
