#include "base/buf.h"

#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"

void buf_init(struct buf *b)
{
    *b = (struct buf){0};
}

void buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

uint8_t *buf_extend(struct buf *b, size_t len)
{
    if (b->cap == 0 || b->cap - b->len < len) { /* never NULL, also for nothing */
        size_t cap = b->cap != 0 ? b->cap * 2 : 64;
        while (cap < b->len + len) {
            cap *= 2;
        }
        b->data = xrealloc(b->data, cap);
        b->cap = cap;
    }
    uint8_t *at = b->data + b->len;
    b->len += len;
    return at;
}

void buf_add(struct buf *b, const void *data, size_t len)
{
    if (len != 0) {
        memcpy(buf_extend(b, len), data, len);
    }
}

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    CHECK(n >= 0);
    uint8_t *at = buf_extend(b, (size_t)n + 1);
    vsnprintf((char *)at, (size_t)n + 1, format, again);
    va_end(again);
    b->len--; /* the terminating zero is there but not counted */
}

void put_le16(uint8_t *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, sizeof v);
}
void put_le32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}
void put_le64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof v);
}
void put_be32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof v);
}
void put_be64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof v);
}
uint16_t get_le16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return le16toh(v);
}
uint32_t get_le32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}
uint64_t get_le64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}
uint32_t get_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return be32toh(v);
}
uint64_t get_be64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return be64toh(v);
}

void buf_u8(struct buf *b, uint8_t v)
{
    *buf_extend(b, 1) = v;
}
void buf_le16(struct buf *b, uint16_t v)
{
    put_le16(buf_extend(b, 2), v);
}
void buf_le32(struct buf *b, uint32_t v)
{
    put_le32(buf_extend(b, 4), v);
}
void buf_le64(struct buf *b, uint64_t v)
{
    put_le64(buf_extend(b, 8), v);
}
void buf_be32(struct buf *b, uint32_t v)
{
    put_be32(buf_extend(b, 4), v);
}
void buf_be64(struct buf *b, uint64_t v)
{
    put_be64(buf_extend(b, 8), v);
}

void buf_varint(struct buf *b, uint64_t v)
{
    while (v >= 0x80) {
        buf_u8(b, (uint8_t)(v | 0x80));
        v >>= 7;
    }
    buf_u8(b, (uint8_t)v);
}

void buf_run(struct buf *b, const void *data, size_t len)
{
    buf_varint(b, len);
    buf_add(b, data, len);
}

struct bytes cursor_take(struct cursor *c, size_t len)
{
    if (c->bad || (size_t)(c->end - c->at) < len) {
        c->bad = true;
        return BYTES(NULL, 0);
    }
    struct bytes out = BYTES(c->at, len);
    c->at += len;
    return out;
}

uint8_t cursor_u8(struct cursor *c)
{
    struct bytes b = cursor_take(c, 1);
    return b.len != 0 ? b.data[0] : 0;
}
uint16_t cursor_le16(struct cursor *c)
{
    struct bytes b = cursor_take(c, 2);
    return b.len != 0 ? get_le16(b.data) : 0;
}
uint32_t cursor_le32(struct cursor *c)
{
    struct bytes b = cursor_take(c, 4);
    return b.len != 0 ? get_le32(b.data) : 0;
}
uint64_t cursor_le64(struct cursor *c)
{
    struct bytes b = cursor_take(c, 8);
    return b.len != 0 ? get_le64(b.data) : 0;
}
uint32_t cursor_be32(struct cursor *c)
{
    struct bytes b = cursor_take(c, 4);
    return b.len != 0 ? get_be32(b.data) : 0;
}
uint64_t cursor_be64(struct cursor *c)
{
    struct bytes b = cursor_take(c, 8);
    return b.len != 0 ? get_be64(b.data) : 0;
}

uint64_t cursor_varint(struct cursor *c)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = cursor_u8(c);
        if (shift == 63 && byte > 1) {
            break; /* does not fit 64 bits */
        }
        v |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            return c->bad ? 0 : v;
        }
    }
    c->bad = true;
    return 0;
}

struct bytes cursor_run(struct cursor *c)
{
    uint64_t len = cursor_varint(c);
    if (c->bad || len > (size_t)(c->end - c->at)) {
        c->bad = true;
        return BYTES(NULL, 0);
    }
    return cursor_take(c, (size_t)len);
}

int bytes_compare(struct bytes a, struct bytes b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int rc = n != 0 ? memcmp(a.data, b.data, n) : 0;
    if (rc != 0) {
        return rc;
    }
    return a.len < b.len ? -1 : a.len > b.len;
}

bool bytes_has_prefix(struct bytes b, struct bytes prefix)
{
    return b.len >= prefix.len && (prefix.len == 0 || memcmp(b.data, prefix.data, prefix.len) == 0);
}
