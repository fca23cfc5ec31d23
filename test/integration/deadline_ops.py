#!/usr/bin/env python3
"""Calls on a mount whose servers are away, each in a process of its own.

  deadline_ops.py prepare DIR          the files that they need (servers there)
  deadline_ops.py run DIR SECONDS MAX ACKED  opens what must be open, says "ready", waits for a line on stdin (the servers go
                                       away meanwhile), makes all calls at once, says in the file ACKED which writes succeeded, prints a line for each that did not keep the rule:
                                       it fails with EIO, not before SECONDS and not after MAX. A call marked "any" may succeed.
  deadline_ops.py after DIR ACKED      servers are back: everything works, what was acknowledged is there

Exit status 0: nothing printed but "ready"."""
import errno
import fcntl
import os
import select
import signal
import sys
import time

MIB = 1 << 20


def block(seed, size):
    return bytes((seed * 7 + i * 13) & 0xFF for i in range(256)) * (size // 256)


def put(path, data):
    with open(path, "wb") as f:
        f.write(data)
        os.fsync(f.fileno())


COLD = ("stat", "open", "rename", "link", "unlink", "chmod", "utime", "truncate", "xattr", "getxattr")
HANDLES = ("read", "fsync", "osync", "flock", "flock_wait", "fcntl", "fcntl_wait", "fallocate", "source", "write", "close", "warm", "seek")


# Calls that change a directory wait for each other in the kernel, so each has a directory of its own.
NEW = ("create", "mkdir", "symlink", "mkfifo", "tmpfile")


def prepare(d):
    os.makedirs(d + "/full")
    os.makedirs(d + "/df.d")
    os.makedirs(d + "/rmdir.d/victim")
    for name in NEW:
        os.makedirs(f"{d}/{name}.d")
    for i in range(30):
        put(f"{d}/full/{i}", b"x")
    for name in COLD + HANDLES:
        os.makedirs(f"{d}/{name}.d")
        put(f"{d}/{name}.d/f", block(len(name), 2 * MIB))
    os.setxattr(d + "/getxattr.d/f", "user.a", b"v")
    os.makedirs(d + "/readlink.d")
    os.symlink("somewhere", d + "/readlink.d/l")


wrote = False  # in a child: its write() was acknowledged


def dirty(fd, seed):
    global wrote
    os.pwrite(fd, block(seed, 65536), 0)
    wrote = True


def calls(d):
    """name -> (the file that is opened before, or None; the call; "eio" or "any")."""
    wait, now = fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB
    return {
        "pread": ("read", lambda f: os.pread(f, 65536, MIB), "eio"),
        "write and fsync": ("fsync", lambda f: (dirty(f, 1), os.fsync(f)), "eio"),
        "write with O_SYNC": ("osync", lambda f: dirty(f, 2), "eio"),
        "write": ("write", lambda f: dirty(f, 3), "any"),
        "write and close": ("close", lambda f: (dirty(f, 4), os.close(f)), "any"),
        "fstat": ("warm", os.fstat, "any"),
        "statfs": (None, lambda f: os.statvfs(d), "any"),
        "stat": (None, lambda f: os.stat(d + "/stat.d/f"), "eio"),
        "open": (None, lambda f: os.open(d + "/open.d/f", os.O_RDONLY), "eio"),
        "create": (None, lambda f: os.open(d + "/create.d/f", os.O_CREAT | os.O_WRONLY), "eio"),
        "mkdir": (None, lambda f: os.mkdir(d + "/mkdir.d/f"), "eio"),
        "symlink": (None, lambda f: os.symlink("x", d + "/symlink.d/f"), "eio"),
        "mkfifo": (None, lambda f: os.mkfifo(d + "/mkfifo.d/f"), "eio"),
        "O_TMPFILE": (None, lambda f: os.open(d + "/tmpfile.d", os.O_TMPFILE | os.O_RDWR), "eio"),
        "unlink": (None, lambda f: os.unlink(d + "/unlink.d/f"), "eio"),
        "rmdir": (None, lambda f: os.rmdir(d + "/rmdir.d/victim"), "eio"),
        "rename": (None, lambda f: os.rename(d + "/rename.d/f", d + "/rename.d/g"), "eio"),
        "link": (None, lambda f: os.link(d + "/link.d/f", d + "/link.d/g"), "eio"),
        "readlink": (None, lambda f: os.readlink(d + "/readlink.d/l"), "eio"),
        "readdir": (None, lambda f: os.listdir(d + "/full"), "eio"),
        "chmod": (None, lambda f: os.chmod(d + "/chmod.d/f", 0o600), "eio"),
        "utime": (None, lambda f: os.utime(d + "/utime.d/f", (1, 1)), "eio"),
        "truncate": (None, lambda f: os.truncate(d + "/truncate.d/f", 5), "eio"),
        "setxattr": (None, lambda f: os.setxattr(d + "/xattr.d/f", "user.b", b"w"), "eio"),
        "getxattr": (None, lambda f: os.getxattr(d + "/getxattr.d/f", "user.a"), "eio"),
        "flock": ("flock", lambda f: fcntl.flock(f, now), "eio"),
        "flock that may wait": ("flock_wait", lambda f: fcntl.flock(f, wait), "eio"),
        "fcntl lock": ("fcntl", lambda f: fcntl.lockf(f, now, 10), "eio"),
        "fcntl lock that may wait": ("fcntl_wait", lambda f: fcntl.lockf(f, wait, 10), "eio"),
        "fallocate": ("fallocate", lambda f: os.posix_fallocate(f, 4 * MIB, MIB), "eio"),
        "copy_file_range": ("source", lambda f: os.copy_file_range(f, f, MIB, 0, 3 * MIB), "eio"),
        "lseek(SEEK_HOLE)": ("seek", lambda f: os.lseek(f, 0, os.SEEK_HOLE), "any"),
    }


def child(d, file, call, ready, go, out):
    sync = os.O_SYNC if file == "osync" else 0
    fd = os.open(f"{d}/{file}.d/f", os.O_RDWR | sync) if file else None
    os.write(ready, b"r")
    os.read(go, 1)
    begin = time.monotonic()
    try:
        call(fd)
        got = 0
    except OSError as e:
        got = e.errno
    os.write(out, b"%d %f %d" % (got, time.monotonic() - begin, wrote))
    os._exit(0)


def judge(name, rule, answer, least, most):
    if answer is None:
        return f"{name} had not ended after {most} s"
    got, took = int(answer.split()[0]), float(answer.split()[1])
    text = f"{name}: {errno.errorcode.get(got, got)} after {took:.1f} s"
    if took > most:
        return text
    if got == 0:
        return None if rule == "any" else text
    if got != errno.EIO or took < least - 0.1:
        return text
    return None


def run(d, least, most, acked_file):
    for name in os.listdir(d):
        os.stat(f"{d}/{name}")
    os.statvfs(d)
    ready, ready_in = os.pipe()
    go, go_in = os.pipe()
    todo = {}
    for name, (file, call, rule) in calls(d).items():
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go_in)
            child(d, file, call, ready_in, go, w)
        os.close(w)
        todo[r] = (name, rule, pid, file)
    for _ in todo:
        os.read(ready, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    os.close(go_in)
    end = time.monotonic() + most + 1
    bad, acked = [], []
    while todo:
        ready, _, _ = select.select(list(todo), [], [], max(0, end - time.monotonic()))
        if not ready:
            break
        for r in ready:
            name, rule, pid, file = todo.pop(r)
            answer = os.read(r, 100) or None
            bad.append(judge(name, rule, answer, least, most))
            if answer and answer.split()[2] == b"1":
                acked.append(file)
    for name, rule, pid, _ in todo.values():
        bad.append(judge(name, rule, None, least, most))
        os.kill(pid, signal.SIGKILL)
    with open(acked_file, "w") as f:
        f.write(" ".join(acked))
    bad = [b for b in bad if b]
    print("\n".join(bad), end="\n" if bad else "")
    return 1 if bad else 0


def same(path, offset, data, bad):
    with open(path, "rb") as f:
        f.seek(offset)
        if f.read(len(data)) != data:
            bad.append(f"{path} has not what was written at {offset}")


def after(d, acked_file):
    bad = []
    with open(acked_file) as f:
        acked = f.read().split()
    # What was acknowledged: everything that was fsynced before, and each write() that succeeded.
    for name in ("read", "stat", "open", "link", "chmod", "source", "seek", "flock"):
        same(f"{d}/{name}.d/f", 0, block(len(name), 2 * MIB), bad)
    for name, seed in (("fsync", 1), ("write", 3), ("close", 4)):
        f = os.open(f"{d}/{name}.d/f", os.O_RDWR)
        os.fsync(f)
        os.close(f)
        if name in acked:
            same(f"{d}/{name}.d/f", 0, block(seed, 65536), bad)
        same(f"{d}/{name}.d/f", 65536, block(len(name), 2 * MIB)[65536:], bad)
    # Everything works again. What failed with EIO may have been done all the same, once.
    for i in range(20):
        put(f"{d}/again{i}", b"again")
        os.rename(f"{d}/again{i}", f"{d}/full/again{i}")
        os.unlink(f"{d}/full/again{i}")
    if len(os.listdir(d + "/full")) != 30:
        bad.append("readdir shows something else")
    for name in ("flock", "flock_wait", "fcntl", "fcntl_wait"):
        with open(f"{d}/{name}.d/f", "r+b") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
            except OSError as e:
                bad.append(f"{name} is still locked by a call that failed: {e}")
    if os.path.exists(d + "/rename.d/f") == os.path.exists(d + "/rename.d/g"):
        bad.append("rename was done by halves")
    print("\n".join(bad), end="\n" if bad else "")
    return 1 if bad else 0


if sys.argv[1] == "prepare":
    prepare(sys.argv[2])
elif sys.argv[1] == "run":
    sys.exit(run(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]))
else:
    sys.exit(after(sys.argv[2], sys.argv[3]))
