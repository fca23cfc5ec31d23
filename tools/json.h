#ifndef CFS_TOOLS_JSON_H
#define CFS_TOOLS_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* Writes JSON into a buffer, commas and quoting included. key is NULL inside arrays and for the
 * outermost value. */
struct json {
    struct buf out;
    bool comma; /* one is due before the next value */
};
void json_init(struct json *j);
void json_release(struct json *j);
void json_open(struct json *j, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *j, char bracket);                 /* '}' or ']' */
void json_text(struct json *j, const char *key, const char *value);
void json_number(struct json *j, const char *key, uint64_t value);
void json_signed(struct json *j, const char *key, int64_t value);
void json_bool(struct json *j, const char *key, bool value);
void json_hex(struct json *j, const char *key, struct bytes value);
void json_print(const struct json *j); /* to stdout, with a newline */

#endif
