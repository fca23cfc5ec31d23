#!/usr/bin/env bash
# time: 150 400
# A full pool: ENOSPC at write or at the latest at fsync, never later; reading, deleting and then writing go on.
. "$(dirname "$0")/lib.sh"
need_cluster 'a full pool'
cluster_up --size 200M
make_tree "$WORK/tree" 100 8
cp -r "$WORK/tree" "$MNT/tree" && sync -f "$MNT/tree"
# Files of 8 MiB, each synced, until there is no room: what was accepted has to be readable.
cat >"$WORK/fill.py" <<'PY'
import errno, hashlib, os, sys
root, sums = sys.argv[1:]
out = open(sums, "w")
for i in range(1000):
    data = hashlib.sha512(str(i).encode()).digest() * (8 << 20 >> 6)
    path = os.path.join(root, "fill%d" % i)
    try:
        f = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        done = 0
        while done < len(data):
            done += os.write(f, data[done:done + (1 << 20)])
        os.fsync(f)
        os.close(f)
    except OSError as e:
        print("%d %s" % (i, errno.errorcode[e.errno]))
        sys.exit(0)
    out.write("%s  %s\n" % (hashlib.sha256(data).hexdigest(), path))
    out.flush()
print("never full")
PY
read -r n code < <(timeout 120 python3 "$WORK/fill.py" "$MNT" "$WORK/sums")
same 'a full pool is ENOSPC' "$code" ENOSPC
[ "${n:-0}" -ge 40 ] && ok "$n files of 8 MiB fitted into 6 x 200 MiB" || not_ok 'how much fitted' "$n files of 8 MiB into 6 x 200 MiB"
check 'what was accepted is readable' sha256sum --quiet -c "$WORK/sums"
check 'and so is what was there before' diff -r "$WORK/tree" "$MNT/tree"
refused 'another write is refused as well' 'No space left' dd if=/dev/zero of="$MNT/more" bs=1M count=200 conv=fsync
rm -f "$MNT/more"
verdict 'cfs status tells of it' "$(status "'' if s['problems'] else 'no problem named'")"
check 'deleting works' bash -c "rm '$MNT'/fill1? '$MNT'/fill2?"
write_again() { dd if=/dev/urandom of="$MNT/again" bs=1M count=40 conv=fsync status=none; }
check 'and then writing goes on' until_true 60 write_again
rm -f "$MNT"/fill* "$MNT/again"
check 'umount of it' timeout 60 "$bin/cfs-local" umount "$MNT"
