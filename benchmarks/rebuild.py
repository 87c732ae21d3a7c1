"""Measures the rebuild of a posterior over 100,000 rows of 64 features in memory.

Its floor is one float64 matrix product with as many multiply-adds as Z^T Z has, and one read of the
rows. The rebuild works in chunks, with the checks and sums of `Statistics` and the factorisation.
Both use one thread and take turns; the figures are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from bandexa_core.posterior import GaussianPosterior, PosteriorConfig, Statistics
from bandexa_core.spec import TrainingSpec
from benchmarks.report import Target, arguments, report

_ROWS, _DIM = 100_000, 64
TARGETS = {"rebuild": Target(1.5, 1.2, unit="times the floor")}


def measure(repeats: int) -> dict[str, float]:
    """Return the figures."""
    rng = np.random.default_rng(0)
    rows, values = rng.standard_normal((_ROWS, _DIM)), rng.standard_normal(_ROWS)
    # Two matrices: for Z^T Z numpy would compute only one half.
    left, flat = np.ascontiguousarray(rows.T), rows.reshape(-1)
    chunk = TrainingSpec().rebuild_chunk
    found: dict[str, list[float]] = {"rebuild": [], "product": [], "read": []}
    for turn in range(repeats + 1):
        started = time.perf_counter()
        sums = Statistics(_DIM)
        for first in range(0, _ROWS, chunk):
            sums.add(rows[first : first + chunk], values[first : first + chunk])
        GaussianPosterior.from_statistics(sums, PosteriorConfig())
        built = time.perf_counter()
        np.dot(left, rows)
        multiplied = time.perf_counter()
        flat.dot(flat)
        read = time.perf_counter()
        if turn:
            found["rebuild"].append(built - started)
            found["product"].append(multiplied - built)
            found["read"].append(read - multiplied)
    medians = {name: statistics.median(times) for name, times in found.items()}
    floor = medians["product"] + medians["read"]
    results = {"rebuild": medians["rebuild"] / floor}
    return results | {f"{name}_ms": 1e3 * seconds for name, seconds in medians.items()}


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("rebuild", __doc__)
    parser.add_argument("--repeats", type=int, default=31)
    given = parser.parse_args(argv)
    return report("rebuild", measure(given.repeats), given.json, targets=TARGETS)
