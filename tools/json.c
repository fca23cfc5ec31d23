#include "tools/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void json_init(struct json *j)
{
    buf_init(&j->out);
    j->comma = false;
}

void json_release(struct json *j)
{
    buf_release(&j->out);
}

static void quoted(struct json *j, const char *text)
{
    buf_u8(&j->out, '"');
    for (const char *at = text; *at != '\0'; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '"' || c == '\\') {
            buf_printf(&j->out, "\\%c", c);
        } else if (c < 0x20) {
            buf_printf(&j->out, "\\u%04x", c);
        } else {
            buf_u8(&j->out, c);
        }
    }
    buf_u8(&j->out, '"');
}

static void begin(struct json *j, const char *key)
{
    if (j->comma) {
        buf_u8(&j->out, ',');
    }
    if (key != NULL) {
        quoted(j, key);
        buf_u8(&j->out, ':');
    }
    j->comma = true;
}

void json_open(struct json *j, const char *key, char bracket)
{
    begin(j, key);
    buf_u8(&j->out, (uint8_t)bracket);
    j->comma = false;
}

void json_close(struct json *j, char bracket)
{
    buf_u8(&j->out, (uint8_t)bracket);
    j->comma = true;
}

void json_text(struct json *j, const char *key, const char *value)
{
    begin(j, key);
    quoted(j, value != NULL ? value : "");
}

void json_number(struct json *j, const char *key, uint64_t value)
{
    begin(j, key);
    buf_printf(&j->out, "%" PRIu64, value);
}

void json_signed(struct json *j, const char *key, int64_t value)
{
    begin(j, key);
    buf_printf(&j->out, "%" PRId64, value);
}

void json_bool(struct json *j, const char *key, bool value)
{
    begin(j, key);
    buf_printf(&j->out, "%s", value ? "true" : "false");
}

void json_hex(struct json *j, const char *key, struct bytes value)
{
    begin(j, key);
    buf_u8(&j->out, '"');
    for (size_t i = 0; i < value.len; i++) {
        buf_printf(&j->out, "%02x", value.data[i]);
    }
    buf_u8(&j->out, '"');
}

void json_print(const struct json *j)
{
    fwrite(j->out.data, 1, j->out.len, stdout);
    putchar('\n');
}
