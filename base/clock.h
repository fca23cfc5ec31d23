#ifndef CFS_BASE_CLOCK_H
#define CFS_BASE_CLOCK_H

#include <stdint.h>

/* Only shells read a clock; cores are given now_ms. */
uint64_t clock_now_ms(void);  /* CLOCK_BOOTTIME, milliseconds: for deadlines and leases */
uint64_t clock_now_us(void);  /* the same in microseconds: for measurements */
uint64_t clock_wall_ns(void); /* CLOCK_REALTIME, nanoseconds: for time stamps */

#endif
