#include "chunkserver/fragstore.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/table.h"
#include "chunkserver/fragstore_internal.h"

enum { FRAG_REFRESH = FRAG_LIST + 1 };

static struct frag_op *op_of(struct list *node)
{
    return container_of(container_of(node, struct letter, node), struct frag_op, letter);
}

/* ---- in the disk's threads ---------------------------------------------------------------- */

static void finish(struct store_disk *sd, struct frag_op *op)
{
    mailbox_post(sd->store->done, &op->letter);
}

static void put_batch(struct store_disk *sd, struct frag_op **ops, unsigned n)
{
    struct frag_put put[FRAGDISK_BATCH_MAX], *puts[FRAGDISK_BATCH_MAX];
    for (unsigned i = 0; i < n; i++) {
        put[i] = (struct frag_put){.fragment = ops[i]->fragment, .data = ops[i]->data};
        puts[i] = &put[i];
    }
    if (n > 0) {
        fragdisk_put(sd->disk, puts, n);
    }
    for (unsigned i = 0; i < n; i++) {
        ops[i]->rc = put[i].rc;
        finish(sd, ops[i]);
    }
}

/* Deletes share one sync of the index; only then are they answered, and may tidying punch. */
static void delete_batch(struct store_disk *sd, struct frag_op **ops, unsigned n)
{
    bool any = false;
    for (unsigned i = 0; i < n; i++) {
        const struct frag_key *key = &ops[i]->fragment.key;
        uint64_t deleted = 0;
        ops[i]->rc = fragdisk_delete(sd->disk, key->pg, key->id, ops[i]->count, &deleted);
        any = any || ops[i]->rc == 0;
    }
    int rc = any ? fragdisk_sync(sd->disk) : 0;
    for (unsigned i = 0; i < n; i++) {
        ops[i]->rc = rc != 0 ? rc : ops[i]->rc;
        finish(sd, ops[i]);
    }
}

static void run_batch(struct store_disk *sd, enum frag_op_kind kind, struct frag_op **ops,
                      unsigned n)
{
    if (kind == FRAG_PUT) {
        put_batch(sd, ops, n);
    } else {
        delete_batch(sd, ops, n);
    }
}

/* In order of arrival; those of one kind that follow each other share a sync. */
static void writer_run(struct store_disk *sd, struct list *letters)
{
    struct frag_op *batch[FRAGDISK_BATCH_MAX];
    enum frag_op_kind kind = FRAG_PUT;
    unsigned n = 0;
    list_for_each_safe (node, follow, letters) {
        struct frag_op *op = op_of(node);
        list_remove(node);
        if ((int)op->kind == FRAG_REFRESH) {
            fragdisk_refresh(sd->disk);
            finish(sd, op);
            continue;
        }
        if (n == FRAGDISK_BATCH_MAX || op->kind != kind) {
            run_batch(sd, kind, batch, n);
            n = 0;
        }
        kind = op->kind;
        batch[n++] = op;
    }
    run_batch(sd, kind, batch, n);
}

static void *writer_main(void *arg)
{
    struct store_disk *sd = arg;
    bool idle = false;
    for (;;) {
        struct list letters;
        if (idle ? mailbox_wait(sd->box, &letters) : mailbox_take_all(sd->box, &letters)) {
            writer_run(sd, &letters);
            idle = false;
        } else if (idle) {
            return NULL; /* closed, and nothing is left */
        } else {
            idle = atomic_load(&sd->stopping) || !fragdisk_tidy(sd->disk);
        }
    }
}

static int read_range(struct store_disk *sd, const struct index_place *p, struct frag_op *op)
{
    uint32_t bytes = p->fragment.bytes;
    if (op->offset >= bytes || op->length > bytes - op->offset) {
        return -EINVAL;
    }
    uint32_t end = op->length == 0 ? bytes : op->offset + op->length;
    op->offset -= op->offset % STRIPE_CRC_BLOCK;
    end = (end + STRIPE_CRC_BLOCK - 1) / STRIPE_CRC_BLOCK * STRIPE_CRC_BLOCK;
    op->length = (end < bytes ? end : bytes) - op->offset;
    return fragdisk_read(sd->disk, p, op->offset, op->length, op->data);
}

static void read_one(struct store_disk *sd, struct frag_op *op)
{
    struct index_place p;
    op->rc = fragdisk_find(sd->disk, op->fragment.key, op->fragment.nonce, &p);
    if (op->rc == 0 && op->kind == FRAG_GET) {
        op->rc = read_range(sd, &p, op);
    }
    if (op->rc == 0) {
        op->fragment = p.fragment;
    }
}

static bool list_add(void *ctx, const struct index_place *p)
{
    struct frag_op *op = ctx;
    /* Grows by what one id can have at most; bounded by max and the slots of an id. */
    op->list = xrealloc(op->list, (op->n_list + 1) * sizeof *op->list);
    op->list[op->n_list++] = p->fragment;
    return true;
}

static void list_disk(struct store_disk *sd, struct frag_op *op)
{
    unsigned before = op->n_list;
    op->rc =
        fragdisk_list(sd->disk, op->fragment.key.pg, op->fragment.key.id, op->max, list_add, op);
    op->end = op->end && op->n_list - before < op->max;
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    struct list letters;
    while (mailbox_wait(r->box, &letters)) {
        list_for_each_safe (node, follow, &letters) {
            struct frag_op *op = op_of(node);
            list_remove(node);
            if (op->kind == FRAG_LIST) {
                list_disk(r->disk, op);
            } else {
                read_one(r->disk, op);
            }
            finish(r->disk, op);
        }
    }
    return NULL;
}

/* ---- on the loop -------------------------------------------------------------------------- */

static bool usable(const struct store_disk *sd)
{
    return sd->disk != NULL && !sd->hung;
}

static enum fragdisk_health health_of(const struct store_disk *sd)
{
    struct fragdisk_state state;
    if (!usable(sd)) {
        return FRAGDISK_FAILED;
    }
    fragdisk_state(sd->disk, &state);
    return state.health;
}

/* The disk for a put: the first good one from its hash on, else a full one, which refuses it. */
static unsigned choose_disk(const struct fragstore *s, unsigned first)
{
    for (int want = FRAGDISK_GOOD; want <= FRAGDISK_FULL; want++) {
        for (unsigned i = 0; i < s->n_disks; i++) {
            unsigned n = (first + i) % s->n_disks;
            if ((int)health_of(&s->disk[n]) == want) {
                return n;
            }
        }
    }
    return first;
}

static void send_to(struct fragstore *s, struct frag_op *op, unsigned disk)
{
    struct store_disk *sd = &s->disk[disk];
    op->disk = disk;
    if (!usable(sd)) {
        op->rc = -EIO;
        mailbox_post(s->done, &op->letter);
    } else if (op->kind == FRAG_PUT || op->kind == FRAG_DELETE) {
        mailbox_post(sd->box, &op->letter);
    } else {
        mailbox_post(sd->reader[sd->next_reader++ % s->readers].box, &op->letter);
    }
}

void fragstore_submit(struct fragstore *s, struct frag_op *op)
{
    op->first_disk = (unsigned)(table_mix2(op->fragment.key.pg, op->fragment.key.id) % s->n_disks);
    op->tried = 0;
    op->worst = 0;
    op->list = NULL;
    op->n_list = 0;
    op->end = true;
    list_init(&op->letter.node);
    op->max = op->max < 1 ? 1 : op->max > LIST_MAX ? LIST_MAX : op->max;
    send_to(s, op, op->kind == FRAG_PUT ? choose_disk(s, op->first_disk) : op->first_disk);
}

static int compare_fragments(const void *a, const void *b)
{
    const struct frag_key *x = &((const struct fragment *)a)->key;
    const struct frag_key *y = &((const struct fragment *)b)->key;
    return x->id != y->id ? (x->id < y->id ? -1 : 1) : (int)x->slot - (int)y->slot;
}

/* Lists of several disks: the first max of them together, no id split. */
static void merge_lists(struct fragstore *s, struct frag_op *op)
{
    if (s->n_disks == 1 || op->n_list == 0) {
        return;
    }
    qsort(op->list, op->n_list, sizeof *op->list, compare_fragments);
    unsigned n = op->max < op->n_list ? op->max : op->n_list;
    while (n < op->n_list && op->list[n].key.id == op->list[n - 1].key.id) {
        n++;
    }
    op->end = op->end && n == op->n_list;
    op->n_list = n;
}

/* Whether the operation has seen all the disks that it has to. */
static bool complete(struct fragstore *s, struct frag_op *op)
{
    op->tried++;
    bool found = op->kind == FRAG_GET || op->kind == FRAG_STAT ? op->rc == 0 || op->rc == -EINVAL
                                                               : op->kind == FRAG_PUT;
    if (found) {
        return true;
    }
    if (op->rc != 0 && (op->worst == 0 || op->worst == ERR_NOT_FOUND)) {
        op->worst = op->rc;
    }
    if (op->tried < s->n_disks) {
        send_to(s, op, (op->first_disk + op->tried) % s->n_disks);
        return false;
    }
    op->rc = op->worst;
    if (op->kind == FRAG_LIST) {
        merge_lists(s, op);
    }
    return true;
}

static void refreshed(struct fragstore *s, struct frag_op *op)
{
    struct store_disk *sd = container_of(op, struct store_disk, refresh);
    if (sd->hung) {
        log_warn("disk answers again path=%s", sd->path);
    }
    sd->refreshing = sd->hung = false;
    (void)s;
}

static bool poll_once(struct fragstore *s)
{
    struct list letters;
    bool any = mailbox_take_all(s->done, &letters);
    list_for_each_safe (node, follow, &letters) {
        struct frag_op *op = op_of(node);
        list_remove(node);
        if ((int)op->kind == FRAG_REFRESH) {
            refreshed(s, op);
        } else if (complete(s, op)) {
            op->on_done(op);
        }
    }
    return any;
}

void fragstore_poll(struct fragstore *s)
{
    (void)poll_once(s); /* what comes meanwhile wakes the loop again */
}

void fragstore_refresh(struct fragstore *s, uint64_t now_ms, uint64_t hung_ms)
{
    for (unsigned i = 0; i < s->n_disks; i++) {
        struct store_disk *sd = &s->disk[i];
        if (sd->disk == NULL) {
            continue;
        }
        if (!sd->refreshing) {
            sd->refreshing = true;
            sd->asked_ms = now_ms;
            sd->refresh.kind = (enum frag_op_kind)FRAG_REFRESH;
            list_init(&sd->refresh.letter.node);
            mailbox_post(sd->box, &sd->refresh.letter);
        } else if (!sd->hung && now_ms - sd->asked_ms > hung_ms) {
            log_error("disk does not answer: left out until it does path=%s", sd->path);
            sd->hung = true;
        }
    }
}

unsigned fragstore_disks(const struct fragstore *s)
{
    return s->n_disks;
}

void fragstore_disk_get(const struct fragstore *s, unsigned i, struct fragstore_disk *out)
{
    const struct store_disk *sd = &s->disk[i];
    memset(out, 0, sizeof *out);
    out->path = sd->path;
    memcpy(out->id, sd->id.disk, sizeof out->id);
    out->error = sd->error;
    if (sd->disk != NULL) {
        fragdisk_state(sd->disk, &out->state);
    }
    if (!usable(sd)) {
        out->state.health = FRAGDISK_FAILED;
    }
}

const struct identity *fragstore_identity(const struct fragstore *s)
{
    return &s->id;
}

int fragstore_set_cluster(struct fragstore *s, const uint8_t cluster[IDENTITY_BYTES])
{
    if (s->id.has_cluster && memcmp(s->id.cluster, cluster, IDENTITY_BYTES) != 0) {
        return ERR_WRONG_CLUSTER;
    }
    int rc = 0;
    for (unsigned i = 0; i < s->n_disks; i++) {
        struct store_disk *sd = &s->disk[i];
        if (sd->disk != NULL && !sd->id.has_cluster) {
            memcpy(sd->id.cluster, cluster, IDENTITY_BYTES);
            sd->id.has_cluster = true;
            int one = identity_write(sd->root, &sd->id);
            rc = rc != 0 ? rc : one;
        }
    }
    if (rc == 0) {
        memcpy(s->id.cluster, cluster, IDENTITY_BYTES);
        s->id.has_cluster = true;
    }
    return rc;
}

/* ---- opening and closing ------------------------------------------------------------------ */

static void start_threads(struct store_disk *sd, unsigned readers)
{
    sd->box = mailbox_new(NULL, NULL);
    CHECK(pthread_create(&sd->writer, NULL, writer_main, sd) == 0);
    for (unsigned i = 0; i < readers; i++) {
        sd->reader[i].disk = sd;
        sd->reader[i].box = mailbox_new(NULL, NULL);
        CHECK(pthread_create(&sd->reader[i].thread, NULL, reader_main, &sd->reader[i]) == 0);
    }
}

static void end_threads(struct store_disk *sd, unsigned readers)
{
    if (sd->box == NULL) {
        return;
    }
    atomic_store(&sd->stopping, true);
    mailbox_close(sd->box);
    pthread_join(sd->writer, NULL);
    for (unsigned i = 0; i < readers; i++) {
        mailbox_close(sd->reader[i].box);
        pthread_join(sd->reader[i].thread, NULL);
        mailbox_free(sd->reader[i].box);
    }
    mailbox_free(sd->box);
    sd->box = NULL;
}

/* Signals are the loop's: these threads take none. */
static void start_all(struct fragstore *s)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < s->n_disks; i++) {
        if (s->disk[i].disk != NULL) {
            start_threads(&s->disk[i], s->readers);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int fragstore_open(const struct fragstore_options *o, struct fragstore **out, char *text)
{
    CHECK(o->n_dirs >= 1 && o->n_dirs <= FRAGSTORE_DISKS_MAX);
    struct fragstore *s = xcalloc(1, sizeof *s);
    s->n_disks = o->n_dirs;
    s->readers = o->readers == 0            ? FRAGSTORE_READERS_DEFAULT
                 : o->readers > READERS_MAX ? READERS_MAX
                                            : o->readers;
    s->disk = xcalloc(s->n_disks, sizeof *s->disk);
    s->done = mailbox_new(o->wake, o->ctx);
    text[0] = '\0';
    for (unsigned i = 0; i < s->n_disks; i++) {
        s->disk[i].store = s;
        s->disk[i].path = xstrdup(o->dirs[i]);
    }
    int rc = fragstore_open_disks(s, o, text);
    if (rc != 0) {
        fragstore_close(s);
        return rc;
    }
    start_all(s);
    *out = s;
    return 0;
}

void fragstore_close(struct fragstore *s)
{
    if (s == NULL) {
        return;
    }
    for (unsigned i = 0; i < s->n_disks; i++) {
        end_threads(&s->disk[i], s->readers);
        s->disk[i].hung = true; /* what would go on to it is answered instead */
    }
    while (poll_once(s)) {
    }
    for (unsigned i = 0; i < s->n_disks; i++) {
        struct store_disk *sd = &s->disk[i];
        fragdisk_close(sd->disk);
        if (sd->root != NULL) {
            sd->root->ops->close(sd->root);
        }
        free(sd->path);
    }
    mailbox_free(s->done);
    free(s->disk);
    free(s);
}
