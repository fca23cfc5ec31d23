#!/usr/bin/env bash
# time: 240 1200
# Ordinary programs: shell tools, rsync, tar, git, a build of a C project.
. "$(dirname "$0")/lib.sh"
need rsync git tar gcc
cluster_up
src=$WORK/src
make_tree "$src" 300 1
mkdir "$src/special"
ln "$src/d000/f00001" "$src/special/hard"
ln -s ../d000/f00002 "$src/special/sym"
mkfifo "$src/special/fifo"
setfattr -n user.colour -v blue "$src/d000/f00003" && setfacl -m u:65534:r "$src/d000/f00004"
truncate -s 10M "$src/special/sparse" && printf end | dd of="$src/special/sparse" bs=1 seek=5000000 conv=notrunc status=none
chmod 4750 "$src/d000/f00005" && chown 12:34 "$src/d000/f00006" && touch -d '2001-02-03 04:05:06.789012345' "$src/d000/f00007"

# Names and attributes; times of files only: not every rsync sets those of links and fifos.
listing() { (cd "$1" && find . -type f -printf '%P %y %m %U %G %n %s %T@\n' -o -printf '%P %y %m %U %G %n %l\n' | grep -v '^ ' | sort); }
content() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
check 'rsync -aHAX there' rsync -aHAX "$src/" "$MNT/rsync/"
check 'rsync -aHAX back' rsync -aHAX "$MNT/rsync/" "$WORK/back/"
verdict 'rsync: the listing is the same there' "$(diff <(listing "$src") <(listing "$MNT/rsync") | head -n 5)"
verdict 'rsync: the listing is the same after the way back' "$(diff <(listing "$src") <(listing "$WORK/back") | head -n 5)"
verdict 'rsync: the content is the same after the way back' "$(diff <(content "$src") <(content "$WORK/back") | head -n 5)"
verdict 'rsync: nothing to do the second time' "$(rsync -aHAXin "$src/" "$MNT/rsync/" | head -n 5)"
drop_caches
verdict 'the content is the same when read cold' "$(diff <(content "$src") <(content "$MNT/rsync") | head -n 5)"

check 'tar there' bash -c "mkdir '$MNT/tar' && tar -C '$src' -c . | tar -C '$MNT/tar' -x"
verdict 'tar: same content' "$(diff <(content "$src") <(content "$MNT/tar") | head -n 5)"
check 'cp -a and diff' bash -c "cp -a '$MNT/tar/d001' '$MNT/copy' && diff -r '$MNT/tar/d001' '$MNT/copy'"
check 'mv, ln, touch, cat, wc' bash -c "cd '$MNT' && mv copy moved && ln moved/f00050 l && touch t && cat moved/* | wc -c >count && rm l t && [ ! -e copy ]"
check 'grep -r and find' bash -c "cd '$MNT' && grep -rl a tar >/dev/null && [ \$(find tar -type f | wc -l) -ge 300 ]"
check 'append, sort in place, sed -i, dd' bash -c "cd '$MNT' && for i in \$(seq 50 -1 1); do echo \$i >>n; done && sort -n -o n n && sed -i 1d n && [ \$(head -n 1 n) = 2 ] && dd if=/dev/urandom of=r bs=64k count=100 conv=fsync status=none && cmp r r"
check 'rm -rf' bash -c "rm -rf '$MNT/tar' '$MNT/moved' && [ ! -e '$MNT/tar' ]"

export HOME=$WORK GIT_CONFIG_NOSYSTEM=1
git config --global user.email test@localhost && git config --global user.name test && git config --global --add safe.directory '*' && git config --global init.defaultBranch main
if git -C "$top" rev-parse HEAD >/dev/null 2>&1; then
    check 'git clone of this repository' git clone -q --no-hardlinks "$top" "$MNT/clone"
    check 'git fsck and status there' bash -c "git -C '$MNT/clone' fsck --no-progress 2>&1 && [ -z \"\$(git -C '$MNT/clone' status --porcelain)\" ]"
fi
n=$([ -n "$LONG" ] && echo 20000 || echo 1500)
make_tree "$WORK/many" "$n" 2
git -C "$WORK/many" init -q && git -C "$WORK/many" add -A && git -C "$WORK/many" commit -qm all
check "git clone of $n files" git clone -q "file://$WORK/many" "$MNT/many"
check "git status of $n files" bash -c "[ -z \"\$(git -C '$MNT/many' status --porcelain)\" ]"
check 'git add and commit there' bash -c "cd '$MNT/many' && echo x >>d000/f00001 && git commit -qam change && git log --oneline | wc -l | grep -qx 2"

if [ -n "$LONG" ] && [ -d "$MNT/clone" ]; then
    check 'a build of CFS inside it' make -s -C "$MNT/clone" -j2 all
    check 'and what was built runs' "$MNT/clone/build/bin/cfs-local" --help
else
    mkdir "$MNT/project"
    for i in $(seq 20); do printf 'int f%d(int x);\nint f%d(int x) { return x + %d; }\n' "$i" "$i" "$i"; done >"$MNT/project/one.c"
    for i in $(seq 20); do printf 'int f%d(int x);\nint g%d(int x);\nint g%d(int x) { return f%d(x) * 2; }\n' "$i" "$i" "$i" "$i" >"$MNT/project/g$i.c"; done
    { echo 'int g7(int x); int main(void) { return g7(3) != 20; }'; } >"$MNT/project/main.c"
    # shellcheck disable=SC2016
    printf 'all: p\nOBJ = $(patsubst %%.c,%%.o,$(wildcard *.c))\np: $(OBJ)\n\tgcc -o $@ $^\nlib.a: $(OBJ)\n\tar rcs $@ $^\n' >"$MNT/project/Makefile"
    check 'a build of a C project' make -s -C "$MNT/project" -j2 p lib.a
    check 'and what was built runs' "$MNT/project/p"
fi
plain || same 'one mount is seen in cfs status' "$(status "len(s['clients'])")" 1
cluster_down >/dev/null 2>&1 || not_ok 'down' 'failed'
plain || verdict 'down leaves nothing mounted' "$(grep -F "$MNT" /proc/self/mountinfo)"
