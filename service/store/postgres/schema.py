"""The tables and functions in the database, their version, and the lock of the one server.

`schema` in the table `meta` is the version that was created, `schema_readers` the oldest release's
version that can read it: an addition leaves that one as it is, so that releases can be mixed while
they are replaced one by one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources

from service.store.address import PostgresUrl
from service.store.errors import StoreError, StoreTaken, StoreUnreadable
from service.store.identity import CELL
from service.store.postgres.connection import ReadConnection, Session
from service.store.postgres.faults import ERRORS, describe

SCHEMA_VERSION = 2
READERS = 1  # schema 2 adds tables to schema 1
_ADDED = {2: "tables_2.sql"}  # by the version that has them first
_FUNCTIONS = ("functions_1.sql", "functions_2.sql")
OLDEST_VERSION = 14  # of PostgreSQL
_LACKS_FUNCTIONS = "SELECT 1 WHERE to_regproc('keep_v2') IS NULL OR to_regproc('append_v1') IS NULL"
LOCK = 0x62616E64  # "band": of the one server, beside the oid of the tables' schema
UNWRITABLE = """
SELECT c.relname FROM pg_class AS c WHERE c.relkind = 'r'
AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'meta'::regclass)
AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
  AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
ORDER BY c.relname LIMIT 1
"""
_CREATION = "$1, current_schema()::regnamespace::oid::int"
_META = "INSERT INTO meta VALUES ($1, $2)"


def open_writer(url: PostgresUrl, *, shared: bool = False) -> Session:
    """Connect the writer, take the lock, and create the tables of an empty database.

    Its commits wait until they are durable, whatever the setting of the database is.

    `shared`: Other servers that share it have the lock as well; one that does not cannot.

    Raises:
        StoreError: It cannot be reached, another server has it, it is of another version, or this
            role may not write it.
    """
    try:
        session = _connected(url)
    except (*ERRORS, ValueError) as error:
        raise StoreError(f"{url}: {describe(error)}") from error
    try:
        _check_server(url, session)
        if not _locked(session, shared=shared):
            more = ", whose `servers` is 1" if shared else ": `standby` would wait for its end"
            raise StoreTaken(f"{url} is open in another server{more}")
        with _creating(session):
            if _has_tables(session):
                _require(url, *_versions(session))
                _complete(session)
            else:
                _create(session)
        _require_rights(url, session)
    except StoreError:
        session.close()
        raise
    except ERRORS as error:
        session.close()
        raise StoreError(f"{url}: {_hint(error)}") from error
    return session


def reopened(url: PostgresUrl, *, waits: bool, shared: bool = False) -> Session:
    """Connect the writer again after it was lost, and take the lock again; raises as the driver.

    `waits`: See `Session.wait_for_commits`. A database that was restored meanwhile may be of an
    earlier release: it gets what it lacks.
    """
    session = _connected(url)
    try:
        if not _locked(session, shared=shared):
            raise asyncpg_busy()
        if _has_tables(session) and session.fetch(_LACKS_FUNCTIONS):
            with _creating(session):
                _complete(session)
        session.wait_for_commits(waits)
    except BaseException:
        session.close()
        raise
    return session


def _connected(url: PostgresUrl) -> Session:
    session = Session(url, own_loop=True)
    try:
        session.wait_for_commits(True)
    except BaseException:
        session.close()
        raise
    return session


@contextmanager
def _creating(session: Session) -> Iterator[None]:
    """Create things alone: several servers may start together."""
    session.fetch(f"SELECT pg_advisory_lock({_CREATION})", LOCK + 1)
    yield
    session.fetch(f"SELECT pg_advisory_unlock({_CREATION})", LOCK + 1)


def _complete(session: Session) -> None:
    """Add what this release has and an earlier one had not."""
    _upgrade(session)
    session.script("".join(map(_text, _FUNCTIONS)))


def asyncpg_busy() -> OSError:
    """Return the error of a lock that another connection has, perhaps this server's lost one."""
    return OSError("another connection has the lock of the server")


def schema_version(url: PostgresUrl) -> int:
    """Return the version of the tables; 0: there are none.

    Raises:
        StoreUnreadable: The database cannot be read.
    """
    with closing(ReadConnection(url)) as db:
        if db.execute("SELECT to_regclass('meta')::text").fetchone()[0] is None:
            return 0
        found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        return 0 if found is None else int(found[0])


def require_current(url: PostgresUrl) -> None:
    """Check that this release reads the version of a database.

    Raises:
        StoreError: It has another version, or no tables.
    """
    try:
        version = schema_version(url)
        with closing(ReadConnection(url)) as db:
            oldest = "0"
            if version:
                query = "SELECT value FROM meta WHERE key = 'schema_readers'"
                oldest = db.execute(query).fetchone()[0]
    except StoreUnreadable as error:
        raise StoreError(f"{url}: {error}") from error
    if not version:
        raise StoreError(f"{url} holds no store: no server has used it yet")
    _require(url, version, int(oldest))


def next_epoch(session: Session) -> int:
    """Count this opening; a publish that carries an older epoch is stale."""
    (row,) = session.fetch(
        "INSERT INTO meta VALUES ('epoch', '1') ON CONFLICT (key) DO UPDATE"
        " SET value = (meta.value::bigint + 1)::text RETURNING value"
    )
    return int(row[0])


def current_epoch(session: Session) -> int:
    """Return the epoch of the newest opening."""
    found = session.fetch("SELECT value FROM meta WHERE key = 'epoch'")
    return int(found[0][0]) if found else 0


def _locked(session: Session, *, shared: bool) -> bool:
    kind = "_shared" if shared else ""
    ((taken,),) = session.fetch(
        f"SELECT pg_try_advisory_lock{kind}($1, current_schema()::regnamespace::oid::int)", LOCK
    )
    return bool(taken)


def _check_server(url: PostgresUrl, session: Session) -> None:
    ((version, standby, read_only),) = session.fetch(
        "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),"
        " current_setting('transaction_read_only')"
    )
    if version < OLDEST_VERSION * 10_000:
        raise StoreError(
            f"{url} is PostgreSQL {version // 10_000}: it must be {OLDEST_VERSION} or later"
        )
    if standby or read_only == "on":
        raise StoreError(f"{url} takes no writes: it is a standby, or read-only")


def _has_tables(session: Session) -> bool:
    ((name,),) = session.fetch("SELECT to_regclass('meta')::text")
    return name is not None


def _versions(session: Session) -> tuple[int, int]:
    found = dict(
        tuple(row)
        for row in session.fetch(
            "SELECT key, value FROM meta WHERE key IN ('schema', 'schema_readers')"
        )
    )
    return int(found.get("schema", 0)), int(found.get("schema_readers", 0))


def _require(url: PostgresUrl, version: int, readers: int) -> None:
    if not version:
        raise StoreError(f"{url} has a table `meta` that is not of this service: use a schema or a"
                         " database of its own")  # fmt: skip
    if readers > SCHEMA_VERSION:
        raise StoreError(
            f"{url} has schema {version}, this release reads {SCHEMA_VERSION}: upgrade bandexa"
        )


def _create(session: Session) -> None:
    """Create everything in one transaction."""
    session.script("BEGIN")
    for name in ("tables_1.sql", *_ADDED.values()):
        session.script(_text(name))
    for key, value in (
        ("schema", str(SCHEMA_VERSION)),
        ("schema_readers", str(READERS)),
        ("cell", CELL),
        ("secret", os.urandom(16).hex()),
        ("log_uid", uuid.uuid4().hex),
    ):
        session.fetch(_META, key, value)
    session.script("".join(map(_text, _FUNCTIONS)))
    session.script("COMMIT")


def _upgrade(session: Session) -> None:
    """Add the tables that later versions have, once where several servers start together."""
    if _versions(session)[0] >= SCHEMA_VERSION:
        return
    session.script("BEGIN")
    session.fetch("SELECT 1 FROM meta WHERE key = 'schema' FOR UPDATE")
    version, _ = _versions(session)
    for added, name in _ADDED.items():
        if version < added:
            session.script(_text(name))
    if version < SCHEMA_VERSION:
        session.fetch("UPDATE meta SET value = $1 WHERE key = 'schema'", str(SCHEMA_VERSION))
    session.script("COMMIT")


def _require_rights(url: PostgresUrl, session: Session) -> None:
    found = session.fetch(UNWRITABLE)
    if found:
        raise StoreError(f"{url}: this role may not read and write the table {found[0][0]}")


def _hint(error: BaseException) -> str:
    text = describe(error)
    if getattr(error, "sqlstate", None) == "42501":
        text += ": the role needs CREATE on its schema once, and to own the tables"
    return text


def _text(name: str) -> str:
    return (resources.files("service.store.postgres") / "sql" / name).read_text()
