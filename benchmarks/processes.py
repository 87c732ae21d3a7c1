"""What Linux reports about a process: CPU time, memory, descriptors, children."""

from __future__ import annotations

import os
import time
from pathlib import Path

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process: user and system time of all its threads, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def wait_idle(pid: int, share: float = 0.05, over_s: float = 2.0, most_s: float = 600.0) -> None:
    """Wait until a process uses at most this share of a core for some seconds.

    Raises:
        TimeoutError: It is still busy after `most_s`.
    """
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        before = cpu_s(pid)
        time.sleep(over_s)
        if cpu_s(pid) - before <= share * over_s:
            return
    raise TimeoutError(f"process {pid} is still busy after {most_s:.0f} s")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started and that still run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
