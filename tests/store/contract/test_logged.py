"""Decisions as they were at a moment, in pages, while the store goes on."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionKey
from service.store.errors import StoreDamaged
from service.store.records import LoggedDecision
from tests.store.contract.turns import SQLITE, Turns
from tests.store.logs import decide
from tests.store.reporting import rewards

START = DecisionKey(0)


def pages(
    history, bandit, moment, most: int = 2, most_bytes: int = 1 << 20
) -> list[LoggedDecision]:
    """Return all decisions of a moment, read in pages."""
    found: list[LoggedDecision] = []
    last, more = START, True
    while more:
        page = history.logged(bandit, moment, last, most, most_bytes)
        assert len(page.decisions) + page.num_erased <= most
        found += page.decisions
        last, more = page.last, page.more
    return found


def test_later_values_rewards_and_decisions_do_not_show(client, store, make):
    bandit = make.bandit(client, store)
    decide(client, store, make, bandit, 0, 5)
    client.call(rewards(store), replace(make.report("d1", 0.25), time=9.0))
    with store.history() as history:
        moment = history.moment(bandit)._replace(time=10.0)
        client.call(rewards(store), replace(make.report("d3", 1.0), time=11.0))
        decide(client, store, make, bandit, 5, 1)
        found = pages(history, bandit, moment)
        assert [each.record.decision_id for each in found] == [f"d{n}" for n in range(5)]
        assert [each.values for each in found] == [(None,), (0.25,), (None,), (None,), (None,)]
        assert [[r.reward for r in each.rewards] for each in found] == [[], [0.25], [], [], []]
        later = pages(history, bandit, history.moment(bandit)._replace(time=12.0))
        assert [each.values for each in later][3] == (1.0,)
        assert len(later) == 6


def test_a_page_ends_after_its_bytes_and_the_next_goes_on(client, store, make):
    bandit = make.bandit(client, store)
    decide(client, store, make, bandit, 0, 4)
    with store.history() as history:
        moment = history.moment(bandit)
        whole = pages(history, bandit, moment, most=100)
        assert len(whole) == 4
        single = history.logged(bandit, moment, START, 100, 1)
        assert len(single.decisions) == 1
        assert single.more
        assert len(pages(history, bandit, moment, most=100, most_bytes=1)) == 4
        for one, other in zip(whole, pages(history, bandit, moment, most=1), strict=True):
            assert one.record.decision_id == other.record.decision_id
            assert np.array_equal(one.record.context, other.record.context)


def test_a_bandit_without_decisions_has_an_empty_log(client, store, make):
    bandit = make.bandit(client, store)
    with store.history() as history:
        page = history.logged(bandit, history.moment(bandit), START, 10, 1000)
        assert (page.decisions, page.more) == ((), False)


def test_the_first_decision_of_each_unit_is_known_in_every_page(client, store, make):
    other = make.bandit(client, store, "other")
    bandit = make.bandit(client, store)
    units = ("ann", "bob", None, "ann", None, "bob", "eve")

    def decide_of(made_by, name: str, unit: str | None) -> None:
        decision = replace(make.decision(made_by, name), unit=unit)
        client.call(store.append_decision, decision)

    for number, unit in enumerate(units):
        decide_of(other, f"o{number}", "eve")
        decide_of(bandit, f"d{number}", unit)
    with store.history() as history:
        never = pages(history, bandit, history.moment(bandit))
        assert all(each.is_new_unit for each in never), "nobody asked"
    sticky = dataclasses.replace(bandit.spec, sticky="action")
    client.call(store.append_config, bandit, sticky)
    client.call(store.append_config, bandit, bandit.spec)
    with store.history() as history:
        found = pages(history, bandit, history.moment(bandit))
        assert [each.is_new_unit for each in found] == [True] * 3 + [False, True, False, True]


def test_a_damaged_decision_is_found(make, tmp_path):
    client = Turns(SQLITE, tmp_path)
    store = client.open()
    bandit = make.bandit(client, store)
    decide(client, store, make, bandit, 0, 2)
    with closing(sqlite3.connect(client.path)) as db, db:
        db.execute("UPDATE decisions SET context = zeroblob(length(context))")
    with store.history() as history, pytest.raises(StoreDamaged):
        pages(history, bandit, history.moment(bandit))
    client.close()
