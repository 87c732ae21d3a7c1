"""Reads decisions and learned values in small pieces, to be counted for the dashboard.

Used by one thread at a time. Every call is a short transaction that returns a few hundred rows: a
row that is fetched releases the interpreter lock, which a busy event loop notices, so a piece of
decisions comes as one row of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bandexa_core.ids import BanditUid
from service.store.errors import StoreDamaged
from service.store.identity import first_key
from service.store.records import CountedRow, CountedValue
from service.store.sqlite.clock import stored_clock
from service.store.sqlite.codec import chosen_ids
from service.store.sqlite.connection import connect_reader

# Only the time is needed to the last digit, which json_array would not preserve.
_DECISIONS = """
SELECT json_group_array(json_array(
  key, printf('%!.17g', time), hex(chosen), propensity, explored, std))
FROM (
  SELECT *, sum(length(chosen)) OVER (ORDER BY key) - length(chosen) AS before FROM (
    SELECT key, time, chosen, propensity, explored, std FROM decisions
    WHERE key > ? AND key < ? ORDER BY key LIMIT ?))
WHERE before < ?
"""
_LEARNED = """
SELECT l.position, l.time, l.before, l.after, d.time,
  (SELECT o.time FROM log AS o WHERE o.bandit = l.bandit AND o.position = l.origin)
FROM log AS l LEFT JOIN decisions AS d ON d.key = l.key
WHERE l.bandit = ? AND l.position > ? AND l.position <= ? AND l.kind = 1
ORDER BY l.position LIMIT ?
"""


class SqliteCountingReader:
    """See `CountingReader`."""

    def __init__(self, path: Path) -> None:
        self._db = connect_reader(path)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> SqliteCountingReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def bandits(self) -> dict[int, BanditUid]:
        """See `CountingReader.bandits`."""
        return dict(self._db.execute("SELECT bandit, uid FROM bandits WHERE deleted IS NULL"))

    def heads(self, bandits: Iterable[int]) -> dict[int, int]:
        """See `CountingReader.heads`."""
        newest = "SELECT coalesce(max(position), 0) FROM log WHERE bandit = ?"
        return {key: self._db.execute(newest, (key,)).fetchone()[0] for key in bandits}

    def decisions(self, bandit: int, after: int, most: int, most_bytes: int) -> list[CountedRow]:
        """See `CountingReader.decisions`."""
        start = max(after, first_key(bandit) - 1)
        (found,) = self._db.execute(
            _DECISIONS, (start, first_key(bandit + 1), most, most_bytes)
        ).fetchone()
        try:
            return [
                CountedRow(
                    key, float(time), chosen_ids(f"at key {key}", bytes.fromhex(packed)),
                    len(packed) // 2, propensity, None if explored is None else bool(explored), std,
                )
                for key, time, packed, propensity, explored, std in sorted(
                    msgspec.json.decode(found)
                )
            ]  # fmt: skip
        except ValueError as error:
            raise StoreDamaged(f"decisions after key {after} cannot be read") from error

    def learned(self, bandit: int, after: int, up_to: int, most: int) -> list[CountedValue]:
        """See `CountingReader.learned`."""
        rows = self._db.execute(_LEARNED, (bandit, after, up_to, most)).fetchall()
        state = stored_clock(self._db)
        if state is None or not state.jumps:
            return [CountedValue(*row) for row in rows]
        return [
            CountedValue(
                position, state.wall_of(time), before, after, decided,
                None if first is None else state.wall_of(first),
            )
            for position, time, before, after, decided, first in rows
        ]  # fmt: skip
