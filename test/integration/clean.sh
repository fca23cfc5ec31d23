#!/usr/bin/env bash
# clean.sh DIR: ends the clusters, mounts, loop devices and processes that live under DIR, then removes it.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
bin=${CFS_BIN:-$top/build/bin}
dir=$(cd "$1" 2>/dev/null && pwd) || exit 0
case $dir in /*/*) ;; *) echo "clean.sh: not in $dir" >&2; exit 1 ;; esac

find "$dir" -xdev -maxdepth 6 -name cluster.conf 2>/dev/null | while read -r conf; do
    timeout -k 5 60 "$bin/cfs-local" down --dir "$(dirname "$conf")" --force --timeout 3 >/dev/null 2>&1
done
# What is left of clients and servers: by command line, which names their directory.
for stat in /proc/[0-9]*/cmdline; do
    pid=${stat#/proc/}
    pid=${pid%/cmdline}
    [ "$pid" = $$ ] && continue
    comm=$(cat "/proc/$pid/comm" 2>/dev/null)
    case $comm in
    mount.cfs | cfs-meta | cfs-chunkserver)
        { tr '\0' '\n' <"$stat"; } 2>/dev/null | grep -qF "$dir/" && kill -KILL "$pid" 2>/dev/null
        ;;
    esac
done
for _ in 1 2 3; do
    awk '{ print $5 }' /proc/self/mountinfo | grep "^$dir/" | sort -r | while read -r where; do
        umount -l "$(printf '%b' "$where")" 2>/dev/null
    done
done
losetup -l -n -O NAME,BACK-FILE 2>/dev/null | awk -v d="$dir/" 'index($2, d) == 1 { print $1 }' | while read -r loop; do
    losetup -d "$loop" 2>/dev/null
done
rm -rf --one-file-system "$dir" 2>/dev/null
for one in /run/cfs/clients/*; do # of clients that were killed
    case $(sed -n 2p "$one" 2>/dev/null) in "$dir"/*) rm -f "$one" ;; esac
done
rmdir /run/cfs/clients /run/cfs 2>/dev/null
exit 0
