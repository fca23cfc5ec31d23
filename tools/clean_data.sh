#!/usr/bin/env bash
# make clean-data: deletes the data of the local cluster, after saying what goes.
set -u
. "$(dirname "$0")/local_env.sh"

[ -e "$CFS_DIR" ] || { say "nothing to delete: there is no $CFS_DIR"; exit 0; }
head -n 1 "$CFS_DIR/cluster.conf" 2>/dev/null | grep -qx '# cfs-local 1' ||
    fail "make clean-data: $CFS_DIR is not a directory of cfs-local; nothing was deleted"
if [ -x "$bin/cfs-local" ]; then
    "$bin/cfs-local" status --dir "$CFS_DIR" >/dev/null 2>&1
    [ $? = 4 ] || fail "make clean-data: the cluster in $CFS_DIR runs; 'make down' first. Nothing was deleted"
else
    fail "make clean-data: build first ('make'), so that it can be seen whether the cluster runs"
fi
grep -q " $CFS_DIR/" /proc/self/mountinfo && fail "make clean-data: something is mounted below $CFS_DIR; nothing was deleted"
say "deleting the cluster in $CFS_DIR, with all its files: $(du -sh "$CFS_DIR" | cut -f 1)"
du -sh "$CFS_DIR"/* 2>/dev/null | sed 's/^/  /'
meta_dir=$(sed -n 's/^meta-dir=//p' "$CFS_DIR/cluster.conf")
[ -n "$meta_dir" ] && say "its metadata in $meta_dir is elsewhere and stays: delete it yourself"
rm -rf --one-file-system "$CFS_DIR" || exit 1
say "done"
forget_clients "$CFS_DIR"
