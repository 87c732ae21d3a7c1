"""Reads stored decisions with their rewards, and training rounds: for people.

Any number of readers, each used by one thread at a time. Every call is a short transaction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from bandexa_core.ids import ActionId, DecisionId, LogPosition, SnapshotVersion
from service.store.errors import StoreDamaged
from service.store.records import (
    BanditRecord,
    DecisionRecord,
    DecisionSummary,
    LearnedValue,
    ReportedReward,
    RoundRecord,
    StoredDecision,
)
from service.store.sqlite.codec import chosen_ids, unpack_chosen
from service.store.sqlite.connection import connect_reader

_DECISION = """
SELECT d.time, d.body_hash, d.context, d.chosen, d.candidates, d.snapshot, d.position,
  d.propensity, d.activated, d.explored, d.std, w.closes, w.closed, a.time
FROM decisions AS d LEFT JOIN windows AS w ON w.decision_id = d.decision_id
LEFT JOIN activations AS a ON a.decision_id = d.decision_id
WHERE d.decision_id = ? AND d.bandit = ?
"""
_NEWEST = """
SELECT d.rowid, d.decision_id, d.time, d.chosen, d.propensity, d.explored, d.snapshot, d.position,
  (SELECT o.value FROM outcomes AS o WHERE o.decision_id = d.decision_id AND o.item = 0)
FROM decisions AS d WHERE d.bandit = ? AND d.rowid < ? ORDER BY d.rowid DESC LIMIT ?
"""


class History:
    """See `DecisionHistory`."""

    def __init__(self, path: Path) -> None:
        self._db = connect_reader(path)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def decision(self, bandit: BanditRecord, decision_id: DecisionId) -> StoredDecision | None:
        """See `DecisionHistory.decision`."""
        row = self._db.execute(_DECISION, (decision_id, bandit.key)).fetchone()
        if row is None:
            return None
        *columns, closes, closed, activated_at = row
        rewards = self._db.execute(
            "SELECT item, time, reward, reward_id, status FROM rewards WHERE decision_id = ?"
            " ORDER BY rowid LIMIT 1000",
            (decision_id,),
        )
        return StoredDecision(
            _record(bandit, decision_id, columns),
            closes,
            closed,
            activated_at,
            tuple(ReportedReward(*reward) for reward in rewards),
            self._learned(bandit, decision_id),
        )

    def _learned(self, bandit: BanditRecord, decision_id: str) -> tuple[LearnedValue, ...]:
        """Return the first and the latest learn row of each chosen action."""
        found = []
        for item, first, latest in self._db.execute(
            "SELECT item, origin, latest FROM outcomes WHERE decision_id = ? ORDER BY item",
            (decision_id,),
        ).fetchall():
            rows = self._db.execute(
                "SELECT position, time, before, after FROM log WHERE bandit = ?"
                " AND (position = ? OR position = ?) AND kind = 1 ORDER BY position",
                (bandit.key, first, latest),
            )
            found += [LearnedValue(item, *row) for row in rows]
        return tuple(found)

    def newest(self, bandit: BanditRecord, before: int | None, limit: int) -> list[DecisionSummary]:
        """See `DecisionHistory.newest`."""
        rows = self._db.execute(_NEWEST, (bandit.key, before or (1 << 62), limit))
        return [
            DecisionSummary(
                row, name, time, chosen_ids(name, chosen),
                propensity, None if explored is None else bool(explored), snapshot, position, value,
            )
            for row, name, time, chosen, propensity, explored, snapshot, position, value in rows
        ]  # fmt: skip

    def rounds(self, bandit: BanditRecord, since: float, limit: int) -> list[RoundRecord]:
        """See `DecisionHistory.rounds`."""
        rows = self._db.execute(
            "SELECT time, version, position, seconds, swap_s, loss_before, loss_after, error"
            " FROM rounds WHERE bandit = ? AND time >= ? ORDER BY time DESC LIMIT ?",
            (bandit.key, since, limit),
        ).fetchall()
        return [RoundRecord(*row) for row in reversed(rows)]


def _record(bandit: BanditRecord, decision_id: DecisionId, row: list[Any]) -> DecisionRecord:
    time, body_hash, context, chosen, candidates, version, position = row[:7]
    propensity, activated, explored, std = row[7:]
    picks = unpack_chosen(decision_id, chosen, context)
    ids, features = None, None
    try:
        if candidates is not None:
            names, packed = msgpack.unpackb(candidates)
            ids = tuple(ActionId(name) for name in names)
            if packed is not None:
                features = np.frombuffer(packed, np.float32).reshape(len(ids), -1)
        array = np.frombuffer(context, bandit.spec.context.dtype)
        array = array.reshape(bandit.spec.context.shape)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreDamaged(f"decision {decision_id} is not what was written") from error
    return DecisionRecord(
        decision_id, bandit.key, time, body_hash, array, picks, ids, features,
        SnapshotVersion(version), LogPosition(position), propensity, bool(activated),
        None if explored is None else bool(explored), std,
    )  # fmt: skip
