#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* The one process-wide state of base: where its lines go is a property of the process. */
static enum log_level threshold = LOG_LEVEL_INFO;
static const char *program = "cfs";

void log_set_level(enum log_level level)
{
    threshold = level;
}

void log_set_name(const char *name)
{
    program = name;
}

void log_line(enum log_level level, const char *format, ...)
{
    static const char *const NAMES[] = {"error", "warn", "info", "debug"};
    if (level > threshold) {
        return;
    }
    char line[1024];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    int n = (int)strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += snprintf(line + n, sizeof line - (size_t)n, ".%03ldZ %s[%d] %s: ", now.tv_nsec / 1000000,
                  program, (int)getpid(), NAMES[level]);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    va_end(args);
    int end = m < 0 ? n : n + m;
    if (end > (int)sizeof line - 2) {
        end = (int)sizeof line - 2;
    }
    for (int i = n; i < end; i++) { /* a peer's words forge no other line */
        line[i] = (unsigned char)line[i] < ' ' || line[i] == 0x7f ? '?' : line[i];
    }
    line[end++] = '\n';
    /* One write per line, so that lines of several threads do not mix; a log that cannot be
     * written has nowhere to be reported. */
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)end);
    (void)ignored;
}

int log_allowed(struct log_limit *limit, unsigned long long now_ms, unsigned long *suppressed)
{
    if (limit->last_ms != 0 && now_ms < limit->last_ms + 1000) {
        limit->suppressed++;
        return 0;
    }
    *suppressed = limit->suppressed;
    limit->suppressed = 0;
    limit->last_ms = now_ms;
    return 1;
}
