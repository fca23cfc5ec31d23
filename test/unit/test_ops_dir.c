/* Directories: what is listed, and when the server is asked. */
#include <check.h>

#include "test/unit/ops_fakes.h"

struct listed {
    Cfs__ReaddirReply reply;
    Cfs__ReaddirReply__Entry entry[64], *list[64];
    Cfs__Attr attr[64];
    char name[64][8];
};

static struct listed *listing_of(const uint64_t *hash, unsigned n, bool end)
{
    static struct listed l;
    cfs__readdir_reply__init(&l.reply);
    l.reply.n_entry = n;
    l.reply.entry = l.list;
    l.reply.end = end;
    for (unsigned i = 0; i < n; i++) {
        cfs__readdir_reply__entry__init(&l.entry[i]);
        snprintf(l.name[i], sizeof l.name[i], "n%02u", i);
        l.attr[i] = attr_of(200 + i, S_IFREG | 0644, 1);
        l.entry[i].name = (ProtobufCBinaryData){.len = 3, .data = (uint8_t *)l.name[i]};
        l.entry[i].ino = 200 + i;
        l.entry[i].type = S_IFREG;
        l.entry[i].hash = hash[i];
        l.entry[i].attr = &l.attr[i];
        l.list[i] = &l.entry[i];
    }
    return &l;
}

static fuse_req_t reading(uint64_t fh, size_t size, off_t off, bool plus)
{
    fuse_req_t q = request(300);
    names_set_parent(w.client.ops->names, 50, ROOT);
    struct fuse_file_info fi = {.fh = fh};
    if (plus) {
        ops_readdirplus(q, 50, size, off, &fi);
    } else {
        ops_readdir(q, 50, size, off, &fi);
    }
    return q;
}

static void changed(uint64_t dir)
{
    names_change_begin(w.client.ops->names, dir);
    names_change_end(w.client.ops->names, dir);
}

/* Entries in a plain reply, and the position of the last. */
static unsigned count_entries(fuse_req_t q, uint64_t *ret_last)
{
    unsigned n = 0;
    for (size_t at = 0; at < q->count; n++) {
        struct fuse_dirent *d = (void *)(q->data + at);
        *ret_last = d->off;
        at += FUSE_DIRENT_SIZE(d);
    }
    return n;
}

START_TEST(entries_of_one_hash_never_straddle_a_reply)
{
    const uint64_t hash[] = {10, 20, 30, 30, 30, 40};
    uint64_t last = 0;
    const size_t one = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + 3);
    /* Room for the dots and four entries: the third of hash 30 does not fit, so none goes. */
    fuse_req_t q = reading(1, 6 * one, 0, false);
    answer_read(0, &listing_of(hash, 6, true)->reply.base);
    ck_assert_uint_eq(count_entries(q, &last), 4);
    ck_assert_uint_eq(last, 20);
    free(q);
    q = reading(1, 6 * one, 20, false);
    ck_assert_uint_eq(count_entries(q, &last), 4);
    ck_assert_uint_eq(last, 40);
    free(q);
    q = reading(1, 6 * one, 40, false);
    ck_assert_uint_eq(q->count, 0);
    ck_assert_uint_eq(w.reads_started, 1);
    free(q);
}
END_TEST

START_TEST(position_of_an_earlier_worker_is_fetched_again)
{
    const uint64_t hash[] = {30, 40};
    uint64_t last = 0;
    fuse_req_t q = reading(1, 4096, 20, false);
    answer_read(0, &listing_of(hash, 2, true)->reply.base);
    ck_assert_uint_eq(count_entries(q, &last), 2);
    free(q);
}
END_TEST

START_TEST(listed_entry_carries_attributes_only_if_nothing_changed)
{
    const uint64_t hash[] = {10, 20};
    fuse_req_t q = reading(1, 4096, 0, true);
    answer_read(0, &listing_of(hash, 2, true)->reply.base);
    struct fuse_direntplus *d =
        (void *)(q->data + 2 * FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + 1));
    ck_assert_uint_eq(d->entry_out.nodeid, 200);
    free(q);
    changed(50);
    q = reading(1, 4096, 10, true);
    d = (void *)q->data;
    ck_assert_uint_eq(d->entry_out.nodeid, 0);
    ck_assert_uint_eq(d->dirent.ino, 201);
    free(q);
}
END_TEST

START_TEST(listing_out_of_order_is_refused)
{
    const uint64_t hash[] = {20, 10};
    fuse_req_t q = reading(1, 4096, 0, false);
    answer_read(0, &listing_of(hash, 2, true)->reply.base);
    ck_assert_int_eq(q->error, EIO);
    free(q);
}
END_TEST

/* What a plain reply says of "..", its second entry. */
static uint64_t dotdot_of(fuse_req_t q)
{
    struct fuse_dirent *dot = (void *)q->data, *up = (void *)(q->data + FUSE_DIRENT_SIZE(dot));
    ck_assert_uint_eq(up->namelen, 2);
    ck_assert_int_eq(memcmp(up->name, "..", 2), 0);
    return up->ino;
}

static fuse_req_t reading_from_the_start(uint64_t dir)
{
    fuse_req_t q = request(300);
    struct fuse_file_info fi = {.fh = 1};
    ops_readdir(q, dir, 4096, 0, &fi);
    return q;
}

/* As after a worker's death: nobody has told this one where the directory lies. */
START_TEST(unknown_parent_is_asked_for_once)
{
    const uint64_t hash[] = {10};
    fuse_req_t q = reading_from_the_start(50);
    ck_assert_uint_eq(w.read[0]->method, METHOD_LOOKUP);
    answer_lookup(attr_of(77, S_IFDIR | 0755, 1));
    answer_read(0, &listing_of(hash, 1, true)->reply.base);
    ck_assert_uint_eq(dotdot_of(q), 77);
    free(q);
    changed(50);
    q = reading_from_the_start(50);
    ck_assert_uint_eq(w.read[0]->method, METHOD_READDIR);
    answer_read(0, &listing_of(hash, 1, true)->reply.base);
    ck_assert_uint_eq(dotdot_of(q), 77);
    free(q);
}
END_TEST

START_TEST(a_rename_knows_the_parent_better_than_a_late_answer)
{
    const uint64_t hash[] = {10};
    fuse_req_t q = reading_from_the_start(50);
    names_set_parent(w.client.ops->names, 50, 78);
    answer_lookup(attr_of(77, S_IFDIR | 0755, 1));
    answer_read(0, &listing_of(hash, 1, true)->reply.base);
    ck_assert_uint_eq(dotdot_of(q), 78);
    free(q);
}
END_TEST

START_TEST(removed_directory_is_its_own_parent)
{
    fuse_req_t q = reading_from_the_start(50);
    answer_read(-ENOENT, NULL);
    answer_read(0, &listing_of(NULL, 0, true)->reply.base);
    ck_assert_uint_eq(dotdot_of(q), 50);
    free(q);
    q = reading_from_the_start(ROOT);
    ck_assert_uint_eq(w.read[0]->method, METHOD_READDIR);
    answer_read(0, &listing_of(NULL, 0, true)->reply.base);
    ck_assert_uint_eq(dotdot_of(q), ROOT);
    free(q);
}
END_TEST

/* Reads directory 50 through a handle of its own; says whether the server was asked. */
static bool asked_for(bool plus, unsigned entries, bool end)
{
    const uint64_t hash[] = {10, 20, 30};
    static uint64_t fh = 100;
    unsigned before = w.reads_started;
    fuse_req_t q = reading(++fh, 4096, 0, plus);
    bool asked = w.reads_started != before;
    if (asked) {
        answer_read(0, &listing_of(hash, entries, end)->reply.base);
    }
    ck_assert(q->answered);
    if (!plus) {
        uint64_t last = 0;
        ck_assert_uint_eq(count_entries(q, &last), entries + 2);
    }
    free(q);
    struct fuse_file_info fi = {.fh = fh};
    q = request(301);
    ops_releasedir(q, 50, &fi);
    free(q);
    return asked;
}

START_TEST(unchanged_directory_is_read_again_without_asking)
{
    ck_assert(asked_for(true, 2, true));
    ck_assert(!asked_for(true, 2, true));
    ck_assert(!asked_for(false, 2, true));
    changed(50);
    ck_assert(asked_for(false, 3, true));
    ck_assert(!asked_for(false, 3, true));
    ck_assert(asked_for(true, 3, true)); /* it came without attributes */
    ck_assert(!asked_for(true, 3, true));
    names_change_begin(w.client.ops->names, 50);
    ck_assert(asked_for(false, 3, true)); /* as the change may have been carried out */
    names_change_end(w.client.ops->names, 50);
    ck_assert(asked_for(false, 2, true));
}
END_TEST

START_TEST(attributes_that_are_not_known_any_more_are_asked_for)
{
    ck_assert(asked_for(true, 2, true));
    itable_find(w.client.itable, 201)->attr_valid = false;
    ck_assert(!asked_for(false, 2, true));
    ck_assert(asked_for(true, 2, true));
    ck_assert(!asked_for(true, 2, true));
}
END_TEST

START_TEST(part_of_a_directory_is_not_kept)
{
    ck_assert(asked_for(false, 3, false));
    ck_assert(asked_for(false, 3, false));
}
END_TEST

START_TEST(kept_listings_are_bounded)
{
    const uint64_t hash[] = {10};
    ck_assert(asked_for(false, 2, true));
    for (uint64_t dir = 1000; dir < 1000 + OPS_LISTINGS_KEPT; dir++) {
        names_set_parent(w.client.ops->names, dir, ROOT);
        fuse_req_t q = reading_from_the_start(dir);
        answer_read(0, &listing_of(hash, 1, true)->reply.base);
        free(q);
    }
    unsigned before = w.reads_started;
    free(reading_from_the_start(1001));
    ck_assert_uint_eq(w.reads_started, before);
    ck_assert(asked_for(false, 2, true));
}
END_TEST

/* ---- lookups that ask: the directory is listed beside them ---- */

/* Looks up a name of directory 50 that the server does not have; the lookup's own question is
 * answered, that of a listing, if there is one, is left. Whether there was a question for the name.
 */
static bool missed(const char *name)
{
    fuse_req_t q = request(400);
    unsigned before = w.reads;
    ops_lookup(q, 50, name);
    const bool asked = w.reads > before && w.read[before]->method == METHOD_LOOKUP;
    if (asked) {
        struct session_read *listing = w.reads > before + 1 ? w.read[--w.reads] : NULL;
        answer_read(-ENOENT, NULL);
        if (listing != NULL) {
            w.read[w.reads++] = listing;
        }
    }
    ck_assert(q->answered);
    ck_assert_uint_eq(q->entry.ino, 0);
    free(q);
    return asked;
}

static uint64_t found(const char *name)
{
    fuse_req_t q = request(401);
    ops_lookup(q, 50, name);
    ck_assert(q->answered);
    uint64_t ino = q->entry.ino;
    free(q);
    return ino;
}

static void miss_until_listing(void)
{
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_uint_eq(w.reads, 0);
        ck_assert(missed("nope"));
    }
    ck_assert_uint_eq(w.reads, 1);
    ck_assert_uint_eq(w.read[0]->method, METHOD_READDIR);
}

START_TEST(lookups_that_ask_make_the_directory_known_whole)
{
    const uint64_t hash[] = {10, 20, 30};
    miss_until_listing();
    answer_read(0, &listing_of(hash, 3, false)->reply.base);
    ck_assert_uint_eq(found("n01"), 201);
    ck_assert(missed("nope")); /* not whole yet; goes on listing */
    ck_assert_uint_eq(w.reads, 1);
    answer_read(0, &listing_of(NULL, 0, true)->reply.base);
    ck_assert(!missed("nope"));
    ck_assert(!missed("n03"));
    ck_assert(!missed(".gitignore"));
    ck_assert_uint_eq(found("n02"), 202);
}
END_TEST

START_TEST(name_made_beside_the_listing_stays_and_one_removed_stays_away)
{
    const uint64_t hash[] = {10, 20, 30};
    miss_until_listing();
    struct session_read *listing = w.read[--w.reads];
    fuse_req_t q = request(402);
    ops_mkdir(q, 50, "made", 0755);
    Cfs__Attr made = attr_of(300, S_IFDIR | 0755, 1);
    answer_attr(&made);
    free(q);
    q = request(403);
    ops_unlink(q, 50, "n00");
    answer_status(0);
    free(q);
    w.read[w.reads++] = listing;
    answer_read(0, &listing_of(hash, 3, true)->reply.base); /* from before both */
    ck_assert_uint_eq(found("made"), 300);
    ck_assert(!missed("n00"));
    ck_assert_uint_eq(found("n01"), 201);
}
END_TEST

/* Only beside a caller that was killed: else the kernel does one after the other. */
START_TEST(absence_is_not_kept_when_the_directory_has_changed_since)
{
    fuse_req_t q = request(404);
    ops_lookup(q, 50, "nope");
    changed(50);
    answer_read(-ENOENT, NULL);
    ck_assert(q->answered && q->entry.ino == 0);
    ck_assert(q->entry.entry_timeout <= 0.0);
    free(q);
    q = request(405);
    ops_lookup(q, 50, "nope");
    answer_read(-ENOENT, NULL);
    ck_assert(q->entry.entry_timeout > 1.0);
    free(q);
}
END_TEST

START_TEST(listing_that_fails_leaves_the_lookups_asking)
{
    miss_until_listing();
    answer_read(-EIO, NULL);
    ck_assert(missed("nope"));
    ck_assert_uint_eq(w.reads, 0);
    for (unsigned i = 0; i < 31; i++) {
        ck_assert_uint_eq(w.reads, 0);
        ck_assert(missed("nope"));
    }
    ck_assert_uint_eq(w.reads, 1); /* another try after eight times as many */
    const uint64_t bad[] = {20, 10};
    answer_read(0, &listing_of(bad, 2, true)->reply.base);
    ck_assert(missed("n00"));
}
END_TEST

/* The caller of a change is killed, so another may change the same name beside it. */
START_TEST(name_removed_beside_the_change_of_a_killed_caller_stays_away)
{
    fuse_req_t made = request(410);
    ops_mknod(made, 50, "n00", S_IFIFO | 0644, 0);
    made->r.fatal = true;
    fuse_req_t removed = request(411);
    ops_unlink(removed, 50, "n00");
    Cfs__Attr attr = attr_of(200, S_IFIFO | 0644, 1);
    answer_attr(&attr);
    answer_status(0);
    ck_assert(made->answered && removed->answered);
    free(made);
    free(removed);
    ck_assert(missed("n00"));
}
END_TEST

START_TEST(listing_begun_beside_a_removal_does_not_bring_the_name_back)
{
    const uint64_t hash[] = {10, 20};
    fuse_req_t removed = request(411);
    ops_unlink(removed, 50, "n00");
    removed->r.fatal = true;
    miss_until_listing();
    answer_read(0, &listing_of(hash, 2, true)->reply.base); /* from before the removal */
    answer_status(0);
    ck_assert(removed->answered);
    free(removed);
    (void)missed("n00");
    ck_assert_uint_eq(found("n01"), 201);
}
END_TEST

/* With -o deadline: who made the name was told EIO, and the server may make it at any time. */
START_TEST(directory_of_a_command_given_up_is_not_known_before_its_answer)
{
    const uint64_t hash[] = {10, 20};
    fuse_req_t q = request(412);
    ops_mkdir(q, 50, "late", 0755);
    struct command *cmd = w.command[--w.commands];
    const uint64_t seq = cmd->seq;
    cmd->rc = ERR_DEADLINE;
    cmd->on_done(cmd);
    ck_assert_int_eq(q->error, EIO);
    free(q);
    miss_until_listing();
    answer_read(0, &listing_of(hash, 2, true)->reply.base); /* from before it is made */
    q = request(413);
    ops_lookup(q, 50, "late");
    answer_read(-ENOENT, NULL);
    ck_assert(q->answered && q->entry.entry_timeout <= 0.0);
    free(q);
    ck_assert(asked_for(false, 2, true));
    ops_late(w.client.ops, seq + 1);
    ck_assert(missed("late"));
    ops_late(w.client.ops, seq);
    ck_assert(missed("late"));
    q = request(414);
    ops_lookup(q, 50, "late");
    answer_lookup(attr_of(300, S_IFDIR | 0755, 1));
    ck_assert(q->entry.ino == 300 && q->entry.entry_timeout > 0.0);
    free(q);
    ck_assert(asked_for(false, 3, true));
    ck_assert(!missed("nope"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ops_dir");
    TCase *c = tcase_create("ops_dir");
    tcase_add_checked_fixture(c, world_setup, world_teardown);
    tcase_add_test(c, entries_of_one_hash_never_straddle_a_reply);
    tcase_add_test(c, position_of_an_earlier_worker_is_fetched_again);
    tcase_add_test(c, unknown_parent_is_asked_for_once);
    tcase_add_test(c, a_rename_knows_the_parent_better_than_a_late_answer);
    tcase_add_test(c, removed_directory_is_its_own_parent);
    tcase_add_test(c, listed_entry_carries_attributes_only_if_nothing_changed);
    tcase_add_test(c, listing_out_of_order_is_refused);
    tcase_add_test(c, unchanged_directory_is_read_again_without_asking);
    tcase_add_test(c, attributes_that_are_not_known_any_more_are_asked_for);
    tcase_add_test(c, part_of_a_directory_is_not_kept);
    tcase_add_test(c, kept_listings_are_bounded);
    tcase_add_test(c, lookups_that_ask_make_the_directory_known_whole);
    tcase_add_test(c, name_made_beside_the_listing_stays_and_one_removed_stays_away);
    tcase_add_test(c, listing_that_fails_leaves_the_lookups_asking);
    tcase_add_test(c, name_removed_beside_the_change_of_a_killed_caller_stays_away);
    tcase_add_test(c, listing_begun_beside_a_removal_does_not_bring_the_name_back);
    tcase_add_test(c, directory_of_a_command_given_up_is_not_known_before_its_answer);
    tcase_add_test(c, absence_is_not_kept_when_the_directory_has_changed_since);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
