"""Whether rewards have stopped, as soon as that can be no chance.

Of the actions that were chosen after the last reward some are so old that most of their rewards
would have come by now. With a join rate r, and a share q of rewards that come by that age, n such
actions have none with chance (1 - q r)^n. Rate and delays are learned from the bandit's rewards.

Some callers report once a night. So a silence counts only where it is twice as long as the longest
one of late, in chosen actions, which are few at night.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

from bandexa_core.log.delays import Delays

CHANCE = 1e-6  # of no reward, below which they have stopped
SHARE = 0.9  # q
LEAST_JOINED = 50  # rewards without which nothing is known
LONGER = 2.0  # than the longest silence of late
LONG_CHANCE = 1e-3  # of a silence that is remembered, and
REMEMBERED = 5  # how many of them
_MOST_RATE = 0.95
_FEWEST_LONG = math.ceil(math.log(LONG_CHANCE) / math.log1p(-SHARE * _MOST_RATE))
_MOST_JOINED = 1024.0  # before the counts behind the rate are halved
_STEP_S = 1.0  # between two marks
_MOST_MARKS = 512


class Loss(NamedTuple):
    """Rewards have stopped.

    Attributes:
        since: When the last one came, in seconds since the epoch.
        num: Chosen actions since then that are old enough.
        age_s: The age by which 90 % of the rewards came.
    """

    since: float
    num: int
    age_s: float


class Silence:
    """Chosen actions since the last reward of a bandit. Not thread-safe."""

    __slots__ = ("_chosen", "_delays", "_last", "_long", "_marks", "_past_chosen", "_past_joined")

    def __init__(self) -> None:
        self._chosen = 0  # since the last reward
        self._marks: list[tuple[float, int]] = []  # a time, and how many were chosen up to then
        self._last = 0.0
        self._long: list[int] = []
        self._past_chosen = self._past_joined = 0.0
        self._delays: Delays | None = None

    def chosen(self, now: float, num: int) -> None:
        """Count chosen actions at a time, in seconds since the epoch."""
        self._chosen += num
        marks = self._marks
        if self._past_joined and (not marks or now - marks[-1][0] >= _STEP_S):
            marks.append((now, self._chosen))
            if len(marks) > _MOST_MARKS:
                del marks[::2]

    def joined(self, now: float, delay_s: float) -> None:
        """Count the first reward of an action, `delay_s` after its decision."""
        if self._delays is None:
            self._delays = Delays()
        self._delays.add(delay_s, now)
        num = self._chosen
        if num >= _FEWEST_LONG and self._chance(num) < LONG_CHANCE:
            self._long = [*self._long, num][-REMEMBERED:]
        self._past_chosen += num
        self._past_joined += 1.0
        if self._past_joined >= _MOST_JOINED:
            self._past_chosen /= 2.0
            self._past_joined /= 2.0
        self._chosen = 0
        self._marks.clear()
        self._last = now

    def loss(self, now: float) -> Loss | None:
        """Return what shows at a time that rewards have stopped; None where nothing does."""
        age_s = self._age_s()
        if age_s is None or self._chosen <= LONGER * max(self._long, default=0):
            return None
        place = bisect_right(self._marks, now - age_s, key=lambda mark: mark[0])
        num = self._marks[place - 1][1] if place else 0
        return Loss(self._last, num, age_s) if self._chance(num) < CHANCE else None

    def shown_after_s(self, per_s: float) -> float | None:
        """Return after how many seconds a total loss would show, at so many actions a second.

        None while too little is known, or without traffic.
        """
        age_s = self._age_s()
        if age_s is None or per_s <= 0.0:
            return None
        needed = math.log(CHANCE) / math.log1p(-SHARE * self._rate())
        return age_s + max(needed, LONGER * max(self._long, default=0)) / per_s

    def _age_s(self) -> float | None:
        if self._delays is None or self._past_joined < LEAST_JOINED:
            return None
        return None if self._delays.age_s is None else self._delays.quantile(SHARE)

    def _rate(self) -> float:
        return min(self._past_joined / max(1.0, self._past_chosen), _MOST_RATE)

    def _chance(self, num: int) -> float:
        """Return the chance of no reward of so many actions."""
        return math.exp(num * math.log1p(-SHARE * self._rate()))
