#ifndef CFS_RPC_TIMERS_H
#define CFS_RPC_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

/* One-shot timers of one loop, as a heap: no clock in here. The shell sets now_ms
 * before it dispatches anything, and sleeps until timers_next; the simulator does the
 * same in virtual time. */
struct timer {
    uint64_t at_ms;
    void (*on_due)(struct timer *t);
    unsigned place; /* 0: not armed */
};
struct timers {
    uint64_t now_ms;
    struct timer **heap; /* 1-based */
    unsigned n, cap;
};
void timers_init(struct timers *ts, uint64_t now_ms);
void timers_release(struct timers *ts);

/* (Re-)arms. The timer's memory is the caller's and must stay until due or stopped. */
void timers_arm(struct timers *ts, struct timer *t, uint64_t at_ms);
void timers_stop(struct timers *ts, struct timer *t); /* fine when not armed */
static inline bool timer_armed(const struct timer *t)
{
    return t->place != 0;
}
uint64_t timers_next(const struct timers *ts); /* UINT64_MAX when none */
/* Sets the time and runs all that is due, in order of time. */
void timers_run(struct timers *ts, uint64_t now_ms);

#endif
