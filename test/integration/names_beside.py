#!/usr/bin/env python3
"""names_beside.py DIR SECONDS: several processes make, move, remove and look up names of one large directory, each its
own and some that nobody touches. Each knows at any time which of its names are there; a lookup that says otherwise, or
a listing at the end, is a failure."""
import os
import random
import sys
import time

PROCESSES, QUIET, OWN = 4, 2000, 300


def there(path):
    try:
        os.lstat(path)
        return True
    except FileNotFoundError:
        return False


def expect(path, want, after):
    if there(path) != want:
        sys.exit(f"{path} is {'not ' if want else ''}there after {after}")


def change(rng, name, mine):
    i = rng.randrange(OWN)
    if i not in mine:
        os.close(os.open(name(i), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        mine.add(i)
        return [i], "create"
    j = rng.randrange(OWN)
    kind = rng.randrange(4)
    if kind == 0 or j == i:
        os.unlink(name(i))
        mine.discard(i)
        return [i], "unlink"
    if kind == 1 and j not in mine:
        os.link(name(i), name(j))
        mine.add(j)
        return [i, j], "link"
    if os.stat(name(i)).st_nlink > 1 or (j in mine and os.stat(name(j)).st_nlink > 1):
        return [i, j], "nothing"  # a rename onto another name of one inode keeps both
    os.rename(name(i), name(j))
    mine.discard(i)
    mine.add(j)
    return [i, j], "rename"


def work(top, number, end):
    rng = random.Random(number)
    mine, n = set(), 0

    def name(i):
        return f"{top}/p{number}-{i}"

    while time.monotonic() < end:
        touched, what = change(rng, name, mine)
        for i in touched + [rng.randrange(OWN) for _ in range(3)]:
            expect(name(i), i in mine, what)
        expect(f"{top}/quiet{rng.randrange(QUIET)}", True, "nothing")
        expect(f"{top}/never{rng.randrange(QUIET)}", False, "nothing")
        n += 1
    prefix = f"p{number}-"
    listed = {int(x[len(prefix):]) for x in os.listdir(top) if x.startswith(prefix)}
    if listed != mine:
        sys.exit(f"listed, but not there: {listed - mine}; there, but not listed: {mine - listed}")
    print(n, "changes")


def main():
    top, seconds = sys.argv[1], float(sys.argv[2])
    if not there(f"{top}/quiet{QUIET - 1}"):
        for i in range(QUIET):
            os.close(os.open(f"{top}/quiet{i}", os.O_CREAT | os.O_WRONLY, 0o644))
        return
    children = []
    for number in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            try:
                work(top, number, time.monotonic() + seconds)
                sys.stdout.flush()
                os._exit(0)
            except SystemExit as e:
                print(e, file=sys.stderr)
            except OSError as e:
                print(e, file=sys.stderr)
            os._exit(1)
        children.append(pid)
    results = [os.waitpid(pid, 0)[1] for pid in children]
    sys.exit(any(results))


main()
