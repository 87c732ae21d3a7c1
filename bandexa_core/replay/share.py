"""The share that one of several ranks has in the rows of a training round.

Every rank has all rows. Of the rows of a step, which all ranks draw alike, a rank reads each
`size`-th one; of the chunks of a scan likewise. Pure; it stores nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bandexa_core.replay.protocol import RowBuffers, RowLayout, Rows, TrainingRows, drawn_rows


class RankShare:
    """What a rank reads of the rows of a round, as `TrainingRows`.

    Args:
        rows: All rows.
        rank: The number of the rank.
        size: How many ranks there are.
        batch_size: Rows of a step, of all ranks together.

    Attributes:
        num_drawn: Rows of a step that this rank reads.
        weight: Their share of a step's rows. A rank for which none are left reads one, of weight 0.
    """

    def __init__(self, rows: TrainingRows, rank: int, size: int, batch_size: int) -> None:
        self._rows = rows
        self._rank = rank
        self._size = size
        self._batch_size = batch_size
        own = len(range(rank, batch_size, size))
        self.num_drawn = max(1, own)
        self.weight = own / batch_size

    @property
    def layout(self) -> RowLayout:
        """See `TrainingRows.layout`."""
        return self._rows.layout

    @property
    def is_on_disk(self) -> bool:
        """See `TrainingRows.is_on_disk`."""
        return self._rows.is_on_disk

    def positions(self) -> NDArray[np.int64]:
        """See `TrainingRows.positions`; of all rows."""
        return self._rows.positions()

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int,
        cumulative_N: NDArray[np.float64] | None = None,
        out: RowBuffers | None = None,
    ) -> Rows:
        """Draw the rows of a step and return this rank's, `num_drawn`: no other size is asked."""
        assert batch_size == self.num_drawn, "a rank reads its share of a step"
        numbers = drawn_rows(rng, len(self), self._batch_size, cumulative_N)
        own = numbers[self._rank :: self._size] if self.weight else numbers[:1]
        return self._rows.take(own, out)

    def take(self, numbers: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        """See `TrainingRows.take`; of all rows."""
        return self._rows.take(numbers, out)

    def newest(self, num: int) -> Rows:
        """See `TrainingRows.newest`; of all rows."""
        return self._rows.newest(num)

    def scan(self, chunk: int, of: tuple[int, int] = (0, 1)) -> Iterator[Rows]:
        """Yield this rank's chunks; see `TrainingRows.scan`."""
        assert of == (0, 1), "a share is not divided again"
        return self._rows.scan(chunk, (self._rank, self._size))

    def __len__(self) -> int:
        """Return the number of all rows."""
        return len(self._rows)
