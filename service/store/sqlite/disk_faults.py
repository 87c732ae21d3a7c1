"""What an error of the database means: whose fault it is, and whether writing may go on.

Pure judgement, no state. The distinction that matters: after most errors SQLite has rolled the
transaction back and the files are as they were, so writing may be tried again later. After a failed
sync nobody knows what is on disk: the kernel may have dropped the pages and marked them clean, so
that a second sync succeeds without them. Only a new process that reads the files finds out.
"""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

# Temporary: the disk is full or read-only, a write or a lock was refused. Nothing is half done.
_PASSING = {
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
_WORDS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the disk or the database is read-only",
    sqlite3.SQLITE_IOERR: "the disk refuses to be written or read",
    sqlite3.SQLITE_BUSY: "another program holds the database",
}


class Damaged(Exception):
    """A check found that the database is not what was written."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"the database is damaged: {found}; `bandexa verify` tells more, restore a backup"
        )


class Verdict(Enum):
    """What to do after an error inside a transaction."""

    OPERATION = auto()  # a mistake in one operation: roll back, run the others without it
    OUTAGE = auto()  # roll back, refuse writes, try again by and by
    FINAL = auto()  # write nothing more; the next process recovers from disk


def verdict(error: Exception, *, committing: bool) -> Verdict:
    """Judge an error.

    Args:
        error: What was raised inside the transaction.
        committing: It was raised by the commit (or a checkpoint) itself.
    """
    code = _code(error)
    if isinstance(error, Damaged) or code in _SYNC_FAILED or _primary(code) in _RUINED:
        return Verdict.FINAL
    if _primary(code) in _PASSING:
        return Verdict.OUTAGE
    return Verdict.FINAL if committing else Verdict.OPERATION


def told(error: Exception) -> str:
    """Say what happened, for people: in our words where there are some, and SQLite's name."""
    code = _code(error)
    name = getattr(error, "sqlite_errorname", None)
    words = "the disk failed to sync" if code in _SYNC_FAILED else _WORDS.get(_primary(code), "")
    where = f"{error}" if name is None else f"{error}, {name}"
    return f"{words} ({where})" if words else where


def is_ruined(error: sqlite3.Error) -> bool:
    """Tell whether an error says that the database is not what was written."""
    return _primary(_code(error)) in _RUINED


def _code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    return -1 if code is None else int(code)


def _primary(code: int) -> int:
    return code & 0xFF if code >= 0 else code
