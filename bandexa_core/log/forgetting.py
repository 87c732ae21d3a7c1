"""Forgetting: the weight that is left of a learned row, as a function of log and configuration.

Rows lose weight in steps. The clock counts positions, or is the time in the log's rows, and has a
fixed grid of 32 cells per half-life. Whenever a log row lies in a later cell than the row before, a
step is taken before that row is applied. A step scales the statistics and leaves the prior:

    precision = prior + gamma * sum z z^T        gamma = 2^(-cells / 32)

This is stabilised forgetting (Kulhavy & Zarrop, Int. J. Control, 1993). Without the constant prior,
directions that no new row excites would lose all precision.

Applying a row reads no clock, so equal logs forget equally, in every process and after every crash.
Pure values; a snapshot stores the steps that were taken as tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import LogPosition
from bandexa_core.spec import FORGETTING_CELLS, ForgettingSpec

# Steps more than this many half-lives ago are dropped, and no step is larger. The weights that they
# would distinguish differ by less than 1e-12. No weight rounds to 0, so that rows can always be
# drawn by their weights.
MAX_HALF_LIVES = 40.0


@dataclass(frozen=True, slots=True, eq=False)
class Forgetting:
    """The S steps taken so far; immutable.

    Attributes:
        cell: Grid cell of the newest applied row; None before the first one.
        positions: Position of the row before which each step was taken, int64 (S,), ascending.
        half_lives: Size of each step in half-lives, float64 (S,).
    """

    cell: int | None = None
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    half_lives: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def due(self, spec: ForgettingSpec, position: int, time: float) -> float:
        """Return how many half-lives to forget before the row at `position` is applied."""
        if spec.half_life is None or self.cell is None:
            return 0.0
        cells = max(0, _cell(spec, position, time) - self.cell)
        return min(cells / FORGETTING_CELLS, MAX_HALF_LIVES)

    def after(self, spec: ForgettingSpec, position: int, time: float) -> Forgetting:
        """Return the state after the step that is due before the row at `position`."""
        if spec.half_life is None:
            return self
        cell = _cell(spec, position, time)
        size = self.due(spec, position, time)
        if self.cell is None:
            return replace(self, cell=cell)
        if size == 0.0:  # a clock that was set back does not restore weights
            return self
        sizes = np.append(self.half_lives, size)
        recent = np.cumsum(sizes[::-1])[::-1] - sizes < MAX_HALF_LIVES
        return Forgetting(cell, np.append(self.positions, position)[recent], sizes[recent])

    def weights(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the weights (N,) that are left of the rows first learned at `positions` (N,)."""
        since = np.append(np.cumsum(self.half_lives[::-1])[::-1], 0.0)
        shares: NDArray[np.float64] = np.exp2(
            -since[np.searchsorted(self.positions, positions, side="right")]
        )
        return shares

    def weight(self, position: LogPosition) -> float:
        """Return the weight that is left of the row first learned at `position`."""
        if not len(self.positions):
            return 1.0
        return float(self.weights(np.array([position]))[0])

    def restarted(self) -> Forgetting:
        """Return the same steps without a cell, because a new half-life has another grid."""
        return Forgetting(None, self.positions, self.half_lives)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the state as named arrays; an empty dict as long as nothing can be forgotten."""
        if self.cell is None and not len(self.positions):
            return {}
        cells = [] if self.cell is None else [self.cell]
        return {
            "cell": np.array(cells, np.int64),
            "positions": self.positions,
            "half_lives": self.half_lives,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> Forgetting:
        """Return the state that `tensors` returned.

        Raises:
            ValueError: The arrays do not describe such a state.
        """
        if not tensors:
            return cls()
        try:
            cells, positions, sizes = (tensors[n] for n in ("cell", "positions", "half_lives"))
        except KeyError as error:
            raise ValueError(f"forgetting: tensor {error} is missing") from error
        whole = cells.dtype == positions.dtype == np.int64 and sizes.dtype == np.float64
        shapes = cells.ndim == 1 and len(cells) <= 1 and positions.shape == sizes.shape
        if not whole or not shapes or positions.ndim != 1:
            raise ValueError("forgetting: tensors of a wrong dtype or shape")
        if (np.diff(positions) <= 0).any() or not (np.isfinite(sizes) & (sizes > 0)).all():
            raise ValueError("forgetting: steps out of order or of no size")
        return cls(int(cells[0]) if len(cells) else None, positions, sizes)


def _cell(spec: ForgettingSpec, position: int, time: float) -> int:
    assert spec.half_life is not None
    clock = position if spec.by == "count" else time
    return math.floor(clock * FORGETTING_CELLS / spec.half_life)
