#include "fuse/request_check.h"

#include <linux/fuse.h>
#include <stdint.h>
#include <string.h>

/* What follows the header: arguments of a fixed size, then names, then data whose length an argument says. */
struct shape {
    uint8_t arguments, names;
};

static const struct shape SHAPES[] = {
    [FUSE_LOOKUP] = {0, 1},
    [FUSE_FORGET] = {sizeof(struct fuse_forget_in), 0},
    [FUSE_GETATTR] = {sizeof(struct fuse_getattr_in), 0},
    [FUSE_SETATTR] = {sizeof(struct fuse_setattr_in), 0},
    [FUSE_SYMLINK] = {0, 2},
    [FUSE_MKNOD] = {sizeof(struct fuse_mknod_in), 1},
    [FUSE_MKDIR] = {sizeof(struct fuse_mkdir_in), 1},
    [FUSE_UNLINK] = {0, 1},
    [FUSE_RMDIR] = {0, 1},
    [FUSE_RENAME] = {sizeof(struct fuse_rename_in), 2},
    [FUSE_LINK] = {sizeof(struct fuse_link_in), 1},
    [FUSE_OPEN] = {sizeof(struct fuse_open_in), 0},
    [FUSE_READ] = {sizeof(struct fuse_read_in), 0},
    [FUSE_WRITE] = {sizeof(struct fuse_write_in), 0},
    [FUSE_RELEASE] = {sizeof(struct fuse_release_in), 0},
    [FUSE_FSYNC] = {sizeof(struct fuse_fsync_in), 0},
    [FUSE_SETXATTR] = {FUSE_COMPAT_SETXATTR_IN_SIZE, 1},
    [FUSE_GETXATTR] = {sizeof(struct fuse_getxattr_in), 1},
    [FUSE_LISTXATTR] = {sizeof(struct fuse_getxattr_in), 0},
    [FUSE_REMOVEXATTR] = {0, 1},
    [FUSE_FLUSH] = {sizeof(struct fuse_flush_in), 0},
    [FUSE_INIT] = {offsetof(struct fuse_init_in, flags2), 0},
    [FUSE_OPENDIR] = {sizeof(struct fuse_open_in), 0},
    [FUSE_READDIR] = {sizeof(struct fuse_read_in), 0},
    [FUSE_RELEASEDIR] = {sizeof(struct fuse_release_in), 0},
    [FUSE_FSYNCDIR] = {sizeof(struct fuse_fsync_in), 0},
    [FUSE_GETLK] = {sizeof(struct fuse_lk_in), 0},
    [FUSE_SETLK] = {sizeof(struct fuse_lk_in), 0},
    [FUSE_SETLKW] = {sizeof(struct fuse_lk_in), 0},
    [FUSE_ACCESS] = {sizeof(struct fuse_access_in), 0},
    [FUSE_CREATE] = {sizeof(struct fuse_create_in), 1},
    [FUSE_INTERRUPT] = {sizeof(struct fuse_interrupt_in), 0},
    [FUSE_BMAP] = {sizeof(struct fuse_bmap_in), 0},
    [FUSE_IOCTL] = {sizeof(struct fuse_ioctl_in), 0},
    [FUSE_POLL] = {sizeof(struct fuse_poll_in), 0},
    [FUSE_BATCH_FORGET] = {sizeof(struct fuse_batch_forget_in), 0},
    [FUSE_FALLOCATE] = {sizeof(struct fuse_fallocate_in), 0},
    [FUSE_READDIRPLUS] = {sizeof(struct fuse_read_in), 0},
    [FUSE_RENAME2] = {sizeof(struct fuse_rename2_in), 2},
    [FUSE_LSEEK] = {sizeof(struct fuse_lseek_in), 0},
    [FUSE_COPY_FILE_RANGE] = {sizeof(struct fuse_copy_file_range_in), 0},
    [FUSE_TMPFILE] = {sizeof(struct fuse_create_in), 1},
};

/* Of data behind arguments and names. */
static uint64_t data_said(const struct fuse_in_header *in)
{
    const void *arguments = in + 1;
    switch (in->opcode) {
    case FUSE_WRITE:
        return ((const struct fuse_write_in *)arguments)->size;
    case FUSE_SETXATTR:
        return ((const struct fuse_setxattr_in *)arguments)->size;
    case FUSE_IOCTL:
        return ((const struct fuse_ioctl_in *)arguments)->in_size;
    case FUSE_BATCH_FORGET:
        return (uint64_t)((const struct fuse_batch_forget_in *)arguments)->count *
               sizeof(struct fuse_forget_one);
    default:
        return 0;
    }
}

bool request_check(const struct fuse_in_header *in, size_t room, bool setxattr_ext)
{
    if (in->len < sizeof *in || in->len > room) {
        return false;
    }
    if (in->opcode == FUSE_NOTIFY_REPLY) {
        return false; /* nobody asks for one, and it would never be answered */
    }
    if (in->opcode >= sizeof SHAPES / sizeof SHAPES[0]) {
        return true; /* nobody knows it: it is answered ENOSYS unseen */
    }
    struct shape shape = SHAPES[in->opcode];
    if (in->opcode == FUSE_SETXATTR && setxattr_ext) {
        shape.arguments = sizeof(struct fuse_setxattr_in);
    }
    const uint8_t *at = (const uint8_t *)(in + 1);
    size_t left = in->len - sizeof *in;
    if (left < shape.arguments) {
        return false;
    }
    at += shape.arguments;
    left -= shape.arguments;
    for (unsigned i = 0; i < shape.names; i++) {
        const uint8_t *zero = memchr(at, 0, left);
        if (zero == NULL) {
            return false;
        }
        left -= (size_t)(zero + 1 - at);
        at = zero + 1;
    }
    return data_said(in) <= left;
}
