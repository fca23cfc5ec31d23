#ifndef CFS_META_ACL_H
#define CFS_META_ACL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* POSIX.1e ACLs in the form of Linux's xattrs (le32 version 2, then le16 tag, le16 permissions,
 * le32 id per entry). Pure. */
enum { ACL_ENTRIES_MAX = 8000 };

/* -EINVAL unless it is an ACL that Linux accepts: entries in order, one of each base kind, a mask
 * where there are named entries. An empty value is none. */
int acl_validate(struct bytes acl);
/* The permission bits that it grants to owner, group (or mask) and others. *ret_extended: it says
 * more than those. */
uint32_t acl_mode(struct bytes acl, bool *ret_extended);
/* The ACL after chmod: owner, mask (else group) and others take the mode's bits. Changes the bytes.
 */
void acl_chmod(uint8_t *acl, size_t len, uint32_t mode);
/* A new inode's access ACL from the directory's default one and the mode asked for: both are cut to
 * what the other allows. Returns the mode's permission bits; changes the bytes. */
uint32_t acl_create(uint8_t *acl, size_t len, uint32_t mode);

#endif
