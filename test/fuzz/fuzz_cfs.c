#include <stdlib.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/mem.h"
#include "chunk.pb-c.h"
#include "proto/methods.h"
#include "test/lib/messages.h"
#include "test/lib/protofill.h"
#include "test/unit/ask_fakes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The commands of `cfs` on replies that say anything: they end, with one of their exit statuses.
 * The first byte chooses the command. What they print is read by nobody. */
enum { ASKS_MAX = 100, FRAGMENT_BYTES = 70000 };

static struct cursor c;

static uint64_t number(void *ctx, const char *field, struct cursor *from)
{
    static const struct {
        const char *field;
        uint64_t values[4];
    } NUMBERS[] = {{"kind", {1, 2, 1, 2}},        {"k", {4, 1, 1, 2}},
                   {"m", {2, 1, 2, 8}},           {"slot_mask", {0x3f, 3, 7, 0x3f0}},
                   {"slot", {1, 2, 3, 0}},        {"id", {1, 2, 3, 1}},
                   {"pg", {1, 2, 3, 1}},          {"stripe", {1, 2, 3, 1}},
                   {"length", {4096, 1, 100, 0}}, {"covered_to", {1 << 20, 1 << 30, 0, INT64_MAX}}};
    (void)ctx;
    const unsigned n = cursor_u8(from);
    for (unsigned i = 0; i < array_count(NUMBERS); i++) {
        if (strcmp(field, NUMBERS[i].field) == 0) {
            return NUMBERS[i].values[n % 4];
        }
    }
    return n;
}

static struct bytes text(void *ctx, const char *field, struct cursor *from)
{
    static const char *const TEXTS[] = {"text", "", "\"\\\n\x1b", "\xff\xc3\x28"};
    (void)ctx;
    (void)field;
    const char *t = TEXTS[cursor_u8(from) % array_count(TEXTS)];
    return BYTES(t, strlen(t));
}

/* What belongs to a fragment that was got, whole or not. */
static void got(struct buf *body, struct bytes *payload)
{
    static uint8_t bytes[FRAGMENT_BYTES];
    uint32_t crc[2] = {crc32c(0, bytes, 65536), crc32c(0, bytes, FRAGMENT_BYTES - 65536)};
    Cfs__FragmentGetReply m = CFS__FRAGMENT_GET_REPLY__INIT;
    m.fragment_bytes = FRAGMENT_BYTES;
    m.n_crc = 2;
    m.crc = crc;
    cfs__fragment_get_reply__pack(&m,
                                  buf_extend(body, cfs__fragment_get_reply__get_packed_size(&m)));
    *payload = BYTES(bytes, cursor_u8(&c) % 2 == 0 ? FRAGMENT_BYTES : cursor_u8(&c) * 256u);
}

static int answer(unsigned method, struct bytes *reply, struct bytes *payload)
{
    static struct buf kept;
    const struct protofill_words say = {.number = number, .text = text};
    const ProtobufCMessageDescriptor *d = messages_of(method).reply;
    const unsigned how = cursor_u8(&c);
    struct buf honest;
    CHECK(d != NULL);
    if (asks.n > ASKS_MAX || how >= 240) {
        return how % 2 == 0 ? ERR_DISCONNECTED : ERR_NOT_FOUND;
    }
    *payload = BYTES(NULL, 0);
    buf_init(&honest);
    buf_clear(&kept);
    if (method == METHOD_FRAGMENT_GET) {
        got(&honest, payload);
    } else {
        protofill_sense(d, &say, &c, &honest);
    }
    if (how % 2 == 0) {
        protofill(d, buf_bytes(&honest), &c, &kept);
    } else {
        buf_add(&kept, honest.data, honest.len);
    }
    buf_release(&honest);
    *reply = BYTES(kept.data, how < 224 ? kept.len : kept.len * (how - 224) / 16);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static int (*const COMMANDS[])(const struct cmd *) = {cmd_status, cmd_clients, cmd_stat,
                                                          cmd_policy};
    static char root[] = "/", verb[] = "get";
    static bool silent;
    if (len < 1) {
        return 0;
    }
    if (!silent) {
        CHECK(freopen("/dev/null", "w", stdout) != NULL);
        silent = true;
    }
    const unsigned which = data[0] % 4;
    char *of_stat[] = {root}, *of_policy[] = {verb, root};
    const struct cmd command = {.json = data[0] / 4 % 2 == 1,
                                .verify = data[0] / 8 % 2 == 1,
                                .argc = which < 2 ? 0 : (int)which - 1,
                                .argv = which == 2 ? of_stat : of_policy};
    asks.answer = answer;
    asks.n = 0;
    asks.payload = BYTES(NULL, 0);
    c = cursor_of(BYTES(data + 1, len - 1));
    const int status = COMMANDS[which](&command);
    CHECK(status == CMD_GOOD || status == CMD_FAILED || status == CMD_DEGRADED);
    return 0;
}
