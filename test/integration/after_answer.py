#!/usr/bin/env python3
"""after_answer.py DIR ROUNDS: calls that take something away, each followed at once by one that puts something there. A client
that dies between answering the first and noting it must not let the first take away what the second has put."""
import ctypes
import os
import sys

top, rounds = sys.argv[1], int(sys.argv[2])
name = os.path.join(top, "file")
libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def expect(content, what):
    fd = os.open(name, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    got, size = os.pread(fd, 1 << 20, 0), os.fstat(fd).st_size
    os.close(fd)
    if got != content or size != len(content):
        at = next((i for i, (a, b) in enumerate(zip(got, content)) if a != b), min(len(got), len(content)))
        sys.exit(f"round {n}: after {what}: size {size}, {len(got)} bytes read, {len(content)} written, different at {at}")


for n in range(rounds):
    byte = bytes([1 + n % 255])
    size = (300, 5000)[n % 2]  # inline, and not
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, byte * size)
    os.close(fd)
    expect(byte * size, "O_TRUNC and a write")
    fd = os.open(name, os.O_RDWR)
    os.ftruncate(fd, 100)
    os.pwrite(fd, byte * size, 100)
    expect(byte * (size + 100), "ftruncate and a write")
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, size)
    os.pwrite(fd, b"p" * size, 0)
    expect(b"p" * size + byte * 100, "a hole and a write")
    fallocate(fd, ZERO_RANGE, 50, size)
    os.pwrite(fd, b"z" * size, 50)
    expect(b"p" * 50 + b"z" * size + byte * 50, "zeroes and a write")
    os.close(fd)
    os.unlink(name)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, byte)
    os.close(fd)
    expect(byte, "unlink and create")
    os.rename(name, name + "2")
    os.rename(name + "2", name)
    expect(byte, "rename and back")
