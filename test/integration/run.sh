#!/usr/bin/env bash
# Runs integration tests: run.sh [t_NAME...]; all of them by default. LONG=1: the full forms.
# A test says its time limits in a line "# time: SHORT LONG" (seconds). With TALLY set, results are appended there.
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
export CFS_TEST_WORK=${CFS_TEST_WORK:-$(mktemp -d "${TMPDIR:-/tmp}/cfs-integration.XXXXXX")}
out=$CFS_TEST_WORK/out
mkdir -p "$CFS_TEST_WORK"
: >"$out"
child=
finish() {
    trap '' INT TERM
    [ -n "$child" ] && kill -TERM -- "-$child" 2>/dev/null && sleep 1 && kill -KILL -- "-$child" 2>/dev/null
    passed=$(grep -c '^ok ' "$out")
    failed=$(grep -c '^not ok ' "$out")
    skipped=$(grep -c '^skip ' "$out")
    "$here/clean.sh" "$CFS_TEST_WORK"
    [ "$skipped" = 0 ] || echo "$skipped skipped"
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ] && exit 0
    exit 1 # a bare exit would give the status from before the trap
}
trap finish EXIT
trap 'exit 1' INT TERM

left_behind() {
    local pid
    for pid in $(pgrep -f "$CFS_TEST_WORK/$1\\." 2>/dev/null); do
        case $(cat "/proc/$pid/comm" 2>/dev/null) in
        mount.cfs | cfs-meta | cfs-chunkserver) echo "process $pid" ;;
        esac
    done
    grep -o " $CFS_TEST_WORK/$1\\.[^ ]*" /proc/self/mountinfo
}

if [ $# = 0 ]; then
    mapfile -t tests < <(ls "$here"/t_*.sh)
else
    tests=()
    for t in "$@"; do tests+=("$here/$(basename "$t" .sh).sh"); done
fi
for test in "${tests[@]}"; do
    name=$(basename "$test" .sh)
    read -r short long < <(sed -n 's/^# time: //p' "$test" | head -n 1)
    limit=${short:-60}
    [ -n "${LONG:-}" ] && limit=${long:-600}
    begin=$(date +%s)
    echo "--- $name"
    set -m
    timeout -k 30 "$limit" bash "$test" </dev/null >"$CFS_TEST_WORK/$name.out" 2>&1 &
    child=$!
    set +m
    wait $child
    rc=$?
    child=
    grep -E '^(ok|not ok|skip) ' "$CFS_TEST_WORK/$name.out" >"$CFS_TEST_WORK/lines"
    case $rc in
    124 | 137) echo "not ok $name: did not end within $limit s" >>"$CFS_TEST_WORK/lines" ;;
    0) ;;
    *) grep -q '^not ok' "$CFS_TEST_WORK/lines" || echo "not ok $name: ended with status $rc: $(tail -n 1 "$CFS_TEST_WORK/$name.out")" >>"$CFS_TEST_WORK/lines" ;;
    esac
    grep -qE '^(ok|not ok|skip) ' "$CFS_TEST_WORK/lines" || echo "not ok $name: said nothing" >>"$CFS_TEST_WORK/lines"
    # A script that broke off ends with what it had by then; its own words tell.
    broke=$(grep -m 1 -E '\.sh: line [0-9]+: .*(unbound variable|syntax error|command not found)' "$CFS_TEST_WORK/$name.out")
    [ -z "$broke" ] || echo "not ok $name: $broke" >>"$CFS_TEST_WORK/lines"
    left=$(left_behind "$name")
    [ -z "$left" ] || echo "not ok $name: left behind: $(tr '\n' ' ' <<<"$left")" >>"$CFS_TEST_WORK/lines"
    for dir in "$CFS_TEST_WORK/$name".*/; do [ -d "$dir" ] && "$here/clean.sh" "$dir"; done # only what was cut short left one
    cat "$CFS_TEST_WORK/lines"
    cat "$CFS_TEST_WORK/lines" >>"$out"
    [ -n "${TALLY:-}" ] && cat "$CFS_TEST_WORK/lines" >>"$TALLY"
    grep "^# " "$CFS_TEST_WORK/$name.out" | sed "s/^/    /"
    grep -q '^not ok' "$CFS_TEST_WORK/lines" && grep -vE '^(ok|not ok|skip|#) ' "$CFS_TEST_WORK/$name.out" | tail -n 15 | sed 's/^/    /'
    echo "--- $name: $(($(date +%s) - begin)) s"
done
