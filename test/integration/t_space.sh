#!/usr/bin/env bash
# time: 200 600
# Overwritten at random and then deleted: the space comes back on the chunk servers' disks. df tells the truth.
. "$(dirname "$0")/lib.sh"
need fio
need_cluster 'space on the disks'
cluster_up --size 4G # of their own, so that nobody else's files count
size=$([ -n "$LONG" ] && echo 1024 || echo 512)
used() { du -s --block-size=1M "$CL/data" | cut -f 1; }
avail() { df --output=avail -B1M "$MNT" | tail -n 1; }
settled() { local a; a=$(avail); sleep 2; [ "$(avail)" = "$a" ]; } # heartbeats have told of it
mkdir "$MNT/x" && sync
until_true 30 settled
base=$(used)
empty=$(avail)
check "fio overwrites $size MiB at random" fio --name=space --directory="$MNT" --size="${size}m" --rw=randwrite --bs=64k --io_size="$((size * 2))m" --end_fsync=1 --verify=crc32c --do_verify=0 --minimal
full=$(used)
at_most 'the file is on the disks' "$((base + size))" "$full"
until_true 30 settled
# The spare segments that counted as taken while the pool was empty hold a part of it: 16 MiB of each server.
at_most 'df counts the file' "$(avail)" $((empty - size + 6 * 16 * 4 / 6))
rm "$MNT"/space*
# Each server keeps segments that are allocated ahead: 32 MiB are given to each.
back() { [ "$(used)" -le $((base + size / 8 + 6 * 32)) ]; }
if until_true 120 back; then ok "the space comes back ($base MiB before, $full full, $(used) after)"; else not_ok 'the space comes back' "$base MiB before, $full full, $(used) after"; fi
# But for one spare segment of each server and what is dead in its active one, 16 MiB each: through 4+2, 128 MiB in all.
more() { [ "$(avail)" -ge $((empty - 6 * 32 * 4 / 6)) ]; }
if until_true 60 more; then ok "df shows it ($empty MiB before, $(avail) after)"; else not_ok 'df shows it' "$empty MiB before, $(avail) after"; fi
same 'no garbage is left' "$(until_true 60 bash -c "[ \$('$bin/cfs' status --json | python3 -c \"import json,sys; print(json.load(sys.stdin)['garbage_stripes'])\") = 0 ]"; echo $?)" 0
