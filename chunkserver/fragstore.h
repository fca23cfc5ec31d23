#ifndef CFS_CHUNKSERVER_FRAGSTORE_H
#define CFS_CHUNKSERVER_FRAGSTORE_H

#include "base/mailbox.h"
#include "chunkserver/fragdisk.h"
#include "chunkserver/identity.h"

/* All disks of a server, each with threads of its own: one writer (puts, deletes, tidying) and a
 * few readers, so that a cold read does not wait behind a sync, and a hung or failed disk stops
 * nobody else. An operation travels: loop -> a disk's mailbox -> done mailbox -> loop. The
 * writer takes all puts that have arrived meanwhile and syncs once for them.
 *
 * A fragment may be on any disk: puts go by the hash of (pg, id) to a disk that is good; the others
 * look there first, then on the remaining ones. */
struct fragstore;
enum { FRAGSTORE_DISKS_MAX = 64, FRAGSTORE_READERS_DEFAULT = 2 };

enum frag_op_kind { FRAG_PUT, FRAG_GET, FRAG_STAT, FRAG_DELETE, FRAG_LIST };

struct frag_op { /* the caller's memory until on_done */
    enum frag_op_kind kind;
    /* PUT: all of it. GET, STAT: key and nonce (0: any) in, all of it out. DELETE: key.pg, key.id
     * the first. LIST: key.pg, key.id = list behind this one. */
    struct fragment fragment;
    uint64_t count;  /* DELETE: ids */
    uint32_t offset; /* GET: what is wanted in, length 0: to the end; out: the whole */
    uint32_t length; /* CRC blocks that cover it, which are in data */
    uint8_t *data;   /* PUT: the bytes; GET: room for STRIPE_FRAGMENT_MAX; DISK_ALIGN aligned */
    unsigned max;    /* LIST: about how many */
    struct fragment *list; /* LIST out: heap, the caller frees it */
    unsigned n_list;
    bool end;      /* LIST out: there are no more */
    unsigned disk; /* out: where it is or was (GET, STAT, PUT) */
    int rc;        /* as fragdisk.h has it; GET: -EINVAL for a range outside of it */
    void (*on_done)(struct frag_op *op);
    struct letter letter; /* private from here */
    unsigned first_disk, tried;
    int worst;
};

struct fragstore_options {
    const char *const *dirs; /* one per disk */
    unsigned n_dirs;
    uint64_t size_max; /* bytes in all; 0: what the filesystems have */
    unsigned reserve_percent;
    unsigned readers;        /* threads per disk; 0: FRAGSTORE_READERS_DEFAULT */
    void (*wake)(void *ctx); /* from any thread: call fragstore_poll on the loop soon */
    void *ctx;
};
/* Opens and recovers all disks, formats fresh ones. A disk that cannot be opened is shown as
 * failed, if another one can; text (256 bytes) says what is wrong with the first bad one. */
int fragstore_open(const struct fragstore_options *options, struct fragstore **out, char *text);
/* Works off what was submitted, ends the threads, calls back what is left. */
void fragstore_close(struct fragstore *s);

void fragstore_submit(struct fragstore *s, struct frag_op *op); /* on_done from fragstore_poll */
void fragstore_poll(struct fragstore *s);
/* Asks every disk to look at its free space; one that has not answered the last time
 * for hung_ms is shown as failed until it does. */
void fragstore_refresh(struct fragstore *s, uint64_t now_ms, uint64_t hung_ms);

struct fragstore_disk {
    const char *path;
    uint8_t id[IDENTITY_BYTES];
    struct fragdisk_state state;
    int error; /* why it could not be opened; 0 */
};
unsigned fragstore_disks(const struct fragstore *s);
void fragstore_disk_get(const struct fragstore *s, unsigned i, struct fragstore_disk *out);

const struct identity *fragstore_identity(const struct fragstore *s); /* server and cluster */
/* Adopts the cluster, durably on every good disk. ERR_WRONG_CLUSTER if there is another. */
int fragstore_set_cluster(struct fragstore *s, const uint8_t cluster[IDENTITY_BYTES]);

#endif
