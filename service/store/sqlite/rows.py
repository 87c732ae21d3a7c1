"""Reads and writes the rows of a file for a copy from or to another database."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from bandexa_core.filesystem import LocalFileSystem
from service.store.sql.copied import TABLES, Part, Progress, counted, in_parts
from service.store.sqlite.connection import as_store_errors, connect_reader
from service.store.sqlite.schema import open_writer
from service.store.sqlite.tables import stand_in

_OWN_META = ("probe", "synced")  # notes of the writer that mean nothing elsewhere


def read_rows(path: Path, progress: Progress) -> Iterator[Part]:
    """Yield all rows of one state of a file.

    Raises:
        StoreUnreadable: It cannot be read.
    """
    with closing(connect_reader(path)) as db:
        stand_in(db)
        db.execute("BEGIN")
        total = sum(
            db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] for table in TABLES
        )
        parts = (
            part
            for table in TABLES
            for part in in_parts(
                table,
                (
                    row
                    for row in db.execute(table.select)
                    if table.name != "meta" or row[0] not in _OWN_META
                ),
            )
        )
        yield from counted(parts, total, progress)
        db.execute("COMMIT")


def write_rows(path: Path, parts: Iterable[Part]) -> None:
    """Create a file with these rows; it is synced when this returns.

    Raises:
        StoreError: It cannot be written.
    """
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).unlink()
    with closing(open_writer(path, "commit", check=False)) as db, as_store_errors():
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM meta")
        for table, rows in parts:
            marks = ", ".join("?" * len(table.columns))
            columns = ", ".join(table.columns)
            db.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", rows)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute("PRAGMA journal_mode = DELETE")
    fs = LocalFileSystem()
    opened = fs.open_file(path, create=False)
    try:
        fs.sync_file(opened)
    finally:
        os.close(opened)
    fs.sync_dir(path.parent)
