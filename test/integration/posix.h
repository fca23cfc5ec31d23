#ifndef CFS_TEST_INTEGRATION_POSIX_H
#define CFS_TEST_INTEGRATION_POSIX_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A few helpers for the posix_*.c programs: each is a list of claims about the directory it works
 * in. A claim is a function that returns NULL, or says what was wrong; it makes what it needs in an
 * empty directory of its own. */
struct claim {
    const char *name;
    const char *(*holds)(void);
};

/* Fails the claim, with errno, if the expression is false. */
#define NEED(expression)                                                                           \
    do {                                                                                           \
        if (!(expression)) {                                                                       \
            return posix_why(#expression, __LINE__);                                               \
        }                                                                                          \
    } while (0)
/* The call must fail with this errno. */
#define REFUSED(expression, number)                                                                \
    do {                                                                                           \
        errno = 0;                                                                                 \
        if ((expression) != -1 || errno != (number)) {                                             \
            return posix_why("refused: " #expression, __LINE__);                                   \
        }                                                                                          \
    } while (0)

const char *posix_why(const char *expression, int line);
int posix_run(int argc, char **argv, const struct claim *claims, unsigned n);

#ifdef POSIX_MAIN
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

const char *posix_why(const char *expression, int line)
{
    static char text[512];
    snprintf(text, sizeof text, "line %d: %s (%s)", line, expression, strerror(errno));
    return text;
}

/* DIR [NAME]: runs all claims, or one, each in DIR/NAME. Prints "ok NAME" and "not ok NAME: WHY".
 */
int posix_run(int argc, char **argv, const struct claim *claims, unsigned n)
{
    int bad = 0;
    for (unsigned i = 0; i < n && argc >= 2; i++) {
        if (argc > 2 && strcmp(argv[2], claims[i].name) != 0) {
            continue;
        }
        umask(022);
        if (chdir(argv[1]) != 0 || (mkdir(claims[i].name, 0755) != 0 && errno != EEXIST) ||
            chdir(claims[i].name) != 0) {
            printf("not ok %s: cannot make its directory: %s\n", claims[i].name, strerror(errno));
            return 1;
        }
        errno = 0;
        const char *why = claims[i].holds();
        if (why == NULL) {
            printf("ok %s\n", claims[i].name);
        } else {
            printf("not ok %s: %s\n", claims[i].name, why);
            bad = 1;
        }
        fflush(stdout);
    }
    return bad;
}
#endif

#endif
