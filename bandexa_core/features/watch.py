"""Watches whether contexts still suit the scale in use, so that it is renewed when they do not.

A function of the scale and of the rows since the snapshot, so every process that applies them comes
to the same answer. Single-threaded. Legend: N rows, X context features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.robust import CONSTANT_BOUND
from bandexa_core.features.scaling import InputScaling

BLOCK = 64  # rows that are judged together
LEAST = 16  # rows of a block beyond the bound, at least, before the scale is wrong
LEAST_LIVE = 4  # of a feature that was constant so far
EXPECTED = 2.0  # and times as many as the rows behind the scale let expect
MARGIN = 0.1  # and as large a share more


@dataclass(slots=True)
class Extremes:
    """The extreme values of contexts that were learned from.

    Attributes:
        num_rows: Contexts since the inputs are standardised.
        columns: By the number of a column: how many extreme values there were, and the last.
    """

    num_rows: int = 0
    columns: dict[int, tuple[int, float]] = field(default_factory=dict)

    def note(self, flat_NX: NDArray[Any], extreme_NX: NDArray[np.bool_]) -> None:
        """Count the extreme values of contexts (N, X)."""
        for row, column in np.argwhere(extreme_NX).tolist():
            num, _ = self.columns.get(column, (0, 0.0))
            self.columns[column] = num + 1, float(flat_NX[row, column])


class InputWatch:
    """Counts the contexts that are beyond the bounds of a scaling, column by column.

    Args:
        scaling: The scaling in use; None, or the identity: nothing is watched.
        extremes: Counts extreme values.

    Attributes:
        num_rows: Rows since the scaling is used.
        changed: Whether a column has left its scale; it stays so.
    """

    def __init__(self, scaling: InputScaling | None, extremes: Extremes) -> None:
        self.extremes = extremes
        self.num_rows = 0
        self.changed = False
        self._watches = scaling is not None and scaling.num_rows > 0 and scaling.scales_contexts
        self._in_block = 0
        if scaling is None or not self._watches:
            return
        self._scale = scale = scaling.x
        self._low, self._high = scale.limits()
        known = np.maximum(LEAST, BLOCK * (EXPECTED * scale.clipped + MARGIN))
        self._most = np.where(scale.bound == CONSTANT_BOUND, LEAST_LIVE, known)
        self._beyond = np.zeros(len(scale.mean), np.int64)

    def see(self, contexts: Sequence[NDArray[Any]]) -> None:
        """Count contexts (*X); the result does not depend on how they are grouped."""
        if not self._watches:
            self.num_rows += len(contexts)
            return
        stacked = contexts[0] if len(contexts) == 1 else np.stack(contexts)
        flat = stacked.reshape(len(contexts), -1)
        beyond_NX = (flat < self._low) | (flat > self._high)
        self.extremes.num_rows += len(flat)
        if not beyond_NX.any():
            self._pass(len(flat))
            return
        self.extremes.note(flat, self._scale.is_extreme(flat))
        first = 0
        while first < len(flat):
            end = min(len(flat), first + BLOCK - self._in_block)
            self._beyond += beyond_NX[first:end].sum(axis=0)
            self._in_block += end - first
            self.changed |= bool((self._beyond >= self._most).any())
            if self._in_block == BLOCK:
                self._beyond[:] = 0
                self._in_block = 0
            self.num_rows += end - first
            first = end

    def _pass(self, num: int) -> None:
        """Count contexts without a value beyond the bounds: most are."""
        self.num_rows += num
        self._in_block += num
        if self._in_block >= BLOCK:
            self._beyond[:] = 0
            self._in_block %= BLOCK

    def copy(self) -> Self:
        """Return a watch that goes on by itself."""
        other = copy.copy(self)
        if self._watches:
            other._beyond = self._beyond.copy()
        return other
