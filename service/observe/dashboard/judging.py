"""Judges bandits by what the follower counts: evidence for the findings of `/learnz`.

Used by the follower's thread. What recent values say is in memory, of the bandits that had some
most recently, and begins anew with the server; days come from the file of counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from bandexa_core.spec.arms import BANDIT
from service.observe.dashboard.aggregates import DELAYS_S
from service.observe.dashboard.sums import top_actions
from service.observe.evidence import (
    DAY_S,
    ONE_SIDED,
    PAST_DAYS,
    Evidence,
    Moved,
    Recent,
    Rival,
    delays_moved,
    joins_moved,
)
from service.store.records import CountedValue
from service.store.sqlite.aggregates import HOUR, AggregateReader, Compared

MOST_BANDITS = 1000
RIVALS = 100
DAYS_EVERY_S = 600.0


class Stored(Protocol):
    """What is read of the file of counts."""

    def actions(self, uid: str) -> list[Compared]:
        """Return the sums of the actions of a bandit."""


def weighed_by(row: CountedValue) -> float | None:
    """Return the propensity that a value is weighed by; None: it says nothing of other actions.

    So it is where an arm served with certainty: under `serve`, in `mode: control_only`, and where
    units stay in a control. All others are of what was drawn.
    """
    is_certain = row.propensity is not None and row.propensity >= 1.0
    return None if is_certain and row.arm not in (None, BANDIT) else row.propensity


class Judging:
    """The recent values of bandits."""

    def __init__(self) -> None:
        self._recent: OrderedDict[str, Recent] = OrderedDict()
        self._days: dict[str, tuple[float, Moved | None, Moved | None]] = {}
        self.changed: set[str] = set()  # since they were judged last

    def take(self, uid: str, rows: Iterable[CountedValue]) -> None:
        """Count the first values of a bandit.

        Where the decisions of a unit have one draw (`sticky: action`), its first one alone counts:
        the others are not further evidence of what a draw brings.
        """
        firsts = [
            row for row in rows
            if row.before is None and row.after is not None and row.place == 0
            and row.action is not None and row.score is not None and row.is_new_unit
        ]  # fmt: skip
        if not firsts:
            return
        recent = self._recent.setdefault(uid, Recent())
        self._recent.move_to_end(uid)
        for row in firsts:
            assert row.action is not None
            assert row.score is not None
            assert row.after is not None
            recent.add(row.action, weighed_by(row), row.after, row.score)
        if len(self._recent) > MOST_BANDITS:
            gone, _ = self._recent.popitem(last=False)
            self._days.pop(gone, None)
        self.changed.add(uid)

    def evidence(self, uid: str, stored: Stored, reader: AggregateReader, now: float) -> Evidence:
        """Return what is known of a bandit now."""
        self.changed.discard(uid)
        recent = self._recent.get(uid)
        found = Evidence() if recent is None else recent.evidence()
        if found.top is not None and found.share >= ONE_SIDED:
            found = replace(found, rivals=_rivals(stored.actions(uid), found.top))
        at, joins, delays = self._days.get(uid, (0.0, None, None))
        if not at <= now < at + DAYS_EVERY_S:
            joins, delays = _moved(reader, uid, now)
            self._days[uid] = now, joins, delays
        return replace(found, joins=joins, delays=delays)

    def forget(self) -> None:
        """Forget what was counted: it is counted again."""
        self._recent.clear()
        self._days.clear()
        self.changed.clear()


def _rivals(rows: Iterable[Compared], top: str) -> tuple[Rival, ...]:
    _, actions = top_actions(rows, RIVALS)
    found = [
        Rival(each.name, each.reward.num, *(each.reward.interval or (None, None)))
        for each in actions
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda rival: rival.name != top))


def _moved(reader: AggregateReader, uid: str, now: float) -> tuple[Moved | None, Moved | None]:
    """Return how the last day differs from those before, in joins and in delays."""
    ends = [now - day * DAY_S for day in range(PAST_DAYS, -1, -1)]
    days, delays = [], []
    for end in ends:
        start, stop = (int(at // HOUR) * HOUR for at in (end - DAY_S, end))
        hours = reader.series(uid, start, stop, HOUR).values()
        days.append((sum(h["chosen"] for h in hours), sum(h["num_values"] for h in hours)))
        delays.append(reader.delays(uid, start, stop, HOUR))
    return joins_moved(days), delays_moved(delays[:-1], delays[-1], DELAYS_S)
