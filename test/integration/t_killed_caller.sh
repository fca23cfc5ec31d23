#!/usr/bin/env bash
# time: 30 30
# A program is killed while its calls wait for a metadata server that is slow. What was sent for it is done later: then
# everybody sees that, not what the kernel remembers from before.
. "$(dirname "$0")/lib.sh"
need python3 fallocate
need_cluster 'a server that is stopped'
cluster_up
mkdir "$MNT/new" && cd "$MNT/new" || exit 1 # the client knows all its names: lookups wait for nobody
head -c 200000 /dev/urandom >punched
head -c 5000 /dev/urandom >cut
mkdir other && echo old >other/old # a call that waits keeps others out of its directory
echo mode >mode
chmod 644 mode
sync punched cut other/old mode
cat punched cut other/old mode >/dev/null
stat made other/moved >/dev/null 2>&1 # now the kernel knows that they are not there
meta=$(pid_of meta1)
remember "$meta"
kill -STOP "$meta"
killed=()
waits() { # COMMAND...: begins it, so that its call waits
    "$@" >/dev/null 2>&1 &
    killed+=($!)
    remember $!
    sleep 0.2
}
waits mkdir made
waits chmod 600 mode
waits truncate -s 0 cut
waits mv -T other/old other/moved
waits fallocate -p -o 0 -l 100000 punched
before=$(now_ms)
kill -KILL "${killed[@]}"
wait "${killed[@]}" 2>/dev/null
at_most 'killed programs end, seconds' "$((($(now_ms) - before) / 1000))" 4
kill -CONT "$meta"
sync -f . # nothing is dirty; waits for no command
until_true 10 mkdir later
sleep 1
check 'a directory that was made' stat made
same 'a mode that was set' "$(stat -c %a mode)" 600
same 'a size that was set' "$(stat -c %s cut)" 0
echo end >>cut
same 'what is appended behind it' "$(cat cut)" end
check 'a name that was moved' cat other/moved
refused 'its old name' 'no such file' cat other/old
same 'what was punched' "$(head -c 100000 punched | tr -d '\0' | wc -c)" 0
