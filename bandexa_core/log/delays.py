"""How late the rewards of a bandit come, and the age at which its decisions are mature.

A decision is learned at the age by which most rewards have come, its click or its silence alike.
That age is a quantile of the delays of the rewards so far, in a histogram of geometric bins, whose
counts are halved now and then so that it follows delays that change.

What is seen of the delays at first are the short ones: a reward that takes an hour cannot have come
within a minute. So an age is only believed once the bandit has had rewards for twice as long. And
rewards count when they are reported, up to the close of the window: with those alone that came
before the age itself, it would shrink from one estimate to the next.

Whoever stores rewards counts them in the same transaction, and stores `state` with them, so that
the age is a function of what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

SHARE = 0.95  # of the rewards, which have come by the age
LEAST = 32  # rewards without which there is no age
EVERY = 16  # rewards after which it is computed again
MOST = 1024.0  # counts in the histogram before they are halved
WATCHED = 2.0  # ages for which there must have been rewards
_SHORTEST_S = 0.125  # the upper edge of the first bin
_PER_OCTAVE = 8
_RARE = 1 / 16  # a smaller count is dropped


class DelayState(NamedTuple):
    """What is stored of the delays of a bandit.

    Attributes:
        since: Service time of the first reward.
        num: How many rewards were counted.
        age_s: The age at which decisions are mature; None while too little is known.
        counts: The count of each bin that has one.
    """

    since: float
    num: int
    age_s: float | None
    counts: Mapping[int, float]


class Delays:
    """The delays of one bandit's rewards. Single-threaded.

    Args:
        state: What was stored; None: no rewards so far.

    Attributes:
        age_s: The age at which decisions are mature; None while too little is known.
    """

    def __init__(self, state: DelayState | None = None) -> None:
        self._since = None if state is None else state.since
        self._num = 0 if state is None else state.num
        self.age_s = None if state is None else state.age_s
        self._counts = {} if state is None else dict(state.counts)
        self._total = math.fsum(self._counts.values())

    @property
    def state(self) -> DelayState:
        """What is to be stored; there was a reward."""
        assert self._since is not None, "nothing was counted"
        return DelayState(self._since, self._num, self.age_s, dict(self._counts))

    def add(self, delay_s: float, now: float) -> None:
        """Count a reward that was reported `delay_s` after its decision, at the service time."""
        if self._since is None:
            self._since = now
        bin_ = 0
        if delay_s > _SHORTEST_S:
            bin_ = math.ceil(_PER_OCTAVE * math.log2(delay_s / _SHORTEST_S))
        self._counts[bin_] = self._counts.get(bin_, 0.0) + 1.0
        self._total += 1.0
        self._num += 1
        if self._total >= MOST:
            halves = {at: count / 2 for at, count in self._counts.items()}
            self._counts = {at: count for at, count in halves.items() if count >= _RARE}
            self._total = math.fsum(self._counts.values())
        if self._num >= LEAST and self._num % EVERY == 0:
            age_s = self.quantile(SHARE)
            if self.age_s is not None or now - self._since >= WATCHED * age_s:
                self.age_s = age_s

    def quantile(self, share: float) -> float:
        """Return the upper edge of the bin in which a share of the counts is reached (s)."""
        left = share * self._total
        for bin_ in sorted(self._counts):
            left -= self._counts[bin_]
            if left <= 0.0:
                break
        return float(_SHORTEST_S * 2.0 ** (bin_ / _PER_OCTAVE))
