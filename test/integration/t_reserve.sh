#!/usr/bin/env bash
# time: 240 600
# Preallocated space is kept for its file: what cannot fit is refused at once, and what was promised can be written in a pool that
# other files have filled.
. "$(dirname "$0")/lib.sh"
need fallocate fio
need_cluster 'preallocated space'
cluster_up --size 1G
mib() { df --output=avail -B1M "$MNT" | tail -n 1; }
settled() { local a; a=$(mib); sleep 2; [ "$(mib)" = "$a" ]; }
about() { [ "$1" -ge $(($2 - $3)) ] && [ "$1" -le $(($2 + $3)) ]; }
sync_file() { python3 -c 'import os,sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))' "$1"; }
until_true 30 settled
whole=$(mib)
# A byte may cost 9/8 * (m+1) raw ones, df counts (k+m)/k of them: of what df shows 4/9 can be promised, less what segments hold.
refused 'more than the pool has' 'No space left' fallocate -l "$((whole + 100))M" "$MNT/beyond"
refused 'and a length beyond all reason' 'No space left|too large' fallocate -l 4E "$MNT/beyond"
same 'nothing of it is reserved' "$(stat -c '%s %b' "$MNT/beyond")" '0 0'
a=$((whole / 4))
started_ms=$(now_ms)
check 'a quarter of the pool' fallocate -l "${a}M" "$MNT/a"
same 'stat shows it' "$(stat -c '%s %b' "$MNT/a")" "$((a << 20)) $((a << 11))"
refused 'a second one that does not fit beside it' 'No space left' fallocate -l "${a}M" "$MNT/b"
at_most 'both are answered at once, in ms' $(($(now_ms) - started_ms)) 2000
same 'cfs status tells of it' "$(status "s['reserved_bytes']")" "$((a << 20))"
less=$((a * 9 / 4)) # 27/8 raw, seen through 6/4
check 'df shows it' about $((whole - $(mib))) "$less" 150
check 'preallocating the same again costs nothing' fallocate -l "${a}M" "$MNT/a"
rm "$MNT/a" "$MNT/b"
check 'after unlink the space is back' about "$(mib)" "$whole" 20
check 'so another file can have it' fallocate -l "${a}M" "$MNT/b"
check 'and give it back' truncate -s 0 "$MNT/b"
# A small file keeps its content; what is behind it is reserved.
printf hello >"$MNT/small" && sync_file "$MNT/small"
check 'a small file' fallocate -l 8M "$MNT/small"
same 'stat shows that, too' "$(stat -c '%s %b' "$MNT/small")" "$((8 << 20)) $((8 << 11))"
same 'and its content is there' "$(head -c 5 "$MNT/small")" hello
# Behind the end of the file: the size stays.
: >"$MNT/keep"
check 'room behind the end' fallocate --keep-size -o 1M -l 8M "$MNT/keep"
same 'does not change the size' "$(stat -c '%s %b' "$MNT/keep")" "0 $((8 << 11))"
# The pool is filled by another file, at last in small pieces; then everything that was promised is written.
check 'a file for a database' fallocate -l 48M "$MNT/db"
check 'and one for a stream' fallocate -l 48M "$MNT/stream"
cat >"$WORK/fill.py" <<'PY'
import errno, os, sys, time
f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
done, size, tried = 0, 4 << 20, -1
while size >= 4096 or done > tried: # heartbeats may have been late: again, until a whole round has found nothing
    if size < 4096:
        tried, size = done, 1 << 20
        time.sleep(5)
    try:
        done += os.pwrite(f, os.urandom(size), done)
        if size < 1 << 20 or done % (64 << 20) == 0:
            os.fsync(f)
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        size //= 32
try:
    os.fsync(f)
except OSError as e:
    print("acknowledged, then lost: %s" % e)
PY
verdict 'another file fills the pool' "$(timeout 200 python3 "$WORK/fill.py" "$MNT/filler" 2>&1)"
refused 'a new file gets nothing' 'No space left' dd if=/dev/zero of="$MNT/more" bs=1M count=64 conv=fsync
refused 'nor can more be promised' 'No space left' fallocate -l 64M "$MNT/more"
check 'blocks of 4 KiB into the database, in any order, each synced' fio --name=db --filename="$MNT/db" --size=48m --rw=randwrite --bs=4k --fsync=8 --fallocate=none --overwrite=0 --verify=crc32c --verify_state_save=0 --minimal
check 'the stream' dd if=/dev/urandom of="$MNT/stream" bs=1M count=48 conv=notrunc,fsync status=none
check 'behind the end' dd if=/dev/urandom of="$MNT/keep" bs=1M seek=1 count=8 conv=notrunc,fsync status=none
check 'and behind a small file' dd if=/dev/urandom of="$MNT/small" bs=1M seek=1 count=7 conv=notrunc,fsync status=none
same 'nothing is reserved any more but the rest of that' "$(status "s['reserved_bytes']")" "$(((1 << 20) - 5))"
check 'it survives a restart of everything' bash -c "'$bin/cfs-local' umount '$MNT' && '$bin/cfs-local' kill --dir '$CL' meta1 && '$bin/cfs-local' start --dir '$CL' meta1 && '$bin/cfs-local' mount --dir '$CL' '$MNT'"
same 'the sum, too' "$(status "s['reserved_bytes']")" "$(((1 << 20) - 5))"
rm "$MNT/filler"
write_again() { dd if=/dev/zero of="$MNT/again" bs=1M count=100 conv=fsync status=none; }
check 'when the other file is gone there is room for all' until_true 60 write_again
