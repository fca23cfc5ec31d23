#!/usr/bin/env bash
# time: 90 400
# What one program may assume of its files (fsx.c) while the client's worker kills itself at every kind of moment; and what commits
# that overtake each other leave (backwards.c).
. "$(dirname "$0")/lib.sh"
export CFS_DIE_EVERY=3000
cluster_up
unset CFS_DIE_EVERY
calls=$([ -n "$LONG" ] && echo 30000 || echo 1500)
for seed in 1 2; do
    if out=$(timeout 180 "$helpers/fsx" "$MNT" "$calls" "$seed" 2 2>&1); then
        ok "fsx seed $seed"
    else
        not_ok "fsx seed $seed" "$(head -n 1 <<<"$out")"
    fi
done
plain && exit 0
cluster_down
CFS_DIE_EVERY=60 cluster_up
mkdir "$MNT/locks"
check 'locks while the worker kills itself' timeout 60 "$helpers/lockload" "$MNT/locks" $([ -n "$LONG" ] && echo 40 || echo 8)
cluster_down
cluster_up
check 'a file written backwards' timeout 60 "$helpers/backwards" "$MNT/backwards" "$(pid_of meta1)"
cluster_down
cluster_up
check 'a file written backwards is there after a remount' timeout 60 "$helpers/backwards" "$MNT/backwards"
nothing_dropped
