"""What evicted rows leave behind: a uniform sample of them, each standing for several.

Rows leave a replay by its capacity, and the store by its retention. Were they only dropped, a
posterior rebuilt without them would know less than the one before, and explore anew what it had
learned. A row's rank is a hash of the bandit and its position, and the rows of the lowest ranks are
kept (bottom-k sampling: Cohen & Kaplan, "Summarizing data using bottom-k sketches", PODC 2007). So
the sample is a function of which rows were evicted alone: not of when, nor in how many steps.
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
)

SAMPLE_BYTES = 64 << 20  # a sample of large contexts has fewer rows


@dataclass(frozen=True, slots=True)
class Evicted:
    """A sample of the rows that were evicted.

    Attributes:
        rows: The sample, in the order of positions.
        num_rows: How many rows were evicted.
    """

    rows: Rows
    num_rows: int

    @property
    def weight(self) -> float:
        """How many evicted rows each row of the sample stands for."""
        return self.num_rows / len(self.rows)


def ranks(uid: BanditUid, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of the rows at `positions`, (N,) each: 63 bits, as good as random.

    The mixing is splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014).
    """
    key = np.uint64(int.from_bytes(blake2b(uid.encode(), digest_size=8).digest(), "little"))
    mixed = key + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def sample_size(layout: RowLayout, most: int) -> int:
    """Return how many evicted rows are kept where `most` are asked for."""
    return min(most, max(1, SAMPLE_BYTES // layout.row_bytes))


class ExtendedReplay:
    """A replay behind the sample of what was evicted from it: the rows of one training round.

    Args:
        replay: The rows kept; all of them come after the evicted ones.
        evicted: The sample, of at least one row.
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
        """Return the weights of rows by position: what is left of each, times what it stands for.

        Args:
            shares: What forgetting left of rows, None: all of each.
        """
        last, each = self.evicted.rows.positions[-1], self.evicted.weight

        def weights(positions: NDArray[np.int64]) -> NDArray[np.float64]:
            standing = np.where(positions <= last, each, 1.0)
            return standing if shares is None else standing * shares(positions)

        return weights

    def counts(self) -> dict[str, float]:
        """Return what a round's metrics tell of its rows."""
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
        into = out or RowBuffers.for_rows(self.layout, batch_size)
        check_buffers(self.layout, batch_size, into)
        numbers = drawn_rows(rng, len(self), batch_size, cumulative_N)
        old = self.evicted.rows
        num_old = int(np.searchsorted(numbers, len(old)))
        drawn, kept = numbers[:num_old], numbers[num_old:] - len(old)
        into.actions[:num_old] = old.actions[drawn]
        into.contexts[:num_old] = old.contexts[drawn]
        rest = RowBuffers(into.actions[num_old:], into.contexts[num_old:])
        new = self.replay.take(kept, rest)
        return Rows(
            np.concatenate([old.positions[drawn], new.positions]),
            np.concatenate([old.slots[drawn], new.slots]),
            np.concatenate([old.rewards[drawn], new.rewards]),
            into.actions,
            into.contexts,
        )

    def scan(self, chunk: int) -> Iterator[Rows]:
        """See `TrainingRows.scan`."""
        old = self.evicted.rows
        for start in range(0, len(old), chunk):
            yield old.part(slice(start, start + chunk))
        yield from self.replay.scan(chunk)

    def __len__(self) -> int:
        """Return the number of rows, the sample's included."""
        return len(self.evicted.rows) + len(self.replay)
