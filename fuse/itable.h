#ifndef CFS_FUSE_ITABLE_H
#define CFS_FUSE_ITABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/table.h"
#include "fuse/client.h"
#include "proto/methods.h"

/* Inodes that the worker knows: attributes, extents and inline content as the server last said,
 * under what the arena adds (size and times of dirty files). On the heap, bounded, least recently
 * used first to go, except those that are open or dirty. Rebuilt empty after a restart. */
struct Cfs__Attr; /* generated; packed and unpacked only in .c files */
struct Cfs__ExtentsReply;

struct iextent { /* cached extent with its stripe */
    uint64_t offset, length;
    uint8_t kind; /* 1 stripe, 2 reserved */
    uint8_t code_kind, k, m;
    uint32_t pg;
    uint64_t stripe, stripe_offset;
    uint64_t slot_mask, stripe_length, nonce;
};

struct inode {
    struct table_node node;
    struct list lru;
    uint64_t ino;
    bool attr_valid;
    struct stat st;      /* as the server said */
    uint64_t change;     /* of that */
    uint32_t attr_flags; /* Attr.flags */
    bool content_valid;  /* inline content or symlink target */
    struct buf content;
    struct iextent *extent; /* ascending; what is known lies in [0, extents_to) */
    unsigned n_extents, extents_cap;
    uint64_t extents_to; /* cached range begins at 0 for short files, see extents_from */
    uint64_t extents_from;
    unsigned opens;            /* handles in the arena */
    bool orphan;               /* no name left: release it after the last handle */
    struct arena_inode *dirty; /* its record in the arena, NULL when it has none */
    void *writer_state;        /* writer's, NULL when it has no page of it */
    struct itable *table;
    unsigned pins; /* users that keep the pointer over a callback: never freed meanwhile */
    uint32_t
        layout; /* goes up when extents that were known become others: a fetch under way is void */
    uint32_t pages_dropped; /* goes up when the writer drops a page of it: a read under way plans
                               again */
    uint64_t read_next,
        read_ahead_to; /* reader: where a sequential reader goes on; read ahead up to here */
    unsigned read_streak;
};

struct itable *itable_new(struct client *c, size_t bytes_max);
void itable_free(struct itable *t);
struct inode *itable_find(struct itable *t, uint64_t ino); /* NULL if unknown */
struct inode *itable_get(struct itable *t, uint64_t ino);  /* made if unknown */
void itable_forget(struct itable *t, uint64_t ino); /* drops what is cached (not what is dirty) */

/* Takes what the server said; an older change counter than the cached one is ignored. */
struct inode *itable_take_attr(struct itable *t, const struct Cfs__Attr *attr);
void itable_take_content(struct inode *in, struct bytes content);
void itable_take_extents(struct itable *t, struct inode *in, uint64_t from,
                         const struct Cfs__ExtentsReply *r);
void itable_drop_extents(struct inode *in); /* after a commit, truncate, copy: fetch again */
/* One extent was committed: it replaces what is cached in its range, as far as the cache knows
 * about the neighbourhood. */
void itable_put_extent(struct inode *in, const struct iextent *e);
/* The first cached extent that ends after offset: an index, n_extents if none. */
unsigned itable_extent_at(const struct inode *in, uint64_t offset);

/* The truth for the kernel: the server's attributes under the arena's. False: fetch first. */
bool itable_stat(struct itable *t, struct inode *in, struct stat *out);
uint64_t itable_size(const struct inode *in); /* current size, dirty or not; attr must be valid */
size_t itable_memory(const struct itable *t);

#endif
