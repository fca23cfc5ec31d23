#include "chunkserver/fragstore.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prng.h"

/* The store with its threads on real files, without a network: killed at any moment, short of
 * space, with damaged indices. */
enum { MIB = 1 << 20, DEPTH = 8 };

static char *dir;
static sem_t wakes;
static unsigned finished;

static void wake(void *ctx)
{
    (void)ctx;
    sem_post(&wakes);
}

static void on_done(struct frag_op *op)
{
    (void)op;
    finished++;
}

static struct fragstore *open_store(uint64_t size_max)
{
    char text[256];
    struct fragstore *s = NULL;
    const char *dirs[1] = {dir};
    struct fragstore_options o = {
        .dirs = dirs, .n_dirs = 1, .size_max = size_max, .reserve_percent = 3, .wake = wake};
    ck_assert_int_eq(fragstore_open(&o, &s, text), 0);
    return s;
}

static void make_dir(void)
{
    char template[] = "/tmp/cfs-test-store-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(template));
    dir = xstrdup(template);
    sem_init(&wakes, 0, 0);
}

static void remove_dir(void)
{
    char *command = xasprintf("rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
    free(command);
    free(dir);
}

static uint32_t bytes_of(uint64_t id)
{
    return id % 3 == 0 ? 200 << 10 : id % 3 == 1 ? 4 << 10 : 60 << 10;
}

static void fill(uint8_t *data, uint64_t id, uint32_t bytes)
{
    struct prng p;
    prng_seed(&p, id);
    for (uint32_t i = 0; i < bytes; i += 8) {
        put_le64(data + i, prng_u64(&p));
    }
}

static void set_put(struct frag_op *op, uint64_t id, uint32_t bytes)
{
    uint8_t *data = op->data;
    fill(data, id, bytes);
    *op = (struct frag_op){.kind = FRAG_PUT, .data = data, .on_done = on_done};
    op->fragment = (struct fragment){.key = {.pg = 1, .id = id, .slot = 0},
                                     .code = {STRIPE_RS, 4, 2},
                                     .bytes = bytes,
                                     .stripe_length = 4ull * bytes,
                                     .nonce = id};
    for (uint32_t at = 0; at < bytes; at += STRIPE_CRC_BLOCK) {
        uint32_t len = bytes - at < STRIPE_CRC_BLOCK ? bytes - at : STRIPE_CRC_BLOCK;
        op->fragment.crc[at / STRIPE_CRC_BLOCK] = crc32c(0, data + at, len);
    }
}

static void wait_for(struct fragstore *s, unsigned n)
{
    while (finished < n) {
        sem_wait(&wakes);
        fragstore_poll(s);
    }
    finished = 0;
}

static int run_one(struct fragstore *s, struct frag_op *op)
{
    fragstore_submit(s, op);
    wait_for(s, 1);
    return op->rc;
}

static int put_one(struct fragstore *s, uint8_t *data, uint64_t id, uint32_t bytes)
{
    struct frag_op op = {.data = data};
    set_put(&op, id, bytes);
    return run_one(s, &op);
}

static int get_one(struct fragstore *s, uint8_t *data, uint64_t id)
{
    static uint8_t expected[MIB];
    struct frag_op op = {.kind = FRAG_GET, .data = data, .on_done = on_done};
    op.fragment.key = (struct frag_key){.pg = 1, .id = id};
    int rc = run_one(s, &op);
    if (rc == 0) {
        fill(expected, id, op.length);
        ck_assert_uint_eq(op.length, op.fragment.bytes);
        ck_assert_int_eq(memcmp(expected, data, op.length), 0);
    }
    return rc;
}

static int delete_range(struct fragstore *s, uint64_t first, uint64_t count)
{
    struct frag_op op = {.kind = FRAG_DELETE, .count = count, .on_done = on_done};
    op.fragment.key = (struct frag_key){.pg = 1, .id = first};
    return run_one(s, &op);
}

/* The child: puts DEPTH at a time, says which are durable, deletes the oldest now and then. */
static _Noreturn void put_until_killed(int out, uint64_t first)
{
    struct fragstore *s = open_store(0);
    struct frag_op op[DEPTH];
    for (unsigned i = 0; i < DEPTH; i++) {
        op[i].data = aligned_alloc(4096, MIB);
    }
    for (uint64_t id = first;; id += DEPTH) {
        for (unsigned i = 0; i < DEPTH; i++) {
            set_put(&op[i], id + i, bytes_of(id + i));
            fragstore_submit(s, &op[i]);
        }
        wait_for(s, DEPTH);
        if (id >= first + 4 * DEPTH && delete_range(s, id - 4 * DEPTH, DEPTH / 2) != 0) {
            _exit(2);
        }
        for (unsigned i = 0; i < DEPTH; i++) {
            if (op[i].rc != 0) {
                _exit(1);
            }
        }
        uint64_t said = id + DEPTH;
        if (write(out, &said, sizeof said) != sizeof said) {
            _exit(3);
        }
    }
}

/* Ids below *end were answered when the child died. */
static void kill_a_child(uint64_t first, unsigned after_ms, uint64_t *end)
{
    int pipes[2];
    ck_assert_int_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        close(pipes[0]);
        put_until_killed(pipes[1], first);
    }
    close(pipes[1]);
    uint64_t said = first;
    ck_assert_int_eq(read(pipes[0], &said, sizeof said), sizeof said);
    usleep(after_ms * 1000);
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ck_assert(WIFSIGNALED(status));
    *end = said;
    while (read(pipes[0], &said, sizeof said) == sizeof said) {
        *end = said;
    }
    close(pipes[0]);
}

START_TEST(what_was_answered_survives_kill_9)
{
    make_dir();
    uint8_t *data = aligned_alloc(4096, MIB);
    uint64_t first = 1;
    for (unsigned round = 0; round < 8; round++) {
        uint64_t end = 0;
        kill_a_child(first, 20 + 17 * round, &end);
        struct fragstore *s = open_store(0);
        for (uint64_t id = first; id < end; id++) {
            /* Of the last DEPTH * 5 some deletes are answered, some may be. */
            bool deleted_half = (id - first) % DEPTH < DEPTH / 2;
            int rc = get_one(s, data, id);
            ck_assert(rc == 0 || (rc == ERR_NOT_FOUND && deleted_half));
            if (deleted_half && id + 5 * DEPTH < end) {
                ck_assert_int_eq(rc, ERR_NOT_FOUND);
            }
        }
        fragstore_close(s);
        first = end + 2 * DEPTH;
    }
    free(data);
    remove_dir();
}
END_TEST

static uint64_t blocks_in(const char *sub)
{
    char *command = xasprintf("du -s -B1 %s/%s", dir, sub);
    FILE *f = popen(command, "r");
    unsigned long long n = 0;
    ck_assert_int_eq(fscanf(f, "%llu", &n), 1);
    pclose(f);
    free(command);
    return n;
}

START_TEST(full_store_refuses_deletes_and_takes_again)
{
    make_dir();
    uint8_t *data = aligned_alloc(4096, MIB);
    struct fragstore *s = open_store(64 << 20);
    uint64_t id = 1;
    while (put_one(s, data, id, MIB) == 0) {
        id++;
    }
    ck_assert(id > 50 && id < 64);
    ck_assert_int_eq(put_one(s, data, id, MIB), -ENOSPC);
    ck_assert_uint_le(blocks_in("segments"), 64 << 20);
    ck_assert_int_eq(get_one(s, data, 1), 0);
    ck_assert_int_eq(delete_range(s, 1, id), 0);
    struct fragstore_disk disk;
    for (unsigned i = 0; i < 200; i++) { /* the writer punches when it is idle */
        fragstore_disk_get(s, 0, &disk);
        if (disk.state.used < 4 << 20) {
            break;
        }
        usleep(10000);
    }
    ck_assert_uint_lt(blocks_in("segments"), 4 << 20);
    ck_assert_int_eq(put_one(s, data, id + 1, MIB), 0);
    ck_assert_int_eq(get_one(s, data, id + 1), 0);
    fragstore_close(s);
    free(data);
    remove_dir();
}
END_TEST

/* command_format has one %s. */
static void damage(const char *command_format)
{
    char *command = xasprintf(command_format, dir);
    ck_assert_int_eq(system(command), 0);
    free(command);
}

START_TEST(lost_or_damaged_index_is_made_again)
{
    static const char *const DAMAGE[] = {
        "rm -rf %s/index", "cd %s/index && echo nonsense > CURRENT",
        "cd %s/index && for f in MANIFEST-*; do echo x > $f; done"};
    make_dir();
    uint8_t *data = aligned_alloc(4096, MIB);
    for (unsigned n = 0; n < array_count(DAMAGE); n++) {
        struct fragstore *s = open_store(0);
        for (uint64_t id = 1; id <= 30; id++) {
            ck_assert_int_eq(put_one(s, data, id, bytes_of(id)), 0);
        }
        fragstore_close(s);
        damage(DAMAGE[n]);
        s = open_store(0);
        for (uint64_t id = 1; id <= 30; id++) {
            ck_assert_int_eq(get_one(s, data, id), 0);
        }
        fragstore_close(s);
    }
    free(data);
    remove_dir();
}
END_TEST

static int open_fails(const char *first, const char *second, char text[256])
{
    struct fragstore *s = NULL;
    const char *dirs[2] = {first, second};
    struct fragstore_options o = {.dirs = dirs, .n_dirs = second != NULL ? 2 : 1, .wake = wake};
    int rc = fragstore_open(&o, &s, text);
    ck_assert_int_ne(rc, 0);
    ck_assert_ptr_null(s);
    return rc;
}

START_TEST(directories_that_are_not_ours_are_refused)
{
    char text[256];
    make_dir();
    ck_assert_int_eq(open_fails("/tmp/cfs-absent", NULL, text), -ENOENT);
    ck_assert_ptr_nonnull(strstr(text, "/tmp/cfs-absent"));
    struct fragstore *s = open_store(0);
    ck_assert_int_eq(open_fails(dir, NULL, text), ERR_BUSY);
    fragstore_close(s);
    char *other = xasprintf("%s/other", dir);
    ck_assert_int_eq(mkdir(other, 0700), 0);
    char *mine = dir;
    dir = other;
    s = open_store(0); /* another server's */
    fragstore_close(s);
    dir = mine;
    ck_assert_int_eq(open_fails(dir, other, text), -EINVAL);
    damage("cd %s && rm identity && touch segments/00000000");
    ck_assert_int_eq(open_fails(dir, NULL, text), ERR_CORRUPT);
    free(other);
    remove_dir();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fragstore");
    log_set_level(LOG_LEVEL_ERROR);
    TCase *t = tcase_create("store");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, what_was_answered_survives_kill_9);
    tcase_add_test(t, full_store_refuses_deletes_and_takes_again);
    tcase_add_test(t, lost_or_damaged_index_is_made_again);
    tcase_add_test(t, directories_that_are_not_ours_are_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
