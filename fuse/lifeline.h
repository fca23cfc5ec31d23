#ifndef CFS_FUSE_LIFELINE_H
#define CFS_FUSE_LIFELINE_H

#include "fuse/holder.h"

struct uv_loop_s;
struct lifeline;

/* The worker's side of its holder: says and hears the messages of holder.h, and starts another holder when it died. */
struct lifeline_events {
    void (*on_mounted)(void *ctx);  /* the holder has mounted: /dev/fuse may be read */
    void (*on_orphaned)(void *ctx); /* the holder went before it mounted: close the session and exit */
    void (*on_hand_over)(void *ctx); /* SIGUSR1: an upgrade. Stop reading, wait at most 1 s, exit */
    void *ctx;
};
/* Takes the descriptors that holder_spawn left, attaches the arena. The first thing a worker does: whatever is opened
 * before would be in the way of those numbers. */
int lifeline_new(const struct lifeline_events *events, struct lifeline **out);
int lifeline_start(struct lifeline *l, struct uv_loop_s *uv);
struct arena *lifeline_arena(struct lifeline *l);
int lifeline_dev(const struct lifeline *l);
bool lifeline_mounted(const struct lifeline *l); /* a restart: nobody will say it again */
void lifeline_say_ready(struct lifeline *l);
void lifeline_say_failed(struct lifeline *l, int code, const char *text);

#endif
