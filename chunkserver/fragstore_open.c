#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "chunkserver/fragstore_internal.h"
#include "store/disk_posix.h"
#include "store/kv_leveldb.h"

/* Opening the disks of a server: first who it is (all disks must agree), then each disk by itself.
 */
enum { INDEX_WRITE_BUFFER = 8 << 20, INDEX_CACHE = 16 << 20 };

static void remove_index_file(const char *name, void *ctx)
{
    struct disk *root = ctx;
    char *path = xasprintf("index/%s", name);
    (void)root->ops->unlink(root, path); /* what stays makes the next open fail, which tells */
    free(path);
}

/* Opens the index and the segments; a damaged index is removed and made again, once. */
static int open_fragdisk(struct store_disk *sd, const struct fragstore_options *o)
{
    struct kv_leveldb_options index_options = {
        .write_buffer_bytes = INDEX_WRITE_BUFFER, .cache_bytes = INDEX_CACHE, .create = true};
    char *index_path = xasprintf("%s/index", sd->path);
    int rc = ERR_CORRUPT;
    for (unsigned round = 0; round < 2 && rc == ERR_CORRUPT; round++) {
        struct fragdisk_options options = {.size_max = o->size_max / o->n_dirs,
                                           .reserve_percent = o->reserve_percent};
        memcpy(options.id, sd->id.disk, IDENTITY_BYTES);
        if (round > 0) {
            log_warn("index is damaged: making it again from the segments path=%s", sd->path);
            (void)sd->root->ops->list(sd->root, "index", remove_index_file, sd->root);
        }
        rc = kv_leveldb_open(index_path, &index_options, &options.index);
        if (rc != 0) {
            continue;
        }
        rc = disk_posix_open(sd->path, &options.disk);
        int rc2 = rc != 0 ? rc : fragdisk_open(&options, &sd->disk);
        if (rc2 != 0) {
            options.index->ops->close(options.index);
        }
        if (rc == 0 && rc2 != 0) {
            options.disk->ops->close(options.disk);
        }
        rc = rc2;
    }
    free(index_path);
    return rc;
}

static void note_any(const char *name, void *ctx)
{
    (void)name;
    *(bool *)ctx = true;
}

/* A directory without identity is formatted, unless there are segments in it. */
static int read_identity(struct store_disk *sd, char *text)
{
    int rc = identity_read(sd->root, &sd->id);
    if (rc == ERR_NOT_FOUND) {
        bool segments = false;
        if (sd->root->ops->list(sd->root, "segments", note_any, &segments) == 0 && segments) {
            snprintf(text, 256, "%s: has segments but no identity file", sd->path);
            return ERR_CORRUPT;
        }
        return ERR_NOT_FOUND;
    }
    if (rc != 0) {
        snprintf(text, 256, "%s/identity: %s", sd->path, err_text(rc));
    }
    return rc;
}

/* Roots and identities of all disks; which server this is. */
static int identify(struct fragstore *s, char *text)
{
    bool known = false;
    for (unsigned i = 0; i < s->n_disks; i++) {
        struct store_disk *sd = &s->disk[i];
        int rc = disk_posix_open(sd->path, &sd->root);
        if (rc != 0) {
            snprintf(text, 256, "%s: %s", sd->path, err_text(rc));
            return rc;
        }
        rc = read_identity(sd, text);
        if (rc == ERR_NOT_FOUND) {
            continue;
        }
        if (rc != 0) {
            return rc;
        }
        if (known && memcmp(s->id.server, sd->id.server, IDENTITY_BYTES) != 0) {
            snprintf(text, 256, "%s: belongs to another chunk server", sd->path);
            return -EINVAL;
        }
        if (known && s->id.has_cluster && sd->id.has_cluster &&
            memcmp(s->id.cluster, sd->id.cluster, IDENTITY_BYTES) != 0) {
            snprintf(text, 256, "%s: belongs to another cluster", sd->path);
            return ERR_WRONG_CLUSTER;
        }
        if (!known || sd->id.has_cluster) {
            s->id = sd->id;
        }
        known = true;
    }
    if (!known) {
        identity_random(s->id.server);
    }
    return 0;
}

static int format_if_fresh(struct fragstore *s, struct store_disk *sd)
{
    struct identity there;
    int rc = identity_read(sd->root, &there);
    if (rc != ERR_NOT_FOUND) {
        return rc;
    }
    sd->id = s->id;
    identity_random(sd->id.disk);
    return identity_write(sd->root, &sd->id);
}

int fragstore_open_disks(struct fragstore *s, const struct fragstore_options *o, char *text)
{
    unsigned good = 0;
    int first_rc = identify(s, text);
    if (first_rc != 0) {
        return first_rc;
    }
    for (unsigned i = 0; i < s->n_disks; i++) {
        struct store_disk *sd = &s->disk[i];
        int rc = format_if_fresh(s, sd);
        rc = rc != 0 ? rc : open_fragdisk(sd, o);
        sd->error = rc;
        good += rc == 0 ? 1 : 0;
        if (rc != 0 && first_rc == 0) {
            first_rc = rc;
            snprintf(text, 256, "%s: %s", sd->path,
                     rc == ERR_BUSY ? "in use by another chunk server" : err_text(rc));
        }
    }
    return good > 0 ? 0 : first_rc;
}
