#ifndef CFS_BASE_MEM_H
#define CFS_BASE_MEM_H

#include <stddef.h>

/* Small, ordinary memory. All of these abort when there is none. Data buffers do
 * not come from here but from bounded pools (rpc/databuf.h). */
void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size); /* zeroed */
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *xmemdup(const void *p, size_t size);

#define container_of(ptr, type, member) \
    ((type *)(void *)((char *)(ptr) - offsetof(type, member)))
#define array_count(a) (sizeof(a) / sizeof((a)[0]))

#endif
