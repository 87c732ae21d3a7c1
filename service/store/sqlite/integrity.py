"""Checks whether the database's pages and indexes agree, before answers are read from them.

SQLite reports most damage only when it happens to read it, and some never: with an entry missing
from the index of decision ids, a repeated select passes for a new one. So a small database is
checked before it is opened, and a larger one by a thread beside the first requests. When that
thread finds damage it leaves a file beside the database, and the next start checks before serving.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from service.store.sqlite.disk_faults import Damaged, describe, is_ruined

log = logging.getLogger(__name__)
# About a second; 200,000 decisions with small contexts.
CHECKED_AT_START_BYTES = 64 << 20
RETRY_S = 60.0


def checked_at_start(path: Path) -> bool:
    """Return whether to check a database before it is served: it is small, or marked as suspect."""
    files = (path, path.with_name(path.name + "-wal"))
    size = sum(file.stat().st_size for file in files if file.exists())
    return size <= CHECKED_AT_START_BYTES or _suspect(path).exists()


def problems(db: sqlite3.Connection, most: int) -> list[str]:
    """Return what `PRAGMA integrity_check` reports, about `most` lines; none for a sound database.

    Raises:
        sqlite3.Error: The database cannot be read at present.
    """
    try:
        rows = [row[0] for row in db.execute(f"PRAGMA integrity_check({most})")]
    except sqlite3.DatabaseError as error:
        if is_ruined(error):
            return [describe(error)]
        raise
    # Some rows have several lines; the first one names the database.
    lines = [line for row in rows for line in row.splitlines() if not line.startswith("***")]
    return [] if lines == ["ok"] else lines


def refuse_damaged(db: sqlite3.Connection, path: Path) -> None:
    """Check a database before it is served.

    Raises:
        Damaged: It is not what was written.
        sqlite3.Error: It cannot be read at present.
    """
    if found := problems(db, 1):
        raise Damaged(found[0])
    _suspect(path).unlink(missing_ok=True)


class BackgroundCheck:
    """Checks a database in its own thread.

    Args:
        db: A connection that nobody else uses.
        path: The database file; it may be written meanwhile.
        damaged: Called from the thread with the damage, if there is any.
    """

    def __init__(
        self, db: sqlite3.Connection, path: Path, damaged: Callable[[Damaged], object]
    ) -> None:
        self._db = db
        self._path = path
        self._damaged = damaged
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-check", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Interrupt the check if it is still running."""
        self._closing.set()
        while self._thread.is_alive():  # an interrupt before its first statement has no effect
            self._db.interrupt()
            self._thread.join(0.05)
        self._db.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                found = problems(self._db, 1)
            except sqlite3.Error as error:
                if not self._closing.is_set():  # otherwise it was interrupted
                    log.warning("the database cannot be checked at present: %s", describe(error))
                self._closing.wait(RETRY_S)
                continue
            if found:
                self._mark()
                self._damaged(Damaged(found[0]))
            return

    def _mark(self) -> None:
        try:
            _suspect(self._path).touch()
        except OSError as error:
            log.warning("%s cannot be written: %s", _suspect(self._path), error)


def _suspect(path: Path) -> Path:
    return path.with_name(f"{path.name}.suspect")
