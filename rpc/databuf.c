#include "rpc/databuf.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"

struct waiter {
    struct list node;
    void (*on_free)(void *ctx);
    void *ctx;
};

struct databuf_pool {
    struct databuf *all;
    struct databuf *free_list;
    uint8_t *memory;
    size_t buffer_bytes, mapped;
    unsigned count, left;
    bool refused; /* a get failed since on_free was last called */
    unsigned refuse_in;
    bool refuse_came;
    struct list waiters;
};

struct databuf_pool *databuf_pool_new(size_t buffer_bytes, unsigned count)
{
    CHECK(buffer_bytes != 0 && count != 0);
    struct databuf_pool *p = xcalloc(1, sizeof *p);
    p->buffer_bytes = (buffer_bytes + 4095) & ~(size_t)4095;
    p->mapped = p->buffer_bytes * count;
    void *memory =
        mmap(NULL, p->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    p->memory = memory;
    p->all = xcalloc(count, sizeof p->all[0]);
    p->count = p->left = count;
    list_init(&p->waiters);
    for (unsigned i = count; i-- > 0;) {
        p->all[i] = (struct databuf){.data = p->memory + (size_t)i * p->buffer_bytes,
                                     .cap = p->buffer_bytes,
                                     .pool = p,
                                     .next_free = p->free_list};
        p->free_list = &p->all[i];
    }
    return p;
}

void databuf_pool_free(struct databuf_pool *p)
{
    if (p == NULL) {
        return;
    }
    CHECK(p->left == p->count);
    while (!list_empty(&p->waiters)) {
        struct waiter *w = list_first(&p->waiters, struct waiter, node);
        list_remove(&w->node);
        free(w);
    }
    munmap(p->memory, p->mapped);
    free(p->all);
    free(p);
}

void databuf_pool_on_free(struct databuf_pool *p, void (*on_free)(void *ctx), void *ctx)
{
    list_for_each_safe (node, follow, &p->waiters) {
        struct waiter *w = list_entry(node, struct waiter, node);
        if (w->ctx == ctx) {
            list_remove(node);
            free(w);
        }
    }
    if (on_free != NULL) {
        struct waiter *w = xcalloc(1, sizeof *w);
        w->on_free = on_free;
        w->ctx = ctx;
        list_add_tail(&p->waiters, &w->node);
    }
}

size_t databuf_pool_buffer_bytes(const struct databuf_pool *p)
{
    return p->buffer_bytes;
}

unsigned databuf_pool_left(const struct databuf_pool *p)
{
    return p->left;
}

void databuf_pool_refuse_at(struct databuf_pool *p, unsigned n)
{
    p->refuse_in = n;
    p->refuse_came = false;
}

bool databuf_pool_refused(const struct databuf_pool *p)
{
    return p->refuse_came;
}

/* Only while one is out: who is refused is told when that one comes back. */
static bool refuse_this(struct databuf_pool *p)
{
    if (p->refuse_in == 0 || p->left == p->count || --p->refuse_in > 0) {
        return false;
    }
    p->refuse_came = true;
    return true;
}

struct databuf *databuf_get(struct databuf_pool *p)
{
    struct databuf *b = p->free_list;
    if (b == NULL || refuse_this(p)) {
        p->refused = true;
        return NULL;
    }
    p->free_list = b->next_free;
    p->left--;
    b->next_free = NULL;
    b->refs = 1;
    b->len = 0;
    return b;
}

struct databuf *databuf_ref(struct databuf *b)
{
    b->refs++;
    return b;
}

void databuf_unref(struct databuf *b)
{
    if (b == NULL) {
        return;
    }
    CHECK(b->refs > 0);
    if (--b->refs != 0) {
        return;
    }
    struct databuf_pool *p = b->pool;
    b->next_free = p->free_list;
    p->free_list = b;
    p->left++;
    if (p->refused) {
        p->refused = false;
        list_for_each_safe (node, follow, &p->waiters) {
            struct waiter *w = list_entry(node, struct waiter, node);
            w->on_free(w->ctx);
        }
    }
}
