"""Measures select + update of the posterior against the textbook method, side by side in one run.

The textbook method holds the precision matrix, adds z z^T for each row, factorises it and draws
(torch, float32). The service's method is the square root form in float64 with learned noise.

The MNIST step compares ten posteriors of 785 weights, one for each label, with one textbook
posterior of all 7,850 weights (three quarters of a gigabyte, some seconds).

Rewards that arrive together are applied as one group: the same 64 log rows are applied to a bandit
with an `mlp` of 64 features one by one, and to another one as a block.

All of it uses one thread. Shapes: K candidates, D features.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.rows import Group, LearnRow, row_by_row
from bandexa_core.model import ServingModel
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior, PosteriorConfig
from bandexa_core.randomness import bandit_uid
from bandexa_core.snapshots.store import Snapshot
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec
from benchmarks.report import Target, arguments, report

_DIMS = (32, 64, 256, 785)
_CANDIDATES = 50
_REPEATS = 21
_MNIST_SLOTS, _MNIST_DIM, _PANEL = 10, 785, 64
_MNIST_INK = 0.2  # share of the pixels of a digit that are not 0
_DENSE_STEPS = 3
_BLOCK_S = 0.02
_GROUP, _NUM_GROUPS, _INPUTS = 64, 20, 16
TARGETS = {
    f"select_update_ratio_d{dim}": Target(5.0, 10.0, at_most=False, unit="times the textbook")
    for dim in _DIMS
} | {
    "mnist_linear_ratio": Target(1000.0, at_most=False, unit="times the textbook"),
    "group_ratio_mlp": Target(3.0, at_most=False, unit="times faster than row by row"),
}


class _Textbook:
    """Bayesian linear regression by a precision matrix that is factorised again after every row."""

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
    """The posterior of the service, with one draw per decision."""

    def __init__(self, dim: int, config: PosteriorConfig) -> None:
        self.posterior = GaussianPosterior.prior(dim, config)
        self.rng = np.random.default_rng(0)

    def step(self, z_KD: np.ndarray, r: float) -> None:
        weights_D = self.posterior.sample_one(self.rng)
        self.posterior.update(z_KD[int(z_KD.dot(weights_D).argmax())], r)


def _step_s(step: Callable[[], None], num: int) -> float:
    """Return seconds per step over one block of `num` steps."""
    start = time.perf_counter()
    for _ in range(num):
        step()
    return (time.perf_counter() - start) / num


def _steps_per_block(step: Callable[[], None]) -> int:
    """Warm up, and return how many steps fill a block."""
    _step_s(step, 3)
    return max(3, int(_BLOCK_S / _step_s(step, 3)))


def _medians_us(steps: Sequence[Callable[[], None]]) -> list[float]:
    """Return the median microseconds of each step; blocks take turns, so that all share noise."""
    counts = [_steps_per_block(step) for step in steps]
    times = np.array(
        [
            [_step_s(step, num) for step, num in zip(steps, counts, strict=True)]
            for _ in range(_REPEATS)
        ]
    )
    return [float(us) for us in np.median(times, axis=0) * 1e6]


def _measure_shared(dim: int) -> list[float]:
    """Return microseconds of a textbook step, of a step of the service and of its update alone."""
    config = PosteriorConfig()
    rng = np.random.default_rng(dim)
    z_KD = rng.normal(size=(_CANDIDATES, dim)) / np.sqrt(dim)
    z32_KD = torch.from_numpy(z_KD).float()
    textbook, ours = _Textbook(dim, config), _SquareRoot(dim, config)
    alone = GaussianPosterior.prior(dim, config)
    return _medians_us(
        [
            lambda: textbook.step(z32_KD, 0.5),
            lambda: ours.step(z_KD, 0.5),
            lambda: alone.update(z_KD[0], 0.5),
        ]
    )


def _dense_us() -> float:
    """Return microseconds of a textbook step with all weights of the MNIST problem."""
    dim = _MNIST_SLOTS * _MNIST_DIM
    textbook = _Textbook(dim, PosteriorConfig())
    z_KD = torch.randn(_MNIST_SLOTS, dim) / dim**0.5
    steps = [_step_s(lambda: textbook.step(z_KD, 0.5), 1) for _ in range(_DENSE_STEPS)]
    return 1e6 * statistics.median(steps)


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


class _Follower:
    """A model that applies the same log again and again: its position is set back at the end."""

    def __init__(self, batches: Sequence[Sequence[Group]]) -> None:
        spec = BanditSpec(
            policy="neural_linear_ts", context=ContextSpec(shape=(_INPUTS,)), action_dim=_INPUTS,
            encoder=EncoderSpec(name="mlp"), seed=0,
        )  # fmt: skip
        catalogue = Catalogue.empty(spec.row_layout)
        self.model = ServingModel(spec, bandit_uid("bench", 0), EncoderRegistry(), catalogue)
        self._batches = itertools.cycle(batches)

    def step(self) -> None:
        groups = next(self._batches)
        self.model.position = LogPosition(groups[0].rows[0].position - 1)
        for group in groups:
            self.model.apply(group, _no_import)


def _no_import(version: SnapshotVersion) -> Snapshot:
    raise AssertionError(f"snapshot {version} was never imported here")


def _learn_row(number: int, rng: np.random.Generator) -> LearnRow:
    position = LogPosition(number)
    x, a = rng.standard_normal((2, _INPUTS), dtype=np.float32)
    value, slot = float(rng.uniform(-1.0, 1.0)), ActionSlot(0)
    return LearnRow(position, 0.0, DecisionId(f"d{number}"), position, None, value, x, a, slot)


def _measure_groups() -> tuple[float, float]:
    """Return microseconds per learn row: one by one, and in groups."""
    rng = np.random.default_rng(0)
    rows = [_learn_row(number, rng) for number in range(1, _NUM_GROUPS * _GROUP + 1)]
    pieces = [rows[first : first + _GROUP] for first in range(0, len(rows), _GROUP)]
    one_by_one = _Follower([[row_by_row(row) for row in piece] for piece in pieces])
    grouped = _Follower([[Group(tuple(piece), as_block=True)] for piece in pieces])
    alone_us, group_us = _medians_us([one_by_one.step, grouped.step])
    return alone_us / _GROUP, group_us / _GROUP


def measure() -> dict[str, float]:
    """Return the figures."""
    results: dict[str, float] = {}
    for dim in _DIMS:
        textbook_us, ours_us, update_us = _measure_shared(dim)
        results[f"select_update_ratio_d{dim}"] = textbook_us / ours_us
        results[f"select_update_us_d{dim}"] = ours_us
        results[f"textbook_us_d{dim}"] = textbook_us
        results[f"update_us_d{dim}"] = update_us
    select_us, update_us = _measure_disjoint()
    results["disjoint_select_us_10x785"] = select_us
    results["disjoint_update_us_10x785"] = update_us
    results["mnist_linear_ratio"] = _dense_us() / (select_us + update_us)
    row_us, grouped_us = _measure_groups()
    results["group_ratio_mlp"] = row_us / grouped_us
    results["row_us_mlp"], results["row_in_group_us_mlp"] = row_us, grouped_us
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    given = arguments("core", __doc__).parse_args(argv)
    return report("core", measure(), given.json, targets=TARGETS)
