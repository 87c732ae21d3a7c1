"""The log on disk: its hash chain, reopening, and the newest rows in memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from hashlib import blake2b
from typing import Any

import msgpack
import pytest

from bandexa_core.ids import LogPosition
from bandexa_core.log.rows import CatalogueRow, row_by_row
from service.store.errors import StoreDamaged
from service.store.hashing import GENESIS_HASH
from service.store.sql.tail import LogTail
from tests.store.conftest import Blocker
from tests.store.contract.readable import plain
from tests.store.logs import answer_of, change, fill, followed, learn
from tests.store.reporting import first_step

LEARN = 1


def stored_log(client, bandit) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(client.path)) as connection:
        return connection.execute(
            "SELECT position, kind, time, key, item, origin, before, after, low, high, payload,"
            " ends, hash FROM log WHERE bandit = ? ORDER BY position",
            (bandit.key,),
        ).fetchall()


def assert_chained(client, bandit) -> None:
    """Check that a group's hash covers the one before and its rows."""
    previous, leaves = b"", []
    for position, kind, time, *values, payload, ends, found in stored_log(client, bandit):
        row: tuple[Any, ...] = (position, kind, time)
        row += tuple(values) if kind == LEARN else (payload,)
        leaves.append(blake2b(msgpack.packb(row), digest_size=16).digest())
        if not ends:
            assert found == leaves[-1], f"position {position}"
            continue
        whole = previous + bytes([ends]) + b"".join(leaves)
        previous, leaves = blake2b(whole, digest_size=16).digest(), []
        assert found == previous, f"position {position}"
    assert not leaves, "the last group has an end"


def test_a_follower_finds_the_newest_rows_in_memory_and_they_are_those_on_disk(
    client, store, make, monkeypatch
):
    monkeypatch.setattr("service.store.sql.tail.MAX_GROUPS", 6)
    bandit = make.bandit(client, store)
    fill(client, store, make, bandit)
    with store.reader() as reader, store.follower() as follower:
        disk = [plain(row) for row in followed(reader, bandit)]
        with closing(sqlite3.connect(client.path)) as database:
            database.execute("UPDATE log SET hash = x'00'")
            database.commit()
        for after in (3, 5, 8):  # six rows are in memory
            rows = followed(follower, bandit, after, 9)
            assert [plain(row) for row in rows] == disk[after:]
        with pytest.raises(StoreDamaged):
            followed(follower, bandit, 2, 9)


def test_a_row_that_was_rolled_back_is_not_in_memory() -> None:
    tail = LogTail()
    rows = [CatalogueRow(LogPosition(1), time, change("a")) for time in (1.0, 2.0)]
    lost, found = map(row_by_row, rows)
    tail.add(7, lost, 0, GENESIS_HASH)
    assert tail.read(7, LogPosition(0), LogPosition(1)) is None, "it is not committed"
    tail.roll_back()
    tail.add(7, found, 0, GENESIS_HASH)
    tail.commit()
    assert tail.read(7, LogPosition(0), LogPosition(1)) == [found]
    assert tail.read(8, LogPosition(0), LogPosition(1)) is None


def test_the_hash_chain_can_be_computed_from_the_rows(client, store, make):
    bandit = make.bandit(client, store)
    fill(client, store, make, bandit)
    made = [make.decision(bandit, f"e{number}") for number in range(70)]
    for record in made:
        client.call(store.append_decision, record)
    with Blocker(client, store):
        steps = [client.ask(store.append_step, first_step(bandit, each, -0.0)) for each in made]
    assert all(len(future.result(20)) == 1 for future in steps)
    assert [row[-2] for row in stored_log(client, bandit)][-70:].count(0) == 68, "two groups"
    assert_chained(client, bandit)


def test_the_log_continues_after_the_store_is_opened_again(client, store, make):
    bandit = make.bandit(client, store)
    answered = fill(client, store, make, bandit)
    store.close()
    store = client.open()
    with store.reader() as reader:
        (record,) = reader.bandits()
    assert record == bandit
    answered += learn(client, store, make, record, 5, 2)
    with store.reader() as reader:
        read = followed(reader, bandit)
    assert [answer_of(row) for row in read] == [plain(row) for row in answered]
    assert [row[0] for row in stored_log(client, bandit)] == list(range(1, 12))
    assert_chained(client, bandit)


def test_every_opening_is_counted(client):
    epochs = []
    for _ in range(3):
        store = client.open()
        with store.reader() as reader:
            assert reader.epoch() == store.epoch
        epochs.append(store.epoch)
        store.close()
    assert epochs == [1, 2, 3]
