"""make_tree.py DIR FILES SEED [TOTAL_BYTES]: a tree of small files, median 4 KiB, in directories of 50.

The same arguments give the same bytes. With TOTAL_BYTES the sizes are scaled to that sum.
"""
import math
import os
import random
import sys


def main():
    root, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    r = random.Random(seed)
    sizes = [max(1, int(4096 * math.exp(r.gauss(0, 1.5)))) for _ in range(count)]
    if len(sys.argv) > 4:
        # The median stays; what is above it is stretched or cut until the sum is right.
        total = int(sys.argv[4])
        small = sum(s for s in sizes if s <= 4096)
        large = sum(s for s in sizes if s > 4096)
        factor = max(0.1, (total - small) / large)
        sizes = [s if s <= 4096 else max(4097, int(s * factor)) for s in sizes]
    block = r.randbytes(1 << 20)
    words = b"".join(w + b" " for w in (b"%x" % r.getrandbits(20) for _ in range(1 << 17)))
    for i, size in enumerate(sizes):
        directory = os.path.join(root, "d%03d" % (i // 50))
        if i % 50 == 0:
            os.makedirs(directory, exist_ok=True)
        source = words if i % 4 else block  # most are text
        at = r.randrange(len(source) - 1)
        data = bytearray()
        while len(data) < size:
            data += source[at:at + size - len(data)]
            at = 0
        with open(os.path.join(directory, "f%05d" % i), "wb") as f:
            f.write(data)


main()
