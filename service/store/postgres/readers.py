"""The readers of a store on PostgreSQL, each with a connection: see `service.store.sql`."""

from __future__ import annotations

from functools import cached_property

from bandexa_core.ids import BanditUid
from service.store.address import PostgresUrl
from service.store.identity import TIME_BITS, DecisionIds, first_key
from service.store.postgres.connection import ReadConnection
from service.store.records import CountedRow, Newest
from service.store.sql.codec import chosen_ids
from service.store.sql.counting import SqlCountingReader
from service.store.sql.database import Database
from service.store.sql.history import SqlHistory
from service.store.sql.reader import SqlReader
from service.store.sql.tail import LogTail

# Dead rows that a vacuum has not reached yet are among the bytes.
_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace =
  (SELECT relnamespace FROM pg_class WHERE oid = 'meta'::regclass)
"""
_NEWEST = """
SELECT bandit, uid,
  (SELECT coalesce(max(position), 0) FROM log AS l WHERE l.bandit = b.bandit),
  (SELECT coalesce(max(key), 0) FROM decisions
   WHERE key >= b.bandit << :bits AND key < (b.bandit + 1) << :bits)
FROM bandits AS b WHERE deleted IS NULL
"""
_DECISIONS = """
SELECT key, time, chosen, propensity, explored, std, imported FROM (
  SELECT *, sum(length(chosen)) OVER (ORDER BY key) - length(chosen) AS before FROM (
    SELECT key, time, chosen, propensity, explored, std, imported IS NOT NULL AS imported
    FROM decisions WHERE key > ? AND key < ? ORDER BY key LIMIT ?) AS next) AS summed
WHERE before < ? ORDER BY key
"""


def read_ids(db: Database) -> DecisionIds:
    """Return the ids of the decisions of a store."""
    found = dict(
        db.execute("SELECT key, value FROM meta WHERE key IN ('cell', 'secret')").fetchall()
    )
    return DecisionIds(str(found["cell"]), bytes.fromhex(found["secret"]))


class PostgresReader(SqlReader):
    """See `LogReader`."""

    def __init__(self, url: PostgresUrl, tail: LogTail | None = None) -> None:
        self._db = ReadConnection(url)
        super().__init__(self._db, tail)

    def epoch(self) -> int:
        """See `LogReader.epoch`."""
        found = self._db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        return int(found[0]) if found else 0

    @cached_property
    def ids(self) -> DecisionIds:
        """The ids of the store's decisions."""
        return read_ids(self._db)

    def used_bytes(self) -> int:
        """See `LogReader.used_bytes`."""
        return int(self._db.execute(_BYTES).fetchone()[0])


class PostgresHistory(SqlHistory):
    """See `DecisionHistory`."""

    def __init__(self, url: PostgresUrl) -> None:
        connection = ReadConnection(url)
        super().__init__(connection, lambda: read_ids(connection))


class PostgresCountingReader(SqlCountingReader):
    """See `CountingReader`."""

    def __init__(self, url: PostgresUrl) -> None:
        super().__init__(ReadConnection(url))

    def newest(self) -> dict[int, Newest]:
        """See `CountingReader.newest`."""
        rows = self._db.execute(_NEWEST, {"bits": TIME_BITS}).fetchall()
        return {bandit: Newest(BanditUid(uid), head, last) for bandit, uid, head, last in rows}

    def decisions(self, bandit: int, after: int, most: int, most_bytes: int) -> list[CountedRow]:
        """See `CountingReader.decisions`."""
        start = max(after, first_key(bandit) - 1)
        rows = self._db.execute(
            _DECISIONS, (start, first_key(bandit + 1), most, most_bytes)
        ).fetchall()
        return [
            CountedRow(
                key, time, chosen_ids(key, chosen), len(chosen), propensity,
                None if explored is None else bool(explored), std, bool(imported),
            )
            for key, time, chosen, propensity, explored, std, imported in rows
        ]  # fmt: skip
