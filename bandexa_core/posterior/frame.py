"""Owns where the values of a posterior lie: their centre, and the unit of its prior.

A posterior learns r - center, and its prior over the noise is in `unit`. Where both are learned,
they are the mean of the first 64 values and the standard deviation of all: an empirical prior
(Efron & Morris, "Stein's estimation rule and its competitors", JASA 1973). Later values are those
of actions that were chosen well, and say little of what an unknown action brings. The frame moves
while the first rows arrive, whenever their number has doubled; with each refresh the unit does. It
is a function of the rows alone, so a replay of the log repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.config import PosteriorConfig
from bandexa_core.posterior.tensors import read_tensor

# Rows up to which every doubling moves the frame; after them a refresh does.
FIRST_ROWS = 64
LARGEST = 1e21  # of centre and unit; no reward is larger than 1e20
LEAST_UNIT = 1e-20  # variances below its square could not be read back


class Frame(NamedTuple):
    """The frame of a posterior's values.

    Attributes:
        center: What is subtracted from a value before it is learned, in reward units.
        unit: What the numbers of the prior are multiplied by; variances by its square.
        num_rows: The weight of the rows that the centre is the mean of; 0: it is not learned.
        has_unit: 1 where the unit is learned, else 0.
    """

    center: float
    unit: float
    num_rows: float = 0.0
    has_unit: float = 0.0

    @classmethod
    def first(cls, config: PosteriorConfig) -> Frame:
        """Return the frame before any row."""
        return cls(config.center, 1.0)

    def moved(self, config: PosteriorConfig, count: float, total: float, squares: float) -> Frame:
        """Return the frame of rows, given their weight and the sums of their centred values.

        The unit stays while all values are equal, and falls by half at most: zeros for a while, or
        rows that are nearly forgotten, say little of what comes.
        """
        if not count > 0.0:
            return self
        mean = total / count
        variance = squares / count - mean * mean
        rounding = 1e-14 * (squares / count + self.center * self.center)
        center, unit, num_rows, has_unit = self
        if config.learns_center and (count <= FIRST_ROWS or not num_rows):
            center, num_rows = center + mean, count
        if config.learns_unit and variance > rounding:
            least = max(LEAST_UNIT, 0.5 * unit if has_unit else 0.0)
            unit, has_unit = max(math.sqrt(variance), least), 1.0
        return Frame(center, unit, num_rows, has_unit)

    def begun_again(self, *, center: bool) -> Frame:
        """Return the frame whose unit, and `center` where that is asked for, are learned anew.

        The next move takes them from all rows. For rows that turned out to be wrong.
        """
        return self._replace(has_unit=0.0, num_rows=0.0 if center else self.num_rows)


def frame_of_first(values: npt.ArrayLike, known: Frame, config: PosteriorConfig) -> Frame:
    """Return the frame that the first values of a bandit give, where `known` has none yet.

    Args:
        values: The oldest learned values, at least 64 of them if there are so many.
        known: The frame so far.
        config: What is learned.
    """
    first = config.clipped(np.asarray(values, np.float64)[:FIRST_ROWS]) - known.center
    if known.num_rows >= FIRST_ROWS or not len(first):
        return known
    return known.moved(config, float(len(first)), float(first.sum()), float(first @ first))


def doubles(before: float, after: float) -> bool:
    """Whether the weight of the first rows has doubled, counted from 1."""
    if not 1.0 <= after <= FIRST_ROWS or after <= before:
        return False
    return math.frexp(after)[1] > math.frexp(max(before, 0.0))[1]


def rows_to_doubling(before: float) -> int:
    """Return how many rows are left until `doubles`; 0: it will not any more."""
    if before >= FIRST_ROWS:
        return 0
    following = 1.0 if before < 1.0 else 2.0 ** math.frexp(before)[1]
    return math.ceil(following - before)


def frame_tensors(frame: Frame, config: PosteriorConfig) -> dict[str, npt.NDArray[np.float64]]:
    """Return the frame as a tensor; nothing where the configuration has it."""
    return {"frame": np.array(frame)} if config.learns_frame else {}


def read_frame(tensors: Mapping[str, npt.ArrayLike], config: PosteriorConfig) -> Frame:
    """Return the frame that `frame_tensors` wrote.

    Raises:
        ValueError: It is missing or makes no sense.
    """
    if not config.learns_frame:
        return Frame.first(config)
    frame = Frame._make(read_tensor(tensors, "frame", (4,)).tolist())
    if not (abs(frame.center) <= LARGEST and LEAST_UNIT <= frame.unit <= LARGEST):
        raise ValueError("tensor 'frame' must have a centre, and a unit above 0")
    return frame
