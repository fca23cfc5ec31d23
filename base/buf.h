#ifndef CFS_BASE_BUF_H
#define CFS_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A borrowed run of bytes. */
struct bytes {
    const uint8_t *data;
    size_t len;
};
#define BYTES(d, l) ((struct bytes){.data = (const uint8_t *)(d), .len = (l)})

/* A growable buffer that owns its memory. */
struct buf {
    uint8_t *data;
    size_t len, cap;
};
void buf_init(struct buf *b);
void buf_release(struct buf *b); /* empties it; may be called twice */
void buf_clear(struct buf *b);   /* keeps the memory */
void buf_add(struct buf *b, const void *data, size_t len);
uint8_t *buf_extend(struct buf *b, size_t len); /* room for len more, uninitialised, counted */
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline struct bytes buf_bytes(const struct buf *b)
{
    return BYTES(b->data, b->len);
}

/* Appends integers: le for what is on wire and disk, be for keys that sort. */
void buf_u8(struct buf *b, uint8_t v);
void buf_le16(struct buf *b, uint16_t v);
void buf_le32(struct buf *b, uint32_t v);
void buf_le64(struct buf *b, uint64_t v);
void buf_be32(struct buf *b, uint32_t v);
void buf_be64(struct buf *b, uint64_t v);
/* Varint (LEB128) and a length-prefixed run. */
void buf_varint(struct buf *b, uint64_t v);
void buf_run(struct buf *b, const void *data, size_t len);

/* A bounded reader. After any read past the end `bad` is set and all further
 * reads give zero, so a decoder checks once, at its end. */
struct cursor {
    const uint8_t *at, *end;
    bool bad;
};
static inline struct cursor cursor_of(struct bytes b)
{
    const uint8_t *end = b.len != 0 ? b.data + b.len : b.data; /* may be NULL */
    return (struct cursor){.at = b.data, .end = end, .bad = false};
}
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_le16(struct cursor *c);
uint32_t cursor_le32(struct cursor *c);
uint64_t cursor_le64(struct cursor *c);
uint32_t cursor_be32(struct cursor *c);
uint64_t cursor_be64(struct cursor *c);
uint64_t cursor_varint(struct cursor *c);
struct bytes cursor_run(struct cursor *c);              /* length-prefixed; borrowed */
struct bytes cursor_take(struct cursor *c, size_t len); /* exactly len bytes; borrowed */
static inline size_t cursor_left(const struct cursor *c)
{
    return c->bad ? 0 : (size_t)(c->end - c->at);
}

/* Three-way comparison as LevelDB's default comparator does it. */
int bytes_compare(struct bytes a, struct bytes b);
static inline bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.len == b.len && bytes_compare(a, b) == 0;
}
bool bytes_has_prefix(struct bytes b, struct bytes prefix);

/* Fixed-place stores and loads for headers. */
void put_le16(uint8_t *p, uint16_t v);
void put_le32(uint8_t *p, uint32_t v);
void put_le64(uint8_t *p, uint64_t v);
void put_be32(uint8_t *p, uint32_t v);
void put_be64(uint8_t *p, uint64_t v);
uint16_t get_le16(const uint8_t *p);
uint32_t get_le32(const uint8_t *p);
uint64_t get_le64(const uint8_t *p);
uint32_t get_be32(const uint8_t *p);
uint64_t get_be64(const uint8_t *p);

#endif
