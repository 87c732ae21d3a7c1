"""A database with a changed bit is refused, also where no query would read it."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from bandexa_core.spec import ContextSpec
from service.store.errors import StoreError, Unavailable
from service.store.sqlite.disk_faults import Damaged
from service.store.sqlite.integrity import checked_at_start, problems

WANTED = "the-decision-with-the-flipped-bit"


def places(path: Path) -> list[int]:
    """Return the places of the id in the file: in the table of decisions, and in their index."""
    data, found = path.read_bytes(), []
    at = data.find(WANTED.encode())
    while at >= 0:
        found.append(at)
        at = data.find(WANTED.encode(), at + 1)
    return found


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def fill(client, store, make, num: int, **spec: object) -> None:
    """Write decisions, among them the one that is damaged later."""
    bandit = make.bandit(client, store, **spec)
    for number in range(num):
        client.ask(store.append_decision, make.decision(bandit, f"d{number}"))
    client.call(store.append_decision, make.decision(bandit, WANTED))
    store.close()


@pytest.mark.parametrize("place", [0, 1])
def test_a_changed_id_is_refused_at_the_start_in_table_and_index(client, store, make, place):
    fill(client, store, make, 40)
    assert checked_at_start(client.path)
    whole = client.path.read_bytes()
    found = places(client.path)
    assert len(found) == 2
    flip(client.path, found[place])
    with pytest.raises(
        StoreError, match=r"bandexa\.db: the database is damaged: .*missing from index"
    ):
        client.open()
    client.path.write_bytes(whole)
    assert client.open().failure is None, "it was the change that was refused"


@pytest.mark.parametrize("what", [b"\x00", b"\xff\xff"])
def test_an_invalid_page_is_refused_in_one_line(client, store, make, what):
    """The page's type or its cell offsets are changed; SQLite reports each in two lines."""
    fill(client, store, make, 40)
    page = places(client.path)[0] // 4096 * 4096
    with client.path.open("r+b") as file:
        file.seek(page + len(what) - 1)
        file.write(what)
    with pytest.raises(StoreError, match="is damaged: ") as refused:
        client.open()
    assert "\n" not in str(refused.value)
    assert "***" not in str(refused.value)


def fill_large(client, store, make) -> None:
    """Write a database too large to be checked before the first request."""
    fill(client, store, make, 280, context=ContextSpec(shape=(64, 1024)))
    assert not checked_at_start(client.path)


def fails_for_good(store) -> None:
    deadline = time.monotonic() + 30
    while not store.failed_for_good:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_large_database_is_checked_beside_the_first_requests(client, store, make, caplog):
    fill_large(client, store, make)
    flip(client.path, places(client.path)[0])
    store = client.open()
    fails_for_good(store)
    assert "index" in store.failure
    [line] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert line.exc_info is None
    assert "the database is damaged" in line.getMessage()
    assert "restore a backup" in line.getMessage()
    with pytest.raises(StoreError, match="takes no writes"):
        client.call(store.sync)
    store.close()


def test_the_next_start_knows_what_the_check_found(client, store, make, tmp_path):
    fill_large(client, store, make)
    whole, [place, _] = client.path.read_bytes(), places(client.path)
    flip(client.path, place)
    fails_for_good(client.open())
    # The failed store holds its lock until the process ends; a copy stands for a new process.
    again = tmp_path / "again"
    again.mkdir()
    for file in tmp_path.glob("bandexa.db*"):
        shutil.copy(file, again)
    client.path = again / "bandexa.db"
    with pytest.raises(StoreError, match="the database is damaged"):
        client.open()
    suspect = again / "bandexa.db.suspect"
    assert suspect.exists()
    client.path.write_bytes(whole)  # a backup is restored
    assert client.open().failure is None
    assert not suspect.exists()


def test_a_sound_large_database_stays_in_service(client, store, make):
    fill_large(client, store, make)
    store = client.open()
    deadline = time.monotonic() + 30
    while "store-check" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.call(store.sync)
    assert store.failure is None


def test_damage_found_during_an_outage_ends_the_store(client, store, make, caplog):
    bandit = make.bandit(client, store, context=ContextSpec(shape=(64, 1024)))
    client.call(store.append_decision, make.decision(bandit, "d0"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        refused = client.ask(store.append_decision, make.decision(bandit, "d1"))
        assert isinstance(refused.exception(20), Unavailable)
        assert not store.failed_for_good
        store._fail(Damaged("found meanwhile"))
        fails_for_good(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "found meanwhile" in store.failure


def test_a_locked_database_is_not_reported_as_damaged(client, store, make):
    """Another program holds it: the next start needs no backup."""
    fill(client, store, make, 4)
    with closing(sqlite3.connect(client.path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with (
            closing(sqlite3.connect(client.path, timeout=0.05)) as db,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            problems(db, 1)


def test_closing_the_store_interrupts_the_check(client, store, make):
    fill_large(client, store, make)
    store = client.open()
    store.close()
    assert "store-check" not in {thread.name for thread in threading.enumerate()}
    assert store.failure is None
