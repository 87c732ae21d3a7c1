"""Reads the state of a decision, steps it by the contract of rewards, and stores the change.

Runs on the writer thread, inside its transaction, so that nothing moves between the two. Each time
a value changes, a learn row is appended in the same transaction. Nothing here reads a clock: times
come with the reports.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bandexa_core.ids import DecisionId, LogPosition
from bandexa_core.log import contract
from bandexa_core.log.contract import DecisionState, ItemState
from bandexa_core.log.rows import LearnRow
from bandexa_core.spec import RewardSpec
from service.store.errors import InvalidRequest, UnknownDecision
from service.store.protocol import Activation, Closed, Learned, Logged, RewardOutcome
from service.store.records import BanditRecord, ChosenAction, RewardReport
from service.store.sqlite.codec import unpack_chosen
from service.store.sqlite.log_writer import LogWriter

COUNTED = ("applied", "aggregated")
_DECISION = """
SELECT bandit, context, chosen,
  activated OR EXISTS (SELECT 1 FROM activations AS a WHERE a.decision_id = d.decision_id),
  EXISTS (SELECT 1 FROM windows AS w WHERE w.decision_id = d.decision_id AND w.closed IS NOT NULL),
  (SELECT count(*) FROM rewards AS r WHERE r.decision_id = d.decision_id)
FROM decisions AS d WHERE decision_id = ?
"""
_NEW = ItemState()
_REWARDS = "SELECT reward FROM rewards WHERE decision_id = ? AND item = ?"


class _Decision(NamedTuple):
    """A decision that is reported on."""

    id: DecisionId
    bandit: BanditRecord
    context: bytes
    chosen: tuple[ChosenAction, ...]
    state: DecisionState


class Outcomes:
    """Rewards, activations and closed windows.

    Args:
        connection: The writing connection.
        log: Appends the learn rows.
        bandit: Returns the live bandit of a key, None for a deleted one.
        max_rewards: The largest number of rewards of a decision.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        log: LogWriter,
        bandit: Callable[[int], BanditRecord | None],
        max_rewards: int,
    ) -> None:
        self._db = connection
        self._log = log
        self._bandit = bandit
        self._max_rewards = max_rewards

    # -- rewards ------------------------------------------------------------------------------

    def reward(self, report: RewardReport) -> RewardOutcome:
        """Join a reward to its decision, and learn the value that it makes.

        Raises:
            UnknownDecision, InvalidRequest: Nothing was stored.
        """
        found = self._decision(report.decision_id)
        item = _item(found.chosen, report.action)
        state = found.state
        repeats = self._repeats(report, item) if report.reward_id or state.closed else ()
        reported = contract.Reported(item, report.reward, report.reward_id, repeats)
        try:
            status, change = contract.report(
                state, reported, found.bandit.spec.rewards, self._max_rewards
            )
        except ValueError as error:
            raise InvalidRequest.from_value_error(error, "reward") from error
        if change is None:
            return RewardOutcome(found.bandit.uid, status, None)
        if change.reward is not None:
            self._db.execute(
                "INSERT INTO rewards VALUES (?, ?, ?, ?, ?, ?)",
                (
                    report.decision_id, item, report.reward_id, report.reward, change.reward,
                    report.time,
                ),
            )  # fmt: skip
        rows = self._learn(found, change, report.time)
        return RewardOutcome(found.bandit.uid, status, rows[0] if rows else None)

    def _repeats(self, report: RewardReport, item: int) -> list[float]:
        """Return what is stored under the id of a reward; without one, equal late rewards."""
        key = report.decision_id, item
        if report.reward_id is not None:
            found = self._db.execute(f"{_REWARDS} AND reward_id = ?", (*key, report.reward_id))
        else:
            late = "AND reward_id IS NULL AND status = 'late' AND reward = ?"
            found = self._db.execute(f"{_REWARDS} {late}", (*key, report.reward))
        return [reward for (reward,) in found]

    # -- activations --------------------------------------------------------------------------

    def activate(self, decision_id: DecisionId, now: float) -> Activation:
        """Make the rewards of a decision count, and learn those that came before.

        Raises:
            UnknownDecision: Nothing was stored.
        """
        found = self._decision(decision_id)
        status, change = contract.activate(found.state, found.bandit.spec.rewards)
        rows: list[Logged] = []
        if change is not None:
            self._db.execute("INSERT INTO activations VALUES (?, ?)", (decision_id, now))
            rows = self._learn(found, change, now)
        return Activation(found.bandit.uid, status, len(found.chosen), tuple(rows))

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
        found = self._decision(decision_id)
        # The window is marked as closed already: so that one without a default costs nothing more.
        state = found.state._replace(closed=False)
        change = contract.close(state, found.bandit.spec.rewards)
        if change is None:
            return []
        return [Learned(found.bandit.uid, row) for row in self._learn(found, change, now)]

    # -- both ---------------------------------------------------------------------------------

    def _decision(self, decision_id: DecisionId) -> _Decision:
        found = self._db.execute(_DECISION, (decision_id,)).fetchone()
        bandit = None if found is None else self._bandit(found[0])
        if found is None or bandit is None:  # unknown, or deleted and not purged yet
            raise UnknownDecision(decision_id)
        _, context, blob, active, closed, num_rewards = found
        chosen = unpack_chosen(decision_id, blob, context)
        items = (_NEW,) * len(chosen)
        if num_rewards:  # without one, only a closed window has learned anything
            items = self._items(decision_id, items, bandit.spec.rewards)
        state = DecisionState(0, num_rewards, bool(active), bool(closed), items)
        return _Decision(decision_id, bandit, context, chosen, state)

    def _items(
        self, decision_id: DecisionId, new: tuple[ItemState, ...], rules: RewardSpec
    ) -> tuple[ItemState, ...]:
        items = list(new)
        for item, value in self._db.execute(
            "SELECT item, value FROM outcomes WHERE decision_id = ?", (decision_id,)
        ):
            items[item] = ItemState(value=value)
        for item, reward, status in self._db.execute(
            "SELECT item, reward, status FROM rewards WHERE decision_id = ? ORDER BY rowid",
            (decision_id,),
        ):
            if status in COUNTED:
                items[item] = contract.counted(items[item], reward, rules)
        return tuple(items)

    def _learn(self, found: _Decision, change: contract.Change, now: float) -> list[Logged]:
        """Log the values of a change."""
        key, decision_id, spec = found.bandit.key, found.id, found.bandit.spec.context
        rows = []
        for item, before, value in change.learned:
            origin = self._log.next(key)
            if before is not None:
                (origin,) = self._db.execute(
                    "SELECT origin FROM outcomes WHERE decision_id = ? AND item = ?",
                    (decision_id, item),
                ).fetchone()
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
            picked = found.chosen[item]
            self._log.tail.add(
                key,
                LearnRow(
                    position, now, decision_id, LogPosition(origin), before, value,
                    np.frombuffer(found.context, spec.dtype).reshape(spec.shape),
                    picked.features, picked.slot,
                ),
            )  # fmt: skip
            rows.append(Logged(position, now, decision_id, before, value))
        return rows


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
