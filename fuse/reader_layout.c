#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "fuse/reader_internal.h"
#include "meta.pb-c.h"
#include "proto/methods.h"

/* What is not cached of an inode yet: its extents, or its attributes with inline content. One fetch
 * of a kind is under way per inode; jobs that need it wait for it and are planned again. An answer
 * that a commit has overtaken (inode.layout went up) is thrown away, and the plan asks again. */
enum { EXTENTS_ASK = 4096, EXTENTS_APPEND_MAX = 8192 };

static struct lfetch *fetch_find(struct reader *r, const struct inode *in, uint16_t method)
{
    list_for_each (node, &r->fetches) {
        struct lfetch *f = list_entry(node, struct lfetch, node);
        if (f->inode == in && f->read.method == method) {
            return f;
        }
    }
    return NULL;
}

static struct lfetch *fetch_new(struct reader *r, struct inode *in)
{
    struct lfetch *f = xcalloc(1, sizeof *f);
    f->r = r;
    f->inode = in;
    f->layout = in->layout;
    in->pins++;
    buf_init(&f->body);
    list_init(&f->jobs);
    list_init(&f->seeks);
    list_add_tail(&r->fetches, &f->node);
    return f;
}

static void fetch_free(struct lfetch *f)
{
    list_remove(&f->node);
    f->inode->pins--;
    buf_release(&f->body);
    free(f);
}

static void fetch_over(struct lfetch *f, int rc)
{
    struct list jobs, seeks;
    list_take_all(&f->jobs, &jobs);
    list_take_all(&f->seeks, &seeks);
    struct reader *r = f->r;
    fetch_free(f);
    while (!list_empty(&jobs)) {
        struct job *job = list_first(&jobs, struct job, node);
        list_remove(&job->node);
        list_add_tail(&r->jobs, &job->node);
        job->rc = rc;
        job_plan(job);
    }
    while (!list_empty(&seeks)) {
        struct list *seek = seeks.next;
        list_remove(seek);
        seek_step(seek, rc);
    }
}

static void layout_done(struct session_read *read)
{
    struct lfetch *f = container_of(read, struct lfetch, read);
    struct inode *in = f->inode;
    int rc = read->rc;
    Cfs__ExtentsReply *reply =
        rc != 0 ? NULL : cfs__extents_reply__unpack(NULL, read->reply.len, read->reply.data);
    if (rc == 0 && reply == NULL) {
        rc = ERR_MALFORMED;
    }
    if (reply != NULL && in->layout == f->layout) {
        itable_take_extents(f->r->client->itable, in, f->from, reply);
    }
    if (reply != NULL) {
        cfs__extents_reply__free_unpacked(reply, NULL);
    }
    fetch_over(f, rc);
}

/* Where to ask from: files of few extents become known as a whole, and stay so; of larger ones a
 * window. */
static uint64_t ask_from(const struct inode *in, uint64_t at)
{
    if (in->extents_to <= in->extents_from) {
        return at < (64u << 20) ? 0 : at;
    }
    if (at >= in->extents_from && in->n_extents < EXTENTS_APPEND_MAX &&
        at - in->extents_from < (4ull << 30)) {
        return in->extents_to;
    }
    return at;
}

struct layout_range {
    uint64_t from, to;
};

static void fetch_to(struct reader *r, struct inode *in, struct layout_range range, struct job *job,
                     struct list *seek)
{
    struct lfetch *f = fetch_find(r, in, METHOD_EXTENTS);
    const bool fresh = f == NULL;
    if (fresh) {
        f = fetch_new(r, in);
    }
    if (job != NULL) {
        list_remove(&job->node);
        list_add_tail(&f->jobs, &job->node);
    }
    if (seek != NULL) {
        list_add_tail(&f->seeks, seek);
    }
    if (!fresh) {
        return;
    }
    f->from = ask_from(in, range.from);
    const uint64_t size = itable_size(in) > range.to ? itable_size(in) : range.to;
    Cfs__ExtentsRequest message = CFS__EXTENTS_REQUEST__INIT;
    message.session = session_id(r->client->session);
    message.ino = in->ino;
    message.offset = f->from;
    message.length = size > f->from ? size - f->from : 1;
    message.has_max = true;
    message.max = EXTENTS_ASK;
    cfs__extents_request__pack(
        &message, buf_extend(&f->body, cfs__extents_request__get_packed_size(&message)));
    f->read = (struct session_read){
        .method = METHOD_EXTENTS, .body = buf_bytes(&f->body), .on_done = layout_done};
    session_read_start(r->client->session, &f->read);
}

void layout_fetch(struct reader *r, struct inode *in, uint64_t from, struct job *job,
                  struct list *seek)
{
    fetch_to(r, in, (struct layout_range){from, itable_size(in)}, job, seek);
}

void reader_want_layout(struct reader *r, struct inode *in, uint64_t offset, uint64_t length)
{
    if (offset < in->extents_from || offset + length > in->extents_to) {
        fetch_to(r, in, (struct layout_range){offset, offset + length}, NULL, NULL);
    }
}

static void content_done(struct session_read *read)
{
    struct lfetch *f = container_of(read, struct lfetch, read);
    struct itable *t = f->r->client->itable;
    int rc = read->rc;
    Cfs__LookupReply *reply =
        rc != 0 ? NULL : cfs__lookup_reply__unpack(NULL, read->reply.len, read->reply.data);
    if (reply != NULL && reply->attr->ino == f->inode->ino) {
        itable_take_attr(t, reply->attr);
        if (reply->has_content && f->inode->change == reply->attr->change) {
            itable_take_content(f->inode, BYTES(reply->content.data, reply->content.len));
        }
    } else if (rc == 0) {
        rc = ERR_MALFORMED;
    }
    if (reply != NULL) {
        cfs__lookup_reply__free_unpacked(reply, NULL);
    }
    fetch_over(f, rc);
}

void content_fetch(struct reader *r, struct inode *in, struct job *job)
{
    struct lfetch *f = fetch_find(r, in, METHOD_GETATTR);
    const bool fresh = f == NULL;
    if (fresh) {
        f = fetch_new(r, in);
    }
    list_remove(&job->node);
    list_add_tail(&f->jobs, &job->node);
    if (!fresh) {
        return;
    }
    Cfs__GetattrRequest message = CFS__GETATTR_REQUEST__INIT;
    message.session = session_id(r->client->session);
    message.ino = in->ino;
    cfs__getattr_request__pack(
        &message, buf_extend(&f->body, cfs__getattr_request__get_packed_size(&message)));
    f->read = (struct session_read){
        .method = METHOD_GETATTR, .body = buf_bytes(&f->body), .on_done = content_done};
    session_read_start(r->client->session, &f->read);
}

void layouts_release(struct reader *r)
{
    while (!list_empty(&r->fetches)) {
        struct lfetch *f = list_first(&r->fetches, struct lfetch, node);
        session_read_cancel(&f->read);
        fetch_free(f);
    }
}
