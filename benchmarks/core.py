"""Measures select plus update of the posterior against the textbook way, side by side in one run.

Textbook: keep the precision matrix, add z z^T for each row, factorise it and draw (torch, float32).
Ours: the square-root form in float64 with learned noise, as it is served.

Runs in a process of its own with one thread: BLAS libraries read their thread count when loaded, so
`main` starts itself again with it set. Nothing is kept but the JSON file asked for.
Shapes: K candidates, D features.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bandexa_core.posterior import DisjointPosterior, GaussianPosterior, PosteriorConfig

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_DIMS = (32, 64, 256, 785)
_CANDIDATES = 50
_REPEATS = 21
_MNIST_SLOTS, _MNIST_DIM, _PANEL = 10, 785, 64
_MNIST_INK = 0.2  # share of the pixels of a digit that are not 0
_BLOCK_S = 0.02


class _Textbook:
    """Bayesian linear regression by its precision matrix, refactorised after every row."""

    def __init__(self, dim: int, config: PosteriorConfig) -> None:
        self.noise_var = config.noise_var
        self.precision = torch.eye(dim) / config.prior_var
        self.shift = torch.zeros(dim)
        self.generator = torch.Generator().manual_seed(0)

    def step(self, z_KD: torch.Tensor, r: float) -> None:
        lower = torch.linalg.cholesky(self.precision)
        mean = torch.cholesky_solve(self.shift[:, None], lower)
        eps = torch.randn(len(self.shift), 1, generator=self.generator)
        weights = mean + torch.linalg.solve_triangular(lower.mT, eps, upper=True)
        z = z_KD[int(torch.argmax(z_KD @ weights))]
        self.precision += torch.outer(z, z) / self.noise_var
        self.shift += z * (r / self.noise_var)


class _SquareRoot:
    """The posterior as served, one draw per decision."""

    def __init__(self, dim: int, config: PosteriorConfig) -> None:
        self.posterior = GaussianPosterior.prior(dim, config)
        self.rng = np.random.default_rng(0)

    def step(self, z_KD: np.ndarray, r: float) -> None:
        weights = self.posterior.sample(self.rng, 1)[0]
        self.posterior.update(z_KD[int(np.argmax(z_KD @ weights))], r)


def _step_s(step: Callable[[], None], num: int) -> float:
    """Return seconds per step over one block of `num` steps."""
    start = time.perf_counter()
    for _ in range(num):
        step()
    return (time.perf_counter() - start) / num


def _steps_per_block(step: Callable[[], None]) -> int:
    """Return how many steps fill a block; warms up on the way."""
    _step_s(step, 3)
    return max(3, int(_BLOCK_S / _step_s(step, 3)))


def _medians_us(steps: Sequence[Callable[[], None]]) -> list[float]:
    """Return the median microseconds of each step, blocks taken in turn so that all share noise."""
    counts = [_steps_per_block(step) for step in steps]
    times = np.array(
        [
            [_step_s(step, num) for step, num in zip(steps, counts, strict=True)]
            for _ in range(_REPEATS)
        ]
    )
    return [float(us) for us in np.median(times, axis=0) * 1e6]


def _measure_shared(dim: int) -> tuple[float, float, float]:
    """Return microseconds of a textbook step, of our step and of our update alone."""
    config = PosteriorConfig()
    rng = np.random.default_rng(dim)
    z_KD = rng.normal(size=(_CANDIDATES, dim)) / np.sqrt(dim)
    z32_KD = torch.from_numpy(z_KD).float()
    textbook, ours = _Textbook(dim, config), _SquareRoot(dim, config)
    alone = GaussianPosterior.prior(dim, config)
    textbook_us, ours_us, update_us = _medians_us(
        [
            lambda: textbook.step(z32_KD, 0.5),
            lambda: ours.step(z_KD, 0.5),
            lambda: alone.update(z_KD[0], 0.5),
        ]
    )
    return textbook_us, ours_us, update_us


def _measure_disjoint() -> tuple[float, float]:
    """Return microseconds of a select (panel of 64) and an update with 10 slots of 785 weights."""
    rng = np.random.default_rng(0)
    posterior = DisjointPosterior.prior(_MNIST_DIM, PosteriorConfig())
    z = rng.random(_MNIST_DIM) * (rng.random(_MNIST_DIM) < _MNIST_INK)
    slots = range(_MNIST_SLOTS)
    for slot in slots:
        posterior.update(slot, z, 0.5)
    select_us, update_us = _medians_us(
        [
            lambda: posterior.sample_scores(rng, z, slots, _PANEL).argmax(axis=1).sum(),
            lambda: posterior.update(int(rng.integers(_MNIST_SLOTS)), z, 0.5),
        ]
    )
    return select_us, update_us


def _machine() -> str:
    """Name the processor, the versions and the threads in use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}, torch {torch.__version__}, "
        f"torch threads {torch.get_num_threads()}, "
        f"OPENBLAS_NUM_THREADS={os.environ.get('OPENBLAS_NUM_THREADS')}"
    )


def _run(json_path: Path | None) -> None:
    torch.set_num_threads(1)
    machine = _machine()
    results: dict[str, float] = {}
    print(machine)
    print(f"\nselect (one draw, argmax of {_CANDIDATES}) + update, median microseconds")
    print(f"{'D':>5} {'textbook f32':>13} {'ours f64':>10} {'ratio':>7} {'our update':>11}")
    for dim in _DIMS:
        textbook_us, ours_us, update_us = _measure_shared(dim)
        results[f"select_update_ratio_d{dim}"] = round(textbook_us / ours_us, 2)
        results[f"select_update_us_d{dim}"] = round(ours_us, 1)
        results[f"textbook_select_update_us_d{dim}"] = round(textbook_us, 1)
        results[f"update_us_d{dim}"] = round(update_us, 1)
        ratio = textbook_us / ours_us
        print(f"{dim:>5} {textbook_us:>13.1f} {ours_us:>10.1f} {ratio:>7.1f} {update_us:>11.1f}")
    select_us, update_us = _measure_disjoint()
    results["disjoint_select_us_10x785"] = round(select_us, 1)
    results["disjoint_update_us_10x785"] = round(update_us, 1)
    print(
        f"\n{_MNIST_SLOTS} slots of {_MNIST_DIM} weights: select (panel of {_PANEL}) "
        f"{select_us:.0f} us, update {update_us:.0f} us"
    )
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        report = {"name": "core", "machine": machine, "results": results}
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement and return the exit status.

    Args:
        argv: command line arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.core", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file the figures are written to")
    arguments = parser.parse_args(argv)
    if all(os.environ.get(name) == "1" for name in _ONE_THREAD):
        _run(arguments.json)
        return 0
    command = [sys.executable, "-m", "benchmarks.core"]
    if arguments.json is not None:
        command += ["--json", str(arguments.json)]
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
