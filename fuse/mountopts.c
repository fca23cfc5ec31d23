#include "fuse/mountopts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "rpc/address.h"

struct flag_option {
    const char *name;
    unsigned long set, clear;
};
static const struct flag_option FLAGS[] = {
    {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},
    {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},
    {"nodev", MS_NODEV, 0},
    {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0},
    {"exec", 0, MS_NOEXEC},
    {"noatime", MS_NOATIME, 0},
    {"atime", 0, MS_NOATIME},
    {"nodiratime", MS_NODIRATIME, 0},
    {"diratime", 0, MS_NODIRATIME},
    {"relatime", MS_RELATIME, 0},
    {"norelatime", 0, MS_RELATIME},
    {"strictatime", MS_STRICTATIME, 0},
    {"nostrictatime", 0, MS_STRICTATIME},
    {"sync", MS_SYNCHRONOUS, 0},
    {"async", 0, MS_SYNCHRONOUS},
    {"dirsync", MS_DIRSYNC, 0},
    {"defaults", 0, 0},
    {"hard", 0, 0},
    /* mount(8)'s and fstab's own business, or what this mount does anyway: */
    {"auto", 0, 0},
    {"noauto", 0, 0},
    {"_netdev", 0, 0},
    {"nofail", 0, 0},
    {"user", 0, 0},
    {"nouser", 0, 0},
    {"users", 0, 0},
    {"nousers", 0, 0},
    {"owner", 0, 0},
    {"noowner", 0, 0},
    {"group", 0, 0},
    {"nogroup", 0, 0},
    {"silent", 0, 0},
    {"loud", 0, 0},
    {"nomand", 0, 0},
    {"allow_other", 0, 0},
    {"default_permissions", 0, 0},
};
static const char *const IGNORED_PREFIXES[] = {"x-", "X-", "comment=", "uhelper=", "helper=",
                                               "user="};

static int refuse(char *why, const char *format, const char *what)
{
    snprintf(why, MOUNTOPTS_TEXT_MAX, format, what);
    return -EINVAL;
}

static int copy_value(char *to, size_t bytes, const char *value, const char *name, char *why)
{
    if (strlen(value) >= bytes || strchr(value, '\n')) {
        return refuse(why, "the value of option %s is too long or has a line break", name);
    }
    memcpy(to, value, strlen(value) + 1);
    return 0;
}

/* Digits with one optional suffix; false for anything else, and for more than 2^50. */
static bool parse_bytes(const char *text, uint64_t *out)
{
    static const char SUFFIXES[] = "KMGT";
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    const char *suffix = *end ? strchr(SUFFIXES, *end & ~0x20) : NULL;
    unsigned shift = 0;
    if (*end) {
        if (!suffix || end[1]) {
            return false;
        }
        shift = 10 * (unsigned)(suffix - SUFFIXES + 1);
    }
    if (errno || n > ((uint64_t)1 << 50) >> shift) {
        return false;
    }
    *out = n << shift;
    return true;
}

static int take_memory(struct mountopts *o, const char *value, char *why)
{
    uint64_t bytes;
    if (!parse_bytes(value, &bytes) || bytes < 64u << 20) {
        return refuse(why, "memory=%s: a number of bytes (or with K, M, G), at least 64M", value);
    }
    o->memory_bytes = bytes;
    return 0;
}

static int take_deadline(struct mountopts *o, const char *value, char *why)
{
    uint64_t seconds;
    if (!parse_bytes(value, &seconds) || seconds < 1 || seconds > MOUNTOPTS_DEADLINE_MAX_S) {
        return refuse(why, "deadline=%s: a number of seconds, 1 to 86400", value);
    }
    o->deadline_ms = (uint32_t)seconds * 1000;
    return 0;
}

static bool take_flag(struct mountopts *o, const char *name)
{
    for (size_t i = 0; i < sizeof FLAGS / sizeof FLAGS[0]; i++) {
        if (strcmp(FLAGS[i].name, name) == 0) {
            o->flags = (o->flags & ~FLAGS[i].clear) | FLAGS[i].set;
            return true;
        }
    }
    for (size_t i = 0; i < sizeof IGNORED_PREFIXES / sizeof IGNORED_PREFIXES[0]; i++) {
        if (strncmp(name, IGNORED_PREFIXES[i], strlen(IGNORED_PREFIXES[i])) == 0) {
            return true;
        }
    }
    return false;
}

static int take_option(struct mountopts *o, char *option, char *why)
{
    if (take_flag(o, option)) {
        return 0;
    }
    if (strcmp(option, "remount") == 0) {
        return refuse(why, "option %s: a CFS mount cannot be changed, unmount it and mount again",
                      option);
    }
    char *value = strchr(option, '=');
    if (!value) {
        return refuse(why, "unknown option \"%s\"", option);
    }
    *value++ = 0;
    if (strcmp(option, "deadline") == 0) {
        return take_deadline(o, value, why);
    }
    if (strcmp(option, "memory") == 0) {
        return take_memory(o, value, why);
    }
    if (strcmp(option, "run_dir") == 0) {
        return copy_value(o->run_dir, sizeof o->run_dir, value, option, why);
    }
    if (strcmp(option, "log") == 0) {
        return copy_value(o->log, sizeof o->log, value, option, why);
    }
    return refuse(why, "unknown option \"%s\"", option);
}

static int take_options(struct mountopts *o, const char *list, char *why)
{
    char text[3 * MOUNTOPTS_PATH_MAX];
    if (strlen(list) >= sizeof text) {
        return refuse(why, "%s", "the list of options is too long");
    }
    memcpy(text, list, strlen(list) + 1);
    char *rest = text;
    while (rest) {
        char *option = strsep(&rest, ",");
        int rc = *option ? take_option(o, option, why) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int check_addresses(const char *addresses, char *why)
{
    char text[sizeof((struct mountopts *)0)->addresses], host[256], port[8];
    memcpy(text, addresses, strlen(addresses) + 1);
    char *rest = text;
    while (rest) {
        char *one = strsep(&rest, ",");
        if (address_split(one, host, port) < 0) {
            return refuse(why, "\"%s\" is not HOST:PORT", one);
        }
    }
    return 0;
}

/* The path begins at the first ":/": neither a host nor a port has one. */
static int take_spec(struct mountopts *o, const char *spec, char *why)
{
    const char *colon = strstr(spec, ":/");
    if (!colon || colon == spec) {
        return refuse(why, "\"%s\" is not HOST:PORT[,HOST:PORT...]:/DIRECTORY", spec);
    }
    size_t len = (size_t)(colon - spec);
    if (len >= sizeof o->addresses || strlen(spec) >= sizeof o->source ||
        strlen(colon + 1) >= sizeof o->path || strchr(spec, '\n')) {
        return refuse(why, "%s", "what is to be mounted is too long");
    }
    memcpy(o->source, spec, strlen(spec) + 1);
    memcpy(o->addresses, spec, len);
    o->addresses[len] = 0;
    memcpy(o->path, colon + 1, strlen(colon + 1) + 1);
    return check_addresses(o->addresses, why);
}

static int take_letters(struct mountopts *o, const char *argument, char *why)
{
    for (const char *p = argument + 1; *p; p++) {
        switch (*p) {
        case 'f':
            o->foreground = true;
            break;
        case 'v':
            o->verbose = true;
            break;
        case 's': /* sloppy: unknown options are an error all the same */
        case 'n': /* no /etc/mtab: there is none */
        case 'w':
            break;
        case 'r':
            o->flags |= MS_RDONLY;
            break;
        default:
            return refuse(why, "unknown option %s", argument);
        }
    }
    return 0;
}

int mountopts_parse(int argc, char *const *argv, struct mountopts *out, char *why)
{
    struct mountopts o = {.memory_bytes = MOUNTOPTS_MEMORY};
    unsigned n = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        bool takes_value = strcmp(a, "-o") == 0 || strcmp(a, "-t") == 0 || strcmp(a, "-N") == 0;
        if (takes_value && i + 1 >= argc) {
            return refuse(why, "option %s needs a value", a);
        }
        int rc = 0;
        if (takes_value) {
            rc = a[1] == 'o' ? take_options(&o, argv[i + 1], why) : 0;
            i++;
        } else if (strncmp(a, "-o", 2) == 0) {
            rc = take_options(&o, a + 2, why);
        } else if (a[0] == '-' && a[1]) {
            rc = take_letters(&o, a, why);
        } else if (n == 0) {
            rc = take_spec(&o, a, why);
            n++;
        } else if (n == 1) {
            rc = copy_value(o.mount_point, sizeof o.mount_point, a, "mount point", why);
            n++;
        } else {
            rc = refuse(why, "one argument too many: \"%s\"", a);
        }
        if (rc < 0) {
            return rc;
        }
    }
    if (n < 2) {
        return refuse(why, "%s", "what to mount, and where, must both be given");
    }
    o.noatime = (o.flags & MS_NOATIME) != 0;
    *out = o;
    return 0;
}
