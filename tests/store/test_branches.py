"""A decision names the log row that it was drawn at, and is stored where the log has that row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, LogPosition
from service.store.address import PostgresUrl
from service.store.errors import Conflict, LogBranched, StoreError
from service.store.postgres.branches import lost_row
from service.store.postgres.connection import Session
from service.store.postgres.store import PostgresStore
from service.store.records import BanditRecord, DecisionRecord, RewardReport
from tests.fixtures.postgres import Cluster
from tests.store.conftest import ANSWER_WITHIN_S, Asking, make_decision, make_spec
from tests.store.reporting import rewards

pytestmark = pytest.mark.needs("postgres")


class Branch(Asking):
    """A store with a bandit whose log has some rows."""

    def __init__(self, store: PostgresStore, num_rows: int) -> None:
        super().__init__()
        self.store = store
        with store.reader() as reader:
            uid = reader.next_uid("shop")
        self.bandit: BanditRecord = self.call(store.create_bandit, uid, "shop", make_spec())
        for number in range(num_rows):
            made = make_decision(self.bandit, f"taught{number}")
            self.call(store.append_decision, made)
            self.call(rewards(store), RewardReport(made.decision_id, 1.0, None, None, 6.0))

    def call(self, append: Callable[..., None], *args: Any) -> Any:
        return self.ask(append, *args).result(ANSWER_WITHIN_S)

    def drawn(self, name: str, position: int, digest: bytes | None) -> DecisionRecord:
        """Return a decision that was drawn at a row."""
        made = make_decision(self.bandit, name)
        return replace(made, position=LogPosition(position), log_hash=digest)

    def hash_at(self, position: int) -> bytes:
        with self.store.reader() as reader:
            found = reader.hash_at(self.bandit.key, LogPosition(position))
        assert found is not None
        return found


@pytest.fixture
def address(postgres: Cluster) -> Iterator[PostgresUrl]:
    with postgres.empty() as url:
        yield PostgresUrl(url)


@pytest.fixture
def branch(address: PostgresUrl) -> Iterator[Branch]:
    store = PostgresStore(address, "os", lambda answer: answer())
    yield Branch(store, 3)
    store.close()


def test_a_decision_at_any_row_of_the_log_is_stored(branch: Branch) -> None:
    store = branch.store
    assert branch.call(store.append_decision, branch.drawn("begin", 0, b"")) is None
    for position in (1, 2, 3):
        made = branch.drawn(f"at{position}", position, branch.hash_at(position))
        assert branch.call(store.append_decision, made) is None
    assert store.failure is None


@pytest.mark.parametrize("case", ["another row", "no such row"])
def test_a_decision_of_a_lost_branch_ends_the_writer(branch: Branch, case) -> None:
    store = branch.store
    position, digest = (2, b"x" * 16) if case == "another row" else (4, branch.hash_at(3))
    with pytest.raises(StoreError, match="has lost row"):
        branch.call(store.append_decision, branch.drawn("lost", position, digest))
    assert store.failed_for_good
    with store.reader() as reader:
        assert reader.answer(DecisionId("lost")) is None


def test_a_row_that_was_trimmed_is_known_while_it_is_the_last_of_them(branch: Branch) -> None:
    store, digest = branch.store, branch.hash_at(2)
    branch.call(store.trim_log, branch.bandit, LogPosition(2), 0)
    assert branch.call(store.append_decision, branch.drawn("kept", 2, digest)) is None


def test_a_model_of_rows_that_were_replaced_gets_none_behind_them(branch: Branch, address) -> None:
    """It has them from memory; the log has others there by now, and more behind them."""
    store, key = branch.store, branch.bandit.key
    with store.follower() as reader, closing(Session(address, own_loop=True)) as session:
        *_, newest = reader.follow(branch.bandit, LogPosition(0), LogPosition(2))
        stored = "SELECT position, hash FROM log WHERE bandit = $1"
        before = dict(map(tuple, session.fetch(stored, key)))
        assert newest.hash == before[2]
        for position in (2, 3):
            session.fetch("UPDATE log SET hash = $3 WHERE bandit = $1 AND position = $2",
                          key, position, bytes([position]) * len(before[2]))  # fmt: skip
        follow = reader.follow
        (third,) = follow(branch.bandit, LogPosition(2), LogPosition(3), previous=newest.hash)
        assert third.hash == before[3], "it is of the branch that the model is of"
        store._tail.clear()  # they leave it in time
        with pytest.raises(LogBranched, match="log row 2 is another one"):
            list(follow(branch.bandit, LogPosition(2), LogPosition(3), previous=newest.hash))


def test_rows_in_memory_are_not_followed_by_a_model_of_another_branch(branch: Branch) -> None:
    with branch.store.follower() as reader, pytest.raises(LogBranched):
        list(reader.follow(branch.bandit, LogPosition(2), LogPosition(3), previous=b"x" * 16))


def test_rows_that_retention_has_removed_are_not_lost(branch: Branch, address) -> None:
    """Another server has appended, and trimmed, more since this one did."""
    store, key, digest = branch.store, branch.bandit.key, branch.hash_at(1)
    with closing(Session(address, own_loop=True)) as session:
        assert lost_row(session, [(key, (1, digest))]) is None
        branch.call(store.trim_log, branch.bandit, LogPosition(2), 0)
        assert lost_row(session, [(key, (1, digest))]) is None
        assert lost_row(session, [(key, (2, digest))]) == 2, "it is another row"
        assert lost_row(session, [(key, (4, digest))]) == 4


def test_a_decision_of_a_deleted_bandit_is_refused_alone(branch: Branch) -> None:
    store, digest = branch.store, branch.hash_at(3)
    branch.call(store.delete_bandit, branch.bandit)
    with pytest.raises(Conflict):
        branch.call(store.append_decision, branch.drawn("late", 3, digest))
    assert store.failure is None
