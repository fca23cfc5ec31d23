#!/usr/bin/env bash
# make up: packages, build, a local cluster, mounted. CFS_DIR (/var/lib/cfs-local) and CFS_MNT (/mnt/cfs) say where.
set -u
. "$(dirname "$0")/local_env.sh"

[ "$(id -u)" = 0 ] || fail "make up: mounting needs root"
case $(helper_state) in
foreign) fail "make up: $helper is not a link of this clone; mount(8) looks nowhere else, so move it away first" ;;
esac
"$top/tools/deps.sh" build || exit 1
say "building"
make -s -C "$top" -j"$(nproc)" all >"$top/build.log" 2>&1 || { tail -n 30 "$top/build.log" >&2; fail "make up: the build failed; all of it is in build.log"; }
rm -f "$top/build.log"
[ -c /dev/fuse ] || modprobe fuse 2>/dev/null || true
[ -c /dev/fuse ] || fail "make up: this machine has no /dev/fuse (kernel module fuse)"
if [ "$(helper_state)" != ours ]; then
    ln -sfn "$bin/mount.cfs" "$helper" || fail "make up: cannot link $helper"
    say "linked $helper"
fi
# The build may have left a slow machine with much to write: more time than the usual 10 s.
"$bin/cfs-local" up --dir "$CFS_DIR" --mount "$CFS_MNT" --timeout "${CFS_LOCAL_TIMEOUT:-30}" || exit 1
say ""
(cd "$CFS_MNT" && "$bin/cfs" status)
say ""
say "Try:"
say "  cp -r /usr/share/doc $CFS_MNT/ && du -sh $CFS_MNT/doc"
say "  cp /bin/bash $CFS_MNT/ && $bin/cfs stat $CFS_MNT/bash"
say "  $bin/cfs-local kill --dir $CFS_DIR chunk1; cmp /bin/bash $CFS_MNT/bash && echo same; $bin/cfs-local start --dir $CFS_DIR chunk1"
