#ifndef CFS_FUSE_ARENA_H
#define CFS_FUSE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The arena: what survives the death of the worker (design.md, section 10; docs/arena.md). A memfd
 * that the holder owns, populated and mlocked before the first read of /dev/fuse, mapped
 * by one worker after another. It holds only fixed-size records. Each is published by one
 * word, its `state`, stored last (arena_publish); whatever else is in a record whose state is 0 is
 * rubbish. Allocator, indices, lists and trees live on the worker's heap and are rebuilt by one scan.
 *
 * The rules by which nothing is lost (each has a test that kills after every publish):
 *  1. A request is in the arena from the moment that the kernel has handed it out. The worker reads into
 *     a `big` buffer whose fuse_in_header.len it zeroed before; len != 0 means: read, not answered.
 *  2. A request that fits is moved to a `small` record at once (publish small, then clear big; a restart that
 *     finds the same unique in both drops the big one).
 *  3. Before a command is sent, its number is in the request's record (seq), or in a `commit`
 *     record. A restart sends the same number again: the server answers what it answered. Numbers below next_seq
 *     that no record names are filled with empty commands: they were assigned, never sent.
 *  4. A request is executed again by the next worker if its record is there. So each effect on the arena is
 *     harmless when repeated: WRITE puts the same bytes in the same place; OPEN finds the
 *     handle that its unique made; RELEASE of a handle generation that is gone is nothing.
 *  5. The kernel is answered, then the record is freed. A restart asks the kernel which requests were answered, and drops
 *     their records: executed again they could take away what the caller has put there since. Of what was GIVEN_UP
 *     that is executed all the same for which a command was sent. ENOENT from the kernel for an answer means: answered before.
 *  6. Dirty pages stay dirty until their commit has been answered; a restart flushes all of them
 *     again, under new stripe ids. */
#define ARENA_MAGIC 0x31616e6572414643u /* "CFArena1" */
enum {
    ARENA_VERSION = 1,
    ARENA_PAGE_BYTES = 4096,
    ARENA_BIG_DATA = 1 << 20,            /* largest WRITE payload */
    ARENA_BIG_HEAD = 4096,               /* request header and arguments end where the page ends */
    ARENA_SMALL_REQUEST = 960,
    ARENA_COMMIT_STRIPES = 16,
    ARENA_COMMIT_EXTENTS = 64,
    ARENA_INIT_BYTES = 256,
    ARENA_OPTIONS_BYTES = 8192
};

struct arena_sizes { /* counts of records; fixed for the arena's life */
    uint32_t big, small, handles, inodes, pages, commits;
    uint64_t cache_bytes; /* a region without records: for clean data, populated like the rest */
};

struct arena_header {
    uint64_t magic;
    uint32_t version;
    uint32_t state;          /* 0 fresh, 1 mounted, 2 draining (unmounted), 3 drained */
    uint64_t total_bytes;
    struct arena_sizes sizes;
    uint64_t big_at, small_at, handles_at, inodes_at, pages_at, commits_at, data_at, cache_at;
    /* the mount */
    uint32_t init_bytes;     /* published: the kernel's FUSE_INIT as it came */
    uint8_t init[ARENA_INIT_BYTES];
    char options[ARENA_OPTIONS_BYTES]; /* "key=value\n" lines: addresses, path, mount point, client id ... */
    /* the session */
    uint64_t session;        /* published: 0 none yet */
    uint64_t next_seq;       /* every number below was assigned by some worker */
    uint64_t root_ino, volume;
    uint64_t page_stamp;     /* last stamp given to a page */
    /* life of the worker */
    uint64_t worker_starts;
    uint64_t answered;       /* requests; how the holder sees progress */
    uint64_t settled_seq;    /* every number below had its answer when this was stored: fillers begin here */
    uint64_t bytes_lost;     /* dirty bytes given up (ENOSPC at unmount ...), for the log and `cfs status` */
};

/* A request as it was read. Data of a WRITE begins on a page: the request starts at
 * head + ARENA_BIG_HEAD - (sizeof fuse_in_header + sizeof fuse_write_in). */
struct arena_big {
    uint64_t seq;            /* as in arena_small; for requests that stay here (long SETXATTR, waiting WRITE) */
    uint32_t deaths;         /* workers that died by a fault while executing it */
    uint32_t flags;          /* enum arena_request_flags */
    uint8_t pad[ARENA_PAGE_BYTES - 16];
    uint8_t head[ARENA_BIG_HEAD];
    uint8_t data[ARENA_BIG_DATA];
};
enum arena_request_flags {
    ARENA_INTERRUPTED = 1,   /* the kernel sent FUSE_INTERRUPT for it */
    ARENA_EXECUTING = 2,     /* cleared when the loop has left it waiting */
    ARENA_PARKED = 4,        /* waits for a lock */
    ARENA_GIVEN_UP = 8       /* its caller was killed and has EINTR; what was sent for it goes on to its end */
};

struct arena_small {
    uint32_t state;          /* 1: in use */
    uint32_t bytes;          /* of request */
    uint64_t seq;            /* number of its command, 0 none yet */
    uint64_t ticket;         /* lock that it waits for */
    uint32_t deaths;
    uint32_t flags;
    uint8_t pad[24];
    uint8_t request[ARENA_SMALL_REQUEST]; /* struct fuse_in_header first; 8-aligned */
};

/* fh given to the kernel = index | (uint64_t)generation << 32; generation starts at 1 and grows with each use. */
struct arena_handle {
    uint32_t state;          /* 1: in use */
    uint32_t generation;     /* kept while free */
    uint64_t ino;
    uint64_t unique;         /* request that made it */
    uint32_t open_flags;     /* O_* */
    uint32_t flags;          /* enum arena_handle_flags */
    uint64_t reported_error; /* count of the inode's write errors that this descriptor has been told */
    uint64_t spare[3];
};
enum arena_handle_flags {
    ARENA_HANDLE_DIR = 1,
    ARENA_HANDLE_LOCKED = 2, /* a lock was asked for through it */
    ARENA_HANDLE_ORPHAN = 4, /* its inode has no name left */
    ARENA_HANDLE_CLOSED = 8  /* the kernel released it; stays until the server has let the orphan go */
};

/* What the client knows of an inode that the server does not yet: one per inode with dirty pages, size or times,
 * or with an error to report. */
struct arena_inode {
    uint64_t ino;            /* the state word: 0 free */
    uint64_t size;           /* valid with ARENA_INODE_SIZE: absolute */
    int64_t mtime;           /* valid with ARENA_INODE_MTIME */
    uint32_t flags;          /* enum arena_inode_flags, one word */
    int32_t error;           /* last write error (negative), 0 none */
    uint64_t errors;         /* count of them */
    uint64_t spare[3];
};
enum arena_inode_flags { ARENA_INODE_SIZE = 1, ARENA_INODE_MTIME = 2, ARENA_INODE_KILL_PRIV = 4 };

/* A page of file data, 4 KiB at data_at + index * 4096. Only bytes [from, to) are valid. */
struct arena_page {
    uint64_t word;           /* the state word: arena_page_word(); 0 free */
    uint64_t ino;
    uint64_t number;         /* offset in the file / 4096 */
    uint64_t stamp;          /* of two for one place the higher one is newer */
};
enum arena_page_state { ARENA_PAGE_FREE = 0, ARENA_PAGE_DIRTY = 1, ARENA_PAGE_CLEAN = 2 };
static inline uint64_t arena_page_word(enum arena_page_state state, unsigned from, unsigned to)
{
    return (uint64_t)state << 32 | (uint64_t)from << 16 | to;
}
static inline enum arena_page_state arena_page_state_of(uint64_t word)
{
    return (enum arena_page_state)(word >> 32 & 0xff);
}
static inline unsigned arena_page_from(uint64_t word)
{
    return word >> 16 & 0xffff;
}
static inline unsigned arena_page_to(uint64_t word)
{
    return word & 0xffff;
}

/* A commit of data whose fragments are synced, from before it is sent until it is answered. Inline
 * content is not in here: it is sent again from the pages. */
struct arena_stripe {
    uint64_t id, nonce, slot_mask, length;
    uint32_t pg, epoch;
    uint8_t kind, k, m, pad[5];
};
struct arena_extent {
    uint64_t offset, length, stripe_offset;
    uint32_t stripe;         /* index into stripe[] */
    uint32_t pad;
};
struct arena_commit {
    uint64_t seq;            /* the state word: 0 free */
    uint64_t ino;
    uint64_t size;
    int64_t mtime;
    uint32_t flags;          /* enum arena_inode_flags: which of the above are sent; ARENA_COMMIT_INLINE */
    uint32_t n_stripes, n_extents, pad;
    struct arena_stripe stripe[ARENA_COMMIT_STRIPES];
    struct arena_extent extent[ARENA_COMMIT_EXTENTS];
};
enum { ARENA_COMMIT_INLINE = 8 };

struct arena {
    struct arena_header *h;
    struct arena_big *big;
    struct arena_small *small;
    struct arena_handle *handle;
    struct arena_inode *inode;
    struct arena_page *page;
    struct arena_commit *commit;
    uint8_t *data;           /* page i at data + i * ARENA_PAGE_BYTES */
    uint8_t *cache;
    int fd;
};

/* What a memory limit (bytes, arena and heap together) is split into; -EINVAL below 64 MiB, with the reason
 * in the log. */
int arena_plan(uint64_t limit_bytes, struct arena_sizes *out, uint64_t *heap_bytes);

/* Holder: makes, populates and locks it. Worker: maps what it was handed (checks magic, version, sizes). */
int arena_create(const struct arena_sizes *sizes, struct arena *out);
int arena_attach(int fd, struct arena *out);
/* A holder that takes over keeps all pages in memory, as the one before did. */
int arena_lock(struct arena *a);
void arena_detach(struct arena *a);

/* Stores a word that makes a change true, after everything before it. For tests, a publish has two sides, before and
 * after its store, counted from 1: CFS_DIE_AT=n in the environment kills the process at side n, CFS_DIE_EVERY=n at each
 * side with probability 1/n. */
void arena_publish32(uint32_t *word, uint32_t value);
void arena_publish64(uint64_t *word, uint64_t value);

/* "key=value" of the mount; NULL when absent. Set by the holder before the first worker starts. */
const char *arena_option(const struct arena *a, const char *key, char *out, size_t out_bytes);
int arena_set_option(struct arena *a, const char *key, const char *value);

#endif
