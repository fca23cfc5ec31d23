#ifndef CFS_CHUNKSERVER_IDENTITY_H
#define CFS_CHUNKSERVER_IDENTITY_H

#include <stdbool.h>

#include "base/buf.h"
#include "store/disk.h"

/* Whose a disk is: the file "identity" in its root, a few lines of text that people can
 * read, replaced as a whole (docs/disk-format-chunk.md). A disk keeps its identity when
 * it is moved to another path. */
enum { IDENTITY_BYTES = 16, IDENTITY_TEXT_MAX = 512 };

struct identity {
    uint8_t server[IDENTITY_BYTES];
    uint8_t cluster[IDENTITY_BYTES];
    uint8_t disk[IDENTITY_BYTES];
    bool has_cluster; /* false while it belongs to none yet */
};

void identity_encode(const struct identity *id, struct buf *out);
int identity_decode(struct bytes text, struct identity *out); /* ERR_CORRUPT, ERR_VERSION */

/* ERR_NOT_FOUND: a fresh disk. */
int identity_read(struct disk *d, struct identity *out);
int identity_write(struct disk *d, const struct identity *id); /* durable when it returns 0 */
void identity_random(uint8_t out[IDENTITY_BYTES]);

#endif
