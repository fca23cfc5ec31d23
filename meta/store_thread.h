#ifndef CFS_META_STORE_THREAD_H
#define CFS_META_STORE_THREAD_H

#include "meta/worker.h"

/* The real side of worker.h: a thread. Finished works go to `done`, the loop's mailbox, from where
 * store_thread_deliver calls them back. cfs-meta has two: the log's and the store's. */
struct worker *store_thread_new(const char *name, void (*run)(void *ctx, struct worker *w, struct list *works),
                                void *ctx, struct mailbox *done);

/* On the loop: calls on_done of everything in the mailbox. */
void store_thread_deliver(struct mailbox *done);

#endif
