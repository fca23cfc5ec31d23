#ifndef CFS_RPC_SEQS_H
#define CFS_RPC_SEQS_H

#include <stdbool.h>
#include <stdint.h>

/* Which command numbers are acknowledged: all up to the highest below which every number is both
 * answered by the server and released by its owner, in any order of the two. A ring of flags from
 * there up. */
enum { SEQ_ANSWERED = 1, SEQ_RELEASED = 2, SEQ_KNOWN = 4 };
struct seqs {
    uint64_t acked; /* everything up to here */
    uint64_t top;   /* the highest number marked so far */
    uint8_t *flags; /* of acked + 1 ..., at number & (cap - 1) */
    uint64_t cap;
};
void seqs_init(struct seqs *q, uint64_t acked);
void seqs_release(struct seqs *q);
/* Adds flags to a number; acked moves as far as it can. Numbers at or below acked are left alone.
 */
void seqs_mark(struct seqs *q, uint64_t seq, uint8_t flags);
uint8_t seqs_flags(const struct seqs *q, uint64_t seq); /* all of them at or below acked */

#endif
