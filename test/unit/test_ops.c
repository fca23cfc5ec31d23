#include <check.h>
#include <linux/falloc.h>

#include "test/unit/ops_fakes.h"

START_TEST(absent_name_is_an_answer_the_kernel_may_keep)
{
    fuse_req_t q = request(1);
    ops_lookup(q, FUSE_ROOT_ID, "nope");
    answer_read(-ENOENT, NULL);
    ck_assert_int_eq(q->error, 0);
    ck_assert_uint_eq(q->entry.ino, 0);
    ck_assert(q->entry.entry_timeout > 1.0);
    free(q);
}
END_TEST

START_TEST(known_name_costs_no_round_trip)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(2);
    ops_lookup(q, FUSE_ROOT_ID, "f");
    ck_assert_uint_eq(q->entry.ino, 7);
    ck_assert_uint_eq(w.reads_started, 1);
    free(q);
}
END_TEST

START_TEST(root_of_the_mount_is_node_one_both_ways)
{
    fuse_req_t q = request(1);
    ops_getattr(q, FUSE_ROOT_ID, NULL);
    answer_lookup(attr_of(ROOT, S_IFDIR | 0755, 1));
    ck_assert_uint_eq(q->attr.st_ino, ROOT);
    free(q);
    q = request(2);
    ops_lookup(q, ROOT + 1, "..");
    answer_lookup(attr_of(ROOT, S_IFDIR | 0755, 1));
    ck_assert_uint_eq(q->entry.ino, FUSE_ROOT_ID);
    free(q);
}
END_TEST

START_TEST(getattrs_of_one_inode_share_a_call)
{
    fuse_req_t a = request(1);
    ops_getattr(a, 7, NULL);
    fuse_req_t b = request(2);
    ops_getattr(b, 7, NULL);
    ck_assert_uint_eq(w.reads_started, 1);
    answer_lookup(attr_of(7, S_IFREG | 0600, 1));
    ck_assert(a->answered && b->answered);
    free(a);
    free(b);
}
END_TEST

START_TEST(create_is_repeated_with_its_number_and_finds_its_handle)
{
    struct fuse_file_info fi = {.flags = O_RDWR | O_CREAT | O_EXCL};
    fuse_req_t q = request(1);
    ops_create(q, FUSE_ROOT_ID, "f", 0644, &fi);
    ck_assert_uint_eq(q->record.seq, 1);
    Cfs__Attr a = attr_of(7, S_IFREG | 0644, 1);
    answer_attr(&a);
    uint64_t fh = q->fi.fh;
    /* It died after answering, before the record was freed. */
    w.next_seq = 50;
    fuse_req_t again = repeated(q);
    ops_create(again, FUSE_ROOT_ID, "f", 0644, &fi);
    ck_assert_uint_eq(w.command[0]->seq, 1);
    answer_attr(&a);
    ck_assert_uint_eq(again->fi.fh, fh);
    ck_assert_uint_eq(handles_count(w.client.ops->handles, 7), 1);
    free(q);
    free(again);
}
END_TEST

START_TEST(directory_made_here_is_known_whole)
{
    fuse_req_t q = request(1);
    ops_mkdir(q, FUSE_ROOT_ID, "d", 0755);
    Cfs__Attr a = attr_of(8, S_IFDIR | 0755, 1);
    answer_attr(&a);
    free(q);
    q = request(2);
    ops_lookup(q, 8, "x");
    ck_assert(q->answered);
    ck_assert_uint_eq(q->entry.ino, 0);
    ck_assert_uint_eq(w.reads_started, 0);
    free(q);
}
END_TEST

static fuse_req_t unlinking(uint64_t unique, bool *ret_held)
{
    fuse_req_t q = request(unique);
    ops_unlink(q, FUSE_ROOT_ID, "f");
    Cfs__Ops *ops = sent(w.commands - 1);
    *ret_held = ops->op[0]->unlink->held;
    cfs__ops__free_unpacked(ops, NULL);
    return q;
}

static void answer_removed(uint64_t ino, bool orphaned)
{
    Cfs__OpReply r = CFS__OP_REPLY__INIT;
    Cfs__Attr victim = attr_of(ino, S_IFREG | 0644, 2);
    victim.nlink = 0;
    r.victim = &victim;
    r.has_orphaned = 1;
    r.orphaned = orphaned;
    answer_command(&r);
}

START_TEST(unlink_of_a_closed_file_is_not_held)
{
    bool held;
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = unlinking(1, &held);
    ck_assert(!held);
    answer_removed(7, false);
    ck_assert(q->answered);
    free(q);
}
END_TEST

static void answer_renamed(uint64_t ino, bool changed)
{
    Cfs__OpReply r = CFS__OP_REPLY__INIT;
    Cfs__Attr a = attr_of(ino, S_IFREG | 0644, 2), parent = attr_of(ROOT, S_IFDIR | 0755, 2);
    r.attr = &a;
    r.parent = changed ? &parent : NULL;
    answer_command(&r);
}

/* The killed caller does not keep others out of the directory any more, and its change may be of this name. */
START_TEST(unlink_beside_a_change_of_a_killed_caller_is_held)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t moved = request(1), q = request(2);
    w.current = &moved->r;
    ops_rename(moved, FUSE_ROOT_ID, "g", FUSE_ROOT_ID, "f", 0);
    moved->r.fatal = true;
    w.current = &q->r;
    ops_unlink(q, FUSE_ROOT_ID, "f");
    Cfs__Ops *ops = sent(1);
    ck_assert(ops->op[0]->unlink->held);
    cfs__ops__free_unpacked(ops, NULL);
    answer_renamed(8, true);
    ck_assert_uint_eq(w.names_invalidated, 1); /* the kernel did not hear of its end */
    ck_assert_uint_gt(w.invalidated, 0);
    answer_removed(8, true);
    ck_assert(moved->answered && q->answered);
    free(moved);
    free(q);
}
END_TEST

START_TEST(unlink_of_an_unknown_name_is_held_and_let_go_behind)
{
    bool held;
    fuse_req_t q = unlinking(1, &held);
    ck_assert(held);
    answer_removed(7, true);
    ck_assert(q->answered);
    ck_assert_uint_eq(handles_total(w.client.ops->handles), 1);
    run_for(OPS_RELEASE_DELAY_MS);
    Cfs__Ops *ops = sent(0);
    ck_assert_uint_eq(ops->op[0]->release->ino[0], 7);
    cfs__ops__free_unpacked(ops, NULL);
    answer_status(0);
    ck_assert_uint_eq(handles_total(w.client.ops->handles), 0);
    free(q);
}
END_TEST

START_TEST(orphan_is_released_after_its_last_handle_also_by_the_next_worker)
{
    bool held;
    looked_up(7, "f", S_IFREG | 0644);
    uint64_t fh = opened(7, 1);
    fuse_req_t q = unlinking(2, &held);
    ck_assert(held);
    answer_removed(7, true);
    ck_assert_uint_eq(w.commands, 0);
    released(7, fh);
    fuse_req_t none = repeated(q);
    run_for(OPS_RELEASE_DELAY_MS);
    Cfs__Ops *ops = sent(0);
    ck_assert_uint_eq(ops->op[0]->release->ino[0], 7);
    cfs__ops__free_unpacked(ops, NULL);
    answer_status(0);
    free(q);
    free(none);
}
END_TEST

START_TEST(open_waits_for_a_removal_that_said_not_held)
{
    bool held;
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = unlinking(1, &held);
    fuse_req_t o = request(2);
    struct fuse_file_info fi = {.flags = O_RDONLY};
    ops_open(o, 7, &fi);
    ck_assert(!o->answered);
    answer_status(-EPERM); /* it was not removed after all */
    ck_assert_int_eq(q->error, EPERM);
    ck_assert(o->answered);
    ck_assert_int_eq(o->error, 0);
    free(q);
    free(o);
}
END_TEST

static void set_size(fuse_req_t q, uint64_t size)
{
    struct fuse_in_header *head = (void *)q->record.request;
    struct fuse_setattr_in *in = (void *)(head + 1);
    in->valid = FATTR_SIZE;
    in->size = size;
}

START_TEST(truncate_stills_the_writer_first_and_trims_after_the_answer)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    set_size(q, 10);
    ops_setattr(q, 7, NULL, 0, NULL);
    ck_assert_uint_eq(w.commands, 0);
    w.quiet->on_done(w.quiet, 0);
    ck_assert_uint_eq(w.commands, 1);
    ck_assert_uint_eq(w.truncated, 0);
    Cfs__Attr a = attr_of(7, S_IFREG | 0644, 2);
    a.size = 10;
    answer_attr(&a);
    ck_assert_uint_eq(w.truncated_to, 10);
    ck_assert_uint_eq(w.resumed, 1);
    ck_assert_int_eq(q->attr.st_size, 10);
    free(q);
}
END_TEST

START_TEST(refused_truncate_changes_nothing_here)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    set_size(q, 10);
    ops_setattr(q, 7, NULL, 0, NULL);
    w.quiet->on_done(w.quiet, 0);
    answer_status(-ENOSPC);
    ck_assert_int_eq(q->error, ENOSPC);
    ck_assert_uint_eq(w.truncated, 0);
    ck_assert_uint_eq(w.resumed, 1);
    free(q);
}
END_TEST

START_TEST(numbered_truncate_is_submitted_at_once_and_waits_for_both)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    set_size(q, 10);
    q->record.seq = 33;
    fuse_req_t again = repeated(q);
    ops_setattr(again, 7, NULL, 0, NULL);
    ck_assert_uint_eq(w.command[0]->seq, 33);
    Cfs__Attr a = attr_of(7, S_IFREG | 0644, 2);
    a.size = 10;
    answer_attr(&a);
    ck_assert(!again->answered);
    w.quiet->on_done(w.quiet, 0);
    ck_assert(again->answered);
    ck_assert_uint_eq(w.truncated_to, 10);
    free(q);
    free(again);
}
END_TEST

START_TEST(write_error_is_told_once_to_each_descriptor_that_was_open)
{
    looked_up(7, "f", S_IFREG | 0644);
    uint64_t a = opened(7, 1), b = opened(7, 2);
    struct inode *in = itable_find(w.client.itable, 7);
    w.inode = (struct arena_inode){.ino = 7, .error = -ENOSPC, .errors = 1};
    in->dirty = &w.inode;
    uint64_t late = opened(7, 3);
    const uint64_t fhs[] = {a, a, b, late};
    const int expected[] = {ENOSPC, 0, ENOSPC, 0};
    for (unsigned i = 0; i < array_count(fhs); i++) {
        fuse_req_t q = request(10 + i);
        struct fuse_file_info fi = {.fh = fhs[i]};
        ops_fsync(q, 7, 0, &fi);
        w.flush->on_done(w.flush, 0);
        ck_assert_int_eq(q->error, expected[i]);
        free(q);
    }
    in->dirty = NULL;
}
END_TEST

START_TEST(write_waits_for_room_and_is_answered_once)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    struct fuse_file_info fi = {.fh = opened(7, 2)};
    w.current = &q->r;
    w.write_rc = -EAGAIN;
    ops_write(q, 7, "abc", 3, 0, &fi);
    ck_assert(!q->answered);
    w.write_rc = 0;
    w.room->on_done(w.room, 0);
    ck_assert_uint_eq(q->count, 3);
    free(q);
}
END_TEST

/* It has its answer. Done later, its write could follow what others have written since. */
START_TEST(what_a_killed_caller_still_waited_for_is_not_done)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    struct fuse_file_info fi = {.fh = opened(7, 2)};
    w.current = &q->r;
    w.write_rc = -EAGAIN;
    ops_write(q, 7, "abc", 3, 0, &fi);
    ck_assert_uint_eq(w.writes, 1);
    fuse_req_t cut = request(3);
    set_size(cut, 10);
    ops_setattr(cut, 7, NULL, 0, NULL);
    q->r.fatal = cut->r.fatal = true;
    w.write_rc = 0;
    w.room->on_done(w.room, 0);
    ck_assert(q->answered);
    ck_assert_uint_eq(w.writes, 1);
    w.quiet->on_done(w.quiet, 0);
    ck_assert(cut->answered);
    ck_assert_uint_eq(w.submitted, 0);
    ck_assert_uint_eq(w.resumed, 1);
    free(q);
    free(cut);
}
END_TEST

START_TEST(write_without_credit_asks_what_is_reserved_there_and_gives_up)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    struct fuse_file_info fi = {.fh = opened(7, 2)};
    w.current = &q->r;
    w.write_rc = -EAGAIN;
    w.wants_layout = true;
    ops_write(q, 7, "abc", 3, 0, &fi);
    ck_assert_uint_eq(w.layout_wanted, 3);
    for (unsigned i = 0; i < 1000 && !q->answered; i++) {
        w.room->on_done(w.room, 0);
    }
    ck_assert_int_eq(q->error, ENOSPC);
    free(q);
}
END_TEST

/* A fallocate of an empty file of which 4 KiB are allocated, as far as its command. */
static fuse_req_t fallocating(uint64_t unique, int mode)
{
    fuse_req_t q = request(unique);
    struct fuse_file_info fi = {.fh = 0};
    itable_find(w.client.itable, 7)->st.st_blocks = 8;
    ops_fallocate(q, 7, mode, 0, 1 << 20, &fi);
    w.flush->on_done(w.flush, 0);
    w.quiet->on_done(w.quiet, 0);
    ck_assert_uint_eq(w.commands, 1);
    return q;
}

static void answer_allocated(uint64_t allocated)
{
    Cfs__Attr a = attr_of(7, S_IFREG | 0644, 2);
    a.allocated = allocated;
    answer_attr(&a);
}

START_TEST(fallocate_takes_what_is_new_of_it_from_the_credit)
{
    looked_up(7, "f", S_IFREG | 0644);
    w.promised = 8192;
    fuse_req_t q = fallocating(1, 0);
    Cfs__Ops *ops = sent(0);
    ck_assert_uint_eq(ops->op[0]->fallocate->dirty, 8192);
    cfs__ops__free_unpacked(ops, NULL);
    ck_assert_uint_eq(w.reserving, 1 << 20);
    answer_allocated(1 << 20);
    ck_assert(q->answered);
    ck_assert_int_eq(q->error, 0);
    ck_assert_uint_eq(w.reserving, 0);
    ck_assert_uint_eq(w.reserved, (1 << 20) - 4096);
    free(q);
}
END_TEST

START_TEST(fallocate_without_room_is_refused_at_once_unless_some_comes_back)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = fallocating(1, 0);
    answer_status(-ENOSPC);
    ck_assert_int_eq(q->error, ENOSPC);
    free(q);
    q = fallocating(2, FALLOC_FL_KEEP_SIZE);
    const uint64_t number = q->record.seq;
    answer_status(-EAGAIN);
    ck_assert(!q->answered);
    ck_assert_uint_eq(w.commands, 0);
    run_for(500);
    ck_assert_uint_eq(w.commands, 1);
    ck_assert_uint_ne(w.command[0]->seq, number); /* another command, harmless to repeat */
    ck_assert_uint_eq(q->record.seq, number);
    answer_allocated(1 << 20);
    ck_assert(q->answered);
    ck_assert_int_eq(q->error, 0);
    free(q);
    q = fallocating(4, 0); /* killed while it waits: nothing is done for it later */
    answer_status(-EAGAIN);
    q->r.fatal = true;
    run_for(500);
    ck_assert_uint_eq(w.commands, 0);
    ck_assert(q->answered);
    free(q);
    q = fallocating(3, 0);
    for (unsigned i = 0; i < 10; i++) {
        answer_status(-EAGAIN);
        ck_assert(!q->answered);
        run_for(500);
    }
    answer_status(-EAGAIN);
    ck_assert_int_eq(q->error, ENOSPC);
    ck_assert_uint_eq(w.reserving, 0);
    free(q);
}
END_TEST

START_TEST(hole_takes_no_credit)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = fallocating(1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    ck_assert_uint_eq(w.reserving, 0);
    answer_allocated(0);
    ck_assert_int_eq(q->error, 0);
    ck_assert_uint_eq(w.reserved, 0);
    free(q);
}
END_TEST

START_TEST(rename_of_a_dirty_file_flushes_it_first)
{
    looked_up(7, "f", S_IFREG | 0644);
    w.dirty = true;
    fuse_req_t q = request(1);
    ops_rename(q, FUSE_ROOT_ID, "f", FUSE_ROOT_ID, "g", 0);
    ck_assert_uint_eq(w.commands, 0);
    w.flush->on_done(w.flush, 0);
    ck_assert_uint_eq(w.commands, 1);
    answer_renamed(7, true);
    ck_assert_int_eq(q->error, 0);
    ck_assert_uint_eq(names_find(w.client.ops->names, ROOT, BYTES("g", 1)), 7);
    ck_assert_uint_eq(names_find(w.client.ops->names, ROOT, BYTES("f", 1)), 0);
    free(q);
}
END_TEST

START_TEST(rename_onto_another_name_of_one_inode_keeps_both)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    ops_rename(q, FUSE_ROOT_ID, "f", FUSE_ROOT_ID, "g", 0);
    answer_renamed(7, false);
    ck_assert_uint_eq(names_find(w.client.ops->names, ROOT, BYTES("g", 1)), 7);
    ck_assert_uint_eq(names_find(w.client.ops->names, ROOT, BYTES("f", 1)), 7);
    free(q);
}
END_TEST

START_TEST(close_drops_locks_only_where_one_was_asked_for)
{
    looked_up(7, "f", S_IFREG | 0644);
    struct fuse_file_info fi = {.fh = opened(7, 1), .lock_owner = 77};
    fuse_req_t q = request(2);
    ops_flush(q, 7, &fi);
    ck_assert(q->answered);
    free(q);
    handles_set_locked(w.client.ops->handles, handles_find(w.client.ops->handles, fi.fh));
    q = request(3);
    ops_flush(q, 7, &fi);
    ck_assert(!q->answered);
    answer_status(0);
    ck_assert(q->answered);
    free(q);
}
END_TEST

START_TEST(release_of_a_locked_handle_drops_what_is_left_before_the_handle_goes)
{
    looked_up(7, "f", S_IFREG | 0644);
    struct fuse_file_info fi = {.fh = opened(7, 1)};
    handles_set_locked(w.client.ops->handles, handles_find(w.client.ops->handles, fi.fh));
    fuse_req_t q = request(3);
    ops_release(q, 7, &fi);
    ck_assert(!q->answered);
    ck_assert_uint_eq(handles_count(w.client.ops->handles, 7), 1);
    Cfs__Ops *ops = sent(0);
    ck_assert_uint_eq(ops->op[0]->lock_drop->handle, fi.fh);
    cfs__ops__free_unpacked(ops, NULL);
    answer_status(0);
    ck_assert(q->answered);
    ck_assert_uint_eq(handles_count(w.client.ops->handles, 7), 0);
    free(q);
}
END_TEST

/* ---- locks ---- */

static fuse_req_t locking(uint64_t unique)
{
    fuse_req_t q = request(unique);
    struct fuse_file_info fi = {.lock_owner = 77};
    struct flock lock = {.l_type = F_WRLCK};
    ops_setlk(q, 7, &fi, &lock, 1);
    return q;
}

static void answer_queued(uint64_t ticket)
{
    Cfs__OpReply r = CFS__OP_REPLY__INIT;
    r.status = status_of_rc(ERR_QUEUED);
    r.has_ticket = 1;
    r.ticket = ticket;
    answer_command(&r);
}

START_TEST(queued_lock_is_answered_when_granted_and_holds_no_number)
{
    fuse_req_t q = locking(1);
    answer_queued(9);
    ck_assert(!q->answered);
    ck_assert_uint_eq(q->record.ticket, 9);
    ck_assert_uint_eq(q->record.seq, 0);
    ck_assert_uint_eq(w.released, 1);
    ops_lock_granted(w.client.ops, 9);
    ck_assert(q->answered);
    ck_assert_int_eq(q->error, 0);
    free(q);
}
END_TEST

START_TEST(grant_heard_of_before_the_answer_counts)
{
    fuse_req_t q = locking(1);
    ops_lock_granted(w.client.ops, 9);
    answer_queued(9);
    ck_assert(q->answered);
    ck_assert_int_eq(q->error, 0);
    free(q);
}
END_TEST

START_TEST(interrupted_lock_is_cancelled)
{
    fuse_req_t q = locking(1);
    answer_queued(9);
    q->r.on_interrupt(&q->r);
    ck_assert(!q->answered);
    answer_status(0);
    ck_assert_int_eq(q->error, EINTR);
    free(q);
}
END_TEST

START_TEST(lock_that_could_not_wait_is_refused)
{
    w.no_small = true;
    fuse_req_t q = locking(1);
    ck_assert_int_eq(q->error, ENOLCK);
    ck_assert_uint_eq(w.submitted, 0);
    free(q);
}
END_TEST

START_TEST(lock_of_a_killed_caller_is_cancelled_when_it_is_queued)
{
    fuse_req_t q = locking(1);
    q->r.fatal = true;
    answer_queued(9);
    Cfs__Ops *ops = sent(0);
    ck_assert_ptr_nonnull(ops->op[0]->lock_cancel);
    cfs__ops__free_unpacked(ops, NULL);
    answer_status(0);
    ck_assert(q->answered);
    free(q);
}
END_TEST

START_TEST(lock_granted_before_its_cancel_is_held)
{
    fuse_req_t q = locking(1);
    answer_queued(9);
    q->r.on_interrupt(&q->r);
    ops_lock_granted(w.client.ops, 9);
    ck_assert(!q->answered);
    answer_status(-EALREADY);
    ck_assert(q->answered);
    ck_assert_int_eq(q->error, 0);
    free(q);
}
END_TEST

START_TEST(parked_lock_waits_on_in_the_next_worker)
{
    fuse_req_t q = locking(1);
    answer_queued(9);
    fuse_req_t again = repeated(q);
    struct fuse_file_info fi = {.lock_owner = 77};
    struct flock lock = {.l_type = F_WRLCK};
    ops_setlk(again, 7, &fi, &lock, 1);
    ck_assert_uint_eq(w.commands, 0);
    ops_lock_granted(w.client.ops, 9);
    ck_assert_int_eq(again->error, 0);
    ck_assert(again->answered);
    free(q);
    free(again);
}
END_TEST

START_TEST(cancel_under_way_is_repeated_with_its_number)
{
    fuse_req_t q = locking(1);
    answer_queued(9);
    q->r.on_interrupt(&q->r);
    uint64_t seq = q->record.seq;
    ck_assert_uint_ne(seq, 0);
    fuse_req_t again = repeated(q);
    struct fuse_file_info fi = {.lock_owner = 77};
    struct flock lock = {.l_type = F_WRLCK};
    ops_setlk(again, 7, &fi, &lock, 1);
    ck_assert_uint_eq(w.command[0]->seq, seq);
    answer_status(0);
    ck_assert_int_eq(again->error, EINTR);
    free(q);
    free(again);
}
END_TEST

/* ---- the rest ---- */

START_TEST(read_only_mount_refuses_changes)
{
    w.client.read_only = true;
    fuse_req_t q = request(1);
    ops_mkdir(q, FUSE_ROOT_ID, "d", 0755);
    ck_assert_int_eq(q->error, EROFS);
    free(q);
}
END_TEST

START_TEST(ended_session_answers_eio_to_all_and_to_who_waits)
{
    fuse_req_t waiting = locking(1);
    answer_queued(9);
    ops_session_ended(w.client.ops);
    ck_assert_int_eq(waiting->error, EIO);
    fuse_req_t q = request(2);
    ops_getattr(q, 7, NULL);
    ck_assert_int_eq(q->error, EIO);
    free(waiting);
    free(q);
}
END_TEST

START_TEST(statfs_of_a_dead_cluster_gives_the_last_values_after_a_second)
{
    fuse_req_t q = request(1);
    ops_statfs(q, FUSE_ROOT_ID);
    Cfs__StatfsReply r = CFS__STATFS_REPLY__INIT;
    r.total = 4096 * 1000;
    answer_read(0, &r.base);
    ck_assert_uint_eq(q->statfs.f_blocks, 1000);
    free(q);
    fuse_req_t a = request(2), b = request(3);
    w.current = &a->r;
    ops_statfs(a, FUSE_ROOT_ID);
    w.current = &b->r;
    ops_statfs(b, FUSE_ROOT_ID);
    ck_assert_uint_eq(w.reads_started, 2);
    run_for(OPS_STATFS_MS);
    ck_assert(a->answered && b->answered);
    ck_assert_uint_eq(b->statfs.f_blocks, 1000);
    free(a);
    free(b);
}
END_TEST

START_TEST(command_past_its_deadline_leaves_nothing_known)
{
    looked_up(7, "f", S_IFREG | 0644);
    fuse_req_t q = request(1);
    ops_unlink(q, FUSE_ROOT_ID, "f");
    struct command *cmd = w.command[--w.commands];
    cmd->rc = ERR_DEADLINE;
    cmd->on_done(cmd);
    ck_assert_int_eq(q->error, EIO);
    ck_assert_uint_gt(w.invalidated, 0);
    struct inode *in = itable_find(w.client.itable, 7);
    ck_assert(in == NULL || !in->attr_valid);
    free(q);
}
END_TEST

START_TEST(no_attributes_is_known_without_asking)
{
    looked_up(7, "f", S_IFREG | 0644);
    unsigned before = w.reads_started;
    fuse_req_t q = request(1);
    ops_getxattr(q, 7, "security.capability", 0);
    ck_assert_int_eq(q->error, ENODATA);
    ck_assert_uint_eq(w.reads_started, before);
    free(q);
}
END_TEST

START_TEST(number_of_a_background_command_is_noted_before_it_leaves)
{
    background_release(w.client.ops->background, 9);
    run_for(OPS_RELEASE_DELAY_MS);
    ck_assert_uint_eq(w.commands, 1);
    ck_assert_uint_eq(w.header.next_seq, 2);
    answer_status(0);
    ck_assert_uint_eq(w.released, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ops");
    TCase *c = tcase_create("ops");
    tcase_add_checked_fixture(c, world_setup, world_teardown);
    tcase_add_test(c, absent_name_is_an_answer_the_kernel_may_keep);
    tcase_add_test(c, known_name_costs_no_round_trip);
    tcase_add_test(c, root_of_the_mount_is_node_one_both_ways);
    tcase_add_test(c, getattrs_of_one_inode_share_a_call);
    tcase_add_test(c, create_is_repeated_with_its_number_and_finds_its_handle);
    tcase_add_test(c, directory_made_here_is_known_whole);
    tcase_add_test(c, unlink_of_a_closed_file_is_not_held);
    tcase_add_test(c, unlink_beside_a_change_of_a_killed_caller_is_held);
    tcase_add_test(c, unlink_of_an_unknown_name_is_held_and_let_go_behind);
    tcase_add_test(c, orphan_is_released_after_its_last_handle_also_by_the_next_worker);
    tcase_add_test(c, open_waits_for_a_removal_that_said_not_held);
    tcase_add_test(c, truncate_stills_the_writer_first_and_trims_after_the_answer);
    tcase_add_test(c, refused_truncate_changes_nothing_here);
    tcase_add_test(c, numbered_truncate_is_submitted_at_once_and_waits_for_both);
    tcase_add_test(c, write_error_is_told_once_to_each_descriptor_that_was_open);
    tcase_add_test(c, write_waits_for_room_and_is_answered_once);
    tcase_add_test(c, write_without_credit_asks_what_is_reserved_there_and_gives_up);
    tcase_add_test(c, fallocate_takes_what_is_new_of_it_from_the_credit);
    tcase_add_test(c, fallocate_without_room_is_refused_at_once_unless_some_comes_back);
    tcase_add_test(c, hole_takes_no_credit);
    tcase_add_test(c, what_a_killed_caller_still_waited_for_is_not_done);
    tcase_add_test(c, rename_of_a_dirty_file_flushes_it_first);
    tcase_add_test(c, rename_onto_another_name_of_one_inode_keeps_both);
    tcase_add_test(c, close_drops_locks_only_where_one_was_asked_for);
    tcase_add_test(c, release_of_a_locked_handle_drops_what_is_left_before_the_handle_goes);
    tcase_add_test(c, queued_lock_is_answered_when_granted_and_holds_no_number);
    tcase_add_test(c, grant_heard_of_before_the_answer_counts);
    tcase_add_test(c, interrupted_lock_is_cancelled);
    tcase_add_test(c, lock_that_could_not_wait_is_refused);
    tcase_add_test(c, lock_of_a_killed_caller_is_cancelled_when_it_is_queued);
    tcase_add_test(c, lock_granted_before_its_cancel_is_held);
    tcase_add_test(c, parked_lock_waits_on_in_the_next_worker);
    tcase_add_test(c, cancel_under_way_is_repeated_with_its_number);
    tcase_add_test(c, read_only_mount_refuses_changes);
    tcase_add_test(c, ended_session_answers_eio_to_all_and_to_who_waits);
    tcase_add_test(c, statfs_of_a_dead_cluster_gives_the_last_values_after_a_second);
    tcase_add_test(c, command_past_its_deadline_leaves_nothing_known);
    tcase_add_test(c, no_attributes_is_known_without_asking);
    tcase_add_test(c, number_of_a_background_command_is_noted_before_it_leaves);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
