#ifndef CFS_TEST_LIB_ASKER_H
#define CFS_TEST_LIB_ASKER_H

#include "rpc/transport.h"

/* Asks a server anything, and watches over its answers: each request is answered at most once, by
 * its number and method, with a status that there is, or a body that is what the method answers. A
 * server may hang up instead: then the next request is on a new connection. One at a time. */
enum { ASKER_MAX = 256 };
struct asker {
    struct transport *node;
    const char *address;
    struct conn *conn;
    struct asked {
        uint64_t id;
        uint16_t method;
        bool waiting;
    } asked[ASKER_MAX];
    unsigned n; /* since the connection was made */
    unsigned answers, refusals, hung_up;
    /* Each answer; may be NULL. */
    void (*on_answer)(void *ctx, unsigned method, int rc, struct bytes body);
    void *ctx;
};

void asker_init(struct asker *a, struct transport *node, const char *address);
/* payload may be empty. Nothing is sent when ASKER_MAX requests went over this connection. */
void asker_ask(struct asker *a, uint16_t method, struct bytes body, struct bytes payload);
void asker_cancel(struct asker *a, uint16_t method,
                  uint64_t id); /* a FRAME_CANCEL for any number */
bool asker_idle(
    const struct asker *a); /* everything that was asked is answered, or was hung up on */
void asker_hang_up(struct asker *a);

#endif
