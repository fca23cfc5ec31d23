#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "fuse/reader_internal.h"

/* Blocks of the arena's cache region. Block 0 stays zero for ever: holes are read from it. */

static uint64_t key_of(uint32_t pg, uint64_t stripe, uint32_t fragment, uint32_t index)
{
    return table_mix2(table_mix2(pg, stripe), (uint64_t)fragment << 32 | index);
}

void cache_init(struct reader *r)
{
    const uint64_t n = r->client->arena->h->sizes.cache_bytes / BLOCK_BYTES;
    CHECK(n >= 2 && n <= UINT32_MAX);
    r->n_blocks = (unsigned)n;
    r->block = xcalloc(n, sizeof *r->block);
    table_init(&r->index);
    list_init(&r->free);
    list_init(&r->lru);
    for (unsigned i = 0; i < r->n_blocks; i++) {
        list_init(&r->block[i].lru);
        list_init(&r->block[i].waiters);
    }
    for (unsigned i = 1; i < r->n_blocks; i++) {
        list_add_tail(&r->free, &r->block[i].lru);
        r->n_free++;
    }
    r->block[0].state = BLOCK_VALID;
    r->block[0].pins = 1;
    r->block[0].bytes = BLOCK_BYTES;
    memset(r->client->arena->cache, 0, BLOCK_BYTES);
}

void cache_release(struct reader *r)
{
    table_release(&r->index);
    free(r->block);
}

uint8_t *block_data(const struct reader *r, const struct block *b)
{
    return r->client->arena->cache + (size_t)(b - r->block) * BLOCK_BYTES;
}

unsigned cache_left(const struct reader *r)
{
    return r->n_free + r->n_lru;
}

struct block *block_find(const struct reader *r, const struct rstripe *s, uint32_t fragment,
                         uint32_t index)
{
    struct table_node *node = table_find(&r->index, key_of(s->pg, s->id, fragment, index));
    for (; node != NULL; node = table_next_same(node)) {
        struct block *b = container_of(node, struct block, node);
        if (b->pg == s->pg && b->stripe == s->id && b->fragment == fragment && b->index == index) {
            return b;
        }
    }
    return NULL;
}

static struct block *take_free(struct reader *r)
{
    if (list_empty(&r->free)) {
        struct block *coldest = list_first(&r->lru, struct block, lru);
        if (coldest == NULL) {
            return NULL;
        }
        list_remove(&coldest->lru);
        r->n_lru--;
        table_remove(&r->index, &coldest->node);
        coldest->pins = 1;
        return coldest;
    }
    struct block *b = list_first(&r->free, struct block, lru);
    list_remove(&b->lru);
    r->n_free--;
    b->pins = 1;
    return b;
}

struct block *block_new(struct reader *r, const struct rstripe *s, uint32_t fragment,
                        uint32_t index)
{
    struct block *b = take_free(r);
    if (b == NULL) {
        return NULL;
    }
    const uint32_t at = index * BLOCK_BYTES, left = s->fragment_bytes - at;
    b->pg = s->pg;
    b->stripe = s->id;
    b->fragment = fragment;
    b->index = index;
    b->bytes = left < BLOCK_BYTES ? left : BLOCK_BYTES;
    b->state = BLOCK_LOADING;
    b->decoding = false;
    b->loads = 1; /* its maker starts one before it returns to the loop */
    b->rc = 0;
    table_add(&r->index, &b->node, key_of(s->pg, s->id, fragment, index));
    return b;
}

struct block *block_private(struct reader *r)
{
    struct block *b = take_free(r);
    if (b != NULL) {
        b->state = BLOCK_PRIVATE;
    }
    return b;
}

void block_pin(struct reader *r, struct block *b)
{
    if (b->pins++ == 0) {
        CHECK(b->state == BLOCK_VALID);
        list_remove(&b->lru);
        r->n_lru--;
    }
}

void block_unpin(struct reader *r, struct block *b)
{
    CHECK(b->pins > 0);
    if (--b->pins > 0) {
        return;
    }
    if (b->state == BLOCK_VALID) {
        list_add_tail(&r->lru, &b->lru);
        r->n_lru++;
        return;
    }
    CHECK(b->state != BLOCK_LOADING); /* its sources have it pinned */
    b->state = BLOCK_FREE;
    list_add_head(&r->free, &b->lru);
    r->n_free++;
}

/* Tells those waiters that `which` names; a waiter may do anything but free the block, which is
 * pinned. */
static void tell(struct reader *r, struct block *b, bool direct_only, int rc)
{
    block_pin(r, b);
    struct list mine;
    list_init(&mine);
    list_for_each_safe (node, follow, &b->waiters) {
        struct bwait *wait = list_entry(node, struct bwait, node);
        if (wait->direct || !direct_only) {
            list_remove(&wait->node);
            list_add_tail(&mine, &wait->node);
        }
    }
    while (!list_empty(&mine)) {
        struct bwait *wait = list_first(&mine, struct bwait, node);
        list_remove(&wait->node);
        wait->on_block(wait, rc);
    }
    block_unpin(r, b);
}

void block_valid(struct reader *r, struct block *b)
{
    if (b->state == BLOCK_LOADING) {
        b->state = BLOCK_VALID;
        tell(r, b, false, 0);
    }
}

void block_source_failed(struct reader *r, struct block *b, bool decode, int rc)
{
    if (decode) {
        b->decoding = false;
    } else {
        b->loads--;
    }
    if (b->state != BLOCK_LOADING) {
        return;
    }
    b->rc = rc;
    if (b->loads == 0 && !b->decoding) {
        b->state = BLOCK_FAILED;
        table_remove(&r->index, &b->node);
        tell(r, b, false, rc);
    } else if (b->loads == 0) {
        tell(r, b, true, rc);
    }
}
