#include "meta/keys.h"

#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "ec/stripe.h"

void key_start(struct key *k, uint8_t space, uint8_t table)
{
    k->data[0] = space;
    k->data[1] = table;
    k->len = 2;
}

void key_start_ns(struct key *k, volume_id volume, uint8_t table)
{
    k->data[0] = SPACE_NAMESPACE;
    put_be64(k->data + 1, volume);
    k->data[9] = table;
    k->len = 10;
}

void key_add_u32(struct key *k, uint32_t v)
{
    CHECK(k->len + 4 <= KEY_MAX);
    put_be32(k->data + k->len, v);
    k->len += 4;
}

void key_add_u64(struct key *k, uint64_t v)
{
    CHECK(k->len + 8 <= KEY_MAX);
    put_be64(k->data + k->len, v);
    k->len += 8;
}

void key_add_bytes(struct key *k, struct bytes b)
{
    CHECK(k->len + b.len <= KEY_MAX);
    if (b.len > 0) {
        memcpy(k->data + k->len, b.data, b.len);
    }
    k->len += b.len;
}

void key_history(struct key *k, struct bytes ns_key, uint64_t snapshot)
{
    k->len = 0;
    key_add_bytes(k, ns_key);
    CHECK(k->data[0] == SPACE_NAMESPACE);
    k->data[0] = SPACE_HISTORY;
    key_add_u64(k, snapshot);
}

struct lengths {
    size_t min, max;
};

/* Of what follows the table's letter in the namespace. */
static struct lengths namespace_lengths(uint8_t table)
{
    switch (table) {
    case TABLE_INODE:
    case TABLE_INLINE:
    case TABLE_SYMLINK:
        return (struct lengths){8, 8};
    case TABLE_EXTENT:
        return (struct lengths){16, 16};
    case TABLE_DENTRY:
        return (struct lengths){16 + 1, 16 + KEY_NAME_MAX};
    case TABLE_XATTR:
        return (struct lengths){8 + 1, 8 + KEY_NAME_MAX};
    default:
        return (struct lengths){1, 0}; /* no such table: no length will do */
    }
}

/* Of what follows the first two bytes elsewhere. */
static struct lengths other_lengths(uint8_t space, uint8_t table)
{
    switch (space << 8 | table) {
    case SPACE_SYSTEM << 8 | 'a':
    case SPACE_SYSTEM << 8 | 'c':
    case SPACE_SYSTEM << 8 | 'n':
        return (struct lengths){0, 0};
    case SPACE_STRIPE << 8 | 'c':
    case SPACE_CLUSTER << 8 | 's':
    case SPACE_CLUSTER << 8 | 'p':
    case SPACE_CLUSTER << 8 | 'n':
        return (struct lengths){4, 4};
    case SPACE_VOLUME << 8 | 'v':
    case SPACE_VOLUME << 8 | 'b':
    case SPACE_SESSION << 8 | 's':
    case SPACE_SESSION << 8 | 'q':
    case SPACE_LOCK << 8 | 'l':
    case SPACE_REAP << 8 | 's':
        return (struct lengths){8, 8};
    case SPACE_STRIPE << 8 | 's':
    case SPACE_STRIPE << 8 | 'g':
        return (struct lengths){12, 12};
    case SPACE_STRIPE << 8 | 'o':
    case SPACE_SESSION << 8 | 'w':
    case SPACE_SESSION << 8 | 'o':
    case SPACE_LOCK << 8 | 't':
    case SPACE_LOCK << 8 | 's':
    case SPACE_REAP << 8 | 'd':
    case SPACE_CLUSTER << 8 | 'u':
        return (struct lengths){16, 16};
    case SPACE_SESSION << 8 | 'g':
        return (struct lengths){20, 20};
    case SPACE_LOCK << 8 | 'o':
        return (struct lengths){24, 24};
    case SPACE_REAP << 8 | 'c':
        return (struct lengths){32, 32};
    case SPACE_STRIPE << 8 | 'r':
        return (struct lengths){36, 44};
    default:
        return (struct lengths){1, 0}; /* no such table: no length will do */
    }
}

static bool within(size_t len, struct lengths l)
{
    return len >= l.min && len <= l.max;
}

bool key_valid(struct bytes key)
{
    enum { PREFIX = 10, SNAPSHOT = 8 };
    if (key.len < 2) {
        return false;
    }
    const uint8_t space = key.data[0];
    if (space == SPACE_NAMESPACE || space == SPACE_HISTORY) {
        const size_t more = PREFIX + (space == SPACE_HISTORY ? SNAPSHOT : 0);
        return key.len >= more && within(key.len - more, namespace_lengths(key.data[PREFIX - 1]));
    }
    const struct lengths l = other_lengths(space, key.data[1]);
    /* A back reference ends with the number of a snapshot, or without; nothing lies between. */
    return within(key.len - 2, l) && (key.len - 2 - l.min) % SNAPSHOT == 0;
}

uint64_t key_u64_at(struct bytes key, size_t at)
{
    CHECK(at + 8 <= key.len);
    return get_be64(key.data + at);
}

/* SipHash-2-4 as its authors describe it (Aumasson and Bernstein, 2012). */
static inline uint64_t rotate(uint64_t x, unsigned n)
{
    return (x << n) | (x >> (64 - n));
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
}

uint64_t key_siphash(const uint8_t key[16], struct bytes data)
{
    uint64_t k0 = get_le64(key), k1 = get_le64(key + 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
                     k1 ^ 0x7465646279746573u};
    size_t i = 0;
    for (; i + 8 <= data.len; i += 8) {
        sip_word(v, get_le64(data.data + i));
    }
    uint64_t last = (uint64_t)data.len << 56;
    for (unsigned shift = 0; i < data.len; i++, shift += 8) {
        last |= (uint64_t)data.data[i] << shift;
    }
    sip_word(v, last);
    v[2] ^= 0xff;
    for (int r = 0; r < 4; r++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t key_name_hash(const uint8_t key[16], struct bytes name)
{
    uint64_t h = key_siphash(key, name) >> 1;
    /* The very last offset is kept free: a reader asks for what comes after. */
    if (h <= 2) {
        h = 3;
    }
    return h == INT64_MAX ? h - 1 : h;
}

/* ---- values ------------------------------------------------------------------ */

static void ns_header(struct buf *out, uint64_t born)
{
    buf_u8(out, VALUE_VERSION);
    buf_le64(out, born);
}

/* Newer versions are refused as such, so that a downgrade says what is wrong. */
static int open_value(struct cursor *c)
{
    uint8_t version = cursor_u8(c);
    if (c->bad) {
        return ERR_CORRUPT;
    }
    return version == VALUE_VERSION ? 0 : version > VALUE_VERSION ? ERR_VERSION : ERR_CORRUPT;
}

static int close_value(const struct cursor *c)
{
    return c->bad || c->at != c->end ? ERR_CORRUPT : 0;
}

int value_birth(struct bytes value, uint64_t *ret_born)
{
    struct cursor c = cursor_of(value);
    int rc = open_value(&c);
    uint64_t born = cursor_le64(&c);
    if (rc < 0 || c.bad) {
        return rc < 0 ? rc : ERR_CORRUPT;
    }
    *ret_born = born;
    return 0;
}

void inode_encode(struct buf *out, const struct inode *i, uint64_t born)
{
    ns_header(out, born);
    buf_le32(out, i->mode);
    buf_le32(out, i->nlink);
    buf_le32(out, i->uid);
    buf_le32(out, i->gid);
    buf_le32(out, i->rdev);
    buf_le32(out, i->flags);
    buf_le64(out, i->size);
    buf_le64(out, i->allocated);
    buf_le64(out, i->change);
    buf_le64(out, (uint64_t)i->atime);
    buf_le64(out, (uint64_t)i->mtime);
    buf_le64(out, (uint64_t)i->ctime);
    buf_le64(out, (uint64_t)i->btime);
    buf_le64(out, i->parent);
    buf_le64(out, i->entries);
    buf_le32(out, i->xattr_bytes);
    buf_le32(out, i->orphans);
    buf_le32(out, i->inline_bytes);
    buf_le32(out, i->cuts);
}

int inode_decode(struct bytes value, struct inode *out)
{
    struct cursor c = cursor_of(value);
    int rc = open_value(&c);
    if (rc < 0) {
        return rc;
    }
    (void)cursor_le64(&c); /* birth */
    struct inode i = {.ino = out->ino, .volume = out->volume};
    i.mode = cursor_le32(&c);
    i.nlink = cursor_le32(&c);
    i.uid = cursor_le32(&c);
    i.gid = cursor_le32(&c);
    i.rdev = cursor_le32(&c);
    i.flags = cursor_le32(&c);
    i.size = cursor_le64(&c);
    i.allocated = cursor_le64(&c);
    i.change = cursor_le64(&c);
    i.atime = (int64_t)cursor_le64(&c);
    i.mtime = (int64_t)cursor_le64(&c);
    i.ctime = (int64_t)cursor_le64(&c);
    i.btime = (int64_t)cursor_le64(&c);
    i.parent = cursor_le64(&c);
    i.entries = cursor_le64(&c);
    i.xattr_bytes = cursor_le32(&c);
    i.orphans = cursor_le32(&c);
    i.inline_bytes = cursor_le32(&c);
    i.cuts = cursor_le32(&c);
    rc = close_value(&c);
    if (rc == 0) {
        *out = i;
    }
    return rc;
}

void extent_encode(struct buf *out, const struct extent *e, uint64_t born)
{
    ns_header(out, born);
    buf_u8(out, e->kind);
    buf_le64(out, e->start);
    buf_le64(out, e->serial);
    if (e->kind == EXTENT_STRIPE) {
        buf_le32(out, e->pg);
        buf_le64(out, e->stripe);
        buf_le64(out, e->stripe_offset);
    }
}

int extent_decode(struct bytes value, uint64_t end, struct extent *out)
{
    struct cursor c = cursor_of(value);
    int rc = open_value(&c);
    if (rc < 0) {
        return rc;
    }
    (void)cursor_le64(&c); /* birth */
    struct extent e = {.end = end};
    e.kind = cursor_u8(&c);
    e.start = cursor_le64(&c);
    e.serial = cursor_le64(&c);
    if (e.kind == EXTENT_STRIPE) {
        e.pg = cursor_le32(&c);
        e.stripe = cursor_le64(&c);
        e.stripe_offset = cursor_le64(&c);
    }
    rc = close_value(&c);
    if (rc == 0 && (e.start >= e.end || e.kind < EXTENT_STRIPE || e.kind > EXTENT_RESERVED)) {
        rc = ERR_CORRUPT;
    }
    if (rc == 0) {
        *out = e;
    }
    return rc;
}

void dentry_encode(struct buf *out, const struct dentry *d, uint64_t born)
{
    ns_header(out, born);
    buf_le64(out, d->ino);
    buf_le32(out, d->type);
}

int dentry_decode(struct bytes value, struct dentry *out)
{
    struct cursor c = cursor_of(value);
    int rc = open_value(&c);
    if (rc < 0) {
        return rc;
    }
    (void)cursor_le64(&c); /* birth */
    struct dentry d = {.ino = cursor_le64(&c)};
    d.type = cursor_le32(&c);
    rc = close_value(&c);
    if (rc == 0) {
        *out = d;
    }
    return rc;
}

void stripe_row_encode(struct buf *out, const struct stripe_row *s)
{
    buf_u8(out, VALUE_VERSION);
    buf_le64(out, s->family);
    buf_u8(out, s->kind);
    buf_u8(out, s->k);
    buf_u8(out, s->m);
    buf_le64(out, s->slot_mask);
    buf_le64(out, s->length);
    buf_le64(out, s->nonce);
    buf_le64(out, s->refs);
    buf_le64(out, s->live_bytes);
}

int stripe_row_decode(struct bytes value, struct stripe_row *out)
{
    struct cursor c = cursor_of(value);
    int rc = open_value(&c);
    if (rc < 0) {
        return rc;
    }
    struct stripe_row s = {.family = cursor_le64(&c)};
    s.kind = cursor_u8(&c);
    s.k = cursor_u8(&c);
    s.m = cursor_u8(&c);
    s.slot_mask = cursor_le64(&c);
    s.length = cursor_le64(&c);
    s.nonce = cursor_le64(&c);
    s.refs = cursor_le64(&c);
    s.live_bytes = cursor_le64(&c);
    rc = close_value(&c);
    const struct stripe_code code = {.kind = s.kind, .k = s.k, .m = s.m};
    if (rc == 0 && (!stripe_code_valid(code) || s.length > stripe_length_max(code))) {
        rc = ERR_CORRUPT; /* who counts its bytes relies on that */
    }
    if (rc == 0) {
        *out = s;
    }
    return rc;
}

void volume_encode(struct buf *out, const struct volume *v)
{
    buf_u8(out, VALUE_VERSION);
    buf_le64(out, v->root);
    buf_le64(out, v->family);
    buf_le64(out, v->snapshot);
    buf_le64(out, v->serial);
    buf_le64(out, v->inodes);
    buf_le64(out, v->bytes);
    buf_le64(out, v->next_ino);
    buf_le64(out, v->block_end);
    buf_le32(out, v->k);
    buf_le32(out, v->m);
    buf_le32(out, v->inline_limit);
}

int volume_decode(struct bytes value, struct volume *out)
{
    struct cursor c = cursor_of(value);
    int rc = open_value(&c);
    if (rc < 0) {
        return rc;
    }
    struct volume v = {.id = out->id, .root = cursor_le64(&c)};
    v.family = cursor_le64(&c);
    v.snapshot = cursor_le64(&c);
    v.serial = cursor_le64(&c);
    v.inodes = cursor_le64(&c);
    v.bytes = cursor_le64(&c);
    v.next_ino = cursor_le64(&c);
    v.block_end = cursor_le64(&c);
    v.k = cursor_le32(&c);
    v.m = cursor_le32(&c);
    v.inline_limit = cursor_le32(&c);
    rc = close_value(&c);
    if (rc == 0) {
        *out = v;
    }
    return rc;
}

void lock_encode(struct buf *out, const struct lock *l)
{
    buf_le64(out, l->session);
    buf_le64(out, l->owner);
    buf_le64(out, l->handle);
    buf_le64(out, l->start);
    buf_le64(out, l->end);
    buf_le32(out, l->kind);
    buf_le32(out, l->type);
    buf_le32(out, l->pid);
}

void lock_decode(struct cursor *c, struct lock *out)
{
    out->session = cursor_le64(c);
    out->owner = cursor_le64(c);
    out->handle = cursor_le64(c);
    out->start = cursor_le64(c);
    out->end = cursor_le64(c);
    out->kind = cursor_le32(c);
    out->type = cursor_le32(c);
    out->pid = cursor_le32(c);
}
