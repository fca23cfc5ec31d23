/* cfs-local's memory of a cluster and its handling of processes. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/cluster.h"
#include "tools/local.h"
#include "tools/proc.h"

static char dir[] = "/tmp/cfs-test-local.XXXXXX";

/* Comes back when it is another program: before that it has libcheck's handler for SIGTERM. */
static struct proc sleeper(void)
{
    int ends[2];
    char byte;
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        execlp("sleep", "sleep", "60", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &byte, 1), 0);
    close(ends[0]);
    struct proc p;
    ck_assert_int_eq(proc_look(pid, &p), 0);
    return p;
}

START_TEST(settings_survive)
{
    struct local l, back;
    ck_assert_int_eq(local_init(&l, dir), 0);
    l.n_chunks = 9;
    l.size = 123456789012;
    l.meta_port[1] = 12345;
    l.chunk_port[9] = 23456;
    snprintf(l.policy, sizeof l.policy, "5+3");
    snprintf(l.meta_dir, sizeof l.meta_dir, "/else where/meta");
    ck_assert_int_eq(local_save(&l), 0);
    ck_assert_int_eq(local_init(&back, dir), 0);
    ck_assert_int_eq(local_load(&back), 0);
    ck_assert_uint_eq(back.n_chunks, 9);
    ck_assert_uint_eq(back.size, 123456789012);
    ck_assert_uint_eq(back.meta_port[1], 12345);
    ck_assert_uint_eq(back.chunk_port[9], 23456);
    ck_assert_str_eq(back.policy, "5+3");
    ck_assert_str_eq(back.meta_dir, "/else where/meta");
}
END_TEST

START_TEST(a_file_of_somebody_else_is_refused)
{
    struct local l;
    char path[LOCAL_PATH + 1024];
    ck_assert_int_eq(local_init(&l, dir), 0);
    local_path(&l, path, "cluster.conf");
    FILE *f = fopen(path, "w");
    fputs("meta=1\nchunkservers=6\n", f);
    fclose(f);
    ck_assert_int_eq(local_load(&l), -EINVAL);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(local_load(&l), -ENOENT);
}
END_TEST

START_TEST(names_are_parsed_and_bounded)
{
    struct local l;
    struct local_name n;
    ck_assert_int_eq(local_init(&l, dir), 0);
    ck_assert(local_parse_name(&l, "chunk6", &n) && n.kind == LOCAL_CHUNK && n.number == 6);
    ck_assert(local_parse_name(&l, "meta1", &n) && n.kind == LOCAL_META);
    ck_assert(local_parse_name(&l, "holder2", &n) && n.kind == LOCAL_HOLDER && n.number == 2);
    static const char *const BAD[] = {"chunk7", "chunk0", "chunk",   "chunk1x",         "meta2",
                                      "",       "1",      "chunk-1", "mount99999999999"};
    for (unsigned i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        ck_assert_msg(!local_parse_name(&l, BAD[i], &n), "%s", BAD[i]);
    }
}
END_TEST

START_TEST(a_recycled_pid_is_not_taken_for_ours)
{
    char path[128];
    snprintf(path, sizeof path, "%s/p.pid", dir);
    struct proc p = sleeper(), other = p, found;
    other.start += 1; /* as if the id had been given to another process */
    ck_assert_int_eq(proc_write_file(path, &other), 0);
    ck_assert_int_eq(proc_read_file(path, "sleep", &found), -ESRCH);
    ck_assert_int_eq(proc_signal(&other, SIGKILL), -ESRCH);
    ck_assert(proc_alive(&p));
    ck_assert_int_eq(proc_write_file(path, &p), 0);
    ck_assert_int_eq(proc_read_file(path, "sleep", &found), 0);
    ck_assert_int_eq(found.pid, p.pid);
    ck_assert_int_eq(proc_end(&p, 2000), 0);
    ck_assert(!proc_alive(&p));
    ck_assert_int_eq(proc_read_file(path, "sleep", &found), -ESRCH);
    unlink(path);
}
END_TEST

START_TEST(a_pid_without_start_time_is_believed_of_the_right_program_only)
{
    char path[128];
    snprintf(path, sizeof path, "%s/q.pid", dir);
    struct proc p = sleeper(), found;
    for (int i = 0; i < 200 && proc_read_file(path, "sleep", &found) != 0;
         i++) { /* until it has become sleep */
        FILE *f = fopen(path, "w");
        fprintf(f, "%d\n", (int)p.pid);
        fclose(f);
        usleep(10000);
    }
    ck_assert_int_eq(found.pid, p.pid);
    ck_assert_int_eq(proc_read_file(path, "cfs-meta", &found), -ESRCH);
    ck_assert_int_eq(proc_end(&p, 2000), 0);
    unlink(path);
}
END_TEST

START_TEST(a_program_that_cannot_run_is_told)
{
    char log[128];
    snprintf(log, sizeof log, "%s/x.log", dir);
    char none[] = "/no/such/program", false_path[] = "/bin/false", sleep_path[] = "/bin/sleep",
         ten[] = "10";
    char *missing[] = {none, NULL}, *fails[] = {false_path, NULL},
         *slow[] = {sleep_path, ten, NULL};
    struct proc p;
    ck_assert_int_eq(proc_spawn(missing, log, &p), -ENOENT);
    ck_assert_int_eq(proc_run(missing, log, 1000), -ENOENT);
    ck_assert_int_eq(proc_run(fails, log, 1000), 1);
    ck_assert_int_eq(proc_run(slow, log, 50), -ETIMEDOUT);
    unlink(log);
}
END_TEST

START_TEST(a_stubborn_process_is_killed)
{
    char log[128], sh[] = "/bin/sh", c[] = "-c",
                   script[] = "trap '' TERM; while :; do sleep 0.05; done";
    char *argv[] = {sh, c, script, NULL};
    snprintf(log, sizeof log, "%s/y.log", dir);
    struct proc p;
    ck_assert_int_eq(proc_spawn(argv, log, &p), 0);
    usleep(100000);
    ck_assert_int_eq(proc_end(&p, 200), 0);
    ck_assert(!proc_alive(&p));
    unlink(log);
}
END_TEST

START_TEST(the_cluster_is_found_in_the_documented_order)
{
    char out[CLUSTER_ADDRESSES];
    setenv("CFS_CLUSTER", "b:2", 1);
    ck_assert_int_eq(cluster_find("a:1", out), 0);
    ck_assert_str_eq(out, "a:1");
    ck_assert_int_eq(cluster_find(NULL, out), 0);
    ck_assert_str_eq(out, "b:2");
    unsetenv("CFS_CLUSTER");
    struct cluster_mount m;
    ck_assert_int_eq(cluster_mount_of("/proc", &m), -ENODEV);
    ck_assert_int_eq(cluster_mount_of("/no/such", &m), -ENOENT);
}
END_TEST

/* Only where it was mounted is it known to its client: cfs client upgrade asks there. */
START_TEST(a_bind_mount_is_not_taken_for_the_mount)
{
    static struct cluster_mount m;
    char folder[] = "/tmp/cm.XXXXXX", path[64], process[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/mountinfo", folder);
    snprintf(process, sizeof process, "..%s", folder); /* in the place of /proc/PID */
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs("30 29 0:5 / /dev rw - devtmpfs udev rw\n"
          "36 35 0:57 / /mnt/a rw - fuse.cfs h:1:/ rw\n"
          "37 35 0:58 / /mnt/b rw - fuse.cfs h:2:/ rw\n"
          "38 35 0:57 /sub /srv rw - fuse.cfs h:1:/ rw\n",
          f);
    ck_assert_int_eq(fclose(f), 0);
    ck_assert_int_eq(cluster_mount_on(process, makedev(0, 57), &m), 0);
    ck_assert_str_eq(m.where, "/mnt/a");
    ck_assert_str_eq(m.addresses, "h:1");
    ck_assert_int_eq(cluster_mount_on(process, makedev(0, 58), &m), 0);
    ck_assert_str_eq(m.where, "/mnt/b");
    ck_assert_int_eq(cluster_mount_on(process, makedev(0, 5), &m), -ENODEV);
    unlink(path);
    rmdir(folder);
}
END_TEST

int main(void)
{
    if (mkdtemp(dir) == NULL) {
        return EXIT_FAILURE;
    }
    Suite *s = suite_create("local");
    TCase *t = tcase_create("local");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, settings_survive);
    tcase_add_test(t, a_file_of_somebody_else_is_refused);
    tcase_add_test(t, names_are_parsed_and_bounded);
    tcase_add_test(t, a_recycled_pid_is_not_taken_for_ours);
    tcase_add_test(t, a_pid_without_start_time_is_believed_of_the_right_program_only);
    tcase_add_test(t, a_program_that_cannot_run_is_told);
    tcase_add_test(t, a_stubborn_process_is_killed);
    tcase_add_test(t, the_cluster_is_found_in_the_documented_order);
    tcase_add_test(t, a_bind_mount_is_not_taken_for_the_mount);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    rmdir(dir);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
