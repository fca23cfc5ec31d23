#!/usr/bin/env bash
# time: 60 600
# Random calls on one file, compared with a copy in memory (random_io.c).
. "$(dirname "$0")/lib.sh"
cluster_up
calls=$([ -n "$LONG" ] && echo 20000 || echo 1000)
for seed in 1 2; do
    if out=$(timeout 280 "$helpers/random_io" "$MNT/random$seed" "$calls" "$seed" 2>&1); then
        ok "random_io seed $seed"
    else
        not_ok "random_io seed $seed" "$(head -n 1 <<<"$out")"
    fi
done
