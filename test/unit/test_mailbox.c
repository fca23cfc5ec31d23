#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/mailbox.h"
#include "base/mem.h"

enum { POSTERS = 4, LETTERS = 20000 };
struct note {
    struct letter letter;
    unsigned poster, number;
};
struct post_office {
    struct mailbox *box;
    struct note *notes;
    unsigned poster;
};

static void *poster(void *arg)
{
    struct post_office *o = arg;
    for (unsigned i = 0; i < LETTERS; i++) {
        o->notes[i] = (struct note){.poster = o->poster, .number = i};
        mailbox_post(o->box, &o->notes[i].letter);
    }
    return NULL;
}

START_TEST(each_letter_arrives_once_in_its_posters_order)
{
    struct mailbox *box = mailbox_new(NULL, NULL);
    struct post_office o[POSTERS];
    pthread_t thread[POSTERS];
    unsigned next[POSTERS] = {0}, n = 0;
    for (unsigned i = 0; i < POSTERS; i++) {
        o[i] = (struct post_office){box, calloc(LETTERS, sizeof(struct note)), i};
        pthread_create(&thread[i], NULL, poster, &o[i]);
    }
    while (n < POSTERS * LETTERS) {
        struct list got;
        ck_assert(mailbox_wait(box, &got));
        while (!list_empty(&got)) {
            struct note *note =
                container_of(list_first(&got, struct letter, node), struct note, letter);
            list_remove(&note->letter.node);
            ck_assert_uint_eq(note->number, next[note->poster]);
            next[note->poster]++;
            n++;
        }
    }
    for (unsigned i = 0; i < POSTERS; i++) {
        pthread_join(thread[i], NULL);
        free(o[i].notes);
    }
    mailbox_free(box);
}
END_TEST

static void *closer(void *arg)
{
    mailbox_close(arg);
    return NULL;
}

START_TEST(close_ends_the_wait)
{
    struct mailbox *box = mailbox_new(NULL, NULL);
    pthread_t thread;
    struct list got;
    pthread_create(&thread, NULL, closer, box);
    ck_assert(!mailbox_wait(box, &got));
    ck_assert(list_empty(&got));
    pthread_join(thread, NULL);
    mailbox_free(box);
}
END_TEST

static void on_wake(void *ctx)
{
    (*(unsigned *)ctx)++;
}

START_TEST(wake_comes_once_until_the_box_is_emptied)
{
    unsigned woken = 0;
    struct mailbox *box = mailbox_new(on_wake, &woken);
    struct note a = {.number = 1}, b = {.number = 2};
    struct list got;
    ck_assert(!mailbox_take_all(box, &got));
    mailbox_post(box, &a.letter);
    mailbox_post(box, &b.letter);
    ck_assert_uint_eq(woken, 1);
    ck_assert(mailbox_take_all(box, &got));
    ck_assert_ptr_eq(list_first(&got, struct letter, node), &a.letter);
    mailbox_post(box, &a.letter);
    ck_assert_uint_eq(woken, 2);
    ck_assert(mailbox_take_all(box, &got));
    mailbox_free(box);
    mailbox_free(NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mailbox");
    TCase *t = tcase_create("mailbox");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, each_letter_arrives_once_in_its_posters_order);
    tcase_add_test(t, close_ends_the_wait);
    tcase_add_test(t, wake_comes_once_until_the_box_is_emptied);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
