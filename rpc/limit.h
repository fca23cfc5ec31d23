#ifndef CFS_RPC_LIMIT_H
#define CFS_RPC_LIMIT_H

#include "base/buf.h"

/* Takes all descriptors that the process may have. With fewer it works, with fewer connections and
 * open files. */
void limit_raise(void);
/* How many connections a process takes: `most`, or three quarters of its descriptors if that is
 * less. The rest is for its files and what it connects to. */
unsigned limit_connections(unsigned most);
/* Says a whole frame to a socket that was just accepted and closes it. Does not wait. */
void limit_refuse(int fd, struct bytes sentence);

#endif
