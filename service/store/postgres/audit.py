"""See `reading.Audit`: a store on PostgreSQL is checked against itself."""

from __future__ import annotations

from typing import Self

from service.store.address import PostgresUrl
from service.store.findings import Report, Say
from service.store.postgres.connection import ReadConnection
from service.store.postgres.readers import read_ids
from service.store.records import BanditRecord
from service.store.sql.verification.ledger import LedgerAudit
from service.store.sql.verification.tables import Tables
from service.store.sql.verification.windows import WindowAudit

_INVALID = """
SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relnamespace =
  (SELECT relnamespace FROM pg_class WHERE oid = 'meta'::regclass)
"""
# A deleted bandit may have a head until its rows are gone.
_HEADS = """
SELECT b.name, h.position, (SELECT max(l.position) FROM log AS l WHERE l.bandit = b.bandit),
  h.hash = (SELECT l.hash FROM log AS l WHERE l.bandit = b.bandit AND l.position = h.position)
FROM bandits AS b LEFT JOIN heads AS h ON h.bandit = b.bandit WHERE b.deleted IS NULL
ORDER BY b.name
"""


class PostgresAudit:
    """See `Audit`."""

    def __init__(self, url: PostgresUrl) -> None:
        self._db = db = ReadConnection(url)
        self._tables = Tables(db, lambda: read_ids(db))

    def close(self) -> None:
        """Close it; calling it again does nothing."""
        self._tables.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def check_file(self, report: Report, say: Say) -> bool:
        """See `Audit.check_file`: the indexes are valid, and each head is the end of its log.

        Whether the pages are what was written is PostgreSQL's to check (`pg_amcheck`, checksums).
        """
        check = report.check(None, "database")
        check.compared = "indexes, heads of the logs"
        say("indexes, heads of the logs")
        for (name,) in self._db.execute(_INVALID):
            check.problem(f"database: the index {name} is not valid: REINDEX it")
        for name, head, last, same in self._db.execute(_HEADS):
            if (head or 0) != (last or 0) or same is False:
                check.problem(f"database: the head of {name} is {head}, its log ends at {last}")
        return not check.num_problems

    def check_rows(self, records: list[BanditRecord], report: Report, say: Say) -> None:
        """See `Audit.check_rows`."""
        LedgerAudit(self._tables, records, report, say).audit()
        WindowAudit(self._tables, records, report, say).audit()
