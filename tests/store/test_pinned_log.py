"""A reader that holds an old state prevents that the write-ahead log is emptied, and is noticed."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from bandexa_core.spec import ContextSpec
from service.store.sqlite.group_writer import PINNED_BYTES


def test_a_reader_that_pins_the_log_is_noticed_until_it_ends(client, store, make):
    bandit = make.bandit(client, store, context=ContextSpec(shape=(1000, 1000)))  # 4 MB each
    names = iter(range(1000))

    def write() -> None:
        client.call(store.append_decision, make.decision(bandit, f"d{next(names)}"))

    for _ in range(6):
        write()
    assert store.wal_pinned_s() == 0.0
    with closing(sqlite3.connect(client.path)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM decisions").fetchone()
        while store.wal_bytes() <= PINNED_BYTES:
            write()
        client.call(store.sync)
        assert store.wal_pinned_s() > 0.0
        assert client.call(store.empty_wal) is False
    assert client.call(store.empty_wal) is True
    assert store.wal_bytes() == 0
    write()
    client.call(store.sync)
    assert store.wal_pinned_s() == 0.0
