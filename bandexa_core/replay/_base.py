"""What both replays share: checks, the row table, eviction, sampling and scanning by row index.

A backend adds where contexts and action features are kept. One thread of one process at a time
uses a replay; what survives a crash is the backend's matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.errors import ClosedError
from bandexa_core.ids import LogPosition
from bandexa_core.replay._table import RowTable
from bandexa_core.replay.protocol import (
    RowBuffers,
    RowLayout,
    Rows,
    check_buffers,
    check_corrections,
    check_rows,
    drawn_rows,
)


class TableReplay(ABC):
    """A replay whose positions, slots and rewards are in a row table (see `Replay`)."""

    def __init__(self, layout: RowLayout, capacity: int | None, table: RowTable) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1 row, not {capacity}")
        self._layout = layout
        self._capacity = capacity
        self._table = table
        self._followed = LogPosition(0)
        self._closed = False

    @property
    def layout(self) -> RowLayout:
        """The shapes of this replay's rows."""
        return self._layout

    @property
    def followed(self) -> LogPosition:
        """The log position up to which everything has been applied; 0 at first."""
        self._check_usable()
        return self._followed

    @property
    def evicted_through(self) -> int:
        """Position up to which rows were evicted; -1 when none was."""
        self._check_usable()
        return self._table.evicted_through

    def evict_through(self, position: int) -> None:
        """Evict the rows up to a log position."""
        self._check_usable()
        if self._table.evict_through(position):
            self.flush()

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Bytes that the rows take."""

    def append(self, rows: Rows) -> None:
        """Add rows at the end; stored ones are overwritten, evicted ones passed over."""
        self._check_usable()
        check_rows(self._layout, rows)
        indices = self._table.place(rows.positions)
        num_gone = int(np.searchsorted(indices, 0))
        if num_gone == len(indices):
            return
        end = max(self._table.end, int(indices[-1]) + 1)
        first = self._first_within_capacity(end)
        # Rows that this same append evicts again get no payload, only their place in the count.
        num_skipped = int(np.searchsorted(indices, first))
        self._write(indices[num_skipped:], rows.part(slice(num_skipped, None)))
        stored = rows.part(slice(num_gone, None))
        self._table.put(indices[num_gone:], stored.positions, stored.slots, stored.rewards)
        self._table.evict_to(first)
        self._changed(len(indices) - num_gone)

    def correct(self, positions: NDArray[np.int64], rewards: NDArray[np.float64]) -> int:
        """Rewrite the rewards of those rows that are still kept and return how many those are."""
        self._check_usable()
        check_corrections(positions, rewards)
        # np.unique on the reversed array keeps the last reward given for a position.
        distinct, last = np.unique(positions[::-1], return_index=True)
        indices = self._table.find(distinct)
        found = indices >= 0
        indices, values = indices[found], rewards[::-1][last][found]
        if len(indices):
            self._write_rewards(indices, values)
            self._table.set_rewards(indices, values)
            self._changed(len(indices))
        return len(indices)

    def positions(self) -> NDArray[np.int64]:
        """Return the positions of the rows kept, in order."""
        self._check_usable()
        return self._table.positions()

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int,
        cumulative_N: NDArray[np.float64] | None = None,
        out: RowBuffers | None = None,
    ) -> Rows:
        """Draw rows with replacement, returned in the order they are stored in."""
        self._check_usable()
        if out is not None:
            check_buffers(self._layout, batch_size, out)
        return self.take(drawn_rows(rng, len(self), batch_size, cumulative_N), out)

    def take(self, numbers: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        """Return the kept rows of sorted numbers, 0 being the oldest one."""
        self._check_usable()
        return self._rows(self._table.first + numbers, out)

    def scan(self, chunk: int) -> Iterator[Rows]:
        """Yield the rows kept at the time of the call in order, `chunk` at a time."""
        self._check_usable()
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        return self._scan(self._table.first, self._table.end, chunk)

    def mark_followed(self, position: int) -> None:
        """Say that the log is applied up to `position`; a lower one changes nothing."""
        self._check_usable()
        self._followed = LogPosition(max(self._followed, position))

    def flush(self) -> None:
        """Return when all that was applied survives what this backend can survive."""
        self._check_usable()

    def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        self._closed = True

    def __len__(self) -> int:
        self._check_usable()
        return self._table.end - self._table.first

    def __enter__(self) -> Self:
        self._check_usable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _write(self, indices: NDArray[np.int64], rows: Rows) -> None:
        """Store rows at increasing indices; there may be none."""

    @abstractmethod
    def _write_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Store new rewards of kept rows, at increasing indices."""

    @abstractmethod
    def _read(self, indices: NDArray[np.int64], into: RowBuffers) -> None:
        """Copy action features and contexts of kept rows, at sorted indices, to `into`."""

    @abstractmethod
    def _changed(self, num_rows: int) -> None:
        """Take note that so many rows were written or rewritten."""

    def _check_usable(self) -> None:
        if self._closed:
            raise ClosedError(f"this {type(self).__name__} is closed")

    def _first_within_capacity(self, end: int) -> int:
        if self._capacity is None:
            return self._table.first
        return max(self._table.first, end - self._capacity)

    def _scan(self, first: int, end: int, chunk: int) -> Iterator[Rows]:
        while first < end:
            self._check_usable()
            first = max(first, self._table.first)
            stop = min(first + chunk, end)
            if first < stop:
                yield self._rows(np.arange(first, stop))
            first = stop

    def _rows(self, indices: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        into = out or RowBuffers.for_rows(self._layout, len(indices))
        self._read(indices, into)
        positions, slots, rewards = self._table.columns(indices)
        return Rows(positions, slots, rewards, into.actions, into.contexts)
