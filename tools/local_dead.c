/* What a client leaves in /run/cfs/clients when both its processes were killed: a file that is no
 * longer locked, with addresses, run directory, mount point and session, a line each
 * (fuse/earlier.h). It is what proves to the next mount that this client is dead. A mount that is
 * over for good needs no such proof when its session is ended here. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/buf.h"
#include "meta.pb-c.h"
#include "proto/methods.h"
#include "tools/ask.h"
#include "tools/local.h"

#define RUN "/run/cfs"
#define CLIENTS RUN "/clients"
enum { CLOSE_MS = 2000, ID_CHARS = 32 };

static bool meta_runs(const struct local *l)
{
    struct proc p = {.pid = 0};
    for (unsigned i = 1; i <= l->n_meta && p.pid == 0; i++) {
        local_find(l, (struct local_name){LOCAL_META, i}, &p);
    }
    return p.pid != 0;
}

static int end_session(const struct local *l, uint64_t session)
{
    char addresses[256];
    local_addresses(l, addresses);
    struct ask *ask = ask_new(addresses);
    struct bytes reply;
    struct buf body;
    Cfs__SessionClose m = CFS__SESSION_CLOSE__INIT;
    m.session = session;
    buf_init(&body);
    cfs__session_close__pack(&m, buf_extend(&body, cfs__session_close__get_packed_size(&m)));
    int rc = ask_call(ask, METHOD_SESSION_CLOSE, buf_bytes(&body), CLOSE_MS, &reply);
    buf_release(&body);
    ask_free(ask);
    return rc;
}

/* The session of the file's client, if it is the one with this run directory and it is dead; else
 * 0. *fd keeps the file locked: a mount that comes meanwhile waits. */
static uint64_t dead_session(const char *path, const char *run_dir, int *fd)
{
    char text[3 * LOCAL_PATH];
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = *fd >= 0 ? read(*fd, text, sizeof text - 1) : -1;
    if (n <= 0 || flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        return 0;
    }
    text[n] = '\0';
    char *rest = text;
    (void)strsep(&rest, "\n");
    const char *its_run_dir = strsep(&rest, "\n");
    (void)strsep(&rest, "\n");
    if (rest == NULL || strcmp(its_run_dir, run_dir) != 0) {
        return 0;
    }
    return strtoull(rest, NULL, 10);
}

void local_client_bury(const struct local *l, unsigned number)
{
    char run_dir[LOCAL_PATH + 1024], path[512];
    local_path(l, run_dir, "mount/%u", number);
    DIR *d = meta_runs(l) ? opendir(CLIENTS) : NULL;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (strlen(e->d_name) != ID_CHARS) {
            continue;
        }
        int fd;
        snprintf(path, sizeof path, "%s/%s", CLIENTS, e->d_name);
        uint64_t session = dead_session(path, run_dir, &fd);
        if (session != 0 && end_session(l, session) == 0) {
            (void)unlink(path);
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    (void)rmdir(CLIENTS); /* not while somebody has a file there */
    (void)rmdir(RUN);
}
