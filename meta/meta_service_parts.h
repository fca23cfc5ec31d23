#ifndef CFS_META_META_SERVICE_PARTS_H
#define CFS_META_META_SERVICE_PARTS_H

#include "base/list.h"
#include "base/table.h"
#include "chunk.pb-c.h"
#include "meta.pb-c.h"
#include "meta/meta_service.h"
#include "meta/registry.h"

/* Shared by the files of the service only: meta_service (doors, reads, tables),
 * meta_service_session (sessions and commands), meta_service_chunk (chunk servers, placement),
 * meta_service_garbage (what they are to delete) and status. */
enum {
    SERVICE_LEASE_MS = 10000,
    SERVICE_TICK_MS = 250,
    SERVICE_GAP_MS = 1000,         /* the loop did not run for that long: all leases start again */
    SERVICE_SETTLE_MS = 400,       /* no new chunk server for so long: placement is planned */
    SERVICE_CREDIT_MAX = 4u << 30, /* raw bytes that one session is granted at a time */
    SERVICE_ORDERS_MAX = 512,      /* deletions under way that all of a group have to do */
    SERVICE_OWED_MAX = 64,         /* and of what one server owes */
    SERVICE_ORDER_RANGES = 1024,
    SERVICE_ORDER_IDS = 65536,
    SERVICE_ORDERS_PER_BEAT = 64,
    /* A beat's orders are to be done well within the time that counts as silence. */
    SERVICE_BEAT_RANGES = 4096,
    SERVICE_BEAT_IDS = 65536,
    SERVICE_ORDER_AGAIN_MS = 5000,
    /* Not done so long after it was first sent: the others go on without it. */
    SERVICE_ORDER_LATE_MS = 15000,
    SERVICE_OPEN_BYTES_MAX = 16 << 10, /* of a SessionOpen */
    SERVICE_TEXT_MAX = 255,            /* of what a chunk server says of itself */
    SERVICE_PATH_MAX = 4096,
    SERVICE_BAD_MAX = 256 /* bad fragments remembered */
};

struct client { /* a session, in the leader's memory */
    struct table_node node;
    uint64_t session;
    uint64_t proposed; /* highest sequence number handed to the machine, without a hole */
    uint64_t applied;  /* highest known to be applied */
    uint64_t renewed_ms;
    uint64_t credit;
    uint64_t dirty_bytes, memory_bytes, memory_limit;
    uint32_t locks;
    struct server_peer *connection; /* NULL: none */
    char *host, *mount_point, *version;
};

struct order { /* one deletion of dead ids of a group */
    struct list node;
    uint64_t number;
    uint32_t pg;
    uint32_t owed_by; /* 0: all servers of the group have to do it */
    Cfs__Uint64Range *ranges;
    unsigned n_ranges;
    uint64_t n_ids;
    struct {
        uint32_t server;
        bool done;
        uint64_t first_ms, sent_ms; /* when it was sent first and last; 0: never */
    } target[80];
    unsigned n_targets, n_done;
};

struct service_orders { /* for one heartbeat's answer */
    Cfs__DeleteOrder row[SERVICE_ORDERS_PER_BEAT];
    Cfs__DeleteOrder *list[SERVICE_ORDERS_PER_BEAT];
    unsigned n;
};

struct bad_fragment {
    uint32_t pg, slot, server, what;
    uint64_t stripe;
};

struct meta_service {
    struct meta_service_options options;
    struct machine *machine;
    char *address;
    bool leader, stopping;
    uint8_t cluster[16];
    bool cluster_known;
    uint32_t feature_level;

    struct table clients;
    bool sessions_known; /* the replicated ones are in the table */
    uint64_t tick_ms; /* when the tick last ran */
    struct timer tick;
    struct machine_read sessions_query;

    struct registry registry;
    Cfs__TablesReply *tables; /* as replicated; states are the registry's; NULL: not read yet */
    uint32_t tables_version;  /* of what clients are told: changes with states too */
    bool tables_reading, tables_again;
    struct machine_read tables_query, servers_query, counters_query;
    bool counters_reading;
    uint32_t epochs_version;  /* changes with the replicated tables */
    uint64_t settle_at_ms;
    bool planning;
    struct proposal groups;
    struct buf groups_body;

    struct list orders;
    unsigned n_orders; /* that all of a group have to do, also finished ones */
    uint64_t next_order;
    struct machine_read garbage_query, owed_query;
    struct buf garbage_request, owed_request;
    uint32_t owed_server; /* asked about */
    uint64_t owed_added; /* how often servers came to owe more */
    uint64_t owed_seen;  /* and how often before the question */
    bool garbage_reading, owed_reading, garbage_pending;
    uint32_t garbage_after; /* groups up to here were asked about in this round */
    uint64_t garbage_at_ms; /* not before */
    uint64_t reserved; /* bytes of reserved extents, as last applied */
    struct list garbage_done; /* orders whose end is to be proposed */
    struct proposal garbage;
    struct buf garbage_body;
    bool garbage_proposed;
    struct proposal reap;
    bool reaping, reap_pending;

    struct bad_fragment bad[SERVICE_BAD_MAX];
    unsigned n_bad;
    uint64_t bad_count;
};

/* Packs a protobuf message into a struct buf that is initialised. */
#define SERVICE_PACK(type, message, out) \
    ((void)type##__pack((message), buf_extend((out), type##__get_packed_size(message))))

static inline uint64_t service_now(const struct meta_service *s)
{
    return timers_now(s->options.timers);
}
static inline struct client *service_client(const struct meta_service *s, uint64_t session)
{
    for (struct table_node *n = table_find(&s->clients, table_mix(session)); n != NULL;
         n = table_next_same(n)) {
        struct client *c = container_of(n, struct client, node);
        if (c->session == session) {
            return c;
        }
    }
    return NULL;
}

/* True if this server leads; else the request is answered. */
bool service_leads(struct meta_service *s, struct request *r);
/* Answers with what an applied entry left: reply or refusal. */
void service_answer_effects(struct request *r, const struct proposal *p);
void service_tables_changed(struct meta_service *s, bool replicated);
/* Raw bytes that may still be granted: those for reserved extents are not among them. */
uint64_t service_raw_free(const struct meta_service *s);
/* How many bytes may be reserved in all, if `granted` raw bytes are promised to others. Hope: and perhaps `*hope` when the
 * next heartbeats have come. */
uint64_t service_reserve_max(const struct meta_service *s, uint64_t granted, uint64_t *hope);
/* The loop did not run for a while: nobody is late. Whoever judges by the clock looks first: after a pause
 * requests are read before the tick runs. */
void service_watch_gap(struct meta_service *s);
void service_counters(struct meta_service *s); /* refreshes what status and garbage know */

void service_session_init(struct meta_service *s);
void service_session_lead(struct meta_service *s);
void service_session_unlead(struct meta_service *s);
void service_session_applied(struct meta_service *s, const struct fsm_effects *e);
void service_session_gone(struct meta_service *s, const struct server_peer *p);
void service_session_tables(struct meta_service *s); /* tells all of new tables */
void service_session_forgive(struct meta_service *s);

void service_chunk_init(struct meta_service *s);
void service_chunk_lead(struct meta_service *s);
void service_chunk_unlead(struct meta_service *s);
void service_chunk_applied(struct meta_service *s, const struct fsm_effects *e);
void service_chunk_tick(struct meta_service *s);
void service_chunk_tables(struct meta_service *s); /* the replicated tables were read */
void service_chunk_policy_set(struct meta_service *s, struct request *r);

void service_garbage_init(struct meta_service *s);
void service_garbage_release(struct meta_service *s);
void service_garbage_lead(struct meta_service *s);
void service_garbage_unlead(struct meta_service *s);
void service_garbage_applied(struct meta_service *s, const struct fsm_effects *e);
void service_garbage_tick(struct meta_service *s);
/* A heartbeat: these orders are done. */
void service_garbage_beat(struct meta_service *s, struct registry_server *server,
                          const uint64_t *done, size_t n_done);
/* What this server is to delete, for the answer; released by the second. */
void service_garbage_pick(struct meta_service *s, uint32_t server, struct service_orders *out);
void service_garbage_picked(struct service_orders *o);

void service_status_init(struct meta_service *s);

#endif
