#include "base/crc.h"

#include <isa-l/crc.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    /* isa-l works on the raw register, before the final inversion; it takes an int length. */
    const unsigned char *at = data;
    uint32_t raw = ~crc;
    while (len > 0) {
        int n = len > (1u << 30) ? 1 << 30 : (int)len;
        raw = crc32_iscsi((unsigned char *)(uintptr_t)at, n, raw);
        at += n;
        len -= (size_t)n;
    }
    return ~raw;
}
