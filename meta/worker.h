#ifndef CFS_META_WORKER_H
#define CFS_META_WORKER_H

#include "base/list.h"
#include "base/mailbox.h"

/* Somebody who does blocking work for the loop, in the order in which it is posted: a thread of its own in
 * cfs-meta (store_thread.h), the simulator's clock in tests. */
struct work {
    struct letter letter;
    void (*on_done)(struct work *w); /* on the loop; the work is the caller's again */
};

struct worker;
struct worker_ops {
    void (*post)(struct worker *w, struct work *x); /* from the loop; on_done follows, never inside */
    void (*finish)(struct worker *w, struct work *x); /* from run: this one is done */
    void (*close)(struct worker *w); /* does what was posted, then stops; no on_done after this */
};
struct worker {
    const struct worker_ops *ops;
    /* Does all works of the list, which had come meanwhile: what one sync can serve is served
     * by one. Each is handed back with finish. */
    void (*run)(void *ctx, struct worker *w, struct list *works);
    void *ctx;
};

static inline void worker_post(struct worker *w, struct work *x)
{
    w->ops->post(w, x);
}
static inline void worker_finish(struct worker *w, struct work *x)
{
    w->ops->finish(w, x);
}

#endif
