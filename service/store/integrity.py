"""Whether the database's pages and indexes agree, before answers are read from them.

SQLite meets most damage only where it happens to read it. Some it never tells of: an entry that is
missing from the index of decision ids makes a repeated select look like a new one. So a small
database is checked before it is opened, and a larger one by a thread beside the first requests.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from service.store.disk_faults import Damaged, told

# About a second; 200,000 decisions with small contexts.
CHECKED_AT_START_BYTES = 64 << 20


def is_small(path: Path) -> bool:
    """Tell whether checking a database before it is served takes no time that anybody minds."""
    return path.stat().st_size <= CHECKED_AT_START_BYTES


def problems(db: sqlite3.Connection, most: int) -> list[str]:
    """Return what `PRAGMA integrity_check` finds, about `most` lines; nothing: it is whole."""
    try:
        rows = [row[0] for row in db.execute(f"PRAGMA integrity_check({most})")]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise
        return [told(error)]
    # Some rows are several lines, the first of which names the database.
    lines = [line for row in rows for line in row.splitlines() if not line.startswith("***")]
    return [] if lines == ["ok"] else lines


class BackgroundCheck:
    """Checks a database in a thread of its own.

    Args:
        path: The database file; somebody may be writing to it.
        damaged: Told from the thread what was found, if anything was.
    """

    def __init__(self, path: Path, damaged: Callable[[Damaged], object]) -> None:
        self._damaged = damaged
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True,
                                   check_same_thread=False)  # fmt: skip
        self._thread = threading.Thread(target=self._check, name="store-check", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Break the check off where it is not done."""
        while self._thread.is_alive():  # it may not have begun yet
            self._db.interrupt()
            self._thread.join(0.05)
        self._db.close()

    def _check(self) -> None:
        try:
            found = problems(self._db, 1)
        except sqlite3.OperationalError:  # broken off
            return
        if found:
            self._damaged(Damaged(found[0]))
