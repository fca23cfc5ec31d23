#!/usr/bin/env bash
# bench/run.sh: CFS beside GlusterFS disperse 4+2 and libfuse's passthrough_ll (the limit) on this machine.
#   make bench                          three rounds of everything
#   BENCH_QUICK=1 make bench            one round, smaller
#   TARGETS="cfs pll" ROWS="seqwrite seqread" ROUNDS=5 make bench
# Interleaved: each row is run on each target in turn, each run after the same idle time and, where it says cold, after a
# remount with dropped caches. Prints a table of medians with ratios, what CFS did for one file, call or MiB of each row
# (its first run), and writes bench.json beside it ($OUT).
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
bin=$here/build/bin
quick=${BENCH_QUICK:-}
rounds=${ROUNDS:-$([ -n "$quick" ] && echo 1 || echo 3)}
idle=${IDLE:-$([ -n "$quick" ] && echo 1 || echo 5)}
targets=${TARGETS:-cfs gluster pll}
mib=${MIB:-$([ -n "$quick" ] && echo 256 || echo 1024)}
files=${FILES:-$([ -n "$quick" ] && echo 1000 || echo 5000)}
secs=${SECS:-$([ -n "$quick" ] && echo 3 || echo 10)}
transactions=$([ -n "$quick" ] && echo 100 || echo 500)
work=${BENCH_DIR:-/var/tmp/cfs-bench.$$}
out=${OUT:-$here/build/bench.json}
all_rows="seqwrite seqread randread randwrite create1 stat1 rename1 unlink1 create4 stat4 rename4 unlink4 lsl untar cp grep rm gitadd sqlite dbench"
rows=${ROWS:-$all_rows}

. "$here/bench/targets.sh"
"$here/tools/deps.sh" bench || exit 1
[ "$(id -u)" = 0 ] || { echo "bench: run as root (it mounts filesystems and drops caches)" >&2; exit 1; }
mkdir -p "$work" "$(dirname "$out")"
gcc -O2 -o "$work/workload" "$here/bench/workload.c" -lpthread || exit 1

started=
finish() {
    for t in $started; do "${t}_down" >/dev/null 2>&1; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

seconds_of() { # seconds_of COMMAND...: wall seconds
    local a b
    a=$(date +%s.%N)
    "$@" >/dev/null 2>"$work/err" || { cat "$work/err" >&2; return 1; }
    b=$(date +%s.%N)
    awk "BEGIN { printf \"%.3f\", $b - $a }"
}
in_dir() { (cd "$1" && shift && "$@"); }
# git add runs in a fresh repository of a quarter of the tree
git_add() { git init -q "$1/repo" && cp -r "$1/src/tree"/d0* "$1/src/tree"/d1[0-7]* "$1/repo/" && :; }
sqlite_run() {
    rm -f "$1"/db*
    awk -v n="$2" 'BEGIN { print "pragma synchronous=full; create table t(a integer primary key, b text);"
        for (i = 0; i < n; i++) print "insert into t(b) values(\"row " i " of many, with some text in it\");" }' |
        sqlite3 "$1/db" >/dev/null
}

# prepare TARGET ROW: what is not timed.
prepare() {
    local m=$work/$1
    case $2 in
    seqwrite) rm -f "$m/big" ;;
    create[14] | stat[14] | rename[14] | unlink[14]) mkdir -p "$m/n${2: -1}" ;;
    lsl)
        mkdir -p "$m/n1l"
        [ -d "$m/n1l/t0" ] || "$work/workload" create "$m/n1l" "$files" 1 >/dev/null ;;
    untar) rm -rf "$m/src"; mkdir "$m/src" ;;
    cp) rm -rf "$m/copy" ;;
    gitadd) rm -rf "$m/repo"; git_add "$m" ;;
    sqlite) rm -f "$m"/db* ;;
    dbench) rm -rf "$m/clients" ;;
    esac
}
# measure TARGET ROW: one number on stdout
measure() {
    local t=$1 row=$2 m=$work/$1
    case $row in
    seqwrite) "$work/workload" seqwrite "$m" "$mib" ;;
    seqread) "$work/workload" seqread "$m" "$mib" ;;
    randread) "$work/workload" randread "$m" "$secs" ;;
    randwrite) "$work/workload" randwrite "$m" "$secs" ;;
    create[14] | stat[14] | rename[14] | unlink[14])
        "$work/workload" "${row%[14]}" "$m/n${row: -1}" "$files" "${row: -1}" ;;
    lsl) seconds_of ls -l "$m/n1l/t0" ;;
    untar) seconds_of tar -xf "$work/tree.tar" -C "$m/src" ;;
    cp) seconds_of cp -r "$m/src" "$m/copy" ;;
    grep) seconds_of sh -c "grep -r 'no such words' '$m/src' || true" ;;
    rm) seconds_of rm -rf "$m/copy" ;;
    gitadd) seconds_of git -C "$m/repo" add . ;;
    sqlite)
        local s
        s=$(seconds_of sqlite_run "$m" "$transactions") && awk "BEGIN { printf \"%.1f\", $transactions / $s }" ;;
    dbench) dbench -D "$m" -t "$secs" 2 2>"$work/err" | awk '/^Throughput/ { print $2 }' ;;
    esac
}
# units_of ROW FIGURE: over how many of what the counts of a run are divided.
units_of() {
    case $1 in
    seq*) echo "$mib MiB" ;;
    rand*) awk "BEGIN { print int($2 * $secs), \"call\" }" ;;
    *[14]) echo "$files call" ;;
    gitadd) echo "$((files / 4)) file" ;;
    sqlite) echo "$transactions transaction" ;;
    dbench) awk "BEGIN { print int($2 * $secs), \"MB\" }" ;;
    *) echo "$files file" ;;
    esac
}
# Counters come with heartbeats, once a second.
counts() {
    sleep 1.5
    (cd "$work/cfs" && "$bin/cfs" status --json) >"$work/status"
    python3 "$here/bench/counts.py" "$work/status" "$work/"
}
cold_rows=" seqread randread stat1 stat4 lsl grep "
unit_of() {
    case $1 in
    seq*|dbench) echo MB/s ;; rand*) echo IOPS ;; *[14]) echo per-s ;; sqlite) echo tx/s ;; *) echo s ;;
    esac
}

echo "bench: work in $work, $rounds rounds, ${mib} MiB, $files files; idle ${idle}s before each run"
python3 "$here/bench/tree.py" "$work/gen/tree" "$files" && tar -C "$work/gen" -cf "$work/tree.tar" tree && rm -rf "$work/gen"
for t in $targets; do
    started="$t $started" # before it starts: what is half up is taken down too
    "${t}_up" || { echo "bench: $t did not start" >&2; exit 1; }
done
: >"$work/figures" >"$work/counts"
for round in $(seq "$rounds"); do
    for row in $rows; do
        for t in $targets; do
            prepare "$t" "$row" || { echo "bench: $t: cannot prepare $row" >&2; exit 1; }
            case $cold_rows in *" $row "*) "${t}_cold" || { echo "bench: $t did not remount" >&2; exit 1; } ;; esac
            sleep "$idle"
            before=
            [ "$t$round" = cfs1 ] && before=$(counts)
            figure=$(measure "$t" "$row")
            [ -n "$figure" ] || figure=failed
            if [ -n "$before" ] && [ "$figure" != failed ]; then
                printf '%s\t%s\t%s\t%s\n' "$row" "$(units_of "$row" "$figure")" "$before" "$(counts)" >>"$work/counts"
            fi
            echo "$row $t $figure" >>"$work/figures"
            printf 'round %s  %-10s %-8s %s %s\n' "$round" "$row" "$t" "$figure" "$(unit_of "$row")"
        done
    done
done
python3 "$here/bench/table.py" "$work/figures" "$work/counts" "$out" "$rounds" $targets
