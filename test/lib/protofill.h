#ifndef CFS_TEST_LIB_PROTOFILL_H
#define CFS_TEST_LIB_PROTOFILL_H

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"

/* A message of any type made out of bytes: `base` (packed; if it does not unpack, one with nothing
 * set) with up to seven fields changed as the cursor says, packed to the end of out. An empty
 * cursor changes nothing. Whatever comes unpacks again. */
void protofill(const ProtobufCMessageDescriptor *d, struct bytes base, struct cursor *c,
               struct buf *out);

/* A message that makes sense: each required field, some of the others, with what `say` has for
 * their names (0, or nothing, where it has nothing). Of a message that is one of many messages
 * (more than five optional ones), one is set. */
struct protofill_words {
    uint64_t (*number)(void *ctx, const char *field, struct cursor *c);
    struct bytes (*text)(void *ctx, const char *field, struct cursor *c); /* borrowed at once */
    void *ctx;
};
/* Many bytes out of two: for messages that make sense, which would use up an input. */
enum { PROTOFILL_DRAWN = 1024 };
struct cursor protofill_draw(struct cursor *c, uint8_t room[PROTOFILL_DRAWN]);
void protofill_sense(const ProtobufCMessageDescriptor *d, const struct protofill_words *say,
                     struct cursor *c, struct buf *out);

#endif
