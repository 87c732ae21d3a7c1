"""Classifies errors of the database: is one operation wrong, or is the database away?

What a lost connection leaves in doubt is reported as an outage: the caller repeats the request by
its id, and finds what was stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

import asyncpg

from service.store.errors import StoreUnreadable

MOVED = "BX001"  # raised by append: another process has written to the log
STALE = "BX002"  # likewise: a decision is in another state
STRAY = "BX003"  # raised by keep: a decision was drawn at a row that the log does not have
CROSSED = ("40P01", "40001")  # two servers wait for each other: one of them begins again
# Classes of SQLSTATE after which a later try may succeed: connection, resources, operator, system,
# a transaction on a standby (25006), locks (55). Also rights that may be given back (42501), and
# functions that a restored database lacks (42883): they are created as the writer connects again.
_TEMPORARY = ("08", "53", "57", "58", "25", "55", "40", "XX")
_MENDED = ("42501", "42883")
ERRORS = (
    asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, EOFError,
    asyncpg.InternalClientError,  # of a connection that broke off within a statement
)  # fmt: skip


class LogMoved(Exception):
    """Another server has appended to a log since its end was read."""

    sqlstate = MOVED


class LogStrayed(Exception):
    """The database has lost rows that this server has followed."""

    sqlstate = STRAY


class LeaseLost(Exception):
    """Another server is the keeper now."""


class Fault(Enum):
    """The kind of an error, and what to do after it."""

    OPERATION = auto()  # a mistake in one operation: run the others without it
    OUTAGE = auto()  # refuse writes, connect again
    FINAL = auto()  # another process has written: only a new one finds out what is stored


def fault_of(error: BaseException) -> Fault:
    """Classify an error of a write."""
    state = getattr(error, "sqlstate", None)
    if state in (MOVED, STALE, STRAY) or isinstance(error, LeaseLost):
        return Fault.FINAL
    if isinstance(error, asyncpg.PostgresError):
        is_temporary = (state or "")[:2] in _TEMPORARY or state in _MENDED
        return Fault.OUTAGE if is_temporary else Fault.OPERATION
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return Fault.OPERATION  # a value that a column does not take
    if isinstance(error, ERRORS):
        return Fault.OUTAGE
    return Fault.OPERATION


def describe(error: BaseException) -> str:
    """Return a sentence for people."""
    text = str(error).strip() or type(error).__name__
    state = getattr(error, "sqlstate", None)
    return f"PostgreSQL: {text}" + (f" ({state})" if state else "")


def is_diverged(error: BaseException) -> bool:
    """Whether a model has followed another branch of its log than the database has."""
    return getattr(error, "sqlstate", None) == STRAY


def is_overtaken(error: BaseException) -> bool:
    """Whether another server has appended to a log, or reported of a decision, meanwhile."""
    return getattr(error, "sqlstate", None) in (MOVED, STALE, *CROSSED)


@contextmanager
def as_unreadable() -> Iterator[None]:
    """Raise `StoreUnreadable` in place of the driver's exceptions."""
    try:
        yield
    except ERRORS as error:
        raise StoreUnreadable(describe(error)) from error
