#ifndef CFS_FUSE_OPENING_H
#define CFS_FUSE_OPENING_H

#include "fuse/client.h"

/* Opens the session of a fresh mount: says who we are (client id of this mount, host, machine, boot), which earlier clients
 * of this machine are proven dead (option "earlier": their ids, in hexadecimal, separated by commas), and notes
 * the answer in the arena. One round trip, one more for each dead client that the server does not know. */
enum { OPENING_MS = 10000, OPENING_TEXT_MAX = 512 };

struct opening;
/* on_done once, from the loop. rc 0: arena->h has session, root and volume, client->policy is set. Else text says why. */
struct opening *opening_start(struct client *c, void (*on_done)(void *ctx, int rc, const char *text),
                              void *ctx);
/* The policy that was in force then, for a worker that comes later; the tables bring the present one. */
void opening_recall_policy(struct client *c);

#endif
