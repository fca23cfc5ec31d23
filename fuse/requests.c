#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "fuse/arena_sift.h"
#include "fuse/loopstate.h"
#include "fuse/request_check.h"

/* Request records. A record's life, with the word that is published in each step:
 *
 *   read into big      the kernel sets len != 0          in use: big
 *   moved to small     small.state = 1, then len = 0     in use: small (between the two: both, big is the copy)
 *   answered           small.state = 0, or len = 0       free
 *
 * All other fields are set before the first of these, so a later worker may trust them. */

struct fuse_in_header *requests_big_header(struct arena_big *big)
{
    return (void *)(big->head + ARENA_BIG_HEAD - REQUEST_BEFORE_DATA);
}

struct fuse_in_header *requests_header(const struct opreq *r)
{
    return r->small ? (void *)r->small->request : requests_big_header(r->big);
}

uint32_t *requests_flags(const struct opreq *r)
{
    return r->small ? &r->small->flags : &r->big->flags;
}

uint32_t *requests_deaths(const struct opreq *r)
{
    return r->small ? &r->small->deaths : &r->big->deaths;
}

static struct opreq *opreq_new(struct fuseloop *f, struct arena_small *small, struct arena_big *big)
{
    struct opreq *r = xcalloc(1, sizeof *r);
    r->small = small;
    r->big = big;
    r->loop = f;
    const struct fuse_in_header *in = requests_header(r);
    r->unique = in->unique;
    r->opcode = in->opcode;
    r->pid = in->pid;
    table_add(&f->by_unique, &r->by_unique, table_mix(r->unique));
    list_add_tail(&f->requests, &r->node);
    return r;
}

struct opreq *requests_find(struct fuseloop *f, uint64_t unique)
{
    struct table_node *n = table_find(&f->by_unique, table_mix(unique));
    for (; n; n = table_next_same(n)) {
        struct opreq *r = container_of(n, struct opreq, by_unique);
        if (r->unique == unique) {
            return r;
        }
    }
    return NULL;
}

struct arena_big *requests_big_get(struct fuseloop *f)
{
    if (f->n_free_big == 0) {
        return NULL;
    }
    struct arena_big *big = &f->arena->big[f->free_big[--f->n_free_big]];
    CHECK(requests_big_header(big)->len == 0);
    big->seq = 0;
    big->deaths = 0;
    big->flags = 0;
    return big;
}

void requests_big_put(struct fuseloop *f, struct arena_big *big)
{
    if (requests_big_header(big)->len != 0) {
        arena_publish32(&requests_big_header(big)->len, 0);
    }
    f->free_big[f->n_free_big++] = (uint32_t)(big - f->arena->big);
}

/* NULL: no free small record, or it does not fit; the request stays where it is. */
static struct arena_small *move_to_small(struct fuseloop *f, struct arena_big *big)
{
    const struct fuse_in_header *in = requests_big_header(big);
    if (in->len > ARENA_SMALL_REQUEST || f->n_free_small == 0) {
        return NULL;
    }
    struct arena_small *s = &f->arena->small[f->free_small[--f->n_free_small]];
    s->seq = big->seq;
    s->ticket = 0;
    s->deaths = big->deaths;
    s->flags = big->flags;
    s->bytes = in->len;
    memcpy(s->request, in, in->len);
    arena_publish32(&s->state, 1);
    requests_big_put(f, big);
    return s;
}

struct opreq *requests_add(struct fuseloop *f, struct arena_big *big)
{
    struct arena_small *small = move_to_small(f, big);
    return opreq_new(f, small, small ? NULL : big);
}

static void free_record(struct fuseloop *f, struct opreq *r)
{
    if (r->small) {
        arena_publish32(&r->small->state, 0);
        f->free_small[f->n_free_small++] = (uint32_t)(r->small - f->arena->small);
    } else {
        requests_big_put(f, r->big);
    }
}

void requests_free(struct fuseloop *f, struct opreq *r)
{
    uint64_t seq = opreq_seq(r);
    if (*requests_flags(r) & ARENA_PARKED) {
        f->n_parked--;
    }
    free_record(f, r);
    f->arena->h->answered++;
    table_remove(&f->by_unique, &r->by_unique);
    list_remove(&r->node);
    if (f->current == r) {
        f->current = NULL;
    }
    if (r->free_ctx) {
        r->free_ctx(r->ctx);
    }
    free(r->translated);
    free(r);
    if (seq != 0 && f->options.on_answered) {
        f->options.on_answered(f->options.ctx, seq);
    }
    fuseloop_record_freed(f);
}

/* Marked before it is answered: who finds the mark answers once more, which the kernel does not mind. */
void requests_set_killed(struct fuseloop *f, struct opreq *r)
{
    r->fatal = true;
    r->answered = true;
    arena_publish32(requests_flags(r), *requests_flags(r) | ARENA_GIVEN_UP);
    fuseio_answer_error(f, r->unique, -EINTR);
}

/* --- what an earlier worker left ----------------------------------------------------------------- */

/* Answered, and only the death of the worker left the record: everything that it was to do is done. Its number, if it has one,
 * is filled like one that was never sent. */
static bool is_over(struct fuseloop *f, const struct fuse_in_header *in, uint32_t flags)
{
    return (flags & ARENA_GIVEN_UP) == 0 && fuseio_was_answered(f, in->unique);
}

/* As the INIT says that the earlier worker answered. */
static bool setxattr_ext(const struct arena_header *h)
{
    const struct fuse_init_in *in = (const void *)(h->init + sizeof(struct fuse_in_header));
    return h->init_bytes > 0 && (in->flags & FUSE_SETXATTR_EXT) != 0;
}

/* Those are done as soon as they are read, and never moved; nobody would ever answer them. */
static bool has_no_answer(uint32_t opcode)
{
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

/* Whether the kernel and a worker can have made this record. Else its caller is answered, if there is one, and nothing is
 * done. */
static bool is_sound(struct fuseloop *f, const struct fuse_in_header *in, size_t room, uint64_t seq,
                     uint32_t flags)
{
    const uint32_t known =
        ARENA_INTERRUPTED | ARENA_EXECUTING | ARENA_PARKED | ARENA_GIVEN_UP;
    if (request_check(in, room, setxattr_ext(f->arena->h)) && (flags & ~known) == 0 &&
        (seq == 0 || arena_sift_seq(f->arena, seq))) {
        return true;
    }
    log_error("a request that nobody made is dropped opcode=%u bytes=%u unique=%llu seq=%llu flags=%u", in->opcode,
              in->len, (unsigned long long)in->unique, (unsigned long long)seq, flags);
    fuseio_answer_error(f, in->unique, -EIO);
    return false;
}

static void take_over(struct fuseloop *f, struct opreq *r)
{
    r->repeated = true;
    if (*requests_flags(r) & ARENA_PARKED) {
        f->n_parked++;
    }
    if (*requests_flags(r) & ARENA_GIVEN_UP) {
        requests_set_killed(f, r);
    }
}

static void take_over_smalls(struct fuseloop *f)
{
    struct arena *a = f->arena;
    for (uint32_t i = a->h->sizes.small; i-- > 0;) {
        struct arena_small *s = &a->small[i];
        const struct fuse_in_header *in = (const void *)s->request;
        if (s->state != 0 &&
            (requests_find(f, in->unique) || has_no_answer(in->opcode) ||
             is_over(f, in, s->flags) || !is_sound(f, in, ARENA_SMALL_REQUEST, s->seq, s->flags))) {
            arena_publish32(&s->state, 0);
        }
        if (s->state == 0) {
            f->free_small[f->n_free_small++] = i;
        } else {
            take_over(f, opreq_new(f, s, NULL));
        }
    }
}

/* Before the bigs are moved, all smalls must be known: of a request in both, the small one is the true one, as it may
 * have a number already. */
static void take_over_bigs(struct fuseloop *f)
{
    struct arena *a = f->arena;
    for (uint32_t i = a->h->sizes.big; i-- > 0;) {
        struct arena_big *big = &a->big[i];
        const struct fuse_in_header *in = requests_big_header(big);
        if (in->len == 0 || requests_find(f, in->unique) || in->opcode == FUSE_FORGET ||
            in->opcode == FUSE_BATCH_FORGET ||
            (in->opcode != FUSE_INTERRUPT && is_over(f, in, big->flags)) ||
            !is_sound(f, in, REQUEST_BYTES_MAX, big->seq, big->flags)) {
            requests_big_put(f, big);
        } else if (in->opcode != FUSE_INTERRUPT) {
            take_over(f, requests_add(f, big));
        }
    }
}

/* An interrupt that was read but not noted: now the request it means is known. */
static void take_over_interrupts(struct fuseloop *f)
{
    struct arena *a = f->arena;
    for (uint32_t i = 0; i < a->h->sizes.big; i++) {
        struct fuse_in_header *in = requests_big_header(&a->big[i]);
        if (in->len != 0 && in->opcode == FUSE_INTERRUPT) {
            interrupts_take(f, in);
            requests_big_put(f, &a->big[i]);
        }
    }
}

int requests_init(struct fuseloop *f)
{
    table_init(&f->by_unique);
    list_init(&f->requests);
    list_init(&f->taken);
    f->free_big = xcalloc(f->arena->h->sizes.big, sizeof *f->free_big);
    f->free_small = xcalloc(f->arena->h->sizes.small, sizeof *f->free_small);
    take_over_smalls(f);
    take_over_bigs(f);
    take_over_interrupts(f);
    return 0;
}

void requests_release(struct fuseloop *f)
{
    list_for_each_safe(n, next, &f->requests)
    {
        struct opreq *r = list_entry(n, struct opreq, node);
        if (r->free_ctx) {
            r->free_ctx(r->ctx);
        }
        table_remove(&f->by_unique, &r->by_unique);
        list_remove(n);
        free(r->translated);
        free(r);
    }
    table_release(&f->by_unique);
    free(f->free_big);
    free(f->free_small);
}

/* --- for ops ------------------------------------------------------------------------------------- */

uint64_t opreq_seq(const struct opreq *r)
{
    return r->small ? r->small->seq : r->big->seq;
}

void opreq_set_seq(struct opreq *r, uint64_t seq)
{
    arena_publish64(r->small ? &r->small->seq : &r->big->seq, seq);
    struct arena_header *h = r->loop->arena->h;
    if (seq >= h->next_seq) {
        arena_publish64(&h->next_seq, seq + 1);
    }
}

bool opreq_may_park(const struct opreq *r)
{
    return r->small != NULL;
}

void opreq_set_ticket(struct opreq *r, uint64_t ticket)
{
    CHECK(opreq_may_park(r));
    if (!(r->small->flags & ARENA_PARKED)) {
        r->small->flags |= ARENA_PARKED;
        r->loop->n_parked++;
    }
    arena_publish64(&r->small->ticket, ticket);
}

uint64_t opreq_ticket(const struct opreq *r)
{
    return r->small ? r->small->ticket : 0;
}

bool opreq_interrupted(const struct opreq *r)
{
    return (*requests_flags(r) & ARENA_INTERRUPTED) != 0;
}

const void *opreq_raw(const struct opreq *r)
{
    return requests_header(r);
}
