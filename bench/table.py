#!/usr/bin/env python3
"""table.py FIGURES COUNTS OUT ROUNDS TARGET...: medians and ratios, and what CFS did in each row, for people on stdout,
for programs in OUT."""
import json
import statistics
import sys

SMALLER_IS_BETTER = {"lsl", "untar", "cp", "grep", "rm", "gitadd"}


def ratio(row, ours, theirs):
    if not ours or not theirs:
        return None
    return theirs / ours if row in SMALLER_IS_BETTER else ours / theirs


def read_counts(path):
    """Per row: the unit, and everything counted while it ran, divided by the number of units."""
    out = {}
    for line in open(path, encoding="ascii"):
        row, units, before, after = line.rstrip("\n").split("\t")
        n, unit = units.split()
        before, after = json.loads(before), json.loads(after)
        out[row] = {"unit": unit, **{k: (after[k] - before[k]) / max(int(n), 1) for k in after}}
    return out


def print_counts(counts):
    if not counts:
        return
    print("\nwhat CFS did for one unit of each row (first round): commands are synced in the Raft log; questions are answered")
    print("without; puts and gets are of fragments, each put synced on its server; CPU of client, cfs-meta and chunk servers, ms")
    heads = ("unit", "commands", "questions", "puts", "gets", "syncs", "client", "meta", "chunk")
    print(f"{'':10s}{heads[0]:>12s}" + "".join(f"{h:>10s}" for h in heads[1:]))
    for row, c in counts.items():
        values = [c["commands"], max(c["meta.frames"] - c["commands"], 0), c["disk.puts"], c["disk.gets"], c["disk.syncs"]]
        values += [1000 * c["cpu." + role] for role in ("client", "meta", "chunk")]
        print(f"{row:10s}{c['unit']:>12s}" + "".join(f"{v:>10.2f}" for v in values))


def main():
    figures, out, rounds, targets = sys.argv[1], sys.argv[3], int(sys.argv[4]), sys.argv[5:]
    counts = read_counts(sys.argv[2])
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
    json.dump({"rounds": rounds, "rows": table, "counts": counts}, open(out, "w", encoding="ascii"), indent=1)
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
    print_counts(counts)
    print(f"written to {out}")


main()
