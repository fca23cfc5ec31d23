#ifndef CFS_META_REGISTRY_H
#define CFS_META_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* Chunk servers as the leader knows them: its memory, rebuilt after an election from what is replicated
 * (id, identity, address) and from heartbeats. A server is down when it was silent for 5 s, or its connection
 * broke and it was not back within 1 s. After an election all count as up until they had their 5 s. */
enum {
    REGISTRY_SILENT_MS = 5000,
    REGISTRY_GONE_MS = 1000,
    REGISTRY_DISKS_MAX = 64,
    REGISTRY_SERVERS_MAX = 1024
};
enum registry_server_state { SERVER_UP = 1, SERVER_DOWN = 2, SERVER_OUT = 3, SERVER_FULL = 4 };

struct registry_disk {
    uint8_t uuid[16];
    uint64_t total, free;
    uint64_t filesystem;      /* identity */
    uint64_t filesystem_free; /* 0: not said */
    uint32_t state;           /* 1 good, 2 full, 3 failed */
    char *path;
};

struct registry_server {
    uint32_t id;
    uint8_t uuid[16];
    char *address;
    char *domain;  /* NULL: its own */
    char *version; /* NULL: not heard since the election */
    enum registry_server_state state;
    uint64_t heard_ms; /* of the last heartbeat, by the loop's clock */
    bool heard;        /* at all since the election */
    const void *connection; /* identifies it; NULL: none */
    uint64_t gone_ms;       /* when the connection ended */
    struct registry_disk *disks;
    unsigned n_disks;
    uint64_t fragments, corrupt;
    struct buf counters; /* packed CountersReply */
    uint32_t slots;      /* placement group slots, counted by the service */
    uint32_t epochs_version;
    bool late;            /* did not do an order in time: nobody waits for it until it does one */
    bool owes;            /* may have deletions left that others of its group have done */
    bool owed_noted;      /* that it did some of them is on its way into the state */
    unsigned owed_orders; /* of these under way */
    const struct registry *registry;
    uint64_t stored_last, stored_before; /* registry.stored at its last two heartbeats */
};

struct registry {
    struct registry_server **servers; /* ascending ids */
    unsigned n;
    uint64_t stored; /* raw bytes that the service knows to have been written; only grows */
};

void registry_init(struct registry *r);
void registry_release(struct registry *r);

/* What is replicated about a server; new ones count as up from now_ms on. */
struct registry_server *registry_put(struct registry *r, uint32_t id, const uint8_t uuid[16],
                                     const char *address, const char *domain, uint64_t now_ms);
struct registry_server *registry_find(const struct registry *r, uint32_t id);
struct registry_server *registry_by_uuid(const struct registry *r, const uint8_t uuid[16]);

/* A heartbeat: true if its state changed (clients must hear of it). disks is taken over. */
bool registry_heard(struct registry_server *s, struct registry_disk *disks, unsigned n_disks,
                    const void *connection, uint64_t now_ms);
void registry_disks_free(struct registry_disk *disks, unsigned n);
void registry_gone(struct registry *r, const void *connection, uint64_t now_ms);
/* Looks at the clock: true if some state changed. */
bool registry_tick(struct registry *r, uint64_t now_ms);
/* The loop did not run for a while: nobody is blamed for that. */
void registry_forgive(struct registry *r, uint64_t now_ms);

unsigned registry_count_up(const struct registry *r); /* up or full */
/* Raw bytes of all disks of servers that are up; what one filesystem has counts once. Free: less what was stored
 * since the heartbeat before the last one, of which the last one may not tell yet. */
void registry_space(const struct registry *r, uint64_t *total, uint64_t *free_bytes);
uint64_t registry_untold(const struct registry *r); /* what was stored since */
/* Of that free space, what segments of the other kind of record may hold, so that it cannot be used: raw bytes. */
uint64_t registry_slack(const struct registry *r);

#endif
