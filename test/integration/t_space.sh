#!/usr/bin/env bash
# time: 200 600
# Overwritten at random and then deleted: the space comes back on the chunk servers' disks. df tells the truth.
. "$(dirname "$0")/lib.sh"
need fio
need_cluster 'space on the disks'
cluster_up --size 4G # of their own, so that nobody else's files count
size=$([ -n "$LONG" ] && echo 1024 || echo 256)
used() { du -s --block-size=1M "$CL/data" | cut -f 1; }
mkdir "$MNT/x" && sync
base=$(used)
check "fio overwrites $size MiB at random" fio --name=space --directory="$MNT" --size="${size}m" --rw=randwrite --bs=64k --io_size="$((size * 2))m" --end_fsync=1 --verify=crc32c --do_verify=0 --minimal
full=$(used)
at_most 'the file is on the disks' "$((base + size))" "$full"
avail() { df --output=avail -B1M "$MNT" | tail -n 1; }
settled() { local a; a=$(avail); sleep 2; [ "$(avail)" = "$a" ]; } # heartbeats have told of it
until_true 30 settled
free_before=$(avail)
rm "$MNT"/space*
# Each server keeps segments that are allocated ahead: 32 MiB are given to each.
back() { [ "$(used)" -le $((base + size / 8 + 6 * 32)) ]; }
if until_true 120 back; then ok "the space comes back ($base MiB before, $full full, $(used) after)"; else not_ok 'the space comes back' "$base MiB before, $full full, $(used) after"; fi
# What the servers keep allocated, at most 48 MiB each, is 192 MiB of 4+2 data.
more() { [ "$(avail)" -gt $((free_before + size - 200)) ]; }
check 'df shows it' until_true 30 more
same 'no garbage is left' "$(until_true 60 bash -c "[ \$('$bin/cfs' status --json | python3 -c \"import json,sys; print(json.load(sys.stdin)['garbage_stripes'])\") = 0 ]"; echo $?)" 0
