"""How far a single reward may reach: the bounds that values are clipped to before they are learned.

The posterior is a least squares fit, on which one wrong value has as much influence as it is large:
a reward of 1e4 among rewards of 0 to 1 ruins what was learned. Clipped (winsorised) values have a
bounded influence (Huber & Ronchetti, Robust Statistics, 2nd edition, Wiley 2009, chapter 1).

The bounds follow from the newest values: median m, and d, the third largest distance from it. They
are m - 2 d and m + 2 d. So what has occurred three times among these values is never clipped, and
one or two wrong values move no bound. A quantile or the median deviation would do for values of one
kind; of rewards most are often equal, and the few others are what has to be learned: three clicks
among zeros have a median deviation of 0. For the same reason there are no bounds while d is 0.

Values enter as they were reported, so that the bounds follow rewards which really became larger.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple

WINDOW = 512  # values that the bounds follow from
LEAST = 16  # values without which there are no bounds
REACH = 2.0  # of the bounds, in units of d
_RANK = 3  # of the distance d, from the largest one on
_ROUNDING = 1e-12  # of the median; a smaller d is that of values which were meant to be equal


class Bounds(NamedTuple):
    """The bounds of learned values; None: unbounded."""

    low: float | None = None
    high: float | None = None


UNBOUNDED = Bounds()


def clip(value: float, low: float | None, high: float | None) -> float:
    """Return the value, or the bound that it is beyond."""
    if low is not None and value < low:
        return low
    if high is not None and value > high:
        return high
    return value


class RewardBounds:
    """The bounds of one bandit's next value. Single-threaded.

    The window is held in the order of arrival and in the order of size. The latter has the median
    in its middle and the largest distances at its ends, so that a value costs two searches and no
    sorting.

    Args:
        reward_range: The range that rewards were declared to have. The bounds are then at least its
            width beyond it.
        values: The values so far, oldest first.
    """

    def __init__(
        self, reward_range: tuple[float, float] | None = None, values: Iterable[float] = ()
    ) -> None:
        self._range: tuple[float, float] | None = None
        if reward_range is not None:
            low, high = map(float, reward_range)
            self._range = low - (high - low), high + (high - low)
        self._newest = array("d")  # a ring
        self._oldest = 0  # its place in the ring
        self._sorted = array("d")
        for value in values:
            self._add(value)

    def take(self, value: float) -> Bounds:
        """Return the bounds of a value, which follow from those before it; then count it."""
        bounds = self.current()
        self._add(value)
        return bounds

    def current(self) -> Bounds:
        """Return the bounds that hold now."""
        ordered = self._sorted
        num = len(ordered)
        if num < LEAST:
            return UNBOUNDED
        median = 0.5 * (ordered[(num - 1) // 2] + ordered[num // 2])
        ends = (*ordered[:_RANK], *ordered[-_RANK:])
        distance = sorted(abs(value - median) for value in ends)[-_RANK]
        if distance <= _ROUNDING * abs(median):
            return UNBOUNDED
        low, high = median - REACH * distance, median + REACH * distance
        if self._range is not None:
            low, high = min(low, self._range[0]), max(high, self._range[1])
        return Bounds(low, high)

    def _add(self, value: float) -> None:
        if len(self._newest) < WINDOW:
            self._newest.append(value)
        else:
            del self._sorted[bisect_left(self._sorted, self._newest[self._oldest])]
            self._newest[self._oldest] = value
            self._oldest = (self._oldest + 1) % WINDOW
        insort(self._sorted, value)
