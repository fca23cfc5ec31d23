#!/usr/bin/env bash
# test/run_unit.sh PROGRAM...: runs each test program, at most 120 s each, and sums up.
# The last line is "N passed, N failed"; exits 1 if anything failed. A program that dies or hangs counts as
# one failure, however many of its tests had passed.
passed=0
failed=0
for program in "$@"; do
    out=$(CK_FORK=${CK_FORK:-no} timeout 120 "$program" 2>&1)
    rc=$?
    summary=$(grep -E '^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+' <<<"$out" | tail -1)
    name=$(basename "$program")
    if [ -z "$summary" ] || { [ $rc -ne 0 ] && grep -q 'Failures: 0, Errors: 0' <<<"$summary"; }; then
        printf '%-24s exit %d\n%s\n' "$name" "$rc" "$(tail -40 <<<"$out")"
        failed=$((failed + 1))
        continue
    fi
    read -r checks failures errors < <(sed -E 's/^[0-9]+%: Checks: ([0-9]+), Failures: ([0-9]+), Errors: ([0-9]+).*/\1 \2 \3/' <<<"$summary")
    bad=$((failures + errors))
    passed=$((passed + checks - bad))
    failed=$((failed + bad))
    printf '%-24s %s\n' "$name" "$summary"
    [ $bad -eq 0 ] || printf '%s\n' "$out"
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
