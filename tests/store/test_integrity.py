"""A database in which a bit has changed is refused, also where no query would meet it."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from bandexa_core.spec import ContextSpec
from service.exceptions import StoreError
from service.store.integrity import is_small

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
    assert is_small(desk.path)
    kept = desk.path.read_bytes()
    found = places(desk.path)
    assert len(found) == 2
    flip(desk.path, found[place])
    with pytest.raises(StoreError, match=r"bandexa\.db is damaged: .*missing from index"):
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


def test_a_large_database_is_checked_beside_the_first_requests(desk, store, make, caplog):
    fill(desk, store, make, 280, context=ContextSpec(shape=(64, 1024)))
    assert not is_small(desk.path)
    whole = shutil.copy(desk.path, desk.path.with_name("whole.db"))
    flip(desk.path, places(desk.path)[0])
    store = desk.open()
    deadline = time.monotonic() + 30
    while not store.failed_for_good:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "index" in store.failure
    assert [record.exc_info for record in caplog.records if record.levelname == "CRITICAL"] == [
        None
    ]
    with pytest.raises(StoreError, match="takes no writes"):
        desk.call(store.sync)
    store.close()

    shutil.copy(whole, desk.path)
    # What a failed store leaves locked is its process's; another path stands for a new process.
    desk.path = Path(whole)
    store = desk.open()
    desk.call(store.sync)
    assert store.failure is None
    store.close()


def test_a_check_is_broken_off_when_the_store_closes(desk, store, make):
    fill(desk, store, make, 280, context=ContextSpec(shape=(64, 1024)))
    store = desk.open()
    store.close()
    assert "store-check" not in {thread.name for thread in threading.enumerate()}
    assert store.failure is None
