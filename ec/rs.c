#include "ec/rs.h"

#include <errno.h>
#include <isa-l/erasure_code.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"

/* Encoding is one call into isa-l with tables made once. Decoding needs the inverse of the rows
 * that are there, times the rows that are wanted: a few microseconds for 4+2, much more for wide
 * codes. An erasure pattern comes again and again while a server is down, so its tables are kept.
 */
enum { DECODE_CACHE = 16, TABLE_BYTES = 32 }; /* isa-l expands a coefficient to 32 bytes */

struct decode {
    uint64_t have, want; /* want 0: unused */
    uint64_t used;       /* stamp, for the least recently used */
    unsigned rows;
    uint8_t *tables; /* TABLE_BYTES * k * rows */
};

struct rs {
    unsigned k, m;
    uint64_t stamp;
    uint8_t *matrix; /* (k + m) rows of k coefficients, identity on top */
    uint8_t *tables; /* for the m parity rows */
    struct decode decode[DECODE_CACHE];
};

struct rs *rs_new(unsigned k, unsigned m)
{
    if (k < 1 || k > RS_K_MAX || m > RS_M_MAX) {
        return NULL;
    }
    struct rs *rs = xcalloc(1, sizeof *rs);
    rs->k = k;
    rs->m = m;
    rs->matrix = xcalloc(k + m, k);
    gf_gen_cauchy1_matrix(rs->matrix, (int)(k + m), (int)k);
    rs->tables = xcalloc((size_t)k * m + 1, TABLE_BYTES);
    if (m > 0) {
        ec_init_tables((int)k, (int)m, rs->matrix + (size_t)k * k, rs->tables);
    }
    return rs;
}

void rs_free(struct rs *rs)
{
    if (rs == NULL) {
        return;
    }
    for (unsigned i = 0; i < DECODE_CACHE; i++) {
        free(rs->decode[i].tables);
    }
    free(rs->tables);
    free(rs->matrix);
    free(rs);
}

unsigned rs_k(const struct rs *rs)
{
    return rs->k;
}

unsigned rs_m(const struct rs *rs)
{
    return rs->m;
}

void rs_encode(struct rs *rs, size_t len, const uint8_t *const data[], uint8_t *const parity[])
{
    CHECK(len <= INT32_MAX);
    if (rs->m == 0 || len == 0) {
        return;
    }
    uint8_t *in[RS_K_MAX], *out[RS_M_MAX]; /* isa-l's prototype lacks const; it does not write in */
    for (unsigned i = 0; i < rs->k; i++) {
        in[i] = (uint8_t *)(uintptr_t)data[i];
    }
    for (unsigned i = 0; i < rs->m; i++) {
        out[i] = parity[i];
    }
    ec_encode_data((int)len, (int)rs->k, (int)rs->m, rs->tables, in, out);
}

/* The coefficients that make fragment `row` out of the k fragments whose rows were inverted. */
static void decode_row(const struct rs *rs, const uint8_t *inverse, unsigned row, uint8_t *out)
{
    const unsigned k = rs->k;
    for (unsigned c = 0; c < k; c++) {
        uint8_t sum = 0;
        for (unsigned i = 0; i < k; i++) {
            sum ^= gf_mul(rs->matrix[row * k + i], inverse[i * k + c]);
        }
        out[c] = sum;
    }
}

/* Fills d for its have and want. */
static void decode_prepare(const struct rs *rs, struct decode *d)
{
    const unsigned k = rs->k;
    uint8_t present[RS_K_MAX * RS_K_MAX], inverse[RS_K_MAX * RS_K_MAX];
    uint8_t rows[RS_N_MAX * RS_K_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < k + rs->m && n < k; i++) {
        if (d->have >> i & 1) {
            memcpy(present + n++ * k, rs->matrix + i * k, k);
        }
    }
    /* Every square part of a Cauchy matrix is invertible: a failure is a broken library. */
    CHECK(gf_invert_matrix(present, inverse, (int)k) == 0);
    d->rows = 0;
    for (unsigned i = 0; i < k + rs->m; i++) {
        if (d->want >> i & 1) {
            decode_row(rs, inverse, i, rows + d->rows++ * k);
        }
    }
    free(d->tables);
    d->tables = xmalloc((size_t)TABLE_BYTES * k * d->rows);
    ec_init_tables((int)k, (int)d->rows, rows, d->tables);
}

static struct decode *decode_find(struct rs *rs, uint64_t have, uint64_t want)
{
    struct decode *oldest = &rs->decode[0];
    rs->stamp++;
    for (unsigned i = 0; i < DECODE_CACHE; i++) {
        struct decode *d = &rs->decode[i];
        if (d->want == want && d->have == have) {
            d->used = rs->stamp;
            return d;
        }
        if (d->used < oldest->used) {
            oldest = d;
        }
    }
    oldest->have = have;
    oldest->want = want;
    oldest->used = rs->stamp;
    decode_prepare(rs, oldest);
    return oldest;
}

int rs_decode(struct rs *rs, size_t len, uint64_t have, uint64_t want, uint8_t *const fragment[])
{
    const unsigned n = rs->k + rs->m;
    if ((have | want) >> n != 0 || (have & want) != 0 ||
        (unsigned)__builtin_popcountll(have) < rs->k || len > INT32_MAX) {
        return -EINVAL;
    }
    if (want == 0 || len == 0) {
        return 0;
    }
    uint8_t *in[RS_N_MAX], *out[RS_N_MAX];
    uint64_t used = 0;
    unsigned n_in = 0, n_out = 0;
    for (unsigned i = 0; i < n; i++) {
        if ((have >> i & 1) && n_in < rs->k) {
            in[n_in++] = fragment[i];
            used |= 1ull << i;
        } else if (want >> i & 1) {
            out[n_out++] = fragment[i];
        }
    }
    const struct decode *d = decode_find(rs, used, want);
    ec_encode_data((int)len, (int)rs->k, (int)d->rows, d->tables, in, out);
    return 0;
}
