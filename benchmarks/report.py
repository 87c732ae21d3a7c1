"""What every command shares at its beginning and its end: its options, and its report.

`report` prints all figures beside their targets, writes the JSON file and decides the exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Target:
    """What a figure must reach, and what it should reach.

    Attributes:
        must: The bound that decides the exit status; None: the figure has no bound.
        aim: A stricter bound that is worth reaching.
        at_most: Whether both are upper bounds (True) or lower bounds (False).
        unit: What the figure counts.
    """

    must: float | None
    aim: float | None = None
    at_most: bool = True
    unit: str = ""

    def holds(self, measured: float) -> bool:
        """Return whether a figure reaches `must`; NaN never does."""
        if self.must is None:
            return True
        return measured <= self.must if self.at_most else measured >= self.must

    def words(self, bound: float | None) -> str:
        """Return a bound as a table shows it."""
        return "" if bound is None else f"{'<=' if self.at_most else '>='} {bound:g}"


def arguments(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command, with the option that every command has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=doc)
    parser.add_argument("--json", type=Path, help="file the figures are written to")
    return parser


def compared(
    parser: argparse.ArgumentParser, argv: Sequence[str], turns: str, default: int, quick: int
) -> tuple[argparse.Namespace, Path, int]:
    """Parse the options of a comparison with another checkout.

    Args:
        parser: The command's parser.
        argv: The arguments.
        turns: What is repeated, which is also the name of the option.
        default: How often, without --quick.
        quick: How often with it.

    Returns:
        What was given, the root of the other checkout, and how often to repeat; a bad value ends
        the process with status 2.
    """
    parser.add_argument("--against", type=Path, required=True, help="root of the other checkout")
    parser.add_argument(
        f"--{turns}", dest="turns", type=int, help=f"default {default}, with --quick {quick}"
    )
    parser.add_argument("--quick", action="store_true", help=f"few {turns}")
    given = parser.parse_args(argv)
    other: Path = given.against.resolve()
    for package in ("bandexa_core", "service"):
        if not (other / package).is_dir():
            parser.error(f"{other} is no checkout: it has no {package}")
    times = (quick if given.quick else default) if given.turns is None else given.turns
    if times < 2:
        parser.error(f"--{turns} must be at least 2")
    return given, other, times


def machine() -> str:
    """Return the processor, the number of cores, and the versions and threads of the libraries."""
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


def write(name: str, results: Mapping[str, Any], path: Path | None, **more: Any) -> None:
    """Write the figures of a command where a file is given; `more` are further keys."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"name": name, "machine": machine(), "results": dict(results), **more}
        path.write_text(json.dumps(content, indent=1) + "\n")


def report(
    name: str,
    results: Mapping[str, Any],
    json_path: Path | None,
    *,
    targets: Mapping[str, Target] | None = None,
    wrong: Sequence[str] = (),
    claim: str = "",
) -> int:
    """Print and write the figures, then every target that is missed and every claim that fails.

    Args:
        name: The command.
        results: The figures by measure; those that are no numbers are written, not printed.
        json_path: Where they are written; None: nowhere.
        targets: The bounds, by measure. A measure with a bound that has no figure is missed.
        wrong: What contradicts the claim of a proof.
        claim: What a proof states when nothing contradicts it.

    Returns:
        0 when every figure with a `must` reaches it and nothing is wrong, else 1.
    """
    targets = targets or {}
    print(f"{name}: {machine()}")
    print(f"{'measure':<44}{'measured':>14}  {'must':>9}  {'aim':>9}".rstrip())
    missed = []
    for measure, value in results.items():
        if not isinstance(value, int | float):
            continue
        target = targets.get(measure, Target(None))
        bounds = f"{target.words(target.must):>9}  {target.words(target.aim):>9}  {target.unit}"
        print(f"{measure:<44}{value:>14.4g}  {bounds}".rstrip())
        if not target.holds(value):
            missed.append(measure)
    missed += [f"{measure} (not measured)" for measure in targets if measure not in results]
    for measure in missed:
        print(f"MISSED: {measure}")
    for finding in wrong[:20]:
        print(f"FAILED: {finding}")
    if claim and not wrong:
        print(f"HOLDS: {claim}")
    write(name, results, json_path)
    return 1 if missed or wrong else 0
