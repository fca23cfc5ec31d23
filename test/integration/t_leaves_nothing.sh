#!/usr/bin/env bash
# time: 150 150
# down leaves no file outside the cluster's directory, also after kills; while the server does not know of a client's end, the proof of
# it stays. In a mount namespace with a /run of its own, so that all in it is ours.
if [ -z "${OWN_RUN:-}" ]; then
    exec env OWN_RUN=1 unshare -m --propagation private bash "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"
need_cluster 'what down leaves'
mount -t tmpfs -o mode=755 run /run || { not_ok 'a /run of its own' 'it cannot be mounted'; exit 1; }

in_run() { find /run -mindepth 1 | sort | tr '\n' ' '; }
files() { ls /run/cfs/clients 2>/dev/null | wc -l; }
kill_both() {
    local holder worker
    holder=$(pid_of holder1) worker=$(pid_of mount1)
    kill -KILL "$holder" "$worker"
    until_true 10 bash -c "! kill -0 $worker 2>/dev/null"
}
# remount NAME: at once, that is without waiting for the lease of the earlier session.
remount() {
    check "$1" timeout 60 "$bin/cfs-local" up --dir "$CL" --mount "$MNT"
}

cluster_up
same 'a mounted client has one file' "$(files)" 1
refused 'a second mount' 'another client|leases' timeout 30 "$bin/cfs-local" mount --dir "$CL" "$WORK/again"
same 'which leaves none' "$(files)" 1
check 'down' local_ down --dir "$CL"
same 'down leaves nothing' "$(in_run)" ''

remount 'up after down'
kill_both
check 'down when the client was killed' local_ down --dir "$CL"
same 'leaves nothing' "$(in_run)" ''
remount 'up after that'

kill_both
kill_ meta1
check 'down when the metadata server was killed, too' local_ down --dir "$CL"
same 'keeps the proof that the client is dead' "$(files)" 1
remount 'with which a mount works at once'
same 'and which is gone then' "$(files)" 1

kill_ meta1
check 'umount without a metadata server' timeout 60 "$bin/cfs-local" umount "$MNT"
same 'keeps the proof that the session is to be ended' "$(files)" 1
remount 'with which a mount works at once, too'

# Whoever mounts makes the directories that whoever leaves removes.
( while :; do rmdir /run/cfs/clients /run/cfs; done ) 2>/dev/null &
remover=$!
remember $remover
failed=
for i in 1 2 3 4 5 6 7 8; do
    timeout 60 "$bin/cfs-local" umount "$MNT" || failed="umount $i"
    timeout 60 "$bin/cfs-local" mount --dir "$CL" "$MNT" >"$WORK/said" 2>&1 || failed="mount $i: $(cat "$WORK/said")"
done
kill -KILL $remover
verdict 'mounts while the directories are removed all the time' "$failed"
check 'down at last' local_ down --dir "$CL"
same 'nothing is left' "$(in_run)" ''
