#include "base/log.h"

#include <string.h>
#include <unistd.h>

#include "test/lib/suite.h"

/* What a line is, from the pipe that stands in the place of stderr. */
static size_t logged(const char *text, char *out, size_t bytes)
{
    int ends[2];
    const int old = dup(STDERR_FILENO);
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_ge(dup2(ends[1], STDERR_FILENO), 0);
    log_warn("a peer said text=\"%s\"", text);
    ck_assert_int_ge(dup2(old, STDERR_FILENO), 0);
    close(old);
    close(ends[1]);
    const ssize_t n = read(ends[0], out, bytes - 1);
    ck_assert_int_gt(n, 0);
    out[n] = 0;
    close(ends[0]);
    return (size_t)n;
}

/* A text may come from a peer: it forges no other line, and does nothing to a terminal. */
START_TEST(text_of_a_peer_stays_in_its_line)
{
    char line[2048];
    const size_t n = logged("one\nerror: two\r\x1b[2J\x7f", line, sizeof line);
    ck_assert_ptr_eq(strchr(line, '\n'), line + n - 1);
    ck_assert_ptr_null(strpbrk(line, "\r\x1b\x7f"));
    ck_assert_ptr_nonnull(strstr(line, "warn: a peer said text=\"one?error: two??[2J?\""));
}
END_TEST

START_TEST(long_line_is_cut)
{
    char text[3000], line[2048];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    const size_t n = logged(text, line, sizeof line);
    ck_assert_uint_lt(n, 1025);
    ck_assert_ptr_eq(strchr(line, '\n'), line + n - 1);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("log");
    tcase_add_test(t, text_of_a_peer_stays_in_its_line);
    tcase_add_test(t, long_line_is_cut);
    return suite_run("log", t);
}
