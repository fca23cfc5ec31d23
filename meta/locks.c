#include "meta/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"

/* Rows, all under SPACE_LOCK:
 *   'l' ino                    all that is held or waits on an inode
 *   't' session, ticket        -> ino: for cancel
 *   'o' session, owner, ticket -> ino: what a posix owner waits for, for the search of deadlocks
 *   's' session, ino           this session holds or waits for something there
 * All of an inode's locks are one row, loaded, changed in memory and stored again: they are few,
 * and a row for each would leave thousands of deleted keys to walk over (SQLite locks and unlocks
 * for each transaction). fcntl and OFD locks conflict with each other, flock only with flock. A
 * lock that goes or shrinks lets waiters through in the order of their tickets, each that no longer
 * conflicts. */

enum {
    KIND_POSIX = 1,
    KIND_FLOCK = 2,
    KIND_OFD = 3,
    LOCKS_INODE_MAX = 4096, /* each change writes the row again */
    LOCKS_ROW_MAX = 65536,  /* more of a kind is no row of ours */
    DEADLOCK_STEPS = 256
};

struct entry {
    uint64_t id; /* ticket of a waiting one; 0 */
    struct lock l;
};
struct entries {
    struct entry *v;
    size_t n, cap;
};
struct lock_set {
    struct fsm *f;
    ino_id ino;
    struct entries held, waiting;
};

/* ---- rows --------------------------------------------------------------------------- */

static void set_key(struct key *k, ino_id ino)
{
    key_start(k, SPACE_LOCK, 'l');
    key_add_u64(k, ino);
}

static void ticket_key(struct key *k, uint64_t session, uint64_t ticket)
{
    key_start(k, SPACE_LOCK, 't');
    key_add_u64(k, session);
    key_add_u64(k, ticket);
}

static void owner_key(struct key *k, const struct lock *l, uint64_t ticket)
{
    key_start(k, SPACE_LOCK, 'o');
    key_add_u64(k, l->session);
    key_add_u64(k, l->owner);
    key_add_u64(k, ticket);
}

static void session_key(struct key *k, uint64_t session, ino_id ino)
{
    key_start(k, SPACE_LOCK, 's');
    key_add_u64(k, session);
    key_add_u64(k, ino);
}

static void put_ino(struct fsm *f, const struct key *k, ino_id ino)
{
    uint8_t value[9] = {VALUE_VERSION};
    put_le64(value + 1, ino);
    rows_put(f, k, BYTES(value, sizeof value));
}

static void entries_add(struct entries *e, uint64_t id, const struct lock *l)
{
    if (e->n == e->cap) {
        e->cap = e->cap == 0 ? 8 : e->cap * 2;
        e->v = xrealloc(e->v, e->cap * sizeof *e->v);
    }
    e->v[e->n++] = (struct entry){.id = id, .l = *l};
}

static void entries_remove(struct entries *e, size_t at)
{
    for (; at + 1 < e->n; at++) {
        e->v[at] = e->v[at + 1];
    }
    e->n--;
}

static bool decode_entries(struct cursor *c, struct entries *out, bool tickets)
{
    uint64_t n = cursor_varint(c);
    if (n > LOCKS_ROW_MAX) {
        return false;
    }
    for (uint64_t i = 0; i < n && !c->bad; i++) {
        struct lock l;
        uint64_t ticket = tickets ? cursor_le64(c) : 0;
        lock_decode(c, &l);
        entries_add(out, ticket, &l);
    }
    return !c->bad;
}

static int set_load(struct fsm *f, ino_id ino, struct lock_set *out)
{
    *out = (struct lock_set){.f = f, .ino = ino};
    struct key k;
    set_key(&k, ino);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    struct cursor c = cursor_of(buf_bytes(&f->value));
    bool good = cursor_u8(&c) == VALUE_VERSION && decode_entries(&c, &out->held, false) &&
                decode_entries(&c, &out->waiting, true) && c.at == c.end;
    return good ? 0 : fsm_note(f, ERR_CORRUPT);
}

static void set_store(struct lock_set *s)
{
    struct key k;
    set_key(&k, s->ino);
    if (s->held.n + s->waiting.n == 0) {
        rows_delete(s->f, &k);
        return;
    }
    struct buf *b = &s->f->scratch;
    buf_clear(b);
    buf_u8(b, VALUE_VERSION);
    buf_varint(b, s->held.n);
    for (size_t i = 0; i < s->held.n; i++) {
        lock_encode(b, &s->held.v[i].l);
    }
    buf_varint(b, s->waiting.n);
    for (size_t i = 0; i < s->waiting.n; i++) {
        buf_le64(b, s->waiting.v[i].id);
        lock_encode(b, &s->waiting.v[i].l);
    }
    rows_put(s->f, &k, buf_bytes(b));
}

static void set_release(struct lock_set *s)
{
    free(s->held.v);
    free(s->waiting.v);
}

/* Stores the row, and keeps the session's index row true, after a change. */
static void set_finish(struct lock_set *s, uint64_t session)
{
    set_store(s);
    bool any = false;
    for (size_t i = 0; i < s->held.n && !any; i++) {
        any = s->held.v[i].l.session == session;
    }
    for (size_t i = 0; i < s->waiting.n && !any; i++) {
        any = s->waiting.v[i].l.session == session;
    }
    struct key k;
    session_key(&k, session, s->ino);
    if (any) {
        rows_put_mark(s->f, &k);
    } else {
        rows_delete(s->f, &k);
    }
}

/* ---- held locks ------------------------------------------------------------------------ */

static void held_add(struct lock_set *s, const struct lock *l)
{
    entries_add(&s->held, 0, l);
    *fsm_counter(s->f, COUNT_LOCKS) += 1;
}

static void held_remove(struct lock_set *s, size_t at)
{
    entries_remove(&s->held, at);
    *fsm_counter(s->f, COUNT_LOCKS) -= 1;
}

static bool same_owner(const struct lock *a, const struct lock *b)
{
    return a->session == b->session && a->kind == b->kind && a->owner == b->owner;
}

static bool overlap(const struct lock *a, const struct lock *b)
{
    return a->start <= b->end && b->start <= a->end;
}

static bool conflict(const struct lock *a, const struct lock *b)
{
    bool flocks = a->kind == KIND_FLOCK, other = b->kind == KIND_FLOCK;
    return flocks == other && !same_owner(a, b) && overlap(a, b) &&
           (a->type == F_WRLCK || b->type == F_WRLCK);
}

static const struct lock *find_conflict(const struct lock_set *s, const struct lock *l)
{
    for (size_t i = 0; i < s->held.n; i++) {
        if (conflict(&s->held.v[i].l, l)) {
            return &s->held.v[i].l;
        }
    }
    return NULL;
}

/* Gives [l.start, l.end] of this owner the type of l (F_UNLCK: none): neighbours of one kind become
 * one lock, others are cut. */
static void held_set(struct lock_set *s, struct lock l)
{
    size_t n = s->held.n; /* what is added below is already right */
    for (size_t i = 0; i < n;) {
        struct lock old = s->held.v[i].l;
        bool alike = old.type == l.type && old.handle == l.handle;
        bool touching = alike && (old.end + 1 == l.start || l.end + 1 == old.start);
        if (!same_owner(&old, &l) || (!overlap(&old, &l) && !touching)) {
            i++;
            continue;
        }
        held_remove(s, i);
        n--;
        if (alike) {
            l.start = old.start < l.start ? old.start : l.start;
            l.end = old.end > l.end ? old.end : l.end;
            continue;
        }
        struct lock left = old, right = old;
        if (old.start < l.start) {
            left.end = l.start - 1;
            held_add(s, &left);
        }
        if (old.end > l.end) {
            right.start = l.end + 1;
            held_add(s, &right);
        }
    }
    if (l.type != F_UNLCK) {
        held_add(s, &l);
    }
}

/* ---- waiters --------------------------------------------------------------------------------- */

static uint64_t waiting_add(struct lock_set *s, const struct lock *l)
{
    struct fsm *f = s->f;
    uint64_t ticket = (*fsm_counter(f, COUNT_NEXT_TICKET))++;
    struct key k;
    ticket_key(&k, l->session, ticket);
    put_ino(f, &k, s->ino);
    if (l->kind == KIND_POSIX) {
        owner_key(&k, l, ticket);
        put_ino(f, &k, s->ino);
    }
    entries_add(&s->waiting, ticket, l);
    return ticket;
}

static void waiting_remove(struct lock_set *s, size_t at)
{
    struct entry e = s->waiting.v[at];
    struct key k;
    ticket_key(&k, e.l.session, e.id);
    rows_delete(s->f, &k);
    if (e.l.kind == KIND_POSIX) {
        owner_key(&k, &e.l, e.id);
        rows_delete(s->f, &k);
    }
    entries_remove(&s->waiting, at);
}

/* Lets through who no longer conflicts. A grant can free something too (a downgrade), hence the
 * rounds. */
static void wake(struct lock_set *s)
{
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < s->waiting.n;) {
            struct entry e = s->waiting.v[i];
            if (find_conflict(s, &e.l) != NULL) {
                i++;
                continue;
            }
            waiting_remove(s, i);
            held_set(s, e.l);
            buf_le64(&s->f->effects->granted, e.l.session);
            buf_le64(&s->f->effects->granted, e.id);
            again = true;
        }
    }
}

/* ---- deadlocks
 * ----------------------------------------------------------------------------------- */

struct owner {
    uint64_t session, owner;
};
struct search {
    struct owner start;
    struct owner seen[DEADLOCK_STEPS];
    unsigned n, at;
    bool found;
    const struct owner *current;
};

static void search_add(struct search *s, const struct lock *holder)
{
    if (holder->kind != KIND_POSIX) {
        return;
    }
    struct owner o = {holder->session, holder->owner};
    if (o.session == s->start.session && o.owner == s->start.owner) {
        s->found = true;
        return;
    }
    for (unsigned i = 0; i < s->n; i++) {
        if (s->seen[i].session == o.session && s->seen[i].owner == o.owner) {
            return;
        }
    }
    if (s->n < DEADLOCK_STEPS) {
        s->seen[s->n++] = o;
    }
}

static void search_conflicts(struct search *search, const struct lock_set *s, const struct lock *l)
{
    for (size_t i = 0; i < s->held.n; i++) {
        if (conflict(&s->held.v[i].l, l)) {
            search_add(search, &s->held.v[i].l);
        }
    }
}

static int search_wait(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct search *search = ctx;
    if (value.len != 9) {
        return fsm_note(f, ERR_CORRUPT);
    }
    uint64_t ticket = key_u64_at(key, 18);
    struct lock_set s;
    int rc = set_load(f, get_le64(value.data + 1), &s);
    for (size_t i = 0; rc == 0 && i < s.waiting.n; i++) {
        if (s.waiting.v[i].id == ticket) {
            search_conflicts(search, &s, &s.waiting.v[i].l);
        }
    }
    set_release(&s);
    return rc < 0 ? rc : search->found;
}

/* Would waiting for `l` close a circle? Follows who waits for whom, a bounded number of owners. */
static int deadlock(const struct lock_set *s, const struct lock *l, bool *out)
{
    struct search *search = xcalloc(1, sizeof *search);
    search->start = (struct owner){l->session, l->owner};
    search_conflicts(search, s, l);
    int rc = 0;
    for (; rc == 0 && !search->found && search->at < search->n; search->at++) {
        struct key prefix;
        key_start(&prefix, SPACE_LOCK, 'o');
        key_add_u64(&prefix, search->seen[search->at].session);
        key_add_u64(&prefix, search->seen[search->at].owner);
        rc = rows_each(s->f, &prefix, search_wait, search);
    }
    *out = search->found;
    free(search);
    return rc;
}

/* ---- operations
 * -------------------------------------------------------------------------------------- */

static int lock_of(const Cfs__LockOp *op, uint64_t session, struct lock *out)
{
    if (op->kind < KIND_POSIX || op->kind > KIND_OFD || op->type > F_UNLCK || op->start > op->end) {
        return -EINVAL;
    }
    *out = (struct lock){.session = session,
                         .owner = op->owner,
                         .handle = op->handle,
                         .kind = op->kind,
                         .type = op->type,
                         .start = op->start,
                         .end = op->end < INT64_MAX ? op->end : INT64_MAX,
                         .pid = op->has_pid ? op->pid : 0};
    if (op->kind == KIND_FLOCK) {
        out->start = 0;
        out->end = INT64_MAX;
    }
    return out->start > out->end ? -EINVAL : 0;
}

/* A conversion of flock gives up the old lock before it waits: two readers that both want to write
 * would wait for each other. */
static int lock_wait(struct lock_set *s, const struct lock *l, struct op_result *r)
{
    if (l->kind == KIND_POSIX) {
        bool circle;
        int rc = deadlock(s, l, &circle);
        if (rc < 0 || circle) {
            return rc < 0 ? rc : -EDEADLK;
        }
    }
    if (l->kind == KIND_FLOCK) {
        struct lock nothing = *l;
        nothing.type = F_UNLCK;
        held_set(s, nothing);
    }
    r->ticket = waiting_add(s, l);
    wake(s);
    return ERR_QUEUED;
}

static int lock_apply(struct lock_set *s, const struct lock *l, bool wait, struct op_result *r)
{
    int rc = 0;
    size_t before = s->held.n + s->waiting.n;
    if (l->type != F_UNLCK && before >= LOCKS_INODE_MAX) {
        return -ENOLCK;
    }
    if (l->type != F_UNLCK && find_conflict(s, l) != NULL) {
        rc = wait ? lock_wait(s, l, r) : -EAGAIN;
    } else {
        held_set(s, *l);
        size_t after = s->held.n + s->waiting.n;
        if (after > before && after > LOCKS_INODE_MAX) {
            return -ENOLCK; /* what is given back in the middle leaves two ends */
        }
        wake(s);
    }
    set_finish(s, l->session);
    return rc;
}

int locks_lock(struct fsm *f, const Cfs__LockOp *op, struct op_result *r)
{
    struct lock l;
    int rc = lock_of(op, f->session, &l);
    struct inode i;
    if (rc == 0 && l.type != F_UNLCK) {
        rc = rows_inode(f, op->ino, &i);
    }
    if (rc < 0) {
        return rc;
    }
    struct lock_set s;
    rc = set_load(f, op->ino, &s);
    if (rc == 0) {
        rc = lock_apply(&s, &l, op->wait, r);
    }
    set_release(&s);
    return rc;
}

int locks_waits(struct fsm *f, uint64_t session, uint64_t ticket)
{
    struct key k;
    ticket_key(&k, session, ticket);
    int rc = rows_get(f, &k, &f->value);
    return rc == ERR_NOT_FOUND ? 0 : rc < 0 ? rc : 1;
}

int locks_cancel(struct fsm *f, const Cfs__LockCancelOp *op)
{
    struct key k;
    ticket_key(&k, f->session, op->ticket);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? -EALREADY : rc;
    }
    if (f->value.len != 9) {
        return fsm_note(f, ERR_CORRUPT);
    }
    struct lock_set s;
    rc = set_load(f, get_le64(f->value.data + 1), &s);
    for (size_t i = 0; rc == 0 && i < s.waiting.n; i++) {
        if (s.waiting.v[i].id == op->ticket) {
            waiting_remove(&s, i);
            break;
        }
    }
    if (rc == 0) {
        set_finish(&s, f->session);
    }
    set_release(&s);
    return rc;
}

/* What a drop takes: everything of a session, or of one of its handles, or an owner's posix locks.
 */
struct drop {
    uint64_t session;
    bool all, by_handle, by_owner;
    uint64_t handle, owner;
};

static bool drop_takes(const struct drop *d, const struct lock *l)
{
    if (l->session != d->session) {
        return false;
    }
    return d->all || (d->by_handle && l->handle == d->handle) ||
           (d->by_owner && l->kind == KIND_POSIX && l->owner == d->owner);
}

static int drop_at(struct fsm *f, ino_id ino, const struct drop *d)
{
    struct lock_set s;
    int rc = set_load(f, ino, &s);
    if (rc == 0 && s.held.n + s.waiting.n > 0) {
        for (size_t i = s.held.n; i > 0; i--) {
            if (drop_takes(d, &s.held.v[i - 1].l)) {
                held_remove(&s, i - 1);
            }
        }
        for (size_t i = s.waiting.n; i > 0; i--) {
            if (drop_takes(d, &s.waiting.v[i - 1].l)) {
                waiting_remove(&s, i - 1);
            }
        }
        wake(&s);
        set_finish(&s, d->session);
    }
    set_release(&s);
    return rc;
}

int locks_drop(struct fsm *f, const Cfs__LockDropOp *op)
{
    struct drop d = {.session = f->session,
                     .by_handle = op->has_handle,
                     .handle = op->handle,
                     .by_owner = op->has_owner,
                     .owner = op->owner};
    return drop_at(f, op->ino, &d);
}

static int drop_session_at(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)value;
    return drop_at(f, key_u64_at(key, 10), ctx);
}

int locks_end_session(struct fsm *f, uint64_t session)
{
    struct drop d = {.session = session, .all = true};
    struct key prefix;
    key_start(&prefix, SPACE_LOCK, 's');
    key_add_u64(&prefix, session);
    return rows_each(f, &prefix, drop_session_at, &d);
}

static bool blocks(const struct lock *held, const struct lock *wanted, bool any_session)
{
    struct lock l = *wanted;
    l.session = any_session ? held->session : l.session;
    return conflict(held, &l);
}

int locks_test(struct fsm *f, const Cfs__LockOp *op, struct buf *reply)
{
    struct lock l;
    int rc = lock_of(op, op->session, &l);
    struct lock_set s;
    if (rc < 0) {
        return rc;
    }
    rc = set_load(f, op->ino, &s);
    Cfs__LockInfo m = CFS__LOCK_INFO__INIT;
    m.type = F_UNLCK;
    for (size_t i = 0; rc == 0 && i < s.held.n; i++) {
        const struct lock *held = &s.held.v[i].l;
        if (blocks(held, &l, !op->has_session)) {
            m.type = held->type;
            m.has_start = m.has_end = true;
            m.start = held->start;
            m.end = held->end;
            m.has_pid = held->kind != KIND_OFD;
            m.pid = held->pid;
            break;
        }
    }
    if (rc == 0) {
        cfs__lock_info__pack(&m, buf_extend(reply, cfs__lock_info__get_packed_size(&m)));
    }
    set_release(&s);
    return rc;
}
