# Sourced by t_*.sh. Gives each test a directory of its own, clusters in it, and lines that run.sh counts:
#   "ok NAME", "not ok NAME: WHY", "skip NAME: WHY".
# With CFS_TEST_PLAIN=DIR the same test runs on that directory of an ordinary filesystem, without a cluster: that is how
# a test itself is checked.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
bin=${CFS_BIN:-$top/build/bin}
helpers=$top/build/test
LONG=${LONG:-}
export CFS_LOCAL_TIMEOUT=${CFS_LOCAL_TIMEOUT:-60} # tests share their machine with others
test_name=$(basename "$0" .sh)
mkdir -p "${CFS_TEST_WORK:=${TMPDIR:-/tmp}/cfs-test}"
WORK=$(mktemp -d "$CFS_TEST_WORK/$test_name.XXXXXX") || exit 1
CL=$WORK/cluster
MNT=$WORK/mnt
bad=0
started=() # process ids of ours, with start times, ended at the end

ok() { printf 'ok %s: %s\n' "$test_name" "$1"; }
not_ok() { # NAME WHY
    bad=1
    printf 'not ok %s: %s: %s\n' "$test_name" "$1" "$(tr '\n' ' ' <<<"${2:-}" | cut -c 1-300)"
}
skip() { printf 'skip %s: %s: %s\n' "$test_name" "$1" "$2"; }
# verdict NAME WHY: passed when WHY is empty.
verdict() { if [ -z "$2" ]; then ok "$1"; else not_ok "$1" "$2"; fi; }
# check NAME COMMAND...: passed when the command succeeds.
check() {
    local name=$1 out
    shift
    if out=$("$@" 2>&1); then ok "$name"; else not_ok "$name" "status $?: $(tail -n 3 <<<"$out")"; false; fi
}
# refused NAME TEXT COMMAND...: passed when it fails and says TEXT (a regular expression).
refused() {
    local name=$1 text=$2 out
    shift 2
    if out=$("$@" 2>&1); then not_ok "$name" "it succeeded"; elif grep -qiE "$text" <<<"$out"; then ok "$name"; else not_ok "$name" "it said: $out"; fi
}
# same NAME A B
same() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "'$2' is not '$3'"; fi; }
# at_most NAME VALUE LIMIT: numbers may have decimals.
at_most() {
    if awk -v a="$2" -v b="$3" 'BEGIN { exit !(a != "" && a <= b) }'; then ok "$1 ($2, limit $3)"; else not_ok "$1" "$2, limit $3"; fi
}
need() { # COMMAND...: or the test is skipped
    local c
    for c in "$@"; do
        command -v "$c" >/dev/null || { skip "needs $c" 'not installed'; exit 0; }
    done
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
# until_true SECONDS COMMAND...
until_true() {
    local end=$(($(now_ms) + $1 * 1000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(now_ms)" -lt $end ] || return 1
        sleep 0.1
    done
}

# ---- processes of the test -----------------------------------------------------------------

start_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }
# remember PID: it is ended when the test ends.
remember() { started+=("$1 $(start_of "$1")"); }
end_process() { # PID START SIGNAL
    [ -n "$2" ] && [ "$(start_of "$1")" = "$2" ] && kill "-$3" "$1" 2>/dev/null
}

# ---- clusters ------------------------------------------------------------------------------

plain() { [ -n "${CFS_TEST_PLAIN:-}" ]; }
need_cluster() { plain && { skip "$1" 'not on a plain directory'; exit 0; }; }
local_() { "$bin/cfs-local" "$@"; }
# cluster_up [OPTIONS of cfs-local up]: in $CL, mounted at $MNT.
cluster_up() {
    if plain; then
        MNT=$CFS_TEST_PLAIN/$test_name
        rm -rf "$MNT" && mkdir -p "$MNT"
        return
    fi
    local out
    if ! out=$(local_ up --dir "$CL" --mount "$MNT" "$@" 2>&1); then
        not_ok 'cluster up' "$out"
        exit 1
    fi
    export CFS_CLUSTER
    CFS_CLUSTER=$(sed -n 's/^port.meta1=/127.0.0.1:/p' "$CL/cluster.conf")
}
cluster_down() { plain || local_ down --dir "$CL" "$@"; }
kill_() { plain || local_ kill --dir "$CL" "$1"; }
start_() { plain || local_ start --dir "$CL" "$1"; }
pid_of() { local_ pid --dir "$CL" "$1"; }
# status_field JQ-LIKE PYTHON: an expression over the parsed status `s`.
status() { timeout 20 "$bin/cfs" status --json | python3 -c "import json,sys; s=json.load(sys.stdin); print($1)"; }
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }

cleanup() {
    local one
    trap '' INT TERM
    for one in "${started[@]}"; do
        # shellcheck disable=SC2086
        end_process $one KILL
    done
    if [ -n "${KEEP:-}" ] && [ $bad != 0 ]; then
        echo "# kept: $WORK"
    else
        "$here/clean.sh" "$WORK"
    fi
    plain && rm -rf "$MNT"
    exit $bad
}
trap cleanup EXIT
cd "$WORK" || exit 1 # programs like fio leave files where they are started
trap 'bad=1; exit 1' INT TERM

# ---- pauses --------------------------------------------------------------------------------

# probe_start: the probe runs beside the load, on a file of its own.
probe_start() {
    mkdir -p "$MNT/.probe"
    "$helpers/probe" "$MNT/.probe" "$WORK" >"$WORK/probe.out" 2>"$WORK/probe.err" &
    probe_pid=$!
    remember $probe_pid
    sleep 2
    kill -USR1 $probe_pid # from here on it counts as after the fault
}
# probe_stop NAME LIMIT: no call failed, and none took LIMIT s longer than the longest before the fault.
probe_stop() {
    kill -INT $probe_pid 2>/dev/null
    wait $probe_pid
    local rc=$?
    local before after
    read -r before after <"$WORK/probe.out"
    if [ $rc != 0 ]; then
        not_ok "$1: the probe" "status $rc, $(tail -n 1 "$WORK/probe.err")"
        return
    fi
    sed -n 's/^probe: \(.* after the mark\)/# \1/p' "$WORK/probe.err"
    at_most "$1: longest pause beyond the quiet one, in s" "$(awk -v a="$after" -v b="$before" 'BEGIN { d = a - b; printf "%.3f", d < 0 ? 0 : d }')" "$2"
}

# What workers that died left in the arena is all taken over.
nothing_dropped() {
    plain || verdict 'no worker dropped a record of the one before' "$(grep -hE 'no worker wrote|nobody made' "$CL"/log/mount*.log | head -n 3)"
}

# ---- data ----------------------------------------------------------------------------------

random_file() { # PATH BYTES SEED
    openssl enc -aes-128-ctr -nosalt -pass "pass:$3" -in /dev/zero 2>/dev/null | head -c "$2" >"$1"
}
# make_tree DIR FILES SEED: small files (median 4 KiB) in directories of 50.
make_tree() { python3 "$here/make_tree.py" "$@"; }
