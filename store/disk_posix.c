#include "store/disk_posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"

enum { IOV_CHUNK = 64 };

struct posix_disk {
    struct disk disk;
    int root; /* directory that all paths are relative to */
    uint32_t align_bytes;
};

struct posix_file {
    struct disk_file file;
    int fd;
};

static int root_of(struct disk *d)
{
    return container_of(d, struct posix_disk, disk)->root;
}

static int fd_of(struct disk_file *f)
{
    return container_of(f, struct posix_file, file)->fd;
}

static const struct disk_ops POSIX_OPS;

static int posix_open(struct disk *d, const char *path, int flags, struct disk_file **out)
{
    int how = O_CLOEXEC | ((flags & DISK_READ_ONLY) != 0 ? O_RDONLY : O_RDWR);
    how |= (flags & DISK_CREATE) != 0 ? O_CREAT : 0;
    how |= (flags & DISK_EXCLUSIVE) != 0 ? O_EXCL : 0;
    int direct = (flags & DISK_DIRECT) != 0 ? O_DIRECT : 0;
    int fd = openat(root_of(d), path, how | direct, 0600);
    if (fd < 0 && errno == EINVAL && direct != 0) {
        /* A filesystem without O_DIRECT; it may have made the file before it refused. */
        fd = openat(root_of(d), path, how & ~O_EXCL, 0600);
    }
    if (fd < 0) {
        return -errno;
    }
    struct posix_file *f = xcalloc(1, sizeof *f);
    f->file.ops = &POSIX_OPS;
    f->fd = fd;
    *out = &f->file;
    return 0;
}

static int posix_rename(struct disk *d, const char *from, const char *to)
{
    return renameat(root_of(d), from, root_of(d), to) == 0 ? 0 : -errno;
}

static int posix_unlink(struct disk *d, const char *path)
{
    return unlinkat(root_of(d), path, 0) == 0 ? 0 : -errno;
}

static int posix_make_dir(struct disk *d, const char *path)
{
    return mkdirat(root_of(d), path, 0700) == 0 || errno == EEXIST ? 0 : -errno;
}

static int posix_sync_dir(struct disk *d, const char *path)
{
    int fd = openat(root_of(d), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    int rc = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return rc;
}

static int posix_list(struct disk *d, const char *path, void (*visit)(const char *name, void *ctx),
                      void *ctx)
{
    int fd = openat(root_of(d), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    errno = 0;
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            visit(e->d_name, ctx);
        }
        errno = 0;
    }
    int rc = -errno;
    closedir(dir);
    return rc;
}

/* The alignment for O_DIRECT of a file in the root; DISK_ALIGN when the kernel does not say. */
static uint32_t direct_align(int root)
{
    static const char NAME[] = ".cfs-align";
    uint32_t align = DISK_ALIGN;
    int fd = openat(root, NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return align;
    }
#ifdef STATX_DIOALIGN
    struct statx st;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
        (st.stx_mask & STATX_DIOALIGN) != 0 && st.stx_dio_offset_align >= 512 &&
        st.stx_dio_offset_align <= DISK_ALIGN && st.stx_dio_mem_align <= st.stx_dio_offset_align) {
        align = st.stx_dio_offset_align;
    }
#endif
    close(fd);
    (void)unlinkat(root, NAME, 0); /* an empty file left behind harms nobody */
    return align;
}

static int posix_space(struct disk *d, struct disk_space *out)
{
    struct statvfs vfs;
    struct stat st;
    if (fstatvfs(root_of(d), &vfs) != 0 || fstat(root_of(d), &st) != 0) {
        return -errno;
    }
    out->total_bytes = (uint64_t)vfs.f_blocks * vfs.f_frsize;
    out->free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    out->filesystem = vfs.f_fsid != 0 ? vfs.f_fsid : table_mix(st.st_dev);
    out->align_bytes = container_of(d, struct posix_disk, disk)->align_bytes;
    return 0;
}

static void posix_close(struct disk *d)
{
    close(root_of(d));
    free(container_of(d, struct posix_disk, disk));
}

static int posix_read(struct disk_file *f, void *to, size_t len, uint64_t at)
{
    uint8_t *p = to;
    while (len > 0) {
        ssize_t n = pread(fd_of(f), p, len, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0 ? -ENODATA : -errno;
        }
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* Drops the first n bytes of iov[*first..count). */
static void iov_advance(struct iovec *iov, unsigned count, unsigned *first, size_t n)
{
    while (*first < count && n >= iov[*first].iov_len) {
        n -= iov[*first].iov_len;
        (*first)++;
    }
    if (n > 0) {
        CHECK(*first < count);
        iov[*first].iov_base = (uint8_t *)iov[*first].iov_base + n;
        iov[*first].iov_len -= n;
    }
}

static int write_chunk(int fd, struct iovec *iov, unsigned count, uint64_t *at)
{
    for (unsigned first = 0; first < count;) {
        ssize_t n = pwritev(fd, iov + first, (int)(count - first), (off_t)*at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0 ? -EIO : -errno;
        }
        *at += (uint64_t)n;
        iov_advance(iov, count, &first, (size_t)n);
    }
    return 0;
}

static int posix_write(struct disk_file *f, const struct iovec *iov, unsigned n, uint64_t at)
{
    int rc = 0;
    while (n > 0 && rc == 0) {
        struct iovec chunk[IOV_CHUNK];
        unsigned count = n < IOV_CHUNK ? n : IOV_CHUNK;
        memcpy(chunk, iov, count * sizeof *iov);
        rc = write_chunk(fd_of(f), chunk, count, &at);
        iov += count;
        n -= count;
    }
    return rc;
}

static int posix_sync(struct disk_file *f)
{
    return fdatasync(fd_of(f)) == 0 ? 0 : -errno;
}

static int posix_allocate(struct disk_file *f, uint64_t at, uint64_t len)
{
    int rc;
    do {
        rc = fallocate(fd_of(f), 0, (off_t)at, (off_t)len);
    } while (rc != 0 && errno == EINTR);
    if (rc == 0 || errno != EOPNOTSUPP) {
        return rc == 0 ? 0 : -errno;
    }
    /* No allocation ahead on this filesystem: at least the length is there. */
    struct stat st;
    if (fstat(fd_of(f), &st) != 0) {
        return -errno;
    }
    off_t end = (off_t)(at + len);
    return st.st_size >= end || ftruncate(fd_of(f), end) == 0 ? 0 : -errno;
}

static int posix_punch(struct disk_file *f, uint64_t at, uint64_t len)
{
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    int rc;
    do {
        rc = fallocate(fd_of(f), mode, (off_t)at, (off_t)len);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

static int posix_truncate(struct disk_file *f, uint64_t size)
{
    return ftruncate(fd_of(f), (off_t)size) == 0 ? 0 : -errno;
}

static int posix_size(struct disk_file *f, uint64_t *size, uint64_t *allocated_bytes)
{
    struct stat st;
    if (fstat(fd_of(f), &st) != 0) {
        return -errno;
    }
    *size = (uint64_t)st.st_size;
    *allocated_bytes = (uint64_t)st.st_blocks * 512;
    return 0;
}

static void posix_file_close(struct disk_file *f)
{
    if (f != NULL) {
        close(fd_of(f));
        free(container_of(f, struct posix_file, file));
    }
}

static const struct disk_ops POSIX_OPS = {
    .open = posix_open,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .make_dir = posix_make_dir,
    .sync_dir = posix_sync_dir,
    .list = posix_list,
    .space = posix_space,
    .close = posix_close,
    .read = posix_read,
    .write = posix_write,
    .sync = posix_sync,
    .allocate = posix_allocate,
    .punch = posix_punch,
    .truncate = posix_truncate,
    .size = posix_size,
    .file_close = posix_file_close,
};

int disk_posix_open(const char *root, struct disk **out)
{
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    if (faccessat(fd, ".", R_OK | W_OK | X_OK, AT_EACCESS) != 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    struct posix_disk *d = xcalloc(1, sizeof *d);
    d->disk.ops = &POSIX_OPS;
    d->root = fd;
    d->align_bytes = direct_align(fd);
    *out = &d->disk;
    return 0;
}
