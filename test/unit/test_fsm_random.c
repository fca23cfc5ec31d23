#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/prng.h"
#include "ec/stripe.h"
#include "test/lib/fsm_world.h"
#include "test/lib/kv_mem.h"

/* Random operations: against a model of file content, against the audit, and against a
 * second replica that was restarted, or failed, in the middle. */

/* ---- a model of content -------------------------------------------------------------- */

enum { CELL = 4096, CELLS = 3000 };

struct cell {
    uint32_t pg; /* 0: hole; UINT32_MAX: reserved */
    uint64_t stripe, offset;
};
struct model {
    uint64_t ino;
    struct cell cell[CELLS];
};

/* Writes cells [from, from+n), each a stripe of its own when `fine`, else in one. */
static void model_write(struct fsm_world *w, struct model *m, unsigned from, unsigned n, bool fine)
{
    unsigned stripes = fine ? n : 1;
    ck_assert_int_eq(fsm_world_grant(w, stripes), 0);
    Cfs__Stripe *s = xcalloc(stripes, sizeof *s), **sl = xcalloc(stripes, sizeof *sl);
    Cfs__Extent *e = xcalloc(stripes, sizeof *e), **el = xcalloc(stripes, sizeof *el);
    const Cfs__OpReply *r = fsm_world_result(w);
    unsigned at = 0;
    for (size_t g = 0; g < r->n_grant; g++) {
        for (unsigned i = 0; i < r->grant[g]->count; i++, at++) {
            cfs__stripe__init(&s[at]);
            cfs__extent__init(&e[at]);
            s[at].pg = e[at].pg = r->grant[g]->pg;
            s[at].id = e[at].stripe = r->grant[g]->first + i;
            s[at].kind = STRIPE_RS;
            s[at].k = 4;
            s[at].m = 2;
            s[at].slot_mask = 0x3f;
            s[at].has_epoch = true;
            s[at].epoch = 1;
            s[at].length = (uint64_t)(fine ? 1 : n) * CELL;
            e[at].offset = (uint64_t)(from + at) * CELL;
            e[at].length = s[at].length;
            e[at].kind = 1;
            e[at].has_pg = e[at].has_stripe = e[at].has_stripe_offset = true;
            sl[at] = &s[at];
            el[at] = &e[at];
        }
    }
    ck_assert_uint_eq(at, stripes);
    Cfs__WriteOp write = CFS__WRITE_OP__INIT;
    write.ino = m->ino;
    write.n_stripe = write.n_extent = stripes;
    write.stripe = sl;
    write.extent = el;
    Cfs__Op op = CFS__OP__INIT;
    op.write = &write;
    ck_assert_int_eq(fsm_world_op(w, &op), 0);
    for (unsigned i = 0; i < n; i++) {
        unsigned j = fine ? i : 0;
        m->cell[from + i] = (struct cell){s[j].pg, s[j].id, fine ? 0 : (uint64_t)i * CELL};
    }
    free(s);
    free(sl);
    free(e);
    free(el);
}

static void model_clear(struct model *m, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        m->cell[i] = (struct cell){0};
    }
}

static void model_truncate(struct fsm_world *w, struct model *m, unsigned cells)
{
    int rc;
    Cfs__LookupReply *r = fsm_world_getattr(w, m->ino, &rc);
    if ((uint64_t)cells * CELL <= r->attr->size) {
        model_clear(m, cells, CELLS);
    }
    cfs__lookup_reply__free_unpacked(r, NULL);
    ck_assert_int_eq(fsm_world_truncate(w, m->ino, (uint64_t)cells * CELL), 0);
}

static void model_fallocate(struct fsm_world *w, struct model *m, unsigned from, unsigned n,
                            uint32_t mode)
{
    Cfs__FallocateOp f = CFS__FALLOCATE_OP__INIT;
    f.ino = m->ino;
    f.mode = mode;
    f.offset = (uint64_t)from * CELL;
    f.length = (uint64_t)n * CELL;
    Cfs__Op op = CFS__OP__INIT;
    op.fallocate = &f;
    ck_assert_int_eq(fsm_world_op(w, &op), 0);
    if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) {
        model_clear(m, from, from + n);
    }
    for (unsigned i = from; i < from + n && (mode & FALLOC_FL_PUNCH_HOLE) == 0; i++) {
        m->cell[i].pg = m->cell[i].pg == 0 ? UINT32_MAX : m->cell[i].pg;
    }
}

static void model_copy(struct fsm_world *w, const struct model *from, struct model *to, unsigned at,
                       unsigned n, unsigned target)
{
    Cfs__CopyOp c = CFS__COPY_OP__INIT;
    c.source = from->ino;
    c.source_offset = (uint64_t)at * CELL;
    c.ino = to->ino;
    c.offset = (uint64_t)target * CELL;
    c.length = (uint64_t)n * CELL;
    Cfs__Op op = CFS__OP__INIT;
    op.copy = &c;
    ck_assert_int_eq(fsm_world_op(w, &op), 0);
    unsigned copied = (unsigned)(fsm_world_result(w)->copied / CELL);
    for (unsigned i = 0; i < copied; i++) {
        struct cell cell = from->cell[at + i];
        to->cell[target + i] = cell.pg == UINT32_MAX ? (struct cell){0} : cell;
    }
}

static void model_check(struct fsm_world *w, const struct model *m)
{
    struct cell *seen = xcalloc(CELLS, sizeof *seen);
    uint64_t offset = 0, end = (uint64_t)CELLS * CELL;
    while (offset < end) {
        Cfs__ExtentsReply *r = fsm_world_extents(w, m->ino, offset, end - offset);
        for (size_t i = 0; i < r->n_extent; i++) {
            const Cfs__Extent *e = r->extent[i];
            for (uint64_t at = e->offset; at < e->offset + e->length; at += CELL) {
                uint64_t in = e->stripe_offset + (at - e->offset);
                seen[at / CELL] = e->kind == 1 ? (struct cell){e->pg, e->stripe, in}
                                               : (struct cell){.pg = UINT32_MAX};
            }
        }
        ck_assert_uint_gt(r->covered_to, offset);
        offset = r->covered_to;
        cfs__extents_reply__free_unpacked(r, NULL);
    }
    for (unsigned i = 0; i < CELLS; i++) {
        struct cell want =
            m->cell[i].pg == UINT32_MAX ? (struct cell){.pg = UINT32_MAX} : m->cell[i];
        if (want.pg != seen[i].pg || want.stripe != seen[i].stripe ||
            want.offset != seen[i].offset) {
            ck_abort_msg("cell %u: %u/%llu+%llu, not %u/%llu+%llu", i, seen[i].pg,
                         (unsigned long long)seen[i].stripe, (unsigned long long)seen[i].offset,
                         want.pg, (unsigned long long)want.stripe, (unsigned long long)want.offset);
        }
    }
    free(seen);
}

static void model_step(struct fsm_world *w, struct model m[2], struct prng *p)
{
    struct model *x = &m[prng_below(p, 2)], *y = &m[prng_below(p, 2)];
    unsigned from = (unsigned)prng_below(p, CELLS - 1),
             n = 1 + (unsigned)prng_below(p, CELLS - from - 1);
    switch (prng_below(p, 12)) {
    case 0:
    case 1:
    case 2:
        model_write(w, x, from, n > 1500 ? 1500 : n, true);
        break;
    case 3:
    case 4:
        model_write(w, x, from, n > 1000 ? 1000 : n, false);
        break;
    case 5:
        model_truncate(w, x, from);
        break;
    case 6:
        model_fallocate(w, x, from, n, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
        break;
    case 7:
        model_fallocate(w, x, from, n, FALLOC_FL_ZERO_RANGE);
        break;
    case 8:
        model_fallocate(w, x, from, n, prng_below(p, 2) ? FALLOC_FL_KEEP_SIZE : 0);
        break;
    case 9:
    case 10:
        n = n > 700 ? 700 : n;
        if (x != y) {
            model_copy(w, x, y, from, n, (unsigned)prng_below(p, CELLS - n));
        } else if (from >= n) {
            model_copy(w, x, x, from - n, n, from);
        }
        break;
    default: {
        Cfs__LogReap reap = CFS__LOG_REAP__INIT;
        reap.has_max = true;
        reap.max = 1 + (uint32_t)prng_below(p, 300);
        ck_assert_int_eq(fsm_world_entry(w, ENTRY_REAP, &reap.base), 0);
        break;
    }
    }
}

START_TEST(content_is_what_a_model_says_whatever_was_cut_and_not_yet_freed)
{
    struct fsm_world w;
    fsm_world_init(&w);
    struct model *m = xcalloc(2, sizeof *m);
    m[0].ino = fsm_world_create(&w, 1, "a");
    m[1].ino = fsm_world_create(&w, 1, "b");
    struct prng p;
    prng_seed(&p, (uint64_t)_i * 1000 + 17);
    for (int step = 0; step < 60; step++) {
        model_step(&w, m, &p);
        model_check(&w, &m[0]);
        model_check(&w, &m[1]);
        if (step % 10 == 9) {
            ck_assert_int_eq(fsm_world_audit(&w), 0);
        }
    }
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "a", false), 0);
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    ck_assert_int_eq(fsm_world_unlink(&w, 1, "b", true), 0);
    ck_assert_int_eq(fsm_world_end_session(&w, w.session), 0);
    fsm_world_reap(&w);
    ck_assert_int_eq(fsm_world_audit(&w), 0);
    Cfs__FsmCounters *c = fsm_world_counters(&w);
    ck_assert_uint_eq(c->stripes, 0);
    ck_assert_uint_eq(c->user_bytes, 0);
    ck_assert_uint_eq(c->reaps, 0);
    ck_assert_uint_eq(c->inodes, 1);
    cfs__fsm_counters__free_unpacked(c, NULL);
    free(m);
    fsm_world_release(&w);
}
END_TEST

/* ---- random operations on everything --------------------------------------------------- */

struct actors {
    uint64_t ino[64];
    unsigned n;
    uint64_t dir[8];
    unsigned n_dirs;
};

static void remember(struct fsm_world *w, struct actors *a, int rc, bool dir)
{
    if (rc != 0) {
        return;
    }
    uint64_t ino = fsm_world_result(w)->attr->ino;
    if (dir && a->n_dirs < 8) {
        a->dir[a->n_dirs++] = ino;
    } else if (!dir) {
        a->ino[a->n++ % 64] = ino;
    }
}

static void random_lock(struct fsm_world *w, struct prng *p, uint64_t ino)
{
    Cfs__LockOp l = CFS__LOCK_OP__INIT;
    l.ino = ino;
    l.owner = prng_below(p, 4);
    l.handle = 100 + l.owner;
    l.kind = 1 + (uint32_t)prng_below(p, 3);
    l.type = (uint32_t)prng_below(p, 3);
    l.start = prng_below(p, 50);
    l.end = l.start + prng_below(p, 50);
    l.has_wait = l.wait = prng_below(p, 2) == 0;
    Cfs__Op op = CFS__OP__INIT;
    op.lock = &l;
    (void)fsm_world_op(w, &op);
}

static void random_xattr(struct fsm_world *w, struct prng *p, uint64_t ino)
{
    static char names[4][8] = {"user.a", "user.b", "user.c", "bad"};
    uint8_t value[300] = {0};
    Cfs__XattrOp x = CFS__XATTR_OP__INIT;
    x.ino = ino;
    x.name =
        (ProtobufCBinaryData){strlen(names[prng_below(p, 4)]), (uint8_t *)names[prng_below(p, 4)]};
    x.has_value = prng_below(p, 3) != 0;
    x.value = (ProtobufCBinaryData){prng_below(p, 300), value};
    x.has_flags = true;
    x.flags = (uint32_t)prng_below(p, 3);
    Cfs__Op op = CFS__OP__INIT;
    op.xattr = &x;
    (void)fsm_world_op(w, &op);
}

static void random_step(struct fsm_world *w, struct actors *a, struct prng *p)
{
    char n1[8], n2[8];
    snprintf(n1, sizeof n1, "n%u", (unsigned)prng_below(p, 12));
    snprintf(n2, sizeof n2, "n%u", (unsigned)prng_below(p, 12));
    uint64_t d1 = a->dir[prng_below(p, a->n_dirs)], d2 = a->dir[prng_below(p, a->n_dirs)];
    uint64_t ino = a->n > 0 ? a->ino[prng_below(p, a->n < 64 ? a->n : 64)] : 1;
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFREG, S_IFLNK, S_IFIFO, S_IFCHR};
    Cfs__LogReap reap = CFS__LOG_REAP__INIT;
    switch (prng_below(p, 16)) {
    case 0:
    case 1:
        remember(w, a, fsm_world_make(w, d1, n1, types[prng_below(p, 6)] | 0666), false);
        break;
    case 2:
        remember(w, a, fsm_world_make(w, d1, n1, S_IFDIR | 0777), true);
        break;
    case 3:
        (void)fsm_world_unlink(w, d1, n1, prng_below(p, 2) == 0);
        break;
    case 4:
        (void)fsm_world_rmdir(w, d1, n1);
        break;
    case 5:
    case 6:
        (void)fsm_world_rename(w, d1, n1, d2, n2, (uint32_t)prng_below(p, 4));
        break;
    case 7:
        (void)fsm_world_link(w, ino, d1, n1);
        break;
    case 8:
        (void)fsm_world_truncate(w, ino, prng_below(p, 100000));
        break;
    case 9:
        (void)fsm_world_inline(w, ino, n1);
        break;
    case 10:
    case 11:
        (void)fsm_world_write(w, ino, prng_below(p, 100000), 1 + prng_below(p, 100000));
        break;
    case 12:
        (void)fsm_world_release_ino(w, ino);
        break;
    case 13:
        random_lock(w, p, ino);
        break;
    case 14:
        random_xattr(w, p, ino);
        break;
    default:
        (void)fsm_world_entry(w, ENTRY_REAP, &reap.base);
        if (prng_below(p, 40) == 0) {
            (void)fsm_world_end_session(w, w->session);
            ck_assert_int_eq(fsm_world_open_session(w, "client-1-16bytes"), 0);
        }
        break;
    }
}

static void random_run(struct fsm_world *w, uint64_t seed, int steps)
{
    struct prng p;
    prng_seed(&p, seed);
    struct actors a = {.dir = {1}, .n_dirs = 1};
    for (int i = 0; i < steps; i++) {
        random_step(w, &a, &p);
    }
}

static void init_kept(struct fsm_world *w)
{
    fsm_world_init_on(w, kv_mem_new());
    w->keep = true;
    fsm_world_bootstrap(w);
    fsm_world_groups(w, 2);
    ck_assert_int_eq(fsm_world_open_session(w, "client-1-16bytes"), 0);
}

START_TEST(random_operations_leave_a_consistent_state)
{
    struct fsm_world w;
    init_kept(&w);
    for (int round = 0; round < 10; round++) {
        random_run(&w, (uint64_t)_i * 100 + (uint64_t)round, 150);
        ck_assert_int_eq(fsm_world_audit(&w), 0);
    }
    fsm_world_release(&w);
}
END_TEST

START_TEST(a_replica_that_restarted_at_random_points_has_the_same_bytes)
{
    struct fsm_world w, other;
    init_kept(&w);
    random_run(&w, (uint64_t)_i + 5000, 1000);
    fsm_world_init_on(&other, kv_mem_new());
    struct prng p;
    prng_seed(&p, (uint64_t)_i);
    for (size_t i = 0; i < w.n_log; i++) {
        ck_assert_int_eq(fsm_world_raw(&other, buf_bytes(&w.log[i])), 0);
        if (prng_below(&p, 10) == 0) {
            ck_assert_int_eq(fsm_world_reopen(&other), 0);
        }
    }
    ck_assert_uint_eq(fsm_world_hash(&w), fsm_world_hash(&other));
    fsm_world_release(&other);
    fsm_world_release(&w);
}
END_TEST

/* Whatever write fails: the machine stops, and a new one on the same store, with the log from its
 * applied index on, ends with the same bytes. */
START_TEST(a_failed_write_stops_it_and_replay_heals)
{
    struct fsm_world w;
    init_kept(&w);
    random_run(&w, 99, 120);
    uint64_t want = fsm_world_hash(&w);
    for (int n = 0; n < (int)w.n_log; n++) {
        struct fsm_world other;
        fsm_world_init_on(&other, kv_mem_new());
        kv_mem_fail_at(other.kv, n);
        size_t i = 0;
        while (i < w.n_log && fsm_world_raw(&other, buf_bytes(&w.log[i])) == 0) {
            i++;
        }
        ck_assert_uint_eq(i, (size_t)n);
        ck_assert_int_lt(fsm_world_raw(&other, buf_bytes(&w.log[i])), 0);
        fsm_free(other.fsm);
        other.fsm = NULL;
        kv_mem_crash(other.kv, n % 2 == 0 ? UINT_MAX : (unsigned)n / 2);
        ck_assert_int_eq(fsm_world_reopen(&other), 0);
        for (i = fsm_applied(other.fsm); i < w.n_log; i++) {
            ck_assert_int_eq(fsm_world_raw(&other, buf_bytes(&w.log[i])), 0);
        }
        ck_assert_uint_eq(fsm_world_hash(&other), want);
        fsm_world_release(&other);
    }
    fsm_world_release(&w);
}
END_TEST

/* Entries with flipped, lost or repeated bytes: refused or carried out, never a stop and never a
 * contradiction. */
START_TEST(damaged_entries_leave_a_consistent_state)
{
    struct fsm_world w, other;
    init_kept(&w);
    random_run(&w, (uint64_t)_i + 900, 400);
    fsm_world_init_on(&other, kv_mem_new());
    struct prng p;
    prng_seed(&p, (uint64_t)_i);
    unsigned damaged = 0;
    for (size_t i = 0; i < w.n_log; i++) {
        struct buf e;
        buf_init(&e);
        buf_add(&e, w.log[i].data, w.log[i].len);
        for (uint64_t n = i < 4 ? 0 : prng_below(&p, 3); n > 0 && e.len > ENTRY_HEADER_BYTES; n--) {
            size_t at = ENTRY_HEADER_BYTES + prng_below(&p, e.len - ENTRY_HEADER_BYTES);
            if (prng_below(&p, 8) == 0) {
                e.len = at;
            } else {
                e.data[at] ^= (uint8_t)(1u << prng_below(&p, 8));
            }
        }
        if (fsm_validate(buf_bytes(&e)) == 0) {
            ck_assert_int_eq(fsm_world_raw(&other, buf_bytes(&e)), 0);
        } else {
            damaged++;
            ck_assert_int_eq(fsm_world_raw(&other, buf_bytes(&w.log[i])), 0);
        }
        buf_release(&e);
    }
    ck_assert_uint_gt(damaged, 0);
    ck_assert_int_eq(fsm_world_audit(&other), 0);
    fsm_world_release(&other);
    fsm_world_release(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fsm_random");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, content_is_what_a_model_says_whatever_was_cut_and_not_yet_freed, 0, 6);
    tcase_add_loop_test(t, random_operations_leave_a_consistent_state, 0, 8);
    tcase_add_loop_test(t, a_replica_that_restarted_at_random_points_has_the_same_bytes, 0, 4);
    tcase_add_loop_test(t, damaged_entries_leave_a_consistent_state, 0, 30);
    tcase_add_test(t, a_failed_write_stops_it_and_replay_heals);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
