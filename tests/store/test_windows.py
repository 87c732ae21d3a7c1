"""Reward windows on disk: the time without a service does not count."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionKey
from bandexa_core.spec import RewardSpec
from service.store.errors import StoreError
from service.store.sqlite.store import SqliteStore
from tests.store.conftest import StoreClient, creating, make_decision, make_spec
from tests.store.reporting import close_windows

START = 1000.0


def test_a_window_closes_later_by_the_time_that_the_service_was_closed(tmp_path):
    client, now = StoreClient(tmp_path / "bandexa.db"), [START]

    def opened() -> SqliteStore:
        return SqliteStore(client.path, "os", lambda answer: answer(), lambda: now[0])

    store = opened()
    rules = RewardSpec(reward_window_s=10.0, default_reward=0.5)
    bandit = client.call(creating(store), "b", make_spec(rewards=rules))
    close_windows(client.call, store, now[0])
    client.call(store.append_decision, replace(make_decision(bandit, "d0"), time=START))
    for second in range(1, 4):  # 7 seconds are left
        now[0] = START + second
        assert close_windows(client.call, store, now[0]) == []
    store.close()
    now[0] += 1000.0
    store = opened()
    closed = []
    for _ in range(9):
        if close_windows(client.call, store, now[0]):
            closed.append(now[0] - START - 1003.0)
        now[0] += 1.0
    store.close()
    assert closed == [7.0]


def test_an_outage_postpones_a_window_once_although_ticks_fail(tmp_path):
    client, now = StoreClient(tmp_path / "bandexa.db"), [START]
    store = SqliteStore(client.path, "os", lambda answer: answer(), lambda: now[0])
    rules = RewardSpec(reward_window_s=100.0)
    bandit = client.call(creating(store), "b", make_spec(rewards=rules))
    close_windows(client.call, store, now[0])
    client.call(store.append_decision, replace(make_decision(bandit, "d0"), time=START))
    now[0] += 50.0  # without a tick
    close_windows(client.call, store, now[0])
    with pytest.raises(StoreError):  # larger than a column can hold
        client.call(store.append_propensity, DecisionKey(1 << 70), 0.5)
    now[0] += 1.0
    close_windows(client.call, store, now[0])
    store.close()
    with closing(sqlite3.connect(client.path)) as connection:
        [(closes, offset)] = connection.execute(
            "SELECT closes, value FROM windows JOIN meta ON meta.key = 'service_time_offset'"
        ).fetchall()
    assert (closes, offset) == (START + 100.0, 50.0)
