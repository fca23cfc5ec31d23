#ifndef CFS_FUSE_LOOPSTATE_H
#define CFS_FUSE_LOOPSTATE_H

/* What fuseloop.c, requests.c, fuseio.c and interrupts.c share, and nobody else. */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <uv.h>

#include "fuse/fuseloop.h"

enum {
    /* In front of the data of a WRITE; so much of head[] is used that the data begins where head[] ends. */
    REQUEST_BEFORE_DATA = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in),
    REQUEST_BYTES_MAX = REQUEST_BEFORE_DATA + ARENA_BIG_DATA,
    REQUEST_DEATHS_MAX = 3,
    REQUESTS_PER_WAKEUP = 64,
    INTERRUPT_LOOK_MS = 100
};

struct fuseloop {
    struct fuseloop_options options;
    struct client *client;
    struct arena *arena;
    int dev;
    uv_poll_t poll;
    uv_timer_t watch;          /* callers that a signal may have killed */
    struct fuse_session *fuse;
    struct fuse_lowlevel_ops ops;
    struct table by_unique;    /* struct opreq */
    struct list requests;      /* the same, oldest first */
    struct list taken;         /* after a restart: not yet given by fuseloop_take_next */
    uint32_t *free_big, *free_small; /* stacks of indices */
    uint32_t n_free_big, n_free_small;
    struct opreq *current;     /* inside ops, until answered */
    struct notifier *notifier;
    unsigned n_parked;
    bool replaying_init, started, polling, unmounted, watching;
    bool setxattr_ext, epoch;  /* negotiated */
};

/* requests.c: records and their struct opreq */
int requests_init(struct fuseloop *f);   /* takes over what the arena holds */
void requests_release(struct fuseloop *f);
struct arena_big *requests_big_get(struct fuseloop *f); /* NULL: all in use. Its header's length is 0. */
void requests_big_put(struct fuseloop *f, struct arena_big *big); /* not read into, or not to be answered */
struct opreq *requests_add(struct fuseloop *f, struct arena_big *big); /* what was just read; moves it if it fits */
struct opreq *requests_find(struct fuseloop *f, uint64_t unique);
void requests_free(struct fuseloop *f, struct opreq *r); /* answered */
void requests_set_killed(struct fuseloop *f, struct opreq *r); /* answers its caller, who will never see it */
struct fuse_in_header *requests_header(const struct opreq *r);
struct fuse_in_header *requests_big_header(struct arena_big *big);
uint32_t *requests_flags(const struct opreq *r);
uint32_t *requests_deaths(const struct opreq *r);

/* fuseloop.c */
void fuseloop_record_freed(struct fuseloop *f); /* there is room again to read into */

/* fuseio.c: libfuse's session */
int fuseio_init(struct fuseloop *f);
void fuseio_replay_init(struct fuseloop *f);
void fuseio_save_init(struct fuseloop *f, const struct fuse_in_header *in);
void fuseio_process(struct fuseloop *f, struct opreq *r);
void fuseio_answer_error(struct fuseloop *f, uint64_t unique, int error);
bool fuseio_was_answered(struct fuseloop *f, uint64_t unique); /* of a request that an earlier worker has read */

/* interrupts.c */
void interrupts_init(struct fuseloop *f);
void interrupts_take(struct fuseloop *f, const struct fuse_in_header *in);
void interrupts_watch(struct fuseloop *f); /* starts looking, if anything is marked or buffers ran out */

/* notify.c */
struct notifier *notifier_new(int dev_fd);
void notifier_free(struct notifier *n);
void notifier_inode(struct notifier *n, uint64_t nodeid, int64_t offset, int64_t length);
void notifier_names(struct notifier *n);

#endif
