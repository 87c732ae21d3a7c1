"""Copies one state of the database into another file, while a server goes on writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from service.store.sqlite.connection import as_store_errors, connect

PAGES_PER_STEP = 1024


@as_store_errors()
def copy_database(source: Path, dest: Path, progress: Callable[[int, int], None]) -> None:
    """Copy one state of the database.

    The transaction pins that state: without it, every commit of the server between two steps would
    restart the copy. In WAL mode it delays no writer, only the recycling of the WAL.

    Args:
        source: The database; a server may have it open.
        dest: Does not exist yet. The copy is one file with nothing beside it, so that it can lie on
            a read-only medium.
        progress: Called now and then with the number of copied pages and of all pages.

    Raises:
        StoreUnreadable: The source cannot be read, or the copy not written.
    """

    def report(_: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    with (
        closing(connect(source, read_only=True)) as origin,
        closing(sqlite3.connect(dest, isolation_level=None)) as copy,
    ):
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM meta").fetchone()
        origin.backup(copy, pages=PAGES_PER_STEP, progress=report, sleep=0.0)
        origin.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode = DELETE")
