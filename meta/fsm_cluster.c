#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "chunk.pb-c.h"
#include "ec/stripe.h"
#include "log.pb-c.h"
#include "meta/extents.h"
#include "meta/fsm_parts.h"
#include "meta/stripes.h"

/* Entries of the cluster as a whole: its birth, leaders, servers, placement groups, policy, jobs.
 */

static void cluster_key(struct key *k)
{
    key_start(k, SPACE_SYSTEM, 'c');
}

int cluster_load(struct fsm *f)
{
    struct key k;
    cluster_key(&k);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        f->cluster.reign = f->counters.v[COUNT_REIGN];
        return rc == ERR_NOT_FOUND ? 0 : rc;
    }
    if (f->value.len < 1 || f->value.data[0] != VALUE_VERSION) {
        return f->value.len > 0 && f->value.data[0] > VALUE_VERSION ? ERR_VERSION : ERR_CORRUPT;
    }
    Cfs__ClusterStored *m = cfs__cluster_stored__unpack(NULL, f->value.len - 1, f->value.data + 1);
    if (m == NULL || m->cluster.len != 16 || m->hash_key.len != 16) {
        rc = ERR_CORRUPT;
    } else if (m->feature_level > FSM_FEATURE_LEVEL) {
        rc = ERR_VERSION;
    } else {
        rc = 0;
        f->cluster = (struct cluster){.known = true,
                                      .reign = f->counters.v[COUNT_REIGN],
                                      .feature_level = m->feature_level,
                                      .tables_version = m->tables_version};
        memcpy(f->cluster.id, m->cluster.data, 16);
        memcpy(f->cluster.hash_key, m->hash_key.data, 16);
    }
    if (m != NULL) {
        cfs__cluster_stored__free_unpacked(m, NULL);
    }
    return rc;
}

static void cluster_put(struct fsm *f)
{
    Cfs__ClusterStored m = CFS__CLUSTER_STORED__INIT;
    m.cluster = (ProtobufCBinaryData){.len = 16, .data = f->cluster.id};
    m.hash_key = (ProtobufCBinaryData){.len = 16, .data = f->cluster.hash_key};
    m.feature_level = f->cluster.feature_level;
    m.tables_version = f->cluster.tables_version;
    struct key k;
    cluster_key(&k);
    buf_clear(&f->scratch);
    buf_u8(&f->scratch, VALUE_VERSION);
    cfs__cluster_stored__pack(&m,
                              buf_extend(&f->scratch, cfs__cluster_stored__get_packed_size(&m)));
    rows_put(f, &k, buf_bytes(&f->scratch));
}

static void tables_changed(struct fsm *f)
{
    f->cluster.tables_version++;
    cluster_put(f);
    f->effects->tables_changed = true;
}

int cluster_lead(struct fsm *f, struct bytes body)
{
    Cfs__LogLead *m = cfs__log_lead__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    cfs__log_lead__free_unpacked(m, NULL);
    f->cluster.reign = f->index;
    *fsm_counter(f, COUNT_REIGN) = f->index;
    return 0;
}

static bool policy_valid(const Cfs__Policy *p)
{
    struct stripe_code rs = {.kind = STRIPE_RS, .k = (uint8_t)p->k, .m = (uint8_t)p->m};
    return p->k >= 1 && p->k <= 32 && p->m <= 8 && stripe_code_valid(rs) &&
           p->inline_limit <= 65536;
}

static int bootstrap_root(struct fsm *f, const Cfs__LogBootstrap *m)
{
    f->volume = (struct volume){.id = 1,
                                .root = 1,
                                .family = 1,
                                .snapshot = 1,
                                .next_ino = 1,
                                .block_end = INO_BLOCK,
                                .k = m->policy->k,
                                .m = m->policy->m,
                                .inline_limit = m->policy->inline_limit};
    f->volume_dirty = true;
    struct key k;
    key_start(&k, SPACE_VOLUME, 'b');
    key_add_u64(&k, 0);
    uint8_t value[9] = {VALUE_VERSION};
    put_le64(value + 1, f->volume.id);
    rows_put(f, &k, BYTES(value, sizeof value));
    struct inode root;
    int rc = rows_inode_new(f, 1, &root);
    root.mode = S_IFDIR | (m->has_root_mode ? m->root_mode & 07777 : 0755);
    root.nlink = 2;
    root.parent = root.ino;
    return rc == 0 ? rows_inode_save(f, &root) : rc;
}

static int bootstrap(struct fsm *f, const Cfs__LogBootstrap *m)
{
    if (f->cluster.known) {
        return -EEXIST;
    }
    if (m->cluster.len != 16 || m->hash_key.len != 16 || !policy_valid(m->policy)) {
        return ERR_MALFORMED;
    }
    f->cluster = (struct cluster){
        .known = true, .reign = f->cluster.reign, .feature_level = 1, .tables_version = 1};
    memcpy(f->cluster.id, m->cluster.data, 16);
    memcpy(f->cluster.hash_key, m->hash_key.data, 16);
    cluster_put(f);
    f->effects->tables_changed = true;
    /* Not from 1 on: a client whose servers were replaced by those of another cluster at the same address
     * must not find its own session number there. */
    *fsm_counter(f, COUNT_NEXT_SESSION) = get_le32(m->cluster.data) | 1u;
    *fsm_counter(f, COUNT_NEXT_BLOCK) = 1;
    *fsm_counter(f, COUNT_NEXT_SERVER) = 1;
    *fsm_counter(f, COUNT_NEXT_TICKET) = 1;
    return bootstrap_root(f, m);
}

int cluster_bootstrap(struct fsm *f, struct bytes body)
{
    Cfs__LogBootstrap *m = cfs__log_bootstrap__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = bootstrap(f, m);
    cfs__log_bootstrap__free_unpacked(m, NULL);
    return rc;
}

/* ---- servers ------------------------------------------------------------------------ */

static void server_store(struct fsm *f, uint32_t id, const Cfs__LogRegister *m)
{
    Cfs__ServerStored row = CFS__SERVER_STORED__INIT;
    row.server = m->server;
    row.address = m->address;
    row.domain = m->domain;
    struct key k;
    key_start(&k, SPACE_CLUSTER, 's');
    key_add_u32(&k, id);
    buf_clear(&f->scratch);
    buf_u8(&f->scratch, VALUE_VERSION);
    cfs__server_stored__pack(&row,
                             buf_extend(&f->scratch, cfs__server_stored__get_packed_size(&row)));
    struct buf old;
    buf_init(&old);
    /* A server that comes back as it was changes nothing: no new table for every client. */
    if (rows_get(f, &k, &old) != 0 || !bytes_equal(buf_bytes(&old), buf_bytes(&f->scratch))) {
        rows_put(f, &k, buf_bytes(&f->scratch));
        tables_changed(f);
    }
    buf_release(&old);
}

static int server_id(struct fsm *f, struct bytes uuid, uint32_t *out)
{
    struct key k;
    key_start(&k, SPACE_CLUSTER, 'u');
    key_add_bytes(&k, uuid);
    int rc = rows_get(f, &k, &f->value);
    if (rc == 0) {
        if (f->value.len != 5 || f->value.data[0] != VALUE_VERSION) {
            return fsm_note(f, ERR_CORRUPT);
        }
        *out = get_le32(f->value.data + 1);
        return 0;
    }
    if (rc != ERR_NOT_FOUND) {
        return rc;
    }
    *out = (uint32_t)(*fsm_counter(f, COUNT_NEXT_SERVER))++;
    uint8_t value[5] = {VALUE_VERSION};
    put_le32(value + 1, *out);
    rows_put(f, &k, BYTES(value, sizeof value));
    return 0;
}

static int server_register(struct fsm *f, const Cfs__LogRegister *m)
{
    if (m->server.len != 16 || strlen(m->address) > 255) {
        return ERR_MALFORMED;
    }
    uint32_t id = 0;
    int rc = server_id(f, BYTES(m->server.data, 16), &id);
    if (rc < 0) {
        return rc;
    }
    server_store(f, id, m);
    Cfs__ChunkRegisterReply r = CFS__CHUNK_REGISTER_REPLY__INIT;
    r.id = id;
    r.cluster = (ProtobufCBinaryData){.len = 16, .data = f->cluster.id};
    r.reign = f->cluster.reign;
    struct buf *out = &f->effects->reply;
    cfs__chunk_register_reply__pack(
        &r, buf_extend(out, cfs__chunk_register_reply__get_packed_size(&r)));
    return 0;
}

int cluster_register(struct fsm *f, struct bytes body)
{
    Cfs__LogRegister *m = cfs__log_register__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = server_register(f, m);
    cfs__log_register__free_unpacked(m, NULL);
    return rc;
}

/* ---- placement groups --------------------------------------------------------------- */

/* Distinct servers; a group's code never changes, its epoch only grows. */
static int group_set(struct fsm *f, const Cfs__PgRow *m)
{
    size_t width = (size_t)m->k + m->m;
    if (m->k < 1 || m->k > 32 || m->m > 8 || m->n_slot != width ||
        (m->n_old_slot != 0 && m->n_old_slot != width)) {
        return ERR_MALFORMED;
    }
    struct group old, g = {.id = m->id, .epoch = m->epoch, .k = m->k, .m = m->m};
    int rc = stripes_group(f, m->id, &old);
    if (rc < 0 && rc != ERR_NOT_FOUND) {
        return rc;
    }
    if (rc == 0) {
        if (m->epoch <= old.epoch || old.k != m->k || old.m != m->m) {
            return ERR_STALE_EPOCH;
        }
    }
    g.moving = m->n_old_slot > 0;
    for (size_t i = 0; i < width; i++) {
        for (size_t j = 0; j < i; j++) {
            if (m->slot[i] != 0 && m->slot[i] == m->slot[j]) {
                return ERR_MALFORMED;
            }
        }
        g.slot[i] = m->slot[i];
        g.old_slot[i] = g.moving ? m->old_slot[i] : 0;
    }
    stripes_group_put(f, &g);
    return 0;
}

int cluster_groups(struct fsm *f, struct bytes body)
{
    Cfs__LogGroups *m = cfs__log_groups__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->n_pg; i++) {
        rc = group_set(f, m->pg[i]);
    }
    if (rc == 0 && m->n_pg > 0) {
        tables_changed(f);
    }
    cfs__log_groups__free_unpacked(m, NULL);
    return rc;
}

/* Of those who deleted: whose list is not empty. Few ever have one. */
static int payers(struct fsm *f, const Cfs__GarbageIds *g, struct debtors *out)
{
    out->n = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < g->n_server; i++) {
        uint64_t ids = 0;
        rc = stripes_owed_count(f, g->server[i], &ids);
        if (ids > 0 && out->n < array_count(out->server)) {
            out->server[out->n++] = g->server[i];
        }
    }
    return rc;
}

/* Who has deleted what is a fact, whenever it was proposed; who owes it is decided here. So an
 * entry that comes late or twice does no harm. */
static int garbage_done(struct fsm *f, const Cfs__GarbageIds *g)
{
    struct debtors owing, paying;
    int rc = stripes_debtors(f, g->pg, g->server, g->n_server, &owing);
    rc = rc < 0 ? rc : payers(f, g, &paying);
    for (size_t i = 0; rc == 0 && i < g->n_id; i++) {
        uint64_t first = g->id[i]->first, count = g->id[i]->count;
        if (count == 0 || first > UINT64_MAX - count) {
            return ERR_MALFORMED;
        }
        rc = stripes_garbage_done(f, g->pg, first, first + count - 1, &owing);
        for (unsigned k = 0; rc == 0 && k < paying.n; k++) {
            rc = stripes_owed_done(f, paying.server[k], g->pg, first, first + count - 1);
        }
    }
    return rc;
}

int cluster_garbage_done(struct fsm *f, struct bytes body)
{
    Cfs__LogGarbageDone *m = cfs__log_garbage_done__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->n_done; i++) {
        rc = garbage_done(f, m->done[i]);
    }
    cfs__log_garbage_done__free_unpacked(m, NULL);
    return rc;
}

/* ---- policy, reap, feature level ---------------------------------------------------------- */

static int policy_set(struct fsm *f, const Cfs__Policy *p)
{
    if (!policy_valid(p)) {
        return -EINVAL;
    }
    struct volume *v;
    int rc = rows_volume(f, 1, &v);
    if (rc < 0) {
        return rc;
    }
    v->k = p->k;
    v->m = p->m;
    v->inline_limit = p->inline_limit;
    f->volume_dirty = true;
    tables_changed(f);
    struct buf *out = &f->effects->reply;
    cfs__policy__pack(p, buf_extend(out, cfs__policy__get_packed_size(p)));
    return 0;
}

int cluster_policy(struct fsm *f, struct bytes body)
{
    Cfs__LogPolicy *m = cfs__log_policy__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    int rc = policy_set(f, m->policy);
    cfs__log_policy__free_unpacked(m, NULL);
    return rc;
}

int cluster_reap(struct fsm *f, struct bytes body)
{
    Cfs__LogReap *m = cfs__log_reap__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    uint32_t max = m->has_max ? m->max : 0;
    cfs__log_reap__free_unpacked(m, NULL);
    return extents_reap(f, max);
}

int cluster_feature(struct fsm *f, struct bytes body)
{
    Cfs__LogFeature *m = cfs__log_feature__unpack(NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    uint32_t level = m->level;
    cfs__log_feature__free_unpacked(m, NULL);
    if (level > FSM_FEATURE_LEVEL || level < f->cluster.feature_level) {
        return -EINVAL;
    }
    f->cluster.feature_level = level;
    cluster_put(f);
    return 0;
}

static const ProtobufCMessageDescriptor *body_descriptor(uint8_t type)
{
    switch (type) {
    case ENTRY_LEAD:
        return &cfs__log_lead__descriptor;
    case ENTRY_BOOTSTRAP:
        return &cfs__log_bootstrap__descriptor;
    case ENTRY_SESSION_OPEN:
        return &cfs__log_session_open__descriptor;
    case ENTRY_SESSION_END:
        return &cfs__log_session_end__descriptor;
    case ENTRY_REGISTER:
        return &cfs__log_register__descriptor;
    case ENTRY_GROUPS:
        return &cfs__log_groups__descriptor;
    case ENTRY_GARBAGE_DONE:
        return &cfs__log_garbage_done__descriptor;
    case ENTRY_POLICY:
        return &cfs__log_policy__descriptor;
    case ENTRY_REAP:
        return &cfs__log_reap__descriptor;
    case ENTRY_FEATURE:
        return &cfs__log_feature__descriptor;
    default:
        return NULL;
    }
}

int cluster_validate(uint8_t type, struct bytes body)
{
    const ProtobufCMessageDescriptor *d = body_descriptor(type);
    if (d == NULL) {
        return type == ENTRY_NOOP && body.len == 0 ? 0 : ERR_MALFORMED;
    }
    ProtobufCMessage *m = protobuf_c_message_unpack(d, NULL, body.len, body.data);
    if (m == NULL) {
        return ERR_MALFORMED;
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
