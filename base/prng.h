#ifndef CFS_BASE_PRNG_H
#define CFS_BASE_PRNG_H

#include <stdint.h>

/* A small, fast, seedable generator (splitmix64, public domain, by S. Vigna). For
 * placement, nonces and simulations; secrets come from getrandom(2). */
struct prng {
    uint64_t state;
};
static inline void prng_seed(struct prng *p, uint64_t seed)
{
    p->state = seed;
}
static inline uint64_t prng_u64(struct prng *p)
{
    uint64_t z = (p->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* 0 <= result < bound; bound > 0. Its bias, under 2^-32 for small bounds, does not matter here. */
static inline uint64_t prng_below(struct prng *p, uint64_t bound)
{
    return prng_u64(p) % bound;
}
/* 64 bits from the kernel; aborts if there are none. */
uint64_t prng_random_u64(void);

#endif
