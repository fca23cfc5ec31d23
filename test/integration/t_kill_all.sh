#!/usr/bin/env bash
# time: 120 400
# kill -9 of everything at once, restart: all that was fsynced is there, byte for byte.
. "$(dirname "$0")/lib.sh"
need_cluster 'everything killed'
cluster_up
for round in $(seq "$([ -n "$LONG" ] && echo 10 || echo 3)"); do
    mkdir "$MNT/sync$round"
    "$helpers/syncwrite" "$MNT/sync$round" "$WORK/log$round" 2>/dev/null &
    writer=$!
    remember $writer
    sleep 2
    pids=$(for n in holder1 mount1 meta1 chunk1 chunk2 chunk3 chunk4 chunk5 chunk6; do pid_of $n; done)
    # shellcheck disable=SC2086
    kill -KILL $pids
    wait $writer
    umount -l "$MNT"
    if ! out=$(local_ up --dir "$CL" 2>&1); then
        not_ok "up after kill -9 of everything ($round)" "$out"
        exit 1
    fi
    for done in $(seq "$round"); do
        out=$("$helpers/syncwrite" --check "$MNT/sync$done" "$WORK/log$done" 2>&1) || { not_ok "round $round: what was fsynced in round $done" "$out"; continue; }
        [ "$done" = "$round" ] && ok "round $round: all $out files that were fsynced are there"
    done
done
check 'and it goes on' bash -c "echo x >'$MNT/new' && rm -r '$MNT/sync1' && [ \$(cat '$MNT/new') = x ]"
