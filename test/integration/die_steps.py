#!/usr/bin/env python3
"""Every kind of call once, in a fresh directory; each would fail, or leave another result, if it were carried out twice or lost."""
import ctypes
import fcntl
import os
import sys

top = os.path.join(sys.argv[1], sys.argv[2])
os.mkdir(top)
p = lambda name: os.path.join(top, name)


def put(name, data, flags=os.O_RDWR | os.O_CREAT | os.O_EXCL):
    fd = os.open(p(name), flags, 0o644)
    assert os.write(fd, data) == len(data)
    return fd


small, large = b"s" * 3000, bytes(range(256)) * 3000
fd = put("small", small)
os.fsync(fd)
os.close(fd)
fd = put("large", large, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
os.fsync(fd)
os.ftruncate(fd, 500001)
os.close(fd)
fd = os.open(p("small"), os.O_WRONLY | os.O_APPEND)
os.write(fd, b"tail")
os.close(fd)
os.rename(p("small"), p("renamed"))
os.link(p("renamed"), p("second"))
os.symlink("renamed", p("sym"))
os.mkdir(p("sub"))
os.mkfifo(p("sub/fifo"))
os.unlink(p("sub/fifo"))
os.rmdir(p("sub"))
os.setxattr(p("renamed"), "user.a", b"1", os.XATTR_CREATE)
os.setxattr(p("renamed"), "user.a", b"2", os.XATTR_REPLACE)
os.removexattr(p("second"), "user.a")
fd = os.open(p("large"), os.O_RDWR)
other = os.open(p("large"), os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
try:
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sys.exit("a lock was granted twice")
except BlockingIOError:
    pass
fcntl.flock(fd, fcntl.LOCK_UN)
fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.posix_fallocate(fd, 0, 600000)
os.unlink(p("large"))  # open: lives on
assert os.pread(fd, 1000, 256) == large[256:1256] and os.fstat(fd).st_size == 600000
os.close(other)
os.close(fd)
tmp = os.open(top, os.O_TMPFILE | os.O_RDWR, 0o600)
os.write(tmp, b"made")
# os.link does not follow /proc/self/fd links
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
libc = ctypes.CDLL(None, use_errno=True)
rc = libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % tmp, AT_FDCWD, p("linked").encode(), AT_SYMLINK_FOLLOW)
assert rc == 0, os.strerror(ctypes.get_errno())
os.close(tmp)
assert sorted(os.listdir(top)) == ["linked", "renamed", "second", "sym"], os.listdir(top)
assert open(p("renamed"), "rb").read() == small + b"tail"
assert open(p("linked"), "rb").read() == b"made"
assert os.stat(p("second")).st_nlink == 2 and os.listxattr(p("sym")) == []
