#include "base/prng.h"

#include <sys/random.h>

#include "base/check.h"

uint64_t prng_random_u64(void)
{
    uint64_t v;
    CHECK(getrandom(&v, sizeof v, 0) == (ssize_t)sizeof v);
    return v;
}
