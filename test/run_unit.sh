#!/usr/bin/env bash
# Runs unit test programs (libcheck), two at a time, each with a time limit. Prints what fails, then one line.
#   test/run_unit.sh PROGRAM...
# With TALLY set, appends "ok NAME" or "not ok NAME" per test to that file.
set -u
limit=${UNIT_SECONDS:-180}
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT

run_one() { # PROGRAM OUT LIMIT
    local name
    name=$(basename "$1")
    CK_FORK=${CK_FORK:-no} timeout -k 5 "$3" "$1" >"$2/$name.out" 2>&1 </dev/null
    echo $? >"$2/$name.rc"
}
export -f run_one
printf '%s\n' "$@" | xargs -r -P "$(nproc)" -I{} bash -c 'run_one "$1" "$2" "$3"' _ {} "$out" "$limit"

passed=0
failed=0
for program in "$@"; do
    name=$(basename "$program")
    rc=$(cat "$out/$name.rc" 2>/dev/null || echo 99)
    counts=$(sed -nE 's/^[0-9]+%: Checks: ([0-9]+), Failures: ([0-9]+), Errors: ([0-9]+).*/\1 \2 \3/p' "$out/$name.out" | tail -n 1)
    read -r checks failures errors <<<"${counts:-1 0 0}"
    bad=$((failures + errors))
    [ "$rc" != 0 ] && [ "$bad" = 0 ] && bad=1
    [ "$bad" -gt "$checks" ] && checks=$bad
    passed=$((passed + checks - bad))
    failed=$((failed + bad))
    if [ "$bad" != 0 ]; then
        printf 'not ok %s (status %s)\n' "$program" "$rc"
        tail -n 40 "$out/$name.out" | sed 's/^/    /'
    fi
    if [ -n "${TALLY:-}" ]; then
        for ((i = bad; i < checks; i++)); do echo "ok $name"; done >>"$TALLY"
        for ((i = 0; i < bad; i++)); do echo "not ok $name"; done >>"$TALLY"
    fi
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
