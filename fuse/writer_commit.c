#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "fuse/writer_internal.h"
#include "meta.pb-c.h"
#include "proto/methods.h"

/* Commits. Stripes that are on their servers wait in `ready`; a commit takes as many as its record
 * has room for. The record is published before the command leaves, and freed when the answer has
 * been applied to the pages: 1 pages become clean    2 size and times are settled    3 the record
 * is freed    4 the number is released. Killed before 3, the next worker sends the number again,
 * without operations: the server answers what it answered, or does nothing; in both cases the pages
 * that are still dirty are flushed again under new ids. So a repeat never has to be built from what
 * the record says (which is there for people and tests).
 *
 * A file that outgrows its inline content: the command that brings the first extents removes that
 * content at the server, so it must bring extents for all of it. Until the stripes that are ready
 * cover the content, nothing of that inode is committed. */
enum { ATTR_INLINE = 1 };

bool commit_server_inline(const struct winode *wi)
{
    const struct inode *in = wi->inode;
    return in != NULL && in->attr_valid && (in->attr_flags & ATTR_INLINE) && in->st.st_size > 0 &&
           S_ISREG(in->st.st_mode);
}

bool commit_fits_inline(const struct winode *wi)
{
    const struct inode *in = wi->inode;
    const bool is_inline = in->attr_flags & ATTR_INLINE;
    const bool empty = in->st.st_size == 0 && in->st.st_blocks == 0;
    const unsigned others = wi->n_commits - (wi->inline_commit != NULL);
    return in->attr_valid && !wi->outline &&
           itable_size(in) <= wi->w->client->policy.inline_limit && (is_inline || empty) &&
           wi->n_stripes == 0 && wi->n_ready == 0 && others == 0;
}

/* A size that was set while the content was on its way may be far beyond it; nothing is behind it.
 */
static uint64_t content_bytes(const struct inode *in)
{
    const uint64_t size = (uint64_t)in->st.st_size;
    return in->content_valid && in->content.len < size ? in->content.len : size;
}

int commit_load_content(struct winode *wi)
{
    struct writer *w = wi->w;
    struct inode *in = wi->inode;
    const size_t size = (size_t)content_bytes(in);
    if (pages_cover(w, wi, 0, size)) {
        pages_dirty_again(wi, 0, size);
        return 0;
    }
    if (!in->content_valid || size > 1 << 20) {
        return -ENODATA;
    }
    uint8_t *bytes = xcalloc(1, size);
    memcpy(bytes, in->content.data, size);
    writer_overlay(w, in, 0, bytes, size);
    for (size_t at = 0; at < size; at += PAGE_BYTES) {
        const size_t n = size - at < PAGE_BYTES ? size - at : PAGE_BYTES;
        pages_put(wi, at / PAGE_BYTES, 0, (unsigned)n, bytes + at);
    }
    free(bytes);
    return 0;
}

/* ---- attributes that a restart forgot ---- */

static void fetch_done(struct session_read *read)
{
    struct winode *wi = container_of(read, struct winode, fetch);
    struct writer *w = wi->w;
    wi->fetching = false;
    if (read->rc == -ENOENT || read->rc == ERR_NOT_FOUND) {
        winode_forget(wi);
        writer_deliver(w);
        return;
    }
    Cfs__LookupReply *reply =
        read->rc != 0 ? NULL : cfs__lookup_reply__unpack(NULL, read->reply.len, read->reply.data);
    if (reply == NULL) {
        wi->retry_at_ms = w->client->timers->now_ms + RETRY_MS;
    } else {
        if (wi->inode != NULL && reply->attr->ino == wi->ino) {
            itable_take_attr(w->client->itable, reply->attr);
            if (reply->has_content) {
                itable_take_content(wi->inode, BYTES(reply->content.data, reply->content.len));
            }
        }
        cfs__lookup_reply__free_unpacked(reply, NULL);
        if (wi->inode != NULL && !wi->inode->attr_valid) {
            wi->retry_at_ms = w->client->timers->now_ms + RETRY_MS;
        }
    }
    writer_pump(wi);
    winode_changed(wi);
    writer_deliver(w);
}

void commit_fetch(struct winode *wi)
{
    if (wi->fetching || wi->gone) {
        return;
    }
    Cfs__GetattrRequest message = CFS__GETATTR_REQUEST__INIT;
    message.session = session_id(wi->w->client->session);
    message.ino = wi->ino;
    buf_clear(&wi->fetch_body);
    cfs__getattr_request__pack(
        &message, buf_extend(&wi->fetch_body, cfs__getattr_request__get_packed_size(&message)));
    wi->fetch = (struct session_read){
        .method = METHOD_GETATTR, .body = buf_bytes(&wi->fetch_body), .on_done = fetch_done};
    wi->fetching = true;
    session_read_start(wi->w->client->session, &wi->fetch);
}

/* ---- making one ---- */

static struct wcommit *commit_new(struct winode *wi)
{
    struct writer *w = wi->w;
    if (w->n_free_commits == 0) {
        return NULL;
    }
    struct wcommit *c = xcalloc(1, sizeof *c);
    c->w = w;
    c->wi = wi;
    c->record = &w->arena->commit[w->free_commit[--w->n_free_commits]];
    list_init(&c->stripes);
    list_add_tail(&w->commits, &c->node);
    buf_init(&c->command.ops);
    buf_init(&c->content);
    return c;
}

static void record_stripe(struct arena_commit *record, const struct wstripe *s)
{
    const uint32_t at = record->n_stripes++;
    record->stripe[at] = (struct arena_stripe){.id = s->id,
                                               .nonce = s->nonce,
                                               .slot_mask = s->slot_mask,
                                               .length = s->length,
                                               .pg = s->pg,
                                               .epoch = s->epoch,
                                               .kind = s->code.kind,
                                               .k = s->code.k,
                                               .m = s->code.m};
    for (unsigned i = 0; i < s->n_extents; i++) {
        record->extent[record->n_extents++] =
            (struct arena_extent){.offset = s->extent[i].offset,
                                  .length = s->extent[i].length,
                                  .stripe_offset = s->extent[i].stripe_offset,
                                  .stripe = at};
    }
}

/* The size that the server has once everything sent to it is applied: a smaller one would cut what
 * a commit that is still under way has brought. */
static uint64_t size_sent(const struct wcommit *c)
{
    uint64_t size = (uint64_t)c->wi->inode->st.st_size;
    list_for_each (node, &c->w->commits) {
        const struct wcommit *other = list_entry(node, struct wcommit, node);
        if (other->wi == c->wi && other != c && other->end > size) {
            size = other->end;
        }
    }
    return size;
}

/* What of size and times goes along. While other data is on its way the size says no more than what
 * is committed, so that a crash of this machine leaves a prefix rather than zeroes. */
static void record_meta(struct wcommit *c)
{
    struct winode *wi = c->wi;
    struct arena_commit *record = c->record;
    const struct arena_inode *dirty = wi->inode->dirty;
    record->flags = dirty == NULL ? 0 : dirty->flags;
    record->mtime = dirty == NULL ? 0 : dirty->mtime;
    uint64_t size = dirty == NULL ? 0 : dirty->size;
    uint64_t end = size_sent(c);
    for (unsigned i = 0; i < record->n_extents; i++) {
        const uint64_t e = record->extent[i].offset + record->extent[i].length;
        end = e > end ? e : end;
    }
    const bool all = wi->n_idle == 0 && wi->n_stripes == 0 && wi->n_ready == 0;
    if (!all && !c->is_inline) {
        c->size_partial = end < size;
        size = end < size ? end : size;
    }
    record->size = size;
    c->end = (record->flags & ARENA_INODE_SIZE) && size > end ? size : end;
    c->meta_stamp = wi->meta_stamp;
    if (c->is_inline) {
        record->flags |= ARENA_COMMIT_INLINE;
    }
}

struct packed_write { /* the message's arrays */
    Cfs__WriteOp write;
    Cfs__Stripe stripe[ARENA_COMMIT_STRIPES], *stripes[ARENA_COMMIT_STRIPES];
    Cfs__Extent extent[ARENA_COMMIT_EXTENTS], *extents[ARENA_COMMIT_EXTENTS];
};

static void fill_stripes(struct packed_write *out, const struct arena_commit *record)
{
    for (unsigned i = 0; i < record->n_stripes; i++) {
        const struct arena_stripe *s = &record->stripe[i];
        Cfs__Stripe *to = &out->stripe[i];
        cfs__stripe__init(to);
        to->pg = s->pg;
        to->id = s->id;
        to->kind = s->kind;
        to->k = s->k;
        to->m = s->m;
        to->slot_mask = s->slot_mask;
        to->length = s->length;
        to->nonce = s->nonce;
        to->has_epoch = true;
        to->epoch = s->epoch;
        out->stripes[i] = to;
    }
    for (unsigned i = 0; i < record->n_extents; i++) {
        const struct arena_extent *e = &record->extent[i];
        Cfs__Extent *to = &out->extent[i];
        cfs__extent__init(to);
        to->offset = e->offset;
        to->length = e->length;
        to->kind = 1;
        to->has_pg = to->has_stripe = to->has_stripe_offset = true;
        to->pg = record->stripe[e->stripe].pg;
        to->stripe = record->stripe[e->stripe].id;
        to->stripe_offset = e->stripe_offset;
        out->extents[i] = to;
    }
}

static void pack(struct wcommit *c)
{
    const struct arena_commit *record = c->record;
    struct packed_write packed;
    cfs__write_op__init(&packed.write);
    fill_stripes(&packed, record);
    Cfs__WriteOp *write = &packed.write;
    write->ino = record->ino;
    write->n_stripe = record->n_stripes;
    write->stripe = packed.stripes;
    write->n_extent = record->n_extents;
    write->extent = packed.extents;
    write->has_size = (record->flags & ARENA_INODE_SIZE) || c->is_inline;
    write->size = record->size;
    write->has_mtime = record->flags & ARENA_INODE_MTIME;
    write->mtime = record->mtime;
    write->has_kill_priv = write->kill_priv = record->flags & ARENA_INODE_KILL_PRIV;
    write->has_content = c->is_inline;
    write->content = (ProtobufCBinaryData){.len = c->content.len, .data = c->content.data};
    Cfs__Op op = CFS__OP__INIT, *ops[1] = {&op};
    op.write = write;
    Cfs__Ops message = CFS__OPS__INIT;
    message.n_op = 1;
    message.op = ops;
    cfs__ops__pack(&message, buf_extend(&c->command.ops, cfs__ops__get_packed_size(&message)));
}

static void commit_done(struct command *cmd);

static void submit(struct wcommit *c)
{
    struct writer *w = c->w;
    struct session *session = w->client->session;
    pack(c);
    c->command.on_done = commit_done;
    c->wi->n_commits++;
    session_submit(session, &c->command);
    /* A number that no record names yet is filled with nothing by the next worker: right, it was
     * not sent. */
    arena_publish64(&w->arena->h->next_seq, session_next_seq(session));
    arena_publish64(&c->record->seq, c->command.seq);
}

static struct arena_commit *record_begin(struct wcommit *c)
{
    struct arena_commit *record = c->record;
    record->ino = c->wi->ino;
    record->n_stripes = record->n_extents = 0;
    return record;
}

void commit_meta(struct winode *wi)
{
    struct wcommit *c = commit_new(wi);
    if (c == NULL) {
        return; /* one ends soon, and everything is looked at again */
    }
    record_begin(c);
    record_meta(c);
    submit(c);
}

void commit_inline(struct winode *wi)
{
    struct writer *w = wi->w;
    struct wcommit *c = commit_new(wi);
    if (c == NULL) {
        return;
    }
    record_begin(c);
    c->is_inline = true;
    const size_t size = (size_t)itable_size(wi->inode);
    if (size > 0) {
        memset(buf_extend(&c->content, size), 0, size);
        writer_overlay(w, wi->inode, 0, c->content.data, size);
    }
    c->page = xmalloc(wi->n_idle * sizeof *c->page);
    while (!list_empty(&wi->idle)) {
        const uint32_t p = page_index(w, list_first(&wi->idle, struct wpage, at));
        c->page[c->n_pages++] = p;
        pages_take_off(wi, p);
    }
    wi->inline_commit = c;
    record_meta(c);
    c->record->size = size;
    submit(c);
}

/* Whether the stripes that are ready bring extents for all of the content that they will replace.
 */
static bool covers_content(const struct winode *wi)
{
    const uint64_t size = content_bytes(wi->inode);
    for (uint64_t at = 0; at < size;) {
        const uint64_t before = at;
        list_for_each (node, &wi->ready) {
            const struct wstripe *s = list_entry(node, struct wstripe, node);
            for (unsigned i = 0; i < s->n_extents; i++) {
                const uint64_t from = s->extent[i].offset, to = from + s->extent[i].length;
                at = from <= at && to > at ? to : at;
            }
        }
        if (at == before) {
            return false;
        }
    }
    return true;
}

static void take_ready(struct wcommit *c)
{
    struct winode *wi = c->wi;
    struct arena_commit *record = record_begin(c);
    while (!list_empty(&wi->ready)) {
        struct wstripe *s = list_first(&wi->ready, struct wstripe, node);
        if (record->n_stripes == ARENA_COMMIT_STRIPES ||
            record->n_extents + s->n_extents > ARENA_COMMIT_EXTENTS) {
            break;
        }
        record_stripe(record, s);
        list_remove(&s->node);
        list_add_tail(&c->stripes, &s->node);
        wi->n_ready--;
        wi->ready_extents -= s->n_extents;
    }
}

void commit_give_back(struct winode *wi)
{
    while (!list_empty(&wi->ready)) {
        struct wstripe *s = list_first(&wi->ready, struct wstripe, node);
        list_remove(&s->node);
        wi->n_ready--;
        wi->ready_extents -= s->n_extents;
        stripe_give_back(s);
    }
    wi->plan_n = wi->plan_at = 0;
}

void commit_ready(struct winode *wi)
{
    while (wi->n_ready > 0 && wi->inline_commit == NULL) {
        const bool batch = wi->n_ready >= COMMIT_BATCH || wi->ready_extents >= PACK_EXTENTS;
        if (wi->n_commits > 0 && (!batch || wi->n_commits >= COMMITS_PER_INODE)) {
            return;
        }
        if (commit_server_inline(wi) && !covers_content(wi)) {
            if (wi->n_stripes == 0 && winode_held(wi)) {
                commit_give_back(wi); /* who holds waits for them, and holds the content back */
            } else if (wi->n_stripes == 0) {
                winode_barrier(wi); /* the content has to go first */
            }
            return;
        }
        struct wcommit *c = commit_new(wi);
        if (c == NULL) {
            return;
        }
        take_ready(c);
        record_meta(c);
        submit(c);
    }
}

/* ---- the answer ---- */

static void commit_free(struct wcommit *c)
{
    struct writer *w = c->w;
    struct session *session = w->client->session;
    const uint64_t seq = c->command.seq;
    arena_publish64(&c->record->seq, 0);
    w->free_commit[w->n_free_commits++] = (uint32_t)(c->record - w->arena->commit);
    session_release_seq(session, seq);
    buf_release(&c->command.ops);
    list_remove(&c->node);
    buf_release(&c->content);
    free(c->page);
    free(c);
}

/* At the end of the worker: what is in the arena stays as it is, for the next one. */
void commits_release(struct writer *w)
{
    while (!list_empty(&w->commits)) {
        struct wcommit *c = list_first(&w->commits, struct wcommit, node);
        session_abandon(w->client->session, &c->command);
        while (!list_empty(&c->stripes)) {
            struct wstripe *s = list_first(&c->stripes, struct wstripe, node);
            list_remove(&s->node);
            stripe_free(s);
        }
        list_remove(&c->node);
        buf_release(&c->content);
        free(c->page);
        free(c);
    }
}

static void put_extents(struct inode *in, const struct wstripe *s)
{
    for (unsigned i = 0; i < s->n_extents; i++) {
        const struct iextent e = {.offset = s->extent[i].offset,
                                  .length = s->extent[i].length,
                                  .kind = 1,
                                  .code_kind = s->code.kind,
                                  .k = s->code.k,
                                  .m = s->code.m,
                                  .pg = s->pg,
                                  .stripe = s->id,
                                  .stripe_offset = s->extent[i].stripe_offset,
                                  .slot_mask = s->slot_mask,
                                  .stripe_length = s->length,
                                  .nonce = s->nonce};
        itable_put_extent(in, &e);
    }
}

static void settle_meta(struct wcommit *c)
{
    struct winode *wi = c->wi;
    struct arena_inode *dirty = wi->inode->dirty;
    if (dirty == NULL) {
        return;
    }
    if (wi->meta_stamp == c->meta_stamp && !c->size_partial) {
        wi->meta_since = 0;
        arena_publish32(&dirty->flags, 0);
    } else if (wi->meta_since != 0 && wi->meta_since <= c->meta_stamp) {
        wi->meta_since = c->meta_stamp + 1;
    }
}

/* The extents come before the pages are clean: a reader that finds no page any more finds the
 * extents. */
static void commit_good(struct wcommit *c, const Cfs__Attr *attr)
{
    struct winode *wi = c->wi;
    struct writer *w = c->w;
    struct inode *in = wi->inode;
    if (in != NULL) {
        if (c->is_inline) {
            itable_drop_extents(in);
        }
        list_for_each (node, &c->stripes) {
            put_extents(in, list_entry(node, struct wstripe, node));
        }
        if (attr != NULL && attr->ino == wi->ino) {
            itable_take_attr(w->client->itable, attr);
            if (c->is_inline && (attr->flags & ATTR_INLINE) && in->change == attr->change) {
                itable_take_content(in, buf_bytes(&c->content));
            }
        }
    }
    bool unpaid = false;
    while (!list_empty(&c->stripes)) {
        struct wstripe *s = list_first(&c->stripes, struct wstripe, node);
        list_remove(&s->node);
        uint64_t paid = 0; /* what was set aside for those is granted again */
        for (unsigned i = 0; i < s->n_pages; i++) {
            unpaid = unpaid || !w->page[s->page[i]].paid;
            paid += w->page[s->page[i]].paid ? PAGE_BYTES : 0;
            pages_committed(wi, s->page[i]);
        }
        const uint64_t stored = stripe_stored_bytes(s->code, s->length);
        w->credit_used += stored - (raw_worst(w, paid) < stored ? raw_worst(w, paid) : stored);
        stripe_free(s);
    }
    if (unpaid && w->credit_short_ms != 0) {
        w->credit_short_ms =
            w->client->timers->now_ms + 1; /* heartbeats have yet to tell of that */
    }
    for (unsigned i = 0; i < c->n_pages; i++) {
        pages_committed(wi, c->page[i]);
    }
    if (in != NULL) {
        settle_meta(c);
    }
    wi->retry_at_ms = 0;
    w->space_rc = 0;
}

static void commit_bad(struct wcommit *c, int rc)
{
    struct winode *wi = c->wi;
    struct writer *w = c->w;
    while (!list_empty(&c->stripes)) {
        struct wstripe *s = list_first(&c->stripes, struct wstripe, node);
        list_remove(&s->node);
        stripe_give_back(s);
    }
    for (unsigned i = 0; i < c->n_pages; i++) {
        pages_put_back(wi, c->page[i]);
    }
    wi->plan_n = wi->plan_at = 0;
    if (wi->gone) {
        return;
    }
    if (rc == ERR_STALE_EPOCH || rc == ERR_DEAD_ID) {
        ids_drop(w);
        tables_fetch(w->client->tables, NULL, NULL);
        wi->retry_at_ms = w->client->timers->now_ms + 20;
        winode_barrier(wi);
    } else {
        winode_fail(wi, rc);
    }
}

/* The status of the one operation, and its attributes (freed with *reply by the caller). */
static int result_of(const struct command *cmd, Cfs__OpsReply **reply, const Cfs__Attr **attr)
{
    *attr = NULL;
    *reply = NULL;
    if (cmd->rc != 0) {
        return cmd->rc;
    }
    *reply = cfs__ops_reply__unpack(NULL, cmd->reply.len, cmd->reply.data);
    if (*reply == NULL || (*reply)->n_result < 1) {
        return -EIO;
    }
    *attr = (*reply)->result[0]->attr;
    return status_to_rc((*reply)->result[0]->status);
}

static void commit_done(struct command *cmd)
{
    struct wcommit *c = container_of(cmd, struct wcommit, command);
    struct winode *wi = c->wi;
    struct writer *w = c->w;
    Cfs__OpsReply *reply;
    const Cfs__Attr *attr;
    const int rc = result_of(cmd, &reply, &attr);
    wi->n_commits--;
    if (wi->inline_commit == c) {
        wi->inline_commit = NULL;
    }
    if (rc == 0) {
        commit_good(c, attr);
    } else if (rc == -ENOENT || rc == ERR_NOT_FOUND) {
        wi->gone = true; /* pages of the stripes go with it */
        commit_bad(c, rc);
    } else {
        commit_bad(c, rc);
    }
    const bool ended = rc == ERR_SESSION_ENDED;
    commit_free(c);
    if (reply != NULL) {
        cfs__ops_reply__free_unpacked(reply, NULL);
    }
    if (ended) {
        writer_session_ended(w);
    }
    if (wi->gone) {
        winode_forget(wi);
    } else {
        writer_pump(wi);
        winode_changed(wi);
    }
    writer_pump_pending(w);
    writer_deliver(w);
}

/* ---- after a restart ---- */

static void repeat_done(struct command *cmd)
{
    struct wcommit *c = container_of(cmd, struct wcommit, command);
    struct writer *w = c->w;
    commit_free(c);
    writer_pump_pending(w);
    writer_deliver(w);
}

struct command *writer_repeat_commit(struct writer *w, struct arena_commit *record)
{
    struct wcommit *c = xcalloc(1, sizeof *c);
    c->w = w;
    c->record = record;
    list_init(&c->stripes);
    list_add_tail(&w->commits, &c->node);
    buf_init(&c->command.ops);
    c->command.seq = record->seq;
    c->command.on_done = repeat_done;
    return &c->command;
}
