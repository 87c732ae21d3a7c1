"""Compares the start of `bandexa serve` with that of another checkout, in interleaved pairs.

Each checkout has a data directory of its own with one linear bandit of 50 actions that has learned
300 rows. A start lasts from exec until the server announces that it listens. Then the CPU time and
the resident memory of the server are read, and the resident memory together with its child
processes (the trainer, where the start includes it), and the server is stopped. The first start of
each side is not counted: it may compile Python files and fill the page cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bandexa_client import BanditClient
from benchmarks.intervals import ratio_of_pairs
from benchmarks.processes import children, cpu_s, resident_bytes
from benchmarks.report import Target, arguments, compared, report
from benchmarks.server import ROOT, Server
from benchmarks.workload import create, learn, linear_spec

_ROWS = 300
_STARTS, _QUICK_STARTS = 12, 3
MIB = 1 << 20
TARGETS = {
    "cpu_s": Target(0.8, unit="s of CPU until it listens"),
    "resident_ratio": Target(0.5, unit="of the other checkout's resident memory"),
}


@dataclass
class _Side:
    """A checkout's data directory, and what its starts cost."""

    server: Server
    cpu_s: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    with_children_mib: list[float] = field(default_factory=list)

    def prepare(self) -> None:
        """Create the bandit and have it learn."""
        with (
            self.server as server,
            BanditClient(server.address, trust_env=False, timeout_s=60.0) as client,
        ):
            create(client, "linear", linear_spec())
            learn(client, "linear", _ROWS, np.random.default_rng(1))

    def start(self, *, counts: bool) -> None:
        """Start the server once and read what that took."""
        with self.server as server:
            used, resident = cpu_s(server.pid), resident_bytes(server.pid)
            others = sum(resident_bytes(child) for child in children(server.pid))
            if counts:
                self.cpu_s.append(used)
                self.ready_s.append(server.ready_s[-1])
                self.resident_mib.append(resident / MIB)
                self.with_children_mib.append((resident + others) / MIB)


def measure(other: Path, starts: int) -> dict[str, float]:
    """Return the figures of both checkouts and their ratios.

    Raises:
        ServerFailed, BanditError: A server could not be started or prepared.
    """
    with tempfile.TemporaryDirectory(prefix="bandexa-startup-") as folder:
        here = _Side(Server(Path(folder) / "here", checkout=ROOT))
        there = _Side(Server(Path(folder) / "there", checkout=other))
        for side in (here, there):
            side.prepare()
        for number in range(starts + 1):
            for side in (here, there) if number % 2 == 0 else (there, here):
                side.start(counts=number > 0)
    results: dict[str, float] = {"starts": starts}
    for name in ("cpu_s", "ready_s", "resident_mib", "with_children_mib"):
        ours, theirs = getattr(here, name), getattr(there, name)
        ratio = ratio_of_pairs(ours, theirs)
        stem = name.removesuffix("_s").removesuffix("_mib")
        results |= {name: float(np.mean(ours)), f"{name}_there": float(np.mean(theirs))}
        results |= {f"{stem}_ratio": ratio.mean, f"{stem}_ratio_high": ratio.high}
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    given, other, starts = compared(
        arguments("startup", __doc__), argv, "starts", _STARTS, _QUICK_STARTS
    )
    return report("startup", measure(other, starts), given.json, targets=TARGETS)
