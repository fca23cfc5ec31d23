#!/usr/bin/env bash
# make down: unmounts, stops the local cluster, takes back the link for mount(8). The data stays.
set -u
. "$(dirname "$0")/local_env.sh"

status=0
if [ -f "$CFS_DIR/cluster.conf" ]; then
    [ -x "$bin/cfs-local" ] || make -s -C "$top" all || fail "make down: cannot build cfs-local, which stops the cluster"
    "$bin/cfs-local" down --dir "$CFS_DIR" || status=1
else
    say "there is no cluster in $CFS_DIR"
fi
if [ "$status" = 0 ] && [ "$(helper_state)" = ours ]; then
    rm -f "$helper" && say "removed the link $helper"
fi
exit $status
