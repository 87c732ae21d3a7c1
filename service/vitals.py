"""What a bandit has lived through since the server started: counts, and the recent past.

Kept on the event loop, by whoever answers selects and applies rewards; read by metrics, alarms and
the bandit's state. A few additions per call, nothing that grows with the traffic. A restart begins
anew: what has to survive is in the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from service.tally import Tally

PROPENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
MINUTES = 1440  # of traffic that are remembered
RECENT_ACTIONS = 1000  # the join rate is that of the newest minutes with so many
RECENT_VALUES = 1000


class Minute(NamedTuple):
    """One minute's traffic: chosen actions that may be rewarded, and values learned for first."""

    minute: int
    chosen: int
    joined: int


class Run:
    """How often in a row the same thing came."""

    __slots__ = ("last", "length")

    def __init__(self) -> None:
        self.last: object = None
        self.length = 0

    def see(self, value: object) -> None:
        """Count one more."""
        if value == self.last:
            self.length += 1
        else:
            self.last = value
            self.length = 1


class Vitals:
    """Counts of one bandit.

    Attributes:
        selects: Answered ones, repeats among them.
        rewards: By what became of them.
        propensities: Of new decisions.
        actions, values: How often in a row the same was chosen, or learned.
        reward_mean: Of about the last `RECENT_VALUES` values; None before the first.
        outside: The share of those that lie outside of the reward range.
        num_values: Decisions a value was learned for.
    """

    def __init__(self) -> None:
        self.selects = 0
        self.rewards: dict[str, int] = {}
        self.propensities = Tally(PROPENSITIES)
        self.actions = Run()
        self.values = Run()
        self.reward_mean: float | None = None
        self.outside = 0.0
        self.num_values = 0
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)

    # -- what happened ------------------------------------------------------------------------

    def decided(
        self,
        now: float,
        actions: Sequence[object],
        propensity: float | None,
        *,
        choice: bool,
        activated: bool,
    ) -> None:
        """Count a new decision.

        Args:
            now: Its time, in seconds since the epoch.
            actions: What was chosen, best first.
            propensity: That of the first; None: it comes later.
            choice: Whether there was more than one candidate.
            activated: Whether rewards for it count already.
        """
        if propensity is not None:
            self.propensities.observe(propensity)
        if choice:
            self.actions.see(actions[0])
        if activated:
            self._flow(now, len(actions), 0)

    def activated(self, now: float, num_actions: int) -> None:
        """Count an activation: from now on, rewards are awaited for what was chosen."""
        self._flow(now, num_actions, 0)

    def rewarded(self, status: str) -> None:
        """Count a reward by what became of it."""
        self.rewards[status] = self.rewards.get(status, 0) + 1

    def joined(self, now: float) -> None:
        """Count a chosen action whose first value a caller brought."""
        self._flow(now, 0, 1)

    def learned(self, before: float | None, after: float, expected: tuple[float, float]) -> None:
        """Count a value that was learned, whoever brought it, or corrected.

        Args:
            before: What is corrected; None: it is the first one.
            after: The value.
            expected: The bandit's reward range.
        """
        if before is None:
            self.values.see(after)
            self.num_values += 1
        share = 1.0 / max(1, min(self.num_values, RECENT_VALUES))
        mean = self.reward_mean or 0.0
        self.reward_mean = mean + share * (after - (mean if before is None else before))
        low, high = expected
        was = self.outside if before is None else float(not low <= before <= high)
        self.outside += share * (float(not low <= after <= high) - was)

    def _flow(self, now: float, chosen: int, joined: int) -> None:
        minute, minutes = int(now // 60.0), self._minutes
        if minutes and minutes[-1].minute >= minute:  # a clock that was set back changes nothing
            last = minutes[-1]
            minutes[-1] = Minute(last.minute, last.chosen + chosen, last.joined + joined)
        else:
            minutes.append(Minute(minute, chosen, joined))

    # -- what is to be seen -------------------------------------------------------------------

    def minutes(self) -> list[Minute]:
        """Return the minutes with traffic, oldest first."""
        return list(self._minutes)

    def join_rate(self) -> float | None:
        """Return rewarded per chosen actions in the newest minutes; None before the first."""
        chosen = joined = 0
        for minute in reversed(self._minutes):
            chosen += minute.chosen
            joined += minute.joined
            if chosen >= RECENT_ACTIONS:
                break
        return joined / chosen if chosen else None
