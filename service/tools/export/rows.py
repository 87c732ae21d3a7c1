"""The rows of an exported log: JSON objects, one a line.

| kind | what it is |
|---|---|
| `bandit` | the first row: the configuration, and the moment that the values are of |
| `configuration` | the configuration of the decisions from here on, where it changed since |
| `actions` | the actions that changed since the row before, or all of them in the first |
| `decision` | a decision: what was sent, what was chosen with which probability, what came of it |
| `audit` | behind all decisions: who changed the bandit, when, and what that changed |
| `end` | the last row: a log without it is not complete |

Decisions come in the order of their `row`. `candidates` is null where all enabled actions were
offered: those of the rows `actions` up to there. Memory is that of one page, of the catalogue, and
of what is learned about decisions that are still to come.
"""

from __future__ import annotations

import base64
import dataclasses
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, DecisionKey, LogPosition
from bandexa_core.limits import Limits
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.contract import Outcome
from bandexa_core.log.metrics import Weights, weighted
from bandexa_core.schema import from_bytes
from bandexa_core.spec.inputs import ContextSpec
from service.store.errors import LogTrimmed, StoreError
from service.store.identity import first_key, place_of
from service.store.objects import trimmed
from service.store.reading import DecisionHistory, LogReader
from service.store.records import BanditRecord, LoggedDecision, Moment

FORMAT = 1
PAGE, PAGE_BYTES = 256, 4 << 20
MOST_BEHIND = 1_000_000  # log rows since a moment that is named again: all of them are read
MAX_AUDIT = 10_000  # entries of the audit trail, the newest ones: all are in memory at once
MAX_VALUES = 1024  # of an array that are written as numbers
Row = dict[str, Any]


class LogRows:
    """Reads the log of one bandit at a moment.

    Args:
        reader: Reads the catalogue.
        history: Reads the decisions.
        record: The bandit.
        moment: The moment; None: now.
        after: The `row` after which decisions are read; 0: all of them.

    Raises:
        ValueError: The moment was too long ago.
    """

    def __init__(
        self,
        reader: LogReader,
        history: DecisionHistory,
        record: BanditRecord,
        moment: Moment | None = None,
        after: int = 0,
    ) -> None:
        self._history = history
        self._record = record
        self._catalogues = _Catalogues(reader, record)
        self._last = DecisionKey(first_key(record.key) + after)
        self._reader = reader
        now = history.moment(record)
        self.moment = now if moment is None else moment
        if now.position - self.moment.position > MOST_BEHIND:
            raise ValueError("moment: too much was learned since; begin again without one")
        known = reader.configurations(record, self.moment.position)
        self._configurations = _Configurations(known, self.moment.position)
        self._learn = self._configurations.current.rewards.learn
        self.num_decisions = 0
        self.num_erased = 0
        self.more = True

    @property
    def row(self) -> int:
        """The row that the last page ended with."""
        return place_of(self._last)

    def header(self) -> Row:
        """Return the first row."""
        spec = self._configurations.current
        return {
            "kind": "bandit", "format": FORMAT, "bandit": self._record.name,
            "uid": self._record.uid, "spec": dataclasses.asdict(spec),
            "position": self.moment.position, "time": self.moment.time,
            "moment": moment_text(self.moment),
        }  # fmt: skip

    def page(self, most: int = PAGE) -> list[Row]:
        """Return the next rows, with at most so many decisions; `more` says whether others follow.

        Raises:
            StoreDamaged: A row is not what was written.
        """
        found = self._history.logged(self._record, self.moment, self._last, most, PAGE_BYTES)
        self._last, self.more = found.last, found.more
        self.num_decisions += len(found.decisions)
        self.num_erased += found.num_erased
        rows: list[Row] = []
        self._catalogues.read({each.record.position for each in found.decisions})
        for each in found.decisions:
            change = self._catalogues.change_at(each.record.position)
            if change is not None:
                rows.append(change)
            configuration = self._configurations.change_at(each.record.position)
            if configuration is not None:
                rows.append(configuration)
            row = _decision(self._record, each, self._catalogues.current, self._learn)
            self._within_dates(row)
            if self._configurations.current.sticky == "action":
                row["first_of_unit"] = each.is_new_unit
            rows.append(row)
        return rows if self.more else [*rows, *self._audit()]

    def _audit(self) -> Iterator[Row]:
        """Yield who changed the bandit up to the moment, oldest first."""
        entries = self._history.audit(self._record.name, None, MAX_AUDIT)
        for each in reversed(entries):
            if each.time <= self.moment.time:
                yield {
                    "kind": "audit", "time": each.time, "by": each.by, "what": each.what,
                    "changes": msgspec.json.decode(each.changes),
                }  # fmt: skip

    def _within_dates(self, row: Row) -> None:
        """List the candidates of a decision, where not all enabled actions were offered."""
        catalogue, spec = self._catalogues.current, self._configurations.current
        if not spec.limits or row["candidates"] is not None or catalogue is None:
            return
        absent = Limits(spec.limits).absent(row["time"])
        offered = [name for name in _enabled(catalogue) if name not in absent]
        if len(offered) < row["num_candidates"]:
            row |= {"candidates": offered, "num_candidates": len(offered)}

    def end(self) -> Row:
        """Return the last row.

        Raises:
            StoreError: The bandit was deleted meanwhile, and its decisions with it.
        """
        if self.moment.position and not self._reader.head(self._record.key):
            raise StoreError(f"{self._record.name} was deleted meanwhile")
        return {
            "kind": "end", "row": self.row, "num_decisions": self.num_decisions,
            "num_erased": self.num_erased, "more": self.more,
        }  # fmt: skip

    def __iter__(self) -> Iterator[Row]:
        """Yield all rows."""
        yield self.header()
        while self.more:
            yield from self.page()
        yield self.end()


def moment_text(moment: Moment) -> str:
    """Return a moment as text, for `moment_of`."""
    return f"{moment.position}.{place_of(moment.newest)}.{round(moment.time * 1000)}"


def moment_of(text: str, record: BanditRecord) -> Moment:
    """Return the moment that `moment_text` wrote for a bandit.

    Raises:
        ValueError: It is none.
    """
    try:
        position, place, milliseconds = map(int, text.split("."))
        if min(position, place, milliseconds) < 0 or max(position, place, milliseconds) >= 1 << 45:
            raise ValueError
    except ValueError:
        raise ValueError("moment: must be one that an export has named") from None
    newest = DecisionKey(first_key(record.key) + place)
    return Moment(LogPosition(position), newest, milliseconds / 1000)


class _Configurations:
    """The configurations by which decisions were made: those of their positions.

    Attributes:
        current: At first that of the moment.
    """

    def __init__(self, known: Configurations, moment: LogPosition) -> None:
        self._known = known
        self._changes = known.positions
        self._place = len(self._changes)  # among the changes
        self.current = known.spec(moment)

    def change_at(self, position: int) -> Row | None:
        """Make the configuration at a position the current one; return the row that says so."""
        place = bisect_right(self._changes, position)
        if place == self._place:
            return None
        before, self._place, self.current = self.current, place, self._known.spec(position)
        if self.current == before:
            return None
        spec = dataclasses.asdict(self.current)
        return {"kind": "configuration", "position": position, "spec": spec}


class _Catalogues:
    """The actions at the positions of decisions, which mostly ascend."""

    def __init__(self, reader: LogReader, record: BanditRecord) -> None:
        self._reader = reader
        self._record = record
        self._at = LogPosition(-1)  # where `_base` is
        self._base: Catalogue | None = None
        self._by_position: dict[int, Catalogue | None] = {}
        self.current: Catalogue | None = None

    def read(self, positions: Iterable[int]) -> None:
        """Read the actions at some positions, those of one page."""
        ascending = [LogPosition(position) for position in sorted(positions)]
        if not ascending:
            return
        found = self._from(ascending[0], self._base if ascending[0] >= self._at else None)
        self._at, self._base = ascending[0], found
        self._by_position = {ascending[0]: found}
        if found is not None and self._next(found, ascending[0], ascending[-1]) is found:
            self._by_position = dict.fromkeys(ascending, found)
            return
        for before, position in pairwise(ascending):
            found = None if found is None else self._next(found, before, position)
            self._by_position[position] = found

    def change_at(self, position: int) -> Row | None:
        """Make the actions at a position the current ones; return the row that says so, if any."""
        found = self._by_position[position]
        if found is self.current or found is None:
            return None
        before, self.current = self.current, found
        lines = _changed(before, found)
        if not lines:
            return None
        return {"kind": "actions", "position": position, "actions": lines}

    def _from(self, position: LogPosition, base: Catalogue | None) -> Catalogue | None:
        try:
            if base is not None:
                return self._next(base, self._at, position)
            return self._reader.catalogue_at(self._record, position)
        except LogTrimmed:  # no decision needs it
            return None

    def _next(self, base: Catalogue, at: LogPosition, position: LogPosition) -> Catalogue:
        return self._reader.catalogue_at(self._record, position, base, at)


def _changed(before: Catalogue | None, after: Catalogue) -> list[Row]:
    """Return the actions that differ; those that there are no more are not enabled."""
    lines = []
    known = 0 if before is None else len(before)
    for slot, name in enumerate(after.ids):
        enabled = bool(after.enabled[slot])
        if before is not None and slot < known:
            same = np.array_equal(before.features[slot], after.features[slot])
            if same and bool(before.enabled[slot]) == enabled:
                continue
        line: Row = {"id": name, "enabled": enabled}
        if after.action_dim:
            line["features"] = _features(after.features[slot])
        lines.append(line)
    gone = () if before is None else before.ids[len(after) :]
    return [*lines, *({"id": name, "enabled": False} for name in gone)]


def _enabled(catalogue: Catalogue) -> list[ActionId]:
    """Return the ids of the enabled actions."""
    return [catalogue.ids[slot] for slot in catalogue.enabled_slots]


def _decision(
    record: BanditRecord,
    logged: LoggedDecision,
    catalogue: Catalogue | None,
    learn: Weights | None,
) -> Row:
    made = logged.record
    values = [
        value if metrics is None or learn is None else weighted(metrics, learn)
        for value, metrics in zip(logged.values, logged.metrics, strict=True)
    ]
    first = made.chosen[0]
    row: Row = {
        "kind": "decision", "row": place_of(made.key), "decision_id": made.decision_id,
        "time": made.time, "context": _context(record.spec.context, made.context),
        "candidates": made.candidates,
        "action": first.id, "index": first.place, "propensity": made.propensity,
        "value": values[0], "void": 0 in logged.void, "snapshot": made.snapshot,
        "position": made.position, "explored": made.explored,
        "activated": made.activated or logged.activated_at is not None,
        "closed": logged.closed,
        "rewards": [
            {
                **_outcome(reward.reward), "reward_id": reward.reward_id, "time": reward.time,
                "delay": round(max(0.0, reward.time - made.time), 6), "status": reward.status,
            } | ({} if len(made.chosen) == 1 else {"action": made.chosen[reward.item].id})
            for reward in logged.rewards
        ],
    }  # fmt: skip
    if made.imported is not None:
        row["imported"] = made.imported
    if logged.metrics[0] is not None:
        row["metrics"] = dict(logged.metrics[0])
    if made.arm is not None:
        row["arm"] = made.arm
        if made.served is not None:
            row["served"] = made.served
    if made.shadows is not None:
        row["shadows"] = dict(made.shadows)
    if record.spec.has_action_features:
        row["action_features"] = _features(first.features)
    if made.features is not None:
        row["features"] = [_features(features) for features in made.features]
    if made.candidates is None and catalogue is not None:
        row["num_candidates"] = len(catalogue.enabled_slots)
    else:
        row["num_candidates"] = None if made.candidates is None else len(made.candidates)
    if made.retrieval is not None:
        row["retrieved_from"] = made.retrieval.total
    if made.propensities is not None:
        ids = _ids_at(made.propensities.indexes, made.candidates, catalogue)
        if ids is not None:
            row["propensities"] = dict(zip(ids, made.propensities.values.tolist(), strict=True))
    if len(made.chosen) > 1:
        row["actions"] = [
            {
                "id": c.id,
                "index": c.place,
                "propensity": c.propensity,
                "value": value,
                "void": item in logged.void,
            }
            | ({} if metrics is None else {"metrics": dict(metrics)})
            for item, (c, value, metrics) in enumerate(
                zip(made.chosen, values, logged.metrics, strict=True)
            )
        ]
    return row


def _outcome(reward: Outcome) -> Row:
    """Return what was reported: a number, or metrics and no number."""
    if isinstance(reward, tuple):
        return {"reward": None, "metrics": dict(reward)}
    return {"reward": reward}


def _ids_at(
    indexes: NDArray[np.int32], candidates: tuple[str, ...] | None, catalogue: Catalogue | None
) -> list[str] | None:
    names = candidates if candidates is not None else None if catalogue is None else catalogue.ids
    if names is None or (len(indexes) and int(indexes.max()) >= len(names)):
        return None
    return [names[index] for index in indexes.tolist()]


def _features(features: NDArray[Any]) -> Any:
    """Return the features of an action: an object, or numbers."""
    if features.dtype == np.uint8:
        return from_bytes(trimmed(features).tobytes() or b"{}")
    return features.tolist()


def _context(spec: ContextSpec, context: NDArray[Any]) -> Any:
    """Return a context as it can be sent: an object, nested lists, or an array's bytes."""
    if spec.features is not None:
        return from_bytes(trimmed(context).tobytes())
    if context.size <= MAX_VALUES and context.dtype != np.uint8:
        return context.tolist()
    data = base64.b64encode(context.tobytes()).decode()
    return {"dtype": str(context.dtype), "shape": list(context.shape), "data": data}
