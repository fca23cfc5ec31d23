#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "CHECK failed: %s at %s:%d\n", condition, file, line);
    fflush(stderr);
    abort();
}
