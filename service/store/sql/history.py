"""Reads stored decisions with their rewards, and training rounds: for people.

Any number of readers, each used by one thread at a time. Every call is a short transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Self

from bandexa_core.ids import DecisionId, DecisionKey, LogPosition
from bandexa_core.log.bounds import clip
from bandexa_core.log.configurations import Configurations
from service.store.clock import JUMP_S
from service.store.errors import Erased
from service.store.hashing import unpack_log_metrics
from service.store.identity import (
    FIRST_TIMED,
    DecisionIds,
    bandit_of,
    first_key,
    key_at,
    place_of,
)
from service.store.records import (
    Amendment,
    AuditEntry,
    BanditRecord,
    DecisionSummary,
    LearnedValue,
    LoggedPage,
    Moment,
    ReportedReward,
    RoundRecord,
    StoredDecision,
    to_the_millisecond,
)
from service.store.sql.clock import stored_clock
from service.store.sql.codec import chosen_ids, outcome, unpack_items
from service.store.sql.database import Database
from service.store.sql.decision_rows import COLUMNS, decision_record
from service.store.sql.exported import Exported
from service.store.sql.log_rows import config_rows

_DECISION = f"""
SELECT {COLUMNS}, l.activated, l.closed, l.items, l.matures
FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key WHERE
"""
_NEWEST = """
SELECT d.key, d.own_id, d.time, d.chosen, d.propensity, d.explored, d.snapshot, d.position, l.items
FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key
WHERE d.key >= ? AND d.key < ? ORDER BY d.key DESC LIMIT ?
"""
_VALUED = """
SELECT l.key, d.own_id, d.time FROM ledger AS l JOIN decisions AS d ON d.key = l.key
WHERE l.key > ? AND l.key < ? AND length(d.context) > 0 ORDER BY l.key LIMIT ?
"""


class SqlHistory:
    """See `DecisionHistory`.

    Args:
        connection: Is used for nothing else, and closed with the reader.
        ids: Reads the ids of the store's decisions.
    """

    def __init__(self, connection: Database, ids: Callable[[], DecisionIds]) -> None:
        self._db = connection
        self._read_ids = ids
        self._exported: Exported | None = None

    @cached_property
    def _ids(self) -> DecisionIds:
        return self._read_ids()

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def bandit_of(self, decision_id: DecisionId) -> int | None:
        """See `DecisionHistory.bandit_of`."""
        column, value = self._ids.place(decision_id)
        row = self._db.execute(f"SELECT key FROM decisions WHERE {column} = ?", (value,)).fetchone()
        return None if row is None else bandit_of(DecisionKey(row[0]))

    def decision(self, bandit: BanditRecord, decision_id: DecisionId) -> StoredDecision | None:
        """See `DecisionHistory.decision`."""
        column, value = self._ids.place(decision_id)
        row = self._db.execute(f"{_DECISION} d.{column} = ?", (value,)).fetchone()
        if row is None or bandit_of(DecisionKey(row[0])) != bandit.key:
            return None
        if not row[3]:
            raise Erased(decision_id)
        *columns, activated_at, closed, items, matured = row
        key = DecisionKey(row[0])
        rewards = self._db.execute(
            "SELECT item, time, reward, metrics, reward_id, status FROM rewards WHERE key = ?"
            " ORDER BY seq LIMIT 1000",
            (key,),
        )
        record = decision_record(bandit, decision_id, columns)
        return StoredDecision(
            record,
            self._closes(bandit, key, row[1], record.position) if closed is None else closed,
            closed,
            activated_at,
            tuple(
                ReportedReward(item, time, outcome(reward, metrics), reward_id or None, status)
                for item, time, reward, metrics, reward_id, status in rewards
            ),
            self._learned(bandit, items),
            self._amendments(key),
            tuple(
                number
                for number, item in enumerate(() if items is None else unpack_items(items))
                if item.state.void
            ),
            matured,
        )

    def _amendments(self, key: DecisionKey) -> tuple[Amendment, ...]:
        rows = self._db.execute(
            "SELECT item, time, before, after, position FROM amendments WHERE key = ?"
            " ORDER BY number, item LIMIT 1000",
            (key,),
        )
        return tuple(Amendment(*row) for row in rows)

    def _closes(
        self, bandit: BanditRecord, key: DecisionKey, time: float, position: int
    ) -> float | None:
        """Return when an open window closes, None without one.

        It closes no earlier than its length after the decision, and later by the time that the
        service is away.
        """
        known = Configurations(bandit.spec, config_rows(self._db, bandit.key))
        window = known.rules(position).reward_window_s
        if window is None:
            return None
        offset = self._db.execute(
            "SELECT value FROM meta WHERE key = 'service_time_offset'"
        ).fetchone()
        unwatched = 0.0 if offset is None else float(offset[0])
        state = stored_clock(self._db)
        offsets = [0.0] if state is None else [0.0, *(jump.offset for jump in state.jumps)]
        # It was opened in service time, by any offset so far, less the unwatched time so far.
        found = self._db.execute(
            "SELECT closes FROM windows WHERE closes BETWEEN ? AND ? AND key = ?",
            (
                time + window - unwatched - max(offsets) - JUMP_S,
                time + window - min(offsets) + JUMP_S, key,
            ),
        ).fetchone()  # fmt: skip
        return None if found is None else float(found[0]) + unwatched + offsets[-1]

    def _learned(self, bandit: BanditRecord, packed: bytes | None) -> tuple[LearnedValue, ...]:
        """Return the first and the latest learn row of each chosen action."""
        found = []
        for item, stored in enumerate(() if packed is None else unpack_items(packed)):
            rows = self._db.execute(
                "SELECT position, time, before, after, low, high, payload FROM log WHERE bandit = ?"
                " AND (position = ? OR position = ?) AND kind = 1 ORDER BY position",
                (bandit.key, stored.origin, stored.latest),
            )
            found += [
                LearnedValue(
                    item,
                    position,
                    self._wall(time),
                    before,
                    after,
                    clip(after, low, high),
                    unpack_log_metrics(payload)[0],
                )
                for position, time, before, after, low, high, payload in rows.fetchall()
            ]
        return tuple(found)

    def _wall(self, time: float) -> float:
        """Return the wall time that was shown at a service time."""
        state = stored_clock(self._db)
        return time if state is None else state.wall_of(time)

    def newest(self, bandit: BanditRecord, before: int | None, limit: int) -> list[DecisionSummary]:
        """See `DecisionHistory.newest`."""
        start, end = first_key(bandit.key), first_key(bandit.key + 1)
        if before is not None:
            end = DecisionKey(min(end, start + before))
        rows = self._db.execute(_NEWEST, (start, end, limit))
        return [self._summary(*row) for row in rows]

    def _summary(
        self, key: int, own_id: str | bytes | None, time: float, chosen: bytes,
        propensity: float | None, explored: int | None, snapshot: int, position: int,
        items: bytes | None,
    ) -> DecisionSummary:  # fmt: skip
        name = self._ids.name(DecisionKey(key), own_id)
        value = None if items is None else unpack_items(items)[0].state.value
        return DecisionSummary(
            place_of(DecisionKey(key)), name, time, chosen_ids(name, chosen), propensity,
            None if explored is None else bool(explored), snapshot, position, value,
        )  # fmt: skip

    def valued(
        self,
        bandit: BanditRecord,
        since: float | None,
        until: float | None,
        after: DecisionKey,
        most: int,
    ) -> tuple[list[DecisionId], DecisionKey | None]:
        """See `DecisionHistory.valued`."""
        start, end = max(after, first_key(bandit.key) - 1), first_key(bandit.key + 1)
        state = stored_clock(self._db)
        offsets = [0.0] if state is None else [0.0, *(jump.offset for jump in state.jumps)]
        if since is not None and not self._has_untimed(bandit.key):
            start = max(start, key_at(bandit.key, since - max(offsets) - JUMP_S) - 1)
        if until is not None and not self._has_imported(bandit.key):  # their keys are later
            end = min(end, key_at(bandit.key, until - min(offsets) + JUMP_S))
        rows = self._db.execute(_VALUED, (start, end, most)).fetchall()
        found = [
            self._ids.name(DecisionKey(key), own_id)
            for key, own_id, time in rows
            if (since is None or time >= since) and (until is None or time < until)
        ]
        return found, DecisionKey(rows[-1][0]) if len(rows) == most else None

    def _has_untimed(self, bandit: int) -> bool:
        """Whether a migration brought decisions along whose keys do not hold their times."""
        found = self._db.execute(
            "SELECT 1 FROM decisions WHERE key >= ? AND key < ? LIMIT 1",
            (first_key(bandit), first_key(bandit) + FIRST_TIMED),
        ).fetchone()
        return found is not None

    def _has_imported(self, bandit: int) -> bool:
        found = self._db.execute("SELECT 1 FROM imports WHERE bandit = ?", (bandit,)).fetchone()
        return found is not None

    def rounds(self, bandit: BanditRecord, since: float, limit: int) -> list[RoundRecord]:
        """See `DecisionHistory.rounds`."""
        rows = self._db.execute(
            "SELECT time, version, position, seconds, swap_s, loss_before, loss_after, error"
            " FROM rounds WHERE bandit = ? AND time >= ? ORDER BY time DESC LIMIT ?",
            (bandit.key, since, limit),
        ).fetchall()
        return [RoundRecord(*row) for row in reversed(rows)]

    def audit(self, bandit: str, before: int | None, limit: int) -> list[AuditEntry]:
        """See `DecisionHistory.audit`."""
        rows = self._db.execute(
            "SELECT time, bandit, by, what, changes, row FROM audit"
            " WHERE bandit = ? AND row < coalesce(?, 4611686018427387904)"
            " ORDER BY row DESC LIMIT ?",
            (bandit, before, limit),
        )
        return [AuditEntry(*row) for row in rows]

    def moment(self, bandit: BanditRecord) -> Moment:
        """See `DecisionHistory.moment`."""
        head, newest = self._db.execute(
            "SELECT coalesce((SELECT max(position) FROM log WHERE bandit = ?), 0),"
            " coalesce((SELECT max(key) FROM decisions WHERE key >= ? AND key < ?), ?)",
            (bandit.key, first_key(bandit.key), first_key(bandit.key + 1), first_key(bandit.key)),
        ).fetchone()
        return Moment(LogPosition(head), DecisionKey(newest), to_the_millisecond(time.time()))

    def logged(
        self, bandit: BanditRecord, moment: Moment, after: DecisionKey, most: int, most_bytes: int
    ) -> LoggedPage:
        """See `DecisionHistory.logged`."""
        exported = self._exported
        if exported is None or not exported.is_of(bandit, moment):
            exported = self._exported = Exported(self._db, self._ids, bandit, moment)
        return exported.page(after, most, most_bytes)
