#!/usr/bin/env bash
# time: 120 200
# mount(8), fstab and umount(8); read-only mounts; wrong addresses, paths and options are one clear line.
. "$(dirname "$0")/lib.sh"
need_cluster 'mount(8)'
cluster_up
local_ umount "$MNT" >/dev/null || not_ok umount failed
mkdir -p "$MNT"
helper=/sbin/mount.cfs
if [ -e $helper ] && [ "$(readlink -f $helper)" != "$(readlink -f "$bin/mount.cfs")" ]; then
    skip 'mount(8)' "$helper is another's"
    exit 0
fi
linked=
[ -e $helper ] || { ln -s "$bin/mount.cfs" $helper && linked=1; }
undo() {
    umount -l "$MNT" 2>/dev/null
    [ -n "$linked" ] && rm -f $helper
    cleanup
}
trap undo EXIT
source=$CFS_CLUSTER:/
run=run_dir=$WORK/run,log=$WORK/mount.log
mkdir -p "$WORK/run"
lines() { wc -l <<<"$1"; }
gone() { ! pgrep -f "run_dir=$WORK/run" >/dev/null; }

check 'mount -t cfs' timeout 30 mount -t cfs "$source" "$MNT" -o "$run"
check 'write, make a directory' bash -c "echo x >'$MNT/f' && mkdir -p '$MNT/sub/dir' && echo y >'$MNT/sub/dir/g'"
verdict 'the mount table shows type and source' "$(grep -q " $MNT .* - fuse.cfs $CFS_CLUSTER:/ " /proc/self/mountinfo || grep " $MNT " /proc/self/mountinfo)"
same 'the cluster is found from inside the mount' "$(cd "$MNT" && env -u CFS_CLUSTER "$bin/cfs" status --json | head -c 12)" '{"cluster":"'
check 'umount(8)' timeout 60 umount "$MNT"
check 'the client ends' until_true 30 gone

check 'a subdirectory' timeout 30 mount -t cfs "$CFS_CLUSTER:/sub/dir" "$MNT" -o "$run"
same 'shows what is in it' "$(cat "$MNT/g"; ls "$MNT")" 'y
g'
check 'umount of it' timeout 60 umount "$MNT"
until_true 30 gone

check 'read-only' timeout 30 mount -t cfs "$source" "$MNT" -o "ro,$run"
same 'can be read' "$(cat "$MNT/f")" x
refused 'and not written' 'Read-only' touch "$MNT/new"
check 'umount of it, forced' timeout 60 umount -f "$MNT"
until_true 30 gone

echo "$source $MNT cfs noauto,$run 0 0" >"$WORK/fstab"
check 'mount by an fstab line' timeout 30 mount -T "$WORK/fstab" "$MNT"
check 'and it is mounted' mountpoint -q "$MNT"
check 'umount of it too' timeout 60 umount "$MNT"
until_true 30 gone

bad_mount() { # NAME TEXT SOURCE OPTIONS
    local out rc
    out=$(timeout 60 mount -t cfs "$3" "$MNT" -o "$4" 2>&1)
    rc=$?
    if [ $rc = 0 ]; then
        not_ok "$1" 'it was mounted'
        umount "$MNT"
    elif [ $rc = 124 ]; then
        not_ok "$1" 'it did not end'
    elif ! grep -qiE "$2" <<<"$out"; then
        not_ok "$1" "status $rc: $out"
    elif [ "$(lines "$out")" -gt 2 ]; then
        not_ok "$1: one line" "$out"
    else
        ok "$1"
    fi
}
bad_mount 'nobody listens' 'connect|refused|reach|answer' 127.0.0.1:1:/ "$run"
bad_mount 'no such directory' 'no such|not found|does not exist' "$CFS_CLUSTER:/none/such" "$run"
bad_mount 'a file is no directory' 'not a directory|does not exist' "$CFS_CLUSTER:/f" "$run"
bad_mount 'no path' 'source|path|address|HOST:PORT' "$CFS_CLUSTER" "$run"
bad_mount 'no port' 'source|port|address|HOST:PORT' "127.0.0.1:/" "$run"
bad_mount 'an unknown option' 'option|nosuchoption' "$source" "nosuchoption,$run"
bad_mount 'a wrong value' 'deadline' "$source" "deadline=soon,$run"
"$bin/mount.cfs" >"$WORK/usage" 2>&1
same 'without arguments: exit status of wrong usage' $? 1
