#include "test/lib/sim_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"

void model_init(struct model *m)
{
    memset(m, 0, sizeof *m);
    m->node[0] = (struct model_node){
        .ino = MODEL_ROOT, .mode = S_IFDIR | 0755, .links = 1, .parent = MODEL_ROOT};
    m->next_unknown = MODEL_UNKNOWN;
}

struct model_node *model_node(struct model *m, uint64_t ino)
{
    for (unsigned i = 0; ino != 0 && i < MODEL_NODES; i++) {
        if (m->node[i].ino == ino) {
            return &m->node[i];
        }
    }
    return NULL;
}

static struct model_entry *entry_find(struct model *m, uint64_t parent, const char *name)
{
    for (unsigned i = 0; i < MODEL_ENTRIES; i++) {
        if (m->entry[i].parent == parent && parent != 0 && strcmp(m->entry[i].name, name) == 0) {
            return &m->entry[i];
        }
    }
    return NULL;
}

static bool empty(const struct model *m, uint64_t dir)
{
    for (unsigned i = 0; i < MODEL_ENTRIES; i++) {
        if (m->entry[i].parent == dir) {
            return false;
        }
    }
    return true;
}

static void entry_add(struct model *m, uint64_t parent, const char *name, uint64_t ino)
{
    for (unsigned i = 0; i < MODEL_ENTRIES; i++) {
        if (m->entry[i].parent == 0) {
            m->entry[i] = (struct model_entry){.parent = parent, .ino = ino};
            snprintf(m->entry[i].name, sizeof m->entry[i].name, "%s", name);
            return;
        }
    }
    m->overflow = true;
}

struct model_id *model_id_find(struct model *m, struct sim_id at)
{
    for (unsigned i = 0; i < m->n_ids; i++) {
        if (m->id[i].at.pg == at.pg && m->id[i].at.id == at.id) {
            return &m->id[i];
        }
    }
    return NULL;
}

static void maybe_gone(struct model_node *n)
{
    if (n->links == 0 && !n->held) {
        n->ino = 0;
    }
}

static void drop_name(struct model_node *n, bool held)
{
    n->links--;
    n->held = n->held || (n->links == 0 && held);
    maybe_gone(n);
}

/* ---- operations ----------------------------------------------------------------------------- */

static struct model_node *directory(struct model *m, uint64_t ino)
{
    struct model_node *n = model_node(m, ino);
    return n != NULL && S_ISDIR(n->mode) ? n : NULL;
}

static int make(struct model *m, const struct sim_op *op, bool answered)
{
    struct model_node *parent = directory(m, op->parent), *n = NULL;
    if (parent == NULL || parent->links == 0 ||
        (op->name[0] != '\0' && entry_find(m, op->parent, op->name) != NULL)) {
        return -1;
    }
    for (unsigned i = 0; i < MODEL_NODES && n == NULL; i++) {
        n = m->node[i].ino == 0 ? &m->node[i] : NULL;
    }
    if (n == NULL) {
        m->overflow = true;
        return -1;
    }
    *n = (struct model_node){.ino = answered ? op->made : m->next_unknown++,
                             .mode = op->mode,
                             .links = op->name[0] != '\0',
                             .held = op->name[0] == '\0',
                             .parent = S_ISDIR(op->mode) ? op->parent : 0};
    if (S_ISLNK(op->mode)) {
        n->size = 3;
        n->mode = S_IFLNK | 0777;
    } else if (S_ISREG(op->mode)) {
        n->content = (unsigned)op->size;
        n->size = op->size;
        n->tag = op->size > 0 ? op->tag : 0;
    }
    if (op->name[0] != '\0') {
        entry_add(m, op->parent, op->name, n->ino);
    }
    return 0;
}

static int unlink_name(struct model *m, const struct sim_op *op)
{
    struct model_entry *e =
        directory(m, op->parent) != NULL ? entry_find(m, op->parent, op->name) : NULL;
    struct model_node *n = e != NULL ? model_node(m, e->ino) : NULL;
    if (n == NULL || S_ISDIR(n->mode) != op->directory || (op->directory && !empty(m, n->ino))) {
        return -1;
    }
    e->parent = 0;
    drop_name(n, op->held);
    return 0;
}

static bool is_below(struct model *m, uint64_t ino, uint64_t ancestor)
{
    while (ino != ancestor && ino != MODEL_ROOT) {
        const struct model_node *n = model_node(m, ino);
        if (n == NULL) {
            return false;
        }
        ino = n->parent;
    }
    return ino == ancestor;
}

static int exchange_names(struct model *m, struct model_entry *from, struct model_entry *to)
{
    struct model_node *a = model_node(m, from->ino), *b = model_node(m, to->ino);
    if ((S_ISDIR(a->mode) && is_below(m, to->parent, a->ino)) ||
        (S_ISDIR(b->mode) && is_below(m, from->parent, b->ino))) {
        return -1;
    }
    from->ino = b->ino;
    to->ino = a->ino;
    a->parent = S_ISDIR(a->mode) ? to->parent : 0;
    b->parent = S_ISDIR(b->mode) ? from->parent : 0;
    return 0;
}

static int rename_name(struct model *m, const struct sim_op *op)
{
    struct model_node *to_dir = directory(m, op->parent2);
    struct model_entry *from =
        directory(m, op->parent) != NULL ? entry_find(m, op->parent, op->name) : NULL;
    if (from == NULL || to_dir == NULL || to_dir->links == 0) {
        return -1;
    }
    struct model_entry *to = entry_find(m, op->parent2, op->name2);
    if ((op->flags == 1 && to != NULL) || (op->flags == 2 && to == NULL)) {
        return -1;
    }
    if (to != NULL && to->ino == from->ino) {
        return 0;
    }
    struct model_node *n = model_node(m, from->ino),
                      *target = to != NULL ? model_node(m, to->ino) : NULL;
    if (op->flags == 2) {
        return exchange_names(m, from, to);
    }
    if ((S_ISDIR(n->mode) && is_below(m, op->parent2, n->ino)) ||
        (target != NULL && (S_ISDIR(target->mode) != S_ISDIR(n->mode) ||
                            (S_ISDIR(target->mode) && !empty(m, target->ino))))) {
        return -1;
    }
    from->parent = 0;
    if (to != NULL) {
        to->ino = n->ino;
        drop_name(target, op->held);
    } else {
        entry_add(m, op->parent2, op->name2, n->ino);
    }
    n->parent = S_ISDIR(n->mode) ? op->parent2 : 0;
    return 0;
}

static int link_name(struct model *m, const struct sim_op *op)
{
    struct model_node *n = model_node(m, op->ino), *dir = directory(m, op->parent);
    if (n == NULL || dir == NULL || S_ISDIR(n->mode) || dir->links == 0 ||
        entry_find(m, op->parent, op->name) != NULL) {
        return -1;
    }
    entry_add(m, op->parent, op->name, n->ino);
    n->links++;
    return 0;
}

static void drop_cells(struct model_node *n, uint64_t from)
{
    for (unsigned i = (unsigned)(from / MODEL_CELL); i < MODEL_CELLS; i++) {
        n->cell[i] = (struct model_cell){0};
    }
}

static int set_attributes(struct model *m, const struct sim_op *op)
{
    struct model_node *n = model_node(m, op->ino);
    if (n == NULL || (op->has_size && !S_ISREG(n->mode))) {
        return -1;
    }
    if (op->has_size) { /* a multiple of MODEL_CELL */
        n->content = op->size < n->content ? (unsigned)op->size : n->content;
        n->tag = n->content > 0 ? n->tag : 0;
        n->size = op->size;
        drop_cells(n, op->size);
    } else {
        n->mode = (n->mode & S_IFMT) | op->mode;
    }
    return 0;
}

static int write_inline(struct model *m, const struct sim_op *op)
{
    struct model_node *n = model_node(m, op->ino);
    if (n == NULL || !S_ISREG(n->mode)) {
        return -1;
    }
    drop_cells(n, 0);
    n->content = (unsigned)op->size;
    n->size = op->size;
    n->tag = op->size > 0 ? op->tag : 0;
    return 0;
}

static int write_stripe(struct model *m, const struct sim_op *op)
{
    struct model_node *n = model_node(m, op->ino);
    struct model_id *id = model_id_find(m, op->id);
    if (n == NULL || !S_ISREG(n->mode) || op->stale_epoch || id == NULL ||
        id->state != MODEL_ID_GRANTED) {
        return -1;
    }
    id->state = MODEL_ID_LIVE;
    n->content = 0;
    n->tag = 0;
    for (unsigned i = 0; i < op->cells; i++) {
        n->cell[op->cell + i] =
            (struct model_cell){.pg = op->id.pg, .id = op->id.id, .at = (uint64_t)i * MODEL_CELL};
    }
    const uint64_t end = (uint64_t)(op->cell + op->cells) * MODEL_CELL;
    n->size = end > n->size ? end : n->size;
    return 0;
}

static int set_xattr(struct model *m, const struct sim_op *op)
{
    struct model_node *n = model_node(m, op->ino);
    if (n == NULL || (op->tag == 0 && n->xattr[op->xattr] == 0)) {
        return -1;
    }
    n->xattr[op->xattr] = op->tag;
    return 0;
}

static void wake(struct model *m, struct model_lock *l)
{
    for (unsigned i = 0; i < l->n_queue;) {
        if (l->holder != 0 && l->holder != l->queue[i].owner) {
            i++;
            continue;
        }
        l->holder = l->queue[i].owner;
        m->granted[m->n_granted++ % array_count(m->granted)] = l->queue[i].ticket;
        l->n_queue--;
        memmove(l->queue + i, l->queue + i + 1, (l->n_queue - i) * sizeof l->queue[0]);
    }
}

static int lock(struct model *m, const struct sim_op *op, bool answered)
{
    struct model_lock *l = &m->lock[op->domain];
    if (l->holder == 0 || l->holder == op->owner) {
        l->holder = op->owner;
        wake(m, l); /* who waited and is the same owner needs to wait no more */
        return 0;
    }
    if (!op->wait || l->n_queue == MODEL_TICKETS) {
        m->overflow = m->overflow || op->wait;
        return -1;
    }
    l->queue[l->n_queue++] =
        (struct model_wait){.owner = op->owner, .ticket = answered ? op->got_ticket : 0};
    return ERR_QUEUED;
}

static int unlock(struct model *m, const struct sim_op *op)
{
    struct model_lock *l = &m->lock[op->domain];
    if (l->holder == op->owner) {
        l->holder = 0;
    }
    wake(m, l);
    return 0;
}

static int cancel(struct model *m, const struct sim_op *op)
{
    for (unsigned d = 0; d < array_count(m->lock); d++) {
        struct model_lock *l = &m->lock[d];
        for (unsigned i = 0; i < l->n_queue; i++) {
            if (l->queue[i].ticket == op->ticket) {
                l->n_queue--;
                memmove(l->queue + i, l->queue + i + 1, (l->n_queue - i) * sizeof l->queue[0]);
                return 0;
            }
        }
    }
    return -1;
}

static int release(struct model *m, const struct sim_op *op)
{
    struct model_node *n = model_node(m, op->ino);
    if (n != NULL && n->held) {
        n->held = false;
        maybe_gone(n);
    }
    return 0;
}

static int grant(struct model *m, const struct sim_op *op, bool answered)
{
    for (unsigned i = 0; answered && i < op->n_got; i++) {
        if (m->n_ids == MODEL_IDS) {
            m->overflow = true;
            return -1;
        }
        m->id[m->n_ids++] = (struct model_id){.at = op->got[i], .state = MODEL_ID_GRANTED};
    }
    return 0;
}

static int retire(struct model *m, const struct sim_op *op)
{
    for (unsigned i = 0; i < m->n_ids; i++) {
        bool kept = m->id[i].state != MODEL_ID_GRANTED;
        for (unsigned k = 0; k < op->n_keep && !kept; k++) {
            kept = op->keep[k].pg == m->id[i].at.pg && op->keep[k].id == m->id[i].at.id;
        }
        m->id[i].state = kept ? m->id[i].state : MODEL_ID_DEAD;
    }
    return 0;
}

int model_apply(struct model *m, const struct sim_op *op, bool previous_failed, bool answered)
{
    if (op->needs_previous && previous_failed) {
        return -1;
    }
    switch (op->kind) {
    case SIM_MAKE:
        return make(m, op, answered);
    case SIM_UNLINK:
        return unlink_name(m, op);
    case SIM_RENAME:
        return rename_name(m, op);
    case SIM_LINK:
        return link_name(m, op);
    case SIM_SETATTR:
        return set_attributes(m, op);
    case SIM_INLINE:
        return write_inline(m, op);
    case SIM_WRITE:
        return write_stripe(m, op);
    case SIM_XATTR:
        return set_xattr(m, op);
    case SIM_LOCK:
        return lock(m, op, answered);
    case SIM_UNLOCK:
        return unlock(m, op);
    case SIM_CANCEL:
        return cancel(m, op);
    case SIM_RELEASE:
        return release(m, op);
    case SIM_GRANT:
        return grant(m, op, answered);
    default:
        return retire(m, op);
    }
}

void model_end_session(struct model *m)
{
    for (unsigned i = 0; i < MODEL_NODES; i++) {
        if (m->node[i].ino != 0) {
            m->node[i].held = false;
            maybe_gone(&m->node[i]);
        }
    }
    const struct sim_op nothing = {.kind = SIM_RETIRE};
    (void)retire(m, &nothing);
    memset(m->lock, 0, sizeof m->lock);
    m->n_granted = 0;
}

void model_learn(struct model *m, uint64_t unknown, uint64_t ino)
{
    for (unsigned i = 0; i < MODEL_NODES; i++) {
        m->node[i].ino = m->node[i].ino == unknown ? ino : m->node[i].ino;
        m->node[i].parent = m->node[i].parent == unknown ? ino : m->node[i].parent;
    }
    for (unsigned i = 0; i < MODEL_ENTRIES; i++) {
        m->entry[i].ino = m->entry[i].ino == unknown ? ino : m->entry[i].ino;
        m->entry[i].parent = m->entry[i].parent == unknown ? ino : m->entry[i].parent;
    }
}

/* ---- text ----------------------------------------------------------------------------------- */

void model_line(struct buf *out, const char *path, const struct model_node *n, unsigned nlink)
{
    buf_printf(out, "%s mode=%o links=%u", path, n->mode, nlink);
    if (S_ISREG(n->mode)) {
        buf_printf(out, " size=%llu", (unsigned long long)n->size);
        if (n->content > 0) {
            buf_printf(out, " inline=%u*%u", n->content, n->tag);
        }
        for (unsigned i = 0; i < MODEL_CELLS; i++) {
            if (n->cell[i].pg != 0) {
                buf_printf(out, " %u:%u.%llu+%llu", i, n->cell[i].pg,
                           (unsigned long long)n->cell[i].id, (unsigned long long)n->cell[i].at);
            }
        }
    }
    for (unsigned i = 0; i < MODEL_XATTRS; i++) {
        if (n->xattr[i] != 0) {
            buf_printf(out, " x%u=%u", i, n->xattr[i]);
        }
    }
    buf_printf(out, "\n");
}

static int compare_entries(const void *a, const void *b)
{
    const struct model_entry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static unsigned links_of(const struct model *m, const struct model_node *n)
{
    unsigned links = S_ISDIR(n->mode) ? 2 : n->links;
    for (unsigned i = 0; S_ISDIR(n->mode) && i < MODEL_ENTRIES; i++) {
        if (m->entry[i].parent == n->ino) {
            const struct model_node *c = model_node((struct model *)(uintptr_t)m, m->entry[i].ino);
            links += c != NULL && S_ISDIR(c->mode);
        }
    }
    return links;
}

/* The tree has no loops, and no more directories than nodes: the depth is bounded by both. */
static unsigned text_below(const struct model *m, const struct model_node *dir, const char *path,
                           struct buf *out, uint64_t *inos)
{
    const struct model_entry *list[MODEL_ENTRIES];
    unsigned n = 0, lines = 0;
    for (unsigned i = 0; i < MODEL_ENTRIES; i++) {
        if (m->entry[i].parent == dir->ino) {
            list[n++] = &m->entry[i];
        }
    }
    qsort(list, n, sizeof list[0], compare_entries);
    for (unsigned i = 0; i < n; i++) {
        const struct model_node *c = model_node((struct model *)(uintptr_t)m, list[i]->ino);
        char below[512];
        if (c == NULL ||
            snprintf(below, sizeof below, "%s/%s", path, list[i]->name) >= (int)sizeof below) {
            continue;
        }
        inos[lines++] = c->ino;
        model_line(out, below, c, links_of(m, c));
        if (S_ISDIR(c->mode)) {
            lines += text_below(m, c, below, out, inos + lines);
        }
    }
    return lines;
}

unsigned model_text(const struct model *m, struct buf *out, uint64_t inos[MODEL_LINES])
{
    inos[0] = MODEL_ROOT;
    model_line(out, "/", &m->node[0], links_of(m, &m->node[0]));
    return 1 + text_below(m, &m->node[0], "", out, inos + 1);
}
