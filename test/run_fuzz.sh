#!/usr/bin/env bash
# Builds the fuzz targets with clang's libFuzzer, ASan and UBSan, and runs each for FUZZ_SECONDS (5) from the corpus in
# test/fuzz/corpus/NAME, if there is one. A crash leaves its input in build-fuzz/crash/NAME and says how to replay it.
set -u
top=$(cd "$(dirname "$0")/.." && pwd) && cd "$top" || exit 1
seconds=${FUZZ_SECONDS:-5}
flags='-O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'
mkdir -p build-fuzz
if ! make -s -j"$(nproc)" B=build-fuzz CC=clang CXX=clang++ OPT="$flags" fuzz-programs >build-fuzz/build.log 2>&1; then
    tail -n 30 build-fuzz/build.log
    echo "not ok fuzz: the build failed"
    [ -n "${TALLY:-}" ] && echo "not ok fuzz-build" >>"$TALLY"
    exit 1
fi

run_one() { # SOURCE SECONDS
    local name crash work
    name=$(basename "$1" .c)
    crash=build-fuzz/crash/$name
    work=build-fuzz/corpus/$name
    mkdir -p "$crash" "$work"
    local dirs=("$work")
    [ -d "test/fuzz/corpus/$name" ] && dirs+=("test/fuzz/corpus/$name")
    timeout -k 5 $(($2 + 60)) "build-fuzz/fuzz/$name" -max_total_time="$2" -rss_limit_mb=1024 -timeout=10 -max_len=65536 \
        -print_final_stats=0 -verbosity=0 -artifact_prefix="$crash/" "${dirs[@]}" >"$work.out" 2>&1 </dev/null
    local rc=$?
    if [ $rc = 0 ]; then
        echo "ok $name"
    else
        echo "not ok $name (status $rc; replay: build-fuzz/fuzz/$name $crash/FILE)"
        tail -n 30 "$work.out" | sed 's/^/    /'
    fi
}
export -f run_one
result=$(ls test/fuzz/fuzz_*.c 2>/dev/null | xargs -r -P "$(nproc)" -I{} bash -c 'run_one "$1" "$2"' _ {} "$seconds")
echo "$result"
[ -n "${TALLY:-}" ] && grep -E '^(not )?ok ' <<<"$result" >>"$TALLY"
failed=$(grep -c '^not ok' <<<"$result")
printf '%d passed, %d failed\n' "$(grep -c '^ok' <<<"$result")" "$failed"
[ "$failed" = 0 ]
