#ifndef CFS_TOOLS_LOCAL_H
#define CFS_TOOLS_LOCAL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "tools/proc.h"

/* A cluster on one machine, as cfs-local sees it. Everything is under its directory:
 *
 *   cluster.conf          what was asked for, and the ports: "key=value" lines
 *   lock                  held (flock) by the cfs-local that changes the cluster
 *   data/NAME             what a server keeps (metadata elsewhere with --meta-dir)
 *   run/NAME.pid          "PID START", run/NAME.port what it listens on
 *   log/NAME.log
 *   mount/N/              run directory of mount N: holder.pid, worker.pid, where, options
 *
 * Ports are chosen below the range from which the kernel takes those of outgoing connections:
 * a client that reconnects to a dead server of such a port can meet itself. */
enum { LOCAL_META_MAX = 9, LOCAL_CHUNKS_MAX = 64, LOCAL_MOUNTS_MAX = 64, LOCAL_PATH = 3072 };

enum local_kind { LOCAL_META, LOCAL_CHUNK, LOCAL_MOUNT, LOCAL_HOLDER };

struct local_name {
    enum local_kind kind;
    unsigned number; /* from 1 */
};

struct local {
    char dir[LOCAL_PATH]; /* absolute */
    char bin[LOCAL_PATH]; /* where the programs are: beside cfs-local */
    unsigned n_meta, n_chunks;
    uint64_t size;             /* bytes per chunk server; 0: what the disk has */
    uint64_t meta_reserve;     /* bytes; 0: the server's default */
    char policy[16];           /* "4+2" */
    char meta_dir[LOCAL_PATH]; /* empty: data/meta1 */
    unsigned meta_port[LOCAL_META_MAX + 1],
        chunk_port[LOCAL_CHUNKS_MAX + 1]; /* 0: not chosen yet */
    int lock_fd;                          /* -1: not held */
};

/* ---- local_conf.c: the directory and what is kept in it */

/* Sets dir and bin, and the defaults. -errno; dir need not exist. */
int local_init(struct local *l, const char *dir);
void local_release(struct local *l);
/* -ENOENT: no cluster there. -EINVAL: not a file of ours. */
int local_load(struct local *l);
int local_read(struct local *l, FILE *f); /* the same from an open file: what cluster.conf says */
int local_save(const struct local *l);
/* Takes the lock, waiting up to wait_ms. -EBUSY. Makes the directory if `make`. */
int local_lock(struct local *l, bool make, unsigned wait_ms);
/* dir/a/b, in `out` of LOCAL_PATH + 1024 bytes. */
void local_path(const struct local *l, char *out, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "meta1", "chunk12", "mount1", "holder1". False: no such name in this cluster. */
bool local_parse_name(const struct local *l, const char *text, struct local_name *out);
const char *local_kind_text(enum local_kind kind);
/* "127.0.0.1:P[,...]" of the metadata servers. */
void local_addresses(const struct local *l, char out[256]);
/* The process with this name, {0} when it does not run. */
void local_find(const struct local *l, struct local_name name, struct proc *out);
int local_mkdirs(const char *path); /* mkdir -p */
/* Makes a path absolute without asking that it exists. */
int local_absolute(const char *path, char out[LOCAL_PATH]);

/* ---- local_server.c: servers */

/* Starts it if it does not run and waits until it listens. 0 started, 1 it ran already, negative:
 * the reason was printed. */
int local_server_start(struct local *l, struct local_name name, unsigned timeout_ms);
int local_server_stop(const struct local *l, struct local_name name, unsigned term_ms);
/* Waits until the metadata server says that all chunk servers are up and every group takes writes.
 * Negative: the reason was printed. */
int local_wait_usable(const struct local *l, unsigned timeout_ms);
/* Prints the last lines of a log to stderr. */
void local_show_log(const struct local *l, const char *name);

/* ---- local_mount.c: mounts */

struct local_mount {
    unsigned number;
    char where[LOCAL_PATH]; /* mount point */
    char options[1024];
    bool made; /* the mount point was made by us and goes with the mount */
    struct proc holder, worker;
};
/* False: mount N is not in use. */
bool local_mount_get(const struct local *l, unsigned number, struct local_mount *out);
/* Mounts at `where`; the reason of a failure was printed. */
int local_mount_new(struct local *l, const char *where, const char *options, unsigned timeout_ms);
/* Mounts again what was mounted and has died. 0 done, 1 it runs. */
int local_mount_again(struct local *l, struct local_mount *m, unsigned timeout_ms);
/* Unmounts and waits until what was dirty is with the servers and the client has ended. force: also
 * a busy mount, and after timeout_ms the client is killed: what it had not written is lost. */
int local_mount_end(const struct local *l, struct local_mount *m, bool force, unsigned timeout_ms);
/* Ends the session of a client of mount N that was killed with its holder, and removes what it left in /run/cfs. Nothing if
 * there is none, it lives, or no metadata server runs: then the next mount does that. */
void local_client_bury(const struct local *l, unsigned number);
/* The cluster directory and number of the mount at `where`, found by its client's process. -ENOENT.
 */
int local_mount_find(const char *where, char dir[LOCAL_PATH], unsigned *number);
bool local_is_mounted(const char *where);

#endif
