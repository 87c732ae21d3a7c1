"""Answers: in the order of the calls, on the event loop, either a result or an error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from bandexa_core.ids import DecisionId, LogPosition
from service.store.errors import Conflict, StoreError, StoreUnreadable
from service.store.memory.store import MemoryStore
from service.store.opening import open_memory_store
from tests.store.conftest import creating, make_decision, make_spec
from tests.store.reporting import first_step, rewards


@pytest.mark.few(0, of="postgres")
def test_answers_come_in_the_order_of_the_calls_whatever_they_are(client, store, make):
    bandit = make.bandit(client, store)
    known = len(client.answered)
    decisions = [make.decision(bandit, f"d{number}") for number in range(20)]
    asked = []
    for record in decisions:
        asked += [
            client.ask(store.append_decision, record),
            client.ask(store.find_decision, record.decision_id),
            client.ask(store.find_decision, DecisionId("nobody")),
            client.ask(store.append_step, first_step(bandit, record)),
            client.ask(store.append_step, first_step(bandit, record)),
            client.ask(creating(store), "b", make.spec()),
            client.ask(store.due_windows),
            client.ask(store.trim_log, bandit, LogPosition(0), 1),
            client.ask(store.append_config, bandit, bandit.spec),
            client.ask(store.sync),
        ]
    client.commit()
    assert client.answered[known:] == asked
    learned = [future.result(0) for future in asked[3::10]]
    assert [rows[0].position for rows in learned] == list(range(1, 41, 2))
    assert {type(future.exception(0)) for future in asked[5::10]} == {Conflict}


def test_callbacks_run_where_they_are_delivered_and_not_before(client, store, make):
    bandit = make.bandit(client, store)
    threads = []

    def ask(done: Callable[..., None]) -> None:
        def noted(result: object, error: Exception | None) -> None:
            threads.append(threading.current_thread())
            done(result, error)

        store.append_decision(make.decision(bandit, "d0"), noted)

    asked = client.ask(ask)
    assert not asked.done(), "it is answered in a later turn"
    client.commit()
    assert threads == [threading.current_thread()]


def test_a_failing_callback_prevents_no_other_answer(client, store, make, caplog):
    bandit = make.bandit(client, store)

    def refuses(result: object, error: Exception | None) -> None:
        raise RuntimeError("not now")

    with caplog.at_level(logging.CRITICAL):
        store.append_decision(make.decision(bandit, "d0"), refuses)
        assert client.call(store.append_decision, make.decision(bandit, "d1")) is None
    assert client.call(rewards(store), make.report("d0")).status == "applied"


def test_an_append_in_a_callback_belongs_to_a_later_commit(client, store, make):
    bandit = make.bandit(client, store)
    first, second, third = (make.decision(bandit, f"d{number}") for number in range(3))
    for record in (first, second, third):
        client.call(store.append_decision, record)

    def both(done: Callable[..., None]) -> None:
        store.append_step(
            first_step(bandit, first),
            lambda rows, error: store.append_step(first_step(bandit, third), done),
        )

    asked = client.ask(both), client.ask(store.append_step, first_step(bandit, second))
    client.commit()
    assert [future.result(0)[0].position for future in asked] == [3, 2]
    with store.reader() as reader:
        groups = list(reader.follow(bandit, LogPosition(0), LogPosition(3)))
    assert [len(group.rows) for group in groups] == [2, 1]


def test_closing_commits_and_answers_what_was_asked(client, store, make):
    bandit = make.bandit(client, store)
    asked = [client.ask(store.append_decision, make.decision(bandit, f"d{n}")) for n in range(300)]
    reader = store.reader()
    store.close()
    client.commit()
    assert [future.result(0) for future in asked] == [None] * 300
    assert reader.answer(DecisionId("d299")) is not None
    reader.close()


def test_a_closed_store_takes_nothing_more_and_is_closed_again_without_effect(client, store, make):
    bandit = make.bandit(client, store)
    store.close()
    store.close()
    refused = [
        client.ask(store.append_decision, make.decision(bandit, "late")),
        client.ask(store.find_decision, DecisionId("late")),
        client.ask(store.append_config, bandit, make.spec()),
        client.ask(store.delete_bandit, bandit),
        client.ask(store.due_windows),
        client.ask(store.sync),
    ]
    for future in refused:
        assert isinstance(future.exception(0), StoreError)
        assert "closed" in str(future.exception(0))


def test_a_closed_reader_reads_nothing_more(client, store, make):
    bandit = make.bandit(client, store)
    reader, history, counting = store.reader(), store.history(), store.counting()
    for each in (reader, history, counting):
        each.close()
        each.close()
    with pytest.raises(StoreUnreadable):
        reader.bandits()
    with pytest.raises(StoreUnreadable):
        list(reader.follow(bandit, LogPosition(0), LogPosition(1)))
    with pytest.raises(StoreUnreadable):
        history.newest(bandit, None, 1)
    with pytest.raises(StoreUnreadable):
        counting.newest()


def test_a_store_that_works_says_so(client, store, make):
    make.bandit(client, store)
    assert store.failure is None
    assert not store.failed_for_good
    assert store.queue_depth == 0
    assert store.wal_bytes() >= 0
    assert store.epoch == 1
    with store.reader() as reader:
        assert reader.epoch() == 1


def test_without_turns_each_append_in_memory_is_committed_by_itself():
    answers = []
    store = open_memory_store(lambda answer: answer(), clock=lambda: 5.0)
    assert isinstance(store, MemoryStore)
    creating(store)("b", make_spec(), lambda made, error: answers.append(made))
    (bandit,) = answers
    assert bandit.created == 5.0
    for number in range(3):
        record = make_decision(bandit, f"d{number}")
        store.append_decision(record, lambda found, error: None)
        store.append_step(first_step(bandit, record), lambda rows, error: None)
    with store.follower() as reader:
        groups = list(reader.follow(bandit, LogPosition(0), LogPosition(9)))
    assert [len(group.rows) for group in groups] == [1, 1, 1]
    store.close()


def test_an_unforeseen_error_in_memory_fails_its_operation_alone(caplog):
    answers: list[object] = []
    times = iter([5.0, 5.0])  # when it is opened

    def clock() -> float:
        for time in times:
            return time
        raise RuntimeError("no time")

    store = open_memory_store(lambda answer: answer(), clock=clock)
    with caplog.at_level(logging.CRITICAL):
        store.due_windows(lambda due, error: answers.append(error))
    assert isinstance(answers[0], StoreError)
    store.sync(lambda _, error: answers.append(error))
    assert answers[1] is None
