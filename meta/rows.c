#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "meta/fsm_state.h"

int fsm_note(struct fsm *f, int rc)
{
    if (rc < 0 && rc != ERR_NOT_FOUND && f->failed == 0) {
        f->failed = rc;
    }
    return rc;
}

int rows_get(struct fsm *f, const struct key *k, struct buf *out)
{
    buf_clear(out);
    return fsm_note(f, overlay_get(f->overlay, key_bytes(k), out));
}

void rows_put(struct fsm *f, const struct key *k, struct bytes value)
{
    overlay_put(f->overlay, key_bytes(k), value);
}

void rows_delete(struct fsm *f, const struct key *k)
{
    overlay_delete(f->overlay, key_bytes(k));
}

void rows_put_reap(struct fsm *f, const struct key *k, struct bytes value)
{
    if (bytes_compare(key_bytes(k), key_bytes(&f->reap_from)) < 0) {
        f->reap_from = *k;
    }
    rows_put(f, k, value);
}

void rows_put_mark(struct fsm *f, const struct key *k)
{
    const uint8_t version = VALUE_VERSION;
    rows_put(f, k, BYTES(&version, 1));
}

/* ---- volumes ------------------------------------------------------------------- */

static void volume_key(struct key *k, volume_id id)
{
    key_start(k, SPACE_VOLUME, 'v');
    key_add_u64(k, id);
}

static void counters_put(struct fsm *f)
{
    struct key k;
    key_start(&k, SPACE_SYSTEM, 'n');
    buf_clear(&f->scratch);
    buf_u8(&f->scratch, VALUE_VERSION);
    for (int i = 0; i < COUNT_N; i++) {
        buf_le64(&f->scratch, f->counters.v[i]);
    }
    rows_put(f, &k, buf_bytes(&f->scratch));
}

void rows_flush(struct fsm *f)
{
    if (f->volume_dirty) {
        struct key k;
        volume_key(&k, f->volume.id);
        buf_clear(&f->scratch);
        volume_encode(&f->scratch, &f->volume);
        rows_put(f, &k, buf_bytes(&f->scratch));
        f->volume_dirty = false;
    }
    if (f->counters_dirty) {
        counters_put(f);
        f->counters_dirty = false;
    }
}

int rows_volume(struct fsm *f, volume_id id, struct volume **out)
{
    if (f->volume.id != id || id == 0) {
        rows_flush(f);
        struct key k;
        volume_key(&k, id);
        int rc = rows_get(f, &k, &f->value);
        struct volume v = {.id = id};
        if (rc == 0) {
            rc = fsm_note(f, volume_decode(buf_bytes(&f->value), &v));
        }
        if (rc < 0) {
            return rc == ERR_NOT_FOUND ? -ENOENT : rc;
        }
        f->volume = v;
    }
    *out = &f->volume;
    return 0;
}

int rows_volume_of(struct fsm *f, ino_id ino, volume_id *out)
{
    uint64_t block = ino / INO_BLOCK;
    size_t slot = block % FSM_BLOCK_CACHE;
    if (f->blocks[slot].volume != 0 && f->blocks[slot].block == block) {
        *out = f->blocks[slot].volume;
        return 0;
    }
    struct key k;
    key_start(&k, SPACE_VOLUME, 'b');
    key_add_u64(&k, block);
    int rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? -ENOENT : rc;
    }
    if (f->value.len != 9 || f->value.data[0] != VALUE_VERSION) {
        return fsm_note(f, ERR_CORRUPT);
    }
    *out = get_le64(f->value.data + 1);
    f->blocks[slot].block = block;
    f->blocks[slot].volume = *out;
    return 0;
}

/* ---- namespace rows and their history -------------------------------------------- */

uint64_t rows_born(struct fsm *f, volume_id volume)
{
    struct volume *v;
    return rows_volume(f, volume, &v) == 0 ? v->snapshot : 0;
}

int rows_change(struct fsm *f, volume_id volume, const struct key *k, struct bytes value,
                bool *ret_kept)
{
    struct volume *v;
    int rc = rows_volume(f, volume, &v);
    if (rc < 0) {
        return rc;
    }
    bool kept = false;
    /* Under the first number nothing can be older: the usual case costs no get. */
    if (v->snapshot > 1) {
        struct buf old;
        buf_init(&old);
        uint64_t born = v->snapshot;
        rc = rows_get(f, k, &old);
        if (rc == 0) {
            rc = fsm_note(f, value_birth(buf_bytes(&old), &born));
        }
        if (rc == 0 && born < v->snapshot) {
            struct key h;
            key_history(&h, key_bytes(k), v->snapshot - 1);
            rows_put(f, &h, buf_bytes(&old));
            kept = true;
        }
        buf_release(&old);
        if (rc < 0 && rc != ERR_NOT_FOUND) {
            return rc;
        }
    }
    if (value.data == NULL) {
        rows_delete(f, k);
    } else {
        rows_put(f, k, value);
    }
    if (ret_kept != NULL) {
        *ret_kept = kept;
    }
    return 0;
}

int rows_get_at(struct fsm *f, const struct key *k, uint64_t snapshot, struct buf *out)
{
    struct key prefix, from;
    key_history(&prefix, key_bytes(k), 0);
    prefix.len -= 8;
    key_history(&from, key_bytes(k), snapshot);
    struct overlay_scan s;
    overlay_scan_init(&s, f->overlay, key_bytes(&prefix), key_bytes(&from));
    buf_clear(out);
    int rc = ERR_NOT_FOUND;
    /* A longer key with this prefix belongs to another row (a name that goes on). */
    while (s.valid && s.key.len != from.len) {
        overlay_scan_next(&s);
    }
    if (s.valid) {
        buf_add(out, s.value.data, s.value.len);
        rc = 0;
    } else {
        rc = s.error < 0 ? fsm_note(f, s.error)
                         : fsm_note(f, overlay_get(f->overlay, key_bytes(k), out));
    }
    overlay_scan_release(&s);
    uint64_t born = 0;
    if (rc == 0) {
        rc = fsm_note(f, value_birth(buf_bytes(out), &born));
    }
    return rc == 0 && born > snapshot ? ERR_NOT_FOUND : rc;
}

/* ---- inodes ------------------------------------------------------------------------ */

static void inode_key(struct key *k, volume_id volume, ino_id ino)
{
    key_start_ns(k, volume, TABLE_INODE);
    key_add_u64(k, ino);
}

int rows_inode(struct fsm *f, ino_id ino, struct inode *out)
{
    volume_id volume;
    int rc = rows_volume_of(f, ino, &volume);
    if (rc < 0) {
        return rc;
    }
    struct key k;
    inode_key(&k, volume, ino);
    rc = rows_get(f, &k, &f->value);
    if (rc < 0) {
        return rc == ERR_NOT_FOUND ? -ENOENT : rc;
    }
    out->ino = ino;
    out->volume = volume;
    return fsm_note(f, inode_decode(buf_bytes(&f->value), out));
}

int rows_inode_save(struct fsm *f, const struct inode *i)
{
    struct key k;
    inode_key(&k, i->volume, i->ino);
    uint64_t born = rows_born(f, i->volume);
    buf_clear(&f->scratch);
    inode_encode(&f->scratch, i, born);
    return rows_change(f, i->volume, &k, buf_bytes(&f->scratch), NULL);
}

static int take_block(struct fsm *f, struct volume *v)
{
    uint64_t block = (*fsm_counter(f, COUNT_NEXT_BLOCK))++;
    struct key k;
    key_start(&k, SPACE_VOLUME, 'b');
    key_add_u64(&k, block);
    uint8_t value[9] = {VALUE_VERSION};
    put_le64(value + 1, v->id);
    rows_put(f, &k, BYTES(value, sizeof value));
    v->next_ino = block * INO_BLOCK;
    v->block_end = v->next_ino + INO_BLOCK;
    return 0;
}

int rows_inode_new(struct fsm *f, volume_id volume, struct inode *out)
{
    struct volume *v;
    int rc = rows_volume(f, volume, &v);
    if (rc < 0) {
        return rc;
    }
    if (v->next_ino == v->block_end) {
        rc = take_block(f, v);
        if (rc < 0) {
            return rc;
        }
    }
    *out = (struct inode){.ino = v->next_ino++, .volume = volume, .change = 1};
    out->atime = out->mtime = out->ctime = out->btime = f->now;
    v->inodes++;
    f->volume_dirty = true;
    return 0;
}

int rows_inode_delete(struct fsm *f, const struct inode *i)
{
    struct volume *v;
    int rc = rows_volume(f, i->volume, &v);
    if (rc < 0) {
        return rc;
    }
    v->inodes--;
    f->volume_dirty = true;
    struct key k;
    inode_key(&k, i->volume, i->ino);
    return rows_remove(f, i->volume, &k, NULL);
}

void rows_touch(struct fsm *f, struct inode *i)
{
    if (f->now > i->ctime) {
        i->ctime = f->now;
    }
    i->change++;
}

int rows_account(struct fsm *f, struct inode *i, int64_t bytes)
{
    struct volume *v;
    int rc = rows_volume(f, i->volume, &v);
    if (rc < 0) {
        return rc;
    }
    i->allocated += (uint64_t)bytes;
    v->bytes += (uint64_t)bytes;
    f->volume_dirty = true;
    return 0;
}

int rows_each(struct fsm *f, const struct key *prefix,
              int (*visit)(struct fsm *f, struct bytes key, struct bytes value, void *ctx),
              void *ctx)
{
    struct overlay_scan s;
    overlay_scan_init(&s, f->overlay, key_bytes(prefix), BYTES(NULL, 0));
    int rc = 0;
    while (s.valid && rc == 0) {
        rc = visit(f, s.key, s.value, ctx);
        if (rc == 0) {
            overlay_scan_next(&s);
        }
    }
    if (rc == 0) {
        rc = fsm_note(f, s.error);
    }
    overlay_scan_release(&s);
    return rc < 0 ? rc : 0;
}
