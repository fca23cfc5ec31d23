#!/usr/bin/env bash
# time: 120 400
# One chunk server is down: what is deleted meanwhile gives its space back on the others, and there when it is back.
. "$(dirname "$0")/lib.sh"
need_cluster 'space with a server down'
cluster_up --size 1G # of their own, so that nobody else's files count
mib=$([ -n "$LONG" ] && echo 192 || echo 24)
used() { # CHUNK...: MiB on the disks of these servers
    local n=0 c
    for c in "$@"; do n=$((n + $(du -s --block-size=1M "$CL/data/chunk$c" | cut -f 1))); done
    echo "$n"
}
fragments() { # EXPRESSION: of the servers for which it is true
    status "sum(c['fragments'] for c in s['chunks'] if $1)"
}
up="c['state'] == 'up'"
random_file keep.ref $((mib << 20)) keep
cp keep.ref "$MNT/keep"
for i in 1 2 3; do random_file "$MNT/doomed$i" $((mib << 20)) "$i"; done
sync -f "$MNT"
sleep 2 # heartbeats have told of it
all=$(fragments True)
before=$(used 1 2 3 4 6)
before5=$(used 5)

kill_ chunk5
down() { [ "$(status "s['chunks'][4]['state']")" = down ]; }
check 'the killed server is known as down' until_true 15 down
begin=$(now_ms)
# One after the other: a group whose first deletion waits for the dead server must not keep the next ones waiting.
n=$((all * 5 / 6)) # on five servers
for i in 1 2 3; do
    rm "$MNT/doomed$i"
    n=$((n - all * 5 / 6 / 4 + 5))
    gone() { [ "$(fragments "$up")" -le $n ]; }
    if until_true 20 gone; then
        ok "the five others delete file $i while it is down ($((($(now_ms) - begin) / 100)) tenths of a second)"
    else
        not_ok "the five others delete file $i while it is down" "$(fragments "$up") fragments, $n wanted"
    fi
done
# Fragments of stream segments are punched: 3 files of 6/4 on six servers, 5 of these.
freed=$((before - (3 * mib * 6 / 4) * 5 / 6 + 5 * 8))
space() { [ "$(used 1 2 3 4 6)" -le $freed ]; }
if until_true 30 space; then ok "their space is back ($before MiB before, $(used 1 2 3 4 6) after)"; else not_ok 'their space is back' "$before MiB before, $(used 1 2 3 4 6) after, $freed wanted"; fi
same 'the one that is down has its fragments' "$(used 5)" "$before5"
waits() { [ "$(status "s['garbage_stripes']")" = 0 ] && [ "$(status "s['chunks'][4]['garbage_stripes']")" -gt 0 ]; }
check 'status says that only its deletions wait' until_true 10 waits
same 'nobody else is waited for' "$(status "sum(c['garbage_stripes'] for c in s['chunks'] if $up)")" 0
# The metadata server forgets nothing of that.
kill_ meta1
start_ meta1
check 'after a crash of the metadata server they wait still' until_true 20 waits

if [ -n "$LONG" ]; then # more than the pool holds, piece by piece
    round() { random_file "$MNT/more" $((512 << 20)) "$1" && sync -f "$MNT" && rm "$MNT/more"; }
    turns() { for i in 1 2 3 4 5 6 7 8; do round "$i" || return 1; done; }
    check '4 GiB go through a pool of 3, one server down' turns
fi

begin=$(now_ms)
start_ chunk5
back() { [ "$(status "sum(c['garbage_stripes'] for c in s['chunks']) + s['garbage_stripes']")" = 0 ]; }
if until_true 30 back; then ok "it deletes when it is back ($((($(now_ms) - begin) / 100)) tenths of a second)"; else not_ok 'it deletes when it is back' "$(status "s['chunks'][4]")"; fi
few() { [ "$(fragments True)" -le $((all / 4 + 20)) ]; }
check 'no fragment of what was deleted is left' until_true 15 few
space5() { [ "$(used 5)" -le $((before5 - (3 * mib * 6 / 4) / 6 + 8)) ]; }
if until_true 30 space5; then ok "its space is back ($before5 MiB before, $(used 5) after)"; else not_ok 'its space is back' "$before5 MiB before, $(used 5) after"; fi
# A new mount has nothing cached; with two others dead every fragment of the one that was down is needed.
check 'unmount' local_ umount "$MNT"
kill_ chunk1
kill_ chunk2
check 'mount' local_ mount --dir "$CL" "$MNT"
check 'what was kept reads right with two others dead' cmp keep.ref "$MNT/keep"
