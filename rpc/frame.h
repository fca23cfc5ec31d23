#ifndef CFS_RPC_FRAME_H
#define CFS_RPC_FRAME_H

#include <stdint.h>

/* The one framing of all internal RPC (docs/protocol.md, "Frames"). A frame is a
 * fixed header, a protobuf body, then raw payload bytes. All integers little-endian.
 *
 *   0  u32  magic "CFS1"
 *   4  u8   version, 1
 *   5  u8   kind (enum frame_kind)
 *   6  u16  method (proto/methods.h)
 *   8  u64  id: of the call, chosen by the caller, unique in its connection; 0 for events
 *  16  u32  body bytes      <= FRAME_BODY_MAX
 *  20  u32  payload bytes   <= FRAME_PAYLOAD_MAX
 *  24  i32  status: in replies 0 or a wire status (proto/status.h); 0 elsewhere
 *  28  u32  deadline: in requests the milliseconds that the caller will still wait, 0 = none
 *  32  u32  CRC32C of the body (payload carries its own checksums where it matters)
 *  36  u32  CRC32C of bytes 0..35
 */
enum {
    FRAME_HEADER_BYTES = 40,
    FRAME_VERSION = 1,
    FRAME_BODY_MAX = 4 << 20,
    FRAME_PAYLOAD_MAX = (1 << 20) + 4096
};
#define FRAME_MAGIC 0x31534643u /* "CFS1" */

enum frame_kind { FRAME_REQUEST = 1, FRAME_REPLY = 2, FRAME_CANCEL = 3, FRAME_EVENT = 4 };

struct frame {
    uint8_t kind;
    uint16_t method;
    uint64_t id;
    uint32_t body_len;
    uint32_t payload_len;
    int32_t status;
    uint32_t deadline_ms;
    uint32_t body_crc;
};

/* Why a frame is refused; each is counted and shown by `cfs status`. */
enum frame_fault {
    FRAME_OK,
    FRAME_BAD_MAGIC,
    FRAME_BAD_VERSION,
    FRAME_BAD_HEADER_CRC,
    FRAME_BAD_KIND,
    FRAME_BODY_TOO_LONG,
    FRAME_PAYLOAD_TOO_LONG,
    FRAME_BAD_BODY_CRC,
    FRAME_BAD_BODY,     /* the protobuf does not decode */
    FRAME_BAD_SEQUENCE, /* a reply to nothing, a request before hello ... */
    FRAME_TRUNCATED,    /* the connection ended inside a frame */
    FRAME_SILENT,       /* connected, and never said a whole frame */
    FRAME_FAULTS
};
const char *frame_fault_name(enum frame_fault fault); /* "bad-magic" ... */

void frame_encode(uint8_t out[FRAME_HEADER_BYTES], const struct frame *f);
/* *f is written only on FRAME_OK. */
enum frame_fault frame_decode(const uint8_t in[FRAME_HEADER_BYTES], struct frame *f);

#endif
