"""See `reading.Audit`: a store on SQLite is checked against itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from service.store.findings import Report, Say
from service.store.records import BanditRecord
from service.store.sql.verification.ledger import LedgerAudit
from service.store.sql.verification.tables import Tables
from service.store.sql.verification.windows import WindowAudit
from service.store.sqlite.connection import connect, connect_reader
from service.store.sqlite.disk_faults import describe
from service.store.sqlite.integrity import problems
from service.store.sqlite.tables import decision_ids, stand_in

MAX_LINES = 20  # of SQLite's own check


class SqliteAudit:
    """See `Audit`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        db = connect_reader(path)
        stand_in(db)
        self._tables = Tables(db, lambda: decision_ids(db))

    def close(self) -> None:
        """Close it; calling it again does nothing."""
        self._tables.close()

    def __enter__(self) -> SqliteAudit:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def check_file(self, report: Report, say: Say) -> bool:
        """See `Audit.check_file`: runs `PRAGMA integrity_check`."""
        check = report.check(None, "database")
        check.compared = "PRAGMA integrity_check"
        say("PRAGMA integrity_check")
        for text in _integrity_problems(self._path):
            check.problem(f"database: {text}")
        return not check.num_problems

    def check_rows(self, records: list[BanditRecord], report: Report, say: Say) -> None:
        """See `Audit.check_rows`."""
        LedgerAudit(self._tables, records, report, say).audit()
        WindowAudit(self._tables, records, report, say).audit()


def _integrity_problems(path: Path) -> list[str]:
    """Return what SQLite finds; a file that cannot be read is a problem."""
    try:
        with closing(connect(path, read_only=True)) as db:
            return problems(db, MAX_LINES)
    except sqlite3.Error as error:
        return [describe(error)]
