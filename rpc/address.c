#include "rpc/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SOCKET_BUFFER = 1 << 20 };

/* 0 to 65535, or -1. */
static long port_number(const char *port)
{
    size_t digits = strspn(port, "0123456789");
    long number = digits != 0 && digits <= 5 && port[digits] == 0 ? strtol(port, NULL, 10) : -1;
    return number <= 65535 ? number : -1;
}

int address_split(const char *address, char host[256], char port[8])
{
    const char *colon = strrchr(address, ':');
    size_t host_len = colon != NULL ? (size_t)(colon - address) : 0;
    if (host_len == 0 || host_len > 255 || port_number(colon + 1) < 0) {
        return -EINVAL;
    }
    if (host_len > 2 && address[0] == '[' && address[host_len - 1] == ']') {
        address++;
        host_len -= 2;
    }
    memcpy(host, address, host_len);
    host[host_len] = 0;
    memcpy(port, colon + 1, strlen(colon + 1) + 1);
    return 0;
}

socklen_t address_numeric(const char *host, const char *port, struct sockaddr_storage *sa)
{
    struct sockaddr_in *in4 = (void *)sa;
    struct sockaddr_in6 *in6 = (void *)sa;
    uint16_t number = htons((uint16_t)port_number(port));
    memset(sa, 0, sizeof *sa);
    if (inet_pton(AF_INET, host, &in4->sin_addr) == 1) {
        in4->sin_family = AF_INET;
        in4->sin_port = number;
        return sizeof *in4;
    }
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = number;
        return sizeof *in6;
    }
    return 0;
}

void address_name(const struct sockaddr *sa, char out[64])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(out, 64, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in4 = (const void *)sa;
        inet_ntop(AF_INET, &in4->sin_addr, host, sizeof host);
        snprintf(out, 64, "%s:%u", host, ntohs(in4->sin_port));
    }
}

/* All of these only tune; a socket that refuses one still works. Plain SO_SNDBUF is not tried:
 * without privilege it is cut to a small maximum and ends the kernel's own tuning. */
void address_options(int fd)
{
    int one = 1, idle_s = 10, interval_s = 3, probes = 3, bytes = SOCKET_BUFFER;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
}

static socklen_t resolve_now(const char *host, const char *port, struct sockaddr_storage *sa)
{
    static const struct addrinfo HINTS = {
        .ai_socktype = SOCK_STREAM, .ai_family = AF_INET, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    socklen_t len = address_numeric(host, port, sa);
    if (len == 0 && getaddrinfo(host, port, &HINTS, &found) == 0 && found != NULL) {
        len = found->ai_addrlen;
        memcpy(sa, found->ai_addr, len);
    }
    if (found != NULL) {
        freeaddrinfo(found);
    }
    return len;
}

int address_listen(const char *address, int backlog, struct sockaddr_storage *sa, socklen_t *len)
{
    char host[256], port[8];
    int one = 1;
    int rc = address_split(address, host, port);
    if (rc != 0) {
        return rc;
    }
    *len = resolve_now(host, port, sa);
    if (*len == 0) {
        return -EADDRNOTAVAIL;
    }
    int fd = socket(sa->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one); /* only tunes */
    address_options(fd);
    *len = sizeof *sa;
    if (bind(fd, (struct sockaddr *)sa,
             sa->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)) !=
            0 ||
        listen(fd, backlog) != 0 || getsockname(fd, (struct sockaddr *)sa, len) != 0) {
        rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}
