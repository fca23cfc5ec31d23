#!/usr/bin/env python3
"""counts.py STATUS WORK: where CFS spends its time, as one line of JSON: STATUS is a file with the output of
`cfs status --json`; the CPU seconds are those of the processes whose command line names a file under WORK."""
import json
import os
import sys

ROLES = {"cfs-meta": "meta", "cfs-chunkserver": "chunk", "mount.cfs": "client"}
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(work):
    total = {role: 0.0 for role in ROLES.values()}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace").read()
            fields = open(f"/proc/{pid}/stat", encoding="utf-8").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        role = ROLES.get(os.path.basename(command.split("\0")[0]))
        if role and work in command:
            total[role] += (int(fields[11]) + int(fields[12])) / TICK
    return total


def main():
    status = json.load(open(sys.argv[1], encoding="utf-8"))
    out = {"cpu." + role: s for role, s in cpu_seconds(sys.argv[2]).items()}
    leader = next(m for m in status["meta"] if m["leader"])
    out["commands"] = leader["applied"]
    out["meta.frames"] = leader["counters"]["frames.in"]
    for name in ("puts", "gets", "syncs", "put-bytes", "get-bytes"):
        out["disk." + name] = sum(c["counters"].get("disk." + name, 0) for c in status["chunks"])
    print(json.dumps(out))


main()
