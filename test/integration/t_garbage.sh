#!/usr/bin/env bash
# time: 150 400
# Random bytes, truncated frames, huge lengths and wrong versions at every port, under ASan where such a build is there: no crash, no
# growth, counted per reason, logged at most once a second per peer.
. "$(dirname "$0")/lib.sh"
need_cluster 'garbage at every port'
[ -x "$helpers/throw_garbage" ] || { skip 'garbage' 'no throw_garbage'; exit 0; }
[ -x "$top/build-san/bin/cfs-meta" ] && bin=$top/build-san/bin && export CFS_BIN=$bin && echo '# under ASan'
# What ASan keeps of freed memory grows to 256 MiB a process: not growth of ours.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}quarantine_size_mb=4
cluster_up
seconds=$([ -n "$LONG" ] && echo 60 || echo 15)
echo before >"$MNT/file" && sync -f "$MNT/file"
memory() { for n in meta1 chunk1 chunk2 chunk3 chunk4 chunk5 chunk6; do awk '/VmRSS/ { print $2 }' "/proc/$(pid_of $n)/status"; done | awk '{ s += $1 } END { print int(s / 1024) }'; }
pids() { for n in meta1 chunk1 chunk2 chunk3 chunk4 chunk5 chunk6; do pid_of $n; done | tr '\n' ' '; }
ports=$(sed -n 's/^port\.[a-z0-9]*=//p' "$CL/cluster.conf")
throw() { # SECONDS
    local port all=()
    for port in $ports; do
        timeout $(($1 + 20)) "$helpers/throw_garbage" "127.0.0.1:$port" "$1" >>"$WORK/thrown" 2>&1 &
        all+=($!)
    done
    wait "${all[@]}"
}
# The holder's control socket speaks lines.
cat >"$WORK/lines.py" <<'PY'
import os, random, socket, sys, time
end, n = time.monotonic() + float(sys.argv[2]), 0
dir_fd = os.open(sys.argv[1], os.O_PATH)
while time.monotonic() < end:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(1)
    try:
        s.connect(f"/proc/self/fd/{dir_fd}/control")
        s.sendall(random.choice([os.urandom(random.randint(1, 9000)), b"", b"status" * 2000, b"upgrade \xff/none\n", b"\n", b"pids\0x\n"]))
        if random.random() < 0.7:
            s.recv(4096)
        n += 1
    except OSError:
        pass
    s.close()
print(n)
PY
control_lines() { timeout $(($1 + 20)) python3 "$WORK/lines.py" "$CL/mount/1" "$1" >"$WORK/lines"; }
holder=$(pid_of holder1)
throw 3 # connections, pools and shadow memory reach their size
before=$(memory)
same_pids=$(pids)
logs_before=$(cat "$CL"/log/*.log | wc -l)
control_lines "$seconds" &
control=$!
throw "$seconds"
wait "$control"
same 'no server died' "$(pids)" "$same_pids"
after=$(memory)
echo "# $(awk '{ for (i = 2; i <= NF; i++) { split($i, x, "="); s[x[1]] += x[2] } } END { print s["connections"], "connections,", s["frames"], "frames,", s["bytes"], "bytes" }' "$WORK/thrown"); memory of all servers $before MiB before, $after MiB after"
at_most 'no growth: MiB of all servers' "$after" $((before + before / 4 + 64))
# What it has grown by, it has by now: no more comes.
throw $((seconds / 3))
later=$(memory)
at_most 'and none after that: MiB more' $((later > after ? later - after : 0)) 16
same 'the holder took what its control socket was told' "$(pid_of holder1) $([ "$(cat "$WORK/lines")" -ge 10 ] && echo many)" "$holder many"
lines=$(($(cat "$CL"/log/*.log | wc -l) - logs_before))
at_most 'at most a line a second per server and peer' $lines $((seconds * 7 * 4))
verdict 'counted per reason' "$(status "(lambda f: '' if len(f) >= 3 else f)({k for x in s['meta'] + s['chunks'] for k, v in x['counters'].items() if k.startswith('fault.') and v})")"
echo "# $("$bin/cfs" status | grep 'refused:' | tr '\n' ';')"
verdict 'shown to people' "$("$bin/cfs" status | grep -q 'refused:' || echo 'no line of faults')"
same 'and it still works' "$(cat "$MNT/file"; echo after >"$MNT/file2" && cat "$MNT/file2")" 'before
after'
verdict 'no report of a sanitizer' "$(grep -hE 'ERROR: AddressSanitizer|runtime error' "$CL"/log/*.log | head -n 3)"
