"""Removes old decisions and log rows from the store, a few at a time.

Runs on the writer thread, inside its transaction. The log of a bandit loses its oldest learn rows.
Changes of the catalogue stay as long as a stored decision was made before them; then the actions at
that position take their place. Changes of the configuration stay: they are few.
The trim point moves in the transaction that removes the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from bandexa_core.ids import DecisionKey, LogPosition
from bandexa_core.log.configurations import Configurations
from bandexa_core.replay.evicted import ranks
from service.store.hashing import pack_metrics
from service.store.protocol import Dropped, Trimmed
from service.store.records import BanditRecord
from service.store.sql.database import Database
from service.store.sql.evicted import checksum_of, first_row, trim_of
from service.store.sql.removable import (
    DROP_CHUNK,
    group_end,
    held_back,
    last_removable,
    old_decisions,
    removable,
)

TRIM_CHUNK = 500

_LEARN_ROWS = """
SELECT position, before IS NULL FROM log
WHERE bandit = ? AND kind = 1 AND position > ? AND position <= ? ORDER BY position LIMIT ?
"""


class Trimming:
    """Removes rows; the caller decides up to where."""

    def __init__(
        self,
        connection: Database,
        configurations: Callable[[BanditRecord], Configurations],
    ) -> None:
        self._db = connection
        self._configurations = configurations
        self._examined: dict[int, DecisionKey] = {}  # by `drop_decisions`, up to which key

    def trim_log(self, bandit: BanditRecord, up_to: LogPosition, sample_size: int) -> Trimmed:
        """Remove some of the learn rows up to a position, but never the newest row of the log.

        Decisions that were examined before, and that only these rows held back, go with them: so
        nobody has to examine all that are held back again and again.

        Args:
            bandit: The bandit whose log is trimmed.
            up_to: The position of the last row that may be removed.
            sample_size: How many of all rows removed so far stay stored as a sample of them.

        Returns:
            How many decisions went, and whether there are more rows to remove.
        """
        key = bandit.key
        up_to = last_removable(self._db, key, up_to)
        trim = trim_of(self._db, key)
        if up_to <= trim.position:
            return Trimmed(0, more=False)
        rows = self._db.execute(_LEARN_ROWS, (key, trim.position, up_to, TRIM_CHUNK)).fetchall()
        more = len(rows) == TRIM_CHUNK
        end = group_end(self._db, key, trim.position, rows[-1][0] if more else up_to)
        if end is None:
            return Trimmed(0, more=False)
        gone = self._unlearned(key, end)
        first = [
            position
            for position, is_first in rows
            if is_first and position <= end and position not in gone
        ]
        self._sample(bandit, first, sample_size, trim.learned)
        (end_hash,) = self._db.execute(
            "SELECT hash FROM log WHERE bandit = ? AND position = ?", (key, end)
        ).fetchone()
        self._db.execute(
            "INSERT INTO trims VALUES (?, ?, ?, ?) ON CONFLICT (bandit) DO UPDATE SET"
            " position = excluded.position, hash = excluded.hash, learned = excluded.learned",
            (key, end, end_hash, trim.learned + len(first)),
        )
        freed = held_back(self._db, bandit, end, self._examined.get(key, DecisionKey(0)))
        self._db.execute(
            "DELETE FROM log WHERE bandit = ? AND kind IN (1, 5) AND position <= ?", (key, end)
        )
        num = self.remove_decisions(removable(self._configurations(bandit), freed, end))
        return Trimmed(num, more)

    def _sample(
        self, bandit: BanditRecord, positions: list[int], size: int, num_before: int
    ) -> None:
        """Extend the sample to rows that leave the log now; `num_before` rows left it before.

        It stays uniform where it was smaller before: nothing is known of the earlier rows beyond
        its highest rank, and so no later row beyond it takes part either.
        """
        num, reach = self._db.execute(
            "SELECT count(*), max(rank) FROM evicted WHERE bandit = ?", (bandit.key,)
        ).fetchone()
        is_limited = 0 < num < num_before
        for position, rank in zip(
            positions, ranks(bandit.uid, np.array(positions, np.int64)).tolist(), strict=True
        ):
            if is_limited and rank > reach:
                continue
            found = self._db.execute(
                "SELECT rank FROM evicted WHERE bandit = ? ORDER BY rank LIMIT 1 OFFSET ?",
                (bandit.key, max(0, size - 1)),
            ).fetchone()
            if size == 0 or (found is not None and rank > found[0]):
                continue
            row = first_row(self._db, bandit, position)
            slot, action = row.picked.slot, row.picked.features.tobytes()
            self._db.execute(
                "INSERT INTO evicted VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    bandit.key, position, rank, slot, row.value.learned(), action, row.context,
                    checksum_of(position, slot, action, row.context),
                    pack_metrics(row.value.metrics),
                ),
            )  # fmt: skip
            self._db.execute(
                "INSERT INTO sampled VALUES (?, ?, ?, ?, ?)",
                (bandit.key, position, row.key, row.own_id, row.unit),
            )
        self._db.execute(
            "DELETE FROM evicted WHERE bandit = ? AND origin IN (SELECT origin FROM evicted"
            " WHERE bandit = ? ORDER BY rank LIMIT 9223372036854775807 OFFSET ?)",
            (bandit.key, bandit.key, size),
        )
        self._db.execute(
            "DELETE FROM sampled WHERE bandit = ?1 AND origin NOT IN"
            " (SELECT origin FROM evicted WHERE bandit = ?1)",
            (bandit.key,),
        )

    def _unlearned(self, bandit: int, up_to: int) -> set[int]:
        """Return the first rows of erased and void values up to a position.

        The erased ones are noted here no longer, because they leave with the log's rows.
        """
        gone = self._db.execute(
            "DELETE FROM erased WHERE bandit = ? AND origin <= ? RETURNING origin", (bandit, up_to)
        ).fetchall()
        gone += self._db.execute(
            "SELECT origin FROM log WHERE bandit = ? AND kind = 5 AND origin <= ?", (bandit, up_to)
        ).fetchall()
        return {origin for (origin,) in gone}

    def trim_catalogue(self, bandit: BanditRecord, change: bytes, position: LogPosition) -> None:
        """Store the packed actions at a position, and remove the changes up to it.

        A position before the one that is stored, or after the beginning of the log, does nothing.
        """
        known = self._db.execute(
            "SELECT position FROM catalogues WHERE bandit = ?", (bandit.key,)
        ).fetchone()
        if (known is not None and position <= known[0]) or (
            position > trim_of(self._db, bandit.key).position
        ):
            return
        self._db.execute(
            "INSERT INTO catalogues VALUES (?, ?, ?, ?) ON CONFLICT (bandit) DO UPDATE SET"
            " position = excluded.position, change = excluded.change, checksum = excluded.checksum",
            (bandit.key, position, change, crc32(change)),
        )
        self._db.execute(
            "DELETE FROM log WHERE bandit = ? AND kind = 2 AND kind <> 1 AND position <= ?",
            (bandit.key, position),
        )

    def drop_decisions(
        self, bandit: BanditRecord, before: DecisionKey, after: DecisionKey
    ) -> Dropped:
        """Remove some decisions with smaller keys that no remaining log row refers to.

        Args:
            bandit: The bandit.
            before: The smallest key that stays.
            after: Where the last call ended; 0 for the first call.
        """
        known = self._configurations(bandit)
        examined = old_decisions(self._db, bandit, known, before, after)
        num = self.remove_decisions(
            removable(known, examined, trim_of(self._db, bandit.key).position)
        )
        last = examined[-1].key if examined else after
        self._examined[bandit.key] = max(last, self._examined.get(bandit.key, last))
        return Dropped(num, last, more=len(examined) == DROP_CHUNK)

    def remove_decisions(self, keys: Sequence[tuple[int]]) -> int:
        """Remove decisions with all that was reported about them; returns how many."""
        for table in ("rewards", "ledger", "amendments", "decisions"):
            self._db.executemany(f"DELETE FROM {table} WHERE key = ?", keys)
        return len(keys)
