#include "store/disk.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/disk_posix.h"
#include "test/lib/disk_mem.h"

/* Both sides of the seam keep the same promises: the first group runs on both. */
static char *dir;
static uint8_t block[8192] __attribute__((aligned(4096)));

static struct disk *open_disk(int side)
{
    if (side == 0) {
        return disk_mem_new(1 << 20);
    }
    char template[] = "/tmp/cfs-test-disk-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(template));
    dir = xstrdup(template);
    struct disk *d = NULL;
    ck_assert_int_eq(disk_posix_open(dir, &d), 0);
    return d;
}

static void close_disk(struct disk *d)
{
    d->ops->close(d);
    if (dir != NULL) {
        char *command = xasprintf("rm -rf %s", dir);
        ck_assert_int_eq(system(command), 0);
        free(command);
        free(dir);
        dir = NULL;
    }
}

static struct disk_file *make(struct disk *d, const char *path)
{
    struct disk_file *f = NULL;
    int rc = d->ops->open(d, path, DISK_CREATE | DISK_EXCLUSIVE | DISK_DIRECT, &f);
    ck_assert_int_eq(rc, 0);
    return f;
}

static int write_byte(struct disk_file *f, uint8_t value, uint64_t at)
{
    memset(block, value, sizeof block);
    struct iovec iov[2] = {{block, 4096}, {block + 4096, 4096}};
    return f->ops->write(f, iov, 2, at);
}

static void assert_byte(struct disk_file *f, int value, uint64_t at)
{
    ck_assert_int_eq(f->ops->read(f, block, sizeof block, at), 0);
    for (unsigned i = 0; i < sizeof block; i++) {
        ck_assert_int_eq(block[i], value);
    }
}

START_TEST(what_is_written_is_read_and_past_the_end_is_no_data)
{
    struct disk *d = open_disk(_i);
    struct disk_file *f = make(d, "a");
    ck_assert_int_eq(write_byte(f, 7, 0), 0);
    ck_assert_int_eq(write_byte(f, 8, 16384), 0);
    ck_assert_int_eq(f->ops->sync(f), 0);
    assert_byte(f, 7, 0);
    assert_byte(f, 0, 8192);
    assert_byte(f, 8, 16384);
    ck_assert_int_eq(f->ops->read(f, block, 8192, 20480), -ENODATA);
    f->ops->file_close(f);
    close_disk(d);
}
END_TEST

START_TEST(allocated_blocks_read_zero_and_punched_ones_come_back)
{
    struct disk *d = open_disk(_i);
    struct disk_file *f = make(d, "a");
    uint64_t size = 0, allocated = 0;
    ck_assert_int_eq(f->ops->allocate(f, 0, 65536), 0);
    assert_byte(f, 0, 0);
    ck_assert_int_eq(write_byte(f, 9, 8192), 0);
    ck_assert_int_eq(f->ops->sync(f), 0);
    ck_assert_int_eq(f->ops->size(f, &size, &allocated), 0);
    ck_assert_uint_eq(size, 65536);
    ck_assert_uint_ge(allocated, 65536);
    ck_assert_int_eq(f->ops->punch(f, 8192, 57344), 0);
    ck_assert_int_eq(f->ops->size(f, &size, &allocated), 0);
    ck_assert_uint_eq(size, 65536);
    ck_assert_uint_le(allocated, 16384);
    assert_byte(f, 0, 8192);
    ck_assert_int_eq(f->ops->truncate(f, 8192), 0);
    ck_assert_int_eq(f->ops->read(f, block, 8192, 8192), -ENODATA);
    f->ops->file_close(f);
    close_disk(d);
}
END_TEST

static void count(const char *name, void *ctx)
{
    (void)name;
    ++*(unsigned *)ctx;
}

START_TEST(names_are_made_renamed_listed_and_removed)
{
    struct disk *d = open_disk(_i);
    struct disk_file *f = NULL;
    unsigned n = 0;
    ck_assert_int_eq(d->ops->make_dir(d, "sub"), 0);
    ck_assert_int_eq(d->ops->make_dir(d, "sub"), 0);
    ck_assert_int_eq(d->ops->open(d, "sub/x", 0, &f), -ENOENT);
    f = make(d, "sub/x");
    f->ops->file_close(f);
    ck_assert_int_eq(d->ops->open(d, "sub/x", DISK_CREATE | DISK_EXCLUSIVE, &f), -EEXIST);
    ck_assert_int_eq(d->ops->rename(d, "sub/x", "sub/y"), 0);
    ck_assert_int_eq(d->ops->sync_dir(d, "sub"), 0);
    ck_assert_int_eq(d->ops->list(d, "sub", count, &n), 0);
    ck_assert_uint_eq(n, 1);
    ck_assert_int_eq(d->ops->unlink(d, "sub/y"), 0);
    ck_assert_int_eq(d->ops->unlink(d, "sub/y"), -ENOENT);
    close_disk(d);
}
END_TEST

START_TEST(space_is_reported_with_a_sane_alignment)
{
    struct disk *d = open_disk(_i);
    struct disk_space space;
    ck_assert_int_eq(d->ops->space(d, &space), 0);
    ck_assert_uint_ge(space.total_bytes, space.free_bytes);
    ck_assert_uint_ne(space.filesystem, 0);
    ck_assert(space.align_bytes == 512 || space.align_bytes == 1024 || space.align_bytes == 2048 ||
              space.align_bytes == 4096);
    close_disk(d);
}
END_TEST

START_TEST(missing_root_is_refused)
{
    struct disk *d = NULL;
    ck_assert_int_eq(disk_posix_open("/tmp/cfs-test-disk-absent", &d), -ENOENT);
    ck_assert_int_eq(disk_posix_open("/proc/version", &d), -ENOTDIR);
    ck_assert_ptr_null(d);
}
END_TEST

START_TEST(crash_forgets_what_was_not_synced)
{
    struct disk *d = open_disk(0);
    struct disk_file *f = make(d, "a");
    ck_assert_int_eq(d->ops->sync_dir(d, "."), 0);
    ck_assert_int_eq(write_byte(f, 1, 0), 0);
    ck_assert_int_eq(f->ops->sync(f), 0);
    ck_assert_int_eq(write_byte(f, 2, 0), 0);
    ck_assert_int_eq(write_byte(f, 3, 8192), 0);
    struct disk_file *g = make(d, "never synced");
    g->ops->file_close(g);
    disk_mem_crash(d, 1, 0);
    assert_byte(f, 1, 0);
    ck_assert_int_eq(f->ops->read(f, block, 8192, 8192), -ENODATA);
    ck_assert_int_eq(d->ops->open(d, "never synced", 0, &g), -ENOENT);
    f->ops->file_close(f);
    close_disk(d);
}
END_TEST

START_TEST(crash_in_between_tears_by_sectors)
{
    struct disk *d = open_disk(0);
    struct disk_file *f = make(d, "a");
    ck_assert_int_eq(d->ops->sync_dir(d, "."), 0);
    ck_assert_int_eq(write_byte(f, 1, 0), 0);
    ck_assert_int_eq(f->ops->sync(f), 0);
    ck_assert_int_eq(write_byte(f, 2, 0), 0);
    disk_mem_crash(d, 1, 50);
    unsigned seen[3] = {0};
    ck_assert_int_eq(f->ops->read(f, block, 8192, 0), 0);
    for (unsigned i = 0; i < 8192; i += 512) {
        ck_assert_uint_eq(block[i], block[i + 511]);
        seen[block[i]]++;
    }
    ck_assert(seen[1] > 0 && seen[2] > 0 && seen[0] == 0);
    f->ops->file_close(f);
    close_disk(d);
}
END_TEST

START_TEST(faults_full_disks_and_rot_happen_when_told)
{
    struct disk *d = open_disk(0);
    struct disk_file *f = make(d, "a");
    disk_mem_fault(d, (struct disk_mem_fault){.at = 1, .rc = -EIO});
    ck_assert_int_eq(write_byte(f, 1, 0), 0);
    ck_assert_int_eq(write_byte(f, 2, 0), -EIO);
    ck_assert_int_eq(write_byte(f, 3, 0), 0);
    disk_mem_fault(d, (struct disk_mem_fault){.at = 0, .sticky = true});
    ck_assert_int_eq(f->ops->sync(f), -EIO);
    ck_assert_int_eq(f->ops->sync(f), -EIO);
    ck_assert(disk_mem_fired(d));
    disk_mem_fault(d, (struct disk_mem_fault){.at = -1});
    disk_mem_set_total(d, disk_mem_used(d));
    ck_assert_int_eq(write_byte(f, 4, 0), 0);
    ck_assert_int_eq(write_byte(f, 4, 8192), -ENOSPC);
    ck_assert_int_eq(disk_mem_rot(d, "a", 5, 0x10), 0);
    ck_assert_int_eq(f->ops->read(f, block, 4096, 0), 0);
    ck_assert_int_eq(block[5], 0x14);
    f->ops->file_close(f);
    close_disk(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("disk");
    TCase *both = tcase_create("both sides");
    tcase_add_loop_test(both, what_is_written_is_read_and_past_the_end_is_no_data, 0, 2);
    tcase_add_loop_test(both, allocated_blocks_read_zero_and_punched_ones_come_back, 0, 2);
    tcase_add_loop_test(both, names_are_made_renamed_listed_and_removed, 0, 2);
    tcase_add_loop_test(both, space_is_reported_with_a_sane_alignment, 0, 2);
    suite_add_tcase(s, both);
    TCase *each = tcase_create("each side");
    tcase_add_test(each, missing_root_is_refused);
    tcase_add_test(each, crash_forgets_what_was_not_synced);
    tcase_add_test(each, crash_in_between_tears_by_sectors);
    tcase_add_test(each, faults_full_disks_and_rot_happen_when_told);
    suite_add_tcase(s, each);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
