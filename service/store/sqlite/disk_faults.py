"""Classifies errors of the database: is one operation wrong, or the disk, and may writing go on?

Pure functions. After most errors SQLite has rolled the transaction back and the files are as they
were, so that writing may be retried later. After a failed sync nobody knows what is on disk: the
kernel may have dropped the pages and marked them clean, so that a second sync succeeds without
them. Only a new process that reads the files finds out.
"""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

# Temporary: the disk is full or read-only, a write or a lock was refused. Nothing is half done.
_TEMPORARY = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
}
_RUINED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SYNC_FAILED = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}
_DESCRIPTIONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the disk or the database is read-only",
    sqlite3.SQLITE_IOERR: "the disk refuses to be written or read",
    sqlite3.SQLITE_BUSY: "another program holds the database",
}


class Damaged(Exception):
    """A check found that the database is not what was written."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"the database is damaged: {found}; `bandexa verify` reports more, restore a backup"
        )


class Fault(Enum):
    """The kind of an error inside a transaction, and what to do after it."""

    OPERATION = auto()  # a mistake in one operation: roll back, run the others without it
    OUTAGE = auto()  # roll back, refuse writes, retry once a second
    FINAL = auto()  # write nothing more; the next process recovers from disk


def fault_of(error: Exception, *, committing: bool) -> Fault:
    """Classify an error.

    Args:
        error: The exception that was raised inside the transaction.
        committing: Whether the commit (or a checkpoint) itself raised it.
    """
    code = _code(error)
    if isinstance(error, Damaged) or code in _SYNC_FAILED or _primary(code) in _RUINED:
        return Fault.FINAL
    if _primary(code) in _TEMPORARY:
        return Fault.OUTAGE
    return Fault.FINAL if committing else Fault.OPERATION


def describe(error: Exception) -> str:
    """Return a sentence for people: the cause where it is known, and SQLite's name of the error."""
    code = _code(error)
    name = getattr(error, "sqlite_errorname", None)
    detail = f"{error}" if name is None else f"{error}, {name}"
    cause = _DESCRIPTIONS.get(_primary(code), "")
    if code in _SYNC_FAILED:
        cause = "the disk failed to sync"
    return f"{cause} ({detail})" if cause else detail


def is_ruined(error: sqlite3.Error) -> bool:
    """Return whether an error means that the database is not what was written."""
    return _primary(_code(error)) in _RUINED


def _code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    return -1 if code is None else int(code)


def _primary(code: int) -> int:
    return code & 0xFF if code >= 0 else code
