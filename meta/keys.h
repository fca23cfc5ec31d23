#ifndef CFS_META_KEYS_H
#define CFS_META_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* Keys and hot values of the metadata store: docs/disk-format.md has the tables. Integers in keys
 * are big-endian, so that keys sort by number; in values little-endian. */
enum key_space {
    SPACE_SYSTEM = 1,    /* applied index, cluster, counters */
    SPACE_NAMESPACE = 2, /* volume, table, rest: the newest value */
    SPACE_HISTORY = 3,   /* the same with the snapshot number behind: older values */
    SPACE_VOLUME = 4,    /* volume rows; inode block -> volume */
    SPACE_STRIPE = 5,    /* stripes, back references, garbage */
    SPACE_SESSION = 6,   /* sessions, replies, orphans, id grants */
    SPACE_LOCK = 7,      /* locks, waiters and their indices */
    SPACE_REAP = 8,      /* dead inodes and cut ranges */
    SPACE_CLUSTER = 9    /* chunk servers, placement groups */
};
enum key_table {
    TABLE_INODE = 'i',  /* ino */
    TABLE_INLINE = 'c', /* ino: whole content of a small file */
    TABLE_DENTRY = 'd', /* parent, hash, name */
    TABLE_EXTENT = 'e', /* ino, end offset */
    TABLE_XATTR = 'x',  /* ino, name */
    TABLE_SYMLINK = 'l' /* ino: target */
};

enum { KEY_MAX = 320, KEY_NAME_MAX = 255, VALUE_VERSION = 1, INO_BLOCK = 65536 };

typedef uint64_t ino_id;
typedef uint64_t volume_id;

struct key {
    size_t len;
    uint8_t data[KEY_MAX];
};
static inline struct bytes key_bytes(const struct key *k)
{
    return BYTES(k->data, k->len);
}
/* Starts a key; then append. */
void key_start(struct key *k, uint8_t space, uint8_t table);
void key_start_ns(struct key *k, volume_id volume, uint8_t table);
void key_add_u32(struct key *k, uint32_t v);
void key_add_u64(struct key *k, uint64_t v);
void key_add_bytes(struct key *k, struct bytes b); /* CHECKs the length */
/* The history key of a namespace key: the value that was current up to `snapshot`. */
void key_history(struct key *k, struct bytes ns_key, uint64_t snapshot);
/* Does a table that there is have keys of this length? Every key that a scan of the store finds is
 * asked that before anybody reads it: key_u64_at CHECKs. */
bool key_valid(struct bytes key);
uint64_t key_u64_at(struct bytes key, size_t at);

/* 63-bit keyed hash of a name (SipHash-2-4), > 2: 0 starts a directory, 1 and 2 are "." and "..".
 */
uint64_t key_name_hash(const uint8_t key[16], struct bytes name);
uint64_t key_siphash(const uint8_t key[16], struct bytes data);

/* ---- values ---- */
enum inode_flags {
    INODE_INLINE = 1, /* content in TABLE_INLINE */
    INODE_XATTRS = 2,
    INODE_ACL = 4,
    INODE_DEFAULT_ACL = 8
};
struct inode {
    ino_id ino;       /* from the key */
    volume_id volume; /* from the key */
    uint32_t mode, nlink, uid, gid, rdev, flags;
    uint64_t size;      /* of a directory: 24 + name length per entry */
    uint64_t allocated; /* bytes that extents and inline content hold */
    uint64_t change;
    int64_t atime, mtime, ctime, btime; /* ns since 1970 */
    ino_id parent;                      /* of a directory; of its own for the root */
    uint64_t entries;                   /* of a directory */
    uint32_t xattr_bytes;
    uint32_t orphans;      /* sessions that hold it though it has no name */
    uint32_t inline_bytes; /* of allocated: what TABLE_INLINE holds */
    uint32_t cuts;         /* ranges whose extents are dead but not yet freed */
};
void inode_encode(struct buf *out, const struct inode *i, uint64_t born);
int inode_decode(struct bytes value, struct inode *out); /* leaves ino and volume */

enum extent_kind { EXTENT_STRIPE = 1, EXTENT_RESERVED = 2 };
struct extent {
    uint64_t start, end; /* in the file; end is in the key */
    uint64_t serial;     /* of its commit: a cut with a higher number kills it */
    uint8_t kind;
    uint32_t pg;
    uint64_t stripe;
    uint64_t stripe_offset;
};
void extent_encode(struct buf *out, const struct extent *e, uint64_t born);
int extent_decode(struct bytes value, uint64_t end, struct extent *out);

struct dentry {
    ino_id ino;
    uint32_t type; /* S_IFMT bits */
};
void dentry_encode(struct buf *out, const struct dentry *d, uint64_t born);
int dentry_decode(struct bytes value, struct dentry *out);

struct stripe_row {
    uint64_t family;
    uint8_t kind, k, m;
    uint64_t slot_mask, length, nonce;
    uint64_t refs, live_bytes;
};
void stripe_row_encode(struct buf *out, const struct stripe_row *s);
int stripe_row_decode(struct bytes value, struct stripe_row *out);

struct volume {
    volume_id id; /* from the key */
    ino_id root;
    uint64_t family;
    uint64_t snapshot; /* number under which values are born now */
    uint64_t serial;   /* goes up with every cut */
    uint64_t inodes, bytes;
    ino_id next_ino, block_end;
    uint32_t k, m, inline_limit;
};
void volume_encode(struct buf *out, const struct volume *v);
int volume_decode(struct bytes value, struct volume *out);

struct lock {
    uint64_t session, owner, handle;
    uint64_t start, end; /* end is inclusive */
    uint32_t kind, type, pid;
};
/* Part of the row of an inode's locks: meta/locks.c. */
void lock_encode(struct buf *out, const struct lock *l);
void lock_decode(struct cursor *c, struct lock *out);

/* Every namespace value starts with version and birth. */
int value_birth(struct bytes value, uint64_t *ret_born);
enum { VALUE_NS_HEADER = 9 };

#endif
