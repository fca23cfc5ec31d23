#!/usr/bin/env bash
# time: 60 180
# What is looked up, listed and changed at once in one large directory that the client does not know yet: a remount, workers
# that die, and a kernel that forgets.
. "$(dirname "$0")/lib.sh"
need python3
cluster_up
seconds=$([ -n "$LONG" ] && echo 60 || echo 10)
mkdir -p "$MNT/d"
check 'a directory of many files' timeout 100 python3 "$here/names_beside.py" "$MNT/d" 0
if ! plain; then
    check "unmount" timeout 30 "$bin/cfs-local" umount "$MNT"
    check "mount" timeout 30 "$bin/cfs-local" mount --dir "$CL" "$MNT"
fi
forget() { while :; do sleep 0.7; echo 2 >/proc/sys/vm/drop_caches; done; }
forget &
remember $!
kill_often() { while :; do sleep 2; kill_ mount1; done; }
kill_often >"$WORK/kills" 2>&1 &
remember $!
check 'lookups beside changes, while workers die' timeout $((seconds + 40)) python3 "$here/names_beside.py" "$MNT/d" "$seconds"
nothing_dropped
