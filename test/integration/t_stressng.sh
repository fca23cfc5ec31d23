#!/usr/bin/env bash
# time: 420 3000
# stress-ng's filesystem stressors, all of the class, each for 3 s; long: each for 10 s, then four of each at once while the
# client's worker is killed every 2 s. None is left out: passthrough_ll, the measure of that, fails ioprio (pwritev: EBADF)
# and nothing else of the class, and CFS does not.
. "$(dirname "$0")/lib.sh"
need stress-ng unshare
cluster_up
seconds=$([ -n "$LONG" ] && echo 10 || echo 3)
mapfile -t all < <(stress-ng --class filesystem? 2>&1 | sed 's/.*: //' | tr ' ' '\n' | grep -E '^[a-z0-9-]+$')
[ ${#all[@]} -gt 10 ] || { not_ok 'list of stressors' "${all[*]}"; exit 1; }
# alone COMMAND...: in a mount namespace without other FUSE mounts. getdent, procfs, fanotify and bind-mount go through everything
# that is mounted, and would wait for the servers of a neighbour's filesystem, as its hard mount asks for.
alone() {
    # shellcheck disable=SC2016
    unshare -m --propagation private bash -c '
        awk -v keep="$1/" "{ for (i = 7; \$i != \"-\"; i++); if (\$(i + 1) ~ /^fuse/ && index(keep, \$5 \"/\") != 1) print \$5 }" /proc/self/mountinfo |
            tac | while read -r where; do umount -l "$(printf %b "$where")"; done
        shift
        exec "$@"' alone "$MNT" "$@"
}
# run_all NAME INSTANCES
run_all() {
    local s out rc
    mkdir "$MNT/stress"
    cd "$MNT/stress" || exit 1
    for s in "${all[@]}"; do
        # --pathological: without it stress-ng itself refuses bind-mount.
        out=$(alone timeout -k 5 $((seconds * 8 + 30)) stress-ng --pathological --"$s" "$2" --timeout "$seconds" --verify --temp-path "$MNT/stress" --no-rand-seed --hdd-bytes 64M --fallocate-bytes 64M --iomix-bytes 64M --seek-size 16M --readahead-bytes 64M --sync-file-bytes 16M --copy-file-bytes 128M 2>&1)
        rc=$?
        case $rc in
        0) ok "stress-ng $s$1" ;;
        3 | 4) ;; # not possible here: stress-ng says that it skipped it
        *) not_ok "stress-ng $s$1" "status $rc: $(grep -E 'fail|error|verif' <<<"$out" | head -n 2)" ;;
        esac
    done
    cd "$WORK" || exit 1
    rm -rf "$MNT/stress"
}
run_all '' 1
if [ -n "$LONG" ] && ! plain; then
    while sleep 2; do kill_ mount1; done 2>/dev/null &
    killer=$!
    remember $killer
    run_all ', four at once under kills' 4
    kill $killer
fi
nothing_dropped
