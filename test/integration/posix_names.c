/* posix_names DIR [CLAIM]: claims about names, attributes, links, permissions and xattrs. */
#define POSIX_MAIN
#include "posix.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

static int touch(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    return fd < 0 ? -1 : close(fd);
}

static int put(const char *path, const char *text)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        return -1;
    }
    return close(fd);
}

static bool holds(const char *path, const char *text)
{
    char got[256] = "";
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, got, sizeof got - 1);
    close(fd);
    return n == (ssize_t)strlen(text) && strcmp(got, text) == 0;
}

static nlink_t links(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 ? st.st_nlink : 0;
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 ? st.st_mode & 07777 : 0;
}

/* Runs `child` as an ordinary user; 0 if it returned NULL. */
static const char *as_nobody(const char *(*child)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        const char *why =
            setgid(65534) == 0 && setuid(65534) == 0 ? child() : "cannot become nobody";
        if (why != NULL) {
            fprintf(stderr, "%s\n", why);
        }
        _exit(why != NULL);
    }
    int status = 0;
    NEED(pid > 0 && waitpid(pid, &status, 0) == pid);
    NEED(status == 0);
    return NULL;
}

static const char *create_exclusive_refuses_existing(void)
{
    int fd = open("f", O_CREAT | O_EXCL | O_RDWR, 0640);
    NEED(fd >= 0);
    NEED(mode_of("f") == 0640);
    REFUSED(open("f", O_CREAT | O_EXCL | O_RDWR, 0640), EEXIST);
    REFUSED(open("none", O_RDWR), ENOENT);
    REFUSED(open("f/g", O_RDWR), ENOTDIR);
    NEED(mkdir("d", 0755) == 0);
    REFUSED(open("d", O_WRONLY), EISDIR);
    REFUSED(open("f", O_DIRECTORY), ENOTDIR);
    NEED(close(fd) == 0);
    return NULL;
}

static const char *umask_counts(void)
{
    umask(077);
    int fd = open("f", O_CREAT | O_WRONLY, 0666);
    NEED(fd >= 0 && mkdir("d", 0777) == 0 && mkfifo("p", 0666) == 0);
    NEED(mode_of("f") == 0600 && mode_of("d") == 0700 && mode_of("p") == 0600);
    umask(022);
    close(fd);
    return NULL;
}

static const char *names_of_255_bytes_and_no_more(void)
{
    char name[300];
    memset(name, 'x', sizeof name);
    name[255] = '\0';
    NEED(touch(name) == 0);
    NEED(links(name) == 1);
    name[255] = 'x';
    name[256] = '\0';
    REFUSED(open(name, O_CREAT | O_WRONLY, 0644), ENAMETOOLONG);
    NEED(touch("a\xff\x01 \n\"b") == 0); /* any byte but / and 0 */
    NEED(links("a\xff\x01 \n\"b") == 1);
    return NULL;
}

static const char *rename_replaces_and_keeps_content(void)
{
    NEED(put("a", "one") == 0 && put("b", "two") == 0);
    NEED(rename("a", "b") == 0);
    NEED(holds("b", "one"));
    REFUSED(rename("a", "c"), ENOENT);
    NEED(rename("b", "b") == 0 && holds("b", "one"));
    NEED(mkdir("d", 0755) == 0 && mkdir("e", 0755) == 0 && touch("e/x") == 0);
    REFUSED(rename("b", "d"), EISDIR);
    REFUSED(rename("d", "b"), ENOTDIR);
    REFUSED(rename("d", "e"), ENOTEMPTY);
    REFUSED(rename("d", "d/x"), EINVAL);
    NEED(unlink("e/x") == 0 && rename("d", "e") == 0);
    NEED(links("e") == 2 && links("d") == 0);
    return NULL;
}

static const char *rename_of_hard_links_of_one_file_does_nothing(void)
{
    NEED(put("a", "x") == 0 && link("a", "b") == 0 && rename("a", "b") == 0);
    NEED(links("a") == 2 && links("b") == 2);
    return NULL;
}

static const char *rename_noreplace(void)
{
    NEED(put("a", "one") == 0 && put("b", "two") == 0);
    REFUSED(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    NEED(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE) == 0);
    NEED(holds("c", "one") && holds("b", "two"));
    return NULL;
}

static const char *rename_exchange(void)
{
    NEED(put("a", "one") == 0 && mkdir("d", 0755) == 0 && mkdir("d/sub", 0755) == 0 &&
         mkdir("e", 0755) == 0);
    NEED(renameat2(AT_FDCWD, "a", AT_FDCWD, "d/sub", RENAME_EXCHANGE) == 0);
    NEED(holds("d/sub", "one"));
    NEED(links("d") == 2 && links("a") == 2);
    REFUSED(renameat2(AT_FDCWD, "a", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
    return NULL;
}

static const char *rename_of_a_directory_moves_its_parent_link(void)
{
    struct stat a, b;
    NEED(mkdir("a", 0755) == 0 && mkdir("b", 0755) == 0 && mkdir("a/d", 0755) == 0);
    NEED(links("a") == 3 && links("b") == 2);
    NEED(rename("a/d", "b/d") == 0);
    NEED(links("a") == 2 && links("b") == 3);
    NEED(stat("b", &a) == 0 && stat("b/d/..", &b) == 0 && a.st_ino == b.st_ino);
    return NULL;
}

static const char *hard_links_count(void)
{
    struct stat a, b;
    NEED(put("a", "x") == 0 && link("a", "b") == 0 && links("a") == 2);
    NEED(stat("a", &a) == 0 && stat("b", &b) == 0 && a.st_ino == b.st_ino);
    REFUSED(link("a", "b"), EEXIST);
    NEED(mkdir("d", 0755) == 0);
    NEED(link("d", "e") == -1 && errno == EPERM);
    NEED(unlink("a") == 0 && links("b") == 1 && holds("b", "x"));
    return NULL;
}

static const char *symlinks(void)
{
    char text[PATH_MAX + 1] = "";
    struct stat st;
    NEED(put("f", "data") == 0 && symlink("f", "l") == 0);
    NEED(readlink("l", text, sizeof text) == 1 && text[0] == 'f');
    NEED(lstat("l", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 1);
    NEED(holds("l", "data"));
    NEED(symlink("nowhere", "m") == 0);
    REFUSED(open("m", O_RDONLY), ENOENT);
    REFUSED(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    NEED(symlink("loop", "loop") == 0);
    REFUSED(open("loop", O_RDONLY), ELOOP);
    memset(text, 'y', 4095);
    text[4095] = '\0';
    NEED(symlink(text, "long") == 0);
    char back[PATH_MAX + 1];
    NEED(readlink("long", back, sizeof back) == 4095);
    return NULL;
}

static const char *directories_must_be_empty_to_go(void)
{
    NEED(mkdir("d", 0755) == 0 && touch("d/f") == 0);
    REFUSED(mkdir("d", 0755), EEXIST);
    REFUSED(rmdir("d"), ENOTEMPTY);
    REFUSED(unlink("d"), EISDIR);
    REFUSED(rmdir("d/f"), ENOTDIR);
    NEED(unlink("d/f") == 0 && rmdir("d") == 0);
    REFUSED(rmdir("d"), ENOENT);
    return NULL;
}

static const char *readdir_shows_each_name_once(void)
{
    enum { FILES = 2500 };
    static char seen[FILES];
    memset(seen, 0, sizeof seen);
    char name[32];
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "file%d", i);
        NEED(touch(name) == 0);
    }
    DIR *d = opendir(".");
    NEED(d != NULL);
    int n = 0, dots = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        int i;
        dots += e->d_name[0] == '.';
        if (sscanf(e->d_name, "file%d", &i) == 1) {
            NEED(seen[i]++ == 0);
            NEED(e->d_type == DT_REG || e->d_type == DT_UNKNOWN);
            n++;
        }
    }
    NEED(n == FILES && dots == 2);
    closedir(d);
    return NULL;
}

static const char *seekdir_survives_deletes(void)
{
    enum { FILES = 1000 };
    char name[32];
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "f%d", i);
        NEED(touch(name) == 0);
    }
    DIR *d = opendir(".");
    NEED(d != NULL);
    int before = 0, after = 0;
    for (int i = 0; i < 300; i++) {
        NEED(readdir(d) != NULL);
    }
    long at = telldir(d);
    for (struct dirent *e; (e = readdir(d)) != NULL; before++) {
    }
    rewinddir(d);
    for (int i = 0; i < 300;
         i++) { /* what was shown before goes; the rest must be shown again, whole */
        struct dirent *e = readdir(d);
        if (e != NULL && e->d_name[0] != '.') {
            NEED(unlink(e->d_name) == 0);
        }
    }
    seekdir(d, at);
    for (struct dirent *e; (e = readdir(d)) != NULL; after++) {
    }
    NEED(before == after);
    closedir(d);
    return NULL;
}

static const char *special_files(void)
{
    struct stat st;
    NEED(mkfifo("p", 0644) == 0 && stat("p", &st) == 0 && S_ISFIFO(st.st_mode));
    NEED(mknod("c", S_IFCHR | 0644, makedev(1, 3)) == 0 && stat("c", &st) == 0);
    NEED(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3));
    NEED(mknod("b", S_IFBLK | 0600, makedev(259, 70000)) == 0 && stat("b", &st) == 0);
    NEED(S_ISBLK(st.st_mode) && st.st_rdev == makedev(259, 70000));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "s"};
    NEED(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && stat("s", &st) == 0 &&
         S_ISSOCK(st.st_mode));
    close(fd);
    int w = open("p", O_RDWR);
    char byte = 0;
    NEED(w >= 0 && write(w, "x", 1) == 1 && read(w, &byte, 1) == 1 && byte == 'x');
    close(w);
    return NULL;
}

static const char *times_have_nanoseconds(void)
{
    struct stat st;
    const struct timespec set[2] = {{1234567890, 123456789}, {987654321, 987654321}};
    NEED(put("f", "x") == 0 && utimensat(AT_FDCWD, "f", set, 0) == 0 && stat("f", &st) == 0);
    NEED(st.st_atim.tv_sec == 1234567890 && st.st_atim.tv_nsec == 123456789);
    NEED(st.st_mtim.tv_sec == 987654321 && st.st_mtim.tv_nsec == 987654321);
    const struct timespec before_1970[2] = {{-5, 5}, {-100000, 999999999}};
    NEED(utimensat(AT_FDCWD, "f", before_1970, 0) == 0 && stat("f", &st) == 0);
    NEED(st.st_mtim.tv_sec == -100000 && st.st_mtim.tv_nsec == 999999999 &&
         st.st_atim.tv_sec == -5);
    const struct timespec omit[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
    NEED(utimensat(AT_FDCWD, "f", omit, 0) == 0 && stat("f", &st) == 0);
    NEED(st.st_atim.tv_sec == -5 && st.st_mtim.tv_sec > 1500000000);
    const struct timespec far[2] = {{15000000000, 0}, {15000000000, 0}}; /* the year 2445: as near as can be */
    NEED(utimensat(AT_FDCWD, "f", far, 0) == 0 && stat("f", &st) == 0);
    NEED(st.st_mtim.tv_sec >= 9223372036 && st.st_mtim.tv_sec <= 15000000000);
    NEED(symlink("f", "l") == 0 && utimensat(AT_FDCWD, "l", set, AT_SYMLINK_NOFOLLOW) == 0);
    NEED(lstat("l", &st) == 0 && st.st_mtim.tv_sec == 987654321);
    return NULL;
}

static bool later(struct timespec a, struct timespec b)
{
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

static const char *changes_move_the_right_times(void)
{
    struct stat d1, d2, f1, f2;
    const struct timespec pause = {.tv_nsec = 20000000};
    NEED(put("f", "x") == 0 && stat(".", &d1) == 0 && stat("f", &f1) == 0);
    nanosleep(&pause, NULL);
    NEED(chmod("f", 0600) == 0 && stat("f", &f2) == 0 && stat(".", &d2) == 0);
    NEED(later(f2.st_ctim, f1.st_ctim) && !later(f2.st_mtim, f1.st_mtim) &&
         !later(d2.st_mtim, d1.st_mtim));
    nanosleep(&pause, NULL);
    NEED(link("f", "g") == 0 && stat("f", &f1) == 0 && stat(".", &d1) == 0);
    NEED(later(f1.st_ctim, f2.st_ctim) && later(d1.st_mtim, d2.st_mtim));
    nanosleep(&pause, NULL);
    NEED(put("f", "yz") == 0 && stat("f", &f2) == 0 && stat(".", &d2) == 0);
    NEED(later(f2.st_mtim, f1.st_mtim) && later(f2.st_ctim, f1.st_ctim) &&
         !later(d2.st_mtim, d1.st_mtim));
    nanosleep(&pause, NULL);
    NEED(unlink("g") == 0 && stat(".", &d1) == 0 && later(d1.st_mtim, d2.st_mtim) &&
         later(d1.st_ctim, d2.st_ctim));
    return NULL;
}

static const char *owners_and_modes(void)
{
    struct stat st;
    NEED(put("f", "x") == 0 && chmod("f", 07751) == 0 && mode_of("f") == 07751);
    NEED(chown("f", 1234, 4321) == 0 && stat("f", &st) == 0 && st.st_uid == 1234 &&
         st.st_gid == 4321);
    NEED(chown("f", (uid_t)-1, 7) == 0 && stat("f", &st) == 0 && st.st_uid == 1234 &&
         st.st_gid == 7);
    NEED(symlink("f", "l") == 0 && lchown("l", 5, 6) == 0);
    NEED(lstat("l", &st) == 0 && st.st_uid == 5 && stat("f", &st) == 0 && st.st_uid == 1234);
    return NULL;
}

static const char *nobody_is_kept_out(void)
{
    REFUSED(open("secret", O_RDONLY), EACCES);
    REFUSED(open("readable", O_WRONLY), EACCES);
    NEED(open("readable", O_RDONLY) >= 0);
    REFUSED(chmod("readable", 0777), EPERM);
    REFUSED(unlink("closed/f"), EACCES);
    REFUSED(unlink("sticky/f"), EPERM);
    REFUSED(chown("readable", 65534, 65534), EPERM);
    REFUSED(open("closed/new", O_CREAT | O_WRONLY, 0644), EACCES);
    NEED(access("readable", R_OK) == 0);
    REFUSED(access("readable", W_OK), EACCES);
    NEED(open("sticky/mine", O_CREAT | O_WRONLY, 0600) >= 0 && unlink("sticky/mine") == 0);
    return NULL;
}

static const char *permissions_are_checked(void)
{
    NEED(put("secret", "s") == 0 && chmod("secret", 0600) == 0 && put("readable", "r") == 0);
    NEED(mkdir("closed", 0755) == 0 && put("closed/f", "x") == 0);
    NEED(mkdir("sticky", 0755) == 0 && chmod("sticky", 01777) == 0 && put("sticky/f", "x") == 0);
    return as_nobody(nobody_is_kept_out);
}

static const char *setgid_directories_hand_down_their_group(void)
{
    struct stat st;
    NEED(mkdir("d", 0755) == 0 && chown("d", 0, 4242) == 0 && chmod("d", 02775) == 0);
    NEED(touch("d/f") == 0 && stat("d/f", &st) == 0 && st.st_gid == 4242);
    NEED(mkdir("d/e", 0755) == 0 && stat("d/e", &st) == 0 && st.st_gid == 4242 &&
         (st.st_mode & S_ISGID) != 0);
    return NULL;
}

static const char *nobody_writes_suid_file(void)
{
    int fd = open("suid", O_WRONLY);
    NEED(fd >= 0 && write(fd, "y", 1) == 1 && close(fd) == 0);
    return NULL;
}

static const char *nobody_punches_suid_file(void)
{
    int fd = open("suid", O_WRONLY);
    NEED(fd >= 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1) == 0);
    close(fd);
    return NULL;
}

static const char *punching_clears_suid_but_for_root(void)
{
    NEED(put("suid", "x") == 0 && chmod("suid", 06777) == 0);
    int fd = open("suid", O_WRONLY);
    NEED(fd >= 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1) == 0);
    close(fd);
    NEED(mode_of("suid") == 06777);
    const char *why = as_nobody(nobody_punches_suid_file);
    NEED(why == NULL);
    NEED(mode_of("suid") == 0777);
    return NULL;
}

static const char *writing_and_chown_clear_suid(void)
{
    NEED(put("suid", "x") == 0 && chmod("suid", 06777) == 0);
    const char *why = as_nobody(nobody_writes_suid_file);
    NEED(why == NULL);
    NEED(mode_of("suid") == 0777);
    NEED(chmod("suid", 06755) == 0 && chown("suid", 1, 1) == 0);
    NEED(mode_of("suid") == 0755);
    return NULL;
}

static const char *xattrs(void)
{
    char value[70000], list[256];
    NEED(put("f", "x") == 0);
    NEED(setxattr("f", "user.one", "1", 1, XATTR_CREATE) == 0);
    REFUSED(setxattr("f", "user.one", "1", 1, XATTR_CREATE), EEXIST);
    REFUSED(setxattr("f", "user.two", "2", 1, XATTR_REPLACE), ENODATA);
    NEED(setxattr("f", "user.one", "", 0, XATTR_REPLACE) == 0 &&
         getxattr("f", "user.one", value, sizeof value) == 0);
    NEED(setxattr("f", "user.two", "22", 2, 0) == 0 && getxattr("f", "user.two", NULL, 0) == 2);
    REFUSED(getxattr("f", "user.two", value, 1), ERANGE);
    NEED(listxattr("f", list, sizeof list) == 18 || listxattr("f", list, sizeof list) > 18);
    NEED(setxattr("f", "trusted.t", "t", 1, 0) == 0 &&
         getxattr("f", "trusted.t", value, sizeof value) == 1);
    NEED(removexattr("f", "user.two") == 0);
    REFUSED(removexattr("f", "user.two"), ENODATA);
    REFUSED(getxattr("f", "user.two", value, sizeof value), ENODATA);
    NEED(mkdir("d", 0755) == 0 && setxattr("d", "user.dir", "d", 1, 0) == 0);
    return NULL;
}

static const char *xattrs_of_64_KiB(void)
{
    static char value[65536], back[65536];
    NEED(put("f", "x") == 0);
    memset(value, 'v', sizeof value);
    if (setxattr("f", "user.big", value, sizeof value, 0) != 0 &&
        getenv("POSIX_SMALL_XATTR") != NULL) {
        return NULL; /* a filesystem with less room, on which this program itself is checked */
    }
    NEED(getxattr("f", "user.big", back, sizeof back) == sizeof value &&
         memcmp(value, back, sizeof value) == 0);
    return NULL;
}

/* The kernel's binary form of an ACL: version 2, then entries (tag, permissions, id). */
struct acl_entry {
    unsigned short tag, perm;
    unsigned id;
};
struct acl {
    unsigned version;
    struct acl_entry entry[5];
};

static struct acl acl_for(unsigned uid, unsigned short perm)
{
    const unsigned none = 0xffffffff;
    return (struct acl){2,
                        {{1, 6, none}, {2, perm, uid}, {4, 4, none}, {16, 6, none}, {32, 0, none}}};
}

static const char *nobody_reads_by_acl(void)
{
    NEED(open("f", O_RDONLY) >= 0);
    REFUSED(open("g", O_RDONLY), EACCES);
    return NULL;
}

static const char *access_acls_let_in(void)
{
    struct acl a = acl_for(65534, 4);
    NEED(put("f", "x") == 0 && chmod("f", 0640) == 0 && put("g", "x") == 0 &&
         chmod("g", 0640) == 0);
    NEED(setxattr("f", "system.posix_acl_access", &a, sizeof a, 0) == 0);
    NEED(mode_of("f") == 0660); /* the mask shows as the group's bits */
    NEED(chmod("f", 0640) == 0);
    struct acl b;
    NEED(getxattr("f", "system.posix_acl_access", &b, sizeof b) == sizeof b);
    NEED(b.entry[3].perm == 4); /* and chmod of them changes the mask */
    return as_nobody(nobody_reads_by_acl);
}

static const char *default_acls_are_handed_down(void)
{
    struct acl a = acl_for(65534, 6), b;
    NEED(mkdir("d", 0755) == 0 && setxattr("d", "system.posix_acl_default", &a, sizeof a, 0) == 0);
    umask(077); /* does not count where there is a default ACL */
    int fd = open("d/f", O_CREAT | O_WRONLY, 0664);
    umask(022);
    NEED(fd >= 0);
    NEED(getxattr("d/f", "system.posix_acl_access", &b, sizeof b) == sizeof b);
    NEED(b.entry[1].id == 65534 && b.entry[1].perm == 6);
    NEED(mode_of("d/f") == 0660);
    NEED(mkdir("d/e", 0755) == 0 &&
         getxattr("d/e", "system.posix_acl_default", &b, sizeof b) == sizeof b);
    close(fd);
    return NULL;
}

static const char *tmpfile_gets_a_name_by_link(void)
{
    char path[64];
    struct stat st;
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    NEED(fd >= 0);
    NEED(write(fd, "tmp", 3) == 3 && fstat(fd, &st) == 0 && st.st_nlink == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    NEED(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
    NEED(holds("named", "tmp") && links("named") == 1);
    close(fd);
    NEED(holds("named", "tmp"));
    fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
    NEED(fd >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    REFUSED(linkat(AT_FDCWD, path, AT_FDCWD, "never", AT_SYMLINK_FOLLOW), ENOENT);
    close(fd);
    return NULL;
}

static const char *statfs_is_sane(void)
{
    struct statvfs v;
    NEED(statvfs(".", &v) == 0);
    NEED(v.f_namemax == 255 && v.f_blocks > 0 && v.f_bavail <= v.f_bfree &&
         v.f_bfree <= v.f_blocks);
    return NULL;
}

static const char *a_removed_working_directory_is_empty(void)
{
    NEED(mkdir("d", 0755) == 0);
    int fd = open("d", O_RDONLY | O_DIRECTORY);
    NEED(fd >= 0 && rmdir("d") == 0);
    REFUSED(openat(fd, "f", O_CREAT | O_WRONLY, 0644), ENOENT);
    REFUSED(mkdirat(fd, "e", 0755), ENOENT);
    struct stat st;
    NEED(fstat(fd, &st) == 0 && st.st_nlink == 0);
    close(fd);
    return NULL;
}

int main(int argc, char **argv)
{
    static const struct claim CLAIMS[] = {
        {"create_exclusive_refuses_existing", create_exclusive_refuses_existing},
        {"umask_counts", umask_counts},
        {"names_of_255_bytes_and_no_more", names_of_255_bytes_and_no_more},
        {"rename_replaces_and_keeps_content", rename_replaces_and_keeps_content},
        {"rename_of_hard_links_of_one_file_does_nothing",
         rename_of_hard_links_of_one_file_does_nothing},
        {"rename_noreplace", rename_noreplace},
        {"rename_exchange", rename_exchange},
        {"rename_of_a_directory_moves_its_parent_link",
         rename_of_a_directory_moves_its_parent_link},
        {"hard_links_count", hard_links_count},
        {"symlinks", symlinks},
        {"directories_must_be_empty_to_go", directories_must_be_empty_to_go},
        {"readdir_shows_each_name_once", readdir_shows_each_name_once},
        {"seekdir_survives_deletes", seekdir_survives_deletes},
        {"special_files", special_files},
        {"times_have_nanoseconds", times_have_nanoseconds},
        {"changes_move_the_right_times", changes_move_the_right_times},
        {"owners_and_modes", owners_and_modes},
        {"permissions_are_checked", permissions_are_checked},
        {"setgid_directories_hand_down_their_group", setgid_directories_hand_down_their_group},
        {"writing_and_chown_clear_suid", writing_and_chown_clear_suid},
        {"punching_clears_suid_but_for_root", punching_clears_suid_but_for_root},
        {"xattrs", xattrs},
        {"xattrs_of_64_KiB", xattrs_of_64_KiB},
        {"access_acls_let_in", access_acls_let_in},
        {"default_acls_are_handed_down", default_acls_are_handed_down},
        {"tmpfile_gets_a_name_by_link", tmpfile_gets_a_name_by_link},
        {"statfs_is_sane", statfs_is_sane},
        {"a_removed_working_directory_is_empty", a_removed_working_directory_is_empty},
    };
    return posix_run(argc, argv, CLAIMS, sizeof CLAIMS / sizeof CLAIMS[0]);
}
