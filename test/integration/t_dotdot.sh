#!/usr/bin/env bash
# time: 60 60
# ".." in a listing is the parent, also for a worker that took over and knows no names, and after renames.
. "$(dirname "$0")/lib.sh"
need_cluster '".." after the death of a worker'
cluster_up
dotdot() { "$helpers/dotdot" "$1"; }
number() { stat -c %i "$1"; }
mkdir -p "$MNT/a/b/c" "$MNT/x/y"
cd "$MNT/a/b/c" || exit 1
same 'before' "$(dotdot .)" "$(number "$MNT/a/b")"
kill_ mount1
same 'of the working directory, after a kill' "$(dotdot .)" "$(number "$MNT/a/b")"
kill_ mount1
mv "$MNT/a/b" "$MNT/x/y/b2"
same 'after a kill and a rename further up' "$(dotdot .)" "$(number "$MNT/x/y/b2")"
same 'of what was renamed' "$(dotdot "$MNT/x/y/b2")" "$(number "$MNT/x/y")"
same 'of the root' "$(dotdot "$MNT")" "$(number "$MNT")"
kill_ mount1
same 'of the root, after a kill' "$(dotdot "$MNT")" "$(number "$MNT")"
