"""Decisions that were made elsewhere: closed from the start, taught once, counted as imported."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.log import contract
from bandexa_core.log.contract import DecisionState, Reported
from bandexa_core.spec import RewardSpec
from service.store.errors import UnknownDecision
from service.store.findings import Report
from service.store.identity import key_at
from service.store.opening import open_audit
from service.store.protocol import Step
from tests.store.contract.readable import FAR
from tests.store.contract.test_erasing import erase
from tests.store.contract.turns import SQLITE
from tests.store.reporting import rewards


@pytest.fixture
def bandit(client, store, make):
    """A bandit whose decisions wait for a default reward."""
    rules = RewardSpec(reward_window_s=10.0, default_reward=0.0, maturity="auto")
    return make.bandit(client, store, rewards=rules)


def add(client, store, make, bandit, name: str, actions=("a0",)):
    """Store an imported decision."""
    record = replace(make.decision(bandit, name, actions=actions), imported=f"their {name}")
    assert client.call(store.append_decision, record) is None
    return record


def teach(client, store, name: str, value: float, item: int = 0):
    """Teach a value; returns its status and the rows that were logged."""
    found = client.call(store.find_decision, DecisionId(name)).decision
    status, change = contract.teach(found.state, item, value, found.rules, 100)
    if change is None:
        return status, ()
    step = Step(found, change, 5.5, Reported(item, value, None), imported=True)
    return status, client.call(store.append_step, step)


def test_a_value_is_learned_at_once_and_no_window_is_open(client, store, make, bandit):
    record = add(client, store, make, bandit, "d0", actions=("a0", "a1"))
    assert client.call(store.find_decision, DecisionId("d0")).decision.state == (
        DecisionState.imported(2)
    )
    status, (row,) = teach(client, store, "d0", 0.5, item=1)
    assert (status, row.before, row.after) == ("applied", None, 0.5)
    assert teach(client, store, "d0", 0.5, item=1) == ("duplicate", ())
    status, (row,) = teach(client, store, "d0", 0.75, item=1)
    assert (status, row.before, row.after) == ("applied", 0.5, 0.75)
    client.call(store.due_windows)
    client.clock.now += 100.0
    assert client.call(store.due_windows).windows == ()
    late = client.call(rewards(store), make.report("d0", 1.0, "a0"))
    assert late.status == "late"
    with store.history() as history, store.reader() as reader:
        found = history.decision(bandit, DecisionId("d0"))
        assert found.record.imported == "their d0"
        assert found.closed == record.time
        page = history.logged(bandit, history.moment(bandit), DecisionKey(0), 10, 1 << 20)
        assert page.decisions[0].record.imported == "their d0"
        assert page.decisions[0].values == (None, 0.75)
        assert reader.num_imported(bandit.key) == 1


def test_counts_say_what_was_imported(client, store, make, bandit):
    add(client, store, make, bandit, "d0")
    assert client.call(store.append_decision, make.decision(bandit, "d1")) is None
    teach(client, store, "d0", 0.5)
    with store.counting() as counting:
        rows = counting.decisions(bandit.key, 0, 10, 1 << 20)
        assert [row.imported for row in rows] == [True, False]
        (value,) = counting.learned(bandit.key, 0, FAR, 10)
        assert (value.imported, value.after) == (True, 0.5)


def test_old_decisions_are_found_by_their_own_time(client, store, make, bandit):
    """They are stored later than they were made: `until` must not pass them over."""
    key = key_at(bandit.key, client.clock.now)
    record = replace(make.decision(bandit, "d0"), key=key, imported="theirs")
    assert client.call(store.append_decision, record) is None
    teach(client, store, "d0", 0.5)
    with store.history() as history:
        made = history.decision(bandit, DecisionId("d0")).record.time
        found, _ = history.valued(bandit, None, made + 1.0, DecisionKey(0), 10)
        assert found == ["d0"]
        assert history.valued(bandit, None, made, DecisionKey(0), 10)[0] == []


def test_of_an_erased_one_the_id_is_gone_and_the_count_stays(client, store, make, bandit):
    add(client, store, make, bandit, "d0")
    teach(client, store, "d0", 0.5)
    erase(client, store, ids=["d0"])
    with pytest.raises(UnknownDecision):
        client.call(store.find_decision, DecisionId("d0"))
    with store.reader() as reader:
        assert reader.num_imported(bandit.key) == 1
    with store.counting() as counting:
        assert counting.decisions(bandit.key, 0, 10, 1 << 20)[0].imported


def test_the_count_survives_and_is_of_the_bandit(client, store, make, bandit):
    other = make.bandit(client, store, name="other")
    for number in range(3):
        add(client, store, make, bandit, f"d{number}")
    with store.reader() as reader:
        assert (reader.num_imported(bandit.key), reader.num_imported(other.key)) == (3, 0)


def test_an_audit_finds_nothing_wrong(client, store, make, bandit):
    plain = make.bandit(client, store, name="without-windows")
    for each in (bandit, plain):
        add(client, store, make, each, f"{each.name}-0")
        add(client, store, make, each, f"{each.name}-1")
        teach(client, store, f"{each.name}-0", 0.5)
        teach(client, store, f"{each.name}-0", 0.75)
    if client.kind == SQLITE:  # one in memory has no file
        found = Report()
        with open_audit(client.path) as audit:
            audit.check_rows([bandit, plain], found, lambda _: None)
        assert [problem for check in found.checks for problem in check.problems] == []
