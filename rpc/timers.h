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
    uint64_t order; /* private: of arming, so equal times run first come, first served */
};
struct timers {
    uint64_t now_ms;
    uint64_t armed;          /* private */
    uint64_t (*clock)(void); /* set by the shell (tcp_clock_start); NULL in virtual time */
    struct timer **heap;     /* 1-based */
    unsigned n, cap;
};
void timers_init(struct timers *ts, uint64_t now_ms);
void timers_release(struct timers *ts);

/* The time, fresh: reads `clock` if there is one, and sets now_ms, which never goes back. Use it
 * where a deadline is computed: the loop may have slept since now_ms was set. */
uint64_t timers_now(struct timers *ts);

/* (Re-)arms. A new timer must be zeroed (place 0) before its first use. The timer's memory is the
 * caller's and must stay until due or stopped. */
void timers_arm(struct timers *ts, struct timer *t, uint64_t at_ms);
void timers_stop(struct timers *ts, struct timer *t); /* fine when not armed */
static inline bool timer_armed(const struct timer *t)
{
    return t->place != 0;
}
uint64_t timers_next(const struct timers *ts); /* UINT64_MAX when none */
/* Sets the time and runs all that is due, in order of time; what is armed meanwhile waits for the
 * next run. */
void timers_run(struct timers *ts, uint64_t now_ms);

#endif
