"""Trimmed rows on disk: what stays in the file, and what a damaged one is answered with."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from bandexa_core.ids import LogPosition
from service.store.errors import StoreDamaged
from tests.store.logs import change, learn, learn_rows, trim


@pytest.fixture
def bandit(client, store, make):
    return make.bandit(client, store, rewards=make.last_counts())


def test_positions_go_on_behind_the_newest_row_after_the_store_is_opened_again(
    client, store, make, bandit
):
    learn(client, store, make, bandit, 0, 5)
    trim(client, store, bandit, 99)
    store.close()
    again = client.open()
    learn(client, again, make, bandit, 5, 1)
    with again.reader() as reader:
        assert [row.position for row in learn_rows(reader, bandit, 4)] == [5, 6]


def test_damaged_actions_of_a_trimmed_catalogue_are_refused(client, store, make, bandit):
    client.call(store.append_change, bandit, change("a", "b"))
    learn(client, store, make, bandit, 0, 3)
    client.call(store.append_change, bandit, change("d"))  # row 5
    learn(client, store, make, bandit, 3, 1)
    trim(client, store, bandit, 4, size=0)
    with store.reader() as reader:
        actions = reader.catalogue_at(bandit, LogPosition(2))
        client.call(store.trim_catalogue, bandit, actions, LogPosition(2))
        with closing(sqlite3.connect(client.path)) as connection, connection:
            left = connection.execute("SELECT position FROM log WHERE kind = 2").fetchall()
            assert left == [(5,)]
            connection.execute("UPDATE catalogues SET change = zeroblob(30)")
        with pytest.raises(StoreDamaged, match="at row 2 is damaged"):
            reader.catalogue_at(bandit, LogPosition(7))


def test_a_deleted_bandit_leaves_no_sample(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 20)
    trim(client, store, bandit, 10)
    client.call(store.delete_bandit, bandit)
    store.close()
    with closing(sqlite3.connect(client.path)) as connection:
        for table in ("trims", "evicted", "log", "decisions"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
