#!/usr/bin/env bash
# time: 180 900
# fio --verify: sequential, random overwrites, mixed, mmap, several jobs; read back cold.
. "$(dirname "$0")/lib.sh"
need fio
cluster_up
size=$([ -n "$LONG" ] && echo 512m || echo 64m)
run_fio() { # NAME ARGS...
    local name=$1
    shift
    check "fio $name" timeout 300 fio --name="$name" --directory="$MNT" --size="$size" --verify=crc32c --verify_fatal=1 --group_reporting --minimal "$@"
}
run_fio sequential --rw=write --bs=1m --end_fsync=1
run_fio random-4k --rw=randwrite --bs=4k --io_size=$([ -n "$LONG" ] && echo 256m || echo 24m) --end_fsync=1
run_fio odd-sizes --rw=randwrite --bsrange=512-200k --bs_unaligned=1 --io_size=$size
run_fio mixed --rw=randrw --bs=16k --fsync=32 --io_size=$([ -n "$LONG" ] && echo 128m || echo 16m)
run_fio mmap --rw=randwrite --bs=4k --ioengine=mmap --io_size=8m
run_fio direct --rw=randwrite --bs=64k --direct=1 --io_size=32m
run_fio four-jobs --rw=randwrite --bs=32k --numjobs=4 --size=16m --end_fsync=1
# Written now, verified cold later.
check 'fio writes' fio --name=later --directory="$MNT" --size="$size" --verify=crc32c --rw=randwrite --bs=8k --io_size=16m --do_verify=0 --end_fsync=1 --minimal
drop_caches
check 'fio verifies what was written before, cold' fio --name=later --directory="$MNT" --size="$size" --verify=crc32c --rw=randwrite --bs=8k --io_size=16m --verify_only --minimal
plain || verdict 'no fragment was found bad' "$(status "'' if s['bad_fragments'] == 0 else s['bad_fragments']")"
