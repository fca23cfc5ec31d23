#!/usr/bin/env python3
"""tree.py DIR FILES: a tree of small files, the same each time (median 4 KiB, about 16 KiB on average)."""
import os
import random
import sys


def main():
    top, files = sys.argv[1], int(sys.argv[2])
    rng = random.Random(20261121)
    for i in range(files):
        folder = os.path.join(top, f"d{i % 71:02d}", f"e{i % 13:02d}")
        os.makedirs(folder, exist_ok=True)
        size = min(int(rng.lognormvariate(8.32, 1.68)), 1 << 20)
        words = (f"{rng.getrandbits(64):016x} line {n} of file {i}\n" for n in range(size // 30 + 1))
        with open(os.path.join(folder, f"file{i:05d}.txt"), "w", encoding="ascii") as out:
            out.write("".join(words)[:size])


main()
