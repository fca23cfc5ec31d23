#ifndef CFS_TEST_LIB_DISK_MEM_H
#define CFS_TEST_LIB_DISK_MEM_H

#include "store/disk.h"

/* The simulated side of disk.h: files in memory that fail, tear, rot, fill up, and
 * forget at a crash what was not synced. One thread. Deterministic by the seeds given.
 *
 * Every byte has two images: what a reader sees now, and what is on stable storage. A
 * crash decides per 512-byte sector that was written since the last sync whether it made it
 * (so writes are reordered and torn in every possible way), and puts names back to what the
 * last sync_dir of their directory saw (make_dir is durable at once). */
struct disk *disk_mem_new(uint64_t total_bytes);

/* From now on close leaves it all as it is, for the next "open" after a crash;
 * disk_mem_free frees it. */
void disk_mem_keep(struct disk *d);
void disk_mem_free(struct disk *d);

/* Arms a fault. Changing operations (write, sync, allocate, punch, truncate, rename, unlink,
 * sync_dir, and an open that creates) are counted from now, the next one is 0. */
struct disk_mem_fault {
    int at;      /* which one fails; -1: none */
    int rc;      /* with what; -EIO when 0 */
    bool sticky; /* all later ones too: the power is off until disk_mem_crash */
    bool torn;   /* a failing write leaves some of its sectors written */
    bool reads;  /* with sticky: reads fail too from then on */
    unsigned bad_reads; /* so many reads fail from now on, whatever `at` says */
};
void disk_mem_fault(struct disk *d, struct disk_mem_fault fault);
bool disk_mem_fired(const struct disk *d); /* whether it has failed anything */

/* Power cut. Of the sectors not synced about keep_percent survive (0: none, 100: all; 100 also
 * keeps all names: a mere kill of the process). Disarms the fault. Close every file
 * before or after it: open ones go on to work on what is left. */
void disk_mem_crash(struct disk *d, uint64_t seed, unsigned keep_percent);

/* Bit rot: xors one byte, on stable storage too. -ENOENT, -ENODATA past the end. */
int disk_mem_rot(struct disk *d, const char *path, uint64_t at, uint8_t mask);

void disk_mem_set_total(struct disk *d, uint64_t total_bytes); /* grow, or shrink to fill it up */
uint64_t disk_mem_used(const struct disk *d);

struct disk_mem_counts {
    unsigned changes, reads, writes, syncs;
    uint64_t bytes_written;
};
struct disk_mem_counts disk_mem_counts(const struct disk *d);

#endif
