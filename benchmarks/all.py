"""Runs every measurement that has a target, one after the other, and ends in one table of targets.

Each runs in a process of its own and writes its figures into a folder. A figure that misses its
`must`, or is missing, decides the exit status. The interference of training is measured with the
network that the other figures use; its bound here is the stricter one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import catalog, core, http, memory, rebuild, swap
from benchmarks.report import Target, arguments, report
from benchmarks.server import ROOT

_TIMEOUT_S = 900.0
_INTERFERENCE = {
    "p99_over_burner": Target(1.3, 1.1, unit="p99 while training over p99 beside a burner"),
    "p99_over_idle": Target(None, unit="the same over p99 alone"),
}
_PARTS: dict[str, tuple[dict[str, Target], list[str]]] = {
    "core": (core.TARGETS, []),
    "rebuild": (rebuild.TARGETS, []),
    "http": (http.TARGETS, []),
    "catalog": (catalog.TARGETS, []),
    "memory": (memory.TARGETS, []),
    "swap": (swap.TARGETS, []),
    "interference": (_INTERFERENCE, ["--trains", "mlp"]),
    "simulated": ({"http_over_in_process": Target(None)}, []),
}


def main(argv: Sequence[str]) -> int:
    """Run them; returns the exit status."""
    parser = arguments("all", __doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out"), help="folder for the figures of the parts"
    )
    given = parser.parse_args(argv)
    started = time.monotonic()
    results: dict[str, float] = {}
    targets: dict[str, Target] = {}
    for name, (wanted, options) in _PARTS.items():
        path = given.out.absolute() / f"{name}.json"
        path.unlink(missing_ok=True)  # the figures of an earlier run do not count
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, "-m", "benchmarks", name, *options, "--json", str(path)]
        subprocess.run(command, check=False, timeout=_TIMEOUT_S, cwd=ROOT)
        found = json.loads(path.read_text())["results"] if path.exists() else {}
        targets |= {f"{name}.{measure}": target for measure, target in wanted.items()}
        results |= {f"{name}.{m}": found[m] for m in wanted if m in found}
    print(f"\nall parts took {(time.monotonic() - started) / 60:.1f} minutes\n")
    return report("all", results, given.json or given.out / "all.json", targets=targets)
