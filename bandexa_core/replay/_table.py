"""The row table: position, slot and reward of every row of a replay in memory, 24 bytes a row.

The *index* of a row is its number in the order of appending, starting at 0. It never changes, while
eviction moves `first`. A backend derives from the index where it stores the row: shard and record,
or place in a ring. A table belongs to one replay; after a crash it is read again from the backend.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)

_LEAST_ALLOCATION = 1024


class RowTable:
    """Position, slot and reward of the rows with index `first` to `end` - 1."""

    def __init__(self, *, first: int = 0, evicted_through: int = -1) -> None:
        self._first = first
        self._end = first
        self._base = first  # the index of the row in element 0 of the arrays
        self._evicted_through = evicted_through
        self._positions = np.empty(0, np.int64)
        self._slots = np.empty(0, np.int64)
        self._rewards = np.empty(0, np.float64)

    @property
    def first(self) -> int:
        """Index of the oldest row."""
        return self._first

    @property
    def end(self) -> int:
        """Index of the next row to be appended."""
        return self._end

    @property
    def evicted_through(self) -> int:
        """The log position up to which rows are evicted; -1 when none was evicted."""
        return self._evicted_through

    @property
    def num_bytes(self) -> int:
        """Bytes of memory allocated."""
        return self._positions.nbytes + self._slots.nbytes + self._rewards.nbytes

    def place(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index at which the row of each of strictly increasing positions belongs.

        The index is -1 for evicted rows, the existing index for stored rows, and `end`, `end` + 1
        and so on for new rows.

        Raises:
            ValueError: A new position lies before the last stored row.
        """
        stored = self._stored(self._positions)
        last = int(stored[-1]) if len(stored) else self._evicted_through
        num_gone, num_old = np.searchsorted(
            positions, np.array([self._evicted_through, last]), side="right"
        )
        indices = np.full(len(positions), -1, np.int64)
        indices[num_gone:num_old] = self.find(positions[num_gone:num_old])
        missing = np.flatnonzero(indices[num_gone:num_old] < 0)
        if len(missing):
            raise ValueError(
                f"position {positions[num_gone + missing[0]]} is not stored and lies before the "
                f"last stored row, at {last}"
            )
        indices[num_old:] = self._end + np.arange(len(positions) - num_old)
        return indices

    def find(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of the row at each position; -1 where no row is stored."""
        stored = self._stored(self._positions)
        if not len(stored):
            return np.full(len(positions), -1, np.int64)
        nearest = np.minimum(np.searchsorted(stored, positions), len(stored) - 1)
        return np.where(stored[nearest] == positions, nearest + self._first, -1)

    def put(
        self,
        indices: NDArray[np.int64],
        positions: NDArray[np.int64],
        slots: NDArray[np.int64],
        rewards: NDArray[np.float64],
    ) -> None:
        """Store rows at indices that `place` returned; none may be -1."""
        if not len(indices):
            return
        assert self._first <= indices[0] <= self._end
        self._reserve(int(indices[-1]) + 1)
        at = indices - self._base
        self._positions[at] = positions
        self._slots[at] = slots
        self._rewards[at] = rewards
        self._end = max(self._end, int(indices[-1]) + 1)

    def set_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Overwrite the rewards of stored rows."""
        self._rewards[indices - self._base] = rewards

    def columns(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return positions, slots and rewards of stored rows, as copies."""
        at = indices - self._base
        return self._positions[at], self._slots[at], self._rewards[at]

    def positions(self) -> NDArray[np.int64]:
        """Return the positions of all stored rows, as a copy."""
        return self._stored(self._positions).copy()

    def evict_to(self, first: int) -> None:
        """Evict the rows before index `first`."""
        if first <= self._first:
            return
        assert first <= self._end
        self._evicted_through = int(self._positions[first - 1 - self._base])
        self._first = first

    def evict_through(self, position: int) -> int:
        """Evict the rows up to a log position, and return their number.

        `place` returns -1 for such rows from now on.
        """
        before = self._first
        stored = self._stored(self._positions)
        self.evict_to(before + int(np.searchsorted(stored, position, side="right")))
        self._evicted_through = max(self._evicted_through, position)
        return self._first - before

    def _stored(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        return column[self._first - self._base : self._end - self._base]

    def _reserve(self, end: int) -> None:
        """Make room for indices below `end`; evicted rows are dropped when the arrays move."""
        if end - self._base <= len(self._positions):
            return
        stored = slice(self._first - self._base, self._end - self._base)
        allocated = max(_LEAST_ALLOCATION, 2 * (end - self._first))
        self._positions = _moved(self._positions[stored], allocated)
        self._slots = _moved(self._slots[stored], allocated)
        self._rewards = _moved(self._rewards[stored], allocated)
        self._base = self._first


def _moved(column: NDArray[_T], allocated: int) -> NDArray[_T]:
    moved = np.empty(allocated, column.dtype)
    moved[: len(column)] = column
    return moved
