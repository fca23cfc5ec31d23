#include "meta/store_thread.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

struct store_thread {
    struct worker worker;
    struct mailbox *in;
    struct mailbox *done;
    pthread_t thread;
};

static void *thread_main(void *ctx)
{
    struct store_thread *t = ctx;
    struct list works;
    while (mailbox_wait(t->in, &works)) {
        t->worker.run(t->worker.ctx, &t->worker, &works);
    }
    return NULL;
}

static void thread_post(struct worker *w, struct work *x)
{
    struct store_thread *t = container_of(w, struct store_thread, worker);
    mailbox_post(t->in, &x->letter);
}

static void thread_finish(struct worker *w, struct work *x)
{
    struct store_thread *t = container_of(w, struct store_thread, worker);
    mailbox_post(t->done, &x->letter);
}

static void thread_close(struct worker *w)
{
    struct store_thread *t = container_of(w, struct store_thread, worker);
    mailbox_close(t->in);
    CHECK(pthread_join(t->thread, NULL) == 0);
    mailbox_free(t->in);
    free(t);
}

struct worker *store_thread_new(const char *name, void (*run)(void *ctx, struct worker *w, struct list *works),
                                void *ctx, struct mailbox *done)
{
    static const struct worker_ops ops = {
        .post = thread_post, .finish = thread_finish, .close = thread_close};
    struct store_thread *t = xcalloc(1, sizeof *t);
    t->worker = (struct worker){.ops = &ops, .run = run, .ctx = ctx};
    t->in = mailbox_new(NULL, NULL);
    t->done = done;
    CHECK(pthread_create(&t->thread, NULL, thread_main, t) == 0);
    (void)pthread_setname_np(t->thread, name); /* only for people who look at top(1) */
    return &t->worker;
}

void store_thread_deliver(struct mailbox *done)
{
    struct list works;
    if (!mailbox_take_all(done, &works)) {
        return;
    }
    list_for_each_safe(node, follow, &works) {
        struct work *w = list_entry(node, struct work, letter.node);
        list_remove(node);
        w->on_done(w);
    }
}
