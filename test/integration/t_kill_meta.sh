#!/usr/bin/env bash
# time: 200 600
# kill -9 of cfs-meta again and again during a tar and a sqlite3 load: it pauses and goes on; nothing synced is lost, nothing is
# done twice.
. "$(dirname "$0")/lib.sh"
need sqlite3 tar
need_cluster 'cfs-meta killed'
cluster_up
kills=20
make_tree "$WORK/tree" 400 4
(
    i=0
    while [ ! -e "$WORK/stop" ]; do
        i=$((i + 1))
        mkdir "$MNT/tar$i" && tar -C "$WORK/tree" -c . | tar -C "$MNT/tar$i" -x || exit 1
        diff -r "$WORK/tree" "$MNT/tar$i" || exit 2
        [ $i -gt 1 ] && { rm -r "$MNT/tar$((i - 1))" || exit 3; }
    done
    echo $i
) >"$WORK/tar.out" 2>&1 &
tar_load=$!
remember $tar_load
(
    echo 'pragma synchronous=full; create table t(i integer primary key, x text);' | sqlite3 "$MNT/db" || exit 1
    i=0
    while [ ! -e "$WORK/stop" ]; do
        i=$((i + 1))
        echo "pragma synchronous=full; insert into t values($i, 'row $i');" | sqlite3 "$MNT/db" || exit 1
        echo $i >"$WORK/synced"
    done
) >"$WORK/sql.out" 2>&1 &
sql_load=$!
remember $sql_load
# Made and removed exactly once each: mkdir says EEXIST, rmdir ENOENT, if something was done twice.
(
    while [ ! -e "$WORK/stop" ]; do
        mkdir "$MNT/once" && mv "$MNT/once" "$MNT/twice" && ln -s x "$MNT/once" && rm "$MNT/once" && rmdir "$MNT/twice" || exit 1
    done
) >"$WORK/once.out" 2>&1 &
once_load=$!
remember $once_load
for i in $(seq $kills); do
    sleep "$(awk -v s="$i" 'BEGIN { srand(s); printf "%.2f", 0.4 + rand() * 1.2 }')"
    kill_ meta1 || { not_ok "kill $i" 'it did not run'; break; }
    sleep 0.2
    start_ meta1 >/dev/null || { not_ok "start $i" 'it did not start'; break; }
done
: >"$WORK/stop"
wait $tar_load
same "tar under $kills kills of cfs-meta" "$? $(grep -v '^[0-9]*$' "$WORK/tar.out" | head -n 2)" '0 '
wait $sql_load
same 'sqlite3: no failed call' "$? $(cat "$WORK/sql.out")" '0 '
wait $once_load
same 'nothing is done twice' "$? $(cat "$WORK/once.out")" '0 '
n=$(cat "$WORK/synced" 2>/dev/null)
same 'sqlite3: nothing synced is lost' "$(sqlite3 "$MNT/db" 'select count(*) from t; pragma integrity_check' | tr '\n' ' ')" "$n ok "
same 'an ordinary stop and start keeps it all' "$(local_ stop --dir "$CL" meta1 && start_ meta1 >/dev/null; sqlite3 "$MNT/db" 'select count(*) from t')" "$n"
