#include "rpc/seqs.h"

#include <stdlib.h>

#include "base/mem.h"

enum { FIRST_CAP = 2048 };

void seqs_init(struct seqs *q, uint64_t acked)
{
    *q = (struct seqs){.acked = acked, .top = acked};
}

void seqs_release(struct seqs *q)
{
    free(q->flags);
    *q = (struct seqs){0};
}

static void grow(struct seqs *q, uint64_t span)
{
    uint64_t cap = q->cap == 0 ? FIRST_CAP : q->cap;
    while (cap < span) {
        cap *= 2;
    }
    uint8_t *fresh = xcalloc(cap, 1);
    for (uint64_t seq = q->acked + 1; q->flags != NULL && seq <= q->top; seq++) {
        fresh[seq & (cap - 1)] = q->flags[seq & (q->cap - 1)];
    }
    free(q->flags);
    q->flags = fresh;
    q->cap = cap;
}

void seqs_mark(struct seqs *q, uint64_t seq, uint8_t flags)
{
    if (seq <= q->acked) {
        return;
    }
    if (seq - q->acked > q->cap) {
        grow(q, seq - q->acked);
    }
    q->top = seq > q->top ? seq : q->top;
    q->flags[seq & (q->cap - 1)] |= flags;
    const uint8_t both = SEQ_ANSWERED | SEQ_RELEASED;
    while (q->acked < q->top && (q->flags[(q->acked + 1) & (q->cap - 1)] & both) == both) {
        q->acked++;
        q->flags[q->acked & (q->cap - 1)] = 0;
    }
}

uint8_t seqs_flags(const struct seqs *q, uint64_t seq)
{
    if (seq <= q->acked) {
        return SEQ_ANSWERED | SEQ_RELEASED | SEQ_KNOWN;
    }
    return seq > q->top ? 0 : q->flags[seq & (q->cap - 1)];
}
