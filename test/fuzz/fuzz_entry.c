#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "proto/methods.h"
#include "test/lib/fsm_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The first byte chooses: an entry as it stands, a body of the entry type that follows, a command's
 * operations, or a read. Whatever comes, the machine answers or refuses, and what it keeps is
 * consistent. */
static struct fsm_world w;

static void command(struct bytes ops)
{
    Cfs__CommandRequest c = CFS__COMMAND_REQUEST__INIT;
    c.session = w.session;
    c.seq = w.seq + 1;
    c.acked = w.seq;
    c.ops = (ProtobufCBinaryData){ops.len, (uint8_t *)(uintptr_t)ops.data};
    int stopped;
    if (fsm_world_try(&w, ENTRY_COMMAND, &c.base, &stopped) == 0 && stopped == 0) {
        w.seq++;
    }
    CHECK(stopped == 0);
}

static void entry(uint8_t type, struct bytes body)
{
    struct buf e;
    buf_init(&e);
    struct fsm_entry_header h = {
        .type = type, .feature_level = 1, .time_ns = ++w.now_ns, .reign = w.reign};
    fsm_entry_encode(&e, &h, body);
    if (fsm_validate(buf_bytes(&e)) == 0) {
        (void)fsm_entry_frees(buf_bytes(&e));
        CHECK(fsm_world_raw(&w, buf_bytes(&e)) == 0);
    }
    buf_release(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2) {
        return 0;
    }
    fsm_world_init(&w);
    fsm_world_mkdir(&w, 1, "d");
    fsm_world_create(&w, 1, "f");
    struct bytes rest = BYTES(data + 2, len - 2);
    struct buf out;
    buf_init(&out);
    switch (data[0] % 4) {
    case 0:
        if (fsm_validate(rest) == 0) {
            (void)fsm_world_raw(&w, rest);
        }
        break;
    case 1:
        entry(data[1], rest);
        break;
    case 2:
        command(rest);
        break;
    default:
        (void)fsm_read(w.fsm, data[1] < 20 ? METHOD_LOOKUP + data[1] : 500u + data[1], rest, &out);
        (void)fsm_query(w.fsm, data[1], rest, &out);
        break;
    }
    CHECK(fsm_audit(w.fsm, NULL, NULL) == 0);
    buf_release(&out);
    fsm_world_release(&w);
    return 0;
}
