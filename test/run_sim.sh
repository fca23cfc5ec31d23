#!/usr/bin/env bash
# run_sim.sh SEEDS PROGRAM...: runs each simulation with the seeds 1 to SEEDS; on a failure prints the
# one command that replays it. Ends with "N passed, N failed".
set -u
[ $# -ge 2 ] || { echo "usage: $0 SEEDS PROGRAM..." >&2; exit 2; }
seeds=$1
shift
passed=0
failed=0
for program in "$@"; do
    for ((seed = 1; seed <= seeds; seed++)); do
        if output=$(timeout "${SIM_TIMEOUT:-120}" "$program" "$seed" 2>&1); then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "$output" | tail -5
            echo "FAILED, replay with: $program $seed"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
