#include "base/table.h"

#include <stdlib.h>

#include "base/check.h"

enum { FIRST_BUCKETS = 16 };

void table_init(struct table *t)
{
    *t = (struct table){0};
}

void table_release(struct table *t)
{
    free(t->bucket);
    *t = (struct table){0};
}

static void grow(struct table *t)
{
    size_t buckets = t->bucket == NULL ? FIRST_BUCKETS : (t->mask + 1) * 2;
    struct table_node **fresh = xcalloc(buckets, sizeof(struct table_node *));
    for (size_t i = 0; t->bucket != NULL && i <= t->mask; i++) {
        struct table_node *node = t->bucket[i];
        while (node != NULL) {
            struct table_node *follow = node->next;
            struct table_node **to = &fresh[node->hash & (buckets - 1)];
            node->next = *to;
            *to = node;
            node = follow;
        }
    }
    free(t->bucket);
    t->bucket = fresh;
    t->mask = buckets - 1;
}

void table_add(struct table *t, struct table_node *node, uint64_t hash)
{
    if (t->bucket == NULL || t->n > t->mask) {
        grow(t);
    }
    struct table_node **to = &t->bucket[hash & t->mask];
    node->hash = hash;
    node->next = *to;
    *to = node;
    t->n++;
}

void table_remove(struct table *t, struct table_node *node)
{
    CHECK(t->bucket != NULL);
    struct table_node **at = &t->bucket[node->hash & t->mask];
    while (*at != node) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = node->next;
    node->next = NULL;
    t->n--;
}

struct table_node *table_find(const struct table *t, uint64_t hash)
{
    if (t->bucket == NULL) {
        return NULL;
    }
    struct table_node *node = t->bucket[hash & t->mask];
    while (node != NULL && node->hash != hash) {
        node = node->next;
    }
    return node;
}

struct table_node *table_next_same(const struct table_node *node)
{
    struct table_node *at = node->next;
    while (at != NULL && at->hash != node->hash) {
        at = at->next;
    }
    return at;
}

void table_walk(struct table *t, void (*visit)(struct table_node *node, void *ctx), void *ctx)
{
    for (size_t i = 0; t->bucket != NULL && i <= t->mask; i++) {
        struct table_node *node = t->bucket[i];
        while (node != NULL) {
            struct table_node *follow = node->next;
            visit(node, ctx);
            node = follow;
        }
    }
}
