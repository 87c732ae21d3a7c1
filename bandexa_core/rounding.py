"""Draws a list of different candidates, given how probable each is at each place.

A matrix of probabilities, one row for each place, is the law of some random list whenever every row
sums to 1 and no column to more than 1 (Birkhoff and von Neumann). `drawn_list` draws from such a
law, and its probabilities are those of the matrix exactly:

1. Candidates whose columns together sum to 1 at most are merged: a list has one of them at most, so
   where the merged one is drawn, one of them is drawn by its part of that place. Fewer than 2 J + 1
   columns remain, however many candidates there are.
2. The rest is rounded by dependent rounding (Gandhi, Khuller, Parthasarathy & Srinivasan, Dependent
   rounding and its applications to approximation algorithms, J. ACM 2006). On a cycle of entries
   between 0 and 1, or on a path between two columns that have one such entry each, entries go up
   and down in turn by as much as they can, in a direction that is drawn so that no expectation
   changes. Rows keep their sums, columns never exceed 1, and each step leaves one entry less.

Legend: J places, K candidates, G merged candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
Edge = tuple[int, int]
TINY = 1e-12  # a probability below is none: that is how far sums of probabilities are off


def drawn_list(wanted_JK: Array64, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a different candidate for each place, drawn with these probabilities, (J,)."""
    starts = _merged(wanted_JK.sum(axis=0))
    ends = [*starts[1:], wanted_JK.shape[1]]
    merged_JG = np.add.reduceat(wanted_JK, starts, axis=1)
    drawn = np.zeros(len(wanted_JK), np.int64)
    for place, group in enumerate(_Rounding(merged_JG, rng).picks()):
        part = wanted_JK[place, starts[group] : ends[group]]
        sums = np.cumsum(part)
        at = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
        drawn[place] = starts[group] + min(at, int(np.flatnonzero(part)[-1]))
    return drawn


def _merged(chances_K: Array64) -> list[int]:
    """Return where groups of neighbours begin that are on a list with probability 1 at most."""
    sums, starts, start = np.cumsum(chances_K), [], 0
    while start < len(sums):
        starts.append(start)
        before = sums[start - 1] if start else 0.0
        start = max(start + 1, int(np.searchsorted(sums, before + 1.0, side="right")))
    return starts


class _Rounding:
    """Rounds a matrix to zeros and ones.

    Args:
        x_JG: The probabilities.
        rng: Draws the directions.
    """

    def __init__(self, x_JG: Array64, rng: np.random.Generator) -> None:
        self._x: list[list[float]] = x_JG.tolist()
        self._rng = rng
        num_rows, num_columns = x_JG.shape
        # The entries that are not rounded yet, by row and by column, in the order of their places.
        self._rows: list[dict[int, None]] = [{} for _ in range(num_rows)]
        self._columns: list[dict[int, None]] = [{} for _ in range(num_columns)]
        self._picks: list[int | None] = [None] * num_rows
        for row, column in np.argwhere(x_JG > TINY).tolist():
            self._rows[row][column] = None
            self._columns[column][row] = None

    def picks(self) -> list[int]:
        """Return the column of the 1 of each row."""
        while (start := self._start()) is not None:
            edges = self._alternating(start)
            if len(edges) == 1:  # what is left of a row is a 1, to rounding
                self._settle(edges[0], 1.0)
            else:
                self._shift(edges)
        found = [pick for pick in self._picks if pick is not None]
        assert len(found) == len(set(found)) == len(self._picks), "rows sum to 1, columns to less"
        return found

    def _start(self) -> int | None:
        """Return a column to begin at: one with a single entry that is left, if there is one."""
        left = [column for column, rows in enumerate(self._columns) if rows]
        return min(left, key=lambda column: len(self._columns[column]) > 1, default=None)

    def _alternating(self, column: int) -> list[Edge]:
        """Return the entries of a cycle, or of a path to a column without another entry.

        A row with a single entry gives that entry alone.
        """
        edges: list[Edge] = []
        seen_rows: dict[int, int] = {}
        seen_columns = {column: 0}
        row: int | None = None
        while True:
            row = next((each for each in self._columns[column] if each != row), None)
            if row is None:
                return edges
            edges.append((row, column))
            if row in seen_rows:
                return edges[seen_rows[row] :]
            seen_rows[row] = len(edges)
            following = next((each for each in self._rows[row] if each != column), None)
            if following is None:
                return edges[-1:]
            column = following
            edges.append((row, column))
            if column in seen_columns:
                return edges[seen_columns[column] :]
            seen_columns[column] = len(edges)

    def _shift(self, edges: list[Edge]) -> None:
        """Move the entries up and down in turn until one of them is 0 or 1."""
        x = self._x
        values = [x[row][column] for row, column in edges]
        up = min(min(1.0 - v for v in values[::2]), *values[1::2])
        down = min(min(values[::2]), *(1.0 - v for v in values[1::2]))
        step = up if self._rng.random() * (up + down) < down else -down
        for index, (row, column) in enumerate(edges):
            if column in self._rows[row]:  # it may be settled by an entry before it
                self._settle((row, column), values[index] + (-step if index % 2 else step))

    def _settle(self, edge: Edge, value: float) -> None:
        """Take a new value of an entry, which may be the last one of its row and column."""
        row, column = edge
        self._x[row][column] = value
        if TINY < value < 1.0 - TINY:
            return
        self._drop(row, column)
        if value > 0.5:
            self._picks[row] = column
            for other in tuple(self._rows[row]):
                self._drop(row, other)
            for each in tuple(self._columns[column]):
                self._drop(each, column)

    def _drop(self, row: int, column: int) -> None:
        del self._rows[row][column]
        del self._columns[column][row]
