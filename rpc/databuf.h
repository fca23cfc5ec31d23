#ifndef CFS_RPC_DATABUF_H
#define CFS_RPC_DATABUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Buffers for payload: aligned to 4096 (fit for O_DIRECT), mapped once, touched at their
 * first use, reused for ever, the one that came back last first. The pool is bounded: databuf_get
 * returns NULL when all are out, and the caller turns that into back-pressure. One thread hands out
 * and takes back; another may use the bytes meanwhile. */
struct databuf_pool;
struct databuf {
    uint8_t *data;
    size_t cap;
    size_t len; /* bytes used, set by who fills it */
    unsigned refs;
    struct databuf_pool *pool;
    struct databuf *next_free;
};

struct databuf_pool *databuf_pool_new(size_t buffer_bytes, unsigned count);
void databuf_pool_free(struct databuf_pool *p); /* all must be back */
/* on_free is called when a buffer comes back after a refused get. One per ctx; on_free NULL takes
 * the one of that ctx away. It must not get or unref in its call: it only notes. */
void databuf_pool_on_free(struct databuf_pool *p, void (*on_free)(void *ctx), void *ctx);
size_t databuf_pool_buffer_bytes(const struct databuf_pool *p);
unsigned databuf_pool_left(const struct databuf_pool *p);
struct databuf *databuf_get(struct databuf_pool *p); /* refs = 1, len = 0 */
struct databuf *databuf_ref(struct databuf *b);

/* For failure sweeps: the n-th get from now that finds some buffer out is refused, as if all were
 * out; 0: none. Whether it came that far since. */
void databuf_pool_refuse_at(struct databuf_pool *p, unsigned n);
bool databuf_pool_refused(const struct databuf_pool *p);
void databuf_unref(struct databuf *b); /* NULL is fine */

#endif
