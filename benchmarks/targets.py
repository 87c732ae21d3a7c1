"""Holds measured figures against what they must and should reach, prints both, writes the JSON.

Every `bandexa bench` with targets ends in `report`. Nothing here measures.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Target:
    """What a figure must reach, and what is aimed at.

    Attributes:
        must: The bound that decides the exit status; None: the figure is only told.
        aim: What would be better still.
        at_most: Whether the figure is to stay below (True) or to reach (False) both.
        unit: What the figure counts.
    """

    must: float | None
    aim: float | None = None
    at_most: bool = True
    unit: str = ""

    def holds(self, measured: float) -> bool:
        """Tell whether a figure reaches `must`; NaN never does."""
        if self.must is None:
            return True
        return measured <= self.must if self.at_most else measured >= self.must

    def words(self, bound: float | None) -> str:
        """Return a bound as it stands in a table."""
        return "" if bound is None else f"{'<=' if self.at_most else '>='} {bound:g}"


def machine() -> str:
    """Return the processor, the number of cores and what matters of the software."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}, torch {torch.__version__}, "
        f"OPENBLAS_NUM_THREADS={os.environ.get('OPENBLAS_NUM_THREADS')}, "
        f"torch threads {torch.get_num_threads()}"
    )


def report(
    name: str,
    results: Mapping[str, Any],
    targets: Mapping[str, Target],
    json_path: Path | None,
) -> int:
    """Print all figures beside their targets and write them.

    Returns:
        0 when every figure with a `must` reaches it, else 1.
    """
    print(f"{name}: {machine()}")
    print(f"{'measure':<44}{'measured':>14}  {'must':>9}  {'aim':>9}")
    missed = []
    for measure, value in results.items():
        if not isinstance(value, int | float):
            continue
        target = targets.get(measure, Target(None))
        print(
            f"{measure:<44}{value:>14.4g}  {target.words(target.must):>9}  "
            f"{target.words(target.aim):>9}  {target.unit}"
        )
        if not target.holds(value):
            missed.append(measure)
    for measure in targets.keys() - results.keys():
        missed.append(f"{measure} (not measured)")
    for measure in missed:
        print(f"MISSED: {measure}")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        written = {"name": name, "machine": machine(), "results": dict(results)}
        json_path.write_text(json.dumps(written, indent=1) + "\n")
    return 1 if missed else 0
