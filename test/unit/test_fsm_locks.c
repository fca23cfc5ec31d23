#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/err.h"
#include "proto/methods.h"
#include "test/lib/fsm_world.h"
#include "test/lib/suite.h"

enum { POSIX = 1, FLOCK = 2, OFD = 3 };

static struct fsm_world w;
static uint64_t file, other;

static void begin(void)
{
    fsm_world_init(&w);
    file = fsm_world_create(&w, 1, "f");
    other = fsm_world_create(&w, 1, "g");
}

static void end(void)
{
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    fsm_world_release(&w);
}

struct want {
    uint64_t ino, owner, start, end;
    uint32_t kind, type;
    bool wait;
};

static Cfs__LockOp message(const struct want *x)
{
    Cfs__LockOp l = CFS__LOCK_OP__INIT;
    l.ino = x->ino != 0 ? x->ino : file;
    l.owner = x->owner;
    l.handle = 100 + x->owner;
    l.kind = x->kind != 0 ? x->kind : POSIX;
    l.type = x->type;
    l.start = x->start;
    l.end = x->end;
    l.has_wait = l.wait = x->wait;
    l.has_pid = true;
    l.pid = (uint32_t)x->owner;
    return l;
}

static int lock(struct want x)
{
    Cfs__LockOp l = message(&x);
    Cfs__Op op = CFS__OP__INIT;
    op.lock = &l;
    return fsm_world_op(&w, &op);
}

/* The owner whose lock is in the way of owner 99 writing [start, end]; 0: none. */
static uint64_t holder(uint64_t start, uint64_t to)
{
    struct want x = {.owner = 99, .start = start, .end = to, .type = F_WRLCK};
    Cfs__LockOp l = message(&x);
    struct buf out;
    buf_init(&out);
    ck_assert_int_eq(fsm_world_read(&w, METHOD_GETLK, &l.base, &out), 0);
    Cfs__LockInfo *m = cfs__lock_info__unpack(NULL, out.len, out.data);
    uint64_t pid = m->type == F_UNLCK ? 0 : m->pid;
    cfs__lock_info__free_unpacked(m, NULL);
    buf_release(&out);
    return pid;
}

static uint64_t count(void)
{
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    uint64_t n = c->locks;
    cfs__fsm_counters__free_unpacked(c, NULL);
    return n;
}

static bool granted(uint64_t ticket)
{
    for (size_t i = 0; i + 16 <= w.fx.granted.len; i += 16) {
        if (get_le64(w.fx.granted.data + i) == w.session &&
            get_le64(w.fx.granted.data + i + 8) == ticket) {
            return true;
        }
    }
    return false;
}

START_TEST(readers_share_and_a_writer_is_refused)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_RDLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .end = 9, .type = F_RDLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 3, .end = 9, .type = F_WRLCK}), -EAGAIN);
    ck_assert_int_eq(lock((struct want){.owner = 3, .start = 10, .end = 19, .type = F_WRLCK}), 0);
}
END_TEST

START_TEST(unlocking_the_middle_leaves_two_ends)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 29, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .start = 10, .end = 19, .type = F_UNLCK}), 0);
    ck_assert_uint_eq(count(), 2);
    ck_assert_uint_eq(holder(9, 9), 1);
    ck_assert_uint_eq(holder(10, 19), 0);
    ck_assert_uint_eq(holder(20, 20), 1);
}
END_TEST

START_TEST(neighbours_of_one_type_become_one)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .start = 20, .end = 29, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .start = 10, .end = 19, .type = F_WRLCK}), 0);
    ck_assert_uint_eq(count(), 1);
}
END_TEST

START_TEST(a_change_of_type_splits)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 29, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .start = 10, .end = 19, .type = F_RDLCK}), 0);
    ck_assert_uint_eq(count(), 3);
    ck_assert_int_eq(lock((struct want){.owner = 2, .start = 10, .end = 19, .type = F_RDLCK}), 0);
}
END_TEST

START_TEST(a_waiter_gets_a_ticket_and_is_granted_by_the_unlock)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .end = 9, .type = F_WRLCK, .wait = true}),
                     ERR_QUEUED);
    uint64_t ticket = fsm_world_result(&w)->ticket;
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_UNLCK}), 0);
    ck_assert(granted(ticket));
    ck_assert_uint_eq(holder(0, 0), 2);
}
END_TEST

START_TEST(waiting_survives_a_restart)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .end = 9, .type = F_RDLCK, .wait = true}),
                     ERR_QUEUED);
    uint64_t ticket = fsm_world_result(&w)->ticket;
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_UNLCK}), 0);
    ck_assert(granted(ticket));
}
END_TEST

/* How many of the ticket's kind the state calls granted: 0 or 1. */
static size_t asked_again(uint64_t ticket)
{
    Cfs__QueryRequest query = CFS__QUERY_REQUEST__INIT;
    query.has_session = 1;
    query.session = w.session;
    query.ticket = &ticket;
    query.n_ticket = 1;
    struct buf in;
    struct buf out;
    buf_init(&in);
    buf_init(&out);
    cfs__query_request__pack(&query, buf_extend(&in, cfs__query_request__get_packed_size(&query)));
    ck_assert_int_eq(fsm_query(w.fsm, FSM_QUERY_TICKETS, buf_bytes(&in), &out), 0);
    Cfs__TicketList *list = cfs__ticket_list__unpack(NULL, out.len, out.data);
    ck_assert_ptr_nonnull(list);
    size_t n = list->n_granted;
    cfs__ticket_list__free_unpacked(list, NULL);
    buf_release(&in);
    buf_release(&out);
    return n;
}

START_TEST(a_grant_whose_event_was_lost_is_known_after_a_restart)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .end = 9, .type = F_WRLCK, .wait = true}),
                     ERR_QUEUED);
    uint64_t ticket = fsm_world_result(&w)->ticket;
    ck_assert_uint_eq(asked_again(ticket), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_UNLCK}), 0);
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    ck_assert_uint_eq(asked_again(ticket), 1);
}
END_TEST

static int cancel(uint64_t ticket)
{
    Cfs__LockCancelOp c = CFS__LOCK_CANCEL_OP__INIT;
    c.ticket = ticket;
    Cfs__Op op = CFS__OP__INIT;
    op.lock_cancel = &c;
    return fsm_world_op(&w, &op);
}

START_TEST(cancel_says_whether_it_came_too_late)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .end = 9, .type = F_WRLCK, .wait = true}),
                     ERR_QUEUED);
    uint64_t a = fsm_world_result(&w)->ticket;
    ck_assert_int_eq(lock((struct want){.owner = 3, .end = 9, .type = F_WRLCK, .wait = true}),
                     ERR_QUEUED);
    uint64_t b = fsm_world_result(&w)->ticket;
    ck_assert_int_eq(cancel(a), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_UNLCK}), 0);
    ck_assert(granted(b) && !granted(a));
    ck_assert_int_eq(cancel(b), -EALREADY);
}
END_TEST

START_TEST(a_circle_of_waiters_is_EDEADLK)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.ino = other, .owner = 2, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.ino = other, .owner = 1, .type = F_WRLCK, .wait = true}),
                     ERR_QUEUED);
    ck_assert_int_eq(lock((struct want){.owner = 2, .type = F_WRLCK, .wait = true}), -EDEADLK);
}
END_TEST

START_TEST(ofd_and_posix_conflict_and_flock_with_neither)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .end = 9, .type = F_WRLCK, .kind = OFD}),
                     -EAGAIN);
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK, .kind = OFD}),
                     -EAGAIN);
    ck_assert_int_eq(lock((struct want){.owner = 3, .type = F_WRLCK, .kind = FLOCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 4, .type = F_RDLCK, .kind = FLOCK}), -EAGAIN);
}
END_TEST

START_TEST(two_sharers_that_both_want_to_write_do_not_hang)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .type = F_RDLCK, .kind = FLOCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .type = F_RDLCK, .kind = FLOCK}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .type = F_WRLCK, .kind = FLOCK, .wait = true}),
                     ERR_QUEUED);
    uint64_t a = fsm_world_result(&w)->ticket;
    /* The first gave up its shared lock to wait: the second finds nobody in its way. */
    ck_assert_int_eq(lock((struct want){.owner = 2, .type = F_WRLCK, .kind = FLOCK, .wait = true}),
                     0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .type = F_UNLCK, .kind = FLOCK}), 0);
    ck_assert(granted(a));
}
END_TEST

START_TEST(a_drop_by_handle_or_owner_takes_what_is_left)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = 9, .type = F_WRLCK, .kind = OFD}), 0);
    ck_assert_int_eq(lock((struct want){.owner = 2, .start = 20, .end = 29, .type = F_WRLCK}), 0);
    Cfs__LockDropOp d = CFS__LOCK_DROP_OP__INIT;
    d.ino = file;
    d.has_handle = true;
    d.handle = 101;
    Cfs__Op op = CFS__OP__INIT;
    op.lock_drop = &d;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_uint_eq(count(), 1);
    d = (Cfs__LockDropOp)CFS__LOCK_DROP_OP__INIT;
    d.ino = file;
    d.has_owner = true;
    d.owner = 2;
    ck_assert_int_eq(fsm_world_op(&w, &op), 0);
    ck_assert_uint_eq(count(), 0);
}
END_TEST

START_TEST(impossible_locks_are_refused)
{
    ck_assert_int_eq(lock((struct want){.start = 5, .end = 4, .type = F_WRLCK}), -EINVAL);
    ck_assert_int_eq(lock((struct want){.kind = 4, .type = F_WRLCK}), -EINVAL);
    ck_assert_int_eq(lock((struct want){.type = 3}), -EINVAL);
    ck_assert_int_eq(lock((struct want){.ino = 60000, .type = F_WRLCK}), -ENOENT);
}
END_TEST

/* One lock on everything, given back byte by byte: each leaves one more piece. Whoever does that is
 * refused in the end; the row must never grow beyond what is read back. */
START_TEST(pieces_of_a_lock_are_bounded)
{
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = INT64_MAX, .type = F_WRLCK}), 0);
    int rc = 0;
    uint64_t n = 0;
    for (; rc == 0 && n < 40000; n++) {
        rc = lock((struct want){
            .owner = 1, .start = 2 * n + 1, .end = 2 * n + 1, .type = F_UNLCK});
    }
    ck_assert_int_eq(rc, -ENOLCK);
    ck_assert_uint_eq(count(), n);
    ck_assert_uint_eq(holder(2 * n - 1, 2 * n - 1), 1);
    ck_assert_int_eq(fsm_world_reopen(&w), 0);
    ck_assert_int_eq(lock((struct want){.owner = 1, .end = INT64_MAX, .type = F_UNLCK}), 0);
    ck_assert_uint_eq(count(), 0);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, begin, end);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, readers_share_and_a_writer_is_refused);
    tcase_add_test(t, unlocking_the_middle_leaves_two_ends);
    tcase_add_test(t, neighbours_of_one_type_become_one);
    tcase_add_test(t, a_change_of_type_splits);
    tcase_add_test(t, a_waiter_gets_a_ticket_and_is_granted_by_the_unlock);
    tcase_add_test(t, a_grant_whose_event_was_lost_is_known_after_a_restart);
    tcase_add_test(t, waiting_survives_a_restart);
    tcase_add_test(t, cancel_says_whether_it_came_too_late);
    tcase_add_test(t, a_circle_of_waiters_is_EDEADLK);
    tcase_add_test(t, ofd_and_posix_conflict_and_flock_with_neither);
    tcase_add_test(t, two_sharers_that_both_want_to_write_do_not_hang);
    tcase_add_test(t, a_drop_by_handle_or_owner_takes_what_is_left);
    tcase_add_test(t, impossible_locks_are_refused);
    tcase_add_test(t, pieces_of_a_lock_are_bounded);
    return suite_run("fsm_locks", t);
}
