#include "base/mailbox.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"

struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct list letters;
    void (*wake)(void *ctx);
    void *ctx;
    bool closed;
};

struct mailbox *mailbox_new(void (*wake)(void *ctx), void *ctx)
{
    struct mailbox *m = xcalloc(1, sizeof *m);
    CHECK(pthread_mutex_init(&m->lock, NULL) == 0);
    CHECK(pthread_cond_init(&m->filled, NULL) == 0);
    list_init(&m->letters);
    m->wake = wake;
    m->ctx = ctx;
    return m;
}

void mailbox_free(struct mailbox *m)
{
    if (m == NULL) {
        return;
    }
    CHECK(list_empty(&m->letters));
    pthread_cond_destroy(&m->filled);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void mailbox_post(struct mailbox *m, struct letter *letter)
{
    pthread_mutex_lock(&m->lock);
    bool was_empty = list_empty(&m->letters);
    list_add_tail(&m->letters, &letter->node);
    pthread_mutex_unlock(&m->lock);
    /* After unlocking, or the woken thread would at once wait for the lock. */
    if (was_empty && m->wake != NULL) {
        m->wake(m->ctx);
    } else if (was_empty) {
        pthread_cond_signal(&m->filled);
    }
}

bool mailbox_take_all(struct mailbox *m, struct list *to)
{
    pthread_mutex_lock(&m->lock);
    list_take_all(&m->letters, to);
    pthread_mutex_unlock(&m->lock);
    return !list_empty(to);
}

bool mailbox_wait(struct mailbox *m, struct list *to)
{
    pthread_mutex_lock(&m->lock);
    while (list_empty(&m->letters) && !m->closed) {
        pthread_cond_wait(&m->filled, &m->lock);
    }
    list_take_all(&m->letters, to);
    pthread_mutex_unlock(&m->lock);
    return !list_empty(to);
}

void mailbox_close(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    m->closed = true;
    pthread_cond_broadcast(&m->filled);
    pthread_mutex_unlock(&m->lock);
}
