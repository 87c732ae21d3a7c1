"""The problems: tables played as bandits, and scenes; their lengths and numbers of seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.peers import scenes
from benchmarks.peers.data import load
from benchmarks.peers.stream import Stream
from benchmarks.peers.tables import classification_stream, movielens_stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem.

    Attributes:
        horizon: T, its steps in a full run.
        seeds: How many seeds a full run reports.
        table: The table it is played on; None: a scene, which needs no data.
        against: The same without the disturbance, whose regret is 1 in the ratio.
    """

    name: str
    make: Callable[..., Stream]
    horizon: int
    seeds: int
    table: str | None = None
    against: str | None = None

    def stream(self, seed: int, horizon: int, folder: Path) -> Stream:
        """Return the stream of one seed.

        Raises:
            TableUnavailableError: The folder does not hold the table.
        """
        if self.table is None:
            return self.make(seed=seed, horizon=horizon)
        return self.make(load(self.table, folder), seed, horizon)


_TABLES = {
    "mushroom": 2000, "adult": 2000, "phishing": 1250, "segments": 2000, "attrition": 1470,
    "credit": 2000, "movielens": 1500,
}  # fmt: skip
_TABLE_SEEDS, _SCENE_SEEDS = 10, 5


def _table(name: str, horizon: int) -> Problem:
    make = movielens_stream if name == "movielens" else classification_stream
    return Problem(name=name, make=make, horizon=horizon, seeds=_TABLE_SEEDS, table=name)


def _scene(
    name: str, make: Callable[..., Stream], horizon: int, against: str | None = None
) -> Problem:
    return Problem(name=name, make=make, horizon=horizon, seeds=_SCENE_SEEDS, against=against)


_ROWS = [
    *(_table(name, horizon) for name, horizon in _TABLES.items()),
    _scene("noisy-linear", partial(scenes.noisy_binary, nonlinear=False), 6000),
    _scene("noisy-nonlinear", partial(scenes.noisy_binary, nonlinear=True), 6000),
    _scene("range-1000", partial(scenes.in_range, low=1000.0, high=1001.0), 800),
    _scene("range-.95", partial(scenes.in_range, low=0.95, high=0.99), 800),
    _scene("range-.001", partial(scenes.in_range, low=0.0, high=0.001), 800),
    _scene("money", scenes.money, 2500),
    _scene("calm", scenes.calm, 2400),
    _scene("outlier-x", scenes.outlier_context, 2400, "calm"),
    _scene("outlier-r-100", partial(scenes.outlier_reward, value=100.0), 2400, "calm"),
    _scene("outlier-r-1e4", partial(scenes.outlier_reward, value=1e4), 2400, "calm"),
    _scene("sentinel", scenes.sentinel, 2400, "calm"),
    _scene("delay-100", partial(scenes.delayed, delay=100), 2400, "calm"),
    _scene("spare", partial(scenes.spare_column, live=False), 2400),
    _scene("spare-live", partial(scenes.spare_column, live=True), 2400, "spare"),
    _scene("retired", partial(scenes.featured, typo=False), 2400),
    _scene("retired-typo", partial(scenes.featured, typo=True), 2400, "retired"),
    _scene("clicks", scenes.sparse_clicks, 10_000),
    _scene("actions-200", scenes.many_actions, 4000),
    _scene("switch", scenes.switch, 3000),
]  # fmt: skip
PROBLEMS: Mapping[str, Problem] = {row.name: row for row in _ROWS}
