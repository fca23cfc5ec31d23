#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "fuse/reader_internal.h"

/* SEEK_DATA and SEEK_HOLE: what is dirty is committed first, then the extents say it all. */
enum { FETCHES_MAX = 1000 };

struct seek {
    struct list node;
    struct reader *r;
    struct inode *in;
    uint64_t at;
    bool hole;
    unsigned fetches;
    struct writer_wait wait;
    struct timer soon;
    int rc;
    uint64_t found;
    void (*on_done)(void *ctx, int rc, uint64_t at);
    void *ctx;
};

static void seek_over(struct seek *s, int rc, uint64_t at)
{
    s->in->pins--;
    s->on_done(s->ctx, rc, at);
    free(s);
}

/* The first place at or after at that is data or hole, as far as extents are known; *known_to:
 * asked for from there. */
static bool seek_known(const struct seek *s, uint64_t size, uint64_t *at)
{
    const struct inode *in = s->in;
    if (*at < in->extents_from || *at >= in->extents_to) {
        return false;
    }
    for (unsigned i = itable_extent_at(in, *at); i < in->n_extents; i++) {
        const struct iextent *e = &in->extent[i];
        const bool data = e->kind == 1;
        if (s->hole && (e->offset > *at || !data)) {
            return true; /* a gap, or reserved space */
        }
        if (!s->hole && data) {
            *at = e->offset > *at ? e->offset : *at;
            return true;
        }
        *at = e->offset + e->length;
    }
    if (s->hole && *at < in->extents_to) {
        return true;
    }
    *at = in->extents_to > *at ? in->extents_to : *at;
    return *at >= size;
}

void seek_step(struct list *node, int rc)
{
    struct seek *s = list_entry(node, struct seek, node);
    const struct inode *in = s->in;
    const uint64_t size = itable_size(in);
    if (rc != 0 || s->fetches++ > FETCHES_MAX) {
        seek_over(s, rc == 0 || rc <= ERR_FIRST ? -EIO : rc, 0);
    } else if (s->at >= size) {
        seek_over(s, -ENXIO, 0);
    } else if (in->attr_flags & 1) {
        seek_over(s, 0, s->hole ? size : s->at);
    } else {
        uint64_t at = s->at;
        if (seek_known(s, size, &at)) {
            at = at < size ? at : size;
            seek_over(s, !s->hole && at >= size ? -ENXIO : 0, at);
        } else {
            s->at = at; /* nothing of what is sought lies before */
            layout_fetch(s->r, s->in,
                         at < in->extents_to && at >= in->extents_from ? in->extents_to : at, NULL,
                         &s->node);
        }
    }
}

static void seek_flushed(struct writer_wait *wait, int rc)
{
    struct seek *s = container_of(wait, struct seek, wait);
    seek_step(&s->node, rc);
}

void reader_seek(struct reader *r, struct inode *in, uint64_t offset, bool hole,
                 void (*on_done)(void *ctx, int rc, uint64_t at), void *ctx)
{
    struct seek *s = xcalloc(1, sizeof *s);
    s->r = r;
    s->in = in;
    s->at = offset;
    s->hole = hole;
    s->on_done = on_done;
    s->ctx = ctx;
    s->wait.on_done = seek_flushed;
    list_init(&s->node);
    in->pins++;
    writer_flush(r->client->writer, in, &s->wait);
}
