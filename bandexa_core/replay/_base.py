"""The common part of both replays: checks, row table, eviction, sampling and scanning.

A backend adds the storage of contexts and action features, and with it defines what survives a
crash. One thread of one process at a time uses a replay.
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
    """A replay with positions, slots and rewards in a row table (see `Replay`)."""

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
        """The shapes and dtypes of the rows."""
        return self._layout

    @property
    def followed(self) -> LogPosition:
        """The log position up to which all rows are applied; 0 at first."""
        self._check_usable()
        return self._followed

    @property
    def evicted_through(self) -> int:
        """The log position up to which rows are evicted; -1 when none was evicted."""
        self._check_usable()
        return self._table.evicted_through

    def evict_through(self, position: int) -> None:
        """Evict the rows up to a log position; `append` skips such rows from now on."""
        self._check_usable()
        if self._table.evict_through(position):
            self.flush()

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Bytes that the rows take, in memory or in shard files."""

    def append(self, rows: Rows) -> None:
        """Append rows; stored ones are overwritten, evicted ones are skipped."""
        self._check_usable()
        check_rows(self._layout, rows)
        indices = self._table.place(rows.positions)
        num_gone = int(np.searchsorted(indices, 0))
        if num_gone == len(indices):
            return
        end = max(self._table.end, int(indices[-1]) + 1)
        first = self._first_within_capacity(end)
        # Rows that this append evicts at once are counted, but their payload is not stored.
        num_skipped = int(np.searchsorted(indices, first))
        self._write(indices[num_skipped:], rows.part(slice(num_skipped, None)))
        stored = rows.part(slice(num_gone, None))
        self._table.put(indices[num_gone:], stored.positions, stored.slots, stored.rewards)
        self._table.evict_to(first)
        self._changed(len(indices) - num_gone)

    def correct(self, positions: NDArray[np.int64], rewards: NDArray[np.float64]) -> int:
        """Rewrite the rewards of the given rows, and return how many of them exist."""
        self._check_usable()
        check_corrections(positions, rewards)
        # np.unique returns first occurrences: on reversed arrays the last reward of a position.
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
        """Return the positions of all rows in order, as a copy."""
        self._check_usable()
        return self._table.positions()

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int,
        cumulative_N: NDArray[np.float64] | None = None,
        out: RowBuffers | None = None,
    ) -> Rows:
        """Draw rows with replacement and return them in the order in which they are stored."""
        self._check_usable()
        if out is not None:
            check_buffers(self._layout, batch_size, out)
        return self.take(drawn_rows(rng, len(self), batch_size, cumulative_N), out)

    def take(self, numbers: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        """Return rows by sorted number, where 0 is the oldest row."""
        self._check_usable()
        return self._rows(self._table.first + numbers, out)

    def scan(self, chunk: int, of: tuple[int, int] = (0, 1)) -> Iterator[Rows]:
        """Yield the rows that exist at the time of the call, in order, `chunk` at a time."""
        self._check_usable()
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        return self._scan(self._table.first, self._table.end, chunk, of)

    def newest(self, num: int) -> Rows:
        """Return the newest rows, `num` at most, in order."""
        size = len(self)
        return self.take(np.arange(max(0, size - num), size))

    def mark_followed(self, position: int) -> None:
        """Record that the log is applied up to `position`; a lower one changes nothing."""
        self._check_usable()
        self._followed = LogPosition(max(self._followed, position))

    def flush(self) -> None:
        """Return when all rows and corrections are as durable as the backend makes them."""
        self._check_usable()

    def close(self) -> None:
        """Close the replay; a second call does nothing."""
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
        """Store rows at increasing indices; `rows` may be empty."""

    @abstractmethod
    def _write_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Store new rewards of existing rows at increasing indices."""

    @abstractmethod
    def _read(self, indices: NDArray[np.int64], into: RowBuffers) -> None:
        """Copy action features and contexts of existing rows at sorted indices to `into`."""

    @abstractmethod
    def _changed(self, num_rows: int) -> None:
        """Note that `num_rows` rows were written or rewritten."""

    def _check_usable(self) -> None:
        if self._closed:
            raise ClosedError(f"this {type(self).__name__} is closed")

    def _first_within_capacity(self, end: int) -> int:
        if self._capacity is None:
            return self._table.first
        return max(self._table.first, end - self._capacity)

    def _scan(self, first: int, end: int, chunk: int, of: tuple[int, int]) -> Iterator[Rows]:
        number, every = of
        for start in range(first + number * chunk, end, every * chunk):
            self._check_usable()
            stop = min(start + chunk, end)
            kept = max(start, self._table.first)
            if kept < stop:
                yield self._rows(np.arange(kept, stop))

    def _rows(self, indices: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        into = out or RowBuffers.for_rows(self._layout, len(indices))
        self._read(indices, into)
        positions, slots, rewards = self._table.columns(indices)
        return Rows(positions, slots, rewards, into.actions, into.contexts)
