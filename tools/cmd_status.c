/* cfs status: one screen for people, everything for programs. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "admin.pb-c.h"
#include "base/mem.h"
#include "proto/methods.h"
#include "tools/ask.h"
#include "tools/cluster.h"
#include "tools/cmd.h"
#include "tools/json.h"

enum { CLIENTS_SHOWN = 10, PROBLEMS_SHOWN = 8 };

typedef char size_text[16];

static const char *server_state(uint32_t state)
{
    static const char *const NAMES[] = {"?", "up", "down", "out", "full"};
    return NAMES[state < array_count(NAMES) ? state : 0];
}

static const char *disk_state(uint32_t state)
{
    static const char *const NAMES[] = {"?", "good", "full", "failed"};
    return NAMES[state < array_count(NAMES) ? state : 0];
}

static uint64_t counter(const Cfs__CountersReply *c, const char *name)
{
    for (size_t i = 0; c != NULL && i < c->n_counter; i++) {
        if (strcmp(c->counter[i]->name, name) == 0) {
            return c->counter[i]->value;
        }
    }
    return 0;
}

/* ---- for people ---- */

static void print_head(const Cfs__StatusReply *s)
{
    printf("cluster   ");
    for (size_t i = 0; i < s->cluster.len && i < 8; i++) {
        printf("%02x", s->cluster.data[i]);
    }
    printf("   %s\n", s->n_problem == 0 ? "healthy" : "DEGRADED");
    for (size_t i = 0; i < s->n_problem && i < PROBLEMS_SHOWN; i++) {
        printf("          ! %s\n", s->problem[i]);
    }
    if (s->n_problem > PROBLEMS_SHOWN) {
        printf("          ! and %zu more (--json has all)\n", s->n_problem - PROBLEMS_SHOWN);
    }
    size_text user, total, free_text;
    printf("policy    %u+%u, files up to %u bytes in the metadata\n", s->policy->k, s->policy->m,
           s->policy->inline_limit);
    printf("space     %s raw, %s free; %s of data in %" PRIu64 " inodes\n",
           cmd_size(s->raw_total, total), cmd_size(s->raw_free, free_text),
           cmd_size(s->user_bytes, user), s->inodes);
    if (s->reserved_bytes > 0) {
        printf("          %s of it preallocated and not written: room is kept for that\n",
               cmd_size(s->reserved_bytes, user));
    }
    printf("groups    %u, %u degraded, %u take no writes\n", s->groups, s->groups_degraded,
           s->groups_unwritable);
    printf("stripes   %" PRIu64 ", %" PRIu64 " waiting to be deleted, %" PRIu64
           " bad fragments met by readers\n",
           s->stripes, s->garbage_stripes, s->bad_fragments);
}

static void print_meta(const Cfs__StatusReply *s)
{
    size_text log, state, memory, free_text;
    printf("\n%-5s %-21s %-8s %10s %9s %9s %9s %9s\n", "META", "ADDRESS", "ROLE", "APPLIED", "LOG",
           "STATE", "MEMORY", "FREE");
    for (size_t i = 0; i < s->n_meta; i++) {
        const Cfs__StatusReply__Meta *m = s->meta[i];
        printf("%-5u %-21s %-8s %10" PRIu64 " %9s %9s %9s %9s%s\n", m->id, m->address,
               m->leader ? "leader" : "replica", m->applied, cmd_size(m->log_bytes, log),
               cmd_size(m->state_bytes, state), cmd_size(m->memory_bytes, memory),
               cmd_size(m->free_bytes, free_text),
               m->refusing_writes ? "  REFUSES WRITES: below its reserve" : "");
    }
}

static void print_chunk(const Cfs__StatusReply__Chunk *c)
{
    uint64_t total = 0, left = 0;
    bool failed = false;
    for (size_t i = 0; i < c->n_disk; i++) {
        total += c->disk[i]->total;
        left += c->disk[i]->free;
        failed |= c->disk[i]->state == 3;
    }
    size_text total_text, free_text;
    printf("%-5u %-21s %-8s %6u %10" PRIu64 " %9s %9s %7" PRIu64 "  %.1f s ago%s\n", c->row->id,
           c->row->address, server_state(c->row->state), c->slots, c->fragments,
           cmd_size(total, total_text), cmd_size(left, free_text), c->corrupt,
           (double)c->last_heard_ms / 1000, failed ? "  DISK FAILED" : "");
    if (c->garbage > 0) {
        printf("%5s %" PRIu64 " stripes are deleted elsewhere and not yet here\n", "", c->garbage);
    }
}

static void print_client(const Cfs__StatusReply__Client *c)
{
    size_text dirty, memory, limit;
    printf("%-10" PRIu64 " %-16.16s %-24.24s %9s %9s of %-8s %5u  %.1f s ago\n", c->session, c->host,
           c->mount_point != NULL ? c->mount_point : "", cmd_size(c->dirty_bytes, dirty),
           cmd_size(c->memory_bytes, memory), cmd_size(c->memory_limit, limit), c->locks,
           (double)c->last_renewed_ms / 1000);
}

static void print_client_head(void)
{
    printf("%-10s %-16s %-24s %9s %9s    %-8s %5s  %s\n", "CLIENT", "HOST", "MOUNT", "DIRTY",
           "MEMORY", "LIMIT", "LOCKS", "RENEWED");
}

static void print_faults(const char *what, uint32_t id, const Cfs__CountersReply *c)
{
    bool head = false;
    for (size_t i = 0; c != NULL && i < c->n_counter; i++) {
        const char *name = c->counter[i]->name;
        bool many = strcmp(name, "connections.refused") == 0;
        if ((!many && strncmp(name, "fault.", 6) != 0) || c->counter[i]->value == 0) {
            continue;
        }
        printf(head ? ", " : "faults    %s %u refused: ", what, id);
        printf("%s %" PRIu64, many ? "too many connections" : name + 6, c->counter[i]->value);
        head = true;
    }
    if (head) {
        putchar('\n');
    }
}

static void print_people(const Cfs__StatusReply *s)
{
    print_head(s);
    print_meta(s);
    printf("\n%-5s %-21s %-8s %6s %10s %9s %9s %7s  %s\n", "CHUNK", "ADDRESS", "STATE", "SLOTS",
           "FRAGMENTS", "SIZE", "FREE", "CORRUPT", "HEARD");
    for (size_t i = 0; i < s->n_chunk; i++) {
        print_chunk(s->chunk[i]);
    }
    putchar('\n');
    print_client_head();
    for (size_t i = 0; i < s->n_client && i < CLIENTS_SHOWN; i++) {
        print_client(s->client[i]);
    }
    if (s->n_client > CLIENTS_SHOWN) {
        printf("... and %zu more (--json has all)\n", s->n_client - CLIENTS_SHOWN);
    }
    for (size_t i = 0; i < s->n_meta; i++) {
        print_faults("metadata server", s->meta[i]->id, s->meta[i]->counters);
    }
    for (size_t i = 0; i < s->n_chunk; i++) {
        print_faults("chunk server", s->chunk[i]->row->id, s->chunk[i]->counters);
    }
}

/* ---- for programs ---- */

static void json_counters(struct json *j, const Cfs__CountersReply *c)
{
    json_open(j, "counters", '{');
    for (size_t i = 0; c != NULL && i < c->n_counter; i++) {
        json_number(j, c->counter[i]->name, c->counter[i]->value);
    }
    json_close(j, '}');
}

static void json_meta(struct json *j, const Cfs__StatusReply__Meta *m)
{
    json_open(j, NULL, '{');
    json_number(j, "id", m->id);
    json_text(j, "address", m->address);
    json_bool(j, "leader", m->leader);
    json_number(j, "applied", m->applied);
    json_number(j, "log_bytes", m->log_bytes);
    json_number(j, "state_bytes", m->state_bytes);
    json_number(j, "memory_bytes", m->memory_bytes);
    json_number(j, "free_bytes", m->free_bytes);
    json_number(j, "reserve_bytes", m->reserve_bytes);
    json_bool(j, "refusing_writes", m->refusing_writes);
    json_text(j, "version", m->version);
    json_counters(j, m->counters);
    json_close(j, '}');
}

static void json_chunk(struct json *j, const Cfs__StatusReply__Chunk *c)
{
    json_open(j, NULL, '{');
    json_number(j, "id", c->row->id);
    json_text(j, "address", c->row->address);
    json_text(j, "state", server_state(c->row->state));
    json_number(j, "last_heard_ms", c->last_heard_ms);
    json_number(j, "fragments", c->fragments);
    json_number(j, "corrupt", c->corrupt);
    json_number(j, "slots", c->slots);
    json_number(j, "garbage_stripes", c->garbage);
    json_number(j, "memory_bytes", counter(c->counters, "memory.rss"));
    json_text(j, "version", c->version);
    json_open(j, "disks", '[');
    for (size_t i = 0; i < c->n_disk; i++) {
        json_open(j, NULL, '{');
        json_hex(j, "uuid", BYTES(c->disk[i]->uuid.data, c->disk[i]->uuid.len));
        json_text(j, "path", c->disk[i]->path);
        json_text(j, "state", disk_state(c->disk[i]->state));
        json_number(j, "total", c->disk[i]->total);
        json_number(j, "free", c->disk[i]->free);
        json_close(j, '}');
    }
    json_close(j, ']');
    json_counters(j, c->counters);
    json_close(j, '}');
}

static void json_client(struct json *j, const Cfs__StatusReply__Client *c)
{
    json_open(j, NULL, '{');
    json_number(j, "session", c->session);
    json_text(j, "host", c->host);
    json_text(j, "mount_point", c->mount_point);
    json_number(j, "last_renewed_ms", c->last_renewed_ms);
    json_number(j, "dirty_bytes", c->dirty_bytes);
    json_number(j, "memory_bytes", c->memory_bytes);
    json_number(j, "memory_limit", c->memory_limit);
    json_number(j, "locks", c->locks);
    json_text(j, "version", c->version);
    json_close(j, '}');
}

static void json_lists(struct json *j, const Cfs__StatusReply *s)
{
    json_open(j, "meta", '[');
    for (size_t i = 0; i < s->n_meta; i++) {
        json_meta(j, s->meta[i]);
    }
    json_close(j, ']');
    json_open(j, "chunks", '[');
    for (size_t i = 0; i < s->n_chunk; i++) {
        json_chunk(j, s->chunk[i]);
    }
    json_close(j, ']');
    json_open(j, "clients", '[');
    for (size_t i = 0; i < s->n_client; i++) {
        json_client(j, s->client[i]);
    }
    json_close(j, ']');
    json_open(j, "problems", '[');
    for (size_t i = 0; i < s->n_problem; i++) {
        json_text(j, NULL, s->problem[i]);
    }
    json_close(j, ']');
}

static void print_json(const Cfs__StatusReply *s)
{
    struct json j;
    json_init(&j);
    json_open(&j, NULL, '{');
    json_hex(&j, "cluster", BYTES(s->cluster.data, s->cluster.len));
    json_bool(&j, "healthy", s->n_problem == 0);
    json_number(&j, "reign", s->reign);
    json_number(&j, "feature_level", s->feature_level);
    json_open(&j, "policy", '{');
    json_number(&j, "k", s->policy->k);
    json_number(&j, "m", s->policy->m);
    json_number(&j, "inline_limit", s->policy->inline_limit);
    json_close(&j, '}');
    json_number(&j, "raw_total", s->raw_total);
    json_number(&j, "raw_free", s->raw_free);
    json_number(&j, "groups", s->groups);
    json_number(&j, "groups_degraded", s->groups_degraded);
    json_number(&j, "groups_unwritable", s->groups_unwritable);
    json_number(&j, "inodes", s->inodes);
    json_number(&j, "user_bytes", s->user_bytes);
    json_number(&j, "reserved_bytes", s->reserved_bytes);
    json_number(&j, "stripes", s->stripes);
    json_number(&j, "garbage_stripes", s->garbage_stripes);
    json_number(&j, "bad_fragments", s->bad_fragments);
    json_lists(&j, s);
    json_close(&j, '}');
    json_print(&j);
    json_release(&j);
}

static void print_clients(const Cfs__StatusReply *s)
{
    print_client_head();
    for (size_t i = 0; i < s->n_client; i++) {
        print_client(s->client[i]);
    }
}

static void print_clients_json(const Cfs__StatusReply *s)
{
    struct json j;
    json_init(&j);
    json_open(&j, NULL, '[');
    for (size_t i = 0; i < s->n_client; i++) {
        json_client(&j, s->client[i]);
    }
    json_close(&j, ']');
    json_print(&j);
    json_release(&j);
}

static int show(const struct cmd *c, void (*print)(const Cfs__StatusReply *s))
{
    if (c->argc != 0) {
        return cmd_usage("no argument is wanted; --cluster HOST:PORT names the cluster");
    }
    char addresses[CLUSTER_ADDRESSES];
    if (cluster_find(c->cluster, addresses) != 0) {
        return cmd_fail(
            "which cluster? Say --cluster HOST:PORT, set CFS_CLUSTER, go into a mount of it, or "
            "write `cluster = HOST:PORT` into /etc/cfs/cfs.conf");
    }
    struct ask *a = ask_new(addresses);
    struct bytes reply;
    Cfs__Empty request = CFS__EMPTY__INIT;
    int status = CMD_FAILED;
    if (cmd_call(a, METHOD_STATUS, &request.base, &reply) == 0) {
        Cfs__StatusReply *s = cfs__status_reply__unpack(NULL, reply.len, reply.data);
        if (s == NULL) {
            status = cmd_fail("%s sent a status that does not decode", addresses);
        } else {
            print(s);
            status = s->n_problem == 0 ? CMD_GOOD : CMD_DEGRADED;
            cfs__status_reply__free_unpacked(s, NULL);
        }
    }
    ask_free(a);
    return status;
}

int cmd_status(const struct cmd *c)
{
    return show(c, c->json ? print_json : print_people);
}

int cmd_clients(const struct cmd *c)
{
    return show(c, c->json ? print_clients_json : print_clients);
}
