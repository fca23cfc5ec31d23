#ifndef CFS_BASE_LOG_H
#define CFS_BASE_LOG_H

/* One line per event on stderr: time, level, stable wording, then key=value.
 * Cores do not log; services and main do. error: an operator must act; warn:
 * degraded and going on; info: a state changed; debug: free. */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level);     /* default info */
void log_set_name(const char *name);          /* borrowed; the program's name in each line */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* At most one line a second for a source of events: returns true when a line may
 * be written, and then in *suppressed how many were not since the last one. */
struct log_limit {
    unsigned long long last_ms;
    unsigned long suppressed;
};
int log_allowed(struct log_limit *limit, unsigned long long now_ms, unsigned long *suppressed);

#endif
