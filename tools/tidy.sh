#!/usr/bin/env bash
# House checks (docs/style.md), clang-tidy and cppcheck over our own files.
#   tools/tidy.sh          all          tools/tidy.sh house     the quick ones only
# With TALLY set, appends "ok NAME" or "not ok NAME" per check to that file.
set -u
top=$(cd "$(dirname "$0")/.." && pwd) && cd "$top" || exit 1
failed=0
passed=0
product='base proto rpc ec store meta chunkserver fuse tools'
mapfile -t sources < <(git ls-files --cached --others --exclude-standard '*.c' '*.h' '*.cc' | while read -r f; do [ -f "$f" ] && echo "$f"; done)
mapfile -t c_files < <(printf '%s\n' "${sources[@]}" | grep '\.c$')
mapfile -t headers < <(printf '%s\n' "${sources[@]}" | grep '\.h$')

# verdict NAME OFFENDERS: a check has passed when nothing offends.
verdict() {
    if [ -z "$2" ]; then
        passed=$((passed + 1))
        echo "ok tidy: $1"
        [ -n "${TALLY:-}" ] && echo "ok tidy $1" >>"$TALLY"
    else
        failed=$((failed + 1))
        echo "not ok tidy: $1"
        printf '%s\n' "$2" | head -n 40 | sed 's/^/    /'
        [ -n "${TALLY:-}" ] && echo "not ok tidy $1" >>"$TALLY"
    fi
}

banned='strcpy|strcat|sprintf|vsprintf|strtok|gmtime|localtime|ctime|asctime|gets|atoi|atol|atoll|alloca|mktemp|tmpnam|setjmp|longjmp|rand|srand'
verdict 'no banned functions' "$(grep -nE "(^|[^_[:alnum:]>.])($banned)[[:space:]]*\(" "${sources[@]}" | grep -vE ':[0-9]+:[[:space:]]*(/?\*|//)|^test/')"
verdict 'no file over 1000 lines' "$(wc -l "${sources[@]}" | awk '$2 != "total" && $1 > 1000')"
verdict 'no line over 130 columns' "$(awk 'length($0) > 130 { print FILENAME ":" FNR ": " length($0) " columns" }' "${sources[@]}")"
verdict 'no function over 70 lines' "$(awk 'FNR == 1 { open = 0 } /^\{/ { open = FNR } /^\}/ { if (open && FNR - open - 1 > 70) print FILENAME ":" open ": " FNR - open - 1 " lines"; open = 0 }' "${c_files[@]}")"
verdict 'no tabs, no spaces at line ends' "$(grep -nP '\t|[ \r]+$' "${sources[@]}")"
verdict 'no typedef of a struct' "$(grep -nE '^typedef (struct|union)' "${sources[@]}")"
verdict 'no unfinished places' "$(grep -nwE 'TODO|FIXME|XXX|HACK' "${sources[@]}" Makefile)"

guards() {
    local f guard
    for f in "${headers[@]}"; do
        guard=CFS_$(tr 'a-z/.-' 'A-Z___' <<<"$f")
        { grep -q "^#ifndef $guard\$" "$f" && grep -q "^#define $guard\$" "$f" && [ "$(tail -n 1 "$f")" = '#endif' ]; } ||
            echo "$f: guard is to be $guard and to close on the last line"
    done
}
verdict 'header guards' "$(guards)"
verdict 'basenames are unique' "$(printf '%s\n' "${c_files[@]}" | sed 's|.*/||' | sort | uniq -d)"

# Who may include whom: FOLDER: what its files may include, besides themselves and generated headers.
includes() {
    local folder allowed f
    while read -r folder allowed; do
        for f in $(printf '%s\n' "${sources[@]}" | grep "^$folder/"); do
            grep -noE '#include "[a-z]+/' "$f" | grep -v '"leveldb/'  | grep -vE "\"($folder$(printf '|%s' $allowed))/" | sed "s|^|$f:|"
        done
    done <<'RULES'
base
ec base
proto base
rpc base proto
store base
meta base proto rpc store ec
chunkserver base proto rpc store ec
fuse base proto rpc ec
tools base proto rpc ec
RULES
    grep -nE '#include "test/' $(printf '%s\n' "${sources[@]}" | grep -v '^test/') /dev/null
}
verdict 'folders include only what they may' "$(includes)"
verdict 'meta uses of ec only stripe.h' "$(grep -nE '#include "ec/' $(printf '%s\n' "${sources[@]}" | grep '^meta/') /dev/null | grep -v '"ec/stripe.h"')"

# One file per outside library. PATTERN, then the files that may.
libraries() {
    local pattern allowed f
    while read -r pattern allowed; do
        for f in $(printf '%s\n' "${sources[@]}" | grep -v '^test/'); do
            grep -qE "#include [<\"]($pattern)[>\"]" "$f" && ! grep -qE "^($allowed)\$" <<<"$f" && echo "$f includes <$pattern>"
        done
    done <<'RULES'
leveldb/.* store/(kv_leveldb|leveldb_env)[a-z_]*\.(c|cc|h)
raft.h meta/(replica|raft_[a-z]+)\.(c|h)
isa-l.*|erasure_code.h|crc.h (ec/rs|base/crc)\.c
fuse_lowlevel.h|fuse3/.* fuse/[a-z_]+\.(c|h)
uv.h (rpc/tcp[a-z_]*|store/disk_posix[a-z_]*|meta/(replica|metad)[a-z_]*|chunkserver/chunkd[a-z_]*|fuse/(fuseloop|loopstate|lifeline|cfs_mount|worker|holder)[a-z_]*|tools/ask)\.(c|h)
RULES
}
verdict 'outside libraries only where they belong' "$(libraries)"

if [ "${1:-all}" = house ]; then
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" = 0 ]
    exit
fi

[ -d build/gen ] || make -s all >/dev/null 2>&1
flags="-std=gnu11 -I. -Ibuild/gen -D_GNU_SOURCE $(pkg-config --cflags libuv fuse3 2>/dev/null)"

tidy_one() { # FILE FLAGS
    # shellcheck disable=SC2086
    timeout -k 5 300 clang-tidy --quiet "$1" -- $2 2>/dev/null || echo "$1: clang-tidy failed or took over 300 s"
}
export -f tidy_one
mapfile -t ours < <(printf '%s\n' "${c_files[@]}" | grep -E "^($(tr ' ' '|' <<<"$product"))/")
found=$(printf '%s\n' "${ours[@]}" | xargs -P "$(nproc)" -I{} bash -c 'tidy_one "$1" "$2"' _ {} "$flags" | grep -E '(warning|error):|clang-tidy failed' | sort -u)
verdict 'clang-tidy' "$found"

found=$(timeout -k 5 600 cppcheck -q -j "$(nproc)" --std=c11 --enable=warning,portability --inline-suppr \
    --suppress=missingIncludeSystem --suppress='*:build/*' --suppress=normalCheckLevelMaxBranches --suppress=nullPointerRedundantCheck \
    -I. -Ibuild/gen -D_GNU_SOURCE -D__linux__ --template='{file}:{line}: {severity}: {message} [{id}]' "${ours[@]}" 2>&1)
verdict 'cppcheck' "$found"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
