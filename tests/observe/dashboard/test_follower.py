"""The follower counts every row of a store once, in small chunks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandexa_core.ids import ActionId, ActionSlot
from service.observe.counters import Tally
from service.observe.dashboard.follower import BYTES, CHUNK, Follower
from service.store.errors import StoreDamaged
from service.store.records import ChosenAction
from service.store.sqlite import counting
from service.store.sqlite.codec import chosen_ids, pack_chosen, unpack_chosen
from service.store.sqlite.schema import TABLES

NOW = 1764254590.1234567
LEARNED, CHANGED = 1, 0


@pytest.fixture(name="database")
def _database(tmp_path: Path) -> Path:
    path = tmp_path / "bandexa.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(TABLES)
        db.execute("INSERT INTO bandits VALUES (1, 'uid', 'shop', '{}', 0.0, NULL)")
        db.commit()
    return path


@pytest.fixture(name="follower")
def _follower(database: Path, tmp_path: Path) -> Iterator[Follower]:
    follower = Follower(database, tmp_path / "aggregates.db", Tally())
    yield follower
    follower.close()


def picks(*ids: str, features: int = 2) -> tuple[ChosenAction, ...]:
    row = np.ones(features, np.float32)
    return tuple(ChosenAction(ActionId(one), 0, ActionSlot(0), row, 0.5) for one in ids)


def decide(database: Path, num: int, chosen: bytes, std: float | None = 0.25) -> None:
    with closing(sqlite3.connect(database)) as db:
        (first,) = db.execute("SELECT count(*) FROM decisions").fetchone()
        row = (1, NOW, None, b"", chosen, None, 0, 1, 0.5, 1, 0, std)
        for number in range(first, first + num):
            values = (f"d{number}", *row)
            db.execute(f"INSERT INTO decisions VALUES ({', '.join('?' * 13)})", values)
        db.commit()


def log(database: Path, *kinds: int) -> None:
    with closing(sqlite3.connect(database)) as db:
        (last,) = db.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()
        for position, kind in enumerate(kinds, last + 1):
            row: tuple[Any, ...] = (1, position, kind, NOW, None, None, None, None, 1.0)
            row += (None if kind == LEARNED else bytes(100_000), b"")
            db.execute(f"INSERT INTO log VALUES ({', '.join('?' * 11)})", row)
        db.commit()


def counted(tmp_path: Path, what: str) -> float:
    with closing(sqlite3.connect(tmp_path / "aggregates.db")) as db:
        found = db.execute(f"SELECT coalesce(sum({what}), 0) FROM buckets WHERE span = 3600")
        return float(found.fetchone()[0])


def cursor(tmp_path: Path, name: str) -> tuple[int, float | None]:
    with closing(sqlite3.connect(tmp_path / "aggregates.db")) as db:
        found = db.execute("SELECT at, time FROM cursors WHERE name = ?", (name,)).fetchone()
        return found[0], found[1]


def test_decisions_are_counted_once_in_chunks_of_rows(database, follower, tmp_path) -> None:
    decide(database, CHUNK + 1, pack_chosen(picks("red"), b""))
    assert follower.step()
    assert counted(tmp_path, "selects") == CHUNK
    assert not follower.step()
    assert not follower.step()
    assert counted(tmp_path, "selects") == counted(tmp_path, "chosen") == CHUNK + 1
    assert cursor(tmp_path, "decisions") == (CHUNK + 1, NOW)


def test_chunks_of_large_picks_have_few_rows(database, follower, tmp_path) -> None:
    chosen = pack_chosen(picks("red", "green", features=1024), b"")
    decide(database, 20, chosen)
    at_once = -(-BYTES // len(chosen))
    assert follower.step()
    assert counted(tmp_path, "selects") == at_once < 20
    while follower.step():
        pass
    assert counted(tmp_path, "selects") == 20


def test_picks_larger_than_a_chunk_are_counted_one_by_one(database, follower, tmp_path) -> None:
    decide(database, 3, pack_chosen(picks("red", features=BYTES), b""))
    for number in (1, 2, 3):
        assert follower.step()
        assert counted(tmp_path, "selects") == number
    assert not follower.step()


def test_rows_without_a_value_are_passed_over_once(
    database, follower, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(database, CHANGED, LEARNED, CHANGED, CHANGED)
    assert not follower.step()
    assert counted(tmp_path, "num_values") == 1
    assert cursor(tmp_path, "uid")[0] == 4
    with monkeypatch.context() as changed:
        changed.setattr(counting, "_LEARNED", "no statement")  # it would fail
        assert not follower.step()
    log(database, LEARNED, CHANGED, LEARNED)
    assert not follower.step()
    assert counted(tmp_path, "num_values") == 3
    assert cursor(tmp_path, "uid") == (7, NOW)


def test_a_deleted_bandit_leaves_no_cursor(database, follower, tmp_path) -> None:
    def cursors() -> list[tuple[str]]:
        with closing(sqlite3.connect(tmp_path / "aggregates.db")) as db:
            return db.execute("SELECT name FROM cursors ORDER BY name").fetchall()

    log(database, CHANGED)  # there is nothing to count in it
    follower.step()
    assert cursors() == [("uid",)]
    follower._aggregates.prune(NOW, [])
    assert cursors() == []
    decide(database, 1, pack_chosen(picks("red"), b""))
    follower.step()
    follower._aggregates.prune(NOW, [])
    assert cursors() == [("decisions",)]


def test_damaged_decisions_are_reported(database, follower) -> None:
    decide(database, 1, b"\x80")
    with pytest.raises(StoreDamaged, match="d0"):
        follower.step()
    with closing(sqlite3.connect(database)) as db:
        db.execute("UPDATE decisions SET std = 9e999")
        db.commit()
    with pytest.raises(StoreDamaged, match="after row 0"):
        follower.step()


def test_ids_alone_are_those_of_the_picks() -> None:
    chosen = picks("red", 'gr"een', "\N{SNOWMAN}")
    blob = pack_chosen(chosen, b"context")
    assert chosen_ids("d", blob) == tuple(one.id for one in unpack_chosen("d", blob, b"context"))
