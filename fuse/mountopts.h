#ifndef CFS_FUSE_MOUNTOPTS_H
#define CFS_FUSE_MOUNTOPTS_H

#include <stdbool.h>
#include <stdint.h>

/* What a mount is asked for, as mount(8) passes it:  mount.cfs SPEC MNT [-sfnv] [-o OPTIONS]  (-f: stay in the foreground).
 * SPEC is HOST:PORT[,HOST:PORT...]:/SUBDIR. Options: ro rw hard deadline=SECONDS memory=BYTES[K|M|G] run_dir=DIR log=FILE
 * and the flags that every mount knows; what only mount(8) or fstab care about is accepted and means nothing here. */
enum {
    MOUNTOPTS_PATH_MAX = 4096,
    MOUNTOPTS_TEXT_MAX = 512,
    MOUNTOPTS_MEMORY = 512 << 20,
    MOUNTOPTS_DEADLINE_MAX_S = 86400
};
struct mountopts {
    char source[2048];      /* SPEC as given */
    char addresses[1024];   /* HOST:PORT[,HOST:PORT...] */
    char path[MOUNTOPTS_PATH_MAX];
    char mount_point[MOUNTOPTS_PATH_MAX];
    char run_dir[MOUNTOPTS_PATH_MAX]; /* "" unless given */
    char log[MOUNTOPTS_PATH_MAX];     /* "" unless given */
    unsigned long flags;    /* MS_* */
    uint64_t memory_bytes;
    uint32_t deadline_ms;   /* 0: hard */
    bool foreground, verbose, noatime, fake;
};
/* 0; or -EINVAL with one line for people in `why` (MOUNTOPTS_TEXT_MAX bytes). Pure: looks at no file. */
int mountopts_parse(int argc, char *const *argv, struct mountopts *out, char *why);

#endif
