"""Reads what reports about a decision need, and stores the steps that they lead to.

Runs on the writer thread, inside its transaction. It does not know the contract of rewards: whoever
takes reports steps a decision's state, and appends the step here. A step is stored only if the
decision is in the state that the step starts from. Each learned value becomes a log row in the same
transaction. Times come with the steps; only a log row has the service time at which it is written,
so that forgetting follows no jump of the wall clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from bandexa_core.errors import BandexaError
from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.log.bounds import UNBOUNDED, clip
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.contract import COUNTED, DecisionState, ItemState, Outcome
from bandexa_core.log.rows import LearnRow, Metrics, VoidRow
from service.store.bounds import BoundsOfBandits
from service.store.delays import SOON, DelaysOfBandits
from service.store.errors import Erased, StoreDamaged, UnknownDecision
from service.store.hashing import pack_metrics
from service.store.identity import DecisionIds, bandit_of, made_at, pack_own_id
from service.store.objects import learned_action, learned_context
from service.store.protocol import FoundDecision, Logged, Reportable, Step
from service.store.records import BanditRecord
from service.store.sql.codec import (
    NEW_ITEM,
    ChosenItem,
    StoredItem,
    chosen_ids,
    chosen_items,
    outcome,
    outcome_columns,
    pack_items,
    unpack_items,
)
from service.store.sql.database import Database
from service.store.sql.evicted import leave_sample
from service.store.sql.log_writer import LogWriter

Listed = dict[tuple[int, str], list[Outcome]]  # rewards by chosen action and their id
MAX_LISTED = 256  # more rewards of a decision are looked up one by one
_DECISION = """
SELECT d.key, d.own_id, d.chosen, d.activated, l.version, l.rewards, l.activated,
  l.closed, l.items, l.matures, d.position, length(d.context)
FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key WHERE
"""
_STATES = """
SELECT d.key, l.version, l.activated, l.closed, l.items, l.matures, d.activated,
  d.context, d.chosen, d.position, d.time
FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key WHERE d.key IN
"""
_AT_ONCE = 32
_NO_LONGER = (
    "UPDATE rewards SET status = ? WHERE key = ? AND item = ? AND status IN"
    f" ({', '.join(map(repr, COUNTED))})"
)
_ADD_TOTALS = """
INSERT INTO metrics VALUES (?, ?, ?, ?) ON CONFLICT (bandit, name) DO UPDATE
SET count = metrics.count + excluded.count, total = metrics.total + excluded.total
"""
_ROWS = {"rewards": f"({', '.join('?' * 8)})", "ledger": f"({', '.join('?' * 7)})"}
_INSERTS = {
    table: [
        f"INSERT OR REPLACE INTO {table} VALUES {', '.join([row] * num)}"
        for num in range(1, _AT_ONCE + 1)
    ]
    for table, row in _ROWS.items()
}


class _Stored(msgspec.Struct, frozen=True, gc=False):
    """A ledger row; `version` 0: there is none. And what its decision learns from."""

    version: int
    activated: float | None
    closed: float | None
    items: tuple[StoredItem, ...]
    matures: float | None
    active: int
    context: bytes
    chosen: bytes
    position: int
    time: float


class Ledger:
    """Decisions and the steps of their reports.

    Args:
        connection: The writing connection.
        log: Appends the learn rows.
        ids: The ids of decisions.
        bandit: Returns the live bandit of a key, None for a deleted one.
        clock: Returns service time, for log rows.
        bounds: The bounds of first values.
        delays: Counts how late rewards come.
        configurations: Returns those of a live bandit.
    """

    def __init__(
        self,
        connection: Database,
        log: LogWriter,
        ids: DecisionIds,
        bandit: Callable[[int], BanditRecord | None],
        clock: Callable[[], float],
        bounds: BoundsOfBandits,
        delays: DelaysOfBandits,
        configurations: Callable[[BanditRecord], Configurations],
    ) -> None:
        self._db = connection
        self._log = log
        self._ids = ids
        self._bandit = bandit
        self._clock = clock
        self._bounds = bounds
        self._delays = delays
        self._configurations = configurations

    # -- reading ------------------------------------------------------------------------------

    def find(self, decision_id: DecisionId) -> FoundDecision:
        """Return a decision with its rewards.

        Raises:
            UnknownDecision: There is none.
            Erased: It was erased.
            StoreDamaged: It is not what was written.
        """
        (found,) = self.found([decision_id])
        if isinstance(found, BandexaError):
            raise found
        return found

    def found(self, ids: Sequence[DecisionId]) -> list[FoundDecision | BandexaError]:
        """Return decisions with their rewards, or why there is none; see `find`.

        However many they are, they take a statement per kind of id, and one for the rewards.
        """
        places = [self._ids.place(each) for each in ids]
        rows: dict[tuple[str, int | str | bytes], tuple[Any, ...]] = {}
        for column in ("key", "own_id"):
            values = [value for name, value in places if name == column]
            if values:
                marks = ", ".join("?" * len(values))
                for row in self._db.execute(
                    f"{_DECISION} d.{column} IN ({marks})", values
                ).fetchall():
                    own_id = row[1]
                    if column == "own_id" and isinstance(own_id, str):
                        own_id = pack_own_id(DecisionId(own_id))
                    rows[column, row[0] if column == "key" else own_id] = row
        decisions: list[Reportable | BandexaError] = []
        for name, place in zip(ids, places, strict=True):
            decisions.append(self._decision(name, rows.get(place)))
        rewards = self._rewards([each for each in decisions if isinstance(each, Reportable)])
        return [
            FoundDecision(each, rewards[each.key]) if isinstance(each, Reportable) else each
            for each in decisions
        ]

    def _decision(self, name: DecisionId, row: tuple[Any, ...] | None) -> Reportable | BandexaError:
        """Return the decision in a row of `_DECISION`, or why there is none."""
        if row is None:
            return UnknownDecision(name)
        if not row[-1]:
            return Erased(name)
        try:
            return self._reportable(row) or UnknownDecision(name)
        except StoreDamaged as error:
            return error

    def at(self, keys: Sequence[int]) -> list[Reportable]:
        """Return the decisions with these keys, in that order.

        Those of deleted bandits, and those that were erased, are left out.
        """
        if not keys:
            return []
        marks = ", ".join("?" * len(keys))
        rows = self._db.execute(f"{_DECISION} d.key IN ({marks})", keys).fetchall()
        found = {row[0]: self._reportable(row) for row in rows if row[-1]}
        return [decision for key in keys if (decision := found.get(key)) is not None]

    def _reportable(self, row: tuple[Any, ...]) -> Reportable | None:
        """Return the decision in a row of `_DECISION`; None where its bandit was deleted."""
        key, own_id, packed, active, version, num, activated, closed, items, *rest = row
        matured, position, _ = rest
        bandit = self._bandit(bandit_of(key))
        if bandit is None:
            return None
        decision_id = self._ids.name(key, own_id)
        actions = chosen_ids(decision_id, packed)
        stored = (NEW_ITEM,) * len(actions) if items is None else unpack_items(items)
        state = DecisionState(
            version or 0, num or 0, bool(active) or activated is not None, closed is not None,
            tuple(item.state for item in stored), matured is not None,
        )  # fmt: skip
        known = self._configurations(bandit)
        changed = known.rules(position) if known.rules_changed else None
        return Reportable(DecisionKey(key), decision_id, bandit, actions, state, changed)

    def _rewards(self, decisions: Sequence[Reportable]) -> dict[DecisionKey, Listed | None]:
        """Return the rewards of decisions that can be repeated; None: they are too many."""
        found: dict[DecisionKey, Listed | None] = {
            each.key: None if each.state.num_rewards > MAX_LISTED else defaultdict(list)
            for each in decisions
        }
        listed = {e.key for e in decisions if 0 < e.state.num_rewards <= MAX_LISTED}
        if listed:
            marks = ", ".join("?" * len(listed))
            for key, item, reward_id, *reward in self._db.execute(
                f"SELECT key, item, reward_id, reward, metrics FROM rewards WHERE key IN ({marks})"
                " AND (reward_id <> '' OR status = 'late')",
                list(listed),
            ):
                rewards = found[key]
                assert rewards is not None
                rewards[item, reward_id].append(outcome(*reward))
        return found

    def repeats(
        self, key: DecisionKey, item: int, reward_id: str | None, reward: Outcome
    ) -> list[Outcome]:
        """Return the rewards stored under an id; without one, the late ones equal to `reward`."""
        if reward_id is not None:
            found = self._db.execute(
                "SELECT reward, metrics FROM rewards WHERE key = ? AND item = ? AND reward_id = ?",
                (key, item, reward_id),
            )
        else:
            found = self._db.execute(
                "SELECT reward, metrics FROM rewards WHERE key = ? AND item = ? AND reward_id = ''"
                " AND reward = ? AND metrics IS NOT DISTINCT FROM ? AND status = 'late'",
                (key, item, *outcome_columns(reward)),
            )
        return [outcome(*each) for each in found]

    # -- appending ----------------------------------------------------------------------------

    def append(self, steps: Sequence[Step]) -> list[tuple[Logged, ...] | BandexaError | None]:
        """Store steps in order; returns the rows that each learned.

        None stands for a step whose decision is in another state, an error for one whose decision
        is damaged, erased, or gone with or without its bandit: nothing of these is stored.
        """
        stored = self._stored({step.decision.key for step in steps})
        changed: dict[DecisionKey, DecisionState] = {}
        rewards: list[tuple[Any, ...]] = []
        closed: list[tuple[float, int]] = []
        matured: list[tuple[float, int]] = []
        totals: list[tuple[int, str, int, float]] = []
        answers: list[tuple[Logged, ...] | BandexaError | None] = []
        of: dict[int, Configurations | None] = {}
        for step in steps:
            decision, change = step.decision, step.change
            key, bandit = decision.key, decision.bandit
            found = stored.get(key)
            if bandit.key not in of:
                lives = self._bandit(bandit.key) is not None
                of[bandit.key] = self._configurations(bandit) if lives else None
            known = of[bandit.key]
            if found is None or known is None:
                answers.append(UnknownDecision(decision.id))
                continue
            if not found.context:
                answers.append(Erased(decision.id))
                continue
            try:
                chosen = chosen_items(decision.id, found.chosen, found.context)
            except StoreDamaged as error:
                answers.append(error)
                continue
            if not _is_in(decision.state, found, len(chosen)):
                answers.append(None)
                continue
            rows, items = self._learn(step, found, chosen, known)
            if change.amended:
                self._insert("rewards", rewards)  # those so far are concerned
                rewards.clear()
                rows = (*rows, *self._amend(step, found.items, rows))
            if change.reward is not None:
                rewards.append(_reward_row(step))
                learns_delays = known.rules(found.position).maturity == "auto"
                if learns_delays and not step.imported and change.reward in SOON:
                    now = self._clock()
                    self._delays.add(bandit.key, now - made_at(key, found.time), now)
            if step.closes is not None:
                closed.append((step.closes, key))
            if step.matures is not None:
                matured.append((step.matures, key))
            for each in step.metric_totals():
                totals.append((bandit.key, *each))
            stored[key] = _after(step, found, items)
            changed[key] = change.state
            answers.append(rows)
        self._insert("rewards", rewards)
        self._insert("ledger", [_ledger_row(key, stored[key], changed[key]) for key in changed])
        if totals:
            self._db.executemany(_ADD_TOTALS, totals)
        if closed:
            self._db.executemany("DELETE FROM windows WHERE closes = ? AND key = ?", closed)
        if matured:
            self._db.executemany("DELETE FROM maturing WHERE matures = ? AND key = ?", matured)
        return answers

    def close_imported(self, key: DecisionKey, num_chosen: int, time: float) -> None:
        """Store the first state of an imported decision: see `DecisionState.imported`."""
        state = DecisionState.imported(num_chosen)
        row = (
            key, state.version, state.num_rewards, None, time, pack_items((NEW_ITEM,) * num_chosen),
            None,
        )  # fmt: skip
        self._insert("ledger", [row])

    def _stored(self, keys: Iterable[DecisionKey]) -> dict[DecisionKey, _Stored]:
        """Return the ledger rows of the decisions that exist."""
        found: dict[DecisionKey, _Stored] = {}
        wanted = list(keys)
        for first in range(0, len(wanted), _AT_ONCE):
            part = wanted[first : first + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            for key, version, activated, closed, items, *rest in self._db.execute(
                f"{_STATES} ({marks})", part
            ).fetchall():
                unpacked = () if items is None else unpack_items(items)
                found[key] = _Stored(version or 0, activated, closed, unpacked, *rest)
        return found

    def _learn(
        self, step: Step, found: _Stored, chosen: Sequence[ChosenItem], known: Configurations
    ) -> tuple[tuple[Logged, ...], tuple[StoredItem, ...]]:
        """Log the values of a step; returns their rows and the items from here on."""
        decision, states = step.decision, step.change.state.items
        before, learned = found.items or (NEW_ITEM,) * len(states), step.change.learned
        if not learned:
            return (), _in_states(before, states)
        key, spec = decision.bandit.key, decision.bandit.spec
        context = learned_context(spec.context, found.context)
        items, rows, now = list(before), [], self._clock()
        for new in learned:
            index, after = new.item, new.after
            position = self._log.next(key)
            if new.before is None:
                origin = position
                low, high = UNBOUNDED  # of metrics, whose values come in parts
                if new.metrics is None:
                    low, high = self._bounds.take(key, known.bounding(found.position), after)
            else:
                old = items[index]
                origin, low, high = old.origin, old.low, old.high
            items[index] = StoredItem(states[index], origin, position, low, high)
            action = learned_action(spec.actions, chosen[index].features)
            row = LearnRow(
                position, now, decision.id, origin, new.before, after, context, action,
                chosen[index].slot, low, high, new.metrics, new.metrics_before,
            )  # fmt: skip
            self._log.learned(key, decision.key, index, row)
            value = clip(after, low, high)
            if new.before is not None:  # it may be in the sample of rows that left the log
                self._db.execute(
                    "UPDATE evicted SET value = ?, metrics = ? WHERE bandit = ? AND origin = ?",
                    (value, pack_metrics(new.metrics), key, origin),
                )
            rows.append(Logged(position, now, decision.id, new.before, after, value))
        return tuple(rows), _in_states(items, states)

    def _amend(
        self, step: Step, items: Sequence[StoredItem], learned: Sequence[Logged]
    ) -> tuple[Logged, ...]:
        """Note what an administrator changed: the rewards so far do not count any more.

        Args:
            step: The step.
            items: As they were before it; empty: nothing was reported before.
            learned: The row of a correction, where it learned something.

        Returns:
            The rows that were logged for values that became void.
        """
        decision, change, rows = step.decision, step.change, []
        for index, before, after, metrics in change.amended:
            row = learned[0] if learned else None
            if after is None:
                row = self._void(step, index, items[index], metrics)
                rows += [] if row is None else [row]
            status = "void" if after is None else "replaced"
            self._db.execute(_NO_LONGER, (status, decision.key, index))
            position = None if row is None else row.position
            self._db.execute(
                "INSERT INTO amendments VALUES (?, ?, ?, ?, ?, ?, ?)",
                (decision.key, change.state.version, index, step.time, before, after, position),
            )
        return tuple(rows)

    def _void(
        self, step: Step, index: int, item: StoredItem, metrics: Metrics | None
    ) -> Logged | None:
        """Log that the value of an item became void; None where nothing was learned of it."""
        decision, value = step.decision, item.state.value
        if value is None:
            return None
        bandit, now = decision.bandit.key, self._clock()
        position = self._log.next(bandit)
        row = VoidRow(position, now, item.origin, value, item.low, item.high, metrics)
        self._log.voided(bandit, decision.key, index, row)
        self._log.flush()  # the next bounds are those of the values in the log
        self._bounds.forget(bandit)
        leave_sample(self._db, bandit, item.origin)
        return Logged(position, now, decision.id, value, None, None)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows, several in a statement: each gives up the interpreter lock."""
        if len(rows) == 1:
            self._db.execute(_INSERTS[table][0], rows[0])
            return
        for first in range(0, len(rows), _AT_ONCE):
            part = rows[first : first + _AT_ONCE]
            values = [value for row in part for value in row]
            self._db.execute(_INSERTS[table][len(part) - 1], values)


def _is_in(state: DecisionState, found: _Stored, num_chosen: int) -> bool:
    """Whether a decision is in a state that a step starts from."""
    if found.version or state.version:
        return found.version == state.version
    return state == DecisionState.of(num_chosen, activated=bool(found.active))


def _in_states(items: Sequence[StoredItem], states: Sequence[ItemState]) -> tuple[StoredItem, ...]:
    """Return items in these states; what else is stored of them stays."""
    return tuple(
        [
            item if item.state is state else replace(item, state=state)
            for item, state in zip(items, states, strict=True)
        ]
    )


def _after(step: Step, found: _Stored, items: tuple[StoredItem, ...]) -> _Stored:
    """Return the ledger row after a step."""
    before, state = step.decision.state, step.change.state
    activated = step.time if state.activated and not before.activated else found.activated
    closed = step.time if state.closed and not before.closed else found.closed
    matures = step.time if state.matured and not before.matured else found.matures
    return _Stored(
        state.version, activated, closed, items, matures, found.active, found.context,
        found.chosen, found.position, found.time,
    )  # fmt: skip


def _ledger_row(key: DecisionKey, row: _Stored, state: DecisionState) -> tuple[Any, ...]:
    return (
        key, row.version, state.num_rewards, row.activated, row.closed, pack_items(row.items),
        row.matures,
    )  # fmt: skip


def _reward_row(step: Step) -> tuple[Any, ...]:
    reported = step.reported
    assert reported is not None, "a step that stores a reward has one"
    number, metrics = outcome_columns(reported.reward)
    return (
        step.decision.key, reported.item, reported.reward_id or "", number,
        step.change.state.num_rewards, step.change.reward, step.time, metrics,
    )  # fmt: skip
