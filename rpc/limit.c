#include "rpc/limit.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

void limit_raise(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

unsigned limit_connections(unsigned most)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur / 4 * 3 > most) {
        return most;
    }
    return (unsigned)(files.rlim_cur / 4 * 3);
}

/* What the other has sent is read first: bytes left unread make of the close a reset, which takes
 * our sentence along. All of this may fail; then it sees nothing but the close. */
void limit_refuse(int fd, struct bytes sentence)
{
    uint8_t rubbish[4096];
    (void)recv(fd, rubbish, sizeof rubbish, MSG_DONTWAIT);
    (void)send(fd, sentence.data, sentence.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)shutdown(fd, SHUT_WR);
    close(fd);
}
