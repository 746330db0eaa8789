"""The processes below this one, by what /proc says: for serving.py."""

from __future__ import annotations

import os
from pathlib import Path

REPLICA, PROXY, HAPROXY = "ray::ServeReplica", "ray::ProxyActor", "haproxy"
_TICK = os.sysconf("SC_CLK_TCK")


def below(root: int, title: str = "") -> list[int]:
    """Return the processes that descend from `root` and whose command line begins with `title`, or has it as program."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        if command.startswith(title) or command.split("\0")[0].rpartition("/")[2] == title:
            found.append(int(folder.name))

    def descends(process: int) -> bool:
        while process in parents and process != root:
            process = parents[process]
        return process == root

    return [process for process in found if process != root and descends(process)]


def processor_seconds(processes: list[int]) -> float:
    """Return the seconds that processes have computed, all together."""
    total = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICK


def private_bytes(process: int) -> int:
    """Return the private memory of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


def machine() -> str:
    """Return the processor and how busy it is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
