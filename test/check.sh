#!/usr/bin/env bash
# make check / make check-long: everything that can be checked by itself.
#   test/check.sh short|long [STEP...]     steps: build unit sim clang san tidy fuzz integration (all by default)
# The last line is "N passed, N failed", counted over all steps. Everything that is started works under one
# temporary directory, and only that is ended and removed, also after a failure or Ctrl-C.
set -u
top=$(cd "$(dirname "$0")/.." && pwd) && cd "$top" || exit 1
form=${1:-short}
shift
case $form in
short) seeds=20 fuzz=4 LONG= ;;
long) seeds=1000 fuzz=60 LONG=1 ;;
*) echo "usage: test/check.sh short|long [STEP...]" >&2; exit 2 ;;
esac
export LONG
jobs=$(nproc)
steps=${*:-build unit sim clang san tidy fuzz integration}

tools/deps.sh "$([ -n "$LONG" ] && echo long || echo check)" || { echo "0 passed, 1 failed"; exit 1; }

WORK=$(mktemp -d "${TMPDIR:-/tmp}/cfs-check.XXXXXX") || exit 1
TALLY=$WORK/tally
export TALLY CFS_TEST_WORK=$WORK/integration
mkdir -p "$CFS_TEST_WORK"
: >"$TALLY"
child=

finish() {
    trap '' INT TERM
    if [ -n "$child" ] && kill -0 "$child" 2>/dev/null; then
        kill -TERM -- "-$child" 2>/dev/null
        for _ in $(seq 100); do kill -0 "$child" 2>/dev/null || break; sleep 0.1; done
        kill -KILL -- "-$child" 2>/dev/null
    fi
    test/integration/clean.sh "$CFS_TEST_WORK"
    local passed failed
    passed=$(grep -c '^ok ' "$TALLY")
    failed=$(grep -c '^not ok ' "$TALLY")
    [ "$failed" != 0 ] && { echo; echo "failed:"; grep '^not ok ' "$TALLY" | sort | uniq -c | sed 's/^/  /'; }
    rm -rf --one-file-system "$WORK"
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ] && exit 0
    exit 1 # a bare exit would give the status from before the trap
}
trap finish EXIT
trap 'echo "not ok interrupted" >>"$TALLY"; exit 1' INT TERM

# step NAME SECONDS COMMAND...: in a process group of its own, so that it can be ended as a whole.
step() {
    local name=$1 limit=$2 begin rc
    shift 2
    begin=$(date +%s)
    printf '\n=== %s\n' "$name"
    set -m
    timeout -k 20 "$limit" "$@" </dev/null &
    child=$!
    set +m
    wait "$child"
    rc=$?
    child=
    [ $rc = 124 ] || [ $rc = 137 ] && { echo "$name did not end within $limit s"; echo "not ok $name (time)" >>"$TALLY"; }
    printf '=== %s: %s in %d s\n' "$name" "$([ $rc = 0 ] && echo good || echo "FAILED ($rc)")" $(($(date +%s) - begin))
    return $rc
}

# A step whose only result is its exit status.
plain() {
    if step "$@"; then echo "ok $1" >>"$TALLY"; else echo "not ok $1" >>"$TALLY"; false; fi
}
quiet_make() { # LOG ARGS...
    local log=$WORK/$1
    shift
    make -s -j"$jobs" "$@" >"$log" 2>&1 || { tail -n 40 "$log"; return 1; }
}
export -f quiet_make
export WORK jobs
unit_of() { ls test/unit/test_*.c 2>/dev/null | sed "s|.*/\(.*\)\.c|$1/test/\1|"; }
sims_of() { ls test/sim/sim_*.c 2>/dev/null | sed "s|.*/\(.*\)\.c|$1/test/\1|"; }

run_step() {
    local programs
    case $1 in
    build) plain 'build with gcc' 900 bash -c 'quiet_make gcc.log all test-programs' || exit 1 ;;
    unit)
        mapfile -t programs < <(unit_of build)
        step 'unit tests' 600 test/run_unit.sh "${programs[@]}"
        ;;
    sim)
        mapfile -t programs < <(sims_of build)
        [ ${#programs[@]} = 0 ] || step 'simulation' 3000 test/run_sim.sh "$seeds" "${programs[@]}"
        [ ! -x build/test/sim_clients ] || step 'simulation: planted bugs' 300 build/test/sim_clients --self-test
        ;;
    clang) plain 'build with clang' 900 bash -c 'quiet_make clang.log CC=clang all' ;;
    san)
        plain 'build with ASan and UBSan' 900 bash -c 'quiet_make san.log SAN=1 all test-programs' || return
        mapfile -t programs < <(unit_of build-san)
        UNIT_SECONDS=400 step 'unit tests under ASan and UBSan' 900 test/run_unit.sh "${programs[@]}"
        ;;
    tidy) step 'tidy' 1200 tools/tidy.sh ;;
    fuzz) FUZZ_SECONDS=$fuzz step 'fuzz' 3600 test/run_fuzz.sh ;;
    integration)
        if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
            echo "integration tests need root and /dev/fuse"
            echo "not ok integration (needs root and /dev/fuse)" >>"$TALLY"
        else
            step 'integration' "$([ -n "$LONG" ] && echo 10800 || echo 2000)" test/integration/run.sh
        fi
        ;;
    *) echo "no step $1"; echo "not ok step $1" >>"$TALLY" ;;
    esac
}
for one in $steps; do
    run_step "$one"
done
