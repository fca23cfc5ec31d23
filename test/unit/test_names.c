#include <check.h>
#include <stdio.h>
#include <string.h>

#include "fuse/names.h"

static struct names *n;
static void setup(void)
{
    n = names_new(8);
}
static void teardown(void)
{
    names_free(n);
}
static struct bytes b(const char *s)
{
    return BYTES(s, strlen(s));
}

START_TEST(finds_what_was_put_and_not_what_was_dropped)
{
    names_put(n, 1, b("a"), 10);
    names_put(n, 2, b("a"), 20);
    ck_assert_uint_eq(names_find(n, 1, b("a")), 10);
    ck_assert_uint_eq(names_find(n, 2, b("a")), 20);
    names_drop(n, 1, b("a"));
    ck_assert_uint_eq(names_find(n, 1, b("a")), 0);
}
END_TEST

START_TEST(an_evicted_name_ends_completeness)
{
    names_set_complete(n, 1, true);
    names_put(n, 1, b("first"), 10);
    ck_assert(names_complete(n, 1));
    char name[8];
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "%u", i);
        names_put(n, 2, b(name), 100 + i);
    }
    ck_assert_uint_eq(names_find(n, 1, b("first")), 0);
    ck_assert(!names_complete(n, 1));
}
END_TEST

START_TEST(a_change_under_way_makes_a_read_doubtful)
{
    uint64_t mark = names_mark(n, 1);
    ck_assert(names_unchanged(n, 1, mark));
    names_change_begin(n, 1);
    ck_assert(!names_unchanged(n, 1, mark));
    mark = names_mark(n, 1);
    ck_assert(!names_unchanged(n, 1, mark));
    names_change_end(n, 1);
    ck_assert(!names_unchanged(n, 1, mark));
    ck_assert(names_unchanged(n, 1, names_mark(n, 1)));
}
END_TEST

START_TEST(a_directory_forgotten_and_met_again_has_another_mark)
{
    uint64_t mark = names_mark(n, 1);
    for (uint64_t dir = 2; dir < 30; dir++) {
        names_mark(n, dir);
    }
    ck_assert(!names_unchanged(n, 1, mark));
    ck_assert_uint_ne(names_mark(n, 1), mark);
}
END_TEST

/* A directory at the server, changes of it by this client that are carried out some time between
 * their submission and their answer, lookups, and a listing in pieces: what is called whole is. */
enum { NAMES = 24, CHANGES = 3, STEPS = 300 };

struct change {
    bool submitted, applied;
    int kind; /* 0 create, 1 unlink, 2 rename */
    unsigned a, b;
    int outcome; /* 0 done, 1 refused, 2 not known */
};

struct fake_server {
    uint64_t ino[NAMES]; /* 0: no such name; a name's number is its place in the listing */
    uint64_t next_ino;
};

struct piece { /* of the listing under way */
    bool asked, taken;
    unsigned from, n;
    uint64_t ino[NAMES];
};

static uint32_t rnd(uint32_t below)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 33) % below;
}

static struct bytes nth(unsigned i)
{
    static char text[4][8];
    static unsigned at;
    char *t = text[at++ % 4];
    snprintf(t, sizeof text[0], "n%02u", i);
    return b(t);
}

static void apply(struct fake_server *s, struct change *c)
{
    c->applied = true;
    bool good = c->kind == 0 ? s->ino[c->a] == 0 : s->ino[c->a] != 0;
    if (!good) {
        c->outcome = c->outcome == 2 ? 2 : 1;
    } else if (c->kind == 0) {
        s->ino[c->a] = ++s->next_ino;
    } else {
        if (c->kind == 2 && c->a != c->b) {
            s->ino[c->b] = s->ino[c->a];
        }
        s->ino[c->a] = c->kind == 2 && c->a == c->b ? s->ino[c->a] : 0;
    }
}

/* As the callers of names do it. */
static void answer(struct change *c, uint64_t made)
{
    names_change_end(n, 1);
    if (c->outcome == 2) {
        names_set_complete(n, 1, false);
        names_drop(n, 1, nth(c->a));
        if (c->kind == 2) {
            names_change_end(n, 1);
            names_set_complete(n, 1, false);
            names_drop(n, 1, nth(c->b));
        }
    } else {
        if (c->kind == 2) {
            names_change_end(n, 1);
        }
        if (c->outcome == 0 && c->kind == 0) {
            names_put(n, 1, nth(c->a), made);
        } else if (c->outcome == 0) {
            if (c->kind != 2 || c->a != c->b) {
                names_drop(n, 1, nth(c->a));
            }
            if (c->kind == 2) {
                names_put(n, 1, nth(c->b), made);
            }
        }
    }
    c->submitted = false;
}

struct history {
    struct fake_server s;
    struct change change[CHANGES];
    uint64_t made[CHANGES];
    struct piece p;
    bool listing;
};

/* The kernel keeps changes of one name apart. */
static bool clashes(const struct history *h, const struct change *c)
{
    for (unsigned j = 0; j < CHANGES; j++) {
        const struct change *o = &h->change[j];
        if (o->submitted && (o->a == c->a || o->a == c->b || o->b == c->a || o->b == c->b)) {
            return true;
        }
    }
    return false;
}

static void submit_one(struct history *h, struct change *c)
{
    struct change next = {.submitted = true,
                          .kind = (int)rnd(3),
                          .a = rnd(NAMES),
                          .b = rnd(NAMES),
                          .outcome = rnd(12) == 0 ? 2 : 0};
    next.b = next.kind == 2 ? next.b : next.a;
    if (clashes(h, &next)) {
        return;
    }
    *c = next;
    names_change_begin(n, 1);
    if (c->kind == 2) {
        names_change_begin(n, 1);
    }
}

static void step_change(struct history *h)
{
    const unsigned i = rnd(CHANGES);
    struct change *c = &h->change[i];
    if (!c->submitted) {
        submit_one(h, c);
    } else if (c->applied) {
        answer(c, h->made[i]);
    } else if (c->outcome == 2 && rnd(2)) {
        c->applied = true; /* it never got there */
    } else {
        apply(&h->s, c);
        h->made[i] = h->s.ino[c->kind == 2 ? c->b : c->a];
    }
}

static void step_listing(struct history *h)
{
    struct piece *p = &h->p;
    if (!h->listing) {
        names_watch(n, 1);
        *p = (struct piece){0};
        h->listing = true;
    } else if (!p->asked) {
        p->asked = true;
    } else if (!p->taken) { /* at the server */
        p->n = 1 + rnd(NAMES - p->from);
        memcpy(p->ino, h->s.ino + p->from, p->n * sizeof p->ino[0]);
        p->taken = true;
    } else { /* its answer */
        for (unsigned at = 0; at < p->n; at++) {
            if (p->ino[at] != 0) {
                (void)names_put_listed(n, 1, nth(p->from + at), p->ino[at]);
            }
        }
        p->from += p->n;
        p->asked = p->taken = false;
        if (p->from == NAMES) {
            names_set_complete(n, 1, names_watch_whole(n, 1));
            names_watch(n, 0);
            h->listing = false;
        }
    }
}

static void one_history(unsigned *whole)
{
    struct history h = {.s.next_ino = 100};
    names_free(n);
    n = names_new(rnd(4) == 0 ? NAMES / 2 : 4096);
    for (unsigned i = 0; i < NAMES; i++) {
        h.s.ino[i] = rnd(2) ? ++h.s.next_ino : 0;
    }
    for (unsigned step = 0; step < STEPS; step++) {
        if (rnd(2)) {
            step_change(&h);
        } else {
            step_listing(&h);
        }
        if (!names_complete(n, 1)) {
            continue;
        }
        ++*whole;
        for (unsigned at = 0; at < NAMES; at++) {
            ck_assert_uint_eq(names_find(n, 1, nth(at)), h.s.ino[at]);
        }
    }
}

START_TEST(a_directory_listed_beside_its_changes_is_whole_or_not_called_so)
{
    unsigned whole = 0;
    for (unsigned i = 0; i < 3000; i++) {
        one_history(&whole);
    }
    ck_assert_uint_gt(whole, 1000);
}
END_TEST

START_TEST(what_a_watch_cannot_know_is_not_whole)
{
    names_watch(n, 1);
    ck_assert(names_watch_whole(n, 1));
    ck_assert(!names_watch_whole(n, 2));
    names_set_complete(n, 1, false);
    ck_assert(!names_watch_whole(n, 1));
    names_watch(n, 1);
    names_put(n, 1, b("a"), 10);
    ck_assert(!names_put_listed(n, 1, b("a"), 9));
    ck_assert_uint_eq(names_find(n, 1, b("a")), 10);
    names_drop(n, 1, b("gone"));
    ck_assert(!names_put_listed(n, 1, b("gone"), 9));
    ck_assert_uint_eq(names_find(n, 1, b("gone")), 0);
    ck_assert(names_watch_whole(n, 1));
    char name[8];
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "%u", i);
        names_put(n, 2, b(name), 100 + i);
    }
    ck_assert(!names_watch_whole(n, 1)); /* "a" had to go */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("names");
    TCase *c = tcase_create("names");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, finds_what_was_put_and_not_what_was_dropped);
    tcase_add_test(c, an_evicted_name_ends_completeness);
    tcase_add_test(c, a_change_under_way_makes_a_read_doubtful);
    tcase_add_test(c, a_directory_forgotten_and_met_again_has_another_mark);
    tcase_add_test(c, a_directory_listed_beside_its_changes_is_whole_or_not_called_so);
    tcase_add_test(c, what_a_watch_cannot_know_is_not_whole);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
