#include "meta/raft_msg.h"

#include "base/err.h"
#include "meta/raft_log.h"

void raft_msg_encode(const struct raft_msg *m, struct buf *out)
{
    buf_u8(out, RAFT_MSG_VERSION);
    buf_u8(out, m->type);
    buf_u8(out, m->library_version);
    buf_u8(out, m->flag);
    buf_le64(out, m->term);
    buf_le64(out, m->index);
    buf_le64(out, m->index_term);
    buf_le64(out, m->commit);
    buf_le64(out, m->candidate);
    buf_le16(out, m->features);
    buf_le16(out, m->capacity);
    buf_le32(out, m->n_entries);
    buf_run(out, m->configuration.data, m->configuration.len);
}

/* All entries decode and nothing is left: after this the walk of the driver cannot fail. */
static bool entries_hold(const struct raft_msg *m)
{
    struct cursor c = cursor_of(m->rest);
    for (uint32_t i = 0; i < m->n_entries; i++) {
        uint64_t term = 0;
        uint8_t type = 0;
        struct bytes data;
        if (!raft_msg_entry_decode(&c, &term, &type, &data)) {
            return false;
        }
    }
    return cursor_left(&c) == 0;
}

int raft_msg_decode(struct bytes in, struct raft_msg *out)
{
    struct cursor c = cursor_of(in);
    const uint8_t version = cursor_u8(&c);
    struct raft_msg m = {.type = cursor_u8(&c)};
    m.library_version = cursor_u8(&c);
    m.flag = cursor_u8(&c);
    m.term = cursor_le64(&c);
    m.index = cursor_le64(&c);
    m.index_term = cursor_le64(&c);
    m.commit = cursor_le64(&c);
    m.candidate = cursor_le64(&c);
    m.features = cursor_le16(&c);
    m.capacity = cursor_le16(&c);
    m.n_entries = cursor_le32(&c);
    m.configuration = cursor_run(&c);
    m.rest = cursor_take(&c, cursor_left(&c));
    if (c.bad) {
        return ERR_MALFORMED;
    }
    if (version != RAFT_MSG_VERSION) {
        return ERR_VERSION;
    }
    if (m.type < RAFT_MSG_APPEND || m.type > RAFT_MSG_TIMEOUT_NOW ||
        m.n_entries > RAFT_MSG_ENTRIES_MAX || m.configuration.len > RAFT_LOG_CONFIGURATION_MAX ||
        (m.type != RAFT_MSG_APPEND && m.n_entries > 0) ||
        (m.type != RAFT_MSG_INSTALL && m.configuration.len > 0)) {
        return ERR_MALFORMED;
    }
    if (m.type != RAFT_MSG_INSTALL && !entries_hold(&m)) {
        return ERR_MALFORMED;
    }
    *out = m;
    return 0;
}

void raft_msg_entry_encode(uint64_t term, uint8_t type, struct bytes data, struct buf *out)
{
    buf_le64(out, term);
    buf_u8(out, type);
    buf_run(out, data.data, data.len);
}

bool raft_msg_entry_decode(struct cursor *c, uint64_t *term, uint8_t *type, struct bytes *data)
{
    *term = cursor_le64(c);
    *type = cursor_u8(c);
    *data = cursor_run(c);
    return !c->bad && *term > 0 && *type >= RAFT_LOG_COMMAND && *type <= RAFT_LOG_CHANGE &&
           data->len <= RAFT_LOG_ENTRY_MAX;
}
