"""Rows that are not what was written are refused by name when they are used."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgpack
import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.ids import ActionId, DecisionId, LogPosition
from bandexa_core.log.catalogue import CatalogueChange
from service.store.errors import StoreDamaged
from service.store.records import Propensities
from service.store.sql.codec import chosen_ids, unpack_chosen
from tests.store.reporting import rewards


@pytest.fixture
def bandit(client, store, make):
    """A bandit with an action and two learned values, at positions 1 to 3; d2 awaits its reward."""
    bandit = make.bandit(client, store)
    change = CatalogueChange((ActionId("a0"),), np.ones((1, 2), np.float32), np.ones(1, np.bool_))
    client.call(store.append_change, bandit, change)
    for number in range(3):
        client.call(store.append_decision, make.decision(bandit, f"d{number}"))
        if number < 2:
            client.call(rewards(store), make.report(f"d{number}", 0.5))
    return bandit


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(sql).rowcount == 1


def follow(store, bandit) -> list[int]:
    with store.reader() as reader:
        rows = reader.follow(bandit, LogPosition(0), reader.head(bandit.key))
        return [row.position for group in rows for row in group.rows]


FLIPPED = "CAST(substr({0}, 1, length({0}) - 3) || x'55' || substr({0}, -2) AS BLOB)"


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE log SET after = 0.75 WHERE position = 2", "log row 2"),
        ("UPDATE log SET time = time + 1 WHERE position = 3", "log row 3"),
        ("UPDATE log SET hash = x'00' WHERE position = 2", "log row 2"),
        ("DELETE FROM log WHERE position = 2", "log row 2"),
        ("UPDATE log SET payload = zeroblob(4) WHERE position = 1", "log row 1"),
        (f"UPDATE decisions SET context = {FLIPPED.format('context')} WHERE own_id = 'd1'",
         "decision d1"),
        (f"UPDATE decisions SET chosen = {FLIPPED.format('chosen')} WHERE own_id = 'd1'",
         "decision d1"),
        ("DELETE FROM decisions WHERE own_id = 'd1'", "decision of log row 3 is missing"),
    ],
)  # fmt: skip
def test_no_model_is_built_from_a_damaged_row(client, store, bandit, sql, what):
    assert follow(store, bandit) == [1, 2, 3]
    change(client.path, sql)
    with pytest.raises(StoreDamaged, match=what):
        follow(store, bandit)


def test_actions_are_not_read_from_a_damaged_row(client, store, bandit):
    with store.reader() as reader:
        assert len(reader.catalogue_at(bandit, LogPosition(3)).ids) == 1
        change(client.path, "UPDATE log SET payload = zeroblob(4) WHERE position = 1")
        with pytest.raises(StoreDamaged, match="log row 1"):
            reader.catalogue_at(bandit, LogPosition(3))


@pytest.mark.parametrize("column", ["context", "chosen"])
def test_a_damaged_decision_is_not_learned_from(client, store, make, bandit, column):
    flipped = FLIPPED.format(column)
    change(client.path, f"UPDATE decisions SET {column} = {flipped} WHERE own_id = 'd2'")
    with pytest.raises(StoreDamaged, match="decision d2"):
        client.call(rewards(store), make.report("d2", 0.5))
    assert follow(store, bandit) == [1, 2, 3]
    assert client.call(rewards(store), make.report("d1", 0.5)).status == "duplicate"


def test_damaged_picks_are_not_answered(client, store, bandit):
    flipped = FLIPPED.format("chosen")
    change(client.path, f"UPDATE decisions SET chosen = {flipped} WHERE own_id = 'd2'")
    with store.reader() as reader, pytest.raises(StoreDamaged, match="decision d2"):
        reader.answer(DecisionId("d2"))


def test_damaged_propensities_are_not_answered(client, store, make, bandit):
    given = Propensities(np.arange(3, dtype=np.int32), np.array([0.5, 0.25, 0.25]))
    record = replace(make.decision(bandit, "d9"), propensities=given)
    assert client.call(store.append_decision, record) is None
    for broken in (FLIPPED.format("propensities"), "x'00'", "substr(propensities, 1, 8)"):
        change(client.path, f"UPDATE decisions SET propensities = {broken} WHERE own_id = 'd9'")
        with store.reader() as reader, pytest.raises(StoreDamaged, match="decision d9"):
            reader.answer(DecisionId("d9"))


@pytest.mark.parametrize("value", [{"a": 1}, [["a0", 0, 0, b"", 0.5]], [1, 2, "text"], [], 7, None])
def test_anything_but_picks_with_checksums_is_refused(value):
    for unpack in (unpack_chosen, chosen_ids):
        with pytest.raises(StoreDamaged, match="decision d0"):
            unpack("d0", msgpack.packb(value))
