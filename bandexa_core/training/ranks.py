"""The ranks of a training round: processes that share the work of one round.

All ranks have the same rows and the same plan. Each step's rows are those that one process would
draw; every rank takes its share of them, gradients are averaged, and the sums of a rebuild are
added up. So a round of several ranks is the round of one, up to rounding (and up to the statistics
of batches in an encoder that normalises by them, and its dropout). Pure; `process_ranks` has the
ranks that are processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from bandexa_core.posterior.statistics import Statistics

if TYPE_CHECKING:
    from torch import nn

Array64 = NDArray[np.float64]
_NO_SLOT = -2  # below every slot, -1 included


class Ranks(Protocol):
    """This process among those that share a round.

    What `sum`, `highest`, `align` and a module of `in_parallel` do, all ranks do together, in the
    same order; they raise RuntimeError where another rank has ended.
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are: the world size."""

    def sum(self, array: Array64) -> Array64:
        """Return the sum of the ranks' arrays, which have the same shape."""

    def highest(self, number: int) -> int:
        """Return the highest of the ranks' numbers."""

    def align(self, module: nn.Module) -> None:
        """Give a module the parameters and buffers that it has in rank 0."""

    def in_parallel(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the ranks."""


class Alone:
    """The only process of a round."""

    rank = 0
    size = 1

    def sum(self, array: Array64) -> Array64:
        """See `Ranks.sum`."""
        return array

    def highest(self, number: int) -> int:
        """See `Ranks.highest`."""
        return number

    def align(self, module: nn.Module) -> None:
        """See `Ranks.align`."""

    def in_parallel(self, module: nn.Module) -> nn.Module:
        """See `Ranks.in_parallel`."""
        return module


ALONE = Alone()


def summed(by_slot: dict[int, Statistics], dim: int, ranks: Ranks) -> dict[int, Statistics]:
    """Return the statistics of all ranks' rows by slot: one sum over the ranks has all of them."""
    if ranks.size == 1:
        return by_slot
    known = np.zeros(ranks.highest(max(by_slot, default=_NO_SLOT)) - _NO_SLOT)
    known[[slot - _NO_SLOT - 1 for slot in by_slot]] = 1.0
    slots = (np.flatnonzero(ranks.sum(known)) + _NO_SLOT + 1).tolist()
    flat = np.zeros((len(slots), dim * dim + dim + 2))
    for row, slot in zip(flat, slots, strict=True):
        if slot in by_slot:
            own = by_slot[slot]
            row[:] = np.concatenate([own.zz.ravel(), own.zr, [own.rr, own.n]])
    out: dict[int, Statistics] = {}
    for row, slot in zip(ranks.sum(flat), slots, strict=True):
        whole = out[slot] = Statistics(dim)
        whole.zz, whole.zr = row[: dim * dim].reshape(dim, dim).copy(), row[dim * dim : -2].copy()
        whole.rr, whole.n = float(row[-2]), float(row[-1])
    return out
