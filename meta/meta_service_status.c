#include "meta/meta_service_parts.h"

#include <stdlib.h>
#include <string.h>

#include "admin.pb-c.h"
#include "base/err.h"
#include "log.pb-c.h"
#include "meta/status.h"
#include "proto/methods.h"

/* A status is one trip to the store worker for its counts and sessions; the rest is here. */
struct asking {
    struct machine_read counters, sessions;
    struct meta_service *service;
    struct request *request;
    unsigned left;
};

/* All memory of one reply's rows: freed together. */
struct rows {
    void **block;
    unsigned n;
};

static void *rows_alloc(struct rows *r, size_t n, size_t size)
{
    void *p = xcalloc(n + 1, size);
    r->block = xrealloc(r->block, (r->n + 1) * sizeof r->block[0]);
    r->block[r->n++] = p;
    return p;
}

static void rows_release(struct rows *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        free(r->block[i]);
    }
    free(r->block);
}

static void fill_disks(struct rows *rows, const struct registry_server *s, Cfs__StatusReply__Chunk *c)
{
    Cfs__DiskRow *disks = rows_alloc(rows, s->n_disks, sizeof disks[0]);
    c->disk = rows_alloc(rows, s->n_disks, sizeof c->disk[0]);
    for (unsigned i = 0; i < s->n_disks; i++) {
        cfs__disk_row__init(&disks[i]);
        disks[i].uuid = (ProtobufCBinaryData){.len = 16, .data = s->disks[i].uuid};
        disks[i].total = s->disks[i].total;
        disks[i].free = s->disks[i].free;
        disks[i].filesystem = s->disks[i].filesystem;
        disks[i].state = s->disks[i].state;
        disks[i].path = s->disks[i].path;
        c->disk[c->n_disk++] = &disks[i];
    }
}

static void fill_chunks(const struct meta_service *s, struct rows *rows, Cfs__StatusReply *m)
{
    const unsigned n = s->registry.n;
    Cfs__StatusReply__Chunk *chunks = rows_alloc(rows, n, sizeof chunks[0]);
    Cfs__ServerRow *servers = rows_alloc(rows, n, sizeof servers[0]);
    m->chunk = rows_alloc(rows, n, sizeof m->chunk[0]);
    for (unsigned i = 0; i < n; i++) {
        const struct registry_server *r = s->registry.servers[i];
        Cfs__StatusReply__Chunk *c = &chunks[i];
        cfs__status_reply__chunk__init(c);
        cfs__server_row__init(&servers[i]);
        servers[i].id = r->id;
        servers[i].address = r->address;
        servers[i].state = (uint32_t)r->state;
        c->row = &servers[i];
        c->has_last_heard_ms = true;
        c->last_heard_ms = service_now(s) - r->heard_ms;
        c->has_fragments = true;
        c->fragments = r->fragments;
        c->has_corrupt = true;
        c->corrupt = r->corrupt;
        c->version = r->version;
        c->has_slots = true;
        c->slots = r->slots;
        c->counters = r->counters.len > 0
                          ? cfs__counters_reply__unpack(NULL, r->counters.len, r->counters.data)
                          : NULL;
        fill_disks(rows, r, c);
        m->chunk[m->n_chunk++] = c;
    }
}

static void fill_owed(const Cfs__FsmCounters *c, Cfs__StatusReply *m)
{
    for (size_t i = 0; i < c->n_owed; i++) {
        for (size_t k = 0; k < m->n_chunk; k++) {
            if (m->chunk[k]->row->id == c->owed[i]->server) {
                m->chunk[k]->has_garbage = true;
                m->chunk[k]->garbage = c->owed[i]->ids;
            }
        }
    }
}

static void fill_meta(const struct meta_service *s, struct rows *rows, Cfs__StatusReply *m)
{
    const struct machine_state state = machine_state(s->machine);
    Cfs__StatusReply__Meta *row = rows_alloc(rows, 1, sizeof *row);
    m->meta = rows_alloc(rows, 1, sizeof m->meta[0]);
    cfs__status_reply__meta__init(row);
    row->address = s->address;
    row->id = s->options.id;
    row->leader = true;
    row->applied = state.applied;
    row->has_log_bytes = row->has_state_bytes = row->has_memory_bytes = true;
    row->log_bytes = state.log_bytes;
    row->state_bytes = state.state_bytes;
    row->memory_bytes =
        s->options.memory != NULL ? s->options.memory(s->options.ctx) : state.memory_bytes;
    row->has_free_bytes = row->has_reserve_bytes = row->has_refusing_writes = true;
    row->free_bytes = state.free_bytes;
    row->reserve_bytes = state.reserve_bytes;
    row->refusing_writes = state.refusing;
    row->version = (char *)(uintptr_t)s->options.version;
    struct buf counters;
    buf_init(&counters);
    server_counters(s->options.server, &counters);
    row->counters = cfs__counters_reply__unpack(NULL, counters.len, counters.data);
    buf_release(&counters);
    m->meta[m->n_meta++] = row;
}

static void fill_clients(const struct meta_service *s, struct rows *rows, const Cfs__SessionList *list,
                         Cfs__StatusReply *m)
{
    Cfs__StatusReply__Client *clients = rows_alloc(rows, list->n_session, sizeof clients[0]);
    m->client = rows_alloc(rows, list->n_session, sizeof m->client[0]);
    for (size_t i = 0; i < list->n_session; i++) {
        const Cfs__SessionList__Session *from = list->session[i];
        const struct client *c = service_client(s, from->session);
        Cfs__StatusReply__Client *row = &clients[i];
        cfs__status_reply__client__init(row);
        row->session = from->session;
        row->host = from->open->host;
        row->mount_point = from->open->mount_point;
        row->version = from->open->version;
        row->has_locks = true;
        row->locks = from->locks;
        if (c != NULL) {
            row->has_last_renewed_ms = row->has_dirty_bytes = true;
            row->has_memory_bytes = row->has_memory_limit = true;
            row->last_renewed_ms = service_now(s) - c->renewed_ms;
            row->dirty_bytes = c->dirty_bytes;
            row->memory_bytes = c->memory_bytes;
            row->memory_limit = c->memory_limit;
        }
        m->client[m->n_client++] = row;
    }
}

static void fill_groups(const struct meta_service *s, Cfs__StatusReply *m)
{
    for (size_t i = 0; s->tables != NULL && i < s->tables->n_pg; i++) {
        const Cfs__PgRow *pg = s->tables->pg[i];
        unsigned up = 0;
        for (size_t k = 0; k < pg->n_slot; k++) {
            const struct registry_server *r = registry_find(&s->registry, pg->slot[k]);
            up += r != NULL && (r->state == SERVER_UP || r->state == SERVER_FULL);
        }
        m->groups++;
        m->groups_degraded += up < pg->n_slot;
        m->groups_unwritable += up < pg->m + 1;
    }
}

static void fill_counts(const struct meta_service *s, const Cfs__FsmCounters *c, Cfs__StatusReply *m)
{
    m->cluster = c->cluster;
    m->reign = c->reign;
    m->feature_level = c->feature_level;
    m->policy = c->policy;
    m->inodes = c->inodes;
    m->user_bytes = c->user_bytes;
    m->has_reserved_bytes = true;
    m->reserved_bytes = c->reserved_bytes;
    m->stripes = c->stripes;
    m->garbage_stripes = c->garbage_ids;
    m->bad_fragments = s->bad_count;
    uint64_t total = 0;
    uint64_t free_bytes = 0;
    registry_space(&s->registry, &total, &free_bytes);
    m->raw_total = total;
    m->raw_free = free_bytes;
}

static void answer(struct asking *a, const Cfs__FsmCounters *counters, const Cfs__SessionList *sessions)
{
    struct meta_service *s = a->service;
    Cfs__StatusReply m = CFS__STATUS_REPLY__INIT;
    struct rows rows = {0};
    fill_counts(s, counters, &m);
    fill_groups(s, &m);
    fill_meta(s, &rows, &m);
    fill_chunks(s, &rows, &m);
    fill_owed(counters, &m);
    fill_clients(s, &rows, sessions, &m);
    status_problems(&m, machine_state(s->machine).log_waiting);
    struct buf body;
    buf_init(&body);
    SERVICE_PACK(cfs__status_reply, &m, &body);
    request_reply(a->request, 0, buf_bytes(&body), NULL);
    buf_release(&body);
    status_problems_free(&m);
    cfs__counters_reply__free_unpacked(m.meta[0]->counters, NULL);
    for (size_t i = 0; i < m.n_chunk; i++) {
        cfs__counters_reply__free_unpacked(m.chunk[i]->counters, NULL);
    }
    rows_release(&rows);
}

static void asked(struct asking *a)
{
    if (--a->left > 0) {
        return;
    }
    const struct machine_read *c = &a->counters;
    const struct machine_read *l = &a->sessions;
    Cfs__FsmCounters *counters =
        c->rc == 0 ? cfs__fsm_counters__unpack(NULL, c->reply.len, c->reply.data) : NULL;
    Cfs__SessionList *sessions =
        l->rc == 0 ? cfs__session_list__unpack(NULL, l->reply.len, l->reply.data) : NULL;
    if (counters == NULL || sessions == NULL) {
        request_reply(a->request, c->rc != 0 ? c->rc : l->rc != 0 ? l->rc : ERR_CORRUPT, BYTES(NULL, 0),
                      NULL);
    } else {
        answer(a, counters, sessions);
    }
    cfs__fsm_counters__free_unpacked(counters, NULL);
    cfs__session_list__free_unpacked(sessions, NULL);
    buf_release(&a->counters.reply);
    buf_release(&a->sessions.reply);
    free(a);
}

static void counters_read(struct machine_read *m)
{
    asked(container_of(m, struct asking, counters));
}

static void sessions_read(struct machine_read *m)
{
    asked(container_of(m, struct asking, sessions));
}

static void handle_status(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    struct asking *a = xcalloc(1, sizeof *a);
    a->service = s;
    a->request = r;
    a->left = 2;
    a->counters = (struct machine_read){
        .method = FSM_QUERY_COUNTERS, .query = true, .on_done = counters_read};
    a->sessions = (struct machine_read){
        .method = FSM_QUERY_SESSIONS, .query = true, .on_done = sessions_read};
    buf_init(&a->counters.reply);
    buf_init(&a->sessions.reply);
    machine_read(s->machine, &a->counters);
    machine_read(s->machine, &a->sessions);
}

void service_status_init(struct meta_service *s)
{
    server_handle(s->options.server, METHOD_STATUS, handle_status, s);
}
