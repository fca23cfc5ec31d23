#!/usr/bin/env bash
# time: 200 400
# The disk under cfs-meta is full: below its reserve it refuses new writes with a clear error, still unlinks, loses nothing, goes on
# when there is room.
. "$(dirname "$0")/lib.sh"
need_cluster 'a full disk under cfs-meta'
mkdir "$WORK/small"
mount -t tmpfs -o size=700m cfs-test "$WORK/small" || { not_ok 'tmpfs' 'cannot mount'; exit 1; }
cluster_up --meta-dir "$WORK/small/meta" --meta-reserve 300M
make_tree "$WORK/tree" 200 9
cp -r "$WORK/tree" "$MNT/tree" && sync -f "$MNT/tree"
free_mb=$(df --output=avail -B1M "$WORK/small" | tail -n 1)
dd if=/dev/zero of="$WORK/small/hog" bs=1M count=$((free_mb - 200)) status=none
refusing() { ! mkdir "$MNT/probe.$RANDOM" 2>"$WORK/said"; }
check 'below its reserve it refuses new writes' until_true 30 refusing
verdict 'with a clear error' "$(grep -q 'No space left' "$WORK/said" || cat "$WORK/said")"
check 'cfs status says so' until_true 10 bash -c "'$bin/cfs' status --json | python3 -c \"import json,sys; s=json.load(sys.stdin); sys.exit(0 if s['meta'][0]['refusing_writes'] and s['problems'] else 1)\""
check 'it still reads' diff -r "$WORK/tree" "$MNT/tree"
check 'and unlinks' rm -r "$MNT/tree/d000"
check 'it survives kill -9 like this' bash -c "'$bin/cfs-local' kill --dir '$CL' meta1 && '$bin/cfs-local' start --dir '$CL' meta1"
cat /dev/zero >"$WORK/small/hog2" 2>/dev/null # to the last byte, by somebody who knows no reserve
check 'it unlinks on a disk without a byte' timeout 30 rm -r "$MNT/tree/d001"
sleep 1
cat /dev/zero >"$WORK/small/hog3" 2>/dev/null
timeout 10 rm -r "$MNT/tree/d002" 2>/dev/null # may wait now; the server must not end
check 'the server is still there' bash -c "'$bin/cfs-local' status --dir '$CL' | grep -q 'meta1 *running'"
rm "$WORK/small/hog2" "$WORK/small/hog3"
check 'it unlinks when there is room' timeout 60 rm -rf "$MNT/tree/d002"
verdict 'nothing is lost' "$(diff -r "$WORK/tree" "$MNT/tree" | grep -v 'Only in .*: d00[012]')"
rm "$WORK/small/hog"
again() { mkdir "$MNT/again"; }
check 'it goes on when there is room' until_true 30 again
check 'with files too' cp -r "$WORK/tree/d003" "$MNT/again/"
