"""The bounds of learned values in SQLite: after a restart, and after a transaction that failed."""

from __future__ import annotations

import logging

import numpy as np

from bandexa_core.ids import DecisionId
from bandexa_core.log import contract
from bandexa_core.log.bounds import RewardBounds
from bandexa_core.log.contract import Reported
from service.store.protocol import Step
from tests.store.conftest import Blocker
from tests.store.logs import decide, learn_rows
from tests.store.reporting import rewards

VALUES = [*np.random.default_rng(3).random(20).round(3).tolist(), 1e4, 0.5, 1e5, 0.25]


def check(store, bandit, values: list[float]) -> None:
    """Check the bounds of a log's first values by those of a bandit that was never disturbed."""
    with store.reader() as reader:
        first = [row for row in learn_rows(reader, bandit) if row.before is None]
    expected = RewardBounds()
    assert [(row.low, row.high) for row in first] == [expected.take(value) for value in values]


def first(client, store, name: str, value: float) -> Step:
    """Return the step of a decision's first reward."""
    decision = client.call(store.find_decision, DecisionId(name)).decision
    reported = Reported(0, value, None)
    _, change = contract.report(decision.state, reported, decision.bandit.spec.rewards, 10)
    assert change is not None
    return Step(decision, change, 6.0, reported)


def test_a_store_that_is_opened_again_continues_with_equal_bounds(client, store, make):
    bandit = make.bandit(client, store, rewards=make.last_counts())
    decide(client, store, make, bandit, 0, len(VALUES))
    for number, value in enumerate(VALUES[:21]):
        client.call(rewards(store), make.report(f"d{number}", value))
    client.call(rewards(store), make.report("d3", 77.0))  # corrections are no first values
    store.close()
    again = client.open()
    for number, value in enumerate(VALUES[21:], 21):
        client.call(rewards(again), make.report(f"d{number}", value))
    check(again, bandit, VALUES)


def test_values_of_a_transaction_that_failed_do_not_count(client, store, make, caplog):
    bandit = make.bandit(client, store)
    decide(client, store, make, bandit, 0, len(VALUES))
    for number, value in enumerate(VALUES[:20]):
        client.call(rewards(store), make.report(f"d{number}", value))
    steps = [first(client, store, f"d{number}", VALUES[number]) for number in range(20, 24)]
    with caplog.at_level(logging.CRITICAL):
        with Blocker(client, store):
            stepped = [client.ask(store.append_step, step) for step in steps]
            failed = client.ask(store.append_round, None, None)  # rolls the group back
        assert failed.exception(20) is not None
        assert [len(future.result(20)) for future in stepped] == [1] * len(steps)
    check(store, bandit, VALUES)
