"""Steps of decisions: stored as a whole, and only from the state that the decision still has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from msgspec.structs import astuple, replace

from bandexa_core.ids import DecisionId
from bandexa_core.log import contract
from bandexa_core.log.contract import DecisionState, Reported
from bandexa_core.log.rows import LearnRow
from bandexa_core.spec import ContextSpec, RewardSpec
from service.store.errors import InvalidRequest, UnknownDecision
from service.store.protocol import Step
from tests.store.contract.readable import Readers
from tests.store.logs import learn_rows
from tests.store.reporting import first_step, reportable, rewards


def logged(store, bandit) -> list[LearnRow]:
    with store.reader() as reader:
        return learn_rows(reader, bandit)


def chain(bandit, record, values, most: int = 100) -> list[Step]:
    """Return steps of one decision, each from the state that the one before leads to."""
    state = DecisionState.of(len(record.chosen), activated=record.activated)
    steps = []
    for number, value in enumerate(values):
        decision = reportable(bandit, record, state)
        reported = Reported(0, value, f"r{number}")
        _, change = contract.report(state, reported, bandit.spec.rewards, most)
        assert change is not None
        steps.append(Step(decision, change, 6.0 + number, reported))
        state = change.state
    return steps


# -- looking up -------------------------------------------------------------------------------


def test_a_decision_is_looked_up_behind_everything_that_was_appended_before(client, store, make):
    bandit = make.bandit(client, store)
    record = make.decision(bandit, "d0")
    before = client.ask(store.find_decision, record.decision_id)
    client.ask(store.append_decision, record)
    new = client.ask(store.find_decision, record.decision_id)
    client.ask(store.append_step, first_step(bandit, record, 0.5))
    stepped = client.ask(store.find_decision, record.decision_id)
    client.commit()
    assert isinstance(before.exception(0), UnknownDecision)
    assert new.result(0).decision.state.version == 0
    state = stepped.result(0).decision.state
    assert (state.version, state.num_rewards, state.items[0].value) == (1, 1, 0.5)


def test_rewards_that_can_be_repeated_are_found(client, store, make):
    """Those with an id, and late ones without."""
    rules = RewardSpec(aggregate="last", reward_window_s=2.0)
    bandit = make.bandit(client, store, rewards=rules)
    client.call(store.due_windows)
    record = make.decision(bandit, "d0", actions=("a0", "a1"))
    record = replace(record, time=client.clock.now)
    client.call(store.append_decision, record)

    def send(value: float, reward_id: str | None, action: str = "a0") -> str:
        report = make.report("d0", value, action)
        report = replace(report, reward_id=reward_id)
        return str(client.call(rewards(store), report).status)

    sent = [send(0.5, "r0"), send(0.25, "r0"), send(0.75, None), send(1.0, "r0", "a1")]
    assert sent == ["applied", "ignored", "applied", "applied"]
    client.clock.now += 3.0
    ((closes, found),) = client.call(store.due_windows).windows
    change = contract.close(found.state, rules)
    assert change is not None
    client.call(store.append_step, Step(found, change, client.clock.now, closes=closes))
    assert [send(0.75, None), send(0.75, None), send(0.5, None)] == ["late", "duplicate", "late"]

    listed = client.call(store.find_decision, record.decision_id).rewards
    expected = {(0, "r0"): [0.25, 0.5], (0, ""): [0.5, 0.75], (1, "r0"): [1.0]}
    assert {place: sorted(found) for place, found in listed.items()} == expected
    cases = {
        (0, "r0", 9.0): [0.25, 0.5], (0, None, 0.75): [0.75], (0, None, 0.25): [],
        (1, "r0", 9.0): [1.0], (1, None, 0.75): [], (0, "r9", 0.5): [],
    }  # fmt: skip
    for (item, reward_id, reward), repeats in cases.items():
        found = client.call(store.find_repeats, record.key, item, reward_id, reward)
        assert sorted(found) == repeats, (item, reward_id, reward)


def test_rewards_are_looked_up_behind_everything_that_was_appended_before(client, store, make):
    bandit = make.bandit(client, store)
    record = make.decision(bandit, "d0")
    (step,) = chain(bandit, record, [0.5])
    client.ask(store.append_decision, record)
    before = client.ask(store.find_repeats, record.key, 0, "r0", 0.5)
    client.ask(store.append_step, step)
    after = client.ask(store.find_repeats, record.key, 0, "r0", 0.5)
    client.commit()
    assert (before.result(0), after.result(0)) == ([], [0.5])


# -- stepping ---------------------------------------------------------------------------------


def test_a_step_is_stored_with_its_reward_its_value_and_its_log_row(client, store, make):
    bandit = make.bandit(client, store)
    record = make.decision(bandit, "d0")
    client.call(store.append_decision, record)
    (step,) = chain(bandit, record, [0.5])
    answered = client.call(store.append_step, step)
    assert [astuple(each) for each in answered] == [(1, client.clock.now, "d0", None, 0.5, 0.5)]
    (row,) = logged(store, bandit)
    assert (row.position, row.time, row.decision_id, row.origin) == (1, client.clock.now, "d0", 1)
    assert (row.before, row.after, row.slot, row.low, row.high) == (None, 0.5, 0, None, None)
    with store.history() as history:
        found = history.decision(bandit, record.decision_id)
        assert [(r.item, r.time, r.reward, r.reward_id, r.status) for r in found.rewards] == [
            (0, 6.0, 0.5, "r0", "applied")
        ]
        assert [(v.item, v.position, v.before, v.after) for v in found.learned] == [
            (0, 1, None, 0.5)
        ]
    found = client.call(store.find_decision, record.decision_id)
    assert found.decision.state == step.change.state


@pytest.mark.few(0, of="postgres")
def test_a_step_from_an_outdated_state_stores_nothing(client, store, make):
    bandit = make.bandit(client, store, rewards=make.last_counts())
    record = make.decision(bandit, "d0")
    client.call(store.append_decision, record)
    first, second = chain(bandit, record, [0.5, 0.75])
    client.call(store.append_step, first)
    with Readers(store) as readers:
        before = readers.everything([bandit], [record.decision_id], 9.0)
        assert client.call(store.append_step, first) is None
        other = replace(first, time=99.0, closes=5.0)
        assert client.call(store.append_step, other) is None
        assert readers.everything([bandit], [record.decision_id], 9.0) == before
    assert [row.after for row in client.call(store.append_step, second)] == [0.75]


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize(
    "wrong", [DecisionState.of(2, activated=True), DecisionState.of(1, activated=False)]
)
def test_a_step_from_a_new_state_that_is_not_that_of_the_decision_stores_nothing(
    client, store, make, wrong
):
    bandit = make.bandit(client, store)
    record = make.decision(bandit, "d0")
    client.call(store.append_decision, record)
    reported = Reported(0, 0.5, None)
    _, change = contract.report(wrong, reported, bandit.spec.rewards, 100)
    assert change is not None
    step = Step(reportable(bandit, record, wrong), change, 6.0, reported)
    assert client.call(store.append_step, step) is None
    assert logged(store, bandit) == []
    assert client.call(store.append_step, first_step(bandit, record)) is not None


def test_of_two_steps_from_one_state_the_first_is_stored(client, store, make):
    bandit = make.bandit(client, store)
    record = make.decision(bandit, "d0")
    client.ask(store.append_decision, record)
    won = client.ask(store.append_step, first_step(bandit, record, 0.5))
    lost = client.ask(store.append_step, first_step(bandit, record, 0.75))
    client.commit()
    assert [row.after for row in won.result(0)] == [0.5]
    assert lost.result(0) is None
    assert [row.after for row in logged(store, bandit)] == [0.5]


def test_steps_of_one_decision_are_chained_in_one_commit(client, store, make):
    """The third and fourth start from the state that the two before them will lead to."""
    bandit = make.bandit(client, store, rewards=RewardSpec(aggregate="sum"))
    record = make.decision(bandit, "d0")
    client.ask(store.append_decision, record)
    for step in chain(bandit, record, [1.0, 2.0, 4.0, 8.0]):
        client.ask(store.append_step, step)
    rows = [future.result(0) for future in client.commit()[1:]]
    assert [(row.position, row.before, row.after) for (row,) in rows] == [
        (1, None, 1.0), (2, 1.0, 3.0), (3, 3.0, 7.0), (4, 7.0, 15.0),
    ]  # fmt: skip
    assert [(row.origin, row.after) for row in logged(store, bandit)] == [
        (1, 1.0), (1, 3.0), (1, 7.0), (1, 15.0),
    ]  # fmt: skip


def test_a_broken_chain_stores_nothing_behind_the_break(client, store, make):
    bandit = make.bandit(client, store, rewards=RewardSpec(aggregate="sum"))
    record = make.decision(bandit, "d0")
    client.ask(store.append_decision, record)
    first, _, third, fourth = chain(bandit, record, [1.0, 2.0, 4.0, 8.0])
    for step in (first, third, fourth):
        client.ask(store.append_step, step)
    rows = [future.result(0) for future in client.commit()[1:]]
    assert rows[1:] == [None, None]
    assert [row.after for row in logged(store, bandit)] == [1.0]


def test_a_step_of_a_decision_that_is_gone_is_refused(client, store, make):
    bandit = make.bandit(client, store)
    absent = make.decision(bandit, "d1")
    with pytest.raises(UnknownDecision, match="d1"):
        client.call(store.append_step, first_step(bandit, absent))
    with store.reader() as reader:
        assert reader.head(bandit.key) == 0


def test_an_operation_that_fails_leaves_the_others_of_its_commit(client, store, make):
    bandit = make.bandit(client, store)
    record = make.decision(bandit, "d0")
    first = client.ask(store.append_decision, record)
    unknown = client.ask(store.find_decision, DecisionId("nobody"))
    absent = client.ask(store.append_step, first_step(bandit, make.decision(bandit, "d1")))
    learned = client.ask(store.append_step, first_step(bandit, record, 0.5))
    client.commit()
    assert first.result(0) is None
    assert isinstance(unknown.exception(0), UnknownDecision)
    assert isinstance(absent.exception(0), UnknownDecision)
    assert [row.after for row in learned.result(0)] == [0.5]
    assert store.failure is None
    assert [(row.decision_id, row.after) for row in logged(store, bandit)] == [("d0", 0.5)]


# -- rewards ----------------------------------------------------------------------------------


def test_a_decision_is_learned_once_however_often_it_is_rewarded(client, store, make):
    bandit = make.bandit(client, store)
    client.call(store.append_decision, make.decision(bandit, "d0"))
    values = (0.25, 0.25, 0.75, 0.25)
    outcomes = [client.call(rewards(store), make.report("d0", value)) for value in values]
    assert [o.status for o in outcomes] == ["applied", "duplicate", "ignored", "duplicate"]
    assert [o.row is not None for o in outcomes] == [True, False, False, False]
    (row,) = logged(store, bandit)
    assert (row.position, row.origin, row.before, row.after) == (1, 1, None, 0.25)


def test_rewards_that_arrive_together_are_stepped_again_until_all_are_stored(client, store, make):
    """Each of ten finds the same state; nine have to look again, and none is lost."""
    bandit = make.bandit(client, store, rewards=RewardSpec(aggregate="sum"))
    client.call(store.append_decision, make.decision(bandit, "d0"))
    for number in range(10):
        report = replace(make.report("d0", 1.0), reward_id=f"r{number}")
        client.ask(rewards(store), report)
    statuses = [future.result(0).status for future in client.commit()]
    assert sorted(statuses) == ["aggregated"] * 9 + ["applied"]
    assert [row.after for row in logged(store, bandit)] == [float(n) for n in range(1, 11)]


def test_each_of_several_chosen_actions_is_learned_once(client, store, make):
    bandit = make.bandit(client, store)
    decision = make.decision(bandit, "d0", actions=("a0", "a1", "a2"))
    client.call(store.append_decision, decision)
    for action, value in (("a2", 1.0), ("a0", 0.0), ("a2", 1.0), ("a1", 0.5)):
        client.call(rewards(store), make.report("d0", value, action))
    rows = logged(store, bandit)
    assert [(row.slot, row.after) for row in rows] == [(2, 1.0), (0, 0.0), (1, 0.5)]
    for row in rows:
        np.testing.assert_array_equal(row.action, decision.chosen[row.slot].features)


def test_the_reward_of_one_of_several_actions_must_name_it(client, store, make):
    bandit = make.bandit(client, store)
    client.call(store.append_decision, make.decision(bandit, "d0", actions=("a0", "a1")))
    with pytest.raises(InvalidRequest, match="action"):
        client.call(rewards(store), make.report("d0"))
    with pytest.raises(InvalidRequest, match="a9"):
        client.call(rewards(store), make.report("d0", action="a9"))
    assert logged(store, bandit) == []


def test_a_reward_for_an_unknown_decision_is_refused(client, store, make):
    make.bandit(client, store)
    with pytest.raises(UnknownDecision, match="d0"):
        client.call(rewards(store), make.report("d0"))


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_learn_row_is_read_back_bit_for_bit(client, store, make, dtype):
    context = ContextSpec(shape=(2, 3), dtype=dtype)
    bandit = make.bandit(client, store, context=context)
    decision = make.decision(bandit, "d0")
    client.call(store.append_decision, decision)
    answered = client.call(rewards(store), make.report("d0", 0.1)).row
    assert astuple(answered) == (1, client.clock.now, "d0", None, 0.1, 0.1)
    (row,) = logged(store, bandit)
    assert row.context.dtype == dtype
    assert row.context.tobytes() == decision.context.tobytes()
    assert row.context.shape == (2, 3)
    assert row.action.tobytes() == decision.chosen[0].features.tobytes()
    assert (row.position, row.time, row.decision_id, row.after) == (1, client.clock.now, "d0", 0.1)


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("order", list(itertools.permutations([1e16, 0.1, -1e16])))
def test_a_sum_does_not_depend_on_the_order_of_its_rewards(client, store, make, order):
    bandit = make.bandit(client, store, rewards=RewardSpec(aggregate="sum"))
    client.call(store.append_decision, make.decision(bandit, "d0"))
    for number, value in enumerate(order):
        report = replace(make.report("d0", value), reward_id=f"r{number}")
        row = client.call(rewards(store), report).row
    assert row.after == 0.1
