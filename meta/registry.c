#include "meta/registry.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void registry_init(struct registry *r)
{
    *r = (struct registry){0};
}

void registry_disks_free(struct registry_disk *disks, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        free(disks[i].path);
    }
    free(disks);
}

static void server_free(struct registry_server *s)
{
    registry_disks_free(s->disks, s->n_disks);
    buf_release(&s->counters);
    free(s->address);
    free(s->domain);
    free(s->version);
    free(s);
}

void registry_release(struct registry *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        server_free(r->servers[i]);
    }
    free(r->servers);
    registry_init(r);
}

struct registry_server *registry_find(const struct registry *r, uint32_t id)
{
    unsigned low = 0;
    unsigned high = r->n;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (r->servers[middle]->id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < r->n && r->servers[low]->id == id ? r->servers[low] : NULL;
}

struct registry_server *registry_by_uuid(const struct registry *r, const uint8_t uuid[16])
{
    for (unsigned i = 0; i < r->n; i++) {
        if (memcmp(r->servers[i]->uuid, uuid, 16) == 0) {
            return r->servers[i];
        }
    }
    return NULL;
}

static struct registry_server *insert(struct registry *r, uint32_t id, uint64_t now_ms)
{
    struct registry_server *s = xcalloc(1, sizeof *s);
    s->id = id;
    s->registry = r;
    s->state = SERVER_UP;
    s->heard_ms = now_ms;
    s->owes = true; /* until a look tells */
    buf_init(&s->counters);
    r->servers = xrealloc(r->servers, (r->n + 1) * sizeof r->servers[0]);
    unsigned at = r->n++;
    while (at > 0 && r->servers[at - 1]->id > id) {
        r->servers[at] = r->servers[at - 1];
        at--;
    }
    r->servers[at] = s;
    return s;
}

struct registry_server *registry_put(struct registry *r, uint32_t id, const uint8_t uuid[16],
                                     const char *address, const char *domain, uint64_t now_ms)
{
    struct registry_server *s = registry_find(r, id);
    if (s == NULL) {
        s = insert(r, id, now_ms);
    }
    memcpy(s->uuid, uuid, 16);
    free(s->address);
    free(s->domain);
    s->address = xstrdup(address);
    s->domain = domain != NULL ? xstrdup(domain) : NULL;
    return s;
}

static enum registry_server_state alive(const struct registry_server *s)
{
    unsigned usable = 0;
    for (unsigned i = 0; i < s->n_disks; i++) {
        usable += s->disks[i].state == 1;
    }
    return s->n_disks > 0 && usable == 0 ? SERVER_FULL : SERVER_UP;
}

static bool set_state(struct registry_server *s, enum registry_server_state state)
{
    const bool changed = s->state != state;
    s->state = state;
    return changed;
}

static bool is_up(const struct registry_server *s)
{
    return s->state == SERVER_UP || s->state == SERVER_FULL;
}

bool registry_heard(struct registry_server *s, struct registry_disk *disks, unsigned n_disks,
                    const void *connection, uint64_t now_ms)
{
    registry_disks_free(s->disks, s->n_disks);
    s->disks = disks;
    s->n_disks = n_disks;
    s->connection = connection;
    const bool goes_on = s->heard && is_up(s);
    s->heard_ms = now_ms;
    s->stored_before = goes_on ? s->stored_last : s->registry->stored;
    s->stored_last = s->registry->stored;
    s->heard = true;
    return set_state(s, alive(s));
}

void registry_gone(struct registry *r, const void *connection, uint64_t now_ms)
{
    for (unsigned i = 0; i < r->n; i++) {
        if (r->servers[i]->connection == connection) {
            r->servers[i]->connection = NULL;
            r->servers[i]->gone_ms = now_ms;
        }
    }
}

bool registry_tick(struct registry *r, uint64_t now_ms)
{
    bool changed = false;
    for (unsigned i = 0; i < r->n; i++) {
        struct registry_server *s = r->servers[i];
        const bool silent = now_ms > s->heard_ms + REGISTRY_SILENT_MS;
        const bool gone = s->heard && s->connection == NULL && now_ms > s->gone_ms + REGISTRY_GONE_MS;
        if ((silent || gone) && s->state != SERVER_OUT) {
            changed = set_state(s, SERVER_DOWN) || changed;
        }
    }
    return changed;
}

void registry_forgive(struct registry *r, uint64_t now_ms)
{
    for (unsigned i = 0; i < r->n; i++) {
        if (r->servers[i]->state != SERVER_DOWN) {
            r->servers[i]->heard_ms = now_ms;
            r->servers[i]->gone_ms = now_ms;
        }
    }
}

unsigned registry_count_up(const struct registry *r)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->n; i++) {
        n += is_up(r->servers[i]);
    }
    return n;
}

struct filesystem {
    uint64_t id, total, free, limit, total_max;
};

static struct filesystem *filesystem_of(struct filesystem *list, unsigned *n, uint64_t id)
{
    for (unsigned i = 0; i < *n; i++) {
        if (list[i].id == id) {
            return &list[i];
        }
    }
    list[*n] = (struct filesystem){.id = id};
    return &list[(*n)++];
}

static void filesystem_add(struct filesystem *f, const struct registry_disk *d)
{
    f->total += d->total;
    f->free += d->free;
    f->total_max = f->total_max < d->total ? d->total : f->total_max;
    /* Of several who say how much the filesystem has left, the least is the newest truth. */
    if (d->filesystem_free > 0 && (f->limit == 0 || d->filesystem_free < f->limit)) {
        f->limit = d->filesystem_free;
    }
}

/* Committed stripes of which no heartbeat tells. A server's free space may be that of a moment before its heartbeat was
 * sent, hence the one before. */
uint64_t registry_untold(const struct registry *r)
{
    uint64_t since = r->stored;
    for (unsigned i = 0; i < r->n; i++) {
        const struct registry_server *s = r->servers[i];
        since = is_up(s) && s->heard && s->stored_before < since ? s->stored_before : since;
    }
    return r->stored - since;
}

uint64_t registry_slack(const struct registry *r)
{
    /* The segment that a chunk server keeps open for small records is 1/64 of its disk, 1 to 16 MiB; what it
     * allocates ahead for long ones is as much, 2 to 16 MiB (disk-format-chunk.md). */
    const uint64_t least = 3u << 20, most = 32u << 20;
    uint64_t sum = 0;
    for (unsigned i = 0; i < r->n; i++) {
        const struct registry_server *s = r->servers[i];
        for (unsigned k = 0; k < s->n_disks && is_up(s); k++) {
            const uint64_t part = s->disks[k].total / 32;
            sum += part < least ? least : part > most ? most : part;
        }
    }
    return sum;
}

/* Servers with a size of their own on one filesystem add up; together they have no more than it has. */
void registry_space(const struct registry *r, uint64_t *total, uint64_t *free_bytes)
{
    unsigned disks = 0;
    for (unsigned i = 0; i < r->n; i++) {
        disks += r->servers[i]->n_disks;
    }
    struct filesystem *list = xcalloc(disks + 1, sizeof list[0]);
    unsigned n = 0;
    for (unsigned i = 0; i < r->n; i++) {
        const struct registry_server *s = r->servers[i];
        for (unsigned k = 0; k < s->n_disks && is_up(s); k++) {
            if (s->disks[k].state != 3) {
                filesystem_add(filesystem_of(list, &n, s->disks[k].filesystem), &s->disks[k]);
            }
        }
    }
    *total = 0;
    *free_bytes = 0;
    for (unsigned i = 0; i < n; i++) {
        const bool limited = list[i].limit > 0 && list[i].free > list[i].limit;
        *free_bytes += limited ? list[i].limit : list[i].free;
        *total += limited ? list[i].total_max : list[i].total;
    }
    const uint64_t less = registry_untold(r);
    *free_bytes -= less < *free_bytes ? less : *free_bytes;
    free(list);
}
