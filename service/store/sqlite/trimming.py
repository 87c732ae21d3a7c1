"""Removes old decisions and log rows from the store, a few at a time.

Runs on the writer thread, inside its transaction. The log of a bandit loses its oldest learn rows.
Changes of the catalogue and the configuration stay: they are few, and every start folds them again.
The trim point moves in the transaction that removes the rows.
"""

from __future__ import annotations

import sqlite3

import numpy as np

from bandexa_core.ids import LogPosition
from bandexa_core.replay.evicted import ranks
from service.store.protocol import Dropped
from service.store.records import BanditRecord
from service.store.sqlite.codec import unpack_chosen
from service.store.sqlite.evicted import FIRST_ROW, checksum_of, trim_of

TRIM_CHUNK = 500
DROP_CHUNK = 500

_LEARN_ROWS = """
SELECT position, before IS NULL FROM log
WHERE bandit = ? AND kind = 1 AND position > ? AND position <= ? ORDER BY position LIMIT ?
"""
_OLD_DECISIONS = """
SELECT d.rowid, d.decision_id, d.time,
  EXISTS (SELECT 1 FROM windows AS w WHERE w.decision_id = d.decision_id AND w.closed IS NULL)
  OR EXISTS (SELECT 1 FROM outcomes AS o WHERE o.decision_id = d.decision_id
             AND o.latest > coalesce(t.position, 0))
FROM decisions AS d LEFT JOIN trims AS t ON t.bandit = d.bandit
WHERE d.rowid > ? ORDER BY d.rowid LIMIT ?
"""


class Trimming:
    """Removes rows; the caller decides up to where."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def trim_log(self, bandit: BanditRecord, up_to: LogPosition, sample_size: int) -> bool:
        """Remove some of the learn rows up to a position, but never the newest row of the log.

        Args:
            bandit: The bandit whose log is trimmed.
            up_to: The position of the last row that may be removed.
            sample_size: How many of all rows removed so far stay stored as a sample of them.

        Returns:
            Whether there are more rows to remove.
        """
        key = bandit.key
        head = self._db.execute("SELECT max(position) FROM log WHERE bandit = ?", (key,)).fetchone()
        up_to = LogPosition(min(up_to, (head[0] or 0) - 1))
        trim = trim_of(self._db, key)
        if up_to <= trim.position:
            return False
        rows = self._db.execute(_LEARN_ROWS, (key, trim.position, up_to, TRIM_CHUNK)).fetchall()
        more = len(rows) == TRIM_CHUNK
        end = rows[-1][0] if more else up_to
        first = [position for position, is_first in rows if is_first]
        self._sample(bandit, first, sample_size)
        (end_hash,) = self._db.execute(
            "SELECT hash FROM log WHERE bandit = ? AND position = ?", (key, end)
        ).fetchone()
        self._db.execute(
            "INSERT INTO trims VALUES (?, ?, ?, ?) ON CONFLICT (bandit) DO UPDATE SET"
            " position = excluded.position, hash = excluded.hash, learned = excluded.learned",
            (key, end, end_hash, trim.learned + len(first)),
        )
        self._db.execute(
            "DELETE FROM log WHERE bandit = ? AND kind = 1 AND position <= ?", (key, end)
        )
        return more

    def _sample(self, bandit: BanditRecord, positions: list[int], size: int) -> None:
        """Extend the sample to rows that leave the log now."""
        for position, rank in zip(
            positions, ranks(bandit.uid, np.array(positions, np.int64)).tolist(), strict=True
        ):
            found = self._db.execute(
                "SELECT rank FROM evicted WHERE bandit = ? ORDER BY rank LIMIT 1 OFFSET ?",
                (bandit.key, max(0, size - 1)),
            ).fetchone()
            if size == 0 or (found is not None and rank > found[0]):
                continue
            name, item, value, chosen, context = self._db.execute(
                FIRST_ROW, (bandit.key, position)
            ).fetchone()
            picked = unpack_chosen(name, chosen, context)[item]
            action = picked.features.tobytes()
            self._db.execute(
                "INSERT INTO evicted VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    bandit.key, position, rank, picked.slot, value, action, context,
                    checksum_of(position, picked.slot, action, context),
                ),
            )  # fmt: skip
        self._db.execute(
            "DELETE FROM evicted WHERE bandit = ? AND origin IN (SELECT origin FROM evicted"
            " WHERE bandit = ? ORDER BY rank LIMIT -1 OFFSET ?)",
            (bandit.key, bandit.key, size),
        )

    def drop_decisions(self, before: float, after_row: int) -> Dropped:
        """Remove some decisions made before a time that no remaining log row refers to.

        Args:
            before: Seconds since the epoch.
            after_row: Where the last call ended; 0 for the first call.
        """
        found = self._db.execute(_OLD_DECISIONS, (after_row, DROP_CHUNK)).fetchall()
        old = [row for row in found if row[2] < before]
        keys = [(row[1],) for row in old if not row[3]]
        for table in ("rewards", "outcomes", "windows", "activations", "decisions"):
            self._db.executemany(f"DELETE FROM {table} WHERE decision_id = ?", keys)
        more = len(found) == DROP_CHUNK and bool(old)
        return Dropped(len(keys), found[-1][0] if found else after_row, more)
