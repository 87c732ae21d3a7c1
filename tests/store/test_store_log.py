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

from bandexa_core.errors import SnapshotError
from bandexa_core.ids import ActionId, LogPosition
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow, LearnRow, LogRow
from bandexa_core.spec import SelectionSpec, TrainingSpec
from service.store.sqlite.codec import GENESIS_HASH, chain_hash

DECISIONS = itertools.count()
LEARN, CATALOGUE, CONFIG = 1, 2, 3
FAR = LogPosition(1 << 40)


def change(*ids: str, start: float = 0.0, enabled: bool = True) -> CatalogueChange:
    features = np.arange(2 * len(ids), dtype=np.float32).reshape(-1, 2) + np.float32(start)
    return CatalogueChange(
        tuple(ActionId(i) for i in ids), features, np.full(len(ids), enabled, np.bool_)
    )


def retired(*ids: str) -> CatalogueChange:
    return CatalogueChange(tuple(ActionId(i) for i in ids), None, np.zeros(len(ids), np.bool_))


def fill(desk, store, make, bandit) -> list[LogRow]:
    """Append rows of every kind and return them as they were answered."""
    spec = dataclasses.replace(bandit.spec, training=TrainingSpec(train_every=9))
    rows: list[Any] = [
        desk.call(store.append_change, bandit, change("a0", "a1")),
        *learn(desk, store, make, bandit, 3),
        desk.call(store.append_config, bandit, spec),
        desk.call(store.append_import, bandit, lambda position, log_hash: 4),
        *learn(desk, store, make, bandit, 2),
        desk.call(store.append_change, bandit, retired("a0")),
    ]
    return rows


def learn(desk, store, make, bandit, num: int) -> list[LearnRow]:
    """Decide and reward `num` times; returns the learn rows."""
    rows = []
    for number in range(num):
        name = f"d{next(DECISIONS)}"
        desk.call(store.append_decision, make.decision(bandit, name))
        rows.append(desk.call(store.append_reward, make.report(name, number / 7)).row)
    return rows


def stored_log(desk, bandit) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(desk.path)) as connection:
        return connection.execute(
            "SELECT position, kind, time, decision_id, item, origin, before, after, payload, hash"
            " FROM log WHERE bandit = ? ORDER BY position",
            (bandit.key,),
        ).fetchall()


def assert_chained(desk, bandit) -> None:
    """Each hash covers the one before and what its row says (an import's row: no version)."""
    previous = b""
    for position, kind, time, *values, payload, found in stored_log(desk, bandit):
        row: tuple[Any, ...] = (position, kind, time)
        if kind == LEARN:
            row += tuple(values)
        elif kind in (CATALOGUE, CONFIG):
            row += (payload,)
        previous = blake2b(previous + msgpack.packb(row), digest_size=16).digest()
        assert found == previous, f"position {position}"


def followed(reader, bandit, after=0, up_to=FAR, chunk=512) -> list[LogRow]:
    lists = list(reader.follow(bandit, LogPosition(after), LogPosition(up_to), chunk))
    assert all(0 < len(rows) <= chunk for rows in lists)
    return [row for rows in lists for row in rows]


def plain(row: LogRow) -> dict[str, Any]:
    """Return a row as values that can be compared; arrays as dtype, shape and bytes."""

    def value(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return (item.dtype.str, item.shape, item.tobytes())
        if dataclasses.is_dataclass(item):
            return {f.name: value(getattr(item, f.name)) for f in dataclasses.fields(item)}
        return item

    return {"kind": type(row).__name__, **value(row)}


def test_every_bandit_has_positions_without_gaps_from_one_on(desk, store, make):
    first, second = make.bandit(desk, store, "one"), make.bandit(desk, store, "two")
    for _ in range(4):
        learn(desk, store, make, first, 2)
        desk.call(store.append_change, second, change("a0"))
        learn(desk, store, make, second, 1)
        desk.call(store.append_change, first, change("a0"))
    assert [row[0] for row in stored_log(desk, first)] == list(range(1, 13))
    assert [row[0] for row in stored_log(desk, second)] == list(range(1, 9))


def test_a_reader_gives_back_the_rows_that_were_answered(desk, store, make):
    bandit = make.bandit(desk, store)
    told = fill(desk, store, make, bandit)
    with store.reader() as reader:
        read = followed(reader, bandit)
        assert reader.head(bandit.key) == len(told) == 9
        assert reader.count_learned(bandit.key, LogPosition(0), FAR) == 5
        assert reader.count_learned(bandit.key, LogPosition(2), LogPosition(7)) == 3
        assert reader.imports(bandit.key) == [4]
        imports = [reader.last_import(bandit.key, LogPosition(n)) for n in (5, 6, 9)]
        assert imports == [0, 6, 6]
    assert [plain(row) for row in read] == [plain(row) for row in told]
    kinds = [CatalogueRow, *[LearnRow] * 3, ConfigRow, ImportRow, *[LearnRow] * 2, CatalogueRow]
    assert [type(row) for row in read] == kinds


@pytest.mark.parametrize("chunk", [1, 2, 4, 9, 512])
def test_following_in_chunks_equals_following_whole(desk, store, make, chunk):
    bandit = make.bandit(desk, store)
    whole = [plain(row) for row in fill(desk, store, make, bandit)]
    with store.reader() as reader:
        assert [plain(row) for row in followed(reader, bandit, chunk=chunk)] == whole
        for after, up_to in ((0, 0), (0, 4), (3, 7), (8, 9), (9, 40)):
            rows = followed(reader, bandit, after, up_to, chunk)
            assert [plain(row) for row in rows] == whole[after:up_to]


def test_the_hash_chain_can_be_computed_from_the_rows(desk, store, make):
    bandit = make.bandit(desk, store)
    fill(desk, store, make, bandit)
    assert_chained(desk, bandit)


def test_logs_that_differ_anywhere_differ_in_their_hash(desk, store, make):
    hashes = []
    for name, value in (("one", 0.5), ("two", 0.25)):
        bandit = make.bandit(desk, store, name)
        desk.call(store.append_decision, make.decision(bandit, f"{name}-d"))
        desk.call(store.append_reward, make.report(f"{name}-d", value))
        desk.call(store.append_change, bandit, change("a0"))
        with store.reader() as reader:
            assert reader.hash_at(bandit.key, LogPosition(0)) == b""
            assert reader.hash_at(bandit.key, LogPosition(3)) is None
            hashes.append([reader.hash_at(bandit.key, LogPosition(n)) for n in (1, 2)])
    assert len({h for pair in hashes for h in pair}) == 4


def test_the_catalogue_is_the_fold_of_its_rows_at_any_position(desk, store, make):
    bandit = make.bandit(desk, store)
    desk.call(store.append_change, bandit, change("a0", "a1"))
    learn(desk, store, make, bandit, 1)
    desk.call(store.append_change, bandit, change("a1", "a2", start=10.0))
    desk.call(store.append_change, bandit, retired("a0"))
    with store.reader() as reader:
        at = [reader.catalogue_at(bandit, LogPosition(n)) for n in range(5)]
    assert [c.ids for c in at] == [(), ("a0", "a1"), ("a0", "a1"), *[("a0", "a1", "a2")] * 2]
    assert at[1].features.tolist() == [[0, 1], [2, 3]]
    assert at[3].features.tolist() == [[0, 1], [10, 11], [12, 13]]
    assert at[4].features.tolist() == at[3].features.tolist()
    assert at[3].enabled.tolist() == [True, True, True]
    assert at[4].enabled.tolist() == [False, True, True]


def test_the_configuration_is_the_fold_of_its_rows_at_any_position(desk, store, make):
    bandit = make.bandit(desk, store)
    faster = dataclasses.replace(bandit.spec, training=TrainingSpec(train_every=5))
    warmer = dataclasses.replace(faster, selection=SelectionSpec(warmup_random=9))
    desk.call(store.append_config, bandit, faster)
    learn(desk, store, make, bandit, 1)
    desk.call(store.append_config, bandit, warmer)
    with store.reader() as reader:
        found = [reader.spec_at(bandit, LogPosition(n)) for n in range(4)]
        (record,) = reader.bandits()
    assert found == [bandit.spec, faster, faster, warmer]
    assert record == bandit


def test_an_import_is_published_at_its_row_before_the_commit(desk, store, make):
    bandit = make.bandit(desk, store)
    learn(desk, store, make, bandit, 2)
    seen = []

    def publish(position: LogPosition, log_hash: bytes) -> int:
        with store.reader() as reader:
            seen.append((position, log_hash, reader.head(bandit.key)))
        return 12

    row = desk.call(store.append_import, bandit, publish)
    assert (row.position, row.version) == (3, 12)
    with store.reader() as reader:
        assert seen == [(3, reader.hash_at(bandit.key, LogPosition(3)), 2)]


def test_an_import_whose_snapshot_cannot_be_written_is_not_logged(desk, store, make):
    bandit = make.bandit(desk, store)
    learn(desk, store, make, bandit, 1)

    def publish(position: LogPosition, log_hash: bytes) -> int:
        raise SnapshotError("no room")

    with pytest.raises(SnapshotError, match="no room"):
        desk.call(store.append_import, bandit, publish)
    assert [row.position for row in learn(desk, store, make, bandit, 1)] == [2]


def test_the_log_goes_on_where_it_was_when_the_store_is_opened_again(desk, store, make):
    bandit = make.bandit(desk, store)
    told = fill(desk, store, make, bandit)
    store.close()
    store = desk.open()
    with store.reader() as reader:
        (record,) = reader.bandits()
    assert record == bandit
    told += learn(desk, store, make, record, 2)
    with store.reader() as reader:
        assert [plain(row) for row in followed(reader, bandit)] == [plain(row) for row in told]
    assert [row[0] for row in stored_log(desk, bandit)] == list(range(1, 12))
    assert_chained(desk, bandit)


def test_every_opening_is_counted(desk):
    epochs = []
    for _ in range(3):
        store = desk.open()
        with store.reader() as reader:
            assert reader.epoch() == store.epoch
        epochs.append(store.epoch)
        store.close()
    assert epochs == [1, 2, 3]


def test_a_reward_of_minus_zero_is_hashed_as_it_is_kept(desk, store, make):
    bandit = make.bandit(desk, store)
    desk.call(store.append_decision, make.decision(bandit, "d0"))
    row = desk.call(store.append_reward, make.report("d0", -0.0)).row
    assert math.copysign(1.0, row.after) == 1.0
    with closing(sqlite3.connect(desk.path)) as connection:
        [(*values, found)] = connection.execute(
            "SELECT position, kind, time, decision_id, item, origin, before, after, hash FROM log"
        )
    assert chain_hash(GENESIS_HASH, values) == found
