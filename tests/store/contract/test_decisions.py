"""Decisions: unique by id, stored as they were given, filled in once."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.spec import ContextSpec
from service.store.errors import Conflict, UnknownDecision
from service.store.identity import key_at
from service.store.records import Propensities, StoredAnswer
from tests.store.contract.readable import plain
from tests.store.reporting import rewards


def stored(store, bandit) -> list[str]:
    """Return the ids of a bandit's decisions, newest first."""
    with store.history() as history:
        return [summary.decision_id for summary in history.newest(bandit, None, 1 << 20)]


def test_a_stored_id_is_answered_with_its_stored_answer(client, store, make):
    bandit = make.bandit(client, store)
    first = make.decision(bandit, "d0", actions=("a0", "a1"), body_hash=b"first")
    assert client.call(store.append_decision, first) is None
    again = make.decision(bandit, "d0", actions=("a2",), body_hash=b"second", salt=1)
    answer = client.call(store.append_decision, again)
    expected = StoredAnswer(b"first", first.chosen, first.snapshot, first.position, None)
    assert plain(answer) == plain(expected)
    with store.reader() as reader:
        assert plain(reader.answer(DecisionId("d0"))) == plain(expected)
        assert reader.answer(DecisionId("d1")) is None
    assert stored(store, bandit) == ["d0"]


def test_the_propensities_of_all_candidates_are_stored_with_a_decision(client, store, make):
    bandit = make.bandit(client, store)
    for num in (1, 2, 3):
        given = Propensities(np.arange(num, dtype=np.int32) * 7, np.full(num, 1.0 / num))
        record = replace(make.decision(bandit, f"d{num}"), propensities=given)
        assert client.call(store.append_decision, record) is None
        with store.reader() as reader, store.history() as history:
            answer = reader.answer(DecisionId(f"d{num}"))
            assert answer is not None
            assert plain(answer.propensities) == plain(given)
            decision = history.decision(bandit, DecisionId(f"d{num}"))
            assert decision is not None
            assert plain(decision.record.propensities) == plain(given)


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("served", [None, "a3"])
def test_the_arm_is_stored_with_a_decision(client, store, make, served):
    bandit = make.bandit(client, store)
    record = replace(make.decision(bandit, "d0"), arm="control", unit="u", served=served)
    assert client.call(store.append_decision, record) is None
    with store.reader() as reader, store.history() as history:
        answer = reader.answer(DecisionId("d0"))
        found = history.decision(bandit, DecisionId("d0")).record
        assert answer.arm == "control"
        assert (found.arm, found.served, found.candidates) == ("control", served, None)
        assert found.unit is not None  # as the store has it
        (page,) = history.logged(
            bandit, history.moment(bandit), DecisionKey(0), 9, 1 << 20
        ).decisions
        assert (page.record.arm, page.record.served) == ("control", served)


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("served", [None, "a3"])
@pytest.mark.parametrize("listed", [None, ("a0", "a1")])
def test_what_shadows_would_have_served_is_stored_with_a_decision(
    client, store, make, served, listed
):
    bandit = make.bandit(client, store)
    given = {"dark": "a2", "flat": "a0"}
    record = replace(
        make.decision(bandit, "d0"), arm="control", served=served, candidates=listed, shadows=given
    )
    assert client.call(store.append_decision, record) is None
    assert client.call(store.append_decision, make.decision(bandit, "d1")) is None
    for name in ("d0", "d1"):
        client.call(rewards(store), make.report(name, 0.5))
    with store.reader() as reader, store.history() as history, store.counting() as counting:
        assert reader.answer(DecisionId("d0")).arm == "control"
        found = history.decision(bandit, DecisionId("d0")).record
        assert (found.shadows, found.served, found.candidates) == (given, served, listed)
        assert history.decision(bandit, DecisionId("d1")).record.shadows is None
        logged = history.logged(bandit, history.moment(bandit), DecisionKey(0), 9, 1 << 20)
        assert [each.record.shadows for each in logged.decisions] == [given, None]
        values = counting.learned(bandit.key, 0, 1 << 20, 9, shadows=True)
        assert [each.shadows for each in values] == [given, None]
        assert [each.shadows for each in counting.learned(bandit.key, 0, 1 << 20, 9)] == [None] * 2


@pytest.mark.few(0, of="postgres")
def test_the_first_decision_of_a_unit_is_known_where_that_is_asked_for(client, store, make):
    bandit = make.bandit(client, store)
    units = ["ann", None, "ann", "bob", None, "bob"]
    for number, unit in enumerate(units):
        record = replace(make.decision(bandit, f"d{number}"), unit=unit)
        assert client.call(store.append_decision, record) is None
        client.call(rewards(store), make.report(f"d{number}", 0.5))
    with store.counting() as counting:
        values = counting.learned(bandit.key, 0, 1 << 20, 9, units=True)
        assert [each.is_new_unit for each in values] == [True, True, False, True, True, False]
        unasked = counting.learned(bandit.key, 0, 1 << 20, 9)
        assert all(each.is_new_unit for each in unasked)


def test_of_equal_ids_in_one_commit_the_first_is_stored(client, store, make):
    bandit = make.bandit(client, store)
    for salt in range(3):
        client.ask(
            store.append_decision, make.decision(bandit, "d0", salt=salt, body_hash=bytes([salt]))
        )
    first, *repeated = [future.result(0) for future in client.commit()]
    assert first is None
    assert [answer.body_hash for answer in repeated] == [bytes([0])] * 2


@pytest.mark.few(0, of="postgres")
def test_of_many_decisions_each_id_is_stored_once(client, store, make):
    """Runs of 2 to 70, with stored ids, ids that come twice, and a deleted bandit."""
    bandit, gone = make.bandit(client, store), make.bandit(client, store, "gone")
    client.call(store.delete_bandit, gone)
    first = [make.decision(bandit, f"old-{n}") for n in range(3)]
    for record in first:
        assert client.call(store.append_decision, record) is None
    expected = 3
    for size in (2, 3, 5, 33, 70):
        fresh = [make.decision(bandit, f"{size}-{n}") for n in range(size)]
        for record in [*fresh, first[1], make.decision(gone, f"gone-{size}"), fresh[0]]:
            client.ask(store.append_decision, record)
        asked = client.commit()
        assert [future.result(0) for future in asked[:size]] == [None] * size
        again, lost, twice = asked[size:]
        assert again.result(0).position == first[1].position
        assert isinstance(lost.exception(0), Conflict)
        assert isinstance(twice.result(0), StoredAnswer)
        expected += size
        assert len(stored(store, bandit)) == expected


def test_decisions_of_one_append_are_stored_each_by_itself(client, store, make):
    """One of 40 is of a deleted bandit, one has a stored id, and one comes twice."""
    bandit, gone = make.bandit(client, store), make.bandit(client, store, "gone")
    client.call(store.delete_bandit, gone)
    old = make.decision(bandit, "old")
    assert client.call(store.append_decision, old) is None
    fresh = [make.decision(bandit, f"d{n}") for n in range(37)]
    others = [make.decision(gone, "lost"), old, fresh[3]]
    *new, lost, again, twice = client.call(store.append_decisions, [*fresh, *others])
    assert new == [None] * 37
    assert isinstance(lost, Conflict)
    assert again.position == old.position
    assert isinstance(twice, StoredAnswer)
    assert stored(store, bandit) == [*[f"d{n}" for n in reversed(range(37))], "old"]


def test_what_more_follows_is_committed_with_the_next_append_or_when_it_is_handed_over(
    client, store, make
):
    bandit = make.bandit(client, store)
    one, two, three = ([make.decision(bandit, f"d{n}")] for n in range(3))
    first = client.ask(partial(store.append_decisions, more=True), one)
    assert stored(store, bandit) == []
    assert not first.done()
    assert client.call(store.append_decisions, two) == [None]
    assert first.result(0) == [None]
    last = client.ask(partial(store.append_decisions, more=True), three)
    assert not last.done()
    store.hand_over()
    client.commit()
    assert last.result(0) == [None]
    assert stored(store, bandit) == ["d2", "d1", "d0"]


def test_a_stored_id_undoes_nothing_else_of_its_commit(client, store, make):
    bandit = make.bandit(client, store)
    old = make.decision(bandit, "old")
    assert client.call(store.append_decision, old) is None
    with store.reader() as reader:
        made = client.ask(store.create_bandit, reader.next_uid("new"), "new", make.spec())
    fresh = [client.ask(store.append_decision, make.decision(bandit, f"d{n}")) for n in range(3)]
    again = client.ask(store.append_decision, old)
    client.commit()
    assert made.result(0).name == "new"
    assert [future.result(0) for future in fresh] == [None] * 3
    assert isinstance(again.result(0), StoredAnswer)
    assert stored(store, bandit) == ["d2", "d1", "d0", "old"]


def test_an_id_is_unique_over_all_bandits(client, store, make):
    one, two = make.bandit(client, store, "one"), make.bandit(client, store, "two")
    assert client.call(store.append_decision, make.decision(one, "d0")) is None
    assert isinstance(client.call(store.append_decision, make.decision(two, "d0")), StoredAnswer)
    assert (stored(store, one), stored(store, two)) == (["d0"], [])


def test_an_id_that_the_store_made_is_found_and_unique(client, store, make):
    bandit = make.bandit(client, store)
    key = store.ids.new_key(bandit.key)
    name = store.ids.text(key)
    record = replace(make.decision(bandit, name), key=key)
    assert client.call(store.append_decision, record) is None
    assert isinstance(client.call(store.append_decision, record), StoredAnswer)
    assert client.call(store.find_decision, name).decision.key == key
    assert stored(store, bandit) == [name]
    unknown = store.ids.text(DecisionKey(key + 1))
    with pytest.raises(UnknownDecision):
        client.call(store.find_decision, unknown)


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_decision_is_read_back_bit_for_bit(client, store, make, dtype):
    context = ContextSpec(shape=(2, 3), dtype=dtype)
    bandit = make.bandit(client, store, context=context)
    record = replace(
        make.decision(bandit, "d0", actions=("a1", "a0"), body_hash=b"hash"),
        candidates=("a0", "a1", "a2"), features=np.arange(6, dtype=np.float32).reshape(3, 2),
        propensity=0.25, explored=True, std=0.125, activated=False,
    )  # fmt: skip
    client.call(store.append_decision, record)
    with store.history() as history:
        found = history.decision(bandit, record.decision_id)
        assert plain(found.record) == plain(record)
    (decision, rewards) = client.call(store.find_decision, record.decision_id)
    assert decision.actions == ("a1", "a0")
    assert (decision.id, decision.key, decision.bandit) == ("d0", record.key, bandit)
    assert (decision.state.version, decision.state.activated) == (0, False)
    assert rewards == {}


def test_what_is_stored_does_not_change_with_the_callers_arrays(client, store, make):
    bandit = make.bandit(client, store)
    record = make.decision(bandit, "d0")
    record = replace(record, candidates=("a0",), features=np.ones((1, 2), np.float32))
    before = plain(record)
    client.call(store.append_decision, record)
    for array in (record.context, record.features, record.chosen[0].features):
        array[:] = 9
    with store.history() as history:
        assert plain(history.decision(bandit, record.decision_id).record) == before


@pytest.mark.parametrize("given", [None, 0.5])
def test_a_propensity_is_filled_in_only_where_there_is_none(client, store, make, given):
    bandit = make.bandit(client, store)
    record = replace(make.decision(bandit, "d0"), propensity=given)
    client.ask(store.append_decision, record)
    for value in (0.25, 0.75):
        client.ask(store.append_propensity, record.key, value)
    client.ask(store.append_propensity, DecisionKey(record.key + 1), 0.9)
    assert [future.result(0) for future in client.commit()] == [None] * 4
    with store.reader() as reader:
        assert reader.answer(record.decision_id).propensity == (0.25 if given is None else given)


def test_times_of_decisions_are_those_of_all_bandits_oldest_first(client, store, make):
    one, two = make.bandit(client, store, "one"), make.bandit(client, store, "two")
    gone = make.bandit(client, store, "gone")
    for number, bandit in enumerate((one, gone, two, one, two, one)):
        key = key_at(bandit.key, float(number))
        record = replace(make.decision(bandit, f"d{number}"), key=key, time=9e9)  # a wrong clock
        client.call(store.append_decision, record)
    client.call(store.delete_bandit, gone)
    with store.reader() as reader:
        found = [reader.decision_time(number) for number in range(7)]
        examined = {two.key: key_at(two.key, 2.0)}
        behind = [reader.decision_time(number, examined, 0.0) for number in range(4)]
    assert found == [0.0, 2.0, 3.0, 4.0, 5.0, None, None]
    assert behind == [3.0, 4.0, 5.0, None]


@pytest.mark.few(0, of="postgres")
def test_the_store_grows_with_decisions_and_shrinks_without_them(client, store, make):
    context = ContextSpec(shape=(64, 1024))
    bandit = make.bandit(client, store, context=context)
    with store.reader() as reader:
        empty = reader.used_bytes()
        for number in range(4):
            client.call(store.append_decision, make.decision(bandit, f"d{number}"))
        full = reader.used_bytes()
        assert full - empty >= 4 * 64 * 1024 * 4
        client.call(store.delete_bandit, bandit)
        client.vacuum()
        assert reader.used_bytes() < empty + (full - empty) / 4
