"""What the benchmarks ask of processes: CPU time, memory, and one thread for the arithmetic."""

from __future__ import annotations

import os
from pathlib import Path

import torch

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def pin_threads() -> None:
    """Have this process's torch, and all arithmetic of its children, use one thread, and say so.

    numpy reads its number when it is loaded: a benchmark in process starts itself again with it.
    """
    os.environ.update(ONE_THREAD)
    torch.set_num_threads(1)
    print(", ".join(f"{name}={value}" for name, value in ONE_THREAD.items()))


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
