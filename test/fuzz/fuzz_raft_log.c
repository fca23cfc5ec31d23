#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "meta/raft_format.h"
#include "meta/raft_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void visit(void *ctx, const struct raft_record *r)
{
    uint64_t *sum = ctx;
    for (size_t i = 0; i < r->entry.data.len; i++) {
        *sum += r->entry.data.data[i];
    }
}

/* What a log file, a state slot or a message of another replica holds is decoded or refused; nothing is read
 * beyond it. What decodes as a message encodes to the same bytes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct bytes in = BYTES(data, len);
    struct raft_segment_header h = {.first_index = 1, .seed = 1, .size = 8192};
    uint64_t sum = 0;
    uint64_t next = 0;
    uint64_t tail = 0;
    struct raft_record r;
    (void)raft_segment_decode(in, &h);
    (void)raft_segment_scan(in, &h, visit, &sum, &next, &tail);
    (void)raft_record_decode(in, h.seed, len > 0 ? data[0] : 0, &r);
    struct raft_log_state s;
    uint64_t version = 0;
    raft_log_state_init(&s);
    (void)raft_slot_decode(in, &s, &version);
    raft_log_state_release(&s);
    struct raft_msg m;
    if (raft_msg_decode(in, &m) == 0) {
        struct buf again;
        struct raft_msg same;
        buf_init(&again);
        raft_msg_encode(&m, &again);
        buf_add(&again, m.rest.data, m.rest.len);
        CHECK(raft_msg_decode(buf_bytes(&again), &same) == 0);
        CHECK(same.term == m.term && same.index == m.index && same.n_entries == m.n_entries);
        buf_release(&again);
    }
    return 0;
}
