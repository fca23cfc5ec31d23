#ifndef CFS_EC_RS_H
#define CFS_EC_RS_H

#include <stddef.h>
#include <stdint.h>

/* Systematic Reed-Solomon over GF(2^8) (polynomial 0x11d) with Cauchy matrices:
 * isa-l's gf_gen_cauchy1_matrix, of which every k x k submatrix is invertible.
 * Fragment i < k is data, k <= i < k+m is parity. All fragments of a call have one
 * length, any number of bytes at any alignment. Never allocates in encode.
 * An rs belongs to one thread. */
enum { RS_K_MAX = 32, RS_M_MAX = 8, RS_N_MAX = RS_K_MAX + RS_M_MAX };

struct rs;

/* 1 <= k <= RS_K_MAX, 0 <= m <= RS_M_MAX; else NULL. */
struct rs *rs_new(unsigned k, unsigned m);
void rs_free(struct rs *rs);
unsigned rs_k(const struct rs *rs);
unsigned rs_m(const struct rs *rs);

/* parity[0..m) = code of data[0..k), len bytes each. */
void rs_encode(struct rs *rs, size_t len, const uint8_t *const data[], uint8_t *const parity[]);

/* Rebuilds the fragments in `want` (bit i = fragment i) from those in `have`.
 * fragment[i] is read for k of the bits of `have` (the lowest ones), and written
 * for each bit of `want`; bits in both are an error. A part of the fragments
 * works as well as the whole: pass pointers to equal ranges of all. Decode
 * tables are cached per (have, want), the least recently used goes.
 * -EINVAL: fewer than k in have, or bad bits. */
int rs_decode(struct rs *rs, size_t len, uint64_t have, uint64_t want, uint8_t *const fragment[]);

#endif
