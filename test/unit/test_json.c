#include "tools/json.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const char *text(struct json *j)
{
    buf_u8(&j->out, '\0');
    return (const char *)j->out.data;
}

START_TEST(nested_values_have_commas_where_they_belong)
{
    struct json j;
    json_init(&j);
    json_open(&j, NULL, '{');
    json_number(&j, "n", 18446744073709551615ull);
    json_open(&j, "list", '[');
    json_signed(&j, NULL, -1);
    json_bool(&j, NULL, true);
    json_open(&j, NULL, '{');
    json_close(&j, '}');
    json_close(&j, ']');
    json_hex(&j, "id", BYTES("\x01\xff", 2));
    json_close(&j, '}');
    ck_assert_str_eq(text(&j),
                     "{\"n\":18446744073709551615,\"list\":[-1,true,{}],\"id\":\"01ff\"}");
    json_release(&j);
}
END_TEST

START_TEST(text_is_quoted)
{
    struct json j;
    json_init(&j);
    json_text(&j, "a\"b", "line\n\\tab\t\x01");
    ck_assert_str_eq(text(&j), "\"a\\\"b\":\"line\\u000a\\\\tab\\u0009\\u0001\"");
    json_release(&j);
}
END_TEST

START_TEST(no_text_is_empty_text)
{
    struct json j;
    json_init(&j);
    json_text(&j, "k", NULL);
    ck_assert_str_eq(text(&j), "\"k\":\"\"");
    json_release(&j);
    json_release(&j);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json");
    TCase *t = tcase_create("json");
    tcase_add_test(t, nested_values_have_commas_where_they_belong);
    tcase_add_test(t, text_is_quoted);
    tcase_add_test(t, no_text_is_empty_text);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
