"""What the store does when something around it fails, or another process is there too."""

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

from bandexa_core.ids import LogPosition
from bandexa_core.spec import ContextSpec
from service.store.errors import StoreError, Unavailable
from service.store.sqlite.store import SqliteStore

FOLLOW = Path(__file__).with_name("follow_until.py")
MEGABYTE = 1 << 20


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """Have the kernel refuse writes beyond a size; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_another_process_reads_the_log_while_it_is_written(desk, store, make):
    bandit = make.bandit(desk, store)
    num = 3000
    with subprocess.Popen(
        [sys.executable, str(FOLLOW), str(desk.path), str(num)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in range(num):
            desk.ask(store.append_decision, make.decision(bandit, f"d{number}"))
            rewarded = desk.ask(store.append_reward, make.report(f"d{number}", number / 8))
            if number % 10 == 0:  # let groups be committed, so that the reader sees growth
                rewarded.result(20)
        seen = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert seen["rows"] == [[n + 1, f"d{n}", n / 8] for n in range(num)]
    assert seen["heads"] == sorted(seen["heads"])
    assert len(set(seen["heads"])) > 2, "the log was followed while it grew"


def test_a_store_whose_write_fails_keeps_what_it_acknowledged_and_takes_no_more(
    desk, store, make, caplog
):
    bandit = make.bandit(desk, store, context=ContextSpec(shape=(64, 1024)))
    kept = [f"d{number}" for number in range(4)]
    for name in kept:
        assert desk.call(store.append_decision, make.decision(bandit, name)) is None
    num_acknowledged = len(kept)
    with no_file_beyond(4 * MEGABYTE), caplog.at_level(logging.CRITICAL):
        for number in range(4, 64):
            future = desk.ask(store.append_decision, make.decision(bandit, f"d{number}"))
            error = future.exception(20)
            if error is not None:
                break
            num_acknowledged += 1
    assert isinstance(error, Unavailable)
    assert 4 <= num_acknowledged < 64
    assert store.failure is not None
    late = desk.ask(store.append_reward, make.report("d0")).exception(20)
    assert isinstance(late, Unavailable)
    assert "the disk refuses" in str(late), "it says why"
    store.close()

    reopened = desk.open()
    names = [f"d{number}" for number in range(num_acknowledged + 1)]
    with closing(sqlite3.connect(desk.path)) as connection:
        found = connection.execute("SELECT decision_id FROM decisions ORDER BY rowid").fetchall()
    assert [name for (name,) in found] == names[:-1]
    assert desk.call(reopened.append_reward, make.report("d0")).row.position == 1


def test_a_failed_group_is_refused_as_a_whole(desk, store, make, caplog):
    bandit = make.bandit(desk, store, context=ContextSpec(shape=(64, 1024)))
    with no_file_beyond(4 * MEGABYTE), caplog.at_level(logging.CRITICAL):
        futures = [
            desk.ask(store.append_decision, make.decision(bandit, f"d{number}"))
            for number in range(64)
        ]
        errors = [future.exception(20) for future in futures]
    num_kept = errors.index(next(error for error in errors if error is not None))
    assert all(isinstance(error, Unavailable) for error in errors[num_kept:])
    with store.reader() as reader, closing(sqlite3.connect(desk.path)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM decisions").fetchone()
        assert found == num_kept
        assert reader.head(bandit.key) == LogPosition(0)


def test_an_answer_that_is_not_taken_costs_no_other_answer(desk, store, make, caplog):
    bandit = make.bandit(desk, store)

    def refuses(result: object, error: Exception | None) -> None:
        raise RuntimeError("not now")

    with caplog.at_level(logging.CRITICAL):
        store.append_decision(make.decision(bandit, "d0"), refuses)
        assert desk.call(store.append_decision, make.decision(bandit, "d1")) is None
    assert desk.call(store.append_reward, make.report("d0")).status == "applied"


def test_a_store_that_is_open_is_not_opened_again(desk, store):
    with pytest.raises(StoreError, match="open in another process"):
        desk.open()
    with store.reader() as reader:
        assert reader.epoch() == store.epoch == 1
    store.close()
    assert desk.open().epoch == 2


def test_a_purge_that_was_cut_short_is_finished_at_the_next_opening(desk, store, make):
    doomed, other = make.bandit(desk, store, "doomed"), make.bandit(desk, store, "other")
    for bandit, name in ((doomed, "d0"), (doomed, "d1"), (other, "o0")):
        desk.call(store.append_decision, make.decision(bandit, name))
        desk.call(store.append_reward, make.report(name))
    store.close()
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute("UPDATE bandits SET deleted = 9 WHERE name = 'doomed'")
    store = desk.open()
    desk.call(store.sync)
    with closing(sqlite3.connect(desk.path)) as connection:
        for table in ("decisions", "rewards", "outcomes"):
            rows = connection.execute(f"SELECT decision_id FROM {table}").fetchall()
            assert rows == [("o0",)], table
    with store.reader() as reader:
        assert (reader.head(doomed.key), reader.head(other.key)) == (0, 1)
        assert reader.deleted() == [doomed.uid]


def test_a_database_of_a_newer_release_is_refused_and_left_alone(desk, store, make):
    make.bandit(desk, store)
    store.close()
    with closing(sqlite3.connect(desk.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        desk.open()
    with closing(sqlite3.connect(desk.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
        assert connection.execute("SELECT value FROM meta").fetchall() == [(1,)]


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "bandexa.db"
    path.write_bytes(b"something else entirely " * 100)
    with pytest.raises(StoreError, match=r"bandexa\.db"):
        SqliteStore(path, "os", lambda answer: answer())
