"""What recent rewards say of the decisions behind them: pure functions of counts, and the counts.

Means of actions are confounded: a bandit serves an action in the contexts where it is good. So
whether another action would have been better is told by inverse propensities, on the same rows: of
"always b" less what was served, the row with action a and reward r has

    phi = (r - c) (1{a = b} / p - 1),

whose mean is the difference, for any c; c is the mean of the rewards. Counts are of first values,
in blocks that leave as new ones come, and only of a bandit that has learned for a while.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BLOCK = 1000  # rows
BLOCKS = 10  # that are remembered
WARM_UP = 1000  # values, before a bandit is judged
LEAST = 1000  # rows that are judged
SERVED = 0.8  # of the decisions: such an action has to be the best one
PULLS = 30  # of another one, to compare with it
SURE = 4.5  # standard errors, since it is read all the time
ONE_SIDED = 0.98
PREDICTED = 1000  # predictions that are compared with their values
DECILES = 10
GAP = 0.1  # of the deviation of values, in a decile that is off; and
GAP_SURE = 5.0  # standard errors, in
GAPS = 3  # deciles
DAY_S = 86_400.0
LEAST_OF_A_DAY = 500  # chosen actions, or delays
PAST_DAYS = 7
LEAST_DAYS = 3
MOVED = 0.25  # of a rate; and of the population stability index of delays


class Worse(NamedTuple):
    """Another action would have earned more than what was served.

    Attributes:
        served: What most decisions chose, and
        share: how many of them.
        better: The other action.
        num: How often that was chosen.
        gain: What it would have earned more, per decision.
        error: The standard error of that.
        rows: The decisions behind it.
    """

    served: str
    share: float
    better: str
    num: int
    gain: float
    error: float
    rows: int


class Rival(NamedTuple):
    """What an action has earned in all its decisions; the ends are None where nobody can say."""

    name: str
    num: int
    low: float | None
    high: float | None


class Decile(NamedTuple):
    """Decisions with predictions of about the same size: what was predicted, and what came."""

    num: int
    predicted: float
    observed: float
    error: float


class Moved(NamedTuple):
    """Something that differs today: what it was in the days before, what it is, how far apart."""

    before: float
    now: float
    apart: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the recent values of a bandit say.

    Attributes:
        num: How many of them there are.
        top: What most decisions chose.
        share: How many of them did.
        worse: What would have been better; None where nothing surely is.
        rivals: The actions with the most values, where one has nearly all decisions: it first.
        deciles: Predictions and values; none before there are enough.
        joins: The share of chosen actions with a value; None where it is as in the days before.
        delays: The median delay of values in seconds; likewise.
    """

    num: int = 0
    top: str | None = None
    share: float = 0.0
    worse: Worse | None = None
    rivals: tuple[Rival, ...] = ()
    deciles: tuple[Decile, ...] = ()
    joins: Moved | None = None
    delays: Moved | None = None

    @property
    def gaps(self) -> tuple[Decile, ...]:
        """The deciles that are off."""
        if not self.deciles:
            return ()
        num = sum(d.num for d in self.deciles)
        mean = sum(d.num * d.observed for d in self.deciles) / num
        spread = math.sqrt(  # the deviation of all values: within the deciles, and between them
            sum(d.num * (d.num * d.error**2 + (d.observed - mean) ** 2) for d in self.deciles) / num
        )
        return tuple(
            d
            for d in self.deciles
            if abs(d.observed - d.predicted) > max(GAP_SURE * d.error, GAP * spread)
        )


class _Block:
    """Sums of some rows: of each action n, 1/p, 1/p^2, r/p, r/p^2, r^2/p, r^2/p^2."""

    __slots__ = ("actions", "num", "square", "total")

    def __init__(self) -> None:
        self.num = 0
        self.total = self.square = 0.0
        self.actions: dict[str, list[float]] = {}

    def add(self, action: str, propensity: float, value: float) -> None:
        self.num += 1
        self.total += value
        self.square += value * value
        sums = self.actions.get(action)
        if sums is None:
            sums = self.actions[action] = [0.0] * 7
        w = 1.0 / propensity
        sums[0] += 1.0  # written out: every first value passes here
        sums[1] += w
        sums[2] += w * w
        sums[3] += value * w
        sums[4] += value * w * w
        sums[5] += value * value * w
        sums[6] += (value * w) ** 2


class Recent:
    """The recent values of one bandit."""

    def __init__(self) -> None:
        self._seen = 0
        self._blocks: deque[_Block] = deque(maxlen=BLOCKS)
        self._predicted: deque[tuple[float, float]] = deque(maxlen=PREDICTED)

    def add(self, action: str, propensity: float | None, value: float, predicted: float) -> None:
        """Count the first value of a decision.

        Args:
            action: What it chose.
            propensity: How probable that was; None: nobody knows.
            value: The value.
            predicted: What the model expected.
        """
        self._seen += 1
        if self._seen <= WARM_UP:
            return
        self._predicted.append((predicted, value))
        if not propensity:
            return
        if not self._blocks or self._blocks[-1].num >= BLOCK:
            self._blocks.append(_Block())
        self._blocks[-1].add(action, propensity, value)

    def evidence(self) -> Evidence:
        """Return what they say; without rivals, joins and delays."""
        num = sum(block.num for block in self._blocks)
        if num < LEAST:
            return Evidence(num)
        sums: dict[str, list[float]] = {}
        for block in self._blocks:
            for action, part in block.actions.items():
                known = sums.get(action)
                sums[action] = (
                    list(part) if known is None
                    else [a + b for a, b in zip(known, part, strict=True)]
                )  # fmt: skip
        top = max(sums, key=lambda action: sums[action][0])
        share = sums[top][0] / num
        total = sum(block.total for block in self._blocks)
        square = sum(block.square for block in self._blocks)
        return Evidence(
            num, top, share, _worse(sums, top, share, num, total, square),
            deciles=deciles(self._predicted),
        )  # fmt: skip


def _worse(
    sums: dict[str, list[float]], top: str, share: float, num: int, total: float, square: float
) -> Worse | None:
    if share < SERVED:
        return None
    centre = total / num
    whole = max(0.0, square - centre * total)  # of (r - c)^2
    best: Worse | None = None
    for action, (n, w, w2, rw, rw2, r2w, r2w2) in sums.items():
        if action == top or n < PULLS:
            continue
        gain = (rw - centre * w) / num
        squared = r2w2 - 2.0 * centre * rw2 + centre * centre * w2
        crossed = r2w - 2.0 * centre * rw + centre * centre * w
        variance = max(0.0, (squared - 2.0 * crossed + whole) / num - gain * gain)
        error = math.sqrt(variance / num)
        if gain > SURE * error and (best is None or gain > best.gain):
            best = Worse(top, share, action, int(n), gain, error, num)
    return best


def deciles(pairs: Sequence[tuple[float, float]]) -> tuple[Decile, ...]:
    """Return tenths of the (prediction, value) pairs, by prediction; none of too few."""
    if len(pairs) < PREDICTED:
        return ()
    table = np.array(pairs)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return tuple(
        Decile(
            len(part), float(part[:, 0].mean()), float(part[:, 1].mean()),
            float(part[:, 1].std(ddof=1) / math.sqrt(len(part))),
        )
        for part in np.array_split(table, DECILES)
    )  # fmt: skip


def joins_moved(days: Sequence[tuple[float, float]]) -> Moved | None:
    """Return how the rate of values has moved; None: it has not, or nobody can say.

    `days`: (chosen actions, values) of each day, the newest one last. The newest rate has to differ
    from the median of the days before by a quarter, by twice as much as these differ among each
    other, and by more than chance does.
    """
    *past, (chosen, joined) = days
    rates = [joins / num for num, joins in past if num >= LEAST_OF_A_DAY]
    if len(rates) < LEAST_DAYS or chosen < LEAST_OF_A_DAY:
        return None
    median, now = float(np.median(rates)), joined / chosen
    chance = math.sqrt(max(median * (1.0 - min(median, 1.0)), 1.0 / chosen) / chosen)
    most = max(MOVED * median, 2.0 * (max(rates) - min(rates)), SURE * chance)
    return Moved(median, now, now - median) if abs(now - median) > most else None


def delays_moved(
    past: Sequence[dict[int, int]], today: dict[int, int], bounds: Sequence[float]
) -> Moved | None:
    """Return how delays have moved; None: they have not, or nobody can say.

    Args:
        past: How many values fell into each bin of delays, of each day before.
        today: Those of the newest day.
        bounds: The upper ends of the bins, in seconds.
    """
    days = [day for day in past if sum(day.values()) >= LEAST_OF_A_DAY]
    if len(days) < LEAST_DAYS or sum(today.values()) < LEAST_OF_A_DAY:
        return None
    whole: dict[int, int] = {}
    for day in days:
        for place, count in day.items():
            whole[place] = whole.get(place, 0) + count
    apart = _stability(whole, today)
    usual = max(_stability(whole, day) for day in days)
    before, now = _median(whole, bounds), _median(today, bounds)
    if apart < MOVED or apart < 2.0 * usual or before == now:
        return None
    return Moved(before, now, apart)


def _stability(one: dict[int, int], other: dict[int, int]) -> float:
    """Return the population stability index of two histograms."""
    bins = one.keys() | other.keys()
    n, m = sum(one.values()) + len(bins), sum(other.values()) + len(bins)
    found = 0.0
    for place in bins:  # one more in each bin, so that an empty one counts little
        p, q = (one.get(place, 0) + 1) / n, (other.get(place, 0) + 1) / m
        found += (p - q) * math.log(p / q)
    return found


def _median(counts: dict[int, int], bounds: Sequence[float]) -> float:
    half, seen = 0.5 * sum(counts.values()), 0
    for place in sorted(counts):
        seen += counts[place]
        if seen >= half:
            return bounds[min(place, len(bounds) - 1)]
    return bounds[-1]
