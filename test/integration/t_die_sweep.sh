#!/usr/bin/env bash
# time: 200 1500
# The worker kills itself at its n-th publish, before or after the store, for many n; then several workers at random ones. Every
# kind of call goes on as if nothing had happened, and what was made is there after a remount.
. "$(dirname "$0")/lib.sh"
need python3
need_cluster 'a worker that dies at a publish'
cluster_up
local_ umount "$MNT" >/dev/null || not_ok umount failed
mkdir -p "$MNT"
step=$([ -n "$LONG" ] && echo 1 || echo 9)
last=400
options=run_dir=$WORK/run,log=$WORK/log,memory=64M
one() { # NAME: mounted, used, unmounted, drained
    timeout 30 "$bin/mount.cfs" "$CFS_CLUSTER:/" "$MNT" -o "$options" || return 1
    timeout 60 python3 "$here/die_steps.py" "$MNT" "$1" || return 1
    umount "$MNT" && timeout 60 "$bin/mount.cfs" --wait-unmounted "$WORK/run" && ! grep -E 'no worker wrote|nobody made' "$WORK/log"
}
failed= died=0
for n in $(seq 1 "$step" $last); do
    : >"$WORK/log"
    out=$(CFS_DIE_AT=$n one "at$n" 2>&1) || { failed="n=$n: $out"; break; }
    grep -q 'starting another signal=9' "$WORK/log" && died=$((died + 1))
done
verdict "every call, the worker killed at one of $last publishes ($died kills)" "$failed"
[ $died -gt $((last / step / 3)) ] && ok 'it was killed often' || not_ok 'it was killed often' "only $died"
failed=
for n in 300 600 1200; do
    out=$(CFS_DIE_EVERY=$n one "every$n" 2>&1) || { failed="one in $n: $out"; break; }
done
verdict 'every call, workers killed at random publishes' "$failed"
# What was answered before such a death must not be carried out after what came then.
out=$(
    exec 2>&1
    export CFS_DIE_EVERY=150
    timeout 30 "$bin/mount.cfs" "$CFS_CLUSTER:/" "$MNT" -o "$options" || exit 1
    mkdir "$MNT/answered" && timeout 900 python3 "$here/after_answer.py" "$MNT/answered" "$([ -n "$LONG" ] && echo 400 || echo 30)"
)
rc=$?
verdict 'calls that take away, each followed at once by one that puts' "$([ $rc = 0 ] || echo "failed: $out")"
umount "$MNT" 2>/dev/null && timeout 60 "$bin/mount.cfs" --wait-unmounted "$WORK/run"
check 'mount again' timeout 30 "$bin/mount.cfs" "$CFS_CLUSTER:/" "$MNT" -o "$options"
failed=
for d in "$MNT"/at* "$MNT"/every*; do
    [ "$(ls "$d" | tr '\n' ' ')" = 'linked renamed second sym ' ] && [ "$(tail -c 6 "$d/renamed")" = sstail ] && [ "$(cat "$d/linked")" = made ] || failed=$d
done
verdict 'and all of it is there' "$failed"
umount "$MNT" && timeout 60 "$bin/mount.cfs" --wait-unmounted "$WORK/run"
