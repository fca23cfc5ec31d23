#!/usr/bin/env bash
# time: 240 900
# kill -9 of the client's worker every 2 s under fio --verify, a build, sqlite3, locks and 1 MiB writes from fresh mappings; of
# its holder; of both.
. "$(dirname "$0")/lib.sh"
need fio sqlite3 gcc
need_cluster 'the client killed'
cluster_up
seconds=$([ -n "$LONG" ] && echo 300 || echo 60)
mkdir "$MNT/maps" "$MNT/locks" "$MNT/build" "$MNT/sync"
fio --name=load --directory="$MNT" --size=64m --rw=randwrite --bs=4k-64k --verify=crc32c --verify_fatal=1 --time_based --runtime="$seconds" --rate=20m --minimal >"$WORK/fio.out" 2>&1 &
fio_pid=$!
remember $fio_pid
(
    for n in $(seq 12); do
        { for j in $(seq 30); do echo "static int v${n}_$j(int x) { return x * $j + $n; }"; done; echo "int m$n(int x); int m$n(int x) { return v${n}_3(x) + v${n}_7(x); }"; } >"$MNT/build/m$n.c"
    done
    while [ ! -e "$WORK/stop" ]; do
        for n in $(seq 12); do gcc -w -c -o "$MNT/build/m$n.o" "$MNT/build/m$n.c" || exit 1; done
        rm -f "$MNT/build/lib.a" && ar rcs "$MNT/build/lib.a" "$MNT/build/"*.o || exit 1
    done
) >"$WORK/build.out" 2>&1 &
build_pid=$!
remember $build_pid
(
    echo 'pragma synchronous=full; create table t(i integer primary key, x text);' | sqlite3 "$MNT/db" || exit 1
    i=0
    while [ ! -e "$WORK/stop" ]; do
        i=$((i + 1))
        echo "pragma synchronous=full; insert into t values($i, 'row $i');" | sqlite3 "$MNT/db" || exit 1
        echo $i >"$WORK/rows"
    done
) >"$WORK/sql.out" 2>&1 &
sql_pid=$!
remember $sql_pid
"$helpers/lockload" "$MNT/locks" "$seconds" >"$WORK/locks.out" 2>&1 &
lock_pid=$!
remember $lock_pid
"$helpers/mapwrite" "$MNT/maps" "$seconds" >"$WORK/maps.out" 2>&1 &
map_pid=$!
remember $map_pid
exec 7>"$MNT/held.open" && echo first >&7
cd "$MNT/build" || exit 1
probe_start
end=$(($(date +%s) + seconds))
kills=0
while [ "$(date +%s)" -lt $end ]; do
    sleep 2
    kill_ mount1 2>/dev/null && kills=$((kills + 1))
    [ $((kills % 5)) = 4 ] && { kill_ holder1 2>/dev/null || not_ok 'killing the holder' 'it did not run'; }
done
: >"$WORK/stop"
[ $kills -ge $((seconds / 3)) ] && ok "the worker was killed $kills times" || not_ok 'kills' "only $kills"
wait $fio_pid
same 'fio --verify under kills' "$? $(tail -n 1 "$WORK/fio.out" | grep -i error)" '0 '
wait $build_pid
same 'a build under kills' "$? $(head -n 3 "$WORK/build.out")" '0 '
wait $sql_pid
same 'sqlite3 under kills' "$? $(cat "$WORK/sql.out")" '0 '
same 'sqlite3: all rows are there' "$(sqlite3 "$MNT/db" 'select count(*) from t; pragma integrity_check' | tr '\n' ' ')" "$(cat "$WORK/rows") ok "
wait $lock_pid
same 'locks under kills' "$? $(grep lockload: "$WORK/locks.out")" '0 '
wait $map_pid
same '1 MiB writes from fresh mappings under kills' "$? $(grep mapwrite: "$WORK/maps.out")" '0 '
probe_stop 'worker and holder killed' 4
echo second >&7 && exec 7>&-
same 'a file held open all the while' "$(tr '\n' ' ' <"$MNT/held.open")" 'first second '
same 'the working directory still works' "$(ls m1.c)" m1.c
cd / || exit 1

# Both at once: the mount dies; what was synced is there after a remount.
"$helpers/syncwrite" "$MNT/sync" "$WORK/sync.log" 2>/dev/null &
sync_pid=$!
remember $sync_pid
sleep 3
holder=$(pid_of holder1) worker=$(pid_of mount1)
kill -KILL "$holder" "$worker"
wait $sync_pid
check 'umount of a dead mount works at once' timeout 10 umount "$MNT"
check 'a remount works at once' timeout 30 "$bin/cfs-local" start --dir "$CL" mount1
out=$("$helpers/syncwrite" --check "$MNT/sync" "$WORK/sync.log" 2>&1) && ok "both killed: all that was fsynced is there ($out files)" || not_ok 'both killed: what was fsynced' "$out"
nothing_dropped
