"""Times the core of one checkout in turns; a process of its own that `compare` starts.

`compare` starts this file with the root of a checkout first on Python's path, so it uses only
names that every checkout has: those of `bandexa_core.posterior`. It prints the root of the package
that it imported. Then each line on standard input names a measure and a number of steps, and each
line on standard output is the CPU time of those steps in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bandexa_core
from bandexa_core.posterior import GaussianPosterior, PosteriorConfig, Statistics

_CANDIDATES = 50
_ROWS, _ROWS_DIM, _CHUNK = 20_000, 64, 4096


def _select_update(dim: int) -> Callable[[], None]:
    """Return one step: draw weights, take the best of 50 candidates, learn its reward."""
    rng = np.random.default_rng(dim)
    z_KD = rng.normal(size=(_CANDIDATES, dim)) / np.sqrt(dim)
    posterior = GaussianPosterior.prior(dim, PosteriorConfig())

    def step() -> None:
        weights_D = posterior.sample_one(rng)
        posterior.update(z_KD[int(z_KD.dot(weights_D).argmax())], 0.5)

    return step


def _rebuild() -> Callable[[], None]:
    """Return one step: the sums over all rows, chunk by chunk, and the factorisation."""
    rng = np.random.default_rng(0)
    rows, values = rng.standard_normal((_ROWS, _ROWS_DIM)), rng.standard_normal(_ROWS)

    def step() -> None:
        sums = Statistics(_ROWS_DIM)
        for first in range(0, _ROWS, _CHUNK):
            sums.add(rows[first : first + _CHUNK], values[first : first + _CHUNK])
        GaussianPosterior.from_statistics(sums, PosteriorConfig())

    return step


def main() -> None:
    """Serve turns until standard input closes."""
    dims = {f"core_d{dim}": dim for dim in (32, 64, 256, 785)}
    steps = {name: _select_update(dim) for name, dim in dims.items()}
    steps["core_rebuild"] = _rebuild()
    (package,) = bandexa_core.__path__
    print(json.dumps(str(Path(package).parent)), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        step = steps[order["measure"]]
        started = time.process_time()
        for _ in range(order["steps"]):
            step()
        print(json.dumps(time.process_time() - started), flush=True)


if __name__ == "__main__":
    main()
