#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/prng.h"
#include "ec/rs.h"

/* The reference shares nothing with ec/rs.c: a carry-less multiply with 0x11d, an inverse found by
 * trying, and Gaussian elimination on a system whose Cauchy rows are written down from the
 * definition. */
static uint8_t mul(uint8_t a, uint8_t b)
{
    unsigned product = 0, x = a;
    for (; b != 0; b >>= 1, x <<= 1) {
        if (x & 0x100) {
            x ^= 0x11d;
        }
        if (b & 1) {
            product ^= x;
        }
    }
    return (uint8_t)product;
}

static uint8_t inverse_of(uint8_t a)
{
    for (unsigned b = 1; b < 256; b++) {
        if (mul(a, (uint8_t)b) == 1) {
            return (uint8_t)b;
        }
    }
    ck_abort_msg("zero has no inverse");
    return 0;
}

static uint8_t INVERSE[256], MUL[256][256];

static void make_tables(void)
{
    for (unsigned a = 0; a < 256; a++) {
        INVERSE[a] = a == 0 ? 0 : inverse_of((uint8_t)a);
        for (unsigned b = 0; b < 256; b++) {
            MUL[a][b] = mul((uint8_t)a, (uint8_t)b);
        }
    }
}

static uint8_t coefficient(unsigned k, unsigned row, unsigned column)
{
    return row < k ? row == column : INVERSE[row ^ column];
}

/* Solves for the k data bytes from the k fragments named in rows[]. */
static void solve(unsigned k, const unsigned rows[], const uint8_t value[], uint8_t data[])
{
    uint8_t a[RS_K_MAX][RS_K_MAX + 1];
    for (unsigned r = 0; r < k; r++) {
        for (unsigned c = 0; c < k; c++) {
            a[r][c] = coefficient(k, rows[r], c);
        }
        a[r][k] = value[r];
    }
    for (unsigned c = 0; c < k; c++) {
        unsigned p = c;
        while (a[p][c] == 0) {
            p++;
            ck_assert_uint_lt(p, k);
        }
        uint8_t line[RS_K_MAX + 1];
        memcpy(line, a[p], sizeof line);
        memcpy(a[p], a[c], sizeof line);
        for (unsigned i = 0; i <= k; i++) {
            a[c][i] = MUL[line[i]][INVERSE[line[c]]];
        }
        for (unsigned r = 0; r < k; r++) {
            const uint8_t factor = a[r][c];
            for (unsigned i = 0; r != c && i <= k; i++) {
                a[r][i] ^= MUL[factor][a[c][i]];
            }
        }
    }
    for (unsigned r = 0; r < k; r++) {
        data[r] = a[r][k];
    }
}

enum { LONGEST = 8192 };
static uint8_t fragment[RS_N_MAX][LONGEST], rebuilt[RS_N_MAX][LONGEST];

static void fill(struct prng *p, unsigned k, size_t len)
{
    for (unsigned i = 0; i < k; i++) {
        for (size_t at = 0; at < len; at++) {
            fragment[i][at] = (uint8_t)prng_u64(p);
        }
    }
}

static void encode(struct rs *rs, size_t len)
{
    const uint8_t *data[RS_K_MAX];
    uint8_t *parity[RS_M_MAX];
    for (unsigned i = 0; i < rs_k(rs); i++) {
        data[i] = fragment[i];
    }
    for (unsigned i = 0; i < rs_m(rs); i++) {
        parity[i] = fragment[rs_k(rs) + i];
    }
    rs_encode(rs, len, data, parity);
}

static void check_encoding(struct rs *rs, size_t len)
{
    const unsigned k = rs_k(rs);
    for (unsigned row = k; row < k + rs_m(rs); row++) {
        for (size_t at = 0; at < len; at++) {
            uint8_t sum = 0;
            for (unsigned i = 0; i < k; i++) {
                sum ^= MUL[coefficient(k, row, i)][fragment[i][at]];
            }
            ck_assert_uint_eq(sum, fragment[row][at]);
        }
    }
}

/* Loses `lost`, rebuilds it from the rest, compares with the truth and, at some bytes, with the
 * reference. */
static void check_erasure(struct rs *rs, uint64_t lost, size_t from, size_t len)
{
    const unsigned k = rs_k(rs), n = k + rs_m(rs);
    uint8_t *at[RS_N_MAX];
    unsigned rows[RS_K_MAX], n_rows = 0;
    for (unsigned i = 0; i < n; i++) {
        const bool gone = lost >> i & 1;
        memset(rebuilt[i], 0xaa, from + len + 1);
        at[i] = gone ? rebuilt[i] + from : fragment[i] + from;
        if (!gone && n_rows < k) {
            rows[n_rows++] = i;
        }
    }
    const uint64_t have = ((n == 64 ? 0 : 1ull << n) - 1) & ~lost;
    ck_assert_int_eq(rs_decode(rs, len, have, lost, at), 0);
    for (unsigned i = 0; i < n; i++) {
        if (lost >> i & 1) {
            ck_assert_mem_eq(rebuilt[i] + from, fragment[i] + from, len);
            ck_assert_uint_eq(rebuilt[i][from + len], 0xaa);
        }
    }
    uint8_t value[RS_K_MAX], data[RS_K_MAX];
    for (unsigned r = 0; r < k; r++) {
        value[r] = fragment[rows[r]][from + len - 1];
    }
    solve(k, rows, value, data);
    for (unsigned i = 0; i < k; i++) {
        ck_assert_uint_eq(data[i], fragment[i][from + len - 1]);
    }
}

static void check_code(unsigned k, unsigned m, size_t len)
{
    struct prng p;
    prng_seed(&p, k * 100 + m);
    struct rs *rs = rs_new(k, m);
    ck_assert_ptr_nonnull(rs);
    fill(&p, k, len);
    encode(rs, len);
    check_encoding(rs, len);
    for (uint64_t lost = 1; lost < 1ull << (k + m); lost++) {
        if ((unsigned)__builtin_popcountll(lost) <= m) {
            check_erasure(rs, lost, 0, len);
        }
    }
    rs_free(rs);
}

START_TEST(every_erasure_pattern_of_small_codes_is_rebuilt)
{
    for (unsigned k = 1; k <= 6; k++) {
        for (unsigned m = 0; m <= 3; m++) {
            check_code(k, m, 130);
        }
    }
}
END_TEST

START_TEST(wider_codes_survive_every_loss_of_m)
{
    check_code(8, 4, 70);
    check_code(10, 4, 33);
    check_code(12, 3, 64);
}
END_TEST

START_TEST(the_widest_code_survives_random_losses)
{
    struct prng p;
    prng_seed(&p, 7);
    struct rs *rs = rs_new(RS_K_MAX, RS_M_MAX);
    fill(&p, RS_K_MAX, 100);
    encode(rs, 100);
    check_encoding(rs, 100);
    for (unsigned round = 0; round < 200; round++) {
        uint64_t lost = 0;
        while (__builtin_popcountll(lost) < RS_M_MAX) {
            lost |= 1ull << prng_below(&p, RS_N_MAX);
        }
        check_erasure(rs, lost, 0, 100);
    }
    rs_free(rs);
}
END_TEST

START_TEST(any_length_and_alignment_works)
{
    static const size_t lengths[] = {1,  2,  15,  16,   31,   32,   33,  63,
                                     64, 65, 127, 1000, 4095, 4096, 8000};
    struct prng p;
    prng_seed(&p, 3);
    struct rs *rs = rs_new(4, 2);
    for (unsigned i = 0; i < array_count(lengths); i++) {
        fill(&p, 4, lengths[i]);
        encode(rs, lengths[i]);
        check_encoding(rs, lengths[i]);
        check_erasure(rs, 0x21, 0, lengths[i]);
        check_erasure(rs, 0x03, 0, lengths[i]);
    }
    rs_free(rs);
}
END_TEST

START_TEST(a_part_of_the_fragments_is_decoded_like_the_whole)
{
    struct prng p;
    prng_seed(&p, 4);
    struct rs *rs = rs_new(5, 3);
    fill(&p, 5, 6000);
    encode(rs, 6000);
    check_erasure(rs, 0x0b, 4096, 1000);
    check_erasure(rs, 0xe0, 1, 17);
    check_erasure(rs, 0x49, 5999, 1);
    rs_free(rs);
}
END_TEST

/* More patterns than the cache of decode tables holds, twice over: evicted ones are made again. */
START_TEST(decode_tables_are_made_again_after_eviction)
{
    struct prng p;
    prng_seed(&p, 5);
    struct rs *rs = rs_new(6, 3);
    fill(&p, 6, 64);
    encode(rs, 64);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 9; i++) {
            for (unsigned j = 0; j < i; j++) {
                check_erasure(rs, 1ull << i | 1ull << j, 0, 64);
            }
        }
    }
    rs_free(rs);
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    ck_assert_ptr_null(rs_new(0, 2));
    ck_assert_ptr_null(rs_new(RS_K_MAX + 1, 2));
    ck_assert_ptr_null(rs_new(4, RS_M_MAX + 1));
    struct rs *rs = rs_new(4, 2);
    uint8_t *at[RS_N_MAX] = {0};
    ck_assert_int_lt(rs_decode(rs, 10, 0x07, 0x08, at), 0);
    ck_assert_int_lt(rs_decode(rs, 10, 0x1f, 0x10, at), 0);
    ck_assert_int_lt(rs_decode(rs, 10, 0x0f, 0x40, at), 0);
    ck_assert_int_eq(rs_decode(rs, 10, 0x0f, 0, at), 0);
    rs_free(rs);
    rs_free(NULL);
}
END_TEST

int main(void)
{
    make_tables();
    Suite *s = suite_create("rs");
    TCase *t = tcase_create("rs");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_erasure_pattern_of_small_codes_is_rebuilt);
    tcase_add_test(t, wider_codes_survive_every_loss_of_m);
    tcase_add_test(t, the_widest_code_survives_random_losses);
    tcase_add_test(t, any_length_and_alignment_works);
    tcase_add_test(t, a_part_of_the_fragments_is_decoded_like_the_whole);
    tcase_add_test(t, decode_tables_are_made_again_after_eviction);
    tcase_add_test(t, bad_arguments_are_refused);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
