"""The log: positions, the hash chain, folds and following, on a real file."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sqlite3
from contextlib import closing
from hashlib import blake2b
from typing import Any

import msgpack
import numpy as np
import pytest

from bandexa_core.ids import ActionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import (
    CatalogueRow,
    ConfigRow,
    Group,
    ImportRow,
    LearnRow,
    LogRow,
    row_by_row,
)
from bandexa_core.spec import SelectionSpec, TrainingSpec
from service.store.errors import StoreDamaged
from service.store.protocol import Logged
from service.store.sqlite.tail import LogTail
from tests.store.conftest import Blocker
from tests.store.reporting import first_step, rewards

DECISIONS = itertools.count()
LEARN = 1
FAR = LogPosition(1 << 40)


def change(*ids: str, start: float = 0.0, enabled: bool = True) -> CatalogueChange:
    features = np.arange(2 * len(ids), dtype=np.float32).reshape(-1, 2) + np.float32(start)
    return CatalogueChange(
        tuple(ActionId(i) for i in ids), features, np.full(len(ids), enabled, np.bool_)
    )


def retired(*ids: str) -> CatalogueChange:
    return CatalogueChange(tuple(ActionId(i) for i in ids), None, np.zeros(len(ids), np.bool_))


def fill(client, store, make, bandit) -> list[LogRow]:
    """Append rows of every kind and return their answers."""
    spec = dataclasses.replace(bandit.spec, training=TrainingSpec(train_every=9))
    rows: list[Any] = [
        client.call(store.append_change, bandit, change("a0", "a1")),
        *learn(client, store, make, bandit, 3),
        client.call(store.append_config, bandit, spec),
        client.call(store.append_import, bandit, SnapshotVersion(4)),
        *learn(client, store, make, bandit, 2),
        client.call(store.append_change, bandit, retired("a0")),
    ]
    return rows


def learn(client, store, make, bandit, num: int) -> list[LearnRow]:
    """Decide and reward `num` times; returns the learn rows."""
    rows = []
    for number in range(num):
        name = f"d{next(DECISIONS)}"
        client.call(store.append_decision, make.decision(bandit, name))
        rows.append(client.call(rewards(store), make.report(name, number / 7)).row)
    return rows


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


def followed(reader, bandit, after=0, up_to=FAR, chunk=512) -> list[LogRow]:
    groups = list(reader.follow(bandit, LogPosition(after), LogPosition(up_to), chunk))
    return [row for group in groups for row in group.rows]


def answer_of(row: LogRow | Logged) -> Any:
    """Return a row as the store answers the operation that appended it."""
    if isinstance(row, Logged):
        return row
    if isinstance(row, LearnRow):
        return Logged(row.position, row.time, row.decision_id, row.before, row.after)
    return plain(row)


def plain(row: LogRow) -> dict[str, Any]:
    """Return a row as values that can be compared; arrays as dtype, shape and bytes."""

    def value(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return (item.dtype.str, item.shape, item.tobytes())
        if dataclasses.is_dataclass(item):
            return {f.name: value(getattr(item, f.name)) for f in dataclasses.fields(item)}
        return item

    return {"kind": type(row).__name__, **value(row)}


def test_every_bandit_has_positions_without_gaps_from_one_on(client, store, make):
    first, second = make.bandit(client, store, "one"), make.bandit(client, store, "two")
    for _ in range(4):
        learn(client, store, make, first, 2)
        client.call(store.append_change, second, change("a0"))
        learn(client, store, make, second, 1)
        client.call(store.append_change, first, change("a0"))
    assert [row[0] for row in stored_log(client, first)] == list(range(1, 13))
    assert [row[0] for row in stored_log(client, second)] == list(range(1, 9))


def test_a_reader_returns_the_rows_that_were_answered(client, store, make):
    bandit = make.bandit(client, store)
    answered = fill(client, store, make, bandit)
    with store.reader() as reader:
        read = followed(reader, bandit)
        assert reader.head(bandit.key) == len(answered) == 9
        assert reader.count_learned(bandit.key, LogPosition(0), FAR) == 5
        assert reader.count_learned(bandit.key, LogPosition(2), LogPosition(7)) == 3
        assert reader.imports(bandit.key) == {4: 6}
        imports = [reader.last_import(bandit.key, LogPosition(n)) for n in (5, 6, 9)]
        assert imports == [0, 6, 6]
    assert [answer_of(row) for row in read] == [answer_of(row) for row in answered]
    kinds = [CatalogueRow, *[LearnRow] * 3, ConfigRow, ImportRow, *[LearnRow] * 2, CatalogueRow]
    assert [type(row) for row in read] == kinds


@pytest.mark.parametrize("chunk", [1, 2, 4, 9, 512])
def test_following_in_chunks_equals_following_whole(client, store, make, chunk):
    bandit = make.bandit(client, store)
    fill(client, store, make, bandit)
    with store.reader() as reader:
        whole = [plain(row) for row in followed(reader, bandit)]
        assert [plain(row) for row in followed(reader, bandit, chunk=chunk)] == whole
        for after, up_to in ((0, 0), (0, 4), (3, 7), (8, 9), (9, 40)):
            rows = followed(reader, bandit, after, up_to, chunk)
            assert [plain(row) for row in rows] == whole[after:up_to]


def test_a_follower_finds_the_newest_rows_in_memory_and_they_are_those_on_disk(
    client, store, make, monkeypatch
):
    monkeypatch.setattr("service.store.sqlite.tail.MAX_GROUPS", 6)
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
    tail.add(7, lost, 0)
    assert tail.read(7, LogPosition(0), LogPosition(1)) is None, "it is not committed"
    tail.roll_back()
    tail.add(7, found, 0)
    tail.commit()
    assert tail.read(7, LogPosition(0), LogPosition(1)) == [found]
    assert tail.read(8, LogPosition(0), LogPosition(1)) is None


def test_the_hash_chain_can_be_computed_from_the_rows(client, store, make):
    bandit = make.bandit(client, store)
    fill(client, store, make, bandit)
    assert_chained(client, bandit)


def test_logs_that_differ_anywhere_differ_in_their_hash(client, store, make):
    hashes = []
    for name, value in (("one", 0.5), ("two", 0.25)):
        bandit = make.bandit(client, store, name)
        client.call(store.append_decision, make.decision(bandit, f"{name}-d"))
        client.call(rewards(store), make.report(f"{name}-d", value))
        client.call(store.append_change, bandit, change("a0"))
        with store.reader() as reader:
            assert reader.hash_at(bandit.key, LogPosition(0)) == b""
            assert reader.hash_at(bandit.key, LogPosition(3)) is None
            hashes.append([reader.hash_at(bandit.key, LogPosition(n)) for n in (1, 2)])
    assert len({h for pair in hashes for h in pair}) == 4


def test_the_catalogue_is_the_fold_of_its_rows_at_any_position(client, store, make):
    bandit = make.bandit(client, store)
    client.call(store.append_change, bandit, change("a0", "a1"))
    learn(client, store, make, bandit, 1)
    client.call(store.append_change, bandit, change("a1", "a2", start=10.0))
    client.call(store.append_change, bandit, retired("a0"))
    with store.reader() as reader:
        at = [reader.catalogue_at(bandit, LogPosition(n)) for n in range(5)]
    assert [c.ids for c in at] == [(), ("a0", "a1"), ("a0", "a1"), *[("a0", "a1", "a2")] * 2]
    assert at[1].features.tolist() == [[0, 1], [2, 3]]
    assert at[3].features.tolist() == [[0, 1], [10, 11], [12, 13]]
    assert at[4].features.tolist() == at[3].features.tolist()
    assert at[3].enabled.tolist() == [True, True, True]
    assert at[4].enabled.tolist() == [False, True, True]


def test_the_configuration_is_the_fold_of_its_rows_at_any_position(client, store, make):
    bandit = make.bandit(client, store)
    faster = dataclasses.replace(bandit.spec, training=TrainingSpec(train_every=5))
    warmer = dataclasses.replace(faster, selection=SelectionSpec(warmup_random=9))
    client.call(store.append_config, bandit, faster)
    learn(client, store, make, bandit, 1)
    client.call(store.append_config, bandit, warmer)
    with store.reader() as reader:
        found = [reader.spec_at(bandit, LogPosition(n)) for n in range(4)]
        (record,) = reader.bandits()
    assert found == [bandit.spec, faster, faster, warmer]
    assert record == bandit


def test_the_log_continues_after_the_store_is_opened_again(client, store, make):
    bandit = make.bandit(client, store)
    answered = fill(client, store, make, bandit)
    store.close()
    store = client.open()
    with store.reader() as reader:
        (record,) = reader.bandits()
    assert record == bandit
    answered += learn(client, store, make, record, 2)
    with store.reader() as reader:
        read = followed(reader, bandit)
    assert [answer_of(row) for row in read] == [answer_of(row) for row in answered]
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


def test_a_reward_of_minus_zero_is_hashed_as_it_is_stored(client, store, make):
    bandit = make.bandit(client, store)
    client.call(store.append_decision, make.decision(bandit, "d0"))
    row = client.call(rewards(store), make.report("d0", -0.0)).row
    assert math.copysign(1.0, row.after) == 1.0
    assert_chained(client, bandit)


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_learn_rows_of_one_transaction_are_groups_that_are_read_whole(client, store, make, chunk):
    """Up to 64 rows of a bandit, in order, whatever is appended to other logs in between."""
    one, other = make.bandit(client, store, "one"), make.bandit(client, store, "other")
    made = [make.decision((one, other)[n % 5 == 4], f"d{n}") for n in range(250)]
    for record in made:
        client.call(store.append_decision, record)
    with Blocker(client, store):
        for number, record in enumerate(made):
            bandit = (one, other)[number % 5 == 4]
            client.ask(store.append_step, first_step(bandit, record, number / 7))
        client.ask(store.append_change, one, change("a0"))
        last = make.decision(one, "last")
        client.ask(store.append_decision, last)
        ended = client.ask(store.append_step, first_step(one, last))
    ended.result(20)
    with store.reader() as reader, store.follower() as follower:
        for bandit, sizes in ((one, [64, 64, 64, 8, 1, 1]), (other, [50])):
            groups = list(reader.follow(bandit, LogPosition(0), FAR, chunk))
            assert [len(group.rows) for group in groups] == sizes
            assert [group.as_block for group in groups] == [size > 1 for size in sizes]
            positions = [row.position for group in groups for row in group.rows]
            assert positions == list(range(1, sum(sizes) + 1))
            ends = list(itertools.accumulate(sizes))
            for position in range(1, len(positions) + 1):
                found = reader.hash_at(bandit.key, LogPosition(position))
                assert (found is not None) == (position in ends), "only a group's end has a hash"
            newest = list(follower.follow(bandit, LogPosition(0), reader.head(bandit.key)))
            assert [plain_group(group) for group in newest] == list(map(plain_group, groups))
            part = list(reader.follow(bandit, LogPosition(ends[0]), LogPosition(ends[-1]), chunk))
            assert list(map(plain_group, part)) == list(map(plain_group, groups[1:]))
    assert_chained(client, one)
    assert_chained(client, other)


def plain_group(group: Group) -> Any:
    return group.as_block, [plain(row) for row in group.rows]
