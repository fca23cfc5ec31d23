#!/usr/bin/env bash
# time: 90 120
# Until there are leases a second mount of one cluster is refused with that reason; after the first one's death a remount works at
# once.
. "$(dirname "$0")/lib.sh"
need_cluster 'a second mount'
cluster_up
echo x >"$MNT/f"
refused 'a second mount' 'another client|leases' timeout 30 "$bin/cfs-local" mount --dir "$CL" "$WORK/again"
same 'the first one goes on' "$(cat "$MNT/f")" x
sync -f "$MNT/f"
holder=$(pid_of holder1) worker=$(pid_of mount1)
kill -KILL "$holder" "$worker"
umount -l "$MNT"
begin=$(now_ms)
check 'a remount after a crash' timeout 60 "$bin/cfs-local" start --dir "$CL" mount1
at_most 'works at once, in s' "$(awk -v t=$(($(now_ms) - begin)) 'BEGIN { print t / 1000 }')" 8
same 'with what was synced' "$(cat "$MNT/f")" x
# A container started meanwhile has a copy of the mount.
unshare --mount --propagation private sleep 300 &
copy=$!
until_true 5 eval '[ "$(readlink /proc/self/ns/mnt)" != "$(readlink /proc/$copy/ns/mnt)" ]'
refused 'an unmount while another namespace has a copy' "process [0-9]+ is in another mount namespace" timeout 60 "$bin/cfs-local" down --dir "$CL"
refused 'the same, typed again,' "process [0-9]+ is in another mount namespace" timeout 60 "$bin/cfs-local" down --dir "$CL"
kill "$copy"
wait "$copy" 2>/dev/null
check 'and works when that is gone' timeout 60 "$bin/cfs-local" down --dir "$CL"
# A mount that died is mounted again with the options that are given now.
cluster_up
holder=$(pid_of holder1) worker=$(pid_of mount1)
kill -KILL "$holder" "$worker"
umount -l "$MNT"
check 'a remount with another option' timeout 60 "$bin/cfs-local" mount --dir "$CL" "$MNT" -o ro
refused 'which is followed' 'read-only' bash -c "echo y >'$MNT/g'"
