/* Lookups of names that are not known cost a round trip each. After a few in one directory it is listed beside them, in
 * pieces that grow, as long as lookups go on asking: no more entries than 32 for each lookup that asked, so a directory of
 * 5,000 files is known whole after some 160 of them, and who looks up three names in a million reads none. A name that is
 * not in a directory known whole is absent without asking: `git status`, a compiler's search path, the new name of a rename.
 *
 * One directory at a time. It may change meanwhile: names.h, names_watch. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "fuse/ops_internal.h"
#include "proto/methods.h"

enum {
    DIRS = 64,
    MISSES_FIRST = 4,
    ENTRIES_PER_MISS = 32,
    BYTES_FIRST = 8192,
    BYTES_MOST = 65536,
    ENTRIES_MAX = OPS_NAMES_MAX / 2,
    PATIENCE = 64, /* lookups elsewhere until a listing that nobody needs any more is left */
    ROUNDS_WHOLE = 2,
    ROUNDS_MAX = 8
};

struct missed { /* a directory in which lookups ask */
    uint64_t ino, used;
    unsigned misses;
    unsigned rounds; /* listings so far; each takes eight times the misses of the one before to begin */
};

struct ahead {
    struct ops *o;
    struct missed dir[DIRS];
    uint64_t clock;
    /* the listing */
    uint64_t ino; /* 0: none */
    uint64_t after;
    unsigned fetched, bytes, misses_elsewhere;
    bool asking;
    struct session_read read;
    struct buf body;
};

static struct missed *missed_in(struct ahead *a, uint64_t ino)
{
    struct missed *oldest = &a->dir[0];
    for (unsigned i = 0; i < DIRS; i++) {
        if (a->dir[i].ino == ino) {
            oldest = &a->dir[i];
            break;
        }
        oldest = a->dir[i].used < oldest->used ? &a->dir[i] : oldest;
    }
    if (oldest->ino != ino) {
        *oldest = (struct missed){.ino = ino};
    }
    oldest->used = ++a->clock;
    return oldest;
}

static bool due(const struct missed *m)
{
    return m->rounds < ROUNDS_MAX && m->misses >= (unsigned)MISSES_FIRST << 3 * m->rounds;
}

static void begin(struct ahead *a, uint64_t ino)
{
    a->ino = ino;
    a->after = 0;
    a->fetched = 0;
    a->bytes = BYTES_FIRST;
    a->misses_elsewhere = 0;
    names_watch(a->o->names, ino);
}

/* Known whole, it may be lost again when other names need the room. */
static void end(struct ahead *a, bool whole)
{
    struct missed *m = missed_in(a, a->ino);
    m->misses = 0;
    m->rounds = whole && m->rounds >= ROUNDS_WHOLE ? ROUNDS_WHOLE : m->rounds + 1;
    a->ino = 0;
    names_watch(a->o->names, 0);
}

static void take(struct ahead *a, const Cfs__ReaddirReply *r)
{
    struct ops *o = a->o;
    for (size_t i = 0; i < r->n_entry; i++) {
        const Cfs__ReaddirReply__Entry *e = r->entry[i];
        if (e->attr != NULL && e->attr->ino == e->ino) {
            (void)itable_take_attr(o->c->itable, e->attr);
        }
        if (names_put_listed(o->names, a->ino, BYTES(e->name.data, e->name.len), e->ino) &&
            S_ISDIR(e->type)) {
            names_set_parent(o->names, e->ino, a->ino);
        }
        a->after = e->hash;
    }
    a->fetched += (unsigned)r->n_entry;
    a->bytes = a->bytes < BYTES_MOST ? a->bytes * 2 : a->bytes;
    const bool whole = names_watch_whole(o->names, a->ino);
    if (r->end && whole) {
        names_set_complete(o->names, a->ino, true);
    }
    if (r->end || !whole || a->fetched >= ENTRIES_MAX) {
        end(a, r->end && whole);
    }
}

static void listed(struct session_read *read)
{
    struct ahead *a = container_of(read, struct ahead, read);
    Cfs__ReaddirReply *reply =
        read->rc == 0 ? cfs__readdir_reply__unpack(NULL, read->reply.len, read->reply.data) : NULL;
    a->asking = false;
    if (reply != NULL && ops_listing_valid(reply, a->after)) {
        take(a, reply);
    } else {
        end(a, false);
    }
    if (reply != NULL) {
        cfs__readdir_reply__free_unpacked(reply, NULL);
    }
}

static void ask(struct ahead *a)
{
    Cfs__ReaddirRequest request = CFS__READDIR_REQUEST__INIT;
    request.session = session_id(a->o->c->session);
    request.ino = a->ino;
    request.after = a->after;
    request.max_bytes = a->bytes;
    request.has_plus = 1;
    request.plus = 1;
    buf_clear(&a->body);
    cfs__readdir_request__pack(
        &request, buf_extend(&a->body, cfs__readdir_request__get_packed_size(&request)));
    memset(&a->read, 0, sizeof a->read);
    a->read.method = METHOD_READDIR;
    a->read.body = buf_bytes(&a->body);
    a->read.on_done = listed;
    a->asking = true;
    session_read_start(a->o->c->session, &a->read);
}

void ahead_missed(struct ahead *a, uint64_t dir)
{
    if (a->o->ended || client_lease_ms(a->o->c, dir) == 0) {
        return;
    }
    struct missed *m = missed_in(a, dir);
    m->misses++;
    if (dir != a->ino) {
        if (a->ino != 0 && (a->asking || ++a->misses_elsewhere < PATIENCE)) {
            return;
        }
        if (!due(m)) {
            return;
        }
        if (a->ino != 0) {
            end(a, false);
        }
        begin(a, dir);
    }
    a->misses_elsewhere = 0;
    if (!a->asking && a->fetched <= m->misses * ENTRIES_PER_MISS) {
        ask(a);
    }
}

struct ahead *ahead_new(struct ops *o)
{
    struct ahead *a = xcalloc(1, sizeof *a);
    a->o = o;
    buf_init(&a->body);
    return a;
}

void ahead_free(struct ahead *a)
{
    if (a->asking) {
        session_read_cancel(&a->read);
    }
    buf_release(&a->body);
    free(a);
}
