"""Appends and their answers on a real file: groups of commits, parts of a purge, the end."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from service.store.errors import StoreError
from tests.store.conftest import Blocker, creating
from tests.store.logs import learn_rows
from tests.store.reporting import first_step, rewards


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


# -- bandits ----------------------------------------------------------------------------------


@pytest.mark.slow
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
        assert len(learn_rows(reader, other)) == 450
    assert count(client, "decisions") == 450
    assert count(client, "ledger") == 450
    assert count(client, "rewards") == 450
    again = make.bandit(client, store, "doomed")
    assert client.call(store.append_decision, make.decision(again, "d1")) is None


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
