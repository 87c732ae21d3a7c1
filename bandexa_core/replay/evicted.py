"""A uniform sample of evicted rows, in which each row stands for several.

Rows leave a replay because of its capacity, and the store because of its retention. If they were
merely dropped, a posterior rebuilt without them would know less than the one before, and would
explore again what it had learned. The rank of a row is a hash of the bandit and the row's position;
the rows with the lowest ranks form the sample (bottom-k sampling: Cohen & Kaplan, "Summarizing data
using bottom-k sketches", PODC 2007). The sample thus depends only on which rows were evicted, not
on when or in how many steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import BanditUid
from bandexa_core.replay.protocol import (
    Replay,
    RowBuffers,
    RowLayout,
    Rows,
    RowWeights,
    check_buffers,
    drawn_rows,
    laid_out,
)

SAMPLE_BYTES = 64 << 20  # limits the number of rows with large contexts


@dataclass(frozen=True, slots=True)
class Evicted:
    """A sample of the evicted rows.

    Attributes:
        rows: The sample, in the order of positions.
        num_rows: Number of evicted rows.
    """

    rows: Rows
    num_rows: int

    @property
    def weight(self) -> float:
        """Number of evicted rows for which each row of the sample stands."""
        return self.num_rows / len(self.rows)


def ranks(uid: BanditUid, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pseudorandom ranks of 63 bits of the rows at `positions`; both are (N,).

    The mixing function is that of splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom
    number generators", OOPSLA 2014).
    """
    key = np.uint64(int.from_bytes(blake2b(uid.encode(), digest_size=8).digest(), "little"))
    mixed = key + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def sample_size(layout: RowLayout, most: int) -> int:
    """Return the size of a sample: `most` rows, or fewer where rows are large."""
    return min(most, max(1, SAMPLE_BYTES // layout.row_bytes))


class ExtendedReplay:
    """The rows of a training round: a sample of evicted rows, and then those of the replay.

    Args:
        replay: The replay; all its rows come after the evicted ones.
        evicted: The sample; it must not be empty.
    """

    def __init__(self, replay: Replay, evicted: Evicted) -> None:
        self.replay = replay
        self.evicted = evicted

    @property
    def layout(self) -> RowLayout:
        """See `TrainingRows.layout`."""
        return self.replay.layout

    @property
    def is_on_disk(self) -> bool:
        """See `TrainingRows.is_on_disk`."""
        return self.replay.is_on_disk

    def positions(self) -> NDArray[np.int64]:
        """See `TrainingRows.positions`."""
        return np.concatenate([self.evicted.rows.positions, self.replay.positions()])

    def weights(self, shares: RowWeights | None) -> RowWeights:
        """Return the weights of rows by position: forgetting times the number a row stands for.

        Args:
            shares: The weights that forgetting left of rows; None stands for 1.
        """
        last, each = self.evicted.rows.positions[-1], self.evicted.weight

        def weights(positions: NDArray[np.int64]) -> NDArray[np.float64]:
            standing = np.where(positions <= last, each, 1.0)
            return standing if shares is None else standing * shares(positions)

        return weights

    def counts(self) -> dict[str, float]:
        """Return the counts of rows for the metrics of a round."""
        return {
            "rows": float(len(self.replay)),
            "evicted_rows": float(self.evicted.num_rows),
            "evicted_sample": float(len(self.evicted.rows)),
        }

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int,
        cumulative_N: NDArray[np.float64] | None = None,
        out: RowBuffers | None = None,
    ) -> Rows:
        """See `TrainingRows.sample`."""
        if out is not None:
            check_buffers(self.layout, batch_size, out)
        return self.take(drawn_rows(rng, len(self), batch_size, cumulative_N), out)

    def take(self, numbers: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        """See `TrainingRows.take`; the sample comes first."""
        into = out or RowBuffers.for_rows(self.layout, len(numbers))
        if self.evicted.rows.contexts.shape[1:] != self.layout.context_shape or (
            self.evicted.rows.actions.shape[1] != self.layout.action_dim
        ):
            self.evicted = Evicted(laid_out(self.evicted.rows, self.layout), self.evicted.num_rows)
        old = self.evicted.rows
        num_old = int(np.searchsorted(numbers, len(old)))
        drawn, later = numbers[:num_old], numbers[num_old:] - len(old)
        into.actions[:num_old] = old.actions[drawn]
        into.contexts[:num_old] = old.contexts[drawn]
        rest = RowBuffers(into.actions[num_old:], into.contexts[num_old:])
        new = self.replay.take(later, rest)
        return Rows(
            np.concatenate([old.positions[drawn], new.positions]),
            np.concatenate([old.slots[drawn], new.slots]),
            np.concatenate([old.rewards[drawn], new.rewards]),
            into.actions,
            into.contexts,
        )

    def newest(self, num: int) -> Rows:
        """See `TrainingRows.newest`; the sample has older ones."""
        return self.replay.newest(num)

    def scan(self, chunk: int, of: tuple[int, int] = (0, 1)) -> Iterator[Rows]:
        """See `TrainingRows.scan`."""
        old, (number, every) = self.evicted.rows, of
        for start in range(number * chunk, len(old), every * chunk):
            yield old.part(slice(start, start + chunk))
        yield from self.replay.scan(chunk, of)

    def __len__(self) -> int:
        """Return the number of rows, including the sample."""
        return len(self.evicted.rows) + len(self.replay)
