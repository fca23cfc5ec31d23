#include "test/lib/protofill.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/prng.h"

/* A change is a path of fields, one byte a step, then what to do there. Everything is on the heap
 * as protobuf_c_message_unpack would have put it. */
enum { CHANGES_MAX = 8, DEPTH_MAX = 6, LONG_TEXT = 70000 };

static ProtobufCMessage *message_new(const ProtobufCMessageDescriptor *d);

static void *member_of(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    return (uint8_t *)m + f->offset;
}

static void *quantifier_of(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    return (uint8_t *)m + f->quantifier_offset;
}

static size_t bytes_of(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    default:
        return 4;
    }
}

/* A required message that is not there could not be packed. */
static ProtobufCMessage *message_new(const ProtobufCMessageDescriptor *d)
{
    ProtobufCMessage *m = xcalloc(1, d->sizeof_message);
    d->message_init(m);
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        if (f->label == PROTOBUF_C_LABEL_REQUIRED && f->type == PROTOBUF_C_TYPE_MESSAGE) {
            *(ProtobufCMessage **)member_of(m, f) = message_new(f->descriptor);
        }
    }
    return m;
}

/* ---- values ---- */

static uint64_t number(struct cursor *c, uint64_t old)
{
    static const uint64_t EDGES[] = {0,
                                     1,
                                     2,
                                     4,
                                     8,
                                     9,
                                     32,
                                     33,
                                     40,
                                     41,
                                     4095,
                                     4096,
                                     65535,
                                     65536,
                                     1 << 20,
                                     (1 << 20) + 1,
                                     1ull << 31,
                                     (1ull << 31) - 1,
                                     UINT32_MAX,
                                     1ull << 32,
                                     1ull << 40,
                                     INT64_MAX,
                                     1ull << 63,
                                     UINT64_MAX,
                                     UINT64_MAX - 1,
                                     UINT64_MAX - 4095};
    const unsigned kind = cursor_u8(c);
    if (kind < array_count(EDGES)) {
        return EDGES[kind];
    }
    switch (kind % 8) {
    case 0:
        return old + 1;
    case 1:
        return old - 1;
    case 2:
        return old ^ 1ull << cursor_u8(c) % 64;
    case 3:
        return old + ((uint64_t)cursor_u8(c) << 12);
    case 4:
        return cursor_le64(c);
    case 5:
        return cursor_le16(c);
    default:
        return cursor_u8(c);
    }
}

static uint8_t *text(struct cursor *c, size_t *len)
{
    static const size_t LENGTHS[] = {0, 1, 15, 16, 17, 63, 64, 255, 256, 1023, 4096, LONG_TEXT};
    const unsigned kind = cursor_u8(c);
    *len = kind < array_count(LENGTHS) ? LENGTHS[kind] : kind % 32;
    uint8_t *to = xmalloc(*len + 1);
    memset(to, 'a' + (int)(kind % 26), *len);
    to[*len] = 0;
    for (size_t i = 0; i < *len && i < 32 && cursor_left(c) > 0; i++) {
        to[i] = cursor_u8(c);
    }
    return to;
}

static void value_release(const ProtobufCFieldDescriptor *f, void *at)
{
    if (f->type == PROTOBUF_C_TYPE_STRING && *(char **)at != f->default_value) {
        free(*(char **)at);
    } else if (f->type == PROTOBUF_C_TYPE_BYTES) {
        free(((ProtobufCBinaryData *)at)->data);
    } else if (f->type == PROTOBUF_C_TYPE_MESSAGE && *(ProtobufCMessage **)at != NULL) {
        protobuf_c_message_free_unpacked(*(ProtobufCMessage **)at, NULL);
    }
    memset(at, 0, bytes_of(f));
}

/* What stood there is lost; numbers may start from it. */
static void value_set(const ProtobufCFieldDescriptor *f, void *at, struct cursor *c)
{
    size_t len = 0;
    uint64_t n = 0;
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
        value_release(f, at);
        *(uint8_t **)at = text(c, &len);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        value_release(f, at);
        ((ProtobufCBinaryData *)at)->data = text(c, &len);
        ((ProtobufCBinaryData *)at)->len = len;
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        value_release(f, at);
        *(ProtobufCMessage **)at = message_new(f->descriptor);
        break;
    default:
        memcpy(&n, at, bytes_of(f));
        n = number(c, n);
        n = f->type == PROTOBUF_C_TYPE_BOOL ? n & 1 : n;
        memcpy(at, &n, bytes_of(f));
        break;
    }
}

/* ---- repeated fields ---- */

static void list_append(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, unsigned count,
                        struct cursor *c)
{
    size_t *n = quantifier_of(m, f);
    uint8_t **array = member_of(m, f);
    const size_t bytes = bytes_of(f);
    *array = xrealloc(*array, (*n + count) * bytes);
    memset(*array + *n * bytes, 0, count * bytes);
    for (unsigned i = 0; i < count; i++) {
        value_set(f, *array + (*n)++ * bytes, c);
    }
}

static void list_change(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, unsigned how,
                        struct cursor *c)
{
    static const unsigned COUNTS[] = {1, 1, 2, 3, 9, 33, 41, 300};
    size_t *n = quantifier_of(m, f);
    uint8_t **array = member_of(m, f);
    const size_t bytes = bytes_of(f);
    if (how % 4 == 0 && *n > 0) {
        value_release(f, *array + --*n * bytes);
    } else if (how % 4 == 1 && *n > 1) { /* two change places: not ascending any more */
        uint8_t other[sizeof(ProtobufCBinaryData)];
        uint8_t *a = *array + cursor_u8(c) % *n * bytes, *b = *array + (*n - 1) * bytes;
        memcpy(other, a, bytes);
        memmove(a, b, bytes);
        memcpy(b, other, bytes);
    } else {
        list_append(m, f, COUNTS[cursor_u8(c) % array_count(COUNTS)], c);
    }
}

/* ---- changes ---- */

/* The place of the field's value, made if it is not there; NULL when the list was changed itself.
 */
static void *reach(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, unsigned how,
                   struct cursor *c)
{
    uint8_t *at = member_of(m, f);
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        const size_t n = *(size_t *)quantifier_of(m, f);
        if (how % 2 == 0 || n == 0) {
            list_change(m, f, how / 2, c);
            return NULL;
        }
        return *(uint8_t **)at + how / 2 % n * bytes_of(f);
    }
    const bool pointer = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE;
    if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !pointer) {
        *(protobuf_c_boolean *)quantifier_of(m, f) = how % 8 != 0;
    }
    if (f->label == PROTOBUF_C_LABEL_OPTIONAL && pointer && how % 8 == 0) {
        value_release(f, at);
        return NULL;
    }
    return at;
}

static void change(ProtobufCMessage *m, struct cursor *c)
{
    for (unsigned depth = 0; depth < DEPTH_MAX && m->descriptor->n_fields > 0; depth++) {
        const unsigned which = cursor_u8(c), how = cursor_u8(c);
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[which % m->descriptor->n_fields];
        void *at = reach(m, f, how, c);
        if (at == NULL) {
            return;
        }
        if (f->type != PROTOBUF_C_TYPE_MESSAGE) {
            value_set(f, at, c);
            return;
        }
        if (*(ProtobufCMessage **)at == NULL) {
            *(ProtobufCMessage **)at = message_new(f->descriptor);
        }
        m = *(ProtobufCMessage **)at;
    }
}

void protofill(const ProtobufCMessageDescriptor *d, struct bytes base, struct cursor *c,
               struct buf *out)
{
    ProtobufCMessage *m = protobuf_c_message_unpack(d, NULL, base.len, base.data);
    m = m != NULL ? m : message_new(d);
    const unsigned n = cursor_left(c) > 0 ? cursor_u8(c) % CHANGES_MAX : 0;
    for (unsigned i = 0; i < n && cursor_left(c) > 0; i++) {
        change(m, c);
    }
    protobuf_c_message_pack(m, buf_extend(out, protobuf_c_message_get_packed_size(m)));
    protobuf_c_message_free_unpacked(m, NULL);
}

/* ---- sense ---- */

enum { ONE_OF_MANY = 6, FIELDS_MAX = 64 };

static void make_sense(ProtobufCMessage *m, const struct protofill_words *say, struct cursor *c);

static void sensible_value(const ProtobufCFieldDescriptor *f, void *at,
                           const struct protofill_words *say, struct cursor *c)
{
    struct bytes text;
    uint64_t n;
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
        text = say->text(say->ctx, f->name, c);
        value_release(f, at);
        uint8_t *copy = xcalloc(1, text.len + 1);
        if (text.len > 0) {
            memcpy(copy, text.data, text.len);
        }
        if (f->type == PROTOBUF_C_TYPE_STRING) {
            *(uint8_t **)at = copy;
        } else {
            *(ProtobufCBinaryData *)at = (ProtobufCBinaryData){.len = text.len, .data = copy};
        }
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        if (*(ProtobufCMessage **)at == NULL) {
            *(ProtobufCMessage **)at = message_new(f->descriptor);
        }
        make_sense(*(ProtobufCMessage **)at, say, c);
        break;
    default:
        n = say->number(say->ctx, f->name, c);
        n = f->type == PROTOBUF_C_TYPE_BOOL ? n & 1 : n;
        memcpy(at, &n, bytes_of(f));
        break;
    }
}

static void sensible_list(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
                          const struct protofill_words *say, struct cursor *c)
{
    size_t *n = quantifier_of(m, f);
    uint8_t **array = member_of(m, f);
    const unsigned count = 1 + cursor_u8(c) % 3;
    *array = xcalloc(count, bytes_of(f));
    for (; *n < count; (*n)++) {
        sensible_value(f, *array + *n * bytes_of(f), say, c);
    }
}

/* Which field of one of many is set; -1: it is not such a message. */
static int chosen(const ProtobufCMessageDescriptor *d, struct cursor *c)
{
    unsigned at[FIELDS_MAX], n = 0;
    for (unsigned i = 0; i < d->n_fields && n < FIELDS_MAX; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        if (f->label == PROTOBUF_C_LABEL_OPTIONAL && f->type == PROTOBUF_C_TYPE_MESSAGE) {
            at[n++] = i;
        }
    }
    return n < ONE_OF_MANY ? -1 : (int)at[cursor_u8(c) % n];
}

static void make_sense(ProtobufCMessage *m, const struct protofill_words *say, struct cursor *c)
{
    const ProtobufCMessageDescriptor *d = m->descriptor;
    const int only = chosen(d, c);
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        const bool required = f->label == PROTOBUF_C_LABEL_REQUIRED;
        const bool set = required || (only >= 0 ? (unsigned)only == i : cursor_u8(c) % 2 == 1);
        if (!set) {
            continue;
        }
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            sensible_list(m, f, say, c);
            continue;
        }
        if (f->label == PROTOBUF_C_LABEL_OPTIONAL && f->type != PROTOBUF_C_TYPE_MESSAGE &&
            f->type != PROTOBUF_C_TYPE_STRING) {
            *(protobuf_c_boolean *)quantifier_of(m, f) = true;
        }
        sensible_value(f, member_of(m, f), say, c);
    }
}

struct cursor protofill_draw(struct cursor *c, uint8_t room[PROTOFILL_DRAWN])
{
    struct prng p;
    prng_seed(&p, cursor_le16(c));
    for (unsigned i = 0; i < PROTOFILL_DRAWN; i += 8) {
        put_le64(room + i, prng_u64(&p));
    }
    return cursor_of(BYTES(room, PROTOFILL_DRAWN));
}

void protofill_sense(const ProtobufCMessageDescriptor *d, const struct protofill_words *say,
                     struct cursor *c, struct buf *out)
{
    ProtobufCMessage *m = message_new(d);
    make_sense(m, say, c);
    protobuf_c_message_pack(m, buf_extend(out, protobuf_c_message_get_packed_size(m)));
    protobuf_c_message_free_unpacked(m, NULL);
}
