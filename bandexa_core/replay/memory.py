"""The replay in memory: rows in growing arrays, which become a ring at the capacity.

It lives in the trainer process and serves one thread at a time. A crash or restart loses it:
`followed` then starts at 0, and the rows are rebuilt from the log.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandexa_core.replay._base import TableReplay
from bandexa_core.replay._table import RowTable
from bandexa_core.replay.protocol import RowBuffers, RowLayout, Rows

_LEAST_ALLOCATION = 64


class MemoryReplay(TableReplay):
    """A replay in memory (see `Replay` for the contract)."""

    def __init__(self, layout: RowLayout, capacity: int | None = None) -> None:
        """Create an empty replay of at most `capacity` rows; None sets no limit.

        Raises:
            ValueError: The capacity is below 1.
        """
        super().__init__(layout, capacity, RowTable())
        self._allocate(0)

    @property
    def is_on_disk(self) -> bool:
        """False: the rows are in memory."""
        return False

    @property
    def num_bytes(self) -> int:
        """Bytes of memory allocated for rows."""
        self._check_usable()
        return self._table.num_bytes + self._actions.nbytes + self._contexts.nbytes

    def close(self) -> None:
        """Free the rows; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._allocate(0)

    def _write(self, indices: NDArray[np.int64], rows: Rows) -> None:
        if not len(indices):
            return
        self._reserve(int(indices[-1]) + 1)
        at = indices % len(self._contexts)
        self._actions[at] = rows.actions
        self._contexts[at] = rows.contexts

    def _write_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        pass  # the row table alone has the rewards

    def _changed(self, num_rows: int) -> None:
        pass  # there is nothing to flush

    def _read(self, indices: NDArray[np.int64], into: RowBuffers) -> None:
        at = indices % len(self._contexts)
        # All indices are valid. The mode "raise" would make NumPy copy through a buffer.
        np.take(self._actions, at, axis=0, out=into.actions, mode="clip")
        np.take(self._contexts, at, axis=0, out=into.contexts, mode="clip")

    def _reserve(self, end: int) -> None:
        """Grow until there is a place for index `end` - 1, or the ring has its full size.

        The arrays grow only before the first eviction. Until then the row with index i is at place
        i, from then on at place i modulo the capacity.
        """
        allocated = len(self._contexts)
        wanted = end if self._capacity is None else min(end, self._capacity)
        if wanted <= allocated:
            return
        size = max(wanted, 2 * allocated, _LEAST_ALLOCATION)
        if self._capacity is not None:
            size = min(size, self._capacity)
        actions, contexts = self._actions, self._contexts
        self._allocate(size)
        self._actions[:allocated] = actions
        self._contexts[:allocated] = contexts

    def _allocate(self, num_rows: int) -> None:
        layout = self._layout
        self._actions = np.empty((num_rows, layout.action_dim), layout.action_dtype)
        self._contexts: NDArray[np.generic] = np.empty(
            (num_rows, *layout.context_shape), layout.context_dtype
        )
