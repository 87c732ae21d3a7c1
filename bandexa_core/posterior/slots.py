"""One action slot of the disjoint posterior, and what all slots have in common: noise and frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bandexa_core.posterior.config import PosteriorConfig
from bandexa_core.posterior.frame import Frame
from bandexa_core.posterior.gaussian import GaussianPosterior
from bandexa_core.posterior.rows import FloatArray
from bandexa_core.posterior.state import immediate_state
from bandexa_core.posterior.statistics import Statistics


class SlotPosterior(GaussianPosterior):
    """The posterior of one slot: each decision queries every slot, each reward updates one."""

    __slots__ = ()
    _new_state = staticmethod(immediate_state)
    _moves_frame = False

    @property
    def matrix_DW(self) -> FloatArray:
        """[S mean], (D, D + 1), not to be written."""
        return self._state.matrix_DW


POOL_ROUNDING = 1e-6  # beyond, the sum of the slots is taken


class Pool(NamedTuple):
    """What all slots together have learned of the noise, beyond its prior.

    Attributes:
        shape, rate: The sums over the slots of a and of b, less those of the prior.
        num_rows: The weight of the rows.
    """

    shape: float = 0.0
    rate: float = 0.0
    num_rows: float = 0.0

    @classmethod
    def of(cls, posterior: GaussianPosterior) -> Pool:
        """Return the part of one slot."""
        shape = posterior.a - posterior.config.noise_shape
        return cls(shape, posterior.b - posterior.prior_rate, posterior.num_rows)

    def changed(self, before: Pool, after: Pool) -> Pool:
        """Return the pool when the part of a slot has changed."""
        return Pool(
            max(self.shape + (after.shape - before.shape), 0.0),
            max(self.rate + (after.rate - before.rate), 0.0),
            max(self.num_rows + (after.num_rows - before.num_rows), 0.0),
        )


def frame_of(sums: Mapping[int, Statistics], frame: Frame, config: PosteriorConfig) -> Frame:
    """Return the frame of the rows of all slots; `sums` are of values in `frame`."""
    count = total = squares = 0.0
    for each in sums.values():
        count += float(each.zz[-1, -1])
        total += float(each.zr[-1])
        squares += each.rr
    return frame.moved(config, count, total, squares)


def checked(slot: int | np.integer) -> int:
    """Return a slot as an int; ValueError where it is negative."""
    if slot < 0:
        raise ValueError(f"a slot must be 0 or above, got {slot}")
    return int(slot)
