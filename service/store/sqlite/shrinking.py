"""Rebuilds the database file of a stopped server, once, so that it can shrink while it is served.

SQLite returns free pages to the file system step by step only in a file that was made for it
(`auto_vacuum`). The databases of releases up to 0.3 were not; `vacuum` makes them anew, without
their free pages and without anything that was ever deleted.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from bandexa_core.filesystem import lock_file
from service.store.errors import StoreError
from service.store.sqlite.connection import connect
from service.store.sqlite.disk_faults import describe
from service.store.sqlite.schema import require_current


def vacuum(path: Path) -> None:
    """Rebuild the database file; it takes as much free space as it holds, and may take minutes.

    A kill in the middle leaves it as it was.

    Raises:
        StoreError: A server has it open, it is of another version, or the disk refuses.
    """
    require_current(path)
    try:
        lock = lock_file(path.with_name(f"{path.name}.lock"))
    except BlockingIOError as error:
        raise StoreError(f"{path} is open in another process: {error}") from None
    try:
        with closing(connect(path, read_only=False)) as db:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {describe(error)}") from error
    finally:
        os.close(lock)
