"""Reads what is counted for the dashboard from a file: see `service.store.sql.counting`.

A row that is fetched releases the interpreter lock, which a busy event loop notices, so a piece of
decisions comes as one row of JSON.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bandexa_core.ids import BanditUid
from service.store.errors import StoreDamaged
from service.store.identity import TIME_BITS, first_key
from service.store.records import CountedRow, Newest
from service.store.sql.codec import chosen_ids
from service.store.sql.counting import SqlCountingReader
from service.store.sqlite.connection import connect_reader

# Only the time is needed to the last digit, which json_array would not preserve.
_DECISIONS = """
SELECT json_group_array(json_array(
  key, printf('%!.17g', time), hex(chosen), propensity, explored, std, imported))
FROM (
  SELECT *, sum(length(chosen)) OVER (ORDER BY key) - length(chosen) AS before FROM (
    SELECT key, time, chosen, propensity, explored, std, imported IS NOT NULL AS imported
    FROM decisions
    WHERE key > ? AND key < ? ORDER BY key LIMIT ?))
WHERE before < ?
"""
# A seek per bandit and table, in one statement: ten thousand bandits take some 30 ms.
_NEWEST = """
SELECT json_group_array(json_array(
  bandit, uid, (SELECT coalesce(max(position), 0) FROM log AS l WHERE l.bandit = b.bandit),
  (SELECT coalesce(max(key), 0) FROM decisions
   WHERE key >= b.bandit << :bits AND key < (b.bandit + 1) << :bits)))
FROM bandits AS b WHERE deleted IS NULL
"""


class SqliteCountingReader(SqlCountingReader):
    """See `CountingReader`."""

    def __init__(self, path: Path) -> None:
        super().__init__(connect_reader(path))
        self._version: int | None = None  # of the database, when `_newest` was read
        self._newest: dict[int, Newest] = {}

    def newest(self) -> dict[int, Newest]:
        """See `CountingReader.newest`."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:  # read first: what is committed meanwhile is seen next time
            (found,) = self._db.execute(_NEWEST, {"bits": TIME_BITS}).fetchone()
            rows = msgspec.json.decode(found, type=list[tuple[int, BanditUid, int, int]])
            self._newest = {key: Newest(uid, head, last) for key, uid, head, last in rows}
            self._version = version
        return self._newest

    def decisions(self, bandit: int, after: int, most: int, most_bytes: int) -> list[CountedRow]:
        """See `CountingReader.decisions`."""
        start = max(after, first_key(bandit) - 1)
        (found,) = self._db.execute(
            _DECISIONS, (start, first_key(bandit + 1), most, most_bytes)
        ).fetchone()
        try:
            return [
                CountedRow(
                    key, float(time), chosen_ids(key, bytes.fromhex(packed)),
                    len(packed) // 2, propensity, None if explored is None else bool(explored), std,
                    bool(imported),
                )
                for key, time, packed, propensity, explored, std, imported in sorted(
                    msgspec.json.decode(found)
                )
            ]  # fmt: skip
        except ValueError as error:
            raise StoreDamaged(f"decisions after key {after} cannot be read") from error
