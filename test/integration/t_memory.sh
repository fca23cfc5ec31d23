#!/usr/bin/env bash
# time: 400 2400
# Memory: cfs-meta under 512 MB with many files (long: a million), mount.cfs under its limit; both in cfs status.
. "$(dirname "$0")/lib.sh"
need_cluster 'memory'
cluster_up
n=$([ -n "$LONG" ] && echo 1000000 || echo 100000)
cat >"$WORK/make.py" <<'PY'
import os, sys
root, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    d = "%s/d%04d" % (root, i // 1000)
    if i % 1000 == 0:
        os.mkdir(d)
    os.close(os.open("%s/f%d" % (d, i), os.O_CREAT | os.O_WRONLY, 0o644))
PY
mkdir "$MNT/a" "$MNT/b"
python3 "$WORK/make.py" "$MNT/a" $((n / 2)) &
a=$!
python3 "$WORK/make.py" "$MNT/b" $((n / 2)) &
b=$!
remember $a
remember $b
wait $a && wait $b && ok "$n files made" || not_ok "$n files made" failed
same 'they are all listed' "$(find "$MNT/a" "$MNT/b" -type f | wc -l)" "$n"
random_file "$MNT/big" 300000000 10
cat "$MNT/big" >/dev/null
check 'cfs status knows the inodes' test "$(status "s['inodes']")" -ge "$n"
meta=$(awk '/VmRSS/ { print int($2 / 1024) }' "/proc/$(pid_of meta1)/status")
at_most 'cfs-meta, MiB' "$meta" 512
worker=$(awk '/VmRSS/ { print int($2 / 1024) }' "/proc/$(pid_of mount1)/status")
limit=$(status "int(s['clients'][0]['memory_limit'] / 1048576)")
at_most 'mount.cfs, MiB, at most its limit and the program itself' "$worker" $((limit + 32))
sleep 3 # a renewal of the session
verdict 'both are in cfs status' "$(status "'' if s['meta'][0]['memory_bytes'] > 1000000 and s['clients'][0]['memory_bytes'] > 1000000 else s")"
