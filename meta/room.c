#include "meta/room.h"

enum { BALLAST_MAX = 64 << 20, STATE_LEAST = 2 << 20 };
static const char BALLAST[] = "ballast";

/* Sets how many blocks the file has. Best effort: without them the server only stops earlier. */
static bool ballast_set(struct room *r, uint64_t bytes)
{
    struct disk_file *f = NULL;
    int rc = r->disk->ops->open(r->disk, BALLAST, DISK_CREATE, &f);
    if (rc != 0) {
        return false;
    }
    rc = f->ops->truncate(f, bytes);
    if (rc == 0 && bytes > 0) {
        rc = f->ops->allocate(f, 0, bytes);
    }
    if (rc != 0) {
        (void)f->ops->truncate(f, 0); /* what it got is not kept either */
    }
    f->ops->file_close(f);
    return rc == 0;
}

static uint64_t ballast_bytes(struct room *r)
{
    struct disk_file *f = NULL;
    uint64_t size = 0, allocated = 0;
    if (r->disk->ops->open(r->disk, BALLAST, 0, &f) != 0) {
        return 0;
    }
    if (f->ops->size(f, &size, &allocated) != 0) {
        allocated = 0;
    }
    f->ops->file_close(f);
    return allocated;
}

void room_init(struct room *r, struct disk *disk, uint64_t reserve_bytes)
{
    struct disk_space space;
    *r = (struct room){.disk = disk, .reserve_bytes = reserve_bytes};
    r->bytes = reserve_bytes / 2 < BALLAST_MAX ? reserve_bytes / 2 : BALLAST_MAX;
    r->bytes -= r->bytes % DISK_ALIGN;
    r->held = ballast_bytes(r) > 0;
    if (disk->ops->space(disk, &space) == 0) {
        (void)room_look(r, space.free_bytes);
    }
}

bool room_look(struct room *r, uint64_t free_bytes)
{
    if (r->held && free_bytes < r->bytes / 2) {
        r->held = !ballast_set(r, 0);
        return !r->held;
    }
    if (!r->held && r->bytes > 0 && free_bytes > r->reserve_bytes + 2 * r->bytes) {
        r->held = ballast_set(r, r->bytes);
        return r->held;
    }
    return false;
}

bool room_for_state(struct room *r)
{
    struct disk_space space;
    const bool full = r->disk->ops->space(r->disk, &space) == 0 && space.free_bytes < STATE_LEAST;
    atomic_store(&r->full, full);
    return !full;
}
