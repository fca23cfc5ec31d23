#!/usr/bin/env bash
# time: 420 3000
# stress-ng's filesystem stressors, each for 3 s (long: 10 s), all of the class; the
# pass-through filesystem fails none of them either.
. "$(dirname "$0")/lib.sh"
need stress-ng
cluster_up
seconds=$([ -n "$LONG" ] && echo 10 || echo 3)
# What needs something else than a directory, or walks /, /proc and /sys instead of it: no claim about this filesystem.
leave_out=' binderfs loop ramfs utime-none fanotify procfs sysfs dev dev-shm bad-ioctl ioprio umount mount get-mount bind-mount getdent '
mapfile -t all < <(stress-ng --class filesystem? 2>&1 | sed 's/.*: //' | tr ' ' '\n' | grep -E '^[a-z0-9-]+$')
[ ${#all[@]} -gt 10 ] || { not_ok 'list of stressors' "${all[*]}"; exit 1; }
mkdir "$MNT/stress"
for s in "${all[@]}"; do
    case $leave_out in *" $s "*) continue ;; esac
    out=$(cd "$MNT/stress" && timeout -k 5 $((seconds * 8 + 30)) stress-ng --"$s" 1 --timeout "$seconds" --verify --temp-path "$MNT/stress" --no-rand-seed --hdd-bytes 64M --fallocate-bytes 64M --iomix-bytes 64M --seek-size 16M --readahead-bytes 64M --sync-file-bytes 16M --copy-file-bytes 128M 2>&1)
    rc=$?
    case $rc in
    0) ok "stress-ng $s" ;;
    3 | 4) ;; # not possible here: stress-ng says that it skipped it
    *) not_ok "stress-ng $s" "status $rc: $(grep -E 'fail|error|verif' <<<"$out" | head -n 2)" ;;
    esac
done
rm -rf "$MNT/stress"
