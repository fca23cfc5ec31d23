#include <fcntl.h>

#include "test/lib/suite.h"
#include "test/unit/ops_fakes.h"

/* Replies that no honest server gives: each is an error for who asked, and harms nobody else. */

static fuse_req_t locking(uint64_t unique, int sleep)
{
    fuse_req_t q = request(unique);
    struct fuse_file_info fi = {.lock_owner = 7};
    struct flock lock = {.l_type = F_WRLCK};
    ops_setlk(q, 7, &fi, &lock, sleep);
    return q;
}

START_TEST(command_refused_as_queued_is_an_error_of_its_lock)
{
    fuse_req_t q = locking(1, 1);
    answer_command_raw(ERR_QUEUED, BYTES(NULL, 0));
    ck_assert(q->answered);
    ck_assert_int_eq(q->error, EIO);
    free(q);
}
END_TEST

START_TEST(lock_queued_under_no_ticket_is_not_held)
{
    fuse_req_t q = locking(1, 1);
    Cfs__OpReply r = CFS__OP_REPLY__INIT;
    r.status = status_of_rc(ERR_QUEUED);
    r.has_ticket = true;
    answer_command(&r);
    ck_assert(q->answered);
    ck_assert_int_eq(q->error, EIO);
    free(q);
    ck_assert_uint_eq(w.client.ops->tickets.n, 0);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("ops_replies");
    tcase_add_checked_fixture(t, world_setup, world_teardown);
    tcase_add_test(t, command_refused_as_queued_is_an_error_of_its_lock);
    tcase_add_test(t, lock_queued_under_no_ticket_is_not_held);
    return suite_run("ops_replies", t);
}
