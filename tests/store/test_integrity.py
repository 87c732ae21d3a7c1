"""A database in which a bit has changed is refused, also where no query would meet it."""

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

WANTED = "the-decision-looked-for"


def places(path: Path) -> list[int]:
    """Return where the id stands: in the table of decisions, and in the index of their ids."""
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


def fill(desk, store, make, num: int, **spec: object) -> None:
    """Write decisions, one of them the one looked for."""
    bandit = make.bandit(desk, store, **spec)
    for number in range(num):
        desk.ask(store.append_decision, make.decision(bandit, f"d{number}"))
    desk.call(store.append_decision, make.decision(bandit, WANTED))
    store.close()


@pytest.mark.parametrize("place", [0, 1])
def test_a_changed_id_is_refused_at_the_start_in_table_and_index(desk, store, make, place):
    fill(desk, store, make, 40)
    assert checked_at_start(desk.path)
    kept = desk.path.read_bytes()
    found = places(desk.path)
    assert len(found) == 2
    flip(desk.path, found[place])
    with pytest.raises(
        StoreError, match=r"bandexa\.db: the database is damaged: .*missing from index"
    ):
        desk.open()
    desk.path.write_bytes(kept)
    assert desk.open().failure is None, "it was the change that was refused"


@pytest.mark.parametrize("what", [b"\x00", b"\xff\xff"])
def test_a_page_that_is_none_is_refused_in_one_line(desk, store, make, what):
    """Its kind is changed, or where its cells are; SQLite tells both in two lines."""
    fill(desk, store, make, 40)
    page = places(desk.path)[0] // 4096 * 4096
    with desk.path.open("r+b") as file:
        file.seek(page + len(what) - 1)
        file.write(what)
    with pytest.raises(StoreError, match="is damaged: ") as refused:
        desk.open()
    assert "\n" not in str(refused.value)
    assert "***" not in str(refused.value)


def fill_large(desk, store, make) -> None:
    """Write more than is checked before the first request."""
    fill(desk, store, make, 280, context=ContextSpec(shape=(64, 1024)))
    assert not checked_at_start(desk.path)


def fails_for_good(store) -> None:
    deadline = time.monotonic() + 30
    while not store.failed_for_good:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_large_database_is_checked_beside_the_first_requests(desk, store, make, caplog):
    fill_large(desk, store, make)
    flip(desk.path, places(desk.path)[0])
    store = desk.open()
    fails_for_good(store)
    assert "index" in store.failure
    [told] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert told.exc_info is None
    assert "the database is damaged" in told.getMessage()
    assert "restore a backup" in told.getMessage()
    with pytest.raises(StoreError, match="takes no writes"):
        desk.call(store.sync)
    store.close()


def test_what_the_check_found_is_remembered_by_the_next_start(desk, store, make, tmp_path):
    fill_large(desk, store, make)
    whole, [place, _] = desk.path.read_bytes(), places(desk.path)
    flip(desk.path, place)
    fails_for_good(desk.open())
    # What a failed store holds is its process's; a copy elsewhere stands for a new process.
    again = tmp_path / "again"
    again.mkdir()
    for file in tmp_path.glob("bandexa.db*"):
        shutil.copy(file, again)
    desk.path = again / "bandexa.db"
    with pytest.raises(StoreError, match="the database is damaged"):
        desk.open()
    suspect = again / "bandexa.db.suspect"
    assert suspect.exists()
    desk.path.write_bytes(whole)  # a backup is restored
    assert desk.open().failure is None
    assert not suspect.exists()


def test_a_large_database_that_is_whole_is_served_on(desk, store, make):
    fill_large(desk, store, make)
    store = desk.open()
    deadline = time.monotonic() + 30
    while "store-check" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    desk.call(store.sync)
    assert store.failure is None


def test_damage_found_during_an_outage_ends_the_store_all_the_same(desk, store, make, caplog):
    bandit = make.bandit(desk, store, context=ContextSpec(shape=(64, 1024)))
    desk.call(store.append_decision, make.decision(bandit, "d0"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        refused = desk.ask(store.append_decision, make.decision(bandit, "d1"))
        assert isinstance(refused.exception(20), Unavailable)
        assert not store.failed_for_good
        store._fail(Damaged("found meanwhile"))
        fails_for_good(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "found meanwhile" in store.failure


def test_a_database_that_cannot_be_read_at_present_is_not_called_damaged(desk, store, make):
    """Another program holds it: what the next start needs is no backup."""
    fill(desk, store, make, 4)
    with closing(sqlite3.connect(desk.path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with (
            closing(sqlite3.connect(desk.path, timeout=0.05)) as db,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            problems(db, 1)


def test_a_check_is_broken_off_when_the_store_closes(desk, store, make):
    fill_large(desk, store, make)
    store = desk.open()
    store.close()
    assert "store-check" not in {thread.name for thread in threading.enumerate()}
    assert store.failure is None
