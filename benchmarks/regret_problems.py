"""The problems of the regret table: workload, length, seeds, policies and disturbances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from simulators.environments import (
    FASHION_FOLDER,
    Environment,
    MnistEnvironment,
    SyntheticEnvironment,
    TwoTowerEnvironment,
    WheelEnvironment,
    fashion_images,
    shipped_digits,
)

ALL = ("linear_ts", "linear_ts_strong", "neural_linear_ts", "greedy", "uniform")
PLAIN = ("linear_ts", "neural_linear_ts", "greedy", "uniform")
STRONG = ("linear_ts_strong",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row of the table.

    Attributes:
        make: Builds the environment from `seed` and `horizon`.
        overrides: Sections of the bandit's configuration that the row is about.
        against: Name of the undisturbed problem, whose regret is 1 in the table's ratio.
    """

    name: str
    workload: str
    make: Callable[..., Environment]
    horizon: int
    seeds: int
    policies: tuple[str, ...]
    delay: int = 1
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    against: str | None = None

    def environment(self, seed: int, horizon: int) -> Environment:
        """Return the problem of one seed."""
        return self.make(seed=seed, horizon=horizon)


def _digits(*, seed: int, horizon: int) -> Environment:
    return MnistEnvironment(shipped_digits(), seed=seed, horizon=horizon)


def fashion(*, seed: int, horizon: int, folder: Path = FASHION_FOLDER) -> Environment:
    """Fashion-MNIST from its idx files in `folder`."""
    return MnistEnvironment(fashion_images(folder), seed=seed, horizon=horizon)


def _synthetic(
    name: str, horizon: int, seeds: int, policies: tuple[str, ...], **given: Any
) -> Problem:
    make = given.pop("make", partial(SyntheticEnvironment, **given.pop("environment", {})))
    return Problem(
        name=name, workload="synthetic", make=make, horizon=horizon, seeds=seeds,
        policies=policies, **given,
    )  # fmt: skip


def _drifting(*, seed: int, horizon: int) -> Environment:
    """Weights redrawn halfway."""
    return SyntheticEnvironment(seed=seed, horizon=horizon, drift_at=horizon // 2)


# The right scale of the noise prior is what the declared reward range implies: 0.4 on [-1, 1].
_ROWS = [
    _synthetic("synthetic", 2000, 10, ALL),
    _synthetic("synthetic-1.5", 4000, 10, ALL, environment={"interaction_scale": 1.5}),
    Problem(name="mnist", workload="mnist", make=_digits, horizon=5000, seeds=5, policies=PLAIN),
    Problem(
        name="two-tower", workload="two-tower", make=TwoTowerEnvironment, horizon=3000, seeds=5,
        policies=(*ALL[:2], "linear_ts_bilinear", *ALL[2:]),
    ),
    *(
        Problem(
            name=f"wheel-{delta}", workload="wheel", make=partial(WheelEnvironment, delta=delta),
            horizon=80_000, seeds=2, policies=PLAIN,
        )
        for delta in (0.5, 0.7, 0.9, 0.95)
    ),
    Problem(
        name="fashion", workload="mnist", make=fashion, horizon=10_000, seeds=3,
        policies=("neural_linear_ts",),
    ),
    *(
        _synthetic(
            f"noise-{name}", 2000, 10, STRONG, against="synthetic",
            overrides={"posterior": {"noise_var": value}},
        )
        for name, value in (("x100", 40.0), ("/100", 0.004))
    ),
    _synthetic("delay-1", 2000, 6, STRONG),
    _synthetic("delay-10", 2000, 6, STRONG, delay=10, against="delay-1"),
    _synthetic("delay-100", 2000, 6, STRONG, delay=100, against="delay-1"),
    _synthetic("drift", 4000, 6, STRONG, make=_drifting),
    _synthetic(
        "drift-forgetting", 4000, 6, STRONG, make=_drifting,
        overrides={"forgetting": {"half_life": 250.0}}, against="drift",
    ),
]  # fmt: skip
PROBLEMS: Mapping[str, Problem] = {row.name: row for row in _ROWS}
