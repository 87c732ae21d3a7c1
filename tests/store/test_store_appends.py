"""Appends and their answers, on a real file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from bandexa_core.ids import BanditUid, DecisionId, LogPosition
from bandexa_core.log.rows import LearnRow
from bandexa_core.spec import ContextSpec
from service.store.errors import Conflict, InvalidRequest, StoreError, UnknownDecision
from service.store.records import StoredAnswer
from tests.store.conftest import Blocker, creating
from tests.store.reporting import first_step, rewards

FAR = LogPosition(1 << 40)


def learn_rows(store, record) -> list[LearnRow]:
    with store.reader() as reader:
        rows = [row for group in reader.follow(record, LogPosition(0), FAR) for row in group.rows]
    return [row for row in rows if isinstance(row, LearnRow)]


def count(client, table: str) -> Any:
    with closing(sqlite3.connect(client.path)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


# -- groups -----------------------------------------------------------------------------------


def test_queued_appends_are_committed_as_one_group_and_answered_in_order(client, store, make):
    bandit = make.bandit(client, store)
    blocker = Blocker(client, store)
    futures = []
    for number in range(50):
        decision = make.decision(bandit, f"d{number}")
        futures.append(client.ask(store.append_decision, decision))
        futures.append(client.ask(store.append_step, first_step(bandit, decision)))
    blocker.release()
    results = [future.result(20) for future in futures]
    assert [rows[0].position for rows in results[1::2]] == list(range(1, 51))
    store.close()
    assert client.answered[1:] == futures
    assert client.groups == [1, 0, 100]


def test_an_append_that_fails_leaves_the_others_of_its_group_committed(client, store, make):
    bandit = make.bandit(client, store)
    blocker = Blocker(client, store)
    decision = make.decision(bandit, "d0")
    first = client.ask(store.append_decision, decision)
    unknown = client.ask(store.find_decision, DecisionId("nobody"))
    absent = client.ask(store.append_step, first_step(bandit, make.decision(bandit, "d1")))
    taken = client.ask(creating(store), "b", make.spec())
    learned = client.ask(store.append_step, first_step(bandit, decision, 0.5))
    moved = client.ask(store.append_step, first_step(bandit, decision, 0.7))
    blocker.release()
    assert first.result(20) is None
    assert isinstance(unknown.exception(20), UnknownDecision)
    assert isinstance(absent.exception(20), UnknownDecision)
    assert isinstance(taken.exception(20), Conflict)
    assert [row.after for row in learned.result(20)] == [0.5]
    assert moved.result(20) is None, "another step was stored since its state was read"
    assert store.failure is None
    assert [(row.decision_id, row.after) for row in learn_rows(store, bandit)] == [("d0", 0.5)]
    store.close()
    assert client.groups == [1, 0, 6]


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
        group = [*fresh, first[1], make.decision(gone, f"gone-{size}"), fresh[0]]
        blocker = Blocker(client, store)
        asked = [client.ask(store.append_decision, record) for record in group]
        blocker.release()
        assert [future.result(20) for future in asked[:size]] == [None] * size
        again, lost, twice = asked[size:]
        assert again.result(20).position == first[1].position
        assert isinstance(lost.exception(20), Conflict)
        assert isinstance(twice.result(20), StoredAnswer)
        expected += size
        assert count(client, "decisions") == expected


def test_a_stored_id_undoes_nothing_else_of_its_group(client, store, make):
    bandit = make.bandit(client, store)
    old = make.decision(bandit, "old")
    assert client.call(store.append_decision, old) is None
    blocker = Blocker(client, store)
    made = client.ask(creating(store), "new", make.spec())
    fresh = [client.ask(store.append_decision, make.decision(bandit, f"d{n}")) for n in range(3)]
    again = client.ask(store.append_decision, old)
    blocker.release()
    assert made.result(20).name == "new"
    assert [future.result(20) for future in fresh] == [None] * 3
    assert isinstance(again.result(20), StoredAnswer)


def test_gathered_appends_are_handed_over_together_also_by_closing(client, make):
    later: list[Callable[[], None]] = []
    store = client.open(gather=later.append)
    made = client.ask(creating(store), "b", make.spec())
    later.pop()()
    bandit = made.result(20)
    first = [client.ask(store.append_decision, make.decision(bandit, f"d{n}")) for n in range(3)]
    assert len(later) == 1
    later.pop()()
    assert [future.result(20) for future in first] == [None] * 3
    last = [client.ask(store.append_decision, make.decision(bandit, f"e{n}")) for n in range(2)]
    store.close()
    assert [future.result(20) for future in last] == [None] * 2
    later.pop()()  # the event loop runs it after the store was closed
    assert client.groups == [1, 3, 2]


def test_a_group_has_a_limit_and_nothing_is_lost_beyond_it(client, store, make):
    bandit = make.bandit(client, store)
    blocker = Blocker(client, store)
    futures = [
        client.ask(store.append_decision, make.decision(bandit, f"d{number}"))
        for number in range(1500)
    ]
    blocker.release()
    assert all(future.result(20) is None for future in futures)
    store.close()
    assert client.groups == [1, 0, 1024, 476]


# -- decisions --------------------------------------------------------------------------------


def test_a_stored_id_is_answered_with_its_stored_answer(client, store, make):
    bandit = make.bandit(client, store)
    first = make.decision(bandit, "d0", actions=("a0", "a1"), body_hash=b"first")
    assert client.call(store.append_decision, first) is None
    again = make.decision(bandit, "d0", actions=("a2",), body_hash=b"second", salt=1)
    answer = client.call(store.append_decision, again)
    assert isinstance(answer, StoredAnswer)
    assert answer.body_hash == b"first"
    assert [(c.id, c.index, c.slot, c.score) for c in answer.chosen] == [
        (c.id, c.index, c.slot, c.score) for c in first.chosen
    ]
    client.call(rewards(store), make.report("d0", action="a1"))
    (row,) = learn_rows(store, bandit)
    np.testing.assert_array_equal(row.context, first.context)
    np.testing.assert_array_equal(row.action, first.chosen[1].features)


def test_of_equal_ids_in_one_group_the_first_is_stored(client, store, make):
    bandit = make.bandit(client, store)
    blocker = Blocker(client, store)
    futures = [
        client.ask(store.append_decision, make.decision(bandit, "d0", salt=salt, body_hash=b"x"))
        for salt in range(3)
    ]
    blocker.release()
    first, *repeated = [future.result(20) for future in futures]
    assert first is None
    score = make.decision(bandit, "d0", salt=0).chosen[0].score
    assert [answer.chosen[0].score for answer in repeated] == [score, score]


# -- rewards ----------------------------------------------------------------------------------


def test_a_decision_is_learned_once_however_often_it_is_rewarded(client, store, make):
    bandit = make.bandit(client, store)
    client.call(store.append_decision, make.decision(bandit, "d0"))
    values = (0.25, 0.25, 0.75, 0.25)
    outcomes = [client.call(rewards(store), make.report("d0", value)) for value in values]
    assert [o.status for o in outcomes] == ["applied", "duplicate", "ignored", "duplicate"]
    assert [o.row is not None for o in outcomes] == [True, False, False, False]
    (row,) = learn_rows(store, bandit)
    assert (row.position, row.origin, row.before, row.after) == (1, 1, None, 0.25)


def test_each_of_several_chosen_actions_is_learned_once(client, store, make):
    bandit = make.bandit(client, store)
    decision = make.decision(bandit, "d0", actions=("a0", "a1", "a2"))
    client.call(store.append_decision, decision)
    for action, value in (("a2", 1.0), ("a0", 0.0), ("a2", 1.0), ("a1", 0.5)):
        client.call(rewards(store), make.report("d0", value, action))
    rows = learn_rows(store, bandit)
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
    assert learn_rows(store, bandit) == []


def test_a_reward_for_an_unknown_decision_is_refused(client, store, make):
    make.bandit(client, store)
    with pytest.raises(UnknownDecision, match="d0"):
        client.call(rewards(store), make.report("d0"))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_learn_row_is_read_back_bit_for_bit(client, store, make, dtype):
    context = ContextSpec(shape=(2, 3), dtype=dtype)
    bandit = make.bandit(client, store, context=context)
    decision = make.decision(bandit, "d0")
    client.call(store.append_decision, decision)
    answered = client.call(rewards(store), make.report("d0", 0.1)).row
    assert answered == (1, 6.0, "d0", None, 0.1)
    (row,) = learn_rows(store, bandit)
    assert row.context.dtype == dtype
    assert row.context.tobytes() == decision.context.tobytes()
    assert row.context.shape == (2, 3)
    assert row.action.tobytes() == decision.chosen[0].features.tobytes()
    assert (row.position, row.time, row.decision_id, row.after) == (1, 6.0, "d0", 0.1)


# -- bandits ----------------------------------------------------------------------------------


def test_a_bandit_is_created_under_the_next_uid_of_its_name_alone(client, store, make):
    with store.reader() as reader:
        first = reader.next_uid("b")
        with pytest.raises(Conflict, match="meanwhile"):
            client.call(store.create_bandit, BanditUid("another"), "b", make.spec())
        assert client.call(store.create_bandit, first, "b", make.spec()).uid == first
        second = reader.next_uid("b")
        with pytest.raises(Conflict, match="already"):
            client.call(store.create_bandit, second, "b", make.spec())
        assert [record.uid for record in reader.bandits()] == [first]
    assert second != first


def test_a_name_created_again_is_another_bandit(client, store, make):
    first = make.bandit(client, store)
    client.call(store.delete_bandit, first)
    second = make.bandit(client, store)
    assert second.uid != first.uid
    assert second.key != first.key


def test_deleting_purges_all_of_a_bandit_and_nothing_of_another(client, store, make):
    doomed, other = make.bandit(client, store, "doomed"), make.bandit(client, store, "other")
    futures = []
    for number in range(4500):  # more than two parts of the purge
        bandit, name = (other, f"o{number}") if number % 10 == 0 else (doomed, f"d{number}")
        futures.append(client.ask(store.append_decision, make.decision(bandit, name)))
        futures.append(client.ask(rewards(store), make.report(name)))
    assert all(future.exception(60) is None for future in futures)
    client.call(store.delete_bandit, doomed)
    with store.reader() as reader:
        assert [record.name for record in reader.bandits()] == ["other"]
        assert (reader.head(doomed.key), reader.head(other.key)) == (0, 450)
    assert count(client, "decisions") == 450
    assert count(client, "ledger") == 450
    assert count(client, "rewards") == 450
    assert len(learn_rows(store, other)) == 450
    again = make.bandit(client, store, "doomed")
    assert client.call(store.append_decision, make.decision(again, "d1")) is None


def test_appends_queued_behind_a_deletion_are_refused(client, store, make):
    bandit = make.bandit(client, store)
    first = make.decision(bandit, "d0")
    client.call(store.append_decision, first)
    blocker = Blocker(client, store)
    deleted = client.ask(store.delete_bandit, bandit)
    decision = client.ask(store.append_decision, make.decision(bandit, "d1"))
    reward = client.ask(store.append_step, first_step(bandit, first))
    looked_up = client.ask(store.find_decision, DecisionId("d0"))
    config = client.ask(store.append_config, bandit, make.spec())
    blocker.release()
    assert deleted.exception(20) is None
    assert isinstance(decision.exception(20), Conflict)
    assert isinstance(reward.exception(20), UnknownDecision)
    assert isinstance(looked_up.exception(20), UnknownDecision)
    assert isinstance(config.exception(20), Conflict)
    assert count(client, "decisions") == count(client, "log") == 0


# -- the end ----------------------------------------------------------------------------------


def test_closing_commits_and_answers_what_is_queued(client, store, make):
    bandit = make.bandit(client, store)
    blocker = Blocker(client, store)
    futures = [
        client.ask(store.append_decision, make.decision(bandit, f"d{number}"))
        for number in range(1300)
    ]
    closer = threading.Thread(target=store.close)
    closer.start()
    blocker.release()
    closer.join(20)
    assert not closer.is_alive()
    assert all(future.done() and future.result() is None for future in futures)
    assert count(client, "decisions") == 1300
    store.close()
    late = client.ask(store.append_decision, make.decision(bandit, "late"))
    assert isinstance(late.exception(0), StoreError)
    assert "closed" in str(late.exception(0))


@pytest.mark.parametrize("durability", ["commit", "os"])
def test_sync_answers_after_all_earlier_appends(client, make, durability):
    store = client.open(durability)
    bandit = make.bandit(client, store)
    appended = client.ask(store.append_decision, make.decision(bandit, "d0"))
    synced = client.ask(store.sync)
    assert synced.result(20) is None
    assert client.answered[-2:] == [appended, synced]
