#include "meta/machine.h"

#include <check.h>
#include <stdlib.h>

#include "base/err.h"
#include "log.pb-c.h"
#include "test/lib/disk_mem.h"
#include "test/lib/kv_mem.h"
#include "test/lib/suite.h"

enum { TOTAL = 64 << 20, RESERVE = 8 << 20, BALLAST = RESERVE / 2 };

/* One machine on a disk and a store in memory; its workers work when the test says so. */
struct hand_worker {
    struct worker base;
    struct list posted, done;
};

static struct disk *disk;
static struct kv *kv;
static struct timers timers;
static struct machine *machine;
static struct hand_worker logger, storer;
static bool leads;
static uint64_t wall, times[64];
static unsigned n_times;

static void hand_post(struct worker *w, struct work *x)
{
    list_init(&x->letter.node);
    list_add_tail(&container_of(w, struct hand_worker, base)->posted, &x->letter.node);
}

static void hand_finish(struct worker *w, struct work *x)
{
    list_add_tail(&container_of(w, struct hand_worker, base)->done, &x->letter.node);
}

static bool hand_work(struct hand_worker *h)
{
    struct list works, done;
    const bool any = !list_empty(&h->posted);
    list_take_all(&h->posted, &works);
    if (any) {
        h->base.run(h->base.ctx, &h->base, &works);
    }
    list_take_all(&h->done, &done);
    struct work *x;
    while ((x = list_first(&done, struct work, letter.node)) != NULL) {
        list_remove(&x->letter.node);
        x->on_done(x);
    }
    return any;
}

static void pump(void)
{
    for (int i = 0; i < 100; i++) {
        timers_run(&timers, timers.now_ms + 1);
        while (hand_work(&logger) || hand_work(&storer)) {
        }
    }
}

static void on_role(void *ctx, bool leader)
{
    (void)ctx;
    leads = leader;
}

static void on_applied(void *ctx, const struct fsm_effects *e)
{
    (void)ctx, (void)e;
}

static void on_fatal(void *ctx, const char *what, int rc)
{
    (void)ctx;
    ck_abort_msg("%s: %d", what, rc);
}

static uint64_t wall_ns(void *ctx)
{
    (void)ctx;
    return wall;
}

static void observe(void *ctx, uint64_t index, uint64_t term, struct bytes entry)
{
    (void)ctx, (void)index, (void)term;
    struct fsm_entry_header h;
    struct bytes body;
    ck_assert_int_eq(fsm_entry_decode(entry, &h, &body), 0);
    ck_assert_uint_lt(n_times, 64);
    times[n_times++] = h.time_ns;
}

static void hand_init(struct hand_worker *h, void (*run)(void *ctx, struct worker *w, struct list *works))
{
    static const struct worker_ops ops = {.post = hand_post, .finish = hand_finish};
    *h = (struct hand_worker){.base = {.ops = &ops, .run = run, .ctx = machine}};
    list_init(&h->posted);
    list_init(&h->done);
}

static void start(void)
{
    static const struct machine_events events = {
        .on_role = on_role, .on_applied = on_applied, .on_fatal = on_fatal, .wall_ns = wall_ns};
    uint8_t random[32] = {7};
    Cfs__Policy policy = CFS__POLICY__INIT;
    policy.k = 4;
    policy.m = 2;
    policy.inline_limit = 4096;
    Cfs__LogBootstrap b = CFS__LOG_BOOTSTRAP__INIT;
    b.cluster = (ProtobufCBinaryData){.len = 16, .data = random};
    b.hash_key = (ProtobufCBinaryData){.len = 16, .data = random + 16};
    b.policy = &policy;
    uint8_t packed[256];
    const size_t len = cfs__log_bootstrap__pack(&b, packed);
    const struct machine_options o = {.id = 1, .address = "1", .disk = disk, .kv = kv,
                                      .log_segment_bytes = 256 << 10, .random = 3,
                                      .reserve_bytes = RESERVE,
                                      .timers = &timers, .bootstrap = BYTES(packed, len),
                                      .events = &events, .observe = observe};
    n_times = 0;
    ck_assert_int_eq(machine_open(&o, &machine), 0);
    hand_init(&logger, machine_run_log);
    hand_init(&storer, machine_run_store);
    ck_assert_int_eq(machine_start(machine, &logger.base, &storer.base), 0);
    pump();
    ck_assert(leads);
}

static void stop(void)
{
    machine_stop(machine);
    while (hand_work(&logger) || hand_work(&storer)) {
    }
    ck_assert_int_eq(machine_close(machine), 0);
}

static void begin(void)
{
    disk = disk_mem_new(TOTAL);
    disk_mem_keep(disk);
    kv = kv_mem_new();
    kv_mem_keep(kv);
    timers_init(&timers, 1000);
    wall = 1000000000;
    start();
}

static void end(void)
{
    stop();
    timers_release(&timers);
    disk_mem_free(disk);
    kv_mem_free(kv);
}

static void proposed(struct proposal *p)
{
    ck_assert_int_eq(p->rc, 0);
}

static void proposed_or_cancelled(struct proposal *p)
{
    ck_assert(p->rc == 0 || p->rc == ERR_CANCELLED);
}

static void propose_noop(void)
{
    static struct proposal p;
    p = (struct proposal){.type = ENTRY_NOOP, .on_done = proposed};
    machine_propose(machine, &p);
    pump();
}

/* A clock that was set back, or ran ahead before a restart, must not give one time to all that is written until it has
 * caught up: make(1) would not see which file is newer. */
START_TEST(time_goes_on_while_the_clock_is_behind)
{
    wall += 3600000000000;
    propose_noop();
    wall -= 3600000000000;
    for (int i = 0; i < 3; i++) {
        propose_noop();
    }
    ck_assert_uint_ge(n_times, 6);
    for (unsigned i = 1; i < n_times; i++) {
        ck_assert_uint_gt(times[i], times[i - 1]);
    }
    const uint64_t before = times[n_times - 1];
    stop();
    start();
    propose_noop();
    ck_assert_uint_gt(times[n_times - 1], before);
    ck_assert_uint_lt(times[n_times - 1], before + 1000); /* and not much faster than it must */
}
END_TEST

static unsigned n_done;
static void counted(struct proposal *p)
{
    ck_assert_int_eq(p->rc, 0);
    n_done++;
}

static void was_read(struct machine_read *r)
{
    ck_assert_int_eq(r->rc, 0);
    n_done++;
}

static void seconds(unsigned n)
{
    for (unsigned i = 0; i < 11 * n; i++) {
        pump();
    }
}

/* LevelDB does not survive a write without room, so none is tried. */
START_TEST(a_disk_that_others_fill_to_the_last_byte_stops_changes_but_not_the_server)
{
    static struct proposal p[3];
    struct machine_read r = {.method = FSM_QUERY_COUNTERS, .query = true, .on_done = was_read};
    buf_init(&r.reply);
    n_done = 0;
    seconds(1);
    uint64_t used = disk_mem_used(disk);
    disk_mem_set_total(disk, used + (1 << 20)); /* the ballast goes, and changes go on */
    seconds(3);
    ck_assert_uint_le(disk_mem_used(disk), used - BALLAST);
    propose_noop();
    ck_assert(!machine_state(machine).log_waiting);
    disk_mem_set_total(disk, disk_mem_used(disk)); /* now there is nothing left to give */
    for (int i = 0; i < 3; i++) {
        p[i] = (struct proposal){.type = ENTRY_NOOP, .on_done = counted};
        machine_propose(machine, &p[i]);
        seconds(1);
    }
    ck_assert_uint_eq(n_done, 0);
    ck_assert(machine_state(machine).log_waiting);
    machine_read(machine, &r);
    pump();
    ck_assert_uint_eq(n_done, 1); /* it still reads */
    disk_mem_set_total(disk, TOTAL);
    seconds(3);
    ck_assert_uint_eq(n_done, 4);
    ck_assert(!machine_state(machine).log_waiting);
    ck_assert_uint_ge(disk_mem_used(disk), used - (1 << 20)); /* the ballast is there again */
    buf_release(&r.reply);
}
END_TEST

START_TEST(changes_that_wait_for_room_are_cancelled_at_the_end_and_done_after_a_restart)
{
    static struct proposal p;
    disk_mem_set_total(disk, 0);
    p = (struct proposal){.type = ENTRY_NOOP, .on_done = proposed_or_cancelled};
    machine_propose(machine, &p);
    seconds(1);
    const uint64_t before = machine_state(machine).applied;
    stop();
    disk_mem_set_total(disk, TOTAL);
    start();
    seconds(2);
    ck_assert_uint_gt(machine_state(machine).applied, before);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("machine");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, time_goes_on_while_the_clock_is_behind);
    tcase_add_test(t, a_disk_that_others_fill_to_the_last_byte_stops_changes_but_not_the_server);
    tcase_add_test(t, changes_that_wait_for_room_are_cancelled_at_the_end_and_done_after_a_restart);
    return suite_run("machine", t);
}
