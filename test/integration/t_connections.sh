#!/usr/bin/env bash
# time: 120 200
# More connections than a server takes: one more is refused with the reason, the others go on, memory stays bounded; those
# that stay silent are closed.
. "$(dirname "$0")/lib.sh"
need_cluster 'too many connections'
cluster_up
echo before >"$MNT/file"
cat >"$WORK/hold.py" <<'PY'
import resource, socket, sys, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
port, many = int(sys.argv[1]), int(sys.argv[2])
held, refused, said = [], 0, b""
for i in range(many):
    s = socket.create_connection(("127.0.0.1", port), timeout=10)
    held.append(s)
    if i % 100 == 99:
        time.sleep(0.02)
time.sleep(1)
for s in held:
    s.setblocking(False)
    try:
        said = s.recv(1000) or said
        refused += 1
    except BlockingIOError:
        pass
print(refused, len(said) > 40 and b"as many connections as it takes" in said, flush=True)
sys.stdin.readline()
closed = 0
for s in held:
    try:
        while s.recv(1000):
            pass
        closed += 1
    except BlockingIOError:
        pass
    except OSError:
        closed += 1
print(closed, flush=True)
PY
[ "$(ulimit -Hn)" -ge 8192 ] || { skip 'too many connections' 'no descriptors for so many'; exit 0; }
rss() { awk '/VmRSS/ { print int($2 / 1024) }' "/proc/$(pid_of "$1")/status"; }
crowd() { # SERVER
    local line out in pid before
    before=$(rss "$1")
    coproc HOLD { exec python3 "$WORK/hold.py" "$(sed -n "s/^port\.$1=//p" "$CL/cluster.conf")" 4300; }
    out=${HOLD[0]} in=${HOLD[1]} pid=$HOLD_PID
    remember "$pid"
    read -r -t 60 -u "$out" line
    at_most "$1: 4,300 connections, no more are refused than are too many" "${line% *}" 230
    at_most "$1: and no fewer" 204 "${line% *}"
    same "$1: with the reason" "${line#* }" True
    if [ "$1" = meta1 ]; then
        refused 'cfs status is told the reason too' 'as many connections as it takes' timeout 20 "$bin/cfs" status
    fi
    check "$1: the mount goes on" timeout 20 dd if=/dev/urandom of="$MNT/during.$1" bs=1M count=8 conv=fsync status=none
    at_most "$1: memory for them, in MiB" $(($(rss "$1") - before)) 64
    sleep 16
    echo go >&"$in"
    read -r -t 60 -u "$out" line
    same "$1: the silent ones are closed" "$line" 4300
    wait "$pid"
    check "$1: others are taken again" timeout 20 "$bin/cfs" status
}
crowd meta1
crowd chunk1
sleep 3 # heartbeats tell of it
verdict 'counted' "$(status "(lambda c: '' if all(c(x).get('fault.silent', 0) >= 4000 and c(x).get('connections.refused', 0) >= 200 for x in (s['meta'][0], s['chunks'][0])) else [c(x) for x in (s['meta'][0], s['chunks'][0])])(lambda x: x['counters'])")"
verdict 'shown to people' "$("$bin/cfs" status | grep -q 'refused: .*too many connections' || "$bin/cfs" status | grep faults)"
at_most 'at most a line a second and server' "$(cat "$CL"/log/meta1.log "$CL"/log/chunk1.log | grep -c 'connection')" 60
same 'no fragment was left out for it' "$("$bin/cfs" stat --json --sync "$MNT/during.chunk1" | python3 -c "import json,sys; s=json.load(sys.stdin); print(' '.join(sorted({e.get('encoding','') for e in s['extents']})))")" 'RS(4,2)'
