#!/usr/bin/env bash
# time: 200 600
# Two of six chunk servers die under load: nothing fails, nothing pauses, all bytes are right; narrower stripes meanwhile, 4+2
# again afterwards. One falls silent. Three dead: EIO after the deadline, and back again.
. "$(dirname "$0")/lib.sh"
need fio tar
need_cluster 'chunk servers killed'
cluster_up
encodings() { "$bin/cfs" stat --json --sync "$1" | python3 -c "import json,sys; s=json.load(sys.stdin); print(' '.join(sorted({e.get('encoding','') for e in s['extents']})))"; }
make_tree "$WORK/tree" 600 3
random_file "$MNT/before" 33554432 1
fsync_file() { python3 -c "import os,sys; f=os.open(sys.argv[1], os.O_RDONLY); os.fsync(f)" "$1"; }
fsync_file "$MNT/before"
sum_before=$(sha256sum <"$MNT/before")

fio_args=(--name=load --directory="$MNT" --size=128m --rw=randwrite --bs=64k --verify=crc32c --verify_fatal=1 --end_fsync=1 --time_based --runtime=$([ -n "$LONG" ] && echo 60 || echo 12) --rate=60m --minimal)
fio "${fio_args[@]}" >"$WORK/fio.out" 2>&1 &
load=$!
remember $load
(for i in 1 2 3; do rm -rf "$MNT/tar" && mkdir "$MNT/tar" && tar -C "$WORK/tree" -c . | tar -C "$MNT/tar" -x || exit 1; done) >"$WORK/tar.out" 2>&1 &
tar_load=$!
remember $tar_load
probe_start
kill_ chunk2
kill_ chunk5
wait $load
same 'fio with two servers killed in the middle' "$? $(tail -n 1 "$WORK/fio.out" | grep -i error)" '0 '
wait $tar_load
same 'tar with two servers killed in the middle' "$? $(cat "$WORK/tar.out")" '0 '
probe_stop 'two of six killed' 2.0
verdict 'what tar wrote is right' "$(diff -r "$WORK/tree" "$MNT/tar" | head -n 3)"
random_file "$MNT/during" 16777216 2
fsync_file "$MNT/during"
sum_during=$(sha256sum <"$MNT/during")
same 'stripes written meanwhile are narrower' "$(encodings "$MNT/during")" 'RS(2,2)'
drop_caches
same 'reads decode' "$(sha256sum <"$MNT/before") $(sha256sum <"$MNT/during")" "$sum_before $sum_during"
verdict 'cfs status says what is down' "$(status "'' if any('down' in p for p in s['problems']) else s['problems']")"

start_ chunk2 >/dev/null
start_ chunk5 >/dev/null
check 'both are back' until_true 15 bash -c "'$bin/cfs' status --json | python3 -c \"import json,sys; s=json.load(sys.stdin); sys.exit(0 if s['groups_degraded'] == 0 else 1)\""
sleep 1 # the client's own connections
random_file "$MNT/after" 16777216 3
fsync_file "$MNT/after"
same 'new stripes are 4+2 again' "$(encodings "$MNT/after")" 'RS(4,2)'
check 'umount' local_ umount "$MNT" # so that nothing is cached
check 'mount again' local_ mount --dir "$CL" "$MNT"
# What was written on four servers tolerates two further losses, those that were up.
kill_ chunk1
kill_ chunk3
drop_caches
same 'stripes written meanwhile tolerate two further losses' "$(timeout 60 sha256sum <"$MNT/during")" "$sum_during"

kill_ chunk4
drop_caches
begin=$(now_ms)
timeout 60 cat "$MNT/after" >/dev/null 2>"$WORK/three"
rc=$?
took=$((($(now_ms) - begin) / 1000))
same 'three dead: reads give EIO' "$rc $(grep -c 'Input/output error' "$WORK/three")" '1 1'
at_most 'after the deadline, in s' $took 40
check 'df and stat still answer' timeout 20 bash -c "df '$MNT' >/dev/null; stat '$MNT/after' >/dev/null"
start_ chunk1 >/dev/null
sum_after=$(until_true 30 cat "$MNT/after" && sha256sum <"$MNT/after")
random_file "$WORK/after" 16777216 3
same 'and recover when one is back' "$sum_after" "$(sha256sum <"$WORK/after")"
start_ chunk3 >/dev/null
start_ chunk4 >/dev/null

check 'all are back' until_true 15 bash -c "'$bin/cfs' status --json | python3 -c \"import json,sys; s=json.load(sys.stdin); sys.exit(0 if s['groups_degraded'] == 0 else 1)\""
silent=$(pid_of chunk6)
fio "${fio_args[@]}" --runtime=8 >"$WORK/fio2.out" 2>&1 &
load=$!
remember $load
probe_start
kill -STOP "$silent"
wait $load
same 'fio with one server silent' "$? $(tail -n 1 "$WORK/fio2.out" | grep -i error)" '0 '
probe_stop 'one falls silent' 12
kill -CONT "$silent"
