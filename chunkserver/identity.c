#include "chunkserver/identity.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/crc.h"
#include "base/err.h"
#include "base/prng.h"

static const char FIRST_LINE[] = "cfs-disk 1\n";
static const char NAME[] = "identity";
static const char FRESH_NAME[] = "identity.new";
enum { HEX = 2 * IDENTITY_BYTES };

static void add_line(struct buf *out, const char *what, const uint8_t *value)
{
    buf_printf(out, "%s ", what);
    for (unsigned i = 0; value != NULL && i < IDENTITY_BYTES; i++) {
        buf_printf(out, "%02x", value[i]);
    }
    buf_printf(out, value == NULL ? "-\n" : "\n");
}

void identity_encode(const struct identity *id, struct buf *out)
{
    size_t start = out->len;
    buf_add(out, FIRST_LINE, strlen(FIRST_LINE));
    add_line(out, "server", id->server);
    add_line(out, "cluster", id->has_cluster ? id->cluster : NULL);
    add_line(out, "disk", id->disk);
    buf_printf(out, "crc %08x\n", crc32c(0, out->data + start, out->len - start));
}

static bool take_text(struct cursor *c, const char *text)
{
    struct bytes b = cursor_take(c, strlen(text));
    return !c->bad && memcmp(b.data, text, b.len) == 0;
}

static int hex_digit(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool take_hex(struct cursor *c, uint8_t *out, size_t n)
{
    struct bytes b = cursor_take(c, 2 * n);
    for (size_t i = 0; !c->bad && i < n; i++) {
        int high = hex_digit(b.data[2 * i]), low = hex_digit(b.data[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
    return !c->bad;
}

static bool take_cluster(struct cursor *c, struct identity *id)
{
    struct cursor none = *c;
    if (take_text(&none, "-")) {
        *c = none;
        return true;
    }
    id->has_cluster = true;
    return take_hex(c, id->cluster, IDENTITY_BYTES);
}

int identity_decode(struct bytes text, struct identity *out)
{
    struct cursor c = cursor_of(text);
    struct identity id = {.has_cluster = false};
    uint8_t crc[4];
    if (!take_text(&c, "cfs-disk ")) {
        return ERR_CORRUPT;
    }
    if (!take_text(&c, "1\n")) {
        return c.bad ? ERR_CORRUPT : ERR_VERSION;
    }
    bool ok = take_text(&c, "server ") && take_hex(&c, id.server, IDENTITY_BYTES) &&
              take_text(&c, "\ncluster ") && take_cluster(&c, &id) && take_text(&c, "\ndisk ") &&
              take_hex(&c, id.disk, IDENTITY_BYTES) && take_text(&c, "\n");
    size_t covered = text.len - cursor_left(&c);
    ok = ok && take_text(&c, "crc ") && take_hex(&c, crc, sizeof crc) && take_text(&c, "\n");
    if (!ok || cursor_left(&c) != 0 || get_be32(crc) != crc32c(0, text.data, covered)) {
        return ERR_CORRUPT;
    }
    *out = id;
    return 0;
}

int identity_read(struct disk *d, struct identity *out)
{
    struct disk_file *f = NULL;
    uint8_t text[IDENTITY_TEXT_MAX];
    uint64_t size = 0, allocated = 0;
    int rc = d->ops->open(d, NAME, DISK_READ_ONLY, &f);
    if (rc != 0) {
        return rc == -ENOENT ? ERR_NOT_FOUND : rc;
    }
    rc = f->ops->size(f, &size, &allocated);
    rc = rc == 0 && size > sizeof text ? ERR_CORRUPT : rc;
    rc = rc != 0 ? rc : f->ops->read(f, text, (size_t)size, 0);
    f->ops->file_close(f);
    return rc != 0 ? rc : identity_decode(BYTES(text, size), out);
}

int identity_write(struct disk *d, const struct identity *id)
{
    struct disk_file *f = NULL;
    struct buf text;
    buf_init(&text);
    identity_encode(id, &text);
    struct iovec iov = {text.data, text.len};
    int rc = d->ops->open(d, FRESH_NAME, DISK_CREATE, &f);
    if (rc == 0) {
        rc = f->ops->truncate(f, 0);
        rc = rc != 0 ? rc : f->ops->write(f, &iov, 1, 0);
        rc = rc != 0 ? rc : f->ops->sync(f);
        f->ops->file_close(f);
    }
    rc = rc != 0 ? rc : d->ops->rename(d, FRESH_NAME, NAME);
    rc = rc != 0 ? rc : d->ops->sync_dir(d, ".");
    buf_release(&text);
    return rc;
}

void identity_random(uint8_t out[IDENTITY_BYTES])
{
    put_le64(out, prng_random_u64());
    put_le64(out + 8, prng_random_u64());
}
