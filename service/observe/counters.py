"""Counters that one thread writes and another reads, without a lock.

`observe.metrics` turns them into Prometheus metrics when they are requested. An observation costs
0.2 us of CPU time in a `Tally` and 0.9 us in a histogram of prometheus_client, of which a select
makes six; and importing that package takes 33 ms of a server's start. A reader may see the latest
observation in one number and not yet in another.
"""

from __future__ import annotations

import math
import mmap
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.observe.backups import BackupStanding
from service.observe.growth import Growth
from service.observe.silence import Silence

SECONDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0,
)  # fmt: skip


class Tally:
    """A histogram. `counts` has one number per bound (values up to it), then one for the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (bound, number of values up to it) for each bound, the last one infinite."""
        seen, out = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            out.append((bound, seen))
        return out


class StageTimes:
    """Where the time of a select goes, in seconds; used on the event loop."""

    __slots__ = ("_all", "commit", "decode", "draw", "encode", "total")

    def __init__(self) -> None:
        self._all = tuple(Tally() for _ in range(5))
        self.decode, self.encode, self.draw, self.commit, self.total = self._all

    def observe(self, decode_s: float, encode_s: float, draw_s: float, commit_s: float) -> None:
        """Count one select."""
        total_s = decode_s + encode_s + draw_s + commit_s
        values = decode_s, encode_s, draw_s, commit_s, total_s
        for tally, value in zip(self._all, values, strict=True):
            tally.counts[bisect_left(SECONDS, value)] += 1  # as `observe`, without five calls
            tally.total += value

    def by_name(self) -> dict[str, Tally]:
        """Return the stages, without the total."""
        return {name: getattr(self, name) for name in ("decode", "encode", "draw", "commit")}


class WriterTimes:
    """Times and sizes of the store's commits; observed by its writer thread."""

    __slots__ = ("checkpoint", "commit", "operations", "sync")

    def __init__(self) -> None:
        self.operations = Tally([2.0**n for n in range(11)])
        self.commit = Tally()
        self.sync = Tally()
        self.checkpoint = Tally()


PROPENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
MINUTES = 1440  # of traffic are stored in memory
_SPARE_MINUTES = 240  # are removed together
RECENT_ACTIONS = 1000  # the join rate covers the newest minutes with this many chosen actions
RATE_MINUTES = 5  # whose traffic says how soon a loss of rewards shows
RECENT_VALUES = 1000  # the mean covers about this many values


class Traffic:
    """Actions per minute: the chosen ones that may be rewarded, first values from rewards.

    It covers the newest `MINUTES` with traffic, as sums since the start: so the sum of the newest
    minutes is one subtraction, and ten thousand bandits are read in a moment.
    """

    __slots__ = ("_chosen", "_joined", "_minute")

    def __init__(self) -> None:
        self._minute = -1
        self._chosen = array("q", [0])  # up to the end of each minute; the first is no minute
        self._joined = array("q", [0])

    def add(self, now: float, chosen: int, joined: int) -> None:
        """Count actions at a time, in seconds since the epoch."""
        minute = int(now // 60.0)
        if minute <= self._minute:  # also when the clock was set back
            self._chosen[-1] += chosen
            self._joined[-1] += joined
            return
        self._minute = minute
        self._chosen.append(self._chosen[-1] + chosen)
        self._joined.append(self._joined[-1] + joined)
        if len(self._chosen) > MINUTES + 1 + _SPARE_MINUTES:
            del self._chosen[:_SPARE_MINUTES], self._joined[:_SPARE_MINUTES]

    def __len__(self) -> int:
        """Return the number of minutes."""
        return min(len(self._chosen) - 1, MINUTES)

    def total(self) -> tuple[int, int]:
        """Return how many actions were chosen and joined in all minutes."""
        return self._since(-len(self) - 1)

    def recent(self, least: int) -> tuple[int, int]:
        """Return the same of the newest minutes that have at least so many chosen actions."""
        before = bisect_right(self._chosen, self._chosen[-1] - least) - 1
        return self._since(max(before, len(self._chosen) - 1 - len(self)))

    def _since(self, place: int) -> tuple[int, int]:
        return self._chosen[-1] - self._chosen[place], self._joined[-1] - self._joined[place]

    def newest(self, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return chosen and joined actions of the newest `first`, `first` + 1, ... minutes.

        Both have shape (max(0, minutes - first + 1),); the last elements are the totals.
        """
        end, stop = len(self._chosen) - first, len(self._chosen) - 1 - len(self)
        chosen, joined = (
            sums[-1] - np.frombuffer(sums, np.int64)[stop : max(stop, end)][::-1]
            for sums in (self._chosen, self._joined)
        )
        return chosen, joined


class Streak:
    """How many equal values in a row were observed last."""

    __slots__ = ("last", "length")

    def __init__(self) -> None:
        self.last: object = None
        self.length = 0

    def observe(self, value: object) -> None:
        """Count one more value."""
        if value == self.last:
            self.length += 1
        else:
            self.last = value
            self.length = 1


class Vitals:
    """The counters of one bandit since the server's start.

    Attributes:
        selects: Answered selects, repeated ones included.
        rewards: Reported rewards by status.
        propensities: The propensities of new decisions.
        actions: The latest decisions with the same action, where there was a choice.
        values: The latest learned values that are equal.
        reward_mean: Mean of about the last `RECENT_VALUES` values; None before the first.
        outside: The share of those values outside of the reward range.
        num_values: How many values were learned for the first time.
        num_clipped: How many values were learned as the bound that they were beyond.
        traffic: Chosen and rewarded actions per minute.
        silence: Chosen actions since the last reward.
    """

    def __init__(self) -> None:
        self.selects = 0
        self.rewards: dict[str, int] = {}
        self.propensities = Tally(PROPENSITIES)
        self.actions = Streak()
        self.values = Streak()
        self.reward_mean: float | None = None
        self.outside = 0.0
        self.num_values = 0
        self.num_clipped = 0
        self._last_clipped: tuple[int, float, float] | None = None
        self.traffic = Traffic()
        self.silence = Silence()

    # -- counting -----------------------------------------------------------------------------

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
            actions: The chosen actions, best first.
            propensity: The propensity of the first action; None while it is not computed yet.
            choice: Whether there was more than one candidate.
            activated: Whether rewards for it count already.
        """
        if propensity is not None:
            self.propensities.observe(propensity)
        if choice:
            self.actions.observe(actions[0])
        if activated:
            self._chosen(now, len(actions))

    def activated(self, now: float, num_actions: int) -> None:
        """Count an activation: from now on, the chosen actions may be rewarded."""
        self._chosen(now, num_actions)

    def rewarded(self, status: str) -> None:
        """Count a reward by its status."""
        self.rewards[status] = self.rewards.get(status, 0) + 1

    def joined(self, now: float, delay_s: float) -> None:
        """Count a chosen action whose first reward that counts was reported.

        Args:
            now: The time, in seconds since the epoch.
            delay_s: The seconds since its decision.
        """
        self.traffic.add(now, 0, 1)
        self.silence.joined(now, delay_s)

    def _chosen(self, now: float, num_actions: int) -> None:
        self.traffic.add(now, num_actions, 0)
        self.silence.chosen(now, num_actions)

    def learned(self, before: float | None, after: float, expected: tuple[float, float]) -> None:
        """Count a learned or corrected value, from a reward or a closed window.

        Args:
            before: The value that is corrected; None for a first value.
            after: The value.
            expected: The bandit's reward range.
        """
        if before is None:
            self.values.observe(after)
            self.num_values += 1
        share = 1.0 / max(1, min(self.num_values, RECENT_VALUES))
        mean = self.reward_mean or 0.0
        self.reward_mean = mean + share * (after - (mean if before is None else before))
        low, high = expected
        was = self.outside if before is None else float(not low <= before <= high)
        self.outside += share * (float(not low <= after <= high) - was)

    def clipped(self, value: float, learned: float, expected: tuple[float, float]) -> None:
        """Count a value that was learned as another one: the bound that it was beyond.

        One that is less than a width beyond the bandit's reward range is no outlier.
        """
        self.num_clipped += 1
        low, high = expected
        width = high - low
        if math.isinf(width) or not low - width <= value <= high + width:
            self._last_clipped = self.num_values, value, learned

    # -- reading ------------------------------------------------------------------------------

    def loss_shown_after_s(self) -> float | None:
        """Return after how many seconds a total loss of rewards shows, by the recent traffic."""
        minutes = min(len(self.traffic), RATE_MINUTES)
        if not minutes:
            return None
        chosen, _ = self.traffic.newest(minutes)
        return self.silence.shown_after_s(float(chosen[0]) / (60.0 * minutes))

    def recently_clipped(self) -> tuple[float, float] | None:
        """Return the last clipped value far beyond all others, and what was learned for it.

        None where the last `RECENT_VALUES` values were learned as they are.
        """
        if self._last_clipped is None:
            return None
        at, value, learned = self._last_clipped
        return (value, learned) if self.num_values - at < RECENT_VALUES else None

    def join_rate(self) -> float | None:
        """Return rewarded per chosen actions in the newest minutes; None without chosen ones."""
        chosen, joined = self.traffic.recent(RECENT_ACTIONS)
        return joined / chosen if chosen else None


ROUND_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        """Add to it."""
        self.value += by


class SharedCount:
    """A number that only grows, in memory that processes have in common which are forked later.

    One of them adds to it at a time, from any thread; it outlives them.
    """

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, 8)
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        """The number."""
        return int.from_bytes(self._bytes[:], "little")

    def inc(self) -> None:
        """Add one to it."""
        with self._lock:
            self._bytes[:] = (self.value + 1).to_bytes(8, "little")


class Metrics:
    """The numbers of a server that none of its live objects holds.

    Attributes:
        stages: Where the time of selects goes.
        reward_seconds: Time of rewards, commit and learning included.
        in_flight: Requests under way.
        requests: Requests by method, route and status.
        request_seconds: Their times by route.
        problems: Requests, and items of batches, answered by a problem, by type without its prefix.
        swaps, swap_seconds, swap_stall_seconds: Models swapped in, their times, and how much of
            that on the event loop.
        recoveries: Failed bandits that were recovered.
        diverged: Models that were built anew because the log has lost rows that they had; where
            servers share a database, the count that outlives the server's processes.
        rounds, rounds_failed, round_seconds: Training rounds.
        trainer_restarts: Restarts of the trainer process.
        store_bytes: Bytes of the database that hold data, as of retention's last check.
        disk_free_bytes: Bytes that the server can write beside the database, as of that check.
        growth: How fast the database grows.
        decisions_removed: Decisions that retention removed.
        unknown_events: Rewards and activations of events that Personalizer's clients name, and
            that do not exist here.
        backups: How scheduled backups stand; None: there are none.
    """

    def __init__(self) -> None:
        self.stages = StageTimes()
        self.reward_seconds = Tally()
        self.in_flight = 0
        self.requests: dict[tuple[str, str, int], int] = {}
        self.request_seconds: dict[str, Tally] = {}
        self.problems: dict[str, int] = {}
        self.swaps = Count()
        self.swap_seconds = Tally(ROUND_SECONDS)
        self.swap_stall_seconds = Tally()
        self.recoveries = Count()
        self.diverged = SharedCount()
        self.rounds = Count()
        self.rounds_failed = Count()
        self.round_seconds = Tally(ROUND_SECONDS)
        self.trainer_restarts = Count()
        self.store_bytes = 0
        self.disk_free_bytes = 0
        self.growth = Growth()
        self.decisions_removed = Count()
        self.unknown_events = Count()
        self.backups: BackupStanding | None = None

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; the router knows few routes, so there are few labels."""
        key = method, route, status
        counts = self.requests
        counts[key] = counts.get(key, 0) + 1
        tally = self.request_seconds.get(route)
        if tally is None:
            tally = self.request_seconds[route] = Tally()
        tally.counts[bisect_left(SECONDS, seconds)] += 1  # as `observe`, without a call
        tally.total += seconds

    def problem(self, kind: str) -> None:
        """Count a problem that was reported to a caller, by the name at the end of its type."""
        name = kind.removeprefix("urn:bandexa:")
        self.problems[name] = self.problems.get(name, 0) + 1
