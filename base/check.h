#ifndef CFS_BASE_CHECK_H
#define CFS_BASE_CHECK_H

/* CHECK states an invariant of our own code. It is on in production and aborts:
 * a crashed daemon is what Raft, retries and the arena are for; a wrong one is
 * not. Never CHECK what comes from network, disk or user. */
#define CHECK(condition) \
    ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))

_Noreturn void check_failed(const char *file, int line, const char *condition);

#endif
