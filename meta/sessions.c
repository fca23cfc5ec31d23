#include "meta/sessions.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "log.pb-c.h"
#include "meta/locks.h"
#include "meta/namespace.h"
#include "meta/stripes.h"

/* Rows of a session, all under SPACE_SESSION:
 *   's' session            who it is (SessionStored)
 *   'q' session            last sequence, acknowledged, flags: the one that each command changes
 *   'w' session, sequence  a stored reply
 *   'o' session, ino       an orphan that it holds
 *   'g' session, PG, last  ids granted to it
 * The end removes the first three and the locks, turns the grants into garbage, and leaves
 * the orphans to reaps: there may be many. */

static void session_key(struct key *k, uint8_t table, uint64_t id)
{
    key_start(k, SPACE_SESSION, table);
    key_add_u64(k, id);
}

int sessions_get(struct fsm *f, uint64_t id, struct session *out)
{
    struct key k;
    session_key(&k, 'q', id);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? ERR_SESSION_ENDED : rc;
    }
    struct cursor c = cursor_of(buf_bytes(&f->value));
    uint8_t version = cursor_u8(&c);
    struct session s = {.id = id, .last_seq = cursor_le64(&c)};
    s.acked = cursor_le64(&c);
    s.read_only = cursor_u8(&c) != 0;
    bool sane = s.acked <= s.last_seq && s.last_seq - s.acked <= FSM_WINDOW;
    if (c.bad || c.at != c.end || version != VALUE_VERSION || !sane) {
        return fsm_note(f, ERR_CORRUPT);
    }
    *out = s;
    return 0;
}

void sessions_put(struct fsm *f, const struct session *s)
{
    struct key k;
    session_key(&k, 'q', s->id);
    uint8_t value[18] = {VALUE_VERSION};
    put_le64(value + 1, s->last_seq);
    put_le64(value + 9, s->acked);
    value[17] = s->read_only;
    rows_put(f, &k, BYTES(value, sizeof value));
}

/* ---- replies ---------------------------------------------------------------------- */

static void reply_key(struct key *k, uint64_t session, uint64_t seq)
{
    session_key(k, 'w', session);
    key_add_u64(k, seq);
}

void sessions_forget(struct fsm *f, struct session *s, uint64_t acked)
{
    if (acked > s->last_seq) {
        acked = s->last_seq;
    }
    for (; s->acked < acked; s->acked++) {
        struct key k;
        reply_key(&k, s->id, s->acked + 1);
        rows_delete(f, &k);
    }
}

void sessions_remember(struct fsm *f, const struct session *s, int rc, struct bytes reply)
{
    struct key k;
    reply_key(&k, s->id, s->last_seq);
    buf_clear(&f->scratch);
    buf_u8(&f->scratch, VALUE_VERSION);
    buf_le32(&f->scratch, (uint32_t)rc);
    buf_add(&f->scratch, reply.data, reply.len);
    rows_put(f, &k, buf_bytes(&f->scratch));
}

int sessions_recall(struct fsm *f, const struct session *s, uint64_t seq, int *ret_rc,
                    struct buf *out)
{
    struct key k;
    reply_key(&k, s->id, seq);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc;
    }
    if (f->value.len < 5 || f->value.data[0] != VALUE_VERSION) {
        return fsm_note(f, ERR_CORRUPT);
    }
    *ret_rc = (int)get_le32(f->value.data + 1);
    buf_add(out, f->value.data + 5, f->value.len - 5);
    return 0;
}

/* ---- orphans ------------------------------------------------------------------------ */

static void orphan_key(struct key *k, uint64_t session, ino_id ino)
{
    session_key(k, 'o', session);
    key_add_u64(k, ino);
}

int sessions_hold(struct fsm *f, struct inode *i)
{
    struct key k;
    orphan_key(&k, f->session, i->ino);
    int rc = rows_get(f, &k, &f->value);
    if (rc != ERR_NOT_FOUND) {
        return rc;
    }
    rows_put_mark(f, &k);
    i->orphans++;
    *fsm_counter(f, COUNT_ORPHANS) += 1;
    return 0;
}

int sessions_release(struct fsm *f, uint64_t session, ino_id ino)
{
    struct key k;
    orphan_key(&k, session, ino);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    struct inode i;
    rc = rows_inode(f, ino, &i);
    if (rc < 0) {
        return rc == -ENOENT ? fsm_note(f, ERR_CORRUPT) : rc;
    }
    rows_delete(f, &k);
    *fsm_counter(f, COUNT_ORPHANS) -= 1;
    i.orphans--;
    if (i.orphans == 0 && i.nlink == 0) {
        return namespace_destroy(f, &i);
    }
    return rows_inode_save(f, &i);
}

static int reap_orphan(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    uint32_t *left = ctx;
    (void)value;
    if (*left == 0) {
        return 1;
    }
    *left = *left > 16 ? *left - 16 : 0; /* an orphan may hold many extents */
    return sessions_release(f, key_u64_at(key, 2), key_u64_at(key, 10));
}

int sessions_reap(struct fsm *f, uint64_t session, uint32_t *left)
{
    struct key prefix;
    session_key(&prefix, 'o', session);
    int rc = rows_each(f, &prefix, reap_orphan, left);
    if (rc == 0 && *left > 0) {
        key_start(&prefix, SPACE_REAP, 's');
        key_add_u64(&prefix, session);
        rows_delete(f, &prefix);
        *fsm_counter(f, COUNT_REAPS) -= 1;
    }
    return rc;
}

/* ---- open and end --------------------------------------------------------------------- */

static int stop_at_first(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    (void)f, (void)key, (void)value;
    *(bool *)ctx = true;
    return 1;
}

int sessions_end(struct fsm *f, uint64_t id)
{
    struct session s;
    int rc = sessions_get(f, id, &s);
    if (rc < 0) {
        return rc == ERR_SESSION_ENDED ? 0 : rc;
    }
    sessions_forget(f, &s, s.last_seq);
    struct key k;
    session_key(&k, 'q', id);
    rows_delete(f, &k);
    session_key(&k, 's', id);
    rows_delete(f, &k);
    *fsm_counter(f, COUNT_SESSIONS) -= 1;
    rc = locks_end_session(f, id);
    if (rc == 0) {
        rc = stripes_retire(f, id, NULL, 0);
    }
    bool orphans = false;
    session_key(&k, 'o', id);
    if (rc == 0) {
        rc = rows_each(f, &k, stop_at_first, &orphans);
    }
    if (rc == 0 && orphans) {
        key_start(&k, SPACE_REAP, 's');
        key_add_u64(&k, id);
        const uint8_t version = VALUE_VERSION;
        rows_put_reap(f, &k, BYTES(&version, 1));
        *fsm_counter(f, COUNT_REAPS) += 1;
    }
    buf_le64(&f->effects->ended, id);
    return rc;
}

static Cfs__SessionStored *session_unpack(struct bytes value)
{
    if (value.len < 1 || value.data[0] != VALUE_VERSION) {
        return NULL;
    }
    return cfs__session_stored__unpack(NULL, value.len - 1, value.data + 1);
}

struct opening {
    const Cfs__SessionOpen *open;
    int rc;
    uint64_t same;    /* session of this very client: the open is repeated */
    uint64_t earlier; /* session of the client that is proven dead */
    struct buf other; /* text about another live one */
};

static bool same_bytes(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static int opening_look(struct fsm *f, struct bytes key, struct bytes value, void *ctx)
{
    struct opening *o = ctx;
    Cfs__SessionStored *row = session_unpack(value);
    if (row == NULL) {
        return fsm_note(f, ERR_CORRUPT);
    }
    uint64_t id = key_u64_at(key, 2);
    const Cfs__SessionOpen *old = row->open;
    bool rebooted =
        strcmp(old->machine, o->open->machine) == 0 && strcmp(old->boot, o->open->boot) != 0;
    if (same_bytes(old->client, o->open->client)) {
        o->same = id;
    } else if (rebooted ||
               (o->open->has_earlier_client && same_bytes(old->client, o->open->earlier_client))) {
        o->earlier = id;
    } else if (o->other.len == 0) {
        buf_printf(
            &o->other,
            "this cluster is mounted by host %s at %s (process %u, session %llu); until leases "
            "are there only one client may mount it",
            old->host, old->mount_point != NULL ? old->mount_point : "(unknown)",
            old->has_pid ? old->pid : 0, (unsigned long long)id);
    }
    cfs__session_stored__free_unpacked(row, NULL);
    return 0;
}

static void refuse(struct fsm *f, const char *text)
{
    Cfs__Refusal refusal = CFS__REFUSAL__INIT;
    refusal.text = (char *)(uintptr_t)text;
    struct buf *out = &f->effects->reply;
    buf_clear(out);
    cfs__refusal__pack(&refusal, buf_extend(out, cfs__refusal__get_packed_size(&refusal)));
}

/* Ends whom the leader found expired and whom the new client proved dead. */
static int opening_end_others(struct fsm *f, const Cfs__LogSessionOpen *entry, struct opening *o)
{
    for (size_t i = 0; i < entry->n_expired; i++) {
        int rc = sessions_end(f, entry->expired[i]);
        if (rc < 0) {
            return rc;
        }
    }
    struct key prefix;
    key_start(&prefix, SPACE_SESSION, 's');
    int rc = rows_each(f, &prefix, opening_look, o);
    while (rc == 0 && o->earlier != 0) { /* each round ends one */
        const uint64_t ended = o->earlier;
        rc = sessions_end(f, ended);
        o->earlier = 0;
        buf_clear(&o->other);
        rc = rc == 0 ? rows_each(f, &prefix, opening_look, o) : rc;
        if (rc == 0 && o->earlier == ended) {
            return fsm_note(f, ERR_CORRUPT); /* half a session: no end takes its row away */
        }
    }
    return rc;
}

static void session_store(struct fsm *f, uint64_t id, const Cfs__LogSessionOpen *entry)
{
    Cfs__SessionStored row = CFS__SESSION_STORED__INIT;
    row.open = entry->open;
    row.opened_ns = (uint64_t)f->now;
    row.lease_ms = entry->lease_ms;
    struct buf *b = &f->scratch;
    buf_clear(b);
    buf_u8(b, VALUE_VERSION);
    cfs__session_stored__pack(&row, buf_extend(b, cfs__session_stored__get_packed_size(&row)));
    struct key k;
    session_key(&k, 's', id);
    rows_put(f, &k, buf_bytes(b));
    struct session s = {.id = id, .read_only = entry->open->read_only};
    sessions_put(f, &s);
    *fsm_counter(f, COUNT_SESSIONS) += 1;
}

static int opening_answer(struct fsm *f, uint64_t id, ino_id root, const Cfs__LogSessionOpen *entry)
{
    struct volume *v;
    volume_id volume;
    int rc = rows_volume_of(f, root, &volume);
    if (rc == 0) {
        rc = rows_volume(f, volume, &v);
    }
    if (rc < 0) {
        return rc;
    }
    Cfs__Policy policy = CFS__POLICY__INIT;
    policy.k = v->k;
    policy.m = v->m;
    policy.inline_limit = v->inline_limit;
    Cfs__SessionOpenReply r = CFS__SESSION_OPEN_REPLY__INIT;
    r.session = id;
    r.reign = f->cluster.reign;
    r.lease_ms = entry->lease_ms;
    r.root_ino = root;
    r.volume = volume;
    r.policy = &policy;
    r.cluster = (ProtobufCBinaryData){.len = 16, .data = f->cluster.id};
    r.feature_level = f->cluster.feature_level;
    struct buf *out = &f->effects->reply;
    cfs__session_open_reply__pack(&r,
                                  buf_extend(out, cfs__session_open_reply__get_packed_size(&r)));
    return 0;
}

static int session_open(struct fsm *f, const Cfs__LogSessionOpen *entry)
{
    struct opening o = {.open = entry->open};
    buf_init(&o.other);
    ino_id root = 0;
    int rc = opening_end_others(f, entry, &o);
    if (rc == 0 && o.same == 0 && o.other.len > 0) {
        refuse(f, (const char *)o.other.data);
        rc = ERR_SECOND_MOUNT;
        goto out;
    }
    if (rc == 0 && entry->open->feature_level < f->cluster.feature_level) {
        refuse(f, "this client is too old for the cluster's feature level");
        rc = ERR_VERSION;
    }
    if (rc == 0) {
        rc = namespace_walk(f, entry->open->path != NULL ? entry->open->path : "/", &root);
        if (rc == -ENOENT || rc == -ENOTDIR) {
            refuse(f, "the directory to mount does not exist in this cluster");
        }
    }
    if (rc < 0) {
        goto out;
    }
    uint64_t id = o.same;
    if (id == 0) {
        id = (*fsm_counter(f, COUNT_NEXT_SESSION))++;
        session_store(f, id, entry);
    }
    rc = opening_answer(f, id, root, entry);
out:
    buf_release(&o.other);
    return rc;
}

int sessions_open_entry(struct fsm *f, struct bytes body)
{
    Cfs__LogSessionOpen *m = cfs__log_session_open__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = session_open(f, m);
    cfs__log_session_open__free_unpacked(m, NULL);
    return rc;
}

int sessions_end_entry(struct fsm *f, struct bytes body)
{
    Cfs__LogSessionEnd *m = cfs__log_session_end__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = sessions_end(f, m->session);
    cfs__log_session_end__free_unpacked(m, NULL);
    return rc;
}
