#ifndef CFS_TEST_LIB_MESSAGES_H
#define CFS_TEST_LIB_MESSAGES_H

#include <protobuf-c/protobuf-c.h>

/* What a method (proto/methods.h) is asked with and answered by. Those that there is nothing in are
 * Empty; NULL: not a method that anybody serves. */
struct messages {
    const ProtobufCMessageDescriptor *request, *reply;
};
struct messages messages_of(unsigned method);

/* The i-th of the methods that anybody serves, beginning again after the last. */
unsigned messages_method(unsigned i);

#endif
