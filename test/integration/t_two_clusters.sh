#!/usr/bin/env bash
# time: 90 200
# cfs-local: two clusters side by side; up and down again and again; what it refuses; cfs policy.
. "$(dirname "$0")/lib.sh"
need_cluster 'cfs-local'
begin=$(now_ms)
cluster_up
at_most 'up, in s' "$(awk -v t=$(($(now_ms) - begin)) 'BEGIN { print t / 1000 }')" 40
second=$WORK/second
check 'a second cluster' local_ up --dir "$second" --chunkservers 3 --policy 2+1 --mount "$WORK/mnt2"
echo one >"$MNT/f" && echo two >"$WORK/mnt2/f"
same 'they do not mix' "$(cat "$MNT/f" "$WORK/mnt2/f" | tr '\n' ' ')" 'one two '
verdict 'no port is used twice' "$(cat "$CL/cluster.conf" "$second/cluster.conf" | sed -n 's/^port[^=]*=//p' | sort | uniq -d)"
verdict 'only loopback listens' "$(ss -Hltnp 2>/dev/null | grep -E 'cfs-(meta|chunk)' | awk '{ print $4 }' | grep -v '^127\.0\.0\.1:')"
check 'up again changes nothing' bash -c "'$bin/cfs-local' up --dir '$CL' --mount '$MNT' | grep -q 'nothing to do'"
refused 'other settings' 'another --chunkservers' local_ up --dir "$CL" --chunkservers 7
refused 'too few servers for the policy' 'needs 6' local_ up --dir "$WORK/third" --chunkservers 5
refused 'a name that is not there' 'no chunk9' local_ kill --dir "$CL" chunk9
refused 'a directory without a cluster' 'no cluster' local_ status --dir "$WORK"
kill_ chunk1
same 'status of a part' "$(local_ status --dir "$CL" >/dev/null; echo $?)" 3
same 'status as JSON' "$(local_ status --dir "$CL" --json | python3 -c 'import json,sys; s=json.load(sys.stdin); print(s["state"], len(s["servers"]), len(s["mounts"]))')" 'degraded 7 1'
check 'up restarts what is missing' local_ up --dir "$CL"
same 'status of all' "$(local_ status --dir "$CL" >/dev/null; echo $?)" 0

same 'cfs policy get' "$("$bin/cfs" policy get "$MNT" --json | python3 -c 'import json,sys; p=json.load(sys.stdin); print(p["k"], p["m"])')" '4 2'
refused 'a policy wider than the pool' 'server' "$bin/cfs" policy set "$MNT" 8+3
refused 'a policy that is none' 'K\+M' "$bin/cfs" policy set "$MNT" 0+1
check 'cfs policy set' "$bin/cfs" policy set "$MNT" 3+2
head -c 9000000 /dev/urandom >"$MNT/new" && cp "$MNT/new" "$WORK/new"
same 'new stripes follow it' "$("$bin/cfs" stat --sync --json "$MNT/new" | python3 -c 'import json,sys; print(*sorted({e["encoding"] for e in json.load(sys.stdin)["extents"]}))' | grep -o 'RS(3,2)')" 'RS(3,2)'
drop_caches
check 'and are read' cmp "$WORK/new" "$MNT/new"
check 'cfs stat of a file' "$bin/cfs" stat "$MNT/new"
refused 'cfs stat outside' 'not in a CFS mount' "$bin/cfs" stat /etc/passwd

port=$(sed -n 's/^port.meta1=//p' "$CL/cluster.conf")
check 'down' local_ down --dir "$CL"
verdict 'nothing of it runs' "$(pgrep -f "$CL/" | tr '\n' ' ')"
same 'the other one goes on' "$(cat "$WORK/mnt2/f")" two
check 'up after down' local_ up --dir "$CL" --mount "$MNT"
same 'on the same ports, with the data' "$(sed -n 's/^port.meta1=//p' "$CL/cluster.conf") $(cat "$MNT/f")" "$port one"
exec 8>"$MNT/busy"
refused 'down of a busy mount' 'busy' local_ down --dir "$CL"
exec 8>&-
check 'down at last' local_ down --dir "$CL"
check 'down of the second' local_ down --dir "$second"
