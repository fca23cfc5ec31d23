#!/usr/bin/env bash
# time: 60 120
# One flipped byte in a segment file: the read is right, and cfs status tells of it.
. "$(dirname "$0")/lib.sh"
need_cluster 'a flipped byte'
cluster_up
random_file "$WORK/data" 16777216 7
cp "$WORK/data" "$MNT/data" && python3 -c "import os,sys; f=os.open(sys.argv[1], os.O_RDONLY); os.fsync(f)" "$MNT/data"
before=$(status "s['bad_fragments']")
# Where the file's bytes lie: the first data fragment's own bytes are looked for in chunk servers' files.
flipped=$(python3 - "$CL/data" "$WORK/data" <<'PY'
import os, sys
root, path = sys.argv[1:]
needle = open(path, "rb").read(1 << 20)[300000:300064]
for d, _, names in os.walk(root):
    for n in names:
        p = os.path.join(d, n)
        if "/chunk" not in p:
            continue
        with open(p, "r+b") as f:
            at = f.read().find(needle)
            if at >= 0:
                f.seek(at + 10)
                b = f.read(1)
                f.seek(at + 10)
                f.write(bytes([b[0] ^ 1]))
                f.flush()
                os.fsync(f.fileno())
                print(p)
                sys.exit()
PY
)
[ -n "$flipped" ] || { not_ok 'a byte to flip' 'the data was not found in any segment'; exit 1; }
drop_caches
local_ umount "$MNT" >/dev/null && local_ mount --dir "$CL" "$MNT" >/dev/null
check 'the read is right' cmp "$WORK/data" "$MNT/data"
check 'cfs status tells of it' until_true 15 bash -c "'$bin/cfs' status --json | python3 -c \"import json,sys; s=json.load(sys.stdin); sys.exit(0 if s['bad_fragments'] > $before and not s['healthy'] else 1)\""
"$bin/cfs" stat --verify "$MNT/data" >"$WORK/stat.out"
same 'cfs stat --verify finds the fragment' "$? $(grep -c 'corrupt' "$WORK/stat.out")" '3 1'
