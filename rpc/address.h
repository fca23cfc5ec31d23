#ifndef CFS_RPC_ADDRESS_H
#define CFS_RPC_ADDRESS_H

#include <sys/socket.h>

/* "host:port" and "[v6]:port", and the sockets behind them. */
int address_split(const char *address, char host[256], char port[8]); /* -EINVAL */
/* Length of the socket address, or 0 if the host is a name. */
socklen_t address_numeric(const char *host, const char *port, struct sockaddr_storage *sa);
void address_name(const struct sockaddr *sa, char out[64]);
/* What every connection of CFS wants of its socket. */
void address_options(int fd);
/* A listening, non-blocking socket; *sa is where it really listens. Blocks if the host is a name
 * that must be looked up. */
int address_listen(const char *address, int backlog, struct sockaddr_storage *sa, socklen_t *len);

#endif
