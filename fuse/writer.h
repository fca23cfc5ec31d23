#ifndef CFS_FUSE_WRITER_H
#define CFS_FUSE_WRITER_H

#include "fuse/itable.h"

/* Dirty data: from a FUSE WRITE to a committed extent (design.md, section 5).
 *
 * A WRITE copies into arena pages and is answered. A run of k MiB contiguous dirty bytes becomes an
 * RS stripe at once, pipelined; what is left goes at flush: RS when at least k x 16 KiB, else COPY,
 * else inline. Per stripe: k+m (or m+1) PUTs in parallel, no round trip before the data is out (ids
 * come from granted ranges); then one WriteOp for everything that is ready of that inode. Copies:
 * one into the pages, one into the socket. Syncs: one per fragment on its server, one of the
 * metadata log. */
struct writer *writer_new(struct client *c);
void writer_free(struct writer *w);
/* After a restart: takes all dirty pages of the arena (they are flushed again), and submits again
 * the commits that were under way. Called once, before any request is executed; see ops for the
 * order of numbers. */
void writer_rebuild(struct writer *w);
/* Makes the command of a commit record again, with its number; the caller submits all numbers in
 * order. */
struct command *writer_repeat_commit(struct writer *w, struct arena_commit *record);

/* The kernel's WRITE. 0: done. -EAGAIN: no room; wait for writer_wait and call again. -EFBIG,
 * -ENOSPC, -EDQUOT, -EIO. Needs attr (and inline content, if any) in the itable: -ENODATA says
 * fetch them first. */
enum { WRITER_KILL_PRIV = 1 };
int writer_write(struct writer *w, struct inode *in, uint64_t offset, struct bytes data,
                 unsigned flags);

struct writer_wait { /* the caller's memory until on_done */
    void (*on_done)(struct writer_wait *wait, int rc);
    struct list node;
    uint64_t upto; /* private */
    struct inode *inode;
    uint64_t started_ms; /* private */
    int kind, rc;        /* private */
};
/* on_done when there may be room again. */
void writer_wait_room(struct writer *w, struct writer_wait *wait);
void writer_wait_cancel(struct writer_wait *wait);

/* All that is dirty now of this inode (data, size, times) is durable: fragments synced, then
 * committed. rc: 0 or the error (also kept in the arena's inode record, for others that ask). */
void writer_flush(struct writer *w, struct inode *in, struct writer_wait *wait);
/* The same for all inodes: umount, sync. */
void writer_flush_all(struct writer *w, struct writer_wait *wait);
/* close: begin, do not wait. */
void writer_start(struct writer *w, struct inode *in);
/* (rc != 0: could not flush, not held.) Nothing of this inode is under way (in-flight PUTs and
 * commits ended; new ones held back until writer_resume): before truncate, fallocate, copy. If
 * flush is set everything dirty is committed first. */
void writer_quiesce(struct writer *w, struct inode *in, bool flush, struct writer_wait *wait);
void writer_resume(struct writer *w, struct inode *in);
/* Local part of a truncate: drops and trims dirty pages, sets no size at the server. */
void writer_truncate(struct writer *w, struct inode *in, uint64_t size);
/* A hole or zeroes in [offset, offset + length): drops dirty bytes there. */
void writer_discard(struct writer *w, struct inode *in, uint64_t offset, uint64_t length);
/* The inode is gone: what is dirty is dropped. */
void writer_forget(struct writer *w, struct inode *in);
/* An inline file must become one with extents (a command needs it): its content is made dirty and
 * flushed as stripes. */
void writer_outline(struct writer *w, struct inode *in, struct writer_wait *wait);

/* Dirty bytes over [offset, ...): copies the valid ones over `to`; what the reader calls last. */
void writer_overlay(struct writer *w, const struct inode *in, uint64_t offset, uint8_t *to,
                    size_t len);
/* Whether [offset, offset + len) is wholly dirty or cached in pages: then no read is needed. */
bool writer_covers(struct writer *w, const struct inode *in, uint64_t offset, size_t len);
/* Whether any page of the range is dirty or kept: then the overlay has something to say. */
bool writer_touches(struct writer *w, const struct inode *in, uint64_t offset, size_t len);
/* SEEK: the first dirty byte at or after offset, or UINT64_MAX. */
uint64_t writer_next_dirty(struct writer *w, const struct inode *in, uint64_t offset);
bool writer_dirty(const struct inode *in);
/* Pages that are kept though their content is committed: dropped in this range (the server's
 * content changed by a command, or the inode leaves the table). Dirty ones stay. */
void writer_drop_clean(struct writer *w, struct inode *in, uint64_t offset, uint64_t length);
/* st_blocks: bytes that are dirty and not yet counted by the server. */
uint64_t writer_dirty_bytes(struct writer *w, const struct inode *in);
uint64_t writer_total_dirty(const struct writer *w);
/* Acknowledged bytes that still need room in the cluster, as whole pages: not those that lie in
 * reserved extents. */
uint64_t writer_promised(const struct writer *w);
/* A reservation of so many bytes was asked for: until it is answered nothing else may be promised
 * them. Then `got` of them are reserved. */
void writer_reserve(struct writer *w, uint64_t bytes);
void writer_reserved(struct writer *w, uint64_t bytes, uint64_t got);
/* A write was answered -EAGAIN for want of space, and might still be one into reserved extents:
 * they have to be in the inode's cache. */
bool writer_wants_layout(const struct writer *w, const struct inode *in, uint64_t offset,
                         uint64_t len);
void writer_credit(struct writer *w, uint64_t credit_bytes); /* from a renewal of the session */
/* The server has ended the session: whoever waits is told -EIO (later, from the loop), nothing is
 * sent any more. Called again, does nothing. */
void writer_session_ended(struct writer *w);

#endif
