#!/usr/bin/env bash
# time: 90 300
# dbench with two clients.
. "$(dirname "$0")/lib.sh"
need dbench
cluster_up
mkdir "$MNT/dbench"
check 'dbench 2' timeout 200 dbench -t "$([ -n "$LONG" ] && echo 60 || echo 10)" -D "$MNT/dbench" 2
check 'its tree goes' rm -rf "$MNT/dbench"
