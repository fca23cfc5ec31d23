#include "base/mountinfo.h"

#include <stdbool.h>

static bool is_octal(char c)
{
    return c >= '0' && c <= '7';
}

void mountinfo_unescape(char *text)
{
    char *to = text;
    for (const char *at = text; *at != 0; to++) {
        if (at[0] == '\\' && is_octal(at[1]) && is_octal(at[2]) && is_octal(at[3])) {
            *to = (char)((at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0'));
            at += 4;
        } else {
            *to = *at++;
        }
    }
    *to = 0;
}
