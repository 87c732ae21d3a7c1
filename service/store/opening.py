"""Opens event stores: the one place that knows which implementation an address stands for.

A server opens the store itself; the trainer and the commands open readers beside it. A store in
memory has no path, and nothing opens one by default.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bandexa_core.ids import BanditUid, LogPosition
from service.observe.counters import SharedCount
from service.store.address import PostgresUrl, StoreAddress
from service.store.clock import ClockState, ServiceClock
from service.store.errors import StoreError, StoreUnreadable
from service.store.inspected import Inspected
from service.store.memory.store import MemoryStore
from service.store.protocol import Deliver, Durability, EventStore
from service.store.reading import Audit, CountingReader, DecisionHistory, LogReader
from service.store.sharing import FollowedStore, Member
from service.store.sql.clock import stored_clock
from service.store.sqlite.audit import SqliteAudit
from service.store.sqlite.connection import LIBRARY_VERSION, connect_reader
from service.store.sqlite.copying import copy_database
from service.store.sqlite.counting import SqliteCountingReader
from service.store.sqlite.history import History
from service.store.sqlite.migrations import MIGRATIONS
from service.store.sqlite.reader import StoreReader
from service.store.sqlite.rows import read_rows, write_rows
from service.store.sqlite.schema import SCHEMA_VERSION, open_writer, require_current, schema_version
from service.store.sqlite.shrinking import vacuum
from service.store.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from service.store.postgres.opening import Opening

ENGINE = f"SQLite {LIBRARY_VERSION}"
NEWEST_SCHEMA = SCHEMA_VERSION
COPIES_OF_A_MIGRATION = 4  # the copy, the tables beside the old ones, and its write-ahead log


def open_store(
    path: StoreAddress, durability: Durability, deliver: Deliver, gather: Deliver | None = None
) -> EventStore:
    """Open the store of a server; see `SqliteStore` for the arguments.

    Raises:
        StoreError: It is open in another process, of another version, damaged, or no store.
    """
    if isinstance(path, PostgresUrl):
        return _postgres(path).store(durability, deliver, gather)
    return SqliteStore(path, durability, deliver, gather=gather)


def wait_for_turn(url: PostgresUrl, waiting: Callable[[], None]) -> None:
    """Return once no server has a database; `waiting` is called now and then, and may raise."""
    _postgres(url).wait_for_turn(waiting)


def join(
    url: PostgresUrl, servers: int, name: str, own_url: str, lease_s: float, diverged: SharedCount
) -> Member:
    """Make this server one of those that share a database; see `postgres.membership`.

    Raises:
        StoreError: The database cannot be used, or has as many servers as may share it.
    """
    return _postgres(url).join(servers, name, own_url, lease_s, diverged)


def open_shared(
    url: PostgresUrl,
    member: Member,
    durability: Durability,
    deliver: Deliver,
    gather: Deliver | None,
) -> FollowedStore:
    """Open the store of a server that shares its database.

    Raises:
        StoreError: It cannot be opened; see `PostgresStore`.
    """
    return _postgres(url).shared_store(durability, deliver, gather, member)


def log_uid(url: PostgresUrl) -> str:
    """Return what identifies the log of a database among all others.

    Raises:
        StoreUnreadable: There is no such store.
    """
    return _postgres(url).log_uid()


def _postgres(url: PostgresUrl) -> Opening:
    """Return what opens a database: its driver is an extra."""
    try:
        from service.store.postgres.opening import Opening
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise StoreError(
            "a store at a postgresql:// URL needs the extra `postgres`: pip install"
            " 'bandexa[postgres]'"
        ) from None
    return Opening(url)


def open_memory_store(
    deliver: Deliver,
    gather: Deliver | None = None,
    clock: ServiceClock | Callable[[], float] | None = None,
) -> EventStore:
    """Open a new, empty store that ends with its process; see `MemoryStore` for the arguments."""
    return MemoryStore(deliver, gather, clock)


def noted_clock(path: StoreAddress) -> ClockState | None:
    """Return the clock of a store as a server noted it last, None where none did.

    Raises:
        StoreUnreadable: There is no such store.
    """
    if isinstance(path, PostgresUrl):
        return _postgres(path).noted_clock()
    with closing(connect_reader(path)) as db:
        return stored_clock(db)


def accept_clock(path: StoreAddress) -> ClockState:
    """Move the service time of a store that no server has open up to wall time.

    Raises:
        StoreError: It is open in another process, of another version, damaged, or no store.
    """
    store = open_store(path, "commit", lambda answer: answer())
    refused: list[Exception | None] = []
    store.accept_clock(lambda _, error: refused.append(error))
    store.close()
    for error in refused:
        if error is not None:
            raise error
    return store.clock.state()


def open_reader(path: StoreAddress) -> LogReader:
    """Open a reader of logs, beside a server or without one; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    if isinstance(path, PostgresUrl):
        return _postgres(path).reader()
    return StoreReader(path)


def open_history(path: StoreAddress) -> DecisionHistory:
    """Open a reader of decisions; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    if isinstance(path, PostgresUrl):
        return _postgres(path).history()
    return History(path)


def open_counting(path: StoreAddress) -> CountingReader:
    """Open a reader of what the dashboard counts; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    if isinstance(path, PostgresUrl):
        return _postgres(path).counting()
    return SqliteCountingReader(path)


def open_audit(path: StoreAddress) -> Audit:
    """Open what checks a store against itself; the caller closes it.

    Raises:
        StoreUnreadable: There is no such store.
    """
    if isinstance(path, PostgresUrl):
        return _postgres(path).audit()
    return SqliteAudit(path)


def copy_store(source: StoreAddress, dest: Path, progress: Callable[[int, int], None]) -> None:
    """Copy one state of a store to a file while a server goes on writing.

    `progress` receives how many pages of a file, or rows of a database, are copied, of how many.

    Raises:
        StoreError: The source cannot be read, or the copy not written.
    """
    if isinstance(source, PostgresUrl):
        write_rows(dest, _postgres(source).read_rows(progress))
    else:
        copy_database(source, dest, progress)


def copy_into(source: Path, dest: PostgresUrl, progress: Callable[[int, int], None]) -> None:
    """Copy the store of a file, which no server has open, into an empty database.

    Raises:
        StoreError: A server has the file open, it is of another version, or the database is not
            empty or cannot be written.
    """
    SqliteStore(source, "commit", lambda answer: answer()).close()  # it is whole, and migrated
    _postgres(dest).write_rows(read_rows(source, progress))


def inspected(url: PostgresUrl) -> Inspected:
    """Return the state of a database, for `bandexa doctor`.

    Raises:
        StoreError: It cannot be reached, or its driver is not installed.
    """
    return _postgres(url).inspected()


def held(url: PostgresUrl) -> AbstractContextManager[object]:
    """Hold the lock of the one server of a database until the exit.

    Raises:
        StoreError: A server has it, or it cannot be reached.
    """
    return _postgres(url).held()


def heads(address: StoreAddress) -> dict[BanditUid, tuple[LogPosition, bytes | None]]:
    """Return position and hash of the end of every log.

    Raises:
        StoreUnreadable: It cannot be read.
    """
    with open_reader(address) as reader:
        ends = [(record, reader.head(record.key)) for record in reader.bandits()]
        return {each.uid: (end, reader.hash_at(each.key, end)) for each, end in ends}


def rebuild_store(path: Path) -> None:
    """Rebuild the file of a store that no server has open, without its free space.

    Raises:
        StoreError: A server has it open, or it cannot be read or written.
    """
    vacuum(path)


@contextmanager
def as_current(path: StoreAddress, folder: Path | None = None) -> Iterator[StoreAddress]:
    """Yield a store of this release's format: `path`, or else a migrated copy of it.

    A server may have the store open, of the older release too; it is not changed. The copy is
    deleted at the exit.

    Args:
        path: The database.
        folder: Where a copy is made; the system's folder for temporary files by default.

    Raises:
        StoreError: No server of this release can open it, or there is no room for a copy.
    """
    if isinstance(path, PostgresUrl):
        _postgres(path).require_current()
        yield path
        return
    if not _is_older(path):
        require_current(path)
        yield path
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="migrated-") as temporary:
        wal = path.with_name(f"{path.name}-wal")
        size = path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
        if shutil.disk_usage(temporary).free < COPIES_OF_A_MIGRATION * size:
            raise StoreError(f"{temporary} has no room for a migrated copy of {path}")
        copy = Path(temporary) / path.name
        copy_database(path, copy, lambda copied, total: None)
        open_writer(copy, "os", check=True).close()
        yield copy


def require_openable(path: StoreAddress) -> None:
    """Check that a server of this release opens a store, after a migration where that is due.

    Raises:
        StoreError: It does not, or it is no store.
    """
    if isinstance(path, PostgresUrl):
        _postgres(path).require_current()
    elif not _is_older(path):
        require_current(path)


def _is_older(path: Path) -> bool:
    try:
        return migrates(format_of(path))
    except StoreUnreadable:
        return False


def format_of(path: StoreAddress) -> int:
    """Return the format version of a store; this release reads `NEWEST_SCHEMA`.

    Raises:
        StoreUnreadable: It cannot be read.
    """
    if isinstance(path, PostgresUrl):
        return _postgres(path).schema_version()
    return schema_version(path)


def migrates(version: int) -> bool:
    """Whether a server of this release migrates a store of a format version when it starts."""
    steps = range(version, SCHEMA_VERSION)
    return bool(steps) and all(step in MIGRATIONS for step in steps)
