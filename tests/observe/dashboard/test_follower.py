"""The follower counts every row of a store once, in small chunks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.ids import ActionId, ActionSlot
from service.observe.counters import Tally
from service.observe.dashboard.follower import BYTES, CHUNK, Follower
from service.store.errors import StoreDamaged
from service.store.identity import first_key
from service.store.opening import open_counting
from service.store.records import ChosenAction
from service.store.sql import counting
from service.store.sql.codec import chosen_ids, pack_chosen, unpack_chosen
from service.store.sqlite.aggregates import AggregateWriter, compared_of, decisions_of
from service.store.sqlite.tables import create_tables
from tests.fixtures.waiting import poll

NOW = 1764254590.1234567
LEARNED, CHANGED = 1, 0


@pytest.fixture(name="database")
def _database(tmp_path: Path) -> Path:
    path = tmp_path / "bandexa.db"
    with closing(sqlite3.connect(path)) as db:
        create_tables(db)
        db.execute("INSERT INTO bandits VALUES (1, 'uid', 'shop', '{}', 0.0, NULL)")
        db.commit()
    return path


@pytest.fixture(name="follower")
def _follower(database: Path, tmp_path: Path) -> Iterator[Follower]:
    follower = Follower(open_counting(database), tmp_path / "aggregates.db", Tally())
    yield follower
    follower.close()


def picks(*ids: str, features: int = 2) -> tuple[ChosenAction, ...]:
    row = np.ones(features, np.float32)
    return tuple(ChosenAction(ActionId(one), 0, ActionSlot(0), row, 0.5) for one in ids)


def decide(
    database: Path,
    num: int,
    chosen: bytes,
    bandit: int = 1,
    *,
    propensity: float | None = 0.5,
    time: float = NOW,
) -> None:
    """Store decisions of a bandit, at the places after those it has."""
    with closing(sqlite3.connect(database)) as db:
        (stored,) = db.execute(
            "SELECT count(*) FROM decisions WHERE key > ? AND key < ?",
            (first_key(bandit), first_key(bandit + 1)),
        ).fetchone()
        db.executemany(
            "INSERT INTO decisions (key, time, context, chosen, snapshot, position, propensity,"
            " activated, explored, std) VALUES (?, ?, x'', ?, 0, 1, ?, 1, 0, 0.25)",
            [
                (first_key(bandit) + stored + number, time, chosen, propensity)
                for number in range(1, num + 1)
            ],
        )
        db.commit()


def log(database: Path, *kinds: int) -> None:
    with closing(sqlite3.connect(database)) as db:
        (last,) = db.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()
        for position, kind in enumerate(kinds, last + 1):
            payload = None if kind == LEARNED else bytes(100_000)
            db.execute(
                "INSERT INTO log (bandit, position, kind, time, after, payload, ends, hash)"
                " VALUES (1, ?, ?, ?, 1.0, ?, 1, x'')",
                (position, kind, NOW, payload),
            )
        db.commit()


def counted(tmp_path: Path, what: str) -> float:
    with closing(sqlite3.connect(tmp_path / "aggregates.db")) as db:
        found = db.execute(f"SELECT coalesce(sum({what}), 0) FROM buckets WHERE span = 3600")
        return float(found.fetchone()[0])


def selects(tmp_path: Path) -> dict[str, int]:
    """Return how many decisions of each bandit were counted."""
    with closing(sqlite3.connect(tmp_path / "aggregates.db")) as db:
        return dict(
            db.execute("SELECT bandit, sum(selects) FROM buckets WHERE span = 3600 GROUP BY bandit")
        )


def cursor(tmp_path: Path, name: str) -> int:
    with closing(sqlite3.connect(tmp_path / "aggregates.db")) as db:
        found = db.execute("SELECT at FROM cursors WHERE name = ?", (name,)).fetchone()
        return int(found[0])


def test_decisions_are_counted_once_in_chunks_of_rows(database, follower, tmp_path) -> None:
    decide(database, CHUNK + 1, pack_chosen(picks("red"), b""))
    assert follower.step()
    assert counted(tmp_path, "selects") == CHUNK
    assert not follower.step()
    assert not follower.step()
    assert counted(tmp_path, "selects") == counted(tmp_path, "chosen") == CHUNK + 1
    assert cursor(tmp_path, decisions_of("uid")) == first_key(1) + CHUNK + 1


def test_it_goes_on_after_an_error_that_nobody_expected(database, tmp_path, caplog) -> None:
    class Surprised(Follower):
        steps = 0

        def step(self) -> bool:
            self.steps += 1
            if self.steps == 1:
                raise ArithmeticError("an interval without end")
            return super().step()

    decide(database, 10, pack_chosen(picks("x"), b""))
    follower = Surprised(open_counting(database), tmp_path / "aggregates.db", Tally())
    follower.start()
    try:
        poll(lambda: counted(tmp_path, "selects") == 10.0, "the decisions are counted")
    finally:
        follower.close()
    assert "an interval without end" in caplog.text


def test_the_bandits_are_counted_in_turn(database, follower, tmp_path) -> None:
    """A bandit that decides faster than it is counted does not keep others waiting."""
    with closing(sqlite3.connect(database)) as db:
        for bandit in (2, 3):
            db.execute("INSERT INTO bandits VALUES (?, ?, ?, '{}', 0.0, NULL)", (bandit,) * 3)
        db.commit()
    red = pack_chosen(picks("red"), b"")
    decide(database, 3 * CHUNK, red)
    decide(database, CHUNK, red, 2)
    decide(database, 3, red, 3)
    assert follower.step()
    assert selects(tmp_path) == {"uid": CHUNK}
    assert follower.step()
    assert selects(tmp_path) == {"uid": CHUNK, "2": CHUNK}
    assert follower.step()
    assert selects(tmp_path) == {"uid": 2 * CHUNK - 3, "2": CHUNK, "3": 3}
    while follower.step():
        pass
    assert selects(tmp_path) == {"uid": 3 * CHUNK, "2": CHUNK, "3": 3}


def test_a_decision_waits_for_the_propensity_that_is_computed_after_the_answer(
    database, follower, tmp_path
) -> None:
    red = pack_chosen(picks("red"), b"")
    decide(database, 2, red)
    decide(database, CHUNK, red, propensity=None, time=time.time())
    assert not follower.step(), "there is nothing to count before it is stored"
    assert counted(tmp_path, "selects") == 2
    with closing(sqlite3.connect(database)) as db:
        db.execute("UPDATE decisions SET propensity = 0.5")
        db.commit()
    while follower.step():
        pass
    assert counted(tmp_path, "selects") == counted(tmp_path, "propensities") == CHUNK + 2


def test_counting_goes_on_where_the_file_of_the_release_before_ends(database, tmp_path) -> None:
    """It counted rows of all bandits; a migrated store has row n of each bandit at place n."""
    path = tmp_path / "aggregates.db"
    AggregateWriter(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP TABLE cursors; PRAGMA user_version = 1;"
            "CREATE TABLE cursors (name TEXT PRIMARY KEY, at INTEGER NOT NULL, mark TEXT,"
            " time REAL) WITHOUT ROWID;"
            f"INSERT INTO cursors VALUES ('decisions', 5, 'd5', {NOW}), ('uid', 2, NULL, {NOW});"
        )
    decide(database, 7, pack_chosen(picks("red"), b""))
    log(database, LEARNED, LEARNED, LEARNED)
    follower = Follower(open_counting(database), path, Tally())
    assert not follower.step()
    follower.close()
    assert counted(tmp_path, "selects") == 2
    assert counted(tmp_path, "num_values") == 1
    assert cursor(tmp_path, decisions_of("uid")) == first_key(1) + 7
    assert cursor(tmp_path, compared_of("uid")) == 2, "older values are in no sum of actions"


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
    assert cursor(tmp_path, "uid") == 4
    with monkeypatch.context() as changed:
        changed.setattr(counting, "_LEARNED", "no statement")  # it would fail
        assert not follower.step()
    log(database, LEARNED, CHANGED, LEARNED)
    assert not follower.step()
    assert counted(tmp_path, "num_values") == 3
    assert cursor(tmp_path, "uid") == 7


def test_a_void_value_counts_no_more(database, follower, tmp_path) -> None:
    log(database, LEARNED, LEARNED)
    while follower.step():
        pass
    assert [counted(tmp_path, what) for what in ("num_values", "value", "square")] == [2, 2, 2]
    with closing(sqlite3.connect(database)) as db:
        db.execute(
            "INSERT INTO log (bandit, position, kind, time, origin, before, ends, hash)"
            " VALUES (1, 3, 5, ?, 1, 1.0, 1, x'')",
            (NOW + 1e6,),
        )
        db.commit()
    while follower.step():
        pass
    assert [counted(tmp_path, what) for what in ("num_values", "value", "square")] == [1, 1, 1]


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
    assert cursors() == [(decisions_of("uid"),), ("uid",)]
    follower._aggregates.prune(NOW, [])
    assert cursors() == []


def test_damaged_decisions_are_reported(database, follower) -> None:
    decide(database, 1, b"\x80")
    with pytest.raises(StoreDamaged, match=f"decision at key {first_key(1) + 1} "):
        follower.step()
    with closing(sqlite3.connect(database)) as db:
        db.execute("UPDATE decisions SET std = 9e999")
        db.commit()
    with pytest.raises(StoreDamaged, match=f"decisions after key {first_key(1)} "):
        follower.step()


def test_ids_alone_are_those_of_the_picks() -> None:
    chosen = picks("red", 'gr"een', "\N{SNOWMAN}")
    blob = pack_chosen(chosen, b"context")
    assert chosen_ids("d", blob) == tuple(one.id for one in unpack_chosen("d", blob, b"context"))
