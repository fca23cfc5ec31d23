#!/usr/bin/env bash
# time: 200 400
# -o deadline=SECONDS with the servers stopped, and killed: each call fails with EIO after that, not before and not much later,
# nothing hangs, no threads pile up; afterwards all works and what was acknowledged is there. umount -f of such a mount ends at once.
. "$(dirname "$0")/lib.sh"
need_cluster 'a deadline'
S=3
MAX=$((4 * S))
servers='meta1 chunk1 chunk2 chunk3 chunk4 chunk5 chunk6'
ops() { python3 "$here/deadline_ops.py" "$@"; }
cluster_up -o deadline=$S
frozen=
freeze() { for n in $servers; do frozen+=" $(pid_of "$n")"; done && kill -STOP $frozen; }
thaw() { kill -CONT $frozen && frozen=; }
each_server() { for n in $servers; do "$1" "$n" >/dev/null || return 1; done; }
threads() { for n in mount1 holder1; do awk '/^Threads/ { print $2 }' "/proc/$(pid_of $n)/status"; done | tr '\n' ' '; }
fresh_mount() { # OPTIONS: nothing is cached
    check 'umount' timeout 60 "$bin/cfs-local" umount "$MNT" && check "mount with $1" timeout 60 "$bin/cfs-local" mount --dir "$CL" "$MNT" -o "$1"
}
timed() { # COMMAND...
    local begin
    begin=$(now_ms)
    "$@" >/dev/null 2>&1
    echo "$(($(now_ms) - begin))" >>"$WORK/timed"
}
# away NAME DIR HOW BACK: all calls while the servers are away, then what is left when they are back
away() {
    local line
    coproc RUN { ops run "$2" $S $MAX "$WORK/acked"; }
    local out=${RUN[0]} in=${RUN[1]} pid=$RUN_PID
    remember "$pid"
    read -r -t 60 -u "$out" line
    same "$1: files are open" "$line" ready
    local before
    before=$(threads)
    $3
    echo go >&"$in"
    local i asking=()
    for i in $(seq 12); do
        timed timeout $((2 * MAX)) df "$MNT" &
        asking+=($!)
        timed timeout $((2 * MAX)) stat "$2/df.d/$i" &
        asking+=($!)
    done
    line=$(cat <&"$out")
    verdict "$1: every call ends with EIO between $S and $MAX s" "$line"
    wait "${asking[@]}"
    at_most "$1: df and stat end, the slowest in ms" "$(sort -n "$WORK/timed" | tail -n 1 | cut -d ' ' -f 1)" $((MAX * 1000))
    rm "$WORK/timed"
    same "$1: threads" "$(threads)" "$before"
    $4
    [ "$1" = 'stopped, and the worker killed' ] || same "$1: writes were taken" "$(tr ' ' '\n' <"$WORK/acked" | sort | tr '\n' ' ')" 'close fsync write '
    verdict "$1: afterwards" "$(timeout 60 python3 "$here/deadline_ops.py" after "$2" "$WORK/acked" 2>&1 || echo "status $?")"
}
freeze_all() { freeze; }
kill_all() { each_server kill_; }
start_all() { each_server start_; }
kill_worker_too() { freeze && kill_ mount1; }

for n in stopped killed worker; do ops prepare "$MNT/$n" || not_ok 'prepare' "$n"; done
fresh_mount deadline=$S
away 'stopped' "$MNT/stopped" freeze_all thaw
away 'killed' "$MNT/killed" kill_all start_all
[ -n "$LONG" ] && away 'stopped, and the worker killed' "$MNT/worker" kill_worker_too thaw

# umount -f with the cluster dead, dirty data and a process inside.
echo kept >"$WORK/kept" && dd if="$WORK/kept" of="$MNT/kept" conv=fsync status=none
(cd "$MNT/stopped" && exec sleep 1000) &
inside=$!
remember $inside
freeze
head -c 100000 /dev/zero >"$MNT/stopped/dirty" 2>/dev/null &
writer=$!
cat "$MNT/worker/open.d/f" >/dev/null 2>&1 &
reader=$!
remember $writer
remember $reader
sleep 0.5
begin=$(now_ms)
timeout 20 umount -f "$MNT" 2>"$WORK/umount.err"
rc=$?
at_most 'umount -f of a busy mount without servers ends, in ms' $(($(now_ms) - begin)) 2000
wait $reader $writer
at_most 'and so do the calls in it, in ms' $(($(now_ms) - begin)) 4000
[ $rc = 0 ] || [ "$(grep -c busy "$WORK/umount.err")" = 1 ] || not_ok 'umount -f says' "$rc $(cat "$WORK/umount.err")"
check 'the mount is gone though a process is inside' until_true 5 bash -c "! grep -q ' $MNT ' /proc/self/mountinfo"
thaw
kill $inside
check 'and can be mounted again' timeout 60 "$bin/cfs-local" mount --dir "$CL" "$MNT" -o hard
same 'with all that was synced' "$(cat "$MNT/kept")" kept

# Without a deadline they wait, and end when they are killed or the mount is unmounted by force.
before=$(threads)
freeze
stats=()
for _ in $(seq 10); do
    stat "$MNT/worker/stat.d/f" >"$WORK/early" 2>&1 &
    stats+=($!)
    df "$MNT" >/dev/null 2>&1 &
    remember $!
done
sleep 2
same 'hard: threads of a client that many wait for' "$(threads)" "$before"
alive=0
for p in "${stats[@]}"; do kill -0 "$p" 2>/dev/null && alive=$((alive + 1)); done
same 'hard: calls wait' "$alive $(cat "$WORK/early")" '10 '
begin=$(now_ms)
kill -KILL "${stats[@]}"
wait "${stats[@]}" 2>/dev/null
at_most 'hard: killed ones end, in ms' $(($(now_ms) - begin)) 2000
begin=$(now_ms)
timeout 20 umount -f "$MNT" 2>/dev/null
at_most 'hard: umount -f without servers ends, in ms' $(($(now_ms) - begin)) 2000
thaw
