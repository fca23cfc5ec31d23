#ifndef CFS_FUSE_REQUEST_CHECK_H
#define CFS_FUSE_REQUEST_CHECK_H

#include <stdbool.h>
#include <stddef.h>

struct fuse_in_header;

/* Whether a request that lies in a record of `room` bytes has all that its opcode says it has: its arguments, its names with
 * their zeros, its data. The kernel's have; who decodes relies on it. setxattr_ext: as negotiated. */
bool request_check(const struct fuse_in_header *in, size_t room, bool setxattr_ext);

#endif
