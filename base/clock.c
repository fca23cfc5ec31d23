#include "base/clock.h"

#include <time.h>

static uint64_t now_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_now_ms(void)
{
    return now_ns(CLOCK_BOOTTIME) / 1000000u;
}
uint64_t clock_now_us(void)
{
    return now_ns(CLOCK_BOOTTIME) / 1000u;
}
uint64_t clock_wall_ns(void)
{
    return now_ns(CLOCK_REALTIME);
}
