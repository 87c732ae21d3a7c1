"""Reads and writes the rows of a database for a copy from or to another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from bandexa_core.ids import DecisionId
from service.store.address import PostgresUrl
from service.store.errors import StoreError
from service.store.identity import pack_own_id
from service.store.postgres.connection import Session
from service.store.postgres.faults import ERRORS, as_unreadable, describe
from service.store.postgres.schema import open_writer, schema_version
from service.store.postgres.statements import as_text
from service.store.sql.copied import CHUNK, TABLES, Part, Progress, Table, counted

_OWN_META = (
    "schema",
    "schema_readers",
    "log_uid",
    "snapshot_store",
)  # they stay those of this database
_NUMBERS = {"epoch": int, "windows_looked": float, "service_time_offset": float}
_IDENTITIES = (("bandits", "bandit"), ("audit", "row"), ("erasures", "erasure"))
_HEADS = """
INSERT INTO heads SELECT DISTINCT ON (bandit) bandit, position, hash FROM log
ORDER BY bandit, position DESC
"""


def read_rows(url: PostgresUrl, progress: Progress) -> Iterator[Part]:
    """Yield all rows of one state of a database; a server may write meanwhile.

    Raises:
        StoreUnreadable: It cannot be read.
    """
    with as_unreadable():
        session = Session(url, own_loop=False)
    with closing(session), as_unreadable():
        session.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        total = sum(session.fetch(f"SELECT count(*) FROM {table.name}")[0][0] for table in TABLES)
        yield from counted(_parts(session), total, progress)
        session.script("COMMIT")


def _parts(session: Session) -> Iterator[Part]:
    for table in TABLES:
        session.script(f"DECLARE c_{table.name} NO SCROLL CURSOR FOR {table.select}")
        rows = [None]
        while rows:
            rows = session.fetch(f"FETCH {CHUNK} FROM c_{table.name}")
            found = [_from_database(table, row) for row in rows]
            if table.name == "meta":
                found = [row for row in found if row[0] not in _OWN_META]
            if found:
                yield Part(table, found)


def _from_database(table: Table, row: Any) -> tuple[Any, ...]:
    values = list(row)
    if "own_id" in table.columns:
        at = table.columns.index("own_id")
        values[at] = None if values[at] is None else pack_own_id(DecisionId(values[at]))
    if table.name == "meta":
        key, value = values
        if key == "secret":
            values[1] = bytes.fromhex(value)
        elif key in _NUMBERS and value is not None:
            values[1] = _NUMBERS[key](value)
    return tuple(values)


def write_rows(url: PostgresUrl, parts: Iterable[Part]) -> None:
    """Write these rows into an empty database, all or none of them.

    Raises:
        StoreError: It has a store already, a server has it open, or it cannot be written.
    """
    if schema_version(url):
        raise StoreError(f"{url} holds a store already: a copy needs an empty database")
    session = open_writer(url)
    with closing(session):
        try:
            session.script("BEGIN")
            session.script("DELETE FROM meta WHERE key IN ('cell', 'secret')")
            for table, rows in parts:
                session.copy(table.name, table.columns, [_to_database(table, row) for row in rows])
            session.script(_HEADS)
            for table_name, column in _IDENTITIES:
                session.script(
                    f"SELECT setval(pg_get_serial_sequence('{table_name}', '{column}'),"
                    f" coalesce((SELECT max({column}) FROM {table_name}), 0) + 1, false)"
                )
            session.script("COMMIT")
            session.script("ANALYZE")
        except ERRORS as error:
            raise StoreError(f"{url}: {describe(error)}") from error


def _to_database(table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    values = list(row)
    for at, column in enumerate(table.columns):
        value = values[at]
        if value is None:
            continue
        if column == "own_id" or (table.name == "meta" and column == "value"):
            values[at] = as_text(value)
        elif column == "unit" and isinstance(value, str):
            values[at] = value.encode()
    return tuple(values)
