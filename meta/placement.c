/* Groups are dealt out one after another: each takes the `width` servers with the fewest slots so far, at most
 * one per domain, ties broken at random. That keeps the counts within one of each other while domains are single
 * servers: the servers with the lower count are always taken before any of the higher. Then the
 * group's order is shuffled, so that data and parity slots spread evenly. */
#include "meta/placement.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/prng.h"

struct candidate {
    uint32_t id, domain;
    uint32_t slots;
    uint64_t tie;
};

static int compare(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    if (x->slots != y->slots) {
        return x->slots < y->slots ? -1 : 1;
    }
    return x->tie < y->tie ? -1 : x->tie > y->tie;
}

unsigned placement_count(unsigned n_servers, unsigned width)
{
    const unsigned slots = n_servers * PLACEMENT_SLOTS_PER_SERVER;
    return (slots + width - 1) / width;
}

static unsigned domains(const struct placement_server *servers, unsigned n)
{
    unsigned count = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned k = 0;
        while (k < i && servers[k].domain != servers[i].domain) {
            k++;
        }
        count += k == i;
    }
    return count;
}

static bool domain_taken(const uint32_t *taken, unsigned n, uint32_t domain)
{
    for (unsigned i = 0; i < n; i++) {
        if (taken[i] == domain) {
            return true;
        }
    }
    return false;
}

static void deal(struct candidate *c, unsigned n, unsigned width, struct prng *p, struct placement_group *g)
{
    uint32_t taken[PLACEMENT_WIDTH_MAX];
    unsigned filled = 0;
    for (unsigned i = 0; i < n; i++) {
        c[i].tie = prng_u64(p);
    }
    qsort(c, n, sizeof c[0], compare);
    for (unsigned i = 0; i < n && filled < width; i++) {
        if (!domain_taken(taken, filled, c[i].domain)) {
            taken[filled] = c[i].domain;
            g->slot[filled++] = c[i].id;
            c[i].slots++;
        }
    }
    for (unsigned i = width; i > 1; i--) {
        const unsigned k = (unsigned)prng_below(p, i);
        const uint32_t other = g->slot[k];
        g->slot[k] = g->slot[i - 1];
        g->slot[i - 1] = other;
    }
}

int placement_plan(const struct placement_server *servers, unsigned n_servers, unsigned width, uint64_t seed,
                   struct placement_group *groups, unsigned n_groups)
{
    if (width == 0 || width > PLACEMENT_WIDTH_MAX || n_servers > PLACEMENT_SERVERS_MAX ||
        domains(servers, n_servers) < width) {
        return -EINVAL;
    }
    struct prng p;
    prng_seed(&p, seed);
    struct candidate *c = xcalloc(n_servers, sizeof c[0]);
    for (unsigned i = 0; i < n_servers; i++) {
        c[i] = (struct candidate){.id = servers[i].id, .domain = servers[i].domain};
    }
    for (unsigned i = 0; i < n_groups; i++) {
        groups[i] = (struct placement_group){0};
        deal(c, n_servers, width, &p, &groups[i]);
    }
    free(c);
    return 0;
}
