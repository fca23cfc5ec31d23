# Read by up.sh, down.sh and clean_data.sh: where the local cluster is.
top=$(cd "$(dirname "$0")/.." && pwd) || exit 1
bin=$top/build/bin
CFS_DIR=${CFS_DIR:-/var/lib/cfs-local}
CFS_MNT=${CFS_MNT:-/mnt/cfs}
helper=/sbin/mount.cfs

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# What killed clients of a cluster that is no more left in /run/cfs: the proof that they are dead, which nobody needs now.
forget_clients() { # DIR
    local one
    for one in /run/cfs/clients/*; do
        case $(sed -n 2p "$one" 2>/dev/null) in "$1"/*) rm -f "$one" ;; esac
    done
    rmdir /run/cfs/clients /run/cfs 2>/dev/null || true # others may be there
}

# ours, absent, dangling or foreign: what lies at /sbin/mount.cfs
helper_state() {
    if [ -L "$helper" ]; then
        if [ "$(readlink "$helper")" = "$bin/mount.cfs" ]; then
            echo ours
        elif [ ! -e "$helper" ]; then
            echo dangling
        else
            echo foreign
        fi
    elif [ -e "$helper" ]; then
        echo foreign
    else
        echo absent
    fi
}
