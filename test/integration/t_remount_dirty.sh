#!/usr/bin/env bash
# time: 60 120
# umount with dirty data in the arena, then a mount elsewhere: all bytes are there.
. "$(dirname "$0")/lib.sh"
need_cluster 'umount with dirty data'
cluster_up
make_tree "$WORK/tree" 400 5
random_file "$WORK/big" 100000000 6
cp -r "$WORK/tree" "$MNT/tree" && cp "$WORK/big" "$MNT/big"
check 'umount' timeout 60 "$bin/cfs-local" umount "$MNT"
verdict 'the client has ended' "$(pgrep -f "run_dir=$CL/mount" | tr '\n' ' ')"
check 'mount elsewhere' "$bin/cfs-local" mount --dir "$CL" "$WORK/elsewhere"
verdict 'all bytes are there' "$(diff -r "$WORK/tree" "$WORK/elsewhere/tree" 2>&1 | head -n 3; cmp "$WORK/big" "$WORK/elsewhere/big" 2>&1)"
# umount(8) returns, the rest drains behind it; the next mount waits for that.
cp "$WORK/big" "$WORK/elsewhere/big2"
check 'umount(8)' umount "$WORK/elsewhere"
check 'mount right after it' timeout 60 "$bin/cfs-local" mount --dir "$CL" "$MNT"
check 'all bytes are there again' cmp "$WORK/big" "$MNT/big2"
# A server is away while it drains.
cp "$WORK/big" "$MNT/big3"
kill_ meta1
(sleep 2; start_ meta1 >/dev/null) &
check 'umount waits for the metadata server' timeout 60 "$bin/cfs-local" umount "$MNT"
check 'mount once more' "$bin/cfs-local" mount --dir "$CL" "$MNT"
check 'nothing was lost' cmp "$WORK/big" "$MNT/big3"
