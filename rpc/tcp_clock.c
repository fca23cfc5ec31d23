#include "rpc/tcp.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"

/* Due timers run in the prepare phase, just before the loop sleeps; the uv timer only ends the
 * sleep in time. So whatever arms a timer, in any phase, is seen before the sleep. */
struct tcp_clock {
    uv_prepare_t prepare;
    uv_timer_t alarm;
    struct timers *timers;
    uint64_t alarm_at_ms; /* what the uv timer is set to; UINT64_MAX: not set */
    unsigned open_handles;
};

static void on_alarm(uv_timer_t *alarm)
{
    struct tcp_clock *c = alarm->data;
    c->alarm_at_ms = UINT64_MAX; /* the next prepare runs what is due */
}

static void set_alarm(struct tcp_clock *c, uint64_t now_ms)
{
    uint64_t next = timers_next(c->timers);
    if (next == c->alarm_at_ms) {
        return;
    }
    c->alarm_at_ms = next;
    if (next == UINT64_MAX) {
        uv_timer_stop(&c->alarm);
        return;
    }
    uv_update_time(c->prepare.loop);
    uv_timer_start(&c->alarm, on_alarm, next > now_ms ? next - now_ms : 0, 0);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct tcp_clock *c = prepare->data;
    uint64_t now_ms = timers_now(c->timers);
    timers_run(c->timers, now_ms);
    if (c->open_handles == 2) {
        set_alarm(c, now_ms);
    }
}

struct tcp_clock *tcp_clock_start(uv_loop_t *loop, struct timers *timers)
{
    struct tcp_clock *c = xcalloc(1, sizeof *c);
    c->timers = timers;
    c->alarm_at_ms = UINT64_MAX;
    c->open_handles = 2;
    timers->clock = clock_now_ms;
    (void)timers_now(timers);
    uv_prepare_init(loop, &c->prepare); /* these inits cannot fail */
    uv_timer_init(loop, &c->alarm);
    c->prepare.data = c->alarm.data = c;
    uv_prepare_start(&c->prepare, on_prepare);
    return c;
}

static void on_closed(uv_handle_t *h)
{
    struct tcp_clock *c = h->data;
    if (--c->open_handles == 0) {
        free(c);
    }
}

void tcp_clock_close(struct tcp_clock *c)
{
    c->timers->clock = NULL;
    uv_close((uv_handle_t *)&c->prepare, on_closed);
    uv_close((uv_handle_t *)&c->alarm, on_closed);
}
