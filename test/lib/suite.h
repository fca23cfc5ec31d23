#ifndef CFS_TEST_LIB_SUITE_H
#define CFS_TEST_LIB_SUITE_H

#include <check.h>

/* Runs one test case and gives main's result. */
static inline int suite_run(const char *name, TCase *t)
{
    Suite *s = suite_create(name);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}

#endif
