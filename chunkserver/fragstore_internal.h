#ifndef CFS_CHUNKSERVER_FRAGSTORE_INTERNAL_H
#define CFS_CHUNKSERVER_FRAGSTORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "chunkserver/fragstore.h"

/* Shared by fragstore.c (threads and the way of an operation) and fragstore_open.c. */
enum { READERS_MAX = 8, LIST_MAX = 4096 };

struct store_disk {
    struct fragstore *store;
    char *path;
    struct identity id;
    struct disk *root;     /* a handle of our own, for the identity file */
    struct fragdisk *disk; /* NULL: could not be opened */
    int error;
    struct mailbox *box;
    pthread_t writer;
    struct reader {
        struct store_disk *disk;
        struct mailbox *box;
        pthread_t thread;
    } reader[READERS_MAX];
    unsigned next_reader;
    atomic_bool stopping;
    /* Refreshing: asked by the loop, answered by the writer. */
    struct frag_op refresh;
    bool refreshing, hung;
    uint64_t asked_ms;
};

struct fragstore {
    struct store_disk *disk;
    unsigned n_disks, readers;
    struct identity id;
    struct mailbox *done;
};

/* Finds out whose disks these are, formats fresh ones, opens and recovers all; no threads yet. */
int fragstore_open_disks(struct fragstore *s, const struct fragstore_options *o, char *text);

#endif
