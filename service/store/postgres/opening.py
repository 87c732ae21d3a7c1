"""Opens what `service.store.opening` is asked for, of a database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from service.observe.counters import SharedCount
from service.store.address import PostgresUrl
from service.store.clock import ClockState
from service.store.inspected import Inspected
from service.store.postgres.audit import PostgresAudit
from service.store.postgres.connection import ReadConnection, Session
from service.store.postgres.inspection import inspected
from service.store.postgres.membership import Membership
from service.store.postgres.readers import PostgresCountingReader, PostgresHistory, PostgresReader
from service.store.postgres.rows import read_rows, write_rows
from service.store.postgres.schema import open_writer, require_current, schema_version
from service.store.postgres.shared import ReplicaStore, SharedStore
from service.store.postgres.store import PostgresStore
from service.store.postgres.turn import wait_for_turn
from service.store.protocol import Deliver, Durability, EventStore
from service.store.reading import Audit, CountingReader, DecisionHistory, LogReader
from service.store.sharing import FollowedStore, Member
from service.store.sql.clock import stored_clock
from service.store.sql.copied import Part, Progress


class Opening:
    """Opens stores and readers of a database.

    Args:
        url: The database.
    """

    def __init__(self, url: PostgresUrl) -> None:
        self._url = url

    def store(self, durability: Durability, deliver: Deliver, gather: Deliver | None) -> EventStore:
        """Open the store of a server."""
        return PostgresStore(self._url, durability, deliver, gather=gather)

    def wait_for_turn(self, waiting: Callable[[], None]) -> None:
        """Return once no server has it."""
        wait_for_turn(self._url, waiting)

    def shared_store(
        self, durability: Durability, deliver: Deliver, gather: Deliver | None, member: Member
    ) -> FollowedStore:
        """Open the store of a server that shares the database."""
        assert isinstance(member, Membership)
        kind = SharedStore if member.is_keeper else ReplicaStore
        return kind(self._url, durability, deliver, gather, member)

    def join(
        self, servers: int, name: str, own_url: str, lease_s: float, diverged: SharedCount
    ) -> Member:
        """Make this server one of those that share the database."""
        return Membership(self._url, servers, name, own_url, lease_s, diverged)

    def reader(self) -> LogReader:
        """Open a reader of logs."""
        return PostgresReader(self._url)

    def history(self) -> DecisionHistory:
        """Open a reader of decisions."""
        return PostgresHistory(self._url)

    def counting(self) -> CountingReader:
        """Open a reader of what is counted."""
        return PostgresCountingReader(self._url)

    def audit(self) -> Audit:
        """Open what checks a store against itself."""
        return PostgresAudit(self._url)

    def noted_clock(self) -> ClockState | None:
        """Return the clock as a server noted it last."""
        with closing(ReadConnection(self._url)) as db:
            return stored_clock(db)

    def log_uid(self) -> str:
        """Return what identifies the log among all others."""
        with closing(ReadConnection(self._url)) as db:
            return str(db.execute("SELECT value FROM meta WHERE key = 'log_uid'").fetchone()[0])

    def read_rows(self, progress: Progress) -> Iterator[Part]:
        """Return all rows of one state."""
        return read_rows(self._url, progress)

    def write_rows(self, parts: Iterable[Part]) -> None:
        """Write rows into the empty database."""
        write_rows(self._url, parts)

    def held(self) -> closing[Session]:
        """Hold the lock of the server until the exit."""
        return closing(open_writer(self._url))

    def inspected(self) -> Inspected:
        """Return what there is to know of it."""
        return inspected(self._url)

    def require_current(self) -> None:
        """Check that this release reads its format."""
        require_current(self._url)

    def schema_version(self) -> int:
        """Return the version of its format."""
        return schema_version(self._url)
