#!/usr/bin/env bash
# time: 120 300
# POSIX semantics, call by call (posix_*.c).
. "$(dirname "$0")/lib.sh"
cluster_up
plain && export POSIX_SMALL_XATTR=1
for program in posix_names posix_data posix_locks; do
    mkdir -p "$MNT/$program"
    timeout 100 "$helpers/$program" "$MNT/$program" >"$WORK/$program.out" 2>&1
    rc=$?
    while read -r line; do
        case $line in
        'ok '*) ok "$program ${line#ok }" ;;
        'not ok '*) not_ok "$program" "${line#not ok }" ;;
        esac
    done <"$WORK/$program.out"
    [ $rc -le 1 ] || not_ok "$program" "ended with status $rc"
done
