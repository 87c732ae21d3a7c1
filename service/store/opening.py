"""Opens event stores: the one place that knows which implementation a path stands for.

A server opens the store itself; the trainer and the commands open readers beside it. A store in
memory has no path, and nothing opens one by default.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from service.store.clock import ClockState, ServiceClock
from service.store.memory.store import MemoryStore
from service.store.protocol import (
    Audit,
    CountingReader,
    DecisionHistory,
    Deliver,
    Durability,
    EventStore,
    LogReader,
)
from service.store.sqlite.clock import stored_clock
from service.store.sqlite.connection import LIBRARY_VERSION, connect_reader
from service.store.sqlite.copying import copy_database
from service.store.sqlite.counting import SqliteCountingReader
from service.store.sqlite.history import History
from service.store.sqlite.migrations import MIGRATIONS
from service.store.sqlite.reader import StoreReader
from service.store.sqlite.schema import SCHEMA_VERSION, require_current, schema_version
from service.store.sqlite.store import SqliteStore
from service.store.sqlite.verification.audit import SqliteAudit

ENGINE = f"SQLite {LIBRARY_VERSION}"
NEWEST_SCHEMA = SCHEMA_VERSION


def open_store(
    path: Path, durability: Durability, deliver: Deliver, gather: Deliver | None = None
) -> EventStore:
    """Open the store of a server; see `SqliteStore` for the arguments.

    Raises:
        StoreError: It is open in another process, of another version, damaged, or no store.
    """
    return SqliteStore(path, durability, deliver, gather=gather)


def open_memory_store(
    deliver: Deliver,
    gather: Deliver | None = None,
    clock: ServiceClock | Callable[[], float] | None = None,
) -> EventStore:
    """Open a new, empty store that ends with its process; see `MemoryStore` for the arguments."""
    return MemoryStore(deliver, gather, clock)


def noted_clock(path: Path) -> ClockState | None:
    """Return the clock of a store as a server noted it last, None where none did.

    Raises:
        StoreUnreadable: There is no such store.
    """
    with closing(connect_reader(path)) as db:
        return stored_clock(db)


def accept_clock(path: Path) -> ClockState:
    """Move the service time of a store that no server has open up to wall time.

    Raises:
        StoreError: It is open in another process, of another version, damaged, or no store.
    """
    store = SqliteStore(path, "commit", lambda answer: answer())
    refused: list[Exception | None] = []
    store.accept_clock(lambda _, error: refused.append(error))
    store.close()
    for error in refused:
        if error is not None:
            raise error
    return store.clock.state()


def open_reader(path: Path) -> LogReader:
    """Open a reader of logs, beside a server or without one; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    return StoreReader(path)


def open_history(path: Path) -> DecisionHistory:
    """Open a reader of decisions; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    return History(path)


def open_counting(path: Path) -> CountingReader:
    """Open a reader of what the dashboard counts; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    return SqliteCountingReader(path)


def open_audit(path: Path) -> Audit:
    """Open what checks a store against itself; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    return SqliteAudit(path)


def copy_store(source: Path, dest: Path, progress: Callable[[int, int], None]) -> None:
    """Copy one state of a store while a server goes on writing; see `copy_database`.

    Raises:
        StoreUnreadable: The source cannot be read, or the copy not written.
    """
    copy_database(source, dest, progress)


def require_readable(path: Path) -> None:
    """Check that this release reads the format of a store as it is.

    Raises:
        StoreError: It has another format, or is no store.
    """
    require_current(path)


def format_of(path: Path) -> int:
    """Return the format version of a store; this release reads `NEWEST_SCHEMA`.

    Raises:
        StoreUnreadable: It cannot be read.
    """
    return schema_version(path)


def migrates(version: int) -> bool:
    """Whether a server of this release migrates a store of a format version when it starts."""
    return all(step in MIGRATIONS for step in range(version, SCHEMA_VERSION))
