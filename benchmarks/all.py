"""Runs every benchmark with a target, one after the other, and ends in one table of the targets.

Each runs as a process of its own and writes its figures into a folder; what missed its "must", or
could not be measured, decides the exit status. The interference of training is measured with the
network that the other figures use; its bound here is the stricter one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import catalog, core, http, memory, rebuild, swap
from benchmarks.targets import Target, report

_TIMEOUT_S = 600.0
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bandexa bench all", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    given = parser.parse_args(argv)
    started = time.monotonic()
    results: dict[str, float] = {}
    targets: dict[str, Target] = {}
    for name, (wanted, options) in _PARTS.items():
        path = given.out.absolute() / f"{name}.json"
        path.unlink(missing_ok=True)  # figures of an earlier run are none
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *options, "--json", str(path)]
        subprocess.run(command, check=False, timeout=_TIMEOUT_S)
        found = json.loads(path.read_text())["results"] if path.exists() else {}
        targets |= {f"{name}.{measure}": target for measure, target in wanted.items()}
        results |= {f"{name}.{m}": found[m] for m in wanted if m in found}
    print(f"\nall of it took {(time.monotonic() - started) / 60:.1f} minutes\n")
    return report("all", results, targets, given.out / "all.json")


if __name__ == "__main__":
    sys.exit(main())
