"""The store when something around it fails, or another process uses the database as well."""

from __future__ import annotations

import json
import logging
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from bandexa_core.ids import LogPosition
from bandexa_core.spec import ContextSpec
from service.store.errors import StoreError, Unavailable
from service.store.identity import TIME_BITS
from service.store.sqlite.store import SqliteStore
from tests.store.reporting import rewards

FOLLOW = Path(__file__).with_name("follow_until.py")
MEGABYTE = 1 << 20


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """Make the kernel refuse writes beyond a file size; Python ignores the signal for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_another_process_reads_the_log_while_it_is_written(client, store, make):
    bandit = make.bandit(client, store)
    num = 1000
    with subprocess.Popen(
        [sys.executable, str(FOLLOW), str(client.path), str(num)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in range(num):
            client.ask(store.append_decision, make.decision(bandit, f"d{number}"))
            rewarded = client.ask(rewards(store), make.report(f"d{number}", number / 8))
            if number % 10 == 0:  # let groups be committed, so that the reader sees growth
                rewarded.result(20)
        followed = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert followed["rows"] == [[n + 1, f"d{n}", n / 8] for n in range(num)]
    assert followed["heads"] == sorted(followed["heads"])
    assert len(set(followed["heads"])) > 2, "the log was followed while it grew"


def test_a_store_whose_write_fails_has_all_acknowledged_writes_and_takes_no_more(
    client, store, make, caplog
):
    bandit = make.bandit(client, store, context=ContextSpec(shape=(64, 1024)))
    acknowledged = [f"d{number}" for number in range(4)]
    for name in acknowledged:
        assert client.call(store.append_decision, make.decision(bandit, name)) is None
    num_acknowledged = len(acknowledged)
    with no_file_beyond(4 * MEGABYTE), caplog.at_level(logging.CRITICAL):
        for number in range(4, 64):
            future = client.ask(store.append_decision, make.decision(bandit, f"d{number}"))
            error = future.exception(20)
            if error is not None:
                break
            num_acknowledged += 1
    assert isinstance(error, Unavailable)
    assert 4 <= num_acknowledged < 64
    assert store.failure is not None
    late = client.ask(rewards(store), make.report("d0")).exception(20)
    assert isinstance(late, Unavailable)
    assert "the disk refuses" in str(late), "it says why"
    store.close()

    reopened = client.open()
    names = [f"d{number}" for number in range(num_acknowledged + 1)]
    with closing(sqlite3.connect(client.path)) as connection:
        found = connection.execute("SELECT own_id FROM decisions ORDER BY key").fetchall()
    assert [name for (name,) in found] == names[:-1]
    assert client.call(rewards(reopened), make.report("d0")).row.position == 1


def test_a_failed_group_is_refused_as_a_whole(client, store, make, caplog):
    bandit = make.bandit(client, store, context=ContextSpec(shape=(64, 1024)))
    with no_file_beyond(4 * MEGABYTE), caplog.at_level(logging.CRITICAL):
        futures = [
            client.ask(store.append_decision, make.decision(bandit, f"d{number}"))
            for number in range(64)
        ]
        errors = [future.exception(20) for future in futures]
    num_acknowledged = errors.index(next(error for error in errors if error is not None))
    assert all(isinstance(error, Unavailable) for error in errors[num_acknowledged:])
    with store.reader() as reader, closing(sqlite3.connect(client.path)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM decisions").fetchone()
        assert found == num_acknowledged
        assert reader.head(bandit.key) == LogPosition(0)


def test_of_several_in_one_append_only_what_cannot_be_written_fails(client, store, make, caplog):
    bandit = make.bandit(client, store)
    records = [make.decision(bandit, f"d{number}") for number in range(5)]
    records[3] = replace(records[3], unit=object())  # no text, as it should be
    with caplog.at_level(logging.CRITICAL):
        *first, bad, last = client.call(store.append_decisions, records)
    assert [*first, last] == [None] * 4
    assert isinstance(bad, StoreError)
    assert store.failure is None
    with closing(sqlite3.connect(client.path)) as connection:
        found = connection.execute("SELECT own_id FROM decisions ORDER BY key").fetchall()
    assert [name for (name,) in found] == ["d0", "d1", "d2", "d4"]


def test_a_failing_callback_prevents_no_other_answer(client, store, make, caplog):
    bandit = make.bandit(client, store)

    def refuses(result: object, error: Exception | None) -> None:
        raise RuntimeError("not now")

    with caplog.at_level(logging.CRITICAL):
        store.append_decision(make.decision(bandit, "d0"), refuses)
        assert client.call(store.append_decision, make.decision(bandit, "d1")) is None
    assert client.call(rewards(store), make.report("d0")).status == "applied"


def test_a_store_that_is_open_is_not_opened_again(client, store):
    with pytest.raises(StoreError, match="open in another process"):
        client.open()
    with store.reader() as reader:
        assert reader.epoch() == store.epoch == 1
    store.close()
    assert client.open().epoch == 2


def test_an_interrupted_purge_is_finished_at_the_next_opening(client, store, make):
    doomed, other = make.bandit(client, store, "doomed"), make.bandit(client, store, "other")
    for bandit, name in ((doomed, "d0"), (doomed, "d1"), (other, "o0")):
        client.call(store.append_decision, make.decision(bandit, name))
        client.call(rewards(store), make.report(name))
    store.close()
    with closing(sqlite3.connect(client.path)) as connection, connection:
        connection.execute("UPDATE bandits SET deleted = 9 WHERE name = 'doomed'")
    store = client.open()
    client.call(store.sync)
    with closing(sqlite3.connect(client.path)) as connection:
        for table in ("decisions", "rewards", "ledger"):
            rows = connection.execute(f"SELECT key >> {TIME_BITS} FROM {table}").fetchall()
            assert rows == [(other.key,)], table
    with store.reader() as reader:
        assert (reader.head(doomed.key), reader.head(other.key)) == (0, 1)
        assert reader.deleted() == [doomed.uid]


def test_a_database_of_a_newer_release_is_refused_and_unchanged(client, store, make):
    make.bandit(client, store)
    store.close()
    with closing(sqlite3.connect(client.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        client.open()
    with closing(sqlite3.connect(client.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
        assert connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchall() == [(1,)]


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "bandexa.db"
    path.write_bytes(b"something else entirely " * 100)
    with pytest.raises(StoreError, match=r"bandexa\.db"):
        SqliteStore(path, "os", lambda answer: answer())
