#!/usr/bin/env python3
"""table.py FIGURES OUT ROUNDS TARGET...: medians and ratios, for people on stdout, for programs in OUT."""
import json
import statistics
import sys

SMALLER_IS_BETTER = {"lsl", "untar", "cp", "grep", "rm", "gitadd"}


def ratio(row, ours, theirs):
    if not ours or not theirs:
        return None
    return theirs / ours if row in SMALLER_IS_BETTER else ours / theirs


def main():
    figures, out, rounds, targets = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    data, rows = {}, []
    for line in open(figures, encoding="ascii"):
        row, target, figure = line.split()
        if row not in rows:
            rows.append(row)
        data.setdefault((row, target), []).append(None if figure == "failed" else float(figure))
    table = []
    for row in rows:
        medians = {}
        for target in targets:
            good = [x for x in data.get((row, target), []) if x is not None]
            medians[target] = statistics.median(good) if good else None
        entry = {"row": row, "median": medians, "runs": {t: data.get((row, t), []) for t in targets}}
        for other in targets:
            if other != targets[0]:
                entry["better_than_" + other] = ratio(row, medians[targets[0]], medians[other])
        table.append(entry)
    json.dump({"rounds": rounds, "rows": table}, open(out, "w", encoding="ascii"), indent=1)
    head = f"{'':10s}" + "".join(f"{t:>12s}" for t in targets)
    head += "".join(f"{'x ' + t:>12s}" for t in targets[1:])
    print(f"\nmedians of {rounds}; 'x peer' over 1 means {targets[0]} is better\n{head}")
    for entry in table:
        line = f"{entry['row']:10s}"
        for target in targets:
            m = entry["median"][target]
            line += f"{'failed' if m is None else format(m, '.2f'):>12s}"
        for other in targets[1:]:
            r = entry["better_than_" + other]
            line += f"{'-' if r is None else format(r, '.2f'):>12s}"
        print(line)
    print(f"written to {out}")


main()
