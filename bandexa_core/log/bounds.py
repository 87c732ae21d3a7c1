"""How far a single reward may reach: the bounds that values are clipped to before they are learned.

The posterior is a least squares fit, on which one wrong value has as much influence as it is large:
a reward of 1e4 among rewards of 0 to 1 ruins what was learned. Clipped (winsorised) values have a
bounded influence (Huber & Ronchetti, Robust Statistics, 2nd edition, Wiley 2009, chapter 1).

The bounds are m - 2 d and m + 2 d, with m the median of the newest 512 values, and d the third
largest distance from it among the newest 8,192. So what has occurred three times is never clipped,
one or two wrong values move no bound, and a purchase in a thousand visits is learned as it is. A
quantile or the median deviation would do for values of one kind; of rewards most are often equal,
and the few others are what has to be learned: three clicks among zeros have a median deviation of
0. For the same reason there are no bounds while d is 0.

Values enter as they were reported, so that the bounds follow rewards which really became larger.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple

WINDOW = 512  # newest values that the median is of
MEMORY = 1 << 13  # newest values whose distances count
MOST_DISTANT = 8  # of those before the window that are remembered
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
    sorting. Of values that have left it the most distant ones are remembered. Where the value that
    leaves equals the one that comes, as most rewards of few kinds do, nothing else changes.

    Args:
        reward_range: The range that rewards were declared to have. The bounds are then at least its
            width beyond it.
        values: The values so far, oldest first; the newest `MEMORY` count.
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
        self._num = 0
        self._distant: list[tuple[int, float]] = []  # values with their numbers, oldest first
        self._by_size: list[float] = []  # the same values
        self._lowest: list[float] = []  # `_RANK` of them at each end
        self._highest: list[float] = []
        self._bounds: Bounds | None = None  # what holds now, once it is computed
        self._least: float | None = None  # see `_least_distance`; likewise
        for value in values:
            self._add(value)

    def take(self, value: float) -> Bounds:
        """Return the bounds of a value, which follow from those before it; then count it."""
        bounds = self._bounds or self.current()
        self._add(value)
        return bounds

    def current(self) -> Bounds:
        """Return the bounds that hold now."""
        if self._bounds is None:
            self._bounds = self._computed()
        return self._bounds

    def _computed(self) -> Bounds:
        ordered = self._sorted
        if len(ordered) < LEAST:
            return UNBOUNDED
        median = self._median()
        # Written out, because every first value of every bandit passes here. Of a remembered value
        # on the other side of the median the difference is below 0, and counts for nothing.
        distances = [
            median - ordered[0], median - ordered[1], median - ordered[2],
            ordered[-1] - median, ordered[-2] - median, ordered[-3] - median,
        ]  # fmt: skip
        for value in self._lowest:
            distances.append(median - value)
        for value in self._highest:
            distances.append(value - median)
        distances.sort()
        distance = distances[-_RANK]
        if distance <= _ROUNDING * abs(median):
            return UNBOUNDED
        low, high = median - REACH * distance, median + REACH * distance
        if self._range is not None:
            low, high = min(low, self._range[0]), max(high, self._range[1])
        return Bounds(low, high)

    def _median(self) -> float:
        ordered, num = self._sorted, len(self._sorted)
        return 0.5 * (ordered[(num - 1) // 2] + ordered[num // 2])

    def _add(self, value: float) -> None:
        self._num += 1
        if len(self._newest) < WINDOW:
            self._newest.append(value)
            insort(self._sorted, value)
            self._bounds = self._least = None
            return
        oldest = self._oldest
        leaving = self._newest[oldest]
        if leaving != value:
            del self._sorted[bisect_left(self._sorted, leaving)]
            insort(self._sorted, value)
            self._newest[oldest] = value
            self._bounds = self._least = None
        self._oldest = (oldest + 1) % WINDOW
        self._remember(self._num - WINDOW, leaving)

    def _remember(self, number: int, value: float) -> None:
        """Remember a value that has left the window, unless it is less distant than the others."""
        distant = self._distant
        if distant and distant[0][0] <= self._num - MEMORY:
            del distant[0]
        elif len(distant) == MOST_DISTANT:
            median = self._median()
            if self._least is None:
                self._least = self._least_distance(median)
            least = self._least
            if abs(value - median) < least:
                return
            place = 0  # of the oldest one that is as near as any
            while abs(distant[place][1] - median) != least:
                place += 1
            if distant.pop(place)[1] == value:  # such are most values of few kinds
                distant.append((number, value))
                return
        distant.append((number, value))
        self._bounds = self._least = None
        self._by_size = sorted([held for _, held in distant])
        self._lowest, self._highest = self._by_size[:_RANK], self._by_size[-_RANK:]

    def _least_distance(self, median: float) -> float:
        """Return the distance of the remembered value that is the nearest to the median."""
        held = self._by_size
        place = bisect_left(held, median)
        if place == 0:
            return held[0] - median
        if place == len(held):
            return median - held[-1]
        return min(median - held[place - 1], held[place] - median)
