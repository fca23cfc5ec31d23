#ifndef CFS_STORE_KV_LEVELDB_H
#define CFS_STORE_KV_LEVELDB_H

#include "store/kv.h"

/* The real side of kv.h: LevelDB 1.23 with a bloom filter, 32 MiB tables and the
 * environment wrapper (leveldb_env.cc) that syncs a log file before it is closed:
 * without it a power cut at a memtable switch can drop earlier batches and keep
 * later ones (facts.md). After a failed sync LevelDB refuses writes until reopened:
 * treat it as "stop". */
struct kv_leveldb_options {
    size_t write_buffer_bytes; /* default 64 MiB when 0 */
    size_t cache_bytes;        /* block cache; default 64 MiB when 0 */
    bool create;               /* make it if it is not there */
};
int kv_leveldb_open(const char *path, const struct kv_leveldb_options *options, struct kv **out);

#endif
