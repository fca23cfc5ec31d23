#ifndef CFS_BASE_MAILBOX_H
#define CFS_BASE_MAILBOX_H

#include <stdbool.h>

#include "base/list.h"

/* How threads talk: each has one mailbox, many post, one takes. This is the only
 * place in the tree with a mutex. A letter is embedded in the request that
 * travels; posting hands the request over, and nobody else touches it.
 *
 * A thread with an event loop sets `wake` (called from the poster's thread when
 * the box was empty; uv_async_send is the usual one) and then takes everything at
 * once. A thread without a loop blocks in mailbox_wait. */
struct letter {
    struct list node;
};
struct mailbox;

struct mailbox *mailbox_new(void (*wake)(void *ctx), void *ctx); /* wake may be NULL */
void mailbox_free(struct mailbox *m);                             /* must be empty */
void mailbox_post(struct mailbox *m, struct letter *letter);

/* Moves all letters to `to` (initialised here), oldest first. Returns false if there were none. */
bool mailbox_take_all(struct mailbox *m, struct list *to);

/* The same, but waits until there is one, or mailbox_close was called (then false when empty). */
bool mailbox_wait(struct mailbox *m, struct list *to);
void mailbox_close(struct mailbox *m); /* wakes the waiter for good */

#endif
