#!/usr/bin/env bash
# time: 60 120
# cfs client upgrade under load: no failed call.
. "$(dirname "$0")/lib.sh"
need fio
need_cluster 'an upgrade of the client'
cluster_up
fio --name=load --directory="$MNT" --size=32m --rw=randwrite --bs=16k --verify=crc32c --verify_fatal=1 --time_based --runtime=10 --rate=20m --minimal >"$WORK/fio.out" 2>&1 &
load=$!
remember $load
probe_start
for i in 1 2 3; do
    before=$(pid_of mount1)
    check "upgrade $i" timeout 20 "$bin/cfs" client upgrade "$MNT"
    other() { now=$(pid_of mount1) && [ "$now" != "$before" ]; }
    check "another worker serves ($i)" until_true 5 other
done
wait $load
same 'fio under upgrades' "$? $(tail -n 1 "$WORK/fio.out" | grep -i error)" '0 '
probe_stop 'upgrades' 4
