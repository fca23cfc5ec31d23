#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mountinfo.h"
#include "fuse/control.h"
#include "fuse/mountopts.h"
#include "rpc/address.h"
#include "tools/cluster.h"
#include "tools/local.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What people and files say in words: mount options, addresses, the holder's control line,
 * cluster.conf, cfs.conf, lines of mountinfo, names of servers. Each is taken or refused; what is
 * taken is whole and ends where its buffer ends. The first byte chooses. */
static bool ends_within(const char *text, size_t bytes)
{
    return memchr(text, 0, bytes) != NULL;
}

/* Words end at zero bytes. */
static void options(char *text, size_t len)
{
    static struct mountopts o;
    char why[MOUNTOPTS_TEXT_MAX] = "", *argv[24];
    int argc = 1;
    argv[0] = text;
    for (size_t at = 0; at < len && argc < 24; at += strlen(text + at) + 1) {
        argv[argc++] = text + at;
    }
    if (mountopts_parse(argc, argv, &o, why) != 0) {
        CHECK(ends_within(why, sizeof why) && why[0] != 0);
        return;
    }
    CHECK(ends_within(o.source, sizeof o.source) && ends_within(o.addresses, sizeof o.addresses));
    CHECK(ends_within(o.path, sizeof o.path) && o.path[0] == '/');
    CHECK(ends_within(o.mount_point, sizeof o.mount_point));
    CHECK(ends_within(o.run_dir, sizeof o.run_dir) && ends_within(o.log, sizeof o.log));
    CHECK(o.memory_bytes >= 64u << 20 && o.deadline_ms <= MOUNTOPTS_DEADLINE_MAX_S * 1000u);
    CHECK(strchr(o.run_dir, '\n') == NULL && strchr(o.source, '\n') == NULL);
}

static void addresses(const char *text)
{
    char host[256], port[8], name[64], out[CONTROL_PATH_MAX];
    struct sockaddr_storage sa;
    if (address_split(text, host, port) == 0) {
        CHECK(ends_within(host, sizeof host) && ends_within(port, sizeof port));
        if (address_numeric(host, port, &sa) != 0) {
            address_name((struct sockaddr *)&sa, name);
            CHECK(ends_within(name, sizeof name));
        }
    }
    if (control_run_dir("/run/cfs", text, out, sizeof out) == 0) {
        CHECK(ends_within(out, sizeof out) && strchr(out + 9, '/') == NULL);
    }
}

static void line(char *text)
{
    size_t len = strlen(text);
    const char *argument = NULL;
    enum control_verb verb = control_parse(text, &argument);
    CHECK(verb <= CONTROL_UPGRADE && argument != NULL);
    CHECK(argument[0] == 0 || (argument >= text && argument <= text + len));
    CHECK(strpbrk(argument, "\r\n") == NULL);
}

static void conf(FILE *f)
{
    struct local l = {.n_meta = 1, .n_chunks = 6};
    struct local_name name;
    if (local_read(&l, f) == 0) {
        CHECK(l.n_meta == 1 && l.n_chunks >= 1 && l.n_chunks <= LOCAL_CHUNKS_MAX);
        CHECK(ends_within(l.policy, sizeof l.policy) && ends_within(l.meta_dir, sizeof l.meta_dir));
        char text[256];
        local_addresses(&l, text);
        CHECK(ends_within(text, sizeof text));
        (void)local_parse_name(&l, "chunk12", &name);
    }
}

static void cfs_conf(FILE *f)
{
    char out[CLUSTER_ADDRESSES];
    if (cluster_read_conf(f, out) == 0) {
        CHECK(ends_within(out, sizeof out) && out[0] != 0);
    }
}

static void with_file(char *text, size_t len, void (*use)(FILE *f))
{
    FILE *f = len > 0 ? fmemopen(text, len, "r") : NULL;
    if (f != NULL) {
        use(f);
        fclose(f);
    }
}

static void mount_line(char *text)
{
    static struct cluster_mount m;
    struct local l = {.n_meta = 1, .n_chunks = LOCAL_CHUNKS_MAX};
    struct local_name name;
    if (local_parse_name(&l, text, &name)) {
        CHECK(name.number >= 1 && name.number <= LOCAL_CHUNKS_MAX);
    }
    char *copy = strdup(text);
    size_t len = strlen(copy);
    mountinfo_unescape(copy);
    CHECK(strlen(copy) <= len);
    free(copy);
    static struct mount_entry e;
    if (mountinfo_take(text, &e) && cluster_take_mount(&e, &m) == 0) {
        CHECK(ends_within(m.addresses, sizeof m.addresses) && m.addresses[0] != 0);
        CHECK(ends_within(m.where, sizeof m.where) && m.subdir[0] == '/');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 1) {
        return 0;
    }
    char *text = malloc(len); /* exactly, so that a read beyond it is seen */
    memcpy(text, data + 1, len - 1);
    text[len - 1] = 0;
    switch (data[0] % 6) {
    case 0:
        options(text, len - 1);
        break;
    case 1:
        addresses(text);
        break;
    case 2:
        line(text);
        break;
    case 3:
        with_file(text, len - 1, conf);
        break;
    case 4:
        with_file(text, len - 1, cfs_conf);
        break;
    default:
        mount_line(text);
        break;
    }
    free(text);
    return 0;
}
