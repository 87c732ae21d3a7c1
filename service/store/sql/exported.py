"""Pages of decisions as they were at a moment, while the store goes on.

A long transaction would block checkpoints, so that every page has its own. What was learned after
the moment is undone: the first learn row of a decision after it says which value there was before.
A value that is void by now is void in every export: it is known to be wrong.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

from bandexa_core.ids import DecisionKey, LogPosition
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.contract import metrics_of
from bandexa_core.log.rows import Metrics
from service.store.errors import StoreError
from service.store.hashing import unpack_log_metrics
from service.store.identity import DecisionIds, first_key
from service.store.records import (
    BanditRecord,
    LoggedDecision,
    LoggedPage,
    Moment,
    ReportedReward,
)
from service.store.sql.codec import outcome, unpack_items
from service.store.sql.database import Database
from service.store.sql.decision_rows import COLUMNS, decision_record
from service.store.sql.log_rows import config_rows

MAX_REWARDS = 1000  # of one decision
_PAGE = f"""
SELECT {COLUMNS}, d.own_id, l.activated, l.closed, l.items,
  CASE WHEN :units AND d.unit IS NOT NULL THEN NOT EXISTS (
    SELECT 1 FROM decisions AS u WHERE u.unit = d.unit AND u.key < d.key AND u.key >= :first) END
FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key
WHERE d.key > :after AND d.key <= :newest ORDER BY d.key LIMIT :most
"""
_REWARDS = """
SELECT key, item, time, reward, metrics, reward_id, status FROM rewards
WHERE key >= ? AND key <= ? ORDER BY key, seq
"""
_LEARNED_SINCE = """
SELECT position, key, item, before, payload FROM log WHERE bandit = ? AND position > ? AND kind = 1
ORDER BY position
"""


class Exported:
    """The decisions of a bandit at a moment.

    Args:
        db: A connection, used for nothing else during a call.
        ids: The ids of the store's decisions.
        bandit: The bandit.
        moment: The moment.
    """

    def __init__(
        self, db: Database, ids: DecisionIds, bandit: BanditRecord, moment: Moment
    ) -> None:
        self._db = db
        self._ids = ids
        self._bandit = bandit
        self._moment = moment
        self._read_to = moment.position  # of the log, for what was learned since
        self._before: dict[tuple[int, int], tuple[float | None, Metrics | None]] = {}
        self._known = Configurations(bandit.spec, config_rows(db, bandit.key))
        self._units = any(spec.sticky == "action" for spec in self._known.specs)

    def is_of(self, bandit: BanditRecord, moment: Moment) -> bool:
        """Whether it is that of a bandit and a moment."""
        return (self._bandit.uid, self._moment) == (bandit.uid, moment)

    def page(self, after: DecisionKey, most: int, most_bytes: int) -> LoggedPage:
        """See `DecisionHistory.logged`."""
        start = max(after, first_key(self._bandit.key) - 1)
        self._db.execute("BEGIN")
        try:
            rows, read = [], 0
            cursor = self._db.execute(
                _PAGE,
                {
                    "after": start, "newest": self._moment.newest, "most": most,
                    "units": self._units, "first": first_key(self._bandit.key),
                },
            )  # fmt: skip
            for row in cursor:
                rows.append(row)
                read += len(row[3]) + len(row[5] or b"")
                if read > most_bytes:
                    break
            cursor.close()
            if not rows:
                return LoggedPage((), DecisionKey(start), 0, more=False)
            last = DecisionKey(rows[-1][0])
            rewards = self._rewards(rows[0][0], last)
            self._learned_since(DecisionKey(start))
        finally:
            with suppress(StoreError):
                self._db.execute("COMMIT")
        found = [self._decision(row, rewards[row[0]]) for row in rows if row[3]]
        for key in [key for key in self._before if key[0] <= last]:
            del self._before[key]
        more = last < self._moment.newest and (len(rows) == most or read > most_bytes)
        return LoggedPage(tuple(found), last, len(rows) - len(found), more)

    def _rewards(self, first: int, last: int) -> dict[int, list[ReportedReward]]:
        found: dict[int, list[ReportedReward]] = defaultdict(list)
        until = self._moment.time
        for key, item, time, number, metrics, reward_id, status in self._db.execute(
            _REWARDS, (first, last)
        ):
            if time <= until and len(found[key]) < MAX_REWARDS:
                reward = outcome(number, metrics)
                found[key].append(ReportedReward(item, time, reward, reward_id or None, status))
        return found

    def _learned_since(self, after: DecisionKey) -> None:
        """Note the values before what was learned after the moment, of decisions to come."""
        newest = self._moment.newest
        for position, key, item, before, payload in self._db.execute(
            _LEARNED_SINCE, (self._bandit.key, self._read_to)
        ):
            if after < key <= newest:  # most are of decisions since the moment
                self._before.setdefault((key, item), (before, unpack_log_metrics(payload)[1]))
            self._read_to = LogPosition(position)

    def _decision(self, row: tuple[object, ...], rewards: list[ReportedReward]) -> LoggedDecision:
        *columns, own_id, activated, closed, items, is_new = row
        key = DecisionKey(columns[0])  # type: ignore[arg-type]
        name = self._ids.name(key, own_id)  # type: ignore[arg-type]
        record = decision_record(self._bandit, name, columns)
        none = (None,) * len(record.chosen)
        values: tuple[float | None, ...] = none
        metrics: tuple[Metrics | None, ...] = none
        void: tuple[int, ...] = ()
        if items is not None:
            states = [stored.state for stored in unpack_items(items)]  # type: ignore[arg-type]
            void = tuple(item for item, state in enumerate(states) if state.void)
            rules = self._known.rules(record.position)
            found = [
                (None, None)
                if state.void
                else self._before.get((key, item), (state.value, metrics_of(state, rules)))
                for item, state in enumerate(states)
            ]
            values = tuple(value for value, _ in found)
            metrics = tuple(None if value is None else made_of for value, made_of in found)
        until = self._moment.time
        return LoggedDecision(
            record, tuple(rewards), values, void, _by(closed, until), _by(activated, until),
            metrics, is_new is None or bool(is_new),
        )  # fmt: skip


def _by(time: object, until: float) -> float | None:
    """Return a time, None where it is after the moment."""
    return time if isinstance(time, float) and time <= until else None
