#!/usr/bin/env bash
# time: 120 120
# cfs-local up that cannot succeed: it says why, in time, and leaves no process and no mount.
. "$(dirname "$0")/lib.sh"
need_cluster 'cfs-local up that fails'
unset CFS_LOCAL_TIMEOUT # the harness gives more time; here it is what is tested

remains() {
    pgrep -a -f "$WORK/" | grep -E '(mount\.cfs|cfs-meta|cfs-chunkserver) ' | cut -c 1-120
    grep -o " $WORK/[^ ]*" /proc/self/mountinfo
}
# up_fails NAME TEXT SECONDS COMMAND...: fails, says TEXT, takes at most four times SECONDS, leaves nothing.
up_fails() {
    local name=$1 text=$2 limit=$3 begin
    shift 3
    begin=$(now_ms)
    refused "$name" "$text" timeout 60 "$@"
    at_most "$name: time, in s" "$(awk -v t=$(($(now_ms) - begin)) 'BEGIN { print t / 1000 }')" $((limit * 4))
    until_true 10 bash -c "! grep -q ' $WORK/' /proc/self/mountinfo" # a kill -9 takes a moment on a busy machine
    verdict "$name: nothing is left" "$(remains)"
}

mkdir -p "$CL/data" && : >"$CL/data/chunk3"
up_fails 'a directory that is a file' 'chunk3.*not a directory' 10 "$bin/cfs-local" up --dir "$CL" --mount "$MNT"
rm "$CL/data/chunk3"

mkdir -p "$CL/data/chunk5" && mkfifo "$CL/data/chunk5/identity"
up_fails 'a server that does not come up' 'chunk5 did not listen in time' 10 "$bin/cfs-local" up --dir "$CL" --mount "$MNT"
up_fails 'with a shorter time' 'chunk5 did not listen in time' 2 "$bin/cfs-local" up --dir "$CL" --timeout 2
up_fails 'with a shorter time from the environment' 'chunk5 did not listen' 2 env CFS_LOCAL_TIMEOUT=2 "$bin/cfs-local" up --dir "$CL"
refused 'a time that is none' 'CFS_LOCAL_TIMEOUT' env CFS_LOCAL_TIMEOUT=soon "$bin/cfs-local" up --dir "$CL"
rm "$CL/data/chunk5/identity"

port=$(sed -n 's/^port.meta1=//p' "$CL/cluster.conf")
python3 -c "import socket,time; s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', $port)); s.listen(); print('x', flush=True); time.sleep(60)" >"$WORK/listens" &
other=$!
remember $other
until_true 10 test -s "$WORK/listens"
up_fails 'the port of the metadata server in use' "$port" 10 "$bin/cfs-local" up --dir "$CL" --mount "$MNT"
kill $other

# A mount.cfs that mounts and then does not come back.
mkdir "$WORK/bin" && cp "$bin/cfs-local" "$WORK/bin/" && ln -s "$bin/cfs-meta" "$bin/cfs-chunkserver" "$WORK/bin/"
printf '#!/bin/sh\n%s/mount.cfs "$@"\nexec sleep 60\n' "$bin" >"$WORK/bin/mount.cfs" && chmod +x "$WORK/bin/mount.cfs"
up_fails 'a mount that does not come back' 'did not come back' 20 "$WORK/bin/cfs-local" up --dir "$CL" --mount "$MNT" --timeout 20
# And one that is ended while its holder still waits for the server.
local_ up --dir "$CL" --timeout 60 >/dev/null || not_ok 'up without a mount' 'it failed'
kill -STOP "$(pid_of meta1)"
begin=$(now_ms)
timeout 1 "$bin/mount.cfs" "127.0.0.1:$port:/" "$WORK" -o "run_dir=$WORK/alone" 2>/dev/null
kill -CONT "$(pid_of meta1)"
until_true 5 bash -c "! pgrep -f 'run_dir=$WORK/alone' >/dev/null"
sleep 1
verdict 'a mount.cfs that is ended early mounts nothing later' "$(grep -o " $WORK[ /][^ ]*" /proc/self/mountinfo)"
check 'up when nothing is in the way' local_ up --dir "$CL" --mount "$MNT" --timeout 60
