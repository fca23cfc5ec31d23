#ifndef CFS_BASE_CRC_H
#define CFS_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* CRC32C (Castagnoli, RFC 3720 appendix B.4): crc32c("123456789") = 0xe3069283.
 * `crc` is 0 for a first piece, or the result for the bytes before. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
