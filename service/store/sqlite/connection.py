"""Connections to SQLite files, and readers whose failures are the store's own errors.

`sqlite3` is imported in this folder alone. A reader's connection raises `StoreUnreadable` where
SQLite raises its own exceptions, so that nothing above the store has to know SQLite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from service.store.errors import StoreUnreadable
from service.store.sqlite.disk_faults import describe

BUSY_TIMEOUT_MS = 10_000
CACHED_STATEMENTS = 512  # the writer has one for each number of rows, 1 to 32, of six tables
LIBRARY_VERSION = sqlite3.sqlite_version


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a connection that may be used from any one thread at a time."""
    connection = sqlite3.connect(
        _uri(path, read_only), uri=True, isolation_level=None, check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
    )  # fmt: skip
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


class ReadCursor(sqlite3.Cursor):
    """A cursor that raises `StoreUnreadable` in place of SQLite's exceptions."""

    def execute(self, *statement: Any) -> Self:
        """See `sqlite3.Cursor.execute`."""
        try:
            return super().execute(*statement)
        except sqlite3.Error as error:
            raise _unreadable(error) from error

    def fetchone(self) -> Any:
        """See `sqlite3.Cursor.fetchone`."""
        try:
            return super().fetchone()
        except sqlite3.Error as error:
            raise _unreadable(error) from error

    def fetchall(self) -> list[Any]:
        """See `sqlite3.Cursor.fetchall`."""
        try:
            return super().fetchall()
        except sqlite3.Error as error:
            raise _unreadable(error) from error

    def __next__(self) -> Any:
        """Return the next row."""
        try:
            return super().__next__()
        except sqlite3.Error as error:
            raise _unreadable(error) from error


class ReadConnection(sqlite3.Connection):
    """A connection whose `execute` raises `StoreUnreadable`, as do the rows that it returns."""

    def execute(self, *statement: Any) -> ReadCursor:
        """See `sqlite3.Connection.execute`."""
        try:
            cursor = self.cursor(ReadCursor)
        except sqlite3.Error as error:  # the connection is closed
            raise _unreadable(error) from error
        return cursor.execute(*statement)


def connect_reader(path: Path) -> ReadConnection:
    """Open a read-only connection that may be used from any one thread at a time.

    Raises:
        StoreUnreadable: There is no such file, or it cannot be opened.
    """
    with as_store_errors():
        connection = sqlite3.connect(
            _uri(path, True), uri=True, isolation_level=None, check_same_thread=False,
            factory=ReadConnection,
        )  # fmt: skip
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Raise `StoreUnreadable` in place of SQLite's exceptions."""
    try:
        yield
    except sqlite3.Error as error:
        raise _unreadable(error) from error


def _uri(path: Path, read_only: bool) -> str:
    return f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"


def _unreadable(error: sqlite3.Error) -> StoreUnreadable:
    return StoreUnreadable(describe(error))
