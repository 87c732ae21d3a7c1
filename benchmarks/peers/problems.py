"""The problems: tables played as bandits, and scenes; their lengths and numbers of seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
        figure: The figure of `play.figures`, or "ratio", that the problem is about.
    """

    name: str
    make: Callable[..., Stream]
    horizon: int
    seeds: int
    table: str | None = None
    against: str | None = None
    figure: str = "percent"

    def stream(self, seed: int, horizon: int, folder: Path) -> Stream:
        """Return the stream of one seed.

        Raises:
            TableUnavailableError: The folder does not hold the table.
        """
        if self.table is None:
            return self.make(seed=seed, horizon=horizon)
        return self.make(load(self.table, folder), seed, horizon)


_TABLES = {
    "mushroom": 1500, "adult": 2000, "phishing": 1250, "segments": 1500, "attrition": 1470,
    "credit": 1500, "movielens": 1500,
}  # fmt: skip
_TABLE_SEEDS, _SCENE_SEEDS = 10, 3
_DISTURBED = 2400  # steps of a scene with a disturbance, and of its twin
GAIN, BEST = "gain_share", "best_share"


def _table(name: str, horizon: int) -> Problem:
    make = movielens_stream if name == "movielens" else classification_stream
    return Problem(name=name, make=make, horizon=horizon, seeds=_TABLE_SEEDS, table=name)


def _scene(
    name: str, make: Callable[..., Stream], horizon: int, figure: str = "percent"
) -> Problem:
    return Problem(name=name, make=make, horizon=horizon, seeds=_SCENE_SEEDS, figure=figure)


def _disturbed(name: str, make: Callable[..., Stream], against: str) -> Problem:
    return replace(_scene(name, make, _DISTURBED, "ratio"), against=against)


_RANGES = {"1000": (1000.0, 1001.0), ".95": (0.95, 0.99), ".001": (0.0, 0.001)}
_ROWS = [
    *(_table(name, horizon) for name, horizon in _TABLES.items()),
    *(
        _scene(f"noisy-{name}", partial(scenes.noisy_binary, nonlinear=nonlinear), 6000, GAIN)
        for name, nonlinear in (("linear", False), ("nonlinear", True))
    ),
    *(
        _scene(f"range-{name}", partial(scenes.in_range, low=low, high=high), 800, BEST)
        for name, (low, high) in _RANGES.items()
    ),
    _scene("money", scenes.money, 2500, BEST),
    _scene("calm", scenes.calm, _DISTURBED),
    _disturbed("outlier-x", scenes.outlier_context, "calm"),
    _disturbed("outlier-r-100", partial(scenes.outlier_reward, value=100.0), "calm"),
    _disturbed("outlier-r-1e4", partial(scenes.outlier_reward, value=1e4), "calm"),
    _disturbed("sentinel-spare", partial(scenes.missing, column=5, shown=-999.0), "calm"),
    _scene("missing", partial(scenes.missing, column=0, shown=0.0), _DISTURBED),
    _disturbed("sentinel", partial(scenes.missing, column=0, shown=-999.0), "missing"),
    _disturbed("delay-100", partial(scenes.delayed, delay=100), "calm"),
    _scene("spare", partial(scenes.spare_column, live=False), _DISTURBED),
    _disturbed("spare-live", partial(scenes.spare_column, live=True), "spare"),
    _scene("retired", partial(scenes.featured, typo=False), _DISTURBED),
    _disturbed("retired-typo", partial(scenes.featured, typo=True), "retired"),
    _scene("clicks", scenes.sparse_clicks, 10_000),
    _scene("actions-200", scenes.many_actions, 4000),
    _scene("switch", scenes.switch, 3000),
]  # fmt: skip
PROBLEMS: Mapping[str, Problem] = {row.name: row for row in _ROWS}
