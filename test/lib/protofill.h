#ifndef CFS_TEST_LIB_PROTOFILL_H
#define CFS_TEST_LIB_PROTOFILL_H

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"

/* A message of any type made out of bytes: `base` (packed; if it does not unpack, one with nothing
 * set) with up to seven fields changed as the cursor says, packed to the end of out. An empty
 * cursor changes nothing. Whatever comes unpacks again. */
void protofill(const ProtobufCMessageDescriptor *d, struct bytes base, struct cursor *c,
               struct buf *out);

#endif
