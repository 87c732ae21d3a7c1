"""Leases in a database: one holder at a time, and stale epochs write nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from service.store.address import PostgresUrl
from service.store.postgres.connection import Session
from service.store.postgres.leases import Leases, held
from service.store.postgres.schema import open_writer
from tests.fixtures.postgres import Cluster
from tests.fixtures.waiting import poll

pytestmark = pytest.mark.needs("postgres")
LONG_S, SHORT_S = 60.0, 0.05
WRITE = f"INSERT INTO kept SELECT $3 WHERE {held('$1', '$2')} RETURNING 1"
WAITING = """
SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INTO leases%'
"""
HOLDER = """
import sys
from service.store.address import PostgresUrl
from service.store.postgres.connection import Session
from service.store.postgres.leases import Leases, held
session = Session(PostgresUrl(sys.argv[1]), own_loop=True)
epoch = Leases(session, "paused").lease("keeper", 0.2)
print(epoch, flush=True)
sys.stdin.readline()
print(len(session.fetch(sys.argv[2], "keeper", epoch, "late")), flush=True)
"""


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    with postgres.empty() as url:
        with closing(open_writer(PostgresUrl(url))) as session:
            session.script("CREATE TABLE kept (what text NOT NULL)")
        yield url


@pytest.fixture
def session(url: str) -> Iterator[Session]:
    with closing(Session(PostgresUrl(url), own_loop=True)) as session:
        yield session


def kept(session: Session) -> list[str]:
    return [row[0] for row in session.fetch("SELECT what FROM kept ORDER BY what")]


def test_one_holder_has_a_lease_until_it_is_given_back(session) -> None:
    a, b = Leases(session, "a"), Leases(session, "b")
    assert a.lease("keeper", LONG_S) == 1
    assert b.lease("keeper", LONG_S) is None
    assert b.lease("train/1", LONG_S) == 1  # another one
    assert a.lease("keeper", LONG_S) == 1  # prolongs
    assert a.renew("keeper", 1, LONG_S)
    assert not b.renew("keeper", 1, LONG_S)
    assert not b.release("keeper", 1)
    assert [(each.name, each.holder) for each in a.found()] == [("keeper", "a"), ("train/1", "b")]
    assert [each.name for each in a.found("train/")] == ["train/1"]
    assert a.release("keeper", 1)
    assert not a.release("keeper", 1)
    assert session.fetch(WRITE, "keeper", 1, "after the release") == []
    assert b.lease("keeper", LONG_S) == 3
    assert kept(session) == []


def test_a_lease_ends_by_the_clock_of_the_database(session) -> None:
    a, b = Leases(session, "a"), Leases(session, "b")
    first = a.lease("keeper", SHORT_S)
    second = poll(lambda: b.lease("keeper", LONG_S), "the lease ends")
    assert (first, second) == (1, 2)
    assert not a.renew("keeper", 1, LONG_S)
    assert a.lease("keeper", LONG_S) is None
    assert session.fetch(WRITE, "keeper", 1, "stale") == []
    assert len(session.fetch(WRITE, "keeper", 2, "fresh")) == 1
    assert kept(session) == ["fresh"]


def test_one_that_ended_and_that_nobody_took_is_held_on(session) -> None:
    a = Leases(session, "a")
    assert a.lease("keeper", 0.0) == 1
    assert a.renew("keeper", 1, LONG_S)
    assert Leases(session, "b").lease("keeper", LONG_S) is None


def test_a_holder_that_was_paused_past_its_end_writes_nothing(url, session) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, WRITE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGSTOP)
        other = Leases(session, "other")
        epoch = poll(lambda: other.lease("keeper", LONG_S), "the paused holder loses it")
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "0\n"
    assert len(session.fetch(WRITE, "keeper", epoch, "in time")) == 1
    assert kept(session) == ["in time"]


def test_a_guarded_write_is_whole_before_another_holder_begins(url, session) -> None:
    """The new holder waits for the commit of what the old one was in the middle of."""
    assert Leases(session, "a").lease("keeper", 0.0) == 1
    session.script("BEGIN")
    assert len(session.fetch(WRITE, "keeper", 1, "old")) == 1
    with (
        closing(Session(PostgresUrl(url), own_loop=False)) as second,
        closing(Session(PostgresUrl(url), own_loop=True)) as third,
        ThreadPoolExecutor(1) as thread,
    ):
        taking = thread.submit(Leases(second, "b").lease, "keeper", LONG_S)
        poll(lambda: third.fetch(WAITING), "the new holder waits")
        assert not taking.done()
        session.script("COMMIT")
        assert taking.result() == 2
    assert kept(session) == ["old"]


def test_of_many_that_take_a_lease_at_once_one_has_it(url) -> None:
    def take(name: str) -> int | None:
        with closing(Session(PostgresUrl(url), own_loop=True)) as own:
            return Leases(own, name).lease("keeper", LONG_S)

    with ThreadPoolExecutor(8) as threads:
        epochs = list(threads.map(take, "abcdefgh"))
    assert sorted(epoch for epoch in epochs if epoch is not None) == [1]


def test_a_database_of_schema_1_gets_the_tables(url, session) -> None:
    session.script("DROP TABLE leases, snapshots, blobs, orders")
    session.script("UPDATE meta SET value = '1' WHERE key = 'schema'")
    open_writer(PostgresUrl(url)).close()
    assert Leases(session, "a").lease("keeper", LONG_S) == 1
    versions = "SELECT key, value FROM meta WHERE key LIKE 'schema%' ORDER BY key"
    assert [tuple(row) for row in session.fetch(versions)] == [
        ("schema", "2"), ("schema_readers", "1"),
    ]  # fmt: skip
