#ifndef CFS_BASE_TABLE_H
#define CFS_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

/* Intrusive hash table: chained, grows by doubling, never shrinks. The embedding
 * struct owns the node. The caller computes the hash (table_mix for integers)
 * and compares keys itself by walking table_find / table_next_same. */
struct table_node {
    struct table_node *next;
    uint64_t hash;
};
struct table {
    struct table_node **bucket;
    size_t mask; /* buckets - 1 */
    size_t n;
};

void table_init(struct table *t);
void table_release(struct table *t); /* frees the buckets, not the members */
void table_add(struct table *t, struct table_node *node, uint64_t hash);
void table_remove(struct table *t, struct table_node *node); /* must be a member */

/* The first member with this hash, then the following ones; NULL at the end. */
struct table_node *table_find(const struct table *t, uint64_t hash);
struct table_node *table_next_same(const struct table_node *node);

/* Calls visit for each member, in no order; visit may remove the member it is given. */
void table_walk(struct table *t, void (*visit)(struct table_node *node, void *ctx), void *ctx);

/* A finaliser (splitmix64's) that spreads consecutive integers. */
static inline uint64_t table_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
static inline uint64_t table_mix2(uint64_t a, uint64_t b)
{
    return table_mix(table_mix(a + 0x9e3779b97f4a7c15u) ^ b);
}

#endif
