#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse/loopstate.h"

/* Signals. The kernel sends FUSE_INTERRUPT once per request, for any signal, and nothing for a kill -9 that comes later:
 * the caller then waits for our answer, unkillable. So an interrupted request is marked, in the arena.
 *   - One that waits for something a signal may end (a lock) has on_interrupt set, and ends at once.
 *   - The others must not fail for a mere SIGALRM. Every 100 ms we look whether SIGKILL is pending for the caller; then it
 *     gets EINTR, which it will never see. What has been sent for it goes on to its end, as if the kill had come later; what
 *     has not is given up, as if it had come before: done any later it could undo what others have done since.
 *     The mark in the arena (ARENA_GIVEN_UP) tells the next worker the same.
 * The same look is taken at all waiting requests while no buffer is free to read an INTERRUPT into. */

/* SigPnd is the thread's, ShdPnd the process's; both in hexadecimal, bit 8 is SIGKILL. */
static bool kill_pending(const char *status)
{
    static const char *const FIELDS[] = {"\nSigPnd:", "\nShdPnd:"};
    for (unsigned i = 0; i < 2; i++) {
        const char *at = strstr(status, FIELDS[i]);
        if (at && strtoull(at + strlen(FIELDS[i]), NULL, 16) & 0x100) {
            return true;
        }
    }
    return false;
}

/* A thread that is gone waits for nothing; what it asked for is simply carried out. */
static bool caller_is_killed(uint32_t tid)
{
    char path[64], status[4096];
    snprintf(path, sizeof path, "/proc/%u/status", tid);
    int fd = tid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, status, sizeof status - 1);
    close(fd);
    if (n <= 0) {
        return false;
    }
    status[n] = 0;
    return kill_pending(status);
}

static void end_for_killed(struct fuseloop *f, struct opreq *r)
{
    requests_set_killed(f, r);
    if (r->on_interrupt) {
        r->on_interrupt(r);
    }
}

/* Returns whether to look again. The request may be gone afterwards. */
static bool look_at(struct fuseloop *f, struct opreq *r, bool starved)
{
    bool marked = opreq_interrupted(r);
    if (r->answered || (!marked && !starved)) {
        return false;
    }
    if (caller_is_killed(r->pid)) {
        end_for_killed(f, r);
        return false;
    }
    if (marked && r->on_interrupt) {
        r->on_interrupt(r); /* it was marked before it began to wait */
    }
    return true; /* if it is still there: what was interrupted may be killed next */
}

static void on_watch(uv_timer_t *t)
{
    struct fuseloop *f = t->data;
    bool starved = f->n_free_big == 0;
    bool again = starved;
    list_for_each_safe(n, next, &f->requests)
    {
        again |= look_at(f, list_entry(n, struct opreq, node), starved);
    }
    if (!again) {
        uv_timer_stop(t);
        f->watching = false;
    }
}

void interrupts_init(struct fuseloop *f)
{
    uv_timer_init(f->options.uv, &f->watch);
    f->watch.data = f;
}

void interrupts_watch(struct fuseloop *f)
{
    if (!f->watching) {
        f->watching = true;
        uv_timer_start(&f->watch, on_watch, INTERRUPT_LOOK_MS, INTERRUPT_LOOK_MS);
    }
}

/* One that is not known was answered before the interrupt was read. */
void interrupts_take(struct fuseloop *f, const struct fuse_in_header *in)
{
    const struct fuse_interrupt_in *arg = (const void *)(in + 1);
    if (in->len < sizeof *in + sizeof *arg) {
        return;
    }
    struct opreq *r = requests_find(f, arg->unique);
    if (!r) {
        return;
    }
    arena_publish32(requests_flags(r), *requests_flags(r) | ARENA_INTERRUPTED);
    interrupts_watch(f);
    if (r->on_interrupt) {
        r->on_interrupt(r);
    }
}
