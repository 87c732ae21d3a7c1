"""Databases of other versions: newer ones are refused, older ones migrate as a whole or not at all.

The migrations here are stand-ins; those of saved data directories are tested in tests/recovery.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.store.errors import StoreError
from service.store.sqlite.migrations import Migration, migrate

ROOT = Path(__file__).parents[2]


def statements(*texts: str) -> Migration:
    """Return a migration that runs statements."""

    def run(connection: sqlite3.Connection) -> None:
        for text in texts:
            connection.execute(text)

    return run


STEPS = {
    1: statements("ALTER TABLE t ADD COLUMN b INTEGER NOT NULL DEFAULT 7", "CREATE TABLE u (x)"),
    2: statements("INSERT INTO u SELECT a * 10 FROM t", "DROP TABLE t"),
}
BROKEN = {
    1: STEPS[1],
    2: statements("INSERT INTO u SELECT a FROM t", "INSERT INTO nowhere VALUES (1)"),
}
KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from service.store.sqlite.migrations import migrate
path = Path(sys.argv[1])
connection = sqlite3.connect(path, isolation_level=None)
def step(connection):
    connection.execute("PRAGMA cache_size = 10")
    connection.execute("INSERT INTO t SELECT randomblob(1000000) FROM t, t AS more")
    os.kill(os.getpid(), signal.SIGKILL)
migrate(connection, path, 2, {1: step})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of version 1 with five rows, some of them in the write-ahead log."""
    path = tmp_path / "bandexa.db"
    with closing(connected(path)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE t (a); PRAGMA user_version = 1;"
            "INSERT INTO t VALUES (1), (2), (3), (4), (5);"
        )
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connected(path)) as connection:
        yield connection


def connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def columns(connection: sqlite3.Connection) -> list[str]:
    return [row[1] for row in connection.execute("PRAGMA table_info(t)")]


def test_an_older_database_goes_through_every_step(connection, path):
    migrate(connection, path, 3, STEPS)
    assert version(connection) == 3
    assert connection.execute("SELECT x FROM u").fetchall() == [(10,), (20,), (30,), (40,), (50,)]
    assert columns(connection) == []
    assert path.with_name("bandexa.db-wal").stat().st_size == 0, "it is in the database itself"


def test_a_current_database_is_unchanged(connection, path):
    migrate(connection, path, 1, {1: statements("DROP TABLE t")})
    assert columns(connection) == ["a"]


def test_a_newer_database_is_refused_and_unchanged(connection, path):
    connection.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match=r"version 9, written by a newer release.*up to 3"):
        migrate(connection, path, 3, STEPS)
    assert (version(connection), columns(connection)) == (9, ["a"])


def test_a_database_that_is_too_old_is_refused(connection, path):
    with pytest.raises(StoreError, match="no migration from version 1"):
        migrate(connection, path, 3, {2: STEPS[2]})
    assert (version(connection), columns(connection)) == (1, ["a"])


def test_a_step_that_fails_leaves_the_old_version(connection, path):
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(connection, path, 3, BROKEN)
    assert not connection.in_transaction
    assert (version(connection), columns(connection)) == (1, ["a"])
    migrate(connection, path, 3, STEPS)
    assert version(connection) == 3


def test_a_process_killed_in_a_step_leaves_the_old_version(path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.with_name("bandexa.db-wal").stat().st_size > 10_000_000, "it was well under way"
    with closing(connected(path)) as connection:
        assert (version(connection), columns(connection)) == (1, ["a"])
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (5,)
        migrate(connection, path, 3, STEPS)
        assert version(connection) == 3
