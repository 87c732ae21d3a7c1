"""What the benchmarks ask of processes: CPU time, memory, and one thread for the arithmetic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
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


def on_one_thread(
    module: str, main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None
) -> int:
    """Run a benchmark's `main` with one thread, in a new process where numpy has more by now.

    Args:
        module: The name it is run by, `python -m`.
        main: What measures; returns the exit status.
        argv: Its arguments; those of this process when None.
    """
    if all(os.environ.get(name) == value for name, value in ONE_THREAD.items()):
        pin_threads()
        return main(argv)
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    given = sys.argv[1:] if argv is None else argv
    command = [sys.executable, "-m", module, *given]
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, check=False).returncode


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
