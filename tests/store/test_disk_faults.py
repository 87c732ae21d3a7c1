"""Faults inside the writer: which of them fail one operation, a group, or the store."""

from __future__ import annotations

import logging
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from msgspec.structs import replace

from bandexa_core.spec import ContextSpec
from service.store.errors import Conflict, StoreError, Unavailable
from service.store.sqlite.disk_faults import Fault, describe, fault_of
from service.store.sqlite.group_writer import WAL_BYTES
from tests.store.conftest import Blocker, creating
from tests.store.reporting import rewards

MEGABYTE = 1 << 20


def error_of(code: int, name: str = "SQLITE_X") -> sqlite3.Error:
    error = sqlite3.OperationalError("as sqlite says")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error


@pytest.mark.parametrize("committing", [True, False])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, Fault.OUTAGE),
        (sqlite3.SQLITE_READONLY, Fault.OUTAGE),
        (sqlite3.SQLITE_IOERR_WRITE, Fault.OUTAGE),
        (sqlite3.SQLITE_IOERR_SHMSIZE, Fault.OUTAGE),
        (sqlite3.SQLITE_BUSY, Fault.OUTAGE),
        (sqlite3.SQLITE_IOERR_FSYNC, Fault.FINAL),
        (sqlite3.SQLITE_IOERR_DIR_FSYNC, Fault.FINAL),
        (sqlite3.SQLITE_CORRUPT, Fault.FINAL),
    ],
)
def test_a_database_error_is_the_same_fault_wherever_it_is_raised(code, expected, committing):
    assert fault_of(error_of(code), committing=committing) is expected


@pytest.mark.parametrize(
    "error", [error_of(sqlite3.SQLITE_CONSTRAINT), sqlite3.ProgrammingError("x"), ValueError("x")]
)
def test_an_unexpected_error_is_final_in_a_commit_and_a_mistake_elsewhere(error):
    assert fault_of(error, committing=False) is Fault.OPERATION
    assert fault_of(error, committing=True) is Fault.FINAL


def test_an_error_is_described_with_its_cause_and_its_name():
    text = describe(error_of(sqlite3.SQLITE_FULL, "SQLITE_FULL"))
    assert text == "the disk is full (as sqlite says, SQLITE_FULL)"
    assert "sync" in describe(error_of(sqlite3.SQLITE_IOERR_FSYNC))
    assert describe(ValueError("what")) == "what"


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """Make the kernel refuse writes beyond a file size; Python ignores the signal for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_unexpected_error_fails_only_its_own_operation(client, store, make, caplog):
    bandit = make.bandit(client, store)
    good = make.decision(bandit, "d0")
    bad = replace(make.decision(bandit, "d1"), snapshot=2**70)  # larger than a column can store
    held = Blocker(client, store)
    futures = [
        client.ask(store.append_decision, record)
        for record in (good, bad, make.decision(bandit, "d2"))
    ]
    futures.append(client.ask(rewards(store), make.report("d0", 0.5)))
    futures.append(client.ask(rewards(store), make.report("d0", 0.5)))
    created = client.ask(creating(store), "c", make.spec())
    with caplog.at_level(logging.ERROR):
        held.release()
        error = futures[1].exception(20)
    assert isinstance(error, StoreError)
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert futures[0].result(20) is None
    assert futures[2].result(20) is None
    assert futures[3].result(20).row.position == 1
    assert futures[4].result(20).status == "duplicate"
    assert created.result(20).name == "c"
    assert store.failure is None
    with closing(sqlite3.connect(client.path)) as connection:
        names = connection.execute("SELECT own_id FROM decisions").fetchall()
    assert sorted(names) == [("d0",), ("d2",)]


def test_a_deletion_that_is_rolled_back_leaves_its_bandit_alive(client, store, make, caplog):
    bandit = make.bandit(client, store, context=ContextSpec(shape=(64, 1024)))
    big = [make.decision(bandit, f"d{number}") for number in range(8)]
    held = Blocker(client, store)
    with no_file_beyond(MEGABYTE), caplog.at_level(logging.CRITICAL):
        futures = [client.ask(store.append_decision, record) for record in big]
        deleted = client.ask(store.delete_bandit, bandit)
        held.release()
        for future in (*futures, deleted):
            assert isinstance(future.exception(20), Unavailable)
    poll(lambda: store.failure is None)
    assert client.call(store.append_decision, make.decision(bandit, "late")) is None
    assert client.call(store.delete_bandit, bandit) is None
    with pytest.raises(Conflict):
        client.call(store.append_decision, make.decision(bandit, "later"))


def test_an_outage_ends_by_itself_and_loses_only_refused_writes(client, make, caplog):
    store = client.open("commit")
    bandit = make.bandit(client, store, context=ContextSpec(shape=(64, 1024)))
    records = [make.decision(bandit, f"d{number}") for number in range(20)]
    with no_file_beyond(MEGABYTE), caplog.at_level(logging.CRITICAL):
        errors = [client.ask(store.append_decision, r).exception(20) for r in records]
    refused = [r.decision_id for r, e in zip(records, errors, strict=True) if e is not None]
    assert 0 < len(refused) < 20
    assert all(isinstance(error, Unavailable) for error in errors if error is not None)
    poll(lambda: store.failure is None)
    assert not store.failed_for_good
    with closing(sqlite3.connect(client.path)) as connection:
        found = {name for (name,) in connection.execute("SELECT own_id FROM decisions")}
    assert found == {r.decision_id for r in records} - set(refused)
    for record in records:
        stored = client.call(store.append_decision, record)
        assert (stored is None) == (record.decision_id in refused)


def test_a_store_that_is_closed_during_an_outage_ends_at_once(client, store, make, caplog):
    bandit = make.bandit(client, store, context=ContextSpec(shape=(64, 1024)))
    with no_file_beyond(MEGABYTE), caplog.at_level(logging.CRITICAL):
        for number in range(8):
            client.ask(store.append_decision, make.decision(bandit, f"d{number}"))
        poll(lambda: store.failure is not None)
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 1.0, "it does not wait for a probe"
    store = client.open()
    assert client.call(store.append_decision, make.decision(bandit, "late")) is None


def test_a_store_that_cannot_be_written_is_not_opened(client, store):
    store.close()
    with no_file_beyond(1024), pytest.raises(StoreError, match="the disk refuses to be written"):
        client.open()
    assert client.open().failure is None


@pytest.mark.parametrize("durability", ["commit", "os"])
def test_the_write_ahead_log_is_checkpointed_and_reused(client, make, durability):
    store = client.open(durability)
    bandit = make.bandit(client, store, context=ContextSpec(shape=(64, 1024)))
    sizes = []
    for number in range(100):
        client.call(store.append_decision, make.decision(bandit, f"d{number}"))
        sizes.append(client.path.with_name("bandexa.db-wal").stat().st_size)
    assert client.path.stat().st_size > 3 * WAL_BYTES, "the rows are in the database"
    assert max(sizes) < 1.2 * WAL_BYTES
