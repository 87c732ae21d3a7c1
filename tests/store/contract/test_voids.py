"""Void values: a log row says so, models are built without them, and numbers stay true."""

from __future__ import annotations

import pytest

from bandexa_core.ids import DecisionId, DecisionKey, LogPosition
from bandexa_core.log import contract
from bandexa_core.log.contract import Reported
from bandexa_core.log.rows import ErasedRow, LearnRow, VoidRow
from service.store.protocol import Step
from tests.store.contract.readable import FAR
from tests.store.contract.test_erasing import NUM, erase, fill, rows
from tests.store.logs import trim
from tests.store.reporting import rewards

START = LogPosition(0)


@pytest.fixture
def bandit(client, store, make):
    return make.bandit(client, store, rewards=make.last_counts())


def void(client, store, bandit, name: str):
    """Void the value of a decision; returns the rows that were logged."""
    decision = client.call(store.find_decision, DecisionId(name)).decision
    change = contract.void(decision.state, [0], bandit.spec.rewards)
    assert change is not None
    return client.call(store.append_step, Step(decision, change, 7.0))


def correct(client, store, bandit, name: str, reward: float):
    decision = client.call(store.find_decision, DecisionId(name)).decision
    _, change = contract.correct(decision.state, 0, reward, bandit.spec.rewards, 100)
    assert change is not None
    step = Step(decision, change, 8.0, Reported(0, reward, None))
    return client.call(store.append_step, step)


def test_a_void_value_is_logged_and_left_out_by_whoever_builds_a_model(client, store, make, bandit):
    fill(client, store, make, bandit)
    client.call(rewards(store), make.report("d2", 2.5))  # a correction, row 9
    (logged,) = void(client, store, bandit, "d2")
    assert (logged.position, logged.before, logged.after) == (NUM + 2, 2.5, None)
    with store.reader() as reader:
        served = rows(reader, bandit)
        assert sum(isinstance(row, LearnRow) for row in served) == NUM + 1
        [row] = reader.void_rows(bandit.key, START, FAR)
        assert served[-1] == row == VoidRow(LogPosition(NUM + 2), row.time, LogPosition(3), 2.5)
        groups = reader.follow(bandit, START, FAR, voids=FAR)
        built = [each for group in groups for each in group.rows]
        gone = [each.position for each in built if isinstance(each, ErasedRow)]
        assert gone == [3, NUM + 1]
        assert reader.count_learned(bandit.key, START, LogPosition(NUM + 1)) == NUM
        assert reader.count_learned(bandit.key, START, FAR) == NUM - 1
        assert reader.first_learned(bandit.key, 3, FAR) == 4
        [(_, value)] = reader.void_values(bandit, [row])
        [learned] = [each for each in served if each.position == 3]
        assert (value.position, value.after, value.decision_id) == (3, 2.5, "d2")
        assert (value.context == learned.context).all()
        assert (value.action == learned.action).all()
    with store.history() as history:
        found = history.decision(bandit, DecisionId("d2"))
        assert [each.status for each in found.rewards] == ["void", "void"]
        assert found.void == (0,)
        [amendment] = found.amendments
        assert (amendment.before, amendment.after, amendment.position) == (2.5, None, NUM + 2)


def test_a_void_value_that_is_corrected_is_learned_anew(client, store, make, bandit):
    fill(client, store, make, bandit)
    void(client, store, bandit, "d2")
    (logged,) = correct(client, store, bandit, "d2", 0.5)
    assert (logged.position, logged.before, logged.after) == (NUM + 2, None, 0.5)
    with store.reader() as reader:
        last = rows(reader, bandit)[-1]
        assert (last.origin, last.before) == (NUM + 2, None)
        assert reader.count_learned(bandit.key, START, FAR) == NUM
    with store.history() as history:
        found = history.decision(bandit, DecisionId("d2"))
        assert [(each.reward, each.status) for each in found.rewards] == [
            (2.0, "void"), (0.5, "corrected"),
        ]  # fmt: skip
        assert found.void == ()


def test_a_void_row_of_the_sample_leaves_it(client, store, make, bandit):
    """Before its row leaves the log, and after."""
    fill(client, store, make, bandit)
    void(client, store, bandit, "d1")
    client.call(rewards(store), make.report("d0", 9.0))
    trim(client, store, bandit, NUM, 100)
    void(client, store, bandit, "d4")
    with store.reader() as reader:
        sample = reader.evicted(bandit, LogPosition(NUM), FAR, 100)
        assert sorted(sample.rows.positions.tolist()) == [1, 3, 4, 6, 7, 8]
        assert reader.trim(bandit.key).learned == NUM - 2
        assert reader.count_learned(bandit.key, START, FAR) == NUM - 2
        voids = reader.void_rows(bandit.key, LogPosition(NUM), FAR)
        values = [value for _, value in reader.void_values(bandit, voids)]
        assert [value.after for value in values] == [1.0, 4.0]


def test_erasing_what_is_void_counts_it_once(client, store, make, bandit):
    """Older snapshots have learned it: they go, and so does what it was learned from."""
    fill(client, store, make, bandit)
    void(client, store, bandit, "d1")
    correct(client, store, bandit, "d1", 0.5)
    void(client, store, bandit, "d4")
    erase(client, store, unit="her")
    with store.reader() as reader:
        assert reader.count_learned(bandit.key, START, FAR) == NUM - 2
        [mark] = reader.relearning()
        assert mark.first == 2
        voids = reader.void_rows(bandit.key, START, FAR)
        assert len(voids) == 2
        assert list(reader.void_values(bandit, voids)) == []
        gone = [row.position for row in rows(reader, bandit) if isinstance(row, ErasedRow)]
        assert gone == [2, 5, NUM + 2]


def test_decisions_with_values_are_listed_in_pages(client, store, make, bandit):
    fill(client, store, make, bandit)
    client.call(store.append_decision, make.decision(bandit, "without"))
    with store.history() as history:
        found, after = history.valued(bandit, None, None, DecisionKey(0), 5)
        assert found == [f"d{number}" for number in range(5)]
        found, after = history.valued(bandit, None, None, after, 5)
        assert (found, after) == ([f"d{number}" for number in range(5, NUM)], None)
        made = history.decision(bandit, DecisionId("d0")).record.time
        assert history.valued(bandit, made + 1e6, None, DecisionKey(0), 50) == ([], None)
        found, _ = history.valued(bandit, made - 1.0, made + 1e6, DecisionKey(0), 50)
        assert len(found) == NUM
