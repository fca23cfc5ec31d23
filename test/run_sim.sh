#!/usr/bin/env bash
# run_sim.sh SEEDS PROGRAM...: runs each simulation with the seeds 1 to SEEDS (SEED=N: from N on), as many at a time as
# there are processors; a failure prints the one command that replays it. Ends with "N passed, N failed". With TALLY set,
# appends a line per program and seed.
set -u
[ $# -ge 2 ] || { echo "usage: $0 SEEDS PROGRAM..." >&2; exit 2; }
seeds=$1
first=${SEED:-1}
shift
one() { # PROGRAM SEED
    local output
    if output=$(timeout -k 5 "${SIM_TIMEOUT:-120}" "$1" "$2" 2>&1 </dev/null); then
        echo "ok $(basename "$1") $2"
    else
        printf 'not ok %s %s\n%s\nFAILED, replay with: %s %s\n' "$(basename "$1")" "$2" "$(tail -n 5 <<<"$output" | sed 's/^/    /')" "$1" "$2"
    fi
}
export -f one
result=$(for program in "$@"; do
    for ((seed = first; seed < first + seeds; seed++)); do printf '%s\n%s\n' "$program" "$seed"; done
done | xargs -n 2 -P "$(nproc)" bash -c 'one "$1" "$2"' _)
grep -v '^ok ' <<<"$result"
[ -n "${TALLY:-}" ] && grep -E '^(not )?ok ' <<<"$result" >>"$TALLY"
failed=$(grep -c '^not ok ' <<<"$result")
echo "$(grep -c '^ok ' <<<"$result") passed, $failed failed"
[ "$failed" = 0 ]
