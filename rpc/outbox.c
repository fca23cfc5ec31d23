#include "rpc/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/err.h"

enum {
    JOIN_MAX = 32 << 10, /* small frames join one item up to this size */
    KEEP_BYTES = 512,    /* room of a fresh item for frames that follow */
    LEND_MIN = 64 << 10  /* below, two more system calls cost more than the copy */
};

/* Bytes, then perhaps the payload of the last frame in them. */
struct item {
    struct list node;
    struct outgoing *outgoing; /* NULL: nobody waits */
    struct buf bytes;          /* headers and bodies */
    size_t payload_bytes;
    size_t sent; /* of bytes and payload together */
    bool open;   /* further frames may join */
};

void outbox_init(struct outbox *x, struct list *done)
{
    *x = (struct outbox){.done = done};
    list_init(&x->items);
}

static size_t item_left(const struct item *it)
{
    return it->bytes.len + it->payload_bytes - it->sent;
}

static void item_free(struct item *it)
{
    list_remove(&it->node);
    buf_release(&it->bytes);
    free(it);
}

static size_t payload_length(const struct outgoing *o)
{
    size_t n = 0;
    for (unsigned i = 0; i < o->n_payload; i++) {
        n += o->payload[i].iov_len;
    }
    return n;
}

/* An item that nobody waits for can take more frames behind it, also when a part of it has left. */
static struct item *item_for(struct outbox *x, size_t need)
{
    struct item *tail = list_empty(&x->items) ? NULL : list_entry(x->items.prev, struct item, node);
    if (tail != NULL && tail->open && tail->bytes.len + need <= JOIN_MAX) {
        return tail;
    }
    struct item *it = xcalloc(1, sizeof *it);
    buf_extend(&it->bytes, need > KEEP_BYTES ? need : KEEP_BYTES);
    buf_clear(&it->bytes);
    it->open = true;
    list_add_tail(&x->items, &it->node);
    return it;
}

int outbox_add(struct outbox *x, struct outgoing *o)
{
    size_t payload = payload_length(o);
    if (o->body.len > FRAME_BODY_MAX || payload > FRAME_PAYLOAD_MAX) {
        return ERR_TOO_BIG;
    }
    o->frame.body_len = (uint32_t)o->body.len;
    o->frame.payload_len = (uint32_t)payload;
    o->frame.body_crc = crc32c(0, o->body.data, o->body.len);
    struct item *it = item_for(x, FRAME_HEADER_BYTES + o->body.len);
    frame_encode(buf_extend(&it->bytes, FRAME_HEADER_BYTES), &o->frame);
    buf_add(&it->bytes, o->body.data, o->body.len);
    it->payload_bytes = payload;
    if (payload != 0 || o->on_sent != NULL) {
        it->open = false;
        it->outgoing = o;
        o->item = it;
        list_init(&o->node);
    }
    x->bytes += FRAME_HEADER_BYTES + o->body.len + payload;
    x->frames++;
    return 0;
}

/* Adds to iov what is left of an item; returns the new count, which may stop at max. */
static unsigned gather_item(const struct item *it, struct iovec *iov, unsigned n, unsigned max)
{
    size_t skip = it->sent;
    if (skip < it->bytes.len) {
        iov[n++] =
            (struct iovec){.iov_base = it->bytes.data + skip, .iov_len = it->bytes.len - skip};
        skip = 0;
    } else {
        skip -= it->bytes.len;
    }
    for (unsigned i = 0; it->payload_bytes != 0 && i < it->outgoing->n_payload && n < max; i++) {
        struct iovec run = it->outgoing->payload[i];
        if (skip >= run.iov_len) {
            skip -= run.iov_len;
            continue;
        }
        iov[n++] = (struct iovec){.iov_base = (uint8_t *)run.iov_base + skip,
                                  .iov_len = run.iov_len - skip};
        skip = 0;
    }
    return n;
}

unsigned outbox_gather(const struct outbox *x, struct iovec *iov, unsigned max)
{
    unsigned n = 0;
    list_for_each (node, &x->items) {
        if (n == max) {
            break;
        }
        n = gather_item(list_entry(node, struct item, node), iov, n, max);
    }
    return n;
}

static bool lends(const struct item *it)
{
    return it->payload_bytes >= LEND_MIN && it->outgoing->lend;
}

unsigned outbox_gather_lent(const struct outbox *x, struct iovec *iov, unsigned max)
{
    const struct item *it = list_empty(&x->items) ? NULL : list_first(&x->items, struct item, node);
    if (it == NULL || !lends(it) || it->sent < it->bytes.len) {
        return 0;
    }
    return gather_item(it, iov, 0, max);
}

unsigned outbox_gather_copied(const struct outbox *x, struct iovec *iov, unsigned max)
{
    unsigned n = 0;
    list_for_each (node, &x->items) {
        const struct item *it = list_entry(node, struct item, node);
        if (n == max) {
            break;
        }
        if (lends(it)) {
            if (it->sent < it->bytes.len) {
                iov[n++] = (struct iovec){.iov_base = it->bytes.data + it->sent,
                                          .iov_len = it->bytes.len - it->sent};
            }
            break;
        }
        n = gather_item(it, iov, n, max);
    }
    return n;
}

static void item_finish(struct outbox *x, struct item *it, int rc)
{
    struct outgoing *o = it->outgoing;
    if (o != NULL) {
        o->item = NULL;
        if (o->on_sent != NULL) {
            o->rc = rc;
            list_add_tail(x->done, &o->node);
        }
    }
    item_free(it);
}

void outbox_advance(struct outbox *x, size_t n)
{
    CHECK(n <= x->bytes);
    x->bytes -= n;
    while (!list_empty(&x->items)) {
        struct item *it = list_first(&x->items, struct item, node);
        size_t part = item_left(it) < n ? item_left(it) : n;
        it->sent += part;
        n -= part;
        if (item_left(it) != 0) {
            break;
        }
        item_finish(x, it, 0);
    }
}

/* The frame has begun to leave, so its rest must follow, but its owner wants the memory back. */
static void detach_with_copy(struct item *it)
{
    const struct outgoing *o = it->outgoing;
    for (unsigned i = 0; i < o->n_payload; i++) {
        buf_add(&it->bytes, o->payload[i].iov_base, o->payload[i].iov_len);
    }
    it->payload_bytes = 0;
    it->outgoing = NULL;
}

bool outbox_unsend(struct outbox *x, struct outgoing *o)
{
    struct item *it = o->item;
    if (it == NULL) {
        return false;
    }
    o->item = NULL;
    size_t own = FRAME_HEADER_BYTES + o->frame.body_len + it->payload_bytes;
    size_t before = it->bytes.len + it->payload_bytes - own; /* frames of others in the same item */
    if (it->sent > before) {
        detach_with_copy(it);
        return false;
    }
    x->bytes -= own;
    x->frames--;
    it->bytes.len = before;
    it->payload_bytes = 0;
    it->outgoing = NULL;
    if (item_left(it) == 0) {
        item_free(it);
    }
    return true;
}

void outbox_fail(struct outbox *x, int rc)
{
    while (!list_empty(&x->items)) {
        item_finish(x, list_first(&x->items, struct item, node), rc);
    }
    x->bytes = 0;
}
