#include "store/kv.h"

#include "base/check.h"

/* A batch is a run of operations: u8 tag, key run, and for puts a value run. The
 * encoding never leaves the process. */
enum { TAG_DELETE = 0, TAG_PUT = 1 };

void kv_batch_init(struct kv_batch *b)
{
    buf_init(&b->ops);
    b->n = 0;
}

void kv_batch_release(struct kv_batch *b)
{
    buf_release(&b->ops);
    b->n = 0;
}

void kv_batch_clear(struct kv_batch *b)
{
    buf_clear(&b->ops);
    b->n = 0;
}

void kv_batch_put(struct kv_batch *b, struct bytes key, struct bytes value)
{
    buf_u8(&b->ops, TAG_PUT);
    buf_run(&b->ops, key.data, key.len);
    buf_run(&b->ops, value.data, value.len);
    b->n++;
}

void kv_batch_delete(struct kv_batch *b, struct bytes key)
{
    buf_u8(&b->ops, TAG_DELETE);
    buf_run(&b->ops, key.data, key.len);
    b->n++;
}

void kv_batch_each(const struct kv_batch *b,
                   void (*visit)(void *ctx, bool put, struct bytes key, struct bytes value),
                   void *ctx)
{
    struct cursor c = cursor_of(buf_bytes(&b->ops));
    for (unsigned i = 0; i < b->n; i++) {
        uint8_t tag = cursor_u8(&c);
        struct bytes key = cursor_run(&c);
        struct bytes value = {.data = NULL, .len = 0};
        if (tag == TAG_PUT) {
            value = cursor_run(&c);
        }
        CHECK(!c.bad);
        visit(ctx, tag == TAG_PUT, key, value);
    }
}
