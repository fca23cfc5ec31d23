#include "tools/cmd.h"

#include <protobuf-c/protobuf-c.h>
#include <stdarg.h>
#include <stdio.h>

#include "proto/methods.h"
#include "tools/ask.h"

static void say(const char *format, va_list args)
{
    fputs("cfs: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

int cmd_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(format, args);
    va_end(args);
    return CMD_FAILED;
}

int cmd_usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(format, args);
    va_end(args);
    return CMD_USAGE;
}

int cmd_call(struct ask *a, unsigned method, const struct ProtobufCMessage *request,
             struct bytes *reply)
{
    struct buf body;
    buf_init(&body);
    size_t n = protobuf_c_message_get_packed_size(request);
    protobuf_c_message_pack(request, buf_extend(&body, n));
    int rc = ask_call(a, method, buf_bytes(&body), CMD_TIMEOUT_MS, reply);
    buf_release(&body);
    if (rc != 0) {
        (void)cmd_fail("%s: %s", method_name(method), ask_text(a));
    }
    return rc;
}

const char *cmd_size(uint64_t bytes, char out[16])
{
    static const char *const UNITS[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = (double)bytes;
    while (value >= 1024 && unit < 6) {
        value /= 1024;
        unit++;
    }
    snprintf(out, 16, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, UNITS[unit]);
    return out;
}
