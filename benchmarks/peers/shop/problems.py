"""The shops as problems: each world with clicks, and the hand-set one with money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simulators.environments.shop import (
    REPORT_SEEDS,
    WORLDS,
    ShopStream,
    shop_stream,
    shop_world,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopProblem:
    """One problem; it has the attributes of `peers.problems.Problem` that a run needs.

    Attributes:
        world: Name of the world.
        money: Whether a click pays the purchase instead of 1.
        horizon: T, its steps in a full run.
        first_seed: The first seed that a full run reports.
        seeds: How many seeds a full run reports.
    """

    name: str
    world: str
    money: bool = False
    horizon: int = 4000
    first_seed: int = REPORT_SEEDS[0]
    seeds: int = len(REPORT_SEEDS)

    table: ClassVar[str | None] = None
    against: ClassVar[str | None] = None
    figure: ClassVar[str] = "percent"

    def stream(self, seed: int, horizon: int, folder: Path) -> ShopStream:
        """Return the stream of one seed; the folder of tables is not needed."""
        del folder
        return shop_stream(shop_world(self.world), seed=seed, horizon=horizon, money=self.money)


_ROWS = [
    *(ShopProblem(name=name, world=name) for name in WORLDS),
    ShopProblem(name="shop-money", world="shop", money=True),
]
PROBLEMS: Mapping[str, ShopProblem] = {row.name: row for row in _ROWS}
