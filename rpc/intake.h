#ifndef CFS_RPC_INTAKE_H
#define CFS_RPC_INTAKE_H

#include "rpc/transport.h"

/* The receiving core of a connection: bytes in, whole frames out. No socket, no clock. Memory
 * follows what has really arrived: a header that promises 4 MiB of body costs nothing until they
 * come; a payload takes one buffer of the pool.
 *
 * A frame that lies complete in the bytes given is delivered in place, without a copy of its body.
 */
struct intake {
    struct databuf_pool *pool; /* NULL: payload is refused */
    uint8_t head[FRAME_HEADER_BYTES];
    size_t head_have;
    bool in_body, in_payload; /* the header is decoded; the body is complete too */
    struct frame frame;
    struct buf body; /* partial, or kept while the payload comes */
    struct databuf *payload;
    struct databuf *delivered; /* of the last message; given back at the next step */
};

enum intake_result {
    INTAKE_MORE,    /* all bytes are used up */
    INTAKE_MESSAGE, /* *m is valid until the next call */
    INTAKE_FAULT,   /* *fault says which; the connection is finished */
    INTAKE_STARVED  /* the pool is empty: call again with the rest when it is not */
};

void intake_init(struct intake *in, struct databuf_pool *pool);
void intake_release(struct intake *in);
/* Takes from the front of *data, and moves it forward. */
enum intake_result intake_step(struct intake *in, struct bytes *data, struct message *m,
                               enum frame_fault *fault);
/* Lets the last message go without a further step (reading is about to stop). */
void intake_settle(struct intake *in);
/* Where the next bytes should be read to directly (the rest of a large payload), or length 0; then
 * how many were. intake_step follows. */
struct iovec intake_direct(const struct intake *in);
void intake_direct_done(struct intake *in, size_t n);
/* Whether the stream stands inside a frame. */
bool intake_partial(const struct intake *in);

#endif
