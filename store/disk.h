#ifndef CFS_STORE_DISK_H
#define CFS_STORE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Files: the seam under the Raft log and the segment store. All calls block; a
 * shell runs them on the thread that owns the disk, so a hung disk hangs alone.
 * Real side: disk_posix.h. Simulated side: test/lib/disk_mem.h (torn write, bit
 * rot, full, slow, crash that loses what was not synced). Paths are relative to the
 * disk's root directory. Negative errno on failure.
 *
 * On the real side an open file may be read and written by several threads at
 * once; close a file only when nobody uses it. */
struct disk;
struct disk_file;

enum {
    DISK_CREATE = 1,    /* make it if it is not there */
    DISK_EXCLUSIVE = 2, /* with CREATE: fail with -EEXIST if it is */
    DISK_DIRECT = 4,    /* O_DIRECT: offsets, lengths and memory in multiples of DISK_ALIGN,
                           or of disk_space.align_bytes where the caller looked */
    DISK_READ_ONLY = 8
};
enum { DISK_ALIGN = 4096 };

struct disk_space {
    uint64_t total_bytes;
    uint64_t free_bytes; /* for us: without what the filesystem keeps for root */
    uint64_t filesystem; /* identity of the filesystem: two servers on one count its space once */
    uint32_t align_bytes; /* what DISK_DIRECT files really need here: 512 to DISK_ALIGN */
};

struct disk_ops {
    int (*open)(struct disk *d, const char *path, int flags, struct disk_file **out);
    int (*rename)(struct disk *d, const char *from, const char *to);
    int (*unlink)(struct disk *d, const char *path);
    int (*make_dir)(struct disk *d, const char *path); /* 0 also when it is there */
    int (*sync_dir)(struct disk *d, const char *path);
    /* Calls visit for each name in the directory, in no order. */
    int (*list)(struct disk *d, const char *path, void (*visit)(const char *name, void *ctx),
                void *ctx);
    int (*space)(struct disk *d, struct disk_space *out);
    void (*close)(struct disk *d);

    /* Whole or an error: a short read past the end gives -ENODATA. */
    int (*read)(struct disk_file *f, void *to, size_t len, uint64_t at);
    int (*write)(struct disk_file *f, const struct iovec *iov, unsigned n, uint64_t at);
    int (*sync)(struct disk_file *f); /* data, and what is needed to read it again */
    int (*allocate)(struct disk_file *f, uint64_t at, uint64_t len); /* blocks, reading zero */
    int (*punch)(struct disk_file *f, uint64_t at, uint64_t len);    /* whole blocks back to the fs */
    int (*truncate)(struct disk_file *f, uint64_t size);
    int (*size)(struct disk_file *f, uint64_t *size, uint64_t *allocated_bytes);
    void (*file_close)(struct disk_file *f);
};
struct disk {
    const struct disk_ops *ops;
};
struct disk_file {
    const struct disk_ops *ops;
};

#endif
