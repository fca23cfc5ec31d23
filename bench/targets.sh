# Sourced by run.sh: how each filesystem is started, mounted, made cold and removed. A target T has
# T_up, T_cold (remount, so that neither the kernel nor the client has anything cached), T_down, and mounts at $work/T.
# Everything lives under $work; processes are ended by the pid that was noted when they were started.

drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }

# --- CFS: a private cluster of one metadata server and six chunk servers, 4+2 -----------------------------------
cfs_up() {
    mkdir -p "$work/cfs"
    "$bin/cfs-local" up --dir "$work/cluster" --policy 4+2 --chunkservers 6 --mount "$work/cfs" --timeout 60 >"$work/cfs.log" 2>&1 ||
        { cat "$work/cfs.log" >&2; return 1; }
}
cfs_cold() {
    "$bin/cfs-local" umount "$work/cfs" >>"$work/cfs.log" 2>&1 || return 1
    drop_caches
    "$bin/cfs-local" mount --dir "$work/cluster" "$work/cfs" >>"$work/cfs.log" 2>&1
}
cfs_down() { "$bin/cfs-local" down --dir "$work/cluster" >>"$work/cfs.log" 2>&1; }

# --- the limit: libfuse's example passthrough_ll with writeback, on the local disk ---------------------------------
pll_start() {
    "$work/passthrough_ll" -f -o "source=$work/pll.data,writeback,cache=always,allow_other,default_permissions" "$work/pll" &
    pll_pid=$!
    for _ in $(seq 100); do mountpoint -q "$work/pll" && return 0; sleep 0.05; done
    return 1
}
pll_stop() {
    umount "$work/pll"
    wait "$pll_pid"
}
pll_up() {
    local example
    example=$(find /usr/share/doc/libfuse3-dev -name 'passthrough_ll.c*' | head -1)
    [ -n "$example" ] || { echo "passthrough_ll.c is not in libfuse3-dev's examples" >&2; return 1; }
    mkdir -p "$work/pll" "$work/pll.data" "$work/pll.src"
    cp "$(dirname "$example")"/passthrough_* "$work/pll.src/"
    gunzip -f "$work"/pll.src/*.gz 2>/dev/null
    gcc -O2 -o "$work/passthrough_ll" "$work/pll.src/passthrough_ll.c" $(pkg-config --cflags --libs fuse3) || return 1
    pll_start
}
pll_cold() { pll_stop; drop_caches; pll_start; }
pll_down() { pll_stop; }

# --- GlusterFS disperse 4+2 in a private network namespace (gluster refuses 127.0.0.1 for bricks; the
# address exists only on the loopback of that namespace) and its own state directory --------------------------------
# nsenter, not "ip netns exec": that would mount in a mount namespace of its own.
gluster_in() { nsenter --net="/run/netns/$netns" "$@"; }
gluster_up() {
    netns=cfsbench$$
    mkdir -p "$work/gluster" "$work/gl/state" "$work/gl/log" "$work/gl/run"
    ip netns add "$netns" && gluster_in ip link set lo up &&
        gluster_in ip addr add 198.18.0.1/32 dev lo || return 1
    sed "s#option working-directory .*#option working-directory $work/gl/state#" /etc/glusterfs/glusterd.vol >"$work/gl/glusterd.vol"
    grep -q working-directory "$work/gl/glusterd.vol" || return 1
    gluster_in glusterd --no-daemon -f "$work/gl/glusterd.vol" -l "$work/gl/log/glusterd.log" -p "$work/gl/run/glusterd.pid" &
    glusterd_pid=$!
    local i bricks=
    for i in 1 2 3 4 5 6; do
        mkdir -p "$work/gl/brick$i"
        bricks="$bricks 198.18.0.1:$work/gl/brick$i"
    done
    for _ in $(seq 60); do gluster_in gluster --mode=script volume list >/dev/null 2>&1 && break; sleep 0.5; done
    gluster_in gluster --mode=script volume create bench disperse-data 4 redundancy 2 $bricks force >>"$work/gl/out" 2>&1 &&
        gluster_in gluster --mode=script volume start bench >>"$work/gl/out" 2>&1 || { cat "$work/gl/out" >&2; return 1; }
    gluster_mount
}
gluster_mount() {
    gluster_in glusterfs --volfile-server=198.18.0.1 --volfile-id=bench -l "$work/gl/log/mount.log" "$work/gluster" || return 1
    for _ in $(seq 100); do mountpoint -q "$work/gluster" && ls "$work/gluster" >/dev/null 2>&1 && return 0; sleep 0.1; done
    return 1
}
gluster_umount() {
    umount "$work/gluster"
    sleep 1
}
gluster_cold() { gluster_umount; drop_caches; gluster_mount; }
gluster_down() {
    gluster_umount
    gluster_in gluster --mode=script volume stop bench force >>"$work/gl/out" 2>&1
    # What is left in the namespace was started by this script.
    for pid in $(ip netns pids "$netns"); do kill "$pid" 2>/dev/null; done
    sleep 1
    for pid in $(ip netns pids "$netns"); do kill -9 "$pid" 2>/dev/null; done
    ip netns del "$netns"
}
