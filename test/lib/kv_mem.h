#ifndef CFS_TEST_LIB_KV_MEM_H
#define CFS_TEST_LIB_KV_MEM_H

#include "store/kv.h"

/* The simulated side of kv.h: an ordered store in memory, with snapshots, that can
 * fail and can crash. One thread. Every operation is deterministic. */
struct kv *kv_mem_new(void);

/* From now on close leaves it all as it is, for the next "open" after a crash; kv_mem_free
 * frees it. */
void kv_mem_keep(struct kv *kv);
void kv_mem_free(struct kv *kv);

/* Arms a fault: the n-th write or sync from now (0: the next one) fails with -EIO
 * and changes nothing, and so do all after it, as a store that saw a failed sync
 * does. -1 disarms. */
void kv_mem_fail_at(struct kv *kv, int n);
bool kv_mem_failed(const struct kv *kv); /* whether the fault has fired */

/* Batches written and not yet covered by a sync. */
unsigned kv_mem_unsynced(const struct kv *kv);

/* Power cut and restart: forgets unsynced batches but the oldest `keep` of them (0: all
 * lost; UINT_MAX: a mere kill of the process). Disarms faults. No iterator or snapshot
 * may be open. The store itself stays, as the files of a real one do: use this
 * instead of close and open. */
void kv_mem_crash(struct kv *kv, unsigned keep);

/* Counts of calls, for tests that assert cost. */
struct kv_mem_counts {
    unsigned gets, writes, syncs, iterators;
};
struct kv_mem_counts kv_mem_counts(const struct kv *kv);

#endif
