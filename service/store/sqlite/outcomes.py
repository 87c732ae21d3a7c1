"""From reported rewards to learned values: aggregation, activation, and windows that close.

Runs on the writer thread, inside its transaction. A value is the fold of the rewards that count
(status applied or aggregated). Each time it changes, a learn row is appended in the same
transaction. Nothing here reads a clock: times come with the reports.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable

import numpy as np

from bandexa_core.ids import DecisionId, LogPosition
from bandexa_core.log.rows import LearnRow
from bandexa_core.spec import MAX_REWARD
from service.store.errors import InvalidRequest, UnknownDecision
from service.store.protocol import Activation, Closed, Learned, RewardOutcome
from service.store.records import BanditRecord, ChosenAction, RewardReport, RewardStatus
from service.store.sqlite.codec import unpack_chosen
from service.store.sqlite.log_writer import LogWriter

COUNTED = "status IN ('applied', 'aggregated')"


class Outcomes:
    """Rewards, activations and closed windows.

    Args:
        connection: The writing connection.
        log: Appends the learn rows.
        bandit: Returns the live bandit of a key, None for a deleted one.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        log: LogWriter,
        bandit: Callable[[int], BanditRecord | None],
    ) -> None:
        self._db = connection
        self._log = log
        self._bandit = bandit

    # -- rewards ------------------------------------------------------------------------------

    def reward(self, report: RewardReport) -> RewardOutcome:
        """Join a reward to its decision, and learn the value that it makes.

        Raises:
            UnknownDecision, InvalidRequest: Nothing was stored.
        """
        key, bandit, context, chosen, active = self._decision(report.decision_id)
        rewards = bandit.spec.rewards
        item = _item(chosen, report.action)
        if report.reward_id is None and rewards.aggregate in ("sum", "mean"):
            raise InvalidRequest(
                "reward_id", f"needed: the bandit learns the {rewards.aggregate} of its rewards"
            )
        if report.reward_id is not None:
            again = self._repeated(report, item)
            if again is not None:
                return RewardOutcome(bandit.uid, again, None)
        if rewards.reward_window_s is not None and self._is_closed(report.decision_id):
            if report.reward_id is None and self._is_stored(report, item, "late"):
                return RewardOutcome(bandit.uid, "duplicate", None)
            return self._stored(bandit, report, item, "late")
        known = self._known(report.decision_id, item, active=active)
        if rewards.aggregate in ("first", "last") and known is not None:
            if known[1] == report.reward:
                return RewardOutcome(bandit.uid, "duplicate", None)
            if rewards.aggregate == "first":
                return self._stored(bandit, report, item, "ignored")
        counts = rewards.aggregate in ("sum", "mean") and known is not None
        value = report.reward
        if counts:
            value = self._value(bandit, report.decision_id, item, report.reward)
            if abs(value) > MAX_REWARD:
                raise InvalidRequest("reward", f"the sum would be larger than {MAX_REWARD:g}")
        status: RewardStatus = "aggregated" if counts or not active else "applied"
        outcome = self._stored(bandit, report, item, status)
        if not active:
            return outcome
        if known is not None and value == known[1]:
            return outcome  # the value is the same: there is nothing to learn
        row = self._learn(
            key, bandit, report.decision_id, item, report.time, value, context, chosen
        )
        return RewardOutcome(bandit.uid, status, row)

    def _repeated(self, report: RewardReport, item: int) -> RewardStatus | None:
        """Return the status of a reward whose own id was reported before, else None."""
        found = self._db.execute(
            "SELECT reward FROM rewards WHERE decision_id = ? AND item = ? AND reward_id = ?",
            (report.decision_id, item, report.reward_id),
        ).fetchall()
        if not found:
            return None
        if any(value == report.reward for (value,) in found):
            return "duplicate"
        self._insert(report, item, "ignored")
        return "ignored"

    def _known(
        self, decision_id: DecisionId, item: int, *, active: bool
    ) -> tuple[LogPosition | None, float] | None:
        """Return (position of the first learn row, value so far); None without a reward."""
        if active:
            found = self._db.execute(
                "SELECT origin, value FROM outcomes WHERE decision_id = ? AND item = ?",
                (decision_id, item),
            ).fetchone()
        else:  # stored, not learned
            found = self._db.execute(
                f"SELECT NULL, reward FROM rewards WHERE decision_id = ? AND item = ? AND {COUNTED}"
                " ORDER BY rowid DESC LIMIT 1",
                (decision_id, item),
            ).fetchone()
        return None if found is None else (found[0], found[1])

    def _value(
        self, bandit: BanditRecord, decision_id: DecisionId, item: int, *more: float
    ) -> float:
        """Return the fold of the rewards that count; sums are exact, whatever the order."""
        values = [
            value
            for (value,) in self._db.execute(
                f"SELECT reward FROM rewards WHERE decision_id = ? AND item = ? AND {COUNTED}"
                " ORDER BY rowid",
                (decision_id, item),
            )
        ] + list(more)
        aggregate = bandit.spec.rewards.aggregate
        if aggregate == "first":
            return float(values[0])
        if aggregate == "last":
            return float(values[-1])
        total = math.fsum(values)
        return total if aggregate == "sum" else total / len(values)

    def _stored(
        self, bandit: BanditRecord, report: RewardReport, item: int, status: RewardStatus
    ) -> RewardOutcome:
        self._insert(report, item, status)
        return RewardOutcome(bandit.uid, status, None)

    def _insert(self, report: RewardReport, item: int, status: RewardStatus) -> None:
        self._db.execute(
            "INSERT INTO rewards VALUES (?, ?, ?, ?, ?, ?)",
            (report.decision_id, item, report.reward_id, report.reward, status, report.time),
        )

    def _is_stored(self, report: RewardReport, item: int, status: RewardStatus) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM rewards WHERE decision_id = ? AND item = ? AND status = ?"
            " AND reward = ?",
            (report.decision_id, item, status, report.reward),
        ).fetchone()
        return found is not None

    # -- activations --------------------------------------------------------------------------

    def activate(self, decision_id: DecisionId, now: float) -> Activation:
        """Make the rewards of a decision count, and learn those that came before.

        Raises:
            UnknownDecision: Nothing was stored.
        """
        key, bandit, context, chosen, active = self._decision(decision_id)
        if active:
            return Activation(bandit.uid, "duplicate", len(chosen), ())
        if bandit.spec.rewards.reward_window_s is not None and self._is_closed(decision_id):
            return Activation(bandit.uid, "late", len(chosen), ())
        self._db.execute("INSERT INTO activations VALUES (?, ?)", (decision_id, now))
        items = self._db.execute(
            f"SELECT DISTINCT item FROM rewards WHERE decision_id = ? AND {COUNTED} ORDER BY item",
            (decision_id,),
        ).fetchall()
        rows = []
        for (item,) in items:
            value = self._value(bandit, decision_id, item)
            rows.append(self._learn(key, bandit, decision_id, item, now, value, context, chosen))
        return Activation(bandit.uid, "applied", len(chosen), tuple(rows))

    # -- windows ------------------------------------------------------------------------------

    def open_window(self, decision_id: DecisionId, bandit: BanditRecord, now: float) -> None:
        """Open the reward window of a decision, if its bandit has windows."""
        window = bandit.spec.rewards.reward_window_s
        if window is not None:
            self._db.execute(
                "INSERT INTO windows VALUES (?, ?, ?, NULL)",
                (decision_id, bandit.key, now + window),
            )

    def last_opened(self) -> float | None:
        """Return the time of the newest decision with an open window, None without one."""
        found = self._db.execute(
            "SELECT max(d.time) FROM windows AS w JOIN decisions AS d USING (decision_id)"
            " WHERE w.closed IS NULL"
        ).fetchone()
        return None if found[0] is None else float(found[0])

    def any_open(self) -> bool:
        """Return whether there is an open window."""
        found = self._db.execute("SELECT 1 FROM windows WHERE closed IS NULL LIMIT 1").fetchone()
        return found is not None

    def postpone(self, seconds: float) -> int:
        """Postpone the closing of every open window; returns how many there are."""
        return self._db.execute(
            "UPDATE windows SET closes = closes + ? WHERE closed IS NULL", (seconds,)
        ).rowcount

    def close_due(self, now: float, most: int) -> Closed:
        """Close at most `most` windows whose time is over."""
        due = self._db.execute(
            "SELECT decision_id, bandit FROM windows WHERE closed IS NULL AND closes <= ?"
            " ORDER BY closes, decision_id LIMIT ?",
            (now, most),
        ).fetchall()
        learned: list[Learned] = []
        for decision_id, key in due:
            self._db.execute(
                "UPDATE windows SET closed = ? WHERE decision_id = ?", (now, decision_id)
            )
            bandit = self._bandit(key)
            if bandit is not None and bandit.spec.rewards.default_reward is not None:
                learned += self._defaults(DecisionId(decision_id), now)
        return Closed(tuple(learned), len(due) == most)

    def _defaults(self, decision_id: DecisionId, now: float) -> list[Learned]:
        key, bandit, context, chosen, active = self._decision(decision_id)
        default = bandit.spec.rewards.default_reward
        assert default is not None
        if not active:
            return []
        return [
            Learned(
                bandit.uid,
                self._learn(key, bandit, decision_id, item, now, default, context, chosen),
            )
            for item in range(len(chosen))
            if self._known(decision_id, item, active=True) is None
        ]

    def _is_closed(self, decision_id: DecisionId) -> bool:
        found = self._db.execute(
            "SELECT closed FROM windows WHERE decision_id = ?", (decision_id,)
        ).fetchone()
        return found is not None and found[0] is not None

    # -- both ---------------------------------------------------------------------------------

    def _decision(
        self, decision_id: DecisionId
    ) -> tuple[int, BanditRecord, bytes, tuple[ChosenAction, ...], bool]:
        """Return a decision: key and record of its bandit, context, chosen actions, active?"""
        found = self._db.execute(
            "SELECT bandit, context, chosen, activated FROM decisions WHERE decision_id = ?",
            (decision_id,),
        ).fetchone()
        bandit = None if found is None else self._bandit(found[0])
        if found is None or bandit is None:  # unknown, or deleted and not purged yet
            raise UnknownDecision(decision_id)
        key, context, blob, activated = found
        active = bool(activated) or self._was_activated(decision_id)
        return key, bandit, context, unpack_chosen(decision_id, blob, context), active

    def _was_activated(self, decision_id: DecisionId) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM activations WHERE decision_id = ?", (decision_id,)
        ).fetchone()
        return found is not None

    def _learn(
        self, key: int, bandit: BanditRecord, decision_id: DecisionId, item: int, now: float,
        value: float, context: bytes, chosen: tuple[ChosenAction, ...],
    ) -> LearnRow:  # fmt: skip
        """Log that the value of a chosen action became `value`."""
        value += 0.0  # SQLite stores no negative zero, and the hash covers what it stores
        known = self._known(decision_id, item, active=True)
        origin = self._log.next(key) if known is None else known[0]
        before = None if known is None else known[1]
        assert origin is not None
        position = self._log.learned(key, now, decision_id, item, origin, before, value)
        self._db.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = excluded.value, latest = excluded.latest",
            (decision_id, item, origin, value, position),
        )
        if before is not None:  # it may be in the sample of rows that left the log
            self._db.execute(
                "UPDATE evicted SET value = ? WHERE bandit = ? AND origin = ?",
                (value, key, origin),
            )
        spec = bandit.spec.context
        array = np.frombuffer(context, spec.dtype).reshape(spec.shape)
        return LearnRow(
            position, now, decision_id, origin, before, value, array, chosen[item].features,
            chosen[item].slot,
        )  # fmt: skip


def _item(chosen: tuple[ChosenAction, ...], action: str | None) -> int:
    """Return the index of the chosen action that a reward is for."""
    if action is None:
        if len(chosen) > 1:
            raise InvalidRequest("action", "needed: the decision chose several actions")
        return 0
    for item, picked in enumerate(chosen):
        if picked.id == action:
            return item
    raise InvalidRequest("action", f"the decision did not choose {action!r}")
