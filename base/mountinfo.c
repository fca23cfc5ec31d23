#include "base/mountinfo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

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

bool mountinfo_take(const char *line, struct mount_entry *out)
{
    if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &out->major, &out->minor, out->where) != 3) {
        return false;
    }
    const char *dash = strstr(line, " - ");
    if (dash == NULL || sscanf(dash + 3, "%63s %4095s", out->type, out->source) != 2) {
        return false;
    }
    mountinfo_unescape(out->where);
    mountinfo_unescape(out->source);
    return true;
}

bool mountinfo_find(const char *process,
                    bool (*wanted)(const struct mount_entry *e, const void *ctx), const void *ctx,
                    struct mount_entry *out)
{
    char path[64], *line = NULL;
    size_t cap = 0;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%.20s/mountinfo", process);
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return false;
    }
    struct mount_entry *e = xmalloc(sizeof *e);
    while (getline(&line, &cap, f) > 0) {
        if (mountinfo_take(line, e) && wanted(e, ctx)) {
            *out = *e;
            found = true;
        }
    }
    free(e);
    free(line);
    fclose(f);
    return found;
}
