"""What happens inside the writer's transaction.

Each operation checks before it writes: one that raises an error of ours has changed nothing, so
the rest of its group is committed all the same.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bandexa_core.catalogue import CatalogueChange
from bandexa_core.ids import BanditUid, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log import CatalogueRow, ConfigRow, ImportRow, LearnRow
from bandexa_core.randomness import bandit_uid
from bandexa_core.spec import BanditSpec
from service.exceptions import Conflict, InvalidRequest, UnknownDecision
from service.store.codec import (
    BanditRecord,
    ChosenAction,
    DecisionRecord,
    RewardReport,
    StoredAnswer,
    chain_hash,
    pack_candidates,
    pack_change,
    pack_chosen,
    pack_json,
    unpack_chosen,
)
from service.store.protocol import RewardOutcome
from service.store.reader import GENESIS_HASH, stored_answer
from service.store.schema import KIND_CATALOGUE, KIND_CONFIG, KIND_IMPORT, KIND_LEARN

PURGE_CHUNK = 2000


@dataclasses.dataclass(slots=True)
class LogHead:
    """The newest row of a bandit's log."""

    position: LogPosition
    hash: bytes


class Operations:
    """The statements of the store; lives on the writer thread, inside its transaction.

    The heads of the logs are kept in memory and reread after a rollback (`forget_heads`).
    """

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._db = connection
        self._clock = clock
        self._heads: dict[int, LogHead] = {}
        self._bandits: dict[int, BanditRecord] = {}

    def forget_heads(self) -> None:
        """Drop what was remembered: a transaction was rolled back."""
        self._heads.clear()

    def remember(self, record: BanditRecord) -> None:
        """Make a bandit known."""
        self._bandits[record.key] = record

    # -- decisions and rewards ----------------------------------------------------------------

    def decision(self, d: DecisionRecord) -> StoredAnswer | None:
        """Insert a decision, or return the answer that is there under its id."""
        self._must_live(d.bandit)
        cursor = self._db.execute(
            "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                d.decision_id, d.bandit, d.time, d.body_hash, d.context.tobytes(),
                pack_chosen(d.chosen), pack_candidates(d), d.snapshot, d.position, d.propensity,
                int(d.activated),
            ),
        )  # fmt: skip
        if cursor.rowcount == 1:
            return None
        return stored_answer(self._db, d.decision_id)

    def propensity(self, decision_id: DecisionId, propensity: float) -> None:
        """Fill in a propensity that was worked out behind the answer."""
        self._db.execute(
            "UPDATE decisions SET propensity = ? WHERE decision_id = ? AND propensity IS NULL",
            (propensity, decision_id),
        )

    def reward(self, report: RewardReport) -> RewardOutcome:
        """Join a reward to its decision: the first value is learned, later ones are kept."""
        found = self._db.execute(
            "SELECT bandit, context, chosen FROM decisions WHERE decision_id = ?",
            (report.decision_id,),
        ).fetchone()
        if found is None:
            raise UnknownDecision(report.decision_id)
        key, context, blob = found
        bandit = self._bandits.get(key)
        if bandit is None:  # deleted, its rows not purged yet
            raise UnknownDecision(report.decision_id)
        chosen = unpack_chosen(blob)
        item = _item(chosen, report)
        known = self._db.execute(
            "SELECT value FROM outcomes WHERE decision_id = ? AND item = ?",
            (report.decision_id, item),
        ).fetchone()
        if known is not None:
            if known[0] == report.reward:
                return RewardOutcome(bandit.uid, "duplicate", None)
            self._keep(report, item, "ignored")
            return RewardOutcome(bandit.uid, "ignored", None)
        self._keep(report, item, "applied")
        position = self._next(key)
        self._db.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?)",
            (report.decision_id, item, position, report.reward),
        )
        self._log(
            key, KIND_LEARN, report.time, report.decision_id, item, position, None, report.reward
        )
        spec = bandit.spec.context
        array = np.frombuffer(context, spec.dtype).reshape(spec.shape)
        row = LearnRow(
            position, report.time, report.decision_id, position, None, report.reward,
            array, chosen[item].features, chosen[item].slot,
        )  # fmt: skip
        return RewardOutcome(bandit.uid, "applied", row)

    def _keep(self, report: RewardReport, item: int, status: str) -> None:
        self._db.execute(
            "INSERT INTO rewards VALUES (?, ?, ?, ?, ?, ?)",
            (report.decision_id, item, report.reward_id, report.reward, status, report.time),
        )

    def _must_live(self, key: int) -> None:
        if key not in self._bandits:
            raise Conflict("the bandit was deleted while the request was on its way")

    # -- the log ------------------------------------------------------------------------------

    def change(self, bandit: BanditRecord, change: CatalogueChange) -> CatalogueRow:
        """Log a change of the catalogue."""
        now = self._clock()
        position = self._payload(bandit, KIND_CATALOGUE, now, pack_change(change))
        return CatalogueRow(position, now, change)

    def config(self, bandit: BanditRecord, spec: BanditSpec) -> ConfigRow:
        """Log a change of the changeable configuration."""
        now = self._clock()
        whole = dataclasses.asdict(spec)
        part = {key: whole[key] for key in sorted(BanditSpec.CHANGEABLE)}
        position = self._payload(bandit, KIND_CONFIG, now, pack_json(part))
        return ConfigRow(position, now, part)

    def import_snapshot(
        self, bandit: BanditRecord, publish: Callable[[LogPosition, bytes], int]
    ) -> ImportRow:
        """Log an import; the snapshot is published at the row's position before the commit.

        The row's hash covers no version, which is not known before publishing.
        """
        self._must_live(bandit.key)
        now = self._clock()
        position = self._next(bandit.key)
        previous = self._head(bandit.key).hash
        row_hash = chain_hash(previous, (position, KIND_IMPORT, now))
        version = SnapshotVersion(publish(position, row_hash))
        self._insert(
            bandit.key, KIND_IMPORT, now, (None,) * 5, pack_json({"version": version}), row_hash
        )
        return ImportRow(position, now, version)

    def _payload(self, bandit: BanditRecord, kind: int, now: float, payload: bytes) -> LogPosition:
        self._must_live(bandit.key)
        position = self._next(bandit.key)
        row_hash = chain_hash(self._head(bandit.key).hash, (position, kind, now, payload))
        self._insert(bandit.key, kind, now, (None,) * 5, payload, row_hash)
        return position

    def _log(
        self, key: int, kind: int, now: float, decision_id: DecisionId, item: int,
        origin: LogPosition, before: float | None, after: float,
    ) -> None:  # fmt: skip
        values = (decision_id, item, origin, before, after)
        row_hash = chain_hash(self._head(key).hash, (self._next(key), kind, now, *values))
        self._insert(key, kind, now, values, None, row_hash)

    def _insert(
        self, key: int, kind: int, now: float, values: tuple[Any, ...], payload: bytes | None,
        row_hash: bytes,
    ) -> None:  # fmt: skip
        position = self._next(key)
        self._db.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, position, kind, now, *values, payload, row_hash),
        )
        self._heads[key] = LogHead(position, row_hash)

    def _next(self, key: int) -> LogPosition:
        return LogPosition(self._head(key).position + 1)

    def _head(self, key: int) -> LogHead:
        head = self._heads.get(key)
        if head is None:
            found = self._db.execute(
                "SELECT position, hash FROM log WHERE bandit = ? ORDER BY position DESC LIMIT 1",
                (key,),
            ).fetchone()
            position, row_hash = found or (0, GENESIS_HASH)
            head = self._heads[key] = LogHead(LogPosition(position), bytes(row_hash))
        return head

    # -- bandits ------------------------------------------------------------------------------

    def create(
        self, name: str, spec: BanditSpec, publish: Callable[[BanditUid], None]
    ) -> BanditRecord:
        """Create a bandit; its uid follows from the name and how often it was created here."""
        rows = self._db.execute("SELECT deleted FROM bandits WHERE name = ?", (name,)).fetchall()
        if any(deleted is None for (deleted,) in rows):
            raise Conflict(f"there is a bandit {name!r} already")
        uid = bandit_uid(name, len(rows))
        publish(uid)
        now = self._clock()
        text = json.dumps(dataclasses.asdict(spec), sort_keys=True)
        cursor = self._db.execute(
            "INSERT INTO bandits (uid, name, spec, created) VALUES (?, ?, ?, ?)",
            (uid, name, text, now),
        )
        assert cursor.lastrowid is not None
        record = BanditRecord(cursor.lastrowid, uid, name, spec, now)
        self.remember(record)
        return record

    def delete(self, bandit: BanditRecord) -> None:
        """Mark a bandit as deleted; its name is free at once."""
        self._db.execute(
            "UPDATE bandits SET deleted = ? WHERE bandit = ?", (self._clock(), bandit.key)
        )
        self._bandits.pop(bandit.key, None)
        self._heads.pop(bandit.key, None)

    def unpurged(self) -> list[int]:
        """Return the keys of deleted bandits that have rows left."""
        rows = self._db.execute(
            "SELECT bandit FROM bandits AS b WHERE deleted IS NOT NULL AND"
            " (EXISTS (SELECT 1 FROM decisions AS d WHERE d.bandit = b.bandit)"
            " OR EXISTS (SELECT 1 FROM log AS l WHERE l.bandit = b.bandit))"
        )
        return [key for (key,) in rows]

    def purge(self, key: int) -> bool:
        """Remove some of a deleted bandit's rows; False when none are left."""
        ids = [
            row[0]
            for row in self._db.execute(
                "SELECT decision_id FROM decisions WHERE bandit = ? LIMIT ?",
                (key, PURGE_CHUNK),
            )
        ]
        keys = [(decision_id,) for decision_id in ids]
        for table in ("rewards", "outcomes", "decisions"):
            self._db.executemany(f"DELETE FROM {table} WHERE decision_id = ?", keys)
        removed = self._db.execute(
            "DELETE FROM log WHERE bandit = ? AND position IN"
            " (SELECT position FROM log WHERE bandit = ? LIMIT ?)",
            (key, key, PURGE_CHUNK),
        ).rowcount
        return bool(ids) or removed > 0


def _item(chosen: tuple[ChosenAction, ...], report: RewardReport) -> int:
    """Return which of the chosen actions a reward is for."""
    if report.action is None:
        if len(chosen) > 1:
            raise InvalidRequest("action", "needed: the decision chose several actions")
        return 0
    for item, picked in enumerate(chosen):
        if picked.id == report.action:
            return item
    raise InvalidRequest("action", f"the decision did not choose {report.action!r}")


def wall_clock() -> float:
    """Return seconds since the epoch."""
    return time.time()
