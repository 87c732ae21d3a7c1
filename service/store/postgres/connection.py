"""Connections to PostgreSQL that are called like SQLite's: from one thread, one call after another.

asyncpg wants an event loop. The writer's connection has one of its own, which runs on the writer
thread while a statement does. All readers of a process share one loop in a thread, because some
are used on the loop of the server, in which no other loop can run.

Sessions have settings without which a plan that was made while tables were empty scans them later.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from service.store.address import PostgresUrl
from service.store.postgres.faults import as_unreadable
from service.store.postgres.statements import Translated, converters, translated

T = TypeVar("T")
CONNECT_S = 10.0
STATEMENT_S = 60.0
SESSION = {
    "application_name": "bandexa",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "10s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "TimeZone": "UTC",
}


class Found:
    """The rows of a statement; see `sql.database.Rows`."""

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount

    def fetchone(self) -> Any:
        """Return the next row, None where there is none."""
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""
        return list(self._rows)

    def close(self) -> None:
        """Drop the rows that were not taken."""
        self._rows = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class _Prepared(NamedTuple):
    statement: PreparedStatement
    converters: list[tuple[int, Any]]
    translated: Translated


class _ReadersLoop:
    """The loop of all readers of this process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="store-readers", daemon=True).start()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()


@cache
def _readers_loop() -> _ReadersLoop:
    return _ReadersLoop()


class _OwnLoop:
    """A loop that runs in the calling thread, while a call does."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)


class Session:
    """A connection; its exceptions are the driver's.

    Args:
        url: The database.
        own_loop: Whether it is used outside of any event loop alone.
        wait_s: How long to wait for the database, when connecting too; None: as long as usual.
    """

    def __init__(self, url: PostgresUrl, *, own_loop: bool, wait_s: float | None = None) -> None:
        self._loop: _OwnLoop | _ReadersLoop = _OwnLoop() if own_loop else _readers_loop()
        self._own_loop = own_loop
        self._prepared: dict[str, _Prepared] = {}
        try:
            self._connection: asyncpg.Connection = self._loop.run(
                asyncpg.connect(
                    url.url, timeout=wait_s or CONNECT_S, command_timeout=wait_s or STATEMENT_S,
                    server_settings=SESSION, statement_cache_size=0,
                )
            )  # fmt: skip
        except BaseException:
            self._close_loop()
            raise

    def execute(self, sql: str, parameters: Any = ()) -> Found:
        """Run a statement with marks."""
        return self._loop.run(self._execute(sql, parameters))

    def executemany(self, sql: str, parameters: Iterable[Any]) -> None:
        """Run a statement once for each of the parameters, all or none of them."""
        self._loop.run(self._executemany(sql, list(parameters)))

    def wait_for_commits(self, waits: bool) -> None:
        """Have commits wait until they are durable, or wait for nothing.

        By a statement: poolers may ignore settings that are given as a connection begins.
        """
        self.script(f"SET synchronous_commit = {'on' if waits else 'off'}")

    def script(self, sql: str) -> None:
        """Run statements without parameters."""
        self._loop.run(self._connection.execute(sql))

    def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a statement with PostgreSQL's own marks, whose arguments have their types."""
        return self._loop.run(self._fetch(sql, arguments))

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
        """Copy rows into a table."""
        self._loop.run(
            self._connection.copy_records_to_table(
                table, columns=columns, records=rows, timeout=STATEMENT_S
            )
        )

    def abort(self) -> None:
        """End the connection from another thread than its own; a call under way fails."""
        self._loop.loop.call_soon_threadsafe(self._connection.terminate)

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return bool(self._connection.is_closed())

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        if not self._connection.is_closed():
            try:
                self._loop.run(self._connection.close(timeout=2.0))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                self._connection.terminate()
        self._close_loop()

    def _close_loop(self) -> None:
        if self._own_loop and not self._loop.loop.is_closed():
            self._loop.loop.close()

    async def _prepare(self, sql: str) -> _Prepared:
        found = self._prepared.get(sql)
        if found is None:
            text = translated(sql)
            found = self._prepared.get(text.sql)  # of a list of another length
            if found is None:
                statement = await self._connection.prepare(text.sql)
                types = [each.name for each in statement.get_parameters()]
                found = self._prepared[text.sql] = _Prepared(statement, converters(types), text)
            self._prepared[sql] = found
        return found

    async def _execute(self, sql: str, parameters: Any) -> Found:
        prepared = await self._prepare(sql)
        rows = await prepared.statement.fetch(*_arguments(prepared, parameters))
        status = prepared.statement.get_statusmsg().rpartition(" ")[2]
        return Found([tuple(row) for row in rows], int(status) if status.isdigit() else -1)

    async def _executemany(self, sql: str, parameters: list[Any]) -> None:
        prepared = await self._prepare(sql)
        await prepared.statement.executemany([_arguments(prepared, each) for each in parameters])

    async def _fetch(self, sql: str, arguments: Sequence[Any]) -> list[Any]:
        found = self._prepared.get(sql)
        if found is None:
            statement = await self._connection.prepare(sql)
            found = self._prepared[sql] = _Prepared(statement, [], Translated(sql))
        rows: list[Any] = await found.statement.fetch(*arguments)
        return rows


def _arguments(prepared: _Prepared, parameters: Any) -> Sequence[Any]:
    arguments = prepared.translated.arguments(parameters)
    if prepared.converters:
        arguments = list(arguments)
        for place, convert in prepared.converters:
            arguments[place] = convert(arguments[place])
    return arguments


class ReadConnection:
    """A connection that only reads, and connects again after it was lost.

    Its exceptions are `StoreUnreadable`. `BEGIN` holds one state of the database until `COMMIT`.
    A call from another thread waits for the one under way, as with SQLite: a worker whose keeper
    ends reads on its event loop while a model is loaded.

    Args:
        url: The database.
        wait_s: See `Session`.
    """

    def __init__(self, url: PostgresUrl, wait_s: float | None = None) -> None:
        self._url = url
        self._wait_s = wait_s
        self._session: Session | None = None
        self._closed = False
        self._one_at_a_time = threading.Lock()
        self._connected()

    def execute(self, sql: str, parameters: Any = (), /) -> Found:
        """Run a statement."""
        if sql == "BEGIN":
            sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self._one_at_a_time, as_unreadable():
            session = self._connected()
            try:
                return session.execute(sql, parameters)
            except TimeoutError:  # the answer may still come: nobody waits for it
                session.abort()
                raise

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> None:
        """Refuse: it only reads."""
        raise AssertionError("a reader does not write")

    def close(self) -> None:
        """Close it; calling it again does nothing."""
        self._closed = True
        if self._session is not None:
            self._session.close()
            self._session = None

    def _connected(self) -> Session:
        with as_unreadable():
            if self._closed:
                raise asyncpg.InterfaceError("the reader is closed")
            if self._session is None or self._session.is_closed:
                self._session = Session(self._url, own_loop=False, wait_s=self._wait_s)
            return self._session
