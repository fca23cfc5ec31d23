#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "base/mountinfo.h"
#include "fuse/control.h"
#include "fuse/mountopts.h"

static struct mountopts parsed;
static char why[MOUNTOPTS_TEXT_MAX];

/* Splits at blanks, as a shell would. */
static int parse(const char *line)
{
    static char text[16384];
    char *argv[32] = {"mount.cfs"}, *rest = text;
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    while (rest && argc < 32) {
        char *word = strsep(&rest, " ");
        if (*word) {
            argv[argc++] = word;
        }
    }
    why[0] = 0;
    return mountopts_parse(argc, argv, &parsed, why);
}

START_TEST(plain_mount_gets_the_defaults)
{
    ck_assert_int_eq(parse("host:7000:/ /mnt/cfs"), 0);
    ck_assert_str_eq(parsed.addresses, "host:7000");
    ck_assert_str_eq(parsed.path, "/");
    ck_assert_str_eq(parsed.mount_point, "/mnt/cfs");
    ck_assert_str_eq(parsed.source, "host:7000:/");
    ck_assert_uint_eq(parsed.memory_bytes, 512u << 20);
    ck_assert_uint_eq(parsed.deadline_ms, 0);
    ck_assert_uint_eq(parsed.flags, 0);
    ck_assert(!parsed.foreground);
}
END_TEST

START_TEST(several_servers_and_a_directory_are_told_apart)
{
    ck_assert_int_eq(parse("a:1,[::1]:2,10.0.0.1:3:/x/y:/z /m"), 0);
    ck_assert_str_eq(parsed.addresses, "a:1,[::1]:2,10.0.0.1:3");
    ck_assert_str_eq(parsed.path, "/x/y:/z");
}
END_TEST

START_TEST(options_of_mount_and_of_cfs_are_taken_in_any_place)
{
    ck_assert_int_eq(parse("-o ro,nosuid h:1:/ -o deadline=7,memory=64M /m -n -s -v -f "
                           "-onoatime,_netdev,nofail,user,x-systemd.automount -t fuse.cfs"),
                     0);
    ck_assert_uint_eq(parsed.flags, MS_RDONLY | MS_NOSUID | MS_NOATIME);
    ck_assert_uint_eq(parsed.deadline_ms, 7000);
    ck_assert_uint_eq(parsed.memory_bytes, 64u << 20);
    ck_assert(parsed.foreground && parsed.verbose && parsed.noatime);
    ck_assert_int_eq(parse("h:1:/ /m -o run_dir=/r/1,log=/l,ro,rw"), 0);
    ck_assert_str_eq(parsed.run_dir, "/r/1");
    ck_assert_str_eq(parsed.log, "/l");
    ck_assert_uint_eq(parsed.flags & MS_RDONLY, 0);
}
END_TEST

START_TEST(what_is_wrong_is_refused_with_one_line_that_names_it)
{
    static const char *const WRONG[][2] = {
        {"", "must both be given"},
        {"h:1:/", "must both be given"},
        {"h:1 /m", "h:1"},
        {"h:/ /m", "HOST:PORT"},
        {":/ /m", "HOST:PORT"},
        {"h:1,:/ /m", "HOST:PORT"},
        {"h:1:/ /m more", "more"},
        {"h:1:/ /m -o colour=red", "colour"},
        {"h:1:/ /m -o blue", "blue"},
        {"h:1:/ /m -o remount", "unmount it"},
        {"h:1:/ /m -o memory=1M", "at least 64M"},
        {"h:1:/ /m -o memory=99999999999T", "memory"},
        {"h:1:/ /m -o memory=512Mx", "memory"},
        {"h:1:/ /m -o memory=-1", "memory"},
        {"h:1:/ /m -o deadline=0", "deadline"},
        {"h:1:/ /m -o deadline=x", "deadline"},
        {"h:1:/ /m -o", "needs a value"},
        {"h:1:/ /m -q", "-q"},
    };
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        ck_assert_msg(parse(WRONG[i][0]) == -EINVAL, "accepted: %s", WRONG[i][0]);
        ck_assert_msg(strstr(why, WRONG[i][1]) != NULL, "%s: %s", WRONG[i][0], why);
        ck_assert_ptr_null(strchr(why, '\n'));
    }
}
END_TEST

START_TEST(overlong_arguments_are_refused)
{
    static char line[16384];
    memset(line, 'a', 5000);
    strcpy(line + 5000, ":1:/ /m");
    ck_assert_int_eq(parse(line), -EINVAL);
    strcpy(line, "h:1:/ /m -o run_dir=");
    memset(line + 20, 'a', 4096);
    line[4116] = 0;
    ck_assert_int_eq(parse(line), -EINVAL);
    strcpy(line, "h:1:/ /m -o ");
    memset(line + 12, 'a', 13000);
    line[13012] = 0;
    ck_assert_int_eq(parse(line), -EINVAL);
}
END_TEST

START_TEST(a_control_line_is_one_of_three_commands_or_none)
{
    static const struct {
        const char *line;
        enum control_verb verb;
        const char *argument;
    } LINES[] = {
        {"status\n", CONTROL_STATUS, ""},     {"pids", CONTROL_PIDS, ""},
        {"upgrade\r\n", CONTROL_UPGRADE, ""}, {"upgrade /a b\nstatus\n", CONTROL_UPGRADE, "/a b"},
        {"upgraded", CONTROL_UNKNOWN, ""},    {"status ", CONTROL_UNKNOWN, ""},
        {"\nstatus", CONTROL_UNKNOWN, ""},    {"", CONTROL_UNKNOWN, ""}};
    for (size_t i = 0; i < sizeof LINES / sizeof LINES[0]; i++) {
        char line[64];
        const char *argument = NULL;
        snprintf(line, sizeof line, "%s", LINES[i].line);
        ck_assert_int_eq(control_parse(line, &argument), LINES[i].verb);
        ck_assert_str_eq(argument, LINES[i].argument);
    }
}
END_TEST

START_TEST(escapes_of_mountinfo_are_undone_and_others_stay)
{
    static const char *const TEXTS[][2] = {
        {"/a\\040b\\134", "/a b\\"}, {"\\1", "\\1"},     {"\\04", "\\04"},
        {"\\ 40x", "\\ 40x"},        {"\\089", "\\089"}, {"\\", "\\"}};
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        char text[32];
        snprintf(text, sizeof text, "%s", TEXTS[i][0]);
        mountinfo_unescape(text);
        ck_assert_str_eq(text, TEXTS[i][1]);
    }
}
END_TEST

START_TEST(line_of_mountinfo_is_taken_or_refused)
{
    static struct mount_entry e;
    ck_assert(mountinfo_take(
        "36 35 0:57 / /mnt/a\\040b rw,nosuid shared:1 - fuse.cfs h:1,g:2:/s rw\n", &e));
    ck_assert_uint_eq(e.major, 0);
    ck_assert_uint_eq(e.minor, 57);
    ck_assert_str_eq(e.where, "/mnt/a b");
    ck_assert_str_eq(e.type, "fuse.cfs");
    ck_assert_str_eq(e.source, "h:1,g:2:/s");
    ck_assert(!mountinfo_take("36 35 0:57 / /mnt rw fuse.cfs h:1:/ rw", &e));
    ck_assert(!mountinfo_take("36 35 0 / /mnt rw - fuse.cfs h:1:/ rw", &e));
    ck_assert(!mountinfo_take("", &e));
}
END_TEST

static bool is_root(const struct mount_entry *e, const void *ctx)
{
    return strcmp(e->where, ctx) == 0;
}

START_TEST(mounts_of_a_process_are_found)
{
    static struct mount_entry e;
    ck_assert(mountinfo_find("self", is_root, "/", &e));
    ck_assert_str_eq(e.where, "/");
    ck_assert(!mountinfo_find("self", is_root, "/nowhere", &e));
    ck_assert(!mountinfo_find("nobody", is_root, "/", &e));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mountopts");
    TCase *tc = tcase_create("mountopts");
    tcase_add_test(tc, plain_mount_gets_the_defaults);
    tcase_add_test(tc, several_servers_and_a_directory_are_told_apart);
    tcase_add_test(tc, options_of_mount_and_of_cfs_are_taken_in_any_place);
    tcase_add_test(tc, what_is_wrong_is_refused_with_one_line_that_names_it);
    tcase_add_test(tc, overlong_arguments_are_refused);
    tcase_add_test(tc, a_control_line_is_one_of_three_commands_or_none);
    tcase_add_test(tc, escapes_of_mountinfo_are_undone_and_others_stay);
    tcase_add_test(tc, line_of_mountinfo_is_taken_or_refused);
    tcase_add_test(tc, mounts_of_a_process_are_found);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
