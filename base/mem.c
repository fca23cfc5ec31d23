#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *p)
{
    if (p == NULL) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return p;
}

void *xmalloc(size_t size)
{
    return must(malloc(size != 0 ? size : 1));
}

void *xcalloc(size_t n, size_t size)
{
    return must(calloc(n != 0 ? n : 1, size != 0 ? size : 1));
}

void *xrealloc(void *p, size_t size)
{
    return must(realloc(p, size != 0 ? size : 1));
}

char *xstrdup(const char *s)
{
    return must(strdup(s));
}

char *xasprintf(const char *format, ...)
{
    char *out = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&out, format, args);
    va_end(args);
    return must(n < 0 ? NULL : out);
}

void *xmemdup(const void *p, size_t size)
{
    void *out = xmalloc(size);
    if (size != 0) {
        memcpy(out, p, size);
    }
    return out;
}
